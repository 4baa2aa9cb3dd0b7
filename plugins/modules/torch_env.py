#!/usr/bin/python
# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: bring the environments of a host to the builds of PyTorch that the plan gives them."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: torch_env
short_description: Bring conda environments to their planned builds of PyTorch
version_added: 0.1.0
description:
  - Judges all environments of a host in one call, from the files on disk, and changes those that differ from
    the plan. Nothing else is started where none does.
  - What a change needs on each file system is known before the first download, and refused where it is short.
  - Wheels are fetched into a store that all environments share, several at a time, resumed where a transfer
    was cut, and installed from there without a network. A source that fails is named, and the next one tried.
  - What the former build brought along, and nothing needs any more, is removed. A build that cannot be
    imported, or is not the planned one, is taken back.
  - Constraints in the environment keep later calls of pip and uv from replacing the build.
options:
  environments:
    description:
      - C(environments) of the plan (docs/contracts.md). Each exists, with its Python, by
        M(torchfleet.gpu.conda_env).
    type: list
    elements: dict
    required: true
  prefix:
    description: The directory that the environments lie in.
    type: path
    required: true
  judge:
    description: Whether to change nothing, and to report as RV(environments) what differs.
    type: bool
    default: false
  tentative:
    description:
      - Whether M(torchfleet.gpu.conda_env) has begun the change, with its option of this name. A copy of an
        environment as it was is then dropped when the build works, else put back.
    type: bool
    default: false
  conda_prefix:
    description: Path of the base installation of conda.
    type: path
    default: /opt/miniconda3
  channels:
    description: Channels for what else an environment needs, after those of a conda source.
    type: list
    elements: str
    default: []
  uv:
    description: Path of the executable of uv. Left out, pip of the environment installs.
    type: path
  cache_dir:
    description:
      - Where wheels are kept, and what uv unpacked. On the file system of the environments uv makes hard
        links.
    type: path
    required: true
  sizes:
    description:
      - Bytes of builds by variant or the beginning of one, C(wheels) and C(unpacked), for what no source
        tells.
    type: dict
    default: {}
  ratio:
    description: How much larger a wheel is unpacked, by the name of its package, C(other) for the rest.
    type: dict
    default: {}
  reserve:
    description: Bytes that must stay free on each file system.
    type: int
    default: 0
  connect_timeout:
    description: Seconds to wait for an answer of a source.
    type: int
    default: 30
  probe_timeout:
    description: Seconds for the probe of a new build.
    type: int
    default: 300
  timeout:
    description: Seconds after which one run of conda, uv or pip is ended.
    type: int
    default: 7200
  lock_timeout:
    description: Seconds to wait for another run that changes the same environment.
    type: int
    default: 600
extends_documentation_fragment: [torchfleet.gpu.progress]
attributes:
  check_mode:
    description: Tells what differs; asks no source.
    support: full
  diff_mode:
    description: The packages of torch before and after.
    support: full
  platform:
    description: Operating systems that the module runs on.
    support: full
    platforms: linux
author:
  - torchfleet contributors
"""

EXAMPLES = r"""
- name: How do the environments differ from the plan?
  torchfleet.gpu.torch_env:
    environments: "{{ torchfleet_plan.environments }}"
    prefix: /opt/miniconda3/envs
    cache_dir: /opt/torchfleet/cache
    judge: true
  register: judged
"""

RETURN = r"""
environments:
  description: A row for each environment.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: always
    drift:
      description: How it differed from the plan before the run, a sentence each.
      type: list
      elements: str
      returned: always
    exists:
      description: Whether there is an environment of that name.
      type: bool
      returned: always
    python:
      description: Whether it has the planned Python, without which it must be made first.
      type: bool
      returned: always
    pip:
      description: Whether it has pip.
      type: bool
      returned: always
    source:
      description: Where the build came from.
      type: str
      returned: for a changed environment
    failures:
      description: The sources before it, and why each could not be used.
      type: list
      elements: str
      returned: for a changed environment
    need:
      description: Bytes that the change needed, C(fetch), C(cache) and C(environment).
      type: dict
      returned: for a changed environment
    packages:
      description: C(install) and C(uninstall), as name==version.
      type: dict
      returned: for a changed environment
code:
  description:
    - What kind of failure it was, such as V(disk), V(network), V(not_found), V(cpu_build), V(probe), V(busy).
  returned: failure
  type: str
"""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import (
    conda_cli,
    conda_lock,
    conda_prefix,
    pip_cli,
    torch_build,
    wheels,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import Journal, Prefix
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_snapshot import Snapshot
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import (
    DownloadError,
    MirrorError,
    Web,
    peek,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.judge import judge
from ansible_collections.torchfleet.gpu.plugins.module_utils.pip_spec import normalise
from ansible_collections.torchfleet.gpu.plugins.module_utils.probe import run_probe
from ansible_collections.torchfleet.gpu.plugins.module_utils.progress import PROGRESS_OPTIONS, Progress
from ansible_collections.torchfleet.gpu.plugins.module_utils.torch_build import CondaSource, Planned
from ansible_collections.torchfleet.gpu.plugins.module_utils.wheels import Need, Wheel

_UNWANTED_ENVIRONMENT = (
    *("CI", "CONDA_DEFAULT_ENV", "CONDA_PREFIX", "CONDA_SHLVL", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"),
    *("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_CONSTRAINT", "UV_CONSTRAINT", *pip_cli.PLACES),
)
# The next source would meet these as well.
_LOCAL_PROBLEMS = ("disk", "permission", "managed", "timeout")
# What is wrong with the build itself, whatever the driver and the GPUs are like now.
_PROBLEMS_OF_A_BUILD = (
    *("python_missing", "torch_missing", "import_failed", "probe_failed", "killed", "timeout"),
    *("wrong_torch_version", "wrong_variant", "cpu_build_on_gpu_host", "no_kernels"),
)


class Failure(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Ready(NamedTuple):
    """What is to be installed from a source, all of it known."""

    source: int
    name: str
    wheels: list[Wheel]
    need: Need
    surplus: list[str]  # what goes before it


class Change:
    """One environment that differs from the plan."""

    def __init__(self, host: TorchEnv, wanted: Planned, lock: int | None) -> None:
        self.host, self.wanted = host, wanted
        self.module = host.module
        self.params = host.module.params
        self.path = wanted.path
        self.prefix = Prefix(self.path)
        self.snapshot, self.journal = Snapshot(self.path), Journal(self.path)
        self.tried: list[str] = []
        self.code = "not_found"
        self.lock = lock
        # Changed by conda_env, which left the way back to this run.
        self.begun = self.params["tentative"] and self.snapshot.pending()
        self.protected = self.begun

    # -- what it takes

    def prepare(self, start: int = 0) -> Ready:
        """The first source from ``start`` on that has all of the build."""
        sources: Sequence[Any] = self.wanted.conda_sources or self.wanted.pip_sources
        for number in range(start, len(sources)):
            source = sources[number]
            self.host.progress.phase(self.wanted.name, f"asking {source.name}")
            try:
                if isinstance(source, CondaSource):
                    return self.prepare_conda(number, source)
                return self.prepare_pip(number, source)
            except Failure as failure:
                if failure.code in _LOCAL_PROBLEMS:
                    raise
                self.failed(source.name, str(failure), failure.code)
            except MirrorError as error:
                self.failed(source.name, str(error), "network")
            except DownloadError as error:
                self.failed(source.name, "; ".join(map(str, error.failures)) or str(error), "network")
        raise Failure(
            self.code,
            "{}: torch {} {} could not be had from any source. {} Name another in pytorch_sources".format(
                self.wanted.label,
                self.wanted.torch,
                self.wanted.variant,
                " ".join(f"{number}) {one}" for number, one in enumerate(self.tried, 1)),
            ),
        )

    def failed(self, source: str, what: str, code: str) -> None:
        self.code = code
        self.tried.append(f"{source}: {what.rstrip('. ')}.")

    def prepare_pip(self, number: int, source: pip_cli.Source) -> Ready:
        if not self.host.uv:
            need = self.host.estimate(self.wanted)
            # pip has a wheel twice while it installs, in its cache and where it unpacks.
            need = need._replace(cache=2 * need.cache)
            return Ready(number, source.name, [], need, self.going())
        # Before uv, which would follow a redirect to anywhere.
        offered = [url for place in source.find_links for url in wheels.links(self.host.web, place)]
        if source.index_url and not source.find_links:
            peek(self.host.web, f"{source.index_url.rstrip('/')}/torch/", 1)
        # All that the build needs for its CUDA, what is there already too.
        again = reinstall_options(sorted(torch_build.of_build(self.prefix)))
        options = ["--dry-run", *self.reinstall(), *again, "--", *self.texts()]
        stdout, stderr = self.run_uv("install", source, options)
        build = [one.split("==", 1) for one in pip_cli.would_install(stdout, stderr)]
        going = torch_build.surplus(self.prefix, [normalise(name) for name, _ in build])
        there = self.untouched(going)
        releases = [one for one in build if there.get(normalise(one[0])) != one[1]]
        found = self.flat(offered, releases)
        rest = [one for one in releases if normalise(one[0]) not in {wheel.name for wheel in found}]
        if rest:
            pins = "".join(f"{name}==={version}\n" for name, version in rest)
            options = ["--no-deps", "--format", "pylock.toml", "--no-header", "--no-annotate", "--quiet", "-"]
            stdout, _ = self.run_uv("compile", source, options, pins)
            found += wheels.read_pylock(stdout)
        missing = {normalise(name) for name, _ in releases} - {wheel.name for wheel in found}
        if missing:
            raise Failure("not_found", "no wheel of {}".format(", ".join(sorted(missing))))
        found = wheels.measured(self.host.web, found)
        return Ready(number, source.name, found, self.host.need(found, self.path), going)

    def flat(self, offered: Sequence[str], releases: Sequence[Sequence[str]]) -> list[Wheel]:
        """A flat listing has no hashes: to make a lock of it uv would fetch everything that is in it."""
        machine = os.uname().machine
        found = [
            wheels.among(offered, normalise(name), version, self.wanted.python, machine)
            for name, version in releases
        ]
        return [wheel for wheel in found if wheel]

    def prepare_conda(self, number: int, source: CondaSource) -> Ready:
        document = self.run_conda("install", source, ["--dry-run"])
        actions = document.get("actions")
        rows = actions if isinstance(actions, dict) else {}
        size = sum(int(row.get("size") or 0) for row in rows.get("FETCH") or [] if isinstance(row, dict))
        estimate = self.host.estimate(self.wanted)
        ratio = float(self.params["ratio"].get("other", 1))
        # conda's cache keeps the package beside what it unpacked, and links that into the environment.
        need = (
            Need(size, size + int(size * ratio), 0)
            if size
            else estimate
            if rows.get("LINK")
            else Need(0, 0, 0)
        )
        return Ready(number, source.name, [], need, self.going())

    def going(self) -> list[str]:
        """What goes before pip or conda, which do not tell what the build will need of it."""
        torch = self.prefix.dists.get("torch")
        version = torch.version if torch else None
        replaced = (
            any(not one.satisfied(version, None) for one in self.wanted.requirements if one.name == "torch")
            or torch_build.damaged(self.prefix)
            or torch_build.of_other_method(self.wanted, self.prefix)[1]
            or self.reinstall()
        )
        return torch_build.surplus(self.prefix, ()) if replaced else torch_build.leftovers(self.prefix)

    def untouched(self, going: Sequence[str]) -> dict[str, str]:
        """The versions of what the build has for its CUDA that is whole, also when ``going`` are gone."""
        if self.interrupted():
            return {}
        broken = torch_build.damaged(self.prefix, going)
        whole = torch_build.of_build(self.prefix) - set(broken)
        return {name: self.prefix.dists[name].version for name in whole}

    def reinstall(self) -> list[str]:
        """A build of the right version that is not the right one, such as a CPU build from PyPI."""
        if self.interrupted():
            return ["--reinstall"]
        again = {*torch_build.PACKAGES} & {*torch_build.damaged(self.prefix)}
        cuda = torch_build.cuda_of(self.prefix.dists.get("torch"))
        if cuda is not None and cuda != (self.wanted.cuda or "cpu"):
            again.add("torch")
        return reinstall_options(sorted(again))

    def texts(self) -> list[str]:
        return [one.text for one in self.wanted.requirements]

    # -- doing it

    def interrupted(self) -> bool:
        return not self.begun and (self.snapshot.leftovers() or self.journal.read() is not None)

    def recover(self) -> None:
        """Takes back what a killed run had begun, and removes what it left."""
        if self.begun:
            return
        if self.snapshot.pending():
            self.snapshot.restore()
            self.journal.remove()
        elif self.snapshot.leftovers():
            if os.path.lexists(self.snapshot.path):
                self.snapshot.drop()
            self.snapshot.clear()
        self.prefix = Prefix(self.path)

    def run(self, ready: Ready) -> dict[str, Any]:
        while True:
            try:
                self.fetch(ready)
                break
            except (MirrorError, DownloadError) as error:
                failures = getattr(error, "failures", [])
                if isinstance(error, DownloadError) and not failures:
                    raise Failure("disk", f"{self.wanted.label}: {error}") from error
                self.failed(ready.name, "; ".join(map(str, failures)) or str(error), "network")
                ready = self.prepare(ready.source + 1)
                self.host.check_disk([self], [ready])
        before = self.prefix
        if not self.protected and self.snapshot.possible():
            self.snapshot.take()
            self.protected = True
        if not self.protected:
            self.journal.write("pip")
        self.install(ready, before)
        if self.protected:
            self.snapshot.drop()
            self.protected = False
        self.journal.remove()
        return self.told(ready, before)

    def take_back(self) -> bool:
        """Whether there was anything to take back."""
        protected, self.protected = self.protected, False
        if protected:
            self.snapshot.restore()
        return protected

    def told(self, ready: Ready, before: Prefix) -> dict[str, Any]:
        if self.tried:
            self.module.warn(
                conda_lock.masked(f"{self.wanted.label}: {ready.name} was used; {' '.join(self.tried)}")
            )
        brought = torch_build.brought({*before.dists, *Prefix(self.path).dists})
        one = torch_build.listing(before, sorted(brought))
        two = torch_build.listing(Prefix(self.path), sorted(brought))
        return {
            "source": ready.name,
            "failures": [conda_lock.masked(one) for one in self.tried],
            "need": dict(ready.need._asdict()),
            "packages": {
                "install": [line for line in two if line not in one],
                "uninstall": [line for line in one if line not in two],
            },
        }

    def fetch(self, ready: Ready) -> None:
        if not ready.wheels:
            return
        store = self.host.store
        missing = [wheel for wheel in ready.wheels if wheel.remote and not store.has(wheel)]
        total = sum(wheel.size or 0 for wheel in missing)
        self.host.progress.phase(
            self.wanted.name,
            f"fetching {len(missing)} wheels from {ready.name}",
            total,
            lambda: sum(map(store.arrived, missing)),
        )
        store.fetch(self.host.web, [wheel for wheel in ready.wheels if wheel.remote])

    def install(self, ready: Ready, before: Prefix) -> None:
        by_conda, by_pip = torch_build.of_other_method(self.wanted, before)
        if by_conda:
            names = sorted({*by_conda, *torch_build.conda_surplus(before)})
            self.run_conda("remove", None, ["--force-remove", *names])
        # Before the new ones come: they have files in common.
        if by_pip or ready.surplus:
            self.uninstall([*by_pip, *ready.surplus])
        self.host.progress.phase(
            self.wanted.name, "installing", ready.need.fetch or None, self.counter(ready)
        )
        if self.wanted.conda_sources:
            self.run_conda("install", self.wanted.conda_sources[ready.source], [])
        elif ready.wheels:
            self.install_wheels(ready)
        elif self.host.uv is None:
            self.install_with_pip(self.wanted.pip_sources[ready.source])
        torch_build.constrain(Prefix(self.path))
        # By the former record what is left over is found.
        self.verify(Prefix(self.path))
        torch_build.record(Prefix(self.path))

    def counter(self, ready: Ready) -> Any:
        """What grows while conda or pip fetches; they do not say how far they are."""
        if ready.wheels or not ready.need.fetch:
            return None
        grows = (
            f"{self.params['conda_prefix']}/pkgs" if self.wanted.conda_sources else self.params["cache_dir"]
        )
        start = wheels.free(grows)
        return lambda: max(0, start - wheels.free(grows))

    def verify(self, prefix: Prefix) -> None:
        differs = torch_build.drift(self.wanted, prefix)
        if differs:
            cpu = self.wanted.cuda and torch_build.cuda_of(prefix.dists.get("torch")) == "cpu"
            raise Failure(
                "cpu_build" if cpu else "not_converged",
                f"{self.wanted.label}: the installation ended with success, but: {'; '.join(differs)}. Look "
                "for packages in it that demand another version.",
            )
        self.host.progress.phase(self.wanted.name, "trying the build")
        expect = {"torch": self.wanted.torch, "variant": self.wanted.variant}
        if self.wanted.cuda:
            expect["cuda"] = self.wanted.cuda
        timeout = self.params["probe_timeout"]
        told = run_probe(prefix.python, timeout)
        result = judge(told, self.wanted.name, prefix.python, expect, False, timeout)
        wrong = [one for one in result["problems"] if one["code"] in _PROBLEMS_OF_A_BUILD]
        if wrong:
            cpu = self.wanted.cuda and result["torch"] and not result["cuda"]
            raise Failure(
                "cpu_build" if cpu else "probe",
                "{}: {}the new build does not work: {}".format(
                    self.wanted.label,
                    "a CPU build came in place of one for CUDA; " if cpu else "",
                    "; ".join("{what}: {found}; expected {expected}; {fix}.".format(**one) for one in wrong),
                ),
            )

    def install_wheels(self, ready: Ready) -> None:
        store = self.host.store
        places = sorted({str(store.directory(wheel)) for wheel in ready.wheels})
        arguments = ["--no-deps", "--no-index", "--offline"]
        arguments += reinstall_options([wheel.name for wheel in ready.wheels])
        arguments += [word for place in places for word in ("--find-links", place)]
        if self.host.linked:
            arguments += ["--link-mode", "hardlink"]
        pins = [f"{wheel.name}==={wheel.version}" for wheel in ready.wheels]
        self.run_uv("install", None, [*arguments, "--", *pins])
        store.unpacked(ready.wheels)

    def install_with_pip(self, source: pip_cli.Source) -> None:
        configuration = pip_cli.pip_configuration(self.path, os.environ)
        options = ["--only-binary=:all:", *pip_cli.carried_options(configuration)]
        options += ["--force-reinstall"] if self.reinstall() else []
        command = pip_cli.pip_command(
            self.prefix.python, source, self.params["cache_dir"], [*options, "--", *self.texts()]
        )
        # /tmp may be in memory, and is not where the disk was looked at; a killed pip leaves its files there.
        temporary = Path(self.params["cache_dir"], "tmp", self.wanted.name)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            self.checked(command, {"PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(temporary)})
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def uninstall(self, names: Sequence[str]) -> None:
        python = self.prefix.python
        head = [self.host.uv, "pip", "uninstall", "--python", python] if self.host.uv else []
        command = head or [python, "-m", "pip", "uninstall", "-y", "--disable-pip-version-check"]
        self.checked([*command, *names], {})

    # -- commands

    def run_uv(
        self,
        verb: str,
        source: pip_cli.Source | None,
        arguments: Sequence[str],
        stdin: str | None = None,
    ) -> tuple[str, str]:
        uv = str(self.host.uv)
        origin = source or pip_cli.Source("the store", None, (), (), False)
        command = pip_cli.uv_command(
            uv,
            self.prefix.python,
            origin,
            str(Path(self.params["cache_dir"], "uv")),
            ["--no-config", "--only-binary", ":all:", *arguments],
            verb,
        )
        configuration = pip_cli.pip_configuration(self.path, os.environ)
        return self.checked(command, pip_cli.uv_environment(configuration, os.environ), stdin)

    def checked(
        self, command: Sequence[str], environment: dict[str, str], stdin: str | None = None
    ) -> tuple[str, str]:
        returncode, stdout, stderr = self.command(command, environment, stdin)
        if returncode:
            problem = conda_cli.pip_problem(returncode, stdout, stderr)
            raise Failure(problem.code, f"{self.wanted.label}: {problem}")
        return stdout, stderr

    def command(
        self, command: Sequence[str], environment: dict[str, str], stdin: str | None = None
    ) -> tuple[int, str, str]:
        timeout = [self.module.get_bin_path("timeout", required=True), "--kill-after=30"]
        result: tuple[int, str, str] = self.module.run_command(
            [*timeout, str(self.params["timeout"]), *command],
            environ_update={"NO_COLOR": "1", "PYTHONNOUSERSITE": "1", **environment},
            umask=0o022,
            data=stdin,
            pass_fds=() if self.lock is None else (self.lock,),
            errors="replace",
        )
        return result

    def run_conda(self, verb: str, source: CondaSource | None, arguments: Sequence[str]) -> dict[str, Any]:
        conda = f"{self.params['conda_prefix'].rstrip('/')}/bin/conda"
        channels: list[str] = []
        specs: list[str] = []
        environment = {"CONDA_REPORT_ERRORS": "false"}
        if source:
            places = dict.fromkeys([*source.channels, *self.params["channels"]])
            channels = ["--override-channels", *(word for place in places for word in ("-c", place))]
            python = self.prefix.conda.get("python")
            specs = [*(spec.text for spec in source.specs), *([f"python={python.version}"] if python else [])]
            if source.cuda:
                # A host without a GPU or a driver has no __cuda of its own.
                environment["CONDA_OVERRIDE_CUDA"] = source.cuda
        command = [conda, verb, "-p", self.path, "-y", "-q", "--json", *channels, *arguments, *specs]
        returncode, stdout, stderr = self.command(command, environment)
        problem = conda_cli.conda_problem(returncode, stdout, stderr, specs)
        if problem is None:
            return conda_cli.parse_json(stdout)
        what = f"conda {verb}: {problem}"
        if source and source.cuda and problem.code in ("not_found", "conflict"):
            what += f" A build for CUDA {source.cuda} is required; a CPU build is not taken in its place."
        raise Failure(problem.code, what)


class TorchEnv:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        params = module.params
        self.wanted: list[Planned] = []
        for given in params["environments"]:
            try:
                self.wanted.append(torch_build.planned(given, params["prefix"].rstrip("/")))
            except (KeyError, ValueError) as error:
                raise Failure("bad_input", f"environments: {error}") from error
        self.uv: str | None = params["uv"]
        self.store = wheels.Store(params["cache_dir"])
        self.linked = self.uv is not None and wheels.same_file_system(params["cache_dir"], params["prefix"])
        self.progress = Progress(None if module.check_mode or params["judge"] else params["progress"])
        self._web: Web | None = None

    @property
    def web(self) -> Web:
        if self._web is None:
            self._web = Web(self.module.params["connect_timeout"])
        return self._web

    def run(self) -> NoReturn:
        rows = [self.row(wanted) for wanted in self.wanted]
        differ = [wanted for wanted, row in zip(self.wanted, rows) if row["drift"]]
        if not differ or self.module.params["judge"] or self.module.check_mode:
            changed = bool(differ) and not self.module.params["judge"]
            self.leave(changed, rows, [])
        by_name = {row["name"]: row for row in rows}
        before: list[str] = []
        with contextlib.ExitStack() as locks:
            changes = []
            for wanted in differ:
                wait = self.module.params["lock_timeout"]
                change = Change(self, wanted, locks.enter_context(conda_prefix.locked(wanted.path, wait)))
                change.recover()
                before += [f"{wanted.name} {line}" for line in torch_build.listing(change.prefix)]
                # Another run may have made it what it should be, or what was taken back was that.
                if change.begun or torch_build.drift(wanted, change.prefix):
                    changes.append(change)
            try:
                readies = [change.prepare() for change in changes]
                # All of it before the first download, so that no environment is left half way.
                self.check_disk(changes, readies)
                for change, ready in zip(changes, readies):
                    by_name[change.wanted.name].update(change.run(ready))
            except BaseException as error:
                taken_back = [change for change in changes if change.take_back()]
                if taken_back and isinstance(error, Failure):
                    raise Failure(error.code, f"{error} The environment was put back as it was.") from error
                raise
        self.leave(True, rows, before)

    def row(self, wanted: Planned) -> dict[str, Any]:
        change = Change(self, wanted, None)
        pending = change.snapshot.pending() and not change.begun
        prefix = Prefix(str(change.snapshot.path)) if pending else change.prefix
        drift = torch_build.drift(wanted, prefix)
        if change.begun:
            drift.insert(0, "the change of its Python is not finished")
        if change.interrupted():
            drift.insert(0, "an earlier change of it was interrupted")
        python = prefix.conda.get("python")
        fits = bool(python and (python.version + ".").startswith(wanted.python + "."))
        has = {"exists": prefix.whole, "python": fits, "pip": "pip" in prefix.dists}
        return {"name": wanted.name, "drift": drift, **has}

    # -- disk

    def need(self, found: Sequence[Wheel], path: str) -> Need:
        linked = self.linked and wheels.same_file_system(self.module.params["cache_dir"], path)
        return self.store.need(found, self.module.params["ratio"], linked)

    def estimate(self, wanted: Planned) -> Need:
        """From what is known of builds of this kind: the longest beginning of the variant counts."""
        sizes = self.module.params["sizes"]
        fitting = sorted((key for key in sizes if wanted.variant.startswith(key)), key=len)
        if not fitting:
            return Need(0, 0, 0)
        size = sizes[fitting[-1]]
        return Need(size["wheels"], size["wheels"], size["unpacked"])

    def check_disk(self, changes: Sequence[Change], readies: Sequence[Ready]) -> None:
        places: dict[int, dict[str, Any]] = {}

        def add(path: str, size: int, what: str) -> None:
            there = wheels.existing(path)
            place = places.setdefault(Path(there).stat().st_dev, {"path": there, "size": 0, "what": []})
            place["size"] += size
            if size:
                place["what"].append(f"{what} {gigabytes(size)}")

        cache = self.module.params["cache_dir"]
        shared = {wheel: None for ready in readies for wheel in ready.wheels}
        if shared:
            need = self.store.need(list(shared), self.module.params["ratio"], True)
            add(cache, need.fetch, "wheels to fetch")
            add(cache, need.cache - need.fetch, "their content unpacked")
        for change, ready in zip(changes, readies):
            if not ready.wheels:
                into = f"{self.module.params['conda_prefix']}/pkgs" if change.wanted.conda_sources else cache
                add(into, ready.need.cache, f"packages of {change.wanted.name}")
            add(change.path, ready.need.environment, f"environment {change.wanted.name}")
        for place in places.values():
            space, reserve = wheels.free(place["path"]), self.module.params["reserve"]
            if place["size"] and place["size"] + reserve > space:
                raise Failure(
                    "disk",
                    "{}: {} are needed on the file system of {} ({}{}), and {} are free. Nothing was "
                    "fetched. Free some, or name another pytorch_cache_dir".format(
                        ", ".join(change.wanted.label for change in changes),
                        gigabytes(place["size"] + reserve),
                        place["path"],
                        ", ".join(place["what"]),
                        f", reserve {gigabytes(reserve)}" if reserve else "",
                        gigabytes(space),
                    ),
                )

    # -- results

    def leave(self, changed: bool, rows: list[dict[str, Any]], before: list[str]) -> NoReturn:
        self.progress.stop()
        for row in rows:
            row["drift"] = [conda_lock.masked(one) for one in row["drift"]]
        result: dict[str, Any] = {"changed": changed, "environments": rows}
        if self.module._diff:
            after = [
                f"{one.name} {line}" for one in self.wanted for line in torch_build.listing(Prefix(one.path))
            ]
            drifted = [f"{row['name']}: {line}" for row in rows for line in row["drift"]]
            done = changed and not self.module.check_mode
            result["diff"] = {
                "before": "".join(line + "\n" for line in (before if done else drifted)),
                "after": "".join(line + "\n" for line in (after if done else [])),
            }
        self.module.exit_json(**result)
        raise AssertionError("exit_json came back")


def reinstall_options(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--reinstall-package", name)]


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _fail(module: AnsibleModule, code: str, message: str, env: TorchEnv | None = None) -> NoReturn:
    if env:
        env.progress.stop()
    module.fail_json(msg=conda_lock.masked(message), code=code)
    raise AssertionError("fail_json came back")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "environments": {"type": "list", "elements": "dict", "required": True},
            "prefix": {"type": "path", "required": True},
            "judge": {"type": "bool", "default": False},
            "tentative": {"type": "bool", "default": False},
            "conda_prefix": {"type": "path", "default": "/opt/miniconda3"},
            "channels": {"type": "list", "elements": "str", "default": []},
            "uv": {"type": "path"},
            "cache_dir": {"type": "path", "required": True},
            "sizes": {"type": "dict", "default": {}},
            "ratio": {"type": "dict", "default": {}},
            "reserve": {"type": "int", "default": 0},
            **PROGRESS_OPTIONS,
            "connect_timeout": {"type": "int", "default": 30},
            "probe_timeout": {"type": "int", "default": 300},
            "timeout": {"type": "int", "default": 7200},
            "lock_timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    texts = [str(module.params[key]) for key in ("environments", "channels")]
    module.no_log_values.update(one for one in conda_lock.secrets(texts) if len(one) > 2)
    for variable in _UNWANTED_ENVIRONMENT:
        os.environ.pop(variable, None)
    # conda asks, and gives up with status 0, on an open but empty stdin.
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    os.umask(0o022)
    env: TorchEnv | None = None
    try:
        env = TorchEnv(module)
        env.run()
    except Failure as error:
        _fail(module, error.code, str(error), env)
    except conda_prefix.PrefixError as error:
        _fail(module, "bad_input", str(error), env)
    except conda_prefix.Busy as error:
        _fail(module, "busy", f"{error}. Try again when it has ended", env)
    except OSError as error:
        codes = {
            **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "disk"),
            **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "permission"),
        }
        code = codes.get(error.errno or 0, "unknown")
        _fail(module, code, f"torch_env: {error}. {conda_cli.fix_for(code)}", env)


if __name__ == "__main__":
    main()
