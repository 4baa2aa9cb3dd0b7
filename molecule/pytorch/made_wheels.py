#!/usr/bin/env python3
"""Small wheels with the names of PyTorch's, in the layouts of indexes: flat, PEP 503, mixed; a channel.

    made_wheels.py DIRECTORY

Their torch can be imported and says which CUDA it is built for; nothing else of it works.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = (
    "from typing import Optional\n__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\nhip = None\n"
)
# A file of cuDNN's packages for CUDA 12 and for 13 alike.
CUDNN = "nvidia/cudnn/lib/libcudnn.so.9"
LOADS = """
from pathlib import Path
if not Path(__file__).parents[1].joinpath({file!r}).exists():
    raise ImportError("libcudnn.so.9: cannot open shared object file: No such file or directory")
"""
# What each build needs of NVIDIA: the names of CUDA 12 have a suffix, those of 13 mostly none.
NEEDS = {
    "12.6": ["nvidia-cublas-cu12==12.6.4.1", "nvidia-cudnn-cu12==9.5.1.17", "triton==3.3.1"],
    "13.0": ["nvidia-cublas==13.1.0.3", "nvidia-cudnn-cu13==9.15.1.9", "triton==3.5.1"],
}


def wheel(name: str, version: str, requires: Iterable[str], files: Mapping[str, str]) -> tuple[str, bytes]:
    """The name and the content, the same bytes each time."""
    file = name.replace("-", "_")
    info = f"{file}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {one}\n" for one in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: made\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_recorded(text)}\n" for path, text in content.items()) + f"{info}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{file}-{version}-py3-none-any.whl", buffer.getvalue()


def torch(version: str, cuda: str | None, own: str | None = None, broken: bool = False) -> tuple[str, bytes]:
    """``own``: the version that it says of itself, where its file name has no local part."""
    says = own or version
    fake = Path(__file__).resolve().parents[2] / "tests/unit/fixtures/torch_probe/fake/torch/__init__.py"
    say = {"version": says, "cuda": cuda, "count": 0}
    text = fake.read_text().replace('json.loads(os.environ.get("FAKE_TORCH", "{}"))', repr(say))
    code = '\nraise ImportError("libcudart.so.13: cannot open shared object file")\n' if broken else ""
    code += LOADS.format(file=CUDNN) if cuda in NEEDS else ""
    files = {
        "torch/__init__.py": text + code,
        "torch/version.py": VERSION.format(version=says, cuda=cuda),
    }
    return wheel("torch", version, NEEDS.get(cuda or "", []), files)


def plain(requirement: str, size: int = 0) -> tuple[str, bytes]:
    name, _, version = requirement.partition("==")
    files = {f"{name.replace('-', '_')}_made/__init__.py": "x = 1\n" + "#" * size}
    if "cudnn" in name:
        files[CUDNN] = version
    return wheel(name, version, [], files)


def layouts() -> dict[str, Sequence[tuple[str, bytes]]]:
    cu126, cu130, cpu = torch("2.7.1+cu126", "12.6"), torch("2.14.1+cu130", "13.0"), torch("2.7.1+cpu", None)
    vision = wheel(
        "torchvision",
        "0.22.1+cu126",
        ["torch==2.7.1"],
        {"torchvision/__init__.py": "__version__ = '0.22.1+cu126'\n"},
    )
    of12, of13 = ([plain(one) for one in NEEDS[cuda]] for cuda in ("12.6", "13.0"))
    newest = torch("2.15.0", "13.2", own="2.15.0+cu132")
    return {
        "flat": [cu126, cu130, cpu, torch("2.6.0+cpu", None), vision, *of12, *of13, plain("einops==0.8.1")],
        # Plain "torch" takes 2.15.0 here, and "torch==2.7.1" the CPU build or that for CUDA by chance.
        "mixed": [newest, cu126, cpu, *of12],
        "lacking": [cu126, *of12[1:]],
        "broken": [torch("2.14.1+cu130", "13.0", broken=True), *of13],
        # A file that says it is for CUDA, and is not.
        "wrong": [torch("2.14.1+cu130", None), *of13],
        "large": [cu126, *of12[1:], plain(NEEDS["12.6"][0], 60_000_000)],
    }


# Channel, name, version, build, needs. The frozen torch takes CUDA from nvidia, by way of pytorch-cuda.
PYTHON = "python >=3.11,<3.12"
CONDA: list[tuple[str, str, str, str, list[str]]] = [
    ("channel", "pytorch", "2.12.1", "cuda129_made_0", ["__cuda >=12.9", "libcublas >=12.9", "made >=1"]),
    ("channel", "pytorch", "2.12.1", "cpu_made_0", ["made >=1"]),
    ("channel", "libcublas", "12.9.1", "made_0", ["cuda-version 12.9"]),
    ("channel", "cuda-version", "12.9", "made_0", []),
    ("channel", "made", "1.0", "made_0", []),
    (
        "frozen",
        "pytorch",
        "2.0.0",
        "py3.11_cuda11.7_cudnn8.5.0_0",
        [PYTHON, "pytorch-cuda 11.7.*", "pytorch-mutex 1.0 cuda"],
    ),
    ("frozen", "pytorch", "2.0.0", "py3.11_cpu_0", [PYTHON, "pytorch-mutex 1.0 cpu"]),
    ("frozen", "torchvision", "0.15.0", "py311_cu117", [PYTHON, "pytorch 2.0.0", "pytorch-cuda 11.7.*"]),
    ("frozen", "torchvision", "0.15.0", "py311_cpu", [PYTHON, "pytorch 2.0.0", "pytorch-mutex 1.0 cpu"]),
    ("frozen", "torchaudio", "2.0.0", "py311_cu117", [PYTHON, "pytorch 2.0.0", "pytorch-cuda 11.7.*"]),
    ("frozen", "torchaudio", "2.0.0", "py311_cpu", [PYTHON, "pytorch 2.0.0", "pytorch-mutex 1.0 cpu"]),
    ("frozen", "pytorch-cuda", "11.7", "made_0", ["cuda-cudart >=11.7,<11.8", "libcublas >=11.10,<11.11"]),
    ("frozen", "pytorch-mutex", "1.0", "cuda", []),
    ("frozen", "pytorch-mutex", "1.0", "cpu", []),
    ("frozen", "cpuonly", "2.0", "0", ["pytorch-mutex 1.0 cpu"]),
    ("nvidia", "cuda-cudart", "11.7.99", "0", []),
    ("nvidia", "libcublas", "11.10.3.66", "0", []),
]


def channels() -> dict[str, bytes]:
    """conda channels with builds for CUDA, one of which needs the virtual package __cuda, and for the CPU."""
    files: dict[str, bytes] = {}
    indexes: dict[str, dict[str, Any]] = {channel: {} for channel, *_ in CONDA}
    for channel, name, version, build, depends in CONDA:
        index = {
            **{"name": name, "version": version, "build": build, "build_number": 0},
            **{"subdir": "linux-64", "depends": depends},
        }
        own = conda_package(index, conda_content(name, version, build))
        file = f"{name}-{version}-{build}.tar.bz2"
        files[f"{channel}/linux-64/{file}"] = own
        digests = {"md5": hashlib.md5(own).hexdigest(), "sha256": _digest(own), "size": len(own)}
        indexes[channel][file] = {**index, **digests}
    for channel, packages in indexes.items():
        for subdir, found in (("linux-64", packages), ("noarch", {})):
            document = {
                **{"info": {"subdir": subdir}, "packages": found, "packages.conda": {}},
                "repodata_version": 1,
            }
            files[f"{channel}/{subdir}/repodata.json"] = json.dumps(document).encode()
    return files


def conda_content(name: str, version: str, build: str) -> dict[str, bytes]:
    if name not in ("pytorch", "torchvision", "torchaudio"):
        return {f"share/{name}.txt": build.encode()}
    cuda = re.search(r"cuda(\d+)\.?(\d)", build)
    if name == "pytorch":
        _, data = torch(version, f"{cuda.group(1)}.{cuda.group(2)}" if cuda else None)
    else:
        _, data = wheel(name, version, [], {f"{name}/__init__.py": f"__version__ = {version!r}\n"})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = {
            f"lib/python3.11/site-packages/{file}": archive.read(file)
            for file in archive.namelist()
            if not file.endswith("RECORD")
        }
    info = next(file.rpartition("/")[0] for file in content if file.endswith("METADATA"))
    return {**content, f"{info}/INSTALLER": b"conda\n"}


def conda_package(index: Mapping[str, object], files: Mapping[str, bytes]) -> bytes:
    paths = [
        {"_path": name, "path_type": "hardlink", "sha256": _digest(data), "size_in_bytes": len(data)}
        for name, data in files.items()
    ]
    content = {
        **files,
        "info/index.json": json.dumps(index).encode(),
        "info/files": "".join(f"{path['_path']}\n" for path in paths).encode(),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def main(root: Path) -> int:
    changed = 0
    made = {root / name: data for name, data in channels().items()}
    for layout, wheels in layouts().items():
        for name, content in wheels:
            places = [root / layout / name]
            if layout in ("mixed", "lacking"):  # and as the tree of an index
                project = name.split("-")[0].replace("_", "-").lower()
                places = [root / layout / variant / project / name for variant in ("cu126",)]
            made.update(dict.fromkeys(places, content))
    for place, content in made.items():
        if not place.is_file() or _digest(place.read_bytes()) != _digest(content):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            changed += 1
    print(f"changed {changed}")
    return 0


def _recorded(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(text.encode())}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
