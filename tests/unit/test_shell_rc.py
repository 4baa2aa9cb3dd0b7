"""The block of conda in a shell's file: what is the user's own is never lost."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import shell_rc
from hypothesis import given
from hypothesis import strategies as st

PREFIX = "/opt/miniconda3"
OURS = shell_rc.block("bash", PREFIX)
# The shape of what conda init writes, for any prefix.
THEIRS = """# >>> conda initialize >>>
# !! Contents within this block are managed by 'conda init' !!
__conda_setup="$('{p}/bin/conda' 'shell.bash' 'hook' 2> /dev/null)"
if [ $? -eq 0 ]; then
    eval "$__conda_setup"
else
    if [ -f "{p}/etc/profile.d/conda.sh" ]; then
        . "{p}/etc/profile.d/conda.sh"
    else
        export PATH="{p}/bin:$PATH"
    fi
fi
unset __conda_setup
# <<< conda initialize <<<
"""
MINE = [
    "alias ll='ls -l'\n",
    "if [ -f ~/.aliases ]; then\n",
    "    . ~/.aliases\n",
    "fi\n",
    "\n",
    "export A=1\n",
]


@pytest.mark.parametrize("text", ["", "export A=1\n", "export A=1"])
def test_it_is_put_at_the_end(text: str) -> None:
    done = shell_rc.with_block(text, "bash", PREFIX)
    assert done.startswith(text) and done.endswith(OURS)
    assert done.removesuffix(OURS) in (text, text + "\n")
    assert shell_rc.with_block(done, "bash", PREFIX) == done


def test_that_of_conda_init_is_kept_for_this_conda_and_replaced_for_another() -> None:
    text = "before\n" + THEIRS.format(p=PREFIX) + "after\n"
    assert shell_rc.with_block(text, "bash", PREFIX) == text
    text = "before\n" + THEIRS.format(p="/home/a/anaconda3") + "after\n"
    assert shell_rc.with_block(text, "bash", PREFIX) == "before\n" + OURS + "after\n"


@pytest.mark.parametrize("whole", [THEIRS.format(p="/x/miniconda3"), OURS, shell_rc.block("fish", PREFIX)])
@pytest.mark.parametrize("after", ["", "".join(MINE), "fi\n", "if true; then\n  echo\nfi\n"])
def test_a_block_cut_off_after_any_line_is_mended(whole: str, after: str) -> None:
    lines = whole.splitlines(keepends=True)
    for count in range(1, len(lines)):
        if after == "fi\n" and any(shell_rc.OPENS.match(line.strip()) for line in lines[:count]):
            continue  # nobody can tell whose it is
        text = "before\n" + "".join(lines[:count]) + after
        assert shell_rc.with_block(text, "bash", PREFIX) == "before\n" + OURS + after


def test_a_file_cut_off_in_the_middle_of_the_block_is_mended() -> None:
    whole = THEIRS.format(p="/x/miniconda3")
    start = len("# >>> conda initialize >>>\n")
    for count in range(start, len(whole) - len("# <<< conda initialize <<<\n")):
        assert shell_rc.with_block("before\n" + whole[:count], "bash", PREFIX) == "before\n" + OURS


def test_doubles_and_ends_without_a_block_go() -> None:
    theirs = THEIRS.format(p=PREFIX)
    text = theirs + "mine\n" + theirs + "# <<< conda initialize <<<\n"
    assert shell_rc.with_block(text, "bash", PREFIX) == OURS + "mine\n"


def test_removal_takes_those_of_this_conda_alone() -> None:
    other = THEIRS.format(p="/home/a/anaconda3")
    assert shell_rc.without_block("a\n" + OURS + other + "b\n", PREFIX) == "a\n" + other + "b\n"


@given(st.lists(st.sampled_from([*MINE, *THEIRS.splitlines(keepends=True), "text\r\n", "no newline"])))
def test_pieces_put_together_are_the_text(lines: list[str]) -> None:
    text = "".join(lines)
    assert "".join(piece.text for piece in shell_rc.pieces(text)) == text
    once = shell_rc.with_block(text, "bash", PREFIX)
    assert shell_rc.with_block(once, "bash", PREFIX) == once
    kept = [piece.text for piece in shell_rc.pieces(text) if piece.kind == "text"]
    assert [piece.text for piece in shell_rc.pieces(once) if piece.kind == "text"] == kept or once != text


@pytest.fixture
def user(tmp_path: Path) -> pwd.struct_passwd:
    fields = list(pwd.getpwuid(os.geteuid()))
    fields[5] = str(tmp_path)
    return pwd.struct_passwd(fields)


def test_a_link_stays_a_link(user: pwd.struct_passwd, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles/bashrc").write_bytes(b"caf\xe9\n")
    (tmp_path / "dotfiles/bashrc").chmod(0o600)
    (tmp_path / ".bashrc").symlink_to("dotfiles/bashrc")
    change = shell_rc.look(user, "bash", PREFIX, present=True)
    assert change and not change.refused
    shell_rc.write(user, change)
    assert (tmp_path / ".bashrc").is_symlink()
    assert (tmp_path / "dotfiles/bashrc").read_bytes() == b"caf\xe9\n" + OURS.encode()
    assert (tmp_path / "dotfiles/bashrc").stat().st_mode & 0o777 == 0o600
    assert shell_rc.look(user, "bash", PREFIX, present=True) is None


def test_what_its_user_protects_is_left_alone(user: pwd.struct_passwd, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").touch(0o444)
    (tmp_path / ".zshrc").mkdir()
    for shell, why in (("bash", "is read-only"), ("zsh", "it is no file")):
        change = shell_rc.look(user, shell, PREFIX, present=True)
        assert change and change.refused and why in change.refused


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
def test_a_link_to_what_the_user_may_not_write_is_refused(tmp_path: Path) -> None:
    nobody = list(pwd.getpwnam("nobody"))
    nobody[5] = str(tmp_path / "home")
    user = pwd.struct_passwd(nobody)
    (tmp_path / "home").mkdir()
    # Beside others a worker has a directory of its own, one level further down.
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    os.chown(tmp_path / "home", user.pw_uid, user.pw_gid)
    (tmp_path / "secret").write_text("root's\n")
    (tmp_path / "home/.bashrc").symlink_to(tmp_path / "secret")
    change = shell_rc.look(user, "bash", PREFIX, present=True)
    assert change and change.refused
    with pytest.raises(PermissionError):
        shell_rc.write(user, change)
    assert (tmp_path / "secret").read_text() == "root's\n" and os.geteuid() == 0
    zsh = shell_rc.look(user, "zsh", PREFIX, present=True)
    assert zsh and not zsh.refused
    shell_rc.write(user, zsh)
    assert (tmp_path / "home/.zshrc").stat().st_uid == user.pw_uid
