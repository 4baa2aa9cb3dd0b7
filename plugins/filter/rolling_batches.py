"""The batches of a change that rolls over the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rolling_batches
short_description: Divide hosts into the batches of a rolling change
version_added: 0.2.0
author: The torchfleet authors
description:
  - The first batch is the canary. The last size repeats until all hosts have a batch.
positional: sizes, again, late
options:
  _input:
    description: The names of the hosts, in their order.
    type: list
    elements: str
    required: true
  sizes:
    description: How many hosts each batch has, as a number or as a share of all, such as C(25%).
    type: list
    elements: raw
    required: true
  again:
    description: Hosts in quarantine. They go with the first batch, beside its own.
    type: list
    elements: str
    default: []
  late:
    description: Hosts that go after the others, into the last batches.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Decide on the batches
  ansible.builtin.set_fact:
    batches: "{{ ansible_play_hosts | torchfleet.gpu.rolling_batches([1, '25%', '100%']) }}"
"""

RETURN = r"""
_value:
  description: The batches.
  type: list
  elements: dict
  contains:
    name:
      description: What it is called in messages.
      type: str
    hosts:
      description: Its hosts.
      type: list
      elements: str
    again:
      description: The hosts in quarantine that are tried beside them.
      type: list
      elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import rolling
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def rolling_batches(hosts: Any, sizes: Any, again: Any = (), late: Any = ()) -> list[dict[str, Any]]:
    bad = rolling.bad_sizes(plain(sizes))
    if bad:
        raise AnsibleFilterError(
            f"torchfleet.gpu.rolling_batches: the sizes hold {', '.join(bad)}; expected at least one, each a "
            "number of hosts such as 1 or a share of all such as 25%"
        )
    return rolling.batches(plain(list(hosts)), plain(sizes), plain(list(again)), plain(list(late)))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"rolling_batches": rolling_batches}
