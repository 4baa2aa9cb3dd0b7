"""Outages while a fleet is changed. Each test has one, sees the rest done, and runs again.

The tests go in their order: each begins where the one before it ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".torchfleet/outages"
ACCESS_LOG = ROOT / ".torchfleet/mirror/mirror/log/access.log"
MIRROR = "torchfleet-mirror"
HOSTS = [f"node0{number}" for number in range(1, 6)]
CONDA = "/opt/miniconda3"
CHANGE = "TASK [torchfleet.gpu.conda_envs : Converge"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def container(host: str) -> str:
    return f"outages-{host}"


class Run:
    """site.yml with the torch of all hosts, and further environments, as told."""

    def __init__(self, torch: str, *more: str) -> None:
        wish = {
            "pytorch_environments": [{"name": "torch", "python": "3.11", "variant": "cpu", "torch": torch}],
            "conda_envs_environments": [{"name": name, "packages": ["python=3.11"]} for name in more],
        }
        self.output = ""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ansible", "playbook", "-i", str(STATE / "inventory"), "site.yml"),
                *("-e", json.dumps(wish)),
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "250"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, text: str) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return
        raise AssertionError(f"the run ended before: {text}\n{self.output}")

    def end(self) -> int:
        assert self.process.stdout
        self.output += self.process.stdout.read()
        print(self.output)
        return self.process.wait()

    def row(self, host: str) -> str:
        """What the table says of the host."""
        table = self.output[self.output.rindex("Report | Show the fleet") :].splitlines()
        return next(line.strip() for line in table if line.split()[:1] == [host])

    def changed(self) -> dict[str, int]:
        """Of each host, how many tasks changed it."""
        found = re.findall(r"(?m)^(\S+)\s+: ok=\d+\s+changed=(\d+)", self.output)
        return {host: int(changed) for host, changed in found}


def wait(seen: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def answers(host: str) -> bool:
    """Whether its sshd runs again."""
    command = ["docker", "exec", container(host), "systemctl", "is-active", "-q", "ssh"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def away(*hosts: str) -> Iterator[None]:
    """They lose their power, and have it again at the end."""
    for host in hosts:
        docker("kill", container(host))
    try:
        yield
    finally:
        for host in hosts:
            docker("start", container(host))
        wait(lambda: all(answers(host) for host in hosts))


@pytest.fixture
def mirror() -> Iterator[Callable[[], None]]:
    """Kills the stand-in mirror when called."""

    def die() -> None:
        docker("kill", MIRROR)

    yield die
    docker("start", MIRROR)


def torch(host: str) -> str:
    command = [f"{CONDA}/envs/torch/bin/python", "-c", "import torch; print(torch.__version__)"]
    return docker("exec", container(host), *command).strip()


def assert_nothing_is_lost(*environments: str) -> None:
    """On any host; nor is anything half made beside the environments."""
    program = (Path(__file__).parent / "lost.py").read_text()
    prefixes = [CONDA, *(f"{CONDA}/envs/{name}" for name in environments)]
    for host in HOSTS:
        found: dict[str, Any] = json.loads(
            docker("exec", container(host), f"{CONDA}/bin/python", "-c", program, *prefixes)
        )
        print(f"{host}: {len(found['lost'])} of {found['files']} files lost")
        assert found["files"] > 1000 and not found["lost"], f"{host}: {found}"
        there = docker("exec", container(host), "ls", "-A", f"{CONDA}/envs").split()
        assert sorted(name for name in there if not name.endswith(".lock")) == sorted(environments)


def again(version: str, *environments: str) -> Run:
    """The next run finishes, and the one after it has nothing to do."""
    run = Run(version, *environments)
    assert run.end() == 0
    assert {host: torch(host) for host in HOSTS} == dict.fromkeys(HOSTS, f"{version}+cpu")
    assert_nothing_is_lost("torch", *environments)
    return run


def test_the_mirror_dies_in_the_first_installation(mirror: Callable[[], None]) -> None:
    since = len(ACCESS_LOG.read_text())
    run = Run("2.7.1")
    wait(lambda: "Miniconda3-" in ACCESS_LOG.read_text()[since:])
    mirror()
    assert run.end() == 2
    for host in HOSTS:
        assert "mirrors.tuna.tsinghua.edu.cn" in run.row(host)
    docker("start", MIRROR)
    again("2.7.1")


def test_a_fifth_of_the_hosts_does_not_answer() -> None:
    with away("node05"):
        run = Run("2.6.0")
        assert run.end() != 0
        assert "node05" in run.row("node05") and "2.7.1" not in run.row("node05")
        assert [torch(host) for host in HOSTS[:4]] == ["2.6.0+cpu"] * 4
    finished = again("2.6.0")
    changed = finished.changed()
    assert changed.pop("node05") > 0 and set(changed.values()) == {0}


def test_two_hosts_lose_their_power_midway() -> None:
    run = Run("2.7.1", "more")
    run.until(CHANGE)
    with away("node02", "node04"):
        assert run.end() != 0
        for host in ("node02", "node04"):
            assert "does not answer any more" in run.row(host)
        for host in ("node01", "node03", "node05"):
            assert torch(host) == "2.7.1+cpu"
    again("2.7.1", "more")


def test_the_mirror_dies_while_environments_are_changed(mirror: Callable[[], None]) -> None:
    run = Run("2.6.0", "more", "third")
    run.until(CHANGE)
    mirror()
    assert run.end() == 2
    # What was there works as before.
    assert {torch(host) for host in HOSTS} == {"2.7.1+cpu"}
    assert_nothing_is_lost("torch", "more")
    docker("start", MIRROR)
    again("2.6.0", "more", "third")


def test_the_controller_is_killed() -> None:
    run = Run("2.7.1", "more", "third", "fourth")
    run.until(CHANGE)
    time.sleep(1)
    # Its workers are in sessions of their own.
    run.process.send_signal(signal.SIGSTOP)
    subprocess.run(["pkill", "-9", "--parent", str(run.process.pid)], check=True)
    os.killpg(run.process.pid, signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    again("2.7.1", "more", "third", "fourth")
    assert set(again("2.7.1", "more", "third", "fourth").changed().values()) == {0}
