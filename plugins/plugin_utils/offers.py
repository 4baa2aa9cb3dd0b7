"""The drivers that repositories offer to a host, and in which order they are preferred."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import Note, note
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.tables import Compat, Offer
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.truth import Host
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import AUTO, LOCAL, REPOSITORIES, DriverWish
from packaging.version import Version

# How much of a host a driver changes.
NO_CHANGE, SAME_REPOSITORY, OTHER_REPOSITORY = 0, 2, 3
# NVIDIA's kinds of branches, the preferred first: long-term and production; the unknown; new-feature.
KINDS = {"LTSB": 0, "PB": 0, "NFB": 2}
UNKNOWN_KIND = 1
UNKNOWN = "of no known kind"

Complaint = Callable[[Version, str, str | None], str | None]


@dataclass(frozen=True)
class Driver:
    """A driver that a host may have; without a version: none."""

    action: str = "none"
    branch: str | None = None
    version: Version | None = None
    text: str | None = None
    flavour: str | None = None
    repository: str | None = None
    modules: str | None = None
    packages: tuple[str, ...] = ()
    stream: str | None = None
    replaces: tuple[str, str | None] | None = None  # version and flavour
    compat: Compat | None = None
    offer: Offer | None = None
    sources_off: tuple[str, ...] = ()  # files of others' repositories
    change: int = NO_CHANGE

    @property
    def stands_for(self) -> Version | None:
        """The driver that CUDA sees."""
        return self.compat.as_driver if self.compat else self.version

    @property
    def label(self) -> str:
        return f"{self.text} with {self.compat.package}" if self.compat else str(self.text)

    @property
    def holds(self) -> str:
        return f"the host {'keeps' if self.action == 'keep' else 'gets'} {self.label}"


def offered(
    host: Host, wish: DriverWish, complaint: Complaint, flavours: Sequence[str]
) -> tuple[list[Driver], list[Note]]:
    """The offers that fit the GPUs and the pins of the wish, and why the others do not."""
    found: list[Driver] = []
    losers: dict[str, list[tuple[str, str]]] = {}  # by what is said of them: which, and all of the text
    if host.system is None or host.machine is None:
        return found, []
    here = _repository_of(host)
    for row in wish.local:
        if row.layout not in host.system.layouts:
            text = (
                f"driver {row.version} of {LOCAL}: no {row.layout} packages are known for {host.system.name}"
            )
            losers[text] = [(row.version, text)]
    others = []
    for offer in _all(host.system, wish):
        if wish.branch not in (AUTO, offer.branch):
            others.append(offer.branch)
            continue
        flavour, lost = _flavour(offer, host, wish, complaint, flavours)
        if flavour is None:
            losers.setdefault(lost.removeprefix(f"driver {offer.text} "), []).append((offer.text, lost))
            continue
        modules = _modules(offer, flavour, host, wish)
        if modules is None:
            text = f"driver {offer.text} of {offer.repository} has no {wish.modules} {flavour} modules here"
            losers.setdefault(text, []).append((offer.text, text))
            continue
        driver = _driver(offer, flavour, modules, host, here)
        if driver.replaces is None or driver.replaces != (driver.text, flavour):
            found.append(driver)
    if others and not found and not losers:
        there = ", ".join(sorted(set(others), key=int))
        text = f"no repository has the branch {wish.branch} of {wish.path('branch')}; there are {there}"
        losers[text] = [("", text)]
    return found, [_told(rows) for rows in losers.values()]


def _told(rows: Sequence[tuple[str, str]]) -> Note:
    (first, text), *others = rows
    more = ", ".join(dict.fromkeys(name for name, _text in others if name != first))
    return note("driver_offer", text + (f" (likewise {more})" if more else ""))


def _all(system: tables.System, wish: DriverWish) -> Iterator[Offer]:
    for row in wish.local if wish.repository in (AUTO, LOCAL) else ():
        branch = row.version.split(".")[0]
        if row.layout in system.layouts:
            yield Offer(
                LOCAL, branch, Version(row.version), row.version, tuple(tables.releases()[0].python),
                tables.layout(system.layouts[row.layout], int(branch)), "high", "",
            )  # fmt: skip
    asked = {name: offers for name, offers in system.repositories.items() if wish.repository in (AUTO, name)}
    keepers = tables.keeps_older()
    kept = {offer.branch for name in asked if name in keepers for offer in asked[name]}
    for name, offers in asked.items():
        for offer in offers:
            if offer.moves_to and wish.branch != offer.branch and wish.version != offer.text:
                continue  # nobody asked for what the archive itself replaces
            if wish.version.split(".")[0] == offer.branch and (
                name in keepers
                # An archive may be ahead of the tables; NVIDIA's is surer, where it has the branch.
                or (offer.branch not in kept and Version(wish.version) > offer.version)
            ):
                yield replace(offer, version=Version(wish.version), text=wish.version, confidence="medium")
            else:
                yield offer


def _flavour(
    offer: Offer, host: Host, wish: DriverWish, complaint: Complaint, flavours: Sequence[str]
) -> tuple[str | None, str]:
    """The kernel modules to take, or why the offer is out."""
    where = f"driver {offer.text} of {offer.repository}"
    if offer.moves_to:
        return None, (
            f"branch {offer.branch} of the {offer.repository}: the archive moves it to {offer.moves_to}"
        )
    if wish.version not in (AUTO, offer.text):
        return None, f"{where} is not the {wish.version} of {wish.path('version')}"
    if host.machine not in offer.machines:
        assert host.system is not None
        return None, (
            f"branch {offer.branch} is not in the repository {offer.repository} for {host.system.name}, "
            f"{host.machine}"
        )
    if text := complaint(offer.version, offer.text, None):
        return None, text
    if offer.repository in wish.silent:
        return None, f"{where}: the repository does not answer"
    shipped = [
        flavour for flavour in tables.shipped_flavours(offer.version.major) if flavour in offer.packages
    ]
    asked = [flavour for flavour in shipped if wish.flavour in (AUTO, flavour)]
    fitting = [flavour for flavour in asked if flavour in flavours]
    if not fitting:
        kinds = " or ".join(asked) or f"none that are {wish.flavour}"
        return None, f"{where} has no fitting kernel modules ({kinds})"
    if host.nvswitches and not offer.layout.fabric_manager:
        return None, f"{where} comes without Fabric Manager, which the NVSwitches of the host need"
    return fitting[0], ""


def _modules(offer: Offer, flavour: str, host: Host, wish: DriverWish) -> str | None:
    ready = flavour in offer.layout.packages.get("prebuilt", {}) and host.kernels
    if wish.modules == AUTO:
        # Signed by the distribution: Secure Boot takes them as they are.
        return "prebuilt" if host.secure_boot and ready else "dkms"
    return wish.modules if wish.modules == "dkms" or ready else None


def _names(texts: Sequence[str], branch: str, kernels: Sequence[str]) -> Iterator[str]:
    for text in texts:
        if "{kernel}" in text:
            yield from (text.format(branch=branch, kernel=kernel) for kernel in kernels)
        else:
            yield text.format(branch=branch)


def _driver(offer: Offer, flavour: str, modules: str, host: Host, here: str | None) -> Driver:
    has = host.driver
    names = list(offer.layout.packages[modules][flavour])
    if host.nvswitches:
        names += offer.layout.fabric_manager
    stream = offer.layout.stream.get(flavour)
    return Driver(
        action="upgrade" if has and offer.version > has.version else "install",
        branch=offer.branch,
        version=offer.version,
        text=offer.text,
        flavour=flavour,
        repository=offer.repository,
        modules=modules,
        packages=tuple(_names(names, offer.branch, host.kernels)),
        stream=stream.format(branch=offer.branch) if stream else None,
        replaces=(has.text, has.flavour) if has else None,
        offer=offer,
        change=OTHER_REPOSITORY if has and offer.repository != here else SAME_REPOSITORY,
    )


def _repository_of(host: Host) -> str | None:
    """Where the driver that is there came from, as far as its package's name tells."""
    if host.driver is None or not host.driver.package or host.system is None:
        return None
    found = {
        name
        for name, offers in host.system.repositories.items()
        for offer in offers
        for kind in offer.layout.packages.values()
        for names in kind.values()
        if host.driver.package in _names(names, host.driver.branch, host.kernels)
    }
    return found.pop() if len(found) == 1 else None


def preference(driver: Driver, today: datetime.date) -> tuple[int, ...]:
    """Among drivers that serve as well; small is better. ``lost`` says in words which part decided."""
    row = tables.branches().get(driver.branch or "") or tables.Branch(None, None)
    repository = REPOSITORIES.index(driver.repository) if driver.repository in REPOSITORIES else 0
    return (
        driver.change,
        int(driver.compat is not None),
        int(row.end is not None and row.end < today),
        KINDS.get(row.kind or "", UNKNOWN_KIND),
        -row.end.toordinal() if row.end else 0,
        repository,
        *(-int(part) for part in (driver.text or "").split(".") if part),
    )


def lost(loser: Driver, winner: Driver, today: datetime.date) -> str:
    """Why the preference is for the winner."""
    mine, other = preference(loser, today), preference(winner, today)
    part = next((number for number, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), len(mine))
    rows = tables.branches()
    row = rows.get(loser.branch or "") or tables.Branch(None, None)
    best = rows.get(winner.branch or "") or tables.Branch(None, None)
    return (
        "it would change more of the host, for the same torch",
        "it would need a forward-compatibility package",
        f"its branch is past its end of life ({row.eol})",
        f"its branch is {row.kind or UNKNOWN}, {winner.branch} is {best.kind or UNKNOWN}",
        f"its branch ends {row.eol or 'at an unknown date'}, {winner.branch} in {best.eol}",
        f"{winner.repository} is preferred to {loser.repository}",
        "it is older",
    )[min(part, 6)]
