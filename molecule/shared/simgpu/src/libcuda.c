/* libcuda.so.1 for simulated hosts: what torch's libraries link, and what asks about devices. No kernel runs.
 * Built once for each driver version: LIB_VERSION (as text) and LIB_CUDA (12020 for CUDA 12.2). */
#define _GNU_SOURCE
#include "simgpu.h"
#include <dlfcn.h>
#include <stdint.h>

enum {
    OK = 0,
    INVALID_VALUE = 1,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801,
    SYSTEM_DRIVER_MISMATCH = 803
};

/* The GPUs that this process may see, after CUDA_VISIBLE_DEVICES (ordinals; the list ends at the first bad one). */
static int visible[MAX_GPUS], visible_count;

EXPORTED int cuInit(unsigned flags)
{
    const struct host *host = simulated_host();
    const char *wanted = getenv("CUDA_VISIBLE_DEVICES");

    (void)flags;
    visible_count = 0;
    if (!host->version[0])
        return NO_DEVICE;
    if (strcmp(host->version, LIB_VERSION) != 0)
        return SYSTEM_DRIVER_MISMATCH;
    if (!wanted) {
        for (; visible_count < host->count; visible_count++)
            visible[visible_count] = visible_count;
    } else {
        while (visible_count < MAX_GPUS) {
            char *end;
            long ordinal = strtol(wanted, &end, 10);
            if (end == wanted || ordinal < 0 || ordinal >= host->count)
                break;
            visible[visible_count++] = (int)ordinal;
            if (*end != ',')
                break;
            wanted = end + 1;
        }
    }
    return visible_count ? OK : NO_DEVICE;
}

static const struct gpu *device(int ordinal)
{
    return ordinal >= 0 && ordinal < visible_count ? &simulated_host()->gpus[visible[ordinal]] : NULL;
}

EXPORTED int cuDriverGetVersion(int *version)
{
    *version = LIB_CUDA;
    return OK;
}

EXPORTED int cuDeviceGetCount(int *count)
{
    *count = visible_count;
    return OK;
}

EXPORTED int cuDeviceGet(int *handle, int ordinal)
{
    *handle = ordinal;
    return device(ordinal) ? OK : INVALID_DEVICE;
}

EXPORTED int cuDeviceGetName(char *name, int size, int handle)
{
    if (!device(handle))
        return INVALID_DEVICE;
    snprintf(name, (size_t)size, "%s", device(handle)->name);
    return OK;
}

EXPORTED int cuDeviceTotalMem_v2(size_t *bytes, int handle)
{
    if (!device(handle))
        return INVALID_DEVICE;
    *bytes = device(handle)->memory;
    return OK;
}

EXPORTED int cuDeviceGetAttribute(int *value, int attribute, int handle)
{
    const struct gpu *gpu = device(handle);

    if (!gpu)
        return INVALID_DEVICE;
    switch (attribute) {
    case 10: *value = 32; break; /* warp size */
    case 16: *value = gpu->multiprocessors; break;
    case 75: *value = gpu->major; break;
    case 76: *value = gpu->minor; break;
    default: *value = 0;
    }
    return OK;
}

EXPORTED int cuDeviceGetUuid(char *uuid, int handle)
{
    if (!device(handle))
        return INVALID_DEVICE;
    memset(uuid, 0xab, 15);
    uuid[15] = (char)handle;
    return OK;
}

EXPORTED int cuDeviceGetUuid_v2(char *uuid, int handle)
{
    return cuDeviceGetUuid(uuid, handle);
}

EXPORTED int cuDeviceComputeCapability(int *major, int *minor, int handle)
{
    if (!device(handle))
        return INVALID_DEVICE;
    *major = device(handle)->major;
    *minor = device(handle)->minor;
    return OK;
}

/* torch looks at the primary context before it asks for properties; there is one, and nothing in it. */
static int context;

EXPORTED int cuDevicePrimaryCtxGetState(int handle, unsigned *flags, int *active)
{
    (void)handle;
    *flags = 0;
    *active = 1;
    return OK;
}

EXPORTED int cuDevicePrimaryCtxRetain(void **primary, int handle)
{
    (void)handle;
    *primary = &context;
    return OK;
}

EXPORTED int cuCtxGetCurrent(void **current)
{
    *current = &context;
    return OK;
}

EXPORTED int cuCtxSetCurrent(void *current)
{
    (void)current;
    return OK;
}

EXPORTED int cuGetErrorName(int error, const char **name)
{
    (void)error;
    *name = "CUDA_ERROR_NOT_SUPPORTED";
    return OK;
}

EXPORTED int cuGetErrorString(int error, const char **text)
{
    (void)error;
    *text = "not supported by a simulated GPU";
    return OK;
}

EXPORTED int cuModuleGetLoadingMode(int *mode)
{
    *mode = 2; /* lazy */
    return OK;
}

/* The private tables that the CUDA runtime checks the driver by are not imitated. */
EXPORTED int cuGetExportTable(const void **table, const void *id)
{
    (void)id;
    *table = NULL;
    return NOT_FOUND;
}

EXPORTED int cuGetProcAddress_v2(const char *symbol, void **address, int version, uint64_t flags, int *status)
{
    static void *self;
    char newer[128];

    (void)version, (void)flags;
    if (!self)
        self = dlopen("libcuda.so.1", RTLD_LAZY);
    snprintf(newer, sizeof newer, "%s_v2", symbol);
    *address = dlsym(self, newer);
    if (!*address)
        *address = dlsym(self, symbol);
    if (status)
        *status = *address ? 0 : 1;
    return *address ? OK : NOT_FOUND;
}

EXPORTED int cuGetProcAddress(const char *symbol, void **address, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, address, version, flags, NULL);
}

/* Everything that would launch a kernel says honestly that it cannot. */
#define UNSUPPORTED(name) EXPORTED int name(void) { return NOT_SUPPORTED; }
UNSUPPORTED(cuFuncGetAttribute)
UNSUPPORTED(cuFuncSetAttribute)
UNSUPPORTED(cuFuncSetCacheConfig)
UNSUPPORTED(cuLaunchCooperativeKernel)
UNSUPPORTED(cuLaunchKernel)
UNSUPPORTED(cuLinkAddData_v2)
UNSUPPORTED(cuLinkComplete)
UNSUPPORTED(cuLinkCreate_v2)
UNSUPPORTED(cuModuleGetFunction)
UNSUPPORTED(cuModuleLoad)
UNSUPPORTED(cuModuleLoadData)
UNSUPPORTED(cuModuleLoadDataEx)
UNSUPPORTED(cuModuleUnload)
UNSUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
UNSUPPORTED(cuPointerGetAttribute)
UNSUPPORTED(cuTensorMapEncodeTiled)
