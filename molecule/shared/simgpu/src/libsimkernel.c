/* Preloaded into every process: uname(2) names the kernel that the simulated host "booted", not the container's. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

__attribute__((visibility("default"))) int uname(struct utsname *name)
{
    int result = (int)syscall(SYS_uname, name);
    FILE *file = result == 0 ? fopen("/run/torchfleet-sim/osrelease", "re") : NULL;

    if (file) {
        char release[sizeof name->release];
        if (fscanf(file, "%64s", release) == 1)
            memcpy(name->release, release, strlen(release) + 1);
        fclose(file);
    }
    return result;
}
