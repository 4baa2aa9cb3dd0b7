"""Judges what the probe told against what the plan expects; pure, so every case is a table row in a test."""

from __future__ import annotations

import re
import signal
from typing import Any, Dict

Json = Dict[str, Any]

# CUresult of cuInit, which cudart's and torch's texts repeat as "Error 803"
NOT_READY, MISMATCH, COMPAT_UNSUPPORTED = 802, 803, 804
NODES_NEEDED = ("/dev/nvidiactl", "/dev/nvidia-uvm")


def judge(told: Json, environment: str, python: str, expect: Json, simulated: bool, timeout: int) -> Json:
    """The Result of docs/contracts.md for one environment; ``told`` is what run_probe returned."""
    facts = told["facts"]
    result: Json = {
        "environment": environment,
        "verdict": "failed",
        "torch": facts.get("torch"),
        "cuda": facts.get("cuda"),
        "cuda_available": facts.get("cuda_available", False),
        "device_count": facts.get("device_count", 0),
        # Free memory changes from run to run, and the verdict is kept: it is for the judge alone.
        "devices": [
            {key: value for key, value in device.items() if key != "memory_free_bytes"}
            for device in facts.get("devices", [])
        ],
        "arch_list": facts.get("arch_list", []),
        "cudnn": (facts.get("cudnn") or {}).get("value"),
        "peers": facts.get("peers"),
        "nccl": (facts.get("nccl") or {}).get("value"),
        "torchvision": (facts.get("torchvision") or {}).get("version"),
        "torchaudio": (facts.get("torchaudio") or {}).get("version"),
        "python": facts.get("python"),
        "warnings": facts.get("warnings", []),
        "output": told["output"],
        "problems": [],
    }
    problems = result["problems"] = _broken(told, python, timeout)
    if facts.get("torch"):
        problems += _build(facts, expect) + _companions(facts, expect)
    if "cuda_available" in facts:
        problems += _cuda(facts, expect, simulated, complete=told["ended"] == "done")
    if not problems:
        if not result["cuda_available"]:
            result["verdict"] = "cpu"
        else:
            result["verdict"] = "simulated" if simulated else "verified"
    return result


def _problem(code: str, what: str, found: str, expected: str, fix: str) -> Json:
    return {"code": code, "what": what, "found": found, "expected": expected, "fix": fix}


def _broken(told: Json, python: str, timeout: int) -> list[Json]:
    """The probe that did not come to its end, and imports that failed."""
    facts, ended = told["facts"], told["ended"]
    stage = facts.get("stage") or "start Python"
    last = told["output"].splitlines()[-1:] or ["it printed nothing"]
    found: list[Json] = []
    if ended.startswith("not started"):
        found.append(
            _problem(
                "python_missing",
                "the environment's Python does not start",
                f"{python}: {ended.partition(': ')[2]}",
                "an executable Python in a complete environment",
                "create the environment again (role conda_envs), or correct its path",
            )
        )
    elif ended == "timeout":
        found.append(
            _problem(
                "timeout",
                f"the probe hung at: {stage}",
                f"no end after {timeout} s",
                f"an end within {timeout} s",
                "look for NVRM and Xid lines in dmesg; raise the timeout if the host is only slow",
            )
        )
    elif ended.startswith("signal"):
        found.append(_killed(int(ended.split()[1]), stage, last[0]))
    elif ended != "done":
        found.append(
            _problem(
                "probe_failed",
                f"the environment's Python gave up at: {stage}",
                f"{ended}: {last[0]}",
                "a complete probe",
                f"run {python} -I -c 'import torch' on the host and read its message",
            )
        )
    if facts.get("torch_missing"):
        found.append(
            _problem(
                "torch_missing",
                "torch is not in the environment",
                f"no module named torch for {python}",
                "an installed torch",
                "run the role pytorch for this environment",
            )
        )
    imports = {"torch": facts.get("import_error")}
    imports.update({name: (facts.get(name) or {}).get("error") for name in ("torchvision", "torchaudio")})
    for name, error in imports.items():
        if error:
            found.append(
                _problem(
                    "import_failed",
                    f"{name} cannot be imported",
                    error,
                    f"import {name} without an error",
                    "install torch and its companions again from one source (role pytorch)",
                )
            )
    return found


def _companions(facts: Json, expect: Json) -> list[Json]:
    return [
        _problem(
            "companion_missing",
            f"{name} is not in the environment",
            f"no module named {name} beside torch {facts['torch']}",
            f"the {name} that goes with it",
            "run the role pytorch for this environment",
        )
        for name in expect.get("companions") or []
        if facts.get(name) == {"version": None, "error": None}
    ]


def _killed(number: int, stage: str, last: str) -> Json:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    fixes = {
        "SIGKILL": "look for an out-of-memory kill in dmesg and give the host memory",
        "SIGILL": "the CPU lacks instructions that this build uses: take an older torch",
    }
    return _problem(
        "killed",
        f"the probe was ended by {name} at: {stage}",
        last,
        "a complete probe",
        fixes.get(name, "look for the crash in dmesg; install torch again (role pytorch)"),
    )


def _wants_cuda(expect: Json) -> bool | None:
    """A CPU build that was asked for on a GPU host must not see the GPU."""
    return False if expect.get("variant") == "cpu" else expect.get("cuda_available")


def _variant(facts: Json) -> str:
    local = facts["torch"].partition("+")[2]
    if re.fullmatch(r"cpu|cu\d+|rocm[\d.]+", local):
        return str(local)
    if facts.get("cuda"):
        return "cu" + str(facts["cuda"]).replace(".", "")
    return "rocm" if facts.get("hip") else "cpu"


def _build(facts: Json, expect: Json) -> list[Json]:
    found: list[Json] = []
    version, wanted = facts["torch"], expect.get("torch")
    if wanted and wanted not in (version, version.partition("+")[0]):
        found.append(
            _problem(
                "wrong_torch_version",
                "torch is another release than planned",
                version,
                wanted,
                "run the role pytorch for this environment",
            )
        )
    built_cpu = not facts.get("cuda")
    if _wants_cuda(expect) and built_cpu:
        found.append(
            _problem(
                "cpu_build_on_gpu_host",
                "torch is a build without CUDA on a host with GPUs",
                f"{version}, torch.version.cuda is None",
                expect.get("variant") or "a CUDA build",
                "run the role pytorch; a source that carries only CPU builds may have come first",
            )
        )
        return found
    variant, planned = _variant(facts), expect.get("variant")
    if (planned and planned != variant) or (expect.get("cuda") and expect["cuda"] != facts.get("cuda")):
        found.append(
            _problem(
                "wrong_variant",
                "torch is built for another CUDA than planned",
                f"{variant} (CUDA {facts.get('cuda')})",
                f"{planned or 'a build'} (CUDA {expect.get('cuda')})",
                "run the role pytorch for this environment",
            )
        )
    return found


def _cuda(facts: Json, expect: Json, simulated: bool, complete: bool) -> list[Json]:
    available, wanted = facts["cuda_available"], _wants_cuda(expect)
    if wanted is False:
        if not available:
            return []
        names = ", ".join(device["name"] or "?" for device in facts.get("devices", []))
        return [
            _problem(
                "cuda_on_cpu_host",
                "torch sees a GPU where the plan has none",
                f"is_available() is True: {names or 'no names'}",
                "is_available() is False",
                "run the plan again: the host has changed, or the environment is not the planned one",
            )
        ]
    if not available:
        return [_unavailable(facts, expect)] if wanted and facts.get("cuda") else []
    found = _counted(facts, expect)
    devices = facts.get("devices", [])
    seen = sorted({device["capability"] for device in devices if device["capability"]})
    planned = sorted(set(expect.get("capabilities") or []))
    if planned and complete and seen != planned:
        found.append(
            _problem(
                "capability",
                "the GPUs are other ones than planned",
                ", ".join(seen) or "none",
                ", ".join(planned),
                "run the plan again: the host has changed, or its GPUs are not in the tables",
            )
        )
    return found + _kernels(devices, facts.get("arch_list", []), simulated, complete) + _checks(facts)


def _counted(facts: Json, expect: Json) -> list[Json]:
    count, wanted = facts["device_count"], expect.get("device_count")
    if wanted is None or count == wanted:
        return []
    return [
        _hidden(facts, wanted)
        or (_nodes(facts, wanted) if count < wanted else None)
        or _problem(
            "device_count",
            "torch sees another number of GPUs than the PCI bus",
            str(count),
            str(wanted),
            "compare nvidia-smi -L with lspci; look in dmesg for NVRM and Xid lines (a lost GPU)",
        )
    ]


def _hidden(facts: Json, wanted: int) -> Json | None:
    value = facts.get("cuda_visible_devices")
    if value is None:
        return None
    entries = [entry.strip() for entry in value.split(",")]
    # CUDA stops at the first entry that is no device.
    shown = next((i for i, entry in enumerate(entries) if entry in ("", "-1", "NoDevFiles")), len(entries))
    if shown >= wanted:
        return None
    return _problem(
        "hidden_by_CUDA_VISIBLE_DEVICES",
        "an environment variable hides GPUs",
        f"CUDA_VISIBLE_DEVICES={value!r}",
        f"{wanted} visible GPUs",
        "unset it where it is set (/etc/environment, a profile, the connection's environment)",
    )


def _nodes(facts: Json, wanted: int) -> Json | None:
    nodes: dict[str, bool] = facts.get("nodes", {})
    if not nodes and facts.get("container"):
        return _container(wanted)
    gpus = [name for name in nodes if re.fullmatch(r"/dev/nvidia\d+", name)]
    barred = [name for name in nodes if not nodes[name] and name in (*NODES_NEEDED, *gpus)]
    missing = [name for name in NODES_NEEDED if name not in nodes]
    if not barred and not missing and len(gpus) >= wanted:
        return None
    said = [f"not permitted: {', '.join(barred)}"] if barred else []
    said += [f"missing: {', '.join(missing)}"] if missing else []
    said += [f"{len(gpus)} of {wanted} /dev/nvidia<N>"] if len(gpus) < wanted else []
    return _problem(
        "device_nodes",
        "device files of the driver are missing or barred",
        "; ".join(said),
        f"{wanted} x /dev/nvidia<N>, /dev/nvidiactl and /dev/nvidia-uvm, readable and writable",
        "run nvidia-modprobe -c 0 -u as root; check the files' mode, or the container's devices",
    )


def _container(wanted: int) -> Json:
    return _problem(
        "container_without_gpu",
        "the container has not been given the GPUs of its host",
        "no /dev/nvidia* in the container, while the host's kernel has the driver",
        f"{wanted} GPUs passed in",
        "start the container with the NVIDIA Container Toolkit (docker run --gpus all), or leave it out",
    )


def _unavailable(facts: Json, expect: Json) -> Json:
    """Why is_available() is False on a GPU host: the nearest cause that the evidence allows."""
    libcuda = facts.get("libcuda") or {}
    module = facts.get("kernel_module")
    text = " ".join([facts.get("init_error") or "", *facts.get("warnings", [])])
    named = re.search(r"\bError (\d+)\b", text)
    code = libcuda.get("init") or (int(named.group(1)) if named else 0)
    build = f"{facts['torch']} (CUDA {facts['cuda']})"
    wanted = expect.get("device_count") or 1
    hidden = _hidden(facts, wanted)
    if hidden:
        return hidden
    if code == COMPAT_UNSUPPORTED or "forward compatibility was attempted" in text:
        return _problem(
            "library_mismatch",
            "a CUDA forward-compatibility libcuda is in the way",
            f"cuInit error {COMPAT_UNSUPPORTED}: this GPU does not support it",
            "the driver's own libcuda",
            "remove the package cuda-compat-* or its path from LD_LIBRARY_PATH and ld.so.conf.d",
        )
    if code == MISMATCH or "unsupported display driver / cuda driver combination" in text:
        return _problem(
            "library_mismatch",
            "libcuda and the loaded kernel module are of different versions",
            f"cuInit error {MISMATCH}; the module is {module}",
            "one version of both",
            "reboot, or reload the module when nothing uses the GPU",
        )
    if module and facts.get("container") and not facts.get("nodes"):
        # Before libcuda, which comes with the devices.
        return _container(wanted)
    if module and libcuda.get("init") is None and libcuda.get("error"):
        return _problem(
            "library_mismatch",
            "the kernel module is loaded, but its user-space library cannot be used",
            libcuda["error"],
            f"libcuda.so.1 of driver {module}",
            "install the driver's libraries (Debian: libcuda1) of the same version",
        )
    if "driver on your system is too old" in text:
        age = re.search(r"found version (\d+)", text)
        number = int(age.group(1)) if age else libcuda.get("version")
        release = f"CUDA {number // 1000}.{number % 1000 // 10}" if number else "an older CUDA"
        return _problem(
            "driver_too_old",
            "the driver is too old for this build of torch",
            f"driver {module or 'of unknown version'} for {release}",
            f"a driver for torch {build}",
            "install the build that the plan gives for this driver, or a newer driver branch",
        )
    if module is None:
        return _problem(
            "no_driver",
            "no NVIDIA kernel module is loaded",
            first_line(facts.get("init_error")) or f"cuInit error {code}",
            f"a loaded driver for torch {build}",
            "install the driver (role nvidia_driver), or reboot if it was just installed",
        )
    if code == NOT_READY:
        return _problem(
            "fabric_manager",
            "the NVSwitch fabric is not initialised",
            f"cuInit error {NOT_READY} (system not ready)",
            "a running nvidia-fabricmanager of the driver's version",
            "install and start nvidia-fabricmanager",
        )
    return _nodes(facts, wanted) or _problem(
        "cuda_init_failed",
        "CUDA cannot be initialised",
        first_line(facts.get("init_error")) or f"cuInit error {code}",
        f"is_available() is True with driver {module}",
        "look for NVRM and Xid lines in dmesg",
    )


def _kernels(devices: list[Json], arch_list: list[str], simulated: bool, complete: bool) -> list[Json]:
    grouped: dict[tuple[str, str], list[Json]] = {}
    found: list[Json] = []
    for device in devices:
        covered = not device["capability"] or runs_on(device["capability"], arch_list)
        error = first_line(device["error"])
        if simulated and device["kernel"]:
            found.append(
                _problem(
                    "simulated_contradiction",
                    f"a kernel ran on device {device['index']} of a host that is declared simulated",
                    f"{device['name']} computed a right result",
                    "a kernel launch that fails, as it must without a GPU",
                    "drop gpu_verify_simulated for this host",
                )
            )
        elif simulated:
            if not covered:
                grouped.setdefault(("no_kernels", ""), []).append(device)
            elif not device["capability"]:  # not even its properties could be read
                grouped.setdefault(("kernel_failed", error), []).append(device)
        elif not device["kernel"] and (complete or error):
            grouped.setdefault((_failure(error, covered), error), []).append(device)
    for (code, error), group in grouped.items():
        names = ", ".join(f"{device['index']} ({device['name']}, {device['capability']})" for device in group)
        if code == "no_kernels":
            found.append(
                _problem(
                    code,
                    f"this build of torch has no kernels for device {names}",
                    f"kernels for {' '.join(arch_list) or 'no GPU'}" + (f"; {error}" if error else ""),
                    f"kernels for {', '.join(sorted({str(device['capability']) for device in group}))}",
                    "install the build that the plan gives for this GPU (role pytorch)",
                )
            )
        elif code == "out_of_memory":
            what = f"no memory was left for a kernel on device {names}"
            found.append(_out_of_memory(what, error, group))
        else:
            found.append(
                _problem(
                    code,
                    f"a kernel failed on device {names}",
                    error or "no error was told",
                    "the CPU's result",
                    "look for NVRM and Xid lines in dmesg; is another process filling the GPU's memory?",
                )
            )
    return found


def _failure(error: str, covered: bool) -> str:
    if _no_memory(error):
        return "out_of_memory"
    return "no_kernels" if "no kernel image" in error or not covered else "kernel_failed"


def _no_memory(error: str) -> bool:
    """cuBLAS and cuDNN have words of their own for it (their CUBLAS_ and CUDNN_STATUS_ALLOC_FAILED)."""
    return "out of memory" in error or "STATUS_ALLOC_FAILED" in error


def _out_of_memory(what: str, error: str, group: list[Json]) -> Json:
    free = ", ".join(f"{_gib(item['memory_free_bytes'])} on device {item['index']}" for item in group)
    return _problem(
        "out_of_memory",
        what,
        f"{error}; free when the probe began: {free}",
        "some hundred MiB of free memory on each GPU",
        "run the verification again when the processes that nvidia-smi lists are done",
    )


def _gib(size: int | None) -> str:
    return "an unknown size" if size is None else f"{size / 2**30:.1f} GiB"


# What a GPU that computes in float32 can still fail at: code, what, fix.
_CHECKS = {
    "bfloat16": ("bfloat16_failed", "bfloat16 is computed wrongly", "look for NVRM and Xid lines in dmesg"),
    "convolution": (
        "cudnn_failed",
        "a convolution fails",
        "install torch again with its own cuDNN (role pytorch); unset LD_LIBRARY_PATH where it names another",
    ),
    "torchvision": (
        "torchvision_failed",
        "an operator of torchvision fails",
        "install torch and torchvision again from one source (role pytorch)",
    ),
}
NATIVE_BFLOAT16 = 8  # GPUs before compute capability 8.0 need not have bfloat16; only their answer is kept


def _checks(facts: Json) -> list[Json]:
    devices = facts.get("devices", [])
    found = []
    for name, (code, what, fix) in _CHECKS.items():
        grouped: dict[str, list[Json]] = {}
        for device in devices:
            error = first_line(device.get("checks", {}).get(name))
            native = int((device["capability"] or "0.0").split(".")[0]) >= NATIVE_BFLOAT16
            if error and (name != "bfloat16" or native):
                grouped.setdefault(error, []).append(device)
        for error, group in grouped.items():
            names = ", ".join(f"{device['index']} ({device['name']})" for device in group)
            if _no_memory(error):
                lack = f"no memory was left for the check {name} on device {names}"
                found.append(_out_of_memory(lack, error, group))
            else:
                found.append(_problem(code, f"{what} on device {names}", error, "the CPU's result", fix))
    sound = [device for device in devices if device["kernel"]]
    cudnn, nccl = facts.get("cudnn"), facts.get("nccl")
    if cudnn and not cudnn["value"]:
        found.append(
            _problem(
                "cudnn_missing",
                "torch has no cuDNN",
                first_line(cudnn["error"]) or "torch.backends.cudnn.version() is None",
                "a cuDNN that loads",
                "install torch again (role pytorch); a wheel brings its own cuDNN",
            )
        )
    if nccl and nccl["error"] and _no_memory(nccl["error"]):
        lack = f"no memory was left for an all-reduce across the {len(sound)} GPUs"
        found.append(_out_of_memory(lack, first_line(nccl["error"]), sound))
    elif nccl and nccl["error"]:
        found.append(
            _problem(
                "nccl_failed",
                f"an all-reduce across the {len(sound)} GPUs fails",
                first_line(nccl["error"]),
                "the sum of all GPUs on each of them",
                "run it with NCCL_DEBUG=INFO; look at nvidia-smi topo -m, /dev/shm and IOMMU settings",
            )
        )
    return found


def runs_on(capability: str, arch_list: list[str]) -> bool:
    """Whether code for one of ``arch_list`` runs on the GPU. Only asked where no launch can tell."""
    major, minor = (int(part) for part in capability.split("."))
    for arch in arch_list:
        name = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if not name:
            continue
        code = (int(name.group(2)), int(name.group(3)))
        if name.group(4) == "a":
            if code == (major, minor):
                return True
        elif name.group(1) == "compute":  # PTX, compiled for newer GPUs by the driver
            if code <= (major, minor):
                return True
        elif code[0] == major and code[1] <= minor:
            return True
    return False


def first_line(text: str | None) -> str:
    return text.splitlines()[0] if text else ""
