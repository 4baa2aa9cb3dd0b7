"""The module converged and its digests: a host is passed over only where nothing at all differs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.module_utils import touched
from ansible_collections.torchfleet.gpu.plugins.modules import converged
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import declared

Run = Callable[..., dict[str, Any]]
DECLARED = {"the variables": "1", "the collection": "2"}
VERIFIED = {"plan": {"host": "gpu07"}, "results": [{"verdict": "verified"}]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the roles look at: a tree with a cache in it, and a file."""
    top = tmp_path / "opt"
    for name in ("bin/conda", "envs/torch/lib/torch.py", "envs/torch/lib/nn.py", "pkgs/torch.conda"):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (top / "bin/python").symlink_to("conda")
    (tmp_path / "pip.conf").write_text("[global]\n")
    return top


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    boot = tmp_path / "boot_id"
    boot.write_text("first\n")
    monkeypatch.setattr(converged, "BOOT_ID", boot)

    def call(check: bool = False, **more: Any) -> dict[str, Any]:
        args = {
            "path": str(tmp_path / "state/converged.json"),
            "paths": [str(tmp_path / name) for name in ("opt", "pip.conf", "absent")],
            "leave_out": [str(tmp_path / "opt/pkgs")],
            "declared": DECLARED,
            "max_age": 3600,
            **more,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            converged.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]

    return call


@pytest.fixture
def recorded(run: Run, tree: Path) -> Run:
    first = run()
    assert (
        first["untouched"] is False and first["reason"] == "there is no record of a run that changed nothing"
    )
    kept = run(state="recorded", seen=first["seen"], verified=VERIFIED)
    assert kept["recorded"] is True and kept["changed"] is False
    return run


def test_an_untouched_host_gets_back_what_was_verified_and_when(recorded: Run, tmp_path: Path) -> None:
    found = recorded()
    assert found["untouched"] is True and found["reason"] == ""
    assert found["verified"] == VERIFIED
    age = time.time() - time.mktime(time.strptime(found["verified_at"], "%Y-%m-%dT%H:%M:%SZ")) + time.timezone
    assert -1 <= age < 60
    assert found["truth"]["schema"] == 1
    assert (tmp_path / "state/converged.json").stat().st_mode & 0o777 == 0o600


def later(path: Path) -> None:
    """With the old size and the old mtime, as a careful hand would."""
    status = path.stat()
    path.write_text("X" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("other")


TOUCHES: dict[str, Callable[[Path], object]] = {
    "written to": lambda top: (top / "envs/torch/lib/torch.py").write_text("import os"),
    "written to with the old size and mtime": lambda top: later(top / "envs/torch/lib/torch.py"),
    "another mode": lambda top: (top / "bin/conda").chmod(0o700),
    "renamed": lambda top: (top / "envs/torch/lib/nn.py").rename(top / "envs/torch/lib/mm.py"),
    "replaced by a copy": lambda top: (
        shutil.copy2(top / "bin/conda", top / "bin/new"),
        (top / "bin/new").rename(top / "bin/conda"),
    ),
    "removed": lambda top: (top / "envs/torch/lib/nn.py").unlink(),
    "added": lambda top: (top / "envs/torch/lib/extra.py").write_text(""),
    "a directory added": lambda top: (top / "envs/other").mkdir(),
    "a hard link more": lambda top: os.link(top / "bin/conda", top.parent / "conda"),
    "a link to elsewhere": lambda top: relink(top / "bin/python"),
    "a file of its own": lambda top: (top.parent / "pip.conf").write_text("[global]\nindex-url=x\n"),
    "all removed": lambda top: shutil.rmtree(top),
    "come to exist": lambda top: (top.parent / "absent").write_text(""),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_every_kind_of_touch_is_seen(recorded: Run, tree: Path, touch: Callable[[Path], object]) -> None:
    time.sleep(0.02)  # the kernel's clock of files ticks more slowly than ours
    touch(tree)
    found = recorded()
    assert found["untouched"] is False
    assert found["reason"].startswith("touched since the verification: ")
    assert found["verified"] == {} and found["verified_at"] is None and "truth" not in found


def test_the_reason_names_what_was_touched_last(recorded: Run, tree: Path) -> None:
    time.sleep(0.02)
    (tree / "envs/torch/lib/torch.py").write_text("import os")
    assert f"{tree}/envs/torch/lib/torch.py at 2" in recorded()["reason"]


def test_a_cache_may_change(recorded: Run, tree: Path) -> None:
    time.sleep(0.02)
    (tree / "pkgs/torch.conda").write_text("another")
    assert recorded()["untouched"] is True


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"declared": {**DECLARED, "the variables": "9"}}, "the variables: not as at the verification"),
        ({"declared": {**DECLARED, "more": "9"}}, "more: not as at the verification"),
        ({"max_age": 0}, "is older than 0 s"),
        ({"leave_out": []}, "touched since the verification"),
    ],
)
def test_another_wish_is_no_untouched_host(recorded: Run, changed: dict[str, Any], reason: str) -> None:
    found = recorded(**changed)
    assert found["untouched"] is False and reason in found["reason"]


def test_another_path_to_look_at_is_seen(recorded: Run, tmp_path: Path, tree: Path) -> None:
    assert recorded(paths=[str(tree)])["untouched"] is False


def test_a_boot_is_seen(recorded: Run, tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("second\n")
    assert recorded()["reason"] == "the host has booted since the verification"


def test_age_and_a_clock_that_went_back(recorded: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for moment in (now + 3601, now - 60):
        monkeypatch.setattr("time.time", lambda moment=moment: moment)
        assert "is older than 3600 s" in recorded()["reason"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 0}'])
def test_a_record_that_is_not_whole_is_none(recorded: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "state/converged.json").write_text(text)
    assert recorded()["reason"] == "there is no record of a run that changed nothing"


def test_a_run_that_changed_something_leaves_no_record(run: Run, tree: Path, tmp_path: Path) -> None:
    first = run()
    time.sleep(0.02)
    (tree / "bin/conda").write_text("newer")
    kept = run(state="recorded", seen=first["seen"], verified=VERIFIED)
    assert kept == {**kept, "recorded": False, "changed": False, "reason": "the run changed the host"}
    assert not (tmp_path / "state").exists()


def test_check_mode_leaves_no_record(run: Run, tree: Path, tmp_path: Path) -> None:
    kept = run(check=True, state="recorded", seen=run()["seen"], verified=VERIFIED)
    assert kept["recorded"] is False and not (tmp_path / "state").exists()


def test_a_record_that_cannot_be_kept_says_what_to_do(run: Run, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    failed = run(state="recorded", seen=run()["seen"], verified=VERIFIED)
    assert (
        failed["failed"] and str(tmp_path / "state") in failed["msg"] and "converged_max_age" in failed["msg"]
    )


def test_a_digest_tells_files_of_one_directory_apart(tree: Path) -> None:
    found = touched.snapshot([str(tree / "bin"), str(tree / "envs"), str(tree / "none")])
    assert len(set(found.values())) == 3 and found[str(tree / "none")] is None
    assert touched.newest(str(tree / "none")) is None


# --- the controller

GIVEN: dict[str, Any] = {
    "miniconda_prefix": "/opt/miniconda3",
    "miniconda_shared_dir": "/srv/conda",
    "conda_envs_prefix": "/opt/miniconda3/envs",
    "conda_envs_lock_dir": "/site/locks",
    "pytorch_uv_prefix": "/opt/torchfleet/uv",
    "gpu_verify_verdict_path": "/var/lib/torchfleet/verdict.json",
}


def test_what_lies_beneath_another_path_is_looked_at_once() -> None:
    found = declared.watched(GIVEN)
    assert "/opt/miniconda3" in found["paths"] and "/opt/miniconda3/envs" not in found["paths"]
    assert "/etc/passwd" not in found["paths"]
    assert "/data/envs" in declared.watched({**GIVEN, "conda_envs_prefix": "/data/envs"})["paths"]


def test_users_who_are_declared_are_looked_at() -> None:
    given = {
        **GIVEN,
        "miniconda_init_users": ["alice"],
        "miniconda_group": "lab",
        "conda_envs_environments": [
            {"name": "nlp", "owner": "bob", "kernelspec": {}},
            {"name": "rl", "kernelspec": {"prefix": "/srv/jupyter"}},
        ],
    }
    expected = {"~alice/.bashrc", "~bob/.conda", "~bob/.local/share/jupyter/kernels", "/srv/conda"}
    expected |= {"/srv/jupyter/share/jupyter/kernels", "/etc/passwd", "/etc/group"}
    assert expected <= set(declared.watched(given)["paths"])


def test_the_files_of_a_bundle_are_looked_at_where_the_host_keeps_them() -> None:
    given = {**GIVEN, "mirrors_bundle": "/srv/bundle", "mirrors_bundle_dir": "/var/lib/torchfleet/bundle"}
    kept, there = "/var/lib/torchfleet/bundle", "/srv/bundle/manifest.json"
    assert kept not in declared.watched({**given, "mirrors_bundle": ""})["paths"]
    for on_host, path, other in ((False, kept, there), (True, there, kept)):
        found = declared.watched({**given, "mirrors_bundle_on_host": on_host})["paths"]
        assert path in found and other not in found


@pytest.mark.parametrize(
    "database",
    [
        "/var/lib/dpkg/status",
        "/var/lib/rpm/Packages",  # RHEL 8
        "/var/lib/rpm/rpmdb.sqlite",
        "/usr/lib/sysimage/rpm/Packages.db",  # SLES
        "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    ],
)
def test_the_databases_of_packages_are_looked_at(database: str) -> None:
    assert database in declared.watched(GIVEN)["paths"]


@pytest.mark.parametrize(
    "more",
    [
        {"miniconda_release": "latest"},
        {"conda_envs_lock_refresh": True},
        {"conda_envs_environments": [{"name": "nlp", "state": "latest"}]},
    ],
)
def test_a_wish_for_the_latest_is_asked_anew(more: dict[str, Any]) -> None:
    assert declared.asks_anew({**GIVEN, **more})
    assert not declared.asks_anew(GIVEN)


def test_misspelt_variables_count_and_results_and_others_do_not() -> None:
    every = [
        "miniconda_prefix",
        "miniconda_prefxi",
        "report_dri",
        "report_dir",
        "mirrors_selected",
        "ansible_host",
    ]
    assert declared.names(every) == ["miniconda_prefix", "miniconda_prefxi", "report_dri"]


def test_files_of_the_controller_are_those_that_the_wish_names() -> None:
    given = {
        **GIVEN,
        "mirrors_ca_certificates": ["/site/ca.pem"],
        "conda_envs_environments": [
            {"name": "nlp", "file": "nlp.yml"},
            {"name": "rl", "lock_file": "rl.lock"},
        ],
        "nvidia_driver_local_repository": {"url": "http://x", "key_file": "/site/key.asc"},
    }
    assert declared.controller_files(given) == [
        "/site/ca.pem",
        "nlp.yml",
        "rl.lock",
        "/site/key.asc",
    ]


def test_the_truth_counts_but_for_what_changes_by_itself() -> None:
    told = {"kernel": {"running": "6.1"}, "gpus": [], "disks": [{"free_bytes": 1}], "processes": []}
    assert declared.truth(told) == declared.truth({**told, "disks": [], "processes": [{"pid": 1}]})
    assert declared.truth(told) != declared.truth({**told, "gpus": [{"slot": "0000:18:00.0"}]})


def test_another_file_of_the_collection_or_the_site_is_another_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plugins/a.py", "roles/b.yml", "site/c.yml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(declared, "ROOT", tmp_path)
    digests = set()
    for number, name in enumerate(("plugins/a.py", "plugins/a.py", "roles/b.yml", "site/c.yml")):
        if number:
            (tmp_path / name).write_text(f"{number}")
        monkeypatch.setenv("TORCHFLEET_DATA", str(tmp_path / "site"))
        declared.collection.cache_clear()
        digests.add(declared.collection())
    declared.collection.cache_clear()
    assert len(digests) == 4
