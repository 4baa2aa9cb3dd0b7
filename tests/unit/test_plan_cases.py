"""What hosts get, one case a row: ``data/plan_cases.yml``, written from what NVIDIA and PyTorch say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from plan_hosts import GPUS, SOURCES, SYSTEMS, codes, plan, truth, wish

GROUPS = yaml.safe_load((Path(__file__).parent / "data" / "plan_cases.yml").read_text())
CASES = {
    f"{group} / {name}": ({**table["given"], **given}, then)
    for group, table in GROUPS.items()
    for name, (given, then) in table["cases"].items()
}
ENVIRONMENT = ("python", "torch", "variant", "torchvision", "torchaudio")


def host(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The truth and the wish of a case."""
    facts = {key: value for key, value in given.items() if key not in (*ENVIRONMENT, "sources", "wish")}
    environment = {key: given[key] for key in ENVIRONMENT if key in given}
    return truth(**facts), wish(given["sources"], given.get("wish"), **environment)


def check(result: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """What the plan says against the case, one line each."""
    driver = result["driver"]
    environment = (result["environments"] or [dict.fromkeys(("torch", "variant", "cuda", "sources"))])[0]
    source = environment["sources"][0]["kind"] if environment["sources"] else None
    found = {
        **{key: driver[key] for key in ("action", "branch", "flavour", "repository", "modules", "stream")},
        "replaces": (driver["replaces"] or {}).get("version"),
        "torch": environment["torch"],
        "variant": environment["variant"],
        "source": source,
        "problems": codes(result["problems"]),
    }
    wrong = []
    for key, value in {"problems": [], **then}.items():
        if key == "problems":
            good = found[key] == value
        elif key in found:
            expected = value if isinstance(value, list) else [value]
            good = ("none" if found[key] is None else found[key]) in expected
        elif key == "driver":
            version = driver["version"]
            good = version is None if value == "none" else bool(version) and version in SpecifierSet(value)
        elif key == "cuda":
            good = bool(environment["cuda"]) and environment["cuda"] in SpecifierSet(value)
        elif key == "compat":
            good = bool(driver["forward_compat"]) is value
        elif key == "some_torch":
            good = bool(environment["torch"]) is value
        elif key == "packages":
            good = all(any(part in name for name in driver["packages"]) for part in value)
        elif key == "no_packages":
            good = not any(part in name for part in value for name in driver["packages"])
        elif key == "warnings":
            good = set(value) <= set(codes(result["warnings"]))
        elif key == "reasons":
            good = set(value) <= set(codes(result["reasons"]))
        elif key == "not":
            good = not set(value) & set(codes(result["warnings"]))
        else:
            raise KeyError(key)
        if not good:
            wrong.append(f"{key}: expected {value}, found {found.get(key, driver)}")
    return wrong


@pytest.mark.parametrize(("given", "then"), CASES.values(), ids=CASES)
def test_case(given: dict[str, Any], then: dict[str, Any]) -> None:
    result = plan(*host(given))
    wrong = check(result, then)
    assert not wrong, "\n".join([*wrong, json.dumps({"given": given, "plan": result}, indent=1)])


def test_the_table_is_as_wide_as_it_says() -> None:
    """Each GPU, system, source and driver policy that the table can name has a case of its own."""
    assert len(CASES) >= 150
    given = [row for row, _then in CASES.values()]
    assert {name for row in given for name in row["gpus"]} >= set(GPUS)
    assert {row.get("os", "debian12") for row in given} == set(SYSTEMS)
    assert {name for row in given if row["sources"] != "all" for name in row["sources"]} == set(SOURCES)
    branches = {str(row["driver"]).split(".")[0] for row in given if row.get("driver")}
    assert branches >= {"470", "535", "550", "570", "580", "595", "620"}
    assert {row.get("python", "3.11") for row in given} >= {f"3.{minor}" for minor in range(8, 16)}
    policies = {(row.get("wish", {}).get("state"), row.get("wish", {}).get("upgrade")) for row in given}
    assert policies >= {(None, None), ("keep", None), (None, True), (None, False), ("none", None)}
