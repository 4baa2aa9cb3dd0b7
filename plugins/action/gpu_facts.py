"""Hands gpu_facts what a host does not have: the table of kernel-module flavours, and the right time."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.flavours import ranges


def skew(told: float, before: float, after: float) -> float:
    """Seconds by which the host's clock is ahead; it was read between the two times of the controller.

    What the trip alone explains is no skew, so that a busy controller never accuses a host.
    """
    return round(min(told - before, 0.0) + max(told - after, 0.0), 1)


class ActionModule(ActionBase):  # type: ignore[misc]
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = {"flavours": ranges(), **self._task.args}
        before = time.time()
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        clock = result.get("ansible_facts", {}).get("torchfleet_truth", {}).get("clock")
        if clock:
            clock["skew_seconds"] = skew(clock["time"], before, time.time())
        return result
