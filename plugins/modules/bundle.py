#!/usr/bin/python
# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: make, verify, split and join a bundle of all files that a fleet needs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle
short_description: Gather every file that a fleet needs into one directory
version_added: 0.2.0
description:
  - Finds out which files the requests of a fleet need (as P(torchfleet.gpu.bundle_requests#filter) names
    them), fetches them and
    keeps them in the layout of the mirrors that they come from, with a manifest of address, sha256, size and
    licence.
  - What is in the manifest is solved no second time, and what is there whole is fetched no second time, so a
    run that was killed goes on where it was.
  - Needs no root, but where packages of apt are asked for it needs apt-get.
options:
  path:
    description: The directory of the bundle.
    type: path
    required: true
  state:
    description:
      - V(present) makes or updates the bundle; V(verified) fails where a file is missing or damaged, and
        names each; V(split) lays it into volumes of O(volume_bytes), in place of what an earlier one left
        there; V(joined) puts it together from O(volumes), verifies it, and takes what is damaged from them
        again.
    type: str
    choices: [present, verified, split, joined]
    default: present
  requests:
    description: What the hosts of the fleet need.
    type: list
    elements: dict
    default: []
  channels:
    description: The channels of conda that hosts are configured with, as C(pkgs/main).
    type: list
    elements: str
    default: []
  pypi_urls:
    description: Indexes of Python packages, the preferred one first.
    type: list
    elements: str
    default: []
  anaconda_urls:
    description: Mirrors of Anaconda, the preferred one first.
    type: list
    elements: str
    default: []
  conda_config:
    description: conda's configuration for these mirrors.
    type: dict
    default: {}
  uv_version:
    description: The release of uv that resolves Python packages.
    type: str
    default: ""
  uv_hashes:
    description: The sha256 of its wheels.
    type: list
    elements: str
    default: []
  refresh:
    description: Whether to solve again what the manifest has solved already.
    type: bool
    default: false
  prune:
    description: Whether files that nothing needs any more go. Otherwise they are told.
    type: bool
    default: false
  volumes:
    description: Directories with volumes of a bundle, all of them or those at hand.
    type: list
    elements: path
    default: []
  volumes_dir:
    description: Where the volumes of V(split) go, as the directories 1, 2 and so on.
    type: path
  volume_bytes:
    description: The most bytes of a volume.
    type: int
    default: 0
  ca_pem:
    description: Certificates to trust beside the system's, as PEM.
    type: str
    default: ""
  redirects:
    description: Hosts to which a mirror may redirect.
    type: list
    elements: str
    default: []
  connect_timeout:
    description: Seconds that a mirror may stay silent.
    type: int
    default: 30
  timeout:
    description: Seconds after which one run of conda, uv or apt is ended.
    type: int
    default: 1800
extends_documentation_fragment: [torchfleet.gpu.progress]
attributes:
  check_mode: {support: full, description: Tells what would be solved and which files fetched; asks nobody.}
  diff_mode: {support: none, description: A manifest has thousands of lines; what changed is returned.}
author: The torchfleet authors
"""

EXAMPLES = r"""
- name: Is the bundle whole?
  torchfleet.gpu.bundle:
    path: /srv/bundle
    state: verified
"""

RETURN = r"""
solved: {description: The requests that were solved., returned: state present, type: list, elements: str}
fetched: {description: The files that were fetched., returned: state present, type: list, elements: str}
bytes: {description: The bytes that came for them., returned: state present, type: int}
unneeded: {description: Files that nothing needs., returned: state present, type: list, elements: str}
removed: {description: Those of them that were removed., returned: state present, type: list, elements: str}
files: {description: How many files the bundle has., returned: success, type: int}
size: {description: How many bytes the files of the bundle have., returned: success, type: int}
faults: {description: What is missing or damaged., returned: not whole, type: list, elements: str}
volumes: {description: The volumes that were made., returned: state split, type: list, elements: str}
missing: {description: Files that are not whole yet., returned: state joined, type: list, elements: str}
"""

import contextlib
import os
import ssl
from pathlib import Path
from typing import Any, Mapping, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.torchfleet.gpu.plugins.module_utils import bundle, pip_cli
from ansible_collections.torchfleet.gpu.plugins.module_utils.bundle_gather import Gather, GatherError
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import DownloadError, Web, secrets
from ansible_collections.torchfleet.gpu.plugins.module_utils.progress import PROGRESS_OPTIONS, Progress


def authorities(params: Mapping[str, Any]) -> str:
    """A file of CAs for the tools that fetch: the system's own, and ``ca_pem``; empty where that is empty."""
    if not params["ca_pem"].strip():
        return ""
    system = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    known = Path(system).read_text("utf-8") if system and Path(system).is_file() else ""
    path = Path(params["path"], ".work", "authorities.pem")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{known}\n{params['ca_pem']}\n", "utf-8")
    return str(path)


def runner(module: AnsibleModule, ca_file: str) -> Any:
    home = str(Path(module.params["path"], ".work"))
    timeout = [
        module.get_bin_path("timeout", required=True),
        "--kill-after=30",
        str(module.params["timeout"]),
    ]
    own = {"HOME": home, "NO_COLOR": "1", "LC_ALL": "C"}
    if ca_file:
        own.update(dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CONDA_SSL_VERIFY"), ca_file))

    def run(command: Sequence[str], environment: Mapping[str, str], stdin: str) -> tuple[int, str, str]:
        found: tuple[int, str, str] = module.run_command(
            [*timeout, *command], environ_update={**own, **environment}, data=stdin or None, errors="replace"
        )
        return found

    return run


def present(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    requests = params["requests"]
    if module.check_mode:
        manifest = (
            bundle.read(params["path"]) if Path(params["path"], bundle.MANIFEST).is_file() else bundle.empty()
        )
        solved = [one["key"] for one in requests if one["key"] not in manifest["requests"]]
        fetched = bundle.lacking(params["path"], manifest["files"])
        return {"changed": bool(solved or fetched), "solved": solved, "fetched": fetched, "bytes": 0}
    Path(params["path"]).mkdir(mode=0o755, parents=True, exist_ok=True)
    web = Web(params["connect_timeout"], params["ca_pem"], params["redirects"])
    progress = Progress(params["progress"])
    try:
        with bundle.alone(params["path"]):
            ca_file = authorities(params)
            gather = Gather(
                params["path"], web, runner(module, ca_file), {**params, "ca_file": ca_file}, progress
            )
            return gather.present(requests, params["channels"])
    finally:
        progress.stop()


def verified(module: AnsibleModule) -> dict[str, Any]:
    manifest = bundle.read(module.params["path"])
    refuse(module, manifest, bundle.verify(module.params["path"], manifest))
    return {"changed": False, "faults": []}


def refuse(module: AnsibleModule, manifest: Mapping[str, Any], found: Sequence[bundle.Fault]) -> None:
    """Fails where the bundle is not whole."""
    faults = [str(one) for one in found]
    if not manifest["complete"]:
        faults.append("the run that made it did not come to its end")
    if faults:
        module.fail_json(
            msg=f"The bundle in {module.params['path']} is not whole: {'; '.join(faults)}. Run "
            "playbooks/bundle.yml again where there is a network: it fetches what is missing or damaged, and "
            "nothing else. Or join it (bundle_state=joined) from volumes that are whole.",
            faults=faults,
        )


def split(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    target = params["volumes_dir"] or f"{params['path']}.volumes"
    if module.check_mode:
        return {"changed": True, "volumes": []}
    before = laid(target)
    made = bundle.split(params["path"], target, params["volume_bytes"])
    return {"changed": before != laid(target), "volumes": made}


def laid(target: str) -> dict[str, Any]:
    """What is in the volumes; a manifest is written each time."""
    return {
        str(path): path.read_bytes() if path.name == bundle.MANIFEST else path.stat().st_mtime_ns
        for path in Path(target).rglob("*")
        if path.is_file()
    }


def joined(module: AnsibleModule) -> dict[str, Any]:
    path, volumes = module.params["path"], module.params["volumes"]
    manifest = bundle.read(volumes[0])
    # A run that was killed may have come to its last file, and to no manifest.
    begun = not Path(path, bundle.MANIFEST).is_file() or bundle.read(path) != manifest
    missing = bundle.lacking(path, manifest["files"])
    changed = begun or bool(missing)
    if changed and not module.check_mode:
        missing = bundle.join(path, volumes)
    if missing or (begun and module.check_mode):
        return {"changed": True, "missing": missing}
    faults = bundle.verify(path, manifest)
    if faults and module.check_mode:
        return {"changed": True, "missing": []}
    if faults:
        for fault in faults:
            with contextlib.suppress(FileNotFoundError):
                Path(path, fault.path).unlink()
        missing = bundle.join(path, volumes)
        faults = [] if missing else bundle.verify(path, manifest)
        changed = True
    if not missing:
        refuse(module, manifest, faults)
    return {"changed": changed, "missing": missing}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "verified", "split", "joined"],
                "default": "present",
            },
            "requests": {"type": "list", "elements": "dict", "default": []},
            "channels": {"type": "list", "elements": "str", "default": []},
            "pypi_urls": {"type": "list", "elements": "str", "default": []},
            "anaconda_urls": {"type": "list", "elements": "str", "default": []},
            "conda_config": {"type": "dict", "default": {}},
            "uv_version": {"type": "str", "default": ""},
            "uv_hashes": {"type": "list", "elements": "str", "default": []},
            "refresh": {"type": "bool", "default": False},
            "prune": {"type": "bool", "default": False},
            "volumes": {"type": "list", "elements": "path", "default": []},
            "volumes_dir": {"type": "path"},
            "volume_bytes": {"type": "int", "default": 0},
            "ca_pem": {"type": "str", "default": ""},
            **PROGRESS_OPTIONS,
            "redirects": {"type": "list", "elements": "str", "default": []},
            "connect_timeout": {"type": "int", "default": 30},
            "timeout": {"type": "int", "default": 1800},
        },
        required_if=[("state", "split", ["volume_bytes"]), ("state", "joined", ["volumes"])],
        supports_check_mode=True,
    )
    params = module.params
    module.no_log_values.update(secrets([*params["pypi_urls"], *params["anaconda_urls"]]))
    for variable in (
        *pip_cli.PLACES,
        "PIP_CONSTRAINT",
        "UV_CONSTRAINT",
        "PYTHONPATH",
        "CONDA_PREFIX",
        "VIRTUAL_ENV",
    ):
        os.environ.pop(variable, None)
    os.umask(0o022)
    ways = {"present": present, "verified": verified, "split": split, "joined": joined}
    try:
        result = ways[params["state"]](module)
        rows = (
            bundle.read(params["path"])["files"].values()
            if Path(params["path"], bundle.MANIFEST).is_file()
            else []
        )
    except (bundle.BundleError, GatherError, DownloadError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error}. The next run goes on with what arrived so far.")
    module.exit_json(**result, files=len(rows), size=sum(row["size"] for row in rows))


if __name__ == "__main__":
    main()
