"""What the role does where it may: Fabric Manager on a host with NVSwitches, and the enrolment of DKMS' key.

Fabric Manager is the simulated one; mokutil and dkms are stand-ins that note how they are called.
"""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from drive_role import ROOT, host_name, recap, role

FIXTURES = ROOT / "tests/unit/fixtures/gpu_facts"
EFIVARS = "/run/torchfleet-sim/firmware/efi/efivars"
SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
PASSWORD = "of-the-console"
NOTES = "/var/log/stand-in.json"
MOKUTIL = f"""#!/usr/bin/python3
import json, pathlib, sys
with open("{NOTES}", "a") as notes:
    notes.write(json.dumps([sys.argv[1:], sys.stdin.read()]) + "\\n")
if pathlib.Path(sys.argv[2]).read_bytes() != pathlib.Path("/srv/mok.pub").read_bytes():
    sys.exit("this is not the key")
# As shim has it until the console was asked.
waiting = bytes([7, 0, 0, 0]) + pathlib.Path("/srv/dkms.esl").read_bytes()
pathlib.Path("{EFIVARS}/MokNew-{SHIM}").write_bytes(waiting)
"""
DKMS = """#!/bin/sh
[ "$1" = generate_mok ] && install -D -m 0644 /srv/mok.pub /var/lib/dkms/mok.pub
"""
CONTROL = """Package: mokutil
Version: 0.6.0-2
Architecture: all
Maintainer: torchfleet tests <torchfleet@example.invalid>
Description: stand-in
"""
testinfra_hosts = ["ansible://ok01", "ansible://secure01"]


def put(host: Any, path: str, content: bytes, mode: str = "0644") -> None:
    """Write a file of a host."""
    host.check_output("install -d %s", str(Path(path).parent))
    host.check_output("echo %s | base64 -d > %s", b64encode(content).decode(), path)
    host.check_output("chmod %s %s", mode, path)


def test_fabric_manager_is_started_and_starts_with_the_host(host: Any) -> None:
    if host_name(host) != "ok01":
        pytest.skip("no NVSwitch there")
    host.check_output("systemctl disable --now nvidia-fabricmanager.service")
    said = role("ok01", {})
    assert recap(said, "ok01")["failed"] == 0, said
    service = host.service("nvidia-fabricmanager.service")
    assert service.is_enabled
    assert service.is_running
    said = role("ok01", {})
    counts = recap(said, "ok01")
    assert (counts["changed"], counts["failed"]) == (0, 0), said


def test_fabric_manager_of_another_version_is_refused(host: Any) -> None:
    if host_name(host) != "ok01":
        pytest.skip("no NVSwitch there")
    prebuilt = "/opt/torchfleet-sim/prebuilt/{}/fabricmanager/nvidia-fabricmanager_*.deb"
    host.check_output(f"dpkg --install {prebuilt.format('570.211.01')}")
    said = role("ok01", {})
    words = ["Fabric Manager is 570.211.01", "580.178.04", "nvidia_driver_version"]
    assert [word for word in words if word not in said] == [], said
    assert recap(said, "ok01")["failed"] == 1
    host.check_output(f"dpkg --install {prebuilt.format('580.178.04')}")


def test_the_key_of_dkms_is_prepared_for_enrolment_once(host: Any) -> None:
    if host_name(host) != "secure01":
        pytest.skip("no Secure Boot there")
    for name in ("mok.pub", "dkms.esl"):
        put(host, f"/srv/{name}", (FIXTURES / name).read_bytes())
    # shim lists the key of the distribution, and not yet this one.
    put(host, f"{EFIVARS}/MokListRT-{SHIM}", b"\6\0\0\0" + (FIXTURES / "site.esl").read_bytes())
    put(host, "/srv/mokutil/usr/bin/mokutil", MOKUTIL.encode(), "0755")
    put(host, "/srv/mokutil/DEBIAN/control", CONTROL.encode())
    host.check_output("dpkg-deb --build /srv/mokutil /srv/mokutil.deb")
    host.check_output("dpkg --install /srv/mokutil.deb")
    put(host, "/usr/sbin/dkms", DKMS.encode(), "0755")

    wish = {"nvidia_driver_mok_enroll": True, "nvidia_driver_mok_password": PASSWORD}
    said = role("secure01", wish)
    assert recap(said, "secure01")["failed"] == 0, said
    assert "Enroll MOK" in said and "/var/lib/dkms/mok.pub" in said
    assert PASSWORD not in said
    calls = [json.loads(line) for line in host.file(NOTES).content_string.splitlines()]
    ((arguments, typed),) = calls
    assert arguments == ["--import", "/var/lib/dkms/mok.pub"] and typed.split() == [PASSWORD, PASSWORD]

    # It waits for the console now: nothing is asked again.
    said = role("secure01", wish)
    counts = recap(said, "secure01")
    assert (counts["changed"], counts["failed"]) == (0, 0), said
    assert len(host.file(NOTES).content_string.splitlines()) == 1

    # The console was asked: shim has the key in its list, and modules of DKMS are refused no longer.
    both = b"".join((FIXTURES / name).read_bytes() for name in ("site.esl", "dkms.esl"))
    put(host, f"{EFIVARS}/MokListRT-{SHIM}", b"\6\0\0\0" + both)
    host.check_output("rm %s", f"{EFIVARS}/MokNew-{SHIM}")
    said = role("secure01", {"nvidia_driver_upgrade": True, "nvidia_driver_branch": "535"}, "--check")
    assert "the key that it is signed with is not enrolled" not in said
    assert "Would install driver 535" in said
    assert recap(said, "secure01")["failed"] == 0, said
