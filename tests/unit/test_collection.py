"""The artifact that other teams install: built, installed into an empty directory, used by its full names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(p.name for p in (ROOT / "roles").iterdir() if (p / "tasks").is_dir())
MODULES = sorted(p.stem for p in (ROOT / "plugins" / "modules").glob("*.py"))


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return its output; fail with all that it said."""
    program, *arguments = command
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments],
        cwd=cwd,
        # The project itself is installed in the test's environment; only the artifact shall count.
        env={**os.environ, "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of collections with nothing but the installed artifact in it."""
    out = tmp_path_factory.mktemp("artifact")
    run("ansible-galaxy", "collection", "build", "--output-path", str(out), cwd=ROOT)
    (artifact,) = out.glob("torchfleet-gpu-*.tar.gz")
    target = out / "collections"
    run("ansible-galaxy", "collection", "install", "--offline", str(artifact), "-p", str(target), cwd=out)
    return target


def test_artifact_holds_the_product_and_nothing_private(installed: Path) -> None:
    root = installed / "ansible_collections" / "torchfleet" / "gpu"
    names = {str(p.relative_to(root)) for p in root.rglob("*")}
    assert "plugins/modules/conda_env.py" in names
    assert any(n.startswith("plugins/plugin_utils/data/") for n in names), "the planner's tables are missing"
    assert not [n for n in names if n.split("/")[0] in {".git", ".venv", ".torchfleet", "collections"}]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_documented_by_its_full_name(installed: Path, module: str) -> None:
    out = run(
        "ansible-doc",
        f"torchfleet.gpu.{module}",
        cwd=installed,
        env={"ANSIBLE_COLLECTIONS_PATH": str(installed)},
    )
    assert f"torchfleet.gpu.{module}".upper() in out.upper()
    assert "EXAMPLES" in out


def test_every_role_resolves_by_its_full_name(installed: Path, tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    tasks = "".join(f"    - ansible.builtin.import_role: {{name: torchfleet.gpu.{r}}}\n" for r in ROLES)
    play.write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks:\n{tasks}")
    out = run(
        "ansible-playbook",
        "--list-tasks",
        str(play),
        cwd=tmp_path,
        env={"ANSIBLE_COLLECTIONS_PATH": str(installed)},
    )
    for role in ROLES:
        assert f"torchfleet.gpu.{role} : " in out, f"the role {role} contributed no task"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*/*.py")), ids=lambda path: path.stem)
def test_the_documentation_of_a_plugin_is_yaml(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("DOCUMENTATION", "RETURN"):
            assert isinstance(node.value, ast.Constant)
            assert isinstance(yaml.safe_load(str(node.value.value)), dict)
