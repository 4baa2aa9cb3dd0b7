"""docs/extending.md by doing what it says: another team's repository, with the collection installed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra

from .conftest import FLEET, ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]
# The checkout is installed in the environment of the tests; only the artifact shall count.
ALONE = {"ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false"}
FILE = re.compile(r"```(?:yaml|ini|jinja)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The repository of the document, with the collection from a build of this checkout."""
    team = tmp_path_factory.mktemp("team")
    for name, content in FILE.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        path = team / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    built = run("ansible-galaxy", "collection", "build", "--output-path", str(team / "dist"))
    assert built.returncode == 0, built.stderr
    (artifact,) = (team / "dist").glob("*.tar.gz")
    # The document takes it from Galaxy, which is not published to yet.
    requirements = team / "requirements.yml"
    text = requirements.read_text().replace("name: torchfleet.gpu", f"name: {artifact}\n    type: file")
    requirements.write_text(text)
    install = ["collection", "install", "--offline", "-r", str(requirements), "-p", str(team / "collections")]
    done = run("ansible-galaxy", *install, cwd=team, **ALONE)
    assert done.returncode == 0, done.stderr
    return team


@pytest.fixture(scope="module")
def play(team: Path, run: Run) -> Run:
    """Run a playbook in that repository."""

    def call(*arguments: str, data: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**ALONE, "TORCHFLEET_DATA": str(team / "torchfleet_data") if data else ""}
        inventories = ["-i", str(FLEET / "inventory" / "hosts.yml"), "-i", "inventory"]
        return run("ansible-playbook", *inventories, *arguments, cwd=team, **environment)

    return call


def test_without_the_data_neither_the_gpu_nor_the_system_is_known(team: Path, play: Run) -> None:
    output = team / "before.json"
    done = play("torchfleet.gpu.plan", "-e", f"plan_output={output}", data=False)
    assert done.returncode == 2, done.stdout + done.stderr
    hosts = json.loads(output.read_text())["hosts"]
    codes = {name: [item["code"] for item in plan["problems"]] for name, plan in hosts.items()}
    assert codes == {"future01": ["unknown_gpu"], "login01": [], "strange01": ["unknown_os"]}


def test_with_the_data_both_are_planned_for(team: Path, play: Run) -> None:
    output = team / "after.json"
    done = play("torchfleet.gpu.plan", "-e", f"plan_output={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    hosts = json.loads(output.read_text())["hosts"]
    assert [(gpu["name"], gpu["architecture"]) for gpu in hosts["future01"]["gpus"]] == [
        ("F100 SXM8", "Feynman")
    ] * 2
    assert hosts["strange01"]["problems"] == []
    # The wish of the team's own group_vars, not of the collection's repository.
    assert hosts["login01"]["environments"][0]["name"] == "torch"


def test_the_role_of_the_team_comes_after_the_verification(play: Run) -> None:
    done = play("site.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("torchfleet.gpu.gpu_verify") < done.stdout.index("slurm_node : Gres")
    future = testinfra.get_host(f"ansible://future01?ansible_inventory={FLEET}/inventory/hosts.yml")
    assert future.file("/etc/slurm/gres.conf").content_string.splitlines() == [
        f"NodeName=future01 Name=gpu Type=f100_sxm8 File=/dev/nvidia{number}" for number in (0, 1)
    ]


def test_it_is_as_idempotent_as_the_collection(play: Run) -> None:
    done = play("site.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    recap = done.stdout[done.stdout.index("PLAY RECAP") :]
    assert re.findall(r"(\w+) +: ok=\d+ +changed=(\d+)", recap) == [
        (name, "0") for name in ("future01", "login01", "strange01")
    ], recap
