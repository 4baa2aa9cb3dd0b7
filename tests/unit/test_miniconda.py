"""The module miniconda, with a small installer that keeps constructor's promises (-b -p -u)."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.torchfleet.gpu.plugins.module_utils import base_prefix
from ansible_collections.torchfleet.gpu.plugins.module_utils import download as dl
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
record="$prefix/conda-meta/conda-@VERSION@-py312_0.json"
echo '{"files": ["bin/conda", "lib/conda.py", "lib/conda.pyc"]}' > "$record"
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
            "profile_path": str(tmp_path / "profile.d/conda.sh"),
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
    assert failed["failed"] and "The next run tries again" in failed["msg"]
    assert not (tmp_path / "miniconda3").exists()  # the disk may be full
    assert run(**publish(tmp_path, "26.5.3"))["action"] == "install"


def test_a_killed_run_is_repaired(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)
    for name in ("conda-meta/history", "conda-meta/python-3.12.1-h1_0.json"):
        (tmp_path / "miniconda3" / name).unlink()
    [journal] = (tmp_path / "state").glob("*.json")
    journal.write_text(journal.read_text().replace("installed", "installing"))
    assert run(check=True, **wish)["action"] == "repair"
    repaired = run(**wish)
    assert (repaired["changed"], repaired["action"]) == (True, "repair")
    assert run(**wish)["changed"] is False


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("conda-meta/history", "conda-meta/history is missing"),
        ("bin/conda", "bin/conda is missing"),
        ("lib/conda.py", "1 files of conda are missing, lib/conda.py the first"),
        ("conda-meta/conda-26.5.3-py312_0.json", "0 records of conda"),
    ],
)
def test_damage_is_found_without_starting_conda(run: Run, tmp_path: Path, name: str, why: str) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)
    (tmp_path / "miniconda3" / name).unlink()
    foretold = run(check=True, **wish)
    assert foretold["action"] == "repair" and why in foretold["reason"]
    assert run(**wish)["action"] == "repair"
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


def test_what_was_whole_once_is_never_removed(run: Run, tmp_path: Path) -> None:
    run(**publish(tmp_path, "26.3.2"))
    mine = tmp_path / "miniconda3" / "share" / "mine.py"
    mine.parent.mkdir()
    mine.touch()
    (tmp_path / "miniconda3/bin/conda").write_text("#!/no/such/interpreter\n")
    assert run(**publish(tmp_path, "26.5.3"))["action"] == "repair"
    assert mine.exists()


def old_base(tmp_path: Path) -> dict[str, str]:
    """The files of the prefix, environments and package cache apart."""
    prefix = tmp_path / "miniconda3"
    files = [path for path in prefix.rglob("*") if path.is_file()]
    names = {path: str(path.relative_to(prefix)) for path in files}
    return {name: path.read_text() for path, name in names.items() if not name.startswith(("envs", "pkgs"))}


@pytest.mark.parametrize("middle", ["rm -rf $prefix/bin $prefix/conda-meta; exit 7", "exit 7", "kill -9 $$"])
def test_an_update_that_fails_is_put_back(run: Run, tmp_path: Path, middle: str) -> None:
    run(**publish(tmp_path, "26.3.2"))
    (tmp_path / "miniconda3/envs/precious").mkdir(parents=True)
    before = old_base(tmp_path)
    failed = run(**publish(tmp_path, "26.5.3", middle=middle))
    assert failed["failed"] and "What was there before was put back" in failed["msg"]
    assert old_base(tmp_path) == before
    assert (tmp_path / "miniconda3/envs/precious").is_dir()
    assert run(**publish(tmp_path, "26.3.2"))["action"] == "keep"
    assert run(**publish(tmp_path, "26.5.3"))["version"] == "26.5.3"


class Killed(BaseException):
    """As abrupt as a kill: nothing of the module goes on."""


KILL_POINTS = ("keep_a_copy", "run_installer", "put_back", "disarm_condarcs", "tidy", "record")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("point", KILL_POINTS)
def test_an_update_killed_anywhere_is_mended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, after: bool
) -> None:
    run(**publish(tmp_path, "26.3.2"))
    (tmp_path / "miniconda3/envs/precious").mkdir(parents=True)
    bad = "rm -rf $prefix/bin; exit 7" if point == "put_back" else ""
    new = publish(tmp_path, "26.5.3", middle=bad)
    real = getattr(miniconda.Miniconda, point)

    def killed(self: Any, *args: Any, **more: Any) -> None:
        if after:
            real(self, *args, **more)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(miniconda.Miniconda, point, killed)
        run(**new)
    done = run(**publish(tmp_path, "26.5.3"))
    assert done["version"] == "26.5.3"
    assert not [name for name in old_base(tmp_path) if "torchfleet" in name]
    assert (tmp_path / "miniconda3/envs/precious").is_dir()
    assert run(**publish(tmp_path, "26.5.3"))["changed"] is False


def test_an_update_without_space_for_a_copy_changes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(**publish(tmp_path, "26.3.2"))
    before = old_base(tmp_path)

    class Full:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    failed = run(**publish(tmp_path, "26.5.3"))
    assert failed["failed"] and "Make space; nothing was changed" in failed["msg"]
    assert old_base(tmp_path) == before


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
    newer = publish(tmp_path, "26.7.1")
    adopted = run(**newer, adopt_minimum="23.3.0")
    assert (adopted["changed"], adopted["action"], adopted["version"]) == (False, "adopt", "26.5.3")
    for minimum, expected in (("26.6", "expected conda 26.6 or newer"), ("", "miniconda_adopt is false")):
        failed = run(**newer, adopt_minimum=minimum)
        assert failed["failed"] and "holds conda 26.5.3" in failed["msg"] and expected in failed["msg"]
    refused = run(release=wish["release"], state="absent")
    assert refused["failed"] and "was not made by torchfleet" in refused["msg"]
    (tmp_path / "miniconda3/conda-meta/history").unlink()
    failed = run(**wish, adopt_minimum="23.3.0")
    assert failed["failed"] and "was not made by torchfleet" in failed["msg"]
    assert (tmp_path / "miniconda3/bin/conda").exists()


def test_one_distribution_does_not_become_another(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)
    failed = run(**{**wish, "release": "26.3.2-3"}, distribution="Miniforge")
    assert (
        failed["failed"]
        and "holds Miniconda py312_26.5.3-1; Miniforge 26.3.2-3 was asked for" in failed["msg"]
    )


def test_releases_that_do_not_tell_the_version_of_conda(run: Run, tmp_path: Path) -> None:
    """Anaconda's, or an installer of one's own."""
    publish(tmp_path, "24.1.0")
    text = (tmp_path / "www/Miniconda3-py312_24.1.0-1-Linux-x86_64.sh").read_text()
    for release in ("2024.06-1", "2025.06-1"):
        (tmp_path / f"www/Miniconda3-{release}-Linux-x86_64.sh").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert run(release="2024.06-1", sha256=sha256)["action"] == "install"
    assert run(release="2024.06-1", sha256=sha256)["action"] == "keep"
    assert run(release="2025.06-1", sha256=sha256)["action"] == "update"
    assert run(release="2024.06-1", sha256=sha256)["action"] == "keep"


def test_latest_is_fetched_over_https_alone_and_kept(run: Run, tmp_path: Path) -> None:
    publish(tmp_path, "26.5.3")
    failed = run(release="latest")
    assert failed["failed"] and "over https alone" in failed["msg"]
    run(**publish(tmp_path, "26.5.3"))
    assert run(release="latest")["action"] == "keep"


def test_an_unpinned_installer_is_warned_of(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "26.5.3")
    (tmp_path / "www/Miniconda3-py312_26.5.3-1-Linux-x86_64.sh").rename(
        tmp_path / "www/Miniconda3-latest-Linux-x86_64.sh"
    )
    real = dl.download

    def download(web: Any, urls: list[str], dest: str, sha256: str) -> Any:
        """The server of the tests has no certificate."""
        content = (tmp_path / "www/Miniconda3-latest-Linux-x86_64.sh").read_bytes()
        assert sha256 == ""
        return real(web, urls, dest, hashlib.sha256(content).hexdigest())

    monkeypatch.setattr(miniconda, "download", download)
    done = run(release="latest")
    assert done["action"] == "install" and done["version"] == "26.5.3"
    assert "not pinned" in str(done["warnings"]) and done["sha256"] in str(done["warnings"])


def test_removal(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish, profile=True)
    gone = {"release": wish["release"], "state": "absent"}
    (tmp_path / "miniconda3/envs/precious").mkdir(parents=True)
    refused = run(**gone)
    assert refused["failed"] and "envs/precious" in refused["msg"]
    assert run(check=True, **gone, remove_environments=True)["action"] == "remove"
    assert (tmp_path / "miniconda3/bin/conda").exists()
    removed = run(**gone, remove_environments=True)
    assert (removed["changed"], removed["action"]) == (True, "remove")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["profile.d", "state", "www"]
    assert not list((tmp_path / "profile.d").iterdir())
    again = run(**gone)
    assert (again["changed"], again["action"]) == (False, "none")


@pytest.mark.parametrize("wanted", ["present", "absent"])
@pytest.mark.parametrize("renamed", [False, True])
def test_a_removal_that_was_killed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, renamed: bool
) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)

    def killed(*args: Any, **more: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        if renamed:
            patched.setattr(shutil, "rmtree", killed)
        else:
            patched.setattr(Path, "replace", killed)
            patched.setattr(miniconda.Miniconda, "record", write_state)
        run(release=wish["release"], state="absent")
    if wanted == "absent":
        assert run(release=wish["release"], state="absent")["action"] == "remove"
        assert not list(tmp_path.glob("*miniconda3*"))
    else:
        assert run(**wish)["action"] == ("install" if renamed else "keep")
        assert not list(tmp_path.glob(".miniconda3*"))


def write_state(self: Any, state: str, release: str | None = None) -> None:
    """What the module's own does, without a rename."""
    row = {"prefix": str(self.prefix), "release": release or self.release, "state": state}
    self.journal.write_text(json.dumps({**row, "distribution": self.name}))


def test_configuration_and_profile(run: Run, tmp_path: Path) -> None:
    wish = publish(
        tmp_path, "26.5.3", middle="echo 'channels: [https://repo.anaconda.com/x]' > $prefix/.condarc"
    )
    mine = "# Managed by torchfleet\nchannels: [defaults]\n"
    condarc = tmp_path / "miniconda3/.condarc"
    done = run(**wish, condarc=mine, profile=True)
    assert [Path(path).name for path in done["paths"]] == [".condarc", "conda.sh"]
    assert condarc.read_text() == mine and done["leftovers"] == []
    assert not list(condarc.parent.glob(".condarc.*"))  # what the installer shipped is nobody's work
    profile = tmp_path / "profile.d/conda.sh"
    assert f". '{tmp_path}/miniconda3/etc/profile.d/conda.sh'" in profile.read_text()
    assert run(**wish, condarc=mine, profile=True)["changed"] is False

    condarc.write_text("channels: [mine]\n")
    foretold = run(check=True, **wish, condarc=mine, profile=True)
    assert foretold["changed"] and foretold["diff"][0]["before"] == "channels: [mine]\n"
    run(**wish, condarc=mine, profile=True)
    assert [path.read_text() for path in condarc.parent.glob(".condarc.*")] == ["channels: [mine]\n"]

    assert run(**wish, condarc=mine)["paths"] == [str(profile)]  # profile: false
    profile.write_text("# the administrator's own\n")
    assert run(**wish, condarc=mine)["changed"] is False


def test_what_leads_past_the_mirrors_is_put_out_or_told(run: Run, tmp_path: Path) -> None:
    extra = (
        "mkdir -p $prefix/condarc.d; echo 'channels: [https://repo.anaconda.com/x]' > $prefix/condarc.d/a.yml"
    )
    wish = publish(tmp_path, "26.5.3", middle=extra)
    assert run(**wish)["leftovers"] == []
    assert [path.name for path in (tmp_path / "miniconda3/condarc.d").iterdir()] == ["a.yml.torchfleet-off"]
    theirs = tmp_path / "miniconda3/condarc.d/b.yml"
    theirs.write_text("# repo.anaconda.com\nchannels: []\n")
    assert run(**wish)["leftovers"] == []
    theirs.write_text("channels: [https://repo.anaconda.com/x]\n")
    told = run(**wish)
    assert (told["changed"], told["leftovers"]) == (False, [str(theirs)])
    assert "past the mirrors" in str(told["warnings"])


def test_others_are_reported_and_left_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = publish(tmp_path, "26.5.3")
    (tmp_path / "home").mkdir()
    run(**wish, prefix=str(tmp_path / "home/anaconda3"))
    (tmp_path / "home/anaconda3/envs/x").mkdir(parents=True)
    monkeypatch.setattr(base_prefix, "local_homes", lambda: [str(tmp_path / "home")])
    monkeypatch.setattr(base_prefix, "TOPS", ())
    done = run(**wish)
    [other] = done["others"]
    assert other["prefix"] == str(tmp_path / "home/anaconda3")
    assert (other["version"], other["environments"]) == ("26.5.3", 1)
    assert f"{other['prefix']} (conda 26.5.3, of " in str(done["warnings"])
    again = run(**wish)
    assert again["others"] == done["others"] and str(again["warnings"]) == str(done["warnings"])  # said once


def test_a_password_in_a_url_is_told_nowhere(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    urls = ["http://lab:hu%21sh@127.0.0.1:1/x.sh", "http://lab:hu%21sh@127.0.0.1:1/y.sh"]
    failed = run(**wish, urls=urls)
    assert failed["failed"] and "127.0.0.1:1/x.sh" in failed["msg"]
    assert "hu%21sh" not in str(failed) and "hu!sh" not in str(failed)


def test_stale_downloads_are_swept(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "26.5.3")
    run(**wish)
    for name, age in (
        ("old.sh.part", 3 * miniconda.STALE),
        ("old.sh", 3 * miniconda.STALE),
        ("new.sh.part", 5),
    ):
        (tmp_path / "state" / name).touch()
        os.utime(tmp_path / "state" / name, (time.time() - age,) * 2)
    assert run(check=True, **wish)["changed"] is False
    assert run(**wish)["changed"] is False
    assert [path.name for path in (tmp_path / "state").glob("*.sh*")] == ["new.sh.part"]


def test_an_installer_that_is_not_what_its_name_says(run: Run, tmp_path: Path) -> None:
    wish = publish(tmp_path, "24.1.0")
    source = tmp_path / "www" / f"Miniconda3-{wish['release']}-Linux-x86_64.sh"
    source.rename(tmp_path / "www/Miniconda3-py312_26.5.3-1-Linux-x86_64.sh")
    failed = run(release="py312_26.5.3-1", sha256=wish["sha256"])
    assert failed["failed"] and "says 24.1.0, expected 26.5.3" in failed["msg"]


def test_bad_wishes_are_all_named_before_any_change(run: Run, tmp_path: Path) -> None:
    wish = {"prefix": "/opt/mini conda", "init_users": ["nobody-here"], "group": "Domain Users"}
    failed = run(release="py312/26", sha256="beef", **wish)
    for word in ("'py312/26'", "'beef'", "'/opt/mini conda'", "'nobody-here'", "'Domain Users'"):
        assert word in failed["msg"]
    assert "only 'latest' goes without" in run(release="py312_26.5.3-1")["msg"]
    assert not (tmp_path / "state").exists()
    assert "at most 90" in run(release="latest", prefix="/" + "x" * 90)["msg"]


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
    wish = {
        **publish(tmp_path, "26.5.3"),
        "init_users": [me.pw_name],
        "init_shells": ["bash", "zsh", "fish"],
    }
    rcs = [str(tmp_path / "home" / name) for name in (".bashrc", ".zshrc", ".config/fish/config.fish")]

    foretold = run(check=True, **wish)
    assert foretold["paths"] == rcs and "conda initialize" in foretold["diff"][1]["after"]
    assert not list((tmp_path / "home").iterdir())
    assert run(**wish)["paths"] == rcs
    again = run(**wish)
    assert (again["changed"], again["paths"]) == (False, [])

    Path(rcs[0]).chmod(0o444)
    Path(rcs[0]).write_text("") if os.geteuid() else Path(rcs[0]).unlink()
    Path(rcs[0]).touch(0o444)
    left = run(**wish)
    assert (
        left["changed"] is False
        and "read-only" in left["refused"][0]
        and "read-only" in str(left["warnings"])
    )

    run(release=wish["release"], state="absent", init_users=wish["init_users"], init_shells=["zsh", "fish"])
    assert [Path(rc).read_text() for rc in rcs[1:]] == ["", ""]
