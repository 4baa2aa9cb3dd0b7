"""What a killed, a failed and a full change leave: the environment as it was, counted file by file."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_prefix, conda_snapshot
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_snapshot import Snapshot
from test_conda_env import Host, add_conda, fixture, host, linked

__all__ = ["host"]


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")
    }


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    env = tmp_path / "envs" / "torch"
    add_conda(env, "python-3.11.7-h1_0", "six-1.17.0-0", "numpy-1.26-0")
    (env / "conda-meta" / "history").write_text("==> 2026-11-01 10:00:00 <==\n")
    for number in range(40):
        path = env / "lib" / "deep" / str(number % 4) / f"{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    (env / "bin" / "python3").symlink_to("python")
    (env / "lib" / "dangling").symlink_to("nowhere")
    (env / "lib" / "deep").chmod(0o750)
    return env


def wreck(env: Path) -> None:
    """What a change does: new files, files that are replaced, files that go, a history that grows."""
    with (env / "conda-meta" / "history").open("a") as file:
        file.write("==> later <==\n")
    (env / "conda-meta" / "six-1.17.0-0.json").unlink()
    (env / "lib" / "deep" / "1" / "1.py").unlink()
    (env / "lib" / "deep" / "1" / "1.py").write_text("other")
    shutil.rmtree(env / "lib" / "deep" / "2")
    (env / "lib" / "new").touch()


def test_a_copy_takes_no_space_and_is_put_back_whole(prefix: Path) -> None:
    before = contents(prefix)
    snapshot = Snapshot(str(prefix))
    snapshot.take()
    assert contents(snapshot.path) == before
    assert snapshot.unchanged()
    assert (snapshot.path / "lib" / "deep").stat().st_mode & 0o777 == 0o750
    ours = [path for path in snapshot.path.rglob("*") if path.is_file() and "conda-meta" not in path.parts]
    assert all(path.stat().st_nlink > 1 for path in ours if not path.is_symlink())
    wreck(prefix)
    assert not snapshot.unchanged()
    snapshot.restore()
    assert contents(prefix) == before
    assert not snapshot.leftovers()


def test_what_conda_writes_in_place_is_not_shared(prefix: Path) -> None:
    snapshot = Snapshot(str(prefix))
    snapshot.take()
    with (prefix / "conda-meta" / "history").open("a") as file:
        file.write("more\n")
    assert "more" not in (snapshot.path / "conda-meta" / "history").read_text()
    assert not snapshot.unchanged()


def test_without_hard_links_it_copies(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.EPERM, "protected_hardlinks")

    monkeypatch.setattr(os, "link", refuse)
    before = contents(prefix)
    snapshot = Snapshot(str(prefix))
    snapshot.take()
    wreck(prefix)
    snapshot.restore()
    assert contents(prefix) == before


STEPS = """
import os, sys
sys.path.insert(0, {collections!r})
from pathlib import Path
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_snapshot import Snapshot
count = [0]
def killer(event, arguments):
    if event in ("os.link", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.unlink", "shutil.copyfile"):
        count[0] += 1
        if count[0] == {number}:
            os.kill(os.getpid(), 9)
sys.addaudithook(killer)
snapshot = Snapshot({prefix!r})
snapshot.take()
env = Path({prefix!r})
(env / "conda-meta" / "six-1.17.0-0.json").unlink()
(env / "lib" / "deep" / "1" / "1.py").unlink()
(env / "lib" / "new").mkdir()
snapshot.{end}()
print(count[0])
"""


def killed_at(prefix: Path, number: int, end: str) -> str:
    collections = str(Path(__file__).resolve().parents[2] / "collections")
    program = STEPS.format(collections=collections, prefix=str(prefix), number=number, end=end)
    return subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False
    ).stdout


def recover(prefix: Path) -> None:
    """As every run of the module begins."""
    snapshot = Snapshot(str(prefix))
    if snapshot.pending():
        snapshot.restore()
    snapshot.clear()


@pytest.mark.parametrize("end", ["drop", "restore"])
def test_a_kill_at_any_point_loses_nothing(prefix: Path, tmp_path: Path, end: str) -> None:
    original = contents(prefix)
    pristine = tmp_path / "pristine"
    shutil.copytree(prefix, pristine, symlinks=True)
    steps = int(killed_at(prefix, 0, end))
    changed = contents(prefix)
    assert steps > 60
    assert (changed == original) == (end == "restore")
    outcomes = {"as before": 0, "as changed": 0, "lost": 0}
    for number in range(1, steps + 1, 5):
        shutil.rmtree(prefix, ignore_errors=True)
        shutil.copytree(pristine, prefix, symlinks=True)
        assert killed_at(prefix, number, end) == ""
        recover(prefix)
        now = contents(prefix)
        outcomes["as before" if now == original else "as changed" if now == changed else "lost"] += 1
        assert not Snapshot(str(prefix)).leftovers()
    assert outcomes["lost"] == 0, outcomes
    assert outcomes["as before"] > 0
    if end == "drop":
        # Once the change stands, a kill while the copy is removed does not take it back.
        assert outcomes["as changed"] > 0


def test_the_next_run_puts_back_what_a_killed_run_had_begun(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0", "idna-3.1-0")
    before = contents(host.env())
    snapshot = Snapshot(str(host.env()))
    snapshot.take()
    (host.env() / "conda-meta" / "six-1.17.0-0.json").unlink()
    (host.env() / "lib" / "six.txt").unlink()
    (host.env() / "lib" / "half").touch()
    check = host(check=True, packages=["six"])
    assert check["changed"] is True
    assert snapshot.pending()
    result = host(packages=["six"])
    assert result["changed"] is True
    assert result["reasons"] == [
        "an earlier run was interrupted in a change: the environment is put back as it was"
    ]
    assert host.commands == []  # conda is not needed for it, nor a mirror
    assert contents(host.env()) == before
    assert host.leftovers() == []
    assert host(packages=["six"])["changed"] is False


def test_an_environment_that_was_made_anew_since_is_kept(host: Host) -> None:
    add_conda(host.env(), "six-1.16.0-0")
    history = host.env() / "conda-meta" / "history"
    history.write_text("==> 2026-11-01 10:00:00 <==\n")
    Snapshot(str(host.env())).take()
    shutil.rmtree(host.env())
    add_conda(host.env(), "six-1.17.0-0")
    history.write_text("==> 2026-11-02 09:00:00 <==\n")
    result = host(packages=["six=1.17"])
    assert (result["changed"], host.commands) == (False, [])
    assert host.leftovers() == []


def test_a_copy_of_somebody_else_is_not_believed(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    snapshot = Snapshot(str(host.env()))
    snapshot.take()
    os.chown(snapshot.path, 12345, 12345)
    assert "belongs to user 12345" in host(packages=["six"])["msg"]


def test_a_disk_that_is_full_before_the_change_stops_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    before = contents(host.env())

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    result = host(packages=["idna"])
    assert result["code"] == "disk"
    assert host.commands == []
    assert contents(host.env()) == before
    assert host.leftovers() == []


def test_a_failure_in_the_pip_part_takes_the_conda_part_back(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0", "six-1.16.0-0")
    before = contents(host.env())

    def conda() -> None:
        (host.env() / "conda-meta" / "six-1.16.0-0.json").unlink()
        add_conda(host.env(), "six-1.17.0-0")

    host.answers("{}", effect=conda)
    host.answers(rc=1, stderr="ERROR: No matching distribution found for nosuch")
    result = host(packages=["six=1.17"], pip=["nosuch"])
    assert result["code"] == "not_found"
    assert result["msg"].endswith("The environment was put back as it was.")
    assert contents(host.env()) == before


def test_a_tentative_change_leaves_the_way_back(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    before = contents(host.env())
    host.answers("{}", effect=lambda: add_conda(host.env(), *linked("create")))
    assert host(packages=["wheel"], tentative=True)["changed"] is True
    snapshot = Snapshot(str(host.env()))
    assert snapshot.pending() and contents(snapshot.path) == before
    assert host(packages=["six"])["changed"] is True  # no one has finished it
    assert contents(host.env()) == before and host.leftovers() == []


def test_a_failed_solve_does_not_touch_the_environment(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    inode = host.env().stat().st_ino
    host.answers(fixture("unsat"), rc=1)
    result = host(packages=["conda"])
    assert "put back" not in result["msg"]
    assert host.env().stat().st_ino == inode


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[None]:
    path.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("cannot mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_mount_point_is_changed_in_place_and_its_content_removed(host: Host) -> None:
    with mounted(host.env()):
        add_conda(host.env(), "six-1.17.0-0")
        host.answers("{}", effect=lambda: add_conda(host.env(), *linked("create")))
        assert host(packages=["wheel"])["changed"] is True
        assert not (host.env().parent / ".torchfleet-torch.old").exists()
        assert host(state="absent").get("changed") is True
        assert list(host.env().iterdir()) == []
        assert host(state="absent")["changed"] is False


def test_the_first_line_of_the_history_tells_when_it_was_born(prefix: Path) -> None:
    assert conda_snapshot.born(prefix) == "==> 2026-11-01 10:00:00 <=="
    assert conda_snapshot.born(prefix / "no") == ""
    assert conda_prefix.Prefix(str(prefix)).whole
