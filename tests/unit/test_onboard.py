"""Onboarding: the names and groups of new hosts, who is left out and why, and the inventory file."""

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
from ansible_collections.torchfleet.gpu.plugins.filter.onboard_addresses import onboard_addresses
from ansible_collections.torchfleet.gpu.plugins.filter.onboard_existing import onboard_existing
from ansible_collections.torchfleet.gpu.plugins.filter.onboard_inventory import onboard_inventory
from ansible_collections.torchfleet.gpu.plugins.filter.onboard_proposals import onboard_proposals
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import onboard

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


def truth(*devices: str, system: tuple[str, str] = ("debian", "12")) -> Json:
    return {
        "os": {"id": system[0], "version": system[1], "name": " ".join(system).title()},
        "gpus": [{"device": device} for device in devices],
    }


def seen(name: str, machine: str, *devices: str, boot: str = "", **more: Any) -> Json:
    return {
        "why": "",
        "name": name,
        "machine_id": machine,
        "boot_id": boot or machine,
        "truth": truth(*devices, **more),
    }


def proposals(
    hosts: dict[str, Json], existing: Any = (), groups: Any = (), names: Any = None
) -> dict[str, Json]:
    rows = onboard_addresses(list(hosts), 22, existing)
    hostvars = {row["alias"]: {"__onboard_seen": hosts[row["label"]]} for row in rows if hosts[row["label"]]}
    asked = [{"name": row["label"], "state": "new", "why": ""} for row in rows]
    found = onboard_proposals(rows, asked, hostvars, existing, groups, names)
    assert len(found["lines"]) == len(rows) + 2
    return {row["label"]: row for row in found["rows"]}


def test_addresses_are_those_of_an_inventory() -> None:
    rows = onboard_addresses("10.0.0.[9:11], gpu[01:02].lab:2222,gpu05,gpu05,fd00::1", "22")
    assert [row["label"] for row in rows] == [
        "10.0.0.9",
        "10.0.0.10",
        "10.0.0.11",
        "[gpu01.lab]:2222",
        "[gpu02.lab]:2222",
        "gpu05",
        "fd00::1",
    ]
    assert (rows[3]["address"], rows[3]["port"], rows[3]["alias"]) == ("gpu01.lab", 2222, "gpu01.lab_2222")
    assert onboard_addresses(["gpu05"], 2200)[0]["label"] == "[gpu05]:2200"


@pytest.mark.parametrize(
    "given", ["-oProxyCommand=x", "a b", "10.0.0.[5:1]", "gpu05;id", "10.0.0.[1:", "", [], ["$(id)"]]
)
def test_what_is_no_address_is_refused(given: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="expected names, IP addresses or ranges"):
        onboard_addresses(given)
    with pytest.raises(AnsibleFilterError, match="expected a list or a text"):
        onboard_addresses({"gpu05": 1})


def test_a_host_that_is_there_is_known_by_name_and_address() -> None:
    hostvars = {"gpu01": {"ansible_host": "10.0.0.1", "ansible_port": "2222"}, "gpu02": {}}
    there = onboard_existing(["gpu01", "gpu02"], hostvars)
    rows = onboard_addresses("10.0.0.1,10.0.0.1:2222,gpu01:2222,gpu02", 22, there)
    assert [row["name"] for row in rows] == [None, "gpu01", "gpu01", "gpu02"]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("H100 SXM5 80GB", "gpu_h100"),
        ("H100 PCIe", "gpu_h100"),
        ("Tesla V100 SXM2 32GB", "gpu_v100"),
        ("Tesla T4", "gpu_t4"),
        ("GeForce RTX 4090", "gpu_rtx4090"),
        ("GeForce GTX 1080 Ti", "gpu_gtx1080ti"),
        ("RTX 6000 Ada Generation", "gpu_rtx6000ada"),
        ("Quadro RTX 6000", "gpu_rtx6000"),
        ("GH200 144G HBM3e", "gpu_gh200"),
        ("HGX B200 168GB", "gpu_b200"),
        ("Edition", "gpu_other"),
    ],
)
def test_the_group_is_the_model(name: str, group: str) -> None:
    assert onboard.gpu_group(name) == group


def test_hosts_are_grouped_by_their_hardware() -> None:
    found = proposals(
        {
            "10.0.0.1": seen("gpu01", "a", "2330", "2330"),
            "10.0.0.2": seen("login01", "b"),
            "10.0.0.3": seen("mixed01", "c", "2330", "1eb8"),
            "10.0.0.4": seen("odd01", "d", "fff0"),
        }
    )
    assert {row["result"] for row in found.values()} == {"new"}
    assert [row["groups"] for row in found.values()] == [
        ["gpu", "gpu_h100"],
        ["cpu"],
        ["gpu", "gpu_h100", "gpu_t4"],
        ["gpu"],
    ]


def test_a_host_is_named_by_itself_or_by_its_address_or_as_it_is_told() -> None:
    hosts = {
        "10.0.0.1": seen("GPU01.lab", "a"),
        "10.0.0.2": seen("localhost.localdomain", "b"),
        "10.0.0.3": seen("(none)", "c"),
        "10.0.0.4": seen("bad_name", "d"),
        "10.0.0.5": seen("gpu05", "e"),
    }
    found = proposals(hosts, names={"10.0.0.5": "node5"})
    assert [row["name"] for row in found.values()] == [
        "gpu01.lab",
        "10.0.0.2",
        "10.0.0.3",
        "bad_name",
        "node5",
    ]
    assert "cannot be a host's; name it: onboard_names={'10.0.0.4': 'NAME'}" in found["10.0.0.4"]["result"]
    with pytest.raises(AnsibleFilterError, match="expected addresses of this run"):
        proposals(hosts, names={"10.0.0.9": "x"})


def test_who_cannot_be_told_apart_is_left_out() -> None:
    existing = [
        {"name": "old01", "address": "10.0.9.1", "port": 22, "machine_id": "f"},
        {"name": "old02", "address": "10.0.9.2", "port": 22, "machine_id": ""},
    ]
    found = proposals(
        {
            "10.0.0.1": seen("gpu01", "a", boot="1"),
            "10.0.0.2": seen("gpu01", "a", boot="1"),  # the same machine
            "10.0.0.3": seen("twin", "b"),
            "10.0.0.4": seen("twin", "c"),  # another of that name
            "10.0.0.5": seen("clone5", "d", boot="5"),
            "10.0.0.6": seen("clone6", "d", boot="6"),  # another machine with that id
            "10.0.0.7": seen("new", "f"),
            "10.0.0.8": seen("old02", "g"),
            "10.0.0.9": seen("gpu", "h"),
            "10.0.0.10": seen("no-id", ""),
            "10.0.0.11": seen("no-id-either", ""),
        },
        existing,
        ["all", "gpu"],
    )
    assert {label: row["result"].split(";")[0] for label, row in found.items()} == {
        "10.0.0.1": "new",
        "10.0.0.2": "the same machine as 10.0.0.1",
        "10.0.0.3": "10.0.0.4 calls itself twin too",
        "10.0.0.4": "10.0.0.3 calls itself twin too",
        "10.0.0.5": "another machine than 10.0.0.6, with its machine-id",
        "10.0.0.6": "another machine than 10.0.0.5, with its machine-id",
        "10.0.0.7": "in the inventory as old01, at another address (by its machine-id)",
        "10.0.0.8": "the inventory has another address for old02",
        "10.0.0.9": "the inventory has a group of its name gpu",
        "10.0.0.10": "new",
        "10.0.0.11": "new",
    }
    named = {"10.0.0.3": "twin3", "10.0.0.4": "twin4"}
    again = proposals({"10.0.0.3": seen("twin", "b"), "10.0.0.4": seen("twin", "c")}, names=named)
    assert [(row["name"], row["result"]) for row in again.values()] == [("twin3", "new"), ("twin4", "new")]


def test_why_there_is_nothing_to_propose_is_told() -> None:
    existing = [{"name": "old01", "address": "10.0.0.3", "port": 22, "machine_id": ""}]
    found = proposals(
        {
            "10.0.0.1": {"why": "Permission denied (publickey)."},
            "10.0.0.2": {},
            "10.0.0.3": {},
            "10.0.0.4": seen("odd", "a", system=("gentoo", "2")),
        },
        existing,
    )
    results = [row["result"] for row in found.values()]
    assert results[:3] == [
        "Permission denied (publickey).",
        "its host key is not known, and was not accepted",
        "in the inventory as old01",
    ]
    assert results[3].startswith("Gentoo 2 is no system that is supported: Debian 11, ")


def new(name: str, address: str, port: int = 22, groups: Any = ("cpu",)) -> Json:
    return {
        "name": name,
        "address": address,
        "port": port,
        "groups": list(groups),
        "seen": {"machine_id": f"id-{name}"},
    }


def test_the_file_grows_and_nothing_in_it_changes() -> None:
    first = onboard_inventory(
        "", [new("gpu01", "10.0.0.1", 2222, ("gpu", "gpu_h100"))], {"ansible_user": "admin"}
    )
    assert yaml.safe_load(first)["all"]["hosts"]["gpu01"] == {
        "ansible_host": "10.0.0.1",
        "ansible_port": 2222,
        "ansible_user": "admin",
        "torchfleet_machine_id": "id-gpu01",
    }
    edited = first.replace("ansible_user: admin", "ansible_user: root")
    second = onboard_inventory(edited, [new("gpu01", "10.0.0.9"), new("login01", "login01")])
    data = yaml.safe_load(second)["all"]
    assert data["hosts"]["gpu01"]["ansible_user"] == "root"
    assert data["hosts"]["gpu01"]["ansible_host"] == "10.0.0.1"
    assert data["hosts"]["login01"] == {"torchfleet_machine_id": "id-login01"}
    assert data["children"]["gpu"] == {"children": {"gpu_h100": {"hosts": {"gpu01": {}}}}}
    assert "login01" in data["children"]["cpu"]["hosts"]
    assert onboard_inventory(second, []) == second


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("all:\n  hosts: {}\n", "found a file that onboarding did not write"),
        (onboard.HEADER + "all: {}  \n# mine\n", "found a comment in line 4, which would be lost"),
    ],
)
def test_a_file_of_somebody_else_is_left_alone(text: str, said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        onboard_inventory(text, [])


def play(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "ansible",
            "playbook",
            "-i",
            str(inventory),
            "playbooks/onboard.yml",
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "300"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_wish_that_cannot_be_meant_stops_with_all_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {}}\n")
    wrong = json.dumps({"onboard_add": "perhaps", "onboard_adresses": "x"})
    done = play(tmp_path / "hosts.yml", "-e", wrong)
    assert done.returncode == 2
    said = " ".join(done.stdout.split())
    assert "onboard_addresses: found none, expected" in said
    assert "onboard_add: found perhaps, expected ask, true or false" in said
    assert "onboard_file: found none, expected" in said
    assert "found onboard_adresses, which nothing reads; did you mean onboard_addresses?" in said


def test_a_limit_would_leave_out_the_new_hosts_and_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {old01: {}}}\n")
    for limit in ("old01", "old01,localhost"):
        done = play(tmp_path, "-e", "onboard_addresses=127.0.0.8 onboard_port=9", "--limit", limit)
        assert done.returncode == 2
        assert f"--limit {limit} would leave out the new hosts" in " ".join(done.stdout.split())


def test_addresses_that_do_not_answer_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {old01: {ansible_host: 127.0.0.9}}}\n")
    known = tmp_path / "known_hosts"
    arguments = {
        "onboard_addresses": "127.0.0.[8:9],gone.invalid",
        "onboard_port": 9,
        "onboard_known_hosts": str(known),
        "onboard_add": True,
    }
    done = play(tmp_path, "-e", json.dumps(arguments))
    assert done.returncode == 2
    assert "port 9: Connection refused" in done.stdout
    assert "gone.invalid]:9" in done.stdout and "its name does not resolve" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts.yml"]
