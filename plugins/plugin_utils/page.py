"""The report as one page that needs nothing else: no network, no script to be read, no font."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

TEMPLATES = Path(__file__).resolve().parent / "templates"


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
    environment.filters["counted"] = fleet.counted
    return environment.get_template("report.html.j2")


def render(report: dict[str, Any], changes: list[dict[str, Any]], since: str | None) -> str:
    """``since``: the time of the report that ``changes`` compares with; null when there is none."""
    return _template().render(report=report, changes=changes, since=since)
