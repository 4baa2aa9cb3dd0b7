"""The house itself: what every other test takes for granted."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_collection_is_importable_by_its_full_name() -> None:
    assert importlib.import_module("ansible_collections.torchfleet.gpu.plugins.plugin_utils")


def test_no_run_left_a_home_in_the_tree() -> None:
    """A ~user whom the controller does not know is a path below the playbook: give the run a user it has."""
    left = []
    for folder, folders, files in os.walk(ROOT):
        left += [f"{folder}/{name}" for name in [*folders, *files] if name.startswith("~")]
        folders[:] = [name for name in folders if name not in (".git", ".venv", ".torchfleet", ".mypy_cache")]
    assert left == [], "remove them, and mend the test that makes them"
