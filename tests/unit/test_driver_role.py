"""What the role nvidia_driver refuses and what it leaves alone, by the truth and the plan of a host."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import plays
import pytest
import yaml
from ansible_collections.torchfleet.gpu.plugins.module_utils.verdict import driver_verdict

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]

TRUTH: Json = {
    "schema": 1,
    "os": {
        "id": "debian",
        "version": "12",
        "codename": "bookworm",
        "like": [],
        "name": "Debian GNU/Linux 12",
    },
    "machine": "x86_64",
    "kernel": {
        "running": "6.1.0-56-amd64",
        "next": "6.1.0-56-amd64",
        "installed": ["6.1.0-56-amd64"],
        "headers": ["6.1.0-56-amd64"],
    },
    "virtualization": {"type": "none", "detail": None},
    "secure_boot": False,
    "mok": None,
    "gpus": [
        {"slot": "0000:18:00.0", "vendor": "10de", "device": "2330", "driver": "nvidia", "flavours": None}
    ],
    "nvswitches": 0,
    "driver": {
        "package": {"name": "nvidia-kernel-dkms", "version": "535.261.03-1", "manager": "dpkg"},
        "packages": [
            {"name": "nvidia-kernel-dkms", "version": "535.261.03-1", "branch": "535", "held": True}
        ],
        "half_configured": [],
        "modules": [],
        "dkms": [],
        "on_disk": {
            "version": "535.261.03",
            "flavour": "proprietary",
            "kernel": "6.1.0-56-amd64",
            "path": "/m",
        },
        "loaded": {"version": "535.261.03", "flavour": "proprietary"},
        "library": {"version": "535.261.03", "path": "/l"},
        "nouveau": {"loaded": False, "blacklisted": True},
        "uvm": {"loaded": True, "at_boot": True},
        "fabric_manager": None,
        "persistence": {"enabled": True, "active": True},
        "foreign": None,
        "verdict": "ok",
        "reason": "module 535.261.03 proprietary is loaded and fits its library",
    },
    "processes": [],
    "disks": [],
}
PLAN: Json = {
    "action": "keep",
    "replaces": None,
    "branch": "535",
    "version": "535.261.03",
    "flavour": "proprietary",
    "repository": None,
    "modules": None,
    "packages": [],
    "stream": None,
    "sources_off": [],
    "forward_compat": None,
}
UPGRADE: Json = {"action": "upgrade", "branch": "550", "repository": "distribution", "modules": "dkms"}
FOREIGN: Json = {"kind": "run", "version": "580.65.06", "path": "/usr/bin/nvidia-uninstall"}
JOB: Json = {"pid": 4242, "name": "python3", "user": "alice", "container": None}
DAEMON: Json = {"pid": 700, "name": "nvidia-persiste", "user": "root", "container": None}
KEY: Json = {"path": "/var/lib/dkms/mok.pub", "name": "DKMS module signing key", "enrolled": True}
PASSWORD = 's3/c"r@t'


def case(plan: Json, truth: Json | None = None, driver: Json | None = None, **variables: Any) -> Json:
    found = copy.deepcopy(TRUTH)
    found.update(truth or {})
    found["driver"].update(driver or {})
    return {"torchfleet_truth": found, "torchfleet_plan": {"driver": {**PLAN, **plan}}, **variables}


REFUSED: dict[str, tuple[Json, list[str]]] = {
    "run-file": (
        case(UPGRADE, driver={"foreign": FOREIGN}),
        ["580.65.06", ".run file", "nvidia_driver_adopt"],
    ),
    "run-file-without-uninstaller": (
        case(
            UPGRADE, driver={"foreign": {**FOREIGN, "path": "/usr/lib/libcuda.so"}}, nvidia_driver_adopt=True
        ),
        ["580.65.06", "/usr/bin/nvidia-uninstall, is gone", "--uninstall"],
    ),
    "secure-boot-debian-11": (
        case(
            UPGRADE,
            {"secure_boot": True, "os": {**TRUTH["os"], "version": "11", "name": "Debian 11"}},
            nvidia_driver_mok_enroll=True,
            nvidia_driver_mok_password="x",
        ),
        ["Secure Boot is on", "the DKMS of Debian 11 signs nothing"],
    ),
    "busy": (
        case(UPGRADE, {"processes": [DAEMON, JOB]}),
        ["python3 (pid 4242, alice)", "nvidia_driver_reboot_force"],
    ),
    "busy-remove": (
        case({"action": "remove"}, {"processes": [JOB]}),
        ["python3 (pid 4242, alice)", "remove"],
    ),
    "secure-boot": (
        case(UPGRADE, {"secure_boot": True}),
        ["Secure Boot", "nvidia_driver_mok_enroll", "prebuilt"],
    ),
    "mok-without-password": (
        case(UPGRADE, {"secure_boot": True}, {"verdict": "absent"}, nvidia_driver_mok_enroll=True),
        ["nvidia_driver_mok_password", "empty"],
    ),
    "local-without-key": (
        case(
            {**UPGRADE, "repository": "local"},
            nvidia_driver_local_repository={
                "url": "http://mirror.lab/nvidia",
                "key_url": "http://mirror.lab/key",
            },
        ),
        ["nvidia_driver_local_repository", "fingerprint"],
    ),
    **{
        f"password-in-{key}": (
            case(
                {**UPGRADE, "repository": "local"},
                nvidia_driver_local_repository={
                    "url": "http://mirror.lab/nvidia",
                    "key_url": "http://mirror.lab/key",
                    "fingerprint": "0" * 40,
                    key: f"https://bob:{PASSWORD}@mirror.lab/x",
                },
            ),
            ["without a password", f'"{key}": "***@mirror.lab/x"'],
        )
        for key in ("url", "key_url")
    },
    "unknown-system": (
        case(UPGRADE, {"os": {**TRUTH["os"], "id": "gentoo", "name": "Gentoo Linux"}}),
        ["no data for Gentoo Linux", "gentoo.yml"],
    ),
}
LEFT_ALONE: dict[str, Json] = {
    "in-order": case({}),
    "in-order-with-jobs": case({}, {"processes": [JOB]}),
    "container": case(
        {"action": "none"},
        {"virtualization": {"type": "container", "detail": "docker"}},
        {"package": None, "packages": [], "on_disk": None, "verdict": "not wanted", "reason": "a container"},
    ),
    "wsl2": case(
        {"action": "none"},
        {"virtualization": {"type": "wsl2", "detail": None}},
        {"package": None, "packages": [], "on_disk": None, "verdict": "not wanted", "reason": "WSL2"},
    ),
    "vm-without-gpu": case(
        {"action": "none"},
        {"virtualization": {"type": "vm", "detail": "kvm"}, "gpus": []},
        {
            "package": None,
            "packages": [],
            "on_disk": None,
            "verdict": "not wanted",
            "reason": "no NVIDIA GPU",
        },
    ),
    "run-file-kept": case({}, driver={"foreign": FOREIGN, "package": None, "packages": []}),
    "keep": case({}, driver={"uvm": {"loaded": False, "at_boot": False}}, nvidia_driver_state="keep"),
    "unknown-system-kept": case({}, {"os": {**TRUTH["os"], "id": "gentoo", "name": "Gentoo Linux"}}),
}
FABRIC: Json = {"version": "535.261.03", "enabled": True, "active": True}
# An operating system without data, so that no package manager of this machine is asked.
GENTOO: Json = {"os": {**TRUTH["os"], "id": "gentoo", "name": "Gentoo Linux"}}


def judged(plan: Json, truth: Json | None = None, driver: Json | None = None, **variables: Any) -> Json:
    """A case whose verdict is the real one."""
    given = case(plan, truth, driver, **variables)
    found = given["torchfleet_truth"]
    found["driver"]["verdict"], found["driver"]["reason"] = driver_verdict(found)
    return given


UNFIT: dict[str, tuple[Json, list[str]]] = {
    "fabric-manager-missing": (
        judged({}, {**GENTOO, "nvswitches": 4}),
        ["4 NVSwitches, but Fabric Manager is missing", "all of version 535.261.03"],
    ),
    "fabric-manager-of-another-version": (
        judged({}, {**GENTOO, "nvswitches": 4}, {"fabric_manager": {**FABRIC, "version": "535.309.01"}}),
        ["Fabric Manager is 535.309.01", "all of version 535.261.03", "nvidia_driver_upgrade"],
    ),
    "libcuda-of-another-version": (
        judged({}, GENTOO, {"library": {"version": "535.309.01", "path": "/l"}}),
        ["libcuda is 535.309.01", "all of version 535.261.03", "in exactly this version"],
    ),
}
LEFT_ALONE["fabric-manager"] = judged({}, {"nvswitches": 4}, {"fabric_manager": FABRIC})
WAITS: dict[str, Json] = {
    "pending": judged({}, driver={"loaded": {"version": "550.163.01", "flavour": "proprietary"}}),
    "nouveau": judged({}, driver={"nouveau": {"loaded": True, "blacklisted": True}, "loaded": None}),
    "removed": judged(
        {"action": "none"},
        driver={"package": None, "packages": [], "on_disk": None, "library": None},
        nvidia_driver_state="absent",
    ),
}
# What the reason must say of each.
DUE = {
    "pending": "module 550.163.01 proprietary is loaded and 535.261.03 proprietary is on disk",
    "nouveau": "nouveau is loaded: it is blacklisted, so a reboot leaves it out",
    "removed": "module 535.261.03 proprietary is loaded still",
}


OUTCOME = (
    "{{ {'said': said | default(''), 'required': nvidia_driver_reboot_required | default(none),"
    " 'reason': nvidia_driver_reboot_reason | default('')} | to_json }}"
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """Run the role in check mode on a host for each case, none of which it may change."""
    folder = tmp_path_factory.mktemp("driver-role")
    cases = {name: given for name, (given, _said) in (REFUSED | UNFIT).items()} | LEFT_ALONE | WAITS
    hosts = {
        name: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **given}
        for name, given in cases.items()
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    (folder / "play.yml").write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "all",
                    "gather_facts": False,
                    "vars": {"nvidia_driver_reload": False},
                    "tasks": [
                        {
                            "block": [
                                {"ansible.builtin.include_role": {"name": "torchfleet.gpu.nvidia_driver"}}
                            ],
                            "rescue": [{"set_fact": {"said": "{{ ansible_failed_result.msg }}"}}],
                        },
                        {
                            "ansible.builtin.copy": {
                                "dest": f"{folder}/{{{{ inventory_hostname }}}}.json",
                                "content": OUTCOME,
                                "mode": "0600",
                            },
                            "check_mode": False,
                        },
                    ],
                }
            ]
        )
    )
    done = plays.run(folder, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in cases}
    for line in done.stdout.partition("PLAY RECAP")[2].splitlines():
        name, _, counts = line.partition(":")
        if name.strip() in found:
            found[name.strip()].update(
                {key: int(value) for key, value in (item.split("=") for item in counts.split())}
            )
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_comes_before_the_first_change_and_says_what_to_do(
    outcome: dict[str, Json], name: str
) -> None:
    assert outcome[name]["changed"] == 1  # the file that this test reads
    assert outcome[name]["rescued"] == 1
    missing = [text for text in REFUSED[name][1] if text not in outcome[name]["said"]]
    assert not missing, outcome[name]["said"]
    assert outcome[name]["said"].startswith(f"{name}: ")
    assert not [part for part in ("s3", "r@t") if part in outcome[name]["said"]]


@pytest.mark.parametrize("name", UNFIT)
def test_a_driver_that_is_kept_and_cannot_work_ends_the_run(outcome: dict[str, Json], name: str) -> None:
    said = outcome[name]["said"]
    assert [text for text in [f"{name}: ", "library mismatch", *UNFIT[name][1]] if text not in said] == []
    assert outcome[name]["changed"] == 1  # the file that this test reads


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_in_order_or_not_wanted_is_left_alone(outcome: dict[str, Json], name: str) -> None:
    assert outcome[name]["said"] == ""
    assert outcome[name]["changed"] == 1
    # The role is included, its arguments are checked, it says why nothing is done and whether a reboot waits;
    # then the file of this test. No question goes to the host.
    assert outcome[name]["ok"] == 5
    assert outcome[name]["required"] is False


@pytest.mark.parametrize("name", WAITS)
def test_the_reason_for_a_reboot_is_told_by_the_truth(outcome: dict[str, Json], name: str) -> None:
    assert outcome[name]["required"] is True
    assert DUE[name] in outcome[name]["reason"]
