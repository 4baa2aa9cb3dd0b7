"""The role report on the controller: its files, its history, and what it compares with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_of import fleet

ROOT = Path(__file__).resolve().parents[2]
FILES = {"report.html", "report.json", "report.txt", "report.prom", "changes.txt", "history"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An inventory whose hosts have the facts of a run, and a play that reports them."""
    hosts: dict[str, Any] = {}
    for row in fleet(3):
        names = {f"torchfleet_{key}": row[key] for key in ("truth", "plan", "results")}
        hosts[row["host"]] = {**names, "ansible_connection": "local"}
    hosts["<script>"] = {"ansible_connection": "local"}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    roles = [{"role": "torchfleet.gpu.report"}]
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": roles}])
    )
    return tmp_path


def report(
    site: Path,
    *options: str,
    code: int = 0,
    playbook: Path | None = None,
    cwd: Path = ROOT,
    **variables: Any,
) -> str:
    given = json.dumps({"report_dir": str(site / "report"), **variables})
    command = [
        Path(sys.executable).parent / "ansible-playbook",
        "-i",
        site / "hosts.yml",
        "-e",
        given,
        *options,
    ]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        # Not USER: to Ansible that is who runs it, and whose home is the local connection's.
        "SUDO_USER": "alice",
    }
    done = subprocess.run(
        [*map(str, command), str(playbook or site / "play.yml")],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def past(site: Path, moment: str, **change: Any) -> None:
    """Put a report of another moment into the history."""
    told = json.loads((site / "report/report.json").read_text())
    told["run"]["time"] = moment
    next(row for row in told["hosts"] if row["host"] == "gpu001")["driver"].update(change)
    name = "report-" + moment.replace("-", "").replace(":", "") + ".json"
    (site / "report/history" / name).write_text(json.dumps(told))


def test_the_files_the_history_and_what_changed(site: Path) -> None:
    report(site)
    folder = site / "report"
    assert {path.name for path in folder.iterdir()} == FILES
    told = json.loads((folder / "report.json").read_text())
    assert (told["run"]["by"], told["summary"]["hosts"]) == ("alice", 4)
    assert "&lt;script&gt;" in (folder / "report.html").read_text()
    assert (folder / "changes.txt").read_text() == "there is no report to compare with\n"

    for file in (folder / "history").iterdir():  # what it wrote now comes back under other names
        file.unlink()
    past(site, "2026-11-20T18:00:00Z", version="470.1")
    past(site, "2026-11-21T09:00:00Z", version="535.1")
    version = next(row["driver"]["version"] for row in told["hosts"] if row["host"] == "gpu001")
    assert f"gpu001: driver version: 470.1 -> {version}" in report(site, report_since="2026-11-20")
    assert f"gpu001: driver version: 535.1 -> {version}" in report(site, report_since="2026-11-21T09:00:00Z")
    last = json.loads((folder / "report.json").read_text())
    assert [run["time"] for run in last["runs"]][-1] == "2026-11-21T09:00:00Z"
    assert "nothing changed" in report(site, report_keep=2)
    kept = sorted(path.name for path in (folder / "history").iterdir())
    assert len(kept) == 2 and "report-20261120T180000Z.json" not in kept


def test_any_two_reports_of_the_history_are_compared_without_a_host(site: Path) -> None:
    report(site)
    for file in (site / "report/history").iterdir():
        file.unlink()
    for day, version in ((18, "1"), (20, "2"), (22, "3")):
        past(site, f"2026-11-{day}T18:00:00Z", version=version)

    def changes(code: int = 0, **variables: Any) -> str:
        return report(site, playbook=ROOT / "playbooks/changes.yml", code=code, **variables)

    assert "gpu001: driver version: 2 -> 3" in changes()
    assert "gpu001: driver version: 1 -> 3" in changes(report_since="2026-11-19")
    assert "gpu001: driver version: 1 -> 2" in changes(report_since="2026-11-19", report_until="2026-11-21")
    assert "found 3 reports in" in changes(report_until="2026-11-18", code=2)
    assert "expected two" in changes(report_dir="", code=2)
    limited = report(site, "--limit", "gpu001", playbook=ROOT / "playbooks/changes.yml", code=2)
    assert "--limit gpu001 leaves out localhost" in limited


def test_a_relative_directory_is_where_the_run_was_started(site: Path) -> None:
    """Wherever the playbook lies; else each playbook would have a history of its own."""
    start, other = site / "start", site / "other"
    start.mkdir()
    other.mkdir()
    report(site, cwd=start, report_dir="told")
    (other / "play.yml").write_text((site / "play.yml").read_text())
    report(site, cwd=start, report_dir="told", playbook=other / "play.yml")
    assert {path.name for path in (start / "told").iterdir()} == FILES
    assert not (site / "told").exists() and not (other / "told").exists()
    assert len(json.loads((start / "told/report.json").read_text())["runs"]) == 1
    told = report(site, cwd=start, report_dir="nothing", playbook=ROOT / "playbooks/changes.yml", code=2)
    assert f"found 0 reports in {start}/nothing" in " ".join(told.split())


def test_who_ran_what_and_since_when_is_kept(site: Path) -> None:
    report(site)
    told = json.loads((site / "report/report.json").read_text())
    assert (told["run"]["playbooks"], told["run"]["tags"]) == (["play.yml"], [])
    assert told["since"]["gpu001"], "its driver is past its end of life"


def test_a_wrong_day_is_refused(site: Path) -> None:
    assert "expected a day such as 2026-11-20" in report(site, report_since="Freitag", code=2)


def test_without_a_directory_nothing_is_written(site: Path) -> None:
    assert "gpu001" in report(site, report_dir="")
    assert not (site / "report").exists()
