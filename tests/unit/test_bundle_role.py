"""The role bundle and its playbook: what stops a run before a bundle that lacks something, and proxies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def play(site: Path, playbook: Path | str, *options: str, **variables: Any) -> tuple[int, str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-i", str(site / "hosts.yml"), str(playbook)),
            *("-e", json.dumps(variables), *options),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def inventory(site: Path, hosts: dict[str, dict[str, Any]]) -> None:
    rows = {name: {**HERE, **given} for name, given in hosts.items()}
    (site / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": rows}}))


@pytest.mark.parametrize(
    ("limit", "host", "said"),
    [
        ("gpu01", "localhost", "--limit gpu01 leaves out localhost"),
        ("all:!gpu02", "localhost", "Name it as well: --limit ''all:!gpu02:localhost''"),
        ("gpu01", "gpu02", "--limit gpu01 leaves out gpu02"),
        # It looks for the bundle.
        ("gpu01,localhost", "localhost", "expected a bundle in"),
        ("all:!gpu01", "gpu02", "expected a bundle in"),
    ],
)
def test_a_limit_that_leaves_out_the_machine_that_gathers_is_refused(
    tmp_path: Path, limit: str, host: str, said: str
) -> None:
    inventory(tmp_path, {"gpu01": {}, "gpu02": {}})
    given = {"bundle_dir": str(tmp_path / "none"), "bundle_state": "verified", "bundle_host": host}
    code, told = play(tmp_path, "playbooks/bundle.yml", "--limit", limit, **given)
    assert code == 2 and said in told, told


def test_a_host_that_was_lost_when_it_was_asked_is_not_left_out_in_silence(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"torchfleet_plan": {}, "bundle_requests": []}
    inventory(tmp_path, {"gpu01": asked, "gpu02": {"torchfleet_plan": {}}, "gpu03": {}})
    roles = [{"role": "torchfleet.gpu.bundle"}]
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "roles": roles}])
    )
    code, told = play(tmp_path, tmp_path / "play.yml", bundle_dir=str(tmp_path / "bundle"))
    assert code == 2 and "Nothing is known of gpu02: it was lost" in told, told
    assert "--limit ''all:!gpu02:localhost''" in told


class Proxy(BaseHTTPRequestHandler):
    seen: ClassVar[list[str]] = []

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(self.path)
        body = b"Origin: NVIDIA\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Proxy, "seen", [])
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_repositories_of_drivers_and_their_keys_are_asked_by_the_proxy(
    tmp_path: Path, proxy: str
) -> None:
    system = {"id": "debian", "version": "12", "codename": "bookworm", "like": [], "name": "Debian 12"}
    plan = {"action": "install", "branch": "535", "repository": "nvidia", "modules": "dkms", "packages": []}
    given: dict[str, Any] = {
        "torchfleet_truth": {"os": system, "machine": "x86_64"},
        "torchfleet_plan": {"driver": plan},
        "nvidia_driver_nvidia_urls": ["http://nvidia.invalid"],
        "mirrors_proxy": {"http": proxy},
    }
    inventory(tmp_path, {"gpu01": given})
    ask = {"name": "torchfleet.gpu.nvidia_driver", "tasks_from": "bundle"}
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump(
            [{"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.include_role": ask}]}]
        )
    )
    _code, told = play(tmp_path, tmp_path / "play.yml")
    place = "http://nvidia.invalid/debian12/x86_64"
    # Debian's own archive is asked at the same time.
    assert f"{place}/InRelease" in Proxy.seen[:-1], told
    assert re.fullmatch(rf"{place}/[0-9a-f]+\.pub", Proxy.seen[-1]), Proxy.seen
