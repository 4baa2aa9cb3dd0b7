#!/usr/bin/python
# Copyright: the torchfleet contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Tell everything about a host that torchfleet decides by, in one read-only round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
short_description: Tell what a GPU host is, in one read-only round trip
version_added: 0.1.0
author: The torchfleet contributors (@torchfleet)
description:
  - Reads NVIDIA GPUs, the state of their driver, the kernel, Secure Boot and its keys, glibc, virtualization,
    GPU processes, the clock and file systems from files of the kernel and the system. Asks C(rpm) where that
    is the package manager, and C(modinfo) about modules that are compressed with zstd, which Python's
    standard library cannot read. Needs no C(lspci), C(lsmod), C(dkms), C(mokutil) or C(nvidia-smi).
  - What is absent is reported as absent (V(null) or an empty list) and never fails the task.
  - Run it as root. Without root the processes of other users and, on some systems, Secure Boot stay unknown.
options:
  disk_paths:
    description:
      - Absolute paths whose file system is reported, with its free and total space in bytes, and whether it
        is mounted read-only or noexec. A path that does not exist yet stands for its nearest existing parent.
    type: list
    elements: path
    default: []
  resolve:
    description:
      - Names that the host should resolve; its own is asked with them. What does not resolve within 5 seconds
        for all of them is reported.
    type: list
    elements: str
    default: []
  flavours:
    description:
      - Which kernel modules can drive which GPUs, by ranges of PCI device ids. Only with it does the verdict
        tell a wrong flavour before a module was loaded.
      - The action plugin of this name fills it from the collection's tables, so a playbook need not.
    type: list
    elements: dict
    default: []
    suboptions:
      first:
        description: The first device id of the range, four hexadecimal digits in lower case.
        type: str
        required: true
      last:
        description: The last one.
        type: str
        required: true
      flavours:
        description: The kernel modules that can drive these GPUs.
        type: list
        elements: str
        choices: [open, proprietary]
        required: true
attributes:
  action:
    support: full
    description: Gives the module the collection's table of flavours, and tells how far off the clock is.
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: Changes nothing.
requirements:
  - Python 3.8 or newer on the host
"""

EXAMPLES = r"""
- name: Learn what the host is
  torchfleet.gpu.gpu_facts:
    disk_paths: [/opt, /var/cache]
    resolve: [pypi.tuna.tsinghua.edu.cn]

- name: Show the state of the driver
  ansible.builtin.debug:
    msg: "{{ torchfleet_truth.driver.verdict }}: {{ torchfleet_truth.driver.reason }}"
"""

RETURN = r"""
ansible_facts:
  description: Facts for the rest of the play.
  returned: always
  type: dict
  contains:
    torchfleet_truth:
      description: The Truth of docs/contracts.md.
      returned: always
      type: dict
      sample:
        schema: 1
        gpus: [{slot: "0000:18:00.0", vendor: "10de", device: "2330", subsystem: "10de:16c1", class: "0302",
                driver: nvidia, flavours: [proprietary, open]}]
        driver: {verdict: ok, reason: module 535.261.03 proprietary is loaded and fits its library}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host
from ansible_collections.torchfleet.gpu.plugins.module_utils.truth import gather

ARGUMENT_SPEC: dict[str, Any] = {
    "disk_paths": {"type": "list", "elements": "path", "default": []},
    "resolve": {"type": "list", "elements": "str", "default": []},
    "flavours": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "first": {"type": "str", "required": True},
            "last": {"type": "str", "required": True},
            "flavours": {
                "type": "list",
                "elements": "str",
                "choices": ["open", "proprietary"],
                "required": True,
            },
        },
    },
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)

    def run(command: list[str]) -> tuple[int, str, str]:
        path = module.get_bin_path(command[0])
        if path is None:
            return 127, "", f"{command[0]}: not found"
        status, out, err = module.run_command([path, *command[1:]])
        return int(status), str(out), str(err)

    disk_paths = module.params["disk_paths"] or []
    relative = [path for path in disk_paths if not path.startswith("/")]
    if relative:
        module.fail_json(
            msg=f"disk_paths: found {', '.join(relative)}, expected absolute paths; write them from / on"
        )
    truth = gather(Host(run), disk_paths, module.params["flavours"], module.params["resolve"] or [])
    module.exit_json(changed=False, ansible_facts={"torchfleet_truth": truth})


if __name__ == "__main__":
    main()
