"""The addresses that are to be onboarded."""

from __future__ import annotations

DOCUMENTATION = r"""
name: onboard_addresses
short_description: Expand the addresses of new hosts
version_added: 0.2.0
author: The torchfleet authors
description:
  - Takes names, IP addresses and ranges, as an inventory writes them, and tells of each which host of the
    inventory is there already.
positional: port, existing
options:
  _input:
    description: A list, or a text with commas, such as C(10.0.0.[1:20],gpu05:2222).
    type: raw
    required: true
  port:
    description: The port where an address names none.
    type: int
    default: 22
  existing:
    description: The hosts of the inventory, as P(torchfleet.gpu.onboard_existing#filter) returns them.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Expand
  ansible.builtin.debug:
    msg: "{{ 'gpu[01:04].example.org' | torchfleet.gpu.onboard_addresses | map(attribute='label') }}"
"""

RETURN = r"""
_value:
  description: The addresses, each once, in their order.
  type: list
  elements: dict
  contains:
    address: {description: The name or IP address., type: str}
    port: {description: The port., type: int}
    label: {description: "As ssh's known_hosts has it, with the port where that is not 22.", type: str}
    alias: {description: A name for the inventory of this run., type: str}
    name: {description: The host of the inventory that is there already; null where there is none., type: str}
"""

import re
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.parsing.utils.addresses import parse_address
from ansible.plugins.inventory import detect_range, expand_hostname_range
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9a-fA-F]*:[0-9a-fA-F:.]+")


def onboard_addresses(addresses: Any, port: Any = 22, existing: Any = ()) -> list[dict[str, Any]]:
    given = addresses.split(",") if isinstance(addresses, str) else addresses
    if not isinstance(given, (list, tuple)):
        raise AnsibleFilterError(f"onboard_addresses: found {addresses!r}, expected a list or a text")
    there = {(item["address"], int(item["port"])): item["name"] for item in plain(existing)}
    found: dict[str, dict[str, Any]] = {}
    wrong = []
    for text in (plain(item).strip() for item in given if isinstance(item, str) and item.strip()):
        try:
            pattern, own = parse_address(text, allow_ranges=True)
            names = expand_hostname_range(pattern) if detect_range(pattern) else [pattern]
        except (AnsibleError, ValueError):
            names = [""]
        for name in names:
            if not _PLAIN.fullmatch(name or ""):
                wrong.append(text)
                break
            at = int(own or port)
            label = name if at == 22 else f"[{name}]:{at}"
            row = {"address": name, "port": at, "label": label, "name": there.get((name, at))}
            found.setdefault(label, {**row, "alias": re.sub(r"[\[\]]", "", label).replace(":", "_")})
    if wrong or not found:
        raise AnsibleFilterError(
            f"onboard_addresses: found {', '.join(map(repr, wrong)) or 'none'}, expected names, IP "
            "addresses or ranges as in an inventory, such as 10.0.0.[1:20],gpu05:2222"
        )
    return list(found.values())


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"onboard_addresses": onboard_addresses}
