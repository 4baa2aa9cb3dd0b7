# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Finds out which files the requests of a fleet need, and fetches them into a bundle.

What was solved once is in the manifest, and is not solved again; what was fetched is not fetched again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import urllib.parse
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils import (
    bundle,
    conda_cli,
    conda_lock,
    conda_wish,
    pip_cli,
    wheels,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import (
    DownloadError,
    Fetched,
    MirrorError,
    Web,
    download,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.pip_spec import normalise
from ansible_collections.torchfleet.gpu.plugins.module_utils.progress import Progress

WORK = ".work"
# As the role nvidia_driver names its own files.
_SOURCE, _PIN = "torchfleet-nvidia.sources", "zz-torchfleet-nvidia.pref"
# As the planner calls what conda's channels carry.
_CONDA_NAMES = {"pytorch": "torch", "torchvision": "torchvision", "torchaudio": "torchaudio"}
_TORCH = ("torch", "torchvision", "torchaudio")
_URI = re.compile(r"'([^']+)' (\S+) (\d+)(?: SHA256:([0-9a-f]{64}))?")
# What conda_wish asks for beside what a request has.
_NO_WISH = {
    **dict.fromkeys(("python", "content", "file", "lock")),
    **{"packages": [], "channels": [], "pip": [], "pip_sources": [], "variables": {}},
    **{"state": "present", "timeout": 1, "lock_timeout": 0},
}

Run = Callable[[Sequence[str], Mapping[str, str], str], "tuple[int, str, str]"]


class GatherError(Exception):
    """A request that cannot be met: which, why, and what to do."""


class Solved(NamedTuple):
    files: dict[str, dict[str, Any]]
    carries: Sequence[str] = ()  # builds of torch, as name==version+variant


def _row(
    urls: Sequence[str], sha256: str, size: int | None, licence: str = "", **more: Any
) -> dict[str, Any]:
    row = {"url": urls[0], "sha256": sha256, "size": size or 0, "licence": licence or "not told", **more}
    return {**row, "mirrors": list(urls[1:])} if len(urls) > 1 else row


class Gather:
    def __init__(
        self, directory: str, web: Web, run: Run, params: Mapping[str, Any], progress: Progress
    ) -> None:
        self.directory, self.web, self.run, self.params = directory, web, run, params
        self.progress = progress
        self.work = Path(directory, WORK)
        self.manifest = bundle.empty()
        self.fetched: list[str] = []
        self.bytes = 0
        self.lock = threading.Lock()

    # -- what is needed

    def solve(self, request: Mapping[str, Any]) -> Solved:
        ways = {
            "installer": self.installer,
            "uv": self.uv_wheel,
            "wheels": self.python,
            "conda": self.conda,
            "apt": self.apt,
        }
        try:
            return ways[request["kind"]](request)
        except (DownloadError, MirrorError) as error:
            failures = getattr(error, "failures", [])
            told = "; ".join(map(str, failures)) or str(error)
            raise GatherError(
                f"{request['key']}: {told}. Name a mirror that this machine can reach"
            ) from error

    def installer(self, request: Mapping[str, Any]) -> Solved:
        path = f"{bundle.INSTALLERS}/{request['file']}"
        return Solved({path: _row(request["urls"], request["sha256"], None, request["licence"])})

    def uv_wheel(self, request: Mapping[str, Any]) -> Solved:
        wheel = self.find_uv(request["version"], request["hashes"], request["machine"])
        return Solved({f"{bundle.WHEELS}/{wheel.file}": _row([wheel.url], wheel.sha256, wheel.size)})

    def find_uv(self, version: str, hashes: Sequence[str], machine: str) -> wheels.Wheel:
        tried = []
        for index in self.params["pypi_urls"]:
            try:
                offered = wheels.links(self.web, f"{index.rstrip('/')}/uv/")
            except MirrorError as error:
                tried.append(f"{index}: {error}")
                continue
            known = [url for url in offered if url.rpartition("=")[2] in hashes]
            found = wheels.among(known, "uv", version, "3.11", machine)
            if found:
                return found
            tried.append(f"{index} has no wheel of it with a known hash")
        raise GatherError(f"uv {version} for {machine}: {'; '.join(tried)}")

    def python(self, request: Mapping[str, Any]) -> Solved:
        found = self.resolve(request, request["requirements"], request["sources"])
        return Solved(
            self.wheel_rows(found),
            sorted(f"{one.name}=={one.version}" for one in found if one.name in _TORCH),
        )

    def wheel_rows(self, found: Iterable[wheels.Wheel]) -> dict[str, dict[str, Any]]:
        return {
            f"{bundle.WHEELS}/{one.file}": _row(
                [one.url if one.remote else Path(one.url).as_uri()], one.sha256, one.size
            )
            for one in found
        }

    def resolve(
        self, request: Mapping[str, Any], requirements: Sequence[str], sources: Sequence[Mapping[str, Any]]
    ) -> list[wheels.Wheel]:
        """All wheels, from the first source that has them."""
        tried = []
        for given in sources:
            source = pip_cli.source({**given, "no_index": not given.get("index_url")})
            try:
                return self.resolve_at(request, requirements, source)
            except (GatherError, MirrorError, DownloadError) as error:
                tried.append(f"{source.name}: {error}")
        raise GatherError(f"{request['key']} cannot be had from any source. {' '.join(tried)}")

    def resolve_at(
        self, request: Mapping[str, Any], requirements: Sequence[str], source: pip_cli.Source
    ) -> list[wheels.Wheel]:
        offered = [url for place in source.find_links for url in wheels.links(self.web, place)]
        listing = self.compile(request, source, requirements, [])
        releases = re.findall(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", listing)
        direct = re.findall(r"(?m)^(\S+ @ \S+)", listing)
        machine = request["machine"]
        found = [
            wheels.among(offered, normalise(name), version, request["python"], machine)
            for name, version in releases
        ]
        flat = [wheel for wheel in found if wheel]
        rest = [one for one in releases if normalise(one[0]) not in {wheel.name for wheel in flat}]
        if rest or direct:
            pins = [*(f"{name}==={version}" for name, version in rest), *direct]
            flat += wheels.read_pylock(
                self.compile(request, source, pins, ["--no-deps", "--format", "pylock.toml"])
            )
        missing = {normalise(name) for name, _ in releases} - {wheel.name for wheel in flat}
        if missing or not flat:
            raise GatherError(f"no wheel of {', '.join(sorted(missing)) or 'anything'}")
        return wheels.measured(self.web, flat)

    def compile(
        self, request: Mapping[str, Any], source: pip_cli.Source, lines: Sequence[str], options: Sequence[str]
    ) -> str:
        arguments = [
            *("--no-config", "--only-binary", ":all:", "--no-header", "--no-annotate", "--quiet"),
            *("--python-version", request["python"], "--python-platform", request["platform"]),
            *options,
            "-",
        ]
        command = pip_cli.uv_command(
            self.need_uv(), sys.executable, source, str(self.work / "uv-cache"), arguments, "compile"
        )
        environment = pip_cli.uv_environment({}, os.environ)
        returncode, stdout, stderr = self.run(command, environment, "".join(f"{one}\n" for one in lines))
        if returncode:
            raise GatherError(str(conda_cli.pip_problem(returncode, stdout, stderr)))
        return stdout

    def conda(self, request: Mapping[str, Any]) -> Solved:
        wish, problems = conda_wish.read({**_NO_WISH, **request["wish"]})
        if problems:
            raise GatherError(f"{request['key']}: {'; '.join(problems)}")
        if wish.lock:
            solved = self.locked(request, wish.lock)
            pip = [one.line().partition(" --hash")[0] for one in wish.lock.pip]
        else:
            pip = [one.text for one in wish.requirements]
            specs = [*(one.text for one in wish.specs), *request["specs"], *(["pip"] if pip else [])]
            solved = self.solve_anywhere(request, specs, wish.channel_arguments())
        if pip:
            own = [one._asdict() for one in wish.sources]
            sources = own or [{"name": url, "index_url": url} for url in self.params["pypi_urls"]]
            solved.files.update(self.wheel_rows(self.resolve(request, pip, sources)))
        return solved

    def locked(self, request: Mapping[str, Any], lock: conda_lock.Lock) -> Solved:
        files = {}
        attempts = conda_lock.bases(lock, self.params["anaconda_urls"], [])
        for package in lock.conda:
            if not package.sha256:
                raise GatherError(
                    f"{request['key']}: its lock has no sha256 of {package.fn}: refresh it "
                    f"(playbooks/lock.yml)"
                )
            urls = [f"{one[package.channel].rstrip('/')}/{package.subdir}/{package.fn}" for one in attempts]
            files[self.conda_path(request, package)] = _row(list(dict.fromkeys(urls)), package.sha256, None)
        return Solved(files)

    @staticmethod
    def conda_path(
        request: Mapping[str, Any], package: conda_lock.Package, own: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        # A mirror may lay its channels out in its own way: what is asked for torch has a name in any.
        channel = own.get(package.channel, package.channel)
        if "://" in channel:
            raise GatherError(
                f"{request['key']}: {package.fn} comes from {package.channel}, which is no channel of a "
                f"mirror: a host "
                "would not find it in the bundle. Name the channel by its name, and a mirror that has it"
            )
        below = channel if channel.startswith("pkgs/") else f"cloud/{channel}"
        return f"{bundle.CONDA}/{below}/{package.subdir}/{package.fn}"

    def solve_anywhere(
        self, request: Mapping[str, Any], specs: Sequence[str], channels: Sequence[str]
    ) -> Solved:
        """From the first source of torch that has all, as a host tries them."""
        tried = []
        for own in request["channels"] or [{}]:
            try:
                return self.solve_conda(request, specs, channels, own)
            except GatherError as error:
                tried.append(str(error))
        raise GatherError("; ".join(tried))

    def solve_conda(
        self,
        request: Mapping[str, Any],
        specs: Sequence[str],
        channels: Sequence[str],
        named: Mapping[str, str],
    ) -> Solved:
        conda = self.need_conda()
        config = self.work / "condarc"
        # JSON is YAML.
        config.write_text(json.dumps({**self.params["conda_config"], **request["config"]}), "utf-8")
        environment = {
            "CONDARC": str(config),
            "CONDA_PKGS_DIRS": str(self.work / "pkgs"),
            "CONDA_SUBDIR": request["subdir"],
            "CONDA_OVERRIDE_GLIBC": request["glibc"],
            "CONDA_OVERRIDE_CUDA": request["cuda"],
            "CONDA_REPORT_ERRORS": "false",
        }
        own = [word for one in named.values() for word in ("-c", one)]
        command = [conda, "create", "-p", str(self.work / "none"), "-y", "-q", "--json", "--dry-run"]
        command += [*(["--override-channels", *own, "-c", "defaults"] if own else channels), *specs]
        returncode, stdout, stderr = self.run(command, environment, "")
        problem = conda_cli.conda_problem(returncode, stdout, stderr, list(specs))
        if problem:
            raise GatherError(f"{request['key']}: conda create: {problem}")
        actions = conda_cli.parse_json(stdout).get("actions") or {}
        records = actions.get("FETCH") or []
        linked = {str(one.get("dist_name")) for one in actions.get("LINK") or []}
        known = {re.sub(r"\.(conda|tar\.bz2)\Z", "", str(one["fn"])) for one in records}
        if not records or linked - known:
            raise GatherError(
                f"{request['key']}: conda told no address of "
                f"{', '.join(sorted(linked - known)) or 'anything'}"
            )
        return self.conda_rows(request, records, {url.rstrip("/"): name for name, url in named.items()})

    def conda_rows(
        self, request: Mapping[str, Any], records: Sequence[Mapping[str, Any]], own: Mapping[str, str]
    ) -> Solved:
        files, carries = {}, []
        for record in records:
            package, _address = conda_lock.package(record)
            first = self.params["anaconda_urls"][0].rstrip("/")
            url = conda_lock.plain(str(record["url"]))
            others = [
                one.rstrip("/") for one in self.params["anaconda_urls"][1:] if url.startswith(f"{first}/")
            ]
            urls = [url, *(one + url[len(first) :] for one in others)]
            kept = {key: value for key, value in record.items() if key not in ("url", "channel", "fn")}
            row = _row(
                urls, package.sha256 or "", record.get("size"), str(record.get("license") or ""), record=kept
            )
            files[self.conda_path(request, package, own)] = row
            name = _CONDA_NAMES.get(str(record["name"]))
            if name and request["variant"]:
                carries.append(f"{name}=={record['version']}+{request['variant']}")
        return Solved(files, carries)

    # -- apt

    def apt(self, request: Mapping[str, Any]) -> Solved:
        """What apt would fetch for that host: with its status, in a root of its own."""
        if not shutil.which("apt-get"):
            raise GatherError(
                f"{request['key']}: this machine has no apt-get, which finds the packages of Debian and "
                f"Ubuntu. "
                "Name a connected host that has it in bundle_host"
            )
        root = self.work / "apt"
        shutil.rmtree(root, ignore_errors=True)
        for name in (
            "etc/sources.list.d",
            "etc/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
        ):
            (root / name).mkdir(parents=True)
        (root / "status").write_text(request["status"], "utf-8")
        if request["key_text"]:
            (root / "key.asc").write_text(request["key_text"], "utf-8")
        (root / "etc/sources.list.d/driver.sources").write_text(self.stanzas(request, root), "utf-8")
        self.own_sources(request, root)
        # As on the host: apt takes the first pin that names a package, and the administrator's are before it.
        (root / "etc/preferences.d" / _PIN).write_text(request["pin"], "utf-8")
        options = {
            "Dir::Etc": root / "etc",
            "Dir::Etc::trustedparts": "/etc/apt/trusted.gpg.d",
            "Dir::State": root / "state",
            "Dir::State::status": root / "status",
            "Dir::Cache": root / "cache",
            "APT::Architecture": request["architecture"],
            "APT::Architectures": request["architecture"],
            "APT::Sandbox::User": "root",
            **({"Acquire::https::CAInfo": self.params["ca_file"]} if self.params["ca_file"] else {}),
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        self.apt_get(request, ["apt-get", *words, "update"])
        out = self.apt_get(
            request,
            [
                "apt-get",
                *words,
                "install",
                "--print-uris",
                "--yes",
                "-qq",
                *request["options"],
                *request["packages"],
            ],
        )
        found = {file: (url, int(size), sha256) for url, file, size, sha256 in _URI.findall(out)}
        if not found:
            raise GatherError(
                f"{request['key']}: apt names no file: {out.strip()[-300:] or 'the host has all of them'}"
            )
        controls = self.controls(request, words, list(found))
        files = {}
        for file, (url, size, _) in found.items():
            control = controls[file]
            digest = re.search(r"(?m)^SHA256: ([0-9a-f]{64})$", control)
            section = re.search(r"(?m)^Section: (\S+)$", control)
            licence = f"see debian/copyright in it; section {section.group(1) if section else 'not told'}"
            name = urllib.parse.unquote(file).replace(":", "%3a")
            path = f"{bundle.APT}/{request['system']}/{name}"
            files[path] = _row([url], digest.group(1) if digest else "", size, licence, control=control)
        return Solved(files)

    @staticmethod
    def stanzas(request: Mapping[str, Any], root: Path) -> str:
        text = ""
        for one in request["stanzas"]:
            key = one["key"]
            if request["key_text"] and not Path(key).is_file():
                key = str(root / "key.asc")
            # Dependencies such as dkms are in main, which a host has in sources of its own.
            components = list(dict.fromkeys(["main", *one["components"]])) if one["components"] else []
            text += f"Types: deb\nURIs: {one['url']}\nSuites: {one['suites']}\n"
            text += f"Components: {' '.join(components)}\n" if components else ""
            text += f"Signed-By: {key}\n\n" if key else "Trusted: yes\n\n"
        return text

    @staticmethod
    def own_sources(request: Mapping[str, Any], root: Path) -> None:
        """Of a machine of the same release its own as well: a host of the fleet has those of its site."""
        try:
            release = Path("/etc/os-release").read_text("utf-8")
        except OSError:
            return
        if f"VERSION_CODENAME={request['codename']}" not in release.splitlines():
            return
        for name in ("sources.list", "sources.list.d", "preferences.d"):
            source = Path("/etc/apt", name)
            for path in sorted(source.iterdir()) if source.is_dir() else [source]:
                if path.is_file() and path.name not in (_SOURCE, _PIN):
                    shutil.copyfile(path, root / "etc" / path.relative_to("/etc/apt"))

    def controls(
        self, request: Mapping[str, Any], words: Sequence[str], files: Sequence[str]
    ) -> dict[str, str]:
        pins = []
        for file in files:
            name, version, _ = file.split("_", 2)
            pins.append(f"{name}={urllib.parse.unquote(version)}")
        out = self.apt_get(request, ["apt-cache", *words, "show", *pins])
        found: dict[str, str] = {}
        for stanza in out.strip().split("\n\n"):
            fields = dict(re.findall(r"(?m)^(Package|Version): (\S+)$", stanza))
            if len(fields) == 2:
                found["{Package}={Version}".format(**fields)] = stanza
        return {file: found[pin] for file, pin in zip(files, pins)}

    def apt_get(self, request: Mapping[str, Any], command: Sequence[str]) -> str:
        returncode, stdout, stderr = self.run(command, {"DEBIAN_FRONTEND": "noninteractive"}, "")
        if returncode:
            lines = [line for line in (stdout + stderr).splitlines() if line.startswith(("E:", " "))]
            raise GatherError(f"{request['key']}: {' '.join(lines)[-500:] or stderr[-500:]}")
        return stdout

    # -- tools

    def need_uv(self) -> str:
        """uv of the bundle, for this machine."""
        tool = self.work / "uv"
        if not tool.exists():
            machine = os.uname().machine
            wheel = self.find_uv(self.params["uv_version"], self.params["uv_hashes"], machine)
            path = Path(self.directory, bundle.WHEELS, wheel.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.work.mkdir(exist_ok=True)
            download(self.web, [wheel.url], str(path), wheel.sha256)
            part = self.work / "uv.part"
            with zipfile.ZipFile(path) as archive:
                name = next(one for one in archive.namelist() if one.endswith(".data/scripts/uv"))
                part.write_bytes(archive.read(name))
            part.chmod(0o755)
            part.replace(tool)
        return str(tool)

    def need_conda(self) -> str:
        """The conda of an installer that is in the bundle, for this machine."""
        prefix = self.work / "conda"
        done = self.work / "conda.done"
        if not done.exists():
            ending = f"-Linux-{os.uname().machine}.sh"
            paths = [
                path
                for path in self.manifest["files"]
                if path.startswith(bundle.INSTALLERS) and path.endswith(ending)
            ]
            if not paths:
                raise GatherError(
                    f"no host of the fleet is {os.uname().machine}, as this machine is, so there is no "
                    f"installer whose "
                    "conda could solve for it: name another machine in bundle_host"
                )
            self.fetch(paths[:1])
            shutil.rmtree(prefix, ignore_errors=True)
            installer = Path(self.directory, paths[0])
            returncode, stdout, stderr = self.run(["bash", str(installer), "-b", "-p", str(prefix)], {}, "")
            if returncode:
                raise GatherError(f"{installer} ended with {returncode}: {(stderr or stdout).strip()[-300:]}")
            done.touch()
        return str(prefix / "bin/conda")

    # -- files

    def fetch(self, paths: Sequence[str]) -> None:
        """Those that are not there, or not as they should be; the largest first."""
        rows = self.manifest["files"]
        order = sorted(paths, key=lambda path: -rows[path]["size"])
        missing = sum(rows[path]["size"] - self.arrived(path) for path in order)
        free = wheels.free(self.directory)
        if missing > free:
            raise GatherError(
                f"{self.directory}: {missing / 1e9:.1f} GB are to be fetched, and {free / 1e9:.1f} GB are "
                "free there. Nothing was fetched. Free some, or name a larger disk in bundle_dir"
            )
        self.progress.phase(
            self.directory,
            f"fetching what is missing of {len(order)} files",
            sum(rows[path]["size"] for path in order),
            lambda: sum(map(self.arrived, order)),
        )
        with ThreadPoolExecutor(wheels.PARALLEL) as pool:
            waiting = [pool.submit(self.fetch_one, path) for path in order]
            errors = [error for error in (future.exception() for future in waiting) if error]
        for error in errors:
            if not isinstance(error, GatherError):
                raise error
        if errors:
            raise GatherError(
                f"{'; '.join(map(str, errors))}. The next run goes on with what arrived so far. What is gone "
                "there for good: bundle_refresh=true solves again without it, bundle_prune=true forgets what "
                "no host needs any more"
            )

    def arrived(self, path: str) -> int:
        """The bytes of it that are there, no more than are known to come."""
        place = Path(self.directory, path)
        for one in (place, place.with_name(f"{place.name}.part")):
            with contextlib.suppress(OSError):
                return min(one.stat().st_size, int(self.manifest["files"][path]["size"]))
        return 0

    def fetch_one(self, path: str) -> None:
        row = self.manifest["files"][path]
        dest = Path(self.directory, path)
        dest.parent.mkdir(parents=True, exist_ok=True)
        try:
            done = download(self.web, [row["url"], *row.get("mirrors", [])], str(dest), row["sha256"])
        except (DownloadError, MirrorError) as error:
            told = "; ".join(map(str, getattr(error, "failures", []))) or str(error)
            raise GatherError(f"{path}: {told}") from error
        dest.chmod(0o644)
        self.record(path, row, dest, done)

    def record(self, path: str, row: dict[str, Any], dest: Path, done: Fetched) -> None:
        size = dest.stat().st_size
        sha256 = row["sha256"] or bundle.digest(dest)
        licence = bundle.licence_of_wheel(dest) if path.startswith(f"{bundle.WHEELS}/") else row["licence"]
        with self.lock:
            if done.url != str(dest):
                self.fetched.append(path)
                self.bytes += done.size - done.resumed_from
            if (row["size"], row["sha256"], row["licence"]) != (size, sha256, licence):
                row.update(size=size, sha256=sha256, licence=licence)
                bundle.write(self.directory, self.manifest)

    # -- the whole

    def present(self, requests: Sequence[Mapping[str, Any]], channels: Sequence[str]) -> dict[str, Any]:
        path = Path(self.directory, bundle.MANIFEST)
        before = path.read_text("utf-8") if path.is_file() else ""
        if before:
            self.manifest = bundle.read(self.directory)
        # conda asks every channel that it is given, also one of which a host needs nothing.
        asked = (name for request in requests for one in request.get("channels", ()) for name in one)
        channels = [*channels, *(f"cloud/{name}" for name in asked)]
        self.manifest["channels"] = sorted({*self.manifest["channels"], *channels})
        self.work.mkdir(parents=True, exist_ok=True)
        solved, errors = [], []
        for request in requests:
            if self.known(request):
                continue
            self.progress.phase(self.directory, f"asking for {request['key']}")
            try:
                found = self.solve(request)
            except GatherError as error:
                errors.append(str(error))
                continue
            for name, row in found.files.items():
                old = self.manifest["files"].get(name)
                # A file of the same name has other content where its hash differs: the newer word counts.
                if not old or (row["sha256"] and row["sha256"] != old["sha256"]):
                    self.manifest["files"][name] = row
            entry = {
                "files": sorted(found.files),
                "carries": sorted(found.carries),
                "digest": request.get("digest", ""),
            }
            self.manifest["requests"][request["key"]] = {**entry, **request.get("note", {})}
            self.manifest["complete"] = False
            bundle.write(self.directory, self.manifest)
            solved.append(request["key"])
        if errors:
            raise GatherError("; ".join(dict.fromkeys(errors)))
        self.forget_lost()
        unneeded = self.unneeded([request["key"] for request in requests])
        self.fetch(list(self.manifest["files"]))
        removed = self.remove(unneeded) if self.params["prune"] else []
        self.manifest["complete"] = True
        bundle.write(self.directory, self.manifest)
        changed = bundle.write_indexes(self.directory, self.manifest)
        shutil.rmtree(self.work)
        return {
            "changed": changed or bool(self.fetched or removed) or before != path.read_text("utf-8"),
            "solved": solved,
            "fetched": sorted(self.fetched),
            "bytes": self.bytes,
            "unneeded": unneeded,
            "removed": removed,
        }

    def known(self, request: Mapping[str, Any]) -> bool:
        old = self.manifest["requests"].get(request["key"])
        return bool(old and old["digest"] == request.get("digest", "") and not self.params["refresh"])

    def forget_lost(self) -> None:
        """What no request needs any more and is not there whole: its mirrors may have it no longer."""
        files = self.manifest["files"]
        for name in set(files) - set(bundle.needed(self.manifest, self.manifest["requests"])):
            path = Path(self.directory, name)
            if not path.is_file() or bundle.digest(path) != files[name]["sha256"]:
                del files[name]

    def unneeded(self, keys: Sequence[str]) -> list[str]:
        """Files of requests that the fleet makes no longer, which no other needs, and those nobody knows."""
        if self.params["prune"]:
            requests = self.manifest["requests"]
            self.manifest["requests"] = {key: requests[key] for key in requests if key in keys}
        wanted = bundle.needed(self.manifest, keys)
        rest = sorted(set(self.manifest["files"]) - set(wanted))
        if self.params["prune"]:
            for path in rest:
                del self.manifest["files"][path]
        return sorted(
            {
                *rest,
                *(one for one in bundle.strays(self.directory, self.manifest) if not one.endswith(".part")),
            }
        )

    def remove(self, paths: Sequence[str]) -> list[str]:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                Path(self.directory, path).unlink()
        return list(paths)
