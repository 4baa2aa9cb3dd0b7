"""The test fleet's tools: when an image is rebuilt, how pictures of a host compare, the site's wheels."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils.modinfo import flavour, read_modinfo

SHARED = Path(__file__).resolve().parents[2] / "molecule/shared"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fleet_{Path(path).stem}", SHARED / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


images = load("images/build.py")
untouched = load("untouched.py")
snapshot = load("snapshot.py")
site_wheels = load("site_wheels.py")


class Docker:
    """Stands in for the docker command: knows images, remembers what was asked of it."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if command[1:3] == ["image", "inspect"]:
            tag = command[-1]
            if tag not in self.images:
                return subprocess.CompletedProcess(command, 1, "", f"Error: No such image: {tag}")
            labels = json.dumps({images.LABEL: self.images[tag]})
            return subprocess.CompletedProcess(command, 0, f"sha256:{self.images[tag]} {labels}\n", "")
        if command[1] == "build":
            label = command[command.index("--label") + 1]
            self.images[command[command.index("-t") + 1]] = label.partition("=")[2]
        return subprocess.CompletedProcess(command, 0, "", "")

    def builds(self) -> list[str]:
        return [command[command.index("-t") + 1] for command in self.calls if command[1] == "build"]


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    stand_in = Docker()
    monkeypatch.setattr(images.subprocess, "run", stand_in)

    def bootstrap(name: str, tag: str, inputs: str, options: Any) -> None:
        stand_in.images[tag] = inputs
        stand_in.calls.append(["docker", "build", "-t", tag])

    monkeypatch.setattr(images, "bootstrap", bootstrap)
    return stand_in


def test_second_run_builds_nothing(docker: Docker) -> None:
    assert images.main(["debian12-simgpu"]) == 0
    assert docker.builds() == ["torchfleet/debian12:latest", "torchfleet/debian12-simgpu:latest"]
    assert images.main(["debian12-simgpu"]) == 0
    assert len(docker.builds()) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--debian-mirror", "http://mirror.example.org/debian"],
        ["--base-image", "debian12=registry.example.org/debian:12"],
    ],
)
def test_other_inputs_rebuild_the_base_and_what_stands_on_it(docker: Docker, arguments: list[str]) -> None:
    assert images.main(["debian12-simgpu"]) == 0
    docker.calls.clear()
    assert images.main([*arguments, "debian12-simgpu"]) == 0
    assert docker.builds() == ["torchfleet/debian12:latest", "torchfleet/debian12-simgpu:latest"]


def test_registry_image_is_the_base(docker: Docker) -> None:
    assert images.main(["--base-image", "debian13=registry.example.org/debian:13", "debian13"]) == 0
    (build,) = (call for call in docker.calls if call[1] == "build")
    assert "BASE=registry.example.org/debian:13" in build


def test_a_shaped_image_stands_on_its_debian(docker: Docker) -> None:
    assert images.main(["rocky9-shaped"]) == 0
    assert docker.builds() == ["torchfleet/debian12:latest", "torchfleet/rocky9-shaped:latest"]
    (build,) = (call for call in docker.calls if "SHAPE=rocky9" in call)
    assert "BASE=torchfleet/debian12:latest" in build
    assert images.main(["rocky9-shaped"]) == 0
    assert len(docker.builds()) == 2


def test_a_shaped_module_file_is_read_as_a_real_one(tmp_path: Path) -> None:
    make = load("shaped/module_file.py")
    (tmp_path / "nvidia.ko").write_bytes(make.module("580.178.04", "open", "6.8.0-88-generic"))
    found = read_modinfo(tmp_path / "nvidia.ko", lambda _command: (127, "", ""))
    assert found["version"] == "580.178.04"
    assert flavour(str(found["license"])) == "open"


def test_unknown_names_are_refused(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["debian11"], ["--base-image", "debian11=x"], ["--base-image", "debian12"]):
        with pytest.raises(SystemExit):
            images.main(arguments)
        assert "debian12" in capsys.readouterr().err
    assert docker.calls == []


def test_missing_docker_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("docker")

    monkeypatch.setattr(images.subprocess, "run", absent)
    assert images.main(["debian12"]) == 1
    assert "install Docker" in capsys.readouterr().err


def test_fingerprint_sees_names_contents_and_modes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    file = tree / "a"
    file.write_text("1")
    seen = {images.fingerprint(["x"], [tree])}
    file.write_text("2")
    seen.add(images.fingerprint(["x"], [tree]))
    file.chmod(0o755)
    seen.add(images.fingerprint(["x"], [tree]))
    file.rename(tree / "b")
    seen.add(images.fingerprint(["x"], [tree]))
    seen.add(images.fingerprint(["y"], [tree]))
    seen.add(images.fingerprint(["x", ""], [tree]))
    assert len(seen) == 6
    assert images.fingerprint(["x"], [tree]) in seen


def test_security_archive_follows_the_mirror() -> None:
    options = images.Options("http://m/debian", "http://m/debian-security", {})
    assert (
        images.sources("trixie", options)[2]
        == "deb http://m/debian-security trixie-security main non-free-firmware"
    )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "etc"
    (root / "conf.d").mkdir(parents=True)
    (root / "hosts").write_text("localhost\n")
    (root / "link").symlink_to("hosts")
    monkeypatch.setattr(snapshot, "ROOTS", (str(root),))
    said = "bash:amd64 5.2 installed\n"
    monkeypatch.setattr(
        snapshot.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said, "")
    )
    return root


def test_untouched_host_has_no_differences(host: Path) -> None:
    assert untouched.differences(snapshot.picture(), snapshot.picture()) == []


@pytest.mark.parametrize("deed", ["write", "rewrite", "remove", "new", "mode", "link", "directory"])
def test_every_deed_is_seen(host: Path, deed: str) -> None:
    before = snapshot.picture()
    if deed == "write":
        (host / "hosts").write_text("other\n")
    elif deed == "rewrite":
        (host / "hosts").write_text("localhost\n")
    elif deed == "remove":
        (host / "hosts").unlink()
    elif deed == "new":
        (host / "conf.d/new").touch()
    elif deed == "mode":
        (host / "hosts").chmod(0o600)
    elif deed == "link":
        (host / "link").unlink()
        (host / "link").symlink_to("elsewhere")
    else:
        (host / "empty").mkdir()
    assert len(untouched.differences(before, snapshot.picture())) == 1


def test_packages_are_compared() -> None:
    assert untouched.differences({"package a": "1 installed"}, {"package a": "2 installed"}) == [
        "changed: package a (1 installed -> 2 installed)"
    ]


def test_empty_picture_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "before").write_text("{}")
    (tmp_path / "after").write_text("{}")
    assert untouched.main(tmp_path / "before", tmp_path / "after") == 1


def test_site_wheels_are_the_cpu_builds_of_torch(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in (
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "numpy-2.0.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "not a wheel.whl",
    ):
        (site / name).write_text(name)
    pip = tmp_path / "pip.conf"
    pip.write_text(f"[global]\nfind-links =\n    {site}\n    https://wheels.example.org/\n")
    target = tmp_path / "wheels"
    assert site_wheels.main(target, {}, [tmp_path / "absent", pip]) == {
        "changed": True,
        "carries": ["torch==2.13.0+cpu"],
    }
    assert site_wheels.main(target, {}, [pip])["changed"] is False
    assert site_wheels.main(tmp_path / "other", {"PIP_FIND_LINKS": site.as_uri()}, [])["carries"]


def test_site_without_wheels(tmp_path: Path) -> None:
    broken = tmp_path / "pip.conf"
    broken.write_text("find-links without a section")
    assert site_wheels.main(tmp_path / "wheels", {}, [broken]) == {"changed": False, "carries": []}
