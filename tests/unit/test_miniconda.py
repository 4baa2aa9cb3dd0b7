"""The module miniconda, with a small installer that keeps constructor's promises (-b -p -u)."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.modules import miniconda

INSTALLER = """#!/bin/bash
update=
while getopts bp:u option; do case $option in p) prefix=$OPTARG ;; u) update=1 ;; esac; done
[ -z "$CI$CONDARC" ] || { echo "the environment leaks" >&2; exit 9; }
if [ -z "$update" ] && [ -e "$prefix" ]; then
  echo "ERROR: File or directory already exists: '$prefix'" >&2; exit 1
fi
mkdir -p "$prefix/bin" "$prefix/conda-meta" "$prefix/lib"
rm -f "$prefix/conda-meta/"conda-*.json
cat > "$prefix/bin/conda" <<'END'
#!/bin/bash
echo "conda @VERSION@"
END
chmod 777 "$prefix/bin/conda"
echo @VERSION@ > "$prefix/lib/conda.py"
echo '{"files": ["bin/conda", "lib/conda.py", "lib/conda.pyc"]}' > "$prefix/conda-meta/conda-@VERSION@-py312_0.json"
@MIDDLE@
echo > "$prefix/conda-meta/python-3.12.1-h1_0.json"
echo > "$prefix/conda-meta/history"
"""

Run = Callable[..., dict[str, Any]]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "www"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def publish(tmp_path: Path, version: str, middle: str = "") -> dict[str, str]:
    """Put an installer on the mirror; return the release and its sha256."""
    release = f"py312_{version}-1"
    text = INSTALLER.replace("@VERSION@", version).replace("@MIDDLE@", middle)
    (tmp_path / "www" / f"Miniconda3-{release}-Linux-x86_64.sh").write_text(text)
    return {"release": release, "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.fixture
def run(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    def call(check: bool = False, **wish: Any) -> dict[str, Any]:
        args = {
            "prefix": str(tmp_path / "miniconda3"),
            "state_dir": str(tmp_path / "state"),
            "urls": [f"{mirror}/Miniconda3-{wish['release']}-Linux-x86_64.sh"],
            **wish,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path),
        }
        umask = os.umask(0o022)
        environment = dict(os.environ)
        try:
            with patch_module_args(args), pytest.raises(SystemExit):
                miniconda.main()
        finally:
            os.umask(umask)
            os.environ.clear()
            os.environ.update(environment)
        return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]

    # Tests of filters in the same process turn this on: warnings would go to the controller's screen.
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("CONDARC", "/elsewhere")
    return call


def test_install_then_nothing_to_do(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    first = run(**wish)
    assert (first["changed"], first["action"], first["version"]) == (True, "install", "26.5.3")
    assert not (tmp_path / "miniconda3/bin/conda").stat().st_mode & 0o002
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert not list((tmp_path / "state").glob("*.sh*"))

    (tmp_path / "www" / f"Miniconda3-{wish['release']}-Linux-x86_64.sh").unlink()  # not even asked for
    second = run(**wish)
    assert (second["changed"], second["action"]) == (False, "keep")


def test_check_mode_foretells_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    before = sorted(tmp_path.rglob("*"))
    foretold = run(check=True, **wish)
    assert (foretold["changed"], foretold["action"]) == (True, "install")
    assert foretold["diff"][0]["after"] == "conda 26.5.3\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_check_mode_fails_where_the_run_would(run: Run, tmp_path: Path) -> None:
    foretold = run(check=True, release="py312_26.5.3-1", sha256="0" * 64)
    assert foretold["failed"] and "HTTP 404" in foretold["msg"]


def test_wrong_sha256_names_the_mirror_and_installs_nothing(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    failed = run(**{**wish, "sha256": "0" * 64})
    assert failed["failed"]
    assert "Linux-x86_64.sh: wrong content" in failed["msg"] and wish["sha256"] in failed["msg"]
    assert not (tmp_path / "miniconda3").exists()


def test_the_next_mirror_is_taken_with_a_warning(run: Run, tmp_path: Path, mirror: str) -> None:
    wish = publish(tmp_path, "26.5.3")
    name = f"Miniconda3-{wish['release']}-Linux-x86_64.sh"
    done = run(**wish, urls=[f"http://127.0.0.1:1/{name}", f"{mirror}/{name}"])
    assert done["changed"] and done["url"].startswith(mirror)
    assert "connection refused" in done["failures"][0]
    assert "connection refused" in str(done["warnings"])


def test_a_killed_installer_is_repaired(run: Run, tmp_path: Path) -> None:
    failed = run(**publish(tmp_path, "26.5.3", middle="kill -9 $$"))
    assert failed["failed"] and "The next run repairs" in failed["msg"]
    assert (tmp_path / "miniconda3/bin/conda").exists()

    wish = publish(tmp_path, "26.5.3")
    assert run(check=True, **wish)["action"] == "repair"
    repaired = run(**wish)
    assert (repaired["changed"], repaired["action"]) == (True, "repair")
    assert run(**wish)["changed"] is False


def test_a_run_killed_at_the_very_end_is_not_taken_for_done(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)
    [journal] = (tmp_path / "state").glob("*.json")
    journal.write_text(journal.read_text().replace("installed", "installing"))
    assert run(**wish)["action"] == "repair"


def test_environments_survive_a_repair(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)
    (tmp_path / "miniconda3/envs/precious").mkdir(parents=True)
    (tmp_path / "miniconda3/bin/conda").write_text("#!/no/such/interpreter\n")
    assert run(**wish)["action"] == "repair"
    assert (tmp_path / "miniconda3/envs/precious").is_dir()


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_whole_once_is_never_removed(run: Run, tmp_path: Path, killed: bool) -> None:
    run(**publish(tmp_path, "26.3.2"))
    mine = tmp_path / "miniconda3" / "lib" / "mine.py"
    mine.parent.mkdir()
    mine.touch()
    if killed:  # in the middle of an update
        assert run(**publish(tmp_path, "26.5.3", middle="kill -9 $$"))["failed"]
    else:
        (tmp_path / "miniconda3/bin/conda").write_text("#!/no/such/interpreter\n")
    assert run(**publish(tmp_path, "26.5.3"))["action"] == "repair"
    assert mine.exists()


def test_a_prefix_that_is_a_link_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "miniconda3").symlink_to("elsewhere")
    for _ in range(2):
        failed = run(**publish(tmp_path, "26.5.3"))
        assert failed["failed"] and "neither a link nor a mount point" in failed["msg"]
    assert not list((tmp_path / "state").glob("*.json"))


def test_update_in_place_and_keep_what_is_newer(run: Run, tmp_path: Path) -> None:
    old, new = publish(tmp_path, "26.3.2"), publish(tmp_path, "26.5.3")
    run(**old)
    (tmp_path / "miniconda3/envs/precious").mkdir(parents=True)
    assert run(**new)["action"] == "update"
    assert (tmp_path / "miniconda3/envs/precious").is_dir()
    kept = run(**old)
    assert (kept["changed"], kept["version"]) == (False, "26.5.3")
    assert "newer than py312_26.3.2-1" in kept["reason"]


def test_no_update_across_python_versions(run: Run, tmp_path: Path) -> None:
    run(**publish(tmp_path, "26.3.2"))
    failed = run(release="py313_26.5.3-1", sha256="0" * 64)
    assert failed["failed"] and "on Python 3.12" in failed["msg"] and "Python 3.13" in failed["msg"]


def test_what_others_made_is_adopted_or_left_alone(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    assert run(**wish)["action"] == "keep"
    (tmp_path / "miniconda3/conda-meta/history").unlink()
    failed = run(**wish)
    assert failed["failed"] and "not made by torchfleet" in failed["msg"]
    assert (tmp_path / "miniconda3/bin/conda").exists()


def test_an_installer_that_is_not_what_its_name_says(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "24.1.0")
    source = tmp_path / "www" / f"Miniconda3-{wish['release']}-Linux-x86_64.sh"
    source.rename(tmp_path / "www/Miniconda3-py312_26.5.3-1-Linux-x86_64.sh")
    failed = run(release="py312_26.5.3-1", sha256=wish["sha256"])
    assert failed["failed"] and "says 24.1.0, expected 26.5.3" in failed["msg"]


def test_bad_wishes_are_all_named_before_any_change(run: Run, tmp_path: Path) -> None:
    failed = run(release="latest", sha256="beef", prefix="/opt/mini conda", init_users=["nobody-here"])
    for word in ("'latest'", "'beef'", "'/opt/mini conda'", "'nobody-here'"):
        assert word in failed["msg"]
    assert not (tmp_path / "state").exists()
    assert "at most 90" in run(release="latest", sha256="0" * 64, prefix="/" + "x" * 90)["msg"]


def test_a_second_run_waits_for_no_one_and_spoils_nothing(run: Run, tmp_path: Path) -> None:
    # The installer outlives the module that started it, and still holds the lock.
    wish = publish(tmp_path, "26.5.3", middle="sleep 1 > /dev/null 2>&1 &")
    assert run(**wish)["changed"]
    assert "another run" in run(**wish)["msg"]
    time.sleep(1.2)
    assert run(**wish)["changed"] is False


def test_shells_are_initialised_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.geteuid())
    fields = list(me)
    fields[5] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd(fields))
    wish = {**publish(tmp_path, "26.5.3"), "init_users": [me.pw_name], "init_shells": ["bash", "zsh"]}
    rcs = [str(tmp_path / "home" / name) for name in (".bashrc", ".zshrc")]

    assert run(check=True, **wish)["initialised"] == rcs
    assert not list((tmp_path / "home").iterdir())
    assert run(**wish)["initialised"] == rcs
    again = run(**wish)
    assert (again["changed"], again["initialised"]) == (False, [])

    # A block for another conda is not ours.
    rc = Path(rcs[0])
    rc.write_text(rc.read_text().replace("miniconda3", "anaconda3"))
    changed = run(**wish)
    assert changed["initialised"] == rcs[:1] and changed["diff"][0]["before"] != changed["diff"][0]["after"]
