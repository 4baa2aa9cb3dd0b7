"""Environments with the real conda of the stand-in: what the role made, every state, every fault."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible
import pytest

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "/opt/miniconda3/envs"
ON_HOST = "/opt/torchfleet-trials"
Trial = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def name(host: Any) -> str:
    """Return the host's name in the inventory."""
    return str(host.backend.get_pytest_id().removeprefix("ansible://"))


@pytest.fixture(scope="module")
def lock(host: Any) -> str:
    """Return the lock of the environment with 40 packages, from beside the inventory."""
    return (
        Path(host.backend.ansible_runner.inventory_file).parent / "locks" / "forty-linux-64.lock"
    ).read_text()


@pytest.fixture(scope="module")
def trial(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Put the module on the host, where trials.py runs it as often as it needs to."""
    archive = tmp_path_factory.mktemp("trials") / "trials.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(Path(ansible.__file__).parent / "module_utils", "ansible/module_utils", filter=_python)
        for file in ("ansible/__init__.py",):
            tar.addfile(tarfile.TarInfo(file), io.BytesIO())
        for part in ("modules/conda_env.py", "module_utils"):
            tar.add(
                ROOT / "plugins" / part,
                f"ansible_collections/torchfleet/gpu/plugins/{part}",
                filter=_python,
            )
        tar.add(Path(__file__).with_name("trials.py"), "trials.py")
    done = host.ansible("file", f"path={ON_HOST} state=directory mode=0755", check=False, become=True)
    assert "failed" not in done, done
    done = host.ansible("unarchive", f"src={archive} dest={ON_HOST}", check=False, become=True)
    assert "failed" not in done, done

    def run(what: str, **given: Any) -> dict[str, Any]:
        python = "/opt/miniconda3/bin/python"
        words = [python, f"{ON_HOST}/trials.py", ON_HOST, what, json.dumps(given)]
        # A lock is longer than a command line may be.
        path = f"{ON_HOST}/given.json"
        host.ansible(
            "copy", json.dumps({"content": words[-1] + "\n", "dest": path}), check=False, become=True
        )
        command = " ".join(shlex.quote(word) for word in words[:-1])
        ended = host.run(f'{command} "$(cat {path})"')
        assert ended.rc == 0, ended.stderr
        answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return answer

    return run


def _python(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if member.isdir() or member.name.endswith(".py") else None


def packages(host: Any, prefix: str) -> list[str]:
    listed = host.check_output("ls %s/conda-meta", prefix).split()
    return sorted(one.removesuffix(".json") for one in listed if one.endswith(".json"))


def test_all_hosts_have_the_very_packages_of_the_lock(host: Any, lock: str) -> None:
    wanted = json.loads(lock)
    files = sorted(one["fn"].removesuffix(".conda") for one in wanted["conda"])
    assert packages(host, f"{PREFIX}/forty") == files
    assert len(files) + len(wanted["pip"]) >= 38
    done = host.run(
        "%s/forty/bin/python -c 'import numpy, flask, einops, yaml; print(numpy.__version__)'", PREFIX
    )
    assert done.rc == 0, done.stderr


def test_one_host_solved_for_all(host: Any, lock: str, name: str) -> None:
    made = json.loads(lock)["made"]
    assert made["on"] == "conda01"
    history = host.file(f"{PREFIX}/forty/conda-meta/history").content_string
    assert "--file" in history


def test_the_python_of_a_shared_environment_is_that_of_pytorch(host: Any) -> None:
    assert any(one.startswith("python-3.11.") for one in packages(host, f"{PREFIX}/shared"))


def test_variables_are_set_by_activation(host: Any) -> None:
    done = host.run("bash -lc 'conda run -n analysis printenv HF_ENDPOINT'")
    assert done.stdout.strip() == "https://hf.example", done.stderr


def test_an_owner_s_environment_is_the_owner_s(host: Any) -> None:
    prefix = "/home/admin/.conda/envs/mine"
    assert host.file(prefix).user == "admin"
    assert host.run("find %s ! -user admin | head -1", prefix).stdout == ""
    assert host.run("runuser -u admin -- %s/bin/python -c 'import six'", prefix).rc == 0


@pytest.mark.parametrize("owner", [None, "admin"])
def test_every_state(trial: Trial, owner: str | None, name: str) -> None:
    if name != "conda01":
        pytest.skip("once is enough")
    seen = trial("states", owner=owner)
    changed = {step: one["changed"] for step, one in seen.items() if isinstance(one, dict)}
    assert changed == {
        "present": True,
        "present again": False,
        "frozen": False,
        "latest": True,
        "latest again": False,
        "more": True,
        "exact": True,
        "exact again": False,
        "absent": True,
        "absent again": False,
    }
    assert len(seen["frozen"]["drift"]) == 2
    assert any(one.startswith("six-1.17") for one in seen["latest"]["actions"]["conda"]["link"])
    assert seen["exact"]["actions"]["pip"]["uninstall"] == ["einops==0.8.1"]
    assert any(one.startswith("click-") for one in seen["exact"]["actions"]["conda"]["unlink"])
    assert seen["owner"] == (owner or "root")
    assert seen["own packages work"]
    assert seen["left"] == []


def test_a_kill_at_any_point_loses_nothing(trial: Trial, lock: str, name: str) -> None:
    if name != "conda02":
        pytest.skip("once is enough")
    counted = trial("kill", lock=lock, points=8)
    assert counted["trials"] == 8
    assert counted["in the change"] >= 2, counted
    assert counted["lost"] == 0, counted


@pytest.mark.parametrize(
    ("what", "code", "part"),
    [
        ("disk", "disk", "full"),
        ("mirror", "network", "faults/closed"),
        ("corrupt", "hash", "six-1.16.0"),
    ],
)
def test_a_failed_change_loses_nothing(
    trial: Trial, lock: str, name: str, what: str, code: str, part: str
) -> None:
    if name != "conda02":
        pytest.skip("once is enough")
    seen = trial(what, lock=lock)
    assert seen["lost"] == 0, seen
    assert seen["code"] == code, seen
    assert part in seen["msg"]
    assert seen.get("removed", True)


def test_runs_at_once_take_their_turns(trial: Trial, name: str) -> None:
    if name != "conda02":
        pytest.skip("once is enough")
    assert trial("together") == {"failed": 0, "lost": 0}
