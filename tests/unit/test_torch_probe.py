"""torch_probe: the runner with a torch that misbehaves, and the judge case by case."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils.judge import judge, runs_on
from ansible_collections.torchfleet.gpu.plugins.module_utils.probe import run_probe

FIXTURES = Path(__file__).parent / "fixtures" / "torch_probe"
Json = dict[str, Any]


# The runner


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment whose torch obeys FAKE_TORCH."""
    prefix = tmp_path_factory.mktemp("environment")
    venv.create(prefix, with_pip=False, symlinks=True)
    packages = prefix / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    shutil.copytree(FIXTURES / "fake", packages, dirs_exist_ok=True)
    return str(prefix / "bin/python")


def probe(python: str, timeout: float = 20, **say: Any) -> Json:
    return run_probe(python, timeout, {"FAKE_TORCH": json.dumps(say)})


def test_a_healthy_probe_tells_everything(python: str) -> None:
    told = probe(python)
    facts = told["facts"]
    assert told["ended"] == "done"
    assert (facts["torch"], facts["cuda"], facts["cuda_available"], facts["device_count"]) == (
        "2.10.0+cu128",
        "12.8",
        True,
        2,
    )
    assert facts["arch_list"] == ["sm_80", "sm_90"]
    assert facts["devices"] == [
        {
            "index": index,
            "name": f"Fake {index}",
            "capability": "9.0",
            "memory_bytes": 85520809984,
            "memory_free_bytes": 85000000000,
            "kernel": True,
            "error": None,
            "checks": {"bfloat16": None, "convolution": None},
        }
        for index in (0, 1)
    ]
    assert facts["cudnn"] == {"value": 91002, "error": None}
    assert facts["peers"] == [[0, 1], [1, 0]]
    assert facts["nccl"] == {"value": "2.27.5", "error": None}
    assert facts["torchvision"] == {"version": None, "error": None}
    assert facts["warnings"] == ["CUDA initialization: a word of warning"]


def test_noise_neither_hides_the_facts_nor_fills_the_memory(python: str) -> None:
    told = probe(python, act={"import": "noise"})
    assert told["ended"] == "done" and told["facts"]["torch"] == "2.10.0+cu128"
    assert len(told["output"]) <= 4096 and told["output"].endswith("more noise")


def test_a_crash_leaves_what_was_told_before_it(python: str) -> None:
    told = probe(python, act={"kernel cuda:1": "crash"})
    assert told["ended"] == "signal 11"
    assert told["facts"]["stage"] == "launch a kernel on device 1"
    assert [device["kernel"] for device in told["facts"]["devices"]] == [True, False]
    problems = judge(told, "torch", python, {}, False, 20)["problems"]
    # The device that it died on was not found wanting; it was not judged.
    assert [problem["code"] for problem in problems] == ["killed"]
    assert "SIGSEGV" in problems[0]["what"] and "device 1" in problems[0]["what"]


def test_a_wrong_result_and_a_failed_launch_are_told_per_device(python: str) -> None:
    told = probe(python, count=3, wrong=["cuda:0"], act={"kernel cuda:2": ["RuntimeError", "CUDA error: no"]})
    errors = [device["error"] for device in told["facts"]["devices"]]
    assert errors == ["the GPU's result differs from the CPU's", None, "RuntimeError: CUDA error: no"]


def test_a_device_that_failed_is_checked_no_further(python: str) -> None:
    facts = probe(python, count=2, act={"kernel cuda:1": ["RuntimeError", "CUDA error: no"]})["facts"]
    assert [device["checks"] for device in facts["devices"]] == [{"bfloat16": None, "convolution": None}, {}]
    assert "nccl" not in facts and "peers" not in facts


@pytest.mark.parametrize(
    ("say", "code", "found"),
    [
        ({"act": {"bfloat16 cuda:1": ["RuntimeError", "no gemm"]}}, "bfloat16_failed", "no gemm"),
        (
            {"act": {"convolution cuda:0": ["RuntimeError", "CUDNN_STATUS_X"]}},
            "cudnn_failed",
            "CUDNN_STATUS_X",
        ),
        (
            {"torchvision": "0.25.0", "act": {"nms cuda:1": ["RuntimeError", "no operator nms"]}},
            "torchvision_failed",
            "no operator nms",
        ),
        ({"act": {"all_reduce": ["RuntimeError", "NCCL Error 2"]}}, "nccl_failed", "NCCL Error 2"),
        ({"short": True}, "nccl_failed", "differs from the CPU"),
        ({"cudnn": None}, "cudnn_missing", "is None"),
        (
            {"act": {"kernel cuda:0": ["OutOfMemoryError", "CUDA out of memory."]}, "free": 2**20},
            "out_of_memory",
            "0.0 GiB on device 0",
        ),
        (
            {"act": {"bfloat16 cuda:1": ["RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"]}},
            "out_of_memory",
            "GiB on device 1",
        ),
        ({"act": {"all_reduce": ["RuntimeError", "CUDA out of memory."]}}, "out_of_memory", "device 1"),
    ],
)
def test_what_a_gpu_can_still_fail_at(python: str, say: Json, code: str, found: str) -> None:
    plan = {**PLAN, "capabilities": ["9.0"]}
    result = judge(probe(python, **say), "torch", python, plan, False, 20)
    assert [problem["code"] for problem in result["problems"]] == [code]
    assert found in result["problems"][0]["found"]
    assert result["verdict"] == "failed"


def test_a_planned_companion_must_be_there(python: str) -> None:
    plan = {**PLAN, "capabilities": ["9.0"], "companions": ["torchvision"]}
    result = judge(probe(python), "torch", python, plan, False, 20)
    assert [problem["code"] for problem in result["problems"]] == ["companion_missing"]
    assert judge(probe(python, torchvision="0.25.0"), "torch", python, plan, False, 20)["problems"] == []


def test_cudnn_is_asked_for_where_no_kernel_runs(python: str) -> None:
    act = {f"kernel cuda:{index}": ["RuntimeError", "CUDA error: unknown"] for index in (0, 1)}
    told = probe(python, cudnn=None, act=act)
    plan = {**PLAN, "capabilities": ["9.0"]}
    problems = judge(told, "torch", python, plan, True, 20)["problems"]
    assert [problem["code"] for problem in problems] == ["cudnn_missing"]


def test_an_all_reduce_that_hangs_is_named(python: str) -> None:
    result = judge(probe(python, timeout=2, act={"all_reduce": "hang"}), "torch", python, PLAN, False, 2)
    assert [problem["code"] for problem in result["problems"]] == ["timeout"]
    assert "NCCL" in result["problems"][0]["what"]


def test_a_device_without_properties_is_not_launched_on(python: str) -> None:
    device = probe(python, count=1, act={"properties 0": ["RuntimeError", "lost"]})["facts"]["devices"][0]
    assert (device["capability"], device["kernel"], device["error"]) == (None, False, "RuntimeError: lost")


def test_a_hang_ends_at_the_limit(python: str) -> None:
    start = time.monotonic()
    told = probe(python, timeout=1, act={"available": "hang"})
    assert time.monotonic() - start < 5
    assert told["ended"] == "timeout" and told["facts"]["stage"] == "initialise CUDA"
    problems = judge(told, "torch", python, {"cuda_available": True}, False, 1)["problems"]
    assert [problem["code"] for problem in problems] == ["timeout"]


@pytest.mark.parametrize("stage", ["init", "available"])
def test_no_descendant_is_left_behind(python: str, stage: str) -> None:
    """With a count of none the probe ends by itself, with the child still holding its pipes."""
    then = {"init": 20.0, "available": 2.0}[stage]
    hang = {"init": "hang"} if stage == "available" else {}
    told = probe(python, timeout=then, count=0, act={stage: "child", **hang})
    assert told["ended"] == ("timeout" if hang else "done")
    child = next(int(line.split()[1]) for line in told["output"].splitlines() if line.startswith("child"))
    for _attempt in range(20):
        if not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes():
            return  # gone, or a zombie that its reaper has yet to collect
        time.sleep(0.1)
    os.kill(child, 9)
    pytest.fail("the probe's child survived it")


def test_variables_of_the_callers_python_do_not_reach_the_environment(
    python: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('a stranger')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert probe(python)["facts"]["torch"] == "2.10.0+cu128"


@pytest.mark.parametrize(
    ("act", "code", "found"),
    [
        (
            ["ImportError", "libcudart.so.12: cannot open shared object file"],
            "import_failed",
            "libcudart.so.12",
        ),
        (["OSError", "libcublas.so: undefined symbol"], "import_failed", "undefined symbol"),
        ("exit", "probe_failed", "exit 3"),
    ],
)
def test_an_import_that_fails(python: str, act: Any, code: str, found: str) -> None:
    result = judge(probe(python, act={"import": act}), "torch", python, {}, False, 20)
    assert [problem["code"] for problem in result["problems"]] == [code]
    assert found in result["problems"][0]["found"]
    assert (result["verdict"], result["torch"], result["cuda_available"]) == ("failed", None, False)


def test_an_environment_without_torch() -> None:
    # The interpreter of the tests themselves has none.
    result = judge(run_probe(sys.executable, 20), "torch", sys.executable, {}, False, 20)
    assert [problem["code"] for problem in result["problems"]] == ["torch_missing"]


@pytest.mark.parametrize("content", [None, "not a program\n"])
def test_a_python_that_does_not_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "python"
    if content:
        path.write_text(content)
        path.chmod(0o755)
    for target in (path, tmp_path):
        result = judge(run_probe(str(target), 5), "torch", str(target), {}, False, 5)
        assert [problem["code"] for problem in result["problems"]] == ["python_missing"]
        assert result["verdict"] == "failed" and str(target) in result["problems"][0]["found"]


# The judge


def recorded(name: str) -> Json:
    told: Json = json.loads((FIXTURES / f"{name}.json").read_text())
    return told


GPU: Json = {
    "ended": "done",
    "output": "",
    "facts": {
        "done": True,
        "stage": "launch a kernel on device 1",
        "python": "3.11.14",
        "torch": "2.10.0+cu128",
        "cuda": "12.8",
        "hip": None,
        "cuda_available": True,
        "device_count": 2,
        "arch_list": ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
        "devices": [
            {
                "index": index,
                "name": "NVIDIA H100 80GB HBM3",
                "capability": "9.0",
                "memory_bytes": 1,
                "kernel": True,
                "error": None,
            }
            for index in (0, 1)
        ],
        "cuda_visible_devices": None,
        "kernel_module": "535.261.03",
        "nodes": dict.fromkeys(("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia-uvm", "/dev/nvidiactl"), True),
        "torchvision": {"version": "0.25.0", "error": None},
        "torchaudio": {"version": None, "error": None},
        "warnings": [],
    },
}
PLAN: Json = {
    "torch": "2.10.0",
    "variant": "cu128",
    "cuda": "12.8",
    "cuda_available": True,
    "device_count": 2,
    "capabilities": ["9.0"],
}
CPU_PLAN: Json = {
    "torch": "2.13.0",
    "variant": "cpu",
    "cuda": None,
    "cuda_available": False,
    "device_count": 0,
}
NO_KERNEL = (
    "RuntimeError: CUDA error: no kernel image is available for execution on the device\n"
    "CUDA kernel errors might be asynchronously reported at some other API call."
)
LAUNCH_FAILURE = "RuntimeError: CUDA error: unspecified launch failure"
NO_NMS = "RuntimeError: operator torchvision::nms does not exist"


ONE_NODE = {name: True for name in GPU["facts"]["nodes"] if name != "/dev/nvidia1"}


def gpu(**changes: Any) -> Json:
    told = copy.deepcopy(GPU)
    told["facts"].update(changes)
    return told


def devices(*, simulated: bool = False, **changes: Any) -> list[Json]:
    error = "RuntimeError: CUDA error: not supported" if simulated else None
    base = {"kernel": not simulated, "error": error, **changes}
    return [{**device, **base} for device in GPU["facts"]["devices"]]


def blind(**changes: Any) -> Json:
    return gpu(cuda_available=False, device_count=0, devices=[], **changes)


def verdict(told: Json, plan: Json = PLAN, simulated: bool = False) -> tuple[str, list[str]]:
    result = judge(told, "torch", "/opt/env/bin/python", plan, simulated, 120)
    return result["verdict"], [problem["code"] for problem in result["problems"]]


def test_verified() -> None:
    result = judge(GPU, "torch", "/opt/env/bin/python", PLAN, False, 120)
    assert (result["verdict"], result["problems"]) == ("verified", [])
    assert (result["environment"], result["torch"], result["torchvision"]) == (
        "torch",
        "2.10.0+cu128",
        "0.25.0",
    )
    assert (result["cuda"], result["device_count"], len(result["devices"])) == ("12.8", 2, 2)


def test_a_real_cpu_build_on_a_cpu_host_passes() -> None:
    result = judge(recorded("cpu-2.13.0"), "torch", "/opt/env/bin/python", CPU_PLAN, False, 120)
    assert (result["verdict"], result["problems"]) == ("cpu", [])
    assert (result["torch"], result["cuda"], result["cuda_available"]) == ("2.13.0+cpu", None, False)
    assert any("NumPy" in warning for warning in result["warnings"])  # said, and no problem


def test_a_real_cpu_build_on_a_gpu_host_fails_once() -> None:
    plan = {**PLAN, "torch": "2.13.0", "variant": "cu130", "cuda": "13.0"}
    assert verdict(recorded("cpu-2.13.0"), plan) == ("failed", ["cpu_build_on_gpu_host"])


def test_a_cpu_build_that_was_asked_for_on_a_gpu_host_passes() -> None:
    plan = {**PLAN, "torch": "2.13.0", "variant": "cpu", "cuda": None}
    assert verdict(recorded("cpu-2.13.0"), plan) == ("cpu", [])


def test_a_real_cuda_build_without_a_driver() -> None:
    told = recorded("cuda-2.10.0-no-driver")
    assert verdict(told) == ("failed", ["no_driver"])
    assert verdict(told, {**PLAN, "cuda_available": False, "device_count": 0, "capabilities": []}) == (
        "cpu",
        [],
    )


def test_a_real_cuda_build_on_simulated_gpus() -> None:
    """Recorded with stand-ins for libcuda and the runtime's queries; the texts are torch's own."""
    assert verdict(recorded("cuda-2.10.0-simulated"), simulated=True) == ("simulated", [])
    assert verdict(recorded("cuda-2.10.0-simulated")) == ("failed", ["kernel_failed"])
    assert verdict(recorded("cuda-2.10.0-too-old"), simulated=True) == ("failed", ["driver_too_old"])
    pascal = {**PLAN, "capabilities": ["6.1"]}
    assert verdict(recorded("cuda-2.10.0-simulated-pascal"), pascal, simulated=True) == (
        "failed",
        ["no_kernels"],
    )


def test_without_a_plan_only_the_launch_counts() -> None:
    assert verdict(GPU, {}) == ("verified", [])
    assert verdict(gpu(devices=devices(kernel=False, error="RuntimeError: x")), {}) == (
        "failed",
        ["kernel_failed"],
    )
    assert verdict(blind(init_error="x"), {}) == ("cpu", [])


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"torch": "2.7.1+cu128"}, ["wrong_torch_version"]),
        ({"torch": "2.10.0+cu126", "cuda": "12.6"}, ["wrong_variant"]),
        ({"torch": "2.10.0"}, []),  # no local part: the CUDA release tells the variant
        ({"torchvision": {"version": None, "error": NO_NMS}}, ["import_failed"]),
        ({"device_count": 1}, ["device_count"]),
        ({"device_count": 3}, ["device_count"]),
        ({"device_count": 1, "cuda_visible_devices": "1"}, ["hidden_by_CUDA_VISIBLE_DEVICES"]),
        ({"device_count": 1, "cuda_visible_devices": "0,1"}, ["device_count"]),
        ({"device_count": 1, "nodes": {**GPU["facts"]["nodes"], "/dev/nvidia1": False}}, ["device_nodes"]),
        ({"device_count": 1, "nodes": ONE_NODE}, ["device_nodes"]),
        ({"devices": devices(capability="8.0")}, ["capability"]),
        ({"devices": devices(kernel=False, error=NO_KERNEL)}, ["no_kernels"]),
        ({"devices": devices(kernel=False, error=LAUNCH_FAILURE)}, ["kernel_failed"]),
        # A launch that succeeded outweighs what the list of architectures says.
        ({"arch_list": ["sm_120"]}, []),
    ],
)  # fmt: skip
def test_builds_counts_and_kernels(changes: Json, codes: list[str]) -> None:
    assert verdict(gpu(**changes)) == ("failed" if codes else "verified", codes)


def test_an_older_gpu_need_not_have_bfloat16() -> None:
    told = gpu(devices=devices(capability="7.5", checks={"bfloat16": "RuntimeError: not supported"}))
    assert verdict(told, {**PLAN, "capabilities": ["7.5"]}) == ("verified", [])


def test_what_changes_from_run_to_run_is_not_kept() -> None:
    told = gpu(devices=devices(memory_free_bytes=5))
    assert all(
        "memory_free_bytes" not in device for device in judge(told, "e", "p", PLAN, False, 9)["devices"]
    )


def test_no_kernels_names_the_gpu_and_what_there_is() -> None:
    pascal = devices(kernel=False, error=NO_KERNEL, capability="6.1", name="NVIDIA GeForce GTX 1080")
    result = judge(gpu(devices=pascal), "torch", "python", {**PLAN, "capabilities": ["6.1"]}, False, 120)
    (problem,) = result["problems"]
    assert problem["what"].count("GTX 1080, 6.1") == 2  # one problem for both
    assert "sm_70" in problem["found"] and "\n" not in problem["found"]
    assert problem["expected"] == "kernels for 6.1"


NO_DRIVER = (
    "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
    "installed a driver from http://www.nvidia.com/Download/index.aspx"
)
TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11080). Please update "
    "your GPU driver by downloading and installing a new version"
)
UNEXPECTED = (
    "CUDA initialization: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before "
    "calling NumCudaDevices() that might have already set an error? Error {}: {}"
)
MISMATCH = "system has unsupported display driver / cuda driver combination"
FORWARD = "forward compatibility was attempted on non supported HW"
BARRED = {**GPU["facts"]["nodes"], "/dev/nvidiactl": False}
ABSENT = {"error": "libcuda.so.1: cannot open shared object file", "init": None, "version": None}

NO_MODULE: Json = {"kernel_module": None, "nodes": {}, "init_error": NO_DRIVER, "libcuda": ABSENT}


def cuinit(code: int) -> Json:
    return {"error": None, "init": code, "version": 12020}


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (NO_MODULE, "no_driver", "Found no NVIDIA driver"),
        ({"kernel_module": None, "libcuda": cuinit(100)}, "no_driver", "100"),
        ({"warnings": [TOO_OLD]}, "driver_too_old", "CUDA 11.8"),
        ({"init_error": NO_DRIVER, "libcuda": ABSENT}, "library_mismatch", "libcuda.so.1"),
        ({"libcuda": cuinit(803)}, "library_mismatch", "803"),
        ({"warnings": [UNEXPECTED.format(803, MISMATCH)]}, "library_mismatch", "535.261.03"),
        ({"warnings": [UNEXPECTED.format(804, FORWARD)]}, "library_mismatch", "804"),
        ({"warnings": [UNEXPECTED.format(802, "system not yet initialized")]}, "fabric_manager", "802"),
        ({"cuda_visible_devices": ""}, "hidden_by_CUDA_VISIBLE_DEVICES", "''"),
        ({"cuda_visible_devices": "-1"}, "hidden_by_CUDA_VISIBLE_DEVICES", "'-1'"),
        ({"nodes": {}}, "device_nodes", "missing: /dev/nvidiactl"),
        ({"nodes": {}, "container": True}, "container_without_gpu", "no /dev/nvidia*"),
        (
            {"nodes": {}, "container": True, "init_error": NO_DRIVER, "libcuda": ABSENT},
            "container_without_gpu",
            "the host's kernel has the driver",
        ),
        ({"nodes": BARRED}, "device_nodes", "not permitted: /dev/nvidiactl"),
        ({"init_error": "RuntimeError: CUDA unknown error"}, "cuda_init_failed", "unknown error"),
    ],
)
def test_why_cuda_is_unavailable(changes: Json, code: str, words: str) -> None:
    result = judge(blind(**changes), "torch", "python", PLAN, False, 120)
    (problem,) = result["problems"]
    assert (result["verdict"], problem["code"]) == ("failed", code)
    assert words in problem["found"]
    assert all(problem[key] for key in ("what", "found", "expected", "fix"))


def test_a_gpu_on_a_host_that_the_plan_calls_cpu_fails() -> None:
    plan = {**CPU_PLAN, "torch": "2.10.0", "variant": "cu128"}
    assert verdict(GPU, plan) == ("failed", ["cuda_on_cpu_host"])


def test_simulated_judges_everything_but_the_launch() -> None:
    told = gpu(devices=devices(simulated=True))
    assert verdict(told, simulated=True) == ("simulated", [])
    assert verdict(told) == ("failed", ["kernel_failed"])
    assert verdict(gpu(devices=devices(simulated=True), device_count=1), simulated=True) == (
        "failed",
        ["device_count"],
    )
    pascal = gpu(devices=devices(simulated=True, capability="6.1"))
    assert verdict(pascal, {**PLAN, "capabilities": ["6.1"]}, simulated=True) == ("failed", ["no_kernels"])


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("error", [NO_KERNEL, LAUNCH_FAILURE])
def test_a_gpu_whose_properties_cannot_be_read_fails(simulated: bool, error: str) -> None:
    first, second = devices(simulated=simulated)
    told = gpu(devices=[{**first, "capability": None, "kernel": False, "error": error}, second])
    result, codes = verdict(told, simulated=simulated)
    assert (result, len(codes)) == ("failed", 1)


def test_a_kernel_that_runs_on_a_simulated_gpu_is_a_contradiction() -> None:
    assert verdict(GPU, simulated=True) == ("failed", ["simulated_contradiction"] * 2)


def test_simulated_excuses_no_host_without_cuda() -> None:
    assert verdict(blind(kernel_module=None), simulated=True) == ("failed", ["no_driver"])
    assert verdict(recorded("cpu-2.13.0"), CPU_PLAN, simulated=True) == ("cpu", [])


@pytest.mark.parametrize(
    ("capability", "arch_list", "expected"),
    [
        ("6.1", ["sm_50", "sm_60", "sm_70"], True),
        ("6.1", ["sm_70", "sm_75", "sm_80"], False),
        ("8.9", ["sm_80", "sm_86", "sm_90"], True),
        ("8.0", ["sm_86"], False),
        ("12.1", ["sm_100", "sm_120"], True),
        ("10.3", ["sm_90a", "sm_120"], False),
        ("9.0", ["sm_90a"], True),
        ("12.0", ["sm_90", "compute_90"], True),
        ("9.0", ["gfx90a", ""], False),
    ],
)
def test_which_code_runs_on_which_gpu(capability: str, arch_list: list[str], expected: bool) -> None:
    assert runs_on(capability, arch_list) is expected


def test_every_code_that_the_judge_gives_is_documented() -> None:
    root = Path(__file__).resolve().parents[2] / "plugins"
    given = set(re.findall(r'_problem\(\s*"(\w+)"', (root / "module_utils/judge.py").read_text()))
    given |= {"no_kernels", "kernel_failed"}  # chosen by a variable
    named = re.findall(r"V\((\w+)\)", (root / "modules/torch_probe.py").read_text())
    assert len(given) > 15 and given <= set(named)
