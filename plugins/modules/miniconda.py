#!/usr/bin/python
# Apache-2.0, see LICENSE
"""Converge one conda for all users of a host: Miniconda, Miniforge or Anaconda at a prefix."""

from __future__ import annotations

DOCUMENTATION = r"""
module: miniconda
short_description: Install, update, repair, configure or remove the conda of a host
version_added: 0.1.0
description:
  - Converges one prefix to a release of Miniconda, Miniforge or Anaconda, with its configuration, its shells
    and the directories that its users share, in one call. Fetches only what is missing, and starts conda only
    after a change.
  - The installer is pinned by its sha256 and fetched from the first mirror that delivers it; a transfer that
    was cut is resumed by the next run. It runs in batch mode (C(-b -p)) with the umask C(022).
  - A journal under I(state_dir) tells a half-made prefix from a whole one and from one that somebody else
    made. Only a half-made prefix of its own that holds no environments is removed; a prefix that was whole
    once, or that holds environments, is repaired in place (C(-u)).
  - An update is made in place (C(-u)) beside a copy of what was there, environments and package cache apart.
    When it fails or is killed, what was there is put back, and environments are never touched.
  - A conda that is newer than the release asked for is kept; one that somebody else made is adopted as it is.
options:
  prefix:
    description: Where conda lives. At most 90 characters; longer ones break the scripts in environments.
    type: path
    required: true
  state:
    description:
      - C(absent) removes the prefix and what points to it, if this module made it. With environments in it it
        is refused unless I(remove_environments) is set. Directories that users share stay.
    type: str
    choices: [present, absent]
    default: present
  distribution:
    description: Its name, for messages and the journal.
    type: str
    default: Miniconda
  release:
    description:
      - The release, as in the installer's file name, such as C(py312_26.5.3-1), C(26.3.2-3) or C(2025.06-1).
      - Where that tells the version of conda, it is the promise that the installer must keep.
      - C(latest) keeps whatever works, and installs what the mirror has where there is nothing.
    type: str
    default: latest
  urls:
    description: URLs of the installer, the preferred one first.
    type: list
    elements: str
    default: []
  sha256:
    description: The sha256 of the installer, in hexadecimal. Empty only with I(release=latest).
    type: str
    default: ""
  redirects:
    description: Hosts to which a mirror may redirect, beside its own site.
    type: list
    elements: str
    default: []
  adopt_minimum:
    description: The oldest conda that is adopted where somebody else made the prefix. Empty for none.
    type: str
    default: ""
  remove_environments:
    description: With I(state=absent), the environments in the prefix go too.
    type: bool
    default: false
  state_dir:
    description: A directory of root's for the journal and the download; it is made with mode 0700.
    type: path
    default: /var/lib/torchfleet/miniconda
  condarc:
    description: What C(.condarc) in the prefix holds, for all users. Empty leaves it alone.
    type: str
    default: ""
  profile:
    description: Make the command conda known to all users' login shells, by C(/etc/profile.d/conda.sh).
    type: bool
    default: false
  profile_path:
    description: That file.
    type: path
    default: /etc/profile.d/conda.sh
  init_users:
    description: Users whose shells shall know conda. Their files are changed with their rights.
    type: list
    elements: str
    default: []
  init_shells:
    description: The shells to initialise for I(init_users).
    type: list
    elements: str
    choices: [bash, zsh, fish]
    default: [bash]
  group:
    description: A group that may create environments in I(shared_dir). It is made when it is missing.
    type: str
    default: ""
  group_users:
    description: Users who are added to I(group). Nobody is taken out.
    type: list
    elements: str
    default: []
  shared_dir:
    description: Where C(envs) and C(pkgs) of I(group) lie.
    type: path
    default: /srv/conda
  timeout:
    description: Seconds that a mirror may stay silent.
    type: float
    default: 30
  ca_pem:
    description: Certificate authorities to trust beside the system's, as PEM text.
    type: str
    default: ""
attributes:
  check_mode: {support: full, description: Asks a mirror for the installer and changes nothing.}
  diff_mode: {support: full, description: "Shows the release, and every file."}
author: The torchfleet authors
"""

EXAMPLES = r"""
- name: Install Miniconda
  torchfleet.gpu.miniconda:
    prefix: /opt/miniconda3
    release: py312_26.5.3-1
    sha256: ecb43ee4ae30a7a5af87737e9548ceb21f0a10ec55b8dc40d247aa925b80bfec
    urls: [https://mirrors.tuna.tsinghua.edu.cn/anaconda/miniconda/Miniconda3-py312_26.5.3-1-Linux-x86_64.sh]
    profile: true
    init_users: [alice]

- name: Remove it, if nobody has environments in it
  torchfleet.gpu.miniconda:
    prefix: /opt/miniconda3
    state: absent
"""

RETURN = r"""
version: {description: The version of conda., returned: success, type: str}
action: {description: "keep, adopt, install, repair, update, remove or none.", returned: success, type: str}
reason: {description: Why that was the action., returned: success, type: str}
url: {description: The mirror that delivered the installer., returned: when it was fetched, type: str}
resumed_from: {description: What an earlier run had fetched., returned: when it was fetched, type: int}
sha256: {description: That of an installer that was not pinned., returned: when it was fetched, type: str}
failures: {description: Mirrors that failed., returned: always, type: list}
paths: {description: Files and directories that changed beside the prefix., returned: success, type: list}
refused: {description: "Shell files that were left alone, with the reason.", returned: success, type: list}
others: {description: "Other installations of conda on the host, left alone.", returned: success, type: list}
leftovers: {description: Configuration that still names Anaconda's servers., returned: success, type: list}
"""

import contextlib
import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import (
    base_prefix,
    shared_dirs,
    shell_rc,
    small_files,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import (
    SHA256,
    DownloadError,
    Fetched,
    Web,
    available,
    download,
    secrets,
)

# What a release of Miniconda (py312_26.5.3-1) or Miniforge (26.3.2-3) tells; Anaconda's (2025.06-1) does not.
PROMISE = re.compile(r"(?:py3(?P<minor>\d+)_)?(?P<conda>\d+\.\d+\.\d+)-\d+\Z")
RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
PREFIX_MAX = 90
# Would steer conda or the installer from outside; CI=true would even accept Anaconda's terms.
NOT_INHERITED = re.compile(r"(CI|PYTHON.*|_?CONDA.*|MAMBARC)\Z")
MARKER = "# Managed by torchfleet"
BEFORE = ".torchfleet-before"
STALE = 24 * 3600

PROFILE = """{marker} (role miniconda): changes here are overwritten.
if [ -r '{prefix}/etc/profile.d/conda.sh' ]; then
    . '{prefix}/etc/profile.d/conda.sh'
fi
"""
# By the environment and not in .condarc: root must never link files that others can write. Nor for members
# whose umask would keep what they extract from the others: conda sets modes by it, past any ACL.
PROFILE_GROUP = """case " $(id -nG) " in
    *' root '*) ;;
    *' {group} '*)
        case "$(umask)" in
            *[4-7]?) ;;
            *) export CONDA_PKGS_DIRS='{shared}/pkgs' ;;
        esac
        ;;
esac
"""


class Found(NamedTuple):
    action: str  # keep | adopt | install | repair | update
    reason: str
    version: str | None


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


class Miniconda:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        params = module.params
        self.prefix = Path(params["prefix"])
        self.conda = self.prefix / "bin" / "conda"
        self.name: str = params["distribution"]
        self.release: str = params["release"]
        promise = PROMISE.match(self.release)
        self.wanted: str | None = promise["conda"] if promise else None
        self.wanted_python: str | None = promise["minor"] if promise else None
        self.state_dir = Path(params["state_dir"])
        self.journal = self.state_dir / (str(self.prefix).strip("/").replace("/", "-") + ".json")
        file = (params["urls"] or ["installer.sh"])[0].partition("?")[0].rsplit("/", 1)[-1]
        self.installer = self.state_dir / (file if file.endswith(".sh") else file + ".sh")
        self.aside = self.prefix.with_name(f".{self.prefix.name}.torchfleet-removed")
        self.failures: list[str] = []
        self.refused: list[str] = []
        self.paths: list[str] = []
        self.diffs: list[dict[str, str]] = []
        self.lock_fds: list[int] = []

    # -- what was asked for ----------------------------------------------------------------------------------

    def check_wish(self) -> None:
        """Refuse what cannot work, all of it at once."""
        params, problems = self.module.params, []
        if not RELEASE.match(self.release):
            problems.append(f"release is {self.release!r}, expected a name such as 'py312_26.5.3-1'")
        if params["sha256"] and not SHA256.match(params["sha256"]):
            problems.append(f"sha256 is {params['sha256']!r}, expected 64 digits of 0-9a-f")
        if params["state"] == "present":
            if not params["sha256"] and self.release != "latest":
                problems.append(
                    f"sha256 is empty; only 'latest' goes without, and release is {self.release!r}"
                )
            if not params["urls"]:
                problems.append("urls is empty, expected where the installer is to be had")
        prefix = str(self.prefix)
        if not re.match(r"/[A-Za-z0-9._/+-]+\Z", prefix):
            problems.append(
                f"prefix is {prefix!r}, expected an absolute path without spaces or odd characters"
            )
        if len(prefix) > PREFIX_MAX:
            problems.append(f"prefix has {len(prefix)} characters, at most {PREFIX_MAX} work")
        for option in ("init_users", "group_users"):
            for name in params[option]:
                try:
                    pwd.getpwnam(name)
                except KeyError:
                    problems.append(f"{option} names {name!r}, whom this host does not know")
        if params["group"] and not re.match(r"[a-z_][a-z0-9_.-]*\Z", params["group"]):
            problems.append(f"group is {params['group']!r}, expected a name of letters, digits and . _ -")
        if params["group"] == "root":
            problems.append("group is 'root', expected one of ordinary users")
        if problems:
            self.module.fail_json(msg=f"{self.name}: " + "; ".join(problems) + ".")

    # -- what is there ---------------------------------------------------------------------------------------

    def recorded(self) -> dict[str, Any]:
        try:
            journal: dict[str, Any] = json.loads(self.journal.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return journal

    def record(self, state: str, release: str | None = None) -> None:
        new = self.journal.with_suffix(".new")
        row = {"prefix": str(self.prefix), "release": release or self.release, "state": state}
        with new.open("w", encoding="utf-8") as handle:
            json.dump({**row, "distribution": self.name}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        new.replace(self.journal)

    def conda_version(self) -> str | None:
        """Return what conda itself says: the proof after a change."""
        try:
            rc, out, _ = self.module.run_command([str(self.conda), "-V"], cwd="/", handle_exceptions=False)
        except OSError:
            return None
        match = re.match(r"conda (\d+\.\d+\.\d+)", out)
        return match[1] if rc == 0 and match else None

    def look(self) -> Found:
        journal = self.recorded()
        interrupted = journal.get("state") in ("installing", "updating")
        if not os.path.lexists(self.prefix) or (self.prefix.is_dir() and not any(self.prefix.iterdir())):
            return Found("install", f"there is nothing at {self.prefix}", None)
        base = base_prefix.look(self.prefix)
        if not journal:
            return self.look_at_another_s(base)
        release = journal.get("release", "")
        if journal["state"] != "installing" and journal.get("distribution", self.name) != self.name:
            self.module.fail_json(
                msg=f"{self.prefix} holds {journal['distribution']} {release}; {self.name} {self.release} "
                "was asked for, and one cannot become the other in place. Set miniconda_prefix to another "
                "path, or remove it first (miniconda_state: absent)."
            )
        if base.damage or base.version is None or interrupted:
            why = "what was begun there was interrupted" if interrupted else base.damage
            return Found("repair", f"{self.prefix}: {why}", base.version)
        if self.release == "latest" or (release == self.release and not self.wanted):
            return Found("keep", f"conda {base.version} is there", base.version)
        if self.wanted:
            if version_tuple(base.version) > version_tuple(self.wanted):
                reason = f"conda {base.version} is there, newer than {self.release}"
                return Found("keep", reason, base.version)
            if version_tuple(base.version) == version_tuple(self.wanted):
                return Found("keep", f"conda {base.version} is there", base.version)
        elif version_tuple(release) > version_tuple(self.release):
            return Found("keep", f"{release} is there, newer than {self.release}", base.version)
        if self.wanted_python and base.python and self.wanted_python != base.python:
            self.module.fail_json(
                msg=f"{self.prefix} has conda {base.version} on Python 3.{base.python}; {self.release} "
                f"brings Python 3.{self.wanted_python}, and an update in place cannot cross versions of "
                f"Python. Ask for a release py3{base.python}_..., or set miniconda_prefix to another path."
            )
        return Found("update", f"conda {base.version} ({release}) is older than {self.release}", base.version)

    def look_at_another_s(self, base: base_prefix.Base) -> Found:
        minimum = self.module.params["adopt_minimum"]
        if base.damage or not base.version:
            self.module.fail_json(
                msg=f"{self.prefix} exists, was not made by torchfleet, and holds no working conda "
                f"({base.damage}). Expected: nothing, or a working conda. Move it away, or set "
                "miniconda_prefix to another path."
            )
        version = str(base.version)
        if not minimum or version_tuple(version) < version_tuple(minimum):
            wanted = f"conda {minimum} or newer" if minimum else "nothing there (miniconda_adopt is false)"
            return self.module.fail_json(  # type: ignore[no-any-return]
                msg=f"{self.prefix} holds conda {version}, which was not made by torchfleet; expected "
                f"{wanted}. Update it yourself (conda update -n base conda), lower miniconda_adopt_minimum, "
                "or set miniconda_prefix to another path."
            )
        return Found("adopt", f"conda {version} is there, made by somebody else", version)

    # -- the installer ---------------------------------------------------------------------------------------

    def fetch(self) -> dict[str, Any]:
        params = self.module.params
        try:
            web = Web(params["timeout"], params["ca_pem"], params["redirects"])
            if self.module.check_mode and params["urls"][0].startswith("file:"):
                fetched = Fetched(params["urls"][0], 0, 0, [])  # a bundle's file comes with the real run
            elif self.module.check_mode:
                fetched = available(web, params["urls"])
            else:
                fetched = download(web, params["urls"], str(self.installer), params["sha256"])
        except DownloadError as error:
            listed = "; ".join(str(failure) for failure in error.failures)
            self.module.fail_json(
                msg=f"{self.name} {self.release} could not be fetched: {error}"
                + (f": {listed}" if listed else "")
                + ". Check miniconda_release, miniconda_sha256 and mirrors_anaconda_urls; the next run "
                "goes on with what arrived so far.",
                failures=[str(failure) for failure in error.failures],
            )
        return self.told(fetched)

    def told(self, fetched: Fetched) -> dict[str, Any]:
        for failure in fetched.failures:
            self.module.warn(f"mirror of {self.name} skipped, {fetched.url} was used instead. {failure}")
            self.failures.append(str(failure))
        result = {"url": fetched.url, "resumed_from": fetched.resumed_from}
        if not self.module.params["sha256"] and not self.module.check_mode:
            data = self.installer.read_bytes()
            result["sha256"] = hashlib.sha256(data).hexdigest()
            if not data.startswith(b"#!"):
                self.installer.unlink()
                self.module.fail_json(
                    msg=f"{fetched.url} delivers no installer: it does not begin with '#!'."
                )
            self.module.warn(
                f"{self.name} {self.release} is not pinned: TLS and {fetched.url} are all that vouches for "
                f"it, and other hosts may get another one. It has sha256 {result['sha256']}."
            )
        return result

    def run_installer(self, in_place: bool) -> str | None:
        """Run it, and return what went wrong."""
        os.umask(0o022)
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        command = ["bash", str(self.installer), "-b", "-p", str(self.prefix)] + (["-u"] if in_place else [])
        # The lock goes to the installer as well: it may outlive a module whose connection was cut.
        rc, out, err = self.module.run_command(command, cwd="/", pass_fds=self.lock_fds)
        if rc != 0:
            said = " ".join((err or out).strip().splitlines()[-3:])
            return f"the installer of {self.name} {self.release} ended with status {rc}: {said}{self.space()}"
        version = self.conda_version()
        if version is None or (self.wanted and version_tuple(version) < version_tuple(self.wanted)):
            return (
                f"after the installation {self.conda} -V says {version or 'nothing'}, expected "
                f"{self.wanted or 'a version'} ({self.release}). The installer is not what its name says."
            )
        return None

    def space(self) -> str:
        disk = os.statvfs(str(self.prefix if self.prefix.exists() else self.prefix.parent))
        free = disk.f_bavail * disk.f_frsize
        return f" ({free // 2**20} MiB are free at {self.prefix})"

    def install(self, found: Found) -> None:
        journal = self.recorded()
        half_made = found.action == "install" or journal.get("state") == "installing"
        if half_made:
            self.install_anew(journal.get("release"))
        else:
            self.update(journal["release"])
        self.disarm_condarcs()
        self.tidy()
        self.record("installed")
        self.installer.unlink()

    def install_anew(self, release: str | None) -> None:
        in_place = bool(base_prefix.environments(self.prefix))
        if not in_place and self.prefix.is_dir():
            shutil.rmtree(str(self.prefix))
        self.record("installing", release)
        wrong = self.run_installer(in_place)
        if wrong:
            if not in_place and self.prefix.is_dir():
                shutil.rmtree(str(self.prefix))  # it holds nothing yet, and the disk may be full
            self.module.fail_json(msg=f"{wrong} The next run tries again.")

    # -- update: never lose what works -----------------------------------------------------------------------

    @property
    def before(self) -> Path:
        return self.prefix / BEFORE

    @property
    def before_part(self) -> Path:
        return self.prefix / f"{BEFORE}.part"

    def update(self, release: str) -> None:
        self.keep_a_copy()
        self.record("updating", release)
        wrong = self.run_installer(in_place=True)
        if wrong:
            self.put_back(release)
            self.module.fail_json(
                msg=f"{wrong} What was there before was put back; environments were not touched."
            )
        # A copy that is half removed must not be put back.
        self.before.rename(self.before_part)
        shutil.rmtree(str(self.before_part))

    def keep_a_copy(self) -> None:
        """Copy the base, without environments and package cache, which an update does not change."""
        part = self.before_part
        if part.is_dir():
            shutil.rmtree(str(part))
        own = ("envs", "pkgs", part.name)
        items = [str(path) for path in sorted(self.prefix.iterdir()) if path.name not in own]
        need = int(self.must("du", "-sckx", *items).splitlines()[-1].split()[0]) * 1024
        disk = os.statvfs(str(self.prefix))
        if 2 * need > disk.f_bavail * disk.f_frsize:
            self.module.fail_json(
                msg=f"the update of {self.prefix} needs {2 * need // 2**20} MiB, half of it for a copy of "
                f"what is there{self.space()}. Make space; nothing was changed."
            )
        part.mkdir()
        self.must("cp", "-a", "--reflink=auto", "-t", str(part), *items)
        part.rename(self.before)

    def must(self, *command: str) -> str:
        rc, out, err = self.module.run_command(list(command), cwd="/")
        if rc != 0:
            self.module.fail_json(
                msg=f"{command[0]} ended with status {rc}: {err.strip()} Nothing was changed."
            )
        return str(out)

    def put_back(self, release: str) -> None:
        """Each item is in the copy until it is back, so that a kill is mended by the next run."""
        for path in sorted(self.before.iterdir()):
            target = self.prefix / path.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(str(target))
            path.replace(target)
        self.before.rmdir()
        self.record("installed", release)

    def disarm_condarcs(self) -> None:
        """What the installer itself shipped gives way, and must not lead past the mirrors."""
        condarc = self.prefix / ".condarc"
        if self.module.params["condarc"] and not (small_files.read(condarc) or MARKER).startswith(MARKER):
            condarc.unlink()
        for name in base_prefix.naming_the_origin(self.prefix, []):
            path = Path(name)
            if self.prefix in path.parents:
                path.rename(path.with_name(path.name + ".torchfleet-off"))

    def tidy(self) -> None:
        """Leave nothing that others could write, and nothing that another user owns."""
        uid, gid = os.geteuid(), os.getegid()
        for folder, folders, names in os.walk(str(self.prefix)):
            if folder == str(self.prefix):
                folders[:] = [name for name in folders if name != "envs"]
            for path in (Path(folder, name) for name in [".", *folders, *names]):
                status = path.lstat()
                if status.st_uid != uid:
                    os.lchown(str(path), uid, gid)
                if not stat.S_ISLNK(status.st_mode) and status.st_mode & stat.S_IWOTH:
                    path.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IWOTH)

    def sweep(self) -> None:
        """Remove what downloads of long ago left; another run may be at work with a newer one."""
        for path in [*self.state_dir.glob("*.sh"), *self.state_dir.glob("*.sh*.part")]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()

    # -- removal ---------------------------------------------------------------------------------------------

    def remove(self) -> dict[str, Any]:
        journal = self.recorded()
        there = os.path.lexists(self.prefix)
        if not there and not journal:
            return {"action": "none", "reason": f"there is nothing at {self.prefix}", "version": None}
        if not journal:
            self.module.fail_json(
                msg=f"{self.prefix} was not made by torchfleet, and is not removed. Remove it yourself, or "
                "set miniconda_prefix to the one that is meant."
            )
        environments = base_prefix.environments(self.prefix)
        if environments and not self.module.params["remove_environments"]:
            self.module.fail_json(
                msg=f"{self.prefix} holds {len(environments)} environments ({', '.join(environments[:5])}"
                f"{', ...' if len(environments) > 5 else ''}), and is not removed. Remove them first, or set "
                "miniconda_remove_environments: true."
            )
        version = base_prefix.look(self.prefix).version
        if not self.module.check_mode:
            self.record("removing", journal.get("release"))
            if there:
                self.prefix.replace(self.aside)
            if self.aside.exists():
                shutil.rmtree(str(self.aside))
            self.journal.unlink()
        self.diffs.append(small_files.difference(str(self.prefix), f"conda {version}\n", None))
        return {"action": "remove", "reason": "miniconda_state is absent", "version": None}

    # -- what points to it -----------------------------------------------------------------------------------

    def put_files(self, present: bool) -> None:
        params, files = self.module.params, []
        marker = f"{MARKER} (role miniconda)"
        if present and params["condarc"]:
            files.append(small_files.Small(str(self.prefix / ".condarc"), params["condarc"], marker=MARKER))
        profile = None
        if present and params["profile"]:
            profile = PROFILE.format(marker=MARKER, prefix=self.prefix)
            if params["group"]:
                profile += PROFILE_GROUP.format(group=params["group"], shared=params["shared_dir"])
        files.append(small_files.Small(params["profile_path"], profile, marker=marker))
        for file in files:
            found = small_files.change(file)
            if found and self.ours(file, found):
                self.note(file.path, found)
                if not self.module.check_mode:
                    small_files.put(self.module, file)

    def ours(self, file: small_files.Small, found: dict[str, str]) -> bool:
        """A profile that leads to another prefix is not taken away with this one."""
        return file.content is not None or f"{self.prefix}/" in found["before"]

    def note(self, path: str, found: dict[str, str]) -> None:
        self.paths.append(path)
        self.diffs.append(found)

    def init_shells(self, present: bool) -> None:
        for name in self.module.params["init_users"]:
            user = pwd.getpwnam(name)
            for shell in self.module.params["init_shells"]:
                change = shell_rc.look(user, shell, str(self.prefix), present)
                if change is None:
                    continue
                if change.refused:
                    self.refused.append(f"{change.path}: {change.refused}")
                    continue
                self.note(change.path, small_files.difference(change.path, change.before, change.after))
                if not self.module.check_mode:
                    shell_rc.write(user, change)
        if self.refused:
            self.module.warn(
                "shell files left as they are: " + "; ".join(self.refused) + ". Their owners can run "
                f"{self.conda} init themselves, or be taken out of miniconda_init_users."
            )

    def share(self) -> None:
        group, gid = self.module.params["group"], shared_dirs.gid_of(self.module.params["group"])
        if gid is None:
            self.note(f"group {group}", small_files.difference(f"group {group}", None, "exists\n"))
            if not self.module.check_mode:
                self.must("groupadd", "--system", group)
                gid = grp.getgrnam(group).gr_gid
        for name in self.module.params["group_users"]:
            user = pwd.getpwnam(name)
            if gid is None or gid not in os.getgrouplist(name, user.pw_gid):
                self.note(
                    f"group {group}: {name}", small_files.difference(f"group {group}", None, f"{name}\n")
                )
                if not self.module.check_mode:
                    self.must("usermod", "-a", "-G", group, name)
        for row in shared_dirs.wanted(self.module.params["shared_dir"]):
            wrong = shared_dirs.wrong(row, gid)
            if not wrong:
                continue
            after = f"mode {row.mode:04o}" + (f", group {group}" if row.group else "")
            self.note(row.path, small_files.difference(row.path, ", ".join(wrong) + "\n", after + "\n"))
            if not self.module.check_mode:
                assert gid is not None
                warning = shared_dirs.put(row, gid)
                if warning:
                    self.module.warn(warning)

    # -- all of it -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Two runs at the same prefix at once would spoil it."""
        if self.module.check_mode:
            yield
            return
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state_dir.chmod(0o700)
        with self.journal.with_suffix(".lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.module.fail_json(
                    msg=f"another run is working on {self.prefix} just now; try again when it is done."
                )
            self.lock_fds = [lock.fileno()]
            yield

    def take_up(self) -> None:
        """Bring what an interrupted update or removal left back to something whole."""
        journal = self.recorded()
        if self.before.is_dir() and journal:
            self.put_back(journal["release"])
        elif journal.get("state") == "removing":
            if self.aside.exists():
                shutil.rmtree(str(self.aside))
            if os.path.lexists(self.prefix):
                self.record("installed", journal["release"])
            else:
                self.journal.unlink()

    def present(self) -> dict[str, Any]:
        if not self.module.check_mode:
            self.take_up()
        found = self.look()
        result: dict[str, Any] = {"action": found.action, "reason": found.reason, "version": found.version}
        if found.action not in ("keep", "adopt"):
            result.update(self.fetch())
            if not self.module.check_mode:
                self.install(found)
                result["version"] = base_prefix.look(self.prefix).version
            before = f"conda {found.version}\n" if found.version else ""
            after = f"conda {self.wanted or 'of ' + self.release}\n"
            self.diffs.append(small_files.difference(str(self.prefix), before, after))
        if self.module.params["group"]:
            self.share()
        return result

    def converge(self) -> dict[str, Any]:
        self.check_wish()
        present = self.module.params["state"] == "present"
        with self.alone():
            result = self.present() if present else self.remove()
            self.put_files(present)
            self.init_shells(present)
            if not self.module.check_mode:
                self.sweep()
        acted = result["action"] not in ("keep", "adopt", "none")
        homes = base_prefix.local_homes()
        result.update(
            changed=acted or bool(self.paths),
            failures=self.failures,
            paths=self.paths,
            refused=self.refused,
            others=base_prefix.elsewhere(homes, self.prefix),
            leftovers=base_prefix.naming_the_origin(self.prefix, homes) if present else [],
            diff=self.diffs,
        )
        self.tell(result)
        return result

    def tell(self, result: dict[str, Any]) -> None:
        # Of ordinary users it is their own choice.
        mine = [
            path
            for path in result["leftovers"]
            if path.startswith(("/etc/", "/var/", "/root/", str(self.prefix)))
        ]
        if mine:
            self.module.warn(
                f"{', '.join(mine)}: names Anaconda's own servers, past the mirrors; conda adds that to the "
                "channels, and may stop on their terms of service. Take it out there."
            )
        if result["others"] and result["action"] == "install":
            found = ", ".join(
                f"{row['prefix']} (conda {row['version']}, of {row['owner']})" for row in result["others"]
            )
            self.module.warn(f"other installations of conda on the host are left as they are: {found}.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "distribution": {"type": "str", "default": "Miniconda"},
            "release": {"type": "str", "default": "latest"},
            "urls": {"type": "list", "elements": "str", "default": []},
            "sha256": {"type": "str", "default": ""},
            "redirects": {"type": "list", "elements": "str", "default": []},
            "adopt_minimum": {"type": "str", "default": ""},
            "remove_environments": {"type": "bool", "default": False},
            "state_dir": {"type": "path", "default": "/var/lib/torchfleet/miniconda"},
            "condarc": {"type": "str", "default": ""},
            "profile": {"type": "bool", "default": False},
            "profile_path": {"type": "path", "default": "/etc/profile.d/conda.sh"},
            "init_users": {"type": "list", "elements": "str", "default": []},
            "init_shells": {
                "type": "list",
                "elements": "str",
                "choices": ["bash", "zsh", "fish"],
                "default": ["bash"],
            },
            "group": {"type": "str", "default": ""},
            "group_users": {"type": "list", "elements": "str", "default": []},
            "shared_dir": {"type": "path", "default": "/srv/conda"},
            "timeout": {"type": "float", "default": 30},
            "ca_pem": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    module.no_log_values.update(secrets(module.params["urls"]))
    for name in list(os.environ):
        if NOT_INHERITED.match(name):
            del os.environ[name]
    try:
        module.exit_json(**Miniconda(module).converge())
    except OSError as error:
        module.fail_json(
            msg=f"{module.params['distribution']} at {module.params['prefix']}: {error}. Expected: to run as "
            "root, with space on the disk and a prefix that is neither a link nor a mount point."
        )


if __name__ == "__main__":
    main()
