"""What the cache serves, and what it costs upstream (the stand-in mirror, and PyPI behind it)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
CA = ROOT / ".torchfleet/cache/lan-cache-ca.pem"
TUNA = "mirrors.tuna.tsinghua.edu.cn"
CLIENTS = 10
ETC = "/etc/torchfleet/lan-cache"
LOG = "/var/log/torchfleet-lan-cache/access.log"


class Cache:
    def __init__(self, host: Any, address: str) -> None:
        self.host = host
        self.url = f"https://{address}:8477"
        # The way to it is this machine's own network.
        tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(CA)))
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with self.opener.open(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def forget(self) -> None:
        """Make it cold, and its log empty."""
        self.host.check_output("systemctl stop torchfleet-lan-cache")
        self.host.check_output("find /var/cache/torchfleet-lan -mindepth 1 -delete")
        self.host.check_output("truncate -s 0 %s", LOG)
        self.host.check_output("systemctl start torchfleet-lan-cache")

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.host.file(LOG).content_string.splitlines()]

    def upstream_bytes(self) -> int:
        # After a second attempt nginx lists the bytes of each.
        return sum(int(part) for line in self.log() for part in re.findall(r"\d+", line["upstream_bytes"]))


@pytest.fixture
def cache(host: Any) -> Iterator[Cache]:
    names = host.check_output("openssl x509 -noout -ext subjectAltName -in %s", f"{ETC}/tls/server.pem")
    found = Cache(host, names.splitlines()[-1].strip().partition(":")[2])
    found.forget()
    yield found


@pytest.fixture
def installer(cache: Cache) -> str:
    _status, page = cache.get(f"/{TUNA}/anaconda/miniconda/")
    (name,) = set(re.findall(rb'href="(Miniconda3-py311_24\.7\.1-0-[^"]+)"', page))
    return f"/{TUNA}/anaconda/miniconda/{name.decode()}"


def test_many_clients_at_once_cost_one_download(cache: Cache, installer: str) -> None:
    cache.forget()
    with ThreadPoolExecutor(CLIENTS) as pool:
        files = [body for _status, body in pool.map(cache.get, [installer] * CLIENTS)]
    assert len({hashlib.sha256(body).hexdigest() for body in files}) == 1
    assert len(files[0]) > 20_000_000
    ratio = cache.upstream_bytes() / len(files[0])
    assert 1.0 <= ratio < 1.01, f"{CLIENTS} clients cost {ratio:.3f} times the file upstream"


def test_a_part_costs_a_part(cache: Cache, installer: str) -> None:
    cache.forget()
    status, body = cache.get(installer, Range="bytes=0-99")
    assert (status, len(body)) == (206, 100)
    assert 0 < cache.upstream_bytes() < 9 * 2**20


def test_an_index_is_asked_for_once_and_its_links_stay_here(cache: Cache) -> None:
    pages = {cache.get(f"/{TUNA}/pypi/web/simple/six/")[1] for _ in range(3)}
    (page,) = pages
    assert b"six-1.16.0-py2.py3-none-any.whl" in page and b"https://files.pythonhosted.org" not in page
    assert [line["cache"] for line in cache.log()] == ["MISS", "HIT", "HIT"]


def test_an_installer_of_packages_gets_all_through_it(cache: Cache, tmp_path: Path) -> None:
    uv = ROOT / ".torchfleet/uv/bin/uv"
    command = [str(uv), "pip", "install", "--no-cache", "--target", str(tmp_path / "target"), "six==1.16.0"]
    command += ["--default-index", f"{cache.url}/{TUNA}/pypi/web/simple"]
    environment = {"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(CA), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/six.py").is_file()
    assert any(line["uri"].endswith("six-1.16.0-py2.py3-none-any.whl") for line in cache.log())


def test_it_fetches_from_the_listed_servers_alone(cache: Cache) -> None:
    status, body = cache.get("/example.com/")
    assert status == 404 and TUNA.encode() in body
    assert cache.upstream_bytes() == 0


def test_a_redirect_away_is_refused_by_name(cache: Cache) -> None:
    status, body = cache.get(f"/{TUNA}/faults/redirect/x")
    assert status == 502
    assert b"mirror.invalid" in body and b"lan_cache_upstreams" in body


def test_an_error_upstream_is_not_kept(cache: Cache) -> None:
    assert [cache.get(f"/{TUNA}/faults/503/x.whl")[0] for _ in range(2)] == [503, 503]
    assert [line["cache"] for line in cache.log()] == ["MISS", "MISS"]


def test_a_page_in_place_of_a_file_is_not_kept(cache: Cache) -> None:
    answers = [cache.get(f"/{TUNA}/faults/html/x.whl") for _ in range(2)]
    assert all(status == 200 and b"Sign in" in body for status, body in answers)
    assert [line["cache"] for line in cache.log()] == ["MISS", "MISS"]


def test_the_distribution_s_own_service_stays_off(host: Any) -> None:
    assert not host.service("nginx").is_running
    assert not host.service("nginx").is_enabled
    assert not host.socket("tcp://0.0.0.0:80").is_listening


def test_the_ca_is_limited_to_the_cache(host: Any, cache: Cache) -> None:
    constraint = host.check_output("openssl x509 -noout -ext nameConstraints -in %s", f"{ETC}/tls/ca.pem")
    assert cache.url.split("/")[2].split(":")[0] in constraint
    assert host.file(f"{ETC}/tls/ca.key").mode == 0o600
