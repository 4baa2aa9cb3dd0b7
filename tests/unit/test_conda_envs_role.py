"""Which host makes a lock, with the role on a local connection and a stand-in of the module that solves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Its lock says who made it.
MODULE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

NAMES = "name prefix conda_prefix state frozen shared python packages channels pip content lock mirrors"
NAMES += " variables kernelspec owner group"
module = AnsibleModule({name: {"type": "raw"} for name in NAMES.split()})
prefix = module.params["prefix"]
made = {"lock": prefix} if module.params["state"] == "locked" else {}
reasons = ["installed " + str(module.params["lock"])]
module.exit_json(changed=bool(made), prefix=prefix, reasons=reasons, **made)
"""
ROLE = {"name": "torchfleet.gpu.conda_envs"}
LOCKED = [{"name": "train", "python": "3.11", "lock": True}]


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    own = tmp_path / "collections/ansible_collections/torchfleet/gpu"
    (own / "plugins/modules").mkdir(parents=True)
    for name in ("roles", "meta", "galaxy.yml"):
        (own / name).symlink_to(ROOT / name)
    for path in [*(ROOT / "plugins").iterdir(), *(ROOT / "plugins/modules").iterdir()]:
        target = own / path.relative_to(ROOT)
        if not target.exists() and path.name != "conda_env.py":
            target.symlink_to(path)
    (own / "plugins/modules/conda_env.py").write_text(MODULE)
    return tmp_path


def play(path: Path, hosts: dict[str, Any], tasks: list[dict[str, Any]], *options: str) -> str:
    common = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "torchfleet_truth": {"machine": "x86_64"},
        "mirrors_selected": {"environment": {}, "anaconda_urls": []},
        "conda_envs_prefix": "/{{ inventory_hostname }}",
    }
    inventory = {"all": {"hosts": hosts, "vars": common}}
    (path / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    (path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}], sort_keys=False)
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-i", str(path / "hosts.yml")),
            *(*options, str(path / "play.yml")),
        ],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(path / "collections"),
            "ANSIBLE_NOCOLOR": "1",
        },
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_lock_is_made_by_the_first_host_that_has_the_environment_and_its_turn(fleet: Path) -> None:
    hosts: dict[str, Any] = {
        "login01": {},
        "held": {"conda_envs_environments": LOCKED, "torchfleet_held": "skipped: at work"},
        "failed": {"conda_envs_environments": LOCKED, "torchfleet_failure": "Install: disk full"},
        "plain": {"conda_envs_environments": [{"name": "train", "python": "3.11"}]},
        "grace": {"conda_envs_environments": LOCKED, "torchfleet_truth": {"machine": "aarch64"}},
        "gpu01": {"conda_envs_environments": LOCKED},
        "gpu02": {"conda_envs_environments": LOCKED},
    }
    fit = "torchfleet_held is not defined and torchfleet_failure is not defined"
    out = play(fleet, hosts, [{"ansible.builtin.import_role": ROLE, "when": fit}])
    assert {path.name: path.read_text() for path in (fleet / "locks").iterdir()} == {
        "train-linux-64.lock": "/gpu01/train",
        "train-linux-aarch64.lock": "/grace/train",
    }
    assert out.count("installed /gpu01/train") == 2


def test_the_locks_that_an_earlier_batch_made_again_stay(fleet: Path) -> None:
    turns = [
        {
            "ansible.builtin.import_role": ROLE,
            "when": f"inventory_hostname == '{host}'",
            "vars": {"__conda_envs_order": ["gpu02", "gpu01"]},
        }
        for host in ("gpu02", "gpu01")
    ]
    hosts = {name: {"conda_envs_environments": LOCKED} for name in ("gpu01", "gpu02")}
    out = play(fleet, hosts, turns, "-e", "conda_envs_lock_refresh=true")
    assert out.count("installed /gpu02/train") == 2
