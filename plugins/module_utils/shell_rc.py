"""The block of conda in a user's shell file: put in, kept, mended or taken out, as that user."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
from pathlib import Path
from typing import Iterator, NamedTuple

from ansible_collections.torchfleet.gpu.plugins.module_utils import small_files

FILES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}
# The lines that conda init itself writes and looks for, so that it knows the block.
BEGIN = "# >>> conda initialize >>>"
END = "# <<< conda initialize <<<"
# What may follow BEGIN where END is missing: a block that was cut off. Anything else is the user's.
OPENS = re.compile(r"if (\[ \$\? -eq 0 \]|\[ -[fr] .*conda.*\]|test -f .*conda.*)")
INSIDE = re.compile(
    r"# (!!|Written by torchfleet)|__conda_setup=|unset __conda_setup$|(\.|eval|source) .*conda"
)
NESTED = re.compile(r"(else|elif .*|export PATH=.*|set -x PATH .*)$")
CLOSES = re.compile(r"(fi|end)$")

SH = """{begin}
# Written by torchfleet for all users' conda.
if [ -r '{prefix}/etc/profile.d/conda.sh' ]; then
    . '{prefix}/etc/profile.d/conda.sh'
fi
{end}
"""
FISH = """{begin}
# Written by torchfleet for all users' conda.
if test -f '{prefix}/etc/fish/conf.d/conda.fish'
    source '{prefix}/etc/fish/conf.d/conda.fish'
end
{end}
"""


class Piece(NamedTuple):
    kind: str  # text | block | cut: a block without its end | end: an end without its block
    text: str


class Change(NamedTuple):
    path: str
    before: str | None
    after: str
    refused: str | None  # why the file cannot be changed as its user


def block(shell: str, prefix: str) -> str:
    return (FISH if shell == "fish" else SH).format(begin=BEGIN, end=END, prefix=prefix)


def _cut(lines: list[str], start: int) -> int:
    """Return where the block ends that begins at start and has no end."""
    depth, at = 0, start + 1
    while at < len(lines):
        line = lines[at].strip()
        if OPENS.match(line):
            depth += 1
        elif depth and CLOSES.match(line):
            depth -= 1
        elif not INSIDE.match(line) and not (depth and NESTED.match(line)):
            # The write stopped in the middle of the file's last line.
            return at + 1 if at == len(lines) - 1 and not lines[at].endswith("\n") else at
        at += 1
    return at


def pieces(text: str) -> list[Piece]:
    """Split the text; put together, the pieces are the text."""
    lines = text.splitlines(keepends=True)
    found: list[Piece] = []
    at = 0
    while at < len(lines):
        line = lines[at].rstrip()
        stop, kind = at + 1, "text"
        if line == END:
            kind = "end"
        elif line == BEGIN:
            marks = [
                (n, lines[n].rstrip()) for n in range(at + 1, len(lines)) if lines[n].rstrip() in (BEGIN, END)
            ]
            whole = bool(marks) and marks[0][1] == END
            stop, kind = (marks[0][0] + 1, "block") if whole else (_cut(lines, at), "cut")
        found.append(Piece(kind, "".join(lines[at:stop])))
        at = stop
    return found


def with_block(text: str, shell: str, prefix: str) -> str:
    """Return the text with one whole block, for this conda; one that names it is kept as it is."""
    parts = pieces(text)
    special = [part for part in parts if part.kind != "text"]
    if [part.kind for part in special] == ["block"] and f"{prefix}/" in special[0].text:
        return text
    wanted = block(shell, prefix)
    if not special:
        return text + ("" if text.endswith("\n") or not text else "\n") + wanted
    first = parts.index(special[0])
    return "".join(
        wanted if number == first else part.text
        for number, part in enumerate(parts)
        if part.kind == "text" or number == first
    )


def without_block(text: str, prefix: str) -> str:
    """Return the text without the blocks for this conda."""
    return "".join(part.text for part in pieces(text) if part.kind == "text" or f"{prefix}/" not in part.text)


@contextlib.contextmanager
def as_user(user: pwd.struct_passwd) -> Iterator[None]:
    """Act with the rights of that user: the home is theirs, and may hold links to anywhere."""
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    if user.pw_uid == uid:
        yield
        return
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def look(user: pwd.struct_passwd, shell: str, prefix: str, present: bool) -> Change | None:
    """Return how the file of this shell would change, None where it is as it shall be."""
    path = Path(user.pw_dir, FILES[shell])
    with as_user(user):
        try:
            if path.exists() and not path.is_file():
                return Change(str(path), None, "", "it is no file")
            before = small_files.read(path)
            after = (with_block if present else _without)(before or "", shell, prefix)
            if after == (before or ""):
                return None
            return Change(str(path), before, after, _refusal(path, user))
        except OSError as error:
            return Change(str(path), None, "", f"{error.strerror} ({error.filename})")


def _without(text: str, shell: str, prefix: str) -> str:
    return without_block(text, prefix)


def _refusal(path: Path, user: pwd.struct_passwd) -> str | None:
    """Why the user cannot change the file, or does not want it changed."""
    target = Path(os.path.realpath(str(path)))
    if target.exists():
        status = target.stat()
        if not status.st_mode & stat.S_IWUSR:
            return f"{target} is read-only"
        if status.st_uid != user.pw_uid:
            return f"{target} is not {user.pw_name}'s own"
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    # The effective user's right, which os.access does not look at by itself.
    if not os.access(str(folder), os.W_OK | os.X_OK, effective_ids=True):
        return f"{folder} is not writable for {user.pw_name}"
    return None


def write(user: pwd.struct_passwd, change: Change) -> None:
    path = Path(change.path)
    with as_user(user):
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        small_files.write_whole(path, change.after, mode)
