/* The simulated GPUs of this host, as the boot service declared them when the driver was "loaded".
 *
 * One line for each GPU in LOADED, after one line with the version of the loaded kernel module:
 *   version 535.261.03
 *   gpu 0000:18:00.0 2330 16c110de 9.0 132 85520809984 NVIDIA H100 80GB HBM3
 */
#ifndef SIMGPU_H
#define SIMGPU_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOADED "/run/torchfleet-sim/loaded.conf"
#define MAX_GPUS 16
#define EXPORTED __attribute__((visibility("default")))

struct gpu {
    char slot[16];
    unsigned device, subsystem;
    int major, minor, multiprocessors;
    size_t memory;
    char name[96];
};

struct host {
    char version[32]; /* empty while no driver is loaded */
    int count;
    struct gpu gpus[MAX_GPUS];
};

static const struct host *simulated_host(void)
{
    static struct host host;
    static int known;
    char line[256];
    FILE *file;

    if (known)
        return &host;
    known = 1;
    file = fopen(LOADED, "r");
    if (!file)
        return &host;
    while (fgets(line, sizeof line, file)) {
        struct gpu *gpu = &host.gpus[host.count];
        if (sscanf(line, "version %31s", host.version) == 1)
            continue;
        if (host.count < MAX_GPUS
            && sscanf(line, "gpu %15s %x %x %d.%d %d %zu %95[^\n]", gpu->slot, &gpu->device, &gpu->subsystem,
                      &gpu->major, &gpu->minor, &gpu->multiprocessors, &gpu->memory, gpu->name) == 8)
            host.count++;
    }
    fclose(file);
    return &host;
}

#endif
