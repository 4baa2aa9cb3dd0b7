# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""The options of modules that show how far they are (module_utils/progress.py)."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  progress:
    description: A file that tells once a second how far the module is. Left out, none is written.
    type: path
  progress_interval:
    description:
      - Seconds between two lines that show how far it is. The action plugin, which starts the module in the
        background and waits for it, prints them; V(0) runs it in the foreground without.
    type: int
    default: 15
"""
