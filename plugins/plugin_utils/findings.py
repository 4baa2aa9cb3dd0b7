"""What preflight finds on hosts, beside what the wish alone tells; and the findings of a fleet as a table."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import urlsplit

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet, preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import (
    Note,
    Problem,
    mapping,
    number,
    sequence,
)

SCHEMA = 1
ERROR, WARNING = "error", "warning"
# Kerberos and most TLS set-ups bear 5 minutes; apt refuses an index that was signed 10 seconds in the future.
SKEW_ERROR, SKEW_WARNING = 300, 10
CHANGES = ("install", "upgrade", "remove")
COLUMNS = ("severity", "code", "hosts", "found", "fix")
SHORT = 110  # characters of a cell; all of it is in the document
Json = dict[str, Any]


class Finding(TypedDict):
    """An error stops the host before the first change; a warning is only told."""

    severity: str
    code: str
    what: str
    found: str
    expected: str | None
    fix: str | None


def error(code: str, what: str, found: str, expected: str, fix: str) -> Finding:
    return Finding(severity=ERROR, code=code, what=what, found=found, expected=expected, fix=fix)


def warning(code: str, what: str, found: str, expected: str | None, fix: str | None) -> Finding:
    return Finding(severity=WARNING, code=code, what=what, found=found, expected=expected, fix=fix)


def of_problem(row: Problem) -> Finding:
    return error(row["code"], row["what"], row["found"], row["expected"], row["fix"])


def of_note(row: Note) -> Finding:
    return warning(row["code"], "the plan", row["text"], None, row["remedy"])


# A host that tells nothing of itself


def lost(host: str, asked: Mapping[str, Any]) -> Finding:
    """Why gpu_facts brought no truth, by what Ansible says of it."""
    told = " ".join(str(asked.get(key) or "") for key in ("msg", "module_stderr", "exception"))
    message = re.sub(r"^(Task failed|Action failed): ", "", str(asked.get("msg") or "no message")).strip()
    # Of ssh and sudo their own words are enough.
    found = fleet.cell(re.sub(r"(?s)^.*(over ssh:|via ssh:|>>> Standard Error)\s+", "", message))
    ping = f'try "ansible {host} -m ansible.builtin.ping"'
    # Anything that went wrong on the way to root; some of it looks to Ansible as if the host were away.
    if re.search(r"become|sudo|doas|privilege escalation", message, re.IGNORECASE):
        return error(
            "become",
            "the way to root",
            found,
            "a user that may become root, with a password where one is asked for",
            "give --ask-become-pass or ansible_become_password (in a vault), or let sudoers allow it; "
            f"{ping} --become",
        )
    if asked.get("unreachable"):
        return error("unreachable", "the host", f"does not answer: {found}", *_unreachable(message, ping))
    if re.search(r"interpreter|minimum of Python version|python[\d.]*: (?:command )?not found", told):
        return error(
            "python",
            "the Python of the host",
            found,
            "Python 3.8 or newer",
            "install python3 (on RHEL 8: python3.9 or newer), or name one in ansible_python_interpreter",
        )
    if re.search(r"No space left|temporary directory", told):
        return error(
            "disk",
            "the home directory of the user",
            found,
            "room for ~/.ansible/tmp, and the right to write there",
            "free some, or name another place in ansible_remote_tmp",
        )
    return error(
        "no_facts",
        "the facts of the host",
        found,
        "what gpu_facts reads on every Linux",
        f'see all of it: "ansible {host} --become -m torchfleet.gpu.gpu_facts -vvv"',
    )


def _unreachable(message: str, ping: str) -> tuple[str, str]:
    for pattern, expected, fix in (
        (
            "resolve hostname|not known",
            "a name or an address that the controller finds",
            "correct the name, or set ansible_host",
        ),
        (
            "host key|HOST IDENTIFICATION",
            "a host key that is in known_hosts",
            "compare the key with the one at its console, then add it with ssh-keyscan",
        ),
        (
            "Permission denied|Authentication",
            "a user and a key that the host lets in",
            "set ansible_user and ansible_ssh_private_key_file, or copy the key there (ssh-copy-id)",
        ),
    ):
        if re.search(pattern, message, re.IGNORECASE):
            return expected, f"{fix}; {ping}"
    return (
        "an answer of its sshd",
        f"see that it is up, and check ansible_host, ansible_port and the firewalls; {ping}; or leave it out",
    )


# What to ask a host for


def questions(variables: Mapping[str, Any]) -> Json:
    """The arguments of gpu_facts: all places that a run writes to, and the names of its mirrors."""
    urls: list[Any] = []
    for key in ("mirrors_pypi_urls", "mirrors_anaconda_urls", "mirrors_debian_urls"):
        urls += sequence(variables[key])
    for row in map(mapping, sequence(variables["pytorch_sources"])):
        urls += sequence(row.get("urls"))
    paths = [path for path in _places(variables) if path.startswith("/")]
    proxied = bool(variables["mirrors_proxy"])  # which then resolves them
    return {
        "disk_paths": list(dict.fromkeys(paths)),
        "resolve": [] if proxied else list(dict.fromkeys(filter(None, map(_name, urls)))),
    }


def _name(url: Any) -> str | None:
    try:
        found = urlsplit(str(url)).hostname if str(url).startswith(("http://", "https://")) else None
    except ValueError:  # told by whoever uses it
        return None
    try:
        ipaddress.ip_address(found or "")
    except ValueError:
        return found
    return None


def _environment(variables: Mapping[str, Any], name: Any) -> str:
    return f"{variables['conda_envs_prefix']}/{name}"


def _places(variables: Mapping[str, Any]) -> list[str]:
    rows = [*sequence(variables["conda_envs_environments"]), *sequence(variables["pytorch_environments"])]
    own = ("miniconda_prefix", "conda_envs_prefix", "pytorch_cache_dir", "pytorch_uv_prefix")
    return [
        *(str(variables[key]) for key in own),
        *(_environment(variables, mapping(row).get("name")) for row in rows),
        *("/etc", "/usr", "/var", "/boot", "/tmp"),
    ]


# What speaks against a host


def of_host(truth: Mapping[str, Any], plan: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Finding]:
    """A truth that was written by hand may leave out what is asked here: of that nothing is said."""
    rows = {row["path"]: row for row in map(mapping, sequence(truth.get("disks"))) if "device" in row}
    return [
        *_user(truth),
        *_clock(truth),
        *_names(truth),
        *_mounts(rows, plan, variables, str(mapping(truth.get("os")).get("id"))),
        *_space(rows, plan, variables),
        *_driver(truth, plan, variables),
    ]


def _user(truth: Mapping[str, Any]) -> list[Finding]:
    who = mapping(truth.get("user"))
    if not who.get("uid"):
        return []
    return [
        error(
            "not_root",
            "the user on the host",
            f"{who.get('name')} (uid {who['uid']})",
            "root: drivers, shared environments and the keys of Secure Boot are root's",
            "run it with become: true, and leave ansible_become_user at root",
        )
    ]


def _clock(truth: Mapping[str, Any]) -> list[Finding]:
    skew = mapping(truth.get("clock")).get("skew_seconds")
    if not isinstance(skew, (int, float)) or abs(skew) < SKEW_WARNING:
        return []
    size = abs(skew)
    shown = f"{size / 3600:.1f} h" if size >= 7200 else f"{size / 60:.0f} min" if size >= 120 else f"{size} s"
    tell = error if size >= SKEW_ERROR else warning
    return [
        tell(
            "clock",
            "the clock of the host",
            f"{shown} {'ahead of' if skew > 0 else 'behind'} the controller's",
            f"at most {SKEW_WARNING} s: TLS and the signatures of package indexes fail on a wrong clock",
            "let chrony or systemd-timesyncd set it (timedatectl status); or mend the controller's",
        )
    ]


def _names(truth: Mapping[str, Any]) -> list[Finding]:
    told = mapping(truth.get("names"))
    own = told.get("hostname")
    mirrors = [name for name in sequence(told.get("asked")) if name != own]
    silent = [name for name in sequence(told.get("unresolved")) if name != own]
    found = []
    if silent and len(silent) == len(mirrors):
        found.append(
            error(
                "names",
                "the resolver of the host",
                f"no name of a mirror resolves: {', '.join(silent)}",
                "a resolver that answers",
                "mend /etc/resolv.conf, set mirrors_proxy, or name mirrors in the hosts file",
            )
        )
    elif silent:
        found.append(
            warning(
                "names",
                "the resolver of the host",
                f"does not resolve {', '.join(silent)}",
                "the names of all mirrors",
                "take those mirrors out of the lists of the role mirrors, or mend the resolver",
            )
        )
    if own in sequence(told.get("unresolved")):
        found.append(
            warning(
                "own_name",
                "the resolver of the host",
                f"does not resolve {own}, its own name",
                "its own name: sudo, MPI and the launchers of torch wait for it",
                f"add it to /etc/hosts (127.0.1.1 {own})",
            )
        )
    return found


def _mounts(
    rows: Mapping[str, Json], plan: Mapping[str, Any], variables: Mapping[str, Any], system: str
) -> list[Finding]:
    driver = mapping(plan.get("driver")).get("action") in CHANGES
    programs = [str(variables[key]) for key in ("miniconda_prefix", "conda_envs_prefix", "pytorch_uv_prefix")]
    written = [*programs, str(variables["pytorch_cache_dir"]), "/etc", "/tmp"]
    written += ["/usr", "/var", "/boot"] if driver else []
    found = []
    shut = [path for path in dict.fromkeys(written) if rows.get(path, {}).get("read_only")]
    if shut:
        found.append(
            error(
                "read_only",
                f"the file systems of {', '.join(shut)}",
                "mounted read-only",
                "file systems that can be written to",
                "look for errors of the disk (dmesg) and mount them again; or choose other places",
            )
        )
    # dpkg runs the scripts of packages from /var.
    programs += ["/var"] if driver and system in ("debian", "ubuntu") else []
    barred = [path for path in dict.fromkeys(programs) if rows.get(path, {}).get("noexec")]
    if barred:
        found.append(
            error(
                "noexec",
                f"the file systems of {', '.join(barred)}",
                "mounted noexec",
                "file systems from which programs can be run",
                "mount them without noexec, or choose other places",
            )
        )
    if rows.get("/tmp", {}).get("noexec"):
        found.append(
            warning(
                "noexec",
                "the file system of /tmp",
                "mounted noexec",
                "one from which programs can be run: builds of Python packages do so there",
                "mount it without noexec, or give users a TMPDIR elsewhere",
            )
        )
    return found


def needs(
    rows: Mapping[str, Json], plan: Mapping[str, Any], variables: Mapping[str, Any]
) -> list[tuple[str, int, str]]:
    """(path, bytes, what) of all that is not there yet; changes of what is there count when they come."""
    sizes = mapping(variables["__preflight_sizes"])

    def missing(path: str) -> bool:
        return rows.get(path, {}).get("exists") is False

    found = []
    prefix = str(variables["miniconda_prefix"])
    planned = [row for row in map(mapping, sequence(plan.get("environments"))) if row.get("torch")]
    wished = [row for row in map(mapping, sequence(variables["conda_envs_environments"]))
              if row.get("state") != "absent"]  # fmt: skip
    if missing(prefix) and (planned or wished):
        found.append((prefix, sizes["miniconda"], "Miniconda"))
    names = [row.get("name") for row in planned]
    for row in wished:
        path = _environment(variables, row.get("name"))
        if row.get("name") not in names and missing(path):
            found.append((path, sizes["environment"], f"the environment {row.get('name')}"))
    builds = mapping(variables["__pytorch_sizes"])
    for row in planned:
        path = _environment(variables, row.get("name"))
        kind = max(filter(str(row.get("variant")).startswith, builds), key=len, default=None)
        if not missing(path) or kind is None:
            continue
        by_conda = any(mapping(source).get("method") == "conda" for source in sequence(row.get("sources")))
        cache = f"{prefix}/pkgs" if by_conda else str(variables["pytorch_cache_dir"])
        found.append((path, builds[kind]["unpacked"], f"the environment {row.get('name')}"))
        found.append((cache if cache in rows else prefix, builds[kind]["wheels"], "the wheels of torch"))
    driver = mapping(plan.get("driver"))
    if driver.get("action") in ("install", "upgrade") and driver.get("packages"):
        found += [(path, size, "the driver") for path, size in mapping(sizes["driver"]).items()]
    return found


def _space(rows: Mapping[str, Json], plan: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Finding]:
    by_device: dict[int, list[tuple[str, int, str]]] = {}
    for path, size, what in needs(rows, plan, variables):
        if path in rows:
            by_device.setdefault(rows[path]["device"], []).append((path, size, what))
    reserve = number(variables["pytorch_disk_reserve_mb"]) * 10**6
    found = []
    for wanted in by_device.values():
        free, total = rows[wanted[0][0]]["free_bytes"], sum(size for _path, size, _what in wanted)
        if free >= total + reserve:
            continue
        parts = ", ".join(f"{what} {size / 1e9:.1f} GB" for _path, size, what in wanted)
        tell = error if free < total else warning
        found.append(
            tell(
                "disk",
                f"the file system of {', '.join(dict.fromkeys(path for path, _size, _what in wanted))}",
                f"{free / 1e9:.1f} GB free",
                f"about {total / 1e9:.1f} GB ({parts}), and {reserve / 1e9:.1f} GB in reserve",
                "free some, or move miniconda_prefix, conda_envs_prefix or pytorch_cache_dir to a larger one",
            )
        )
    return found


def _driver(truth: Mapping[str, Any], plan: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Finding]:
    """What the role nvidia_driver would refuse when its turn comes."""
    driver = mapping(plan.get("driver"))
    changes = driver.get("action") in CHANGES
    if not changes and not variables["__preflight_reboots"]:
        return []
    found = []
    daemons = sequence(variables["__nvidia_driver_own_processes"])
    jobs = [row for row in map(mapping, sequence(truth.get("processes"))) if row.get("name") not in daemons]
    if jobs and not variables["nvidia_driver_reboot_force"]:
        users = ", ".join(f"{row.get('name')} (pid {row.get('pid')}, {row.get('user')})" for row in jobs)
        planned = f"{driver['action']} the driver" if changes else "reboot for the driver"
        found.append(
            # A state that passes; whether the host is skipped, waited for or forced is rolling_busy's to say.
            warning(
                "gpus_busy",
                "the GPUs of the host",
                f"in use by {users}, and the plan is to {planned}",
                "no process on them while their driver changes or the host reboots",
                "nothing: rolling_busy says what happens to the host; or run it again when they are done",
            )
        )
    enrolled = mapping(mapping(truth.get("mok")).get("key")).get("enrolled") is True
    signs = driver["action"] in ("install", "upgrade") and driver.get("modules") == "dkms" and not enrolled
    if truth.get("secure_boot") and signs:
        if not variables["nvidia_driver_mok_enroll"]:
            found.append(
                error(
                    "secure_boot",
                    "Secure Boot",
                    "on, and the key that DKMS signs its modules with is not enrolled: they would not load",
                    "a module that is signed with an enrolled key",
                    "set nvidia_driver_modules to prebuilt where there are signed modules (Ubuntu), or "
                    "nvidia_driver_mok_enroll to true with a nvidia_driver_mok_password; or turn it off",
                )
            )
        elif not variables["nvidia_driver_mok_password"]:
            found.append(
                error(
                    "secure_boot",
                    "nvidia_driver_mok_password",
                    "empty, and nvidia_driver_mok_enroll is true",
                    "a password, which the console asks for at the next boot",
                    "set one, in a vault",
                )
            )
    return found


# What the mirrors that answer do not have


def of_mirrors(
    probed: Mapping[str, Any], truth: Mapping[str, Any], variables: Mapping[str, Any]
) -> list[Finding]:
    found = []
    silent = preflight.silent(probed)
    if preflight.UV in silent and variables["pytorch_installer"] != "uv":
        found.append(
            warning(
                "no_mirror",
                preflight.UV,
                f"no mirror has uv: {silent[preflight.UV]}",
                "one of mirrors_pypi_urls that has it",
                "nothing: pip installs then, which is slower",
            )
        )
    anaconda = mapping(probed.get("mirrors_anaconda_urls"))
    if not anaconda.get("url"):
        return found
    lacking = {row["path"]: row["reason"] for row in map(mapping, sequence(anaconda.get("missing")))}
    known = sequence(variables["mirrors_anaconda_cloud_channels"])
    for channel, users in _channels(variables).items():
        where = f"the channel {channel}" + (f" of {', '.join(users)}" if users else "")
        if channel not in known:
            found.append(
                warning(
                    "no_channel",
                    where,
                    "no channel of the mirrors: conda takes it from conda.anaconda.org, which was not asked",
                    "one of mirrors_anaconda_cloud_channels",
                    "add it to that list if the mirrors have it",
                )
            )
        elif preflight.cloud(channel) in lacking:
            new = any(preflight.missing(truth, _environment(variables, name)) for name in users)
            tell = error if new else warning
            found.append(
                tell(
                    "no_channel",
                    where,
                    f"{anaconda['url']} does not deliver it: {lacking[preflight.cloud(channel)]}",
                    "all of mirrors_anaconda_cloud_channels",
                    "name a mirror that has it first in mirrors_anaconda_urls, or take it out of that list",
                )
            )
    return found


def _channels(variables: Mapping[str, Any]) -> dict[str, list[str]]:
    """The declared channels that have a name and no address, with the environments that name them."""
    found: dict[str, list[str]] = {
        str(channel): [] for channel in sequence(variables["mirrors_anaconda_cloud_channels"])
    }
    for row in map(mapping, sequence(variables["conda_envs_environments"])):
        for channel in sequence(row.get("channels")) if row.get("state") != "absent" else ():
            name = str(channel).partition("/")[0]  # conda-forge/label/dev
            if re.match(r"\w[\w.-]*\Z", name) and name not in ("defaults", "nodefaults"):
                found.setdefault(name, []).append(str(row.get("name")))
    return found


# The fleet


def stopped(stop: str, percentage: float, hosts: int, failed: int) -> str | None:
    """Why no host may go on, where so many hosts have errors; null: the others may."""
    if stop != "run" or not failed or 100 * failed / hosts <= percentage:
        return None
    allowed = f"more than the {percentage:g} % of preflight_max_fail_percentage" if percentage else "and"
    tail = "" if percentage else " preflight_stop is run"
    return f"{failed} of {hosts} hosts have errors, {allowed}{tail}: the run stops before the first change"


def report(
    found: Sequence[tuple[str, Sequence[Finding]]], time: str, stop: str = "host", percentage: float = 0
) -> Json:
    """Of (host, its findings): the lines for people, and the document for programs."""
    rows: list[Json] = [{"host": host, **row} for host, findings in found for row in findings]
    bad = [host for host, findings in found if any(row["severity"] == ERROR for row in findings)]
    why = stopped(stop, percentage, len(found), len(bad))
    document = {
        "schema": SCHEMA,
        "time": time,
        "hosts": [host for host, _findings in found],
        "failed": bad,
        "stopped": why,
        "findings": rows,
    }
    count = sum(row["severity"] == ERROR for row in rows)
    lines = [
        f"{len(found)} host{_s(len(found))}: {count} error{_s(count)} on {len(bad)}, "
        f"{len(rows) - count} warning{_s(len(rows) - count)}"
    ]
    # Hosts of one kind have the same findings.
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        key = tuple(str(row[name] or "") for name in ("severity", "code", "what", "found", "fix"))
        alike.setdefault(key, []).append(row["host"])
    cells = [
        {
            "severity": severity,
            "code": code,
            "hosts": _hosts(hosts),
            "found": _short(f"{what}: {text}"),
            "fix": _short(fix),
        }
        for (severity, code, what, text, fix), hosts in sorted(alike.items(), key=lambda item: item[0][0])
    ]
    if cells:
        lines += ["", *fleet.table(cells, COLUMNS)]
    if why:
        lines += ["", why]
    return {"lines": lines, "document": document}


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _short(text: str) -> str:
    text = fleet.cell(text)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _hosts(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
