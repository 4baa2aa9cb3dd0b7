"""The module verified_state: what was proven, as it is on the disk, the newest first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.modules import verified_state

Run = Callable[..., dict[str, Any]]
DRIVER = {"version": "535.261.03", "flavour": "proprietary", "branch": "535"}
URL = "https://mirror.example/anaconda/pkgs/main/linux-64/python-3.11.7-h1_0.conda"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An environment as conda and pip leave it."""
    place = tmp_path / "envs/torch"
    (place / "conda-meta").mkdir(parents=True)
    (place / "conda-meta/history").touch()
    record = {"name": "python", "version": "3.11.7", "build": "h1_0", "url": URL, "md5": "0" * 32}
    (place / "conda-meta/python-3.11.7-h1_0.json").write_text(json.dumps({**record, "files": []}))
    dist(place, "2.7.1+cpu")
    return place


def dist(place: Path, version: str) -> None:
    site = place / "lib/python3.11/site-packages"
    for old in site.glob("torch-*"):
        shutil.rmtree(old)
    info = site / f"torch-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n\n")
    (info / "RECORD").touch()


@pytest.fixture
def run(
    tmp_path: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    def call(check: bool = False, **more: Any) -> dict[str, Any]:
        row = {"name": "torch", "prefix": str(prefix), "python": "3.11", "torch": "2.7.1", "variant": "cpu"}
        args = {
            "path": str(tmp_path / "lib/verified.json"),
            "driver": DRIVER,
            "environments": [row],
            **more,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            verified_state.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]

    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    return call


def kept(tmp_path: Path) -> list[dict[str, Any]]:
    return list(json.loads((tmp_path / "lib/verified.json").read_text())["states"])


def test_every_package_is_kept_as_it_is_on_the_disk(run: Run, tmp_path: Path) -> None:
    assert run(check=True)["changed"] and not (tmp_path / "lib").exists()
    assert run()["changed"]
    (state,) = kept(tmp_path)
    assert state["driver"] == DRIVER
    (environment,) = state["environments"]
    assert environment["conda"] == [f"{URL}#{'0' * 32}"]
    assert environment["pip"] == {"torch": "2.7.1+cpu"}


def test_the_same_again_is_no_change_and_another_is_the_first(run: Run, tmp_path: Path, prefix: Path) -> None:
    run()
    assert not run()["changed"]
    dist(prefix, "2.6.0+cpu")
    assert run()["changed"]
    assert [state["environments"][0]["pip"]["torch"] for state in kept(tmp_path)] == [
        "2.6.0+cpu",
        "2.7.1+cpu",
    ]


def test_the_oldest_goes(run: Run, tmp_path: Path) -> None:
    for branch in ("470", "535", "580"):
        run(driver={**DRIVER, "branch": branch}, keep=2)
    assert [state["driver"]["branch"] for state in kept(tmp_path)] == ["580", "535"]


def test_an_environment_with_a_package_of_nowhere_has_no_list(run: Run, tmp_path: Path, prefix: Path) -> None:
    record = {"name": "own", "version": "1", "build": "0", "files": []}
    (prefix / "conda-meta/own-1-0.json").write_text(json.dumps(record))
    run()
    assert kept(tmp_path)[0]["environments"][0]["conda"] == []


def test_other_environments_are_kept_where_they_can_be_read(run: Run, tmp_path: Path, prefix: Path) -> None:
    for name in ("analysis", "broken"):
        shutil.copytree(prefix, prefix.parent / name)
    (prefix.parent / "broken/conda-meta/python-3.11.7-h1_0.json").write_text("{")
    names = ("analysis", "broken", "missing")
    run(others=[{"name": name, "prefix": str(prefix.parent / name)} for name in names])
    proven, analysis = kept(tmp_path)[0]["environments"]
    assert (proven["name"], analysis["name"], "torch" in analysis) == ("torch", "analysis", False)
    assert analysis["conda"] == [f"{URL}#{'0' * 32}"]


@pytest.mark.parametrize("text", ["", "{", '{"schema": 9, "states": []}', "[]"])
def test_a_file_that_cannot_be_read_is_begun_anew(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/verified.json").write_text(text)
    assert run()["changed"] and len(kept(tmp_path)) == 1


def test_what_cannot_be_read_is_named(run: Run, prefix: Path) -> None:
    (prefix / "conda-meta/python-3.11.7-h1_0.json").write_text("{")
    assert "run the role conda_envs again" in run()["msg"]
