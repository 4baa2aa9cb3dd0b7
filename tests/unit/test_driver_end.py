"""How a run of the role nvidia_driver ends: what it made is asked for, what does not load goes back.

A host is a list of truths that a stand-in of gpu_facts tells one by one; modprobe and apt-get are stand-ins.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import plays
import pytest
import yaml
from test_driver_role import FABRIC, GENTOO, PLAN, TRUTH, judged

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]

GPU_FACTS = """
import json
from pathlib import Path
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        path = Path(task_vars["truths"])
        first, *others = json.loads(path.read_text())
        path.write_text(json.dumps(others or [first]))
        return {"changed": False, "ansible_facts": {"torchfleet_truth": first}}
"""
REFRESH = [
    {"torchfleet.gpu.gpu_facts": {}, "register": "asked"},
    {"ansible.builtin.set_fact": {"torchfleet_truth": "{{ asked.ansible_facts.torchfleet_truth }}"}},
]
# The new module does not load; once apt-get has put the former packages back, one does.
MODPROBE = """#!/bin/sh
here=$(dirname "$0")
echo "modprobe $*" >> "$here/notes"
[ "$1" = --remove ] || [ -e "$here/back" ] && exit 0
echo "modprobe: ERROR: could not insert 'nvidia': No such device" >&2
exit 1
"""
APT_GET = """#!/bin/sh
here=$(dirname "$0")
echo "apt-get $*" >> "$here/notes"
touch "$here/back"
"""


def of(truth: Json | None = None, **driver: Any) -> Json:
    """A host's truth with its real verdict. No daemon of this machine is to be touched."""
    found: Json = judged({}, truth, {"persistence": None, **driver})["torchfleet_truth"]
    return found


NEXT = "6.1.0-99-amd64"
OTHER_KERNEL = {"kernel": {**TRUTH["kernel"], "next": NEXT, "headers": [*TRUTH["kernel"]["headers"], NEXT]}}
NEW = {"version": "550.163.01", "flavour": "proprietary", "kernel": "6.1.0-56-amd64", "path": "/m"}
STARTING = of({"nvswitches": 4}, fabric_manager={**FABRIC, "active": False})
RUNNING = of({"nvswitches": 4}, fabric_manager=FABRIC)

# The file of tasks, what the host has, what it tells when it is asked, and variables.
CASES: dict[str, tuple[str, Json, list[Json], Json]] = {
    "checked": ("check", of(), [of()], {}),
    "checked-other-kernel": ("check", of(), [of(OTHER_KERNEL)], {}),
    "other-kernel": ("main", of({**GENTOO, **OTHER_KERNEL}), [], {}),
    "proven": ("main", of(), [], {"__nvidia_driver_saved": True}),
    "pending": ("main", of(on_disk=NEW), [], {"__nvidia_driver_saved": True, "nvidia_driver_reload": False}),
    "refused": ("reload", of(on_disk=NEW), [of()], {"__nvidia_driver_saved": True}),
    "refused-first": ("reload", of(on_disk=NEW, loaded=None), [of(on_disk=NEW, loaded=None)], {}),
    "slow-boot": ("booted", STARTING, [STARTING, RUNNING], {}),
    "dead-boot": ("booted", STARTING, [STARTING], {"__nvidia_driver_saved": True}),
}


def booted() -> list[Json]:
    """What comes after a reboot, which no test can do; without the long wait."""
    *_before, block = yaml.safe_load((ROOT / "roles/nvidia_driver/tasks/reboot_now.yml").read_text())
    waits, *_others = block["block"]
    waits["delay"] = 0
    block.get("vars", {})["__nvidia_driver_boot_retries"] = 2
    return [block]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """Run the tasks of every case: what they said, what was called, and whether the former packages stay."""
    folder = tmp_path_factory.mktemp("driver-end")
    collection = folder / "collections/ansible_collections/torchfleet/gpu"
    for top, inner in (
        (".", ("plugins", "roles")),
        ("plugins", ("action",)),
        ("roles", ("preflight", "nvidia_driver")),
    ):
        (collection / top).mkdir(parents=True)
        for path in (ROOT / top).iterdir():
            if path.name not in (*inner, "collections", ".venv", ".git", ".torchfleet"):
                (collection / top / path.name).symlink_to(path)
    (collection / "plugins/action").mkdir()
    (collection / "plugins/action/gpu_facts.py").write_text(GPU_FACTS)
    (collection / "roles/preflight/tasks").mkdir(parents=True)
    (collection / "roles/preflight/tasks/refresh.yml").write_text(yaml.safe_dump(REFRESH))
    role = collection / "roles/nvidia_driver"
    (role / "tasks").mkdir(parents=True)
    for path in (ROOT / "roles/nvidia_driver").iterdir():
        for inside in [path] if path.name != "tasks" else path.iterdir():
            (role / inside.relative_to(ROOT / "roles/nvidia_driver")).symlink_to(inside)
    (role / "tasks/booted.yml").write_text(yaml.safe_dump(booted()))

    hosts = {}
    for name, (tasks, truth, told, variables) in CASES.items():
        place = folder / name
        (place / "former").mkdir(parents=True)
        (place / "former/libcuda1.deb").touch()
        (place / "truths").write_text(json.dumps(told))
        for program, text in (("modprobe", MODPROBE), ("apt-get", APT_GET)):
            (place / program).write_text(text)
            (place / program).chmod(0o700)
        hosts[name] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "tasks": tasks,
            "place": str(place),
            "truths": str(place / "truths"),
            "torchfleet_truth": copy.deepcopy(truth),
            "torchfleet_plan": {"driver": PLAN},
            "__nvidia_driver_former_offer": {"results": []},
            "__nvidia_driver_before": {**truth["driver"], "on_disk": TRUTH["driver"]["on_disk"]},
            "__nvidia_driver_changes": [
                {"name": "nvidia-open-kernel-dkms", "from": None, "to": "550.163.01-1"}
            ],
            "__nvidia_driver_manager": "apt",
            **variables,
        }
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"PATH": "{{ place }}:{{ lookup('ansible.builtin.env', 'PATH') }}"},
        "tasks": [
            {
                "block": [
                    {
                        "ansible.builtin.include_role": {
                            "name": "torchfleet.gpu.nvidia_driver",
                            "tasks_from": tasks,
                        },
                        "when": f"tasks == '{tasks}'",
                        "vars": {"__nvidia_driver_former": "{{ place }}/former"},
                    }
                    for tasks in sorted({case[0] for case in CASES.values()})
                ],
                "rescue": [
                    {
                        "ansible.builtin.copy": {
                            "dest": "{{ place }}/said",
                            "content": "{{ ansible_failed_result.msg }}",
                            "mode": "0600",
                        }
                    }
                ],
            }
        ],
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    where = {"ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")}
    done = plays.run(folder, "--forks=9", cwd=folder, **where)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        name: {
            "said": (folder / name / "said").read_text() if (folder / name / "said").exists() else "",
            "called": (folder / name / "notes").read_text().splitlines()
            if (folder / name / "notes").exists()
            else [],
            "former": (folder / name / "former").exists(),
        }
        for name in CASES
    }


def test_a_module_for_another_kernel_than_the_next_is_none(ended: dict[str, Json]) -> None:
    assert ended["checked"]["said"] == ""
    said = ended["checked-other-kernel"]["said"]
    assert "not on the disk for the kernel that boots next" in said
    assert f"there is none for kernel {NEXT}" in said


def test_a_build_that_was_not_made_good_ends_the_run(ended: dict[str, Json]) -> None:
    said = ended["other-kernel"]["said"]
    words = ["other-kernel: ", f"there is none for kernel {NEXT}", f"dkms autoinstall --kernelver {NEXT}"]
    assert [text for text in words if text not in said] == []


def test_the_former_packages_are_kept_until_the_new_driver_works(ended: dict[str, Json]) -> None:
    assert (ended["proven"]["said"], ended["proven"]["former"]) == ("", False)
    assert (ended["pending"]["said"], ended["pending"]["former"]) == ("", True)


def test_a_module_that_does_not_load_goes_back_to_the_former_one(ended: dict[str, Json]) -> None:
    parts = "nvidia_uvm nvidia_drm nvidia_modeset nvidia"
    unload, load = f"modprobe --remove {parts}", "modprobe --all nvidia nvidia-uvm"
    first, second, install, *others = ended["refused"]["called"]
    assert [first, second, *others] == [unload, load, unload, load]
    assert install.startswith("apt-get install ")
    assert install.endswith("/former/libcuda1.deb nvidia-open-kernel-dkms-")


def test_why_it_went_back_is_told(ended: dict[str, Json]) -> None:
    said = ended["refused"]["said"]
    words = [
        "could not insert 'nvidia': No such device",
        "It was rolled back: the host has the module 535.261.03",
    ]
    assert [text for text in words if text not in said] == []


def test_a_first_driver_that_does_not_load_waits_for_a_reboot(ended: dict[str, Json]) -> None:
    assert ended["refused-first"] == {
        "said": "",
        "called": ["modprobe --all nvidia nvidia-uvm"],
        "former": True,
    }


def test_after_a_reboot_the_daemons_are_waited_for(ended: dict[str, Json]) -> None:
    assert ended["slow-boot"]["said"] == ""
    said = ended["dead-boot"]["said"]
    assert "dead-boot was rebooted, but its driver is not in use" in said
    assert "Fabric Manager does not run" in said and "/former." in said
