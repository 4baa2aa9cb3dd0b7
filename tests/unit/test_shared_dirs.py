"""Directories that a group shares: right for whatever umask, and never writable for all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import shared_dirs


@pytest.fixture
def rows(tmp_path: Path) -> list[shared_dirs.Wanted]:
    return shared_dirs.wanted(str(tmp_path / "shared"))


def test_they_are_made_once_and_mended(rows: list[shared_dirs.Wanted]) -> None:
    gid = os.getegid()
    assert all(shared_dirs.wrong(row, gid) == ["missing"] for row in rows)
    acls = [shared_dirs.put(row, gid) for row in rows] == [None] * len(rows)
    assert [shared_dirs.wrong(row, gid) for row in rows] == [[]] * len(rows)
    Path(rows[1].path).chmod(0o777)
    assert shared_dirs.wrong(rows[1], gid) == ["mode 0777"]
    assert "group" in str(shared_dirs.wrong(rows[3], gid + 1))
    assert not any(Path(row.path).stat().st_mode & stat.S_IWOTH for row in rows if row is not rows[1])
    if acls:
        os.removexattr(rows[3].path, "system.posix_acl_default")
        assert shared_dirs.wrong(rows[3], gid) == ["no default ACL"]


def test_the_default_acl_beats_a_member_s_umask(rows: list[shared_dirs.Wanted]) -> None:
    for row in rows:
        if shared_dirs.put(row, os.getegid()):
            pytest.skip("no ACLs here")
    umask = os.umask(0o077)
    try:
        Path(rows[3].path, "cache").mkdir()
        Path(rows[3].path, "cache", "index.json").touch()
    finally:
        os.umask(umask)
    made = Path(rows[3].path, "cache")
    assert stat.S_IMODE(made.stat().st_mode) == 0o2775
    assert stat.S_IMODE((made / "index.json").stat().st_mode) == 0o664


def test_a_link_in_their_place_is_refused(rows: list[shared_dirs.Wanted], tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/envs").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError, match="a link"):
        shared_dirs.wrong(rows[1], 0)
