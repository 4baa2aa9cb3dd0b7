"""Runs the probe with an environment's own Python, under limits that a hung driver cannot break."""

from __future__ import annotations

import inspect
import json
import os
import selectors
import signal
import subprocess
import time
from typing import Any, Dict

from ansible_collections.torchfleet.gpu.plugins.module_utils import probe_script

Json = Dict[str, Any]

FACTS_LIMIT = 1 << 20
OUTPUT_TAIL = 4096
GRACE = 2.0  # seconds for what the probe wrote last, and for a killed process to go


def run_probe(python: str, timeout: float, env: dict[str, str] | None = None) -> Json:
    """What the probe told (``facts``), how it ended (``ended``) and the end of what it printed (``output``).

    ``ended`` is one of ``done``, ``timeout``, ``signal N``, ``exit N`` and ``not started: why``.
    """
    facts_end, probe_end = os.pipe()
    # -I: neither the caller's PYTHON* variables nor the user's site-packages belong to the environment.
    command = [python, "-I", "-B", "-c", inspect.getsource(probe_script), str(probe_end)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(probe_end,),
            start_new_session=True,
            cwd="/",
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )
    except (OSError, ValueError) as error:
        os.close(facts_end)
        return {
            "facts": {},
            "ended": f"not started: {getattr(error, 'strerror', None) or error}",
            "output": "",
        }
    finally:
        os.close(probe_end)

    assert process.stdout is not None
    told, output = bytearray(), bytearray()
    end = time.monotonic() + timeout
    exited = False
    with selectors.DefaultSelector() as selector, process.stdout as stdout, os.fdopen(
        facts_end, "rb"
    ) as facts:
        for stream, sink in ((facts, told), (stdout, output)):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, sink)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                break
            if not exited and process.poll() is not None:
                # A descendant may hold the pipes open for ever.
                exited, end = True, min(end, time.monotonic() + GRACE)
            for key, _events in selector.select(min(left, 0.2)):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
            del told[FACTS_LIMIT:], output[:-OUTPUT_TAIL]
        descendants = bool(selector.get_map())
        ended = _end(process, max(0.0, end - time.monotonic()), descendants)
    facts_told: Json = {}
    for line in told.decode("utf-8", "replace").splitlines():
        try:
            facts_told.update(json.loads(line))
        except ValueError:  # cut off in the middle
            continue
    if ended == "exit 0" and facts_told.get("done"):
        ended = "done"
    return {"facts": facts_told, "ended": ended, "output": output.decode("utf-8", "replace").strip()}


def _end(process: subprocess.Popen[bytes], left: float, descendants: bool) -> str:
    """Wait, or kill the whole group; a process that the kernel will not let go is left behind."""
    ended = None
    if not descendants:
        try:
            process.wait(left)
        except subprocess.TimeoutExpired:
            ended = "timeout"
    elif process.poll() is None:
        ended = "timeout"
    if ended or descendants:
        try:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
    if ended:
        return ended
    status = process.returncode
    return f"signal {-status}" if status < 0 else f"exit {status}"
