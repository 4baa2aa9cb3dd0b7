"""The module host_files: whole files, one call, and commands that an interrupted run does not lose."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.module_utils import small_files
from ansible_collections.torchfleet.gpu.plugins.modules import host_files

Run = Callable[..., dict[str, Any]]
MARKER = "# Ours"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*files: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
        args = {
            "files": [{**file, "path": str(tmp_path / file["path"])} for file in files],
            "state_dir": str(tmp_path / "state"),
            **more,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            host_files.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]

    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    return call


def test_check_mode_foretells_what_is_then_done_once(run: Run, tmp_path: Path) -> None:
    file = {"path": "etc/uv/uv.toml", "content": "# Ours\nx = 1\n", "marker": MARKER}
    foretold = run(file, check=True)
    assert foretold["changed"] and not list(tmp_path.iterdir())
    done = run(file)
    assert done["diff"] == foretold["diff"] and done["diff"][0]["after"] == file["content"]
    target = tmp_path / "etc/uv/uv.toml"
    assert target.read_text() == file["content"] and target.stat().st_mode & 0o777 == 0o644
    assert target.parent.stat().st_mode & 0o777 == 0o755
    assert run(file)["changed"] is False


def test_a_wrong_mode_alone_is_mended_and_shown(run: Run, tmp_path: Path) -> None:
    file = {"path": "x", "content": "x\n", "mode": "0600"}
    (tmp_path / "x").write_text("x\n")
    (tmp_path / "x").chmod(0o666)
    assert run(file)["diff"][0]["after_header"].endswith("(mode 0600 instead of 0666)")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert "expected octal" in run({**file, "mode": "rw"})["msg"]


def test_what_is_somebody_else_s_is_backed_up_and_never_removed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nmine = 1\n")
    absent = {"path": "pip.conf", "marker": MARKER}
    assert run(absent)["changed"] is False
    run({**absent, "content": "# Ours\n"})
    assert [path.read_text() for path in tmp_path.glob("pip.conf.*")] == ["[global]\nmine = 1\n"]
    run({**absent, "content": "# Ours, newer\n"})
    assert len(list(tmp_path.glob("pip.conf.*"))) == 1
    assert run(absent)["changed"] and not (tmp_path / "pip.conf").exists()


def test_strays_are_removed(run: Run, tmp_path: Path) -> None:
    for name in ("torchfleet-a.crt", "torchfleet-b.crt", "own.crt"):
        (tmp_path / name).write_text("x")
    done = run({"path": "torchfleet-a.crt", "content": "x"}, only=[f"{tmp_path}/torchfleet-*.crt"])
    assert done["paths"] == [f"{tmp_path}/torchfleet-b.crt"]
    assert sorted(path.name for path in tmp_path.glob("*.crt")) == ["own.crt", "torchfleet-a.crt"]


def test_a_command_follows_its_files_alone(run: Run, tmp_path: Path) -> None:
    command = {"argv": ["touch", f"{tmp_path}/ran"], "after": [f"{tmp_path}/ca/*"]}
    assert run({"path": "else", "content": "x"}, commands=[command])["ran"] == []
    file = {"path": "ca/x.crt", "content": "x"}
    assert run(file, commands=[command], check=True)["ran"] == [f"touch {tmp_path}/ran"]
    assert not (tmp_path / "ran").exists()
    assert run(file, commands=[command])["ran"] == [f"touch {tmp_path}/ran"]
    assert (tmp_path / "ran").exists()
    assert run(file, commands=[command])["changed"] is False


@pytest.mark.parametrize("point", ["put", "run"])
def test_a_command_that_a_killed_run_did_not_come_to_is_run_by_the_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any) -> None:
        if point == "put":
            real(*args)
        raise Killed

    real = small_files.put
    file = {"path": "ca/x.crt", "content": "x"}
    command = {"argv": ["touch", f"{tmp_path}/ran"], "after": [f"{tmp_path}/ca/*"]}
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(*((small_files, "put") if point == "put" else (host_files, "run")), killed)
        run(file, commands=[command])
    assert (tmp_path / "ca/x.crt").exists() and not (tmp_path / "ran").exists()
    assert run(file, commands=[command])["changed"] and (tmp_path / "ran").exists()
    assert run(file, commands=[command])["changed"] is False


def test_a_command_that_fails_or_lacks_is_tried_again(run: Run, tmp_path: Path) -> None:
    file = {"path": "ca/x.crt", "content": "x"}
    fails = {"argv": ["test", "-e", f"{tmp_path}/ready"], "after": [f"{tmp_path}/ca/*"]}
    failed = run(file, commands=[fails])
    assert failed["failed"] and "ended with status 1" in failed["msg"]
    (tmp_path / "ready").touch()
    assert run(file, commands=[fails])["changed"] and run(file, commands=[fails])["changed"] is False
    lacks = {"argv": ["no-such-command"], "after": [f"{tmp_path}/ca/*"]}
    assert run({**file, "content": "y"}, commands=[lacks])["lacking"] == ["no-such-command"]
    assert run(commands=[lacks])["lacking"] == ["no-such-command"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        small_files.write_whole(tmp_path / "x", "new", 0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "old"
