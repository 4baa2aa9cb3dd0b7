"""playbooks/onboard.yml with its questions answered at a terminal, and without one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import FLEET, ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]
Talk = Callable[..., tuple[int, str]]
KEYS = r"Type yes to accept the keys of [^\n]*:"
ADD = r"Type yes to add [^\n]*:"
ADMINISTRATORS = "# Ours, by hand.\nall:\n  hosts:\n    old01: {ansible_host: 192.0.2.77}  # the oldest\n"


class Site:
    """An administrator's inventory, and what onboarding is called with."""

    def __init__(self, path: Path, hosts: dict[str, Any]) -> None:
        self.path = path
        self.inventory = path / "inventory"
        self.inventory.mkdir()
        (self.inventory / "hosts.yml").write_text(ADMINISTRATORS)
        (self.inventory / "group_vars").mkdir()
        # The wish, and the key that opens the hosts.
        wish = {
            "ansible_ssh_private_key_file": str(FLEET / "id_ed25519"),
            "pytorch_environments": [],
        }
        (self.inventory / "group_vars" / "all.yml").write_text(yaml.safe_dump(wish))
        self.known_hosts = path / "known_hosts"
        self.at = {name: str(host["ansible_host"]) for name, host in hosts.items()}
        # From the hosts themselves, not over the network.
        lines = (FLEET / "known_hosts").read_text().splitlines()
        self.keys = {line.split()[0]: line.split(" ", 1)[1] for line in lines}

    def command(self, addresses: list[str], **more: Any) -> list[str]:
        given = {
            "onboard_addresses": ",".join(addresses),
            "onboard_user": "admin",
            "onboard_known_hosts": str(self.known_hosts),
            "onboard_timeout": 3,
            **more,
        }
        return [
            "ansible-playbook",
            "-i",
            str(self.inventory),
            "playbooks/onboard.yml",
            "-e",
            json.dumps(given),
        ]

    def onboarded(self) -> Any:
        return yaml.safe_load((self.inventory / "onboarded.yml").read_text())["all"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, hosts: dict[str, Any]) -> Site:
    return Site(tmp_path_factory.mktemp("site"), hosts)


def rows(output: str, *labels: str) -> list[str]:
    """The lines of the table of these addresses."""
    lines = [line.strip() for line in output.splitlines()]
    return [next(line for line in lines if line.startswith(f"{label} ")) for label in labels]


def test_only_a_key_with_the_given_fingerprint_is_accepted(site: Site, run: Run) -> None:
    known, strange = site.path / "other_known_hosts", site.at["strange01"]
    public = site.path / "key.pub"
    public.write_text(site.keys[strange] + "\n")
    fingerprint = subprocess.check_output(["ssh-keygen", "-lf", str(public)], text=True).split()[1]
    given = {"onboard_known_hosts": str(known), "onboard_fingerprints": [fingerprint], "onboard_add": True}
    done = run(*site.command([site.at["login01"], strange], **given))
    assert known.read_text() == f"{strange} {site.keys[strange]}\n"
    told = rows(done.stdout, site.at["login01"], strange)
    assert told[0].endswith("was not accepted") and "no system that is supported" in told[1]


def test_a_key_that_changed_is_never_accepted(site: Site, run: Run) -> None:
    known, strange = site.path / "wrong_known_hosts", site.at["strange01"]
    # Another host's key under this address: a man in the middle, or an installation from anew.
    line = f"{strange} {site.keys[site.at['login01']]}\n"
    known.write_text(line)
    done = run(*site.command([strange], onboard_known_hosts=str(known), onboard_add=True))
    assert done.returncode == 2
    assert f"ssh-keygen -R '{strange}'" in done.stdout
    assert known.read_text() == line


def test_without_a_terminal_it_shows_and_learns_nothing(site: Site, run: Run) -> None:
    done = run(*site.command([site.at["login01"]]))
    assert done.returncode == 2
    assert "ssh-ed25519 SHA256:" in done.stdout
    (row,) = rows(done.stdout, site.at["login01"])
    assert row.endswith("its host key is not known, and was not accepted")
    assert not site.known_hosts.exists()


def test_a_no_to_the_keys_learns_none(site: Site, talk: Talk) -> None:
    status, said = talk(*site.command([site.at["login01"]]), answers=[(KEYS, "no")])
    assert (status, site.known_hosts.exists()) == (2, False)
    assert rows(said, site.at["login01"])[0].endswith("was not accepted")


def test_a_yes_to_the_keys_and_a_no_to_the_hosts_adds_none(site: Site, talk: Talk) -> None:
    status, said = talk(*site.command([site.at["login01"]]), answers=[(KEYS, "yes"), (ADD, "y")])
    assert status == 0, said
    known = site.known_hosts.read_text().splitlines()
    assert known and all(line.startswith(f"{site.at['login01']} ") for line in known)
    assert f"{site.at['login01']} {site.keys[site.at['login01']]}" in known
    assert not (site.inventory / "onboarded.yml").exists()


def test_typed_yes_adds_the_hosts_and_tells_the_others_apart(site: Site, talk: Talk) -> None:
    future, login, strange = (site.at[name] for name in ("future01", "login01", "strange01"))
    addresses = [future, f"{future}:2222", login, strange, "192.0.2.77", "gone.invalid", f"{login}:9"]
    status, said = talk(*site.command(addresses), answers=[(KEYS, "yes"), (ADD, "yes")])
    told = rows(
        said, future, f"[{future}]:2222", login, strange, "192.0.2.77", "gone.invalid", f"[{login}]:9"
    )
    assert told[0].split()[1:3] == ["future01", "gpu"] and told[0].endswith(" 2 x unknown  new")
    assert told[1].endswith(f"the same machine as {future}")
    assert told[2].split()[1:3] == ["login01", "cpu"] and told[2].endswith(" new")
    assert "Mandrake Linux 9.1 (Bamboo) is no system that is supported" in told[3]
    assert told[4].endswith("in the inventory as old01")
    assert told[5].endswith("its name does not resolve")
    assert told[6].endswith("port 9: Connection refused")
    # The plan under the present wish, and the fault of it.
    assert "unknown GPU" in said or "fff0" in said
    assert status == 2, "addresses that were left out are a failure"
    hosts = site.onboarded()["hosts"]
    assert {name: host["ansible_host"] for name, host in hosts.items()} == {
        "future01": future,
        "login01": login,
    }
    assert all(host["ansible_user"] == "admin" and host["torchfleet_machine_id"] for host in hosts.values())
    assert site.onboarded()["children"] == {
        "cpu": {"hosts": {"login01": {}}},
        "gpu": {"hosts": {"future01": {}}},
    }
    assert (site.inventory / "hosts.yml").read_text() == ADMINISTRATORS


def test_the_new_hosts_can_be_used_at_once(site: Site, run: Run) -> None:
    done = run("ansible", "-i", str(site.inventory), "gpu:cpu", "-m", "ansible.builtin.ping")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("pong") == 2


def test_a_second_run_adds_nothing_and_asks_nothing(site: Site, run: Run) -> None:
    before = (site.inventory / "onboarded.yml").read_bytes(), site.known_hosts.read_bytes()
    done = run(*site.command([site.at["future01"], site.at["login01"]], onboard_add=True))
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout
    assert rows(done.stdout, site.at["login01"])[0].endswith("in the inventory as login01")
    # And a machine that is there is known at another address.
    done = run(*site.command([f"{site.at['future01']}:2222"], onboard_add=True))
    assert "in the inventory as future01, at another address" in done.stdout
    assert before == ((site.inventory / "onboarded.yml").read_bytes(), site.known_hosts.read_bytes())


def test_a_name_that_is_taken_is_refused_until_another_is_given(site: Site, run: Run) -> None:
    data = {"TORCHFLEET_DATA": str(site.path / "data")}
    write_data(site.path / "data")
    strange = site.at["strange01"]
    done = run(*site.command([strange], onboard_add=True), **data)
    assert "the inventory has another address for login01; name it: onboard_names=" in done.stdout
    named = site.command([strange], onboard_add=True, onboard_names={strange: "strange01"})
    foretold = run(*named, "--check", **data)
    assert foretold.returncode == 0, foretold.stdout
    assert "strange01" not in site.onboarded()["hosts"]
    done = run(*named, **data)
    assert done.returncode == 0, done.stdout
    assert set(site.onboarded()["hosts"]) == {"future01", "login01", "strange01"}


def write_data(folder: Path) -> None:
    """The system of strange01, as docs/extending.md adds it."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    block = text.split("# torchfleet_data/systems.yml\n")[1].split("```")[0]
    folder.mkdir()
    (folder / "systems.yml").write_text(block)
