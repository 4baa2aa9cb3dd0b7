"""ansible-runner, which AWX runs its jobs with: the project is a clone, the inventory is elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import ansible_runner
import pytest
from checkout import ROOT, clone, inventory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a runner: project/ and inventory/."""
    path = tmp_path_factory.mktemp("runner")
    clone(path / "project")
    inventory(path / "inventory", "gpu01", "gpu02")
    return path


def run(data: Path, playbook: str, **more: Any) -> Any:
    shutil.rmtree(data / "env", ignore_errors=True)  # where a runner keeps the arguments of the run before
    return ansible_runner.run(private_data_dir=str(data), playbook=playbook, quiet=True, timeout=300, **more)


def message(done: Any, task: str) -> str:
    events = (event["event_data"] for event in done.events if event["event"] == "runner_on_ok")
    return next(str(event["res"]["msg"]) for event in events if event["task"] == task)


def test_the_plan_of_an_inventory_that_is_elsewhere(data: Path) -> None:
    done = run(data, "playbooks/plan.yml", extravars={"plan_output": str(data / "plans.json")})
    assert done.status == "successful", done.stdout.read()
    assert done.stats["failures"] == {} and done.stats["changed"] == {
        "gpu01": 1
    }  # the file on the controller
    # The wish is the one beside that inventory, not the one in the project.
    plans = json.loads((data / "plans.json").read_text())["hosts"]
    assert [plan["environments"][0]["name"] for plan in plans.values()] == ["of-the-site"] * 2
    assert "gpu01" in message(done, "Show the plans")


def test_a_host_with_problems_is_a_failure_with_its_reason(data: Path) -> None:
    done = run(data, "playbooks/plan.yml", extravars={"pytorch_versoin": "2.0"})
    assert (done.status, done.rc) == ("failed", 2)
    assert sorted(done.stats["failures"]) == ["gpu01", "gpu02"]
    assert "pytorch_versoin" in message(done, "Show the plans")


def test_site_yml_finds_its_collection_where_the_path_is_set_by_others(data: Path) -> None:
    # AWX sets the path to what it installed from requirements.yml.
    done = run(
        data, "site.yml", cmdline="--list-tasks", envvars={"ANSIBLE_COLLECTIONS_PATH": str(data / "none")}
    )
    assert done.status == "successful", done.stdout.read()
    assert "torchfleet.gpu.preflight" in done.stdout.read()


def test_the_installed_collection_runs_by_its_full_name(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The checkout is installed in the environment of the tests; only the artifact shall count.
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_SCAN_SYS_PATH", "false")
    galaxy, target = ["ansible-galaxy", "collection"], data / "requirements_collections"
    subprocess.run([*galaxy, "build", "--output-path", str(data)], cwd=ROOT, check=True)
    (artifact,) = data.glob("torchfleet-gpu-*.tar.gz")
    subprocess.run([*galaxy, "install", "--offline", str(artifact), "-p", str(target)], cwd=data, check=True)
    other = data / "other"
    inventory(other / "inventory", "gpu07")
    (other / "project").mkdir()
    (other / "project" / "ansible.cfg").write_text("[defaults]\ncallback_result_format = yaml\n")
    done = run(other, "torchfleet.gpu.plan", envvars={"ANSIBLE_COLLECTIONS_PATH": str(target)})
    assert done.status == "successful", done.stdout.read()
    assert "gpu07" in message(done, "Show the plans")


def test_onboarding_asks_nobody_where_a_program_runs_it(data: Path) -> None:
    # A runner gives its jobs a terminal that nobody answers.
    arguments = {"onboard_addresses": "127.0.0.1:9", "onboard_add": False}
    arguments["onboard_known_hosts"] = str(data / "known_hosts")
    done = run(data, "playbooks/onboard.yml", extravars=arguments)
    assert (done.status, done.rc) == ("failed", 2)
    assert "port 9: Connection refused" in message(done, "Add | Show what was found, and what is proposed")
