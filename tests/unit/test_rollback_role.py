"""The role rollback over a local connection: what was verified becomes the wish, or it says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from plan_hosts import plan, truth, wish

ROOT = Path(__file__).resolve().parents[2]
SHOWN = """torch {{ pytorch_environments[0].torch }} by {{ nvidia_driver_version }}
  for {{ pytorch_environments | length }}, conda for
  {{ conda_envs_environments | map(attribute='name') | join(' ') }}"""


def state(day: int, torch: str) -> dict[str, Any]:
    return {
        "time": f"2026-11-{day}T18:00:00Z",
        "driver": {"version": "580.65.06", "flavour": "open", "branch": "580"},
        "environments": [
            {
                "name": "torch",
                "prefix": "/opt/miniconda3/envs/torch",
                "python": "3.11",
                "torch": torch,
                "variant": "cpu",
                "conda": [f"https://conda.test/noarch/of-{torch}.conda#0123"],
                "pip": {},
            },
            {  # declared in conda_envs_environments alone
                "name": "analysis",
                "prefix": "/opt/miniconda3/envs/analysis",
                "conda": [f"https://conda.test/noarch/numpy-of-{torch}.conda#0123"],
                "pip": {},
            },
        ],
    }


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "verified.json").write_text(json.dumps({"states": [state(20, "2.7.1"), state(10, "2.6.0")]}))
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"gpu07": host}}}))
    role = {"ansible.builtin.import_role": {"name": "torchfleet.gpu.rollback"}}
    show = {"ansible.builtin.debug": {"msg": SHOWN}}
    play = {"hosts": "all", "gather_facts": False, "tasks": [role, show]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    return tmp_path


def run(site: Path, **variables: Any) -> tuple[int, str]:
    given = {"__rollback_verified": str(site / "verified.json"), **variables}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-i", str(site / "hosts.yml")),
            *("-e", json.dumps(given), str(site / "play.yml")),
        ],
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_was_verified_becomes_the_wish_and_lists_of_other_states_stay(site: Path) -> None:
    code, out = run(site)
    assert code == 0 and "torch 2.7.1 by 580.65.06 for 1, conda for torch analysis" in " ".join(
        out.split()
    ), out
    code, out = run(site, rollback_until="2026-11-10")
    assert code == 0 and "torch 2.6.0 by 580.65.06" in out, out
    lists = {path.read_text().splitlines()[1] for path in (site / "rollback").glob("gpu07-torch-*.txt")}
    assert lists == {f"https://conda.test/noarch/of-{torch}.conda#0123" for torch in ("2.7.1", "2.6.0")}


def test_a_wish_by_e_that_no_rollback_overrules_ends_the_run(site: Path) -> None:
    code, out = run(site, pytorch_environments=[], nvidia_driver_version="570.1")
    assert code == 2
    said = " ".join(out.split())
    assert "gpu07: pytorch_environments, nvidia_driver_version is set by -e, which nothing overrules" in said


DRIVER_580 = {"version": "580.65.06", "flavour": "open"}
KEPT = {"state": "keep", "upgrade": False, "version": "auto", "branch": "auto", "flavour": "auto"}
KEYS = tuple(KEPT)


def test_no_newer_wish_moves_a_driver_that_the_rollback_does_not(site: Path) -> None:
    """In group_vars: another version and branch, as an upgrade or a removal."""
    bare = {**state(20, "2.7.1"), "driver": {}}
    (site / "bare.json").write_text(json.dumps({"states": [bare]}))
    there = {
        "same": DRIVER_580,
        "other": {**DRIVER_580, "version": "590.48.01"},
        "came": DRIVER_580,
        "bare": {},
    }
    inventory = yaml.safe_load((site / "hosts.yml").read_text())
    host = inventory["all"]["hosts"].pop("gpu07")
    inventory["all"]["vars"] = {
        "nvidia_driver_state": "{{ 'absent' if inventory_hostname == 'came' else 'present' }}",
        "nvidia_driver_upgrade": True,
        "nvidia_driver_version": "590.48.01",
        "nvidia_driver_branch": "590",
        "nvidia_driver_flavour": "open",
    }
    inventory["all"]["hosts"] = dict.fromkeys(there, host)
    (site / "hosts.yml").write_text(yaml.safe_dump(inventory))
    play = yaml.safe_load((site / "play.yml").read_text())
    shown = ", ".join(f"'{key}': nvidia_driver_{key}" for key in KEYS)
    wished = "{{ {" + shown + "} | to_json }}"
    copy = {"content": wished, "dest": str(site / "{{ inventory_hostname }}.wish")}
    play[0]["tasks"][-1] = {"ansible.builtin.copy": copy}
    (site / "play.yml").write_text(yaml.safe_dump(play))
    verified = f"{site}/{{{{ 'bare' if inventory_hostname in ['came', 'bare'] else 'verified' }}}}.json"
    module = "{{ there[inventory_hostname] }}"
    code, out = run(site, __rollback_verified=verified, __rollback_module=module, there=there)
    assert code == 0, out
    wishes = {name: json.loads((site / f"{name}.wish").read_text()) for name in there}
    back = {**DRIVER_580, "state": "present", "upgrade": True, "branch": "580"}
    assert wishes == {"same": KEPT, "other": back, "came": KEPT, "bare": KEPT}
    said = " ".join(out.split())
    assert "came: no driver was there at 2026-11-20T18:00:00Z, and 580.65.06 is there now. It is kept" in said
    assert said.count("It is kept") == 1


@pytest.mark.parametrize("gpus", [["H100"], []])
@pytest.mark.parametrize("installed", ["580.65.06", "580.65.06 proprietary", None])
def test_the_planner_keeps_what_the_rollback_wishes_kept(gpus: list[str], installed: str | None) -> None:
    """Also where a better driver is on offer, or would be installed by itself."""
    result = plan(truth(gpus, installed), wish("all", driver=KEPT, variant="cpu"))
    assert result["problems"] == []
    assert result["driver"]["action"] == ("keep" if installed else "none")
