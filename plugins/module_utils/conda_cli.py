# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""What conda and the pip installers print, read into one sentence that says what is wrong and what to do."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, Sequence

_LINES_OF_REASON = 12


class Problem(NamedTuple):
    code: str
    what: str
    fix: str

    def __str__(self) -> str:
        return "{}. {}".format(self.what.rstrip(". "), self.fix)


_FIX = {
    "not_found": "Check the spelling, the version and the channels: conda search -c CHANNEL 'SPEC'.",
    "conflict": "Loosen one of the named versions.",
    "channel": "Take the channel out of channels or of the configuration of conda, or name another mirror.",
    "network": "Check the address, the proxy and the mirror, or name another one; the next run tries again.",
    "certificate": "Add the CA to the system store and to conda's ssl_verify (the role mirrors does both).",
    "hash": "The mirror or a proxy sends a broken file: name another mirror, and run conda clean --tarballs.",
    "cache": "The package cache is damaged: remove the named package from it, or run conda clean --packages.",
    "disk": "Free space on the file systems of the environment and of the package cache.",
    "permission": "Run as the owner of the environment (become), or name a prefix of your own.",
    "not_an_environment": "Remove or move the directory, or name another prefix.",
    "terms": "Use channels without terms (a mirror, conda-forge), or accept them yourself: conda tos accept.",
    "spec": "Write the package as conda's MatchSpec: name, name=1.2, 'name>=1.2,<2', channel::name.",
    "frozen": "The environment is marked as frozen (conda-meta/frozen): its owner must lift that.",
    "unknown": "Run the command by hand for the whole message.",
}

# By exception_name, of conda 23.3 to 26.x and its solvers.
_CONDA = {
    "PackagesNotFoundError": "not_found",
    "PackagesNotFoundInChannelsError": "not_found",
    "ResolvePackageNotFound": "not_found",
    "UnsatisfiableError": "conflict",
    "LibMambaUnsatisfiableError": "conflict",
    "RattlerUnsatisfiableError": "conflict",
    "SpecsConfigurationConflictError": "conflict",
    "UnavailableInvalidChannel": "channel",
    "ChannelNotAllowed": "channel",
    "ChannelDenied": "channel",
    "NoChannelsConfiguredError": "channel",
    "ZstdError": "channel",
    "JSONDecodeError": "channel",
    "CondaHTTPError": "network",
    "ConnectionFailed": "network",
    "OfflineError": "network",
    "ProxyError": "network",
    "CondaSSLError": "certificate",
    "ChecksumMismatchError": "hash",
    "SafetyError": "cache",
    "CondaVerificationError": "cache",
    "CorruptedEnvironmentError": "not_an_environment",
    "EnvironmentLocationNotFound": "not_an_environment",
    "DirectoryNotACondaEnvironmentError": "not_an_environment",
    "NoSpaceLeftError": "disk",
    "EnvironmentNotWritableError": "permission",
    "NotWritableError": "permission",
    "NoWritablePkgsDirError": "permission",
    "NoWritableEnvsDirError": "permission",
    "CondaToSNonInteractiveError": "terms",
    "CondaToSRejectedError": "terms",
    "InvalidMatchSpec": "spec",
    "InvalidVersionSpec": "spec",
    "InvalidSpec": "spec",
    "EnvironmentIsFrozenError": "frozen",
}

_TEXTS = (
    (re.compile(r"No space left on device|ENOSPC|not enough (disk )?space|os error 28", re.I), "disk"),
    (re.compile(r"Permission denied|EACCES|Read-only file system|os error 13", re.I), "permission"),
)


def parse_json(stdout: str) -> dict[str, Any]:
    """The JSON document in conda's output: older conda puts text ahead, and some calls print nothing."""
    start = stdout.find("{")
    if start < 0:
        return {}
    try:
        document, _end = json.JSONDecoder().raw_decode(stdout[start:])
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def conda_problem(returncode: int, stdout: str, stderr: str, specs: Sequence[str]) -> Problem | None:
    """What went wrong; None after a success."""
    document = parse_json(stdout)
    if returncode == 0 and "exception_name" not in document and document.get("success") is not False:
        return None
    if returncode == 124:
        return Problem("timeout", "conda took longer than timeout", "Raise timeout, or look at the mirror.")
    # CondaMultiError repeats one error for each file; the first of each kind is enough.
    errors = document.get("errors") or [document]
    seen: list[Problem] = []
    for error in errors:
        problem = _one_conda_problem(error, returncode, stdout, stderr, specs)
        if problem not in seen:
            seen.append(problem)
    return seen[0] if len(seen) == 1 else seen[0]._replace(what="; ".join(one.what for one in seen[:3]))


def _one_conda_problem(
    error: dict[str, Any], returncode: int, stdout: str, stderr: str, specs: Sequence[str]
) -> Problem:
    name = str(error.get("exception_name") or "")
    message = str(error.get("message") or error.get("error") or "").strip()
    code = _by_text(message) or _CONDA.get(name, "unknown")
    if code == "not_found":
        listed = (
            error.get("channels_formatted")
            or message.partition("Current channels:")[2].partition("\n\nTo ")[0]
        )
        channels = ", ".join(re.findall(r"^\s*-\s+(\S+)", str(listed), re.M))
        packages = error.get("packages") or re.findall(r"^\s+-\s+(\S.*)$", message, re.M)
        what = "{} not found in {}".format(
            ", ".join(str(package) for package in packages) or message, channels or "the configured channels"
        )
    elif code == "conflict":
        what = f"the packages exclude each other:\n{_shorten(message)}"
    elif code == "network":
        what = "{}: {}".format(error.get("url") or "the channel", _http_reason(error, message))
    elif name == "UnavailableInvalidChannel":
        what = "channel {} answers {}".format(
            error.get("channel_url") or error.get("channel_name"),
            error.get("status_code") or error.get("reason"),
        )
    elif name in ("ZstdError", "JSONDecodeError"):
        first = (message.splitlines() or [name])[0]
        what = f"a channel sends something that is not an index, such as an HTML page ({first})"
    elif code == "hash":
        what = "{} has the {} {}, expected {}".format(
            error.get("url") or message,
            error.get("checksum_type") or "hash",
            error.get("actual_checksum"),
            error.get("expected_checksum"),
        )
    elif message:
        what = _shorten(message)
        if code == "unknown" and name:
            what = f"{name}: {what}"
    else:
        text = f"{stderr}\n{stdout}"
        code = _by_text(text) or "unknown"
        telling = [line.strip() for line in text.splitlines() if _by_text(line)]
        tail = telling[0] if telling else _tail(stderr) or _tail(stdout) or "no message"
        what = f"conda ended with status {returncode}: {tail}"
    if specs and code in ("spec", "unknown"):
        what = "{} (asked for {})".format(what, ", ".join(specs))
    return Problem(code, what, _FIX[code])


def _http_reason(error: dict[str, Any], message: str) -> str:
    cause = str(error.get("caused_by") or "")
    for pattern in (
        r"(Failed to resolve [^ ]+|Name or service not known)",
        r"(Connection refused|Network is unreachable|No route to host|timed out|Connection reset by peer)",
    ):
        match = re.search(pattern, cause + message)
        if match:
            return match.group(1).replace("\\", "").replace("'", "")
    status = str(error.get("status_code") or "")
    if status and status != "000":
        return "HTTP {} {}".format(status, error.get("reason") or "").strip()
    return str(error.get("reason") or (message.splitlines() or ["no answer"])[0])


def _by_text(text: str) -> str | None:
    for pattern, code in _TEXTS:
        if pattern.search(text):
            return code
    return None


def _shorten(text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if len(lines) > _LINES_OF_REASON:
        lines = [*lines[:_LINES_OF_REASON], f"... ({len(lines) - _LINES_OF_REASON} more lines)"]
    return "\n".join(lines)


def _tail(text: str, count: int = 4) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])


# In the order of asking: the first line that matches is the cause.
_PIP = (
    (
        "certificate",
        r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate|UnknownIssuer|certificate verify failed",
        "Add the CA to the system store and to the configuration of pip (the role mirrors does both).",
    ),
    ("disk", r"No space left on device|os error 28\b", _FIX["disk"]),
    ("permission", r"Permission denied|Read-only file system|os error 13\b", _FIX["permission"]),
    (
        "hash",
        r"DO NOT MATCH THE HASHES|Hash mismatch|BadZipFile|invalid Zip|Wheel .* is invalid",
        "The source sends a broken file: name another one.",
    ),
    (
        "managed",
        r"externally[ -]managed",
        "The environment forbids pip (EXTERNALLY-MANAGED): name the packages as conda packages.",
    ),
    (
        "network",
        r"Failed to establish a new connection|Failed to fetch|error sending request|dns error|"
        r"Name or service not known|name resolution|Connection refused|Read timed out|HTTP error [45]\d\d",
        "Check the address, the proxy and the mirror.",
    ),
    (
        "not_found",
        r"No matching distribution found|Could not find a version|was not found in|there is no version of|"
        r"there are no versions of|has no wheels|no wheels with a matching",
        "Check name, version and Python version against the source.",
    ),
    (
        "conflict",
        r"ResolutionImpossible|conflicting dependencies|requirements are unsatisfiable",
        "Loosen one of the named versions.",
    ),
)


def pip_problem(returncode: int, stdout: str, stderr: str) -> Problem:
    """What went wrong in a failed run of pip or uv."""
    if returncode == 124:
        return Problem("timeout", "took longer than timeout", "Raise timeout, or look at the source.")
    text = stderr + "\n" + stdout
    for code, pattern, fix in _PIP:
        match = re.search(rf"^.*(?:{pattern}).*$", text, re.M | re.I)
        if match:
            return Problem(code, _pip_detail(text, match.group(0)), fix)
    return Problem("unknown", f"status {returncode}: {_tail(text)[:1200]}", _FIX["unknown"])


def _pip_detail(text: str, line: str) -> str:
    # pip says why in its ERROR lines and above them, uv in the causes below its error.
    errors = [one.partition("ERROR:")[2].strip() for one in text.splitlines() if one.startswith("ERROR:")]
    uv = re.search(r"^(?:error:|\s*\u00d7)(.*)", text, re.M | re.S)
    if uv and not errors:
        detail = re.sub(r"\s*(?:cause:|\u2570\u2500\u25b6)", ";", uv.group(1))
    else:
        detail = " ".join(errors) if line.startswith("ERROR:") or not line.strip() else line
    return " ".join(detail.split())[:1200]


def fix_for(code: str) -> str:
    return _FIX[code]
