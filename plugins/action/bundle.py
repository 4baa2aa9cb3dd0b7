"""Gathers a bundle in the background of the host and shows how far its downloads are."""

from __future__ import annotations

from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils.background import Background


class ActionModule(Background):
    WORK = "the gathering of the bundle"

    def is_quick(self, arguments: dict[str, Any]) -> bool:
        return str(arguments.get("state", "present")) != "present"
