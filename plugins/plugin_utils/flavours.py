"""Which kernel modules drive which GPUs, as ranges of PCI ids short enough to send to a host."""

from __future__ import annotations

from functools import cache
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables


@cache
def ranges() -> list[dict[str, Any]]:
    """``first`` and ``last`` device id of each run of listed ids that the same modules drive."""
    found: list[dict[str, Any]] = []
    listed = tables.load("pci_gpus.json")["devices"]
    for device in sorted(listed):
        model = tables.model(device)
        flavours = list(model.architecture.flavours) if model else []
        if found and found[-1]["flavours"] == flavours:
            found[-1]["last"] = device
        else:
            found.append({"first": device, "last": device, "flavours": flavours})
    return found
