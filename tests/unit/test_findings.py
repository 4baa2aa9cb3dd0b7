"""What preflight finds on hosts, from truths as gpu_facts tells them; the table and document of a fleet."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.action.gpu_facts import skew
from ansible_collections.torchfleet.gpu.plugins.filter import preflight_findings, preflight_report
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import findings

Json = dict[str, Any]
GB = 10**9
VARIABLES: Json = {
    "__nvidia_driver_own_processes": ["nvidia-persiste"],
    "__preflight_reboots": False,
    "__preflight_sizes": {"miniconda": GB, "environment": GB // 2, "driver": {"/usr": GB, "/boot": GB // 5}},
    "__pytorch_sizes": {
        "cpu": {"wheels": GB // 4, "unpacked": GB},
        "cu": {"wheels": 3 * GB, "unpacked": 6 * GB},
    },
    "__pytorch_uv_hashes": {"1": []},
    "conda_envs_environments": [],
    "conda_envs_prefix": "/opt/conda/envs",
    "miniconda_prefix": "/opt/conda",
    "miniconda_sha256": "",
    "miniconda_state": "present",
    "mirrors_anaconda_cloud_channels": ["conda-forge", "bioconda"],
    "mirrors_anaconda_urls": ["https://one.example.org/anaconda", "http://192.0.2.7/anaconda"],
    "mirrors_debian_urls": [],
    "mirrors_proxy": {},
    "mirrors_pypi_urls": ["https://one.example.org/simple", "https://two.example.org/simple"],
    "nvidia_driver_mok_enroll": False,
    "nvidia_driver_mok_password": False,
    "nvidia_driver_reboot_force": False,
    "nvidia_driver_repository": "auto",
    "pytorch_cache_dir": "/srv/cache",
    "pytorch_disk_reserve_mb": 1000,
    "pytorch_environments": [{"name": "torch"}],
    "pytorch_installer": "pip",
    "pytorch_sources": [{"name": "site", "urls": ["https://site.example.org/wheels", "/media/usb"]}],
    "pytorch_uv_prefix": "/opt/uv",
    "pytorch_uv_version": "1",
    "rolling_batches": [1],
}
PLAN: Json = {
    "driver": {"action": "keep", "packages": []},
    "environments": [
        {"name": "torch", "torch": "2.10.0", "variant": "cu128", "sources": [{"method": "pip"}]}
    ],
    "problems": [],
    "warnings": [],
}
INSTALL: Json = {**PLAN, "driver": {"action": "install", "packages": ["nvidia"], "modules": "dkms"}}
DEBIAN: Json = {"os": {"id": "debian"}}


def disk(path: str, free: int = 100 * GB, device: int = 1, exists: bool = True, **flags: bool) -> Json:
    row = {"path": path, "exists": exists, "device": device, "free_bytes": free, "total_bytes": 100 * GB}
    return {**row, "read_only": False, "noexec": False, **flags}


def found(truth: Json, plan: Json = PLAN, **variables: Any) -> list[tuple[str, str, str]]:
    rows = findings.of_host(truth, plan, {**VARIABLES, **variables})
    return [(row["severity"], row["code"], f"{row['what']}: {row['found']}") for row in rows]


def test_a_truth_without_the_answers_is_not_judged_by_them() -> None:
    assert found({}) == found({"disks": [], "clock": None, "names": None, "user": None}) == []
    assert findings.of_host({}, {}, VARIABLES) == []


def test_a_sound_host_has_no_findings() -> None:
    truth = {
        **DEBIAN,
        "user": {"name": "root", "uid": 0},
        "clock": {"time": 1.0, "skew_seconds": -2.5},
        "names": {"hostname": "gpu07", "asked": ["one.example.org", "gpu07"], "unresolved": []},
        "disks": [disk(path) for path in findings.questions(VARIABLES)["disk_paths"]],
        "processes": [{"pid": 1, "name": "python3", "user": "alice"}],  # the driver stays
        "secure_boot": True,
    }
    assert found(truth) == []


def test_what_a_host_is_asked_for() -> None:
    asked = findings.questions(VARIABLES)
    assert asked["resolve"] == ["one.example.org", "two.example.org", "site.example.org"]
    paths = {"/opt/conda", "/opt/conda/envs", "/opt/conda/envs/torch", "/srv/cache", "/opt/uv"}
    assert paths | {"/etc", "/usr", "/var", "/boot", "/tmp"} == set(asked["disk_paths"])
    proxied = findings.questions({**VARIABLES, "mirrors_proxy": {"https": "http://proxy:3128"}})
    assert proxied["resolve"] == []


def test_malformed_variables_are_not_asked_about() -> None:
    wrong = {"miniconda_prefix": "conda", "pytorch_environments": "torch", "mirrors_pypi_urls": ["http://[x"]}
    asked = findings.questions({**VARIABLES, **wrong})
    assert not [path for path in asked["disk_paths"] if not path.startswith("/")]


@pytest.mark.parametrize(
    ("seconds", "severity", "said"),
    [
        (9.9, None, ""),
        (-12.0, "warning", "12.0 s behind"),
        (299.0, "warning", "5 min ahead"),
        (-300.0, "error", "5 min behind"),
        (86400.0, "error", "24.0 h ahead"),
    ],
)
def test_the_clock(seconds: float, severity: str | None, said: str) -> None:
    rows = found({"clock": {"time": 0.0, "skew_seconds": seconds}})
    assert [row[:2] for row in rows] == ([(severity, "clock")] if severity else [])
    assert not rows or said in rows[0][2]


@pytest.mark.parametrize(
    ("told", "before", "after", "expected"),
    [(105.0, 100.0, 110.0, 0.0), (99.0, 100.0, 110.0, -1.0), (110.5, 100.0, 110.0, 0.5)],
)
def test_the_skew_is_what_the_trip_does_not_explain(
    told: float, before: float, after: float, expected: float
) -> None:
    assert skew(told, before, after) == expected


def test_who_is_not_root() -> None:
    rows = found({"user": {"name": "alice", "uid": 1000}})
    assert rows == [("error", "not_root", "the user on the host: alice (uid 1000)")]


def test_names_that_do_not_resolve() -> None:
    asked = ["one.example.org", "two.example.org", "gpu07"]
    none = {"hostname": "gpu07", "asked": asked, "unresolved": asked}
    assert [row[:2] for row in found({"names": none})] == [("error", "names"), ("warning", "own_name")]
    some = {**none, "unresolved": asked[1:2]}
    ((severity, code, said),) = found({"names": some})
    assert (severity, code) == ("warning", "names") and said.endswith("does not resolve two.example.org")


def test_mounts_that_cannot_be_used() -> None:
    shut = {**DEBIAN, "disks": [disk("/etc", read_only=True), disk("/usr", read_only=True)]}
    ((_severity, code, said),) = found(shut)
    assert code == "read_only" and said.startswith("the file systems of /etc: "), "the driver stays"
    assert "of /etc, /usr: " in found(shut, INSTALL)[0][2]
    barred = {
        **DEBIAN,
        "disks": [disk("/opt/conda", noexec=True), disk("/var", noexec=True), disk("/tmp", noexec=True)],
    }
    assert [row[:2] for row in found(barred)] == [("error", "noexec"), ("warning", "noexec")]
    assert "of /opt/conda, /var: " in found(barred, INSTALL)[0][2]
    rocky = {**barred, "os": {"id": "rocky"}}  # rpm hands its scripts to a shell
    assert "/var" not in found(rocky, INSTALL)[0][2]


def test_the_disk_is_held_against_what_is_not_there_yet() -> None:
    new = [disk("/opt/conda", 7 * GB, exists=False), disk("/opt/conda/envs/torch", 7 * GB, exists=False)]
    cache = disk("/srv/cache", 3 * GB, device=2, exists=False)
    rows = findings.of_host({"disks": [*new, cache]}, PLAN, VARIABLES)
    assert [(row["severity"], row["what"]) for row in rows] == [
        ("warning", "the file system of /opt/conda, /opt/conda/envs/torch"),  # 7 are needed, and 1 in reserve
        ("warning", "the file system of /srv/cache"),
    ]
    small = [{**row, "free_bytes": 6 * GB} for row in new]
    (row,) = findings.of_host({"disks": small}, PLAN, {**VARIABLES, "pytorch_cache_dir": "/else"})
    assert (row["severity"], row["code"], row["found"]) == ("error", "disk", "6.0 GB free")
    # Where the place of the wheels was not asked for, they count where Miniconda is.
    assert "10.0 GB (Miniconda 1.0 GB, the environment torch 6.0 GB, the wheels of torch 3.0 GB)" in str(
        row["expected"]
    )
    there = [{**row, "exists": True, "free_bytes": 0} for row in new]
    assert found({"disks": there}) == [], "a change of what is there is judged by the role that makes it"


def test_a_reserve_that_is_no_number_is_none() -> None:
    new = [disk("/opt/conda", 10 * GB, exists=False), disk("/opt/conda/envs/torch", exists=False)]
    assert [row[1] for row in found({"disks": new})] == ["disk"], "10 are needed, and 1 in reserve"
    assert found({"disks": new}, pytorch_disk_reserve_mb="lots") == []


def test_conda_and_cpu_builds_and_the_driver_need_less_or_more() -> None:
    rows = {
        path: disk(path, exists=False) for path in ("/opt/conda/envs/nlp", "/opt/conda/envs/torch", "/boot")
    }
    wished = {
        "conda_envs_environments": [{"name": "nlp"}, {"name": "torch"}, {"name": "old", "state": "absent"}]
    }
    cpu: Json = {
        **INSTALL,
        "environments": [{"name": "torch", "torch": "2.13.0", "variant": "cpu", "sources": []}],
    }
    told = findings.needs(rows, cpu, {**VARIABLES, **wished})
    assert told == [
        ("/opt/conda/envs/nlp", GB // 2, "the environment nlp"),
        ("/opt/conda/envs/torch", GB, "the environment torch"),
        ("/opt/conda", GB // 4, "the wheels of torch"),
        ("/usr", GB, "the driver"),
        ("/boot", GB // 5, "the driver"),
    ]


def test_gpus_that_are_busy_are_told_before_a_change_of_their_driver() -> None:
    jobs = [
        {"pid": 7, "name": "python3", "user": "alice"},
        {"pid": 1, "name": "nvidia-persiste", "user": "root"},
    ]
    ((severity, code, said),) = found({"processes": jobs}, INSTALL)
    assert (severity, code) == ("warning", "gpus_busy") and "python3 (pid 7, alice)," in said
    assert found({"processes": jobs}) == found({"processes": jobs[1:]}, INSTALL) == []
    assert found({"processes": jobs}, INSTALL, nvidia_driver_reboot_force=True) == []
    ((severity, code, said),) = found({"processes": jobs}, __preflight_reboots=True)
    assert (severity, code) == ("warning", "gpus_busy") and said.endswith("to reboot for the driver")


def test_secure_boot_stops_a_module_that_would_not_load() -> None:
    on: Json = {"secure_boot": True, "mok": {"key": {"enrolled": False}}}
    assert [row[:2] for row in found(on, INSTALL)] == [("error", "secure_boot")]
    assert "nvidia_driver_mok_password: empty" in found(on, INSTALL, nvidia_driver_mok_enroll=True)[0][2]
    enroll = {"nvidia_driver_mok_enroll": True, "nvidia_driver_mok_password": True}
    assert found(on, INSTALL, **enroll) == []
    assert found({**on, "mok": {"key": {"enrolled": True}}}, INSTALL) == []
    prebuilt = {**INSTALL, "driver": {**INSTALL["driver"], "modules": "prebuilt"}}
    assert found(on, prebuilt) == found({"secure_boot": False}, INSTALL) == []


def test_a_declared_channel_that_the_mirror_lacks() -> None:
    missing = [{"path": f"cloud/{name}/noarch/repodata.json", "reason": "404"} for name in ("bioconda",)]
    probed = {"mirrors_anaconda_urls": {"url": "https://one.example.org/anaconda", "missing": missing}}
    rows = [
        {"name": "bio", "channels": ["bioconda/label/dev", "defaults", "https://site.example.org/c"]},
        {"name": "cv", "channels": ["nvidia", "conda-forge"]},
        {"name": "old", "channels": ["gone"], "state": "absent"},
    ]

    def told(truth: Json, **variables: Any) -> list[tuple[str, str, str]]:
        found = findings.of_mirrors(probed, truth, {**VARIABLES, **variables})
        return [(row["severity"], row["what"], row["found"]) for row in found]

    lacks = "https://one.example.org/anaconda does not deliver it: 404"
    assert told({}) == [("warning", "the channel bioconda", lacks)]
    new = {"disks": [disk("/opt/conda/envs/bio", exists=False)]}
    first, second = told(new, conda_envs_environments=rows)
    assert first == ("error", "the channel bioconda of bio", lacks)
    assert second[:2] == ("warning", "the channel nvidia of cv") and "conda.anaconda.org" in second[2]
    there = {"disks": [disk("/opt/conda/envs/bio")]}
    assert told(there, conda_envs_environments=rows)[0][0] == "warning", "nothing is fetched for it"
    assert findings.of_mirrors({}, {}, VARIABLES) == []


def test_mirrors_without_uv_are_told_where_pip_takes_its_place() -> None:
    probed = {"pytorch_uv_version": {"url": None, "failures": ["404"]}}
    pin = {"file": "x.sh", "sha256": "0" * 64}

    def told(installer: str) -> list[tuple[str, str]]:
        values = {**VARIABLES, "pytorch_installer": installer}
        rows = preflight_findings.preflight_findings(DEBIAN, PLAN, values, pin, probed=probed)
        return [(row["severity"], row["code"]) for row in rows]

    assert told("auto") == [("warning", "no_mirror")]
    assert told("uv") == [("error", "no_mirror")]


SSH = (
    'Task failed: Data could not be sent to remote host "10.0.0.7". '
    "Make sure this host can be reached over ssh: "
)


@pytest.mark.parametrize(
    ("asked", "code", "said", "fix"),
    [
        ({"msg": f"{SSH}ssh: connect to host 10.0.0.7 port 22: Connection refused", "unreachable": True},
         "unreachable", "does not answer: ssh: connect to host", "ansible_port"),
        ({"msg": f"{SSH}ssh: Could not resolve hostname gpu07: Name or", "unreachable": True},
         "unreachable", "Could not resolve", "set ansible_host"),
        ({"msg": f"{SSH}alice@10.0.0.7: Permission denied (publickey).", "unreachable": True},
         "unreachable", "Permission denied", "ssh-copy-id"),
        ({"msg": f"{SSH}Host key verification failed.", "unreachable": True},
         "unreachable", "Host key", "ssh-keyscan"),
        ({"msg": "Task failed: Premature end of stream waiting for become success.\n>>> Standard Error\n"
          "sudo: a password is required"}, "become", "sudo: a password is required", "--ask-become-pass"),
        ({"msg": "Task failed: Timed out waiting for become success or become password prompt.",
          "unreachable": True}, "become", "Timed out", "ansible_become_password"),
        ({"msg": "The module interpreter '/usr/bin/python3' was not found.", "rc": 127},
         "python", "was not found", "install python3"),
        ({"msg": "MODULE FAILURE", "module_stderr": "ansible-core requires a minimum of Python version 3.8."},
         "python", "MODULE FAILURE", "RHEL 8"),
        ({"msg": "MODULE FAILURE", "module_stderr": "OSError: No space left on device"},
         "disk", "MODULE FAILURE", "ansible_remote_tmp"),
        ({"msg": "MODULE FAILURE", "module_stderr": "KeyError: 'x'"}, "no_facts", "MODULE FAILURE", "-vvv"),
        ({}, "no_facts", "no message", "-vvv"),
    ],
)  # fmt: skip
def test_a_host_that_tells_nothing(asked: Json, code: str, said: str, fix: str) -> None:
    row = findings.lost("gpu07", asked)
    assert (row["severity"], row["code"]) == ("error", code)
    assert said in row["found"] and "\n" not in row["found"]
    assert fix in str(row["fix"]) and "ansible" in str(row["fix"])


def test_of_a_lost_host_the_wish_is_judged_all_the_same() -> None:
    pin = {"file": "Miniconda3-x-Linux-unknown.sh", "sha256": ""}
    told = preflight_findings.preflight_findings(
        {}, {}, VARIABLES, pin, lost={"host": "gpu07", "msg": "sudo: a password is required"},
        unknown=[{"name": "pytorch_x", "role": "pytorch", "closest": None}],
    )  # fmt: skip
    assert [row["code"] for row in told] == ["become", "unknown_variable"]


def test_an_error_takes_the_place_of_the_plans_warning() -> None:
    note = {"code": "secure_boot", "text": "Secure Boot is on", "remedy": None}
    plan = {**INSTALL, "warnings": [note, {**note, "code": "end_of_life"}]}
    pin = {"file": "x.sh", "sha256": "0" * 64}
    told = preflight_findings.preflight_findings({"secure_boot": True}, plan, VARIABLES, pin)
    assert [(row["severity"], row["code"]) for row in told] == [
        ("error", "secure_boot"),
        ("warning", "end_of_life"),
    ]


# The fleet

BAD = findings.error("disk", "/opt", "1.0 GB free", "9.0 GB", "free some")
MEH = findings.warning("end_of_life", "the plan", "driver branch 470 is past its end of life", None, None)


def test_hosts_with_the_same_finding_share_a_row() -> None:
    fleet = [(f"gpu{number:02d}", [MEH]) for number in range(5)]
    told = findings.report([*fleet, ("bad", [BAD, MEH]), ("good", [])], "2026-11-27T20:00:00Z")
    lines = told["lines"]
    assert lines[0] == "7 hosts: 1 error on 1, 6 warnings"
    rows = [line.split() for line in lines if line.startswith(("error", "warning"))]
    assert rows[0][:3] == ["error", "disk", "bad"], "errors come first"
    assert " ".join(rows[1]).startswith("warning end_of_life gpu00, gpu01, gpu02 and 3 more the plan: driver")
    document = json.loads(json.dumps(told["document"]))
    assert document["hosts"][-2:] == ["bad", "good"] and document["failed"] == ["bad"]
    assert len(document["findings"]) == 7 and document["stopped"] is None
    assert document["findings"][5] == {"host": "bad", **BAD}


@pytest.mark.parametrize(
    ("stop", "percentage", "hosts", "failed", "stops"),
    [
        ("host", 0, 4, 4, False),
        ("report", 0, 4, 4, False),
        ("run", 0, 4, 0, False),
        ("run", 0, 200, 1, True),
        ("run", 25, 4, 1, False),
        ("run", 25, 4, 2, True),
    ],
)
def test_when_a_run_stops(stop: str, percentage: int, hosts: int, failed: int, stops: bool) -> None:
    rows: list[tuple[str, list[findings.Finding]]] = [
        (str(number), [BAD] if number < failed else [MEH]) for number in range(hosts)
    ]
    told = findings.report(rows, "now", stop, percentage)
    assert (told["document"]["stopped"] is not None) is stops
    assert (told["lines"][-1] == told["document"]["stopped"]) is stops


def test_a_percentage_that_is_no_number_is_none() -> None:
    hosts = {"bad": {"torchfleet_findings": [BAD]}, "good": {}}
    told = preflight_report.preflight_report(list(hosts), hosts, "now", "run", "ten")
    assert told["document"]["stopped"].startswith("1 of 2 hosts have errors")


def test_a_host_that_failed_without_findings_has_a_row() -> None:
    hosts = {
        "gpu01": {"torchfleet_failure": "preflight: undefined", "torchfleet_findings": [MEH]},
        "gpu02": {},
    }
    told = preflight_report.preflight_report(list(hosts), hosts, "now")
    assert told["document"]["failed"] == ["gpu01"]
    wrong = {"argument_errors": ["preflight_probe_from: is of type dict"]}
    told_too = {"gpu01": {**hosts["gpu01"], "__preflight_checked": wrong}}
    codes = preflight_report.preflight_report(["gpu01"], told_too, "now")["document"]["findings"]
    assert [row["code"] for row in codes] == ["failed", "bad_variable", "end_of_life"]
    assert "preflight: undefined" in told["document"]["findings"][0]["found"]
