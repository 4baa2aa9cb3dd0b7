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
  - Packages that satisfy the wish are left as they are, and packages that are not named stay, unless
    O(state=exact) says otherwise.
  - A change is made under a lock for the environment, which ends with the last process that holds it. Before
    the first change a copy of hard links is made beside the environment; a change that fails is taken back at
    once, one that was killed by the next run.
  - Never runs C(conda create) on an existing environment, which would delete it, and never removes a
    directory that is not a conda environment.
options:
  name:
    description:
      - Name of the environment, below C(envs) of O(conda_prefix), or below C(~/.conda/envs) of O(owner).
        Letters, digits and C(_.+-).
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
      - V(present) creates the environment or adds to it.
      - V(latest) also brings the named packages to the newest version that the wish allows. Only a solve can
        tell that, so conda is started on each run.
      - V(exact) also removes what neither the wish nor a package of the wish needs.
      - V(absent) removes it, and the kernelspecs that start its Python.
      - V(locked) solves the wish in a scratch environment, returns the lock, leaves the environment alone.
    type: str
    choices: [present, absent, latest, exact, locked]
    default: present
  frozen:
    description:
      - Whether to change nothing at all and to report as RV(drift) what is not as it is asked for.
    type: bool
    default: false
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
  file:
    description:
      - Path on the host of an C(environment.yml). Its channels, packages, pip packages and variables are
        added to those of the other options, which come first; its name and prefix are not used.
    type: path
  content:
    description:
      - The text of an C(environment.yml), such as a lookup of a file on the controller.
    type: raw
  lock:
    description:
      - A lock, as O(state=locked) returns it or C(conda list --explicit --md5) prints it. Packages are
        installed from it without a solve; what else the options name must be met by it.
      - An environment that differs is brought back to it, and RV(drift) tells how it differed. Packages that
        are not in the lock are reported, unless it is O(shared), and removed with O(state=exact).
    type: raw
  shared:
    description:
      - Whether something else installs packages here too. Those that are not in the lock are then no drift.
    type: bool
    default: false
  mirrors:
    description:
      - Bases of Anaconda's mirrors (C(pkgs) and C(cloud) lie below them) to get the packages of O(lock) from,
        in order. At last the addresses in the lock are tried.
    type: list
    elements: str
    default: []
  variables:
    description:
      - Environment variables that activation sets. Others are left, or taken away with O(state=exact).
    type: dict
    default: {}
  kernelspec:
    description:
      - A kernelspec, by which Jupyter finds this environment. Needs C(ipykernel) in it.
    type: dict
    suboptions:
      name:
        description: Its name, a directory. Left out, that of the environment.
        type: str
      display_name:
        description: What Jupyter shows. Left out, C(Python (NAME\)).
        type: str
      prefix:
        description:
          - It is written below C(share/jupyter/kernels) of this directory. Left out, C(/usr/local) for root
            and C(~/.local) for others.
        type: path
  pip_sources:
    description:
      - Where to get O(pip) from, and nowhere else. The next one is tried when one fails.
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
  owner:
    description:
      - User that the environment belongs to. All is done as this user, which takes root to begin with.
    type: str
  group:
    description:
      - Group whose members may change the environment. Its directories become writable for the group; files
        may be links into the cache of packages and stay as they are.
    type: str
  tentative:
    description:
      - Whether to leave, after a change, the copy of the environment as it was, for
        M(torchfleet.gpu.torch_env) to drop or put back. A run without this puts it back.
    type: bool
    default: false
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
    description:
      - Solves without installing. Where conda or the environment does not exist yet, tells the wish. From a
        lock nothing is started.
    support: full
  diff_mode:
    description: The packages of the environment before and after.
    support: full
  async:
    description: Whether it can run with C(async).
    support: full
  platform:
    description: Operating systems that the module runs on.
    support: full
    platforms: linux
notes:
  - Works with conda 23.3 to 26.x, with any solver. On the host Python 3.8 or newer is enough.
  - In check mode conda may refresh its cache of indexes.
  - Name passwords of an index in C(~/.netrc), not in its URL. Passwords and tokens in URLs are hidden in
    messages and results, but not from the list of processes of the host.
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

- name: What an environment.yml on the controller says, and nothing else
  torchfleet.gpu.conda_env:
    name: course
    content: "{{ lookup('ansible.builtin.file', 'environment.yml') }}"
    state: exact
    kernelspec: {display_name: Course 2026}

- name: Solve once
  torchfleet.gpu.conda_env:
    name: analysis
    python: "3.11"
    packages: [numpy]
    state: locked
  register: solved

- name: Install what was solved, without a solve
  torchfleet.gpu.conda_env:
    name: analysis
    lock: "{{ solved.lock }}"

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
drift:
  description: How the environment differed from O(lock), or with O(frozen) from the wish, before the run.
  returned: with O(lock) or O(frozen)
  type: list
  elements: str
lock:
  description: The lock, as text.
  returned: with O(state=locked), not in check mode
  type: str
installer:
  description: V(uv) or V(pip), whichever O(pip) is installed with.
  returned: when there are pip packages
  type: str
code:
  description:
    - What kind of failure it was, such as V(bad_input), V(not_found), V(conflict), V(network), V(disk),
      V(permission), V(hash), V(busy), V(lock_outdated).
  returned: failure
  type: str
"""

import contextlib
import errno
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Iterator, NamedTuple, NoReturn, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import (
    conda_cli,
    conda_extras,
    conda_lock,
    conda_prefix,
    conda_spec,
    conda_wish,
    pip_cli,
    pip_marker,
    pip_spec,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import Journal, Orphans, Prefix
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_snapshot import Snapshot

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
# Another mirror may have what this one has not, or has broken.
_PROBLEMS_OF_A_MIRROR = ("network", "channel", "hash", "certificate", "not_found")


class Decision(NamedTuple):
    """What is missing. C(None) of a specification (only conda or pip can tell) counts as open."""

    specs: list[conda_spec.MatchSpec]
    requirements: list[pip_spec.Requirement]
    failed: list[str]  # surely unsatisfied
    reasons: list[str]
    unknown: list[str]  # reasons to ask conda or pip
    drift: conda_lock.Drift | None
    orphans: Orphans

    def why(self) -> list[str]:
        return self.reasons + self.unknown


class Failure(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CondaEnv:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        params = module.params
        self.state: str = params["state"]
        self.conda_prefix: str = params["conda_prefix"].rstrip("/")
        self.conda = f"{self.conda_prefix}/bin/conda"
        wish, problems = conda_wish.read(params)
        self.specs, self.requirements, self.variables = wish.specs, wish.requirements, wish.variables
        self.channels, self.sources, self.locked = wish.channel_arguments(), wish.sources, wish.lock
        directory = f"{self.conda_prefix}/envs"
        if params["owner"]:
            directory = str(Path("~/.conda/envs").expanduser())
        try:
            self.path = conda_prefix.resolve_prefix(
                params["name"], params["prefix"], self.conda_prefix, directory
            )
        except conda_prefix.PrefixError as error:
            problems.insert(0, str(error))
        if problems:
            raise Failure("bad_input", "; ".join(problems))
        self.label = "environment {}".format(
            "{} ({})".format(params["name"], self.path) if params["name"] else self.path
        )
        if self.locked:
            self.check_lock(self.locked)
            self.bases = conda_lock.bases(self.locked, params["mirrors"], wish.channels)
        self.kernel = self._kernel()
        self.journal = Journal(self.path)
        self.snapshot = Snapshot(self.path)
        self.uv = self._find_uv() if self.has_pip_part() and self.state != "absent" else None
        self.reasons: list[str] = []
        self.drift: list[str] = []
        self.interrupted: str | None = None
        self.mended = False
        self.protected = False
        self.existed = False
        self.lock: int | None = None
        self.done: list[str] = []

    def has_pip_part(self) -> bool:
        return bool(self.requirements or (self.locked and self.locked.pip))

    def _kernel(self) -> conda_extras.Kernel | None:
        given = self.module.params["kernelspec"]
        if given is None:
            return None
        name = given.get("name") or Path(self.path).name
        if not re.match(r"[A-Za-z0-9._-]+\Z", name):
            raise Failure("bad_input", f"kernelspec name '{name}': expected letters, digits and . _ -")
        return conda_extras.kernel(
            f"{self.path}/bin/python",
            conda_extras.kernels_directory(given.get("prefix")),
            name.lower(),
            given.get("display_name") or f"Python ({Path(self.path).name})",
        )

    def check_lock(self, lock: conda_lock.Lock) -> None:
        """The wish may have moved on since the lock was made."""
        records = lock.records()
        python = records.get("python")
        values = pip_marker.environment(python.version if python else "")
        pip = {package.name: package.version for package in lock.pip}
        pip.update(
            {pip_spec.normalise(name): one.version for name, one in records.items() if name not in pip}
        )
        unmet = []
        for spec in self.specs:
            record = records.get(spec.name)
            if record is None or spec._replace(channel=None).matches(record) is False:
                unmet.append((spec.text, record and record.version))
        for requirement in self.requirements:
            plain = requirement._replace(marker=None, extras=())
            try:
                wanted = requirement.marker is None or pip_marker.evaluate(requirement.marker, values)
            except pip_marker.MarkerError:
                wanted = True
            if wanted and requirement.url is None and not plain.satisfied(pip.get(plain.name), None):
                unmet.append((requirement.text, pip.get(plain.name)))
        if unmet:
            raise Failure(
                "lock_outdated",
                "{}: its lock was made from another wish: {}. Make it again: playbooks/lock.yml".format(
                    self.label,
                    "; ".join(
                        f"{wanted} is asked for, the lock has {found or 'none'}" for wanted, found in unmet
                    ),
                ),
            )

    # -- deciding

    def decide(self, prefix: Prefix) -> Decision:
        decision = self.decide_by_lock(prefix, self.locked) if self.locked else self.decide_by_wish(prefix)
        orphans = decision.orphans
        reasons = [f"{name} is not asked for" for name in [*orphans.conda, *orphans.pip]]
        decision.reasons.extend(reasons + self.beside_packages(prefix))
        return decision

    def beside_packages(self, prefix: Prefix) -> list[str]:
        """What is not as asked for, but for the packages."""
        reasons = []
        if prefix.whole:
            if self.variables_differ(prefix):
                reasons.append("its variables are not as asked for")
            group = self.module.params["group"]
            if group and not conda_extras.is_shared(self.path, group):
                reasons.append(f"the group {group} cannot change it")
            if self.kernel and not self.kernel.current():
                reasons.append(f"the kernelspec {self.kernel.path.parent} is not as asked for")
        return reasons

    def variables_differ(self, prefix: Prefix) -> bool:
        current = prefix.variables()
        surplus = self.state == "exact" and set(current) - set(self.variables)
        return bool(surplus) or any(current.get(key) != value for key, value in self.variables.items())

    def decide_by_wish(self, prefix: Prefix) -> Decision:
        specs: list[conda_spec.MatchSpec] = []
        requirements: list[pip_spec.Requirement] = []
        failed: list[str] = []
        reasons: list[str] = []
        unknown: list[str] = []

        def judge(text: str, verdict: bool | None, found: str | None, tool: str) -> bool:
            if verdict is False:
                failed.append(text)
                reasons.append(_reason(text, found))
            elif verdict is None:
                by = f" by {found}" if found else ""
                unknown.append(f"only {tool} can tell whether {text} is satisfied{by}")
            return verdict is not True

        for requirement in self.requirements:
            if prefix.satisfied(requirement) is not True:
                requirements.append(requirement)
        for spec in self.conda_wish(prefix, bool(requirements)):
            record = prefix.conda.get(spec.name)
            found = record and "{} {} {}".format(*record[:3])
            if judge(spec.text, spec.matches(record) if record else False, found, "conda"):
                specs.append(spec)
        for requirement in requirements:
            dist = prefix.dists.get(requirement.name)
            found = dist and f"{dist.name} {dist.version}"
            judge(requirement.text, prefix.satisfied(requirement), found, "pip")
        orphans = Orphans([], [])
        if self.state == "exact" and prefix.whole:
            names = {spec.name for spec in self.conda_wish(prefix, bool(self.requirements))}
            orphans = prefix.orphans(names, self.requirements)
        return Decision(specs, requirements, failed, reasons, unknown, None, orphans)

    def decide_by_lock(self, prefix: Prefix, lock: conda_lock.Lock) -> Decision:
        drift = conda_lock.drift(
            lock,
            prefix.conda,
            {dist.name: dist.version for dist in prefix.dists.values()},
            [dist.name for dist in prefix.dists.values() if dist.of_conda()],
        )
        orphans = Orphans([], [])
        if self.state == "exact":
            orphans = Orphans(drift.conda_extra, drift.pip_extra)
        return Decision([], [], [*drift.conda, *drift.pip], list(drift.words), [], drift, orphans)

    def conda_wish(self, prefix: Prefix, pip_is_needed: bool) -> list[conda_spec.MatchSpec]:
        wish = list(self.specs)
        named = {spec.name for spec in wish}
        if self.requirements and "python" not in named:
            wish.append(conda_spec.parse("python"))
        has_pip = "pip" in prefix.dists and self.state != "exact"
        if pip_is_needed and not self.uv and "pip" not in named and not has_pip:
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

    # -- the states

    def run(self) -> None:
        if self.state == "absent":
            self.absent()
        elif self.state == "locked":
            self.make_lock()
        else:
            self.present()

    def present(self) -> None:
        pending = self.snapshot.pending()
        before = Prefix(str(self.snapshot.path)) if pending else Prefix(self.path)
        decision = self.decide(before)
        self.drift = self.differences(before, decision)
        self.need_ipykernel(before)
        if self.module.params["frozen"]:
            self.leave(False, _actions([], []), before.listing(), before.listing())
        in_doubt = self.snapshot.leftovers() or self.journal.read() is not None or before.broken_records
        if before.whole and not decision.why() and not in_doubt and self.state != "latest":
            self.exit(before, before.listing() if self.module._diff else [], changed=False)
        if self.module.check_mode:
            self.predict(before, decision, pending)
        if not before.exists:
            # Before the lock: no file may lie where conda is to be installed.
            self.need_conda()
        with conda_prefix.locked(self.path, self.module.params["lock_timeout"]) as self.lock:
            self.recover()
            before = Prefix(self.path)
            listing = before.listing()
            self.drift = self.differences(before, self.decide(before))
            self.interrupted = self.journal.read()
            changed = self.change_or_take_back(before)
            after = Prefix(self.path)
            self.exit(after, listing, changed or self.mended or after.listing() != listing)

    def differences(self, prefix: Prefix, decision: Decision) -> list[str]:
        if not prefix.whole:
            return [f"{self.path} does not exist"]
        known = self.state == "exact" or decision.drift is None or self.module.params["shared"]
        return decision.reasons + ([] if known or not decision.drift else decision.drift.extra_words)

    def need_ipykernel(self, prefix: Prefix) -> None:
        if self.kernel is None or "ipykernel" in prefix.dists:
            return
        named = {spec.name for spec in self.specs} | {one.name for one in self.requirements}
        if self.locked:
            named |= set(self.locked.records()) | {one.name for one in self.locked.pip}
        if "ipykernel" not in named:
            raise Failure(
                "bad_input",
                f"{self.label}: kernelspec needs ipykernel in the environment; add it to packages or to pip",
            )

    def recover(self) -> None:
        """Takes back what a killed run had begun, and removes what it left."""
        if self.snapshot.pending():
            self.reasons.append(
                "an earlier run was interrupted in a change: the environment is put back as it was"
            )
            self.snapshot.restore()
            self.journal.remove()
            self.mended = True
        elif self.snapshot.leftovers():
            if os.path.lexists(self.snapshot.path):
                self.snapshot.drop()  # of an environment that somebody has replaced since
            self.snapshot.clear()

    def change_or_take_back(self, before: Prefix) -> bool:
        self.existed = before.whole
        try:
            repaired = self.prepare(before)
            if repaired == "removed":
                before, self.interrupted = Prefix(self.path), None
            self.converge(before)
            changed = self.finish() or bool(repaired)
        except BaseException as error:
            if self.protected and not self.take_back() and isinstance(error, Failure):
                raise Failure(error.code, f"{error} The environment was put back as it was.") from error
            raise
        if self.protected and not self.module.params["tentative"]:
            self.snapshot.drop()
        self.journal.remove()
        return changed

    def begin(self) -> None:
        """Makes the change one that can be taken back."""
        if self.protected or not self.existed:
            return
        self.refuse_frozen()
        if not self.snapshot.possible():
            return
        try:
            self.snapshot.take()
        except OSError:
            self.snapshot.clear()
            raise
        self.protected = True

    def take_back(self) -> bool:
        """Whether there was nothing to take back."""
        self.protected = False
        same = self.snapshot.unchanged()
        if same:
            self.snapshot.drop()
        else:
            self.snapshot.restore()
        return same

    def refuse_frozen(self) -> None:
        if Path(self.path, "conda-meta", "frozen").exists():
            raise Failure("frozen", "{}: {}".format(self.label, conda_cli.fix_for("frozen")))

    def prepare(self, prefix: Prefix) -> str:
        """Clears what an interrupted change left. Answers what was done: removed, repaired or nothing."""
        if not prefix.exists:
            return ""
        if not prefix.whole and self.is_debris(prefix):
            empty = f"{self.path} is empty"
            self.reasons.append(self.interruption() if self.interrupted else empty)
            if not self.module.check_mode:
                self.snapshot.discard_prefix()
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
                self.begin()
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
        open_pip = decision.drift.pip if decision.drift else decision.requirements
        if open_pip or damaged or (self.interrupted and self.requirements):
            self.tell(decision.why())
            self.install_pip(prefix, decision, damaged)
        elif self.state == "latest" and self.requirements:
            self.upgrade_pip(prefix)
        decision = self.decide(Prefix(self.path))
        if any(decision.orphans):
            self.tell(decision.reasons)
            self.prune(decision.orphans)
            decision = self.decide(Prefix(self.path))
        if decision.failed:
            raise Failure(
                "not_converged",
                "{}: conda and {} ended with success, but {} is still not satisfied. Look at pinned packages "
                "(conda-meta/pinned) and at packages that demand another version.".format(
                    self.label, self.installer, ", ".join(decision.failed)
                ),
            )

    def tell(self, reasons: Sequence[str]) -> None:
        self.reasons += [reason for reason in reasons if reason not in self.reasons]

    def create(self, prefix: Prefix) -> None:
        self.need_conda()
        self.journal.write("create")
        try:
            if self.locked:
                self.install_locked("create", list(self.locked.records()))
            else:
                specs = [spec.text for spec in self.conda_wish(prefix, bool(self.requirements))]
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
                "Look for create_default_packages and aliases in the configuration of conda.",
            )
        self.done.append("the conda part")

    def change(self, prefix: Prefix) -> None:
        decision = self.decide(prefix)
        self.tell(decision.why())
        damaged = []
        if self.interrupted:
            self.reasons.append(self.interruption())
            damaged = ["{}={}={}".format(*record[:3]) for record in prefix.missing_files()[0]]
            if damaged:
                self.mended = True
                self.reasons.append("files are missing of {}".format(", ".join(damaged)))
        if decision.drift:
            if damaged:
                self.conda_change(["--force-reinstall", *damaged])
            if decision.drift.conda:
                self.need_conda()
                self.begin()
                with self.under_journal("install"):
                    self.install_locked("install", decision.drift.conda)
            return
        specs = [spec.text for spec in decision.specs]
        in_doubt = prefix.broken_records or self.interrupted not in (None, "pip")
        if specs or damaged or in_doubt:
            if self.interrupted or prefix.broken_records:
                specs = [spec.text for spec in self.conda_wish(prefix, bool(decision.requirements))]
            if specs or damaged:
                force = ["--force-reinstall"] if damaged else []
                self.conda_change(force + damaged + specs)
                # The solver may have moved a package that was not named in this call.
                broken = [spec for spec in self.decide(Prefix(self.path)).specs if spec.text not in specs]
                if broken:
                    wish = self.conda_wish(prefix, bool(decision.requirements))
                    self.conda_change([spec.text for spec in wish])
        if self.state == "latest":
            self.upgrade_conda(prefix)

    def conda_change(self, arguments: Sequence[str]) -> None:
        self.need_conda()
        self.begin()
        with self.under_journal("install"):
            self.run_conda("install", arguments)
        if "the conda part" not in self.done:
            self.done.append("the conda part")

    def upgrade_conda(self, prefix: Prefix) -> None:
        specs = ["--update-specs", *(spec.text for spec in self.conda_wish(prefix, False))]
        if len(specs) > 1:
            self.need_conda()
            newer = self.solve("install", specs)
            if newer["link"] or newer["unlink"]:
                self.reasons.append("there is newer: {}".format(", ".join(newer["link"])))
                self.conda_change(specs)

    def upgrade_pip(self, prefix: Prefix) -> None:
        newer = self.dry_run_pip(prefix, self.requirements, self.upgrade_options())
        if newer:
            self.reasons.append("there is newer: {}".format(", ".join(newer)))
            self.begin()
            wanted = [one.text for one in self.requirements]
            with self.under_journal("pip"):
                self.run_pip(prefix, [*self.upgrade_options(), "--", *wanted], wanted)

    def upgrade_options(self) -> list[str]:
        if not self.uv:
            return ["--upgrade"]
        return [word for one in self.requirements for word in ("--upgrade-package", one.name)]

    def prune(self, orphans: Orphans) -> None:
        self.begin()
        prefix = Prefix(self.path)
        if orphans.pip:
            head = [self.uv, "pip", "uninstall", "--python", prefix.python] if self.uv else []
            command = head or [prefix.python, "-m", "pip", "uninstall", "-y", "--disable-pip-version-check"]
            with self.under_journal("pip"):
                returncode, stdout, stderr = self.command([*command, *orphans.pip], {})
                if returncode:
                    problem = conda_cli.pip_problem(returncode, stdout, stderr)
                    raise Failure(problem.code, f"{self.label}: {self.installer} uninstall: {problem}")
        if orphans.conda:
            self.need_conda()
            # Nothing that stays needs them: no solve is needed, nor what it might change.
            with self.under_journal("install"):
                self.run_conda("remove", ["--force-remove", *orphans.conda])

    def finish(self) -> bool:
        """Sees to what belongs to the environment beside its packages; whether anything changed."""
        prefix = Prefix(self.path)
        reasons = self.beside_packages(prefix)
        self.tell(reasons)
        if self.variables_differ(prefix):
            self.begin()
            conda_extras.write_variables(self.path, self.variables, prune=self.state == "exact")
        if self.kernel and not self.kernel.current():
            self.kernel.write()
        group = self.module.params["group"]
        if group and self.lock is not None and not conda_extras.is_shared(self.path, group):
            conda_extras.share(self.path, group, self.lock)
        return bool(reasons)

    @contextlib.contextmanager
    def under_journal(self, operation: str) -> Iterator[None]:
        if self.protected:
            yield
            return
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
            self.begin()
            self.reasons.append(f"files are missing of {dist.name} {dist.version}")
            shutil.rmtree(dist.path)
        wanted = {requirement.name for requirement in self.requirements}
        return [f"{dist.name}=={dist.version}" for dist in damaged if dist.name not in wanted]

    def absent(self) -> None:
        before = Prefix(self.path)
        python, kernels = f"{self.path}/bin/python", self.kernels_directory()
        stale = conda_extras.kernels_of(python, kernels)
        gone = not before.exists or (os.path.ismount(self.path) and before.is_empty())
        if gone and not stale and not self.snapshot.leftovers() and self.journal.read() is None:
            self.exit(before, [], changed=False)
        self.interrupted = self.journal.read()
        if before.exists:
            self.check_removable(before)
            self.reasons.append(f"{self.path} exists")
        self.reasons += [f"{path} starts its Python" for path in stale]
        listing, changed = before.listing(), bool(before.exists or stale)
        if self.module.params["frozen"]:
            self.drift = list(self.reasons)
            self.leave(False, _actions([], []), listing, listing)
        if self.module.check_mode:
            self.exit(Prefix(os.devnull), listing, changed)
        with conda_prefix.locked(self.path, self.module.params["lock_timeout"]) as self.lock:
            before = Prefix(self.path)
            self.interrupted = self.journal.read()
            if before.exists:
                self.check_removable(before)
            if before.exists or self.snapshot.leftovers():
                self.remove_tree()
            conda_extras.remove_kernels(python, kernels)
            self.journal.remove()
            self.exit(Prefix(self.path), listing, changed)

    def kernels_directory(self) -> Path:
        return conda_extras.kernels_directory((self.module.params["kernelspec"] or {}).get("prefix"))

    def check_removable(self, prefix: Prefix) -> None:
        if Path(self.path).is_symlink():
            raise Failure(
                "not_an_environment",
                f"{self.label}: {self.path} is a symbolic link; remove it and what it leads to by hand",
            )
        if not prefix.whole and not self.is_debris(prefix):
            raise Failure("not_an_environment", self.foreign())
        self.refuse_frozen()

    def remove_tree(self) -> None:
        if os.path.lexists(self.path):
            self.snapshot.discard_prefix()
        if os.path.lexists(self.snapshot.path):
            self.snapshot.drop()
        self.snapshot.clear()
        conda_extras.unregister(self.path)

    # -- locks

    def make_lock(self) -> None:
        if self.module.check_mode and not os.access(self.conda, os.X_OK):
            self.reasons.append(f"conda is not installed at {self.conda_prefix} yet")
            self.leave(True, _actions([], []), [], [])
        self.need_conda()
        specs = [spec.text for spec in self.conda_wish(Prefix(os.devnull), False)]
        if self.requirements and not any(spec.name == "pip" for spec in self.specs):
            specs.append("pip")  # the host that installs from the lock may lack uv
        if self.module.check_mode:
            actions = {"conda": self.solve("create", specs), "pip": {"install": [], "uninstall": []}}
            self.leave(True, actions, [], [])
        with conda_prefix.locked(self.path, self.module.params["lock_timeout"]) as self.lock:
            self.recover()
            scratch = str(self.snapshot.scratch)
            try:
                self.run_conda("create", specs, scratch)
                prefix = Prefix(scratch)
                pip = self.solve_pip(prefix) if self.requirements else []
                text = conda_lock.dumps(self.lock_of(prefix, pip))
            except conda_lock.LockError as error:
                raise Failure("not_lockable", f"{self.label}: {error}") from error
            finally:
                self.snapshot.clear()
                conda_extras.unregister(scratch)
        self.reasons.append("the wish was solved")
        self.leave(True, _actions([], []), [], [], {"lock": text})

    def lock_of(self, prefix: Prefix, pip: list[conda_lock.PipPackage]) -> conda_lock.Lock:
        channels: dict[str, str] = {}
        packages = []
        for record in prefix.conda.values():
            package, address = conda_lock.package(prefix.meta(record))
            channels[package.channel] = address
            packages.append(package)
        history = Path(prefix.path, "conda-meta", "history").read_text("utf-8", "replace")
        version = re.search(r"^# conda version: (\S+)", history, re.M)
        header = {
            "environment": Path(self.path).name,
            "made": {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "on": os.uname().nodename,
                "conda": version.group(1) if version else None,
            },
            "wish": {
                "packages": [spec.text for spec in self.specs],
                "pip": [conda_lock.plain(one.text) for one in self.requirements],
                "channels": [conda_lock.plain(one) for one in self.channels if one[0] != "-"],
            },
        }
        return conda_lock.Lock(conda_lock.platform(), dict(sorted(channels.items())), packages, pip, header)

    def solve_pip(self, prefix: Prefix) -> list[conda_lock.PipPackage]:
        wanted = [requirement.text for requirement in self.requirements]
        with tempfile.TemporaryDirectory() as directory:
            report = Path(directory, "report.json")
            if not self.uv:
                self.run_pip(prefix, ["--report", str(report), "--", *wanted], wanted)
                return pip_cli.locked_by_report(json.loads(report.read_text("utf-8")))
            self.run_pip(prefix, ["--", *wanted], wanted)
            installed = Prefix(str(prefix.path)).pip_dists()
            names = Path(directory, "requirements.in")
            lines = [
                f"{one.name} @ {one.url()}" if one.url() else f"{one.name}=={one.version}"
                for one in installed
            ]
            names.write_text("".join(line + "\n" for line in lines), "utf-8")
            compile_options = ["--generate-hashes", "--no-deps", "--no-header", "--no-annotate", "--quiet"]
            stdout, _ = self.run_pip(prefix, [*compile_options, str(names)], wanted, "compile")
            return pip_cli.locked_by_uv(stdout)

    def install_locked(self, verb: str, names: Sequence[str]) -> None:
        """One start of conda with a list of addresses; the next mirror where one fails."""
        assert self.locked
        started = time.time()
        tried: list[str] = []
        for number, bases in enumerate(self.bases, 1):
            with tempfile.TemporaryDirectory() as directory:
                listing = Path(directory, "explicit.txt")
                listing.write_text(self.locked.explicit(bases, names), "utf-8")
                try:
                    self.run_conda(verb, ["--file", str(listing)])
                    self.check_hashes(self.locked, names, started)
                    break
                except Failure as failure:
                    if verb == "create":
                        self.remove_tree()
                    if number == len(self.bases) or failure.code not in _PROBLEMS_OF_A_MIRROR:
                        raise Failure(failure.code, " ".join([*tried, str(failure)])) from failure
                    tried.append(f"{failure}")
        if tried:
            self.module.warn(conda_lock.masked("another mirror was used; {}".format(" ".join(tried))))

    def check_hashes(self, lock: conda_lock.Lock, names: Sequence[str], since: float) -> None:
        """conda compares md5 alone with an explicit list; what it fetched just now is compared in full."""
        prefix = Prefix(self.path)
        for package in lock.conda:
            record = prefix.conda.get(package.record.name)
            if package.sha256 is None or record is None or record.name not in names:
                continue
            path = Path(str(prefix.meta(record).get("package_tarball_full_path") or os.devnull))
            if path.is_file() and path.stat().st_mtime >= since - 2:
                found = _sha256(path)
                if found != package.sha256:
                    path.unlink()
                    raise Failure(
                        "hash",
                        f"{self.label}: {package.fn} has the sha256 {found}, the lock has {package.sha256}. "
                        "{}".format(conda_cli.fix_for("hash")),
                    )

    # -- check mode

    def predict(self, before: Prefix, decision: Decision, pending: bool) -> NoReturn:
        listing = before.listing()
        if pending:
            self.reasons.append(
                "an earlier run was interrupted in a change: the environment is put back as it was"
            )
        else:
            self.interrupted = self.journal.read()
            if self.prepare(before) == "removed":
                before, self.interrupted = Prefix(os.devnull), None
                decision = self.decide(before)
            elif self.interrupted:
                self.reasons.append(self.interruption())
        conda: dict[str, list[str]] = {"link": [], "unlink": []}
        pip: dict[str, list[str]] = {"install": [], "uninstall": []}
        if not before.whole:
            self.reasons.append(f"{self.path} does not exist")
        if self.locked and decision.drift:
            conda, pip = self.from_lock(before, self.locked, decision.drift)
        elif not before.whole:
            specs = [spec.text for spec in self.conda_wish(before, bool(self.requirements))]
            if not os.access(self.conda, os.X_OK):
                self.reasons.append(f"conda is not installed at {self.conda_prefix} yet")
                conda["link"] = specs
            else:
                conda = self.solve("create", specs)
            pip["install"] = [requirement.text for requirement in self.requirements]
        else:
            if decision.specs or self.state == "latest":
                self.need_conda()
                latest = ["--update-specs"] if self.state == "latest" else []
                specs = [spec.text for spec in decision.specs]
                if latest:
                    specs = [spec.text for spec in self.conda_wish(before, bool(decision.requirements))]
                if specs:
                    conda = self.solve("install", [*latest, *specs])
            if decision.requirements:
                pip["install"] = self.dry_run_pip(before, decision.requirements, [])
            elif self.state == "latest" and self.requirements:
                pip["install"] = self.dry_run_pip(before, self.requirements, self.upgrade_options())
        records = before.conda
        conda["unlink"] += ["{}-{}-{}".format(*records[name][:3]) for name in decision.orphans.conda]
        pip["uninstall"] += [f"{name}=={before.dists[name].version}" for name in decision.orphans.pip]
        moved = any([*conda.values(), *pip.values()])
        changed = bool(self.reasons or self.beside_packages(before)) or moved
        self.tell(decision.why())
        after = self.listing_after(listing if before.whole else [], conda, pip)
        self.leave(changed, {"conda": conda, "pip": pip}, listing, after if changed else listing)

    def from_lock(
        self, before: Prefix, lock: conda_lock.Lock, drift: conda_lock.Drift
    ) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        records = lock.records()
        old = [before.conda[name] for name in drift.conda if name in before.conda]
        conda = {
            "link": sorted("{}-{}-{}".format(*records[name][:3]) for name in drift.conda),
            "unlink": sorted("{}-{}-{}".format(*record[:3]) for record in old),
        }
        install = [f"{one.name}=={one.version}" for one in lock.pip if one.name in drift.pip]
        return conda, {"install": install, "uninstall": []}

    def listing_after(
        self, listing: Sequence[str], conda: dict[str, list[str]], pip: dict[str, list[str]]
    ) -> list[str]:
        def line(one: str) -> str:
            return "conda {} {} {}".format(*one.rsplit("-", 2)) if one.count("-") > 1 else "conda " + one

        gone = {line(one) for one in conda["unlink"]}
        gone |= {"pip " + one.replace("==", " ") for one in pip["uninstall"]}
        after = {one for one in listing if one not in gone}
        after |= {line(one) for one in conda["link"]}
        return sorted(after | {"pip " + one.replace("==", " ") for one in pip["install"]})

    def solve(self, verb: str, specs: Sequence[str]) -> dict[str, list[str]]:
        actions = self.run_conda(verb, ["--dry-run", *specs]).get("actions") or {}
        if not isinstance(actions, dict):
            return {"link": [], "unlink": []}
        return {
            key: sorted(str(one["dist_name"]) for one in actions.get(key.upper()) or [] if "dist_name" in one)
            for key in ("link", "unlink")
        }

    def dry_run_pip(
        self, prefix: Prefix, missing: Sequence[pip_spec.Requirement], options: Sequence[str]
    ) -> list[str]:
        wanted = [requirement.text for requirement in missing]
        have_installer = self.uv or "pip" in prefix.dists
        if not have_installer or not os.access(prefix.python, os.X_OK):
            return wanted
        if not self.uv and pip_spec.Version(prefix.dists["pip"].version).release < (22, 2):
            return wanted  # before pip's --dry-run
        everything = [requirement.text for requirement in self.requirements]
        stdout, stderr = self.run_pip(prefix, ["--dry-run", *options, "--", *everything], everything)
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
            umask=0o002 if self.module.params["group"] else 0o022,
            pass_fds=() if self.lock is None else (self.lock,),
            errors="replace",
        )
        return result

    def run_conda(self, verb: str, arguments: Sequence[str], prefix: str | None = None) -> dict[str, Any]:
        # An explicit list names its addresses, and nothing that is removed comes from a channel.
        channels = [] if verb == "remove" or "--file" in arguments else self.channels
        head = [self.conda, verb, "-p", prefix or self.path, "-y", "-q", "--json", *channels]
        returncode, stdout, stderr = self.command([*head, *arguments], {"CONDA_REPORT_ERRORS": "false"})
        specs = [one for one in arguments if not one.startswith("-")]
        problem = conda_cli.conda_problem(returncode, stdout, stderr, specs)
        if problem:
            raise Failure(problem.code, f"{self.label}: conda {verb}: {problem}")
        return conda_cli.parse_json(stdout)

    def install_pip(self, prefix: Prefix, decision: Decision, extra: Sequence[str]) -> None:
        self.begin()
        with self.under_journal("pip"):
            if decision.drift is None:
                wanted = [*(requirement.text for requirement in self.requirements), *extra]
                self.run_pip(prefix, ["--", *wanted], wanted)
                return
            assert self.locked
            with tempfile.TemporaryDirectory() as directory:
                listing = Path(directory, "requirements.txt")
                listing.write_text(self.locked.requirements(decision.drift.pip), "utf-8")
                options = ["--no-deps", "--require-hashes", "-r", str(listing)]
                self.run_pip(prefix, options, decision.drift.pip)

    def run_pip(
        self, prefix: Prefix, arguments: Sequence[str], what: Sequence[str], verb: str = "install"
    ) -> tuple[str, str]:
        """Tries the sources in their order; the output of the first that works."""
        configuration = pip_cli.pip_configuration(self.path, os.environ)
        configured = pip_cli.configured_source(configuration)
        environment = pip_cli.uv_environment(configuration, os.environ) if self.uv else {}
        sources: list[pip_cli.Source | None] = [configured] if self.uv else [None]
        options: list[str] = []
        if self.sources:
            sources = [
                one if one.index_url else one._replace(index_url=configured.index_url) for one in self.sources
            ]
            # These and nothing else: the host's own places would be searched as well.
            environment["PIP_CONFIG_FILE"] = os.devnull
            options = ["--no-config"] if self.uv else pip_cli.carried_options(configuration)
            for variable in pip_cli.PLACES:
                os.environ.pop(variable, None)
        cache_dir = self.module.params["cache_dir"]
        tried: list[str] = []
        for origin in sources:
            if self.uv and origin:
                command = pip_cli.uv_command(
                    self.uv, prefix.python, origin, cache_dir, [*options, *arguments], verb
                )
            else:
                command = pip_cli.pip_command(prefix.python, origin, cache_dir, [*options, *arguments])
            returncode, stdout, stderr = self.command(command, environment)
            if returncode == 0:
                if tried:
                    used = origin.name if origin else ""
                    self.module.warn(
                        conda_lock.masked("{}: {} was used; {}".format(self.label, used, "; ".join(tried)))
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
                ", ".join(what),
                " ".join(f"{number}) {one}" for number, one in enumerate(tried, 1)),
                " Done before: {}.".format(", ".join(self.done)) if self.done and not self.protected else "",
            ),
        )

    # -- results

    def exit(self, after: Prefix, before_listing: list[str], changed: bool) -> NoReturn:
        if not changed and not self.module._diff:
            self.leave(False, _actions([], []), [], [])
        after_listing = after.listing()
        self.leave(changed, _actions(before_listing, after_listing), before_listing, after_listing)

    def leave(
        self,
        changed: bool,
        actions: dict[str, Any],
        before: list[str],
        after: list[str],
        more: dict[str, Any] | None = None,
    ) -> NoReturn:
        result: dict[str, Any] = {
            "changed": changed,
            "prefix": self.path,
            "reasons": [conda_lock.masked(one) for one in self.reasons] if changed else [],
            "actions": actions,
            **(more or {}),
        }
        if self.locked or self.module.params["frozen"]:
            result["drift"] = [conda_lock.masked(one) for one in self.drift]
        if self.has_pip_part():
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _reason(wanted: str, found: str | None) -> str:
    return f"{found} does not satisfy {wanted}" if found else f"{wanted} is not installed"


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


def _fail(module: AnsibleModule, code: str, message: str, env: CondaEnv | None) -> NoReturn:
    module.fail_json(
        msg=conda_lock.masked(message),
        code=code,
        prefix=env.path if env else module.params["prefix"],
        reasons=[conda_lock.masked(one) for one in env.reasons] if env else [],
    )
    raise AssertionError("fail_json came back")


def _other_user(owner: str) -> pwd.struct_passwd | None:
    """The owner's account; None where the module runs as that user already."""
    try:
        user = pwd.getpwnam(owner)
    except KeyError as error:
        raise Failure("bad_input", f"owner {owner}: there is no such user") from error
    if user.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise Failure("permission", f"owner {owner}: only root can become another user (become: true)")
    return user


def _work_as(module: AnsibleModule, user: pwd.struct_passwd) -> None:
    """In a child of this process: Ansible's own files, which answering takes, are for root alone."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        answer: dict[str, Any] = {"call": "fail_json", "warnings": []}

        def call(name: str, result: dict[str, Any]) -> NoReturn:
            answer.update(call=name, result=result)
            raise SystemExit

        module.exit_json = lambda **result: call("exit_json", result)
        module.fail_json = lambda msg, **result: call("fail_json", {"msg": msg, **result})
        module.warn = answer["warnings"].append
        try:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
            for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "TMPDIR"):
                os.environ.pop(name, None)
            os.chdir("/")
            _work(module)
        except SystemExit:
            pass
        except BaseException:
            answer["result"] = {"msg": traceback.format_exc(), "code": "unknown"}
        with os.fdopen(writer, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        module.fail_json(msg=f"the run as {user.pw_name} ended with status {status}", code="unknown")
    answer = json.loads(text)
    for warning in answer["warnings"]:
        module.warn(warning)
    getattr(module, answer["call"])(**answer["result"])


def _hide_secrets(module: AnsibleModule) -> None:
    """The arguments are a part of the result too."""
    params = module.params
    texts = [str(params[key]) for key in ("channels", "pip", "pip_sources", "mirrors", "content", "lock")]
    module.no_log_values.update(one for one in conda_lock.secrets(texts) if len(one) > 2)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "prefix": {"type": "path"},
            "conda_prefix": {"type": "path", "default": "/opt/miniconda3"},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "latest", "exact", "locked"],
                "default": "present",
            },
            "frozen": {"type": "bool", "default": False},
            "shared": {"type": "bool", "default": False},
            "python": {"type": "str"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "channels": {"type": "list", "elements": "str", "default": []},
            "pip": {"type": "list", "elements": "str", "default": []},
            "file": {"type": "path"},
            "content": {"type": "raw"},
            "lock": {"type": "raw"},
            "mirrors": {"type": "list", "elements": "str", "default": []},
            "variables": {"type": "dict", "default": {}},
            "kernelspec": {
                "type": "dict",
                "options": {
                    "name": {"type": "str"},
                    "display_name": {"type": "str"},
                    "prefix": {"type": "path"},
                },
            },
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
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "tentative": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 7200},
            "lock_timeout": {"type": "int", "default": 600},
        },
        mutually_exclusive=[("name", "prefix"), ("file", "content")],
        required_one_of=[("name", "prefix")],
        supports_check_mode=True,
    )
    _hide_secrets(module)
    for variable in _UNWANTED_ENVIRONMENT:
        os.environ.pop(variable, None)
    # conda asks, and gives up with status 0, on an open but empty stdin.
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    owner = module.params["owner"]
    try:
        user = _other_user(owner) if owner else None
    except Failure as error:
        _fail(module, error.code, str(error), None)
    if user:
        _work_as(module, user)
    else:
        _work(module)


def _work(module: AnsibleModule) -> None:
    env: CondaEnv | None = None
    try:
        if module.params["group"]:
            _know_group(module.params["group"])
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
            errno.EDQUOT: "disk",
            errno.EACCES: "permission",
            errno.EPERM: "permission",
            errno.EROFS: "permission",
        }
        code = codes.get(error.errno or 0, "unknown")
        fix = conda_cli.fix_for(code)
        _fail(module, code, "{}: {}. {}".format(env.label if env else "conda_env", error, fix), env)


def _know_group(group: str) -> None:
    try:
        grp.getgrnam(group)
    except KeyError as error:
        raise Failure("bad_input", f"group {group}: there is no such group") from error


if __name__ == "__main__":
    main()
