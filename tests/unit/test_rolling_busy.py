"""Hosts at work in a rolling change, on a local connection: left alone, drained, waited for, given back.

The scheduler is a stand-in, and so are the change itself, what the hosts do, and the verification.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORK = [{"pid": 4242, "name": "python3", "user": "alice"}]
OURS = "torchfleet: driver or PyTorch is changed"

# In place of tasks of the roles. Once a host was waited for, this machine was asked, whose GPUs nobody uses.
REFRESH = """
- ansible.builtin.set_fact:
    torchfleet_truth: "{{ torchfleet_truth | combine({'processes': now}) }}"
  vars:
    now: "{{ [] if __rolling_asked is defined else work | default([]) }}"
"""
CHANGE = """
- ansible.builtin.command:
    argv: [sh, -c, 'echo "nodename={{ inventory_hostname }} changed" >> "$STANDIN_STATE.log"']
- ansible.builtin.set_fact:
    torchfleet_results: "{{ results | default([]) }}"
- ansible.builtin.fail:
    msg: "in use: {{ __nvidia_driver_jobs }}"
  when: __rolling_driver_changes and __nvidia_driver_jobs | length > 0
"""
VERIFY = """
- ansible.builtin.set_fact:
    torchfleet_results: "{{ results | default([]) }}"
"""
# Slurm as molecule/rolling has it, with things that happen: a job begins before the drain arrives, ends after
# a number of questions, or slurmctld does not answer one of them.
SCONTROL = """#!{python}
import json, os, sys
path = os.environ["STANDIN_STATE"]
with open(path) as file:
    nodes = json.load(file)
text = " ".join(sys.argv)
silent = False
for name, node in nodes.items():
    if "nodename=%s state=drain" % name in text and node.get("begins"):
        node["state"] = node["state"].replace("IDLE", "MIXED")
    if "show node %s " % name in text:
        node["asked"] = node.get("asked", 0) + 1
        if node["asked"] == node.get("ends"):
            node["state"] = node["state"].replace("MIXED", "IDLE")
        silent = silent or node["asked"] == node.get("silent")
with open(path, "w") as file:
    json.dump(nodes, file)
if silent:
    sys.exit("slurmctld does not answer")
os.execv("{plain}", ["scontrol", *sys.argv[1:]])
"""


PARTS = ("preflight", "rolling", "outcome")


class Site:
    """The playbooks of a collection that is this one but for the stand-ins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        own = path / "collections/ansible_collections/torchfleet/gpu"
        (own / "roles").mkdir(parents=True)
        for name in ("plugins", "meta", "galaxy.yml"):
            (own / name).symlink_to(ROOT / name)
        replaced = {
            "rolling/tasks/change.yml": CHANGE + self._give_back(),
            "preflight/tasks/refresh.yml": REFRESH,
            "gpu_verify/tasks/main.yml": VERIFY,
        }
        for role in (ROOT / "roles").iterdir():
            if any(name.startswith(f"{role.name}/") for name in replaced):
                shutil.copytree(role, own / "roles" / role.name)
            else:
                (own / "roles" / role.name).symlink_to(role)
        for name, text in replaced.items():
            (own / "roles" / name).write_text(text)
        for name in ("bin", "plain"):
            (path / name).mkdir()
        (path / "plain/scontrol").symlink_to(ROOT / "molecule/rolling/scheduler.py")
        scontrol = path / "bin/scontrol"
        scontrol.write_text(SCONTROL.format(python=sys.executable, plain=path / "plain/scontrol"))
        scontrol.chmod(0o755)
        self.nodes = path / "nodes.json"

    @staticmethod
    def _give_back() -> str:
        tasks = yaml.safe_load((ROOT / "roles/rolling/tasks/change.yml").read_text())
        return str(yaml.safe_dump(tasks[-1:]))

    def run(
        self,
        hosts: dict[str, Any],
        *options: str,
        parts: tuple[str, ...] = PARTS,
    ) -> tuple[int, str]:
        plays = []
        for part in parts:
            plays += yaml.safe_load((ROOT / "playbooks/parts" / f"{part}.yml").read_text())
        for play in plays:
            play["become"] = False
        (self.path / "play.yml").write_text(yaml.safe_dump(plays))
        given: dict[str, Any] = {}
        for name, variables in hosts.items():
            prefix = self.path / name
            given[name] = {"miniconda_prefix": str(prefix), **variables}
            if "drifted" in variables:  # an environment that is there, without any torch
                given[name]["pytorch_environments"] = [{"name": "torch", "python": "3.11", "variant": "cpu"}]
                given[name]["nvidia_driver_state"] = "none"
            if variables.get("drifted"):
                (prefix / "envs/torch/conda-meta").mkdir(parents=True, exist_ok=True)
                (prefix / "envs/torch/conda-meta/history").write_text("")
        hopper = yaml.safe_load((ROOT / "tests/unit/fixtures/preflight/hopper.yml").read_text())
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "preflight_probe_mirrors": False,
            "preflight_truth": hopper,  # has no driver, so one is installed
            "pytorch_environments": [],
        }
        inventory = {"all": {"hosts": given, "vars": common}}
        (self.path / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
        Path(f"{self.nodes}.log").write_text("")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "ansible", "playbook", "-i", str(self.path / "hosts.yml")),
                *("-e", f"__gpu_verify_quarantine={self.path}/{{{{ inventory_hostname }}}}.json"),
                *(
                    *options,
                    "-e",
                    '{"rolling_batches": ["100%"]}',
                    "--forks",
                    "1",
                    str(self.path / "play.yml"),
                ),
            ],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.path / "collections"),
                "ANSIBLE_NOCOLOR": "1",
                "COLUMNS": "250",
                "PATH": f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "STANDIN_STATE": str(self.nodes),
            },
            cwd=self.path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def calls(self) -> dict[str, list[str]]:
        """What was done to each host, in its order: how it was changed, drained and given back."""
        done: dict[str, list[str]] = {}
        for line in Path(f"{self.nodes}.log").read_text().splitlines():
            name, what = line.split("nodename=")[1].split(" ", 1)
            done.setdefault(name, []).append(what.split(" reason=")[0])
        return done


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def table(out: str) -> dict[str, str]:
    """What is said of each host at the end."""
    lines = out[out.index("Report | Show the fleet") : out.index("PLAY RECAP")].splitlines()
    return {line.split()[0]: line for line in lines if line.split()}


def test_no_job_loses_the_build_that_it_uses_be_it_in_the_first_batch(site: Site) -> None:
    hopper = yaml.safe_load((ROOT / "tests/unit/fixtures/preflight/hopper.yml").read_text())
    busy = {"drifted": True, "work": WORK, "preflight_truth": {**hopper, "processes": WORK}}
    hosts = {
        "busy": busy,
        "later": {"drifted": True, "work": WORK},  # its job began after preflight
        "fresh": {**busy, "drifted": False},  # gets its first environment, which disturbs nobody
        "calm": {"drifted": True},
    }
    code, out = site.run(hosts)
    assert code == 0, out
    assert site.calls() == {"fresh": ["changed"], "calm": ["changed"]}
    for name in ("busy", "later"):
        assert "skipped: at work (python3 pid 4242); rolling_busy is skip" in table(out)[name]


LEFT = {"state": "IDLE+DRAIN", "reason": OURS}
UNPROVEN = {
    "environment": "torch",
    "verdict": "failed",
    "torch": "",
    "cuda": "",
    "cuda_available": False,
    "problems": [],
}
DRAINED, BACK, CHANGED = "state=drain", "state=resume", "changed"


def test_a_host_is_drained_before_it_is_disturbed_and_a_job_that_slips_in_is_left(site: Site) -> None:
    nodes: dict[str, dict[str, Any]] = {
        "calm": {"state": "IDLE"},
        "idle": {"state": "IDLE"},
        "warned": {"state": "IDLE"},
        "busy": {"state": "MIXED"},
        "late": {"state": "IDLE", "begins": True},
        "left": {**LEFT, "begins": True},
    }
    site.nodes.write_text(json.dumps({name: {"reason": "", **node} for name, node in nodes.items()}))
    hosts: dict[str, Any] = {name: {"drain_with": "slurm"} for name in nodes}
    hosts["calm"]["nvidia_driver_state"] = "none"
    hosts["warned"]["results"] = [UNPROVEN]  # by gpu_verify_policy: warn
    code, out = site.run(hosts)
    assert code == 0, out
    assert site.calls() == {
        "calm": [CHANGED],
        "idle": [DRAINED, CHANGED, BACK],
        "warned": [DRAINED, CHANGED],
        "late": [DRAINED, BACK],
        "left": [DRAINED],
    }
    for name in ("busy", "late", "left"):
        assert "skipped: at work (slurm runs jobs there); rolling_busy is skip" in table(out)[name]


def test_a_verification_gives_back_what_an_earlier_run_left_drained_and_it_proves(site: Site) -> None:
    site.nodes.write_text(json.dumps(dict.fromkeys(("idle", "warned"), LEFT)))
    hosts: dict[str, Any] = {"idle": {"drain_with": "slurm"}, "warned": {"drain_with": "slurm"}}
    hosts["warned"]["results"] = [UNPROVEN]
    code, out = site.run(hosts, parts=("preflight", "verify"))
    assert code == 0, out
    assert site.calls() == {"idle": [BACK]}


def test_a_host_is_waited_for_and_then_no_longer_taken_to_be_at_work(site: Site) -> None:
    nodes: dict[str, dict[str, Any]] = {
        "ends": {"state": "MIXED", "ends": 4},
        "begun": {"state": "IDLE", "begins": True, "ends": 4},
        "stays": {"state": "MIXED"},
        "failed": {"state": "MIXED+DRAIN", "reason": OURS},
        "silent": {"state": "MIXED", "silent": 4},
    }
    site.nodes.write_text(json.dumps({name: {"reason": "", **node} for name, node in nodes.items()}))
    hosts: dict[str, Any] = {name: {"drain_with": "slurm"} for name in nodes}
    hosts["ends"]["work"] = WORK
    code, out = site.run(hosts, "-e", "rolling_busy=wait", "-e", "drain_timeout=1")
    assert code == 0, out
    assert site.calls() == {
        "ends": [DRAINED, CHANGED, BACK],
        "begun": [DRAINED, CHANGED, BACK],
        "stays": [DRAINED, BACK],
        "failed": [DRAINED],
        "silent": [DRAINED, BACK],
    }
    assert "skipped: still at work after 1 s (slurm runs jobs there)" in table(out)["stays"]
    assert "slurmctld does not answer" in table(out)["silent"]


def test_preflight_keeps_why_a_host_was_out_of_the_run_before(site: Site) -> None:
    hosts = {"gone": {"torchfleet_failure": "rollback: nothing to go back to", "pytorch_enviroments": []}}
    code, out = site.run(hosts, parts=("preflight", "outcome"))
    assert code == 2
    assert "failed: rollback: nothing to go back to" in table(out)["gone"], out
