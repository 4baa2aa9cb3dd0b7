"""Make the base prefix of the installer: conda links it, its prefix becomes the placeholder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

WORK = Path("/work")
BASE = Path("/torchfleet-base")
PLACEHOLDER = os.environ["PLACEHOLDER"].encode()
# What the real installer records, though the packages come from the stand-in's channel.
CHANNEL = b"https://repo.anaconda.com/pkgs/main"


def run(*command: str | Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(WORK),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CONDA_PKGS_DIRS": str(WORK / "pkgs"),
        "CONDA_REGISTER_ENVS": "false",
    }
    subprocess.run([str(part) for part in command], check=True, env=environment)


def main() -> None:
    specs = os.environ["SPECS"].split()
    run(
        WORK / "bootstrap/bin/python", "-m", "conda", "create", "-y", "-q", "--offline",
        "--override-channels", "-c", (WORK / "channel").as_uri(), "-p", BASE, *specs,
    )  # fmt: skip
    python = BASE / "bin/python"
    run(python, "-I", "-B", "-c", f"from conda.core.initialize import install; install({str(BASE)!r})")
    # unchecked: the installed .pyc must stay valid whatever time tar and the file system give its source.
    run(
        python, "-I", "-B", "-m", "compileall", "-q", "-f", "-j0", "--invalidation-mode", "unchecked-hash",
        "-s", BASE, next((BASE / "lib").glob("python3.*/site-packages")),
    )  # fmt: skip

    originals: dict[str, Path] = {}
    for record in (BASE / "conda-meta").glob("*.json"):
        meta = json.loads(record.read_text())
        for path in meta["paths_data"]["paths"]:
            if path.get("prefix_placeholder"):
                originals[path["_path"]] = Path(meta["extracted_package_dir"], path["_path"])
    for record in [*(BASE / "conda-meta").glob("*.json"), BASE / "conda-meta/history"]:
        text = record.read_bytes().replace((WORK / "channel").as_uri().encode(), CHANNEL)
        text = text.replace(str(WORK / "bootstrap").encode(), str(BASE).encode())
        record.write_bytes(text.replace(str(WORK / "pkgs").encode(), str(BASE / "pkgs").encode()))

    relocated = []
    for path in sorted(BASE.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(BASE))
        data = path.read_bytes()
        if name in originals:
            data = originals[name].read_bytes()
        elif str(BASE).encode() in data:
            if b"\0" in data:
                raise SystemExit(f"{path}: binary with the prefix of the build")
            data = data.replace(str(BASE).encode(), PLACEHOLDER)
        else:
            continue
        relocated.append({"path": name, "mode": "binary" if b"\0" in data else "text"})
        mode = path.stat().st_mode
        path.unlink()  # it may be a hard link into the package cache
        path.write_bytes(data)
        path.chmod(mode)
    (BASE / ".relocate.json").write_text(
        json.dumps({"placeholder": PLACEHOLDER.decode(), "files": relocated})
    )
    (BASE / ".relocate.py").write_bytes((WORK / "relocate.py").read_bytes())
    (BASE / "envs").mkdir(exist_ok=True)
    (BASE / "pkgs").mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
