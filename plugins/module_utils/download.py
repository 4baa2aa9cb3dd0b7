"""Fetch pinned files from mirrors that may fail, lie or redirect away.

An ordered list of URLs names the same content. The first that delivers it wins; every one that did not is
named, with the reason. A transfer resumes where it stopped, also when another mirror or another run goes on
with it, because the sha256 decides in the end. Without one a transfer resumes at the same URL alone, where
its server vouches that the file is still the same one (RFC 9110, If-Range).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any, Callable, Iterable, Iterator, NamedTuple

SHA256 = re.compile(r"[0-9a-f]{64}\Z")
CHUNK = 1 << 20
# So often a transfer is taken up again at one mirror without a byte of progress.
TRIES = 3
# Seconds before the first such try, doubled before each further one: a mirror that is overloaded needs them.
PAUSE = 1.0


class Failure(NamedTuple):
    """One mirror that did not deliver."""

    url: str
    reason: str

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class Fetched(NamedTuple):
    url: str
    size: int
    resumed_from: int
    failures: list[Failure]


class MirrorError(Exception):
    """This mirror cannot deliver; another one may."""


class TransientError(MirrorError):
    """The same mirror may deliver when asked again."""


class DownloadError(Exception):
    """No mirror can help, or none did."""

    def __init__(self, message: str, failures: list[Failure]) -> None:
        super().__init__(message)
        self.failures = failures


def redact(url: str) -> str:
    """Return the URL without its user and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def secrets(urls: Iterable[str]) -> set[str]:
    """Return the passwords in the URLs, as written and as meant: what must not be told anywhere."""
    found = {urllib.parse.urlsplit(url).password or "" for url in urls}
    return {text for password in found for text in (password, urllib.parse.unquote(password)) if text}


# Below these everybody has a name.
_PUBLIC = re.compile(r"(ac|co|com|edu|gov|net|org)\.[a-z]{2}\Z")


def same_site(old: str, new: str) -> bool:
    """mirrors6.tuna.tsinghua.edu.cn is of mirrors.tuna.tsinghua.edu.cn's site, with all below it."""
    parent = old.partition(".")[2]
    own = "." not in parent or re.match(r"[\d.]+\Z", old) or _PUBLIC.match(parent)
    return new == old or (not own and f".{new}".endswith(f".{parent}"))


class _SameSite(urllib.request.HTTPRedirectHandler):
    """Follow redirects within a site only: elsewhere is not the mirror that its owner chose."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = set(allowed)

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        leaves = not same_site(old.hostname or "", new.hostname or "") and new.hostname not in self.allowed
        if leaves or (old.scheme == "https" and new.scheme != "https"):
            raise MirrorError(f"redirects away to {redact(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _explain(error: BaseException) -> MirrorError:
    if isinstance(error, urllib.error.HTTPError):
        kind = TransientError if error.code >= 500 or error.code == 429 else MirrorError
        return kind(f"HTTP {error.code} {error.reason}")
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return _explain(error.reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return MirrorError(f"its TLS certificate is not trusted ({error.verify_message})")
    if isinstance(error, socket.gaierror):
        return MirrorError("its name does not resolve")
    if isinstance(error, socket.timeout):
        return TransientError("no answer in time")
    if isinstance(error, FileNotFoundError):
        return MirrorError(str(error))
    if isinstance(error, ConnectionRefusedError):
        return MirrorError("connection refused")
    return TransientError(str(error) or type(error).__name__)


class Web:
    """How to reach mirrors: how long one may stay silent, whom to trust beside the system's store, and to
    which hosts any of them may redirect."""

    def __init__(self, timeout: float, ca_pem: str = "", redirects: Iterable[str] = ()) -> None:
        self.timeout = timeout
        context = ssl.create_default_context()
        if ca_pem.strip():
            try:
                context.load_verify_locations(cadata=ca_pem)
            except (ssl.SSLError, ValueError) as error:
                raise DownloadError(
                    f"mirrors_ca_certificates holds no valid PEM certificate ({error})", []
                ) from error
        https = urllib.request.HTTPSHandler(context=context)
        self.opener = urllib.request.build_opener(_SameSite(redirects), https)


@contextlib.contextmanager
def _opened(web: Web, url: str, method: str = "GET", offset: int = 0, validator: str = "") -> Iterator[Any]:
    """Open the URL; every failure of the network or the server becomes a MirrorError."""
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(redact(url), method=method)
    request.add_header("User-Agent", "torchfleet")
    if parts.username:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        # Unredirected, so that the credential never leaves the host that it is for.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        if validator:
            request.add_header("If-Range", validator)
    try:
        with web.opener.open(request, timeout=web.timeout) as answer:
            yield answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _explain(error) from error


def peek(web: Web, url: str, count: int = 8192) -> bytes:
    """Return the first bytes of what the URL delivers."""
    with _opened(web, url) as answer:
        return bytes(answer.read(count))


def speed(web: Web, url: str, count: int, seconds: float) -> float:
    """Return the bytes per second from the request to the last byte, reading at most so much for so long."""
    started = time.monotonic()
    got = 0
    with _opened(web, url) as answer:
        while got < count and time.monotonic() - started < seconds:
            chunk = answer.read(min(count - got, 1 << 14))
            if not chunk:
                break
            got += len(chunk)
    return got / max(time.monotonic() - started, 1e-6)


def available(web: Web, urls: list[str]) -> Fetched:
    """Find the first URL that answers, without fetching it (for check mode)."""
    failures: list[Failure] = []
    for url in urls:
        try:
            with _opened(web, url, method="HEAD") as answer:
                return Fetched(redact(url), int(answer.headers.get("Content-Length") or 0), 0, failures)
        except MirrorError as error:
            failures.append(Failure(redact(url), str(error)))
    raise DownloadError("no mirror delivers the file", failures)


def download(web: Web, urls: list[str], dest: str, sha256: str) -> Fetched:
    """Fetch the content with that sha256 to dest, whose directory must be private to the caller.

    The bytes gather in dest + ".part", which survives a kill and is taken up by the next call. Without a
    sha256 (empty) they come over https alone, and a part counts only where its server vouches for it;
    dest + ".of.part" says what it is part of.
    """
    origin = Path(dest + ".of.part")
    failures: list[Failure] = []
    with _exclusive(dest + ".part") as part:
        if sha256 and Path(dest).is_file():
            with Path(dest).open("rb") as whole:
                if _digest(whole) == sha256:
                    Path(dest + ".part").unlink()
                    return Fetched(dest, _size(whole), _size(whole), [])
        for url in urls:
            resumed_from = _size(part) if sha256 or _validator(origin, url) else 0
            try:
                if sha256:
                    _fetch(web, url, part, sha256)
                else:
                    _fetch_unpinned(web, url, part, origin)
            except MirrorError as error:
                failures.append(Failure(redact(url), str(error)))
                continue
            os.fsync(part.fileno())
            Path(dest + ".part").rename(dest)
            with contextlib.suppress(FileNotFoundError):
                origin.unlink()
            return Fetched(redact(url), _size(part), resumed_from, failures)
    raise DownloadError("no mirror delivers the file", failures)


def _digest(handle: IO[bytes]) -> str:
    digest = hashlib.sha256()
    handle.seek(0)
    for chunk in iter(lambda: handle.read(CHUNK), b""):
        digest.update(chunk)
    return digest.hexdigest()


def _size(handle: IO[bytes]) -> int:
    return os.fstat(handle.fileno()).st_size


@contextlib.contextmanager
def _exclusive(path: str) -> Iterator[IO[bytes]]:
    """Open the file for one process at a time; others wait, then go on with what it left."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                moved = Path(path).stat().st_ino != os.fstat(descriptor).st_ino
            except FileNotFoundError:
                moved = True
            if not moved:
                yield handle
                return


def _fetch(web: Web, url: str, part: IO[bytes], sha256: str) -> None:
    stalled = 0
    while True:
        start = _size(part)
        try:
            start = _append(web, url, part)
        except TransientError as error:
            stalled = _pause(error, stalled, _size(part) > start)
            continue
        found, size = _digest(part), _size(part)
        if found == sha256:
            return
        part.truncate(0)
        if start == 0:  # all of it came from here, so this mirror lies
            raise MirrorError(f"wrong content: {size} bytes with sha256 {found}, expected sha256 {sha256}")


def _fetch_unpinned(web: Web, url: str, part: IO[bytes], origin: Path) -> None:
    if not url.startswith(("https://", "file:/")):
        raise MirrorError("without a sha256 a file is fetched over https alone")
    stalled = 0
    while True:
        start = _size(part)
        try:
            _append(web, url, part, _validator(origin, url), lambda answer: _remember(origin, url, answer))
            return
        except TransientError as error:
            stalled = _pause(error, stalled, _size(part) > start)


def _pause(error: TransientError, stalled: int, progress: bool) -> int:
    """Wait where nothing came; returns how many tries in a row brought nothing, raises after the last."""
    if progress:
        return 0
    if stalled + 1 == TRIES:
        raise error
    time.sleep(PAUSE * 2**stalled)
    return stalled + 1


def _remember(origin: Path, url: str, answer: Any) -> None:
    """Write down which version of the file begins here; an address may have a password in it."""
    strong = answer.headers.get("ETag", "")
    validator = strong if strong.startswith('"') else answer.headers.get("Last-Modified", "")
    origin.write_text(f"{hashlib.sha256(url.encode()).hexdigest()}\n{validator}", "utf-8")


def _validator(origin: Path, url: str) -> str:
    """What its server called the version of the file that the part is of; empty where nobody knows."""
    try:
        place, _, validator = origin.read_text("utf-8").partition("\n")
    except OSError:
        return ""
    return validator if place == hashlib.sha256(url.encode()).hexdigest() else ""


def _append(
    web: Web, url: str, part: IO[bytes], validator: str = "", begins: Callable[[Any], None] | None = None
) -> int:
    """Append what is missing, and return the offset at which this mirror's bytes start.

    ``begins``: called with an answer that is the whole; given, only the version of ``validator`` is resumed.
    """
    offset = 0 if begins and not validator else _size(part)
    try:
        with _opened(web, url, offset=offset, validator=validator) as answer:
            if "html" in answer.headers.get("Content-Type", ""):
                raise MirrorError("answers with a web page, not with the file")
            resumes = answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
            if offset and not (answer.status == 206 and resumes):
                offset = 0  # it cannot resume
                part.truncate(0)
                if answer.status != 200:
                    raise TransientError(f"answers HTTP {answer.status} to a request for a range")
            if begins and not offset:
                part.truncate(0)
                begins(answer)
            length = answer.headers.get("Content-Length")
            _write(answer, part, offset, int(length) if length else None)
    except MirrorError as error:
        if offset and isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 416:
            if begins:  # all of it is there, or none of it counts: nobody can tell
                part.truncate(0)
                raise TransientError("answers HTTP 416 to a request for a range") from error
            return offset  # nothing is missing, or what is there is of another file: the hash tells
        raise
    return offset


def _write(answer: Any, part: IO[bytes], offset: int, length: int | None) -> None:
    disk = os.fstatvfs(part.fileno())
    free = disk.f_bavail * disk.f_frsize
    if length and length > free:
        raise DownloadError(f"{length} bytes are still to come and {free} bytes are free on the disk", [])
    part.seek(offset)
    got = 0
    while True:
        chunk = answer.read(CHUNK)
        if not chunk:
            break
        try:
            view = memoryview(chunk)
            while view:
                view = view[part.write(view) :]
        except OSError as error:
            detail = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise DownloadError(f"cannot write the file: {detail}", []) from error
        got += len(chunk)
    if length is not None and got < length:
        raise TransientError(f"the transfer was cut after {got} of {length} bytes")
