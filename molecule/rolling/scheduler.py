#!/usr/bin/env python3
"""Stand-ins of scontrol and kubectl, by the name that it is called by: what the role drain calls of them.

The nodes are in the JSON file $STANDIN_STATE: {"roll01": {"state": "IDLE", "reason": ""}}, for Kubernetes
{"roll01": {"pods": [{"name": "lab/train", "owner": "Job", "requests": {"nvidia.com/gpu": "1"}}]}}; every call
but a question is added to $STANDIN_STATE.log. Arguments and answers have the forms of the real ones. A node
with "refuses" cannot be drained, for that reason, nor one with a pod that has no owner.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STATE = Path(os.environ["STANDIN_STATE"])


class Refused(Exception):
    """The words on stderr of a call that fails."""


def scontrol(nodes: dict[str, Any], arguments: list[str]) -> str:
    if arguments[:2] == ["show", "node"]:
        name = arguments[2]
        node = nodes[name]
        reason = f" Reason={node['reason']} [root@2026-11-27T20:00:00]" if node["reason"] else ""
        return f"NodeName={name} Arch=x86_64 CoresPerSocket=1 State={node['state']} ThreadsPerCore=1{reason}"
    given = dict(argument.split("=", 1) for argument in arguments[1:])
    node = nodes[given["nodename"]]
    if given["state"] == "drain":
        if "refuses" in node:
            raise Refused(f"slurm_update error: {node['refuses']}")
        node.update(state=node["state"].replace("+DRAIN", "") + "+DRAIN", reason=given["reason"])
    else:
        node.update(state=node["state"].replace("+DRAIN", ""), reason="")
    return ""


def kubectl(nodes: dict[str, Any], arguments: list[str]) -> str:
    if arguments[:2] == ["get", "pods"]:
        selector = next(given for given in arguments if given.startswith("--field-selector="))
        name = selector.partition("spec.nodeName=")[2].partition(",")[0]
        pods = nodes.get(name, {}).get("pods", [])
        asked = (pod.get("requests") for pod in pods)
        return "".join((json.dumps(row, separators=(",", ":")) if row else "") + "\n" for row in asked)
    if arguments[:2] == ["get", "node"]:
        node = nodes[arguments[2]]
        return f"{node.get('unschedulable', '')} {node.get('mark', '')}"
    if arguments[0] == "patch":
        patch = json.loads(arguments[arguments.index("--patch") + 1])
        cordoned = patch["spec"]["unschedulable"]
        node = nodes[arguments[2]]
        node["unschedulable"] = "true" if cordoned else ""
        node["mark"] = patch["metadata"]["annotations"]["torchfleet.gpu/drained"] or ""
        return ""
    return evict(nodes[arguments[1]], arguments[1])


def evict(node: dict[str, Any], name: str) -> str:
    if node.get("unschedulable") != "true":
        raise Refused("drain before cordon")
    pods = [pod for pod in node.get("pods", []) if pod.get("owner") != "DaemonSet"]
    bare = [pod["name"] for pod in pods if "owner" not in pod]
    why = f"cannot delete Pods that declare no controller (use --force to override): {', '.join(bare)}"
    why = node.get("refuses", why if bare else "")
    if why:
        pending = f"There are pending nodes to be drained:\n {name}\n{why}"
        raise Refused(f'error: unable to drain node "{name}" due to error: {why}, continuing...\n{pending}')
    if pods:
        node["pods"] = [pod for pod in node["pods"] if pod not in pods]
    evicted = "".join(f"evicting pod {pod['name']}\n" for pod in pods)
    return f"node/{name} already cordoned\n{evicted}node/{name} drained"


def main() -> int:
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    nodes = json.loads(STATE.read_text(encoding="utf-8"))
    try:
        answer = {"scontrol": scontrol, "kubectl": kubectl}[program](nodes, arguments)
    except KeyError as error:
        print(f"{program}: error: node {error} not found", file=sys.stderr)
        return 1
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    if arguments[0] not in ("show", "get"):
        STATE.write_text(json.dumps(nodes), encoding="utf-8")
        with Path(f"{STATE}.log").open("a", encoding="utf-8") as log:
            log.write(" ".join([program, *arguments]) + "\n")
    print(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
