#!/usr/bin/python
# Apache-2.0, see LICENSE
"""Bring all small files of a role to their declared content in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Bring several small text files to their declared content at once
version_added: 0.2.0
description:
  - One call for all the configuration files of a role, where M(ansible.builtin.copy) needs two round trips
    for each.
  - Each file is replaced whole, in one step. A file that somebody else made is backed up first. The
    directories above it are made with mode 0755. Owner and group are those that the module runs as.
  - A command that follows a change is remembered until it ended well, so that an interrupted run is mended by
    the next one.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it is. A link is followed.
        type: path
        required: true
      content:
        description: What it holds. Without it the file is removed, if it begins with I(marker).
        type: str
      mode:
        description: Its mode, in octal.
        type: str
        default: "0644"
      marker:
        description: How a file of this collection begins; one that begins otherwise is somebody else's.
        type: str
        default: ""
  only:
    description: Patterns such as C(/etc/x/torchfleet-*). What matches and is not in I(files) is removed.
    type: list
    elements: str
    default: []
  commands:
    description: Commands to run after a change.
    type: list
    elements: dict
    default: []
    suboptions:
      argv:
        description: The command.
        type: list
        elements: str
        required: true
      after:
        description: Patterns of paths; the command runs when a file that matches one of them changed.
        type: list
        elements: str
        required: true
  state_dir:
    description: A directory of root's that keeps what is still to be run.
    type: path
    default: /var/lib/torchfleet
attributes:
  check_mode: {support: full, description: Tells what would change and changes nothing.}
  diff_mode: {support: full, description: Shows each file.}
author: The torchfleet authors
"""

EXAMPLES = r"""
- name: Trust the laboratory's CA
  torchfleet.gpu.host_files:
    files:
      - path: /usr/local/share/ca-certificates/torchfleet-lab.crt
        content: "{{ lookup('ansible.builtin.file', 'lab-ca.pem') }}\n"
    only: [/usr/local/share/ca-certificates/torchfleet-*.crt]
    commands:
      - argv: [update-ca-certificates]
        after: [/usr/local/share/ca-certificates/*]
"""

RETURN = r"""
paths: {description: The files that changed., returned: always, type: list}
ran: {description: The commands that ran or would run., returned: always, type: list}
lacking: {description: Commands that the host lacks; they are still to be run., returned: always, type: list}
"""

import fnmatch
import hashlib
import shlex
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import small_files


def pending(module: AnsibleModule, argv: list[str]) -> Path:
    name = hashlib.sha256("\0".join(argv).encode()).hexdigest()[:16]
    return Path(module.params["state_dir"], f"pending-{name}")


def wanted(module: AnsibleModule) -> list[small_files.Small]:
    files = []
    for row in module.params["files"]:
        try:
            mode = int(row["mode"], 8)
        except ValueError:
            module.fail_json(
                msg=f"{row['path']}: mode is {row['mode']!r}, expected octal digits such as 0644."
            )
        files.append(small_files.Small(row["path"], row["content"], mode, row["marker"]))
    named = {file.path for file in files}
    strays = {
        str(path) for pattern in module.params["only"] for path in Path("/").glob(pattern.lstrip("/"))
    } - named
    return files + [small_files.Small(path, None) for path in sorted(strays)]


def due(module: AnsibleModule, paths: list[str]) -> list[list[str]]:
    """The commands to run: those after these changes, and those that an earlier run did not come to."""
    found: list[list[str]] = []
    for row in module.params["commands"]:
        hit = any(fnmatch.fnmatch(path, pattern) for path in paths for pattern in row["after"])
        if hit or pending(module, row["argv"]).exists():
            found.append(row["argv"])
    return found


def run(module: AnsibleModule, argv: list[str]) -> None:
    rc, out, err = module.run_command(argv)
    if rc != 0:
        said = " ".join((err or out).strip().splitlines()[-3:])
        module.fail_json(
            msg=f"{shlex.join(argv)} ended with status {rc}: {said} The next run tries it again."
        )
    pending(module, argv).unlink()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "mode": {"type": "str", "default": "0644"},
                    "marker": {"type": "str", "default": ""},
                },
            },
            "only": {"type": "list", "elements": "str", "default": []},
            "commands": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "argv": {"type": "list", "elements": "str", "required": True},
                    "after": {"type": "list", "elements": "str", "required": True},
                },
            },
            "state_dir": {"type": "path", "default": "/var/lib/torchfleet"},
        },
        supports_check_mode=True,
    )
    files = wanted(module)
    try:
        result = converge(module, files)
    except OSError as error:
        module.fail_json(msg=f"{error}. Expected: to run as root, with space on the disk.")
    module.exit_json(**result)


def converge(module: AnsibleModule, files: list[small_files.Small]) -> dict[str, Any]:
    changes = [(file, found) for file in files for found in [small_files.change(file)] if found]
    commands = due(module, [file.path for file, _ in changes])
    lacking = [argv[0] for argv in commands if not module.get_bin_path(argv[0])]
    if not module.check_mode:
        for argv in commands:
            # Remembered before the first change: nothing else would tell the next run.
            pending(module, argv).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            pending(module, argv).touch()
        for file, _ in changes:
            small_files.put(module, file)
        for argv in commands:
            if argv[0] not in lacking:
                run(module, argv)
    return {
        "changed": bool(changes or commands),
        "paths": [file.path for file, _ in changes],
        "ran": [shlex.join(argv) for argv in commands if argv[0] not in lacking],
        "lacking": lacking,
        "diff": [found for _, found in changes],
    }


if __name__ == "__main__":
    main()
