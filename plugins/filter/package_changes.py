"""Tell what a package manager would do."""

from __future__ import annotations

DOCUMENTATION = r"""
name: package_changes
short_description: Tell what a package manager would do
version_added: 0.2.0
author: The torchfleet authors
description:
  - Reads what C(apt-get --simulate), C(dnf --assumeno) (of dnf 4 and dnf 5) or C(zypper --xmlout) prints.
positional: manager
options:
  _input:
    description: Its output.
    type: str
    required: true
  manager:
    description: The package manager that printed it.
    type: str
    choices: [apt, dnf, zypper]
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ simulated.stdout | torchfleet.gpu.package_changes('apt') }}"
"""

RETURN = r"""
_value:
  description:
    - Rows of C(name), C(from) (null for a new package), C(to) (null for one that goes); C(held) is true for a
      held package of apt.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages, rpm_changes

READERS: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "apt": driver_packages.apt_changes,
    "dnf": rpm_changes.dnf_changes,
    "zypper": rpm_changes.zypper_changes,
}


def package_changes(text: Any, manager: str) -> list[dict[str, Any]]:
    if manager not in READERS:
        raise AnsibleFilterError(
            f"torchfleet.gpu.package_changes: {manager!r} is none of {', '.join(READERS)}"
        )
    return READERS[manager](str(text))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"package_changes": package_changes}
