"""A bundle on disk: its indexes, what is missing or damaged, volumes, and the files that come to a host."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.action.bundle_files import BATCH, batches
from ansible_collections.torchfleet.gpu.plugins.module_utils import bundle
from ansible_collections.torchfleet.gpu.plugins.modules import bundle as bundle_module
from ansible_collections.torchfleet.gpu.plugins.modules import bundle_files

CONTROL = "Package: dkms\nVersion: 3.0.10\nFilename: pool/main/d/dkms.deb\nSize: 4\nSHA256: 0\n"
FILES = {
    "wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl": b"torch" * 1000,
    "wheels/einops-0.8.1-py3-none-any.whl": b"einops",
    "anaconda/pkgs/main/linux-64/python-3.11.2-0.conda": b"python",
    "anaconda/pkgs/main/noarch/six-1.16-0.tar.bz2": b"six",
    "installers/Miniconda3.sh": b"#!/bin/sh\n",
    "apt/debian-12-amd64/dkms_3.0.10_all.deb": b"deb!",
}
Run = Callable[..., dict[str, Any]]


def made(directory: Path) -> dict[str, Any]:
    manifest = {**bundle.empty(), "complete": True, "channels": ["pkgs/main", "pkgs/r"]}
    for name, data in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        row: dict[str, Any] = {"url": f"https://x/{name}", "sha256": hashlib.sha256(data).hexdigest()}
        row.update(size=len(data), licence="MIT")
        if name.startswith("anaconda/"):
            row["record"] = {"name": name.split("/")[-1].split("-")[0]}
        if name.startswith("apt/"):
            row["control"] = CONTROL
        manifest["files"][name] = row
    manifest["requests"] = {
        "torch": {"files": sorted(FILES)[-1:], "carries": ["torch==2.13.0+cpu"], "digest": ""},
        "all": {"files": sorted(FILES), "carries": [], "digest": ""},
    }
    bundle.write(str(directory), manifest)
    bundle.write_indexes(str(directory), manifest)
    return manifest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    made(path)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(module: Any, check: bool = False, **args: Any) -> dict[str, Any]:
        given = {**args, "_ansible_check_mode": check, "_ansible_remote_tmp": str(tmp_path)}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]

    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    return call


# -- indexes


def test_pip_finds_the_files_by_relative_links_with_their_hashes(source: Path) -> None:
    name = "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    page = source / "pypi/simple/torch/index.html"
    link, digest = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', page.read_text())[0]
    assert (page.parent / link.replace("%2B", "+")).resolve() == (source / "wheels" / name).resolve()
    assert digest == hashlib.sha256(FILES[f"wheels/{name}"]).hexdigest()
    assert "einops" in (source / "pypi/simple/index.html").read_text()


def test_conda_finds_each_format_in_its_table_and_every_configured_channel(source: Path) -> None:
    def table(channel: str, subdir: str) -> dict[str, Any]:
        return dict(json.loads((source / f"anaconda/{channel}/{subdir}/repodata.json").read_text()))

    assert list(table("pkgs/main", "linux-64")["packages.conda"]) == ["python-3.11.2-0.conda"]
    assert list(table("pkgs/main", "noarch")["packages"]) == ["six-1.16-0.tar.bz2"]
    # A channel that is configured and not there would end every run of conda.
    assert table("pkgs/r", "linux-64")["packages"] == table("pkgs/r", "noarch")["packages.conda"] == {}


def test_apt_finds_the_packages_beside_their_list(source: Path) -> None:
    text = (source / "apt/debian-12-amd64/Packages").read_text()
    assert "Filename: ./dkms_3.0.10_all.deb\n" in text and "pool/" not in text
    release = (source / "apt/debian-12-amd64/Release").read_text()
    assert f" {hashlib.sha256(text.encode()).hexdigest()} {len(text)} Packages\n" in release
    assert 'Dir::Etc::sourceparts "/dev/null"' in (source / "apt/apt.conf").read_text()


def test_indexes_are_written_only_where_they_differ(source: Path) -> None:
    manifest = bundle.read(str(source))
    assert not bundle.write_indexes(str(source), manifest)
    (source / "pypi/simple/index.html").write_text("?")
    assert bundle.write_indexes(str(source), manifest)


# -- manifests


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "is no manifest of a bundle"),
        ("{}", "is no manifest of a bundle"),
        ('{"torchfleet_bundle": 9}', "is of the format 9, expected 1"),
        ('{"torchfleet_bundle": 1, "files": {"../etc/passwd": {}}}', "expected a path within the bundle"),
        ('{"torchfleet_bundle": 1, "files": {"/etc/passwd": {}}}', "expected a path within the bundle"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, said: str) -> None:
    with pytest.raises(bundle.BundleError, match=said):
        bundle.parse(text, "m")


def test_a_part_of_a_manifest_has_the_files_of_its_requests_alone(source: Path) -> None:
    part = bundle.narrowed(bundle.read(str(source)), ["torch", "unknown"])
    assert list(part["requests"]) == ["torch"]
    assert list(part["files"]) == ["wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"]


def test_a_look_finds_what_is_missing_or_cut_and_a_proof_what_is_changed(source: Path) -> None:
    manifest = bundle.read(str(source))
    assert bundle.lacking(str(source), manifest["files"]) == [] == bundle.verify(str(source), manifest)
    missing, cut, changed = sorted(FILES)[:3]
    (source / missing).unlink()
    (source / cut).write_bytes(b"x")
    (source / changed).write_bytes(FILES[changed][::-1])
    (source / "pypi/simple/einops/index.html").write_text("?")
    assert bundle.lacking(str(source), manifest["files"]) == [missing, cut]
    told = [str(one) for one in bundle.verify(str(source), manifest)]
    assert [one.partition(":")[0] for one in told] == [
        *(missing, cut, changed),
        "pypi/simple/einops/index.html",
    ]
    assert "missing, expected" in told[0] and "1 bytes" in told[1] and "sha256" in told[2]


def test_verified_names_each_fault_and_what_to_do(source: Path, run: Run) -> None:
    assert run(bundle_module, path=str(source), state="verified")["files"] == len(FILES)
    (source / "wheels/einops-0.8.1-py3-none-any.whl").write_bytes(b"einopz")
    failed = run(bundle_module, path=str(source), state="verified")
    assert failed["failed"] and "einops-0.8.1-py3-none-any.whl: sha256" in failed["msg"]
    assert "Run playbooks/bundle.yml again" in failed["msg"]
    assert len(failed["faults"]) == 1


def test_the_tools_trust_the_system_and_the_given_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system.pem"
    system.write_text("of the system")
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    given = {"path": str(tmp_path / "bundle"), "ca_pem": "of the site"}
    (tmp_path / "bundle").mkdir()
    assert Path(bundle_module.authorities(given)).read_text() == "of the system\nof the site\n"
    assert bundle_module.authorities({**given, "ca_pem": ""}) == ""


def test_two_runs_do_not_make_one_bundle_at_once(tmp_path: Path) -> None:
    path = str(tmp_path)
    refused = pytest.raises(bundle.BundleError, match="Another run is making the bundle")
    with bundle.alone(path), refused, bundle.alone(path):
        pass
    with bundle.alone(path):
        pass


def test_strays_are_what_neither_the_manifest_nor_an_index_is(source: Path) -> None:
    (source / "wheels/old.whl").write_bytes(b"old")
    assert bundle.strays(str(source), bundle.read(str(source))) == ["wheels/old.whl"]


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: BSD-3-Clause\nLicense: x", "BSD-3-Clause"),
        ("License: Apache 2.0", "Apache 2.0"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT License"),
        ("Name: x\n\nLicense: of the description", "not told"),
    ],
)
def test_the_licence_of_a_wheel(tmp_path: Path, metadata: str, licence: str) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x-1.dist-info/METADATA", metadata)
    assert bundle.licence_of_wheel(path) == licence


# -- volumes


def test_volumes_are_of_their_size_and_join_in_any_order(source: Path, tmp_path: Path) -> None:
    big = "installers/big.sh"
    data = bytes(range(256)) * (20 << 10)  # 5 MiB: two pieces and a bit
    (source / big).write_bytes(data)
    manifest = bundle.read(str(source))
    row = {"url": "https://x/big", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    manifest["files"][big] = {**row, "licence": "MIT"}
    bundle.write(str(source), manifest)
    size = (2 << 20) + (source / bundle.MANIFEST).stat().st_size
    volumes = bundle.split(str(source), str(tmp_path / "volumes"), size)
    assert len(volumes) == 3
    for volume in volumes:
        assert sum(path.stat().st_size for path in Path(volume).rglob("*") if path.is_file()) <= size
    joined = tmp_path / "joined"
    for number, volume in enumerate(reversed(volumes), 1):
        missing = bundle.join(str(joined), [volume])
        assert (big in missing) is (number < 3)
    assert bundle.verify(str(joined), bundle.read(str(joined))) == []
    assert not list(joined.rglob("*.piece-*"))
    assert bundle.split(str(source), str(tmp_path / "volumes"), size) == volumes


def test_volumes_take_the_place_of_the_former_ones(source: Path, tmp_path: Path, run: Run) -> None:
    manifest = bundle.read(str(source))

    def add(name: str, data: bytes) -> None:
        (source / "part").write_bytes(data)
        (source / "part").replace(source / name)  # as a download does
        row = {"url": "https://x/y", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        manifest["files"][name] = {**row, "licence": "MIT"}
        bundle.write(str(source), manifest)

    def laid() -> dict[str, Any]:
        return run(
            bundle_module,
            path=str(source),
            state="split",
            volumes_dir=str(tmp_path / "volumes"),
            volume_bytes=(2 << 20) + 8192,
        )

    mb = 1 << 20
    add("installers/a.sh", b"a" * (4 * mb))
    add("installers/b.sh", b"b" * mb)
    assert [Path(one).name for one in laid()["volumes"]] == ["1", "2", "3"]
    assert laid()["changed"] is False
    own = tmp_path / "volumes/3/of the owner"
    own.write_text("stays")
    add("installers/b.sh", b"B" * mb)
    del manifest["files"]["installers/a.sh"]
    (source / "installers/a.sh").unlink()
    add("installers/c.sh", b"c" * (mb + mb // 2))
    done = laid()
    assert done["changed"] is True
    assert [Path(one).name for one in done["volumes"]] == ["1", "2"]
    files = [path for path in (tmp_path / "volumes").rglob("*") if path.is_file()]
    assert not [path for path in files if "a.sh" in path.name]
    assert [path for path in files if "3" in path.parts] == [own]
    assert bundle.join(str(tmp_path / "joined"), done["volumes"]) == []
    assert (tmp_path / "joined/installers/b.sh").read_bytes() == b"B" * mb


def join(run: Run, joined: Path, *volumes: Path, check: bool = False) -> dict[str, Any]:
    given = {"path": str(joined), "state": "joined", "volumes": [str(one) for one in volumes]}
    return run(bundle_module, check, **given)


def test_a_damaged_file_is_taken_from_the_volumes_again(source: Path, tmp_path: Path, run: Run) -> None:
    joined = tmp_path / "joined"
    assert join(run, joined, source)["changed"] is True
    assert join(run, joined, source)["changed"] is False
    wheel = "wheels/einops-0.8.1-py3-none-any.whl"
    (joined / wheel).unlink()  # a link to that of the volume
    (joined / wheel).write_bytes(b"einopz")
    (joined / "pypi/simple/index.html").write_text("?")
    assert join(run, joined, source, check=True)["changed"] is True
    assert (joined / wheel).read_bytes() == b"einopz"
    done = join(run, joined, source)
    assert done["changed"] is True and done["missing"] == []
    assert (joined / wheel).read_bytes() == b"einops"
    assert join(run, joined, source)["changed"] is False


def test_a_file_that_is_damaged_on_its_volume_is_named(source: Path, tmp_path: Path, run: Run) -> None:
    wheel = "wheels/einops-0.8.1-py3-none-any.whl"
    (source / wheel).write_bytes(b"einopz")
    failed = join(run, tmp_path / "joined", source)
    assert failed["failed"] and [one.partition(":")[0] for one in failed["faults"]] == [wheel]
    (source / wheel).unlink()
    (source / wheel).write_bytes(b"einops")
    assert join(run, tmp_path / "joined", source)["missing"] == []


def test_a_join_that_was_killed_before_its_end_is_ended(source: Path, tmp_path: Path, run: Run) -> None:
    joined = tmp_path / "joined"
    shutil.copytree(source, joined)
    (joined / bundle.MANIFEST).unlink()
    shutil.rmtree(joined / "pypi")
    assert join(run, joined, source, check=True)["changed"] is True
    done = join(run, joined, source)
    assert (done["changed"], done["missing"], done["files"]) == (True, [], len(FILES))
    assert bundle.verify(str(joined), bundle.read(str(joined))) == []


def test_a_volume_of_another_bundle_is_refused(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    bundle.write(str(other), bundle.empty())
    with pytest.raises(bundle.BundleError, match="of another bundle"):
        bundle.join(str(tmp_path / "joined"), [str(source), str(other)])


def test_a_volume_too_small_for_the_manifest_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(bundle.BundleError, match="hold nothing beside the manifest"):
        bundle.split(str(source), str(tmp_path / "volumes"), 1000)


# -- on a host


def host_args(source: Path, dest: Path, keys: list[str]) -> dict[str, Any]:
    manifest = bundle.narrowed(bundle.read(str(source)), keys)
    return {"src": str(source), "dest": str(dest), "keys": keys, "manifest": manifest}


def test_a_host_tells_what_it_lacks_takes_it_and_then_lacks_nothing(
    source: Path, tmp_path: Path, run: Run
) -> None:
    dest = tmp_path / "host"
    args = host_args(source, dest, ["torch"])
    (wheel,) = args["manifest"]["files"]
    for check in (True, False):
        asked = run(bundle_files, check, **args)
        assert asked["lacking"] == [wheel] and asked["changed"] and asked["free"] > 0
        assert not dest.exists()
    came = tmp_path / "came"
    came.write_bytes(FILES[wheel])
    done = run(bundle_files, **args, incoming={wheel: str(came)})
    assert done["changed"] and not done["lacking"] and not came.exists()
    assert (dest / wheel).stat().st_mode & 0o777 == 0o644
    # The index names what is there, and nothing else.
    assert "einops" not in (dest / "pypi/simple/index.html").read_text()
    assert run(bundle_files, **args)["changed"] is False


def test_a_later_run_that_needs_less_takes_nothing_away(source: Path, tmp_path: Path, run: Run) -> None:
    dest = tmp_path / "host"
    args = host_args(source, dest, ["all"])
    for name, data in FILES.items():
        came = tmp_path / "came"
        came.write_bytes(data)
        run(bundle_files, **args, incoming={name: str(came)})
    assert set(bundle.read(str(dest))["files"]) == set(FILES)
    done = run(bundle_files, **host_args(source, dest, ["torch"]))
    assert done["changed"] is True  # the request "torch" is new to the host
    assert run(bundle_files, **host_args(source, dest, ["torch"]))["changed"] is False
    assert set(bundle.read(str(dest))["files"]) == set(FILES)


def test_a_file_that_came_damaged_is_named_and_not_taken(source: Path, tmp_path: Path, run: Run) -> None:
    args = host_args(source, tmp_path / "host", ["torch"])
    (wheel,) = args["manifest"]["files"]
    came = tmp_path / "came"
    came.write_bytes(b"?")
    failed = run(bundle_files, **args, incoming={wheel: str(came)})
    assert failed["failed"] and wheel in failed["msg"] and "is damaged" in failed["msg"]
    assert not (tmp_path / "host" / wheel).exists()


def test_a_bundle_that_is_on_the_host_is_looked_through_and_left_alone(source: Path, run: Run) -> None:
    gone = "wheels/einops-0.8.1-py3-none-any.whl"
    (source / gone).unlink()
    before = sorted(source.rglob("*"))
    for keys, lacking in ((["all"], [gone]), (["torch"], [])):
        done = run(bundle_files, src=str(source), remote_src=True, keys=keys)
        assert done["lacking"] == lacking and done["changed"] is False
    assert sorted(source.rglob("*")) == before


def test_files_go_in_batches_that_fit_a_temporary_directory() -> None:
    sizes = {"a": BATCH - 1, "b": 1, "c": 1, "d": 3 * BATCH, "e": 1}
    files = {path: {"size": size} for path, size in sizes.items()}
    assert list(batches(list(sizes), files)) == [["a", "b"], ["c"], ["d"], ["e"]]
