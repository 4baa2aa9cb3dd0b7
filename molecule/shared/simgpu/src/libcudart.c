/* Preloaded over the CUDA runtime (libcudart.so.12 or .13) of a torch wheel: answers the questions about devices from
 * the simulated libcuda.so.1, and leaves all else, kernels first of all, to the real runtime, which then fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

enum { OK = 0, INSUFFICIENT_DRIVER = 35, NO_DEVICE = 100, INVALID_DEVICE = 101 };

static __thread int current;

static void *driver_symbol(const char *name)
{
    static void *library;

    if (!library)
        library = dlopen("libcuda.so.1", RTLD_LAZY);
    return library ? dlsym(library, name) : NULL;
}

static int driver_version(void)
{
    int version = 0;
    int (*get)(int *) = driver_symbol("cuDriverGetVersion");

    if (get)
        get(&version);
    return version;
}

static int runtime_version(void)
{
    int version = 0;
    int (*get)(int *) = dlsym(RTLD_NEXT, "cudaRuntimeGetVersion");

    if (!get)
        get = dlsym(RTLD_DEFAULT, "cudaRuntimeGetVersion");
    if (get)
        get(&version);
    return version;
}

EXPORTED int cudaDriverGetVersion(int *version)
{
    *version = driver_version();
    return OK;
}

EXPORTED int cudaGetDeviceCount(int *count)
{
    int (*init)(unsigned) = driver_symbol("cuInit");
    int (*get)(int *) = driver_symbol("cuDeviceGetCount");
    int error;

    *count = 0;
    if (!init || !get || driver_version() / 1000 < runtime_version() / 1000)
        return INSUFFICIENT_DRIVER;
    error = init(0); /* the numbers that can come are the same in both interfaces */
    if (error)
        return error;
    get(count);
    return *count ? OK : NO_DEVICE;
}

EXPORTED int cudaGetDevice(int *device)
{
    *device = current;
    return OK;
}

EXPORTED int cudaSetDevice(int device)
{
    int count;
    int error = cudaGetDeviceCount(&count);

    if (error)
        return error;
    if (device < 0 || device >= count)
        return INVALID_DEVICE;
    current = device;
    return OK;
}

EXPORTED int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    int (*get)(int *, int, int) = driver_symbol("cuDeviceGetAttribute");

    return get ? get(value, attribute, device) : INSUFFICIENT_DRIVER;
}

EXPORTED int cudaMemGetInfo(size_t *free, size_t *total)
{
    int (*get)(size_t *, int) = driver_symbol("cuDeviceTotalMem_v2");
    int error = get ? get(total, current) : INSUFFICIENT_DRIVER;

    *free = error ? 0 : *total;
    return error;
}

/* What torch asks of the runtime on the way to the properties. */
EXPORTED int cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return OK;
}

EXPORTED int cudaStreamIsCapturing(void *stream, int *status)
{
    (void)stream;
    *status = 0;
    return OK;
}

EXPORTED int cudaThreadExchangeStreamCaptureMode(int *mode)
{
    (void)mode;
    return OK;
}

EXPORTED int cudaStreamGetCaptureInfo_v2(void *stream, int *status, unsigned long long *id)
{
    (void)stream;
    if (status)
        *status = 0;
    if (id)
        *id = 0;
    return OK;
}

EXPORTED int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id)
{
    return cudaStreamGetCaptureInfo_v2(stream, status, id);
}

EXPORTED int cudaStreamGetCaptureInfo_v3(void *stream, int *status, unsigned long long *id)
{
    return cudaStreamGetCaptureInfo_v2(stream, status, id);
}

EXPORTED int cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    (void)device, (void)peer;
    *can = 0;
    return OK;
}

/* cudaDeviceProp by offset, for its layout differs between CUDA 12 and 13 and no CUDA header is at hand. */
static int properties(char *prop, int device, int cuda13)
{
    int (*name)(char *, int, int) = driver_symbol("cuDeviceGetName");
    int (*memory)(size_t *, int) = driver_symbol("cuDeviceTotalMem_v2");
    int (*uuid)(char *, int) = driver_symbol("cuDeviceGetUuid");
    int value;

#define PUT(type, offset, what) memcpy(prop + (offset), &(type){what}, sizeof(type))
    if (!name || !memory || !uuid)
        return INSUFFICIENT_DRIVER;
    memset(prop, 0, cuda13 ? 1008 : 1032);
    if (name(prop, 256, device) != OK)
        return INVALID_DEVICE;
    uuid(prop + 256, device);
    memory((size_t *)(void *)(prop + 288), device);
    PUT(size_t, 296, 49152); /* shared memory per block */
    PUT(int, 304, 65536);    /* registers per block */
    PUT(int, 308, 32);       /* warp size */
    PUT(int, 320, 1024);     /* threads per block */
    cudaDeviceGetAttribute(&value, 75, device);
    PUT(int, 360, value);
    cudaDeviceGetAttribute(&value, 76, device);
    PUT(int, 364, value);
    cudaDeviceGetAttribute(&value, 16, device);
    PUT(int, cuda13 ? 384 : 388, value);
    PUT(int, cuda13 ? 604 : 624, 2048); /* threads per multiprocessor */
    return OK;
}

EXPORTED int cudaGetDeviceProperties_v2(void *prop, int device)
{
    return properties(prop, device, 0);
}

EXPORTED int cudaGetDeviceProperties(void *prop, int device)
{
    return properties(prop, device, runtime_version() >= 13000);
}
