#!/usr/bin/python
# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: converge one conda environment, its conda and its pip packages."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: conda_env
short_description: Converge one conda environment, its conda and its pip packages
version_added: 0.1.0
description:
  - Makes one environment hold what is asked for, in one call. What is installed already is read from the
    environment's own files in milliseconds; conda, uv and pip are started only for a change.
  - Packages that satisfy the wish are left as they are, and packages that are not named stay.
  - A change is made under a lock for the environment, which ends with the last process that holds it, and
    under a journal, from which the next run repairs what a killed run left.
  - Never runs C(conda create) on an existing environment, which would delete it, and never removes a
    directory that is not a conda environment.
options:
  name:
    description:
      - Name of the environment, below C(envs) of O(conda_prefix). Letters, digits and C(_.+-).
      - Exactly one of O(name) and O(prefix) is needed. V(base) and V(root) are refused.
    type: str
  prefix:
    description:
      - Absolute path of the environment, without blanks and at most 110 characters long.
    type: path
  conda_prefix:
    description:
      - Path of the base installation, with C(bin/conda) in it.
    type: path
    default: /opt/miniconda3
  state:
    description:
      - V(present) creates the environment or adds to it, V(absent) removes it.
    type: str
    choices: [present, absent]
    default: present
  python:
    description:
      - Version of Python, such as V(3.11) or V(3.11.7). Left out, Python is not managed here.
      - A change of the minor version changes the environment in place; the packages in O(pip) are installed
        again for the new version.
    type: str
  packages:
    description:
      - Conda packages as MatchSpecs, such as V(numpy), V(numpy>=1.26,<2), V(conda-forge::ripgrep=14).
    type: list
    elements: str
    default: []
  channels:
    description:
      - Channels to use instead of the configured ones, in order. Empty means the configured ones.
    type: list
    elements: str
    default: []
  pip:
    description:
      - Python packages as requirements of PEP 508, such as V(torch==2.13.0+cpu).
      - Python, and pip where uv is not used, are added to the environment when it lacks them.
    type: list
    elements: str
    default: []
  pip_sources:
    description:
      - Where to get O(pip) from. The next one is tried when one fails.
      - Empty means the configuration of pip, which is passed on when uv installs.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What to call it in messages.
        type: str
        required: true
      index_url:
        description: A PEP 503 index. Left out, the configured one.
        type: str
      extra_index_urls:
        description: Further indexes, of the same rank.
        type: list
        elements: str
        default: []
      find_links:
        description: Directories, or pages of links, with wheels.
        type: list
        elements: str
        default: []
      no_index:
        description: Whether to use O(pip_sources[].find_links) alone.
        type: bool
        default: false
  pip_installer:
    description:
      - V(auto) is V(uv) where its executable is found and V(pip) of the environment otherwise.
    type: str
    choices: [auto, uv, pip]
    default: auto
  uv:
    description:
      - Path of the executable of uv. Left out, the first one on C(PATH), then C(bin/uv) of O(conda_prefix).
    type: path
  cache_dir:
    description:
      - Cache of uv or pip. Left out, their default.
      - On the file system of the environment uv makes hard links instead of copies.
    type: path
  timeout:
    description:
      - Seconds after which one run of conda, uv or pip is ended.
    type: int
    default: 7200
  lock_timeout:
    description:
      - Seconds to wait for another run that changes the same environment.
    type: int
    default: 600
attributes:
  check_mode:
    description: Solves without installing. Where conda or the environment does not exist yet, tells the wish.
    support: full
  diff_mode:
    description: The packages of the environment before and after.
    support: full
  platform:
    description: Operating systems that the module runs on.
    support: full
    platforms: linux
notes:
  - Works with conda 23.3 to 26.x, with any solver. On the host Python 3.8 or newer is enough.
  - In check mode conda may refresh its cache of indexes.
  - Name passwords of an index in C(~/.netrc), not in its URL; messages hide those in URLs.
author:
  - torchfleet contributors
"""

EXAMPLES = r"""
- name: An environment for PyTorch on a CPU
  torchfleet.gpu.conda_env:
    name: torch
    python: "3.11"
    packages: ["numpy>=1.26,<3"]
    pip: ["torch==2.13.0+cpu"]
    pip_sources:
      - name: site
        find_links: [https://wheels.example.org/]
      - name: nju
        index_url: https://mirror.nju.edu.cn/pytorch/whl/cpu
        extra_index_urls: [https://pypi.tuna.tsinghua.edu.cn/simple]

- name: No environment called old
  torchfleet.gpu.conda_env:
    name: old
    state: absent
"""

RETURN = r"""
prefix:
  description: Path of the environment.
  returned: always
  type: str
reasons:
  description: Why something was changed, one sentence each. Empty when nothing was.
  returned: always
  type: list
  elements: str
actions:
  description: What was changed, or would be. Conda packages as name-version-build, others as name==version.
  returned: success
  type: dict
  sample:
    conda: {link: [python-3.11.7-h955ad1f_0], unlink: []}
    pip: {install: ["torch==2.13.0+cpu"], uninstall: []}
installer:
  description: V(uv) or V(pip), whichever O(pip) is installed with.
  returned: when O(pip) is not empty
  type: str
code:
  description:
    - What kind of failure it was, such as V(bad_input), V(not_found), V(conflict), V(network), V(disk),
      V(permission), V(busy).
  returned: failure
  type: str
"""

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any, Iterator, NamedTuple, NoReturn, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import (
    conda_cli,
    conda_prefix,
    conda_spec,
    pip_cli,
    pip_spec,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import Journal, Prefix

# Of a login shell with an active environment, or of a CI job: each would change what conda or pip does.
_UNWANTED_ENVIRONMENT = (
    "CI",
    "CONDA_DEFAULT_ENV",
    "CONDA_PREFIX",
    "CONDA_SHLVL",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
# The next source would meet these as well.
_LOCAL_PROBLEMS = ("disk", "permission", "managed", "timeout")


class Decision(NamedTuple):
    """What is missing. C(None) of a specification (only conda or pip can tell) counts as open."""

    specs: list[conda_spec.MatchSpec]
    requirements: list[pip_spec.Requirement]
    failed: list[str]  # surely unsatisfied
    reasons: list[str]


class Failure(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CondaEnv:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        params = module.params
        self.conda_prefix: str = params["conda_prefix"].rstrip("/")
        self.conda = f"{self.conda_prefix}/bin/conda"
        problems: list[str] = []
        self.specs, self.requirements = _wish(params, problems)
        self.channels = _channels(params["channels"], problems)
        try:
            self.path = conda_prefix.resolve_prefix(params["name"], params["prefix"], self.conda_prefix)
        except conda_prefix.PrefixError as error:
            problems.insert(0, str(error))
        if problems:
            raise Failure("bad_input", "; ".join(problems))
        self.label = "environment {}".format(
            "{} ({})".format(params["name"], self.path) if params["name"] else self.path
        )
        self.journal = Journal(self.path)
        self.sources = [pip_cli.source(given) for given in params["pip_sources"]]
        self.uv = self._find_uv() if self.requirements and params["state"] == "present" else None
        self.reasons: list[str] = []
        self.interrupted: str | None = None
        self.mended = False
        self.lock: int | None = None
        self.done: list[str] = []

    # -- deciding

    def decide(self, prefix: Prefix) -> Decision:
        requirements: list[pip_spec.Requirement] = []
        failed: list[str] = []
        reasons: list[str] = []
        for requirement in self.requirements:
            dist = prefix.dists.get(requirement.name)
            url = dist.url() if dist and requirement.url else None
            verdict = requirement.satisfied(dist.version if dist else None, url)
            if verdict is not True:
                requirements.append(requirement)
                reasons.append(
                    _reason(requirement.text, dist and f"{dist.name} {dist.version}", verdict, "pip")
                )
            if verdict is False:
                failed.append(requirement.text)
        specs: list[conda_spec.MatchSpec] = []
        for spec in self.conda_wish(prefix, bool(requirements)):
            record = prefix.conda.get(spec.name)
            verdict = spec.matches(record) if record else False
            if verdict is not True:
                specs.append(spec)
                found = record and "{} {} {}".format(*record[:3])
                reasons.insert(len(specs) - 1, _reason(spec.text, found, verdict, "conda"))
            if verdict is False:
                failed.append(spec.text)
        return Decision(specs, requirements, failed, reasons)

    def conda_wish(self, prefix: Prefix, pip_is_needed: bool) -> list[conda_spec.MatchSpec]:
        wish = list(self.specs)
        named = {spec.name for spec in wish}
        if self.requirements and "python" not in named:
            wish.append(conda_spec.parse("python"))
        if pip_is_needed and not self.uv and "pip" not in named and "pip" not in prefix.dists:
            wish.append(conda_spec.parse("pip"))
        return wish

    def _find_uv(self) -> str | None:
        wanted, given = self.module.params["pip_installer"], self.module.params["uv"]
        if wanted == "pip":
            return None
        beside = f"{self.conda_prefix}/bin/uv"
        if given:
            found = given if os.access(given, os.X_OK) and Path(given).is_file() else None
        else:
            found = self.module.get_bin_path("uv") or (beside if os.access(beside, os.X_OK) else None)
        if not found and not self.module.check_mode and (wanted == "uv" or given):
            raise Failure(
                "bad_input",
                "no executable uv at {}: install it, correct uv, or set pip_installer=pip".format(
                    given or "PATH or " + beside
                ),
            )
        return found

    # -- the two states

    def run(self) -> None:
        if self.module.params["state"] == "absent":
            self.absent()
        else:
            self.present()

    def present(self) -> None:
        before = Prefix(self.path)
        decision = self.decide(before)
        if (
            before.whole
            and not decision.reasons
            and not before.broken_records
            and self.journal.read() is None
        ):
            self.exit(before, before.listing() if self.module._diff else [], changed=False)
        if self.module.check_mode:
            self.predict(before, decision)
        if not before.exists:
            # Before the lock: no file may lie where conda is to be installed.
            self.need_conda()
        with conda_prefix.locked(self.path, self.module.params["lock_timeout"]) as self.lock:
            before = Prefix(self.path)
            listing = before.listing()
            self.interrupted = self.journal.read()
            repaired = self.prepare(before)
            if repaired == "removed":
                before, self.interrupted = Prefix(self.path), None
            self.converge(before)
            self.journal.remove()
            after = Prefix(self.path)
            changed = bool(repaired) or self.mended or after.listing() != listing
            self.exit(after, listing, changed)

    def prepare(self, prefix: Prefix) -> str:
        """Clears what an interrupted change left. Answers what was done: removed, repaired or nothing."""
        if not prefix.exists:
            return ""
        if self.interrupted == "remove" or (not prefix.whole and self.is_debris(prefix)):
            empty = f"{self.path} is empty"
            self.reasons.append(self.interruption() if self.interrupted else empty)
            if not self.module.check_mode:
                self.remove_tree()
            return "removed"
        if not prefix.whole:
            raise Failure("not_an_environment", self.foreign())
        if prefix.broken_records:
            self.reasons.append(
                "unreadable records of packages: {}".format(
                    ", ".join(path.name for path in prefix.broken_records)
                )
            )
            if not self.module.check_mode:
                for path in prefix.broken_records:
                    path.unlink()
            return "repaired"
        return ""

    def is_debris(self, prefix: Prefix) -> bool:
        ours = self.interrupted == "create" and Path(self.path).is_dir() and not Path(self.path).is_symlink()
        return ours or prefix.is_empty()

    def interruption(self) -> str:
        return f"an earlier run was interrupted during its {self.interrupted}"

    def foreign(self) -> str:
        return (
            f"{self.label}: {self.path} exists, but is not a conda environment (no conda-meta/history) and "
            "was not left by an interrupted run of this module, so it is not touched. Remove it, move it "
            "away or name another prefix"
        )

    def converge(self, prefix: Prefix) -> None:
        if not prefix.exists:
            self.reasons.append(f"{self.path} does not exist")
            self.create(prefix)
        else:
            self.change(prefix)
        prefix = Prefix(self.path)
        decision = self.decide(prefix)
        damaged = self.damaged_dists(prefix) if self.interrupted else []
        if decision.requirements or (self.interrupted and self.requirements):
            self.reasons += [reason for reason in decision.reasons if reason not in self.reasons]
            self.install_pip(prefix, damaged)
            decision = self.decide(Prefix(self.path))
        if decision.failed:
            raise Failure(
                "not_converged",
                "{}: conda and {} ended with success, but {} is still not satisfied. Look at pinned packages "
                "(conda-meta/pinned) and at packages that demand another version".format(
                    self.label, self.installer, ", ".join(decision.failed)
                ),
            )

    def create(self, prefix: Prefix) -> None:
        self.need_conda()
        specs = [spec.text for spec in self.conda_wish(prefix, bool(self.requirements))]
        self.journal.write("create")
        try:
            self.run_conda("create", specs)
        except Failure:
            # There was none before, and conda may leave half of one, even with a history (24.7, full disk).
            self.remove_tree()
            self.journal.remove()
            raise
        if not Prefix(self.path).whole:
            raise Failure(
                "not_converged",
                f"{self.label}: conda create ended with success, but made no environment. "
                "Look for create_default_packages and aliases in the configuration of conda",
            )
        self.done.append("the conda part")

    def change(self, prefix: Prefix) -> None:
        decision = self.decide(prefix)
        self.reasons += decision.reasons
        damaged = []
        if self.interrupted:
            self.reasons.append(self.interruption())
            damaged = ["{}={}={}".format(*record[:3]) for record in prefix.missing_files()[0]]
            if damaged:
                self.mended = True
                self.reasons.append("files are missing of {}".format(", ".join(damaged)))
        specs = [spec.text for spec in decision.specs]
        if not specs and not damaged and not prefix.broken_records and self.interrupted in (None, "pip"):
            return
        if self.interrupted or prefix.broken_records:
            specs = [spec.text for spec in self.conda_wish(prefix, bool(decision.requirements))]
        if not specs and not damaged:
            return
        self.need_conda()
        force = ["--force-reinstall"] if damaged else []
        with self.under_journal("install"):
            self.run_conda("install", force + damaged + specs)
            # The solver may have moved a package that was not named in this call.
            broken = [spec for spec in self.decide(Prefix(self.path)).specs if spec.text not in specs]
            if broken:
                self.run_conda(
                    "install", [spec.text for spec in self.conda_wish(prefix, bool(decision.requirements))]
                )
        self.done.append("the conda part")

    @contextlib.contextmanager
    def under_journal(self, operation: str) -> Iterator[None]:
        listing = Prefix(self.path).listing()
        self.journal.write(operation)
        try:
            yield
        except Failure as failure:
            # Nothing happened, or conda took it back: the next run need not doubt the environment.
            untouched = failure.code not in _LOCAL_PROBLEMS and Prefix(self.path).listing() == listing
            if untouched and self.interrupted is None:
                self.journal.remove()
            raise

    def damaged_dists(self, prefix: Prefix) -> list[str]:
        """Takes the records of broken distributions away, so that pip and uv install them again."""
        damaged = prefix.missing_files()[1]
        for dist in damaged:
            self.mended = True
            self.reasons.append(f"files are missing of {dist.name} {dist.version}")
            shutil.rmtree(dist.path)
        wanted = {requirement.name for requirement in self.requirements}
        return [f"{dist.name}=={dist.version}" for dist in damaged if dist.name not in wanted]

    def absent(self) -> None:
        before = Prefix(self.path)
        if not before.exists and self.journal.read() is None:
            self.exit(before, [], changed=False)
        if self.module.check_mode:
            self.interrupted = self.journal.read()
            if before.exists:
                self.check_removable(before)
                self.reasons.append(f"{self.path} exists")
            self.exit(Prefix(os.devnull), before.listing(), changed=before.exists)
        with conda_prefix.locked(self.path, self.module.params["lock_timeout"]) as self.lock:
            before = Prefix(self.path)
            listing = before.listing()
            self.interrupted = self.journal.read()
            if before.exists:
                self.check_removable(before)
                self.reasons.append(f"{self.path} exists")
                # What an interrupted run left is no environment that conda could read.
                if before.whole and self.interrupted is None:
                    self.need_conda()
                    with self.under_journal("remove"):
                        self.run_conda("remove", ["--all"])
                self.remove_tree()
            self.journal.remove()
            self.exit(Prefix(self.path), listing, changed=before.exists)

    def check_removable(self, prefix: Prefix) -> None:
        if Path(self.path).is_symlink():
            raise Failure(
                "not_an_environment",
                f"{self.label}: {self.path} is a symbolic link; remove it and what it leads to by hand",
            )
        if not prefix.whole and self.interrupted != "remove" and not self.is_debris(prefix):
            raise Failure("not_an_environment", self.foreign())

    def remove_tree(self) -> None:
        if os.path.lexists(self.path):
            shutil.rmtree(self.path)

    # -- check mode

    def predict(self, before: Prefix, decision: Decision) -> NoReturn:
        listing = before.listing()
        self.interrupted = self.journal.read()
        if self.prepare(before) == "removed":
            before, self.interrupted = Prefix(os.devnull), None
            decision = self.decide(before)
        elif self.interrupted:
            self.reasons.append(self.interruption())
        conda: dict[str, list[str]] = {"link": [], "unlink": []}
        pip: list[str] = []
        changed = bool(self.reasons) or not before.whole
        if not before.whole:
            self.reasons.append(f"{self.path} does not exist")
            specs = [spec.text for spec in self.conda_wish(before, bool(self.requirements))]
            if not os.access(self.conda, os.X_OK):
                self.reasons.append(f"conda is not installed at {self.conda_prefix} yet")
                conda["link"] = specs
            else:
                conda = self.solve("create", specs)
            pip = [requirement.text for requirement in self.requirements]
        else:
            self.reasons += decision.reasons
            if decision.specs:
                self.need_conda()
                conda = self.solve("install", [spec.text for spec in decision.specs])
            if decision.requirements:
                pip = self.dry_run_pip(before, decision)
            changed = changed or bool(conda["link"] or conda["unlink"] or pip)
        lines = [
            "conda {} {} {}".format(*one.rsplit("-", 2)) if one.count("-") > 1 else "conda " + one
            for one in conda["link"]
        ]
        gone = {"conda {} {} {}".format(*one.rsplit("-", 2)) for one in conda["unlink"]}
        after = [line for line in listing if line not in gone] if before.whole else []
        after += lines + ["pip " + one.replace("==", " ") for one in pip]
        self.leave(
            changed,
            {"conda": conda, "pip": {"install": pip, "uninstall": []}},
            listing,
            sorted(after) if changed else listing,
        )

    def solve(self, verb: str, specs: Sequence[str]) -> dict[str, list[str]]:
        actions = self.run_conda(verb, ["--dry-run", *specs]).get("actions") or {}
        if not isinstance(actions, dict):
            return {"link": [], "unlink": []}
        return {
            key: sorted(str(one["dist_name"]) for one in actions.get(key.upper()) or [] if "dist_name" in one)
            for key in ("link", "unlink")
        }

    def dry_run_pip(self, prefix: Prefix, decision: Decision) -> list[str]:
        wanted = [requirement.text for requirement in decision.requirements]
        have_installer = self.uv or "pip" in prefix.dists
        if not have_installer or not os.access(prefix.python, os.X_OK):
            return wanted
        if not self.uv and pip_spec.Version(prefix.dists["pip"].version).release < (22, 2):
            return wanted  # before pip's --dry-run
        stdout, stderr = self.run_pip(prefix, [requirement.text for requirement in self.requirements], True)
        return pip_cli.would_install(stdout, stderr)

    # -- commands

    @property
    def installer(self) -> str:
        return "uv" if self.uv else "pip"

    def need_conda(self) -> None:
        if not os.access(self.conda, os.X_OK):
            raise Failure(
                "no_conda",
                f"{self.label}: conda is not installed at {self.conda_prefix} (no executable {self.conda}). "
                "Install it (role miniconda) or correct conda_prefix",
            )

    def command(self, arguments: Sequence[str], environment: dict[str, str]) -> tuple[int, str, str]:
        timeout = [
            self.module.get_bin_path("timeout", required=True),
            "--kill-after=30",
            str(self.module.params["timeout"]),
        ]
        result: tuple[int, str, str] = self.module.run_command(
            [*timeout, *arguments],
            environ_update={"NO_COLOR": "1", "PYTHONNOUSERSITE": "1", **environment},
            # Other users run what root installs.
            umask=0o022,
            pass_fds=() if self.lock is None else (self.lock,),
            errors="replace",
        )
        return result

    def run_conda(self, verb: str, arguments: Sequence[str]) -> dict[str, Any]:
        channels = [] if verb == "remove" else self.channels
        head = [self.conda, verb, "-p", self.path, "-y", "-q", "--json", *channels]
        returncode, stdout, stderr = self.command([*head, *arguments], {"CONDA_REPORT_ERRORS": "false"})
        specs = [one for one in arguments if not one.startswith("-")]
        problem = conda_cli.conda_problem(returncode, stdout, stderr, specs)
        if problem:
            raise Failure(problem.code, f"{self.label}: conda {verb}: {problem}")
        return conda_cli.parse_json(stdout)

    def install_pip(self, prefix: Prefix, extra: Sequence[str]) -> None:
        wanted = [*(requirement.text for requirement in self.requirements), *extra]
        with self.under_journal("pip"):
            self.run_pip(prefix, wanted, False)

    def run_pip(self, prefix: Prefix, requirements: Sequence[str], dry_run: bool) -> tuple[str, str]:
        """Tries the sources in their order; the output of the first that works."""
        environment: dict[str, str] = {}
        sources: list[pip_cli.Source | None] = list(self.sources) or [None]
        if self.uv:
            configuration = pip_cli.pip_configuration(self.path, os.environ)
            environment = pip_cli.uv_environment(configuration, os.environ)
            configured = pip_cli.configured_source(configuration)
            sources = [
                one if one.index_url else one._replace(index_url=configured.index_url) for one in self.sources
            ] or [configured]
        cache_dir = self.module.params["cache_dir"]
        tried: list[str] = []
        for origin in sources:
            if self.uv and origin:
                command = pip_cli.uv_command(self.uv, prefix.python, requirements, origin, cache_dir, dry_run)
            else:
                command = pip_cli.pip_command(prefix.python, requirements, origin, cache_dir, dry_run)
            returncode, stdout, stderr = self.command(command, environment)
            if returncode == 0:
                if tried:
                    used = origin.name if origin else ""
                    self.module.warn(
                        _masked("{}: {} was used; {}".format(self.label, used, "; ".join(tried)))
                    )
                return stdout, stderr
            problem = conda_cli.pip_problem(returncode, stdout, stderr)
            tried.append("{}: {}".format(origin.name if origin else "the configuration of pip", problem))
            if problem.code in _LOCAL_PROBLEMS:
                break
        raise Failure(
            problem.code,
            "{}: {} could not install {} from any source. {}{}".format(
                self.label,
                self.installer,
                ", ".join(requirements),
                " ".join(f"{number}) {one}" for number, one in enumerate(tried, 1)),
                " Done before: {}.".format(", ".join(self.done)) if self.done else "",
            ),
        )

    # -- results

    def exit(self, after: Prefix, before_listing: list[str], changed: bool) -> NoReturn:
        if not changed and not self.module._diff:
            self.leave(False, _actions([], []), [], [])
        after_listing = after.listing()
        self.leave(changed, _actions(before_listing, after_listing), before_listing, after_listing)

    def leave(self, changed: bool, actions: dict[str, Any], before: list[str], after: list[str]) -> NoReturn:
        result: dict[str, Any] = {
            "changed": changed,
            "prefix": self.path,
            "reasons": self.reasons if changed else [],
            "actions": actions,
        }
        if self.requirements:
            result["installer"] = self.installer
        if self.module._diff:
            result["diff"] = {
                "before_header": self.path,
                "after_header": self.path,
                "before": "".join(line + "\n" for line in before),
                "after": "".join(line + "\n" for line in after),
            }
        self.module.exit_json(**result)
        raise AssertionError("exit_json came back")


def _wish(
    params: dict[str, Any], problems: list[str]
) -> tuple[list[conda_spec.MatchSpec], list[pip_spec.Requirement]]:
    specs: list[conda_spec.MatchSpec] = []
    requirements: list[pip_spec.Requirement] = []
    python = params["python"]
    if python is not None:
        if re.match(r"[0-9]+(\.[0-9]+){1,2}\Z", python):
            specs.append(conda_spec.parse("python=" + python))
        else:
            problems.append(
                f"python '{python}' is no version such as 3.11 or 3.11.7 (a range goes into packages)"
            )
    for text in params["packages"]:
        try:
            spec = conda_spec.parse(text)
            if python is not None and spec.name == "python":
                problems.append(f"packages: '{text}', but the option python says {python}")
            if spec not in specs:
                specs.append(spec)
        except conda_spec.SpecError as error:
            problems.append(f"packages: {error}")
    for text in params["pip"]:
        try:
            requirement = pip_spec.parse(text)
            if requirement not in requirements:
                requirements.append(requirement)
        except pip_spec.RequirementError as error:
            problems.append(f"pip: {error}")
    for given in params["pip_sources"]:
        urls = [
            given.get("index_url") or "",
            *(given.get("extra_index_urls") or []),
            *(given.get("find_links") or []),
        ]
        problems += [
            "pip_sources {}: '{}' is no address".format(given["name"], url)
            for url in urls
            if url.startswith("-") or re.search(r"\s", url)
        ]
        if not any(urls) or (given.get("no_index") and not given.get("find_links")):
            problems.append("pip_sources {}: names no place to look at".format(given["name"]))
    for option in ("timeout", "lock_timeout"):
        if params[option] < (1 if option == "timeout" else 0):
            problems.append(f"{option} {params[option]} is not positive")
    return specs, requirements


def _channels(channels: Sequence[str], problems: list[str]) -> list[str]:
    arguments: list[str] = []
    for channel in channels:
        if not channel or channel.startswith("-") or re.search(r"\s", channel):
            problems.append(f"channels: '{channel}' is no channel")
        arguments += ["-c", channel]
    return ["--override-channels", *arguments] if arguments else []


def _reason(wanted: str, found: str | None, verdict: bool | None, tool: str) -> str:
    if verdict is None:
        return "only {} can tell whether {} is satisfied{}".format(
            tool, wanted, " by " + found if found else ""
        )
    if found is None:
        return f"{wanted} is not installed"
    return f"{found} does not satisfy {wanted}"


def _actions(before: Sequence[str], after: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    def changes(kind: str, joint: str, one: Sequence[str], two: Sequence[str]) -> list[str]:
        return [
            joint.join(line.split()[1:]) for line in one if line not in two and line.startswith(kind + " ")
        ]

    return {
        "conda": {
            "link": changes("conda", "-", after, before),
            "unlink": changes("conda", "-", before, after),
        },
        "pip": {
            "install": changes("pip", "==", after, before),
            "uninstall": changes("pip", "==", before, after),
        },
    }


def _masked(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _fail(module: AnsibleModule, code: str, message: str, env: CondaEnv | None) -> NoReturn:
    module.fail_json(
        msg=_masked(message),
        code=code,
        prefix=env.path if env else module.params["prefix"],
        reasons=env.reasons if env else [],
    )
    raise AssertionError("fail_json came back")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "prefix": {"type": "path"},
            "conda_prefix": {"type": "path", "default": "/opt/miniconda3"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "python": {"type": "str"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "channels": {"type": "list", "elements": "str", "default": []},
            "pip": {"type": "list", "elements": "str", "default": []},
            "pip_sources": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "index_url": {"type": "str"},
                    "extra_index_urls": {"type": "list", "elements": "str", "default": []},
                    "find_links": {"type": "list", "elements": "str", "default": []},
                    "no_index": {"type": "bool", "default": False},
                },
            },
            "pip_installer": {"type": "str", "choices": ["auto", "uv", "pip"], "default": "auto"},
            "uv": {"type": "path"},
            "cache_dir": {"type": "path"},
            "timeout": {"type": "int", "default": 7200},
            "lock_timeout": {"type": "int", "default": 600},
        },
        mutually_exclusive=[("name", "prefix")],
        required_one_of=[("name", "prefix")],
        supports_check_mode=True,
    )
    for variable in _UNWANTED_ENVIRONMENT:
        os.environ.pop(variable, None)
    # conda asks, and gives up with status 0, on an open but empty stdin.
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    env: CondaEnv | None = None
    try:
        env = CondaEnv(module)
        env.run()
    except conda_prefix.PrefixError as error:
        _fail(module, "bad_input", str(error), env)
    except conda_prefix.Busy as error:
        _fail(
            module, "busy", "{}: {}. Try again when it has ended".format(env.label if env else "", error), env
        )
    except Failure as error:
        _fail(module, error.code, str(error), env)
    except OSError as error:
        codes = {
            errno.ENOSPC: "disk",
            errno.EACCES: "permission",
            errno.EPERM: "permission",
            errno.EROFS: "permission",
        }
        code = codes.get(error.errno or 0, "unknown")
        fix = conda_cli.fix_for(code)
        _fail(module, code, "{}: {}. {}".format(env.label if env else "conda_env", error, fix), env)


if __name__ == "__main__":
    main()
