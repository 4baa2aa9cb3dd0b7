"""The stand-in mirror's builder: wheels become conda packages, the installer refuses what it must."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import io
import json
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("conda_package_streaming", reason="uv group `mirror` is not installed")
from conda_package_streaming.package_streaming import stream_conda_component  # type: ignore[import-untyped]

MIRROR = Path(__file__).resolve().parents[2] / "molecule" / "shared" / "mirror"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mirror_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load(MIRROR / "build.py")
relocate = load(MIRROR / "files" / "relocate.py")
serve = load(MIRROR / "serve.py")


def write_wheel(path: Path, tag: str, name: str = "Demo_Pkg") -> Path:
    info = f"{name}-1.2.dist-info"
    files = {
        "demo/__init__.py": "",
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\nRequires-Python: >=3.8, <4\n"
            "Requires-Dist: MarkupSafe >=2.0, !=2.1\n"
            'Requires-Dist: tomli; python_version < "3.11"\n'
            'Requires-Dist: ruamel.yaml; extra == "yaml"\n'
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\n",
        f"{info}/entry_points.txt": "[console_scripts]\ndemo = demo.cli:App.main [yaml]\n[other]\nx = y:z\n",
    }
    target = path / f"{name}-1.2-{tag}.whl"
    with zipfile.ZipFile(target, "w") as wheel:
        for member, text in files.items():
            wheel.writestr(member, text)
    return target


def test_pure_wheel_becomes_a_noarch_package(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "py3-none-any")
    package = build.package_from_wheel(wheel, wheel.name, "3.11.2")
    assert (package.name, package.version, package.subdir) == ("demo-pkg", "1.2", "noarch")
    assert package.depends == ["markupsafe !=2.1,>=2.0", "python <4,>=3.8"]
    assert package.entry_points == ["demo = demo.cli:App.main"]
    assert "site-packages/demo/__init__.py" in package.files
    assert package.files["site-packages/Demo_Pkg-1.2.dist-info/INSTALLER"].data == b"conda\n"
    assert not [name for name in package.files if name.startswith("bin/")]


def test_binary_wheel_belongs_to_one_python_and_brings_its_scripts(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "cp311-cp311-manylinux_2_17_x86_64")
    package = build.package_from_wheel(wheel, wheel.name, "3.11.2")
    assert package.subdir == "linux-64"
    assert "python >=3.11,<3.12.0a0" in package.depends
    assert "lib/python3.11/site-packages/demo/__init__.py" in package.files
    script = package.files["bin/demo"]
    assert script.mode == 0o755
    assert script.data.startswith(b"#!" + build.PLACEHOLDER.encode() + b"/bin/python\n")
    assert b"from demo.cli import App\n" in script.data and b"sys.exit(App.main())" in script.data


def test_written_package_has_conda_metadata(tmp_path: Path) -> None:
    (tmp_path / "linux-64").mkdir()
    files = {
        "bin/text": build.Entry(b"#!" + build.PLACEHOLDER.encode() + b"/bin/python\n", 0o755),
        "bin/elf": build.Entry(b"\x7fELF\0" + build.PLACEHOLDER.encode() + b"\0", 0o755),
        "bin/link": build.Entry(link="text"),
        "lib/plain": build.Entry(b"plain"),
    }
    package = build.Package("demo", "1", "h0_0", ["python"], files)
    path = package.write(tmp_path)
    members: dict[str, bytes] = {}
    for component in ("info", "pkg"):
        with path.open("rb") as stream:
            for tar, member in stream_conda_component(path.name, stream, component):
                content = None if member.issym() else tar.extractfile(member)
                members[member.name] = content.read() if content else b""
    assert json.loads(members["info/index.json"])["depends"] == ["python"]
    paths = {item["_path"]: item for item in json.loads(members["info/paths.json"])["paths"]}
    assert paths["bin/text"]["file_mode"] == "text"
    assert paths["bin/elf"]["file_mode"] == "binary"
    assert paths["bin/link"]["path_type"] == "softlink"
    assert "prefix_placeholder" not in paths["lib/plain"]
    assert paths["lib/plain"]["sha256"] == hashlib.sha256(members["lib/plain"]).hexdigest()
    assert set(files) <= set(members)


def test_a_dependency_that_no_package_satisfies_is_named() -> None:
    package = build.Package("demo", "1", "0", ["absent >=2", "__glibc >=2.17"], {})
    assert build.missing_dependencies([package]) == ["demo-1-0 needs absent >=2"]


def test_the_key_depends_on_sources_alone() -> None:
    cached = MIRROR / "files" / "__pycache__" / "probe.pyc"
    cached.parent.mkdir(exist_ok=True)
    cached.touch()
    try:
        names = {path.name for path in build.inputs()}
    finally:
        cached.unlink()
    assert {"build.py", "packages.yml", "cpython.sh", "installer.sh", "conda.sh"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_pins_are_whole() -> None:
    import yaml

    inputs = yaml.safe_load((MIRROR / "packages.yml").read_text())
    items = [*inputs["cpython"], inputs["pycosat"], inputs["conda"], *inputs["wheels"]]
    assert all(re.fullmatch(r"[0-9a-f]{64}", item["sha256"]) for item in items)
    assert len({item["sha256"] for item in items}) == len(items)


def test_download_with_another_hash_is_refused(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.write_bytes(b"changed")
    source = build.Source(origin.as_uri(), "demo.whl", "0" * 64)
    with pytest.raises(
        build.BuildError, match=f"sha256 {hashlib.sha256(b'changed').hexdigest()}, expected 0000"
    ):
        build.fetch(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["origin"]


def test_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.write_bytes(b"good")
    source = build.Source(origin.as_uri(), "demo.whl", hashlib.sha256(b"good").hexdigest())
    path = build.fetch(source, tmp_path)
    path.write_bytes(b"goo")
    assert build.fetch(source, tmp_path).read_bytes() == b"good"


def test_killed_build_leaves_no_result(tmp_path: Path) -> None:
    target = tmp_path / "tree"
    with pytest.raises(KeyboardInterrupt), build.beside(target) as part:
        part.mkdir()
        (part / "half").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_old_trees_go_and_the_one_in_use_stays(tmp_path: Path) -> None:
    for name in ("old", "previous", "current"):
        (tmp_path / name / "www").mkdir(parents=True)
        (tmp_path / name / "mirror.json").touch()
    (tmp_path / "downloads").mkdir()
    build.prune(tmp_path, {"previous", "current"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "downloads", "previous"]


# --- relocation and installer -------------------------------------------------------------------------------

PLACEHOLDER = b"/opt/placehold_placehold_placehold_placehold"


def test_relocation_of_binaries_keeps_their_length() -> None:
    data = b"head\0" + PLACEHOLDER + b"/lib:" + PLACEHOLDER + b"/bin\0tail"
    changed = relocate.relocate(data, "binary", PLACEHOLDER, b"/opt/miniconda3")
    assert len(changed) == len(data)
    assert changed.startswith(b"head\0/opt/miniconda3/lib:/opt/miniconda3/bin\0") and changed.endswith(
        b"\0tail"
    )


@pytest.mark.parametrize(
    ("prefix", "first"),
    [
        ("/opt/miniconda3", "#!/opt/miniconda3/bin/python"),
        ("/" + "x" * 113, "#!/" + "x" * 113 + "/bin/python"),  # 127 characters: the kernel still reads it
        ("/" + "x" * 114, "#!/usr/bin/env python"),
    ],
)
def test_relocation_of_shebangs(prefix: str, first: str) -> None:
    data = b"#!" + PLACEHOLDER + b"/bin/python\nroot = '" + PLACEHOLDER + b"'\n"
    lines = relocate.relocate(data, "text", PLACEHOLDER, prefix.encode()).decode().splitlines()
    assert lines == [first, f"root = '{prefix}'"]


@pytest.fixture
def installer(tmp_path: Path) -> Path:
    payload = tmp_path / "payload"
    with tarfile.open(payload, "w:gz") as tar:
        for name, text in {
            "bin/python": '#!/bin/sh\necho "ran $*"\n',
            ".relocate.py": "",
            ".relocate.json": "",
            "pkgs/a-1-0.conda": "",
        }.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))
    target = tmp_path / "Miniconda3-test-Linux-x86_64.sh"
    build.write_installer(payload, target, "Miniconda3", "test")
    return target


def install(installer: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(installer), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_installer_installs_once(installer: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    first = install(installer, "-b", "-p", str(prefix))
    assert first.returncode == 0, first.stderr
    assert f"ran -I -B {prefix}/.relocate.py {prefix}\n" in first.stdout
    assert sorted(path.name for path in prefix.iterdir()) == ["bin", "pkgs"]
    assert list((prefix / "pkgs").iterdir()) == []
    again = install(installer, "-b", "-p", str(prefix))
    assert again.returncode == 1
    assert f"ERROR: File or directory already exists: '{prefix}'" in again.stderr
    assert install(installer, "-b", "-u", "-k", "-p", str(prefix)).returncode == 0
    assert (prefix / "pkgs" / "a-1-0.conda").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-b", "-p", "{tmp}/with space"], 1, "Cannot install into directories with spaces"),
        (["-z"], 1, "did not recognize option"),
        (["-h"], 2, "run install in batch mode"),
        ([], 1, "Press ENTER to confirm the location"),
    ],
)
def test_installer_refusals(
    installer: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    result = install(installer, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.returncode == status
    assert message in result.stdout + result.stderr


@pytest.mark.parametrize("fault", ["truncated", "flipped"])
def test_damaged_installer_leaves_nothing(installer: Path, tmp_path: Path, fault: str) -> None:
    data = bytearray(installer.read_bytes())
    if fault == "truncated":
        del data[-10:]
    else:
        data[-10] ^= 1
    installer.write_bytes(data)
    result = install(installer, "-b", "-p", str(tmp_path / "prefix"))
    assert result.returncode == 1
    assert "ERROR: s" in result.stderr
    assert not (tmp_path / "prefix").exists()


# --- server -------------------------------------------------------------------------------------------------


def test_configuration_takes_the_upstreams_of_the_site() -> None:
    template = (MIRROR / "image" / "nginx.conf").read_text()
    text = serve.render(template, {"TORCHFLEET_PYPI_SIMPLE": "https://pypi.example.org/simple/"}, "label")
    assert "proxy_pass https://pypi.example.org/simple/$page;" in text
    assert "proxy_pass http://deb.debian.org/debian/$file;" in text
    assert not [m for m in re.findall(r"@[A-Z_]+@", text) if m != "@NAME@"]
    with pytest.raises(serve.ServeError, match="TORCHFLEET_DEBIAN_MIRROR"):
        serve.render(template, {"TORCHFLEET_DEBIAN_MIRROR": "http://x/; return 200"})


def test_certificates_are_for_the_run(tmp_path: Path) -> None:
    from cryptography import x509

    assert serve.ensure_certificates(tmp_path) is True
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    server.verify_directly_issued_by(ca)
    assert serve.ensure_certificates(tmp_path) is False
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=serve.VALID_DAYS - 1)
    assert not serve.certificate_is_good(tmp_path / "server.pem", soon)
    (tmp_path / "server.pem").write_text("damaged")
    assert serve.ensure_certificates(tmp_path) is True


def test_without_a_built_mirror_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(serve.ServeError, match=re.escape(f"build.py --cache {tmp_path}")):
        serve.current_tree(tmp_path)
