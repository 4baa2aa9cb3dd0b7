"""Hands gpu_facts the collection's table of kernel-module flavours, which hosts do not have."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.flavours import ranges


class ActionModule(ActionBase):  # type: ignore[misc]
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = {"flavours": ranges(), **self._task.args}
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result
