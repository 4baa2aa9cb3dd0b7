"""The house itself: what every other test takes for granted."""

from __future__ import annotations

import importlib


def test_collection_is_importable_by_its_full_name() -> None:
    assert importlib.import_module("ansible_collections.torchfleet.gpu.plugins.plugin_utils")
