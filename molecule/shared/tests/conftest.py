"""What the tests of the fleet share."""

from __future__ import annotations

import json
from typing import Any

import pytest

PREFIX = "/opt/miniconda3"
ENVIRONMENT = f"{PREFIX}/envs/torch"
PROBE = """
import json, torch
print(json.dumps({
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "available": torch.cuda.is_available(),
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    "capabilities": [list(torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())],
}))
"""


@pytest.fixture(scope="module")
def name(host: Any) -> str:
    """Return the host's name in the inventory."""
    return str(host.backend.get_pytest_id().removeprefix("ansible://"))


@pytest.fixture(scope="module")
def torch(host: Any) -> dict[str, Any]:
    """Return what torch itself says on the host: independent of the project's own probe."""
    done = host.run("%s -c %s", f"{ENVIRONMENT}/bin/python", PROBE)
    assert done.rc == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
