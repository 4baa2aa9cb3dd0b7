#!/usr/bin/env python3
"""Start and stop the stand-in mirror.

    serve.py up --state DIR --network NAME [--cache DIR] [--base-image IMAGE]
    serve.py down [--purge]

`up` runs the container torchfleet-mirror on the network under the real names (mirrors.tuna.tsinghua.edu.cn,
pypi.tuna.tsinghua.edu.cn) and wheels.torchfleet.test, waits until it answers, and prints one JSON object:
what changed, the CA certificate to trust, the directory of the site's own wheels, the access log. Running it
again changes nothing. `down` removes the container; --purge also the volume of what was fetched.

Environment, for sites that reach PyPI and Debian elsewhere: TORCHFLEET_PYPI_SIMPLE (https://pypi.org/simple),
TORCHFLEET_PYPI_FILES (https://files.pythonhosted.org/packages), TORCHFLEET_DEBIAN_MIRROR
(http://deb.debian.org/debian), TORCHFLEET_DEBIAN_SECURITY (http://deb.debian.org/debian-security),
TORCHFLEET_MIRROR_RESOLVER (Docker's, 127.0.0.11), TORCHFLEET_MIRROR_CACHE_SIZE (30g).
SSL_CERT_FILE is the CA bundle that upstream is verified with (/etc/ssl/certs/ca-certificates.crt).
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = Path(__file__).resolve().parent
CONTAINER = "torchfleet-mirror"
IMAGE = "torchfleet/mirror:latest"
VOLUME = "torchfleet-mirror-cache"
LABEL = "torchfleet.inputs"
NAMES = ("mirrors.tuna.tsinghua.edu.cn", "pypi.tuna.tsinghua.edu.cn", "wheels.torchfleet.test")
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
VALID_DAYS = 30
UPSTREAM = {
    "PYPI_SIMPLE": ("TORCHFLEET_PYPI_SIMPLE", "https://pypi.org/simple"),
    "PYPI_FILES": ("TORCHFLEET_PYPI_FILES", "https://files.pythonhosted.org/packages"),
    "DEBIAN": ("TORCHFLEET_DEBIAN_MIRROR", "http://deb.debian.org/debian"),
    "DEBIAN_SECURITY": ("TORCHFLEET_DEBIAN_SECURITY", "http://deb.debian.org/debian-security"),
    "RESOLVER": ("TORCHFLEET_MIRROR_RESOLVER", "127.0.0.11"),
    "CACHE_SIZE": ("TORCHFLEET_MIRROR_CACHE_SIZE", "30g"),
}


class ServeError(Exception):
    """A message for the user: what failed, and what to do next."""


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        result = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ServeError("docker is not installed") from None
    if check and result.returncode:
        raise ServeError(f"docker {' '.join(arguments[:3])} ...: {(result.stderr or result.stdout).strip()}")
    return result


# --- certificates -------------------------------------------------------------------------------------------


def certificate_is_good(path: Path, now: datetime.datetime) -> bool:
    """The server certificate is there, covers the names and holds for another two days."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    covered = set(names.get_values_for_type(x509.DNSName))
    return covered == set(NAMES) and certificate.not_valid_after_utc > now + datetime.timedelta(days=2)


def write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(data)


def ensure_certificates(directory: Path) -> bool:
    """A CA for this run and a server certificate signed by it; the key of the CA is never written."""
    now = datetime.datetime.now(datetime.timezone.utc)
    files = [directory / name for name in ("ca.pem", "server.key", "server.pem")]
    if all(file.exists() for file in files) and certificate_is_good(files[2], now):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "torchfleet stand-in mirror: CA of one run")]
    )

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
        )

    def usage(ca: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=ca,
            crl_sign=ca,
            encipher_only=False,
            decipher_only=False,
        )

    # A host that trusts this CA trusts it for the stand-in's names alone.
    permitted = [x509.DNSName(name) for name in NAMES]
    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(usage(ca=True), True)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), True)
        .sign(ca_key, hashes.SHA256())
    )
    server = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAMES[0])]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(usage(ca=False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectAlternativeName(permitted), False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    write_private(
        files[1],
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    files[0].write_bytes(ca.public_bytes(pem))
    files[2].write_bytes(server.public_bytes(pem))
    return True


# --- server -------------------------------------------------------------------------------------------------


def render(template: str, environment: Mapping[str, str], label: str = "") -> str:
    for mark, (variable, default) in UPSTREAM.items():
        value = (environment.get(variable) or default).rstrip("/")
        if any(character in value for character in " ;{}\n\"'"):
            raise ServeError(f"{variable}={value!r} is not a URL, address or size")
        template = template.replace(f"@{mark}@", value)
    return template.replace("@LABEL@", label)


def current_tree(cache: Path) -> Path:
    pointer = cache / "mirror" / "current.json"
    try:
        www = Path(json.loads(pointer.read_text())["path"]) / "www"
    except (OSError, ValueError, KeyError):
        www = Path()
    if not www.is_absolute() or not www.is_dir():
        raise ServeError(
            f"{pointer} names no built mirror; run molecule/shared/mirror/build.py --cache {cache} first"
        )
    return www


def build_image(base: str) -> str:
    proxies = [
        f"--build-arg={name}" for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ
    ]
    docker("build", "--quiet", f"--build-arg=BASE={base}", *proxies, "--tag", IMAGE, str(HERE / "image"))
    return docker("image", "inspect", "--format={{.Id}}", IMAGE).stdout.strip()


def container_state() -> dict[str, Any] | None:
    result = docker("container", "inspect", CONTAINER, check=False)
    if result.returncode:
        return None
    state: dict[str, Any] = json.loads(result.stdout)[0]
    return state


def wait_until_healthy(label: str, seconds: float = 20) -> None:
    """nginx answers with the label of this configuration."""
    request = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = docker("exec", CONTAINER, "bash", "-c", request, check=False)
        if label in result.stdout:
            return
        time.sleep(0.2)
    logs = docker("logs", "--tail", "20", CONTAINER, check=False)
    raise ServeError(f"{CONTAINER} does not answer after {seconds:.0f} s:\n{logs.stdout}{logs.stderr}")


def up(cache: Path, state: Path, network: str, base: str) -> dict[str, Any]:
    www = current_tree(cache)
    bundle = Path(os.environ.get("SSL_CERT_FILE") or CA_BUNDLE).resolve()
    if not bundle.is_file():
        raise ServeError(
            f"no CA bundle at {bundle}: install ca-certificates, or name the bundle in SSL_CERT_FILE"
        )
    tls, run, wheels = state / "ca", state / "mirror", state / "wheels"
    logs = run / "log"
    for directory in (wheels, logs):
        directory.mkdir(parents=True, exist_ok=True)
    changed = ensure_certificates(tls)
    template = render((HERE / "image" / "nginx.conf").read_text(), os.environ)
    image = build_image(base)
    inputs = [template, image, str(www), str(bundle), network, str(state), (tls / "server.pem").read_text()]
    label = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:32]
    if docker("network", "inspect", network, check=False).returncode:
        docker("network", "create", network)
        changed = True
    found = container_state()
    same = found and found["State"]["Running"] and found["Config"]["Labels"].get(LABEL) == label
    if not (same and found and network in found["NetworkSettings"]["Networks"]):
        changed = True
        if found:
            networks = ", ".join(found["NetworkSettings"]["Networks"])
            print(f"mirror: replacing {CONTAINER} on network {networks}", file=sys.stderr)
            docker("rm", "--force", CONTAINER)
        (run / "nginx.conf").write_text(
            render((HERE / "image" / "nginx.conf").read_text(), os.environ, label)
        )
        for name in ("access.log", "error.log"):
            (logs / name).touch()  # so that they belong to the user, not to the container's root
        mounts = {
            www: "/srv/www:ro",
            wheels: "/srv/wheels:ro",
            tls: "/etc/torchfleet/tls:ro",
            run / "nginx.conf": "/etc/torchfleet/nginx.conf:ro",
            bundle: "/etc/torchfleet/upstream-ca.pem:ro",
            logs: "/var/log/torchfleet",
            VOLUME: "/var/cache/torchfleet",
        }
        options = [f"--volume={source}:{target}" for source, target in mounts.items()]
        options += [f"--network-alias={name}" for name in NAMES]
        options += ["--label", f"{LABEL}={label}", "--network", network]
        docker("run", "--detach", "--name", CONTAINER, *options, IMAGE)
        wait_until_healthy(label)
        found = container_state() or {}
    address = (
        (found or {}).get("NetworkSettings", {}).get("Networks", {}).get(network, {}).get("IPAddress", "")
    )
    return {
        "changed": changed,
        "container": CONTAINER,
        "network": network,
        "address": str(ipaddress.ip_address(address)) if address else None,
        "names": list(NAMES),
        "ca": str(tls / "ca.pem"),
        "wheels": str(wheels),
        "access_log": str(logs / "access.log"),
        "tree": str(www),
        "description": json.loads((www.parent / "mirror.json").read_text()),
    }


def down(purge: bool) -> dict[str, Any]:
    changed = container_state() is not None
    if changed:
        docker("rm", "--force", CONTAINER)
    if purge and docker("volume", "inspect", VOLUME, check=False).returncode == 0:
        docker("volume", "rm", VOLUME)
        changed = True
    return {"changed": changed, "container": CONTAINER}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Start and stop the stand-in mirror.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="run the mirror on a Docker network")
    start.add_argument("--cache", type=Path, default=Path("~/.cache/torchfleet"), help="default: %(default)s")
    start.add_argument(
        "--state", type=Path, required=True, help="directory of this run: ca/, wheels/, mirror/log/"
    )
    start.add_argument("--network", required=True, help="Docker network; made when it is missing")
    start.add_argument("--base-image", default="torchfleet/debian12:latest", help="default: %(default)s")
    stop = commands.add_parser("down", help="remove the container")
    stop.add_argument("--purge", action="store_true", help=f"also remove the volume {VOLUME}")
    options = parser.parse_args(arguments)
    os.umask(0o022)  # nginx reads the tree as another user
    try:
        if options.command == "up":
            result = up(
                options.cache.expanduser().resolve(),
                options.state.expanduser().resolve(),
                options.network,
                options.base_image,
            )
        else:
            result = down(options.purge)
    except ServeError as error:
        print(f"mirror: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
