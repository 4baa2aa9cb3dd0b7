"""A wish with faults: each is named with its path, its value and what would be right, all at once."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import wish as wishes

PYPI = {"name": "tuna", "kind": "pypi", "urls": ["https://pypi.example.org/simple"]}
GOOD: dict[str, Any] = {
    "driver": {"state": "auto", "branch": "535", "flavour": "open", "repository": "distribution"},
    "environments": [{"name": "torch", "python": "3.11", "torch": ">=2.5,<3", "variant": "cu126"}],
    "sources": [PYPI],
    "pypi_urls": ["https://pypi.example.org/simple"],
}


def test_sound_wish_is_read_whole() -> None:
    wish, problems = wishes.read(GOOD)
    assert problems == []
    assert wish.driver.branch == "535"
    assert [item.name for item in wish.environments] == ["torch"]
    assert wish.sources[0].urls == ("https://pypi.example.org/simple",)


def test_absent_parts_have_defaults() -> None:
    wish, problems = wishes.read({})
    assert problems == []
    assert (wish.driver.state, wish.environments, wish.driver.allow_in_container) == ("auto", (), False)
    assert wishes.read({"driver": None, "environments": None, "sources": None, "pypi_urls": None})[1] == []


def environment(**change: Any) -> dict[str, Any]:
    return {**GOOD, "environments": [{**GOOD["environments"][0], **change}]}


def source(**change: Any) -> dict[str, Any]:
    return {**GOOD, "sources": [{**PYPI, **change}]}


@pytest.mark.parametrize(
    ("value", "path", "found", "hint"),
    [
        ([], "wish", "[]", "mapping"),
        ({**GOOD, "driver": "auto"}, "driver", "auto", "mapping"),
        ({**GOOD, "driver": {"state": "latest"}}, "driver.state", "latest", "keep"),
        ({**GOOD, "driver": {"branch": "536"}}, "driver.branch", "536", "535"),
        ({**GOOD, "driver": {"branch": 535}}, "driver.branch", "535", "quoted string"),
        ({**GOOD, "driver": {"flavour": "opne"}}, "driver.flavour", "opne", "did you mean open?"),
        ({**GOOD, "driver": {"allow_in_container": "yes"}}, "driver.allow_in_container", "yes", "true"),
        ({**GOOD, "driver": {"flavor": "open"}}, "driver.flavor", "open", "did you mean flavour?"),
        ({**GOOD, "enviroments": []}, "enviroments", "[]", "did you mean environments?"),
        ({**GOOD, "environments": {}}, "environments", "{}", "list"),
        ({**GOOD, "environments": ["torch"]}, "environments[0]", "torch", "mapping"),
        (environment(name="a/b"), "environments[0].name", "a/b", "slash"),
        (environment(name=""), "environments[0].name", "''", "letter or digit first"),
        (environment(name="a b"), "environments[0].name", "a b", "space"),
        (environment(name=".."), "environments[0].name", "..", "letter or digit first"),
        (environment(name="a\n"), "environments[0].name", "a\n", "letter or digit first"),
        (environment(name=None), "environments[0].name", "None", "letter or digit first"),
        (environment(python=3.1), "environments[0].python", "3.1", "quote it"),
        (environment(python="3"), "environments[0].python", "3", "3.11"),
        (environment(python=None), "environments[0].python", "None", "3.11"),
        (environment(torch=2.1), "environments[0].torch", "2.1", "quote it"),
        (environment(torch="latest"), "environments[0].torch", "latest", "PEP 440"),
        (environment(torch=">=2.5 <3"), "environments[0].torch", ">=2.5 <3", "PEP 440"),
        (environment(torch="2.99.0"), "environments[0].torch", "2.99.0", "2.15.0"),
        (environment(torch="2.7.1+cu126", variant="cpu"), "environments[0].variant", "cpu", "cu126"),
        (environment(torch="2.7.1+rocm6", variant="auto"), "environments[0].torch", "2.7.1+rocm6", "+cpu"),
        (environment(variant="cu999"), "environments[0].variant", "cu999", "cu128"),
        (environment(torchvison=True), "environments[0].torchvison", "True", "did you mean torchvision?"),
        (environment(torchvision="yes"), "environments[0].torchvision", "yes", "true or false"),
        (source(kind="pipy"), "sources[0].kind", "pipy", "find_links"),
        (source(kind=["pypi"]), "sources[0].kind", "['pypi']", "find_links"),
        (source(name=None), "sources[0].name", "None", "name"),
        (source(urls=[]), "sources[0].urls", "[]", "URL"),
        (source(urls="https://x.example.org"), "sources[0].urls", "https://x.example.org", "list"),
        (source(urls=["pypi.example.org"]), "sources[0].urls[0]", "pypi.example.org", "http"),
        (source(variants=["cu1"]), "sources[0].variants[0]", "cu1", "cu128"),
        (source(carries=["torch>=2"]), "sources[0].carries[0]", "torch>=2", "torch==2.15.0+cpu"),
        (source(carries=["torch == "]), "sources[0].carries[0]", "torch == ", "name==version"),
        (source(carries=["torch==2.*"]), "sources[0].carries[0]", "torch==2.*", "name==version"),
        ({**GOOD, "sources": []}, "sources", "[]", "PyPI mirror"),
        ({**GOOD, "pypi_urls": ["ftp://x"]}, "pypi_urls[0]", "ftp://x", "http"),
    ],
)
def test_fault(value: Any, path: str, found: str, hint: str) -> None:
    _wish, problems = wishes.read(value)
    rows = [row for row in problems if row["what"] == path]
    assert len(rows) == 1, problems
    assert rows[0]["found"] == found
    assert hint in rows[0]["expected"] + " " + rows[0]["fix"]
    assert rows[0]["code"] in ("bad_wish", "unknown_key")


def test_names_are_unique() -> None:
    twice = {**GOOD, "environments": GOOD["environments"] * 2, "sources": [PYPI, PYPI]}
    _wish, problems = wishes.read(twice)
    assert [row["what"] for row in problems] == ["environments[1].name", "sources[1].name"]
    assert "environments[0].name has it too" in problems[0]["expected"]


def test_every_fault_is_told_and_the_rest_is_kept() -> None:
    bad = {"name": "a b", "python": 3.1, "torch": "x", "variant": "y", "torchaudio": 1, "what": 2}
    wish, problems = wishes.read({**GOOD, "environments": [bad, *GOOD["environments"]]})
    assert len(problems) == 6
    assert [item.name for item in wish.environments] == ["torch"]
