"""Downloads against a server with every fault of a mirror."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import download as dl

BODY = os.urandom(3 * dl.CHUNK + 17)
WEB = dl.Web(timeout=5)
SHA = hashlib.sha256(BODY).hexdigest()


class Mirror(BaseHTTPRequestHandler):
    """The first part of the path names the fault."""

    seen: ClassVar[list[tuple[str, str, str | None]]] = []
    once: ClassVar[set[str]] = set()
    validators: ClassVar[dict[str, str]] = {}

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        fault = self.path.split("/")[1]
        ranged = self.headers.get("Range")
        self.seen.append((self.command, fault, ranged))
        getattr(self, f"serve_{fault}")(int(ranged[6:-1]) if ranged else 0)

    def send(
        self, code: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])

    def part(self, start: int, body: bytes = BODY, cut: int | None = None) -> None:
        if start >= len(body):
            return self.send(416, b"")
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        self.send(206 if start else 200, body[start:], headers, cut)

    def serve_good(self, start: int) -> None:
        self.part(start)

    def serve_norange(self, start: int) -> None:
        self.send(200, BODY)

    def serve_flipped(self, start: int) -> None:
        self.part(start, BODY[:-1] + bytes([BODY[-1] ^ 1]))

    def serve_short(self, start: int) -> None:
        self.part(start, BODY[:-5])

    def serve_cut(self, start: int) -> None:
        self.part(start, cut=dl.CHUNK)

    def serve_dies(self, start: int) -> None:
        """Delivers the first MiB once, then nothing more."""
        if start == 0 and "dies" not in self.once:
            self.once.add("dies")
            return self.part(0, cut=dl.CHUNK)
        self.part(start, cut=0)

    def serve_versioned(self, start: int) -> None:
        """Has a version and obeys If-Range. With ?cut the first is cut, and the next ones deliver nothing."""
        validator = self.validators["versioned"]
        if self.headers.get("If-Range", validator) != validator:
            start = 0
        headers = {"ETag" if validator.startswith('"') else "Last-Modified": validator}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        cut = None
        if "cut" in self.path and len(self.once) <= dl.TRIES:
            cut = 0 if start else dl.CHUNK
            self.once.add(str(len(self.once)))
        self.send(206 if start else 200, BODY[start:], headers, cut)

    def serve_missing(self, start: int) -> None:
        self.send(404, b"gone")

    def serve_down(self, start: int) -> None:
        self.send(503, b"later")

    def serve_portal(self, start: int) -> None:
        self.send(200, b"<html>log in</html>", {"Content-Type": "text/html"})

    def serve_away(self, start: int) -> None:
        self.send(302, b"", {"Location": "http://upstream.example.org/file"})

    def serve_moved(self, start: int) -> None:
        self.send(302, b"", {"Location": "/good/file"})

    def serve_secret(self, start: int) -> None:
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"lab:p@ss").decode():
            return self.send(401, b"")
        self.part(start)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Mirror, "seen", [])
    monkeypatch.setattr(Mirror, "once", set())
    monkeypatch.setattr(dl, "PAUSE", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(mirror: str, dest: Path, *faults: str) -> dl.Fetched:
    return dl.download(WEB, [f"{mirror}/{fault}/file" for fault in faults], str(dest), SHA)


def test_delivers_and_leaves_nothing_behind(mirror: str, tmp_path: Path) -> None:
    fetched = get(mirror, tmp_path / "f", "good")
    assert (tmp_path / "f").read_bytes() == BODY
    assert (fetched.size, fetched.resumed_from, fetched.failures) == (len(BODY), 0, [])
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "HTTP 404"),
        ("down", "HTTP 503"),
        ("flipped", "wrong content"),
        ("short", f"wrong content: {len(BODY) - 5} bytes"),
        ("portal", "web page"),
        ("away", "redirects away to http://upstream.example.org/file"),
        ("dies", "the transfer was cut"),
    ],
)
def test_a_bad_mirror_is_named_and_the_next_one_taken(
    mirror: str, tmp_path: Path, fault: str, reason: str
) -> None:
    fetched = get(mirror, tmp_path / "f", fault, "good")
    assert fetched.url == f"{mirror}/good/file"
    assert (tmp_path / "f").read_bytes() == BODY
    [failure] = fetched.failures
    assert failure.url == f"{mirror}/{fault}/file"
    assert reason in failure.reason


def test_all_bad_mirrors_are_named(mirror: str, tmp_path: Path) -> None:
    urls = [f"{mirror}/missing/file", "http://127.0.0.1:1/file"]
    with pytest.raises(dl.DownloadError) as caught:
        dl.download(WEB, urls, str(tmp_path / "f"), SHA)
    reasons = [failure.reason for failure in caught.value.failures]
    assert [failure.url for failure in caught.value.failures] == urls
    assert "404" in reasons[0]
    assert reasons[1] == "connection refused"
    assert not (tmp_path / "f").exists()


def test_a_cut_transfer_goes_on_at_the_same_mirror(mirror: str, tmp_path: Path) -> None:
    assert get(mirror, tmp_path / "f", "cut").failures == []
    starts = [None, *(f"bytes={n * dl.CHUNK}-" for n in (1, 2, 3))]
    assert [ranged for _, _, ranged in Mirror.seen] == starts


def test_a_mirror_that_is_overloaded_is_left_alone_for_longer_each_time(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(dl, "PAUSE", 0.5)
    monkeypatch.setattr(dl, "time", SimpleNamespace(sleep=waits.append))
    get(mirror, tmp_path / "f", "down", "good")
    assert waits == [0.5, 1.0]
    get(mirror, tmp_path / "g", "cut")
    dl.download(WEB, [f"file://{tmp_path}/gone", f"{mirror}/good/file"], str(tmp_path / "h"), SHA)
    assert waits == [0.5, 1.0], "neither where bytes come nor where a file is missing"


def test_a_killed_run_is_taken_up(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    assert get(mirror, tmp_path / "f", "good").resumed_from == 1000
    assert Mirror.seen == [("GET", "good", "bytes=1000-")]


def test_a_complete_part_is_not_fetched_again(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY)
    get(mirror, tmp_path / "f", "good")
    assert (tmp_path / "f").read_bytes() == BODY
    assert len(Mirror.seen) == 1


def test_what_is_there_already_is_not_fetched(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BODY)
    assert get(mirror, tmp_path / "f", "good").resumed_from == len(BODY)
    assert Mirror.seen == []
    (tmp_path / "f").write_bytes(b"old")
    get(mirror, tmp_path / "f", "good")
    assert (tmp_path / "f").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("rest", [b"of another file", b"x" * (len(BODY) + 1)])
def test_a_spoiled_part_costs_one_more_fetch_and_blames_nobody(
    mirror: str, tmp_path: Path, rest: bytes
) -> None:
    (tmp_path / "f.part").write_bytes(rest)
    assert get(mirror, tmp_path / "f", "good").failures == []
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_without_ranges_starts_over(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    get(mirror, tmp_path / "f", "norange")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_portal_does_not_spoil_what_is_there(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    with pytest.raises(dl.DownloadError):
        get(mirror, tmp_path / "f", "portal")
    assert (tmp_path / "f.part").read_bytes() == BODY[:1000]


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://mirrors.example.org/file")
    with pytest.raises(dl.MirrorError, match="redirects away to http://"):
        dl._SameSite(()).redirect_request(request, None, 302, "Found", {}, "http://mirrors.example.org/file")


def test_redirects_within_a_site_are_followed(mirror: str, tmp_path: Path) -> None:
    assert get(mirror, tmp_path / "f", "moved").failures == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("mirrors.tuna.tsinghua.edu.cn", "mirrors6.tuna.tsinghua.edu.cn", True),
        ("mirror.nju.edu.cn", "mirrors.nju.edu.cn", True),
        ("mirror.sjtu.edu.cn", "s3.jcloud.sjtu.edu.cn", True),
        ("mirror.sjtu.edu.cn", "download.pytorch.org", False),
        ("nju.edu.cn", "evil.edu.cn", False),
        ("example.org", "evil.org", False),
        ("cache01", "cache02", False),
        ("pytorch.org", "python.org", False),
        ("127.0.0.1", "126.0.0.1", False),
    ],
)
def test_site(one: str, other: str, same: bool) -> None:
    assert dl.same_site(one, other) is same
    assert dl.same_site(one, one)


def test_credentials_work_and_are_never_told(mirror: str, tmp_path: Path) -> None:
    private = mirror.replace("://", "://lab:p%40ss@") + "/secret/file"
    assert dl.download(WEB, [private], str(tmp_path / "f"), SHA).url == f"{mirror}/secret/file"
    with pytest.raises(dl.DownloadError) as caught:
        dl.download(WEB, [private.replace("lab", "lob")], str(tmp_path / "g"), SHA)
    assert "401" in str(caught.value.failures)
    assert "p%40ss" not in str(caught.value.failures)


def test_a_full_disk_is_not_blamed_on_the_mirror(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstatvfs

    class Full:
        f_bavail, f_frsize = 10, 1

    monkeypatch.setattr(os, "fstatvfs", lambda _: Full)
    with pytest.raises(dl.DownloadError, match=f"{len(BODY)} bytes are still to come and 10 bytes are free"):
        get(mirror, tmp_path / "f", "good", "good")
    assert len(Mirror.seen) == 1
    monkeypatch.setattr(os, "fstatvfs", real)


def test_a_link_is_not_followed(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "f.part").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        get(mirror, tmp_path / "f", "good")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_check_mode_asks_and_fetches_nothing(mirror: str) -> None:
    found = dl.available(WEB, [f"{mirror}/missing/file", f"{mirror}/good/file"])
    assert (found.url, found.size, len(found.failures)) == (f"{mirror}/good/file", len(BODY), 1)
    assert {method for method, _, _ in Mirror.seen} == {"HEAD"}


def test_a_redirect_to_a_named_host_is_followed() -> None:
    request = urllib.request.Request("https://github.com/file")
    away = "https://release-assets.githubusercontent.com/file"
    follow = dl._SameSite(["release-assets.githubusercontent.com"])
    followed = follow.redirect_request(request, None, 302, "Found", {}, away)
    assert followed.full_url == away
    with pytest.raises(dl.MirrorError, match="redirects away"):
        follow.redirect_request(request, None, 302, "Found", {}, "https://evil.example.org/file")


@pytest.fixture
def https(mirror: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server has no certificate: the scheme is all that differs."""
    real = dl._opened
    monkeypatch.setattr(
        dl, "_opened", lambda web, url, **more: real(web, url.replace("https", "http"), **more)
    )
    return mirror.replace("http", "https")


def test_without_a_hash_only_https(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(dl.DownloadError) as caught:
        dl.download(WEB, [f"{mirror}/good/file"], str(tmp_path / "f"), "")
    assert "over https alone" in str(caught.value.failures[0])


def test_without_a_hash_nothing_is_resumed_that_the_server_does_not_vouch_for(
    https: str, tmp_path: Path
) -> None:
    dest = tmp_path / "f"
    (tmp_path / "f.part").write_bytes(b"of yesterday")
    dest.write_bytes(b"of last week")
    fetched = dl.download(WEB, [f"{https}/dies/x", f"{https}/good/x"], str(dest), "")
    assert dest.read_bytes() == BODY and fetched.resumed_from == 0
    assert {ranged for _, _, ranged in Mirror.seen} == {None}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("validator", ['"abc"', "Sat, 28 Nov 2026 00:00:00 GMT"])
def test_without_a_hash_a_cut_transfer_goes_on_where_the_server_vouches_for_it(
    https: str, tmp_path: Path, validator: str
) -> None:
    Mirror.validators = {"versioned": validator}
    dest = tmp_path / "f"
    with pytest.raises(dl.DownloadError, match="no mirror"):
        dl.download(WEB, [f"{https}/versioned/x?cut", f"{https}/missing/x"], str(dest), "")
    assert (tmp_path / "f.part").stat().st_size == dl.CHUNK
    fetched = dl.download(WEB, [f"{https}/versioned/x?cut"], str(dest), "")
    assert (dest.read_bytes(), fetched.resumed_from) == (BODY, dl.CHUNK)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_without_a_hash_a_new_version_is_fetched_whole(https: str, tmp_path: Path) -> None:
    Mirror.validators = {"versioned": '"old"'}
    dest = tmp_path / "f"
    with pytest.raises(dl.DownloadError, match="no mirror"):
        dl.download(WEB, [f"{https}/versioned/x?cut"], str(dest), "")
    Mirror.validators = {"versioned": '"new"'}
    dl.download(WEB, [f"{https}/versioned/x?cut"], str(dest), "")
    assert dest.read_bytes() == BODY


def test_without_a_hash_a_part_of_another_address_is_not_taken_up(https: str, tmp_path: Path) -> None:
    Mirror.validators = {"versioned": '"same"'}
    dest = tmp_path / "f"
    with pytest.raises(dl.DownloadError, match="no mirror"):
        dl.download(WEB, [f"{https}/versioned/x?cut"], str(dest), "")
    Mirror.seen.clear()
    dl.download(WEB, [f"{https}/versioned/other"], str(dest), "")
    assert [ranged for _, _, ranged in Mirror.seen] == [None] and dest.read_bytes() == BODY


def test_passwords_in_urls_as_written_and_as_meant() -> None:
    urls = ["https://lab:p%40ss@a.example/x", "https://b.example/y", "http://user@c.example/"]
    assert dl.secrets(urls) == {"p%40ss", "p@ss"}


def test_the_speed_is_measured_within_bounds(mirror: str) -> None:
    assert dl.speed(WEB, f"{mirror}/good/file", 1 << 16, 5) > 1e5
    with pytest.raises(dl.MirrorError):
        dl.speed(WEB, f"{mirror}/missing/file", 1 << 16, 5)
