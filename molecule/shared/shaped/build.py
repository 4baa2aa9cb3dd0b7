#!/usr/bin/env python3
"""Build the repositories of a shaped host; runs in the image's build stage.

    build.py ubuntu2404|rocky9 OUT

OUT/www          what the host's own web server serves: the distribution's archive, NVIDIA's repository
OUT/www-rotated  the same, NVIDIA's repository signed with another key
OUT/installed    the packages that the host comes with
OUT/keys         the public key of the distribution
OUT/keys.json    the fingerprints of NVIDIA's key, the one that it is rotated to, and EPEL's
Everything is made of dummies: real names and relations, no content. The keys are made here and kept nowhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import el9, ubuntu2404
from .package import Package, deb, deb_index, deb_release, rpm_repository, rpms, run

KEYS = ("archive", "epel", "nvidia", "rotated")
NVIDIA_KEYS = {"ubuntu2404": "3bf863cc.pub", "rhel9": "D42D0685.pub"}


def make_key(name: str) -> None:
    """Make a key that signs."""
    run(
        "gpg",
        "--batch",
        "--quiet",
        "--passphrase",
        "",
        "--quick-gen-key",
        f"{name} (shaped)",
        "rsa3072",
        "sign",
        "0",
    )


def public_key(name: str, path: Path, armored: bool = True) -> None:
    """Write a public key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["gpg", "--batch", *(["--armor"] if armored else []), "--export", f"{name} (shaped)"],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    path.write_bytes(done.stdout)


def fingerprint(name: str) -> str:
    """Return what tells a key from another."""
    listed = run("gpg", "--batch", "--with-colons", "--list-keys", f"{name} (shaped)").splitlines()
    return next(line.split(":")[9] for line in listed if line.startswith("fpr:"))


def clearsign(name: str, release: Path) -> None:
    """Sign a Release file as InRelease."""
    arguments = [
        "--batch",
        "--yes",
        "--local-user",
        f"{name} (shaped)",
        "--output",
        str(release.parent / "InRelease"),
    ]
    run("gpg", *arguments, "--clearsign", str(release))


def sign_rpms(name: str, folder: Path) -> None:
    """Sign every package of a folder."""
    files = [str(path) for path in sorted(folder.glob("*.rpm"))]
    run(
        "rpmsign",
        "--define",
        "__gpg /usr/bin/gpg",
        "--define",
        f"_gpg_name {name} (shaped)",
        "--define",
        "_gpg_digest_algo sha256",
        "--addsign",
        *files,
    )


def ubuntu(out: Path, work: Path) -> None:
    """Build an Ubuntu-24.04-shaped archive and NVIDIA's repository for it."""
    www = out / "www"
    pool = {
        name: build_debs(found, work, www / "ubuntu/pool" / name)
        for name, found in ubuntu2404.archive().items()
    }
    for suite in ("noble", "noble-updates", "noble-security"):
        folder = www / "ubuntu/dists" / suite
        indexes = {}
        for component, debs in pool.items():
            # The archive's updates hold the current packages; the release's own are of no matter here.
            rows = debs if suite == "noble-updates" else []
            indexes[f"{component}/binary-amd64/Packages"] = deb_index(rows, www / "ubuntu")
        fields = {
            "Origin": "Ubuntu",
            "Label": "Ubuntu",
            "Suite": suite,
            "Codename": "noble",
            "Version": "24.04",
        }
        fields |= {"Architectures": "amd64", "Components": " ".join(pool)}
        clearsign("archive", deb_release(folder, fields, indexes))
    cuda = www / "compute/cuda/repos/ubuntu2404/x86_64"
    build_debs(ubuntu2404.nvidia(), work, cuda)
    fields = {"Origin": "NVIDIA", "Label": "NVIDIA CUDA", "Architectures": "amd64"}
    release = deb_release(cuda, fields, {"Packages": deb_index(cuda.glob("*.deb"), cuda)})
    build_debs(ubuntu2404.installed(), work, out / "installed")
    public_key("archive", out / "keys/ubuntu-archive-keyring.gpg", armored=False)
    # For whoever has these packages in a repository of their own.
    public_key("archive", www / "ubuntu/archive.asc")
    shutil.copytree(www, out / "www-rotated", copy_function=os.link)
    rotated = out / "www-rotated" / release.relative_to(www)
    for name, path in (("nvidia", release), ("rotated", rotated)):
        clearsign(name, path)
        public_key(name, path.parent / NVIDIA_KEYS["ubuntu2404"])
    # A server that is asked for what is newer goes by the time of the file: the rotated one is.
    former = time.time() - 3600
    os.utime(release.parent / "InRelease", (former, former))


def build_debs(packages: list[Package], work: Path, folder: Path) -> list[Path]:
    """Build .debs; one name and version is built once."""
    return [deb(package, work, folder) for package in packages]


def rocky(out: Path, work: Path) -> None:
    """Build a Rocky-9-shaped distribution, EPEL and NVIDIA's repository."""
    www = out / "www"
    repositories = {
        "rocky/9/BaseOS/x86_64/os": ("archive", el9.baseos(), ""),
        "epel/9/Everything/x86_64": ("epel", el9.epel(), ""),
        "compute/cuda/repos/rhel9/x86_64": ("nvidia", el9.nvidia(), el9.modules()),
    }
    for place, (_key, packages, _modules) in repositories.items():
        rpms(packages, work, www / place)
    rpms(el9.installed(), work, out / "installed")
    shutil.copytree(www, out / "www-rotated")
    for tree, rotated in ((www, False), (out / "www-rotated", True)):
        for place, (key, _packages, modules) in repositories.items():
            name = "rotated" if rotated and key == "nvidia" else key
            sign_rpms(name, tree / place)
            rpm_repository(tree / place, modules)
        public_key(
            "rotated" if rotated else "nvidia",
            tree / "compute/cuda/repos/rhel9/x86_64" / NVIDIA_KEYS["rhel9"],
        )
        public_key("epel", tree / "epel/RPM-GPG-KEY-EPEL-9")
    public_key("archive", out / "keys/RPM-GPG-KEY-Rocky-9")


def main(shape: str, out: Path) -> None:
    """Build everything into ``out``."""
    work = out / "work"
    os.environ["GNUPGHOME"] = str(work / "gnupg")
    (work / "gnupg").mkdir(mode=0o700, parents=True)
    for name in KEYS:
        make_key(name)
    {"ubuntu2404": ubuntu, "rocky9": rocky}[shape](out, work)
    (out / "keys.json").write_text(json.dumps({name: fingerprint(name) for name in KEYS}))
    run("gpgconf", "--kill", "all")
    shutil.rmtree(work)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
