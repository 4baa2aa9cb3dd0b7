"""An action that runs its module in the background of the host and shows how far its downloads are."""

from __future__ import annotations

import json
import secrets
import shlex
import time
from pathlib import PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.progress import line

# A module that tells nothing for so long is gone, with its host or by a kill.
SILENT = 300
LIMIT = 24 * 3600
# Soon at first: most of what is not a download is over in seconds.
FIRST_POLL = 2


class Background(ActionBase):  # type: ignore[misc]
    """Its module has the options ``progress`` and ``progress_interval``, and uses module_utils.progress."""

    WORK = ""  # what it does, for a message

    def is_quick(self, arguments: dict[str, Any]) -> bool:
        """Whether there is nothing to wait for."""
        raise NotImplementedError

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        interval = int(arguments.get("progress_interval", 15))
        if self.is_quick(arguments) or self._task.check_mode or interval <= 0:
            result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
            return result
        return self._in_background(arguments, interval, task_vars or {})

    def _in_background(
        self, arguments: dict[str, Any], interval: int, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        directory = self.get_shell_option("async_dir", default="~/.ansible_async")
        name = f"torchfleet-progress-{secrets.token_hex(8)}"
        own = self._task.async_val
        self._task.async_val = LIMIT
        try:
            started = self._execute_module(
                module_args={**arguments, "progress": f"{directory}/{name}"},
                task_vars=task_vars,
                wrap_async=True,
            )
        finally:
            self._task.async_val = own
        if "ansible_job_id" not in started:
            return dict(started)
        job = {"jid": started["ansible_job_id"], "_async_dir": directory}
        progress = str(PurePosixPath(started["results_file"]).parent / name)
        result = self._wait(job, progress, interval, task_vars)
        self._status({**job, "mode": "cleanup"}, task_vars)
        for key in ("ansible_job_id", "results_file", "started", "finished", "stdout", "stderr"):
            for one in (key, f"{key}_lines"):
                result.pop(one, None)
        return result

    def _wait(
        self, job: dict[str, Any], progress: str, interval: int, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        host, pause = task_vars.get("inventory_hostname", "host"), min(FIRST_POLL, interval)
        told, told_at, shown_at = "", time.monotonic(), time.monotonic()
        while True:
            time.sleep(pause)
            pause = min(interval, pause * 2)
            answer = self._low_level_execute_command(f"cat {shlex.quote(progress)}")
            text = answer.get("stdout", "") if answer.get("rc") == 0 else ""
            if text and text != told:
                told, told_at = text, time.monotonic()
                if time.monotonic() - shown_at >= interval:
                    shown_at = time.monotonic()
                    self._show(text, host)
                continue
            result = self._status({**job, "mode": "status"}, task_vars)
            if result.get("finished") or result.get("failed"):
                return result
            if time.monotonic() - told_at > SILENT:
                what = f"{host}: {self.WORK} has told nothing for {SILENT} s."
                then = "It was killed, or the host hangs. Run again: what is half done is taken back first."
                return {"failed": True, "msg": f"{what} {then}"}

    def _status(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        return dict(
            self._execute_module(
                module_name="ansible.legacy.async_status", module_args=arguments, task_vars=task_vars
            )
        )

    @staticmethod
    def _show(text: str, host: str) -> None:
        try:
            state = json.loads(text)
        except ValueError:
            return
        if isinstance(state, dict) and state.get("phase"):  # before that it waits for another run
            Display().display(line(state, host))
