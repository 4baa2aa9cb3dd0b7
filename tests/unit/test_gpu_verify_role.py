"""The role gpu_verify over a local connection: what each policy does to a host, and what is kept there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import plays
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests/unit/fixtures/torch_probe/fake"
POLICIES = ("fail", "warn", "quarantine")
PLAN = {
    "driver": {"branch": None},
    "environments": [
        {
            "name": "torch",
            "python": "3.11",
            "torch": "2.10.0",
            "variant": "cpu",
            "cuda": None,
            "companions": [],
        }
    ],
    "expect": {"cuda_available": False},
}
TRUTH = {"driver": {"verdict": "not wanted", "reason": "no GPU", "on_disk": None}, "quarantine": None}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host for each policy that has no environment, and one whose torch is as planned."""
    site = tmp_path_factory.mktemp("verify")
    prefix = site / "sound/envs/torch"
    venv.create(prefix, with_pip=False, symlinks=True)
    packages = prefix / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    shutil.copytree(FAKE, packages, dirs_exist_ok=True)
    hosts = {}
    for name in (*POLICIES, "sound"):
        own = site / name
        own.mkdir(exist_ok=True)
        hosts[name] = {
            "gpu_verify_policy": name if name in POLICIES else "fail",
            "conda_envs_prefix": f"{own}/envs",
            "gpu_verify_verdict_path": f"{own}/verdict.json",
            "own": str(own),
        }
    shared = {
        **{"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        **{"torchfleet_plan": PLAN, "torchfleet_truth": TRUTH},
    }
    inventory = {"all": {"hosts": hosts, "vars": shared}}
    (site / "hosts.yml").write_text(yaml.safe_dump(inventory))
    play: dict[str, Any] = {"hosts": "all", "gather_facts": False}
    play["tasks"] = [{"ansible.builtin.import_role": {"name": "torchfleet.gpu.gpu_verify"}}]
    after: dict[str, Any] = {"hosts": "torchfleet_quarantine", "gather_facts": False}
    after["tasks"] = [{"ansible.builtin.debug": {"msg": "set aside is {{ inventory_hostname }}"}}]
    (site / "play.yml").write_text(yaml.safe_dump([play, after]))
    return site


@pytest.fixture(scope="module")
def done(site: Path) -> subprocess.CompletedProcess[str]:
    given = {
        "__gpu_verify_verified": "{{ own }}/verified.json",
        "__gpu_verify_quarantine": "{{ own }}/quarantine.json",
    }
    fake = json.dumps({"version": "2.10.0+cpu", "cuda": None, "count": 0})
    return plays.run(site, "-e", json.dumps(given), FAKE_TORCH=fake)


# The role gives its files to root.
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role needs root")


def test_only_the_policy_fail_fails_the_host(done: subprocess.CompletedProcess[str]) -> None:
    recap = dict(re.findall(r"(?m)^(\w+) +: .*failed=(\d)", done.stdout))
    assert recap == {"fail": "1", "warn": "0", "quarantine": "0", "sound": "0"}, done.stdout
    assert done.returncode == 2


def test_each_says_what_was_found_and_what_to_do(done: subprocess.CompletedProcess[str]) -> None:
    for name in POLICIES:
        told = done.stdout[done.stdout.index(f"{name}: PyTorch is not proven") :][:800]
        for part in ("environment torch: ", f"{name}/envs/torch/bin/python", "expected: ", "role conda_envs"):
            assert part in told, told
    assert "sound: PyTorch is not proven" not in done.stdout


def test_quarantine_is_for_its_policy_alone(done: subprocess.CompletedProcess[str], site: Path) -> None:
    assert re.findall(r"set aside is (\w+)", done.stdout) == ["quarantine"]
    kept = [name for name in (*POLICIES, "sound") if (site / name / "quarantine.json").exists()]
    assert kept == ["quarantine"]
    record = json.loads((site / "quarantine/quarantine.json").read_text())
    assert "does not start" in record["reason"] and re.match(r"\d{4}-\d\d-\d\dT", record["since"])


@pytest.mark.usefixtures("done")
def test_the_verdict_has_the_same_keys_and_a_failed_host_no_state_to_go_back_to(site: Path) -> None:
    keys = {
        *(
            "environment",
            "verdict",
            "torch",
            "cuda",
            "cuda_available",
            "device_count",
            "devices",
            "arch_list",
        ),
        *("cudnn", "peers", "nccl", "torchvision", "torchaudio", "problems"),
    }
    for name, verdict in (*((policy, "failed") for policy in POLICIES), ("sound", "cpu")):
        written = json.loads((site / name / "verdict.json").read_text())
        assert written["schema"] == 1
        (result,) = written["results"]
        assert set(result) == keys and result["verdict"] == verdict, result
        assert (site / name / "verified.json").exists() is (verdict == "cpu")
