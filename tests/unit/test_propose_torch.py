"""tools/propose_torch.py against an index that serves what PyPI had, recorded."""

from __future__ import annotations

import http.server
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "fixtures" / "propose_torch" / "pypi.json").read_text(encoding="utf-8")
)


def wheel(project: str, row: dict[str, Any]) -> bytes:
    """A small wheel with all that was recorded of the large one."""
    version = row["filename"].split("-")[1]
    requires = "".join(f"Requires-Dist: {line}\n" for line in row["requires"])
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n{requires}"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("torch/lib/libtorch_cpu.so", bytes(100_000))
        if "flags" in row:
            archive.writestr("torch/version.py", f"__version__ = '{row['version']}'\n")
            archive.writestr("torch/lib/libtorch_python.so", f"\0sm_\0\0{row['flags']}\0sm_75 sm_80\0")
        archive.writestr(f"{project}-{version}.dist-info/METADATA", metadata)
    return out.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """A simple index in JSON whose files come in parts."""

    described = False
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        project, name = self.path.strip("/").split("/")[0], self.path.strip("/").split("/")[-1]
        type(self).asked.append(name)
        rows = RECORDED.get(project, [])
        if name == project:
            files = [
                {
                    **row,
                    "url": f"http://{self.headers['Host']}/{project}/{row['filename']}",
                    "core-metadata": self.described and "requires" in row,
                }
                for row in rows
            ]
            return self.answer(json.dumps({"meta": {"api-version": "1.1"}, "files": files}).encode())
        row = next(row for row in rows if row["filename"] == name.removesuffix(".metadata"))
        if name.endswith(".metadata"):
            return self.answer("".join(f"Requires-Dist: {line}\n" for line in row["requires"]).encode())
        body = wheel(project, row)
        first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        return self.answer(body[first : last + 1], f"bytes {first}-{last}/{len(body)}")

    def answer(self, body: bytes, part: str | None = None) -> None:
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(body)))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture(params=[True, False], ids=["PEP 658", "parts of wheels"])
def index(request: pytest.FixtureRequest) -> Iterator[str]:
    Index.described, Index.asked = request.param, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def propose(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "propose_torch.py"), *args],
        capture_output=True,
        text=True,
        check=False,
    )


def table(version: str) -> dict[str, Any]:
    text = (ROOT / "plugins" / "plugin_utils" / "data" / "torch.yml").read_text(encoding="utf-8")
    return dict(next(row for row in yaml.safe_load(text)["releases"] if row["torch"] == version))


@pytest.mark.parametrize("version", ["2.15.0", "2.11.0"])
def test_the_row_is_that_of_the_tables(index: str, version: str) -> None:
    done = propose(version, "--index", index)
    assert done.returncode == 0, done.stderr
    (row,) = yaml.safe_load(done.stdout)
    known = table(version)
    for key in ("torch", "released", "python", "glibc", "torchvision", "torchaudio", "pypi"):
        assert row[key] == known[key], key
    (build,) = row["builds"]
    (there,) = (item for item in known["builds"] if item["variant"] == build["variant"])
    assert build["capabilities"] == there["capabilities"]
    others = [item["variant"] for item in known["builds"] if item is not there]
    assert [line for line in done.stderr.splitlines() if "only in the tables" in line] == [
        f"differs: {variant}: only in the tables" for variant in others
    ]


def test_without_the_binary_the_capabilities_are_to_be_filled_in(index: str) -> None:
    done = propose("2.15.0", "--index", index, "--no-binary")
    (row,) = yaml.safe_load(done.stdout)
    assert row["pypi"] == {"x86_64": "cu132", "aarch64": "cu132"}
    (build,) = row["builds"]
    assert build["capabilities"] == {"x86_64": ["FILL IN"], "aarch64": ["FILL IN"]}
    assert build["confidence"] == {"x86_64": "low", "aarch64": "low"}
    assert "differs: cu132 x86_64: here ['FILL IN']" in done.stderr
    wheels = [name for name in Index.asked if name.endswith(".whl")]
    assert bool(wheels) != Index.described


def test_a_release_that_is_not_there(index: str) -> None:
    done = propose("9.9.9", "--index", index)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no wheel of torch 9.9.9 for Linux" in done.stderr


def test_an_index_that_does_not_answer() -> None:
    done = propose("2.15.0", "--index", "http://127.0.0.1:9/simple")
    assert done.returncode == 1
    assert "http://127.0.0.1:9/simple/torch/" in done.stderr
    assert "Traceback" not in done.stderr
