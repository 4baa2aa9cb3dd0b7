"""The fleet, its addresses, and ways to run playbooks against it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
FLEET = ROOT / ".torchfleet" / "extended"
BIN = Path(sys.executable).parent
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# No setting of the scenario's own, but its mirror's CA and the like come with the inventory of the fleet.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}


@pytest.fixture(scope="session")
def hosts() -> dict[str, Any]:
    """The hosts of the fleet as its inventory has them."""
    text = (FLEET / "inventory" / "hosts.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["all"]["hosts"]
    return found


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of the virtual environment without a terminal."""

    def call(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=cwd,
            env={**ENVIRONMENT, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "300", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    return call


@pytest.fixture(scope="session")
def talk() -> Callable[..., tuple[int, str]]:
    """Run a program at a terminal, and type an answer to each question."""

    def call(*command: str, answers: list[tuple[str, str]]) -> tuple[int, str]:
        child = pexpect.spawn(
            str(BIN / command[0]),
            list(command[1:]),
            cwd=str(ROOT),
            env={**ENVIRONMENT, "ANSIBLE_NOCOLOR": "1"},
            dimensions=(50, 300),
            encoding="utf-8",
            timeout=900,
        )
        said = ""
        for question, answer in answers:
            child.expect(question)
            said += str(child.before) + str(child.after)
            child.sendline(answer)
        child.expect(pexpect.EOF)
        said += str(child.before)
        child.close()
        return int(child.exitstatus if child.exitstatus is not None else -1), COLOURS.sub("", said)

    return call
