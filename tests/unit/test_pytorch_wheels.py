"""The wheels of a build, by what uv, a page and a directory say; the store and what a change needs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible.utils.display import Display
from ansible_collections.torchfleet.gpu.plugins.module_utils import wheels
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import MirrorError, Web
from ansible_collections.torchfleet.gpu.plugins.module_utils.wheels import Store, Wheel
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import progress
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.background import Background

HASH = "a" * 64
# As uv 0.13.9 writes it: in one line, in several where more than one file fits, of a directory.
PYLOCK = f"""\
lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "jinja2"
version = "3.1.6"
sdist = {{ url = "https://x/jinja2-3.1.6.tar.gz", size = 1, hashes = {{ sha256 = "{"b" * 64}" }} }}
wheels = [{{ url = "https://x/jinja2-3.1.6-py3-none-any.whl", upload-time = 2025-03-05T20:05:00Z, size = 134899, hashes = {{ sha256 = "{HASH}" }} }}]

[[packages]]
name = "nvidia-cufft-cu12"
version = "11.3.0.4"
marker = "platform_machine == 'x86_64' and sys_platform == 'linux'"
wheels = [
    {{ url = "https://x/nvidia_cufft_cu12-11.3.0.4-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", size = 200, hashes = {{ sha256 = "{HASH}" }} }},
    {{ url = "https://x/nvidia_cufft_cu12-11.3.0.4-py3-none-manylinux2014_x86_64.whl", size = 199, hashes = {{ sha256 = "{HASH}" }} }},
]

[[packages]]
name = "torch"
version = "2.13.0+cpu"
wheels = [{{ url = "file:///opt/a%20b/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl", hashes = {{ sha256 = "{HASH}" }} }}]
"""  # noqa: E501


def test_what_uv_locks() -> None:
    jinja, cufft, torch = wheels.read_pylock(PYLOCK)
    assert jinja == Wheel("jinja2", "3.1.6", "https://x/jinja2-3.1.6-py3-none-any.whl", HASH, 134899)
    assert (cufft.name, cufft.size) == ("nvidia-cufft-cu12", 200)
    assert torch.url == "/opt/a b/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    assert not torch.remote and torch.size is None


@pytest.mark.parametrize(
    ("file", "right"),
    [
        ("torch-2.7.1+cu126-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("torch-2.7.1+cu126-py3-none-any.whl", True),
        ("torch-2.7.1+cu126-cp39-abi3-linux_x86_64.whl", True),
        ("torch-2.7.1+cu126-1-cp311-none-linux_x86_64.whl", True),
        ("torch-2.7.1+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("torch-2.7.1-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("torch-2.7.1+cu126-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("torch-2.7.1+cu126-cp312-abi3-linux_x86_64.whl", False),
        ("torch-2.7.1+cu126-cp311-cp311t-linux_x86_64.whl", False),
        ("torch-2.7.1+cu126-cp311-cp311-manylinux_2_28_aarch64.whl", False),
        ("torch-2.7.1+cu126-cp311-cp311-win_amd64.whl", False),
        ("torchvision-2.7.1+cu126-cp311-cp311-linux_x86_64.whl", False),
    ],
)
def test_the_right_file_of_a_flat_listing(file: str, right: bool) -> None:
    assert wheels.fits(file, "torch", "2.7.1+cu126", "3.11", "x86_64") is right


def test_a_flat_listing_escapes_its_names_and_may_give_hashes() -> None:
    offered = [
        "https://x/torch-2.7.1%2Bcpu-cp311-cp311-linux_x86_64.whl",
        f"https://x/torch-2.7.1%2Bcu126-cp311-cp311-linux_x86_64.whl#sha256={HASH}",
    ]
    found = wheels.among(offered, "torch", "2.7.1+cu126", "3.11.7", "x86_64")
    assert found is not None
    assert (found.sha256, found.file) == (HASH, "torch-2.7.1+cu126-cp311-cp311-linux_x86_64.whl")
    assert wheels.among(offered, "torch", "2.7.1+cu128", "3.11", "x86_64") is None


def test_links_of_a_directory_and_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "six-1.0-py3-none-any.whl").touch()
    (tmp_path / "notes.txt").touch()
    web = Web(1)
    assert wheels.links(web, str(tmp_path)) == [str(tmp_path / "six-1.0-py3-none-any.whl")]
    assert wheels.links(web, f"file://{tmp_path}") == [str(tmp_path / "six-1.0-py3-none-any.whl")]
    page = b'<a href="../">up</a><A class="x" HREF="a%2Bb-1-py3-none-any.whl#sha256=1">a</A>'
    page += b"<a href='/r/c.whl'>"
    monkeypatch.setattr(wheels, "peek", lambda *_: page)
    assert wheels.links(web, "https://x/flat/") == [
        "https://x/flat/a%2Bb-1-py3-none-any.whl#sha256=1",
        "https://x/r/c.whl",
    ]


def content(text: str) -> tuple[bytes, str]:
    data = text.encode() * 1000
    return data, hashlib.sha256(data).hexdigest()


def test_a_wheel_is_fetched_once_and_counted_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, digest = content("one")
    asked: list[str] = []

    def download(web: Web, urls: list[str], dest: str, sha256: str) -> None:
        asked.extend(urls)
        assert sha256 == digest
        Path(dest).write_bytes(data)

    monkeypatch.setattr(wheels, "download", download)
    store = Store(str(tmp_path))
    wheel = Wheel("one", "1", "https://x/one-1-py3-none-any.whl", digest, len(data))
    assert store.arrived(wheel) == 0 and not store.has(wheel)
    store.directory(wheel).mkdir(parents=True)
    Path(f"{store.path(wheel)}.part").write_bytes(data[:500])
    assert store.arrived(wheel) == 500
    assert store.need([wheel], {}, linked=True).fetch == len(data) - 500
    store.fetch(Web(1), [wheel])
    store.fetch(Web(1), [wheel])
    assert asked == [wheel.url] and store.has(wheel)
    # Another mirror's address of the same content is the same file.
    other = wheel._replace(url="https://y/one-1-py3-none-any.whl")
    assert store.has(other)


def test_the_first_failure_ends_the_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(web: Web, urls: list[str], dest: str, sha256: str) -> None:
        raise MirrorError(f"redirects away to {urls[0]}")

    monkeypatch.setattr(wheels, "download", download)
    some = [Wheel("a", "1", f"https://x/{n}/a-1-py3-none-any.whl", str(n) * 64, 10) for n in range(9)]
    with pytest.raises(MirrorError, match="redirects away to https://x/"):
        Store(str(tmp_path)).fetch(Web(1), some)


def test_what_a_change_needs(tmp_path: Path) -> None:
    ratio = {"torch": 2.0, "torch+cpu": 4.0, "other": 1.5}
    store = Store(str(tmp_path))
    torch = Wheel("torch", "2.7.1", "https://x/t.whl", "1" * 64, 1000)
    cpu = Wheel("torch", "2.7.1+cpu", "https://x/u.whl", "2" * 64, 1000)
    blas = Wheel("nvidia-cublas", "1", "https://x/b.whl", "3" * 64, 200)
    assert store.need([torch, blas], ratio, linked=True) == (1200, 1200 + 2000 + 300, 0)
    assert store.need([torch, blas], ratio, linked=False) == (1200, 3500, 2300)
    assert store.need([cpu], ratio, linked=True) == (1000, 5000, 0)
    store.directory(torch).mkdir(parents=True)
    store.path(torch).write_bytes(b"x" * 1000)
    assert store.need([torch], ratio, linked=True) == (0, 2000, 0)
    store.unpacked([torch])
    # The second environment on a host: links, and nothing else.
    assert store.need([torch], ratio, linked=True) == (0, 0, 0)


def test_a_bundle_s_files_stay_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "usb" / "torch-1-py3-none-any.whl"
    file.parent.mkdir()
    file.write_bytes(b"x" * 10)
    (wheel,) = wheels.measured(Web(1), [Wheel("torch", "1", str(file), "")])
    store = Store(str(tmp_path / "cache"))
    assert (wheel.size, store.path(wheel), store.has(wheel)) == (10, file, True)
    assert store.need([wheel], {"other": 2}, linked=True) == (0, 20, 0)
    store.unpacked([wheel])
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (
            {"bytes": 1_300_000_000, "total": 2_600_000_000, "start": 300_000_000, "since": 0, "now": 20},
            "gpu07: torch: fetching 12 wheels from tuna: 1.3 GB of 2.6 GB (50 %), 50.0 MB/s, 26 s left",
        ),
        (
            {"bytes": 5, "total": 2_600_000_000, "start": 5, "since": 0, "now": 60},
            "gpu07: torch: fetching 12 wheels from tuna: 5 B of 2.6 GB (0 %), 0 B/s, stalled",
        ),
        (
            {"bytes": None, "total": None, "since": 0, "now": 75},
            "gpu07: torch: fetching 12 wheels from tuna, 1 min 15 s",
        ),
    ],
)
def test_a_line_of_progress(state: dict[str, object], line: str) -> None:
    start = {"subject": "torch", "phase": "fetching 12 wheels from tuna"}
    assert progress.line({**start, **state}, "gpu07") == line


def test_no_line_before_the_first_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(Display, "display", lambda _self, text: shown.append(text))
    for text in ('{"bytes": null, "now": 1795826000.0}', "not whole", "[]"):
        Background._show(text, "gpu07")
    assert shown == []
    Background._show('{"subject": "torch", "phase": "asking", "since": 1, "now": 3}', "gpu07")
    assert shown == ["gpu07: torch: asking, 2 s"]
