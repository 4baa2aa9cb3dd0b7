"""The role drain: what it reads in the answers of schedulers, and what it says to stand-ins of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEDULERS: dict[str, Any] = yaml.safe_load((ROOT / "roles/drain/vars/main.yml").read_text())[
    "__drain_schedulers"
]
NODE = "NodeName=gpu07 Arch=x86_64 State={} ThreadsPerCore=2 TmpDisk=0 Partitions=gpu{}"
OURS = " Reason=torchfleet: driver or PyTorch is changed [root@2026-11-27T20:00:00]"
THEIRS = " Reason=memory is bad; see torchfleet: ticket [alice@2026-11-27T20:00:00]"


@pytest.mark.parametrize(
    ("scheduler", "answer", "drained", "ours", "busy"),
    [
        ("slurm", NODE.format("IDLE", ""), False, False, False),
        ("slurm", NODE.format("MIXED", ""), False, False, True),
        ("slurm", NODE.format("ALLOCATED+DRAIN", OURS), True, True, True),
        ("slurm", NODE.format("IDLE+COMPLETING+DRAIN", OURS), True, True, True),
        ("slurm", NODE.format("IDLE+DRAIN", OURS), True, True, False),
        ("slurm", NODE.format("DOWN*+DRAIN", THEIRS), True, False, False),
        # The reason stays after a node was given back.
        ("slurm", NODE.format("IDLE", OURS), False, True, False),
        ("kubernetes", " ", False, False, None),
        ("kubernetes", "true ", True, False, None),
        ("kubernetes", "true torchfleet: driver or PyTorch is changed", True, True, None),
        # Somebody uncordoned it by hand; our mark stayed.
        ("kubernetes", " torchfleet: driver or PyTorch is changed", False, False, None),
    ],
)
def test_what_an_answer_means(
    scheduler: str, answer: str, drained: bool, ours: bool, busy: bool | None
) -> None:
    words = SCHEDULERS[scheduler]
    found = [bool(re.search(words[word], answer)) for word in ("drained", "ours")]
    assert found == [drained, ours]
    if busy is not None:  # else its jobs are another question
        assert bool(re.search(words["busy"], answer)) is busy


GPU_POD = '{"cpu":"4","nvidia.com/gpu":"1"}'


@pytest.mark.parametrize(
    ("pods", "busy"),
    [
        ("", False),
        ("\n", False),  # a pod without any request, such as the device plugin's
        ('{"cpu":"100m","memory":"64Mi"}\n', False),
        ('{"cpu":"1"} {"nvidia.com/gpu":"0"}\n', False),
        (GPU_POD + "\n", True),
        ('{"cpu":"1"}\n{"cpu":"1"} ' + GPU_POD + "\n", True),
        ('{"nvidia.com/mig-1g.5gb":"2"}\n', True),
        ('{"nvidia.com/gpu.shared":"1"}\n', True),
        ("map[cpu:1 nvidia.com/gpu:8]\n", True),  # before kubectl 1.18
    ],
)
def test_a_pod_that_requests_a_gpu_is_a_job(pods: str, busy: bool) -> None:
    assert bool(re.search(SCHEDULERS["kubernetes"]["busy"], pods)) is busy


DRAIN = "scontrol update nodename={} state=drain reason=torchfleet: driver or PyTorch is changed"
RESUME = "scontrol update nodename={} state=resume"
OWN = {
    "state": ["scontrol", "show", "node", "own"],
    "drained": "DRAIN",
    "ours": "Reason=by me",
    "drain": ["scontrol", "update", "nodename=own", "state=drain", "reason=by me"],
    "undrain": ["scontrol", "update", "nodename=own", "state=resume"],
}


def test_hosts_are_drained_and_given_back_unless_somebody_else_drained_them(tmp_path: Path) -> None:
    nodes = {
        "idle": {"state": "IDLE", "reason": ""},
        "theirs": {"state": "IDLE+DRAIN", "reason": "memory is bad"},
        "killed": {"state": "IDLE+DRAIN", "reason": "torchfleet: driver or PyTorch is changed"},
        "pods": {},
        "own": {"state": "IDLE", "reason": ""},
    }
    (tmp_path / "nodes.json").write_text(json.dumps(nodes))
    (tmp_path / "bin").mkdir()
    for name in ("scontrol", "kubectl"):
        (tmp_path / "bin" / name).symlink_to(ROOT / "molecule/rolling/scheduler.py")
    hosts: dict[str, Any] = {name: {"drain_with": "slurm"} for name in (*nodes, "unknown", "halfway")}
    hosts["pods"] = {"drain_with": "kubernetes"}
    hosts["own"] = {"drain_with": "command", "drain_commands": OWN}
    hosts["halfway"] = {"drain_with": "command", "drain_commands": {"state": ["true"]}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    role = "torchfleet.gpu.drain"
    tasks = [
        {"ansible.builtin.import_role": {"name": role}},
        {"ansible.builtin.import_role": {"name": role, "tasks_from": "evict"}},
        {"ansible.builtin.import_role": {"name": role, "tasks_from": "undrain"}},
    ]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook"),
            *("-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml"), "--forks", "1"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "STANDIN_STATE": str(tmp_path / "nodes.json"),
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    log = (tmp_path / "nodes.json.log").read_text().splitlines()
    calls = {name: [line for line in log if name in re.split(r"[ =]", line)] for name in nodes}
    assert calls["idle"] == [DRAIN.format("idle"), RESUME.format("idle")], done.stdout
    assert calls["theirs"] == []
    assert calls["killed"] == [DRAIN.format("killed"), RESUME.format("killed")]
    assert [line.split()[:3] for line in calls["pods"]] == [
        ["kubectl", "patch", "node"],
        ["kubectl", "drain", "pods"],
        ["kubectl", "patch", "node"],
    ]
    assert [line.split("state=")[1] for line in calls["own"]] == ["drain reason=by me", "resume"]
    assert json.loads((tmp_path / "nodes.json").read_text())["theirs"] == nodes["theirs"]
    assert done.returncode == 2
    assert re.search(
        r"unknown: .*error: node 'unknown' not found.*Correct drain_node", done.stdout, re.DOTALL
    )
    assert "drain_commands has the keys state. Expected: state, drain, undrain" in done.stdout
