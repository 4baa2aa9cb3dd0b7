#!/usr/bin/env python3
"""Build the stand-in mirror: conda channels and a Miniconda-shaped installer in TUNA's layout.

    build.py --cache DIR [--base-image torchfleet/debian12:latest]

Made from Debian's source archive and PyPI alone (packages.yml): a CPython compiled in a container of the base
image, `.conda` packages made from wheels, indexes by conda-index, and an installer around a base prefix that
holds the real conda 24.7.1 out of conda-lock's wheel. A test fixture: the product never depends on it.

The result is DIR/mirror/KEY/ (www/, mirror.json), where KEY is a hash of everything it was made from, and
DIR/mirror/current.json, which names it. A second run does nothing.

Environment: TORCHFLEET_DEBIAN_MIRROR (http://deb.debian.org/debian), TORCHFLEET_PYPI_FILES
(https://files.pythonhosted.org/packages); http_proxy, https_proxy and SSL_CERT_FILE as everywhere.
"""

from __future__ import annotations

import argparse
import email.parser
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from conda_package_streaming.create import conda_builder  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

HERE = Path(__file__).resolve().parent
FILES = HERE / "files"
# conda's own length: prefix replacement needs room for the prefix of the host.
PLACEHOLDER = ("/opt/" + "placehold_" * 25)[:255]
# One moment for every file and record: the same inputs give the same channel.
TIMESTAMP = 1721865600
# The last two, as pkgs/r, are there and empty.
CHANNELS = (
    *("anaconda/pkgs/main", "anaconda/pkgs/r", "anaconda/cloud/conda-forge"),
    *("anaconda/cloud/pytorch", "anaconda/cloud/bioconda"),
)
INSTALLER_DIR = "anaconda/miniconda"
INSTALLER = "Miniconda3-py311_{version}-0-Linux-x86_64.sh"
# The same payload that gives itself out for an older conda: something to upgrade from.
OLDER = "24.5.0"
# Where Miniforge's installers lie on TUNA.
MINIFORGE = "github-release/conda-forge/miniforge/Release {version}-0/Miniforge3-{version}-0-Linux-x86_64.sh"
# Has the name of the product's pinned default and other content, so the pinned hash must refuse it.
IMPOSTOR = "Miniconda3-py312_26.5.3-1-Linux-x86_64.sh"
BASE_SPECS = ("conda", "python", "pip", "setuptools", "wheel")
ZSTD_LEVEL = 9


class BuildError(Exception):
    """A message for the user: what failed, and what to do next."""


def say(text: str) -> None:
    print(f"mirror: {text}", flush=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def inputs() -> list[Path]:
    """Every file of the project that the result depends on."""
    files = sorted(p for p in FILES.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return [HERE / "build.py", HERE / "packages.yml", *files]


def key_of(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


# --- inputs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """One pinned file of Debian or PyPI."""

    url: str
    file: str
    sha256: str


def fetch(source: Source, directory: Path) -> Path:
    """The file in the cache, downloaded when it is missing; its hash is always checked."""
    target = directory / f"{source.sha256[:16]}-{source.file}"
    if target.exists() and sha256_of(target) == source.sha256:
        return target
    error: Exception | None = None
    for attempt in range(4):
        time.sleep(2 * attempt)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".part-", delete=False) as part:
            try:
                with urllib.request.urlopen(source.url, timeout=60) as response:
                    shutil.copyfileobj(response, part, 1 << 20)
                part.close()
                found = sha256_of(Path(part.name))
                if found != source.sha256:
                    raise BuildError(f"{source.url}: sha256 {found}, expected {source.sha256} (packages.yml)")
                Path(part.name).chmod(0o644)
                Path(part.name).replace(target)
                return target
            except (OSError, urllib.error.URLError) as problem:
                error = problem
            finally:
                Path(part.name).unlink(missing_ok=True)
    raise BuildError(
        f"cannot download {source.url}: {error}; is the network up? "
        "TORCHFLEET_DEBIAN_MIRROR and TORCHFLEET_PYPI_FILES name other servers, SSL_CERT_FILE a CA bundle"
    )


# --- packages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A file of a package; link is the target of a symbolic link."""

    data: bytes = b""
    mode: int = 0o644
    link: str | None = None


@dataclass
class Package:
    """A conda package in memory."""

    name: str
    version: str
    build: str
    depends: list[str]
    files: dict[str, Entry]
    license: str | None = None
    noarch: bool = False
    entry_points: list[str] = field(default_factory=list)

    @property
    def dist(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else "linux-64"

    def index(self) -> dict[str, Any]:
        index: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": 0,
            "depends": self.depends,
            "subdir": self.subdir,
            "arch": None if self.noarch else "x86_64",
            "platform": None if self.noarch else "linux",
            "timestamp": TIMESTAMP * 1000,
        }
        if self.noarch:
            index["noarch"] = "python"
        if self.license:
            index["license"] = self.license
        return index

    def paths(self) -> list[dict[str, Any]]:
        paths = []
        for name, entry in sorted(self.files.items()):
            data = entry.link.encode() if entry.link else entry.data
            record: dict[str, Any] = {
                "_path": name,
                "path_type": "softlink" if entry.link else "hardlink",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_in_bytes": len(data),
            }
            if PLACEHOLDER.encode() in entry.data:
                record["prefix_placeholder"] = PLACEHOLDER
                record["file_mode"] = "binary" if b"\0" in entry.data else "text"
            paths.append(record)
        return paths

    def info(self) -> dict[str, bytes]:
        about = {"summary": "Part of a stand-in mirror made for tests", "license": self.license}
        info: dict[str, Any] = {
            "info/index.json": self.index(),
            "info/paths.json": {"paths": self.paths(), "paths_version": 1},
            "info/about.json": about,
        }
        if self.noarch:
            info["info/link.json"] = {
                "noarch": {"type": "python", "entry_points": self.entry_points},
                "package_metadata_version": 1,
            }
        texts = {name: json.dumps(value, indent=2, sort_keys=True).encode() for name, value in info.items()}
        texts["info/files"] = "".join(f"{name}\n" for name in sorted(self.files)).encode()
        return texts

    def write(self, channel: Path) -> Path:
        directory = channel / self.subdir
        with conda_builder(self.dist, directory, compression_level=ZSTD_LEVEL, compression_threads=1) as tar:
            members = dict(self.files)
            members.update({name: Entry(data) for name, data in self.info().items()})
            add_members(tar, members)
        return directory / f"{self.dist}.conda"


def add_members(tar: tarfile.TarFile, members: Mapping[str, Entry]) -> None:
    for name, entry in sorted(members.items()):
        member = tarfile.TarInfo(name)
        member.mtime = TIMESTAMP
        member.mode = entry.mode
        if entry.link:
            member.type = tarfile.SYMTYPE
            member.linkname = entry.link
            tar.addfile(member)
        else:
            member.size = len(entry.data)
            tar.addfile(member, io.BytesIO(entry.data))


def conda_name(name: str) -> str:
    """PyPI's name as the conda channels have it: normalised, but for the dots of ruamel.yaml."""
    return (
        canonicalize_name(name)
        .replace("ruamel-yaml-clib", "ruamel.yaml.clib")
        .replace("ruamel-yaml", "ruamel.yaml")
    )


def conda_spec(name: str, specifier: SpecifierSet) -> str:
    return f"{conda_name(name)} {','.join(sorted(str(s) for s in specifier))}".strip()


def python_pin(python: str) -> str:
    major, minor = python.split(".")[:2]
    return f"python >={major}.{minor},<{major}.{int(minor) + 1}.0a0"


def requirements(metadata: Iterable[str], python: str) -> list[str]:
    """Requires-Dist as conda dependencies, for this Python on Linux and without extras."""
    environment = {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }
    parsed = [Requirement(text) for text in metadata]
    return [
        conda_spec(r.name, r.specifier) for r in parsed if r.marker is None or r.marker.evaluate(environment)
    ]


def console_scripts(text: str) -> list[str]:
    section = ""
    found = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[console_scripts]" and "=" in line:
            name, target = (part.strip() for part in line.split("=", 1))
            found.append(f"{name} = {target.split('[')[0].strip()}")
    return found


def entry_point_script(entry: str) -> Entry:
    module, function = entry.split(" = ")[1].split(":")
    top = function.split(".")[0]
    text = (
        f"#!{PLACEHOLDER}/bin/python\n"
        f"import sys\n\nfrom {module} import {top}\n\n"
        f"if __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    return Entry(text.encode(), 0o755)


def package_from_wheel(path: Path, file: str, python: str) -> Package:
    """A noarch package from a pure wheel, one for this Python from a binary wheel."""
    _, version, _, tags = parse_wheel_filename(file)
    series = ".".join(python.split(".")[:2])
    pure = all(tag.platform == "any" for tag in tags)
    site = "site-packages" if pure else f"lib/python{series}/site-packages"
    files: dict[str, Entry] = {}
    metadata, scripts = "", ""
    with zipfile.ZipFile(path) as wheel:
        for item in wheel.infolist():
            if item.is_dir():
                continue
            parts = PurePosixPath(item.filename).parts
            mode = 0o755 if (item.external_attr >> 16) & stat.S_IXUSR else 0o644
            data = wheel.read(item)
            if parts[0].endswith(".data"):
                if parts[1] not in ("purelib", "platlib"):
                    continue  # manual pages and scripts; entry points are made below
                parts = parts[2:]
            if parts[0].endswith(".dist-info") and len(parts) == 2:
                if parts[1] == "METADATA":
                    metadata = data.decode()
                elif parts[1] == "entry_points.txt":
                    scripts = data.decode()
                elif parts[1] == "WHEEL":
                    files[f"{site}/{parts[0]}/INSTALLER"] = Entry(b"conda\n")
            files["/".join((site, *parts))] = Entry(data, mode)
    headers = email.parser.Parser().parsestr(metadata, headersonly=True)
    license_name = headers.get("License-Expression") or headers.get("License") or ""
    name = conda_name(headers["Name"])
    depends = requirements(headers.get_all("Requires-Dist") or [], python)
    digest = sha256_of(path)[:7]
    if pure:
        depends.append(conda_spec("python", SpecifierSet(headers.get("Requires-Python") or ">=3")))
        build = f"pyh{digest}_0"
    else:
        depends.append(python_pin(python))
        build = f"py{series.replace('.', '')}h{digest}_0"
    if name == "pip":
        depends += ["setuptools", "wheel"]  # as the real channels have it
    entry_points = console_scripts(scripts)
    if not pure:
        for entry in entry_points:
            files[f"bin/{entry.split(' = ')[0]}"] = entry_point_script(entry)
    return Package(
        name=name,
        version=str(version),
        build=build,
        depends=sorted(depends),
        files=files,
        license=license_name.splitlines()[0][:60] if license_name else None,
        noarch=pure,
        entry_points=entry_points,
    )


def conda_package(path: Path, version: str, python: str) -> Package:
    """The real conda out of conda-lock's wheel: imports renamed back, the shell folder supplied."""
    series = ".".join(python.split(".")[:2])
    site = f"lib/python{series}/site-packages"
    vendor = "conda_lock/_vendor/"
    files: dict[str, Entry] = {}
    with zipfile.ZipFile(path) as wheel:
        for item in wheel.namelist():
            if not item.startswith(f"{vendor}conda/") or item.endswith("/"):
                continue
            data = wheel.read(item)
            for old in (b"conda_lock._vendor.conda", b"conda_lock.vendor.conda"):
                data = data.replace(old, b"conda")
            files[f"{site}/{item.removeprefix(vendor)}"] = Entry(data)
        licenses = [n for n in wheel.namelist() if n.endswith("/conda.LICENSE")]
        files[f"{site}/conda-{version}.dist-info/LICENSE"] = Entry(wheel.read(licenses[0]))
    constants = f"{site}/conda/base/constants.py"
    # libmamba is not on PyPI; conda's other solver is.
    old, new = b'DEFAULT_SOLVER = "libmamba"', b'DEFAULT_SOLVER = "classic"'
    if files[constants].data.count(old) != 1:
        raise BuildError(
            f"{path.name}: no {old.decode()!r} in conda/base/constants.py; another conda than {version}?"
        )
    files[constants] = Entry(files[constants].data.replace(old, new))
    for source in sorted((FILES / "shell").rglob("*")):
        if source.is_file():
            files[f"{site}/conda/shell/{source.relative_to(FILES / 'shell')}"] = Entry(source.read_bytes())
    metadata = f"Metadata-Version: 2.1\nName: conda\nVersion: {version}\n"
    scripts = "[console_scripts]\nconda = conda.cli.main_pip:main\n"
    files[f"{site}/conda-{version}.dist-info/METADATA"] = Entry(metadata.encode())
    files[f"{site}/conda-{version}.dist-info/entry_points.txt"] = Entry(scripts.encode())
    files[f"{site}/conda-{version}.dist-info/INSTALLER"] = Entry(b"conda\n")
    depends = [
        "archspec >=0.2.3",
        "boltons >=23.0.0",
        "charset-normalizer",
        "conda-package-handling >=2.2.0",
        "distro >=1.5.0",
        "frozendict >=2.4.2",
        "jsonpatch >=1.32",
        "packaging >=23.0",
        "platformdirs >=3.10.0",
        "pluggy >=1.0.0",
        "pycosat >=0.6.3",
        "requests >=2.28.0",
        "ruamel.yaml >=0.11.14",
        "setuptools >=60.0.0",
        "tqdm >=4",
        "truststore >=0.8.0",
        "zstandard >=0.15",
        python_pin(python),
    ]
    return Package(
        name="conda",
        version=version,
        build=f"py{series.replace('.', '')}h{sha256_of(path)[:7]}_0",
        depends=depends,
        files=files,
        license="BSD-3-Clause",
    )


def python_package(tree: Mapping[str, Entry], version: str, digest: str) -> Package:
    files = {name.removeprefix("prefix/"): e for name, e in tree.items() if name.startswith("prefix/")}
    # Prefix replacement would break a .pyc, whose strings are not closed by a NUL.
    files = {n: e for n, e in files.items() if not (n.endswith(".pyc") and PLACEHOLDER.encode() in e.data)}
    return Package("python", version, f"h{digest[:7]}_0", ["__glibc >=2.36"], files, "PSF-2.0")


def pycosat_package(tree: Mapping[str, Entry], version: str, python: str) -> Package:
    series = ".".join(python.split(".")[:2])
    site = f"lib/python{series}/site-packages"
    files = {f"{site}/{n.removeprefix('pycosat/')}": e for n, e in tree.items() if n.startswith("pycosat/")}
    return Package("pycosat", version, f"py{series.replace('.', '')}_0", [python_pin(python)], files, "MIT")


def missing_dependencies(packages: Sequence[Package]) -> list[str]:
    names = {package.name for package in packages}
    return sorted(
        f"{package.dist} needs {depend}"
        for package in packages
        for depend in package.depends
        if depend.split()[0] not in names and not depend.startswith("__")
    )


# --- containers -------------------------------------------------------------------------------------------


def run_in_container(
    image: str, script: Path, environment: Mapping[str, str], members: Mapping[str, Entry], output: Path
) -> None:
    """Run a script of files/ in a container: a tar goes in, the result comes out, nothing is mounted."""
    options = [f"--env={name}={value}" for name, value in environment.items()]
    options += [f"--env={name}" for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ]
    command = ["docker", "run", "--rm", "--interactive", "--entrypoint", "bash", *options, image]
    with tempfile.TemporaryFile() as stdin, output.open("wb") as stdout:
        with tarfile.open(fileobj=stdin, mode="w") as tar:
            add_members(tar, members)
        stdin.seek(0)
        result = subprocess.run([*command, "-c", script.read_text()], stdin=stdin, stdout=stdout, check=False)
    if result.returncode:
        raise BuildError(
            f"{script.name} failed in a container of {image} with status {result.returncode}, see above"
        )


def read_tree(path: Path) -> dict[str, Entry]:
    tree: dict[str, Entry] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.issym():
                tree[name] = Entry(link=member.linkname)
            elif member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                tree[name] = Entry(content.read(), 0o755 if member.mode & stat.S_IXUSR else 0o644)
    return tree


def compiled(
    cache: Path, image: str, cpython: Mapping[str, str], source: Path, pycosat: Path
) -> tuple[dict[str, Entry], str]:
    """CPython and pycosat as a tree in memory, with the key of what they were made from."""
    script = FILES / "cpython.sh"
    key = key_of(script.read_bytes(), source.name, pycosat.name, PLACEHOLDER)
    target = cache / f"cpython-{cpython['version']}-{key}.tar"
    if not target.exists():
        say(f"compiling CPython {cpython['version']} in a container of {image} (about two minutes, once)")
        with beside(target) as part:
            run_in_container(
                image,
                script,
                {
                    "PYTHON_VERSION": ".".join(cpython["version"].split(".")[:2]),
                    "PLACEHOLDER": PLACEHOLDER,
                    "JOBS": str(os.cpu_count() or 2),
                },
                {"cpython.tar.gz": Entry(source.read_bytes()), "pycosat.tar.gz": Entry(pycosat.read_bytes())},
                part,
            )
    return read_tree(target), key


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A path next to the target that takes its name only when all went well."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield part
        part.replace(target)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def debian_url() -> str:
    return (os.environ.get("TORCHFLEET_DEBIAN_MIRROR") or "http://deb.debian.org/debian").rstrip("/")


def pypi_files_url() -> str:
    return (os.environ.get("TORCHFLEET_PYPI_FILES") or "https://files.pythonhosted.org/packages").rstrip("/")


# --- channels and installer -------------------------------------------------------------------------------


def write_channels(packages: Sequence[Package], www: Path) -> None:
    main, _, forge, *_empty = (www / channel for channel in CHANNELS)
    for channel in CHANNELS:
        for subdir in ("linux-64", "noarch"):
            (www / channel / subdir).mkdir(parents=True)
    for package in packages:
        path = package.write(main)
        os.utime(path, (TIMESTAMP, TIMESTAMP))
        (forge / package.subdir / path.name).hardlink_to(path)


def index_channels(packages: Sequence[Package], www: Path) -> None:
    """conda-index wants to import conda: it gets the one in the channel, with those of its pure
    dependencies that are not installed here."""
    with tempfile.TemporaryDirectory() as directory:
        for package in closure(packages, ["conda"]):
            for name, entry in package.files.items():
                target = PurePosixPath(name.split("site-packages/")[-1])
                if (package.noarch or package.name == "conda") and not importlib.util.find_spec(
                    re.split("[.-]", target.parts[0])[0]
                ):
                    Path(directory, target).parent.mkdir(parents=True, exist_ok=True)
                    Path(directory, target).write_bytes(entry.data)
        for channel in CHANNELS:
            command = [
                sys.executable, "-m", "conda_index", "--bz2", "--zst", "--current-repodata", "--no-rss",
                "--channel-name", channel.rsplit("/", 1)[-1], "--threads", str(os.cpu_count() or 2),
                str(www / channel),
            ]  # fmt: skip
            result = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": directory},
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode:
                raise BuildError(f"conda-index failed on {channel}:\n{result.stdout}{result.stderr}")
            for cache in (www / channel).rglob(".cache"):
                shutil.rmtree(cache)


def closure(packages: Sequence[Package], names: Sequence[str]) -> list[Package]:
    """The packages of these names with all that they depend on, the last in the list of each name."""
    by_name = {package.name: package for package in packages}
    wanted = list(names)
    for name in wanted:
        depends = (depend.split()[0] for depend in by_name[name].depends)
        wanted += [depend for depend in depends if depend in by_name and depend not in wanted]
    return [by_name[name] for name in wanted]


def bootstrap_tree(packages: Sequence[Package], series: str) -> Iterator[tuple[str, Entry]]:
    """A prefix in which conda runs, unpacked without conda: it links the base prefix."""
    for package in closure(packages, ["conda"]):
        for path, entry in package.files.items():
            target = f"lib/python{series}/{path}" if path.startswith("site-packages/") else path
            yield f"bootstrap/{target}", entry


def base_payload(image: str, packages: Sequence[Package], www: Path, python: str, output: Path) -> None:
    """The base prefix as a tar.gz with the placeholder for its prefix: linked by conda from the channel."""
    series = ".".join(python.split(".")[:2])
    members = dict(bootstrap_tree(packages, series))
    main = www / CHANNELS[0]
    for path in sorted(main.rglob("*")):
        if path.is_file() and path.name.endswith((".conda", "repodata.json")):
            members[f"channel/{path.relative_to(main)}"] = Entry(path.read_bytes())
    for name in ("base.py", "relocate.py"):
        members[name] = Entry((FILES / name).read_bytes())
    run_in_container(
        image, FILES / "base.sh", {"PLACEHOLDER": PLACEHOLDER, "SPECS": " ".join(BASE_SPECS)}, members, output
    )


def write_installer(
    payload: Path, target: Path, name: str, version: str, channels: str = "", renumber: str = ""
) -> None:
    """channels: what it puts into its .condarc; renumber: "FROM TO", the version of conda to pretend."""
    header = (FILES / "installer.sh").read_text()
    data = payload.read_bytes()
    values = {
        "@NAME@": name,
        "@VERSION@": version,
        "@CHANNELS@": channels,
        "@RENUMBER@": renumber,
        "@CONDA@": re.sub(r"^py\d+_|-\d+$", "", version),
        "@PAYLOAD_SHA256@": hashlib.sha256(data).hexdigest(),
        "@PAYLOAD_SIZE@": str(len(data)),
        "@LINES@": str(header.count("\n") + 1),
    }
    for mark, value in values.items():
        header = header.replace(mark, value)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(header.encode() + data)
    target.chmod(0o755)


def write_faults(www: Path, installer: Path) -> None:
    """The faults that are files; nginx.conf has those that are answers."""
    whole = installer.read_bytes()
    truncated = www / "faults/truncated" / INSTALLER_DIR / installer.name
    truncated.parent.mkdir(parents=True)
    truncated.write_bytes(whole[: len(whole) // 2])
    impostor = www / INSTALLER_DIR / IMPOSTOR
    impostor.write_text(
        "#!/bin/sh\n# Stand-in: the pinned sha256 of the real file must refuse this one.\nexit 99\n"
    )
    impostor.chmod(0o755)


def build(cache: Path, image: str) -> Path:
    """Build what is missing and return the directory of the mirror."""
    mirror = cache / "mirror"
    downloads = mirror / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    key = key_of(*(f"{path.relative_to(HERE)}\n".encode() + path.read_bytes() for path in inputs()))
    target = mirror / key
    if (target / "mirror.json").exists():
        say(f"{target} is up to date")
    else:
        with beside(target) as part:
            build_into(part, mirror, downloads, image, key)
    current = mirror / "current.json"
    previous = json.loads(current.read_text())["key"] if current.exists() else key
    with beside(current) as part:
        part.write_text(json.dumps({"key": key, "path": str(target)}) + "\n")
    prune(mirror, {key, previous})
    return target


def prune(mirror: Path, keep: set[str]) -> None:
    """Remove older trees, but for the one that a running server may still have mounted."""
    for tree in mirror.glob("*/mirror.json"):
        if tree.parent.name not in keep:
            shutil.rmtree(tree.parent)


def build_into(part: Path, cache: Path, downloads: Path, image: str, key: str) -> None:
    pins = yaml.safe_load((HERE / "packages.yml").read_text())
    started = time.monotonic()

    def source(item: Mapping[str, str], base: str) -> Source:
        return Source(f"{base}/{item['dir']}/{item['file']}", item["file"], item["sha256"])

    pythons = [source(item, debian_url()) for item in pins["cpython"]]
    wheels = [source(item, pypi_files_url()) for item in pins["wheels"]]
    sources = [*pythons, *(source(pins[name], pypi_files_url()) for name in ("pycosat", "conda")), *wheels]
    say(f"checking and downloading {len(sources)} files from {debian_url()} and {pypi_files_url()}")
    with ThreadPoolExecutor(6) as pool:
        paths = dict(zip(sources, pool.map(lambda s: fetch(s, downloads), sources), strict=True))
    pycosat, conda = (paths[s] for s in sources[len(pythons) : len(pythons) + 2])

    packages: list[Package] = []
    for item, archive in zip(pins["cpython"], pythons, strict=True):
        tree, digest = compiled(cache, image, item, paths[archive], pycosat)
        packages.append(python_package(tree, item["version"], digest))
        packages.append(pycosat_package(tree, pins["pycosat"]["version"], item["version"]))
    python = pins["cpython"][0]["version"]
    packages += [package_from_wheel(paths[wheel], wheel.file, python) for wheel in wheels]
    packages.append(conda_package(conda, pins["conda"]["version"], python))
    if missing := missing_dependencies(packages):
        raise BuildError(f"packages.yml lacks packages: {'; '.join(missing)}")

    www = part / "www"
    say(f"writing {len(packages)} packages and the indexes of {len(CHANNELS)} channels")
    write_channels(packages, www)
    index_channels(packages, www)
    say("linking the base prefix with conda in a container, packing the installer")
    payload = part / "payload"
    base_payload(image, packages, www, python, payload)
    version = pins["conda"]["version"]
    name = INSTALLER.format(version=version)
    installer = www / INSTALLER_DIR / name
    write_installer(payload, installer, "Miniconda3", name.removesuffix("-Linux-x86_64.sh").split("-", 1)[1])
    older = installer.with_name(INSTALLER.format(version=OLDER))
    write_installer(payload, older, "Miniconda3", f"py311_{OLDER}-0", renumber=f"{version} {OLDER}")
    installer.with_name("Miniconda3-latest-Linux-x86_64.sh").hardlink_to(installer)
    miniforge = www / MINIFORGE.format(version=version)
    write_installer(payload, miniforge, "Miniforge3", f"{version}-0", channels="conda-forge")
    payload.unlink()
    write_faults(www, installer)
    description = {
        "key": key,
        "installer": {
            "file": name,
            "path": f"/{INSTALLER_DIR}/{name}",
            "sha256": sha256_of(installer),
            "size": installer.stat().st_size,
        },
        "others": {path.name: sha256_of(path) for path in (older, miniforge)},
        "impostor": {"file": IMPOSTOR, "path": f"/{INSTALLER_DIR}/{IMPOSTOR}"},
        "conda_version": version,
        "python_versions": [item["version"] for item in pins["cpython"]],
        "channels": [f"/{channel}" for channel in CHANNELS],
        "packages": [
            {"name": p.name, "version": p.version, "build": p.build, "subdir": p.subdir} for p in packages
        ],
    }
    (part / "mirror.json").write_text(json.dumps(description, indent=2) + "\n")
    size = installer.stat().st_size / 1e6
    say(f"built {name} ({size:.1f} MB) and {len(packages)} packages in {time.monotonic() - started:.0f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the stand-in mirror (channels and installer).")
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/torchfleet"), help="default: %(default)s"
    )
    parser.add_argument(
        "--base-image", default="torchfleet/debian12:latest", help="Debian 12; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    os.umask(0o022)  # the web server reads the tree as another user
    cache = options.cache.expanduser().resolve()
    (cache / "mirror").mkdir(parents=True, exist_ok=True)
    try:
        with (cache / "mirror" / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            print(build(cache, options.base_image) / "mirror.json")
    except BuildError as error:
        print(f"mirror: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
