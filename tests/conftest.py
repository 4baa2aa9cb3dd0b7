"""Make ``ansible_collections.torchfleet.gpu`` importable from a plain clone, as Ansible itself does."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

ROOT = Path(__file__).resolve().parent.parent

_AnsibleCollectionFinder(paths=[str(ROOT / "collections")])._install()

PAGES = {
    "/simple/pip/": "pip-26.0",
    "/simple/uv/": "uv-0.13.9",
    "/anaconda/pkgs/main/noarch/repodata.json": '{"info": {"subdir": "noarch"}}',
    "/anaconda/miniconda/Miniconda3-py312_26.5.3-1-Linux-x86_64.sh": "#!/bin/sh",
    "/debian/dists/bookworm/InRelease": "Origin: Debian",
    "/wheels/": "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
}


@pytest.fixture
def mirror() -> Iterator[str]:
    """A server that has a mirror of each kind under it, and no index of torch."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = PAGES.get(self.path)
            self.send_response(200 if page else 404)
            self.end_headers()
            self.wfile.write((page or "").encode())

        do_HEAD = do_GET

        def log_message(self, *_args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
