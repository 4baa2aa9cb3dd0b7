"""A clone of this checkout, and an inventory elsewhere, for other programs that run the playbooks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TRUTHS = ROOT / "tests" / "unit" / "fixtures" / "preflight"


def clone(target: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(target)], check=True)
    return target


def inventory(target: Path, *names: str, **variables: Any) -> Path:
    """Hosts that no one need reach: what they are is recorded."""
    recorded = yaml.safe_load((TRUTHS / "hopper.yml").read_text(encoding="utf-8"))
    common = {"ansible_host": "192.0.2.1", "ansible_timeout": 1, "preflight_truth": recorded, **variables}
    target.mkdir(parents=True, exist_ok=True)
    (target / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": dict.fromkeys(names, common)}}))
    (target / "group_vars").mkdir()
    wish = {"pytorch_environments": [{"name": "of-the-site", "python": "3.11"}]}
    (target / "group_vars" / "all.yml").write_text(yaml.safe_dump(wish))
    return target
