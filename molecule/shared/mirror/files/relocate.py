"""Run by the stand-in's installer: put the prefix where the placeholder is, as conda does when it links."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

LONGEST_SHEBANG = 127


def relocate(data: bytes, mode: str, placeholder: bytes, prefix: bytes) -> bytes:
    if mode == "text":
        shebang = re.match(rb"#!" + re.escape(placeholder) + rb"/bin/(\S+)", data)
        if shebang and len(shebang[0]) - len(placeholder) + len(prefix) > LONGEST_SHEBANG:
            data = b"#!/usr/bin/env " + shebang[1] + data[shebang.end() :]
        return data.replace(placeholder, prefix)

    def pad(match: re.Match[bytes]) -> bytes:
        replaced = match[0].replace(placeholder, prefix)
        return replaced + b"\0" * (len(match[0]) - len(replaced))

    return re.sub(re.escape(placeholder) + rb"[^\0]*\0", pad, data)


def main(prefix: Path) -> None:
    plan = json.loads((prefix / ".relocate.json").read_text())
    placeholder = plan["placeholder"].encode()
    if len(os.fsencode(prefix)) > len(placeholder):
        raise SystemExit(f"ERROR: the prefix {prefix} is longer than {len(placeholder)} characters")
    for item in plan["files"]:
        path = prefix / item["path"]
        data = relocate(path.read_bytes(), item["mode"], placeholder, os.fsencode(prefix))
        # Beside, then renamed: the interpreter that runs this is one of the files.
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.chmod(path.stat().st_mode)
        part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
