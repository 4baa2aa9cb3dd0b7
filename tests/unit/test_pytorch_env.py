"""torch_env with stand-ins for uv, sources and probe: what is asked, in which order, what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.module_utils import wheels
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import Prefix
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_snapshot import Snapshot
from ansible_collections.torchfleet.gpu.plugins.modules import torch_env
from test_conda_env import Exit, add_conda
from test_pytorch_build import built, settle, torch

Result = dict[str, Any]
LOCK = """
[[packages]]
name = "torch"
version = "2.14.1+cu130"
wheels = [{{ url = "https://x/torch-2.14.1%2Bcu130-py3-none-any.whl", size = {size}, hashes = {{ sha256 = "{sha}" }} }}]
"""  # noqa: E501


class Host:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.commands: list[list[str]] = []
        self.fetched: list[str] = []
        self.size = 1000
        self.problems: list[dict[str, str]] = []
        self.install: Callable[[], object] = lambda: None
        self.uninstalls = True
        self.temporary: str | None = None
        (root / "bin").mkdir()
        self.prefix = root / "envs" / "torch"
        monkeypatch.setattr(torch_env, "peek", lambda web, url, count: b"")
        monkeypatch.setattr(torch_env, "run_probe", lambda *_: {})
        monkeypatch.setattr(
            torch_env, "judge", lambda *_: {"problems": self.problems, "torch": "2", "cuda": "13"}
        )
        monkeypatch.setattr(wheels, "download", self.download)
        monkeypatch.setattr(os, "dup2", lambda *_: None)
        monkeypatch.setattr(os, "umask", lambda *_: 0o022)

    def download(self, web: Any, urls: list[str], dest: str, sha256: str) -> None:
        self.fetched += urls
        Path(dest).write_bytes(b"x" * self.size)

    def run_command(self, command: list[str], **options: Any) -> tuple[int, str, str]:
        words = command[3:]
        self.commands.append(words)
        if "--dry-run" in words:
            return 0, "", " + torch==2.14.1+cu130\n"
        if "compile" in words:
            assert options["data"] == "torch===2.14.1+cu130\n"
            return 0, LOCK.format(size=self.size, sha="a" * 64), ""
        if "install" in words:
            self.temporary = (options.get("environ_update") or {}).get("TMPDIR")
            self.install()
        if "uninstall" in words and self.uninstalls:
            for name in words[words.index("--python") + 2 :]:
                for info in self.prefix.rglob(f"{name.replace('-', '_')}-*.dist-info"):
                    shutil.rmtree(info)
        return 0, "", ""

    def __call__(self, check: bool = False, row: dict[str, Any] | None = None, **options: Any) -> Result:
        row = {
            **{"name": "torch", "python": "3.11", "torch": "2.14.1", "variant": "cu130", "cuda": "13.0"},
            "requirements": ["torch==2.14.1+cu130"],
            "sources": [{"name": "nju", "method": "pip", "index_url": "https://x/whl/cu130"}],
            **(row or {}),
        }
        arguments = {"environments": [row], "prefix": str(self.root / "envs"), "uv": "/opt/uv", **options}
        arguments.setdefault("cache_dir", str(self.root / "cache"))
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
            "get_bin_path": lambda module, name, **rest: f"/usr/bin/{name}",
        }
        for name, function in patches.items():
            self.monkeypatch.setattr(basic.AnsibleModule, name, function)
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(Exit):
            torch_env.main()
        return result


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path, monkeypatch)
    add_conda(host.prefix, "python-3.11.7-h1_0")
    return host


def right(host: Host) -> None:
    torch(host.prefix, "2.14.1+cu130", "13.0")


def replace(host: Host) -> None:
    for path in host.prefix.rglob("torch-2.7.1+cu126.dist-info/*"):
        path.unlink()
    right(host)


def test_what_is_as_planned_starts_nothing(host: Host) -> None:
    right(host)
    settle(host.prefix)
    for result in (host(), host(judge=True), host(check=True)):
        assert (result["changed"], host.commands, host.fetched) == (False, [], [])
    assert not (host.root / "cache").exists()


def test_check_mode_and_judging_ask_no_source(host: Host) -> None:
    assert host(check=True)["changed"] is True
    judged = host(judge=True)
    assert judged["changed"] is False
    assert judged["environments"][0]["drift"] == ["no torch; planned: torch==2.14.1+cu130"]
    assert host.commands == []


def test_all_is_known_and_fetched_before_the_environment_is_touched(host: Host) -> None:
    host.install = lambda: right(host)
    result = host()
    assert result["changed"] and result["environments"][0]["source"] == "nju", result
    assert host.fetched == ["https://x/torch-2.14.1%2Bcu130-py3-none-any.whl"]
    verbs = ["--dry-run" if "--dry-run" in one else one[2] for one in host.commands]
    assert verbs == ["--dry-run", "compile", "install"]
    last = host.commands[-1]
    assert {"--offline", "--no-index", "--no-deps"} <= set(last) and last[-1] == "torch===2.14.1+cu130"
    assert host()["changed"] is False


def test_what_only_the_former_build_needs_goes_first(host: Host) -> None:
    built(host.prefix)
    host.install = lambda: replace(host)
    host.uninstalls = False
    result = host()
    assert result["code"] == "not_converged" and "triton is left of a former build" in result["msg"]
    dry, _, *changes = host.commands
    again = [dry[at + 1] for at, word in enumerate(dry) if word == "--reinstall-package"]
    assert again == ["torch", "nvidia-cublas-cu12", "triton"]
    assert [one[2] for one in changes] == ["uninstall", "install"]
    assert changes[0][-2:] == ["nvidia-cublas-cu12", "triton"]
    assert "--reinstall-package torch" in " ".join(changes[1])


def test_pip_removes_nothing_where_torch_stays(host: Host) -> None:
    built(host.prefix)
    (host.prefix / "torchfleet-constraints.txt").unlink()
    former = {"torch": "2.7.1", "variant": "cu126", "cuda": "12.6", "requirements": ["torch==2.7.1+cu126"]}
    result = host(row=former, uv=None)
    assert result["changed"], result
    assert not [one for one in host.commands if "uninstall" in one]


def test_a_disk_that_is_short_is_refused_with_the_numbers(host: Host) -> None:
    host.size = 10**15
    result = host(ratio={"torch": 2.0}, reserve=10**9)
    assert result["code"] == "disk"
    for part in (
        "3000001.0 GB are needed",
        "wheels to fetch 1000000.0 GB",
        "unpacked 2000000.0 GB",
        "reserve 1.0 GB",
    ):
        assert part in result["msg"]
    assert host.fetched == [] and "install" not in host.commands[-1]


def test_pip_unpacks_where_the_disk_was_looked_at(host: Host) -> None:
    sizes = {"cu": {"wheels": 10**15, "unpacked": 10**15}}
    result = host(uv=None, sizes=sizes)
    assert result["code"] == "disk" and "3000000.0 GB are needed" in result["msg"]
    temporary = host.root / "cache/tmp/torch"
    (temporary / "pip-unpack-killed").mkdir(parents=True)
    host.install = lambda: right(host)
    assert host(uv=None)["changed"]
    assert host.temporary == str(temporary) and not temporary.exists()


def test_a_build_that_fails_its_probe_is_taken_back(host: Host) -> None:
    built(host.prefix)
    before = sorted(str(path) for path in host.prefix.rglob("*"))

    host.install = lambda: replace(host)
    host.problems = [
        {"code": "import_failed", "what": "no", "found": "x", "expected": "y", "fix": "z"},
        {"code": "no_driver", "what": "driver", "found": "x", "expected": "y", "fix": "z"},
    ]
    result = host()
    assert result["code"] == "probe" and "driver" not in result["msg"]
    assert result["msg"].endswith("The environment was put back as it was.")
    assert sorted(str(path) for path in host.prefix.rglob("*")) == before
    assert Prefix(str(host.prefix)).dists["torch"].version == "2.7.1+cu126"


def test_what_the_driver_lacks_is_no_fault_of_the_build(host: Host) -> None:
    host.install = lambda: right(host)
    host.problems = [{"code": "no_driver", "what": "", "found": "", "expected": "", "fix": ""}]
    assert host()["changed"] is True


def test_a_cpu_build_in_place_of_one_for_cuda_has_a_name(host: Host) -> None:
    host.install = lambda: torch(host.prefix, "2.14.1+cu130", None)
    result = host()
    assert result["code"] == "cpu_build" and "torch is built for the CPU; planned: CUDA 13.0" in result["msg"]


def test_a_run_that_was_killed_is_taken_back_first(host: Host) -> None:
    built(host.prefix)
    host.install = lambda: os._exit(9)
    pid = os.fork()
    if pid == 0:
        host()
        os._exit(0)
    os.waitpid(pid, 0)
    judged = host(judge=True)
    assert judged["environments"][0]["drift"][0] == "an earlier change of it was interrupted"
    host.install = lambda: None
    failed = host()
    assert failed["code"] == "not_converged"
    assert Prefix(str(host.prefix)).dists["torch"].version == "2.7.1+cu126"


def test_a_python_that_was_exchanged_comes_back_with_torch(host: Host) -> None:
    built(host.prefix)
    before = sorted(str(path) for path in host.prefix.rglob("*"))
    Snapshot(str(host.prefix)).take()  # as conda_env leaves it with tentative
    (host.prefix / "conda-meta" / "python-3.11.7-h1_0.json").unlink()
    shutil.rmtree(host.prefix / "lib")
    add_conda(host.prefix, "python-3.12.1-h1_0")
    host.problems = [{"code": "import_failed", "what": "no", "found": "", "expected": "", "fix": ""}]
    host.install = lambda: right(host)
    result = host(row={"python": "3.12"}, tentative=True)
    assert result["code"] == "probe" and "put back as it was" in result["msg"]
    assert sorted(str(path) for path in host.prefix.rglob("*")) == before


def test_a_python_that_was_exchanged_stays_with_torch(host: Host) -> None:
    Snapshot(str(host.prefix)).take()
    host.install = lambda: right(host)
    assert host(tentative=True)["changed"] is True
    assert not Snapshot(str(host.prefix)).leftovers()


def test_a_source_that_fails_takes_the_exchanged_python_back(host: Host) -> None:
    Snapshot(str(host.prefix)).take()
    (host.prefix / "new").touch()
    host.size = 10**15
    result = host(tentative=True)
    assert result["code"] == "disk" and "put back as it was" in result["msg"]
    assert not (host.prefix / "new").exists() and not Snapshot(str(host.prefix)).leftovers()
