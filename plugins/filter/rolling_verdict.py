"""How a batch of a rolling change ended."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rolling_verdict
short_description: Say how a batch of a rolling change ended, and whether a further one may begin
version_added: 0.2.0
author: The torchfleet authors
description:
  - Takes the facts C(torchfleet_truth), C(torchfleet_plan), C(torchfleet_results), C(torchfleet_failure) and
    C(torchfleet_held) of each host.
  - Counted are the hosts of all batches so far, but for those that were in quarantine before and those that
    were left as they were.
positional: number, hostvars, limit
options:
  _input:
    description: The batches, as P(torchfleet.gpu.rolling_batches#filter) returns them.
    type: list
    elements: dict
    required: true
  number:
    description: Which of them ended, from 0.
    type: int
    required: true
  hostvars:
    description: The variables of all hosts, by host.
    type: dict
    required: true
  limit:
    description: The percentage of failed hosts above which no further batch begins.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Say how the canary ended
  ansible.builtin.debug:
    msg: "{{ (batches | torchfleet.gpu.rolling_verdict(0, hostvars, 25)).lines }}"
"""

RETURN = r"""
_value:
  description: The verdict.
  type: dict
  contains:
    lines:
      description: One for each host of the batch.
      type: list
      elements: str
    stopped:
      description: Why no further batch begins; empty where one may, or where there is none.
      type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import outcome, rolling
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def rolling_verdict(batches: Any, number: Any, hostvars: Any, limit: Any) -> dict[str, Any]:
    rolled = plain(batches)
    names = [name for batch in rolled[: int(number) + 1] for name in [*batch["hosts"], *batch["again"]]]
    facts = {
        name: {fact: plain(hostvars[name].get(f"torchfleet_{fact}")) for fact in outcome.FACTS}
        for name in names
    }
    return rolling.judge(rolled, int(number), facts, int(limit))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"rolling_verdict": rolling_verdict}
