"""Decides what a host gets, and says why: (truth, wish) -> plan, as docs/contracts.md has them.

Pure: no network, no host, no clock but ``today``. Every number is in ``data/``.
"""

from __future__ import annotations

import datetime
import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import choice, drivers, sources, tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import truth as truths
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import wish as wishes
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.drivers import Notes
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.offers import Driver, lost, preference
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import builtin, note, plain
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.tables import CPU
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.truth import Host
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import EnvironmentWish, Wish

SCHEMA = 1
Json = dict[str, Any]
Found = tuple[int, choice.Candidate] | None


@dataclass(frozen=True)
class Outlook:
    """What a driver would bring: for each environment the build, or None where none fits."""

    driver: Driver
    builds: tuple[Found, ...]

    @property
    def torch(self) -> tuple[int | tuple[bool, int, int], ...]:
        """How good the builds are, by release and source; small is better."""
        missing = sum(item is None for item in self.builds)
        return (missing, *((item[1].care, item[1].age, item[1].place) for item in self.builds if item))

    @property
    def variants(self) -> tuple[int, ...]:
        """How good they are within their release and source: less than the driver matters."""
        return tuple(item[0] for item in self.builds if item)


def _query(host: Host, wish: Wish, environment: EnvironmentWish, driver: Driver) -> choice.Query:
    assert host.machine is not None
    models = host.models if driver.version and environment.variant != CPU else ()
    # A glibc that no build objects to is like any other such.
    glibc = host.glibc if host.glibc and host.glibc < tables.highest_glibc() else None
    return choice.Query(environment, wish.sources, host.machine, glibc, host.has_glibc, models)


def _outlook(host: Host, wish: Wish, environments: Sequence[EnvironmentWish], driver: Driver) -> Outlook:
    return Outlook(
        driver,
        tuple(choice.candidates(_query(host, wish, item, driver)).best(driver) for item in environments),
    )


def _choose(host: Host, wish: Wish, options: Sequence[Driver], today: datetime.date, notes: Notes) -> Outlook:
    """One driver must serve every environment; the first environment decides before the second."""
    ready = wish.environments if host.machine and wish.sources else ()
    outlooks = [_outlook(host, wish, ready, driver) for driver in options]
    if len(outlooks) > 1:
        outlooks.sort(key=lambda item: (item.torch, preference(item.driver, today), item.variants))
    best = outlooks[0]
    losers: dict[str, list[str]] = {}
    for item in outlooks[1:]:
        if item.torch == best.torch:
            text = lost(item.driver, best.driver, today)
        else:
            builds = zip(item.builds, best.builds, strict=True)
            mine, other = next((a, b) for a, b in builds if _name(a) != _name(b))
            text = f"it would allow {_name(mine)}, {best.driver.label} allows {_name(other)}"
        losers.setdefault(text, []).append(f"{item.driver.label} of {item.driver.repository or 'the host'}")
    for text, (first, *others) in losers.items():
        more = f" (likewise {', '.join(others)})" if others else ""
        notes.reason("driver_offer", f"driver {first}: {text}{more}")
    return best


def _name(found: Found) -> str:
    return f"torch {found[1].name}" if found else "no build of torch"


def _empty(environment: EnvironmentWish) -> Json:
    return {
        "name": environment.name,
        "python": environment.python,
        "torch": None,
        "variant": None,
        "cuda": None,
        "companions": [],
        "requirements": [],
        "sources": [],
    }


def _environment(
    host: Host, wish: Wish, environment: EnvironmentWish, driver: Driver, found: Found, notes: Notes
) -> Json:
    query = _query(host, wish, environment, driver)
    known = choice.candidates(query)
    label = f"{environment.name}: " if len(wish.environments) > 1 else ""
    upgrade = ""
    if driver.action == "keep" and not wish.driver.upgrade:
        upgrade = f": set {wish.driver.path('upgrade')} to true, or replace the driver by hand"
    if found is None:
        notes.problems.append(choice.no_build(known, driver, upgrade))
        return _empty(environment)
    chosen = found[1]
    build = chosen.build
    lines = choice.losers(known.before(chosen), query, driver, upgrade)
    notes.reasons += [note(row["code"], label + row["text"], row["remedy"]) for row in lines]
    fits = f"the GPU and the driver ({driver.holds})" if query.on_gpu and build.cuda else "the host"
    source = chosen.carriers[0].source
    notes.reason("build", f"{label}torch {chosen.name} from {source.name} is the newest that fits {fits}")
    _warn(chosen, query, label, notes)
    return {
        **_empty(environment),
        "torch": build.release.torch,
        "variant": build.variant,
        "cuda": build.cuda,
        "companions": [package for package in environment.packages if package != "torch"],
        "requirements": sources.requirements(build, chosen.carriers, environment.packages),
        "sources": sources.rows(build, chosen.carriers, wish.pypi_urls, environment.packages),
    }


def _warn(chosen: choice.Candidate, query: choice.Query, label: str, notes: Notes) -> None:
    build = chosen.build
    newest = tables.releases()[0].torch
    for model in query.models if build.cuda else ():
        last = choice.last_release(model, query.machine)
        if last == build.release.torch != newest:
            text = (
                f"torch {last} is the last release with code for {model.name} (capability {model.capability})"
            )
            if text not in (row["text"] for row in notes.warnings):
                notes.warn("last_release", text)
    if build.cuda and not query.on_gpu:
        notes.warn(
            "no_gpu_used",
            f"{label}{build.variant} is wished, but no GPU can be used: cuda_available is False",
            f"set {query.environment.path}.variant to cpu or auto",
        )
    if chosen.care and query.on_gpu:
        notes.warn(
            "unknown_capabilities",
            f"{label}nobody has read for which GPUs torch {chosen.name} carries code; nothing else fits",
            "add a source of wheels (a mirror of PyPI, or a wheel index)",
        )
    confidence = build.confidence.get(query.machine)
    if confidence != choice.HIGH:
        notes.warn(
            "low_confidence",
            f"{label}of {confidence} confidence: what torch {chosen.name} is ({build.source})",
        )


def _unknown_carried(wish: Wish, notes: Notes) -> None:
    known = {release.torch for release in tables.releases()}
    for item in wish.sources:
        for wheel in item.carries or ():
            if wheel.package == "torch" and wheel.version not in known:
                notes.warn(
                    "unknown_release",
                    f"source {item.name}: torch {wheel.version} is not in the tables and is left out",
                    "update the collection, or add the release to its data",
                )


def _driver_row(driver: Driver) -> Json:
    compat = driver.compat
    return {
        "action": driver.action,
        "replaces": dict(zip(("version", "flavour"), driver.replaces, strict=True))
        if driver.replaces
        else None,
        "branch": driver.branch,
        "version": driver.text,
        "flavour": driver.flavour,
        "repository": driver.repository,
        "modules": driver.modules,
        "packages": list(driver.packages),
        "stream": driver.stream,
        "sources_off": list(driver.sources_off),
        "forward_compat": {"package": compat.package, "cuda": compat.cuda} if compat else None,
    }


@lru_cache(maxsize=8192)
def _decided(host: Host, wish: Wish, today: datetime.date) -> bytes:
    """All of a plan that hosts of one kind with one wish share, as bytes that nobody can change."""
    notes = Notes()
    _unknown_carried(wish, notes)
    options = drivers.options(host, wish, notes)
    best = _choose(host, wish, options, today, notes) if options else Outlook(Driver(), ())
    driver = drivers.among_sources(best.driver, host, wish, notes)
    drivers.tell(host, wish, driver, today, notes)
    environments = []
    builds = iter(best.builds)
    for environment in wish.environments:
        # Without a decision on the driver only what needs no GPU can be told.
        if not (host.machine and wish.sources) or not (options or environment.variant == CPU):
            environments.append(_empty(environment))
            continue
        found = next(builds) if options else _outlook(host, wish, [environment], driver).builds[0]
        environments.append(_environment(host, wish, environment, driver, found, notes))
    available = bool(host.gpus and driver.version) and any(row["cuda"] for row in environments)
    capabilities = sorted({model.capability for model in host.gpus}, key=tables.capability)
    return marshal.dumps(
        {
            "driver": _driver_row(driver),
            "environments": environments,
            "expect": {
                "cuda_available": available,
                "device_count": len(host.gpus) if available else 0,
                "capabilities": capabilities if available else [],
            },
            "reasons": notes.reasons,
            "warnings": notes.warnings,
            "problems": notes.problems,
        },
        2,
    )


def plan(
    truth: Any,
    wish: Any,
    host: str | None = None,
    today: datetime.date | None = None,
    paths: Mapping[str, str] = wishes.PATHS,
) -> Json:
    """The plan of one host. Never raises: all that is wrong with the input is in ``problems``, at once."""
    facts, slots, problems = truths.read(builtin(truth))
    wanted, faults = wishes.read(wish, paths)
    rest = marshal.loads(_decided(facts, wanted, today or datetime.date.today()))
    seen = zip(slots, facts.gpus, strict=True)
    rest["problems"][:0] = [*problems, *faults]
    rest["warnings"][:0] = [
        note(
            "unlisted_gpu",
            f"10de:{model.device} in slot {slot} is not in the tables; by its block of ids it is "
            f"{model.architecture.name}, compute capability {model.capability}",
            "update the collection, or add the id to its data",
        )
        for slot, model in seen
        if not model.listed
    ]
    return {
        "schema": SCHEMA,
        "host": plain(host),
        "gpus": [
            {
                "slot": slot,
                "device": model.device,
                "name": model.name,
                "architecture": model.architecture.name,
                "capability": model.capability,
            }
            for slot, model in zip(slots, facts.gpus, strict=True)
        ],
        **rest,
    }
