"""What must hold in the planner's tables (plugins/plugin_utils/data): each fault is one line."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

MACHINES = {"x86_64", "aarch64"}
FLAVOURS = {"open", "proprietary"}
CONFIDENCE = {"high", "medium", "low"}
URL = re.compile(r"https?://\S+")
Json = dict[str, Any]
Data = dict[str, Any]


def load(folder: Path) -> Data:
    """Every table, by the name of its file."""
    return {
        path.stem: (json.loads if path.suffix == ".json" else yaml.safe_load)(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(folder.iterdir())
        if path.suffix in (".yml", ".json")
    }


def faults(data: Data) -> list[str]:
    """All that is wrong, file by file."""
    found: list[str] = []
    for name, check in CHECKS.items():
        try:
            found += [f"{name}: {text}" for text in check(data)]
        except (LookupError, ValueError) as error:  # it refers to nothing, or is no version
            found.append(f"{name}: {type(error).__name__}: {error}")
    return found


def _cc(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _cuda(variant: str) -> str:
    return f"{variant[2:-1]}.{variant[-1]}"


def _ordered(values: Iterable[Any], what: str) -> Iterator[str]:
    known = list(values)
    if len(set(known)) < len(known):
        yield f"{what}: one of {', '.join(map(str, known))} is there twice"
    if known != sorted(known):
        yield f"{what}: not in order: {', '.join(map(str, known))}"


def _one_of(values: Iterable[Any], known: Iterable[Any], what: str) -> Iterator[str]:
    for value in values:
        if value not in known:
            yield f"{what}: {value} is not known"


def _dated(name: str, table: Json) -> Iterator[str]:
    try:
        datetime.date.fromisoformat(table["asof"])
    except (KeyError, TypeError, ValueError):
        yield f"{name}: asof is no date"


def _founded(table: Json, row: Json, what: str) -> Iterator[str]:
    """A source, which is a text, or names one of the file's own sources, and a confidence."""
    source, named = row.get("source"), table.get("sources")
    if not isinstance(source, str) or not source:
        yield f"{what}: no source"
    elif isinstance(named, dict) and " " not in source and not URL.fullmatch(source) and source not in named:
        yield f"{what}: the source {source} is not among the sources of the file"
    confidence = row.get("confidence")
    values = confidence.values() if isinstance(confidence, dict) else [confidence]
    if not values or not set(values) <= CONFIDENCE:
        yield f"{what}: confidence is {confidence}"


def _months(value: str | None) -> bool:
    return value is None or re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", value) is not None


def _branches(data: Data) -> list[str]:
    return [row["branch"] for row in data["drivers"]["branches"]]


def _architectures(data: Data) -> dict[str, Json]:
    return {cc: row for row in data["gpus"]["architectures"] for cc in row["capabilities"]}


def _files(data: Data) -> Iterator[str]:
    for name, table in data.items():
        yield from _dated(name, table)


def _drivers(data: Data) -> Iterator[str]:
    table = data["drivers"]
    yield from _ordered((int(branch) for branch in _branches(data)), "branches")
    for row in table["branches"]:
        yield from _founded(table, row, row["branch"])
        if not _months(row["eol"]):
            yield f"{row['branch']}: eol {row['eol']} is no month"
    yield from _founded(table, table["flavours"], "flavours")
    yield from _ordered((int(row["branch"]) for row in table["flavours"]["from"]), "flavours")
    for row in table["flavours"]["from"]:
        yield from _one_of(row["ships"], FLAVOURS, f"flavours from {row['branch']}")
        yield from _one_of([row["branch"]], ["0", *_branches(data)], "flavours")


def _gpus(data: Data) -> Iterator[str]:
    table, branches = data["gpus"], _branches(data)
    yield from _ordered(
        sorted(cc for row in table["architectures"] for cc in row["capabilities"]), "capabilities"
    )
    for row in table["architectures"]:
        what = f"{row['name']} {row['capabilities'][0]}"
        yield from _founded(table, row, what)
        first, last = row["first_driver"], row["last_branch"]
        yield from _one_of([first.split(".")[0]] if first else [], branches, f"{what}: first_driver")
        yield from _one_of([last] if last else [], branches, f"{what}: last_branch")
        if first and last and Version(first).major > int(last):
            yield f"{what}: its first driver {first} is newer than its last branch {last}"
        if row["first_cuda"] and row["last_cuda"] and _cc(row["first_cuda"]) > _cc(row["last_cuda"]):
            yield f"{what}: first_cuda is newer than last_cuda"
        if not row["flavours"]:
            yield f"{what}: no flavour of kernel modules"
        yield from _one_of(row["flavours"], FLAVOURS, what)
    for row in table["products"]:
        yield from _founded(table, row, f"products {row['devices'][0]}")
        yield from _one_of(row["devices"], data["pci_gpus"]["devices"], "products")
        yield from _one_of(row["flavours"], FLAVOURS, "products")
    yield from _founded(table, table["data_centre"], "data_centre")
    for pattern in table["data_centre"]["names"]:
        if not any(re.match(pattern, row[1] or "") for row in data["pci_gpus"]["devices"].values()):
            yield f"data_centre: no device is named {pattern}"
    yield from _founded(table, table["ranges"], "ranges")
    rows = table["ranges"]["rows"]
    firsts, ends = [int(row["first"], 16) for row in rows], [int(row["last"], 16) + 1 for row in rows]
    if [*firsts, 0x10000] != [0, *ends]:
        yield "ranges: they leave a gap or overlap"


def _pci(data: Data) -> Iterator[str]:
    table, known = data["pci_gpus"], _architectures(data)
    for name, row in table["_sources"].items():
        yield from _founded({}, row, f"_sources {name}")
    for chip, row in table["chips"].items():
        architecture = known.get(row["capability"])
        if architecture is None:
            yield f"{chip}: the capability {row['capability']} is not in gpus.yml"
        elif architecture["name"] != row["architecture"]:
            yield f"{chip}: {row['architecture']} here, {architecture['name']} in gpus.yml"
    yield from _ordered(table["devices"], "devices")
    for device, row in table["devices"].items():
        if not re.fullmatch(r"[0-9a-f]{4}", device):
            yield f"{device}: no PCI device id"
        yield from _one_of([row[0]], table["chips"], device)
    yield from (
        f"{chip}: no device has it"
        for chip in table["chips"]
        if all(row[0] != chip for row in table["devices"].values())
    )


def _cuda_table(data: Data) -> Iterator[str]:
    table, branches = data["cuda"], _branches(data)
    floors, toolkits = table["minimum_driver"]["linux"], table["toolkit_driver"]["linux"]
    for name in ("minimum_driver", "toolkit_driver"):
        yield from _founded(table, table[name], name)
    yield from _ordered((Version(text) for text in floors.values()), "minimum_driver")
    yield from _ordered((_cc(cuda) for cuda in toolkits), "toolkit_driver")
    yield from _ordered((Version(text) for text in toolkits.values()), "toolkit_driver")
    for cuda, text in toolkits.items():
        if cuda.split(".")[0] not in floors:
            yield f"{cuda}: no minimum_driver for its major version"
        elif Version(text) < Version(floors[cuda.split(".")[0]]):
            yield f"{cuda}: its own driver {text} is older than the floor of its major version"
    for row in table["forward_compat"]:
        what = row["package"]
        yield from _founded(table, row, what)
        yield from _one_of(row["branches"], branches, what)
        if row["cuda"].replace(".", "-") not in what:
            yield f"{what}: is of CUDA {row['cuda']}"
        if Version(row["as_driver"]) < Version(floors[row["cuda"].split(".")[0]]):
            yield f"{what}: stands for {row['as_driver']}, which cannot run CUDA {row['cuda']}"


def _release(data: Data, row: Json) -> Iterator[str]:
    known, floors = _architectures(data), data["cuda"]["minimum_driver"]["linux"]
    machines = set(row["python"])
    aliases = data["torch"]["compatibility"]["aliases"]
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", row["released"]) or row["released"] > data["torch"]["asof"]:
        yield f"released {row['released']}"
    yield from _one_of(machines, MACHINES, "python")
    for machine, tags in row["python"].items():
        yield from _ordered(((Version(tag.rstrip("t")), tag) for tag in tags), f"python {machine}")
    for key in ("glibc", "pypi"):
        if set(row[key]) != machines:
            yield f"{key}: for {', '.join(row[key])}, but python for {', '.join(machines)}"
    for text in row["glibc"].values():
        if not re.fullmatch(r"2\.\d+", text):
            yield f"glibc {text}"
    builds = {build["variant"]: build for build in row["builds"]}
    yield from _ordered((build["variant"] for build in row["builds"]), "builds")
    for machine, variant in row["pypi"].items():
        if variant == "cpu":
            if not row["cpu_index"]:
                yield f"pypi {machine}: cpu, but there is no CPU build"
        elif variant not in builds or machine not in builds[variant]["capabilities"]:
            yield f"pypi {machine}: {variant} is not among the builds for it"
    for variant, build in builds.items():
        if not re.fullmatch(r"cu\d{2,4}", variant) or _cuda(variant).split(".")[0] not in floors:
            yield f"{variant}: no variant whose CUDA is in cuda.yml"
            continue
        yield from _founded(data["torch"], build, variant)
        if set(build["confidence"]) != set(build["capabilities"]):
            yield f"{variant}: confidence and capabilities are for different machines"
        yield from _one_of(build["capabilities"], machines, variant)
        nominal = set(build.get("nominal", ()))
        for machine, codes in build["capabilities"].items():
            what = f"{variant} {machine}"
            if not codes:
                yield f"{what}: no capabilities"
            yield from _ordered(map(_cc, codes), what)
            for code in codes:
                architecture = known.get(aliases.get(code, code))
                if architecture is None:
                    yield f"{what}: the capability {code} is not in gpus.yml"
                    continue
                first, last = architecture["first_cuda"], architecture["last_cuda"]
                if (first and _cc(_cuda(variant)) < _cc(first)) or (last and _cc(_cuda(variant)) > _cc(last)):
                    yield f"{what}: CUDA {_cuda(variant)} holds no code for {architecture['name']} ({code})"
        if nominal and not nominal <= {code for codes in build["capabilities"].values() for code in codes}:
            yield f"{variant}: nominal holds what capabilities lack"


def _torch(data: Data) -> Iterator[str]:
    table = data["torch"]
    rows = table["releases"]
    yield from _founded(table, table["compatibility"], "compatibility")
    for item in table["compatibility"]["excluded"]:
        yield from _one_of([*item["built"], item["device"]], _architectures(data), "compatibility")
    yield from _ordered((Version(row["torch"]) for row in rows), "releases")
    yield from _ordered(((row["released"], Version(row["torch"])) for row in rows), "released")
    for row in rows:
        yield from (f"{row['torch']}: {text}" for text in _release(data, row))
    for package in ("torchvision", "torchaudio"):
        versions = [Version(row[package]) if row[package] else None for row in rows]
        there = [version for version in versions if version]
        if versions[: len(there)] != there:
            yield f"{package}: ends and comes back"
        if there != sorted(there):
            yield f"{package}: an older one goes with a newer torch"
    for machine in MACHINES:
        oldest = [Version(row["python"][machine][0]) for row in rows if machine in row["python"]]
        if oldest != sorted(oldest):
            yield f"python {machine}: a version that was dropped comes back"


def _systems(data: Data) -> Iterator[str]:
    table, branches = data["systems"], _branches(data)
    layouts = table["layouts"]
    for name, rows in layouts.items():
        yield from _ordered((int(row["from"]) for row in rows), f"layout {name}")
        if rows[0]["from"] != "0":
            yield f"layout {name}: nothing for the oldest branches"
        for row in rows:
            yield from _founded(table, row, f"layout {name}")
            for modules in ("dkms", "prebuilt"):
                yield from _one_of(row.get(modules, {}), FLAVOURS, f"layout {name}")
            names = str([row.get(key) for key in ("dkms", "prebuilt", "stream", "fabric_manager")])
            yield from _one_of(re.findall(r"\{(\w+)\}", names), ("branch", "kernel"), f"layout {name}")
    yield from _offers(table, table["nvidia"], branches, layouts, "nvidia")
    yield from _founded(table, table["keeps_older"], "keeps_older")
    keys = [(name, row["version"]) for row in table["systems"] for name in row["ids"]]
    yield from (f"{name} {version}: twice" for name, version in keys if keys.count((name, version)) > 1)
    for row in table["systems"]:
        what = f"{next(iter(row['ids'].values()))} {row['version']}"
        yield from _founded(table, row["glibc"], f"{what}: glibc")
        if not re.fullmatch(r"2\.\d+", row["glibc"]["version"]):
            yield f"{what}: glibc {row['glibc']['version']}"
        for repository in ("distribution", "nvidia"):
            if row[repository]:
                yield from _one_of([row[repository]["layout"]], layouts, what)
                yield from _one_of(row[repository]["machines"], MACHINES, what)
        if row["distribution"]:
            yield from _offers(table, row["distribution"]["offers"], branches, layouts, what)
        if row["nvidia"]:
            yield from _founded(table, row["nvidia"], f"{what}: nvidia")


def _offers(table: Json, rows: list[Json], branches: list[str], layouts: Json, what: str) -> Iterator[str]:
    names = [row["branch"] for row in rows]
    yield from (f"{what}: {name} twice" for name in set(names) if names.count(name) > 1)
    for row in rows:
        yield from _founded(table, row, f"{what} {row['branch']}")
        moves = [row["moves_to"]] if "moves_to" in row else []
        yield from _one_of([row["branch"], *moves], branches, what)
        yield from _one_of([row["layout"]] if "layout" in row else [], layouts, what)
        if row["version"].split(".")[0] != row["branch"]:
            yield f"{what}: {row['version']} is not of branch {row['branch']}"


def _channels(data: Data) -> Iterator[str]:
    table = data["channels"]
    wheels = {row["torch"]: row for row in data["torch"]["releases"]}
    for channel in table["channels"]:
        kind = channel["kind"]
        yield from _founded(table, channel, kind)
        yield from _ordered((Version(row["torch"]) for row in channel["releases"]), kind)
        for row in channel["releases"]:
            what = f"{kind} {row['torch']}"
            yield from _founded(table, {"source": channel["source"], **row}, what)
            yield from _one_of([row["torch"]], wheels, kind)
            yield from _ordered(map(_cc, row["cuda"]), what)
            yield from _one_of(row["machines"], MACHINES, what)
            for cuda in row["cuda"] if row["torch"] in wheels and channel["capabilities"] == "wheels" else ():
                variants = {build["variant"]: build for build in wheels[row["torch"]]["builds"]}
                build = variants.get("cu" + cuda.replace(".", ""))
                if build is None or not set(row["machines"]) <= set(build["capabilities"]):
                    yield f"{what}: there is no wheel of CUDA {cuda} to take the capabilities of"


def _command(data: Data) -> Iterator[str]:
    table = data["command"]
    yield from _founded({}, table, "the file")
    yield from _one_of([table["defaults"]["machine"]], MACHINES, "defaults")
    for name, source in table["sources"].items():
        urls = [*source["urls"], *source.get("nvidia_urls", ())]
        yield from (f"{name}: {url} is no URL" for url in urls if not URL.fullmatch(url))
    kinds = [source["kind"] for source in table["sources"].values()]
    yield from _one_of(
        kinds, ["pypi", "index", *(row["kind"] for row in data["channels"]["channels"])], "sources"
    )


CHECKS = {
    "every file": _files,
    "drivers.yml": _drivers,
    "gpus.yml": _gpus,
    "pci_gpus.json": _pci,
    "cuda.yml": _cuda_table,
    "torch.yml": _torch,
    "systems.yml": _systems,
    "channels.yml": _channels,
    "command.yml": _command,
}
