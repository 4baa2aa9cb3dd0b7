#!/usr/bin/python
# Apache-2.0, see LICENSE
"""Find the mirrors that answer, as this host sees them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mirror_probe
short_description: Find the mirrors that answer, as the host sees them
version_added: 0.1.0
description:
  - For each group, an ordered list of mirrors of the same thing, finds the first that really delivers a
    known path, in one round trip for all groups. It reads a few kilobytes, more by I(search_bytes), and
    changes nothing.
  - A mirror answers when it delivers I(path) with I(expect) near its start. A login page of a captive
    portal, an error page with status 200, or a redirect to another site is no answer.
  - By choice it measures all of them and takes a fast one; what that reads and how long it takes is bounded.
options:
  groups:
    description: The groups of mirrors.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name of the group, for messages and for the result.
        type: str
        required: true
      urls:
        description: The bases, the preferred one first.
        type: list
        elements: str
        required: true
      path:
        description: A path that every mirror of the group has.
        type: str
        required: true
      expect:
        description: A text that is near the start of that path, as it is or as HTML and URLs write it.
        type: str
        required: true
      search_bytes:
        description: How much of the path is read at most to find that text.
        type: int
        default: 8192
      optional:
        description: Paths that the chosen mirror may lack; those that it does are returned as C(missing).
        type: list
        elements: str
        default: []
  order:
    description:
      - C(given) takes the first that answers, and asks no further.
      - C(speed) asks all, one after the other, and takes the first in the given order that is at least half
        as fast as the fastest, so that the choice does not change with every run.
    type: str
    choices: [given, speed]
    default: given
  sample_bytes:
    description: With I(order=speed), what is read of I(path) at most.
    type: int
    default: 1048576
  sample_seconds:
    description: With I(order=speed), how long it is read at most.
    type: float
    default: 2
  timeout:
    description: Seconds to wait for a mirror to answer.
    type: float
    default: 10
  ca_pem:
    description: Certificate authorities to trust beside the system's, as PEM text.
    type: str
    default: ""
attributes:
  check_mode: {support: full, description: It only reads.}
  diff_mode: {support: none, description: It only reads.}
author: The torchfleet authors
"""

EXAMPLES = r"""
- name: Find a mirror of PyPI
  torchfleet.gpu.mirror_probe:
    groups:
      - name: pypi
        urls: [https://pypi.tuna.tsinghua.edu.cn/simple, https://mirrors.bfsu.edu.cn/pypi/web/simple]
        path: pip/
        expect: pip-
  register: mirrors
"""

RETURN = r"""
groups:
  description: What was found, by the name of the group.
  returned: always
  type: dict
  contains:
    url: {description: The chosen mirror., type: str}
    urls: {description: "All mirrors: the chosen one, those behind it, then those that failed.", type: list}
    failures: {description: "The mirrors that failed, with the reason.", type: list}
    missing: {description: The optional paths that the chosen mirror does not deliver., type: list}
    speeds: {description: "Bytes per second by URL, where they were measured.", type: dict}
"""

import html
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import (
    DownloadError,
    Failure,
    MirrorError,
    Web,
    peek,
    redact,
    secrets,
    speed,
)

PARALLEL = 16


def _deliver(web: Web, base: str, path: str, expect: str, count: int = 8192) -> None:
    start = peek(web, f"{base.rstrip('/')}/{path}", count).decode("utf-8", "replace")
    if expect not in start and expect not in html.unescape(urllib.parse.unquote(start)):
        raise MirrorError(f"answers, but {expect!r} is not in the first {count >> 10} KiB")


class Measured(NamedTuple):
    urls: list[str]  # a fast one first, those that failed last
    speeds: dict[str, float]
    failures: list[Failure]


def measure(web: Web, group: dict[str, Any], count: int, seconds: float) -> Measured:
    speeds: dict[str, float] = {}
    failures: list[Failure] = []
    for base in group["urls"]:
        url = f"{base.rstrip('/')}/{group['path']}"
        try:
            _deliver(web, base, group["path"], group["expect"], group["search_bytes"])
            speeds[base] = speed(web, url, count, seconds)
        except MirrorError as error:
            failures.append(Failure(redact(url), str(error)))
    enough = max(speeds.values(), default=0) / 2
    first = [base for base in speeds if speeds[base] >= enough][:1]
    rest = sorted((base for base in speeds if base not in first), key=lambda base: -speeds[base])
    dead = [base for base in group["urls"] if base not in speeds]
    return Measured(first + rest + dead, speeds, failures)


def probe(web: Web, group: dict[str, Any], sample: tuple[int, float] | None = None) -> dict[str, Any]:
    known = measure(web, group, *sample) if sample else Measured(group["urls"], {}, [])
    speeds = {redact(base): round(rate) for base, rate in known.speeds.items()}
    failures: list[Failure] = []
    for base in known.urls:
        try:
            _deliver(web, base, group["path"], group["expect"], group["search_bytes"])
        except MirrorError as error:
            failures.append(Failure(f"{redact(base).rstrip('/')}/{group['path']}", str(error)))
            continue
        missing = []
        for path in group["optional"]:
            try:
                _deliver(web, base, path, "")
            except MirrorError as error:
                missing.append({"path": path, "reason": str(error)})
        behind = known.urls[len(failures) :]
        dead = known.urls[: len(failures)]
        return {
            "url": base,
            "urls": behind + dead,
            "failures": [str(failure) for failure in failures + known.failures],
            "missing": missing,
            "speeds": speeds,
        }
    said = [str(failure) for failure in failures]
    return {"url": None, "urls": known.urls, "failures": said, "missing": [], "speeds": speeds}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "groups": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "urls": {"type": "list", "elements": "str", "required": True},
                    "path": {"type": "str", "required": True},
                    "expect": {"type": "str", "required": True},
                    "search_bytes": {"type": "int", "default": 8192},
                    "optional": {"type": "list", "elements": "str", "default": []},
                },
            },
            "order": {"type": "str", "choices": ["given", "speed"], "default": "given"},
            "sample_bytes": {"type": "int", "default": 1048576},
            "sample_seconds": {"type": "float", "default": 2},
            "timeout": {"type": "float", "default": 10},
            "ca_pem": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    module.no_log_values.update(secrets(url for group in module.params["groups"] for url in group["urls"]))
    try:
        web = Web(module.params["timeout"], module.params["ca_pem"])
    except DownloadError as error:
        module.fail_json(msg=f"{error}.")
    groups = module.params["groups"]
    sample = (module.params["sample_bytes"], module.params["sample_seconds"])
    measures = module.params["order"] == "speed"
    # A mirror that is silent holds its own group alone; speeds are measured one at a time.
    with ThreadPoolExecutor(1 if measures else PARALLEL) as pool:
        results = pool.map(lambda group: probe(web, group, sample if measures else None), groups)
        found = {group["name"]: result for group, result in zip(groups, results)}
    problems = []
    for name, result in found.items():
        if result["url"] is None:
            problems.append(
                f"no mirror for {name} answers: " + "; ".join(result["failures"] or ["none is named"])
            )
            continue
        for failure in result["failures"]:
            module.warn(f"mirror for {name} skipped, {redact(result['url'])} is used instead. {failure}")
        for lacking in result["missing"]:
            module.warn(f"{redact(result['url'])} does not deliver {lacking['path']}: {lacking['reason']}")
    if problems:
        module.fail_json(
            msg=". ".join(problems)
            + ". Name a mirror that this host can reach, or set mirrors_proxy; for a private CA, set "
            "mirrors_ca_certificates.",
            groups=found,
        )
    module.exit_json(changed=False, groups=found)


if __name__ == "__main__":
    main()
