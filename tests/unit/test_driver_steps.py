"""Steps of the role nvidia_driver on recorded hosts, with stand-ins for the package managers."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import plays
import pytest
import yaml
from test_driver_role import FOREIGN, PLAN, TRUTH, UPGRADE

Json = dict[str, Any]
Answer = tuple[str, int, str]  # what the call looks like, the exit status, what is printed

STAND_IN = """#!{python}
import json, pathlib, re, sys
here = pathlib.Path(__file__)
call = " ".join([here.name, *sys.argv[1:]])
with open(here.parent / "calls", "a") as log:
    log.write(call + "\\n")
for pattern, status, text in json.loads((here.parent / "answers").read_text()):
    if re.search(pattern, call):
        print(text, file=sys.stderr if status else sys.stdout)
        sys.exit(status)
"""
TOOLS = ("apt-get", "apt-mark", "dnf", "dpkg-query", "mokutil", "rpm", "zypper")
SYSTEMS: dict[str, Json] = {
    "debian11": {"id": "debian", "version": "11", "codename": "bullseye", "name": "Debian GNU/Linux 11"},
    "debian13": {"id": "debian", "version": "13", "codename": "trixie", "name": "Debian GNU/Linux 13"},
    "ubuntu": {"id": "ubuntu", "version": "24.04", "codename": "noble", "name": "Ubuntu 24.04"},
    "rocky8": {"id": "rocky", "version": "8.10", "codename": None, "name": "Rocky Linux 8.10"},
    "rocky9": {"id": "rocky", "version": "9.7", "codename": None, "name": "Rocky Linux 9.7"},
}
NOTHING = "0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded."


def package(name: str, version: str = "580.178.04-1", **more: Any) -> Json:
    return {"name": name, "version": version, "branch": "580", "held": True, "arch": "x86_64", **more}


def host(system: str, *packages: Json, kernel: Json | None = None, **driver: Any) -> Json:
    truth = copy.deepcopy(TRUTH)
    truth["os"] = {**SYSTEMS[system], "like": []}
    truth["kernel"].update(kernel or {})
    witness = (
        {"name": packages[0]["name"], "version": packages[0]["version"], "manager": "x"} if packages else None
    )
    truth["driver"].update({"packages": list(packages), "package": witness, **driver})
    return truth


def case(
    truth: Json, step: str, plan: Json | None = None, answers: list[Answer] | None = None, **more: Any
) -> Json:
    driver = {**PLAN, "branch": "580", "version": "580.178.04", **(plan or {})}
    return {
        "torchfleet_truth": truth,
        "torchfleet_plan": {"driver": driver},
        "mirrors_bundle": "",
        "step": step,
        "answers": answers or [],
        **more,
    }


class Outcome:
    """What became of a host: the calls of its tools, and what was said at its failure."""

    def __init__(self, folder: Path) -> None:
        said = folder / "said"
        self.folder = folder
        self.said = said.read_text() if said.is_file() else ""
        self.calls = (folder / "calls").read_text().splitlines()

    def asked(self, start: str) -> list[list[str]]:
        """What the calls that begin so name besides options."""
        return [
            [word for word in call.split()[2:] if word[0] != "-" and "=" not in word and "::" not in word]
            for call in self.calls
            if call.startswith(start)
        ]


CASES: dict[str, Json] = {}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("driver-steps")
    hosts = {}
    for name, given in CASES.items():
        home = folder / name
        home.mkdir()
        for tool in TOOLS:
            (home / tool).write_text(STAND_IN.format(python=sys.executable))
            (home / tool).chmod(0o755)
        (home / "answers").write_text(json.dumps(given["answers"]))
        (home / "calls").write_text("")
        for file, text in given.get("files", {}).items():
            (home / file).parent.mkdir(exist_ok=True)
            (home / file).write_text(text)
        own = json.loads(json.dumps(given).replace("HOME", str(home)))
        (home / "facts.yml").write_text(yaml.safe_dump(own.pop("facts", {})))
        hosts[name] = {**own, "ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    role = {"name": "torchfleet.gpu.nvidia_driver", "rolespec_validate": False}
    said = {
        "dest": f"{folder}/{{{{ inventory_hostname }}}}/said",
        "content": "{{ ansible_failed_result.msg }}",
    }
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"PATH": f"{folder}/{{{{ inventory_hostname }}}}:{os.environ['PATH']}"},
        "tasks": [
            {
                "block": [
                    {"ansible.builtin.include_role": {**role, "tasks_from": "os.yml"}},
                    {"ansible.builtin.include_vars": f"{folder}/{{{{ inventory_hostname }}}}/facts.yml"},
                    {
                        # A loop, for without one all hosts would get the first one's step.
                        "ansible.builtin.include_role": {**role, "tasks_from": "{{ item }}"},
                        "loop": ["{{ step }}"],
                    },
                ],
                "rescue": [{"ansible.builtin.copy": {**said, "mode": "0600"}}],
            }
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = plays.run(folder, "-f", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: Outcome(folder / name) for name in CASES}


# A repair

NEWER: Json = {"running": "6.12.57-1-amd64", "next": "6.12.60-1-amd64", "headers": ["6.12.57-1-amd64"]}
KERNEL = (
    "Inst linux-image-6.12.60-1-amd64 (6.12.60-1 Debian:13 [amd64])\n"
    "Inst linux-headers-6.12.60-1-amd64 (6.12.60-1 Debian:13 [amd64])"
)
EL: Json = {
    "running": "5.14.0-611.5.1.el9_7.x86_64",
    "next": "5.14.0-611.11.1.el9_7.x86_64",
    "installed": [],
    "headers": [],
}
GENERIC: Json = {"running": "6.8.0-90-generic", "next": "6.8.0-91-generic", "headers": ["6.8.0-90-generic"]}
DKMS = package("nvidia-kernel-dkms")
CASES |= {
    "headers": case(
        host("debian13", DKMS, package("nvidia-open-kernel-support", branch="570"), kernel=NEWER),
        "rebuild.yml",
        answers=[("", 0, NOTHING)],
    ),
    "kernel": case(host("debian13", DKMS, kernel=NEWER), "rebuild.yml", answers=[("", 0, KERNEL)]),
    "prebuilt": case(
        host(
            "ubuntu",
            package("linux-modules-nvidia-580-server-open-6.8.0-90-generic", "6.8.0-90.91+1"),
            kernel=GENERIC,
        ),
        "rebuild.yml",
        answers=[("", 0, NOTHING)],
    ),
    "matched": case(host("rocky9", package("kmod-nvidia-open-dkms"), kernel=EL), "rebuild.yml"),
    "unmatched": case(host("rocky8", package("kmod-nvidia-open-dkms"), kernel=EL), "rebuild.yml"),
}


def test_a_repair_asks_for_the_headers_of_the_kernel_and_takes_nothing_off(
    outcome: dict[str, Outcome],
) -> None:
    """Asked first, then done; never linux-headers-amd64, which is of the archive's newest kernel."""
    assert outcome["headers"].said == ""
    asked = outcome["headers"].asked("apt-get install")
    assert len(asked) >= 2 and all(words == ["linux-headers-6.12.60-1-amd64"] for words in asked)
    trials = ["--simulate" in call for call in outcome["headers"].calls]
    assert trials[0] and trials.count(False) == 1 and not trials[-1]


def test_a_repair_brings_no_kernel(outcome: dict[str, Outcome]) -> None:
    assert "it would install a kernel, linux-image-6.12.60-1-amd64" in outcome["kernel"].said
    calls = [call for call in outcome["kernel"].calls if call.startswith("apt-get")]
    assert calls and all("--simulate" in call for call in calls)


def test_a_newer_kernel_gets_its_prebuilt_module(outcome: dict[str, Outcome]) -> None:
    asked = outcome["prebuilt"].asked("apt-get install")
    module = ["linux-modules-nvidia-580-server-open-6.8.0-91-generic"]
    assert len(asked) >= 2 and all(words == module for words in asked)
    assert "--simulate" not in outcome["prebuilt"].calls[-1]


def test_one_kernel_alone_gets_its_matched_headers(outcome: dict[str, Outcome]) -> None:
    """kernel-devel-matched of two kernels cannot be installed together."""
    headers = {
        name: [set(words[-2:]) for words in outcome[name].asked("dnf")] for name in ("matched", "unmatched")
    }
    running, boots = EL["running"], EL["next"]
    assert headers == {
        "matched": [{f"kernel-devel-{running}", f"kernel-devel-matched-{boots}"}] * 2,
        "unmatched": [{f"kernel-devel-{running}", f"kernel-devel-{boots}"}] * 2,
    }


# What an interrupted rpm left

LIBRARY = [package("nvidia-driver-libs", "580.178.04-1.el9", arch=arch) for arch in ("i686", "x86_64")]
FORMER = package("nvidia-driver-libs", "580.95.05-1.el9")
CASES |= {
    "multilib": case(host("rocky9", *LIBRARY), "dnf_repair.yml"),
    "duplicates": case(host("rocky9", *LIBRARY, FORMER), "dnf_repair.yml"),
}


def test_a_repair_of_rpm_is_for_duplicates_of_the_driver_alone(outcome: dict[str, Outcome]) -> None:
    """A library for two architectures is none."""
    assert (outcome["multilib"].said, outcome["multilib"].calls) == ("", [])
    assert outcome["duplicates"].calls == ["rpm --erase --nodeps nvidia-driver-libs-580.95.05-1.el9.x86_64"]


# Pins

LISTED = {"__nvidia_driver_apt_pin": "HOME/pref", "__nvidia_driver_apt_unattended": "HOME/unattended"}
LOCKS = {"__nvidia_driver_dnf_locks": "HOME/locks"}
LOCKED = "# BEGIN torchfleet.gpu.nvidia_driver\nx\n# END torchfleet.gpu.nvidia_driver\n"
CASES |= {
    "apt-released": case(
        host("debian13", DKMS), "apt_release.yml", files={"pref": "", "unattended": ""}, facts=LISTED
    ),
    "apt-of-others": case(host("debian13", DKMS), "apt_release.yml", files={}, facts=LISTED),
    "dnf-released": case(
        host("rocky9", DKMS), "dnf_release.yml", files={"locks": f"bash-5\n{LOCKED}"}, facts=LOCKS
    ),
    "pinned-by-others": case(
        host("debian13", DKMS, package("nvidia-driver-pinning-580", "580-1")),
        "judge.yml",
        plan={**UPGRADE, "branch": "590", "version": "590.48.01"},
        files={
            "preferences/lab": "Package: *\nPin: origin x\n\nPackage: libcuda1 nvidia-*\nPin: version 580*\n",
            "preferences/own.pref": "Package: nvidia-*\n",
            "preferences/other.pref": "Package: bash\n",
            "preferences/old.bak": "Package: nvidia-*\n",  # none that apt reads
        },
        facts={
            "__nvidia_driver_apt_etc": "HOME/preferences",
            "__nvidia_driver_apt_pin": "HOME/preferences/own.pref",
            "__nvidia_driver_offered": True,
            "__nvidia_driver_trial_error": "",
            "__nvidia_driver_changes": [{"name": "nvidia-kernel-dkms", "from": None, "to": "580.178.04-1"}],
        },
    ),
}


def test_pins_of_a_former_run_are_released_and_no_others(outcome: dict[str, Outcome]) -> None:
    released = outcome["apt-released"]
    assert (released.said, released.calls) == ("", ["apt-mark unhold nvidia-kernel-dkms"])
    assert not (released.folder / "pref").exists() and not (released.folder / "unattended").exists()
    assert (outcome["apt-of-others"].said, outcome["apt-of-others"].calls) == ("", [])
    assert (outcome["dnf-released"].folder / "locks").read_text() == "bash-5\n"


def test_what_pins_another_branch_is_named(outcome: dict[str, Outcome]) -> None:
    said = outcome["pinned-by-others"].said
    assert "nvidia-kernel-dkms 580.178.04-1 is of branch 580" in said
    lab = outcome["pinned-by-others"].folder / "preferences/lab"
    assert f"pins a driver by nvidia-driver-pinning-580, {lab}: where" in said


# A driver of NVIDIA's .run file

CASES |= {
    "run-file-fetched": case(
        host("debian13", foreign=FOREIGN),
        "apt_fetch.yml",
        plan={**UPGRADE, "branch": "580", "packages": ["nvidia-kernel-dkms"]},
        answers=[("", 0, "")],
    ),
    "run-file-gone": case(
        host("debian13"),
        "rollback.yml",
        plan=UPGRADE,
        answers=[("apt-get", 0, NOTHING)],
        nvidia_driver_pin=False,
        ansible_failed_result={"msg": "the module does not build"},
        facts={
            "__nvidia_driver_before": {"package": None, "foreign": FOREIGN},
            "__nvidia_driver_changes": [],
            "__nvidia_driver_former": "HOME/former",
            "__nvidia_driver_former_offer": {"results": []},
        },
    ),
}


def test_the_packages_can_be_fetched_alone_and_that_a_run_file_s_driver_is_gone_is_told(
    outcome: dict[str, Outcome],
) -> None:
    (call,) = outcome["run-file-fetched"].calls
    assert "--download-only" in call and call.endswith("nvidia-kernel-dkms")
    said = outcome["run-file-gone"].said
    assert "the driver of NVIDIA's .run file, 580.65.06, was removed before" in said


# The enrolment of a key

BLOCKED: Json = {"verdict": "blocked by Secure Boot"}
ENROL: Json = {"nvidia_driver_mok_enroll": True, "nvidia_driver_mok_password": "s3cret"}
CASES |= {
    "enrol-without-password": case(
        host("debian13", DKMS, **BLOCKED), "mok.yml", **{**ENROL, "nvidia_driver_mok_password": ""}
    ),
    "enrol-on-debian-11": case(host("debian11", DKMS, **BLOCKED), "mok.yml", **ENROL),
    "enrol-refused": case(
        host("debian13", DKMS, **BLOCKED),
        "mok_import.yml",
        answers=[("mokutil", 1, "s3cret\nFailed to enroll new keys")],
        facts={"__nvidia_driver_mok_path": "HOME/answers"},
        **ENROL,
    ),
}


def test_an_enrolment_that_cannot_be_prepared_tells_the_cause_and_no_password(
    outcome: dict[str, Outcome],
) -> None:
    assert "nvidia_driver_mok_password is empty" in outcome["enrol-without-password"].said
    assert (
        "the role knows no way to sign modules on Debian GNU/Linux 11" in outcome["enrol-on-debian-11"].said
    )
    assert outcome["enrol-without-password"].calls == outcome["enrol-on-debian-11"].calls == []
    said = outcome["enrol-refused"].said
    assert "mokutil says: Failed to enroll new keys" in said and "s3cret" not in said
