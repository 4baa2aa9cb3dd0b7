#!/usr/bin/python
# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: what a host needs of a bundle, in a directory of the host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle_files
short_description: Have the files of a bundle that a host needs
version_added: 0.2.0
description:
  - In a playbook its action plugin copies the files from the controller that are not on the host yet, each
    once, and the
    module checks their sha256 and makes the indexes of pip, conda and apt of what is there.
  - With O(remote_src) the bundle is on the host; nothing is changed, and missing files are told.
options:
  src:
    description: The directory of the bundle.
    type: path
    required: true
  dest:
    description: Where the files go. It grows; nothing is removed.
    type: path
  remote_src:
    description: Whether O(src) is on the host.
    type: bool
    default: false
  keys:
    description: The requests whose files are needed.
    type: list
    elements: str
    required: true
  manifest:
    description: The part of the manifest for O(keys). Given by the action plugin.
    type: dict
  incoming:
    description: Files that have come, by path in the bundle, and where they are. Given by the action plugin.
    type: dict
    default: {}
attributes:
  check_mode: {support: full, description: Tells what is missing and copies nothing.}
  diff_mode: {support: none, description: The files are large and not text.}
author: The torchfleet authors
"""

EXAMPLES = r"""
- name: Have the files
  torchfleet.gpu.bundle_files:
    src: /srv/bundle
    dest: /var/lib/torchfleet/bundle
    keys: "{{ torchfleet_bundle.needs }}"
"""

RETURN = r"""
lacking: {description: Files that are not on the host yet., returned: success, type: list, elements: str}
free: {description: Bytes that are free where they go., returned: success, type: int}
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import bundle, wheels


def united(directory: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """With what earlier runs brought, such as the driver, which an installed host asks for no longer."""
    if not Path(directory, bundle.MANIFEST).is_file():
        return manifest
    old = bundle.read(directory)
    return {
        **manifest,
        "requests": {**old["requests"], **manifest["requests"]},
        "channels": sorted({*old["channels"], *manifest["channels"]}),
        "files": {**old["files"], **manifest["files"]},
    }


def put(module: AnsibleModule, files: dict[str, Any]) -> None:
    for name, place in module.params["incoming"].items():
        found = bundle.digest(Path(place))
        if found != files[name]["sha256"]:
            module.fail_json(
                msg=f"{name} came with sha256 {found}, expected {files[name]['sha256']}: the file in "
                f"{module.params['src']} on "
                "the controller is damaged. playbooks/bundle.yml with bundle_state=verified names all such "
                "files."
            )
        path = Path(module.params["dest"], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(place, f"{path}.part")
        os.chown(f"{path}.part", os.getuid(), os.getgid())
        Path(f"{path}.part").chmod(0o644)
        Path(f"{path}.part").replace(path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path"},
            "remote_src": {"type": "bool", "default": False},
            "keys": {"type": "list", "elements": "str", "required": True, "no_log": False},
            "manifest": {"type": "dict"},
            "incoming": {"type": "dict", "default": {}},
        },
        required_if=[("remote_src", False, ["dest"])],
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o022)
    try:
        if params["remote_src"]:
            files = bundle.narrowed(bundle.read(params["src"]), params["keys"])["files"]
            module.exit_json(changed=False, lacking=bundle.lacking(params["src"], files), free=0)
        # As text, for Ansible's own copies have no order.
        manifest = bundle.parse(json.dumps(params["manifest"]), params["src"])
        lacking, changed = copied(module, manifest)
    except bundle.BundleError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error}. The next run goes on with what is there.")
    module.exit_json(changed=changed, lacking=lacking, free=wheels.free(params["dest"]))


def copied(module: AnsibleModule, manifest: dict[str, Any]) -> tuple[list[str], bool]:
    dest = module.params["dest"]
    put(module, manifest["files"])
    lacking = bundle.lacking(dest, manifest["files"])
    if lacking or module.check_mode:
        return lacking, bool(lacking)
    whole = united(dest, manifest)
    Path(dest).mkdir(mode=0o755, parents=True, exist_ok=True)
    changed = bundle.write_indexes(dest, whole)
    if not Path(dest, bundle.MANIFEST).is_file() or bundle.read(dest) != whole:
        bundle.write(dest, whole)
        changed = True
    return lacking, changed


if __name__ == "__main__":
    main()
