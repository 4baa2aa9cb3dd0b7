"""Every module runs on a host with bare Python 3.8, and its documentation says what its code does."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))
UTILS = sorted((ROOT / "plugins" / "module_utils").rglob("*.py"))
OURS = "ansible_collections.torchfleet.gpu.plugins"
# In the standard library only after 3.8
TOO_NEW = {"graphlib", "tomllib", "zoneinfo"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    names = {path.stem for path in MODULES}
    assert {"gpu_facts", "torch_probe"} <= names


@pytest.mark.parametrize("path", MODULES + UTILS, ids=relative)
def test_the_source_is_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), relative(path), feature_version=(3, 8))
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if tree.body:
        # Without it `list[str]` and `X | None` in annotations would be evaluated.
        assert [name.name for node in futures for name in node.names] == ["annotations"]


@pytest.mark.parametrize("path", MODULES + UTILS, ids=relative)
def test_it_imports_the_standard_library_and_ansibles_host_code_only(path: Path) -> None:
    strangers = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "Ansible resolves relative imports only in part: name the collection"
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            standard = top in sys.stdlib_module_names and top not in TOO_NEW
            if not standard and not name.startswith(("ansible.module_utils", f"{OURS}.module_utils")):
                strangers.append(name)
    assert strangers == []


def documentation(path: Path) -> dict[str, Any]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DOCUMENTATION":
            found = yaml.safe_load(ast.literal_eval(node.value))
            assert isinstance(found, dict)
            for name in found.get("extends_documentation_fragment", []):
                fragment = importlib.import_module(f"{OURS}.doc_fragments.{name.rpartition('.')[2]}")
                found["options"].update(yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"])
            return found
    raise AssertionError(f"{relative(path)} has no DOCUMENTATION")


class Captured(Exception):
    """Carries what the module handed to AnsibleModule."""


def specification(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    def capture(**arguments: Any) -> None:
        raise Captured(arguments)

    module = importlib.import_module(f"{OURS}.modules.{path.stem}")
    monkeypatch.setattr(module, "AnsibleModule", capture)
    with pytest.raises(Captured) as caught:
        module.main()
    found = caught.value.args[0]
    assert isinstance(found, dict)
    return found


def shape(options: dict[str, Any], sub: str) -> dict[str, Any]:
    """Type, default and the like of each option, with Ansible's own defaults filled in."""
    return {
        name: {
            "type": option.get("type", "str"),
            "elements": option.get("elements"),
            "required": bool(option.get("required", False)),
            "default": option.get("default"),
            "choices": list(option["choices"]) if option.get("choices") else None,
            "aliases": sorted(option.get("aliases", [])),
            "options": shape(option[sub], sub) if option.get(sub) else {},
        }
        for name, option in options.items()
    }


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_documentation_and_code_agree(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, code = documentation(path), specification(path, monkeypatch)
    assert document["module"] == path.stem
    assert shape(document.get("options", {}), "suboptions") == shape(code["argument_spec"], "options")
    full = document["attributes"]["check_mode"]["support"] == "full"
    assert code.get("supports_check_mode", False) is full
    assert full, "every module of this collection supports check mode"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_option_is_described(path: Path) -> None:
    def bare(options: dict[str, Any]) -> list[str]:
        found = [name for name, option in options.items() if not option.get("description")]
        return found + [name for option in options.values() for name in bare(option.get("suboptions") or {})]

    document = documentation(path)
    assert document["short_description"] and document["description"]
    assert bare(document.get("options", {})) == []
