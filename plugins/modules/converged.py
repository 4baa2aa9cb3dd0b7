#!/usr/bin/python
# Copyright: the torchfleet contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Tell whether a host is untouched since a whole run that found it right and verified it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: converged
short_description: Tell whether a host was touched since it was found right and verified
version_added: 0.2.0
author: The torchfleet contributors (@torchfleet)
description:
  - A run that found nothing to do, from the first look to the verification, leaves a record on the host. The
    next run asks by it whether the roles have anything to look at.
  - The host is untouched where it has not booted since, everything declared is the same, and so are inode,
    size, mode and time of change (ctime, which nobody sets back) of every file that the roles look at. When
    in doubt it was touched.
options:
  state:
    description:
      - V(compared) only looks.
      - V(recorded) writes the record, if all is still as O(seen) tells.
    type: str
    choices: [compared, recorded]
    default: compared
  path:
    description: The record on the host. Only root may read it.
    type: path
    required: true
  paths:
    description:
      - Files and directories, with all beneath them. A leading C(~user) is that user's home. What does not
        exist may not come to exist.
    type: list
    elements: path
    required: true
  leave_out:
    description: What of O(paths) may change, such as a cache.
    type: list
    elements: path
    default: []
  declared:
    description:
      - Digests of what the host's state rests on beside its files, each by a name for people.
      - The action plugin of this name fills it in.
    type: dict
    default: {}
  max_age:
    description: Seconds for which a verification counts. With V(0) none does.
    type: int
    default: 0
  seen:
    description: What O(state=compared) returned as C(seen) at the beginning of the run.
    type: str
  flavours:
    description: As M(torchfleet.gpu.gpu_facts) takes them. The action plugin fills them in.
    type: list
    elements: dict
    default: []
  verified:
    description: What was decided and proven, for the record. The next run gets it back as it is.
    type: dict
    default: {}
attributes:
  action:
    support: full
    description:
      - Adds digests of the roles' variables, of the controller's files that they name and of this collection,
        and compares what the host is.
  check_mode:
    support: full
    description: Writes no record.
  diff_mode:
    support: none
    description: The record is the memory of the runs and no state that anybody declares.
notes:
  - The record is no declared state, so writing it is not reported as a change.
"""

EXAMPLES = r"""
- name: Look
  torchfleet.gpu.converged:
    path: /var/lib/torchfleet/converged.json
    paths: [/opt/miniconda3, /etc/pip.conf]
    leave_out: [/opt/miniconda3/pkgs]
    max_age: 86400
  register: look

- name: Keep the record of a run that changed nothing
  torchfleet.gpu.converged:
    state: recorded
    path: /var/lib/torchfleet/converged.json
    paths: [/opt/miniconda3, /etc/pip.conf]
    leave_out: [/opt/miniconda3/pkgs]
    seen: "{{ look.seen }}"
    verified: {plan: "{{ torchfleet_plan }}", results: "{{ torchfleet_results }}"}
"""

RETURN = r"""
untouched:
  description: Whether nothing was touched since the record was made.
  returned: state is compared
  type: bool
reason:
  description: What was touched, or why nothing can be said, or why there is no record.
  returned: always
  type: str
verified_at:
  description: When the host was verified, UTC; null unless it is untouched.
  returned: state is compared
  type: str
verified:
  description: What was decided and proven then.
  returned: state is compared
  type: dict
truth:
  description: What the host is, as M(torchfleet.gpu.gpu_facts) tells it, without disks.
  returned: the host is untouched
  type: dict
seen:
  description: A digest of all that was looked at.
  returned: state is compared
  type: str
recorded:
  description: Whether the record was written.
  returned: state is recorded
  type: bool
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host, Run
from ansible_collections.torchfleet.gpu.plugins.module_utils.small_files import read, write_whole
from ansible_collections.torchfleet.gpu.plugins.module_utils.touched import (
    Snapshot,
    differing,
    newest,
    snapshot,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.truth import gather

SCHEMA = 1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def runner(module: AnsibleModule) -> Run:
    def run(command: list[str]) -> tuple[int, str, str]:
        path = module.get_bin_path(command[0])
        if path is None:
            return 127, "", f"{command[0]}: not found"
        status, out, err = module.run_command([path, *command[1:]])
        return int(status), str(out), str(err)

    return run


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def digest(found: Snapshot, declared: dict[str, Any], boot: str) -> str:
    """All that must stay as it is from the beginning of a run to its end."""
    text = json.dumps([found, declared, boot], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def remembered(path: Path) -> dict[str, Any] | None:
    """The record; None for one that is not there, not whole or of another release."""
    try:
        record = json.loads(read(path) or "")
    except ValueError:
        return None
    whole = isinstance(record, dict) and record.get("schema") == SCHEMA
    return record if whole else None


def objection(
    record: dict[str, Any] | None,
    found: Snapshot,
    declared: dict[str, Any],
    boot: str,
    age: float | None,
    max_age: int,
    leave_out: list[str],
) -> str:
    """Why the host cannot be called untouched; empty when it can."""
    if record is None or age is None:
        return "there is no record of a run that changed nothing"
    before = record["declared"]
    others = sorted(name for name in {*before, *declared} if before.get(name) != declared.get(name))
    if others:
        return f"{', '.join(others)}: not as at the verification"
    if record["boot"] != boot:
        return "the host has booted since the verification"
    if not 0 <= age < max_age:
        return f"the verification of {moment(record['verified_at'])} is older than {max_age} s"
    paths = differing(record["paths"], found)
    if not paths:
        return ""
    last = newest(paths[0], leave_out)
    what = f"{last[0]} at {moment(last[1])}" if last else "it is gone"
    return f"touched since the verification: {', '.join(paths)}; the last: {what}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["compared", "recorded"], "default": "compared"},
            "path": {"type": "path", "required": True},
            "paths": {"type": "list", "elements": "path", "required": True},
            "leave_out": {"type": "list", "elements": "path", "default": []},
            "declared": {"type": "dict", "default": {}},
            "max_age": {"type": "int", "default": 0},
            "seen": {"type": "str"},
            "flavours": {"type": "list", "elements": "dict", "default": []},
            "verified": {"type": "dict", "default": {}},
        },
        required_if=[("state", "recorded", ["seen"])],
        supports_check_mode=True,
    )
    wanted = module.params
    path = Path(wanted["path"])
    try:
        found = snapshot(wanted["paths"], wanted["leave_out"])
        boot = BOOT_ID.read_text(encoding="utf-8").strip()
        seen = digest(found, wanted["declared"], boot)
        if wanted["state"] == "compared":
            record = remembered(path)
            age = time.time() - record["verified_at"] if record else None
            reason = objection(
                record, found, wanted["declared"], boot, age, wanted["max_age"], wanted["leave_out"]
            )
            known = record if record and not reason else None
            told = {"truth": gather(Host(runner(module)), [], wanted["flavours"])} if known else {}
            module.exit_json(
                **told,
                changed=False,
                untouched=known is not None,
                reason=reason,
                verified_at=moment(known["verified_at"]) if known else None,
                verified=known["verified"] if known else {},
                seen=seen,
            )
        if seen != wanted["seen"]:
            module.exit_json(changed=False, recorded=False, reason="the run changed the host")
        if not module.check_mode:
            record = {
                "schema": SCHEMA,
                "verified_at": int(time.time()),
                "boot": boot,
                "declared": wanted["declared"],
                "paths": found,
                "verified": wanted["verified"],
            }
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_whole(path, json.dumps(record) + "\n", 0o600)
        module.exit_json(
            changed=False, recorded=not module.check_mode, reason="the run found nothing to change"
        )
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or path}: {os.strerror(error.errno or 0)}; expected a file that root can "
            "read and, for the record, write. See to it, or set converged_max_age to 0."
        )


if __name__ == "__main__":
    main()
