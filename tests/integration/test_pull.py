"""ansible-pull: a host clones the project and applies it to itself."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkout import TRUTHS, clone, inventory


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """What the hosts pull: the project with an inventory that has this machine, by its name, and another."""
    origin = clone(tmp_path / "origin")
    own = inventory(tmp_path / "inventory", "another")
    hosts = yaml.safe_load((own / "hosts.yml").read_text())
    # This one is asked itself; whether the tests run as root is not the point.
    itself = {"ansible_become": False, "ansible_python_interpreter": sys.executable}
    hosts["all"]["hosts"][socket.gethostname()] = itself
    (origin / "inventory" / "hosts.yml").write_text(yaml.safe_dump(hosts))
    user = ["-c", "user.name=Test", "-c", "user.email=test@torchfleet.test"]
    subprocess.run(["git", *user, "commit", "-qam", "Our hosts"], cwd=origin, check=True)
    return origin


def pull(origin: Path, target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["ansible-pull", "-U", f"file://{origin}", "-d", str(target), "-i", "inventory", *arguments]
    return subprocess.run(
        command, cwd=target.parent, capture_output=True, text=True, check=False, timeout=300
    )


def test_a_host_plans_for_itself_from_its_own_clone(origin: Path, tmp_path: Path) -> None:
    target = tmp_path / "host" / "torchfleet"
    target.parent.mkdir()
    output = tmp_path / "plans.json"
    done = pull(origin, target, "playbooks/plan.yml", "-e", f"plan_output={output}")
    assert done.returncode in (0, 2), done.stdout + done.stderr  # this machine may be none that is supported
    document = json.loads(output.read_text())
    assert list(document["hosts"]) == [socket.gethostname()]  # it, and no other host of the inventory
    # The wish is the one in the project's group_vars.
    assert document["hosts"][socket.gethostname()]["environments"][0]["name"] == "torch"


def test_a_pull_that_brings_nothing_new_ends_at_once(origin: Path, tmp_path: Path) -> None:
    target = tmp_path / "host" / "torchfleet"
    target.parent.mkdir()
    assert "PLAY [Outcome]" in pull(origin, target, "playbooks/plan.yml").stdout
    again = pull(origin, target, "--only-if-changed", "playbooks/plan.yml")
    assert again.returncode == 0
    assert "Repository has not changed, quitting" in again.stdout


def test_a_host_applies_the_project_to_itself(origin: Path, tmp_path: Path, mirror: str) -> None:
    """In check mode, as what a record says that it is: this machine stays as it is, and may be any."""
    target = tmp_path / "host" / "torchfleet"
    target.parent.mkdir()
    wheels = {
        "name": "site",
        "kind": "find_links",
        "urls": [f"{mirror}/wheels/"],
        "carries": ["torch==2.13.0+cpu"],
    }
    given = {
        "preflight_truth": {**yaml.safe_load((TRUTHS / "hopper.yml").read_text()), "gpus": []},
        "mirrors_pypi_urls": [f"{mirror}/simple"],
        "mirrors_anaconda_urls": [f"{mirror}/anaconda"],
        "pytorch_sources": [wheels],
        "miniconda_prefix": str(tmp_path / "conda"),
        "pytorch_uv_prefix": str(tmp_path / "uv"),
        "pytorch_cache_dir": str(tmp_path / "cache"),
        "gpu_verify_verdict_path": str(tmp_path / "verdict.json"),
    }
    done = pull(origin, target, "site.yml", "--check", "-e", json.dumps(given))
    assert done.returncode == 0, done.stdout + done.stderr
    row = rf"^\s+{re.escape(socket.gethostname())} .*not verified; planned: torch 2\.13\.0 cpu"
    assert re.search(row, done.stdout, re.MULTILINE), done.stdout
    # ansible-pull limits the run to localhost too, which is no host of the inventory.
    assert not re.search(r"^\s+localhost ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^TASK \[torchfleet\.gpu\.pytorch : ", done.stdout, re.MULTILINE), (
        "it did not come so far"
    )
    assert not (tmp_path / "conda").exists()
