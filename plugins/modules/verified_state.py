#!/usr/bin/python
# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: keep on a host what was proven there, so that it can be brought back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verified_state
short_description: Keep on a host what was proven there
version_added: 0.2.0
description:
  - Writes the driver and, of each environment, the builds and every package with its address and hash, as
    they are on the disk now, to a file of states, the newest first. The same state again is no change.
options:
  path:
    description: The file, JSON.
    type: path
    required: true
  driver:
    description: The driver that was proven, C(version), C(flavour) and C(branch). Empty where there is none.
    type: dict
    required: true
  environments:
    description: The environments that were proven.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name., type: str, required: true}
      prefix: {description: Where it is., type: path, required: true}
      python: {description: The planned Python., type: str, required: true}
      torch: {description: The planned version of torch., type: str}
      variant: {description: The planned variant., type: str}
  others:
    description: Other environments to keep beside the proven ones. One that is not there is left out.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Its name., type: str, required: true}
      prefix: {description: Where it is., type: path, required: true}
  keep:
    description: How many states are kept.
    type: int
    default: 5
attributes:
  check_mode: {support: full, description: Tells whether the state is a new one; writes nothing.}
  diff_mode: {support: full, description: The file before and after.}
author:
  - torchfleet contributors
"""

EXAMPLES = r"""
- name: Keep what was proven
  torchfleet.gpu.verified_state:
    path: /var/lib/torchfleet/verified.json
    driver: {version: 535.261.03, flavour: proprietary, branch: "535"}
    environments:
      - {name: torch, prefix: /opt/miniconda3/envs/torch, python: "3.11", torch: 2.10.0, variant: cu128}
"""

RETURN = r"""
state:
  description: The state as it is kept, with C(time).
  returned: success
  type: dict
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import small_files
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import Prefix

SCHEMA = 1


def explicit(prefix: Path) -> list[str]:
    """Every conda package by its address and hash, as conda list --explicit --md5 has them; all or none."""
    lines = []
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not (record.get("url") and record.get("md5")):
            return []
        lines.append("{}#{}".format(record["url"], record["md5"]))
    return lines


def environment(row: dict[str, Any]) -> dict[str, Any]:
    found = Prefix(row["prefix"])
    return {
        **row,
        "conda": explicit(Path(row["prefix"])),
        "pip": {one.name: one.version for one in sorted(found.pip_dists(), key=lambda one: one.name)},
    }


def states(path: Path) -> list[dict[str, Any]]:
    """What was kept; a file that cannot be read is begun anew."""
    try:
        found = json.loads(small_files.read(path) or "{}")
        return list(found["states"]) if found.get("schema") == SCHEMA else []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "driver": {"type": "dict", "required": True},
            "environments": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "prefix": {"type": "path", "required": True},
                    "python": {"type": "str", "required": True},
                    "torch": {"type": "str"},
                    "variant": {"type": "str"},
                },
            },
            "others": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "prefix": {"type": "path", "required": True},
                },
            },
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    try:
        rows = [environment(row) for row in module.params["environments"]]
    except (OSError, ValueError) as error:
        module.fail_json(
            msg=f"an environment cannot be read ({error!r}). Expected whole records in its conda-meta; run "
            "the role conda_envs again."
        )
    for row in module.params["others"]:
        # A broken one is no fault of what was proven.
        with contextlib.suppress(OSError, ValueError):
            if Prefix(row["prefix"]).whole:
                rows.append(environment(row))
    state = {"driver": module.params["driver"], "environments": rows}
    before = states(path)
    if before and {key: before[0].get(key) for key in state} == state:
        module.exit_json(changed=False, state=before[0])
    now = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **state}
    document = {"schema": SCHEMA, "states": [now, *before][: module.params["keep"]]}
    wanted = small_files.Small(str(path), json.dumps(document, indent=1) + "\n")
    try:
        difference = small_files.change(wanted)
        if not module.check_mode:
            small_files.put(module, wanted)
    except OSError as error:
        module.fail_json(msg=f"{error}. Expected: to run as root, with space on the disk.")
    module.exit_json(changed=True, state=now, diff=difference)


if __name__ == "__main__":
    main()
