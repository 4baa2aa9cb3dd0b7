#!/usr/bin/env python3
"""Hosts that fetch the same things through the LAN cache at once, cold: bytes from upstream, and the ratio.

    bench_lan_cache.py [HOSTS]

Needs the fleet "cache", converged (molecule converge -s cache). The hosts (10) are containers of the fleet's
image on its network. Each fetches an index and the largest files of four kinds: a wheel of torch from a flat
listing, a wheel of CUDA from PyPI, conda packages, and Debian's packages of NVIDIA's driver. What comes from
upstream is summed up from the cache's log. Ratio 1.0: all hosts cost one download; it fails above 1.02, which
is answers' headers, and slices that begin in the middle.
"""

from __future__ import annotations

import json
import lzma
import re
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CA = ROOT / ".torchfleet/cache/lan-cache-ca.pem"
CACHE, IMAGE = "cache-cache01", "torchfleet/debian12:latest"
LOG = "/var/log/torchfleet-lan-cache/access.log"
TUNA, FLAT = "/mirrors.tuna.tsinghua.edu.cn", "/wheels.torchfleet.test"
DRIVER = ("nvidia-kernel-dkms", "libcuda1", "libnvidia-ptxjitcompiler1")


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


class Cache:
    def __init__(self) -> None:
        found = json.loads(docker("inspect", CACHE))[0]["NetworkSettings"]["Networks"]
        ((self.network, place),) = found.items()
        self.url = f"https://{place['IPAddress']}:8477"
        tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(CA)))
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)

    def get(self, path: str) -> bytes:
        with self.opener.open(self.url + path, timeout=300) as answer:
            return bytes(answer.read())

    def forget(self) -> None:
        """Make it cold, and its log empty."""
        for command in (
            ["systemctl", "stop", "torchfleet-lan-cache"],
            ["find", "/var/cache/torchfleet-lan", "-mindepth", "1", "-delete"],
            ["truncate", "-s", "0", LOG],
            ["systemctl", "start", "torchfleet-lan-cache"],
        ):
            docker("exec", CACHE, *command)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in docker("exec", CACHE, "cat", LOG).splitlines()]


def wanted(cache: Cache) -> dict[str, list[str]]:
    """The paths by kind, each with the index that it was found in."""
    flat, simple = f"{FLAT}/", f"{TUNA}/pypi/web/simple/nvidia-curand-cu12/"
    main = f"{TUNA}/anaconda/pkgs/main/linux-64/"
    index = f"{TUNA}/debian/dists/bookworm/non-free/binary-amd64/Packages.xz"
    wheels = re.findall(r'href="([^"#]+manylinux[^"#]*x86_64\.whl)', cache.get(simple).decode())
    wheel = next(one for one in wheels if "-10.3.9.90-" in one)
    packages = json.loads(cache.get(f"{main}repodata.json"))
    named = {**packages["packages"], **packages["packages.conda"]}
    conda = sorted(named, key=lambda name: -int(named[name]["size"]))[:3]
    stanzas = lzma.decompress(cache.get(index)).decode().split("\n\n")
    driver = [
        f"{TUNA}/debian/" + re.findall(r"^Filename: (.+)$", stanza, re.M)[0]
        for stanza in stanzas
        if stanza.partition("\n")[0] in [f"Package: {name}" for name in DRIVER]
    ]
    torch = re.findall(r'href="(torch-[^"]+\.whl)"', cache.get(flat).decode())
    return {
        "torch, flat listing": [flat, *(flat + name for name in torch)],
        "PyPI": [simple, urllib.parse.urljoin(cache.url + simple, wheel)[len(cache.url) :]],
        "conda": [f"{main}repodata.json", *(main + name for name in conda)],
        "driver, Debian": [index, *driver],
    }


def run(cache: Cache, hosts: int, paths: list[str]) -> list[dict[str, Any]]:
    work = {"url": cache.url, "ca": "/ca.pem", "paths": paths, "start": time.time() + 5 + hosts}
    client = Path(__file__).with_name("lan_client.py")
    command = ["docker", "run", "--rm", "-i", "--network", cache.network, "--label", "torchfleet=bench"]
    command += ["-v", f"{CA}:/ca.pem:ro", "-v", f"{client}:/client.py:ro", IMAGE, "python3", "/client.py"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(hosts)
    ]
    for one in running:
        assert one.stdin
        one.stdin.write(json.dumps(work))
        one.stdin.close()
    answers = []
    for one in running:
        assert one.stdout
        answers.append(json.loads(one.stdout.read()))
        assert one.wait() == 0
    return answers


def main(hosts: int) -> None:
    cache = Cache()
    cache.forget()
    kinds = wanted(cache)
    cache.forget()
    answers = run(cache, hosts, [path for paths in kinds.values() for path in paths])
    assert all(answer["files"] == answers[0]["files"] for answer in answers), "the hosts got different bytes"
    # After a second attempt nginx lists the bytes of each.
    upstream: dict[str, int] = {}
    for line in cache.log():
        size = sum(map(int, re.findall(r"\d+", line["upstream_bytes"])))
        upstream[line["uri"]] = upstream.get(line["uri"], 0) + size
    total, fetched = 0, 0
    print(f"{'':<22}{'files':>6}{'one copy':>12}{'upstream':>12}{'ratio':>8}")
    for kind, paths in kinds.items():
        size = sum(answers[0]["files"][path][0] for path in paths)
        came = sum(upstream.pop(urllib.parse.unquote(path), 0) for path in paths)
        total, fetched = total + size, fetched + came
        print(f"{kind:<22}{len(paths):>6}{size / 1e6:>9.1f} MB{came / 1e6:>9.1f} MB{came / size:>8.3f}")
    assert not upstream, f"nobody asked for {upstream}"
    seconds = max(answer["seconds"] for answer in answers)
    print(f"{'all':<22}{'':>6}{total / 1e6:>9.1f} MB{fetched / 1e6:>9.1f} MB{fetched / total:>8.3f}")
    print(f"{hosts} hosts at once, cold: {hosts * total / 1e6:.0f} MB in {seconds:.0f} s")
    assert fetched / total < 1.02, "something was fetched more than once"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
