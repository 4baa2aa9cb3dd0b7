"""The wheel that pip builds of this project: the planner and its tables, and a command that runs from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ansible_collections/torchfleet/gpu/plugins/plugin_utils"
# The command alone: without the site-packages of the tests, but for what the project asks for.
COMMAND = """
import sys
from importlib.metadata import entry_points
(point,) = entry_points(group="console_scripts", name="torchfleet-plan")
status = point.load()(["--gpu", "2330", "--json"])
loaded = sys.modules[point.module].__file__
assert loaded.startswith(sys.path[0]), loaded
assert not [name for name in sys.modules if name.split(".")[0] == "ansible"]
raise SystemExit(status)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and laid out as pip would."""
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("torchfleet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_it_holds_the_planner_and_its_tables_and_nothing_else(installed: Path) -> None:
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    code = {name for name in files if ".dist-info/" not in name}
    assert {name for name in code if not name.startswith(f"{PACKAGE}/")} == set()
    data = (ROOT / "plugins" / "plugin_utils" / "data").iterdir()
    assert {f"{PACKAGE}/data/{path.name}" for path in data} <= code
    assert f"{PACKAGE}/cli.py" in code


def test_it_asks_for_no_ansible(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("Requires-Dist")] == [
        "Requires-Dist: packaging>=24.2",
        "Requires-Dist: pyyaml>=6.0",
    ]


def test_its_command_plans(installed: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(installed, site)
    for name in ("packaging", "yaml", "_yaml"):
        (source,) = (path / name for path in map(Path, sys.path) if (path / name).is_dir())
        (site / name).symlink_to(source)
    done = subprocess.run(
        [sys.executable, "-S", "-c", COMMAND],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["gpus"][0]["device"] == "2330"
