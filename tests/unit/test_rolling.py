"""A change that rolls over the fleet: its batches, when it stops, and what it says of each host."""

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
from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.filter import rolling_batches, rolling_verdict

ROOT = Path(__file__).resolve().parents[2]
SEVEN = [f"gpu{number:02}" for number in range(1, 8)]


def sizes(*given: Any, hosts: list[str] = SEVEN) -> list[int]:
    return [len(batch["hosts"]) for batch in rolling_batches.rolling_batches(hosts, list(given))]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1, "25%", "100%"), [1, 1, 5]),
        ((2,), [2, 2, 2, 1]),
        (("50%",), [3, 3, 1]),
        (("1%", 5), [1, 5, 1]),
        (("100%",), [7]),
        ((20,), [7]),
    ],
)
def test_the_last_size_repeats(given: tuple[Any, ...], expected: list[int]) -> None:
    assert sizes(*given) == expected


def test_every_host_is_in_one_batch_and_in_its_order() -> None:
    found = rolling_batches.rolling_batches(SEVEN, [1, 2])
    assert [host for batch in found for host in batch["hosts"]] == SEVEN
    assert [batch["name"] for batch in found] == ["canary", "batch 2 of 4", "batch 3 of 4", "batch 4 of 4"]


def test_hosts_in_quarantine_go_with_the_canary_and_are_none() -> None:
    first, *rest = rolling_batches.rolling_batches(SEVEN, [1, "100%"], ["gpu01", "gpu03"])
    assert (first["hosts"], first["again"]) == (["gpu02"], ["gpu01", "gpu03"])
    assert [batch["again"] for batch in rest] == [[]]
    (only,) = rolling_batches.rolling_batches(["gpu01"], [1], ["gpu01"])
    assert (only["hosts"], only["again"]) == ([], ["gpu01"])
    assert rolling_batches.rolling_batches([], [1]) == []


def test_hosts_at_work_go_last_so_that_the_canary_is_tried() -> None:
    found = rolling_batches.rolling_batches(SEVEN, [1, 3, "100%"], ["gpu02"], ["gpu01", "gpu02", "gpu05"])
    assert [batch["hosts"] for batch in found] == [["gpu03"], ["gpu04", "gpu06", "gpu07"], ["gpu01", "gpu05"]]
    assert [batch["again"] for batch in found] == [["gpu02"], [], []]


@pytest.mark.parametrize("bad", [[], [0], ["0%"], ["150%"], ["some"], [-1], "25%", [1, None]])
def test_sizes_that_are_none_are_named(bad: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="expected at least one, each a number of hosts"):
        rolling_batches.rolling_batches(SEVEN, bad)


ASIDE = {"truth": {"quarantine": {"reason": "no kernels", "since": "2026-11-27T20:00:00Z"}}}


def verdict(number: int, limit: int, **facts: dict[str, Any]) -> dict[str, Any]:
    batches = rolling_batches.rolling_batches(SEVEN, [1, 2, "100%"], ["gpu07"])
    hostvars = {
        host: {f"torchfleet_{name}": value for name, value in facts.get(host, {}).items()} for host in SEVEN
    }
    return rolling_verdict.rolling_verdict(batches, number, hostvars, limit)


def test_a_canary_that_fails_stops_the_rest() -> None:
    found = verdict(0, 25, gpu01={"failure": "Install: disk full"})
    assert found["stopped"] == "stopped after canary: 1 of 1 failed"
    assert found["lines"][1] == "gpu01: failed: Install: disk full"


def test_the_share_is_that_of_all_so_far() -> None:
    assert verdict(1, 34, gpu02=ASIDE)["stopped"] == ""
    assert verdict(1, 33, gpu02=ASIDE)["stopped"].endswith("1 of 3 failed")
    assert verdict(1, 100, gpu01={"failure": "x"}, gpu02={"failure": "x"})["stopped"] == ""


def test_neither_a_host_in_quarantine_nor_one_that_was_held_counts() -> None:
    assert verdict(0, 0, gpu07={"failure": "still broken"})["stopped"] == ""
    held = {"held": "skipped: its GPUs are in use"}
    found = verdict(1, 99, gpu02=held, gpu03=held)
    assert found["stopped"] == ""
    assert "gpu02: skipped: its GPUs are in use" in found["lines"]
    assert verdict(1, 49, gpu02=held, gpu03={"failure": "x"})["stopped"].endswith(": 1 of 2 failed")


def test_a_canary_that_was_not_tried_proves_nothing() -> None:
    found = verdict(0, 100, gpu01={"held": "skipped: its GPUs are in use"})
    assert found["stopped"] == "stopped after canary: it was tried on none of its hosts"


def test_after_the_last_batch_there_is_nothing_to_stop() -> None:
    failed = {host: {"failure": "x"} for host in SEVEN}
    assert verdict(2, 0, **failed)["stopped"] == ""


# What a host does in its turn, in place of the real tasks.
HOST = """
- block:
    - ansible.builtin.command: {argv: [sh, -c, "echo {{ inventory_hostname }} >> {{ trace }}"]}
      delegate_to: localhost
    - ansible.builtin.command: {argv: ["true"]}
    - ansible.builtin.debug: {msg: "the order: {{ __rolling_order | join(' ') }}"}
    - ansible.builtin.fail: {msg: disk full}
      when: inventory_hostname in broken
  rescue:
    - ansible.builtin.set_fact: {torchfleet_failure: "{{ ansible_failed_result.msg }}"}
"""


class Site:
    """The role with stand-in tasks for a host, and a play as playbooks/parts/rolling.yml has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(ROOT / "roles" / "rolling", path / "roles" / "rolling")
        (path / "roles/rolling/tasks/host.yml").write_text(HOST)
        part, table = (
            yaml.safe_load((ROOT / "playbooks/parts" / f"{name}.yml").read_text())
            for name in ("rolling", "outcome")
        )
        part[0]["tasks"][-1]["ansible.builtin.import_role"]["name"] = "rolling"
        part[0]["become"] = False
        (path / "play.yml").write_text(yaml.safe_dump(part + table))

    def run(self, *options: str, lost: tuple[str, ...] = (), **variables: Any) -> tuple[int, str, list[str]]:
        hosts: dict[str, Any] = {
            host: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
            for host in SEVEN
        }
        for host in lost:
            hosts[host] = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_timeout": 1}
        hosts["gpu07"]["torchfleet_failure"] = "preflight: no"
        (self.path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        trace = self.path / "trace"
        trace.write_text("")
        given = json.dumps({"trace": str(trace), "broken": [], **variables})
        done = subprocess.run(
            [
                *(sys.executable, "-m", "ansible", "playbook", "-i", str(self.path / "hosts.yml")),
                *("-e", given, *options, str(self.path / "play.yml")),
            ],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_ROLES_PATH": str(self.path / "roles"),
                "ANSIBLE_NOCOLOR": "1",
                "COLUMNS": "200",
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr, trace.read_text().split()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("rolling"))


def test_batches_one_after_the_other(site: Site) -> None:
    code, out, begun = site.run(rolling_batches=[1, 2, "100%"])
    assert code == 2, out  # the host that preflight had stopped
    assert begun[0] == "gpu01"
    assert set(begun[1:3]) == {"gpu02", "gpu03"}
    assert set(begun[3:]) == {"gpu04", "gpu05", "gpu06"}


def test_no_batch_after_a_canary_that_failed(site: Site) -> None:
    code, out, begun = site.run(rolling_batches=[1, "100%"], broken=["gpu01"])
    assert (code, begun) == (2, ["gpu01"])
    table = out[out.index("TASK [torchfleet.gpu.report : Report | Show the fleet]") :]
    assert table.count("not begun: stopped after canary: 1 of 1 failed") >= 5
    assert "failed: disk full" in table


def test_a_batch_of_which_no_host_answers_any_more_ends_in_the_table(site: Site) -> None:
    code, out, begun = site.run(rolling_batches=[1, "100%"], lost=("gpu01",), rolling_max_fail_percentage=100)
    assert code == 4
    assert set(begun) == {f"gpu0{number}" for number in range(1, 7)}
    table = out[out.index("TASK [torchfleet.gpu.report : Report | Show the fleet]") :]
    assert "gpu01 does not answer any more (lost in canary)" in table


def test_a_host_that_preflight_saw_at_work_is_no_canary(site: Site) -> None:
    work = [{"pid": 4242, "name": "python3", "user": "alice"}]
    daemon = [{"pid": 1, "name": "nvidia-persiste", "user": "root"}]
    truth = {"gpu01": {"processes": work}, "gpu02": {"processes": daemon}}
    given: dict[str, Any] = {"rolling_batches": [1, "100%"], "truths": truth, "broken": ["gpu02"]}
    given["torchfleet_truth"] = "{{ truths[inventory_hostname] | default({}) }}"
    _code, out, begun = site.run(**given)
    assert begun == ["gpu02"]
    assert "the order: gpu02 gpu03 gpu04 gpu05 gpu06 gpu01" in out
    assert site.run(**given, rolling_busy="force")[2][0] == "gpu01"


def test_with_limit_the_shares_are_those_of_its_hosts(site: Site) -> None:
    code, out, begun = site.run("--limit", "gpu04:gpu05", rolling_batches=[1, "100%"], broken=["gpu05"])
    assert (code, begun) == (2, ["gpu04", "gpu05"])
    assert "gpu05: failed: disk full" in out
