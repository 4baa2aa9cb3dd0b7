"""Shows the fleet where no host is left that could."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lost_fleet
type: aggregate
short_description: Show the table of the fleet where no host is left that could
version_added: 0.1.0
author: The torchfleet authors
description:
  - Ansible ends a run at once when the last host stops answering, and the role report never begins. This
    shows its table then. It writes no files, and says nothing in any other run.
requirements:
  - enable it in C(ansible.cfg), with C(callbacks_enabled = torchfleet.gpu.lost_fleet)
"""

import datetime
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.torchfleet.gpu.plugins.filter.fleet_document import fleet_document
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "torchfleet.gpu.lost_fleet"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.roles: set[str] = set()
        self.play: Any = None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.play = play

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if task._role:
            self.roles.add(task._role.get_name())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        lost = sorted(stats.dark)
        if "torchfleet.gpu.preflight" not in self.roles or "torchfleet.gpu.report" in self.roles or not lost:
            return
        known = self.play.get_variable_manager()._hostvars
        hosts = {name: known.raw_get(name) for name in sorted(stats.processed)}
        run = {"time": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"}
        document = fleet_document(list(hosts), hosts, run, None, lost)
        self._display.banner("No host is left that answers: the fleet, as far as it is known")
        for line in fleet.table([row for host in document["hosts"] for row in host["rows"]]):
            self._display.display(line)
