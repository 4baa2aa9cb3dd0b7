"""PyPI's own builds of torch on a host with a simulated GPU and driver 535; in the order of the functions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / ".torchfleet/pypi_wheels/inventory"
LOG = ROOT / ".torchfleet/mirror/mirror/log/access.log"
ENVS = "/opt/miniconda3/envs"
CACHE = "/opt/torchfleet/cache"
UV = "/opt/torchfleet/uv/0.13.9/bin/uv"
INDEX = "https://pypi.tuna.tsinghua.edu.cn/simple"
BUILDS = {"2.7.1": ("cu126", "12.6"), "2.10.0": ("cu128", "12.8"), "2.14.1": ("cu130", "13.0")}
# A Python for the modules that sees the host as it is without its driver.
BARE = "/srv/python-without-driver"
HIDE = """#!/bin/sh
exec unshare --mount sh -c 'mount --bind /dev/null /etc/ld.so.preload
for library in /usr/lib/x86_64-linux-gnu/libcuda.so*; do
  mount --bind /dev/null "$(readlink -f "$library")"
done
mount -t tmpfs tmpfs /sys/module
exec /usr/bin/python3 "$@"' sh "$@"
"""


def started(module: str, options: dict[str, Any], *more: str) -> subprocess.Popen[str]:
    name = ["ansible", "all", "-i", str(INVENTORY), "--become", "-m", f"torchfleet.gpu.{module}"]
    return subprocess.Popen(
        [*name, "-a", json.dumps(options), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
    )


def called(module: str, options: dict[str, Any], *more: str) -> tuple[dict[str, Any], str]:
    """What the module answers, and what stood on the screen before that."""
    text, _ = started(module, options, *more).communicate()
    said, _, answer = text.partition("=> {")
    assert answer, text
    result: dict[str, Any] = json.JSONDecoder().raw_decode("{" + answer)[0]
    return result, said


def build(name: str, torch: str) -> dict[str, Any]:
    variant, cuda = BUILDS[torch]
    source = {"name": "tuna", "kind": "pypi", "method": "pip", "index_url": INDEX, "find_links": []}
    row = {"name": name, "python": "3.11", "torch": torch, "variant": variant, "cuda": cuda}
    return {
        "environments": [{**row, "requirements": [f"torch==={torch}"], "sources": [source]}],
        **{"prefix": ENVS, "cache_dir": CACHE, "uv": UV, "progress_interval": 2},
        "ratio": {"torch": 2.2, "triton": 3.7, "other": 1.7},
    }


def probed(name: str, torch: str, python: str = "") -> dict[str, Any]:
    variant, cuda = BUILDS[torch]
    options = {
        **{"python": f"{ENVS}/{name}/bin/python", "environment": name, "simulated": True, "timeout": 300},
        "expect": {
            "torch": torch,
            "variant": variant,
            "cuda": cuda,
            "cuda_available": True,
            "device_count": 1,
        },
    }
    more = ["-e", f"ansible_python_interpreter={python}"] if python else []
    answer, _ = called("torch_probe", options, *more)
    result: dict[str, Any] = answer["result"]
    return result


def served(since: int = 0) -> dict[str, list[int]]:
    """For each wheel the bytes of each answer: the log has a line a slice, with the bytes sent so far."""
    found: dict[str, list[int]] = {}
    made = ["docker", "inspect", "--format", "{{.Created}}", "pypi_wheels-wheels01"]
    born = subprocess.run(made, capture_output=True, text=True, check=True).stdout[:19]
    with LOG.open() as log:
        log.seek(since)
        for text in log:
            line = json.loads(text)
            ours = line["agent"] == "torchfleet" and line["host"] == "pypi.tuna.tsinghua.edu.cn"
            if not ours or line["method"] != "GET" or line["time"] < born or not line["uri"].endswith(".whl"):
                continue
            answers = found.setdefault(line["uri"].rpartition("/")[2], [0])
            # The last two lines of an answer may differ by what was still on its way.
            if line["bytes"] == answers[-1] or line["bytes"] < answers[-1] - 1000:
                answers.append(0)
            answers[-1] = line["bytes"]
    return found


def of_nvidia(host: Any, name: str) -> dict[str, str]:
    listed = json.loads(
        host.check_output("%s pip list --python %s/%s/bin/python --format json", UV, ENVS, name)
    )
    return {one["name"]: one["version"] for one in listed if one["name"].startswith("nvidia")}


def test_a_real_build_works_as_far_as_a_simulated_gpu_lets_it(host: Any) -> None:
    result = probed("first", "2.7.1")
    assert (result["verdict"], result["problems"]) == ("simulated", []), result
    assert result["torch"] == "2.7.1+cu126" and "sm_90" in result["arch_list"]


def test_each_wheel_was_served_once(host: Any) -> None:
    wheels = served()
    assert len([name for name in wheels if name.startswith(("nvidia_", "torch-2.7.1", "triton"))]) > 14
    assert sum(map(sum, wheels.values())) > 2_500_000_000
    assert {name: sizes for name, sizes in wheels.items() if len(sizes) > 1} == {}


def test_a_second_environment_is_links(host: Any) -> None:
    made, _ = called("conda_env", {"prefix": f"{ENVS}/second", "python": "3.11"})
    assert "msg" not in made, made
    used = f"du -sxB1 --total {CACHE} {ENVS} | tail -1 | cut -f1"
    before, since, started = int(host.check_output(used)), LOG.stat().st_size, time.monotonic()
    done, _ = called("torch_env", build("second", "2.7.1"))
    seconds, more = time.monotonic() - started, int(host.check_output(used)) - before
    first = int(host.check_output("du -sxB1 %s/first | cut -f1", ENVS))
    print(
        f"\nsecond environment: {seconds:.0f} s, {more / 1e6:.0f} MB of disk; the first: {first / 1e6:.0f} MB"
    )
    assert done["changed"] and done["environments"][0]["need"] == {"fetch": 0, "cache": 0, "environment": 0}
    assert served(since) == {}
    assert more < 0.03 * first


def test_a_download_that_was_cut_goes_on_and_shows_how_far_it_is(host: Any) -> None:
    since = LOG.stat().st_size
    first = started("torch_env", build("first", "2.10.0"))
    part = "find %s/wheels -name 'torch-2.10.0*.part' -size +200M"
    for _ in range(600):
        if host.check_output(part, CACHE) or first.poll() is not None:
            break
        time.sleep(0.5)
    host.check_output("pkill -9 -f '^/usr/bin/python3[^ ]* [^ ]*AnsiballZ_torch_env'")
    first.communicate(timeout=600)
    assert first.returncode != 0
    left = int(host.check_output("find %s/wheels -name 'torch-2.10.0*.part' -printf %%s", CACHE))
    assert probed("first", "2.7.1")["verdict"] == "simulated"
    done, said = called("torch_env", build("first", "2.10.0"))
    assert done["changed"], done
    lines = re.findall(r"first: fetching \d+ wheels from tuna: .*", said)
    print("\n" + "\n".join(lines))
    assert re.search(
        r": [\d.]+ [GM]B of [\d.]+ [GM]B \(\d+ %\), [\d.]+ [GM]B/s, .*\d+ s left", "\n".join(lines)
    )
    (wheel,) = (sizes for name, sizes in served(since).items() if name.startswith("torch-2.10.0"))
    size = int(host.check_output("find %s/wheels -name 'torch-2.10.0*.whl' -printf %%s", CACHE))
    print(f"torch's wheel has {size} bytes, {left} of them before the kill; served: {wheel}")
    # What the server had sent and the killed one not written yet may be sent again.
    assert sum(wheel) < size + 50_000_000 and wheel[-1] <= size - left


def test_no_second_set_of_libraries(host: Any) -> None:
    names = of_nvidia(host, "first")
    assert names["nvidia-cuda-runtime-cu12"].startswith("12.8")
    assert all(name.endswith("-cu12") for name in names), names
    assert probed("first", "2.10.0")["verdict"] == "simulated"


def test_the_other_environment_is_as_it_was(host: Any) -> None:
    assert of_nvidia(host, "second")["nvidia-cuda-runtime-cu12"].startswith("12.6")
    assert probed("second", "2.7.1")["verdict"] == "simulated"
    # The room for the next build.
    gone, _ = called("conda_env", {"prefix": f"{ENVS}/second", "state": "absent"})
    assert gone["changed"], gone
    host.check_output("rm -rf %s", CACHE)


def test_from_cuda_12_to_13_torch_still_imports(host: Any) -> None:
    done, _ = called("torch_env", build("first", "2.14.1"))
    assert done["changed"], done
    names = of_nvidia(host, "first")
    assert names["nvidia-cuda-runtime"].startswith("13.0")
    assert not [name for name in names if name.endswith("-cu12")]
    code = "import torch; print(torch.backends.cudnn.version(), torch.cuda.nccl.version())"
    assert host.run("%s -c %s", f"{ENVS}/first/bin/python", code).rc == 0
    again, _ = called("torch_env", build("first", "2.14.1"))
    assert not again["changed"], again


def test_a_driver_that_is_too_old_has_its_name(host: Any) -> None:
    result = probed("first", "2.14.1")
    (problem,) = result["problems"]
    assert problem["code"] == "driver_too_old" and "driver 535.261.03 for CUDA 12.2" in problem["found"], (
        result
    )
    assert any(
        "driver on your system is too old (found version 12020)" in text for text in result["warnings"]
    )


def test_a_host_without_a_driver_has_its_name(host: Any) -> None:
    host.check_output("printf %s > %s && chmod 755 %s", HIDE, BARE, BARE)
    result = probed("first", "2.14.1", BARE)
    (problem,) = result["problems"]
    assert problem["code"] == "no_driver" and "Found no NVIDIA driver on your system" in problem["found"], (
        result
    )
