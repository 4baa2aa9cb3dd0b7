"""Which driver a host keeps or gets: the first half of a plan."""

from __future__ import annotations

import calendar
import datetime
from dataclasses import dataclass

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import Problem, problem
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.truth import Host
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import AUTO, Wish
from packaging.version import Version

EOL_NOTICE = datetime.timedelta(days=180)


@dataclass
class Notes:
    """What a plan tells besides its decisions."""

    reasons: list[str]
    warnings: list[str]
    problems: list[Problem]


@dataclass(frozen=True)
class Driver:
    action: str = "none"
    branch: str | None = None
    version: Version | None = None
    text: str | None = None
    flavour: str | None = None
    repository: str | None = None
    packages: tuple[str, ...] = ()
    undecided: bool = False  # a problem stands in the way: nothing can be built on this

    @property
    def holds(self) -> str:
        return f"the host {'gets' if self.action == 'install' else 'has'} {self.text}"


UNDECIDED = Driver(undecided=True)


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
        return f"a driver {' and '.join(bounds)} with {' or '.join(self.flavours)} kernel modules".replace(
            "  ", " "
        )


def needs(host: Host) -> Needs | None:
    """None when no driver can serve all the GPUs."""
    models = {gpu.model.device: gpu.model for gpu in host.gpus}.values()
    architectures = [model.architecture for model in models]
    floor = max((item.first_driver for item in architectures if item.first_driver), key=Version, default=None)
    ceiling = min((item.last_branch for item in architectures if item.last_branch), default=None)
    flavours: tuple[str, ...] = ("open", "proprietary")
    for item in architectures:
        flavours = tuple(flavour for flavour in flavours if flavour in item.flavours)
    if not flavours or (floor and ceiling and Version(floor).major > ceiling):
        return None
    return Needs(floor, ceiling, flavours, ", ".join(f"{m.name} ({m.architecture.name})" for m in models))


def _mixed(host: Host, notes: Notes) -> None:
    found = []
    for model in {gpu.model.device: gpu.model for gpu in host.gpus}.values():
        arch = model.architecture
        asks = [" or ".join(arch.flavours) + " modules"]
        asks += [f"driver >= {arch.first_driver}"] if arch.first_driver else []
        asks += [f"branch <= {arch.last_branch}"] if arch.last_branch else []
        found.append(f"{model.name} ({arch.name}: {', '.join(asks)})")
    notes.problems.append(
        problem(
            "mixed_gpus",
            "the GPUs of the host",
            " beside ".join(found),
            "GPUs that one driver can serve together",
            "move the older or the newer GPUs to another host",
        )
    )


def _end_of_life(branch: str, today: datetime.date, notes: Notes) -> None:
    month = tables.branches().get(branch)
    if not month:
        return
    year, number = (int(part) for part in month.split("-"))
    end = datetime.date(year, number, calendar.monthrange(year, number)[1])
    if end < today:
        notes.warnings.append(f"driver branch {branch} is past its end of life ({month})")
    elif end - today <= EOL_NOTICE:
        notes.warnings.append(f"driver branch {branch} reaches its end of life in {month}")


def _keep(host: Host, wish: Wish, wanted: Needs, notes: Notes) -> Driver:
    has = host.driver
    assert has is not None
    if host.loaded and has.module and host.loaded != has.text:
        notes.warnings.append(
            f"driver {host.loaded} is loaded; the plan is for {has.text}, which comes with the next boot"
        )
    if not has.module:
        notes.warnings.append(
            f"driver {has.text} is installed as a package, but no kernel module of it is there"
        )
    complaint = wanted.complaint(has.version, has.text, has.flavour) if host.gpus else None
    if complaint:
        notes.problems.append(
            problem(
                "driver_unfit",
                "the driver of the host",
                complaint,
                wanted.remedy,
                "remove the driver, and install one that fits by hand or let the next run do it",
            )
        )
        return UNDECIDED
    for what, asked, there in (
        (wish.driver.path("branch"), wish.driver.branch, has.branch),
        (wish.driver.path("flavour"), wish.driver.flavour, has.flavour),
    ):
        if asked != AUTO and there and asked != there:
            notes.problems.append(
                problem(
                    "driver_differs",
                    what,
                    f"{there} (driver {has.text}) on the host",
                    f"{asked}, as wished",
                    f"set {what} to auto to keep what is there, or remove the driver and run again",
                )
            )
            return UNDECIDED
    notes.reasons.append(f"the host keeps the driver {has.text} that it has")
    return Driver("keep", has.branch, has.version, has.text, has.flavour)


def _install(host: Host, wish: Wish, wanted: Needs, notes: Notes) -> Driver:
    system = host.system
    if system is None or host.machine is None:
        return UNDECIDED
    asked = wish.driver.repository
    names = list(system.repositories) if asked == AUTO else [asked]
    if asked not in (AUTO, *system.repositories):
        notes.problems.append(
            problem(
                "no_repository",
                wish.driver.path("repository"),
                asked,
                f"one that the tables know for {system.name}: " + ", ".join(system.repositories),
                "set it to auto; or install the driver by hand: one that is there is kept",
            )
        )
        return UNDECIDED
    offers = [(name, offer) for name in names for offer in system.repositories[name]]
    losers = []
    for name, offer in sorted(offers, key=lambda pair: pair[1].version, reverse=True):
        flavours = [
            flavour
            for flavour in tables.shipped_flavours(offer.version.major)
            if flavour in offer.packages and wish.driver.flavour in (AUTO, flavour)
        ]
        fitting = [flavour for flavour in flavours if flavour in wanted.flavours]
        complaint = wanted.complaint(offer.version, offer.text, None)
        if wish.driver.branch not in (AUTO, offer.branch):
            pin = wish.driver.path("branch")
            losers.append(f"branch {offer.branch} is not the {wish.driver.branch} of {pin}")
        elif host.machine not in offer.machines:
            losers.append(f"driver {offer.text} is not built for {host.machine}")
        elif complaint or not fitting:
            kinds = " or ".join(flavours) or wish.driver.flavour
            losers.append(complaint or f"driver {offer.text} has no fitting modules ({kinds}) there")
        else:
            notes.reasons.extend(losers)
            notes.reasons.append(
                f"no driver is there: {offer.text} ({fitting[0]} modules) comes from the {name}'s archive "
                f"of {system.name}"
            )
            if host.secure_boot:
                notes.warnings.append(
                    "Secure Boot is on: the module loads only once its signing key is enrolled (mokutil)"
                )
            return Driver(
                "install",
                offer.branch,
                offer.version,
                offer.text,
                fitting[0],
                name,
                offer.packages[fitting[0]],
            )
    fixes = [
        f"install {wanted.remedy} by hand, for instance from NVIDIA's own repository: "
        "a driver that is there is kept"
    ]
    if wish.driver.branch != AUTO or wish.driver.flavour != AUTO:
        fixes.insert(0, f"set {wish.driver.path('branch')} and {wish.driver.path('flavour')} to auto")
    fixes.append(
        f"or set {wish.driver.path('state')} to none, or the variant of each environment to cpu, "
        "to go without the GPU"
    )
    notes.problems.append(
        problem(
            "no_driver_offered",
            f"the driver for {wanted.text or 'a host without a GPU'}",
            f"{system.name} offers none that fits: " + "; ".join(losers),
            wanted.remedy,
            "; ".join(fixes),
        )
    )
    return UNDECIDED


def decide(host: Host, wish: Wish, today: datetime.date, notes: Notes) -> Driver:
    """The driver that the host will have when torch is installed."""
    state = wish.driver.state
    if state == "none":
        notes.reasons.append(f"{wish.driver.path('state')} is none: no driver, and so no GPU, is used")
        return Driver()
    if not host.all_known:
        return UNDECIDED
    wanted = needs(host)
    if wanted is None:
        _mixed(host, notes)
        return UNDECIDED
    if host.driver:
        driver = _keep(host, wish, wanted, notes)
    elif not host.gpus and state != "present":
        notes.reasons.append("no NVIDIA GPU: no driver, and the CPU build of torch")
        return Driver()
    elif host.virtualization == "wsl2":
        notes.reasons.append("WSL2: the driver belongs to Windows, none is installed here")
        return Driver()
    elif host.virtualization == "container" and not wish.driver.allow_in_container:
        return _in_container(wish, notes)
    elif state == "keep":
        return _nothing_to_keep(host, wish, notes)
    else:
        driver = _install(host, wish, wanted, notes)
    if driver.branch:
        _end_of_life(driver.branch, today, notes)
    if host.verdict not in (None, "ok", "absent", "not wanted"):
        notes.warnings.append(f"driver: {host.verdict}" + (f": {host.reason}" if host.reason else ""))
    return driver


def _in_container(wish: Wish, notes: Notes) -> Driver:
    if wish.driver.state == "present":
        notes.problems.append(
            problem(
                "driver_in_container",
                wish.driver.path("state"),
                "present, but the host is a container",
                "a driver on the machine that runs the container",
                f"set {wish.driver.path('state')} to auto, or set "
                f"{wish.driver.path('allow_in_container')} to true",
            )
        )
        return UNDECIDED
    notes.reasons.append(
        "a container: the driver belongs to the machine that runs it, none is installed here"
    )
    notes.warnings.append("GPUs are visible in the container, but no driver: torch cannot use them")
    return Driver()


def _nothing_to_keep(host: Host, wish: Wish, notes: Notes) -> Driver:
    if all(environment.variant == tables.CPU for environment in wish.environments):
        notes.reasons.append(
            f"{wish.driver.path('state')} is keep, and no driver is there: the GPU is not used"
        )
        return Driver()
    notes.problems.append(
        problem(
            "no_driver",
            wish.driver.path("state"),
            f"keep, but the host has no driver for {host.gpus[0].model.name}",
            "a driver on the host, or leave to install one",
            f"set {wish.driver.path('state')} to auto; or the variant of each environment to cpu",
        )
    )
    return UNDECIDED
