"""Which build an environment holds, what differs from the plan, what is left over, and what keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import torch_build
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import Prefix
from test_conda_env import add_conda, add_dist

PIP = {"name": "site", "method": "pip", "index_url": "https://x/simple", "find_links": []}
CONDA = {"name": "forge", "method": "conda", "channels": ["https://x/conda-forge"], "cuda": "12.9"}


def wanted(root: Path, **change: Any) -> torch_build.Planned:
    given = {
        "name": "torch",
        "python": "3.11",
        "torch": "2.7.1",
        "variant": "cu126",
        "cuda": "12.6",
        "requirements": ["torch==2.7.1+cu126"],
        "sources": [PIP],
        **change,
    }
    return torch_build.planned(given, str(root))


def distribution(prefix: Path, name: str, version: str, *requires: str, installer: str = "pip") -> None:
    info = add_dist(prefix, name.replace("-", "_"), version, installer)
    lines = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n{lines}")


def torch(prefix: Path, version: str, cuda: str | None, *requires: str) -> None:
    distribution(prefix, "torch", version, *requires)
    package = next((prefix / "lib").glob("python3.*/site-packages")) / "torch"
    package.mkdir(exist_ok=True)
    (package / "version.py").write_text(f"from typing import Optional\ncuda: Optional[str] = {cuda!r}\n")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    add_conda(tmp_path / "torch", "python-3.11.7-h1_0")
    return tmp_path / "torch"


def built(prefix: Path) -> None:
    torch(
        prefix, "2.7.1+cu126", "12.6", "nvidia-cublas-cu12==12.6; platform_system == 'Linux'", "triton==3.3"
    )
    distribution(prefix, "nvidia-cublas-cu12", "12.6")
    distribution(prefix, "triton", "3.3")
    settle(prefix)


def settle(prefix: Path) -> None:
    torch_build.record(Prefix(str(prefix)))
    torch_build.constrain(Prefix(str(prefix)))


def drift(prefix: Path, **change: Any) -> list[str]:
    return torch_build.drift(wanted(prefix.parent, **change), Prefix(str(prefix)))


def test_what_is_as_planned_does_not_differ(prefix: Path) -> None:
    built(prefix)
    assert drift(prefix) == []


def test_another_release_or_variant(prefix: Path) -> None:
    built(prefix)
    assert drift(prefix, requirements=["torch==2.7.1+cu128"]) == [
        "torch 2.7.1+cu126; planned: torch==2.7.1+cu128"
    ]


def test_a_cpu_build_that_has_the_right_version(prefix: Path) -> None:
    torch(prefix, "2.10.0", None)
    settle(prefix)
    assert drift(prefix, requirements=["torch===2.10.0"], cuda="12.8", variant="cu128") == [
        "torch is built for the CPU; planned: CUDA 12.8"
    ]


def test_a_library_that_was_taken_out(prefix: Path) -> None:
    built(prefix)
    for path in prefix.rglob("nvidia_cublas_cu12-12.6.dist-info/*"):
        path.unlink()
    assert drift(prefix)[0] == "torch needs nvidia-cublas-cu12==12.6; found: nothing"


def test_another_python(prefix: Path) -> None:
    assert drift(prefix, python="3.12") == ["Python 3.11.7; planned: 3.12"]
    nowhere = Prefix(str(prefix.parent / "none"))
    assert torch_build.drift(wanted(prefix.parent), nowhere) == ["it does not exist"]


def test_two_sets_of_nvidia_packages_are_found(prefix: Path) -> None:
    built(prefix)
    distribution(prefix, "nvidia-ml-py", "12.0")  # a user's own
    assert torch_build.surplus(Prefix(str(prefix)), ["nvidia-cublas", "triton"]) == ["nvidia-cublas-cu12"]
    assert torch_build.surplus(Prefix(str(prefix)), []) == ["nvidia-cublas-cu12", "triton"]
    without_torch(prefix)
    torch(prefix, "2.14.1+cu130", "13.0", "nvidia-cublas==13.1", "triton==3.3")
    distribution(prefix, "nvidia-cublas", "13.1")
    # As after somebody's own pip install.
    assert torch_build.leftovers(Prefix(str(prefix))) == ["nvidia-cublas-cu12"]
    assert "nvidia-cublas-cu12 is left of a former build of torch" in drift(
        prefix, requirements=["torch==2.14.1+cu130"], cuda="13.0"
    )
    settle(prefix)
    assert torch_build.leftovers(Prefix(str(prefix))) == []


def without_torch(prefix: Path) -> None:
    for path in [*prefix.rglob("torch-2.7.1+cu126.dist-info/*")]:
        path.unlink()
    next(prefix.rglob("torch-2.7.1+cu126.dist-info")).rmdir()


def test_what_others_need_is_not_left_over(prefix: Path) -> None:
    built(prefix)
    distribution(prefix, "cupy", "1", "nvidia-cublas-cu12")
    distribution(prefix, "lightning", "2", "torch")
    assert torch_build.surplus(Prefix(str(prefix)), []) == ["triton"]
    without_torch(prefix)
    assert torch_build.leftovers(Prefix(str(prefix))) == ["triton"]


def library(prefix: Path, name: str, version: str, file: str) -> Path:
    (info,) = prefix.rglob(f"{name.replace('-', '_')}-{version}.dist-info")
    with (info / "RECORD").open("a") as record:
        record.write(f"{file},sha256=x,9\n")
    path: Path = info.parent / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_packages_of_two_cudas_share_files(prefix: Path) -> None:
    built(prefix)
    distribution(prefix, "nvidia-cudnn-cu13", "9.15")
    distribution(prefix, "nvidia-cudnn-cu12", "9.5")
    file = "nvidia/cudnn/lib/libcudnn.so.9"
    shared = library(prefix, "nvidia-cudnn-cu13", "9.15", file)
    library(prefix, "nvidia-cudnn-cu12", "9.5", file)
    without_torch(prefix)
    torch(prefix, "2.7.1+cu126", "12.6", "nvidia-cudnn-cu12==9.5", "nvidia-cudnn-cu13==9.15")
    settle(prefix)
    there = Prefix(str(prefix))
    assert torch_build.damaged(there) == {}
    assert torch_build.damaged(there, ["nvidia-cudnn-cu13"]) == {"nvidia-cudnn-cu12": file}
    assert drift(prefix) == []
    shared.unlink()
    assert set(torch_build.damaged(Prefix(str(prefix)))) == {"nvidia-cudnn-cu12", "nvidia-cudnn-cu13"}
    assert drift(prefix)[0] == f"nvidia-cudnn-cu12 lacks {file}"


def test_constraints_pin_the_build_and_what_it_brought(prefix: Path) -> None:
    built(prefix)
    lines = (prefix / "torchfleet-constraints.txt").read_text().splitlines()
    assert lines[1:] == ["nvidia-cublas-cu12===12.6", "torch===2.7.1+cu126", "triton===3.3"]
    assert f"constraint = {prefix}/torchfleet-constraints.txt" in (prefix / "pip.conf").read_text()
    assert Prefix(str(prefix)).variables()["UV_CONSTRAINT"] == f"{prefix}/torchfleet-constraints.txt"
    # No *.json of ours in conda-meta: conda would take it for a package.
    assert {path.name for path in (prefix / "conda-meta").glob("*.json")} == {"python-3.11.7-h1_0.json"}


def test_a_pip_conf_of_its_owner_is_kept(prefix: Path) -> None:
    (prefix / "pip.conf").write_text("[global]\nindex-url = https://lab.example/simple\n")
    built(prefix)
    text = (prefix / "pip.conf").read_text()
    assert "index-url = https://lab.example/simple" in text and "[install]" in text
    assert drift(prefix) == []
    mine = "[install]\nconstraint = /lab/constraints.txt\n"
    (prefix / "pip.conf").write_text(mine)
    torch_build.constrain(Prefix(str(prefix)))
    assert (prefix / "pip.conf").read_text() == mine
    assert drift(prefix) == []


def test_constraints_that_are_gone_are_drift(prefix: Path) -> None:
    built(prefix)
    (prefix / "pip.conf").unlink()
    assert drift(prefix) == ["nothing keeps pip from replacing the build"]


def conda(prefix: Path, *dists: str) -> None:
    add_conda(prefix, *dists)
    settle(prefix)


def test_a_conda_build_by_its_build_string(prefix: Path) -> None:
    rows = {"requirements": [], "sources": [{**CONDA, "specs": ["pytorch=2.12.1=cuda129*"]}], "cuda": "12.9"}
    conda(prefix, "pytorch-2.12.1-cpu_generic_1")
    assert drift(prefix, **rows) == ["pytorch 2.12.1 cpu_generic_1; planned: pytorch=2.12.1=cuda129*"]
    (prefix / "conda-meta" / "pytorch-2.12.1-cpu_generic_1.json").unlink()
    conda(prefix, "pytorch-2.12.1-cuda129_mkl_py311_1")
    assert drift(prefix, **rows) == []


def test_a_change_of_the_method_is_seen_both_ways(prefix: Path) -> None:
    built(prefix)
    rows = {"requirements": [], "sources": [{**CONDA, "specs": ["pytorch=2.12.1=cuda129*"]}], "cuda": "12.6"}
    assert "torch is there by pip; planned: conda" in drift(prefix, **rows)
    conda(prefix, "pytorch-2.12.1-cuda129_mkl_py311_1")
    assert drift(prefix) == ["pytorch is there as a package of conda; planned: pip"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"sources": []}, "methods none"),
        ({"sources": [PIP, CONDA]}, "conda, pip"),
        ({"requirements": []}, "requirements go with the method pip"),
        ({"requirements": ["torch=="]}, "torch=="),
    ],
)
def test_a_plan_that_cannot_be(prefix: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        wanted(prefix.parent, **change)


def test_the_cuda_of_conda_goes_with_its_torch(prefix: Path) -> None:
    needs = {
        "pytorch-2.12.1-cuda129_0": ["python", "libcublas >=12.9", "cudnn", "libcurl", "numpy", "nccl"],
        "libcublas-12.9-0": ["cuda-version"],
        **{"cudnn-9.1-0": ["cuda-version"], "cuda-version-12.9-0": [], "nccl-2.2-0": []},
        **{"libcurl-8.0-0": [], "numpy-2.0-0": [], "cupy-13.0-0": ["nccl", "python"]},
    }
    add_conda(prefix, *needs)
    for dist, depends in needs.items():
        path = prefix / "conda-meta" / f"{dist}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "depends": depends}))
    assert torch_build.conda_surplus(Prefix(str(prefix))) == ["cuda-version", "cudnn", "libcublas"]
    history = '==> now <==\n# cmd: conda install cudnn\n# update specs: ["conda-forge::cudnn=9"]\n'
    (prefix / "conda-meta" / "history").write_text(history)
    assert torch_build.conda_surplus(Prefix(str(prefix))) == ["libcublas"]
