"""Each role's interface is told three times: defaults, argument_specs and README. They must agree."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "defaults" / "main.yml").is_file())
GROUP_VARS = sorted((ROOT / "group_vars" / "all").glob("*.yml"))

_spec = importlib.util.spec_from_file_location("role_docs", ROOT / "tools" / "role_docs.py")
assert _spec and _spec.loader
role_docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(role_docs)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def defaults_of(role: Path) -> dict[str, Any]:
    return load(role / "defaults" / "main.yml") or {}


def every_role(function: Any) -> Any:
    return pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)(function)


def test_there_are_roles() -> None:
    assert {"mirrors", "miniconda", "conda_envs", "pytorch"} <= {role.name for role in ROLES}


@every_role
def test_defaults_and_argument_specs_agree(role: Path) -> None:
    options = role_docs.options(role)
    declared = {name: option.get("default") for name, option in options.items() if not option.get("required")}
    assert defaults_of(role) == declared


@every_role
def test_every_default_is_of_its_declared_type(role: Path) -> None:
    types: dict[str, Any] = {
        "str": str,
        "int": int,
        "bool": bool,
        "list": list,
        "dict": dict,
        "float": (int, float),
        "path": str,
    }
    for name, option in role_docs.options(role).items():
        value = option.get("default")
        if value is None or option["type"] == "raw" or (isinstance(value, str) and "{{" in value):
            continue
        assert isinstance(value, types[option["type"]]), name
        if "choices" in option:
            assert set(value if isinstance(value, list) else [value]) <= set(option["choices"]), name


@every_role
def test_every_variable_is_described_and_has_the_prefix_of_its_role(role: Path) -> None:
    for name, option in role_docs.options(role).items():
        assert name.startswith(f"{role.name}_"), name
        assert role_docs.text(option["description"]), name


@every_role
def test_internal_variables_say_so(role: Path) -> None:
    for path in (role / "vars").glob("*.yml"):
        for name in load(path) or {}:
            assert name.startswith(f"__{role.name}_"), f"{path}: {name}"


@every_role
def test_every_default_has_a_comment(role: Path) -> None:
    lines = (role / "defaults" / "main.yml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.match(rf"{role.name}_\w+:", line):
            assert lines[number - 1].startswith("#"), line


@every_role
def test_the_readme_is_up_to_date(role: Path) -> None:
    readme = (role / "README.md").read_text(encoding="utf-8")
    assert readme == role_docs.rendered(role), "run tools/role_docs.py"
    assert f"torchfleet.gpu.{role.name}" in readme


@pytest.mark.parametrize("path", GROUP_VARS, ids=lambda path: path.name)
def test_group_vars_set_only_what_a_role_knows(path: Path) -> None:
    known = {name for role in ROLES for name in role_docs.options(role)}
    set_here = set(load(path) or {})
    offered = set(re.findall(r"^# ?([a-z_]+):(?: |$)", path.read_text(encoding="utf-8"), re.M))
    assert set_here <= known
    assert {name for name in offered if "_" in name} <= known


def test_the_table_of_a_small_role(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/argument_specs.yml").write_text(
        """
argument_specs:
  main:
    options:
      demo_items:
        description: [Some, "a|b"]
        type: list
        elements: dict
        default: []
        options:
          name: {description: Its name., type: str, required: true}
      demo_state: {description: What., type: str, choices: [here, gone], default: ""}
"""
    )
    (tmp_path / "README.md").write_text(f"head\n{role_docs.BEGIN}\nold\n{role_docs.END}\ntail\n")
    assert role_docs.rendered(tmp_path).splitlines() == [
        "head",
        role_docs.BEGIN,
        "| Variable | Type | Default | Meaning |",
        "|---|---|---|---|",
        "| `demo_items` | list of dict | `[]` | Some a\\|b |",
        "| `demo_items[].name` | str | required | Its name. |",
        '| `demo_state` | str | `""` | What. One of `here`, `gone`. |',
        role_docs.END,
        "tail",
    ]
