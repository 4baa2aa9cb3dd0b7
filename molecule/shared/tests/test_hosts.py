"""What every host of the demo fleet must have after site.yml, by what it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from .conftest import ENVIRONMENT, PREFIX

VERDICT = "/var/lib/torchfleet/verdict.json"


@dataclass(frozen=True)
class Expected:
    """The build that a host must get, and what torch must then say there."""

    torch: str
    cuda: str | None
    verdict: str
    device: str | None = None
    count: int = 0
    capability: str | None = None
    driver: str | None = None


HOSTS = {
    # No GPU: a CPU build, and no driver.
    "cpu01": Expected("2.13.0+cpu", None, "cpu"),
    # Debian 12's driver 535 is too old for CUDA 13: the last release whose PyPI build is CUDA 12.8.
    "hopper01": Expected(
        "2.10.0+cu128", "12.8", "simulated", "NVIDIA H100 80GB HBM3", 2, "9.0", "535.261.03"
    ),
    # Pascal: the last release whose PyPI build has kernels for 6.1.
    "pascal01": Expected(
        "2.7.1+cu126", "12.6", "simulated", "NVIDIA GeForce GTX 1080", 1, "6.1", "580.178.04"
    ),
}


@pytest.fixture(scope="module")
def expected(name: str) -> Expected:
    """Return what this host must be; a host that nobody described fails its tests."""
    return HOSTS[name]


@pytest.fixture(scope="module")
def build(host: Any, expected: Expected) -> str:
    """Return a pattern of the build that this host must have; skip where the fleet could offer it none."""
    variables = host.ansible.get_variables()
    if variables.get("pytorch_environments") == []:
        pytest.skip("no CPU build of torch can be had here: create.yml said so")
    carried = [row for source in variables.get("pytorch_sources", []) for row in source.get("carries", [])]
    if expected.count == 0 and not carried:
        # The newest of the index, whatever that is today.
        return r"2\.\d+\.\d+\+cpu"
    return re.escape(expected.torch)


def test_conda_in_a_login_shell(host: Any) -> None:
    for user in ("root", "admin"):
        done = host.run("su - %s -c 'conda -V'", user)
        assert done.rc == 0, done.stderr
        assert done.stdout.startswith("conda "), done.stdout


def test_nothing_under_conda_is_world_writable(host: Any) -> None:
    found = host.check_output("find %s -perm -o+w ! -type l", PREFIX)
    assert found == ""


def test_conda_uses_the_mirror(host: Any) -> None:
    shown = host.check_output(f"{PREFIX}/bin/conda config --show default_channels").splitlines()
    assert [line.split("anaconda/")[-1] for line in shown[1:]] == ["pkgs/main", "pkgs/r"]
    assert all(line.startswith("  - https://mirrors.tuna.tsinghua.edu.cn/anaconda/") for line in shown[1:])


def test_pip_uses_the_mirror(host: Any, build: str) -> None:
    pip = host.check_output(f"{ENVIRONMENT}/bin/python -m pip config list").splitlines()
    assert "global.index-url='https://pypi.tuna.tsinghua.edu.cn/simple'" in pip


def test_a_private_ca_is_in_the_store_under_a_name_of_its_content(host: Any) -> None:
    files = host.check_output("ls /usr/local/share/ca-certificates").split()
    assert [re.fullmatch(r"torchfleet-[0-9a-f]{16}\.crt", file) is not None for file in files] == [True]


def test_environment_has_the_declared_python(host: Any, build: str) -> None:
    version = host.check_output(f"{ENVIRONMENT}/bin/python -V")
    assert version.startswith("Python 3.11."), version


def test_torch_is_the_build_for_this_host(build: str, torch: dict[str, Any], expected: Expected) -> None:
    assert re.fullmatch(build, torch["torch"])
    assert torch["cuda"] == expected.cuda


def test_torch_sees_the_gpus(build: str, torch: dict[str, Any], expected: Expected) -> None:
    assert torch["available"] is (expected.count > 0)
    assert torch["devices"] == [expected.device] * expected.count
    seen = [".".join(str(part) for part in capability) for capability in torch["capabilities"]]
    assert seen == [expected.capability] * expected.count


def test_no_kernel_was_claimed_to_run(host: Any, build: str) -> None:
    """A kernel launch cannot be simulated: one that succeeds on such a host would be a lie."""
    done = host.run(f"{ENVIRONMENT}/bin/python -c 'import torch; torch.ones(1, device=\"cuda\")'")
    assert done.rc != 0, "a CUDA tensor was made on a host without a real GPU"
    assert "CUDA" in done.stderr or "NVIDIA" in done.stderr, done.stderr


def test_verdict_is_recorded(host: Any, expected: Expected, build: str) -> None:
    file = host.file(VERDICT)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)
    (result,) = json.loads(file.content_string)["results"]
    assert result["verdict"] == expected.verdict
    assert re.fullmatch(build, result["torch"])
    assert result["device_count"] == expected.count


def test_driver(host: Any, expected: Expected) -> None:
    if expected.driver is None:
        assert not host.package("nvidia-kernel-dkms").is_installed
        return
    loaded = host.file("/proc/driver/nvidia/version").content_string
    assert f"  {expected.driver}  " in loaded
    assert not host.file("/sys/module/nouveau").exists
    assert host.package("libcuda1").version.startswith(expected.driver)
    assert host.service("nvidia-persistenced").is_running
    listed = host.check_output("nvidia-smi -L").splitlines()
    assert len(listed) == expected.count
