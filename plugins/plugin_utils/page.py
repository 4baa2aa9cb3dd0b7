"""The report as one page that needs nothing else: no network, no script to be read, no font."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

TEMPLATES = Path(__file__).resolve().parent / "templates"


def _counted(gpus: Iterable[dict[str, Any]]) -> str:
    counts = Counter(str(gpu["name"]) for gpu in gpus)
    return ", ".join(f"{number} x {name}" for name, number in counts.items())


@cache
def _template() -> Template:
    # Autoescaped: every text of the page may come from a host.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = _counted
    return environment.get_template("report.html.j2")


def render(report: dict[str, Any], changes: list[dict[str, Any]], since: str | None) -> str:
    """``since``: the time of the report that ``changes`` compares with; null when there is none."""
    return _template().render(report=report, changes=changes, since=since)
