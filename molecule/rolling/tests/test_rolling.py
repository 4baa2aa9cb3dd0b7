"""A change that rolls over the fleet: what begins, what stops, what is set aside, and what comes back.

Each test runs playbooks on the hosts that it names, after those before it. The scheduler is a stand-in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / ".torchfleet" / "rolling" / "inventory"
PREFIX = "/opt/miniconda3/envs/torch"
QUARANTINE = "/var/lib/torchfleet/quarantine.json"
# Hosts named in `broken` fail while they are changed; those in `older` are to have another build of torch.
WISH = {
    "conda_envs_environments": "{{ [{'name': 'bad', 'python': 'newest'}] "
    "if inventory_hostname in broken else [] }}",
    "pytorch_environments": "{{ [] if inventory_hostname == 'gpu01' else [{'name': 'torch', "
    "'python': '3.11', 'variant': 'cpu', 'torch': '2.6.0' if inventory_hostname in older else '2.7.1'}] }}",
}


class Run:
    """One run of a playbook."""

    def __init__(self, code: int, output: str) -> None:
        self.code, self.output = code, output

    def why(self, host: str) -> str:
        """What the table says of the host."""
        table = self.output[self.output.index("Report | Show the fleet") :].splitlines()
        return next(line.strip() for line in table if line.split()[:1] == [host])


class Scheduler:
    def __init__(self, path: Path) -> None:
        self.path = path / "nodes.json"
        self.bin = path / "bin"
        self.bin.mkdir()
        for name in ("scontrol", "kubectl"):
            (self.bin / name).symlink_to(ROOT / "molecule/rolling/scheduler.py")

    def set(self, **nodes: dict[str, str]) -> None:
        self.path.write_text(json.dumps(nodes))
        Path(f"{self.path}.log").write_text("")

    def get(self, name: str) -> dict[str, str]:
        return dict(json.loads(self.path.read_text())[name])

    def calls(self, name: str) -> list[str]:
        lines = Path(f"{self.path}.log").read_text().splitlines()
        return [line for line in lines if name in line]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Scheduler:
    return Scheduler(tmp_path_factory.mktemp("scheduler"))


def play(playbook: str, limit: str, scheduler: Scheduler | None = None, **variables: Any) -> Run:
    given = {"broken": [], "older": [], **(WISH if playbook == "site.yml" else {}), **variables}
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "250"}
    if scheduler:
        environment["PATH"] = f"{scheduler.bin}{os.pathsep}{environment['PATH']}"
        environment["STANDIN_STATE"] = str(scheduler.path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-i", str(INVENTORY), playbook),
            *("--limit", limit, "-e", json.dumps(given)),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout + done.stderr)
    return Run(done.returncode, done.stdout + done.stderr)


def on(host: str) -> Any:
    return testinfra.get_host(f"ansible://{host}?ansible_inventory={INVENTORY}&force_ansible=True")


def torch(host: str) -> str:
    return str(on(host).check_output(f"{PREFIX}/bin/python -c 'import torch; print(torch.__version__)'"))


def states(host: str) -> list[dict[str, Any]]:
    return list(json.loads(on(host).file("/var/lib/torchfleet/verified.json").content_string)["states"])


def test_a_canary_that_fails_keeps_the_others_as_they_are() -> None:
    done = play("site.yml", "roll*", broken=["roll01"], older=["roll03"])
    assert done.code == 2
    assert "failed: Converge | Bring the environment" in done.why("roll01")
    for host in ("roll02", "roll03", "roll04"):
        assert done.why(host).endswith("not begun: stopped after canary: 1 of 1 failed")
    assert "'newest' is no version" in on("roll01").file(QUARANTINE).content_string
    assert not on("roll02").file(QUARANTINE).exists
    assert torch("roll03") == "2.7.1+cpu"


def test_a_host_in_quarantine_does_not_hold_the_others() -> None:
    done = play("site.yml", "roll*", broken=["roll01"], older=["roll03"])
    assert done.code == 2
    assert "failed: Converge" in done.why("roll01")
    assert "cpu: no NVIDIA GPU" in done.why("roll02")
    assert [torch(host) for host in ("roll03", "roll04")] == ["2.6.0+cpu", "2.7.1+cpu"]
    assert play("site.yml", "roll*", rolling_batches=["100%"]).code == 0


def test_only_a_host_that_is_disturbed_is_drained_and_only_ours_is_given_back(scheduler: Scheduler) -> None:
    scheduler.set(
        roll01={"state": "IDLE", "reason": ""},
        roll02={"state": "IDLE+DRAIN", "reason": "memory is bad"},
        roll03={"state": "MIXED", "reason": ""},
        roll04={"state": "IDLE", "reason": ""},
    )
    older = ["roll01", "roll02", "roll03"]
    done = play("site.yml", "roll*", scheduler, older=older, drain_with="slurm", rolling_batches=["100%"])
    assert done.code == 0
    drained, given = scheduler.calls("roll01")
    assert (
        drained
        == "scontrol update nodename=roll01 state=drain reason=torchfleet: driver or PyTorch is changed"
    )
    assert given == "scontrol update nodename=roll01 state=resume"
    assert [torch(host) for host in older] == ["2.6.0+cpu", "2.6.0+cpu", "2.7.1+cpu"]
    assert scheduler.get("roll02") == {"state": "IDLE+DRAIN", "reason": "memory is bad"}
    assert done.why("roll03").endswith("skipped: at work (slurm runs jobs there); rolling_busy is skip")
    assert [scheduler.calls(host) for host in ("roll02", "roll03", "roll04")] == [[], [], []]


def test_what_a_killed_run_drained_is_given_back_by_the_next(scheduler: Scheduler) -> None:
    scheduler.set(roll04={"state": "IDLE+DRAIN", "reason": "torchfleet: driver or PyTorch is changed"})
    assert play("site.yml", "roll04", scheduler, drain_with="slurm").code == 0
    assert scheduler.calls("roll04") == ["scontrol update nodename=roll04 state=resume"]


def test_a_host_that_fails_stays_drained(scheduler: Scheduler) -> None:
    scheduler.set(roll04={"state": "IDLE", "reason": ""})
    done = play("site.yml", "roll04", scheduler, drain_with="slurm", broken=["roll04"], older=["roll04"])
    assert done.code == 2
    assert scheduler.get("roll04")["state"] == "IDLE+DRAIN"
    assert play("site.yml", "roll04", scheduler, drain_with="slurm").code == 0
    assert scheduler.get("roll04") == {"state": "IDLE", "reason": ""}


def test_kubernetes_is_cordoned_drained_and_given_back(scheduler: Scheduler) -> None:
    scheduler.set(roll03={})
    done = play("site.yml", "roll03", scheduler, older=["roll03"], drain_with="kubernetes")
    assert done.code == 0
    assert [call.split()[1] for call in scheduler.calls("roll03")] == ["patch", "drain", "patch"]
    assert scheduler.get("roll03") == {"unschedulable": "", "mark": ""}


def test_a_node_that_the_scheduler_does_not_know_is_not_touched(scheduler: Scheduler) -> None:
    scheduler.set()
    done = play("site.yml", "roll04", scheduler, older=["roll04"], drain_with="slurm")
    assert done.code == 2
    assert "node 'roll04' not found" in done.output and "Correct drain_node (roll04)" in done.output
    assert torch("roll04") == "2.7.1+cpu"


def test_quarantine_as_a_policy_ends_well_and_is_left_by_verifying() -> None:
    module = f"{PREFIX}/lib/python3.11/site-packages/torch/__init__.py"
    on("roll04").check_output(f"mv {module} {module}.away && echo 'import gone' > {module}")
    done = play("playbooks/verify.yml", "roll04", gpu_verify_policy="quarantine")
    assert done.code == 0
    assert "quarantined: torch: " in done.why("roll04")
    assert on("roll04").file(QUARANTINE).exists
    on("roll04").check_output(f"mv {module}.away {module}")
    assert "quarantined" in play("playbooks/report.yml", "roll04").why("roll04")
    assert "quarantined" not in play("playbooks/verify.yml", "roll04").why("roll04")
    assert not on("roll04").file(QUARANTINE).exists


def test_rollback_brings_the_former_build_back() -> None:
    now, before = states("roll01")[:2]
    assert [one["environments"][0]["torch"] for one in (now, before)] == ["2.6.0", "2.7.1"]
    assert torch("roll01") == "2.6.0+cpu"
    done = play("playbooks/rollback.yml", "roll01", rollback_until=before["time"])
    assert done.code == 0
    assert torch("roll01") == "2.7.1+cpu"
    # The same again changes nothing.
    again = play("playbooks/rollback.yml", "roll01")
    assert again.code == 0 and torch("roll01") == "2.7.1+cpu"


def test_rollback_mends_what_was_changed_by_hand() -> None:
    conda = {
        row.rpartition("/")[2].partition("#")[0] for row in states("roll01")[0]["environments"][0]["conda"]
    }
    (wheel,) = (name for name in conda if name.startswith("wheel-"))
    record = on("roll01").file(
        f"{PREFIX}/conda-meta/{wheel.removesuffix('.conda').removesuffix('.tar.bz2')}.json"
    )
    on("roll01").check_output(f"{PREFIX}/bin/python -m pip uninstall -y -q torch")
    on("roll01").check_output(f"/opt/miniconda3/bin/conda remove -y -q --force -p {PREFIX} wheel")
    assert not record.exists
    done = play("playbooks/rollback.yml", "roll01")
    assert done.code == 0
    assert torch("roll01") == "2.7.1+cpu" and record.exists
    on("roll01").check_output(f"{PREFIX}/bin/python -c 'import wheel'")


def test_rollback_of_a_host_without_a_state_says_so() -> None:
    done = play("playbooks/rollback.yml", "roll02", rollback_until="2020-01-01")
    assert done.code == 2
    assert "nothing to go back to up to 2020-01-01; verified there: 20" in done.output
