"""The module ssh_host_keys: what is known, new, changed or silent; only what was accepted is learnt."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.modules import ssh_host_keys as module

Run = Callable[..., dict[str, Any]]
A, B, C = (base64.b64encode(f"key {letter}".encode()).decode() for letter in "ABC")
# What ssh-keyscan prints, comments among it.
SCANNED = f"""# 10.0.0.1:22 SSH-2.0-OpenSSH_9.2
10.0.0.1 ssh-ed25519 {A}
10.0.0.1 ssh-rsa {B}
[10.0.0.1]:2222 ssh-ed25519 {A}
gpu02 ssh-ed25519 {C}
"""
HOST = "10.0.0.1"


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, digest))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    program = tmp_path / "bin" / "ssh-keyscan"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat >/dev/null\ncat {tmp_path}/scanned\n")
    program.chmod(0o755)
    (tmp_path / "scanned").write_text(SCANNED)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)

    def call(*addresses: str, check: bool = False, **more: Any) -> dict[str, Any]:
        args = {
            "addresses": list(addresses),
            "known_hosts": str(tmp_path / "ssh" / "known_hosts"),
            "also": [],
            **more,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]

    return call


def states(result: dict[str, Any]) -> list[str]:
    return [item["state"] for item in result["addresses"]]


def test_a_new_key_is_told_and_not_learnt(run: Run, tmp_path: Path) -> None:
    done = run(HOST, "[10.0.0.1]:2222")
    assert states(done) == ["new", "new"] and done["changed"] is False
    assert [key["fingerprint"] for key in done["addresses"][0]["keys"]] == [
        module.fingerprint(A),
        module.fingerprint(B),
    ]
    assert not (tmp_path / "ssh").exists()


def test_the_fingerprint_is_the_one_that_ssh_prints() -> None:
    # ssh-keygen -l of this public key, which opens nothing.
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIE9lJR8p6EHgsyvO3dCtpkE6VkvJhQBy6Zy5bBTpF4Xp"
    assert module.fingerprint(key) == "SHA256:e+f5mUfBJ02WG/JIVffUgmqqEPczEpTNS8FmXPtYyKM"


def test_only_the_accepted_key_is_learnt_and_what_was_there_stays(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ssh" / "known_hosts"
    file.parent.mkdir()
    file.write_text(f"# mine\nother ssh-ed25519 {C}")
    foretold = run(HOST, accepted=[module.fingerprint(A)], check=True)
    assert foretold["changed"] and file.read_text() == f"# mine\nother ssh-ed25519 {C}"
    done = run(HOST, accepted=[module.fingerprint(A)])
    assert states(done) == ["learnt"]
    assert (
        file.read_text()
        == f"# mine\nother ssh-ed25519 {C}\n10.0.0.1 ssh-ed25519 {A}\n"
        == done["diff"]["after"]
    )
    again = run(HOST, accepted=[module.fingerprint(A)])
    assert states(again) == ["known"] and again["changed"] is False


def test_a_fresh_file_is_its_owner_s_alone_to_write(run: Run, tmp_path: Path) -> None:
    run("[10.0.0.1]:2222", accepted=[module.fingerprint(A)])
    file = tmp_path / "ssh" / "known_hosts"
    assert file.read_text() == f"[10.0.0.1]:2222 ssh-ed25519 {A}\n"
    assert (file.stat().st_mode & 0o022, file.parent.stat().st_mode & 0o777) == (0, 0o700)


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (f"10.0.0.1 ssh-ed25519 {A}", "known"),
        (f"{hashed('10.0.0.1')} ssh-rsa {B} comment", "known"),
        (f"10.0.0.*,!10.0.0.2 ssh-ed25519 {A}", "known"),
        (f"10.0.0.*,!10.0.0.1 ssh-ed25519 {A}", "new"),
        (f"[10.0.0.1]:2222 ssh-ed25519 {A}", "new"),
        (f"10.0.0.1 ssh-ed25519 {C}", "changed"),
        (f"@revoked 10.0.0.1 ssh-ed25519 {A}", "changed"),
        (f"@cert-authority 10.0.0.* ssh-ed25519 {C}", "known"),
        ("|1|not|base64 ssh-ed25519 x", "new"),
        ("nonsense", "new"),
    ],
)
def test_what_is_known_decides(run: Run, tmp_path: Path, line: str, state: str) -> None:
    (tmp_path / "known").write_text(f"{line}\n")
    done = run(
        HOST, known_hosts=str(tmp_path / "known"), accepted=[] if state == "new" else [module.fingerprint(A)]
    )
    assert states(done) == [state]
    assert (tmp_path / "known").read_text() == f"{line}\n"
    assert ("ssh-keygen -R" in done["addresses"][0]["why"]) is (state == "changed")


def test_the_files_of_the_system_count(run: Run, tmp_path: Path) -> None:
    (tmp_path / "system").write_text(f"10.0.0.1 ssh-ed25519 {A}\n")
    assert states(run(HOST, also=[str(tmp_path / "system")])) == ["known"]


def test_a_known_host_that_cannot_be_asked_is_left_to_ssh(run: Run, tmp_path: Path) -> None:
    (tmp_path / "known").write_text(f"behind ssh-ed25519 {A}\n")
    assert states(run("behind", known_hosts=str(tmp_path / "known"))) == ["known"]


def test_the_reason_of_silence_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "scanned").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (open_,) = run(f"[127.0.0.1]:{port}")["addresses"]
    (shut,) = run(f"[127.0.0.1]:{port}")["addresses"]
    (nameless,) = run("gone.invalid", timeout=1)["addresses"]
    assert {open_["state"], shut["state"], nameless["state"]} == {"silent"}
    assert open_["why"] == f"port {port} answers, but not as an ssh server"
    assert shut["why"] == f"port {port}: Connection refused"
    assert nameless["why"] == "its name does not resolve"


def test_a_fingerprint_that_is_none_is_refused(run: Run) -> None:
    assert "found MD5:00, expected fingerprints" in run(HOST, accepted=["MD5:00"])["msg"]
