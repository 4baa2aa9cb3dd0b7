"""Which drivers a host could have when torch is installed: the one that is there, and those on offer."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.choice import last_release
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.offers import NO_CHANGE, Driver, offered
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import Note, Problem, note, problem
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.truth import Host, Installed
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import AUTO, Wish
from packaging.version import Version

EOL_NOTICE = datetime.timedelta(days=180)
WITH_COMPAT = 1  # the change that a forward-compatibility package is
SOUND = (None, "ok", "absent", "not wanted")


@dataclass
class Notes:
    """What a plan tells besides its decisions."""

    reasons: list[Note] = field(default_factory=list)
    warnings: list[Note] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def reason(self, code: str, text: str, remedy: str | None = None) -> None:
        self.reasons.append(note(code, text, remedy))

    def warn(self, code: str, text: str, remedy: str | None = None) -> None:
        self.warnings.append(note(code, text, remedy))

    def problem(self, code: str, what: str, found: str, expected: str, fix: str) -> None:
        self.problems.append(problem(code, what, found, expected, fix))


@dataclass(frozen=True)
class Needs:
    """What all GPUs of a host ask of one driver together."""

    floor: str | None
    ceiling: int | None
    flavours: tuple[str, ...]
    text: str

    def complaint(self, version: Version, text: str, flavour: str | None) -> str | None:
        if self.floor and version < Version(self.floor):
            return f"driver {text} is too old for {self.text}: the oldest that fits is {self.floor}"
        if self.ceiling and version.major > self.ceiling:
            return f"driver {text} is too new for {self.text}: the last branch that fits is {self.ceiling}"
        if flavour and flavour not in self.flavours:
            return f"the {flavour} kernel modules of driver {text} cannot drive {self.text}"
        return None

    @property
    def remedy(self) -> str:
        bounds = [f">= {self.floor}"] if self.floor else []
        bounds += [f"of branch {self.ceiling} or older"] if self.ceiling else []
        words = ["a driver", " and ".join(bounds), "with", " or ".join(self.flavours), "kernel modules"]
        return " ".join(word for word in words if word)


def needs(host: Host) -> Needs | None:
    """None when no driver can serve all the GPUs."""
    architectures = [model.architecture for model in host.models]
    floor = max((item.first_driver for item in architectures if item.first_driver), key=Version, default=None)
    ceiling = min((item.last_branch for item in architectures if item.last_branch), default=None)
    flavours: tuple[str, ...] = ("open", "proprietary")
    for item in architectures:
        flavours = tuple(flavour for flavour in flavours if flavour in item.flavours)
    if not flavours or (floor and ceiling and Version(floor).major > ceiling):
        return None
    return Needs(
        floor, ceiling, flavours, ", ".join(f"{m.name} ({m.architecture.name})" for m in host.models)
    )


def options(host: Host, wish: Wish, notes: Notes) -> tuple[Driver, ...]:
    """The drivers to choose from; none when a problem stands in the way."""
    state, path = wish.driver.state, wish.driver.path
    if state == "none":
        notes.reason("driver_none", f"{path('state')} is none: no driver, and so no GPU, is used")
        return (Driver(),)
    if host.unreadable and not _readable(host, wish, notes):
        return ()
    if state == "absent":
        return _without(host, wish, notes)
    if not host.all_known:
        return ()
    wanted = needs(host)
    if wanted is None:
        return (Driver(),) if _can_do_without(host, wish, notes) else _mixed(host, notes)
    if host.driver:
        return _with_driver(host, host.driver, wish, wanted, notes)
    if host.virtualization == "wsl2":
        # Its GPUs are not on the PCI bus.
        notes.reason("wsl2", "WSL2: the driver belongs to Windows, none is installed here")
        if not all(environment.variant == tables.CPU for environment in wish.environments):
            notes.warn(
                "wsl2",
                "WSL2 shows neither its GPU nor Windows' driver: torch is planned for the CPU",
                "name both in a truth written by hand (docs/contracts.md), and torch is planned for them",
            )
        return (Driver(),)
    if not host.gpus and state != "present":
        notes.reason("no_gpu", "no NVIDIA GPU: no driver, and the CPU build of torch")
        return (Driver(),)
    if host.virtualization == "container" and not wish.driver.allow_in_container:
        return _in_container(host, wish, notes)
    if state == "keep":
        return _nothing_to_keep(host, wish, notes)
    return _fresh(host, wish, wanted, notes)


def _readable(host: Host, wish: Wish, notes: Notes) -> bool:
    text = f"the version of the driver at {host.unreadable} cannot be read"
    if host.driver:
        notes.warn("unreadable_driver", f"{text}: {host.driver.text} is taken from another witness")
        return True
    notes.problem(
        "unreadable_driver",
        "the driver of the host",
        text,
        "a version such as those of driver branches: " + ", ".join(list(tables.branches())[-3:]),
        "look at it with modinfo on the host; reinstall or remove the driver, or set "
        f"{wish.driver.path('state')} to none",
    )
    return False


def _can_do_without(host: Host, wish: Wish, notes: Notes) -> bool:
    """Where no driver serves the GPUs and torch shall not use them, nobody misses it."""
    cpu = wish.environments and all(item.variant == tables.CPU for item in wish.environments)
    if not cpu or wish.driver.state != AUTO or host.driver:
        return False
    names = ", ".join(model.name for model in host.models)
    notes.warn(
        "driver_none", f"no driver serves {names}; the environments are for the CPU: none is installed"
    )
    return True


def _mixed(host: Host, notes: Notes) -> tuple[Driver, ...]:
    found = []
    for model in host.models:
        arch = model.architecture
        asks = [" or ".join(arch.flavours) + " modules"]
        asks += [f"driver >= {arch.first_driver}"] if arch.first_driver else []
        asks += [f"branch <= {arch.last_branch}"] if arch.last_branch else []
        found.append(f"{model.name} ({arch.name}: {', '.join(asks)})")
    names = {model.architecture.name: None for model in host.models}
    spare = [
        name
        for name in names
        if needs(replace(host, gpus=tuple(gpu for gpu in host.gpus if gpu.architecture.name != name)))
    ]
    notes.problem(
        "mixed_gpus",
        "the GPUs of the host",
        " beside ".join(found),
        "GPUs that one driver can serve together",
        f"move the GPUs of {' or those of '.join(spare)} to another host: one driver serves the rest"
        if spare
        else "move the older or the newer GPUs to another host",
    )
    return ()


def _belongs_elsewhere(host: Host, wish: Wish) -> bool:
    """The driver is not the host's own to change."""
    container = host.virtualization == "container" and not wish.driver.allow_in_container
    return container or host.virtualization == "wsl2"


def _without(host: Host, wish: Wish, notes: Notes) -> tuple[Driver, ...]:
    has = host.driver
    if has is None or _belongs_elsewhere(host, wish):
        notes.reason(
            "driver_none", f"{wish.driver.path('state')} is absent, and no driver of the host's own is there"
        )
        return (Driver(),)
    if has.foreign and not wish.driver.adopt:
        _foreign(has, wish, "is to be removed", notes)
        return ()
    notes.reason("driver_removed", f"{wish.driver.path('state')} is absent: driver {has.text} is removed")
    return (Driver("remove", replaces=(has.text, has.flavour)),)


def _foreign(has: Installed, wish: Wish, why: str, notes: Notes) -> None:
    notes.problem(
        "foreign_driver",
        "the driver of the host",
        f"driver {has.text} {why}, but no package manager put it there",
        f"a driver of a package, or {wish.driver.path('adopt')}: true",
        f"set {wish.driver.path('adopt')} to true to let it be taken over, or run its own uninstaller",
    )


def _with_driver(host: Host, has: Installed, wish: Wish, wanted: Needs, notes: Notes) -> tuple[Driver, ...]:
    mine, path = wish.driver, wish.driver.path
    complaint = wanted.complaint(has.version, has.text, has.flavour) if host.gpus else None
    pins = (
        ("branch", mine.branch, has.branch),
        ("version", mine.version, has.text),
        ("flavour", mine.flavour, has.flavour),
    )
    differs = [
        (key, asked, there) for key, asked, there in pins if asked != AUTO and there not in (None, asked)
    ]
    may_go = mine.upgrade and mine.state != "keep" and not _belongs_elsewhere(host, wish)
    foreign = has.foreign and not mine.adopt
    if not complaint and not differs:
        kept = Driver("keep", has.branch, has.version, has.text, has.flavour, change=NO_CHANGE)
        found = _with_compat([kept], host, wish, notes)
        if may_go and foreign:
            notes.reason(
                "foreign_driver",
                f"driver {has.text} was not put there by the package manager: it is kept",
                f"set {path('adopt')} to true to let it be replaced",
            )
        elif may_go:
            found += _with_compat(_offers(host, wish, wanted)[0], host, wish, Notes())
        return tuple(found)
    why = complaint or " and ".join(
        f"{there} is not the {asked} of {path(key)}" for key, asked, there in differs
    )
    if may_go and not foreign:
        found, losers = _offers(host, wish, wanted)
        notes.reason("driver_replaced", f"the driver {has.text} cannot stay: {why}")
        if not found:
            _nothing_offered(host, wish, wanted, losers, notes)
        return tuple(_with_compat(found, host, wish, notes))
    if may_go:
        _foreign(has, wish, f"cannot stay ({why})", notes)
    elif complaint:
        notes.problem(
            "driver_unfit",
            "the driver of the host",
            complaint,
            wanted.remedy,
            f"set {path('upgrade')} to true to let it be replaced (with {path('state')} auto or present), or "
            "replace it by hand",
        )
    for key, asked, there in differs if not (may_go or complaint) else ():
        notes.problem(
            "driver_differs",
            path(key),
            f"{there} (driver {has.text}) on the host",
            f"{asked}, as wished",
            f"set {path('upgrade')} to true to let the driver be replaced, or {path(key)} to auto to keep "
            "what is there",
        )
    return ()


def _offers(host: Host, wish: Wish, wanted: Needs) -> tuple[list[Driver], list[Note]]:
    return offered(host, wish.driver, wanted.complaint, wanted.flavours)


def _with_compat(found: list[Driver], host: Host, wish: Wish, notes: Notes) -> list[Driver]:
    """Each driver also with a forward-compatibility package, where one is allowed and fits."""
    if not wish.driver.forward_compat or not host.gpus:
        return found
    others = [model.name for model in host.models if not model.data_centre]
    if others:
        notes.reason(
            "forward_compat",
            f"forward compatibility is for data-centre GPUs only, not for {', '.join(others)}",
        )
        return found
    more = []
    for driver in found:
        compat = tables.forward_compat(driver.branch or "")
        if compat and driver.version and driver.version < compat.as_driver:
            more.append(replace(driver, compat=compat, change=max(driver.change, WITH_COMPAT)))
    return found + more


def _fresh(host: Host, wish: Wish, wanted: Needs, notes: Notes) -> tuple[Driver, ...]:
    found, losers = _offers(host, wish, wanted)
    if found:
        notes.reasons += losers
        return tuple(_with_compat(found, host, wish, notes))
    if _can_do_without(host, wish, notes):
        return (Driver(),)
    _nothing_offered(host, wish, wanted, losers, notes)
    return ()


def _nothing_offered(host: Host, wish: Wish, wanted: Needs, losers: Sequence[Note], notes: Notes) -> None:
    if host.system is None or host.machine is None:
        return  # told with the truth
    path, asked = wish.driver.path, wish.driver.repository
    known = [*(["local"] if wish.driver.local else []), *host.system.repositories]
    if asked not in (AUTO, *known):
        if asked != "local":  # that is told with the wish
            notes.problem(
                "no_repository",
                path("repository"),
                asked,
                f"one that the tables know for {host.system.name}: " + ", ".join(known),
                "set it to auto; or install the driver by hand: one that is there is kept",
            )
        return
    pinned = [
        key
        for key in ("branch", "version", "flavour", "modules", "repository")
        if getattr(wish.driver, key) != AUTO
    ]
    fixes = [f"set {' and '.join(path(key) for key in pinned)} to auto"] if pinned else []
    orphans = [model.name for model in host.models if last_release(model, host.machine) is None]
    if not orphans:
        fixes.append(f"install {wanted.remedy} by hand: a driver that is there is kept")
    fixes.append(
        f"set {path('state')} to none, or the variant of each environment to cpu, to go without the GPU"
        + (f": no release of torch has code for {', '.join(orphans)}, whatever the driver" if orphans else "")
    )
    notes.problem(
        "no_driver_offered",
        f"the driver for {wanted.text or 'a host without a GPU'}",
        f"{host.system.name}: none that fits is on offer: " + "; ".join(row["text"] for row in losers),
        wanted.remedy,
        "; or ".join(fixes),
    )


def _in_container(host: Host, wish: Wish, notes: Notes) -> tuple[Driver, ...]:
    if wish.driver.state == "present":
        notes.problem(
            "driver_in_container",
            wish.driver.path("state"),
            "present, but the host is a container",
            "a driver on the machine that runs the container",
            f"set {wish.driver.path('state')} to auto, or {wish.driver.path('allow_in_container')} to true",
        )
        return ()
    notes.reason(
        "container", "a container: the driver belongs to the machine that runs it, none is installed here"
    )
    if host.gpus:
        notes.warn(
            "container_without_driver",
            "GPUs are visible in the container, but no driver: torch cannot use them",
            "install the driver on the machine that runs it, and the NVIDIA container toolkit",
        )
    return (Driver(),)


def _nothing_to_keep(host: Host, wish: Wish, notes: Notes) -> tuple[Driver, ...]:
    state = wish.driver.path("state")
    if all(environment.variant == tables.CPU for environment in wish.environments):
        notes.reason("driver_none", f"{state} is keep, and no driver is there: the GPU is not used")
        return (Driver(),)
    notes.problem(
        "no_driver",
        state,
        f"keep, but the host has no driver for {host.gpus[0].name}",
        "a driver on the host, or leave to install one",
        f"set {state} to auto; or the variant of each environment to cpu",
    )
    return ()


def among_sources(driver: Driver, host: Host, wish: Wish, notes: Notes) -> Driver:
    """The driver, and what becomes of others' repositories that could bring another one."""
    if driver.action in ("none", "remove") or wish.driver.state == "keep" or not host.sources:
        return driver
    names = ", ".join(f"{url} ({path})" for path, url in host.sources)
    if not wish.driver.adopt:
        notes.warn(
            "other_sources",
            f"other repositories can bring a driver to this host: {names}",
            f"set {wish.driver.path('adopt')} to true to have them switched off, or remove them",
        )
        return driver
    notes.reason("other_sources", f"other repositories that can bring a driver are switched off: {names}")
    return replace(driver, sources_off=tuple(dict.fromkeys(path for path, _url in host.sources)))


def tell(host: Host, wish: Wish, driver: Driver, today: datetime.date, notes: Notes) -> None:
    """What there is to say of the driver that was chosen."""
    if driver.action == "keep":
        _tell_kept(host, driver, notes)
    elif driver.offer and host.system:
        word = f"replaces {driver.replaces[0]}" if driver.replaces else "no driver is there"
        notes.reason(
            f"driver_{driver.action}",
            f"{word}: {driver.text} ({driver.flavour} modules, {driver.modules}) comes from the repository "
            f"{driver.repository} for {host.system.name}",
        )
        named = driver.offer.layout.confidence[str(driver.flavour)]
        if (sure := tables.weakest(driver.offer.confidence, named)) != tables.CONFIDENCE[0]:
            notes.warn(
                "low_confidence",
                f"of {sure} confidence: the repository {driver.repository} carries driver {driver.text} "
                f"for {host.system.name}, by these names of its packages",
            )
        if host.secure_boot and driver.modules == "dkms" and not host.key_enrolled:
            notes.warn(
                "secure_boot",
                "Secure Boot is on: the module loads only once its signing key is enrolled (mokutil)",
            )
    if driver.compat:
        notes.reason(
            "forward_compat",
            f"{driver.compat.package} lets driver {driver.text} run CUDA {driver.compat.cuda} on these GPUs",
        )
        if driver.compat.confidence != "high":
            notes.warn(
                "low_confidence",
                f"of {driver.compat.confidence} confidence: {driver.compat.package} works with branch "
                f"{driver.branch}",
            )
    if driver.branch:
        _end_of_life(driver.branch, today, notes)
    code = re.sub(r"[^a-z]+", "_", (host.verdict or "").lower()).strip("_")
    stays = driver.action == "keep" or (driver.action == "install" and not driver.replaces)
    if stays and host.verdict not in SOUND and code not in _codes(notes.warnings):
        notes.warn(code, f"driver: {host.verdict}" + (f": {host.reason}" if host.reason else ""))


def _codes(rows: Iterable[Note]) -> set[str]:
    return {row["code"] for row in rows}


def _tell_kept(host: Host, driver: Driver, notes: Notes) -> None:
    has = host.driver
    assert has is not None
    notes.reason("driver_kept", f"the host keeps the driver {driver.text} that it has")
    if host.loaded and has.module and host.loaded != has.text:
        notes.warn(
            "reboot_pending",
            f"driver {host.loaded} is loaded; the plan is for {has.text}, which comes with the next boot",
            "reboot the host",
        )
    if not has.module:
        notes.warn(
            "no_module",
            f"driver {has.text} is installed as a package, but no kernel module of it is there",
            "let DKMS build it (dkms autoinstall), with the headers of the kernel",
        )


def _end_of_life(branch: str, today: datetime.date, notes: Notes) -> None:
    row = tables.branches().get(branch)
    if not row:
        notes.warn(
            "unknown_branch",
            f"driver branch {branch} is not in the tables: it is taken to serve what its neighbours do",
            "update the collection, or add the branch to its data",
        )
    end = row.end if row else None
    if not row or end is None:
        return
    if end < today:
        notes.warn("end_of_life", f"driver branch {branch} is past its end of life ({row.eol})")
    elif end - today <= EOL_NOTICE:
        notes.warn("end_of_life_near", f"driver branch {branch} reaches its end of life in {row.eol}")
