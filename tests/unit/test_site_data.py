"""The data of a site: merged over the tables, refused with file and key, and used by whoever reads tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import site_data, tables

ROOT = Path(__file__).resolve().parents[2]
# A generation that is none: one chip, its architecture, and the drivers and torch that it needs.
RUBIN = {
    "pci_gpus.yml": {
        "chips": {"GR999": {"architecture": "Feynman", "capability": "14.0"}},
        "devices": {"3fff": ["GR999", "F100 SXM8", 1]},
    },
    "gpus.yml": {
        "architectures": [
            {
                "name": "Feynman",
                "capabilities": ["14.0"],
                "first_driver": "620",
                "last_branch": None,
                "flavours": ["open"],
                "first_cuda": "13.4",
                "last_cuda": None,
                "source": "the test of the site",
                "confidence": "high",
            }
        ],
        "data_centre": {"names": [r"F100\b"]},
    },
}


def write(site: Path, files: dict[str, Any]) -> Path:
    site.mkdir(exist_ok=True)
    for name, content in files.items():
        path = site / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return site


def merged(site: Path, files: dict[str, Any]) -> dict[str, Any]:
    return site_data.merged(tables.DATA, write(site, files))


def refusal(site: Path, files: dict[str, Any]) -> str:
    with pytest.raises(site_data.SiteDataError) as caught:
        merged(site, files)
    return str(caught.value)


def test_rows_are_added_in_order_and_changed_by_their_names(tmp_path: Path) -> None:
    before = merged(tmp_path / "none", {})
    after = merged(
        tmp_path / "site",
        {
            **RUBIN,
            "drivers.yml": {
                "branches": [
                    {"branch": "600", "kind": None, "eol": None, "source": "redist", "confidence": "low"},
                    {"branch": "580", "eol": "2029-06"},
                ]
            },
        },
    )
    numbers = [row["branch"] for row in after["drivers"]["branches"]]
    assert numbers == sorted([*(row["branch"] for row in before["drivers"]["branches"]), "600"], key=int)
    (old,) = (row for row in before["drivers"]["branches"] if row["branch"] == "580")
    (new,) = (row for row in after["drivers"]["branches"] if row["branch"] == "580")
    assert new == {**old, "eol": "2029-06"}
    assert after["gpus"]["data_centre"]["names"] == [*before["gpus"]["data_centre"]["names"], r"F100\b"]
    assert after["torch"] == before["torch"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"gpu.yml": {}}, "gpu.yml: no table has this name, expected .*; did you mean gpus.yml"),
        ({"gpus.yml": "a: [\n"}, "gpus.yml: neither YAML nor JSON: while parsing"),
        ({"gpus.yml": "- 1\n"}, r"gpus.yml: found \[1\], expected a mapping"),
        ({"gpus.yml": {"architecture": []}}, "gpus.yml: architecture: no such key.*mean architectures"),
        ({"gpus.yml": {"asof": 2027}}, r"gpus.yml: asof: found 2027, expected a text \(quote it\)"),
        (
            {"drivers.yml": {"branches": [{"branch": "630", "kind": None, "source": "", "confidence": ""}]}},
            r"drivers.yml: branches\[630\]\.eol: missing",
        ),
        (
            {"drivers.yml": {"branches": [{"branch": "580", "eof": "2029-06"}]}},
            r"drivers.yml: branches\[580\]\.eof: no such key, .*did you mean eol",
        ),
        ({"drivers.yml": {"branches": [{"eol": None}]}}, r"branches\[0\]: found {'eol': None}, which lacks"),
        ({"torch.yml": {"releases": [{"torch": "2.15.0", "glibc": {"x86_64": 2.28}}]}},
         r"torch.yml: releases\[2.15.0\].glibc.x86_64: found 2.28, expected a text \(quote it\)"),
        ({"torch.yml": {"releases": [{"torch": "2.15.0", "torchvision": "about 1"}]}}, "torch.yml.*about 1"),
        ({"systems.yml": {"nvidia": [{"branch": "580", "version": "581.1"}]}}, "581.1 is not of branch 580"),
        ({"pci_gpus.json": '{"devices": {"3fff": ["GX1", "New", 1]}}'}, "pci_gpus.json: .*GX1"),
        ({"systems.yml": {"systems": [{"ids": {"rocky": "Rocky Linux"}, "version": "9"}]}},
         r"systems.yml: systems\[rocky 9\].glibc: missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_file_and_key(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    text = refusal(tmp_path, files)
    assert f"the data in {tmp_path} are wrong" in text
    assert re.search(said, text), text


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"gpu.yml": {}, "drivers.yml": {"flavour": 1}, "torch.yml": {"asof": None}})
    assert len(text.splitlines()) == 4


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(site_data.SiteDataError, match="found no such directory"):
        site_data.merged(tables.DATA, tmp_path / "gone")


def run(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "TORCHFLEET_DATA": str(site), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )


UTILS = "from ansible_collections.torchfleet.gpu.plugins.plugin_utils import "


def test_the_command_plans_with_them(tmp_path: Path) -> None:
    code = f"{UTILS}cli; raise SystemExit(cli.main())"
    done = run(write(tmp_path, RUBIN), "-c", code, "--gpu", "F100 SXM8", "--json")
    assert json.loads(done.stdout)["gpus"][0]["capability"] == "14.0", done.stderr
    done = run(write(tmp_path, {"gpu.yml": {}}), "-c", code, "--gpu", "F100 SXM8", "--json")
    assert done.returncode == 2
    assert "did you mean gpus.yml" in done.stderr


def test_gpu_facts_knows_which_modules_drive_the_new_gpu(tmp_path: Path) -> None:
    done = run(write(tmp_path, RUBIN), "-c", f"{UTILS}flavours; print(flavours.ranges()[-1])")
    assert "'last': '3fff', 'flavours': ['open']" in done.stdout, done.stderr


def test_the_roles_know_a_new_system_by_the_data_of_the_site(tmp_path: Path) -> None:
    site = write(
        tmp_path / "site",
        {
            "nvidia_driver/gentoo.yml": {"__nvidia_driver_manager": "apt"},
            "nvidia_driver/solus.yml": {"__nvidia_driver_manger": "apt"},
            "mirrors/gentoo.yml": {"__mirrors_ca_bundle": "/etc/ssl/gentoo.pem"},
        },
    )
    hosts: dict[str, Any] = {
        name: {"torchfleet_truth": {"os": {"id": name, "version": "2", "like": [], "name": name.title()}}}
        for name in ("gentoo", "solus")
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    (tmp_path / "play.yml").write_text(
        """
- hosts: all
  gather_facts: false
  vars:
    torchfleet_plan: {driver: {action: install}}
  tasks:
    - ansible.builtin.import_role: {name: torchfleet.gpu.nvidia_driver, tasks_from: os}
    - ansible.builtin.include_role: {name: torchfleet.gpu.mirrors, tasks_from: os, public: true}
    - ansible.builtin.debug: {msg: "{{ __nvidia_driver_manager }} {{ __mirrors_ca_bundle }}"}
"""
    )
    arguments = ("-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml"))
    done = run(site, "-m", "ansible", "playbook", *arguments)
    assert "msg: apt /etc/ssl/gentoo.pem" in done.stdout, done.stdout
    said = " ".join(done.stdout[done.stdout.index("failed: [solus]") :].split())
    assert f"{site}/nvidia_driver/solus.yml: found __nvidia_driver_manger, expected" in said
