"""The rows of the fleet's table, from whatever a host has got to tell."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.filter import fleet_document
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import outcome

GPU = {"slot": "0000:18:00.0", "device": "2330"}
TRUTH: dict[str, Any] = {
    "gpus": [GPU, {**GPU, "slot": "0000:2a:00.0"}],
    "driver": {"on_disk": {"version": "535.261.03"}, "loaded": None, "verdict": "ok"},
}
PLAN: dict[str, Any] = {
    "gpus": [{**gpu, "name": "H100 SXM5 80GB"} for gpu in TRUTH["gpus"]],
    "environments": [{"name": "torch", "torch": "2.10.0", "variant": "cu128"}],
    "reasons": [
        {"code": code, "text": text, "remedy": None}
        for code, text in (
            ("driver_kept", "the host keeps the driver 535.261.03 that it has"),
            (
                "driver",
                "torch 2.15.0 cu132 needs driver >= 580.65.06; the host has 535.261.03 (likewise 13 more)",
            ),
            ("build", "torch 2.10.0 cu128 from pypi is the newest that fits the GPU and the driver"),
        )
    ],
}
RESULT: dict[str, Any] = {
    "environment": "torch",
    "verdict": "verified",
    "torch": "2.10.0+cu128",
    "cuda": "12.8",
    "cuda_available": True,
    "problems": [],
}


def row(**given: Any) -> dict[str, Any]:
    facts = {"truth": TRUTH, "plan": PLAN, "results": [RESULT], "failure": None, **given}
    (only,) = outcome.entry("gpu07", *(facts.get(name) for name in outcome.FACTS))["rows"]
    return dict(only)


def test_a_proven_host_says_why_it_has_this_build() -> None:
    assert row() == {
        "host": "gpu07",
        "gpu": "2 x H100 SXM5 80GB",
        "driver": "535.261.03",
        "environment": "torch",
        "torch": "2.10.0+cu128",
        "cuda": "12.8",
        "is_available": True,
        "why": "verified; torch 2.15.0 cu132 needs driver >= 580.65.06; the host has 535.261.03",
    }


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"results": None}, "not verified; planned: torch 2.10.0 cu128"),
        (
            {
                "results": [
                    {**RESULT, "verdict": "failed", "problems": [{"what": "no kernels", "found": "sm_61"}]}
                ]
            },
            "failed: no kernels (sm_61)",
        ),
        (
            {"results": [{**RESULT, "verdict": "cpu"}], "plan": {**PLAN, "gpus": [], "reasons": []}},
            "cpu: no NVIDIA GPU",
        ),
        ({"results": None, "failure": "provision: disk full\nmore"}, "failed: provision: disk full"),
        (
            {
                "results": None,
                "failure": "preflight: x: 2 problems\n\n1. os\n   found:    A\n2. GPU\n   found:    B\n",
            },
            "failed: os: A; GPU: B",
        ),
        ({"results": None, "failure": "x" * 500}, "failed: " + "x" * 199 + "…"),
    ],
)
def test_why(given: dict[str, Any], why: str) -> None:
    assert row(**given)["why"] == why


def test_a_host_of_which_nothing_is_known_has_a_row() -> None:
    lost = row(truth=None, plan=None, results=None)
    assert lost == {"host": "gpu07", "gpu": None, "driver": None, "why": "no answer in this run"}
    assert row(truth=None, plan=None, results=None, failure="no route")["why"] == "failed: no route"


@pytest.mark.parametrize(
    ("driver", "shown"),
    [
        ({"on_disk": None, "loaded": None, "verdict": "absent"}, "absent"),
        ({"on_disk": None, "loaded": None, "verdict": "not wanted"}, None),
        ({**TRUTH["driver"], "verdict": "reboot pending"}, "535.261.03 (reboot pending)"),
        ({"on_disk": None, "loaded": {"version": "580.1"}, "verdict": "ok"}, "580.1"),
        ({"on_disk": None, "loaded": {"version": None}, "verdict": "ok"}, "of unknown version"),
        ({"loaded": {"version": "580.1"}}, "580.1"),
        (None, "absent"),
    ],
)
def test_driver(driver: dict[str, Any] | None, shown: str | None) -> None:
    assert row(truth={**TRUTH, "driver": driver})["driver"] == shown


@pytest.mark.parametrize("truth", [{}, {"gpus": None}, {"gpus": "H100"}, {"gpus": [{"device": 2330}, None]}])
def test_a_faulty_truth_costs_nobody_the_table(truth: dict[str, Any]) -> None:
    assert row(truth=truth, plan=None, results=None, failure="bad truth")["why"] == "failed: bad truth"


def test_one_row_for_each_environment_planned_or_proven() -> None:
    plan = {
        **PLAN,
        "environments": [*PLAN["environments"], {"name": "old", "torch": "2.7.1", "variant": "cu126"}],
    }
    rows = outcome.entry("gpu07", TRUTH, plan, [RESULT, {**RESULT, "environment": "gone"}], None)["rows"]
    assert [item["environment"] for item in rows] == ["torch", "old", "gone"]


def test_the_filter_refuses_what_is_no_list() -> None:
    with pytest.raises(AnsibleFilterError, match="not a list of host names"):
        fleet_document.fleet_document("all", {}, {})
