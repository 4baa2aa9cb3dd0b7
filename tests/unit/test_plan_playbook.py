"""playbooks/plan.yml from written facts: the table, the document for programs, the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.filter import plan_report

ROOT = Path(__file__).resolve().parents[2]
TRUTHS = Path(__file__).parent / "fixtures" / "preflight"

ANSIBLE_PLAYBOOK = (sys.executable, "-m", "ansible", "playbook")


def truth(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((TRUTHS / f"{name}.yml").read_text(encoding="utf-8")))


HOPPER = truth("hopper")
TWO = {**HOPPER, "gpus": [{**HOPPER["gpus"][0], "slot": f"0000:{bus}:00.0"} for bus in ("18", "2a")]}
HOSTS: dict[str, dict[str, Any]] = {
    "gpu03": {"preflight_truth": truth("mandrake"), "pytorch_versoin": "2.0"},
    "gpu01": {"preflight_truth": HOPPER},
    "gpu02": {"preflight_truth": TWO},
}


def play(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inventory = site / "inventory"
    if not inventory.exists():
        inventory.mkdir()
        (inventory / "group_vars").symlink_to(ROOT / "group_vars")
        # No address: a task that went to a host would fail.
        common = {"ansible_host": "192.0.2.1", "ansible_timeout": 1}
        hosts = {name: {**common, **given} for name, given in HOSTS.items()}
        groups: dict[str, Any] = {"fit": {"hosts": {"gpu01": {}, "gpu02": {}}}}
        (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups}}))
    return subprocess.run(
        [*ANSIBLE_PLAYBOOK, "-i", str(inventory), str(ROOT / "playbooks" / "plan.yml"), *arguments],
        cwd=site,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "300",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def planned(site: Path) -> subprocess.CompletedProcess[str]:
    return play(site, "-e", "plan_output=plans.json")


def row(output: str, host: str) -> list[str]:
    table = output[output.index("TASK [Show the plans]") :].splitlines()
    return next(line.split() for line in table if line.split()[:1] == [host])


def test_a_row_for_each_host_with_the_gpus_counted(planned: subprocess.CompletedProcess[str]) -> None:
    out = planned.stdout
    assert row(out, "host")[-1] == "problems"
    assert " ".join(row(out, "gpu02")).startswith("gpu02 2 x H100 SXM5 80GB install ")
    assert row(out, "gpu01")[-1] == "0"
    assert row(out, "gpu03")[-1] == "3"
    assert "Reason: no driver is there" in out
    assert "gpu01, gpu02:" in out  # the same reasons, once


def test_hosts_with_problems_fail_after_all_was_written(
    planned: subprocess.CompletedProcess[str], site: Path
) -> None:
    assert planned.returncode == 2
    document = json.loads((site / "plans.json").read_text(encoding="utf-8"))
    assert list(document["hosts"]) == ["gpu01", "gpu02", "gpu03"]
    assert document["hosts"]["gpu02"]["driver"]["action"] == "install"
    assert len(document["hosts"]["gpu02"]["gpus"]) == 2
    assert {item["code"] for item in document["hosts"]["gpu03"]["problems"]} == {"unknown_gpu", "unknown_os"}
    assert list(document["failures"]) == ["gpu03"]
    assert "did you mean pytorch_" in document["failures"]["gpu03"]
    failed = planned.stdout[planned.stdout.index("TASK [Fail the host that has problems]") :]
    assert "fatal: [gpu03]" in failed
    assert "fatal: [gpu01]" not in failed


def test_a_group_of_hosts_that_are_fit_ends_well(site: Path) -> None:
    done = play(site, "--limit", "fit", "-e", "plan_output=fit.json")
    assert done.returncode == 0, done.stdout + done.stderr
    first = (site / "fit.json").read_bytes()
    assert list(json.loads(first)["hosts"]) == ["gpu01", "gpu02"]
    assert json.loads(first)["hosts"] == {
        name: plan
        for name, plan in json.loads((site / "plans.json").read_bytes())["hosts"].items()
        if name != "gpu03"
    }


def test_a_host_without_a_plan_is_in_the_table_too() -> None:
    done = plan_report.plan_report(
        ["gpu07"], {"gpu07": {"torchfleet_failure": "preflight: gpu07 does not answer"}}
    )
    assert done["lines"][2].split() == ["gpu07", "-", "-", "-", "-", "-", "-", "failed"]
    assert done["lines"][-1] == "  preflight: gpu07 does not answer"
    assert done["document"] == {
        "hosts": {"gpu07": None},
        "failures": {"gpu07": "preflight: gpu07 does not answer"},
    }


def test_names_that_are_none() -> None:
    with pytest.raises(AnsibleFilterError, match="not a list of host names"):
        plan_report.plan_report("all", {})
