#!/usr/bin/env python3
"""Make the bundle as an administrator would, and have the mishaps that a bundle must bear.

    gather.py STATE MIRROR_STATE

Ends with status 1 where one of them is not borne. What was seen goes to STATE/gather.json for the tests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOST = "offline-hopper01"
BUNDLE = "/srv/bundle"
ENOUGH = 30_000_000  # so much of torch's wheel is there when the run is killed


def on_host(*command: str) -> str:
    return subprocess.run(
        ["docker", "exec", HOST, *command], check=True, capture_output=True, text=True
    ).stdout


def play(state: Path, *extra: str) -> list[str]:
    words = ["-e", "bundle_host=hopper01", "-e", f"bundle_dir={BUNDLE}", *extra]
    playbook = ROOT / "playbooks/bundle.yml"
    return [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        str(state / "inventory"),
        str(playbook),
        *words,
    ]


def run(state: Path, *extra: str, fine: bool = True) -> str:
    done = subprocess.run(play(state, *extra), capture_output=True, text=True, cwd=ROOT, check=False)
    if (done.returncode == 0) is not fine:
        raise SystemExit(
            f"bundle.yml {extra} ended with {done.returncode}:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
        )
    return done.stdout


def fetched(log: Path, since: int) -> dict[str, int]:
    """The files and the bytes that the mirror sent."""
    found: dict[str, int] = {}
    for line in log.read_text().splitlines()[since:]:
        row: dict[str, Any] = json.loads(line)
        path = row["uri"].partition("?")[0].rpartition("/")[2]
        # preflight reads the beginning of the installer alone.
        looked = path.endswith(".sh") and row["bytes"] < ENOUGH
        wanted = path.endswith((".whl", ".conda", ".sh", ".deb", ".tar.bz2")) and row["status"] in (200, 206)
        if wanted and not looked:
            found[path] = found.get(path, 0) + row["bytes"]
    return found


def lines(log: Path) -> int:
    return len(log.read_text().splitlines())


def killed(state: Path) -> None:
    """Start it, and kill it on both sides while the largest file is on its way."""
    run_ = subprocess.Popen(play(state), stdout=subprocess.DEVNULL, cwd=ROOT, start_new_session=True)
    script = f"cat {BUNDLE}/wheels/torch-*.part 2>/dev/null | wc -c"
    for _ in range(3000):
        if run_.poll() is not None:
            raise SystemExit("bundle.yml ended before it could be killed")
        if int(on_host("sh", "-c", script)) > ENOUGH:
            break
        time.sleep(0.1)
    # Its workers are in sessions of their own.
    run_.send_signal(signal.SIGSTOP)
    subprocess.run(["pkill", "-9", "--parent", str(run_.pid)], check=True)
    os.killpg(run_.pid, signal.SIGKILL)
    # On the host it is the process that writes the file.
    writes = "ls -l $p/fd 2>/dev/null | grep -q 'torch-.*part'"
    on_host("sh", "-c", f"for p in /proc/[0-9]*; do {writes} && kill -9 ${{p#/proc/}}; done; true")
    run_.wait()


def main() -> None:
    state, log = Path(sys.argv[1]), Path(sys.argv[2], "mirror/log/access.log")
    killed(state)
    there = on_host(
        "sh", "-c", f"cd {BUNDLE} && find wheels installers anaconda apt -type f ! -name '*.part'"
    ).split()
    whole = {path.rpartition("/")[2] for path in there}
    since = lines(log)
    run(state)
    again = fetched(log, since)
    if whole & set(again):
        raise SystemExit(f"fetched again although they were whole: {sorted(whole & set(again))}")
    since = lines(log)
    second = run(state)
    if fetched(log, since) or not re.search(r"(?m)^hopper01\s.*\schanged=0\s", second):
        raise SystemExit(f"a whole bundle was changed: {fetched(log, since)}\n{second[-3000:]}")
    run(state, "-e", "bundle_state=verified")
    einops = on_host("sh", "-c", f"cd {BUNDLE} && ls wheels/einops-*").strip()
    on_host("sh", "-c", f"printf x | dd of={BUNDLE}/{einops} bs=1 seek=99 conv=notrunc 2>/dev/null")
    told = run(state, "-e", "bundle_state=verified", fine=False)
    if einops not in told:
        raise SystemExit(f"{einops} is damaged, and not named:\n{told[-3000:]}")
    since = lines(log)
    run(state)
    mended = fetched(log, since)
    if set(mended) != {einops.rpartition("/")[2]}:
        raise SystemExit(f"fetched to mend {einops}: {mended}")
    run(state, "-e", "bundle_state=verified")
    manifest = json.loads(on_host("cat", f"{BUNDLE}/manifest.json"))
    seen = {"before_kill": sorted(whole), "after_kill": again, "mended": mended}
    size = sum(row["size"] for row in manifest["files"].values())
    (state / "gather.json").write_text(
        json.dumps({**seen, "files": len(manifest["files"]), "bytes": size}, indent=1)
    )


if __name__ == "__main__":
    main()
