"""Copies those files of a bundle to a host that it needs and does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.torchfleet.gpu.plugins.module_utils import bundle

# So many bytes lie in the temporary directory of the host at once, or one file.
BATCH = 256 << 20


class ActionModule(ActionBase):  # type: ignore[misc]
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("remote_src"):
            return self._module(arguments, {}, task_vars)
        try:
            manifest = bundle.narrowed(bundle.read(arguments["src"]), arguments["keys"])
        except bundle.BundleError as error:
            return {"failed": True, "msg": str(error)}
        arguments["manifest"] = manifest
        result = self._module(arguments, {}, task_vars)
        lacking = result.get("lacking") or []
        if result.get("failed") or self._task.check_mode or not lacking:
            return result
        size = sum(manifest["files"][path]["size"] for path in lacking)
        if size > result["free"]:
            return {
                "failed": True,
                "msg": f"{len(lacking)} files of {size} bytes are to be copied to {arguments['dest']}, and "
                f"{result['free']} bytes are free there. Free some, or name another mirrors_bundle_dir.",
            }
        for batch in batches(lacking, manifest["files"]):
            incoming = self._sent(arguments["src"], batch)
            result = self._module(arguments, incoming, task_vars)
            if result.get("failed"):
                return result
        return {**result, "changed": True, "copied": lacking, "bytes": size}

    def _module(self, arguments: dict[str, Any], incoming: dict[str, str], task_vars: Any) -> dict[str, Any]:
        return dict(
            self._execute_module(
                module_name="torchfleet.gpu.bundle_files",
                module_args={**arguments, "incoming": incoming},
                task_vars=task_vars,
            )
        )

    def _sent(self, source: str, paths: list[str]) -> dict[str, str]:
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        incoming = {}
        for number, path in enumerate(paths):
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, f"bundle-{number}")
            incoming[path] = self._transfer_file(str(Path(source, path)), remote)
        return incoming


def batches(paths: list[str], files: Mapping[str, Any]) -> Iterator[list[str]]:
    """In their order, of at most BATCH bytes each."""
    batch: list[str] = []
    size = 0
    for path in paths:
        if batch and size + files[path]["size"] > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += files[path]["size"]
    yield batch
