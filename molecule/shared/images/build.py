#!/usr/bin/env python3
"""Build the container images that stand for servers in the demo and in the tests.

    build.py [NAME ...]                   what is missing or out of date among the named images (default: all)
    build.py --base-image debian12=docker.io/library/debian:12   start from a registry image instead

debian12 and debian13 are bare Debian servers (systemd, sshd, python3) made from Debian packages by
mmdebstrap, so that no registry is needed. debian12-simgpu and debian13-simgpu add the simulated GPU layer of
../simgpu. ubuntu2404-shaped and rocky9-shaped are Debian underneath, and look like another system to a role
that installs a driver (../shaped). Each image carries a label with a hash of what it was made from: a second
run does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIMGPU = HERE.parent / "simgpu"
SHAPED = HERE.parent / "shaped"
LABEL = "torchfleet.inputs"
RELEASES = {"debian12": "bookworm", "debian13": "trixie"}
# What an installed Debian server has, and what a container leaves out: kernel, boot loader, udev, cron.
# zsh is only on debian12, so that a login shell that is not installed is met as well.
PACKAGES = [
    "bash",
    "ca-certificates",
    "dbus",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "openssh-server",
    "pciutils",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd-sysv",
]
EXTRA_PACKAGES: Mapping[str, Sequence[str]] = {"debian12": ["zsh"], "debian13": []}
COMPONENTS = "main non-free-firmware"


@dataclass(frozen=True)
class Shape:
    """What a host that is shaped like another system is made of, beside its Debian."""

    base: str
    build: str
    host: str


SHAPES = {
    "ubuntu2404-shaped": Shape("debian13", "gpg gpg-agent", ""),
    "rocky9-shaped": Shape("debian12", "createrepo-c rpm gpg gpg-agent", "dnf dnf-plugins-core rpm"),
}
# Documentation is of no use in a throw-away host; the copyright files stay.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
# docker import takes no STOPSIGNAL: who runs the image gives --stop-signal SIGRTMIN+3.
IMAGE_CONFIG = ('CMD ["/lib/systemd/systemd"]', "ENV LANG=C.UTF-8", "LABEL torchfleet=image")


class BuildError(Exception):
    """A message for the user: what failed, and what to do next."""


@dataclass(frozen=True)
class Options:
    """Where the packages, and where wanted the base images, come from."""

    mirror: str
    security: str
    base_images: Mapping[str, str]


def fingerprint(parts: Iterable[str], trees: Iterable[Path]) -> str:
    """Hash strings and files (names, modes, contents): an image is rebuilt when any of them changes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    for tree in trees:
        for path in sorted(p for p in ([tree] if tree.is_file() else tree.rglob("*")) if p.is_file()):
            if "__pycache__" in path.parts:
                continue
            mode = "x" if os.access(path, os.X_OK) else "-"
            content = path.read_bytes()
            digest.update(f"{path.relative_to(tree.parent)}:{mode}:{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def sources(release: str, options: Options) -> list[str]:
    """Return the apt sources of an installed server, in the one-line format."""
    return [
        f"deb {options.mirror} {release} {COMPONENTS}",
        f"deb {options.mirror} {release}-updates {COMPONENTS}",
        f"deb {options.security} {release}-security {COMPONENTS}",
    ]


def docker(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run docker; a missing or unreachable daemon becomes one clear message."""
    try:
        done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(
            "docker: command not found; install Docker (Debian: apt-get install docker.io)"
        ) from None
    if check and done.returncode:
        raise BuildError(f"docker {args[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done


def inspect(tag: str) -> tuple[str, str | None]:
    """Return the id of an image ("" when there is none) and the inputs that it was made from."""
    done = docker("image", "inspect", "--format", "{{.Id}} {{json .Config.Labels}}", tag, check=False)
    if done.returncode:
        if "no such image" in done.stderr.lower():
            return "", None
        raise BuildError(f"docker image inspect {tag} failed: {done.stderr.strip()}")
    image_id, _, labels = done.stdout.strip().partition(" ")
    return image_id, (json.loads(labels) or {}).get(LABEL)


def bootstrap(name: str, tag: str, inputs: str, options: Options) -> None:
    """Make a bare server out of Debian packages and import it as an image."""
    if not shutil.which("mmdebstrap"):
        raise BuildError(
            f"{name}: mmdebstrap is not installed, and it makes the image from Debian packages; run 'apt-get"
            f" install mmdebstrap', or name a registry image: --base-image {name}=IMAGE"
        )
    command = ["mmdebstrap", "--variant=minbase"]
    command += [f"--include={','.join([*PACKAGES, *EXTRA_PACKAGES[name]])}"]
    command += ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"']
    command += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    command += [f"--customize-hook=copy-in {HERE / 'rootfs'} {HERE / 'finish.sh'} /tmp"]
    command += ['--customize-hook=chroot "$1" sh /tmp/finish.sh', RELEASES[name], "-"]
    command += sources(RELEASES[name], options)
    changes = [arg for line in (*IMAGE_CONFIG, f"LABEL {LABEL}={inputs}") for arg in ("--change", line)]
    with tempfile.TemporaryFile("w+") as log:
        # mmdebstrap ends by hanging up its whole process group: let it have one of its own.
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        ) as maker:
            assert maker.stdout is not None
            # Under a name of its own until mmdebstrap is known to have ended well.
            done = subprocess.run(
                ["docker", "import", *changes, "-", f"{tag}-unfinished"],
                stdin=maker.stdout, capture_output=True, text=True, check=False,
            )  # fmt: skip
            maker.stdout.close()
        if maker.returncode or done.returncode:
            docker("image", "rm", f"{tag}-unfinished", check=False)
            log.seek(0)
            what = "\n".join([*log.read().splitlines()[-15:], done.stderr.strip()])
            raise BuildError(
                f"{name}: cannot make the image from {options.mirror}:\n{what}\n"
                "Is the mirror reachable (--debian-mirror),"
                " and does debian-archive-keyring here know the release?"
            )
    docker("tag", f"{tag}-unfinished", tag)
    docker("image", "rm", f"{tag}-unfinished")


def dockerfile(folder: Path, file: str, tag: str, inputs: str, arguments: Mapping[str, str]) -> None:
    """Run docker build, with its output shown only when it fails."""
    args = [arg for key, value in arguments.items() for arg in ("--build-arg", f"{key}={value}")]
    docker("build", "-f", str(folder / file), "-t", tag, "--label", f"{LABEL}={inputs}", *args, str(folder))


def build(name: str, options: Options) -> None:
    """Build one image where it is missing or was made from other inputs."""
    tag = f"torchfleet/{name}:latest"
    base, simulated, _ = name.partition("-simgpu")
    registry = options.base_images.get(base)
    shape = SHAPES.get(name)
    trees: list[Path]
    if shape:
        build(shape.base, options)
        parts = [inspect(f"torchfleet/{shape.base}:latest")[0], options.mirror, shape.build, shape.host]
        trees = [SHAPED, SIMGPU / "rootfs"]
    elif simulated:
        build(base, options)
        parts, trees = [inspect(f"torchfleet/{base}:latest")[0], options.mirror, options.security], [SIMGPU]
    elif registry:
        packages = [*PACKAGES, *EXTRA_PACKAGES[base]]
        parts, trees = (
            [registry, *packages],
            [HERE / "rootfs", HERE / "finish.sh", HERE / "Dockerfile.registry"],
        )
    else:
        parts = [
            *sources(RELEASES[base], options),
            *PACKAGES,
            *EXTRA_PACKAGES[base],
            *DPKG_OPTIONS,
            *IMAGE_CONFIG,
        ]
        trees = [HERE / "rootfs", HERE / "finish.sh"]
    inputs = fingerprint(parts, trees)
    if inspect(tag)[1] == inputs:
        print(f"{tag}: up to date ({inputs})")
        return
    start = time.monotonic()
    if shape:
        print(f"{tag}: building on torchfleet/{shape.base} ...", flush=True)
        arguments = {"BASE": f"torchfleet/{shape.base}:latest", "SHAPE": name.removesuffix("-shaped")}
        arguments |= {"BUILD_PACKAGES": shape.build, "HOST_PACKAGES": shape.host}
        dockerfile(HERE.parent, "shaped/Dockerfile", tag, inputs, arguments)
    elif simulated:
        print(f"{tag}: building the simulated GPU layer on torchfleet/{base} ...", flush=True)
        dockerfile(SIMGPU, "Dockerfile", tag, inputs, {"BASE": f"torchfleet/{base}:latest", "RELEASE": base})
    elif registry:
        print(f"{tag}: building from {registry} ...", flush=True)
        arguments = {"BASE": registry, "PACKAGES": " ".join([*PACKAGES, *EXTRA_PACKAGES[base]])}
        dockerfile(HERE, "Dockerfile.registry", tag, inputs, arguments)
    else:
        print(f"{tag}: building from {options.mirror} with mmdebstrap ...", flush=True)
        bootstrap(base, tag, inputs, options)
    # What the build leaves without a name: its first stage, and the image that this one replaces.
    docker("image", "prune", "--force", "--filter", "label=torchfleet")
    print(f"{tag}: built in {time.monotonic() - start:.0f} s ({inputs})", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and build; 1 with a message when an image cannot be had."""
    names = [name + layer for name in RELEASES for layer in ("", "-simgpu")] + list(SHAPES)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--base-image", action="append", default=[], metavar="RELEASE=IMAGE")
    mirror = os.environ.get("TORCHFLEET_DEBIAN_MIRROR") or "http://deb.debian.org/debian"
    parser.add_argument("--debian-mirror", default=mirror, metavar="URL", help="default: %(default)s")
    parser.add_argument(
        "--debian-security", metavar="URL", help="default: the mirror's URL followed by -security"
    )
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in names:
            parser.error(f"unknown image {name!r}; expected one of {', '.join(names)}")
    base_images = dict(item.partition("=")[::2] for item in args.base_image)
    for release, image in base_images.items():
        if release not in RELEASES or not image:
            parser.error(
                f"--base-image {release}={image}: expected RELEASE=IMAGE, with one of {', '.join(RELEASES)}"
            )
    mirror = args.debian_mirror.rstrip("/")
    options = Options(mirror, args.debian_security or f"{mirror}-security", base_images)
    try:
        for name in args.names or names:
            build(name, options)
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
