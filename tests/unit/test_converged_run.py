"""site.yml on hosts that are untouched, over a local connection: how few tasks that takes, and what ends it.

The record that a whole run would leave is made by the role itself, from a plan and a verdict written here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("gpu01", "gpu02", "gpu03")
# Each task is a fork of the controller for each host: what a converged fleet costs grows with this number.
TASKS_PER_HOST = 2
TASKS_PER_RUN = 3  # the report, once
RESULT = {
    "environment": "torch",
    "verdict": "verified",
    "torch": "2.10.0+cu128",
    "cuda": "12.8",
    "cuda_available": True,
    "device_count": 1,
    "devices": [],
    "arch_list": [],
    "problems": [],
}
# Hosts that are gpu01 by another name and with another wish, and why they are looked at.
WISHES: dict[str, tuple[dict[str, Any], str]] = {
    "environment": ({"conda_envs_environments": [{"name": "new"}]}, "the variables"),
    "misspelt": ({"pytorch_enviroments": []}, "the variables"),
    "age": ({"converged_max_age": 0}, "converged_max_age is 0"),
    "certificate": ({"mirrors_ca_certificates": ["/nowhere/ca.pem"]}, "/nowhere/ca.pem"),
    "latest": ({"miniconda_release": "latest"}, "only the mirrors can answer"),
    "bundle": ({"mirrors_bundle": "{{ inventory_dir }}/../bundle"}, "the variables"),
    "truth": ({"preflight_truth": {"schema": 1}}, "preflight_truth"),
}
RECORD = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.import_role": {"name": "torchfleet.gpu.converged", "tasks_from": "compare"}},
            {"torchfleet.gpu.gpu_facts": {}, "register": "asked"},
            {
                "ansible.builtin.set_fact": {
                    "torchfleet_truth": "{{ asked.ansible_facts.torchfleet_truth }}",
                    "torchfleet_plan": {"gpus": [], "environments": [], "reasons": [], "warnings": []},
                    "torchfleet_results": [RESULT],
                }
            },
            {"ansible.builtin.import_role": {"name": "torchfleet.gpu.converged"}},
        ],
    }
]


class Site:
    """A checkout's playbooks with hosts that are directories of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "inventory").mkdir()
        (path / "bundle").mkdir()
        (path / "bundle/manifest.json").write_text("{}")
        (path / "inventory" / "group_vars").symlink_to(ROOT / "group_vars")
        hosts = {}
        for name in HOSTS:
            top = path / name
            (top / "opt/envs/torch").mkdir(parents=True)
            (top / "opt/envs/torch/torch.py").write_text("")
            (top / "verdict.json").write_text("{}")
            hosts[name] = {
                "miniconda_prefix": str(top / "opt"),
                "pytorch_uv_prefix": str(top / "uv"),
                "gpu_verify_verdict_path": str(top / "verdict.json"),
                "converged_path": str(top / "state/converged.json"),
            }
        common = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "preflight_probe_mirrors": False,
            "converged_max_age": 3600,
        }
        others = {name: {**hosts["gpu01"], **variables} for name, (variables, _reason) in WISHES.items()}
        groups = {
            "fleet": {"hosts": hosts},
            "same": {"hosts": {"again": hosts["gpu01"]}},
            "wishes": {"hosts": others},
        }
        inventory = {"all": {"children": groups, "vars": common}}
        (path / "inventory" / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (path / "record.yml").write_text(yaml.safe_dump(RECORD))

    def play(self, playbook: str, limit: str = "fleet") -> dict[str, Any]:
        """What the callback json tells: the plays, and the statistics by host."""
        inventory = str(self.path / "inventory")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ansible",
                "playbook",
                "-i",
                inventory,
                playbook,
                "--limit",
                limit,
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        return dict(json.loads(done.stdout[done.stdout.index("{") :]))


def roles(played: dict[str, Any], host: str) -> set[str]:
    tasks = [task for play in played["plays"] for task in play["tasks"] if host in task["hosts"]]
    names = [task["task"]["name"] for task in tasks]
    return {name.partition(" : ")[0].rpartition(".")[2] for name in names if " : " in name}


def compared(played: dict[str, Any]) -> dict[str, Any]:
    (asked,) = (
        task["hosts"]
        for play in played["plays"]
        for task in play["tasks"]
        if task["task"]["name"].endswith("Ask whether the host was touched")
    )
    return dict(asked)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    recorded = made.play(str(made.path / "record.yml"))
    assert all(not row["failures"] for row in recorded["stats"].values()), recorded
    for name in HOSTS:
        assert (made.path / name / "state/converged.json").is_file(), recorded
    yield made


def test_a_fleet_of_untouched_hosts_costs_few_tasks_and_changes_nothing(site: Site) -> None:
    played = site.play("site.yml")
    stats = played["stats"]
    assert set(stats) == set(HOSTS)
    assert not any(row["failures"] or row["unreachable"] or row["changed"] for row in stats.values())
    tasks = sum(row["ok"] + row["skipped"] for row in stats.values())
    assert tasks <= TASKS_PER_HOST * len(HOSTS) + TASKS_PER_RUN, played
    assert roles(played, "gpu02") == {"converged"}
    shown = json.dumps(played)
    assert shown.count("untouched since") >= len(HOSTS) and "2.10.0+cu128" in shown


def test_another_wish_passes_no_host_over(site: Site) -> None:
    found = compared(site.play("playbooks/parts/untouched.yml", "same:wishes"))
    assert found["again"]["untouched"] is True, "the others may be looked at for another reason"
    for name, (_variables, reason) in WISHES.items():
        assert found[name]["untouched"] is False, name
        assert reason in found[name]["reason"], name


def test_one_host_that_was_touched_is_looked_at_alone(site: Site) -> None:
    (site.path / "gpu02/opt/envs/torch/torch.py").write_text("import os")
    found = compared(site.play("playbooks/parts/untouched.yml"))
    assert [found[name]["untouched"] for name in HOSTS] == [True, False, True]
    assert "gpu02/opt/envs/torch/torch.py at 2" in found["gpu02"]["reason"]
