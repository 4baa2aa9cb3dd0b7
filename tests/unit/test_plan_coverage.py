"""Every row of the planner's tables is reached by a plan: as its own choice, or else by a wish that names it.

The rows are read here as they stand in data/, so that a row that nothing reaches fails, be it new or old.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import plan_rules as rules
import pytest
import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from plan_hosts import GPUS, codes, plan, truth, wish

ARCHITECTURES = rules.load("gpus.yml")["architectures"]
PRODUCTS = rules.load("gpus.yml")["products"]
SYSTEMS = rules.load("systems.yml")
BRANCHES = rules.load("drivers.yml")["branches"]
SHIPPED = rules.load("drivers.yml")["flavours"]["from"]
BY_CAPABILITY = {rules.capability(device): device for device in [*rules.PCI["devices"], *GPUS.values()]}
# Jetson: their GPUs are no PCI devices, so that no host of torchfleet's can have one.
WITHOUT_ID = {"3.2", "5.3", "6.2", "7.2", "8.7"}
BARE = {"state": "keep"}
NEWEST = {"open": "620.70.06", "proprietary": "610.57.04"}


def fitting_driver(device: str, cuda: str | None = None) -> str | None:
    """Some driver, the newest first, that serves the GPU, and CUDA with it."""
    for row in reversed(BRANCHES):
        version = next((v for v in NEWEST.values() if v.startswith(row["branch"])), row["branch"] + ".256.02")
        for flavour in ("open", "proprietary"):
            fits = rules.driver_fits(version, flavour, [device]) and flavour in shipped(row["branch"])
            if fits and (cuda is None or rules.cuda_fits(version, cuda)):
                return f"{version} {flavour}"
    return None


def shipped(branch: str) -> list[str]:
    found: list[str] = [row["ships"] for row in SHIPPED if int(row["branch"]) <= int(branch)][-1]
    return found


# Wheels

READ = yaml.safe_load((Path(__file__).parent / "data" / "torch_wheels.yml").read_text())


@pytest.mark.parametrize("torch", READ)
def test_the_tables_hold_every_wheel_as_it_was_read(torch: str) -> None:
    read, release = READ[torch], next(row for row in rules.TORCH if row["torch"] == torch)
    for machine in ("x86_64", "aarch64"):
        facts = read[machine]
        assert release["python"][machine] == facts["python"].split()
        assert (release["glibc"][machine], release["pypi"][machine]) == (facts["glibc"], facts["pypi"])
    assert {key: release[key] for key in read["beside"]} == read["beside"]
    found = {}
    for build in release["builds"]:
        marks = {machine: " *" * (level == "low") for machine, level in build["confidence"].items()}
        codes = {machine: " ".join(codes) for machine, codes in build["capabilities"].items()}
        found[build["variant"]] = {machine: text + marks[machine] for machine, text in codes.items()}
    assert {variant: found.get(variant) for variant in read["builds"]} == read["builds"]


WHEELS = [(row, machine) for row in rules.rows().values() for machine in row.machines]


@cache
def by_preference() -> frozenset[tuple[str, str, str]]:
    """What plans choose of themselves, over one GPU of each capability, drivers, Pythons and sources."""
    found = set()
    facts: list[tuple[dict[str, Any], str | None]] = [({}, None)]
    for device in BY_CAPABILITY.values():
        for version in ("470.256.02", "535.261.03", "580.178.04"):
            for flavour in ("open", "proprietary"):
                if rules.driver_fits(version, flavour, [device]):
                    facts.append(({"gpus": [device]}, f"{version} {flavour}"))
                    break
    grid = itertools.product(
        facts, ("x86_64", "aarch64"), ("3.7", "3.8", "3.9", "3.10", "3.11", "3.15"), ("pypi", "wheels")
    )
    for (gpus, driver), machine, python, source in grid:
        result = plan(truth(driver=driver, machine=machine, **gpus), wish([source], BARE, python=python))
        row = result["environments"][0]
        found.add((row["torch"], row["variant"], machine))
    return frozenset(found)


def test_preference_alone_reaches_a_good_part() -> None:
    assert len(by_preference() & {(row.torch, row.variant, machine) for row, machine in WHEELS}) >= 20


@pytest.mark.parametrize(
    ("row", "machine"), WHEELS, ids=[f"{row.torch}-{row.variant}-{machine}" for row, machine in WHEELS]
)
def test_every_wheel_is_chosen_on_some_host(row: Any, machine: str) -> None:
    facts = row.machines[machine]
    if (row.torch, row.variant, machine) in by_preference():
        return
    python = [tag for tag in facts["python"] if not tag.endswith("t")][-1]
    wanted = wish(["wheels"], BARE, python=python, torch=row.torch, variant=row.variant)
    host = truth(machine=machine, glibc=facts["glibc"])
    if row.cuda:
        device = next(
            device
            for device in reversed(BY_CAPABILITY.values())
            if rules.has_code(row.torch, row.cuda, machine, [device]) and fitting_driver(device, row.cuda)
        )
        host = truth([device], fitting_driver(device, row.cuda), machine=machine, glibc=facts["glibc"])
    result = plan(host, wanted)
    assert result["problems"] == []
    (chosen,) = result["environments"]
    assert (chosen["torch"], chosen["variant"]) == (row.torch, row.variant)
    assert result["expect"]["cuda_available"] is bool(row.cuda)


# Channels of conda

CHANNELS = [
    (kind, row["torch"], cuda, machine)
    for kind, channel in rules.CHANNELS.items()
    for row in channel["releases"]
    for cuda in row["cuda"]
    for machine in row["machines"]
]


@pytest.mark.parametrize(("kind", "torch", "cuda", "machine"), CHANNELS)
def test_every_build_of_a_channel_is_chosen_on_some_host(
    kind: str, torch: str, cuda: str, machine: str
) -> None:
    release = next(row for row in rules.TORCH if row["torch"] == torch)
    known = rules.CHANNELS[kind]["capabilities"] == "wheels"
    device = next(
        device
        for device in BY_CAPABILITY.values()
        if rules.has_code(torch, cuda, machine, [device], known) and fitting_driver(device, cuda)
    )
    variant = "cu" + cuda.replace(".", "")
    python = next(tag for tag in reversed(release["python"][machine]) if not tag.endswith("t"))
    wanted = wish([kind], BARE, python=python, torch=torch, variant=variant)
    result = plan(truth([device], fitting_driver(device, cuda), machine=machine), wanted)
    assert result["problems"] == []
    (chosen,) = result["environments"]
    (source,) = chosen["sources"]
    assert (source["kind"], source["cuda"]) == (kind, cuda)
    assert rules.conda_release(source["specs"]) == torch


# GPUs

NAMED = {
    "2.0": ["GTX 480"],
    "3.0": ["GTX 680"],
    "3.5": ["K40"],
    "3.7": ["K80"],
    "5.2": ["GTX 980"],
    "6.0": ["P100"],
    "6.1": ["GTX 1080 Ti"],
    "7.0": ["TITAN V", "V100"],
    "7.5": ["RTX 2080 Ti", "T4", "T4G"],
    "8.0": ["A100"],
    "8.6": ["RTX 3090"],
    "8.9": ["L40S", "RTX 4090"],
    "9.0": ["H100", "H200", "GH200"],
    "10.0": ["B200", "GB200"],
    "10.3": ["B300"],
    "11.0": ["Thor"],
    "12.0": ["RTX 5090"],
    "12.1": ["GB10"],
    "10.7": ["Rubin"],
}


def test_the_ids_of_the_tests_are_the_gpus_that_they_are_named_after() -> None:
    assert {name for names in NAMED.values() for name in names} == set(GPUS)
    for capability, names in NAMED.items():
        assert {rules.capability(GPUS[name]) for name in names} == {capability}


CAPABILITIES = [(row, capability) for row in ARCHITECTURES for capability in row["capabilities"]]


def test_code_runs_where_the_rule_says_for_every_pair() -> None:
    """Also on Jetson, which no plan meets: gpu_verify's judgement rests on the same table."""
    every = [*rules.BOUNDS, *WITHOUT_ID, "10.1"]
    for code, device, cuda in itertools.product(every, every, ("11.8", "12.6", "13.0", "13.2", "13.4")):
        assert tables.runs(code, device, cuda) is rules.runs(code, device, cuda), (code, device, cuda)


@pytest.mark.parametrize(
    ("row", "capability"), CAPABILITIES, ids=[f"{r['name']}-{c}" for r, c in CAPABILITIES]
)
def test_every_architecture_is_met_and_its_bounds_are_kept(row: dict[str, Any], capability: str) -> None:
    if capability in WITHOUT_ID:
        assert capability not in BY_CAPABILITY
        return
    device = BY_CAPABILITY[capability]
    driver = fitting_driver(device)
    assert driver, "no branch of the tables serves it"
    cpu = wish(["wheels"], BARE, variant="cpu")
    result = plan(truth([device], driver), cpu)
    assert result["problems"] == []
    (gpu,) = result["gpus"]
    assert (gpu["architecture"], gpu["capability"]) == (row["name"], capability)
    flavour = driver.split(" ")[1]
    first, last, flavours, _first_cuda, _last_cuda = rules.BOUNDS[capability]
    assert row["first_driver"] == first
    assert row["last_branch"] == (str(last) if last else None)
    assert set(row["flavours"]) == flavours
    unfit = []
    if first:
        unfit.append(f"{int(first.split('.')[0]) - 1}.200.01 {flavour}")
    if last:
        unfit.append(f"{last + 1}.10.01 {flavour}")
    unfit += [f"{driver.split(' ')[0]} {other}" for other in {"open", "proprietary"} - flavours]
    for other in unfit:
        assert codes(plan(truth([device], other), wish(["wheels"], BARE))["problems"]) == ["driver_unfit"], (
            other
        )


@pytest.mark.parametrize("device", [device for row in PRODUCTS for device in row["devices"]])
def test_every_product_that_differs_from_its_architecture(device: str) -> None:
    assert device in rules.GRACE_HOPPER
    for flavour, expected in (("open", []), ("proprietary", ["driver_unfit"])):
        result = plan(truth([device], f"580.95.05 {flavour}", machine="aarch64"), wish(["wheels"], BARE))
        assert codes(result["problems"]) == expected


def test_every_listed_gpu_gets_a_plan_or_a_reason_why_not() -> None:
    """All ids of the tables: with a driver that fits, torch is missing only where no build has code."""
    for device in rules.PCI["devices"]:
        driver = fitting_driver(device)
        assert driver, device
        result = plan(truth([device], driver), wish(["wheels"], BARE))
        version = driver.split(" ")[0]
        any_code = any(
            row.cuda
            and "x86_64" in row.machines
            and not row.machines["x86_64"]["low"]
            and rules.has_code(row.torch, row.cuda, "x86_64", [device])
            and rules.cuda_fits(version, row.cuda)
            and "3.11" in row.machines["x86_64"]["python"]
            for row in rules.rows().values()
        )
        assert codes(result["problems"]) == ([] if any_code else ["no_build"]), device
        assert result["warnings"] == [] or "unlisted_gpu" not in codes(result["warnings"])


# Drivers


@pytest.mark.parametrize("branch", [row["branch"] for row in BRANCHES])
def test_every_branch_is_kept_on_some_host(branch: str) -> None:
    version = next((v for v in NEWEST.values() if v.startswith(branch)), f"{branch}.256.02")
    device, flavour = next(
        (device, flavour)
        for device in GPUS.values()
        for flavour in shipped(branch)
        if rules.driver_fits(version, flavour, [device])
    )
    result = plan(truth([device], f"{version} {flavour}"), wish(["wheels"], BARE, variant="cpu"))
    assert result["problems"] == []
    assert (result["driver"]["action"], result["driver"]["branch"]) == ("keep", branch)


def offers() -> list[tuple[str, str, str, str, str, str, str, str, str | None]]:
    """Each driver that a repository has for a system: by machine, flavour and how its modules are built."""
    found = []
    for system in SYSTEMS["systems"]:
        for kind in ("distribution", "nvidia"):
            repository = system[kind]
            if repository is None:
                continue
            for offer in SYSTEMS["nvidia"] if kind == "nvidia" else repository["offers"]:
                layouts = SYSTEMS["layouts"][offer.get("layout", repository["layout"])]
                layout = [row for row in layouts if int(row["from"]) <= int(offer["branch"])][-1]
                first = repository.get("first_branch", {})
                machines = [
                    machine
                    for machine in offer.get("machines", repository["machines"])
                    if int(offer["branch"]) >= int(first.get(machine, 0))
                ]
                for name, machine, modules, flavour in itertools.product(
                    system["ids"], machines, ("dkms", "prebuilt"), ("open", "proprietary")
                ):
                    if flavour in layout.get(modules, {}) and flavour in shipped(offer["branch"]):
                        row = (name, str(system["version"]), kind, offer["branch"], str(offer["version"]))
                        found.append((*row, machine, modules, flavour, offer.get("moves_to")))
    return found


OFFERS = offers()


@pytest.mark.parametrize(
    ("name", "release", "repository", "branch", "version", "machine", "modules", "flavour", "moves_to"),
    OFFERS,
    ids=["-".join(row[:4] + row[5:8]) for row in OFFERS],
)
def test_every_offer_of_a_system_is_installed_when_it_is_named(
    name: str,
    release: str,
    repository: str,
    branch: str,
    version: str,
    machine: str,
    modules: str,
    flavour: str,
    moves_to: str | None,
) -> None:
    device = next(device for device in GPUS.values() if rules.driver_fits(version, flavour, [device]))
    facts = truth([device], machine=machine)
    facts["os"] = {"id": name, "version": release, "codename": None, "like": [], "name": f"{name} {release}"}
    wished = {
        "state": "present",
        "branch": branch,
        "repository": repository,
        "flavour": flavour,
        "modules": modules,
    }
    result = plan(facts, wish(["wheels"], wished, variant="cpu"))
    if moves_to:  # the archive itself would replace it
        (problem,) = result["problems"]
        assert problem["code"] == "no_driver_offered"
        assert moves_to in problem["found"]
        return
    assert result["problems"] == []
    driver = result["driver"]
    assert driver["action"] == "install"
    assert (driver["branch"], driver["version"]) == (branch, version)
    assert (driver["repository"], driver["flavour"], driver["modules"]) == (repository, flavour, modules)
    assert driver["packages"]
    assert not any(mark in package for package in driver["packages"] for mark in "{}")


def test_no_repository_is_asked_for_a_machine_that_it_does_not_serve() -> None:
    without = [
        (name, system["version"], kind, machine)
        for system in SYSTEMS["systems"]
        for name in system["ids"]
        for kind in ("distribution", "nvidia")
        for machine in ("x86_64", "aarch64")
        if system[kind] and machine not in system[kind]["machines"]
    ]
    assert without
    for name, version, kind, machine in without:
        facts = truth(["T4"], machine=machine)
        facts["os"].update(id=name, version=version)
        result = plan(facts, wish(["wheels"], {"repository": kind, "state": "present"}, variant="cpu"))
        assert codes(result["problems"]) == ["no_driver_offered"], (name, version, kind, machine)


def test_every_system_chooses_of_itself_too() -> None:
    """On every system and machine a bare host with some GPU gets a driver without naming one."""
    for system in SYSTEMS["systems"]:
        machines = {
            m for kind in ("distribution", "nvidia") if system[kind] for m in system[kind]["machines"]
        }
        assert machines, "a system without any driver helps nobody"
        for name, machine in itertools.product(system["ids"], sorted(machines)):
            actions = set()
            for device in ("1db6", "2330", "2342"):
                facts = truth([device], machine=machine)
                facts["os"].update(id=name, version=system["version"])
                result = plan(facts, wish(["wheels"], variant="auto"))
                actions.add(result["driver"]["action"])
            assert "install" in actions, (name, system["version"], machine)
