#!/usr/bin/python3
"""nvidia-smi of a simulated driver: -L, and --query-gpu=... --format=csv[,noheader][,nounits]."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

CANNOT = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"
    " NVIDIA driver is installed and running."
)


def main(argv: list[str]) -> int:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        print("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.")
        return 12
    error = nvml.nvmlInit_v2()
    if error == 18:
        print("Failed to initialize NVML: Driver/library version mismatch")
        return 18
    if error:
        print(CANNOT)
        return 9
    rows = [read(nvml, index) for index in range(count(nvml))]
    options = dict(arg.partition("=")[::2] for arg in argv)
    if "--query-gpu" in options:
        fields = options["--query-gpu"].split(",")
        unknown = [field for field in fields if rows and field not in rows[0]]
        if unknown:
            print(f'Field "{unknown[0]}" is not a valid field to query.')
            return 2
        layout = options.get("--format", "csv").split(",")
        if "noheader" not in layout:
            print(", ".join(fields))
        for row in rows:
            unit = "" if "nounits" in layout else " MiB"
            print(", ".join(row[field] + (unit if field == "memory.total" else "") for field in fields))
    else:
        for row in rows:
            print(f"GPU {row['index']}: {row['name']} (UUID: {row['uuid']})")
    return 0


def count(nvml: ctypes.CDLL) -> int:
    number = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
    return number.value


def read(nvml: ctypes.CDLL, index: int) -> dict[str, str]:
    device = ctypes.c_void_p()
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))

    def text(function: Any, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(96)
        function(*arguments, buffer, len(buffer))
        return buffer.value.decode()

    memory = (ctypes.c_ulonglong * 3)()
    nvml.nvmlDeviceGetMemoryInfo(device, memory)
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
    return {
        "index": str(index),
        "name": text(nvml.nvmlDeviceGetName, device),
        "uuid": text(nvml.nvmlDeviceGetUUID, device),
        "driver_version": text(nvml.nvmlSystemGetDriverVersion),
        "memory.total": str(memory[0] >> 20),
        "compute_cap": f"{major.value}.{minor.value}",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
