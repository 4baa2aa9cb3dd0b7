"""The fleet as a table for people: plain text, aligned by display width."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = ("host", "gpu", "driver", "environment", "torch", "cuda", "is_available", "why")
HEADINGS = {"gpu": "GPU", "cuda": "CUDA"}


def counted(names: Iterable[Any]) -> str:
    """``8 x H100, 1 x T4``: each name once, in the order in which they come."""
    return ", ".join(f"{number} x {name}" for name, number in Counter(names).items())


def width(text: str) -> int:
    """Terminal cells: wide East Asian characters take two, combining ones none."""
    cells = 0
    for character in text:
        if unicodedata.combining(character):
            continue
        cells += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return cells


def cell(value: Any) -> str:
    """One line without control characters, for text must not steer the terminal; ``-`` for nothing."""
    text = "" if value is None else " ".join(str(value).split())
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf")) or "-"


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> list[str]:
    grid = [[HEADINGS.get(name, name) for name in columns]]
    grid += [[cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(width(line[number]) for line in grid) for number in range(len(columns))]
    grid.insert(1, ["-" * size for size in widths])
    return [
        "  ".join(text + " " * (size - width(text)) for text, size in zip(line, widths, strict=True)).rstrip()
        for line in grid
    ]
