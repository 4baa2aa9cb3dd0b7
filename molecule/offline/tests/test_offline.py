"""Hosts that have no way out, installed whole from a bundle, and what befell the bundle before."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".torchfleet/offline"
PREFIX = "/opt/miniconda3"
PLACE = "/var/lib/torchfleet/bundle"


@pytest.fixture(scope="module")
def gathered() -> dict[str, Any]:
    """What gather.py saw before the network went."""
    return dict(json.loads((STATE / "gather.json").read_text()))


@pytest.fixture(scope="module")
def name(host: Any) -> str:
    return str(host.backend.get_pytest_id().removeprefix("ansible://"))


def site(host: str, bundle: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(STATE / "inventory")]
    command += [str(ROOT / "site.yml"), "--limit", host, "-e", f"mirrors_bundle={bundle}", *extra]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_host_has_no_way_out(host: Any) -> None:
    routes = [line.split() for line in host.file("/proc/net/route").content_string.splitlines()[1:]]
    assert routes and "00000000" not in [row[1] for row in routes]
    assert host.run("getent hosts mirrors.tuna.tsinghua.edu.cn").rc != 0
    where = ["--format", "{{.NetworkSettings.Networks.torchfleet.IPAddress}}", "torchfleet-mirror"]
    mirror = subprocess.check_output(["docker", "inspect", *where], text=True).strip()
    reach = f"import socket; socket.create_connection(({mirror!r}, 443), 3)"
    assert subprocess.run([sys.executable, "-c", reach], check=False).returncode == 0, "the mirror is down"
    said = host.run("/usr/bin/python3 -c %s", reach)
    assert said.rc != 0 and "Network is unreachable" in said.stderr, said.stderr


def test_pytorch_is_proven(host: Any) -> None:
    rows = json.loads(host.file("/var/lib/torchfleet/verdict.json").content_string)["results"]
    assert [(row["environment"], row["verdict"], row["problems"]) for row in rows] == [
        ("torch", "cpu", []),
        ("course", "cpu", []),
    ]
    said = host.check_output(
        f"{PREFIX}/envs/torch/bin/python -c 'import torch; print(torch.__version__, torch.ones(2).sum())'"
    )
    assert re.match(r"2\.\d+\.\d+\+cpu tensor\(2", said)


def test_the_build_of_the_course_came_from_the_channels_of_the_bundle(host: Any) -> None:
    listed = host.check_output(f"{PREFIX}/bin/conda list -p {PREFIX}/envs/course --explicit")
    for name in ("pytorch-2.0.0-py3.11_cpu_0", "torchvision-0.15.0-py311_cpu", "torchaudio-2.0.0-py311_cpu"):
        assert f"file://{PLACE}/anaconda/cloud/pytorch/linux-64/{name}" in listed
    assert "https://" not in listed


def test_a_declared_environment_has_its_packages_of_conda_and_pip(host: Any) -> None:
    said = host.check_output(
        f"{PREFIX}/envs/tools/bin/python -c "
        "'import six, click, einops; print(six.__version__, einops.__version__)'"
    )
    assert said == "1.16.0 0.8.1"


def test_the_driver_came_from_the_bundle_alone(host: Any, name: str) -> None:
    if name != "hopper01":
        assert not host.file(f"{PLACE}/apt").exists, "a host gets what it needs, and no driver's packages"
        return
    source = host.file("/etc/apt/sources.list.d/torchfleet-nvidia.sources").content_string
    assert f"URIs: file://{PLACE}/apt/debian-12-amd64" in source and "Trusted: yes" in source
    assert host.package("nvidia-driver-libs").is_installed or host.package("nvidia-kernel-dkms").is_installed
    assert host.file("/proc/driver/nvidia/version").exists


def test_users_are_pointed_at_the_bundle(host: Any) -> None:
    done = host.run(f"{PREFIX}/envs/tools/bin/python -m pip download --no-deps -d /tmp/of-a-user jinja2")
    assert done.rc == 0, done.stderr
    assert host.run("rm -r /tmp/of-a-user").rc == 0


def test_the_commands_of_the_course_work_on_the_files(host: Any) -> None:
    six = host.check_output(f"ls {PLACE}/anaconda/pkgs/main/noarch/six-1.16*")
    python = host.check_output(f"ls {PLACE}/anaconda/pkgs/main/linux-64/python-3.11*")
    einops = host.check_output(f"ls {PLACE}/wheels/einops-*.whl")
    done = host.run(f"{PREFIX}/bin/conda create -y -q -p /tmp/course --offline {python} {six}")
    assert done.rc == 0, done.stderr
    done = host.run(f"{PREFIX}/envs/tools/bin/python -m pip install --target /tmp/course/einops {einops}")
    assert done.rc == 0, done.stderr
    assert (
        host.check_output(
            "PYTHONPATH=/tmp/course/einops /tmp/course/bin/python -c 'import six, einops; print(1)'"
        )
        == "1"
    )
    assert host.run("rm -r /tmp/course").rc == 0


@pytest.fixture
def lacking(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The bundle without one wheel."""
    place = tmp_path / "bundle"
    subprocess.run(["cp", "-al", str(STATE / "bundle"), str(place)], check=True)
    (wheel,) = (place / "wheels").glob("sympy-*.whl")
    wheel.unlink()
    yield place, wheel.name


def test_what_the_bundle_lacks_is_named_before_the_first_change(lacking: tuple[Path, str], name: str) -> None:
    place, wheel = lacking
    done = site(name, place)
    assert done.returncode != 0
    assert wheel in done.stdout and "missing or cut" in " ".join(done.stdout.split())
    (changed,) = re.findall(rf"^{name}\s.*changed=(\d+)", done.stdout, re.M)
    assert changed == "0"


def test_a_wish_that_the_bundle_was_not_made_for_is_refused(name: str) -> None:
    done = site(
        name, STATE / "bundle", "-e", '{"conda_envs_environments": [{"name": "new", "packages": ["flask"]}]}'
    )
    assert done.returncode != 0
    assert "does not carry the conda packages of new" in " ".join(done.stdout.split())


def test_the_run_that_was_killed_had_whole_files_and_none_came_twice(gathered: dict[str, Any]) -> None:
    assert gathered["before_kill"], "killed too early to prove anything"
    assert not set(gathered["before_kill"]) & set(gathered["after_kill"])
    assert any(one.startswith("torch-") for one in gathered["after_kill"])


def test_the_damaged_file_alone_was_fetched_to_mend_it(gathered: dict[str, Any]) -> None:
    assert [one.partition("-")[0] for one in gathered["mended"]] == ["einops"]
