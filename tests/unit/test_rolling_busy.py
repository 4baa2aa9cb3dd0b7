"""Hosts at work in a rolling change, on a local connection: left alone, drained, waited for, given back.

The scheduler is a stand-in, and so are the change itself, what the hosts do, and the verification.
"""

from __future__ import annotations

import json
import os
import re
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
# The schedulers as molecule/rolling has them, with things that happen: a job begins before the drain arrives,
# ends after a number of questions, or slurmctld does not answer one of them.
EVENTS = """#!{python}
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
    if "patch node %s " % name in text and node.pop("begins", False):
        node["pods"].append({{"name": "late", "owner": "Job", "requests": {{"nvidia.com/gpu": "1"}}}})
    if "spec.nodeName=%s," % name in text:
        node["asked"] = node.get("asked", 0) + 1
        if node["asked"] == node.get("ends"):
            node["pods"] = [pod for pod in node["pods"] if "requests" not in pod]
with open(path, "w") as file:
    json.dump(nodes, file)
if silent:
    sys.exit("slurmctld does not answer")
os.execv("{plain}/{name}", ["{name}", *sys.argv[1:]])
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
        for name in ("scontrol", "kubectl"):
            (path / "plain" / name).symlink_to(ROOT / "molecule/rolling/scheduler.py")
            program = path / "bin" / name
            program.write_text(EVENTS.format(python=sys.executable, plain=path / "plain", name=name))
            program.chmod(0o755)
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
        return self._run(plays, hosts, *options)

    def change(self, hosts: dict[str, Any]) -> tuple[int, str]:
        """The turn of each host alone, for a new driver, and why it was left."""
        role = {"name": "torchfleet.gpu.rolling"}
        tasks = [
            {"ansible.builtin.import_role": {**role, "tasks_from": "defaults_of_roles"}},
            {"ansible.builtin.import_role": {**role, "tasks_from": "host"}},
            {
                "ansible.builtin.debug": {
                    "msg": "{{ inventory_hostname }} {{ torchfleet_held | default('done') }}"
                }
            },
        ]
        known = {"torchfleet_truth": {}, "torchfleet_plan": {"driver": {"action": "install"}}}
        given = {name: {**known, **variables} for name, variables in hosts.items()}
        return self._run([{"hosts": "all", "gather_facts": False, "tasks": tasks}], given)

    def _run(self, plays: list[Any], hosts: dict[str, Any], *options: str) -> tuple[int, str]:
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
            name, _, what = re.split(r"nodename=|kubectl (?:patch node|drain) ", line)[1].partition(" ")
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
        "denied": {"state": "IDLE", "refuses": "Invalid user id"},
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
    assert "skipped: could not be drained: slurm_update error: Invalid user id" in table(out)["denied"]


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


DAEMON = {"name": "kube-system/device-plugin", "owner": "DaemonSet"}
JOB = {"name": "lab/train", "owner": "Job", "requests": {"nvidia.com/gpu": "1"}}
WEB = {"name": "lab/web", "owner": "ReplicaSet", "requests": {"cpu": "1"}}
BARE = {"name": "lab/shell", "requests": {"cpu": "1"}}


def test_kubernetes_evicts_no_pod_that_uses_a_gpu_but_by_force(site: Site) -> None:
    nodes: dict[str, dict[str, Any]] = {
        "skip": {"pods": [JOB]},  # no process on the GPU at this moment
        "late": {"pods": [], "begins": True},
        "wait": {"pods": [JOB]},
        "ends": {"pods": [JOB, WEB], "ends": 3},
        "force": {"pods": [JOB]},
        # The last cannot be drained.
        "bare": {"pods": [BARE]},
        "left": {"pods": [BARE], "unschedulable": "true", "mark": OURS},
        "theirs": {"pods": [BARE], "unschedulable": "true", "mark": ""},
    }
    for node in nodes.values():
        node["pods"].insert(0, DAEMON)
    site.nodes.write_text(json.dumps(nodes))
    hosts: dict[str, Any] = {name: {"drain_with": "kubernetes", "drain_timeout": 1} for name in nodes}
    for name, busy in {"wait": "wait", "ends": "wait", "force": "force"}.items():
        hosts[name]["rolling_busy"] = busy
    code, out = site.change(hosts)
    assert code == 0, out
    words = {"true": "cordon", "null": "uncordon", "--ignore-daemonsets": "evict", "changed": "changed"}
    calls = {
        name: [next(words[part] for part in words if part in call) for call in done]
        for name, done in site.calls().items()
    }
    whole, back = ["cordon", "evict", "changed", "uncordon"], ["cordon", "uncordon"]
    # The stand-in keeps no record of a call that fails.
    assert calls == {
        **dict.fromkeys(("ends", "force"), whole),
        **dict.fromkeys(("late", "wait", "bare"), back),
        "left": ["cordon"],
    }
    pods = {name: node["pods"] for name, node in json.loads(site.nodes.read_text()).items()}
    assert pods["ends"] == [DAEMON] and pods["wait"] == [DAEMON, JOB]
    for name in ("skip", "late"):
        assert f"{name} skipped: at work (kubernetes runs jobs there)" in out
    assert "wait skipped: still at work after 1 s (kubernetes runs jobs there)" in out
    for name in ("bare", "left", "theirs"):
        assert f"{name} skipped: could not be drained: cannot delete Pods that declare no controller" in out


def test_other_packages_in_an_environment_of_pytorch_disturb_as_well(site: Site) -> None:
    own = site.path / "collections/ansible_collections/torchfleet/gpu/roles/pytorch"
    own.unlink()
    shutil.copytree(ROOT / "roles/pytorch", own)
    # torch itself is as planned
    (own / "tasks/judge.yml").write_text(
        "- ansible.builtin.set_fact: {__pytorch_judged: {environments: []}}\n"
    )
    lock = site.path / "env.lock"
    names = ("python-3.11.9-0", "six-1.17.0-0")
    lock.write_text("".join(f"https://conda.test/noarch/{name}.conda#{'0' * 32}\n" for name in names))
    wish = {"name": "torch", "lock_file": str(lock)}
    for name, builds in {"other": names[:1], "same": names, "frozen": names[:1]}.items():
        meta = site.path / name / "envs/torch/conda-meta"
        meta.mkdir(parents=True)
        (meta / "history").write_text("")
        for build in builds:
            (meta / f"{build}.json").write_text(json.dumps({"name": build.split("-")[0]}))
    plan = {"driver": {"action": "keep"}, "environments": [{"name": "torch", "python": "3.11"}]}
    known: dict[str, Any] = {
        "torchfleet_truth": {"machine": "x86_64", "driver": {"on_disk": None}},
        "torchfleet_plan": plan,
    }
    host = {**known, "work": WORK, "conda_envs_environments": [wish]}
    hosts: dict[str, Any] = dict.fromkeys(("other", "same", "fresh"), host)
    hosts["frozen"] = {**host, "conda_envs_environments": [{**wish, "frozen": True}]}
    code, out = site.change(hosts)
    assert code == 0, out
    assert site.calls() == {name: ["changed"] for name in ("same", "fresh", "frozen")}
    assert "other skipped: at work (python3 pid 4242)" in out


def test_preflight_keeps_why_a_host_was_out_of_the_run_before(site: Site) -> None:
    hosts = {"gone": {"torchfleet_failure": "rollback: nothing to go back to", "pytorch_enviroments": []}}
    code, out = site.run(hosts, parts=("preflight", "outcome"))
    assert code == 2
    assert "failed: rollback: nothing to go back to" in table(out)["gone"], out
