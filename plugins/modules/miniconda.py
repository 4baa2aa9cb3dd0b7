#!/usr/bin/python
# Apache-2.0, see LICENSE
"""Converge one Miniconda: the pinned release at a prefix, whole, and known to the shells of chosen users."""

from __future__ import annotations

DOCUMENTATION = r"""
module: miniconda
short_description: Install a pinned Miniconda, or repair one whose installation was interrupted
version_added: 0.1.0
description:
  - Converges one prefix to a release of Miniconda. Fetches only what is missing.
  - The installer is pinned by its sha256 and fetched from the first mirror that delivers it; a transfer that
    was cut is resumed by the next run. It runs in batch mode (C(-b -p)) with the umask C(022).
  - A journal under I(state_dir) tells a half-made prefix from a whole one and from one that somebody else
    made. Only a half-made prefix of its own that holds no environments is removed; a prefix that was whole
    once, or that holds environments, is repaired and updated in place (C(-u)).
  - A conda that is newer than the release asked for is kept.
options:
  prefix:
    description: Where Miniconda lives. At most 90 characters; longer ones break the scripts in environments.
    type: path
    required: true
  release:
    description: The release, as in the installer's file name, for example C(py312_26.5.3-1).
    type: str
    required: true
  urls:
    description: URLs of the installer, the preferred one first.
    type: list
    elements: str
    required: true
  sha256:
    description: The sha256 of the installer, in hexadecimal.
    type: str
    required: true
  state_dir:
    description: A directory of root's for the journal and the download; it is made with mode 0700.
    type: path
    default: /var/lib/torchfleet/miniconda
  init_users:
    description: Users whose login shells shall know conda, by C(conda init) run as that user.
    type: list
    elements: str
    default: []
  init_shells:
    description: The shells to initialise for I(init_users).
    type: list
    elements: str
    choices: [bash, zsh]
    default: [bash]
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
  diff_mode: {support: full, description: "Shows the release, and the shells' files."}
author: The torchfleet authors
"""

EXAMPLES = r"""
- name: Install Miniconda
  torchfleet.gpu.miniconda:
    prefix: /opt/miniconda3
    release: py312_26.5.3-1
    sha256: ecb43ee4ae30a7a5af87737e9548ceb21f0a10ec55b8dc40d247aa925b80bfec
    urls: [https://mirrors.tuna.tsinghua.edu.cn/anaconda/miniconda/Miniconda3-py312_26.5.3-1-Linux-x86_64.sh]
    init_users: [alice]
"""

RETURN = r"""
version: {description: What C(conda -V) says., returned: success, type: str}
action: {description: "keep, install, repair or update.", returned: success, type: str}
reason: {description: Why that was the action., returned: success, type: str}
url: {description: The mirror that delivered the installer., returned: when it was fetched, type: str}
resumed_from: {description: What an earlier run had fetched., returned: when it was fetched, type: int}
failures: {description: Mirrors that failed., returned: always, type: list}
"""

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import stat
from pathlib import Path
from typing import Any, Iterator, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import (
    SHA256,
    DownloadError,
    Fetched,
    Web,
    available,
    download,
)

RELEASE = re.compile(r"py3(?P<minor>\d+)_(?P<conda>\d+\.\d+\.\d+)-\d+\Z")
PREFIX_MAX = 90
# Would steer conda or the installer from outside; CI=true would even accept Anaconda's terms.
NOT_INHERITED = re.compile(r"(CI|PYTHON.*|_?CONDA.*|MAMBARC)\Z")


BLOCK = re.compile(r"^# >>> conda initialize >>>$.*?^# <<< conda initialize <<<$", re.M | re.S)


class Found(NamedTuple):
    action: str  # keep | install | repair | update
    reason: str
    version: str | None


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


class Miniconda:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.prefix = Path(module.params["prefix"])
        self.conda = self.prefix / "bin" / "conda"
        self.release: str = module.params["release"]
        self.state_dir = Path(module.params["state_dir"])
        self.journal = self.state_dir / (str(self.prefix).strip("/").replace("/", "-") + ".json")
        name = module.params["urls"][0].rsplit("/", 1)[-1]
        self.installer = self.state_dir / (name if name.endswith(".sh") else name + ".sh")
        self.failures: list[str] = []
        self.lock_fds: list[int] = []

    # -- what was asked for ----------------------------------------------------------------------------------

    def check_wish(self) -> str:
        """Return the version of conda that the release promises; refuse what cannot work."""
        problems = []
        match = RELEASE.match(self.release)
        if not match:
            problems.append(f"release is {self.release!r}, expected a name such as 'py312_26.5.3-1'")
        if not SHA256.match(self.module.params["sha256"]):
            problems.append(f"sha256 is {self.module.params['sha256']!r}, expected 64 digits of 0-9a-f")
        prefix = str(self.prefix)
        if not re.match(r"/[A-Za-z0-9._/+-]+\Z", prefix):
            problems.append(
                f"prefix is {prefix!r}, expected an absolute path without spaces or odd characters"
            )
        if len(prefix) > PREFIX_MAX:
            problems.append(f"prefix has {len(prefix)} characters, at most {PREFIX_MAX} work")
        for name in self.module.params["init_users"]:
            try:
                pwd.getpwnam(name)
            except KeyError:
                problems.append(f"init_users names {name!r}, whom this host does not know")
        if problems:
            self.module.fail_json(msg="Miniconda: " + "; ".join(problems) + ".")
        assert match
        return match["conda"]

    # -- what is there ---------------------------------------------------------------------------------------

    def recorded(self) -> dict[str, Any]:
        try:
            journal: dict[str, Any] = json.loads(self.journal.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return journal

    def record(self, state: str) -> None:
        new = self.journal.with_suffix(".new")
        with new.open("w", encoding="utf-8") as handle:
            json.dump({"prefix": str(self.prefix), "release": self.release, "state": state}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        new.replace(self.journal)

    def conda_version(self) -> str | None:
        if not os.access(self.conda, os.X_OK) or not (self.prefix / "conda-meta" / "history").is_file():
            return None
        try:
            rc, out, _ = self.module.run_command([str(self.conda), "-V"], cwd="/", handle_exceptions=False)
        except OSError:  # its interpreter is gone
            return None
        match = re.match(r"conda (\d+\.\d+\.\d+)", out)
        return match[1] if rc == 0 and match else None

    def has_environments(self) -> bool:
        envs = self.prefix / "envs"
        return envs.is_dir() and any(not path.name.startswith(".") for path in envs.iterdir())

    def python_minor(self) -> str | None:
        for path in (self.prefix / "conda-meta").glob("python-3.*.json"):
            match = re.match(r"python-3\.(\d+)\.", path.name)
            if match:
                return match[1]
        return None

    def look(self, wanted: str) -> Found:
        journal = self.recorded()
        interrupted = journal.get("state") in ("installing", "updating")
        if not os.path.lexists(self.prefix) or (self.prefix.is_dir() and not any(self.prefix.iterdir())):
            return Found("install", f"there is nothing at {self.prefix}", None)
        version = self.conda_version()
        if version is None or interrupted:
            if not journal:
                self.module.fail_json(
                    msg=f"{self.prefix} exists, holds no working conda, and was not made by torchfleet. "
                    "Expected: nothing, or a working Miniconda. Move it away, or set miniconda_prefix to "
                    "another path."
                )
            why = "an installation was interrupted" if interrupted else "conda -V does not work any more"
            return Found("repair", f"{why} at {self.prefix}", version)
        if version_tuple(version) > version_tuple(wanted):
            return Found("keep", f"conda {version} is there, newer than {self.release}", version)
        if version_tuple(version) == version_tuple(wanted):
            return Found("keep", f"conda {version} is there", version)
        minor, asked = self.python_minor(), RELEASE.match(self.release)
        if minor and asked and minor != asked["minor"]:
            self.module.fail_json(
                msg=f"{self.prefix} has conda {version} on Python 3.{minor}; {self.release} brings Python "
                f"3.{asked['minor']}, and Miniconda cannot update across Python versions. Ask for a release "
                f"py3{minor}_..., or move {self.prefix} away."
            )
        return Found("update", f"conda {version} is older than {self.release}", version)

    # -- doing -----------------------------------------------------------------------------------------------

    def fetch(self) -> dict[str, Any]:
        urls = self.module.params["urls"]
        try:
            web = Web(self.module.params["timeout"], self.module.params["ca_pem"])
            if self.module.check_mode:
                fetched = available(web, urls)
            else:
                fetched = download(web, urls, str(self.installer), self.module.params["sha256"])
        except DownloadError as error:
            listed = "; ".join(str(failure) for failure in error.failures)
            self.module.fail_json(
                msg=f"Miniconda {self.release} could not be fetched: {error}"
                + (f": {listed}" if listed else "")
                + ". Check miniconda_release, miniconda_sha256 and mirrors_anaconda_urls; the next run "
                "goes on with what arrived so far.",
                failures=[str(failure) for failure in error.failures],
            )
        return self.told(fetched)

    def told(self, fetched: Fetched) -> dict[str, Any]:
        for failure in fetched.failures:
            self.module.warn(f"mirror of Miniconda skipped, {fetched.url} was used instead. {failure}")
            self.failures.append(str(failure))
        return {"url": fetched.url, "resumed_from": fetched.resumed_from}

    def install(self, found: Found, wanted: str) -> str:
        """Run the installer and return the version of conda that it left."""
        half_made = self.recorded().get("state") == "installing"
        in_place = found.action != "install" and (not half_made or self.has_environments())
        if not in_place and self.prefix.is_dir():
            shutil.rmtree(str(self.prefix))
        self.record("updating" if in_place else "installing")
        os.umask(0o022)
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        command = ["bash", str(self.installer), "-b", "-p", str(self.prefix)] + (["-u"] if in_place else [])
        # The lock goes to the installer as well: it may outlive a module whose connection was cut.
        rc, out, err = self.module.run_command(command, cwd="/", pass_fds=self.lock_fds)
        if rc != 0:
            said = " ".join((err or out).strip().splitlines()[-3:])
            self.module.fail_json(
                msg=f"the installer of Miniconda {self.release} ended with status {rc}: {said} "
                "The next run repairs what it left.",
                rc=rc,
                stdout=out,
                stderr=err,
            )
        self.tidy()
        version = self.conda_version()
        if version is None or version_tuple(version) < version_tuple(wanted):
            return self.module.fail_json(  # type: ignore[no-any-return]
                msg=f"after the installation {self.conda} -V says {version or 'nothing'}, expected {wanted} "
                f"({self.release}). The installer is not what its name says."
            )
        self.record("installed")
        self.installer.unlink()
        return version

    def tidy(self) -> None:
        """Leave nothing that others could write, and nothing that another user owns."""
        uid, gid = os.geteuid(), os.getegid()
        for folder, folders, names in os.walk(str(self.prefix)):
            for path in (Path(folder, name) for name in [".", *folders, *names]):
                status = path.lstat()
                if status.st_uid != uid:
                    os.lchown(str(path), uid, gid)
                if not stat.S_ISLNK(status.st_mode) and status.st_mode & stat.S_IWOTH:
                    path.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IWOTH)

    # -- shells ----------------------------------------------------------------------------------------------

    def init_shells(self) -> tuple[list[str], list[dict[str, str]]]:
        """Initialise what is not initialised yet; return the files, and their diffs."""
        files: list[str] = []
        diffs: list[dict[str, str]] = []
        for name in self.module.params["init_users"]:
            user = pwd.getpwnam(name)
            for shell in self.module.params["init_shells"]:
                path = Path(user.pw_dir, f".{shell}rc")
                before = read(path)
                block = BLOCK.search(before)
                if block and f"{self.conda}'" in block[0]:
                    continue
                files.append(str(path))
                if not self.module.check_mode:
                    self.init_shell(user, shell, path)
                    diffs.append({"before_header": str(path), "before": before, "after": read(path)})
        return files, diffs

    def init_shell(self, user: pwd.struct_passwd, shell: str, path: Path) -> None:
        # As the user, so that the file is the user's; runuser is there where sudo is not.
        command = [str(self.conda), "init", shell]
        if user.pw_uid != os.geteuid():
            command = ["runuser", "-u", user.pw_name, "--", *command]
        rc, out, err = self.module.run_command(
            command,
            cwd="/",
            environ_update={"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name},
        )
        if rc != 0 or str(self.conda) not in read(path):
            said = " ".join((err or out).strip().splitlines()[-3:])
            self.module.fail_json(
                msg=f"conda init {shell} for {user.pw_name} did not initialise {path} (status {rc}): {said}"
            )

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

    def converge(self) -> dict[str, Any]:
        wanted = self.check_wish()
        with self.alone():
            found = self.look(wanted)
            result: dict[str, Any] = {
                "action": found.action,
                "reason": found.reason,
                "version": found.version,
            }
            diffs: list[dict[str, str]] = []
            if found.action != "keep":
                result.update(self.fetch())
                before = f"conda {found.version}\n" if found.version else ""
                if not self.module.check_mode:
                    result["version"] = self.install(found, wanted)
                diffs.append(
                    {"before_header": str(self.prefix), "before": before, "after": f"conda {wanted}\n"}
                )
            files, shells = self.init_shells()
        result.update(
            changed=found.action != "keep" or bool(files), initialised=files, failures=self.failures
        )
        result["diff"] = diffs + shells
        self.warn_of_channels()
        return result

    def warn_of_channels(self) -> None:
        path = self.prefix / ".condarc"
        if "repo.anaconda.com" in read(path):
            self.module.warn(f"{path} names repo.anaconda.com: conda adds it to the channels of the system.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "urls": {"type": "list", "elements": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "state_dir": {"type": "path", "default": "/var/lib/torchfleet/miniconda"},
            "init_users": {"type": "list", "elements": "str", "default": []},
            "init_shells": {
                "type": "list",
                "elements": "str",
                "choices": ["bash", "zsh"],
                "default": ["bash"],
            },
            "timeout": {"type": "float", "default": 30},
            "ca_pem": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    for name in list(os.environ):
        if NOT_INHERITED.match(name):
            del os.environ[name]
    try:
        module.exit_json(**Miniconda(module).converge())
    except OSError as error:
        module.fail_json(
            msg=f"Miniconda at {module.params['prefix']}: {error}. Expected: to run as root, with space on "
            "the disk and a prefix that is neither a link nor a mount point."
        )


if __name__ == "__main__":
    main()
