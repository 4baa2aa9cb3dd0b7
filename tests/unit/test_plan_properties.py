"""What holds for every plan, whatever the host and the wish: hypothesis looks for one that breaks it.

The examples are the same in every run. TORCHFLEET_EXAMPLES=2000 looks at so many others instead.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import plan_rules as rules
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from plan_hosts import ALL, DRIVERS, GPUS, PYTHONS, SOURCES, SYSTEMS, codes, plan, sample, truth, wish

set_hypothesis_home_dir(rules.ROOT / ".torchfleet" / "hypothesis")
EXAMPLES = int(os.environ.get("TORCHFLEET_EXAMPLES", "0"))


def examples(count: int) -> settings:
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,  # the machine's load must not decide
        suppress_health_check=list(HealthCheck),
    )


PIP = ["pypi", "wheels", "cpu-wheels", "wheels-cu128", "site", "bundle"]
RANGES = [">=2.5,<2.9", "<2.0", "!=2.15.0", "~=2.9.0", ">=2.12", "<=2.7.1", "==2.1.*"]
VARIANTS = sorted({variant for _torch, variant in rules.rows()})
RELEASES = sorted({torch for torch, _variant in rules.rows()})
# A host that stands for itself more often than not: the rest is for the corners.
gpu_lists = st.lists(st.sampled_from(sorted(GPUS)), min_size=1, max_size=3)
some_gpus = st.one_of(gpu_lists, gpu_lists, st.lists(st.nothing()))
drivers = st.one_of(
    st.none(),
    st.sampled_from(DRIVERS),
    st.builds(
        lambda version, flavour: f"{version} {flavour}",
        st.sampled_from(DRIVERS),
        st.sampled_from(["open", "proprietary"]),
    ),
)
machines = st.sampled_from(["x86_64", "x86_64", "aarch64"])
glibcs = st.sampled_from(["2.17", "2.28", "2.36", "2.39", "2.39"])
pythons = st.sampled_from([*PYTHONS, "3.11", "3.12"])
torches = st.sampled_from(["auto"] * 20 + RANGES + RELEASES)
variants = st.sampled_from(["auto"] * 20 + VARIANTS)
source_lists = st.lists(st.sampled_from(sorted(SOURCES)), min_size=1, max_size=4, unique=True)
systems = st.sampled_from(sorted(set(SYSTEMS) - {"plan9"}))
environments = st.fixed_dictionaries(
    {
        "python": pythons,
        "torch": torches,
        "variant": variants,
        "torchvision": st.booleans(),
        "torchaudio": st.sampled_from([False, False, True]),
    }
)
driver_wishes = st.fixed_dictionaries(
    {"state": st.sampled_from(["auto", "auto", "auto", "present", "keep", "none", "absent"])},
    optional={
        "upgrade": st.booleans(),
        "branch": st.sampled_from(["auto", "auto", "470", "535", "570", "580", "595", "620"]),
        "flavour": st.sampled_from(["auto", "auto", "open", "proprietary"]),
        "repository": st.sampled_from(["auto", "auto", "distribution", "nvidia"]),
        "modules": st.sampled_from(["auto", "auto", "dkms", "prebuilt"]),
        "version": st.sampled_from(["auto", "auto", "auto", "580.95.05", "595.112.07"]),
        "forward_compat": st.booleans(),
        "adopt": st.booleans(),
        "local": st.sampled_from([[], [], [{"version": "580.178.04", "layout": "nvidia"}]]),
    },
)
hosts = st.fixed_dictionaries(
    {"gpus": some_gpus, "driver": drivers, "os": systems, "machine": machines, "glibc": glibcs},
    optional={
        "secure_boot": st.booleans(),
        "nvswitches": st.sampled_from([0, 0, 4]),
        "virtualization": st.sampled_from(["none", "none", "vm", "container", "wsl2"]),
        "foreign": st.booleans(),
    },
)


def devices(host: dict[str, Any]) -> list[str]:
    return [GPUS[name] for name in host["gpus"]]


def well_formed(result: dict[str, Any]) -> None:
    """Every plan is made of the contract's parts, and says all that it owes to its reader."""
    for row in result["problems"]:
        assert set(row) == {"code", "what", "found", "expected", "fix"}
        assert all(isinstance(value, str) and value.strip() for value in row.values()), row
    for row in result["reasons"] + result["warnings"]:
        assert set(row) == {"code", "text", "remedy"}
        assert all(isinstance(row[key], str) and row[key].strip() for key in ("code", "text")), row
        assert row["remedy"] is None or row["remedy"].strip(), row
    assert set(result) >= {"schema", "host", "gpus", "driver", "environments", "expect"}
    assert set(result["driver"]) == {
        *("action", "replaces", "branch", "version", "flavour", "repository", "modules", "packages"),
        *("stream", "sources_off", "forward_compat"),
    }
    assert result["driver"]["action"] in ("none", "keep", "install", "upgrade", "remove")
    for row in result["environments"]:
        parts = {"name", "python", "torch", "variant", "cuda", "companions", "requirements", "sources"}
        assert set(row) == parts
        assert bool(row["torch"]) == bool(row["sources"]) == bool(row["variant"])
        assert bool(row["torch"]) or result["problems"]
    json.dumps(result, allow_nan=False)


def sound(result: dict[str, Any], host: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The plan can be carried out and then works: judged by plan_rules, which asks no planner."""
    driver, cards = result["driver"], devices(host)
    version = driver["version"]
    if version and not result["problems"] and cards and driver["action"] != "remove":
        assert rules.driver_fits(version, driver["flavour"], cards), driver
    if driver["action"] in ("install", "upgrade"):
        assert driver["packages"]
        assert driver["repository"]
        assert version.split(".")[0] == driver["branch"]
    else:
        assert driver["packages"] == []
        assert driver["repository"] is None
    by_name = {item["name"]: item for item in wanted["sources"]}
    for asked, row in zip(wanted["environments"], result["environments"], strict=True):
        if row["torch"] is None:
            continue
        on_gpu = bool(row["cuda"] and cards and version and result["expect"]["cuda_available"])
        packages = ["torch", *(name for name in ("torchvision", "torchaudio") if asked[name])]
        for source in row["sources"]:
            conda = source["method"] == "conda"
            torch = rules.conda_release(source["specs"]) if conda else row["torch"]
            cuda = source["cuda"] if conda else row["cuda"]
            machine = host["machine"]
            assert asked["torch"] == "auto" or torch == asked["torch"] or torch in _range(asked["torch"])
            if cuda and on_gpu:
                known = not conda or rules.CHANNELS[source["kind"]]["capabilities"] == "wheels"
                assert rules.has_code(torch, cuda, machine, cards, known), (source, host)
                assert rules.cuda_fits(version, cuda) or compat_fits(driver, cuda, host), (source, driver)
            if conda:
                assert rules.channel_carries(source["kind"], torch, cuda, machine), source
            else:
                assert rules.carries(by_name[source["name"]], torch, row["variant"], machine, packages), (
                    source
                )
                facts = rules.rows()[torch, row["variant"]].machines[machine]
                assert ".".join(asked["python"].split(".")[:2]) in facts["python"]
                assert rules.at_least(host["glibc"], facts["glibc"])
            assert all(rules.companion(torch, name) for name in packages)
            if asked["variant"] != "auto":
                assert row["variant"] == asked["variant"]
        if result["expect"]["cuda_available"] and asked["variant"] == "auto":
            assert row["cuda"], "a GPU that can be used is used"
        exact(row, packages)
    expect = result["expect"]
    seen = {rules.capability(device) for device in cards} if expect["cuda_available"] else set()
    assert expect["capabilities"] == sorted(seen, key=rules.numbers)
    assert expect["device_count"] == (len(cards) if expect["cuda_available"] else 0)


def exact(row: dict[str, Any], packages: list[str]) -> None:
    """Each requirement is met by the file of every source of the row, and by no other variant or release."""
    if row["sources"][0]["method"] == "conda":
        assert row["requirements"] == []
        return
    wanted = {item.name: item.specifier for item in map(Requirement, row["requirements"])}
    assert list(wanted) == packages
    for package, specifier in wanted.items():
        version = rules.companion(row["torch"], package)
        assert version
        files = {
            version if source["kind"] == "pypi" else f"{version}+{row['variant']}"
            for source in row["sources"]
        }
        assert all(specifier.contains(file, prereleases=True) for file in files), row
        others = {f"{version}+{v}" for t, v in rules.rows() if t == row["torch"] and v != row["variant"]}
        others |= {release[package] for release in rules.TORCH if release.get(package)} - {version}
        assert not any(specifier.contains(other, prereleases=True) for other in others), row


def compat_fits(driver: dict[str, Any], cuda: str, host: dict[str, Any]) -> bool:
    """A forward-compatibility package: for this major version of CUDA, and never for GeForce."""
    compat = driver["forward_compat"]
    geforce = any(name.startswith(("GTX", "RTX", "TITAN")) for name in host["gpus"])
    return bool(compat) and compat["cuda"].split(".")[0] == cuda.split(".")[0] and not geforce


def _range(text: str) -> SpecifierSet:
    return SpecifierSet(text) if not text[0].isdigit() else SpecifierSet(f"=={text}")


def best_wheel(host: dict[str, Any], names: list[str], asked: dict[str, Any]) -> tuple[int, ...] | None:
    """The newest torch that any of these wheel sources has for this host and its driver, if any."""
    version, machine, cards = host["driver"].split(" ")[0], host["machine"], devices(host)
    packages = ["torch", *(name for name in ("torchvision", "torchaudio") if asked[name])]
    found = []
    for (torch, variant), row in rules.rows().items():
        facts = row.machines.get(machine)
        if facts is None or (variant == "cpu") != (asked["variant"] == "cpu"):
            continue
        if asked["variant"] not in ("auto", variant) or (facts["low"] and asked["variant"] == "auto"):
            continue
        if asked["torch"] != "auto" and torch not in _range(asked["torch"]):
            continue
        if row.cuda and not (
            rules.has_code(torch, row.cuda, machine, cards) and rules.cuda_fits(version, row.cuda)
        ):
            continue
        if (
            asked["python"] in facts["python"]
            and rules.at_least(host["glibc"], facts["glibc"])
            and all(rules.companion(torch, name) for name in packages)
            and any(rules.carries(SOURCES[name], torch, variant, machine, packages) for name in names)
        ):
            found.append(rules.numbers(torch))
    return max(found, default=None)


@given(hosts, source_lists, driver_wishes, st.lists(environments, min_size=1, max_size=2))
@examples(300)
def test_every_plan_is_sound(
    host: dict[str, Any], names: list[str], driver: dict[str, Any], asked: list[dict[str, Any]]
) -> None:
    wanted = wish(names, driver)
    wanted["environments"] = [{"name": f"env{number}", **row} for number, row in enumerate(asked)]
    result = plan(truth(**host), wanted)
    well_formed(result)
    sound(result, host, wanted)


@st.composite
def kept_drivers(draw: st.DrawFn, gpus: list[str]) -> str:
    """A driver that serves these GPUs, where there is one at all."""
    flavour = draw(st.sampled_from(["open", "proprietary"]))
    fitting = [v for v in DRIVERS if rules.driver_fits(v, flavour, [GPUS[name] for name in gpus])]
    return f"{draw(st.sampled_from(fitting or DRIVERS))} {flavour}"


@given(
    gpu_lists,
    st.data(),
    machines,
    glibcs,
    environments,
    st.lists(st.sampled_from(PIP), min_size=1, unique=True),
)
@examples(400)
def test_the_newest_wheel_that_fits_is_taken(
    gpus: list[str], data: st.DataObject, machine: str, glibc: str, asked: dict[str, Any], names: list[str]
) -> None:
    driver = data.draw(kept_drivers(gpus))
    host: dict[str, Any] = {"gpus": gpus, "driver": driver, "machine": machine, "glibc": glibc}
    facts = truth(**host)
    result = plan(facts, wish(names, {"state": "keep"}, **asked))
    installed = facts["driver"]["on_disk"]
    if not rules.driver_fits(installed["version"], installed["flavour"], devices(host)):
        assert codes(result["problems"])[0] in ("driver_unfit", "mixed_gpus")
        return
    best = best_wheel(host, names, asked)
    torch = result["environments"][0]["torch"]
    assert (torch and rules.numbers(torch)) == best, codes(result["problems"])
    assert codes(result["problems"]) == ([] if best else ["no_build"])


def rank(result: dict[str, Any]) -> tuple[bool, tuple[int, ...]]:
    """How good the torch of a plan is: a newer one is better.

    Except that a build whose list of code was read is better than one of a channel where nobody has:
    the contract has such a channel (conda-forge) stand back.
    """
    row = result["environments"][0]
    if row["torch"] is None:
        return False, ()
    channel = rules.CHANNELS.get(row["sources"][0]["kind"])
    read = row["cuda"] is None or channel is None or channel["capabilities"] == "wheels"
    return read, rules.numbers(row["torch"])


@given(gpu_lists, st.data(), machines, glibcs, environments, source_lists)
@examples(200)
def test_a_newer_driver_never_makes_torch_older(
    gpus: list[str], data: st.DataObject, machine: str, glibc: str, asked: dict[str, Any], names: list[str]
) -> None:
    host: dict[str, Any] = {"gpus": gpus, "machine": machine, "glibc": glibc}
    flavour = data.draw(st.sampled_from(["open", "proprietary"]))
    fitting = [version for version in DRIVERS if rules.driver_fits(version, flavour, devices(host))]
    assume(len(fitting) > 1)
    older, newer = sorted(
        data.draw(st.lists(st.sampled_from(fitting), min_size=2, max_size=2, unique=True)), key=rules.numbers
    )
    wanted = wish(names, {"state": "keep"}, **asked)
    before, after = (plan(truth(driver=f"{v} {flavour}", **host), wanted) for v in (older, newer))
    assert rank(after) >= rank(before), (older, newer)


@given(hosts, environments, driver_wishes, st.permutations(sorted(SOURCES)), st.integers(1, 6), st.randoms())
@examples(200)
def test_more_sources_never_make_torch_older(
    host: dict[str, Any],
    asked: dict[str, Any],
    driver: dict[str, Any],
    order: list[str],
    count: int,
    chance: random.Random,
) -> None:
    fewer = chance.sample(order, count)
    more = [name for name in order if name in fewer or chance.random() < 0.5]
    facts = truth(**host)
    before, after = (plan(facts, wish(names, driver, **asked)) for names in (fewer, more))
    assert rank(after) >= rank(before), (fewer, more)
    if not before["problems"]:
        assert not after["problems"], (fewer, more)


@given(hosts, environments, driver_wishes, source_lists, st.randoms())
@examples(120)
def test_the_order_of_the_gpus_does_not_matter(
    host: dict[str, Any],
    asked: dict[str, Any],
    driver: dict[str, Any],
    names: list[str],
    chance: random.Random,
) -> None:
    facts, wanted = truth(**host), wish(names, driver, **asked)
    other = copy.deepcopy(facts)
    chance.shuffle(other["gpus"])
    one, two = plan(facts, wanted), plan(other, wanted)
    for part in ("driver", "environments", "expect"):
        assert one[part] == two[part]
    for part in ("problems", "warnings", "reasons"):
        assert sorted(codes(one[part])) == sorted(codes(two[part]))


@given(hosts, st.lists(environments, min_size=2, max_size=4), source_lists, st.randoms())
@examples(120)
def test_the_order_of_the_environments_does_not_matter_to_a_driver_that_stays(
    host: dict[str, Any], asked: list[dict[str, Any]], names: list[str], chance: random.Random
) -> None:
    wanted = wish(names, {"state": "keep"})
    wanted["environments"] = [{"name": f"env{number}", **row} for number, row in enumerate(asked)]
    other = copy.deepcopy(wanted)
    chance.shuffle(other["environments"])
    facts = truth(**host)
    one, two = plan(facts, wanted), plan(facts, other)
    assert one["driver"] == two["driver"]
    assert {row["name"]: row for row in one["environments"]} == {
        row["name"]: row for row in two["environments"]
    }


@given(hosts, environments, driver_wishes, source_lists)
@examples(250)
def test_a_plan_that_was_carried_out_is_the_plan_of_the_next_run(
    host: dict[str, Any], asked: dict[str, Any], driver: dict[str, Any], names: list[str]
) -> None:
    wanted = wish(names, driver, **asked)
    first = plan(truth(**host), wanted)
    if first["problems"] or first["driver"]["action"] not in ("install", "upgrade", "keep"):
        return
    made = first["driver"]
    now = {**host, "driver": f"{made['version']} {made['flavour']}", "foreign": False}
    second = plan(truth(**now), wanted)
    assert second["problems"] == []
    assert second["driver"]["action"] == "keep"
    assert second["driver"]["version"] == made["version"]
    assert second["environments"] == first["environments"]


@given(hosts, environments, source_lists)
@examples(150)
def test_leave_to_upgrade_never_makes_torch_older(
    host: dict[str, Any], asked: dict[str, Any], names: list[str]
) -> None:
    facts = truth(**host)
    kept, free = (plan(facts, wish(names, {"upgrade": leave}, **asked)) for leave in (False, True))
    assert rank(free) >= rank(kept)
    (one,), (two,) = kept["environments"], free["environments"]
    if not kept["problems"] and one["torch"] == two["torch"]:
        gains = one["sources"][0]["name"] != two["sources"][0]["name"]  # an earlier source
        assert gains or free["driver"] == kept["driver"]


@given(hosts, environments, source_lists, st.booleans())
@examples(150)
def test_more_repositories_never_make_torch_older(
    host: dict[str, Any], asked: dict[str, Any], names: list[str], upgrade: bool
) -> None:
    facts = truth(**host)
    free = plan(facts, wish(names, {"upgrade": upgrade}, **asked))
    for repository in ("distribution", "nvidia"):
        bound = plan(facts, wish(names, {"upgrade": upgrade, "repository": repository}, **asked))
        assert rank(free) >= rank(bound)


PROGRAM = """
import sys, json
sys.path[:0] = sys.argv[1:]
from plan_hosts import plan, sample
for facts, wanted in sample():
    print(json.dumps(plan(facts, wanted)))
"""


def test_the_same_input_gives_the_same_bytes_in_every_process() -> None:
    here = Path(__file__).parent
    paths = [str(here), str(rules.ROOT / "collections")]
    answers = set()
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *paths],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        answers.add(done.stdout)
    assert len(answers) == 1
    (answer,) = answers
    assert answer.splitlines() == [json.dumps(plan(*case)) for case in sample()]
    assert answer.count('"problems": []') > 20  # not all of them were refused


# Whatever JSON can hold, and a Python that read it.
texts = st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=8)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.sampled_from(["auto", "10de", "2330", "580.95.05", "3.11", "2.15.0", "cu132", "cpu", "9" * 5000, "."]),
    st.integers(min_value=10**400, max_value=10**400 + 9),
)
garbage = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        found += itertools.chain.from_iterable(paths_of(item, (*path, key)) for key, item in value.items())
    elif isinstance(value, list):
        found += itertools.chain.from_iterable(paths_of(item, (*path, n)) for n, item in enumerate(value))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


def answers(facts: Any, wanted: Any) -> None:
    """A plan or a problem, never an exception, and always JSON."""
    result = plan(facts, wanted)
    well_formed(result)


@given(garbage, garbage)
@examples(200)
def test_garbage_is_answered(facts: Any, wanted: Any) -> None:
    answers(facts, wanted)


WHOLE = (
    truth(["H100", "V100"], "580.95.05 proprietary", nvswitches=4),
    wish(ALL, {"branch": "580", "upgrade": True}),
)
PLACES = [(number, path) for number in (0, 1) for path in paths_of(WHOLE[number])]


@given(st.lists(st.tuples(st.sampled_from(PLACES), garbage), min_size=1, max_size=3))
@examples(300)
def test_garbage_in_a_sound_truth_or_wish_is_answered(changes: list[tuple[tuple[int, Any], Any]]) -> None:
    both = list(copy.deepcopy(WHOLE))
    for (number, path), new in changes:
        if path in paths_of(both[number]):
            both[number] = put(both[number], path, new)
    answers(*both)


@pytest.mark.parametrize(
    "place", PLACES, ids=[".".join(map(str, (("truth", "wish")[n], *p))) for n, p in PLACES]
)
def test_nothing_in_place_of_any_part_is_answered(place: tuple[int, Any]) -> None:
    number, path = place
    for new in (None, "", [], {}, 0, "x", -1.5, [None], {"": None}, string.printable):
        both = list(WHOLE)
        both[number] = put(both[number], path, new)
        answers(*both)
