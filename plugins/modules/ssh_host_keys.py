#!/usr/bin/python
# Apache-2.0, see LICENSE
"""Tell which ssh host keys are known, and learn those whose fingerprints were accepted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_host_keys
short_description: Tell which ssh host keys are known, and learn those whose fingerprints were accepted
version_added: 0.2.0
author: The torchfleet authors
description:
  - Asks each address for its ssh host keys with C(ssh-keyscan) and compares them with C(known_hosts) files.
    Meant for the controller.
  - A key that differs from the known one is never learnt.
options:
  addresses:
    description: Names and IP addresses as C(known_hosts) has them, with a port other than 22 C([gpu05]:2222).
    type: list
    elements: str
    required: true
  known_hosts:
    description: The file that new keys are added to. What is in it stays as it is.
    type: path
    default: ~/.ssh/known_hosts
  also:
    description: Files that are read as well, where they exist.
    type: list
    elements: path
    default: [/etc/ssh/ssh_known_hosts]
  accepted:
    description:
      - Fingerprints such as C(SHA256:...), as C(ssh-keygen -l) prints them. A new key that has one is learnt.
    type: list
    elements: str
    default: []
  timeout:
    description: How many seconds to wait for an address.
    type: int
    default: 5
attributes:
  check_mode: {support: full, description: Asks the addresses and writes nothing.}
  diff_mode: {support: full, description: Shows the lines that are added.}
requirements:
  - ssh-keyscan (OpenSSH)
"""

EXAMPLES = r"""
- name: Learn the keys of a new host
  torchfleet.gpu.ssh_host_keys:
    addresses: [192.0.2.10]
    accepted: ["SHA256:pZ6yCw2ZmHt8Vd2nTgmPqW2oV9Hx8cZAbcdefghijkl"]
  delegate_to: localhost
"""

RETURN = r"""
addresses:
  description: The addresses, in their order.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: As given., type: str}
    state:
      description: >-
        V(known), V(learnt), V(new), V(changed) (it differs from the known one, or is revoked), or V(silent)
        (it offers none).
      type: str
    keys:
      description: What it offers.
      type: list
      elements: dict
      contains:
        type: {description: Such as ssh-ed25519., type: str}
        fingerprint: {description: As C(ssh-keygen -l) prints it., type: str}
    why: {description: Why it is silent or changed; empty otherwise., type: str}
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule


class Known(NamedTuple):
    """A line of a known_hosts file."""

    marker: str
    names: str
    type: str
    key: str


def where(name: str) -> tuple[str, int]:
    """Address and port of a name as known_hosts has it."""
    match = re.fullmatch(r"\[(.+)\]:(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 22)


def fingerprint(key: str) -> str:
    digest = hashlib.sha256(base64.b64decode(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def parse(text: str) -> list[Known]:
    found = []
    for line in text.splitlines():
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) >= 3 and not fields[0].startswith("#"):
            found.append(Known(marker, *fields[:3]))
    return found


def matches(names: str, name: str) -> bool:
    """Whether the first field of a line stands for the name: hashed, or patterns."""
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in names.split("|")[2:])
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    hit = False
    for pattern in names.split(","):
        wild = re.escape(pattern.lstrip("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(wild, name, re.IGNORECASE):
            if pattern.startswith("!"):
                return False
            hit = True
    return hit


def judge(offered: list[tuple[str, str]], known: list[Known]) -> str:
    """The state of an address by the keys that it offers and those that are known of it."""
    if any(row.marker == "@revoked" and (row.type, row.key) in offered for row in known):
        return "changed"
    plain = [row for row in known if not row.marker]
    if any((row.type, row.key) in offered for row in plain):
        return "known"
    if {row.type for row in plain} & {kind for kind, _key in offered}:
        return "changed"
    # Left to ssh itself: authorities, and a host that cannot be asked, which may be behind a jump host.
    if any(row.marker == "@cert-authority" for row in known) or (plain and not offered):
        return "known"
    return "new" if offered else "silent"


def silence(address: str, port: int, timeout: int) -> str:
    """Why there are no keys to be had of an address."""
    try:
        socket.create_connection((address, port), timeout).close()
    except socket.gaierror:
        return "its name does not resolve"
    except socket.timeout:
        return f"no answer within {timeout} s on port {port}"
    except OSError as error:
        return f"port {port}: {os.strerror(error.errno) if error.errno else error}"
    return f"port {port} answers, but not as an ssh server"


def scan(module: AnsibleModule, names: list[str]) -> dict[str, list[tuple[str, str]]]:
    """The keys that each offers."""
    found: dict[str, list[tuple[str, str]]] = {}
    program = module.get_bin_path("ssh-keyscan", required=True)
    rows = [where(name) for name in names]
    for port in sorted({port for _address, port in rows}):
        command = [program, "-T", str(module.params["timeout"]), "-p", str(port), "-f", "-"]
        asked = "".join(f"{address}\n" for address, at in rows if at == port)
        # Its status only tells whether any of the addresses answered.
        _status, out, _err = module.run_command(command, data=asked)
        for row in parse(out):
            found.setdefault(row.names, []).append((row.type, row.key))
    return found


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="surrogateescape") if Path(path).is_file() else ""


def learn(module: AnsibleModule, lines: list[str]) -> dict[str, str]:
    """Add the lines to the file; returns the diff."""
    path = Path(module.params["known_hosts"])
    before = read(str(path))
    after = before + ("\n" if before and not before.endswith("\n") else "") + "".join(f"{x}\n" for x in lines)
    if not module.check_mode:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = Path(module.tmpdir) / "known_hosts"
        new.write_text(after, encoding="utf-8", errors="surrogateescape")
        module.atomic_move(str(new), str(path))
    return {"before": before, "after": after, "before_header": str(path), "after_header": str(path)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "addresses": {"type": "list", "elements": "str", "required": True},
            "known_hosts": {"type": "path", "default": "~/.ssh/known_hosts"},
            "also": {"type": "list", "elements": "path", "default": ["/etc/ssh/ssh_known_hosts"]},
            "accepted": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    strange = [item for item in params["accepted"] if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", item)]
    if strange:
        module.fail_json(
            msg=f"accepted: found {', '.join(strange)}, expected fingerprints as "
            "'ssh-keygen -l' prints them: SHA256 and 43 characters"
        )
    offered = scan(module, params["addresses"])
    files = [params["known_hosts"], *params["also"]]
    known = [line for path in files for line in parse(read(path))]
    result: list[dict[str, Any]] = []
    lines: list[str] = []
    for name in params["addresses"]:
        keys = sorted(set(offered.get(name, [])))
        of_it = [line for line in known if matches(line.names, name)]
        state = judge(keys, of_it)
        wanted = [(kind, key) for kind, key in keys if fingerprint(key) in params["accepted"]]
        if state == "new" and wanted:
            state = "learnt"
            lines += [f"{name} {kind} {key}" for kind, key in wanted]
        result.append(
            {
                "name": name,
                "state": state,
                "keys": [{"type": kind, "fingerprint": fingerprint(key)} for kind, key in keys],
                "why": "it does not offer the key that is known of it; if it was installed anew, remove "
                f"that one: ssh-keygen -R '{name}'"
                if state == "changed"
                else "",
            }
        )
    silent = [item for item in result if item["state"] == "silent"]
    with ThreadPoolExecutor(32) as pool:
        reasons = pool.map(lambda item: silence(*where(item["name"]), params["timeout"]), silent)
        for item, why in zip(silent, reasons):
            item["why"] = why
    done: dict[str, Any] = {"changed": bool(lines), "addresses": result}
    if lines:
        done["diff"] = learn(module, lines)
    module.exit_json(**done)


if __name__ == "__main__":
    main()
