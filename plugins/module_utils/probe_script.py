"""Runs inside the environment under test and tells what its torch sees and does.

The source of this file is handed to that environment's own Python (3.7 or newer), so it stands alone.
Facts go line by line to the file descriptor given as the argument: torch may print what it likes, and a
crash leaves everything that was told before it, with the stage that it happened in.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import warnings
from typing import IO, Any


def main(channel: IO[str]) -> None:
    def tell(**facts: Any) -> None:
        channel.write(json.dumps(facts) + "\n")
        channel.flush()

    tell(
        stage="import torch",
        python=".".join(map(str, sys.version_info[:3])),
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        **host_evidence(),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch = importlib.import_module("torch")
            version, cuda = str(torch.__version__), torch.version.cuda
        except ModuleNotFoundError as error:
            missing = error.name == "torch"
            tell(done=True, torch_missing=missing, import_error=None if missing else describe(error))
            return
        except Exception as error:
            tell(done=True, import_error=describe(error))
            return
        tell(torch=version, cuda=cuda, hip=getattr(torch.version, "hip", None))

        tell(stage="multiply on the CPU")
        host, want = operands(torch)
        tell(stage="initialise CUDA")
        available = bool(torch.cuda.is_available())
        count = int(torch.cuda.device_count())
        tell(cuda_available=available, device_count=count, arch_list=architectures(torch))
        if cuda and not available:
            try:
                torch.cuda.init()
            except Exception as error:
                tell(init_error=describe(error))
            tell(stage="ask libcuda")
            tell(libcuda=ask_libcuda())
        for name in ("torchvision", "torchaudio"):
            tell(stage=f"import {name}")
            tell(**{name: companion(name)})
        devices = []
        for index in range(count if available else 0):
            tell(stage=f"read the properties of device {index}")
            devices.append(properties(torch, index))
            tell(devices=devices)
        tell(warnings=texts(caught))
        for device in devices:
            if device["error"] is None:
                tell(stage=f"launch a kernel on device {device['index']}")
                device["error"] = launch(torch, device["index"], host, want)
                device["kernel"] = device["error"] is None
                tell(devices=devices)
        sound = [device for device in devices if device["kernel"]]
        if devices:
            tell(stage="load cuDNN")
            tell(cudnn=attempt(lambda: torch.backends.cudnn.version()))
        for device in sound:
            for name, check in CHECKS.items():
                if name != "torchvision" or "torchvision" in sys.modules:
                    tell(stage=f"check {name} on device {device['index']}")
                    device["checks"][name] = attempt(check, torch, f"cuda:{device['index']}")["error"]
                    tell(devices=devices)
        if len(sound) > 1:
            indices = [device["index"] for device in sound]
            tell(stage="ask which GPUs reach each other's memory")
            tell(peers=attempt(peers, torch, indices)["value"])
            tell(stage="all-reduce with NCCL across the GPUs")
            tell(nccl=attempt(all_reduce, torch, indices))
        tell(warnings=texts(caught), done=True)


def texts(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message).strip()[:1000] for warning in caught][:20]


def describe(error: BaseException) -> str:
    return (type(error).__name__ + ": " + str(error))[:2000]


def host_evidence() -> dict[str, Any]:
    """What this user finds of the kernel driver; needed only to explain a failure."""
    try:
        with open("/sys/module/nvidia/version") as file:  # noqa: PTH123
            version = file.read().strip()
    except OSError:
        version = None
    names = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))  # noqa: PTH208
    nodes = {"/dev/" + name: os.access("/dev/" + name, os.R_OK | os.W_OK) for name in names}
    marks = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
    container = any(os.path.exists(mark) for mark in marks)  # noqa: PTH110
    return {"kernel_module": version, "nodes": nodes, "container": container}


def operands(torch: Any) -> tuple[Any, Any]:
    """Small whole numbers, so that every GPU's arithmetic, TF32 too, must give the very same result."""
    host = (torch.arange(4096) % 7).to(torch.float32).reshape(64, 64)
    return host, (host + 1) @ host


def architectures(torch: Any) -> list[str]:
    flags = getattr(torch._C, "_cuda_getArchFlags", None)  # get_arch_list() is empty without a GPU
    return list(torch.cuda.get_arch_list()) or ((flags() or "").split() if flags else [])


def companion(name: str) -> dict[str, Any]:
    """Version of a package that must fit torch, null when it is not there; a misfit shows on import."""
    try:
        return {"version": str(importlib.import_module(name).__version__), "error": None}
    except ModuleNotFoundError as error:
        return {"version": None, "error": None if error.name == name else describe(error)}
    except Exception as error:
        return {"version": None, "error": describe(error)}


def properties(torch: Any, index: int) -> dict[str, Any]:
    device: dict[str, Any] = {
        "index": index,
        "name": None,
        "capability": None,
        "memory_bytes": None,
        "memory_free_bytes": None,
        "kernel": False,
        "error": None,
        "checks": {},
    }
    try:
        found = torch.cuda.get_device_properties(index)
        device.update(
            name=found.name,
            capability=f"{found.major}.{found.minor}",
            memory_bytes=int(found.total_memory),
            memory_free_bytes=(attempt(torch.cuda.mem_get_info, index)["value"] or [None])[0],
        )
    except Exception as error:
        device["error"] = describe(error)
    return device


def launch(torch: Any, index: int, host: Any, want: Any) -> str | None:
    try:
        there = host.to(f"cuda:{index}")
        got = ((there + 1) @ there).cpu()  # a kernel of torch's own, then one of cuBLAS
        del there
        torch.cuda.empty_cache()
    except Exception as error:
        return describe(error)
    return None if bool((got == want).all()) else "the GPU's result differs from the CPU's"


def attempt(what: Any, *arguments: Any) -> dict[str, Any]:
    try:
        return {"value": what(*arguments), "error": None}
    except Exception as error:
        return {"value": None, "error": describe(error)}


def same(got: Any, want: Any) -> None:
    if got != want:
        raise ArithmeticError("the GPU's result differs from the CPU's")


def bfloat16(torch: Any, device: str) -> None:
    """Sums of at most 64 ones are exact in bfloat16, whatever the order of the additions."""
    host = (torch.arange(4096) % 2).to(torch.bfloat16).reshape(64, 64)
    there = host.to(device)
    same((there @ there).cpu().tolist(), (host @ host).tolist())


def convolution(torch: Any, device: str) -> None:
    host = (torch.arange(256) % 7).to(torch.float32).reshape(1, 1, 16, 16)
    weight = torch.ones(1, 1, 3, 3)
    convolve = torch.nn.functional.conv2d
    # Whole numbers; cuDNN may compute them by a transform that is a hair off.
    same(convolve(host.to(device), weight.to(device)).cpu().round().tolist(), convolve(host, weight).tolist())


def vision(torch: Any, device: str) -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 11.0, 11.0], [20.0, 20.0, 30.0, 30.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    nms = sys.modules["torchvision"].ops.nms
    same(nms(boxes.to(device), scores.to(device), 0.5).cpu().tolist(), nms(boxes, scores, 0.5).tolist())


CHECKS = {"bfloat16": bfloat16, "convolution": convolution, "torchvision": vision}


def peers(torch: Any, indices: list[int]) -> list[list[int]]:
    """The pairs of GPUs of which the first reaches the memory of the second."""
    reaches = torch.cuda.can_device_access_peer
    return [[one, other] for one in indices for other in indices if one != other and reaches(one, other)]


def all_reduce(torch: Any, indices: list[int]) -> str:
    """The version of NCCL, once a sum over all GPUs was right on each."""
    nccl = torch.cuda.nccl
    parts = [torch.full((1024,), float(index + 1)).to(f"cuda:{index}") for index in indices]
    nccl.all_reduce(parts)
    for part in parts:
        same(part.cpu().tolist(), [float(sum(indices) + len(indices))] * 1024)
    version = nccl.version()
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


def ask_libcuda() -> dict[str, Any]:
    """cuInit's own error code and the driver's CUDA version (12020 is 12.2)."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return {"error": str(error), "init": None, "version": None}
    version = ctypes.c_int(0)
    try:
        known = library.cuDriverGetVersion(ctypes.byref(version)) == 0
        return {"error": None, "init": int(library.cuInit(0)), "version": version.value if known else None}
    except AttributeError as error:
        return {"error": str(error), "init": None, "version": None}


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "w") as told:
        main(told)
