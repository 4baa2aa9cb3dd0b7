"""One dummy package, as .deb or as .rpm; repositories of them."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ABOUT = "shaped, not real: a dummy of torchfleet's tests"
DEB_SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
RPM_SCRIPTS = {"postinst": "%post", "prerm": "%preun"}


@dataclass
class Package:
    """Names, relations and files; versions are epoch:version-release in both formats."""

    name: str
    version: str
    depends: str = ""
    provides: str = ""
    conflicts: str = ""
    files: dict[str, bytes | str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)

    @property
    def evr(self) -> tuple[str, str, str]:
        """Return epoch, version and release."""
        epoch, _, rest = self.version.rpartition(":")
        version, _, release = rest.rpartition("-")
        return epoch or "0", version, release

    @property
    def nevra(self) -> str:
        """Return what a modulemd document calls the package."""
        epoch, version, release = self.evr
        return f"{self.name}-{epoch}:{version}-{release}.x86_64"

    def lay(self, tree: Path) -> None:
        """Write the files into a tree."""
        for name, content in self.files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            path.chmod(0o755 if "bin/" in name else 0o644)
        for name, target in self.links.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(target)


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return what it said; its errors go to the build's log."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


def deb(package: Package, work: Path, out: Path) -> Path:
    """Build a .deb into a folder."""
    tree = work / "deb"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": "amd64",
        "Maintainer": "torchfleet tests <torchfleet@example.invalid>",
        "Depends": package.depends,
        "Provides": package.provides,
        "Conflicts": package.conflicts,
        "Replaces": package.conflicts,
        "Description": ABOUT,
    }
    (tree / "DEBIAN/control").write_text("".join(f"{k}: {v}\n" for k, v in fields.items() if v))
    for name, text in package.scripts.items():
        (tree / "DEBIAN" / name).write_text(f"#!/bin/sh\nset -e\n{text}")
        (tree / "DEBIAN" / name).chmod(0o755)
    package.lay(tree)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{package.name}_{package.version.rpartition(':')[2]}_amd64.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(path))
    return path


def deb_index(debs: Iterable[Path], root: Path) -> bytes:
    """Return the Packages file for .debs that are served under ``root``."""
    stanzas = []
    for path in sorted(debs):
        data = path.read_bytes()
        control = run("dpkg-deb", "--field", str(path)).strip()
        digest = hashlib.sha256(data).hexdigest()
        stanzas.append(
            f"{control}\nFilename: {path.relative_to(root)}\nSize: {len(data)}\nSHA256: {digest}\n"
        )
    return "\n".join(stanzas).encode()


def deb_release(folder: Path, fields: dict[str, str], indexes: dict[str, bytes]) -> Path:
    """Write indexes and the Release file that names them; who signs it makes the InRelease."""
    lines = [f"{key}: {value}" for key, value in fields.items()]
    lines += ["Date: Mon, 02 Nov 2026 00:00:00 UTC", "SHA256:"]
    for name, content in indexes.items():
        for path, data in ((name, content), (f"{name}.gz", gzip.compress(content, mtime=0))):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {path}")
    release = folder / "Release"
    release.write_text("\n".join(lines) + "\n")
    return release


def rpms(packages: Sequence[Package], work: Path, out: Path) -> None:
    """Build .rpms into a folder: one spec for all, as long as no name comes twice."""
    rest = list(packages)
    while rest:
        batch = list({package.name: package for package in reversed(rest)}.values())
        rest = [package for package in rest if not any(package is other for other in batch)]
        tree = work / "rpm"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        lines = ["Name: shaped", "Version: 1", "Release: 1", f"Summary: {ABOUT}", "License: Apache-2.0"]
        lines += ["AutoReqProv: no", "%description", ABOUT]
        for package in batch:
            lines += _subpackage(package)
            package.lay(tree / "root")
        (tree / "shaped.spec").write_text("\n".join(lines) + "\n")
        (tree / "root").mkdir(exist_ok=True)
        defines = {
            "_topdir": tree, "_rpmdir": out, "_rpmfilename": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
            "_binary_payload": "w1.gzdio", "__os_install_post": "%{nil}", "debug_package": "%{nil}",
            "_build_id_links": "none", "_unpackaged_files_terminate_build": 0, "_dbpath": work / "rpmdb",
        }  # fmt: skip
        arguments = [arg for key, value in defines.items() for arg in ("--define", f"{key} {value}")]
        run(
            "rpmbuild", "-bb", "--quiet", "--nodeps", "--noclean", "--target", "x86_64", *arguments,
            "--buildroot", str(tree / "root"), str(tree / "shaped.spec"),
        )  # fmt: skip


def _subpackage(package: Package) -> list[str]:
    epoch, version, release = package.evr
    lines = [f"%package -n {package.name}", f"Epoch: {epoch}"] if epoch != "0" else []
    lines = lines or [f"%package -n {package.name}"]
    lines += [f"Version: {version}", f"Release: {release}", f"Summary: {ABOUT}", "AutoReqProv: no"]
    relations = {
        "Requires": package.depends,
        "Provides": package.provides,
        "Conflicts": package.conflicts,
    }
    lines += [f"{key}: {value}" for key, text in relations.items() for value in text.split(", ") if value]
    lines += [f"%description -n {package.name}", ABOUT]
    for script, section in RPM_SCRIPTS.items():
        if script in package.scripts:
            lines += [f"{section} -n {package.name}", package.scripts[script].rstrip()]
    lines += [f"%files -n {package.name}"]
    lines += [f"/{name}" for name in [*package.files, *package.links]]
    return lines


def rpm_repository(folder: Path, modules: str = "") -> None:
    """Write the repodata, with a modulemd document where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    run("createrepo_c", "--quiet", "--no-database", "--simple-md-filenames", str(folder))
    if modules:
        (folder / "modules.yaml").write_text(modules)
        run("modifyrepo_c", "--mdtype=modules", "--simple-md-filenames",
            str(folder / "modules.yaml"), str(folder / "repodata"))  # fmt: skip
