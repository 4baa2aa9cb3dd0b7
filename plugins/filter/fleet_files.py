"""The report of a fleet as files."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_files
short_description: Write the report's document as a page, as JSON, as text and for Prometheus
version_added: 0.1.0
author: The torchfleet authors
positional: previous
options:
  _input:
    description: The document that P(torchfleet.gpu.fleet_document#filter) returns.
    type: dict
    required: true
  previous:
    description: The document to compare with.
    type: dict
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    content: "{{ (report | torchfleet.gpu.fleet_files)['report.html'] }}"
    dest: /srv/www/fleet.html
    mode: "0644"
"""

RETURN = r"""
_value:
  description:
    - The content of C(report.html), C(report.json), C(report.txt), C(report.prom) and C(changes.txt) by name.
  type: dict
"""

import datetime
import json
from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet, page, report
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def fleet_files(document: Any, previous: Any = None) -> dict[str, str]:
    now, before = plain(document), plain(previous)
    changes = report.compare(before, now) if before else []
    rows = [row for host in now["hosts"] for row in host["rows"]]
    moment = datetime.datetime.fromisoformat(now["run"]["time"].replace("Z", "+00:00"))
    told = report.lines(changes) or ["nothing changed"] if before else ["there is no report to compare with"]
    return {
        "report.html": page.render(now, changes, before["run"]["time"] if before else None),
        "report.json": json.dumps(now, indent=1, ensure_ascii=False) + "\n",
        "report.txt": "\n".join(fleet.table(rows)) + "\n",
        "report.prom": report.metrics(now, moment.timestamp()),
        "changes.txt": "\n".join(told) + "\n",
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_files": fleet_files}
