"""The driver role in check mode, on every host at once: it says what it would do, and writes nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
import testinfra
from drive_role import host_name, picture, recap, role

# What is said of each, and whether that ends its run.
SAID: dict[str, tuple[list[str], int]] = {
    "ok01": (["keep 580.178.04 open"], 0),
    "container01": (["none: this is a container"], 0),
    "vm01": (["none: no NVIDIA GPU"], 0),
    "wsl01": (["none: WSL2"], 0),
    "absent01": (["Would install driver 470.256.02 from distribution", "nvidia-tesla-470-kernel-dkms"], 0),
    "absent02": (["Would install driver 580.178.04 from nvidia", "nvidia-kernel-open-dkms"], 0),
    "absent03": (["Would install driver 580.178.04 from nvidia", "nvidia-fabricmanager"], 0),
    "foreign01": (["keep 580.178.04 open"], 0),
    # No archive of this host has the headers that it needs.
    "kernel01": (["keep 580.178.04 proprietary", "Unable to locate package linux-headers-6.1.0-99-amd64"], 1),
    "flavour01": (["GTX 1080 Ti"], 1),
    "mixed01": (["move the GPUs of"], 1),
    "mixed02": (["V100"], 1),
    "secure01": (["keep 580.178.04 open"], 0),
    "nouveau01": (["keep 580.178.04 proprietary"], 0),
    "busy01": (["keep 580.178.04 proprietary"], 0),
    "library01": (["keep 580.178.04 proprietary", "libcuda is 570.211.01", "lift its hold"], 1),
}


@pytest.fixture(scope="session")
def checked() -> tuple[dict[str, str], str]:
    """Return a picture of each host as it was, and what the role said of all of them."""
    before = {name: picture(testinfra.get_host(f"docker://verdicts-{name}")) for name in SAID}
    return before, role("all", {}, "--check", "--diff")


def test_it_says_what_it_would_do_and_writes_nothing(host: Any, checked: tuple[dict[str, str], str]) -> None:
    before, said = checked
    name = host_name(host)
    words, failed = SAID[name]
    ends = r"(?= (?:ok|changed|skipping|fatal): \[| TASK \[| PLAY )"
    of_host = " ".join(re.findall(rf"\[{name}\].*?{ends}", said))
    assert [word for word in words if word not in of_host] == [], of_host
    assert recap(said, name)["failed"] == failed, of_host
    assert picture(testinfra.get_host(f"docker://verdicts-{name}")) == before[name]
