"""The filters as playbooks see them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.filter import fleet_table, plan, unknown_variables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet
from test_planner import H100, PYPI, truth, wish

ROOT = Path(__file__).resolve().parents[2]


class Tagged(str):
    """Stands for the strings of ansible-core 2.19, which are a subclass too."""


class Lazy(dict):  # type: ignore[type-arg]
    """Stands for its lazy containers."""


def exact_types(value: Any) -> set[type]:
    found = {type(value)}
    if isinstance(value, dict):
        return found.union(*(exact_types(item) for pair in value.items() for item in pair))
    if isinstance(value, list):
        return found.union(*(exact_types(item) for item in value))
    return found


def tagged(value: Any) -> Any:
    if isinstance(value, str):
        return Tagged(value)
    if isinstance(value, dict):
        return Lazy({Tagged(key): tagged(item) for key, item in value.items()})
    return [tagged(item) for item in value] if isinstance(value, list) else value


def test_plan_takes_tagged_data_and_returns_plain_data() -> None:
    facts, wanted = truth(H100, driver="535.261.03"), wish(PYPI)
    result = plan.plan(tagged(facts), tagged(wanted), host=Tagged("gpu07"), today="2026-11-23")
    assert result == plan.plan(facts, wanted, host="gpu07", today="2026-11-23")
    assert result["problems"] == []
    assert exact_types(result) == {dict, list, str, int, bool, type(None)}


def test_plan_speaks_of_role_variables() -> None:
    wanted = wish(PYPI, name="a/b", driver={"flavor": "open", "branch": "1"})
    wanted["sources"].append({**PYPI, "kind": "x", "name": "y"})
    wanted["pypi_urls"] = ["x"]
    assert sorted(row["what"] for row in plan.plan(truth(), wanted)["problems"]) == [
        "mirrors_pypi_urls[0]",
        "nvidia_driver_branch",
        "nvidia_driver_flavor",
        "pytorch_environments[0].name",
        "pytorch_sources[1].kind",
    ]
    result = plan.plan(truth(H100), wish(PYPI, driver={"state": "keep"}))
    assert result["problems"][0]["what"] == "nvidia_driver_state"


def test_plan_compares_with_the_given_day() -> None:
    facts, wanted = truth(H100, driver="535.261.03"), wish(PYPI)
    assert plan.plan(facts, wanted, today="2025-01-01")["warnings"] == []
    assert "end of life" in plan.plan(facts, wanted, today="2027-01-01")["warnings"][0]["text"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([], {}), "the truth is list, not a mapping; pass torchfleet_truth"),
        (({}, None), "the wish is NoneType, not a mapping"),
        (({}, {}, "h", "tomorrow"), "YYYY-MM-DD"),
    ],
)
def test_plan_refuses_other_types(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(AnsibleFilterError, match=text):
        plan.plan(*arguments)


def test_fleet_table_is_aligned() -> None:
    rows = [
        {"host": "gpu07", "gpu": "2 x H100", "driver": "535.261.03", "environment": "torch", "other": 1}
        | {"torch": "2.10.0+cu128", "cuda": "12.8", "is_available": True, "why": "fits"},
        {"host": "实验室-1", "cuda": None, "is_available": False, "why": "no GPU"},
    ]
    lines = fleet_table.fleet_table(rows)
    assert lines == [
        "host      GPU       driver      environment  torch         CUDA  is_available  why",
        "--------  --------  ----------  -----------  ------------  ----  ------------  ------",
        "gpu07     2 x H100  535.261.03  torch        2.10.0+cu128  12.8  True          fits",
        "实验室-1  -         -           -            -             -     False         no GPU",
    ]
    assert (
        len({fleet.width(line[: line.index(mark)]) for line, mark in zip(lines[2:], ("True", "False"))}) == 1
    )


def test_fleet_table_keeps_a_row_on_one_line_and_the_terminal_safe() -> None:
    line = fleet_table.fleet_table([{"host": "a\n b", "why": "\x1b[31mred\u202e\t"}])[2]
    assert line.split()[:2] == ["a", "b"]
    assert line.endswith("[31mred")
    assert line.isprintable()


def test_fleet_table_of_nothing_is_the_heading() -> None:
    assert len(fleet_table.fleet_table([])) == 2
    for bad in (None, {"host": "a"}, ["a"]):
        with pytest.raises(AnsibleFilterError, match="one for each line"):
            fleet_table.fleet_table(bad)


SPECS = {
    "mirrors": {"main": {"options": {"mirrors_pypi": {}, "mirrors_conda": {}}}},
    "pytorch": {
        "main": {"options": {"pytorch_environments": {}}},
        "refresh": {"options": {"pytorch_day": {}}},
    },
    "pytorch_extra": {"main": {"options": {"pytorch_extra_one": {}}}},
    "bare": {"main": {"options": None}},
}


def test_unknown_variables_names_the_closest() -> None:
    names = [
        "mirrors_pypi",
        "mirrors_pipy",
        "pytorch_day",
        "pytorch_zzz",
        "pytorch_extra_onn",
        "bare_x",
        "mirrors",
        "__mirrors_pipy",
        "my_mirrors_pipy",
    ]
    assert unknown_variables.unknown_variables([*names, "mirrors_pipy"], SPECS) == [
        {"name": "bare_x", "role": "bare", "closest": None},
        {"name": "mirrors_pipy", "role": "mirrors", "closest": "mirrors_pypi"},
        {"name": "pytorch_extra_onn", "role": "pytorch_extra", "closest": "pytorch_extra_one"},
        {"name": "pytorch_zzz", "role": "pytorch", "closest": None},
    ]


def test_unknown_variables_reads_the_roles_of_the_collection() -> None:
    files = sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
    assert files
    for path in files:
        entries = yaml.safe_load(path.read_text())["argument_specs"].values()
        options = [option for entry in entries for option in entry.get("options") or {}]
        assert unknown_variables.unknown_variables(options) == []
        role = path.parent.parent.name
        assert [row["role"] for row in unknown_variables.unknown_variables([f"{role}_zzqx"])] == [role]


def test_unknown_variables_refuses_other_types() -> None:
    for bad in (None, "mirrors_pypi", [1]):
        with pytest.raises(AnsibleFilterError, match="varnames"):
            unknown_variables.unknown_variables(bad)
    with pytest.raises(AnsibleFilterError, match="role_specs"):
        unknown_variables.unknown_variables([], [])


PLAY = """
- hosts: localhost
  gather_facts: false
  vars:
    python: "3.11"
    decided: "{{ facts | torchfleet.gpu.plan(wished, host='gpu07') }}"
    lines: "{{ [{'host': decided.host}] | torchfleet.gpu.fleet_table }}"
    unknown: "{{ ['mirrors_pipy'] | torchfleet.gpu.unknown_variables(specs) }}"
  tasks:
    - ansible.builtin.assert:
        that:
          - decided.problems == []
          - decided.environments[0].requirements == ['torch===2.10.0']
          - lines[2].startswith('gpu07')
          - unknown[0].closest == 'mirrors_pypi'
"""


def test_filters_in_a_real_play(tmp_path: Path) -> None:
    """Ansible's own tagging and lazy templating, and the names by which playbooks call the filters."""
    play = yaml.safe_load(PLAY)
    play[0]["vars"] |= {
        "facts": truth(H100, driver="535.261.03"),
        "wished": wish(PYPI, python="{{ python }}"),
        "specs": SPECS,
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    run = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", "play.yml"],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_HOME": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
