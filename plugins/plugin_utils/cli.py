"""torchfleet-plan: what would a host with these GPUs get, and why? Asks no host, and needs no Ansible."""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import re
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet, planner, site_data, tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import closest, mapping, plain
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

Json = dict[str, Any]
PROG = "torchfleet-plan"
WIDTH = 80
SHOWN = 12  # candidates of an ambiguous name
BRANDS = ("nvidia", "geforce", "tesla")
POLICIES = {
    "auto": {"state": "auto", "upgrade": True},
    "keep": {"state": "keep", "upgrade": False},
    "none": {"state": "none", "upgrade": False},
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # as others call them
TRUTHS = ("torchfleet_truth", "preflight_truth")
_PCI = re.compile(r"(?:10de:|0x)?([0-9a-f]{4})", re.IGNORECASE)
_DRIVER = re.compile(r"\d{3}(?:\.\d+){0,2}")
_VARIANT = re.compile(r"auto|cpu|cu\d{2,4}")
_PYTHON = re.compile(r"3\.\d+(\.\d+)?")
# How the planner calls parts of the wish, and the options that set them.
_OPTIONS = (
    (re.compile(r"environments\[0\]\.(\w+)"), r"--\1"),
    (re.compile(r"environments\[0\] \(torch\)"), "torch"),
    (re.compile(r"\bdriver\.upgrade to true\b"), "--driver-policy to auto"),
    (re.compile(r"\bdriver\.state\b"), "--driver-policy"),
    (re.compile(r"\bthe variant of each environment\b"), "--variant"),
    (re.compile(r"\bdriver\.forward_compat\b"), "--forward-compat"),
    (re.compile(r"\bsources\[\d+\](\.\w+)?"), "--sources"),
)


class Usage(Exception):
    """Wrong usage: what was said, and what would be right."""


def _load(text: str) -> Any:
    # JSON may hold tabs, which YAML does not take.
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _defaults() -> Json:
    return mapping(tables.load("command.yml"))


# ---- the GPUs


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", name.lower()))


def _bare(name: str) -> tuple[str, ...]:
    return tuple(word for word in _words(name) if word not in BRANDS)


def device(name: str) -> str:
    """The PCI device id of an id or of a marketing name; an id need not be known."""
    match = _PCI.fullmatch(name.strip())
    # Of four characters some names are ids as well: B200.
    if match and (match[0] != match[1] or tables.model(match[1].lower())):
        return match[1].lower()
    rows = tables.load("pci_gpus.json")["devices"]
    named: dict[str, str] = {key: row[1] for key, row in rows.items() if row[1]}
    wanted = _bare(name)
    found = [key for key, known in named.items() if _bare(known) == wanted]
    if wanted and not found:
        found = [key for key, known in named.items() if set(wanted) <= set(_bare(known))]
    if not found and match:
        return match[1].lower()
    if not found:
        near = difflib.get_close_matches(
            name.lower(), {known.lower() for known in named.values()}, SHOWN, 0.5
        )
        found = [key for text in near for key in named if named[key].lower() == text]
        where = "; near it are" + _candidates(found) if found else ": give the PCI id of 'lspci -n -d 10de:'"
        raise Usage(f"--gpu {name.strip() or repr(name)}: no GPU is known by that name{where}")
    # Several ids may bear one name: where nothing depends on it, one that NVIDIA lists stands for all.
    found.sort(key=lambda key: (not rows[key][2], key))
    if len({(_bare(named[key]), _needs(key)) for key in found}) > 1:
        raise Usage(f"--gpu {name}: the name is ambiguous; it may be" + _candidates(found))
    return found[0]


def _needs(key: str) -> tuple[str, tables.Architecture] | None:
    model = tables.model(key)
    return (model.capability, model.architecture) if model else None


def _candidates(found: Sequence[str]) -> str:
    models = [model for model in map(tables.model, found[:SHOWN]) if model]
    lines = [f"  10de:{model.device}  {model.name} ({model.architecture.name})" for model in models]
    lines += [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join(["", *lines])


# ---- the truth


def _system(name: str) -> tables.System | None:
    """By a name such as debian12, ubuntu24.04, rocky9.4, alma9 or opensuse15."""
    wanted = "".join(_words(name))
    match = re.fullmatch(r"([a-z-]{4,}?)[ -]?(\d[\d.]*)", name.lower())
    for system in tables.systems():
        if wanted == "".join(_words(system.id + system.version)):
            return system
        known = (system.id, "".join(_words(system.name)))
        named = match and any(text.startswith(match[1]) for text in known)
        if match and named and f"{match[2]}.".startswith(f"{system.version}."):
            return system
    return None


def _newest(branch: str) -> str:
    """The newest release of a branch that the tables know; else its first."""
    known = [
        offer.text
        for system in tables.systems()
        for offers in system.repositories.values()
        for offer in offers
        if offer.branch == branch
    ]
    return max(known, key=Version, default=f"{branch}.0")


def describe(args: argparse.Namespace, defaults: Json, notes: list[Json]) -> Json:
    """The truth of a host as the options describe it."""
    if args.os is None:
        args.os = defaults["os"]
        notes.append(
            {
                "code": "assumed_os",
                "text": f"no operating system was named: {args.os} is assumed",
                "remedy": "name it with --os",
            }
        )
    system = _system(args.os)
    version = None if args.driver in (None, "none") else str(args.driver)
    if version and "." not in version:
        version = _newest(version)
        notes.append(
            {
                "code": "assumed_driver",
                "text": f"only the branch {args.driver} was named: its release {version} is assumed",
                "remedy": "give the whole version with --driver",
            }
        )
    there = {"version": version, "flavour": None}
    gpus = [
        {"slot": f"0000:{number:02x}:00.0", "vendor": "10de", "device": device(name)}
        for number, name in enumerate(args.gpu or [], start=1)
    ]
    truth: Json = {
        "schema": 1,
        # Of one that the tables lack the planner tells.
        "os": {
            "id": system.id if system else args.os,
            "version": system.version if system else "",
            "name": system.name if system else args.os,
            "like": [],
        },
        "machine": MACHINES.get(args.arch, args.arch) or defaults["machine"],
        "virtualization": {"type": "none", "detail": None},
        "secure_boot": None,
        "gpus": gpus,
        "nvswitches": 0,
        "driver": {
            "package": None,
            "on_disk": there if version else None,
            "loaded": there if version else None,
            "verdict": "ok" if version else "absent" if gpus else "not wanted",
        },
    }
    if args.glibc or system:
        truth["glibc"] = args.glibc or (system and system.glibc)
    return truth


def read_facts(path: str) -> Json:
    """The truth in what gpu_facts wrote: bare, or within the facts or the result that it came in."""
    try:
        value = plain(_load(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise Usage(f"--facts {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Usage(f"--facts {path}: found no text in UTF-8, expected JSON or YAML") from error
    except yaml.YAMLError as error:
        raise Usage(f"--facts {path}: neither JSON nor YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:  # an alias that holds itself
        raise Usage(f"--facts {path}: too deep to be the truth of a host") from error
    value = mapping(value)
    value = mapping(value.get("ansible_facts")) or value
    for name in TRUTHS:
        value = mapping(value.get(name)) or value
    if not {"schema", "os", "gpus"} & value.keys():
        raise Usage(f"--facts {path}: found no truth of a host; pass what torchfleet.gpu.gpu_facts returned")
    return value


# ---- the wish


def wish(args: argparse.Namespace, defaults: Json) -> Json:
    sources = defaults["sources"]
    given = ",".join(sources if args.sources is None else args.sources).split(",")
    names = [name.strip() for name in given if name.strip()]
    for name in names:
        if name not in sources:
            raise Usage(f"--sources: found {name!r}, expected some of {', '.join(sources)}")
    if not names:
        raise Usage(f"--sources: found none, expected some of {', '.join(sources)}")
    if len(set(names)) < len(names):
        raise Usage("--sources: name each source once, in the order of preference")
    return {
        "driver": {**POLICIES[args.driver_policy], "forward_compat": args.forward_compat},
        "environments": [
            {
                "name": "torch",
                "python": args.python or defaults["defaults"]["python"],
                "torch": args.torch,
                "variant": args.variant,
                "torchvision": args.torchvision,
                "torchaudio": args.torchaudio,
            }
        ],
        "sources": [{"name": name, **sources[name]} for name in names],
        "pypi_urls": sources["pypi"]["urls"],
    }


# ---- the answer


def _spoken(text: str | None) -> str | None:
    """With the options in place of the wish's keys."""
    for pattern, option in _OPTIONS if text else ():
        text = pattern.sub(option, text or "")
    return text


def _note(row: Json) -> Json:
    return {"code": row["code"], "text": _spoken(row["text"]), "remedy": _spoken(row["remedy"])}


def _problem(row: Json) -> Json:
    text = f"{row['what']}: {row['found']}; expected: {row['expected']}"
    return {"code": row["code"], "text": _spoken(text), "remedy": _spoken(row["fix"])}


def _torch(row: Json) -> Json | None:
    if row["torch"] is None:
        return None
    source = row["sources"][0]
    conda = source["method"] == "conda"
    releases = tables.channel(source["kind"]).values() if conda else tables.releases()
    release = next(item for item in releases if item.torch == row["torch"])
    found = {
        "version": row["torch"],
        "variant": row["variant"],
        "cuda": row["cuda"],
        "python": row["python"],
        "requirement": (source["specs"] if conda else row["requirements"])[0],
        "source": source["name"],
        "method": source["method"],
        "torchvision": release.torchvision,
        "torchaudio": release.torchaudio,
    }
    if conda:
        return {**found, "channels": source["channels"], "specs": source["specs"]}
    where = (
        {"find_links": source["find_links"][0]}
        if source["find_links"]
        else {"index_url": source["index_url"]}
    )
    extra = {"extra_index_urls": source["extra_index_urls"], "requirements": row["requirements"]}
    return {**found, **where, **extra}


def answer(plan: Json, truth: Json, notes: Iterable[Json]) -> Json:
    """What --json prints."""
    return {
        "host": {"os": mapping(truth.get("os")).get("name"), "machine": truth.get("machine")},
        "gpus": plan["gpus"],
        "driver": plan["driver"],
        "torch": _torch(plan["environments"][0]) if plan["environments"] else None,
        "reasons": [*notes, *map(_note, plan["reasons"])],
        "warnings": [_note(row) for row in plan["warnings"]],
        "problems": [_problem(row) for row in plan["problems"]],
    }


def _entry(label: str, *lines: str | None) -> list[str]:
    """A label and its text beside it, folded; a word that is longer than a line is left whole."""
    folded = [
        part
        for line in lines
        if line
        for part in textwrap.wrap(
            fleet.cell(line), WIDTH - 10, break_long_words=False, break_on_hyphens=False
        )
    ]
    return [f"{label if number == 0 else '':10}{part}" for number, part in enumerate(folded)]


def _driver_lines(driver: Json) -> list[str]:
    kind = ", ".join(driver[key] for key in ("flavour", "modules", "repository") if driver.get(key))
    text = " ".join(filter(None, [driver["action"], driver["version"], f"({kind})" if kind else None]))
    if driver.get("replaces"):
        text += f", replaces {driver['replaces']['version']}"
    compat = driver.get("forward_compat")
    return _entry(
        "Driver",
        text,
        " ".join(driver["packages"]),
        f"stream {driver['stream']}" if driver.get("stream") else None,
        f"with {compat['package']}" if compat else None,
    )


def _torch_lines(torch: Json | None) -> list[str]:
    if torch is None:
        return _entry("torch", "none")
    companions = [f"{name} {torch[name] or 'none'}" for name in ("torchvision", "torchaudio")]
    lines = _entry(
        "torch", f"{torch['version']} {torch['variant']} from {torch['source']}", "; ".join(companions)
    )
    if torch["method"] == "conda":
        channels = [f"-c {url}" for url in torch["channels"]]
        return lines + _entry("Install", " ".join(["conda install", *map(repr, torch["specs"])]), *channels)
    where = (
        [f"--index-url {torch['index_url']}"]
        if "index_url" in torch
        else [f"--find-links {torch['find_links']}"]
    )
    where += [f"--extra-index-url {url}" for url in torch["extra_index_urls"]]
    return lines + _entry("Install", " ".join(["pip install", *map(repr, torch["requirements"])]), *where)


def _notes(label: str, rows: Iterable[Json], remedies: bool) -> list[str]:
    return [
        line
        for row in rows
        for line in _entry(label, row["text"], f"-> {row['remedy']}" if remedies and row["remedy"] else None)
    ]


def lines(result: Json, explain: bool) -> list[str]:
    """What people read, without the problems."""
    gpus = Counter(f"{gpu['name']} ({gpu['architecture']}, {gpu['capability']})" for gpu in result["gpus"])
    host = result["host"]
    assumed = any(row["code"] == "assumed_os" for row in result["reasons"])
    shown = _entry("Host", f"{host['os']}{' (assumed)' if assumed else ''}, {host['machine']}")
    shown += _entry("GPUs", *(f"{number} x {name}" for name, number in gpus.items())) or _entry(
        "GPUs", "none"
    )
    shown += _driver_lines(result["driver"]) + _torch_lines(result["torch"])
    if explain:
        shown += _notes("Reason", result["reasons"], True)
    return shown + _notes("Warning", result["warnings"], explain)


# ---- the command


def _checked(pattern: re.Pattern[str], expected: str) -> Any:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
        return text

    return check


def _torch_wish(text: str) -> str:
    if text != "auto":
        try:
            Version(text)
        except InvalidVersion:
            try:
                SpecifierSet(text)
            except InvalidSpecifier as error:
                raise argparse.ArgumentTypeError(
                    f"found {text!r}, expected auto, a version or a range such as '>=2.5,<2.9'"
                ) from error
    return text


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a date such as 2026-11-23") from error


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **_rest: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and stop")

    def __call__(self, parser: argparse.ArgumentParser, *_rest: Any) -> NoReturn:
        from importlib.metadata import version  # costs more than a plan

        print(f"{PROG} {version('torchfleet')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Without the list of all options, and with the one that was probably meant."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        meant = unknown and closest(unknown[1], self._option_string_actions)
        message += f" (did you mean {meant}?)" if meant else ""
        self.exit(2, f"{self.prog}: error: {message}\n'{self.prog} --help' lists the options\n")


def parser() -> argparse.ArgumentParser:
    known = _Parser(
        prog=PROG,
        description="What would a host with these GPUs get, and why? Decides as the roles do; asks no host.",
        epilog="Ends with 0 for a plan, 1 where problems stand in its way, 2 for wrong usage.",
        allow_abbrev=False,
    )
    host = known.add_argument_group("the host")
    host.add_argument(
        "--gpu",
        action="append",
        metavar="GPU",
        help="a GPU of the host, once for each: 10de:2330, 2330 or a name such as 'H100 SXM5 80GB'",
    )
    host.add_argument(
        "--driver",
        metavar="VERSION",
        type=_checked(re.compile(rf"none|{_DRIVER.pattern}"), "none or a version such as 535.261.03"),
        help="the driver that is there, or none (default: none)",
    )
    host.add_argument("--os", metavar="OS", help="debian12, ubuntu2404, rhel9, ... (default: ubuntu2404)")
    host.add_argument(
        "--arch",
        choices=(*tables.releases()[0].python, *MACHINES),
        help="what uname -m says (default: x86_64)",
    )
    host.add_argument(
        "--glibc",
        metavar="VERSION",
        type=_checked(re.compile(r"\d+\.\d+"), "a version such as 2.28"),
        help="the version of glibc (default: that of the operating system)",
    )
    host.add_argument(
        "--facts",
        metavar="FILE",
        help="instead of the above: what gpu_facts wrote, JSON or YAML; - for stdin",
    )
    wanted = known.add_argument_group("the wish")
    wanted.add_argument(
        "--driver-policy",
        choices=tuple(POLICIES),
        default="auto",
        help="keep the driver as it is, do without one, or install and upgrade where that serves better "
        "(default: auto)",
    )
    wanted.add_argument(
        "--forward-compat", action="store_true", help="allow CUDA's forward-compatibility packages"
    )
    wanted.add_argument(
        "--python",
        metavar="VERSION",
        type=_checked(_PYTHON, "a version such as 3.11"),
        help="Python of the environment (default: 3.11)",
    )
    wanted.add_argument(
        "--torch", metavar="WISH", default="auto", type=_torch_wish, help="auto, 2.7.1 or '>=2.5,<2.9'"
    )
    wanted.add_argument(
        "--variant",
        metavar="VARIANT",
        default="auto",
        type=_checked(_VARIANT, "auto, cpu or a variant such as cu126"),
        help="auto, cpu or a CUDA variant such as cu126",
    )
    for package in ("torchvision", "torchaudio"):
        wanted.add_argument(
            f"--{package}",
            nargs="?",
            metavar="VERSION",
            const=True,
            default=False,
            type=_checked(re.compile(r"\d+(\.\d+)+"), "a version"),
            help=f"{package} must go along (of this version)",
        )
    wanted.add_argument(
        "--sources",
        action="append",
        metavar="LIST",
        help="where torch may come from, in the order of preference, of pypi, wheels, conda-forge and "
        "pytorch-channel (default: all, in this order)",
    )
    out = known.add_argument_group("the answer")
    out.add_argument("--explain", action="store_true", help="add the reasons, what lost, and the remedies")
    out.add_argument("--json", action="store_true", help="print JSON, for programs")
    out.add_argument(
        "--today", metavar="DATE", type=_day, help="the date to judge ends of life by (default: today)"
    )
    out.add_argument("--version", action=_Version)
    return known


def main(arguments: Sequence[str] | None = None) -> int:
    if arguments is None:  # as a command: a reader such as head may have enough
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        known, defaults = parser(), _defaults()
    except site_data.SiteDataError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    args = known.parse_args(arguments)
    notes: list[Json] = []
    try:
        if args.facts is None:
            truth = describe(args, defaults["defaults"], notes)
        else:
            given = [
                name for name in ("gpu", "driver", "os", "arch", "glibc") if getattr(args, name) is not None
            ]
            if given:
                raise Usage(f"--facts tells what the host is: leave out --{', --'.join(given)}")
            truth = read_facts(args.facts)
        wanted = wish(args, defaults)
    except Usage as error:
        known.error(str(error))
    result = answer(planner.plan(truth, wanted, today=args.today), truth, notes)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(lines(result, args.explain)))
        sys.stdout.flush()  # before what goes to stderr
        for line in _notes("Problem", result["problems"], True):
            print(line, file=sys.stderr)
    return 1 if result["problems"] else 0
