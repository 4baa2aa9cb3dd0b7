"""conda_env on prefixes made on disk; what it starts is replaced by what the recorded runs did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_prefix
from ansible_collections.torchfleet.gpu.plugins.modules import conda_env

FIXTURES = Path(__file__).parent / "fixtures" / "conda_env"
Result = dict[str, Any]


def fixture(name: str) -> str:
    return (FIXTURES / f"{name}.json").read_text()


def add_conda(prefix: Path, *dists: str, channel: str = "https://x/pkgs/main/linux-64") -> None:
    meta = prefix / "conda-meta"
    meta.mkdir(parents=True, exist_ok=True)
    (meta / "history").touch()
    for dist in dists:
        name, version, build = dist.rsplit("-", 2)
        path = prefix / "lib" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        record = {"name": name, "version": version, "build": build, "url": f"{channel}/{dist}.conda"}
        (meta / f"{dist}.json").write_text(json.dumps({**record, "files": [f"lib/{name}.txt"]}))
        if name == "python":
            (prefix / "bin").mkdir(exist_ok=True)
            (prefix / "bin" / "python").write_text("#!/bin/sh\n")
            (prefix / "bin" / "python").chmod(0o755)
            site_packages(prefix, version).mkdir(parents=True, exist_ok=True)
    if any((prefix / "lib").glob("python3.*")):
        for dist in dists:
            name, version, _ = dist.rsplit("-", 2)
            if name in ("pip", "six"):
                add_dist(prefix, name, version, installer="conda")


def site_packages(prefix: Path, version: str = "3.11") -> Path:
    return prefix / "lib" / f"python{'.'.join(version.split('.')[:2])}" / "site-packages"


def add_dist(prefix: Path, name: str, version: str, installer: str = "pip") -> Path:
    (directory,) = (prefix / "lib").glob("python3.*/site-packages")
    info = directory / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text(f"{installer}\n")
    (directory / f"{name}.py").touch()
    (info / "RECORD").write_text(f"{name}.py,sha256=x,0\n__pycache__/{name}.pyc,,\n")
    return info


class Exit(Exception):
    pass


class Host:
    """Runs the module in this process, with a stand-in for what it starts."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base = root / "conda"
        self.commands: list[list[str]] = []
        self.results: list[tuple[int, str, str]] = []
        self.effects: list[Callable[[], object]] = []
        self.umasks: list[Any] = []
        self.environments: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self.monkeypatch = monkeypatch
        self.uv: str | None = None
        (self.base / "bin").mkdir(parents=True)
        (self.base / "bin" / "conda").write_text("#!/bin/sh\nexit 99\n")
        (self.base / "bin" / "conda").chmod(0o755)

    def env(self, name: str = "torch") -> Path:
        return self.base / "envs" / name

    def journal(self, name: str = "torch") -> Path:
        return self.base / "envs" / f".torchfleet-{name}.json"

    def leftovers(self, name: str = "torch") -> list[str]:
        lock = f".torchfleet-{name}.lock"
        found = self.env(name).parent.glob(f".torchfleet-{name}.*")
        return sorted(path.name for path in found if path.name != lock)

    def interrupt(self, operation: str, name: str = "torch") -> None:
        self.journal(name).parent.mkdir(parents=True, exist_ok=True)
        self.journal(name).write_text(json.dumps({"operation": operation}))

    def answers(
        self, stdout: str = "", *, rc: int = 0, stderr: str = "", effect: Callable[[], object] | None = None
    ) -> None:
        self.results.append((rc, stdout, stderr))
        self.effects.append(effect or (lambda: None))

    def run_command(self, command: list[str], **options: Any) -> tuple[int, str, str]:
        assert Path(command[0]).name == "timeout"
        assert all(isinstance(word, str) for word in command)
        self.commands.append(command[3:])
        self.umasks.append(options.get("umask"))
        self.environments.append(options["environ_update"])
        assert self.results, f"unexpected command {command}"
        self.effects.pop(0)()
        return self.results.pop(0)

    def __call__(self, check: bool = False, **options: Any) -> Result:
        arguments = {"name": "torch", "conda_prefix": str(self.base), **options}
        arguments = {key: value for key, value in arguments.items() if value is not None}
        arguments.update({"_ansible_check_mode": check, "_ansible_diff": True})
        result: Result = {}

        def leave(module: Any, **given: Any) -> None:
            result.update(given)
            raise Exit

        def fail(module: Any, msg: str, **given: Any) -> None:
            result.update(given, msg=msg, failed=True)
            raise Exit

        patches: dict[str, Any] = {
            "exit_json": leave,
            "fail_json": fail,
            "run_command": lambda module, command, **rest: self.run_command(command, **rest),
            "warn": lambda module, text: self.warnings.append(text),
            "get_bin_path": lambda module, name, **rest: self.uv if name == "uv" else f"/usr/bin/{name}",
        }
        for name, function in patches.items():
            self.monkeypatch.setattr(basic.AnsibleModule, name, function)
        with patch_module_args(arguments), pytest.raises(Exit):
            conda_env.main()
        assert not self.results, f"commands that were not run: {self.results}"
        return result


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    for variable in (
        *conda_env._UNWANTED_ENVIRONMENT,
        *(name for name in os.environ if name.startswith(("PIP_", "UV_"))),
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    return Host(tmp_path, monkeypatch)


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


def linked(name: str) -> list[str]:
    return [one["dist_name"] for one in json.loads(fixture(name))["actions"]["LINK"]]


# -- nothing to do


def test_a_converged_environment_starts_nothing_and_writes_nothing(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "numpy-1.26.4-py311_0")
    add_dist(host.env(), "torch", "2.13.0+cpu")
    before = snapshot(host.base)
    for check in (False, True):
        result = host(check=check, python="3.11", packages=["numpy>=1.26,<2"], pip=["Torch==2.13.0"])
        assert (result["changed"], result["reasons"], host.commands) == (False, [], [])
        assert result["diff"]["before"] == result["diff"]["after"]
    assert snapshot(host.base) == before


def test_absent_where_nothing_is(host: Host) -> None:
    assert host(state="absent")["changed"] is False
    assert not host.env().parent.exists()


# -- creating


def test_create(host: Host) -> None:
    host.answers(fixture("create"), effect=lambda: add_conda(host.env(), *linked("create")))
    result = host(python="3.11", packages=["wheel"], channels=["https://x/main", "conda-forge"])
    assert host.commands == [
        [
            *(str(host.base / "bin" / "conda"), "create", "-p", str(host.env()), "-y", "-q", "--json"),
            *("--override-channels", "-c", "https://x/main", "-c", "conda-forge", "python=3.11", "wheel"),
        ]
    ]
    assert result["changed"] is True
    assert result["reasons"] == [f"{host.env()} does not exist"]
    assert result["actions"]["conda"]["link"] == sorted(linked("create"))
    assert result["diff"]["before"] == ""
    assert "conda python 3.11.7 h0pyenv_0_cp311\n" in result["diff"]["after"]
    assert not host.journal().exists()
    assert host.umasks == [0o022]


def test_a_failed_create_leaves_nothing(host: Host) -> None:
    def half() -> None:
        assert json.loads(host.journal().read_text())["operation"] == "create"
        assert host.journal().stat().st_mode & 0o777 == 0o600
        (host.env() / "conda-meta").mkdir(parents=True)
        (host.env() / "conda-meta" / "history").touch()  # conda 24.7.1 does so when the disk is full

    host.answers(fixture("notfound"), rc=1, effect=half)
    result = host(packages=["nosuchpkg"])
    assert result["code"] == "not_found"
    assert result["msg"].startswith(
        f"environment torch ({host.env()}): conda create: nosuchpkg not found in defaults"
    )
    assert not host.env().exists()
    assert not host.journal().exists()


def test_status_0_without_work_is_a_failure(host: Host) -> None:
    host.answers("Exiting.\n")
    assert host(packages=["six"])["code"] == "not_converged"


def test_pip_packages_bring_python_and_pip(host: Host) -> None:
    host.answers(fixture("create"), effect=lambda: add_conda(host.env(), *linked("create")))
    host.answers("Successfully installed", effect=lambda: add_dist(host.env(), "idna", "3.20"))
    result = host(pip=["idna"])
    assert host.commands[0][-2:] == ["python", "pip"]
    assert host.commands[1] == [
        *(
            str(host.env() / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
        ),
        *("--", "idna"),
    ]
    assert result["installer"] == "pip"
    assert result["actions"]["pip"]["install"] == ["idna==3.20"]
    assert result["reasons"][-1] == "idna is not installed"


# -- changing


def test_only_what_is_missing_is_asked_for(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "numpy-1.26.4-py311_0")

    def effect() -> None:
        (host.env() / "conda-meta" / "numpy-1.26.4-py311_0.json").unlink()
        add_conda(host.env(), "numpy-2.1.0-py311_0")

    host.answers('{"success": true}', effect=effect)
    result = host(python="3.11", packages=["numpy>=2"])
    assert host.commands[0][1:] == ["install", "-p", str(host.env()), "-y", "-q", "--json", "numpy>=2"]
    assert result["reasons"] == ["numpy 1.26.4 py311_0 does not satisfy numpy>=2"]
    assert result["actions"]["conda"] == {"link": ["numpy-2.1.0-py311_0"], "unlink": ["numpy-1.26.4-py311_0"]}
    assert "conda numpy 1.26.4 py311_0" in result["diff"]["before"]
    assert "conda numpy 2.1.0 py311_0" in result["diff"]["after"]


def test_a_named_package_that_the_solver_moved_is_moved_back(host: Host) -> None:
    add_conda(host.env(), "six-1.16.0-0")

    def first() -> None:
        (host.env() / "conda-meta" / "six-1.16.0-0.json").unlink()
        add_conda(host.env(), "idna-3.1-0", "six-1.17.0-0")

    def second() -> None:
        (host.env() / "conda-meta" / "six-1.17.0-0.json").unlink()
        add_conda(host.env(), "six-1.16.0-0")

    host.answers("{}", effect=first)
    host.answers("{}", effect=second)
    host(packages=["six=1.16", "idna"])
    assert [command[7:] for command in host.commands] == [["idna"], ["six=1.16", "idna"]]


def test_what_only_conda_can_tell_is_left_to_conda(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    host.answers(fixture("install"))
    result = host(packages=["conda-forge::six"])
    assert (result["changed"], result["reasons"]) == (False, [])


def test_a_failed_change_leaves_the_environment_and_no_doubt(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    before = snapshot(host.env())
    host.answers(fixture("unsat"), rc=1)
    assert host(packages=["conda"])["code"] == "conflict"
    assert snapshot(host.env()) == before
    assert not host.journal().exists()


def test_a_full_disk_is_taken_back(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    before = {name: content for name, (_, content) in snapshot(host.env()).items()}

    def effect() -> None:
        (host.env() / "conda-meta" / "six-1.17.0-0.json").unlink()
        (host.env() / "lib" / "six.txt").unlink()
        (host.env() / "half").touch()

    full = json.dumps({"exception_name": "OSError", "message": "[Errno 28] No space left on device"})
    host.answers(full, rc=1, effect=effect)
    result = host(packages=["conda"])
    assert result["code"] == "disk"
    assert result["msg"].endswith("The environment was put back as it was.")
    assert {name: content for name, (_, content) in snapshot(host.env()).items()} == before
    assert host.leftovers() == []


# -- sources of pip


SOURCES = [
    {"name": "site", "find_links": ["https://wheels.example.org/"]},
    {"name": "nju", "index_url": "https://u:secret@mirror.nju.edu.cn/whl/cpu"},
]


def test_the_next_source_is_tried_and_the_failed_one_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0")
    host.answers(rc=1, stderr=(FIXTURES / "pip-nover.txt").read_text())
    host.answers(effect=lambda: add_dist(host.env(), "torch", "2.13.0+cpu"))
    result = host(pip=["torch==2.13.0+cpu"], pip_sources=SOURCES)
    assert result["changed"] is True
    assert host.commands[0][-4:] == ["--find-links", "https://wheels.example.org/", "--", "torch==2.13.0+cpu"]
    assert "--index-url" in host.commands[1]
    (warning,) = host.warnings
    assert "nju was used; site: Could not find a version" in warning


def test_every_source_that_failed_is_named_without_its_password(host: Host) -> None:
    host.answers(fixture("create"), effect=lambda: add_conda(host.env(), *linked("create")))
    host.answers(rc=1, stderr=(FIXTURES / "pip-nover.txt").read_text())
    host.answers(rc=1, stderr="error: Failed to fetch: https://u:secret@mirror.nju.edu.cn/whl/cpu/torch/")
    result = host(pip=["torch"], pip_sources=SOURCES)
    assert result["code"] == "network"
    assert "1) site: Could not find a version" in result["msg"]
    assert "2) nju: Failed to fetch: https://***@mirror.nju.edu.cn" in result["msg"]
    assert "Done before: the conda part" in result["msg"]
    assert "secret" not in json.dumps(result)
    # The conda part is whole: the next run goes on from there.
    assert conda_prefix.Prefix(str(host.env())).whole
    assert not host.journal().exists()


def test_a_full_disk_is_not_tried_on_the_next_source(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0")
    host.answers(rc=1, stderr="ERROR: [Errno 28] No space left on device")
    assert host(pip=["torch"], pip_sources=SOURCES)["code"] == "disk"


def test_uv_gets_the_configuration_of_pip(host: Host, tmp_path: Path) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0")
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://tuna/simple\nfind-links = /wheels\n"
    )
    host.uv = "/usr/bin/uv"
    host.answers(effect=lambda: add_dist(host.env(), "torch", "2.13.0", "uv"))
    result = host(pip=["torch"], cache_dir="/data/cache")
    assert host.commands == [
        [
            *(
                "/usr/bin/uv",
                "pip",
                "install",
                "--no-progress",
                "--python",
                str(host.env() / "bin" / "python"),
            ),
            *("--cache-dir", "/data/cache", "--index-url", "https://tuna/simple", "--find-links", "/wheels"),
            *("--", "torch"),
        ]
    ]
    assert result["installer"] == "uv"


def test_uv_takes_the_index_that_a_source_leaves_out_from_pip(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0")
    monkeypatch.setenv("PIP_INDEX_URL", "https://tuna/simple")
    host.uv = "/usr/bin/uv"
    host.answers(effect=lambda: add_dist(host.env(), "torch", "2.13.0", "uv"))
    host(pip=["torch"], pip_sources=SOURCES[:1])
    assert host.commands[0][-7:] == [
        *("--index-url", "https://tuna/simple", "--find-links", "https://wheels.example.org/"),
        *("--no-config", "--", "torch"),
    ]


def test_uv_that_is_not_there(host: Host) -> None:
    assert host(pip=["torch"], pip_installer="uv")["code"] == "bad_input"
    assert host(pip=["torch"], uv="/nonexistent/uv")["code"] == "bad_input"


# -- check mode


def test_check_mode_before_conda_is_installed(host: Host, tmp_path: Path) -> None:
    missing = tmp_path / "miniconda3"
    result = host(check=True, conda_prefix=str(missing), python="3.11", pip=["torch==2.13.0+cpu"])
    assert result["changed"] is True
    assert f"conda is not installed at {missing} yet" in result["reasons"]
    assert result["actions"]["conda"]["link"] == ["python=3.11", "pip"]
    assert result["actions"]["pip"]["install"] == ["torch==2.13.0+cpu"]
    assert not missing.exists()
    real = host(conda_prefix=str(missing), python="3.11")
    assert real["code"] == "no_conda"
    # Nothing may lie where the installer of conda will work.
    assert not missing.exists()


def test_check_mode_solves_and_writes_nothing(host: Host) -> None:
    before = snapshot(host.base)
    host.answers(fixture("create-dry"))
    result = host(check=True, python="3.12", packages=["six"], pip=["idna"])
    assert "--dry-run" in host.commands[0]
    assert result["changed"] is True
    assert result["actions"]["conda"]["link"] == sorted(linked("create-dry"))
    assert "conda python 3.12.1 h0pyenv_0_cp312\n" in result["diff"]["after"]
    assert "pip idna\n" in result["diff"]["after"]
    assert snapshot(host.base) == before


def test_check_mode_of_a_change(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0", "six-1.16.0-0")
    before = snapshot(host.base)
    host.answers(fixture("install-dry"))
    host.answers((FIXTURES / "pip-dry.txt").read_text())
    result = host(check=True, packages=["six>=1.17"], pip=["requests==2.31.0"])
    assert result["changed"] is True
    assert "requests==2.31.0" in result["actions"]["pip"]["install"]
    assert host.commands[1][:4] == [str(host.env() / "bin" / "python"), "-m", "pip", "install"]
    assert "--dry-run" in host.commands[1]
    assert snapshot(host.base) == before


def test_check_mode_asks_conda_where_only_conda_can_tell(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    host.answers(fixture("install"))
    assert host(check=True, packages=["conda-forge::six"])["changed"] is False


def test_check_mode_names_the_failure_of_the_solve(host: Host) -> None:
    host.answers(fixture("notfound"), rc=1)
    assert host(check=True, packages=["nosuchpkg"])["code"] == "not_found"


def test_check_mode_of_absent(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    before = snapshot(host.base)
    result = host(check=True, state="absent")
    assert result["changed"] is True
    assert result["actions"]["conda"]["unlink"] == ["six-1.17.0-0"]
    assert result["diff"]["after"] == ""
    assert snapshot(host.base) == before


# -- absent


def test_absent(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    (host.env() / "notes.txt").touch()
    known = Path(os.environ["HOME"], ".conda", "environments.txt")
    known.parent.mkdir()
    known.write_text(f"/other\n{host.env()}\n")
    result = host(state="absent")
    # Without conda: a rename takes it away at once, and needs no space on the disk.
    assert host.commands == []
    assert result["changed"] is True
    assert result["actions"]["conda"]["unlink"] == ["six-1.17.0-0"]
    assert not host.env().exists()
    assert host.leftovers() == []
    assert known.read_text() == "/other\n"
    assert host(state="absent")["changed"] is False


@pytest.mark.parametrize("state", ["present", "absent", "exact"])
def test_an_environment_that_its_owner_froze_is_kept(host: Host, state: str) -> None:
    add_conda(host.env(), "six-1.17.0-0", "mine-1.0-0")
    (host.env() / "conda-meta" / "frozen").touch()
    before = snapshot(host.env())
    assert host(state=state, packages=["idna"])["code"] == "frozen"
    assert snapshot(host.env()) == before
    assert host(packages=["six"])["changed"] is False


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_directory_that_is_no_environment_is_not_touched(host: Host, state: str) -> None:
    host.env().mkdir(parents=True)
    (host.env() / "thesis.tex").write_text("dear")
    for check in (True, False):
        result = host(check=check, state=state, packages=["six"])
        assert result["code"] == "not_an_environment"
        assert "Remove it, move it away or name another prefix" in result["msg"]
    assert (host.env() / "thesis.tex").read_text() == "dear"


def test_a_tree_of_mount_points_is_not_touched(host: Host) -> None:
    (host.env() / "data").mkdir(parents=True)
    assert host(state="absent")["code"] == "not_an_environment"
    assert (host.env() / "data").is_dir()


def test_absent_does_not_follow_a_link(host: Host, tmp_path: Path) -> None:
    add_conda(tmp_path / "real", "six-1.17.0-0")
    host.env().parent.mkdir()
    host.env().symlink_to(tmp_path / "real")
    assert host(state="absent")["code"] == "not_an_environment"
    assert (tmp_path / "real" / "conda-meta" / "history").exists()


# -- interruptions


def test_an_interrupted_create_is_made_again(host: Host) -> None:
    (host.env() / "conda-meta").mkdir(parents=True)
    (host.env() / "conda-meta" / "six-1.17.0-0.json").write_text("{}")
    (host.env() / "leftover").touch()
    host.interrupt("create")

    def effect() -> None:
        assert not host.env().exists()
        add_conda(host.env(), *linked("create"))

    host.answers(fixture("create"), effect=effect)
    result = host(packages=["wheel"])
    assert result["changed"] is True
    assert result["reasons"][0] == "an earlier run was interrupted during its create"
    assert not (host.env() / "leftover").exists()
    assert not host.journal().exists()


@pytest.mark.parametrize("inside", ["", "conda-meta"])
def test_an_empty_directory_is_debris(host: Host, inside: str) -> None:
    (host.env() / inside).mkdir(parents=True)
    host.answers(fixture("create"), effect=lambda: add_conda(host.env(), *linked("create")))
    assert host(packages=["wheel"])["changed"] is True


def test_an_environment_made_by_hand_after_an_interruption_is_kept(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0", "mine-1.0-0")
    host.interrupt("create")
    host.answers(fixture("install"))
    host(packages=["six"])
    assert host.commands[0][1] == "install"
    assert (host.env() / "lib" / "mine.txt").exists()


def test_an_interrupted_install_is_looked_through_and_mended(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0", "idna-3.1-0", "xz-5.0-0")
    (host.env() / "lib" / "xz.txt").unlink()
    (host.env() / "conda-meta" / "idna-3.1-0.json").write_text('{"name": "id')  # a power loss
    host.interrupt("install")

    def effect() -> None:
        add_conda(host.env(), "xz-5.0-0", "idna-3.1-0")

    host.answers(fixture("install"), effect=effect)
    result = host(packages=["six", "idna"])
    assert host.commands[0][7:] == ["--force-reinstall", "xz=5.0=0", "six", "idna"]
    assert result["changed"] is True
    assert "files are missing of xz=5.0=0" in result["reasons"]
    assert not host.journal().exists()
    assert host(packages=["six", "idna"])["changed"] is False


def test_a_mend_is_a_change_though_the_packages_are_the_same(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    (host.env() / "lib" / "six.txt").unlink()
    host.interrupt("install")
    host.answers(fixture("install"), effect=lambda: add_conda(host.env(), "six-1.17.0-0"))
    result = host(packages=["six"])
    assert result["changed"] is True
    assert "files are missing of six=1.17.0=0" in result["reasons"]

    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0")
    torch = add_dist(host.env(), "torch", "2.13.0")
    (torch.parent / "torch.py").unlink()
    host.interrupt("pip")
    host.answers(effect=lambda: add_dist(host.env(), "torch", "2.13.0"))
    result = host(pip=["torch"])
    assert result["changed"] is True
    assert "files are missing of torch 2.13.0" in result["reasons"]


def test_a_mend_that_fails_keeps_the_doubt(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    host.interrupt("install")
    host.answers(fixture("chan-refused"), rc=1)
    assert host(packages=["six"])["code"] == "network"
    assert host.journal().exists()


def test_an_interrupted_pip_is_looked_through_and_mended(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0")
    add_dist(host.env(), "torch", "2.13.0+cpu")
    (site_packages(host.env()) / "torch.py").unlink()
    (add_dist(host.env(), "sympy", "1.14") / "RECORD").unlink()
    (site_packages(host.env()) / "~umpy-1.0.dist-info").mkdir()
    host.interrupt("pip")
    host.answers(
        effect=lambda: ((add_dist(host.env(), "torch", "2.13.0+cpu"), add_dist(host.env(), "sympy", "1.14")))
    )
    result = host(pip=["torch==2.13.0"])
    assert host.commands[0][-3:] == ["--", "torch==2.13.0", "sympy==1.14"]
    assert "files are missing of torch 2.13.0+cpu" in result["reasons"]
    assert host(pip=["torch==2.13.0"])["changed"] is False


def test_an_interrupted_removal_is_finished(host: Host) -> None:
    trash = host.env().parent / ".torchfleet-torch.trash"
    add_conda(trash, "six-1.17.0-0")
    assert host(state="absent")["changed"] is False
    assert not trash.exists()
    add_conda(trash, "six-1.17.0-0")
    host.answers(fixture("create"), effect=lambda: add_conda(host.env(), *linked("create")))
    host(packages=["wheel"])
    assert host.commands[0][1] == "create"
    assert not trash.exists()


def test_a_journal_of_somebody_else_is_not_believed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    host.interrupt("create")
    os.chown(host.journal(), 12345, 12345)
    assert "belongs to user 12345" in host(packages=["six"])["msg"]


# -- locks, with real processes


HOLDER = """
import sys, time
sys.path.insert(0, {collections!r})
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import locked
import subprocess
with locked({prefix!r}, 0) as descriptor:
    if {child!r}:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
        print(child.pid, flush=True)
    print("held", flush=True)
    time.sleep(60)
"""


def holder(prefix: Path, child: bool = False) -> Iterator[subprocess.Popen[str]]:
    collections = str(Path(__file__).resolve().parents[2] / "collections")
    program = HOLDER.format(collections=collections, prefix=str(prefix), child=child)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_run_waits_and_then_says_who_holds_the_lock(host: Host) -> None:
    for process in holder(host.env()):
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        started = time.monotonic()
        result = host(packages=["six"], lock_timeout=1)
        assert 0.9 < time.monotonic() - started < 10
        assert result["code"] == "busy"
        assert f"process {process.pid} " in result["msg"]
        assert "waited 1 s" in result["msg"]


def test_a_killed_holder_holds_nothing(host: Host) -> None:
    for process in holder(host.env()):
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        threading.Timer(0.5, process.send_signal, [signal.SIGKILL]).start()
        host.answers(fixture("create"), effect=lambda: add_conda(host.env(), *linked("create")))
        assert host(packages=["wheel"], lock_timeout=30)["changed"] is True


def test_the_lock_stays_while_the_child_of_a_killed_holder_works(host: Host) -> None:
    for process in holder(host.env(), child=True):
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        assert host(packages=["wheel"], lock_timeout=0)["code"] == "busy"
        os.kill(child, signal.SIGKILL)
        host.answers(fixture("create"), effect=lambda: add_conda(host.env(), *linked("create")))
        assert host(packages=["wheel"], lock_timeout=30)["changed"] is True


def test_the_children_get_the_lock(host: Host) -> None:
    seen: list[Any] = []

    def run_command(command: list[str], **options: Any) -> tuple[int, str, str]:
        (descriptor,) = options["pass_fds"]
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        add_conda(host.env(), *linked("create"))
        return 0, fixture("create"), ""

    host.run_command = run_command  # type: ignore[method-assign]
    host(packages=["wheel"])
    assert seen == [str(host.base / "envs" / ".torchfleet-torch.lock")]


# -- input


@pytest.mark.parametrize(
    "name", ["a/b", "a b", "..", "a..b", "-a", ".a", "", "base", "root", "a\nb", "a;b", "$HOME", "\u00e9"]
)
def test_bad_names(host: Host, name: str) -> None:
    result = host(name=name, python="3.11")
    assert result["code"] == "bad_input"
    assert "name" in result["msg"]
    assert not host.commands


@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("relative/env", "not an absolute path"),
        ("/data/my env", "blanks"),
        ("/data/../env", "'..'"),
        ("/" + "x" * 120, "121 characters, at most 110"),
        ("/", "prefix '/'"),
    ],
)
def test_bad_prefixes(host: Host, prefix: str, part: str) -> None:
    result = host(name=None, prefix=prefix, python="3.11")
    assert result["code"] == "bad_input"
    assert part in result["msg"]


def test_the_base_installation_is_refused(host: Host) -> None:
    for prefix in (host.base, host.base.parent, host.base / "bin" / ".."):
        assert host(name=None, prefix=str(prefix), state="absent")["code"] == "bad_input"
    other = host.base.parent / "other"
    (other / "condabin").mkdir(parents=True)
    (other / "envs").mkdir()
    assert "base installation" in host(name=None, prefix=str(other), state="absent")["msg"]


def test_all_bad_input_is_told_at_once(host: Host) -> None:
    result = host(
        name="a/b",
        python="3.x",
        packages=["numpy>", "-c evil"],
        channels=["-c"],
        pip=["--index-url=x", "torch=="],
        pip_sources=[{"name": "empty"}, {"name": "odd", "index_url": "--trusted-host x"}],
        timeout=0,
    )
    for part in (
        "a/b",
        "3.x",
        "numpy>",
        "-c evil",
        "channels",
        "--index-url=x",
        "torch==",
        "empty",
        "odd",
        "timeout",
    ):
        assert part in result["msg"]
    assert not host.commands


def test_python_named_twice(host: Host) -> None:
    assert "python" in host(python="3.11", packages=["python=3.12"])["msg"]


# -- reading prefixes


def test_a_prefix_is_read_from_its_files(tmp_path: Path) -> None:
    add_conda(
        tmp_path / "e",
        "python-3.13.1-h1_0",
        "ruamel.yaml-0.18-py_0",
        "_libgcc_mutex-0.1-main",
        "six-1.17.0-0",
    )
    lib = site_packages(tmp_path / "e", "3.13")
    add_dist(tmp_path / "e", "nvidia_cuda_runtime_cu12", "12.8.57")
    (lib / "PyQt5-5.15-py3.13.egg-info").mkdir()
    (lib / "distutils-precedence.pth").touch()
    prefix = conda_prefix.Prefix(str(tmp_path / "e"))
    assert prefix.conda["_libgcc_mutex"][:3] == ("_libgcc_mutex", "0.1", "main")
    assert prefix.conda["ruamel.yaml"].channel() == "https://x/pkgs/main/linux-64"
    assert {dist.name: dist.version for dist in prefix.dists.values()} == {
        "nvidia-cuda-runtime-cu12": "12.8.57",
        "pyqt5": "5.15",
        "six": "1.17.0",
    }
    assert [dist.name for dist in prefix.pip_dists()] == ["nvidia-cuda-runtime-cu12"]


def test_site_packages_of_another_python_do_not_count(tmp_path: Path) -> None:
    add_conda(tmp_path / "e", "python-3.11.7-h1_0")
    add_dist(tmp_path / "e", "torch", "2.13.0")
    (tmp_path / "e" / "conda-meta" / "python-3.11.7-h1_0.json").unlink()
    add_conda(tmp_path / "e", "python-3.12.1-h1_0")
    assert conda_prefix.Prefix(str(tmp_path / "e")).dists == {}


def test_a_package_of_conda_needs_no_record_of_pip(tmp_path: Path) -> None:
    add_conda(tmp_path / "e", "python-3.11.7-h1_0", "six-1.17.0-0")
    add_dist(tmp_path / "e", "torch", "2.13.0")
    for record in site_packages(tmp_path / "e").glob("*/RECORD"):
        record.unlink()
    prefix = conda_prefix.Prefix(str(tmp_path / "e"))
    assert list(prefix.dists) == ["six"]
    assert [dist.name for dist in prefix.broken_dists] == ["torch"]


def test_what_a_shell_or_a_ci_job_exports_does_not_reach_conda(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CI=true would accept terms of service in silence, CONDA_PREFIX forbids to remove that environment.
    for variable in ("CI", "CONDA_PREFIX", "PYTHONPATH", "PIP_TARGET"):
        monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    seen: dict[str, str] = {}

    def effect() -> None:
        seen.update(os.environ)
        add_conda(host.env(), *linked("create"))

    host.answers(fixture("create"), effect=effect)
    host(packages=["wheel"])
    assert not {"CI", "CONDA_PREFIX", "PYTHONPATH", "PIP_TARGET"} & set(seen)
    assert seen["https_proxy"] == "http://proxy:3128"
