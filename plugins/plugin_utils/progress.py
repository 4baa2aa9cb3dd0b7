"""How far a module is, in one line for a terminal or the log of a CI job."""

from __future__ import annotations

from typing import Any


def line(state: dict[str, Any], host: str) -> str:
    """``state``: what the module wrote; the rate is that since the phase began."""
    start = f"{host}: {state.get('subject')}: {state.get('phase')}"
    count, total = state.get("bytes"), state.get("total")
    seconds = float(state.get("now") or 0) - float(state.get("since") or 0)
    if count is None or not total:
        return f"{start}, {_time(seconds)}"
    rate = max(0.0, count - float(state.get("start") or 0)) / max(seconds, 1e-3)
    share = min(100, int(100 * count / total))
    left = f"{_time(max(0, total - count) / rate)} left" if rate else "stalled"
    return f"{start}: {_size(count)} of {_size(total)} ({share} %), {_size(rate)}/s, {left}"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
