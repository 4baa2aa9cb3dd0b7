"""How far a module is, in a file that an action plugin reads while it waits (plugin_utils/background.py)."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_prefix

PROGRESS_OPTIONS = {"progress": {"type": "path"}, "progress_interval": {"type": "int", "default": 15}}


class Progress:
    """Tells once a second, in a file, what is under way."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.state: dict[str, Any] = {}
        self.count: Any = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        if path:
            self.thread.start()

    def phase(self, subject: str, phase: str, total: int | None = None, count: Any = None) -> None:
        """``subject``: what is changed. ``count`` gives the bytes that have come so far, of ``total``."""
        self.count = count
        start = count() if count else 0
        self.state = {"subject": subject, "phase": phase, "total": total, "start": start}
        self.state["since"] = time.time()

    def stop(self) -> None:
        self.ended.set()
        if self.path and self.thread.is_alive():
            self.thread.join()
            with contextlib.suppress(OSError):
                Path(self.path).unlink()

    def _run(self) -> None:
        while not self.ended.wait(1):
            state, count = dict(self.state), self.count
            try:
                state.update(bytes=count() if count else None, now=time.time())
                conda_prefix.write_whole(Path(str(self.path)), json.dumps(state), 0o600)
            except OSError:
                continue  # a full disk must not end the change, which will tell of it
