"""The fleet as lines of text."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_table
short_description: Lay out the state of the fleet as an aligned text table
version_added: 0.1.0
author: The torchfleet authors
description:
  - One line for each entry, under a heading; columns are aligned by display width, so that Chinese text fits.
  - No colour codes; control characters in the values are taken out.
options:
  _input:
    description:
      - One mapping for each line, with the keys C(host), C(gpu), C(driver), C(environment), C(torch),
        C(cuda), C(is_available) and C(why). A key that is missing or null shows as C(-);
        other keys are ignored.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the fleet
  ansible.builtin.debug:
    msg: "{{ rows | torchfleet.gpu.fleet_table }}"
  vars:
    rows:
      - {host: gpu07, gpu: 2 x H100, driver: 535.261.03, environment: torch, torch: 2.10.0+cu128,
         cuda: "12.8", is_available: true, why: verified}
"""

RETURN = r"""
_value:
  description: The lines of the table.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def fleet_table(rows: Any) -> list[str]:
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, dict) for row in rows):
        raise AnsibleFilterError(
            "torchfleet.gpu.fleet_table: the input is not a list of mappings; give one for each line, "
            f"with the keys {', '.join(fleet.COLUMNS)}"
        )
    return fleet.table(plain(rows))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_table": fleet_table}
