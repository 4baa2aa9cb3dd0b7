"""The report: what it tells of each host, what changed, and that no text of a host becomes markup."""

from __future__ import annotations

import datetime
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.torchfleet.gpu.plugins.filter import fleet_document
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import page, report
from fleet_of import fleet, recorded

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
RUN: Json = {"time": "2026-11-23T18:00:00Z", "by": "alice", "limit": "", "check_mode": False}


def record(**given: Any) -> Json:
    (row,) = fleet(1)
    return recorded({**row, **given})


def records(count: int) -> list[Json]:
    return [recorded(row) for row in fleet(count)]


def document(count: int = 20) -> Json:
    return report.document(records(count), RUN)


def changed(row: Json, **driver: Any) -> Json:
    return {**row, "driver": {**row["driver"], **driver}}


SUDO: Json = {
    "severity": "error",
    "code": "become",
    "what": "the way to root",
    "found": "a password is required",
}
UNREACHABLE: Json = {**SUDO, "code": "unreachable", "what": "the host", "found": "does not answer"}


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({}, "verified"),
        ({"results": None}, "unverified"),
        ({"failure": "provision: disk full"}, "failed"),
        ({"truth": None, "plan": None, "results": None}, "unreachable"),
        ({"truth": None, "plan": None, "results": None, "failure": "no route"}, "unreachable"),
        (
            {"truth": None, "plan": None, "results": None, "failure": "x", "findings": [UNREACHABLE]},
            "unreachable",
        ),
        ({"truth": None, "plan": None, "results": None, "failure": "x", "findings": [SUDO]}, "failed"),
    ],
)
def test_the_state_of_a_host(given: Json, state: str) -> None:
    assert record(**given)["state"] == state


def test_a_host_is_what_the_worst_of_its_environments_is() -> None:
    (row,) = fleet(1)
    good = row["results"][0]
    bad = {**good, "environment": "old", "verdict": "failed"}
    assert record(results=[good, bad])["state"] == "failed"
    assert record(results=[good, {**bad, "verdict": "cpu"}])["state"] == "cpu"


def test_drift_is_named() -> None:
    (row,) = fleet(1)
    planned, result = row["plan"]["environments"][0], row["results"][0]
    build = f"{planned['torch']} {planned['variant']}"
    assert record()["drift"] == []
    other = {**result, "torch": "2.0.0+cu117", "cuda": "11.7"}
    assert record(results=[other])["drift"] == [f"torch: torch 2.0.0+cu117; planned: {build}"]
    same = {**result, "torch": f"{planned['torch']}+cu117", "cuda": "11.7"}
    assert record(results=[same])["drift"] == [f"torch: torch for CUDA 11.7; planned: {planned['cuda']}"]
    stray = {**result, "environment": "stray"}
    assert record(results=[result, stray])["drift"] == [
        f"stray: torch {result['torch']}; no such environment is wished"
    ]
    upgrade = {**row["plan"], "driver": {"action": "upgrade", "version": "580.178.04"}}
    assert record(plan=upgrade)["drift"] == ["driver: 535.261.03; planned: 580.178.04"]


def test_what_the_role_saw_differ_counts_before_what_was_proven_once() -> None:
    (row,) = fleet(1)
    other = {**row["results"][0], "torch": "2.0.0+cu117", "cuda": "11.7"}
    stray = {**other, "environment": "stray"}
    seen = ["torch: torch 2.0.0 (cu117) is installed, planned is 2.14.1 cu126"]
    assert record(results=[other], drift=seen)["drift"] == seen, "told once"
    assert record(results=[other], drift=[])["drift"] == [], "it was mended after that proof"
    frozen = ["nlp: six 1.16.0 is installed, the lock has 1.17.0"]
    assert record(drift=seen, conda_drift=frozen)["drift"] == [*seen, *frozen]
    lines = record(results=[stray], drift=[])["drift"]
    assert lines == ["stray: torch 2.0.0+cu117; no such environment is wished"]


def test_warnings_of_preflight_stand_beside_those_of_the_plan() -> None:
    own = {"severity": "warning", "code": "disk", "what": "the file system of /opt", "found": "9.0 GB free"}
    plans = {**own, "what": "the plan", "found": "an older state of it"}
    disk = "the file system of /opt: 9.0 GB free"
    told = record(failure="preflight: 1 problem", findings=[SUDO, own, plans])["warnings"]
    assert told == [*record()["warnings"], disk], "the error is the failure"
    told = record(findings=[SUDO, own, plans])["warnings"]
    assert told == [*record()["warnings"], "the way to root: a password is required", disk]


def test_a_warning_keeps_the_date_of_its_first_report() -> None:
    (row,) = fleet(1)
    noted = [{"code": "x", "text": "old"}, {"code": "x", "text": "new"}]
    rows = [record(plan={**row["plan"], "warnings": noted[:count]}) for count in (1, 2)]
    first = report.document([rows[0], {**rows[0], "host": "other"}], RUN)
    later = report.document([rows[1]], {**RUN, "time": "2026-11-24T00:00:00Z"}, since=first["since"])
    host = rows[0]["host"]
    assert later["since"][host] == {"old": RUN["time"], "new": "2026-11-24T00:00:00Z"}
    assert later["since"]["other"] == {"old": RUN["time"]}, "a run on one host forgets nothing of the others"
    silent = record(truth=None, plan=None, results=None)
    assert report.document([silent], RUN, since=later["since"])["since"] == later["since"]
    sound = record(plan={**row["plan"], "warnings": []})
    assert host not in report.document([sound], RUN, since=later["since"])["since"]
    assert 'old <span class="dim">(since 2026-11-23)</span>' in page.render(later, [], None)


FRIDAY = datetime.date(2026, 11, 27)


@pytest.mark.parametrize(
    ("told", "moment"),
    [
        ("2026-11-20", "2026-11-20T23:59:59Z"),
        ("2026-11-20T18:00:00Z", "2026-11-20T18:00:00Z"),
        ("Friday", "2026-11-20T23:59:59Z"),  # today is one, and is not over
        ("thursday", "2026-11-26T23:59:59Z"),
        ("yesterday", "2026-11-26T23:59:59Z"),
        ("today", "2026-11-27T23:59:59Z"),
        ("2026-02-30", None),
        ("soon", None),
        ("", None),
    ],
)
def test_the_day_that_is_meant(told: str, moment: str | None) -> None:
    assert report.moment(told, FRIDAY) == moment


def test_the_document_is_as_its_schema_says() -> None:
    schema = json.loads((ROOT / "docs/report.schema.json").read_text(encoding="utf-8"))
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)
    faulty = record(truth={"gpus": [None, {"device": "2330"}], "driver": 5}, plan=None, results=None)
    told = report.document([*records(30), faulty], RUN, [document(3)["run"]])
    assert list(checker.iter_errors(json.loads(json.dumps(told)))) == []
    for path, wrong in (("run", {}), ("hosts", [{**told["hosts"][0], "state": "fine"}]), ("schema", 3)):
        assert list(checker.iter_errors({**told, path: wrong})), f"{path} is not checked"
    documented = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    keys = {*told, *told["run"], *told["summary"], *told["hosts"][0]}
    assert not [key for key in keys if f"{key}:" not in documented], "docs/report.md does not have all keys"


def test_a_host_that_was_lost_in_the_run_says_so() -> None:
    (row,) = fleet(1)
    facts = {f"torchfleet_{key}": row[key] for key in ("truth", "plan")}
    hosts = {"gone": facts, "refused": {**facts, "torchfleet_failure": "preflight: no"}, "here": facts}
    told = fleet_document.fleet_document(list(hosts), hosts, RUN, None, ["gone", "refused"])["hosts"]
    assert [entry["state"] for entry in told] == ["failed", "failed", "unverified"]
    assert told[0]["failure"].startswith("it fell out of the run") and told[1]["failure"] == "preflight: no"


@pytest.mark.parametrize("truth", [{}, {"gpus": "H100"}, {"gpus": [None, {"device": 2330}], "driver": 5}])
def test_a_faulty_truth_costs_nobody_the_report(truth: Json) -> None:
    row = record(truth=truth, plan=None, results=None, failure="bad truth")
    assert page.render(report.document([row], RUN), [], None)
    assert report.metrics(report.document([row], RUN), 0.0)


def test_the_summary_counts() -> None:
    summary = document(20)["summary"]
    assert summary["hosts"] == 20 == sum(summary["states"].values())
    assert set(summary["states"]) >= {"verified", "failed", "unreachable", "cpu"}
    assert summary["gpus"]["H100 SXM5 80GB"] > summary["hosts"]
    assert summary["pending"] and summary["drift"] and summary["warnings"]
    rows = records(20)
    assert any(row["held"] for row in rows) and any(row["quarantine"] for row in rows)


# What changed


def test_the_same_report_twice_has_no_changes() -> None:
    old, new = document(), json.loads(json.dumps(document()))
    assert report.compare(old, new) == []


def test_changes_are_told_host_by_host() -> None:
    old, new = document(), document()
    first, second, third = (row["host"] for row in new["hosts"][:3])
    new["hosts"][0] = changed(new["hosts"][0], version="580.178.04")
    new["hosts"][1]["environments"][0]["torch"] = "9.9.9+cu999"
    gone = new["hosts"].pop(2)
    new["hosts"].append({**gone, "host": "new01"})
    told = report.lines(report.compare(old, new))
    assert f"{first}: driver version: 535.261.03 -> 580.178.04" in told
    assert any(
        line.startswith(f"{second}: torch: torch: ") and line.endswith("-> 9.9.9+cu999") for line in told
    )
    assert "new01: host: - -> in the fleet" in told
    assert f"{third}: host: in the fleet -> -" in told
    assert len(told) == 4


def test_a_run_on_some_hosts_takes_none_out_of_the_fleet() -> None:
    old, new = document(3), report.document(records(3)[:1], {**RUN, "limit": "gpu001"})
    assert report.compare(old, new) == report.compare(new, old) == []


def test_of_a_silent_host_only_the_silence_is_told() -> None:
    old = report.document([record()], RUN)
    new = report.document([record(truth=None, plan=None, results=None)], RUN)
    assert report.lines(report.compare(old, new)) == [
        f"{old['hosts'][0]['host']}: state: verified -> unreachable"
    ]


def test_a_report_of_the_first_schema_is_no_past_to_compare_with() -> None:
    old = {"schema": 1, "hosts": [{"host": "gpu07", "failure": None, "results": [], "rows": []}]}
    assert {row["what"] for row in report.compare(old, report.document([record()], RUN))} == {"host"}


# For Prometheus

SAMPLE = re.compile(r'^[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? [0-9.e+]+$')


def test_metrics_are_in_the_text_format() -> None:
    told = report.metrics(document(), 1795442400.0).splitlines()
    samples = [line for line in told if not line.startswith("#")]
    assert samples and all(SAMPLE.match(line) for line in samples)
    assert "torchfleet_run_timestamp_seconds 1795442400" in samples
    for line in samples:  # each family is declared before its samples
        name = re.split(r"[{ ]", line)[0]
        assert told.index(f"# TYPE {name} gauge") < told.index(line)


def test_a_label_cannot_break_out() -> None:
    evil = 'a"} 1\nb\\'
    row = {**record(), "host": evil}
    samples = report.metrics(report.document([row], RUN), 0.0).splitlines()
    assert all(SAMPLE.match(line) for line in samples if not line.startswith("#"))
    assert r'host="a\"} 1\nb\\"' in "\n".join(samples)


# The page


class Reader(HTMLParser):
    """Collects elements and text as a browser would take them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"


def poison(value: Any) -> Any:
    """Put the evil text into every string, keys and fixed words aside."""
    if isinstance(value, dict):
        fixed = ("state", "verdict")
        return {key: item if key in fixed else poison(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return value + EVIL if isinstance(value, str) else value


def test_no_text_of_a_host_becomes_markup() -> None:
    clean = document(20)
    evil = {**clean, "hosts": poison(clean["hosts"]), "run": {**clean["run"], "by": EVIL, "limit": EVIL}}
    changes = [{"host": EVIL, "what": EVIL, "before": EVIL, "after": None}]
    told = [Reader(page.render(item, changes, EVIL)) for item in (clean, evil)]
    tags = [sorted(tag for tag, _attributes in reader.elements) for reader in told]
    assert tags[0].count("script") == tags[1].count("script") == 1
    assert "img" not in tags[1]
    assert not any(name.startswith("on") for _tag, attributes in told[1].elements for name in attributes)
    assert EVIL in " ".join(told[1].texts)


def test_a_verdict_or_state_of_a_host_cannot_leave_its_attribute() -> None:
    row = record()
    row["state"] = row["environments"][0]["verdict"] = EVIL
    reader = Reader(page.render({**document(1), "hosts": [row]}, [], None))
    assert [tag for tag, _attributes in reader.elements].count("script") == 1
    assert "img" not in [tag for tag, _attributes in reader.elements]


def test_the_page_needs_nothing_from_outside() -> None:
    html = page.render(document(), [], None)
    for _tag, attributes in Reader(html).elements:
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http://" not in html and "https://" not in html and "@import" not in html and "url(" not in html


def test_two_hundred_hosts_stay_under_a_megabyte() -> None:
    report_of_200 = document(200)
    start = time.perf_counter()
    html = page.render(report_of_200, [], None)
    assert len(html.encode()) < 1_000_000
    assert time.perf_counter() - start < 5
    assert html.count("<tbody data-state") == 200
    assert max(len(row["drift"]) + len(row["warnings"]) for row in report_of_200["hosts"]) > 15
