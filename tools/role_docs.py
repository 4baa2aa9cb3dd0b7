#!/usr/bin/env python3
"""Write the table of variables in each role's README from its argument_specs.

role_docs.py           writes what is out of date, and names it
role_docs.py --check   only names it, and ends with status 1
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
BEGIN, END = "<!-- BEGIN VARIABLES -->", "<!-- END VARIABLES -->"


def options(role: Path) -> dict[str, dict[str, Any]]:
    """Return the public variables of a role, as its argument_specs declare them."""
    path = role / "meta" / "argument_specs.yml"
    specs = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(specs.get("argument_specs", {}).get("main", {}).get("options") or {})


def text(description: str | list[str]) -> str:
    joined = description if isinstance(description, str) else " ".join(description)
    return " ".join(joined.replace("|", "\\|").split())


def kind(option: dict[str, Any]) -> str:
    name = str(option.get("type", "str"))
    if name == "list" and "elements" in option:
        name = f"list of {option['elements']}"
    return name


def default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    if option.get("default") is None:
        return ""
    value = option["default"]
    shown = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return "`" + shown.replace("|", "\\|") + "`"


def rows(given: dict[str, dict[str, Any]], path: str = "") -> list[str]:
    lines = []
    for name, option in given.items():
        described = text(option.get("description", ""))
        if "choices" in option:
            described += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        lines.append(f"| `{path}{name}` | {kind(option)} | {default(option)} | {described} |")
        if "options" in option:
            inner = f"{path}{name}[]." if option.get("type") == "list" else f"{path}{name}."
            lines += rows(option["options"], inner)
    return lines


def table(role: Path) -> str:
    lines = rows(options(role))
    if not lines:
        return "None."
    return "\n".join(["| Variable | Type | Default | Meaning |", "|---|---|---|---|", *lines])


def rendered(role: Path) -> str:
    """Return the README as it should be."""
    path = role / "README.md"
    if not path.is_file():
        raise ValueError(f"{path} is missing; write its head, and {BEGIN} and {END} where the table belongs.")
    readme = path.read_text(encoding="utf-8")
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"{path}: expected {BEGIN} and {END} once each.")
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{table(role)}\n{END}{rest.partition(END)[2]}"


def roles() -> list[Path]:
    return sorted(path for path in ROLES.iterdir() if (path / "meta" / "argument_specs.yml").is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the table of variables in each role's README.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; end with 1 where one is out of date"
    )
    check = parser.parse_args().check
    status = 0
    for role in roles():
        try:
            wanted = rendered(role)
        except ValueError as error:
            print(error)
            status = 1
            continue
        path = role / "README.md"
        if path.read_text(encoding="utf-8") == wanted:
            continue
        if check:
            print(f"{path} is out of date: run tools/role_docs.py")
            status = 1
        else:
            path.write_text(wanted, encoding="utf-8")
            print(f"{path} written")
    return status


if __name__ == "__main__":
    sys.exit(main())
