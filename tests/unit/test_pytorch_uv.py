"""torch_env with the real uv and small made wheels: a change between two CUDAs that share a file."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".torchfleet/uv/bin/uv"
CUDNN = "nvidia/cudnn/lib/libcudnn.so.9"
BUILDS = {
    "cu126": {"torch": "2.7.1", "cuda": "12.6", "requirements": ["torch==2.7.1+cu126"]},
    "cu130": {"torch": "2.14.1", "cuda": "13.0", "requirements": ["torch==2.14.1+cu130"]},
}
MODULE = """
import sys
sys.path.insert(0, sys.argv[1])
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.argv[2].encode(), "legacy"
from ansible_collections.torchfleet.gpu.plugins.modules import torch_env
torch_env.main()
"""


class Environment:
    """What looks like an environment of conda, around a Python that is real."""

    def __init__(self, root: Path) -> None:
        self.root, self.prefix = root, root / "envs/torch"
        self.python = str(self.prefix / "bin/python")
        self.minor = f"3.{sys.version_info[1]}"
        venv.create(self.prefix, with_pip=False, symlinks=True)
        record = {"name": "python", "version": f"{self.minor}.0", "build": "0", "files": []}
        (self.prefix / "conda-meta").mkdir()
        (self.prefix / "conda-meta/history").touch()
        (self.prefix / f"conda-meta/python-{self.minor}.0-0.json").write_text(json.dumps(record))
        made = [sys.executable, str(ROOT / "molecule/pytorch/made_wheels.py"), str(root / "made")]
        subprocess.run(made, check=True, capture_output=True)
        self.flat = str(root / "made/flat")

    def bring(self, variant: str, **options: Any) -> dict[str, Any]:
        source = {
            "name": "usb",
            "kind": "bundle",
            "method": "pip",
            "index_url": None,
            "find_links": [self.flat],
        }
        row = {
            **BUILDS[variant],
            "name": "torch",
            "python": self.minor,
            "variant": variant,
            "sources": [source],
        }
        options.update(prefix=str(self.root / "envs"), cache_dir=str(self.root / "cache"), uv=str(UV))
        given = json.dumps({"ANSIBLE_MODULE_ARGS": {**options, "environments": [row]}})
        command = [sys.executable, "-c", MODULE, str(ROOT / "collections"), given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def uv(self, *arguments: str) -> None:
        command = [str(UV), "pip", *arguments, "--no-config", "--offline", "--python", self.python]
        subprocess.run(command, check=True, capture_output=True)

    def nvidia(self) -> list[str]:
        packages = self.prefix / f"lib/python{self.minor}/site-packages"
        return sorted(path.name.partition("-")[0] for path in packages.glob("nvidia_*.dist-info"))

    def cudnn(self) -> str:
        return (self.prefix / f"lib/python{self.minor}/site-packages" / CUDNN).read_text()


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = Environment(tmp_path)
    done = made.bring("cu126")
    assert done.get("changed"), done
    return made


def test_the_libraries_of_two_cudas_share_a_file(environment: Environment) -> None:
    for variant, cudnn, names in (
        ("cu130", "9.15.1.9", ["nvidia_cublas", "nvidia_cudnn_cu13"]),
        ("cu126", "9.5.1.17", ["nvidia_cublas_cu12", "nvidia_cudnn_cu12"]),
    ):
        done = environment.bring(variant)
        assert done.get("changed"), done
        assert (environment.nvidia(), environment.cudnn()) == (names, cudnn)
        assert environment.bring(variant)["changed"] is False


def test_a_build_that_a_user_put_over_it_goes_with_its_files(environment: Environment) -> None:
    environment.uv("install", "--no-index", "--find-links", environment.flat, "torch==2.14.1+cu130")
    assert len(environment.nvidia()) == 4 and environment.cudnn() == "9.15.1.9"
    done = environment.bring("cu126")
    assert done.get("changed"), done
    assert environment.nvidia() == ["nvidia_cublas_cu12", "nvidia_cudnn_cu12"]
    assert environment.cudnn() == "9.5.1.17"


def test_a_lost_library_is_put_back(environment: Environment) -> None:
    environment.uv("uninstall", "nvidia-cudnn-cu12")
    lost = "torch needs nvidia-cudnn-cu12==9.5.1.17; found: nothing"
    assert environment.bring("cu126", judge=True)["environments"][0]["drift"][0] == lost
    assert environment.bring("cu126")["changed"] and environment.cudnn() == "9.5.1.17"
    (environment.prefix / f"lib/python{environment.minor}/site-packages" / CUDNN).unlink()
    drift = environment.bring("cu126", judge=True)["environments"][0]["drift"]
    assert drift == [f"nvidia-cudnn-cu12 lacks {CUDNN}"]
    assert environment.bring("cu126")["changed"] and environment.cudnn() == "9.5.1.17"
