"""The module mirror_probe against mirrors that answer, lie or are dead."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.module_utils import download
from ansible_collections.torchfleet.gpu.plugins.modules import mirror_probe

Run = Callable[..., dict[str, Any]]
DEAD = "http://127.0.0.1:1/dead"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    for name, text in {"good/pip": "pip-26.whl", "portal/pip": "please log in", "good/r": "{}"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _, text: warnings.append(text))

    def call(
        urls: list[str], ca_pem: str = "", order: str = "given", others: Sequence[str] = (), **more: Any
    ) -> dict[str, Any]:
        group = {"name": "pypi", "urls": urls, "path": "pip", "expect": "pip-", **more}
        args = {
            "groups": [group, *({**group, "name": name} for name in others)],
            "timeout": 2,
            "ca_pem": ca_pem,
            "order": order,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            mirror_probe.main()
        return {**json.loads(capsys.readouterr().out.splitlines()[-1]), "warnings": warnings}

    return call


def test_the_first_that_answers_wins_and_the_rest_is_not_asked(run: Run, mirror: str) -> None:
    found = run([f"{mirror}/good/", DEAD])
    assert found["groups"]["pypi"] == {
        "url": f"{mirror}/good/",
        "urls": [f"{mirror}/good/", DEAD],
        "failures": [],
        "missing": [],
        "speeds": {},
    }
    assert found["changed"] is False and found["warnings"] == []


def test_the_dead_and_the_lying_are_named_and_go_last(run: Run, mirror: str) -> None:
    found = run([DEAD, f"{mirror}/portal", f"{mirror}/good"])
    assert found["groups"]["pypi"]["urls"] == [f"{mirror}/good", DEAD, f"{mirror}/portal"]
    warnings = str(found["warnings"])
    assert f"{DEAD}/pip: connection refused" in warnings
    assert f"{mirror}/portal/pip: answers, but 'pip-' is not in" in warnings


def test_a_group_does_not_wait_for_another(run: Run, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(*arguments: Any) -> bytes:
        together.wait()
        return download.peek(*arguments)

    monkeypatch.setattr(mirror_probe, "peek", meet)
    found = run([f"{mirror}/good"], others=["second", "third"])
    assert [result["url"] for result in found["groups"].values()] == [f"{mirror}/good"] * 3


def test_none_alive_names_all(run: Run, mirror: str) -> None:
    failed = run([DEAD, f"{mirror}/portal"])
    assert failed["failed"] and "no mirror for pypi answers" in failed["msg"]
    assert f"{DEAD}/pip: connection refused; {mirror}/portal/pip: answers, but" in failed["msg"]


def test_optional_paths_that_are_missing_are_told(run: Run, mirror: str) -> None:
    found = run([f"{mirror}/good"], optional=["r", "msys2"])
    assert [lacking["path"] for lacking in found["groups"]["pypi"]["missing"]] == ["msys2"]
    assert "msys2: HTTP 404" in str(found["warnings"])


def test_a_mirror_that_lacks_what_is_needed_is_passed_over(run: Run, mirror: str, tmp_path: Path) -> None:
    """The name is deep in a page, and written as URLs and HTML write it."""
    page = (
        "<a>torch-2.0.0</a>\n" * 1000 + '<a href="/torch-2.7.1%2Bcu126-cp311-x.whl">torch-2.7.1&#43;cu126</a>'
    )
    for name, text in {"old": page[:9000], "new": page}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pip").write_text(text)
    asked = {"expect": "torch-2.7.1+cu126-cp311-", "search_bytes": 1 << 20}
    found = run([f"{mirror}/old", f"{mirror}/new"], **asked)["groups"]["pypi"]
    assert found["url"] == f"{mirror}/new"
    assert "'torch-2.7.1+cu126-cp311-' is not in the first 1024 KiB" in found["failures"][0]
    assert run([f"{mirror}/new"], expect="2.7.1+cu126<", search_bytes=1 << 20)["groups"]["pypi"]["url"]
    assert run([f"{mirror}/new"], expect="2.7.1+cu126<")["failed"], "the start is read alone"


def test_a_credential_is_not_in_the_messages(run: Run) -> None:
    failed = run([DEAD.replace("://", "://lab:hush@")])
    assert DEAD in failed["msg"] and "hush" not in failed["msg"]


def test_a_certificate_that_is_none_is_told(run: Run) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n"
    failed = run([DEAD], ca_pem=pem)
    assert failed["failed"] and "mirrors_ca_certificates holds no valid PEM" in failed["msg"]


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({"a": 90, "b": 100}, "a"),  # as good: the given order holds
        ({"a": 40, "b": 100}, "b"),
        ({"a": 40, "b": 60, "c": 100}, "b"),
    ],
)
def test_by_speed_the_first_fast_one_is_taken(
    run: Run, mirror: str, monkeypatch: pytest.MonkeyPatch, speeds: dict[str, float], chosen: str
) -> None:
    def speed(web: Any, url: str, count: int, seconds: float) -> float:
        assert (count, seconds) == (1048576, 2)
        return speeds[url.rsplit("?", 1)[1].split("/")[0]]

    monkeypatch.setattr(mirror_probe, "speed", speed)
    urls = [f"{mirror}/good/pip?{name}" for name in speeds]
    found = run([DEAD, *urls], order="speed")["groups"]["pypi"]
    assert found["url"] == f"{mirror}/good/pip?{chosen}"
    assert sorted(found["urls"][:-1]) == urls and found["urls"][-1] == DEAD
    assert found["speeds"] == {url: speeds[url.rsplit("?", 1)[1]] for url in urls}
    assert found["failures"] == [f"{DEAD}/pip: connection refused"]


def test_by_speed_none_alive_names_each_once(run: Run, mirror: str) -> None:
    failed = run([DEAD, f"{mirror}/portal"], order="speed")
    assert failed["failed"] and failed["msg"].count("connection refused") == 1
