"""Completes the module converged by what only the controller knows, and by what the host is.

Ansible loads an action plugin before it forks its workers: what is loaded here is loaded once for all hosts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import declared, flavours
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain

declared.collection()
flavours.ranges()
Json = dict[str, Any]


class ActionModule(ActionBase):  # type: ignore[misc]
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: Json | None = None) -> Json:
        super().run(tmp, task_vars)
        known, args = task_vars or {}, plain(self._task.args)
        if args.get("state") == "recorded":
            args["verified"]["truth"] = declared.truth(plain(known["torchfleet_truth"]))
            return dict(self._execute_module(module_args=args, task_vars=known))
        host = str(known["inventory_hostname"])
        if str(args["max_age"]) == "0":  # a text where it comes from -e
            return {"changed": False, "untouched": False, "reason": "converged_max_age is 0"}
        try:
            result = self._compare(args, known)
        except (AnsibleError, OSError) as error:
            # Preflight tells of it, with all else that is wrong.
            result = {"untouched": False, "reason": str(error).strip()}
        if result["untouched"]:
            Display().display(f"{host}: verified at {result['verified_at']}, untouched since")
        else:
            Display().display(f"{host}: to be looked at: {result['reason']}")
        return {"changed": False, **result}

    def _compare(self, args: Json, known: Json) -> Json:
        given = plain(self._templar.template({name: known[name] for name in declared.names(known)}))
        if known.get("preflight_truth"):
            return {"untouched": False, "reason": "its truth is given by preflight_truth"}
        anew = declared.asks_anew(given)
        if anew:
            return {"untouched": False, "reason": f"{anew}, which only the mirrors can answer"}
        named = [Path(args["beside"], path) for path in declared.controller_files(given)]
        absent = [str(path) for path in named if not path.exists()]
        if absent:
            return {"untouched": False, "reason": f"{', '.join(absent)} of the controller cannot be compared"}
        # Absent where nothing is locked.
        locks = Path(args["beside"], given["conda_envs_lock_dir"])
        record = {
            "path": args["path"],
            **declared.watched(given),
            "declared": {
                "the variables": declared.digest(given),
                "the files of the controller": declared.digest([_content(path) for path in (*named, locks)]),
                "the collection": declared.collection(),
            },
        }
        asked = {**record, "max_age": args["max_age"], "flavours": flavours.ranges()}
        answer = plain(self._execute_module(module_args=asked, task_vars=known))
        if "seen" not in answer:
            return {"untouched": False, "reason": answer.get("msg", "the module gave no answer")}
        told = {key: answer[key] for key in ("untouched", "reason", "verified_at")}
        told["record"] = {**record, "seen": answer["seen"]}
        if told["untouched"]:
            truth, verified = answer["truth"], answer["verified"]
            if declared.truth(truth) != verified["truth"]:
                return {**told, "untouched": False, "reason": "GPUs, driver, kernel or system differ"}
            told.update(truth=truth, plan=verified["plan"], results=verified["results"])
        return told


def _content(path: Path) -> str:
    """Of a directory the contents of its files; of nothing, nothing."""
    if path.is_dir():
        return "\n".join(
            f"{file.name}\n{_content(file)}" for file in sorted(path.iterdir()) if file.is_file()
        )
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
