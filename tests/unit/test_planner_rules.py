"""Over every GPU of the tables: the rules hold, as a second reading of the raw tables checks them."""

from __future__ import annotations

import datetime
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import planner, tables
from test_planner import CPU_INDEX, INDEX, PYPI, SITE, truth, wish

TODAY = datetime.date(2026, 11, 23)
DATA = Path(planner.__file__).parent / "data"
TORCH = yaml.safe_load((DATA / "torch.yml").read_text())
GPUS = yaml.safe_load((DATA / "gpus.yml").read_text())
CUDA = yaml.safe_load((DATA / "cuda.yml").read_text())
PCI = json.loads((DATA / "pci_gpus.json").read_text())
DRIVERS = [
    "470.256.02",
    "525.60.13",
    "535.261.03",
    "550.163.01",
    "570.133.07",
    "580.95.05",
    "595.112.07",
    "620.70.06",
]
SOURCES = ([PYPI], [INDEX], [PYPI, INDEX], [CPU_INDEX])


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def driver_fits(version: str, capability: str) -> bool:
    row = next(row for row in GPUS["architectures"] if capability in row["capabilities"])
    new_enough = row["first_driver"] is None or numbers(version) >= numbers(row["first_driver"])
    return new_enough and (row["last_branch"] is None or numbers(version)[0] <= int(row["last_branch"]))


def valid_builds(
    capability: str, driver: str, sources: list[dict[str, Any]], python: str, machine: str
) -> set[tuple[str, str]]:
    """Every build that may be chosen, read from the raw table by the rules' plain words."""
    found = set()
    for release, build in ((r, b) for r in TORCH["releases"] for b in r["builds"]):
        codes = set(build["capabilities"].get(machine, [])) - set(build.get("nominal", []))
        device = numbers(capability)
        excluded = {
            code
            for row in TORCH["compatibility"]["excluded"]
            for code in row["built"]
            if row["device"] == capability
        }
        runs = any(numbers(c)[0] == device[0] and numbers(c)[1] <= device[1] for c in codes - excluded)
        floor = CUDA["minimum_driver"]["linux"][build["variant"][2:4]]
        carried = any(
            build["variant"] in source.get("variants", [build["variant"]])
            and (source["kind"] == "index" or release["pypi"][machine] == build["variant"])
            for source in sources
        )
        sure = build["confidence"].get(machine) != "low"
        if (
            runs
            and sure
            and carried
            and numbers(driver) >= numbers(floor)
            and python in release["python"][machine]
        ):
            found.add((release["torch"], build["variant"]))
    return found


def check(device: str, driver: str, sources: list[dict[str, Any]], python: str, machine: str) -> str:
    chip, _name, _nvidia = PCI["devices"][device]
    capability = PCI["chips"][chip]["capability"]
    facts = truth(device, driver=driver, machine=machine)
    result = planner.plan(facts, wish(*sources, python=python), "h", TODAY)
    label = (device, capability, driver, [item["name"] for item in sources], python, machine)
    assert result["gpus"][0]["capability"] == capability, label
    codes = [row["code"] for row in result["problems"]]
    if not driver_fits(driver, capability):
        assert codes == ["driver_unfit"], label
        return "driver_unfit"
    valid = valid_builds(capability, driver, sources, python, machine)
    row = result["environments"][0]
    if not valid:
        assert codes == ["no_build"], label
        assert row["torch"] is None
        return "no_build"
    assert codes == [], label
    assert (row["torch"], row["variant"]) in valid, label
    assert row["torch"] == max((torch for torch, _variant in valid), key=numbers), label
    assert result["expect"] == {"cuda_available": True, "device_count": 1, "capabilities": [capability]}
    return "build"


def test_every_gpu_of_the_tables() -> None:
    chance = random.Random(20261123)
    seen = {
        check(
            device,
            chance.choice(DRIVERS),
            sources,
            chance.choice(["3.8", "3.10", "3.11", "3.13", "3.15"]),
            chance.choice(["x86_64", "x86_64", "aarch64"]),
        )
        for device in PCI["devices"]
        for sources in SOURCES[:2]
    }
    assert seen == {"build", "no_build", "driver_unfit"}  # the check was not empty


def test_every_capability_with_every_driver_and_source() -> None:
    one_of_each = {PCI["chips"][row[0]]["capability"]: device for device, row in PCI["devices"].items()}
    for device, driver, sources, machine in itertools.product(
        one_of_each.values(), DRIVERS, SOURCES, ("x86_64", "aarch64")
    ):
        check(device, driver, sources, "3.11", machine)


@pytest.mark.parametrize("device", ["1b80", "1db6", "1eb8", "2330", "2b85"])
def test_a_newer_driver_or_more_sources_never_make_torch_older(device: str) -> None:
    chosen = {}
    for sources in SOURCES[:3]:
        last: tuple[int, ...] = ()
        for driver in DRIVERS:
            result = planner.plan(truth(device, driver=driver), wish(*sources), "h", TODAY)
            if result["problems"]:
                continue
            version = numbers(result["environments"][0]["torch"])
            assert version >= last
            last = chosen[driver, len(sources), sources[0]["name"]] = version
    for (driver, count, name), version in list(chosen.items()):
        if count == 1:
            assert chosen[driver, 2, "tuna"] >= version, (driver, name)


def test_order_of_the_gpus_does_not_matter_and_plans_are_repeatable() -> None:
    chance = random.Random(7)
    devices = list(PCI["devices"])
    for _ in range(100):
        pair = chance.sample(devices, 2)
        driver = chance.choice([None, *DRIVERS])
        one = planner.plan(truth(*pair, driver=driver), wish(PYPI, INDEX), "h", TODAY)
        two = planner.plan(truth(*reversed(pair), driver=driver), wish(PYPI, INDEX), "h", TODAY)
        again = planner.plan(truth(*pair, driver=driver), wish(PYPI, INDEX), "h", TODAY)
        assert json.dumps(one) == json.dumps(again)
        assert one["driver"] == two["driver"]
        assert one["environments"] == two["environments"]
        assert [row["code"] for row in one["problems"]] == [row["code"] for row in two["problems"]]


JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    3.5,
    "",
    "x",
    "None",
    "9" * 40,
    "..",
    "2.x",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
]


def mutate(value: Any, chance: random.Random) -> Any:
    """The same structure with junk in a few places."""
    if chance.random() < 0.08:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        kept = {key: mutate(item, chance) for key, item in value.items() if chance.random() > 0.04}
        if chance.random() < 0.05:
            kept[chance.choice(["extra", "", "name"])] = chance.choice(JUNK)
        return kept
    if isinstance(value, list):
        return [mutate(item, chance) for item in value]
    return value


def test_never_raises_and_always_answers_in_the_same_shape() -> None:
    chance = random.Random(42)
    shape = planner.plan(truth(), wish(SITE), "h", TODAY)
    problems = 0
    for _ in range(1500):
        facts = truth("2330", "1b80", driver=chance.choice([None, "535.261.03"]))
        wanted = wish(
            PYPI, INDEX, SITE, driver={"state": "auto", "branch": "535"}, torch=">=2", variant="auto"
        )
        result = planner.plan(mutate(facts, chance), mutate(wanted, chance), "h", TODAY)
        assert list(result) == list(shape)
        assert list(result["driver"]) == list(shape["driver"])
        for row in result["environments"]:
            assert list(row) == list(shape["environments"][0])
        for row in result["problems"]:
            assert all(isinstance(row[key], str) for key in ("code", "what", "found", "expected", "fix"))
        problems += bool(result["problems"])
        json.dumps(result)
    assert problems > 1000


# The tables themselves


def test_every_row_has_a_source_and_a_confidence() -> None:
    drivers = yaml.safe_load((DATA / "drivers.yml").read_text())
    systems = yaml.safe_load((DATA / "systems.yml").read_text())
    channels = yaml.safe_load((DATA / "channels.yml").read_text())["channels"]
    rows = GPUS["architectures"] + GPUS["products"] + drivers["branches"]
    for system in systems["systems"]:
        rows += [system["glibc"], *(system["distribution"] or {"offers": []})["offers"]]
        rows += [system["nvidia"]] if system["nvidia"] else []
    rows += [row for layout in systems["layouts"].values() for row in layout]
    rows += [*systems["nvidia"], systems["keeps_older"], *channels, GPUS["data_centre"], GPUS["ranges"]]
    rows += [CUDA["toolkit_driver"], *CUDA["forward_compat"]]
    assert all(row["confidence"] for channel in channels for row in channel["releases"])
    rows += [TORCH["compatibility"], CUDA["minimum_driver"], drivers["flavours"]]
    assert len(rows) > 30
    for row in rows:
        assert row["source"], row
        levels = row["confidence"].values() if isinstance(row["confidence"], dict) else [row["confidence"]]
        assert set(levels) <= {"high", "medium", "low"}, row
    for release in TORCH["releases"]:
        for build in release["builds"]:
            assert build["source"]
            assert set(build["confidence"]) == set(build["capabilities"]), (
                release["torch"],
                build["variant"],
            )
    assert all(entry["licence"] for entry in list(PCI["_sources"].values())[:2])


def test_tables_agree_with_one_another() -> None:
    known = set(tables.architectures())
    for chip in PCI["chips"].values():
        assert tables.architectures()[chip["capability"]].name == chip["architecture"]
    for release in TORCH["releases"]:
        variants = {build["variant"] for build in release["builds"]} | {"cpu"}
        assert set(release["pypi"].values()) <= variants
        for build in release["builds"]:
            assert set().union(*build["capabilities"].values()) <= known
            assert build["variant"][2:4] in CUDA["minimum_driver"]["linux"]
    for system in tables.systems():
        for offer in (offer for offers in system.repositories.values() for offer in offers):
            assert offer.branch in tables.branches()
            assert offer.branch == str(offer.version.major)
            assert set(offer.packages) & set(tables.shipped_flavours(offer.version.major))
    for row in GPUS["products"]:
        assert all(device in PCI["devices"] for device in row["devices"])


@pytest.mark.parametrize(
    ("built", "device", "cuda", "expected"),
    [
        ("8.0", "8.6", "12.8", True),
        ("8.6", "8.0", "12.8", False),
        ("8.6", "8.9", "12.8", True),
        ("7.5", "8.0", "12.8", False),
        ("6.0", "6.1", "12.6", True),
        ("6.0", "6.2", "12.6", False),
        ("6.1", "6.2", "12.6", False),
        ("5.2", "5.3", "12.6", False),
        ("7.0", "7.2", "12.6", False),
        ("8.0", "8.7", "13.0", False),
        ("8.6", "8.7", "13.0", False),
        ("8.7", "8.7", "13.0", True),
        ("8.0", "8.7", "13.2", True),
        ("10.0", "10.3", "13.0", True),
        ("10.0", "10.1", "12.8", False),
        ("11.0", "10.1", "13.0", True),
        ("12.0", "12.1", "12.8", True),
        ("10.0", "12.0", "12.8", False),
    ],
)
def test_code_runs_on_device(built: str, device: str, cuda: str, expected: bool) -> None:
    assert tables.runs(built, device, cuda) is expected
