"""Warnings with a date: a driver branch past its end of life, or near it."""

from __future__ import annotations

import calendar
import datetime

import plan_rules as rules
import pytest
from plan_hosts import codes, plan, truth, wish

PAST, NEAR = "end_of_life", "end_of_life_near"
# By NVIDIA's pages on supported drivers; the day is the last of the month.
KNOWN = {
    "470": "2024-09",
    "535": "2026-06",
    "570": "2026-02",
    "580": "2028-06",
    "595": "2027-03",
    "610": "2026-08",
}
ENDS = {row["branch"]: row["eol"] for row in rules.load("drivers.yml")["branches"]}
DATED = sorted(branch for branch, month in ENDS.items() if month)


def dated(branch: str, today: datetime.date) -> dict[str, str]:
    """The warnings about ends of life of a host that keeps a driver of this branch."""
    flavour = "open" if int(branch) >= 615 else "proprietary"
    facts = truth(["T4"], f"{branch}.256.02 {flavour}")
    result = plan(facts, wish(["wheels"], {"state": "keep"}, variant="cpu"), today)
    assert result["problems"] == []
    return {row["code"]: row["text"] for row in result["warnings"] if row["code"] in (PAST, NEAR)}


def last_day(month: str) -> datetime.date:
    year, number = map(int, month.split("-"))
    return datetime.date(year, number, calendar.monthrange(year, number)[1])


def test_the_tables_have_nvidias_dates() -> None:
    assert {branch: ENDS[branch] for branch in KNOWN} == KNOWN


@pytest.mark.parametrize("branch", DATED)
@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (-580, None),
        (-181, None),
        (-180, NEAR),
        (-179, NEAR),
        (-1, NEAR),
        (0, NEAR),
        (1, PAST),
        (180, PAST),
        (580, PAST),
    ],
)
def test_end_of_life_against_today(branch: str, days: int, expected: str | None) -> None:
    end = last_day(ENDS[branch] or "")
    found = dated(branch, end + datetime.timedelta(days=days))
    assert list(found) == ([expected] if expected else [])
    for text in found.values():
        assert branch in text
        assert ENDS[branch] in text


@pytest.mark.parametrize("branch", sorted(set(ENDS) - set(DATED) - {"390"}))
@pytest.mark.parametrize("today", ["2020-01-01", "2026-11-23", "2040-01-01"])
def test_a_branch_without_a_known_end_is_not_warned_about(branch: str, today: str) -> None:
    assert dated(branch, datetime.date.fromisoformat(today)) == {}


@pytest.mark.parametrize("os", ["debian12", "ubuntu2204", "ubuntu2404", "ubuntu2604", "rhel9", "sles15"])
def test_a_driver_that_is_chosen_is_still_supported(os: str) -> None:
    """A repository of these systems has a supported branch for each of these GPUs: 580 at least."""
    for gpu in ("H100", "V100", "RTX 5090", "T4"):
        for day in ("2026-11-23", "2027-06-01"):
            today = datetime.date.fromisoformat(day)
            result = plan(truth([gpu], os=os), wish(["wheels"]), today)
            assert result["driver"]["action"] == "install"
            assert PAST not in codes(result["warnings"]), (gpu, day)
            # The new-feature branches are superseded.
            assert result["driver"]["branch"] not in ("590", "610"), (gpu, day)
