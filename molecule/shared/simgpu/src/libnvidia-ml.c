/* libnvidia-ml.so.1 (NVML) for simulated hosts: what nvidia-smi's queries and torch's NVML check need.
 * Built once for each driver version: LIB_VERSION (as text) and LIB_CUDA. */
#include "simgpu.h"
#include <stdint.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9, LIB_RM_VERSION_MISMATCH = 18 };

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

EXPORTED int nvmlInit_v2(void)
{
    const struct host *host = simulated_host();

    if (!host->version[0])
        return DRIVER_NOT_LOADED;
    return strcmp(host->version, LIB_VERSION) == 0 ? OK : LIB_RM_VERSION_MISMATCH;
}

EXPORTED int nvmlInit(void)
{
    return nvmlInit_v2();
}

EXPORTED int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return nvmlInit_v2();
}

EXPORTED int nvmlShutdown(void)
{
    return OK;
}

EXPORTED const char *nvmlErrorString(int error)
{
    switch (error) {
    case OK: return "Success";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_FOUND: return "Not Found";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

EXPORTED int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    snprintf(version, size, "%s", simulated_host()->version);
    return OK;
}

EXPORTED int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    *version = LIB_CUDA;
    return OK;
}

EXPORTED int nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

EXPORTED int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = (unsigned)simulated_host()->count;
    return OK;
}

EXPORTED int nvmlDeviceGetCount(unsigned *count)
{
    return nvmlDeviceGetCount_v2(count);
}

/* A handle is the address of the GPU. */
EXPORTED int nvmlDeviceGetHandleByIndex_v2(unsigned index, const struct gpu **device)
{
    if (index >= (unsigned)simulated_host()->count)
        return INVALID_ARGUMENT;
    *device = &simulated_host()->gpus[index];
    return OK;
}

EXPORTED int nvmlDeviceGetHandleByIndex(unsigned index, const struct gpu **device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

static unsigned bus_of(const struct gpu *gpu)
{
    return (unsigned)strtoul(gpu->slot + 5, NULL, 16);
}

EXPORTED int nvmlDeviceGetHandleByPciBusId_v2(const char *id, const struct gpu **device)
{
    const struct host *host = simulated_host();
    unsigned domain, bus;

    if (sscanf(id, "%x:%x", &domain, &bus) != 2)
        return INVALID_ARGUMENT;
    for (int i = 0; i < host->count; i++)
        if (bus_of(&host->gpus[i]) == bus) {
            *device = &host->gpus[i];
            return OK;
        }
    return NOT_FOUND;
}

EXPORTED int nvmlDeviceGetIndex(const struct gpu *device, unsigned *index)
{
    *index = (unsigned)(device - simulated_host()->gpus);
    return OK;
}

EXPORTED int nvmlDeviceGetMinorNumber(const struct gpu *device, unsigned *minor)
{
    return nvmlDeviceGetIndex(device, minor);
}

EXPORTED int nvmlDeviceGetName(const struct gpu *device, char *name, unsigned size)
{
    snprintf(name, size, "%s", device->name);
    return OK;
}

EXPORTED int nvmlDeviceGetUUID(const struct gpu *device, char *uuid, unsigned size)
{
    snprintf(uuid, size, "GPU-abababab-abab-abab-abab-ababababab%02x", (unsigned)(device - simulated_host()->gpus));
    return OK;
}

EXPORTED int nvmlDeviceGetPciInfo_v3(const struct gpu *device, nvmlPciInfo_t *pci)
{
    memset(pci, 0, sizeof *pci);
    pci->bus = bus_of(device);
    pci->pciDeviceId = device->device << 16 | 0x10de;
    pci->pciSubSystemId = device->subsystem;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus & 0xff);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus & 0xff);
    return OK;
}

EXPORTED int nvmlDeviceGetMemoryInfo(const struct gpu *device, unsigned long long *memory)
{
    memory[0] = memory[1] = device->memory; /* total, free, used */
    memory[2] = 0;
    return OK;
}

EXPORTED int nvmlDeviceGetCudaComputeCapability(const struct gpu *device, int *major, int *minor)
{
    *major = device->major;
    *minor = device->minor;
    return OK;
}

EXPORTED int nvmlDeviceGetPersistenceMode(const struct gpu *device, int *mode)
{
    (void)device;
    *mode = 1;
    return OK;
}

EXPORTED int nvmlDeviceGetComputeRunningProcesses_v3(const struct gpu *device, unsigned *count, void *processes)
{
    (void)device, (void)processes;
    *count = 0;
    return OK;
}
