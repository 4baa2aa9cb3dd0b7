"""docs/data.md by doing what it says: its rows as the data of a site, and plans made with that."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import site_data
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.data_checks import faults, load

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "doc_examples.py"
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("doc_examples", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


doc_examples = _tool()


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    doc_examples.extend(TEXT, folder)
    return folder


def plan(site: Path | None, *arguments: str) -> Any:
    return json.loads(doc_examples.plan(site, [*arguments, "--json"]))


def test_the_rows_of_the_document_have_no_fault(extended: Path) -> None:
    tables = site_data.merged(doc_examples.DATA, extended)
    assert tables != load(doc_examples.DATA)
    assert faults(tables) == []


def test_a_new_torch_is_planned(extended: Path) -> None:
    before, after = (plan(site, "--gpu", "2330")["torch"] for site in (None, extended))
    assert before["version"] != after["version"] == "2.16.0"
    assert (after["variant"], after["torchvision"]) == ("cu134", "0.30.0")


def test_a_new_driver_is_planned(extended: Path) -> None:
    driver = plan(extended, "--gpu", "2330", "--os", "rocky9")["driver"]
    assert (driver["branch"], driver["version"], driver["stream"]) == (
        "630",
        "630.40.02",
        "nvidia-driver:630-open",
    )


def test_a_new_branch_does_not_serve_what_an_older_one_had_to(extended: Path) -> None:
    assert plan(extended, "--gpu", "V100 PCIe 32GB")["driver"]["branch"] == "580"


def test_a_new_gpu_has_its_name(extended: Path) -> None:
    (gpu,) = plan(extended, "--gpu", "rtx 5090 super")["gpus"]
    assert (gpu["device"], gpu["capability"]) == ("2b8d", "12.0")


def test_a_new_operating_system_is_known(extended: Path) -> None:
    assert plan(None, "--os", "debian14")["problems"][0]["code"] == "unknown_os"
    answer = plan(extended, "--os", "debian14", "--gpu", "2330")
    assert (answer["host"]["os"], answer["driver"]["repository"]) == ("Debian 14", "nvidia")


def test_the_examples_in_the_documents_are_what_the_command_says() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}run python tools/doc_examples.py"
