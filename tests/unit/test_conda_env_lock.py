"""conda_env with a lock, an environment.yml, and the states that look at more than the named packages."""

from __future__ import annotations

import grp
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_file, conda_lock, pip_cli
from test_conda_env import Host, add_conda, add_dist, host, snapshot

__all__ = ["host"]

TUNA = "https://mirrors.tuna.tsinghua.edu.cn/anaconda"
MD5 = "0" * 32
Lines = dict[str, Any]


def package(fn: str, channel: str = "pkgs/main", subdir: str = "noarch", **more: str) -> Lines:
    return {"channel": channel, "subdir": subdir, "fn": fn, "md5": MD5, **more}


def lock(*conda: Lines, pip: list[Lines] | None = None, **more: Any) -> str:
    channels = {one["channel"]: f"{TUNA}/{one['channel']}" for one in conda}
    if "conda-forge" in channels:
        channels["conda-forge"] = f"{TUNA}/cloud/conda-forge"
    return json.dumps(
        {
            "torchfleet_lock": 1,
            "platform": conda_lock.platform(),
            "channels": channels,
            "conda": list(conda),
            "pip": pip or [],
            **more,
        }
    )


PYTHON = package("python-3.11.7-h1_0.conda", subdir=conda_lock.platform())
SIX = package("six-1.17.0-py_0.conda")
PIP = package("pip-25.2-py_0.conda")
EINOPS = {"name": "einops", "version": "0.8.1", "hashes": ["sha256:" + "a" * 64]}
WHOLE = lock(PYTHON, SIX, PIP, pip=[EINOPS])


def explicit_of(command: list[str]) -> str:
    return Path(command[command.index("--file") + 1]).read_text()


# -- from a lock


def test_a_lock_is_installed_without_a_solve(host: Host) -> None:
    lists: list[str] = []

    def create() -> None:
        lists.append(explicit_of(host.commands[0]))
        add_conda(host.env(), "python-3.11.7-h1_0", "six-1.17.0-py_0", "pip-25.2-py_0")

    def install() -> None:
        lists.append(Path(host.commands[1][-1]).read_text())
        add_dist(host.env(), "einops", "0.8.1")

    host.answers("", effect=create)
    host.answers("", effect=install)
    result = host(lock=WHOLE, python="3.11", packages=["six"], pip=["einops"], channels=["conda-forge"])
    assert result["changed"] is True
    assert result["drift"] == [f"{host.env()} does not exist"]
    assert host.commands[0][1:7] == ["create", "-p", str(host.env()), "-y", "-q", "--json"]
    assert "-c" not in host.commands[0]
    assert lists[0].splitlines() == [
        "@EXPLICIT",
        f"{TUNA}/pkgs/main/{conda_lock.platform()}/python-3.11.7-h1_0.conda#{MD5}",
        f"{TUNA}/pkgs/main/noarch/six-1.17.0-py_0.conda#{MD5}",
        f"{TUNA}/pkgs/main/noarch/pip-25.2-py_0.conda#{MD5}",
    ]
    assert host.commands[1][-4:-1] == ["--no-deps", "--require-hashes", "-r"]
    assert lists[1] == "einops==0.8.1 --hash=sha256:" + "a" * 64 + "\n"
    again = host(lock=WHOLE)
    assert (again["changed"], again["drift"]) == (False, [])


def test_a_host_that_drifted_is_reported_and_brought_back(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "six-1.16.0-py_0", "pip-25.2-py_0", "idna-3.1-0")
    add_dist(host.env(), "einops", "0.7.0")
    drift = [
        "six 1.16.0 py_0 is installed, the lock has 1.17.0 py_0",
        "einops 0.7.0 is installed, the lock has 0.8.1",
        "idna 3.1 0 is not in the lock",
    ]
    before = snapshot(host.base)
    frozen = host(lock=WHOLE, frozen=True)
    assert (frozen["changed"], frozen["drift"]) == (False, drift)
    shared = host(lock=WHOLE, frozen=True, shared=True)
    assert (shared["changed"], shared["drift"]) == (False, drift[:2]), "idna is somebody else's"
    check = host(lock=WHOLE, check=True)
    assert (check["changed"], check["drift"], host.commands) == (True, drift, [])
    assert check["actions"]["conda"] == {"link": ["six-1.17.0-py_0"], "unlink": ["six-1.16.0-py_0"]}
    assert check["actions"]["pip"]["install"] == ["einops==0.8.1"]
    assert snapshot(host.base) == before

    def conda() -> None:
        assert explicit_of(host.commands[0]).splitlines()[1:] == [
            f"{TUNA}/pkgs/main/noarch/six-1.17.0-py_0.conda#{MD5}"
        ]
        (host.env() / "conda-meta" / "six-1.16.0-py_0.json").unlink()
        add_conda(host.env(), "six-1.17.0-py_0")

    def pip() -> None:
        for name in ("METADATA", "INSTALLER", "RECORD"):
            next(host.env().glob("lib/python3.11/site-packages/einops-0.7.0*/" + name)).unlink()
        add_dist(host.env(), "einops", "0.8.1")

    host.answers("", effect=conda)
    host.answers("", effect=pip)
    result = host(lock=WHOLE)
    assert (result["changed"], result["drift"]) == (True, drift)


def test_exact_removes_what_is_not_in_the_lock(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "six-1.17.0-py_0", "pip-25.2-py_0", "idna-3.1-0")
    add_dist(host.env(), "einops", "0.8.1")
    colorama = add_dist(host.env(), "colorama", "0.4.6")

    def uninstall() -> None:
        for path in colorama.iterdir():
            path.unlink()
        colorama.rmdir()

    host.answers("", effect=uninstall)
    host.answers("{}", effect=lambda: (host.env() / "conda-meta" / "idna-3.1-0.json").unlink())
    result = host(lock=WHOLE, state="exact")
    assert host.commands[0][-2:] == ["--disable-pip-version-check", "colorama"]
    assert host.commands[1][1] == "remove"
    assert host.commands[1][-2:] == ["--force-remove", "idna"]
    assert result["reasons"] == ["idna is not asked for", "colorama is not asked for"]
    assert host(lock=WHOLE, state="exact")["changed"] is False


def test_the_host_s_own_mirrors_serve_the_lock_in_their_order(host: Host) -> None:
    refused = (Path(__file__).parent / "fixtures" / "conda_env" / "chan-refused.json").read_text()
    lists: list[str] = []

    def create() -> None:
        lists.append(explicit_of(host.commands[-1]).splitlines()[1])

    def works() -> None:
        create()
        add_conda(host.env(), "six-1.17.0-py_0")

    host.answers(refused, rc=1, effect=create)
    host.answers(refused, rc=1, effect=create)
    host.answers("", effect=works)
    mirrors = ["https://one/anaconda", "https://two/anaconda/"]
    result = host(lock=lock(package("six-1.17.0-py_0.conda", channel="conda-forge")), mirrors=mirrors)
    assert result["changed"] is True
    assert [one.partition("/noarch")[0] for one in lists] == [
        "https://one/anaconda/cloud/conda-forge",
        "https://two/anaconda/cloud/conda-forge",
        f"{TUNA}/cloud/conda-forge",
    ]
    (warning,) = host.warnings
    assert "another mirror was used" in warning


def test_conda_compares_md5_and_the_module_sha256(host: Host, tmp_path: Path) -> None:
    cached = tmp_path / "six-1.17.0-py_0.conda"

    def create() -> None:
        add_conda(host.env(), "six-1.17.0-py_0")
        cached.write_bytes(b"another content of the same md5")
        record = host.env() / "conda-meta" / "six-1.17.0-py_0.json"
        meta = json.loads(record.read_text())
        record.write_text(json.dumps({**meta, "package_tarball_full_path": str(cached)}))

    digest = hashlib.sha256(b"the content").hexdigest()
    host.answers("", effect=create)
    result = host(lock=lock(package("six-1.17.0-py_0.conda", sha256=digest)))
    assert result["code"] == "hash"
    assert "six-1.17.0-py_0.conda has the sha256" in result["msg"]
    assert not host.env().exists()
    assert not cached.exists()
    digest = hashlib.sha256(b"another content of the same md5").hexdigest()
    host.answers("", effect=create)
    assert host(lock=lock(package("six-1.17.0-py_0.conda", sha256=digest)))["changed"] is True


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"packages": ["six=1.16"]}, "six=1.16 is asked for, the lock has 1.17.0"),
        ({"packages": ["numpy"]}, "numpy is asked for, the lock has none"),
        ({"python": "3.12"}, "python=3.12 is asked for, the lock has 3.11.7"),
        ({"pip": ["einops>=0.9"]}, "einops>=0.9 is asked for, the lock has 0.8.1"),
    ],
)
def test_a_wish_that_moved_on_names_the_stale_lock(host: Host, options: Lines, part: str) -> None:
    result = host(lock=WHOLE, **options)
    assert result["code"] == "lock_outdated"
    assert part in result["msg"]
    assert "playbooks/lock.yml" in result["msg"]


def test_a_wish_that_the_lock_meets(host: Host) -> None:
    pip = ["einops<1", "six", "pywin32; sys_platform == 'win32'"]
    assert host(lock=WHOLE, check=True, pip=pip, packages=["conda-forge::six"])["changed"] is True


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "without conda packages"),
        ("{", "no lock that can be read"),
        ('{"torchfleet_lock": 2}', "format 2, expected 1"),
        (lock({**SIX, "md5": None}), "no hash for six-1.17.0-py_0.conda"),
        (lock(SIX, pip=[{**EINOPS, "hashes": []}]), "no hash for einops"),
        (lock(SIX, SIX), "twice"),
        (lock(SIX, platform="osx-arm64"), "it is for osx-arm64, this host is linux-"),
        (lock(SIX, channels={}), "no address for the channel pkgs/main"),
        ("@EXPLICIT\nsix=1.17\n", "line 2: 'six=1.17' is no address"),
        (f"@EXPLICIT\n{TUNA}/pkgs/main/noarch/six-1.17.0-py_0.conda\n", "no hash for six"),
    ],
)
def test_bad_locks(host: Host, text: str, part: str) -> None:
    result = host(lock=text)
    assert result["code"] == "bad_input"
    assert part in result["msg"]
    assert not host.env().parent.exists()


def test_an_explicit_list_of_conda_is_a_lock(host: Host) -> None:
    text = f"# platform: x\n@EXPLICIT\n{TUNA}/cloud/conda-forge/noarch/six-1.17.0-py_0.conda#{MD5}\n"
    read = conda_lock.parse(text)
    assert read.channels == {"conda-forge": f"{TUNA}/cloud/conda-forge"}
    assert read.explicit({}, ["six"]) == text[text.index("@") :]
    host.answers("", effect=lambda: add_conda(host.env(), "six-1.17.0-py_0"))
    assert host(lock=text)["changed"] is True


def test_a_lock_that_ansible_has_read_already(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-py_0")
    assert host(lock=json.loads(lock(SIX)))["changed"] is False


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (f"{TUNA}/pkgs/main", "pkgs/main"),
        (f"{TUNA}/cloud/conda-forge/", "conda-forge"),
        ("https://repo.anaconda.com/pkgs/main", "pkgs/main"),
        ("https://conda.anaconda.org/conda-forge", "conda-forge"),
        ("https://cache.lab.example/tuna/anaconda/pkgs/r", "pkgs/r"),
        ("https://lab.example/channel", "https://lab.example/channel"),
        ("https://mirrors.sustech.edu.cn/anaconda-extra/cloud/nvidia",) * 2,
    ],
)
def test_channels_have_names_that_mirrors_share(url: str, key: str) -> None:
    assert conda_lock.channel_key(url) == key


def test_a_channel_with_a_password_is_locked_without_and_installed_with_it() -> None:
    record = {
        "name": "six",
        "url": "https://u:secret@lab.example/t/tk-1/main/noarch/six-1-0.conda",
        "md5": MD5,
    }
    one, address = conda_lock.package(record)
    read = conda_lock.Lock("noarch", {one.channel: address}, [one], [], {})
    assert "secret" not in conda_lock.dumps(read) + read.explicit({}, ["six"])
    assert "tk-1" not in conda_lock.dumps(read)
    (bases,) = conda_lock.bases(read, [], ["https://u:secret@lab.example/t/tk-1/main"])
    assert (
        read.explicit(bases, ["six"]).splitlines()[1].startswith("https://u:secret@lab.example/t/tk-1/main/")
    )


# -- making a lock


def test_a_lock_is_made_in_a_scratch_environment(host: Host) -> None:
    add_conda(host.env(), "six-1.16.0-0")
    before = snapshot(host.env())
    scratch = host.env().parent / ".torchfleet-torch.solve"
    main = f"{TUNA}/pkgs/main/noarch"

    def create() -> None:
        add_conda(scratch, "python-3.11.7-h1_0", "pip-25.2-py_0", channel=main)
        for path in (scratch / "conda-meta").glob("*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "md5": MD5, "sha256": "b" * 64}))
        (scratch / "conda-meta" / "history").write_text("==> now <==\n# conda version: 24.7.1\n")

    def install() -> None:
        hashes = {"archive_info": {"hashes": {"sha256": "a" * 64}}, "url": "https://x/einops.whl"}
        report = {"install": [{"metadata": {"name": "einops", "version": "0.8.1"}, "download_info": hashes}]}
        command = host.commands[1]
        Path(command[command.index("--report") + 1]).write_text(json.dumps(report))

    host.answers("{}", effect=create)
    host.answers("", effect=install)
    result = host(state="locked", python="3.11", pip=["einops"])
    assert host.commands[0][1:4] == ["create", "-p", str(scratch)]
    assert host.commands[0][-2:] == ["python=3.11", "pip"]
    assert snapshot(host.env()) == before
    assert not scratch.exists()
    made = conda_lock.parse(result["lock"])
    assert {name: one.version for name, one in made.records().items()} == {"python": "3.11.7", "pip": "25.2"}
    assert made.channels == {"pkgs/main": f"{TUNA}/pkgs/main"}
    assert made.pip == [conda_lock.PipPackage("einops", "0.8.1", ("sha256:" + "a" * 64,), None)]
    assert made.header["wish"] == {"packages": ["python=3.11"], "pip": ["einops"], "channels": []}
    assert made.header["made"]["conda"] == "24.7.1"
    assert conda_lock.dumps(made) == result["lock"]


def test_a_solve_that_fails_makes_no_lock_and_leaves_nothing(host: Host) -> None:
    unsat = (Path(__file__).parent / "fixtures" / "conda_env" / "unsat.json").read_text()
    scratch = host.env().parent / ".torchfleet-torch.solve"
    host.answers(unsat, rc=1, effect=lambda: scratch.mkdir())
    assert host(state="locked", packages=["conda"])["code"] == "conflict"
    assert host.leftovers() == []


def test_what_uv_compiles_is_read() -> None:
    text = (
        "einops==0.8.1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "torch @ https://x/torch-2.13.0.whl \\\n    --hash=sha256:cc\n"
    )
    assert pip_cli.locked_by_uv(text) == [
        conda_lock.PipPackage("einops", "0.8.1", ("sha256:aa", "sha256:bb"), None),
        conda_lock.PipPackage("torch", "", ("sha256:cc",), "https://x/torch-2.13.0.whl"),
    ]


def test_what_only_this_host_has_cannot_be_locked() -> None:
    local = {
        "metadata": {"name": "mine", "version": "1"},
        "is_direct": True,
        "download_info": {"url": "file:///home/me/mine", "dir_info": {}},
    }
    with pytest.raises(conda_lock.LockError, match="mine comes from file:///home/me/mine"):
        pip_cli.locked_by_report({"install": [local]})
    with pytest.raises(conda_lock.LockError, match="not installed from a channel"):
        conda_lock.package({"name": "x", "url": None})


# -- environment.yml

YML = """
name: ignored
channels:
  - conda-forge  # a comment
dependencies:
  - python=3.11
  - "six>=1.16,<2"
  - pip:
    - --extra-index-url https://x/whl
    - einops==0.8.1
variables:
  A: "1"
"""


def test_an_environment_yml_adds_to_the_options(host: Host, tmp_path: Path) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "six-1.17.0-py_0")
    add_dist(host.env(), "einops", "0.8.1")
    (host.env() / "conda-meta" / "state").write_text('{"version": 1, "env_vars": {"A": "1"}}')
    assert host(content=YML)["changed"] is False
    (tmp_path / "environment.yml").write_text(YML)
    assert host(file=str(tmp_path / "environment.yml"))["changed"] is False
    # An option beats the file.
    assert host(content=YML, python="3.12", frozen=True)["drift"] == [
        "python 3.11.7 h1_0 does not satisfy python=3.12"
    ]
    read = conda_file.parse(YML)
    assert (read.channels, read.extra_index_urls) == (["conda-forge", "defaults"], ["https://x/whl"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1", "line 1 (a: 1): 'a' is none of"),
        ("dependencies:\n  - a\n   - b", "line 3"),
        ("dependencies:\n\t- a", "a tab"),
        ("dependencies:\n  - conda: x", "only pip: may be there"),
        ("dependencies:\n  - pip:\n    - -r requirements.txt", "-r requirements.txt"),
        ("dependencies: {a: 1}", "put it in quotes"),
        ("dependencies:\n  - 'a", "quotes that are not closed"),
        ("dependencies: [a", "cannot be read"),
        ("dependencies:\n  - &x a", "put it in quotes"),
        ("channels:\nname: x", "expected a list"),
        ("name: x\nname: y", "twice"),
        ("just text", "expected a key"),
    ],
)
def test_an_environment_yml_that_cannot_be_read_names_the_line(host: Host, text: str, part: str) -> None:
    result = host(content=text)
    assert result["code"] == "bad_input"
    assert part in result["msg"]


# -- latest and exact without a lock


def solved(link: list[str], unlink: list[str]) -> str:
    rows = {"LINK": [{"dist_name": one} for one in link], "UNLINK": [{"dist_name": one} for one in unlink]}
    return json.dumps({"success": True, "actions": rows})


def test_latest(host: Host) -> None:
    add_conda(host.env(), "six-1.16.0-0")
    host.answers(solved(["six-1.17.0-0"], ["six-1.16.0-0"]))

    def upgrade() -> None:
        (host.env() / "conda-meta" / "six-1.16.0-0.json").unlink()
        add_conda(host.env(), "six-1.17.0-0")

    host.answers("{}", effect=upgrade)
    result = host(state="latest", packages=["six"])
    assert [command[7:] for command in host.commands] == [
        ["--dry-run", "--update-specs", "six"],
        ["--update-specs", "six"],
    ]
    assert result["reasons"] == ["there is newer: six-1.17.0-0"]
    host.answers('{"success": true, "message": "All requested packages already installed."}')
    before = snapshot(host.env())
    assert host(state="latest", packages=["six"])["changed"] is False
    assert snapshot(host.env()) == before


def test_latest_of_pip(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0")
    dist = add_dist(host.env(), "einops", "0.7.0")
    host.answers(solved([], []))
    host.answers("Would install einops-0.8.1\n")
    host.answers("", effect=lambda: dist.rename(dist.with_name("einops-0.8.1.dist-info")))
    result = host(state="latest", pip=["einops"])
    assert host.commands[2][-3:] == ["--upgrade", "--", "einops"]
    assert result["actions"]["pip"] == {"install": ["einops==0.8.1"], "uninstall": ["einops==0.7.0"]}


def depends(prefix: Path, dist: str, *names: str, files: tuple[str, ...] = ()) -> None:
    path = prefix / "conda-meta" / f"{dist}.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "depends": list(names), "files": [*content["files"], *files]}))


def test_exact_keeps_what_the_wish_needs(host: Host) -> None:
    dists = ("python-3.11.7-h1_0", "pip-25.2-py_0", "numpy-1.26-0", "openblas-0.3-0", "idna-3.1-0", "xz-5-0")
    add_conda(host.env(), *dists)
    depends(host.env(), "python-3.11.7-h1_0", "pip", "xz >=5", "__glibc >=2.17")
    depends(
        host.env(),
        "numpy-1.26-0",
        "openblas",
        files=("lib/python3.11/site-packages/numpy-1.26.dist-info/METADATA",),
    )
    add_dist(host.env(), "numpy", "1.26", installer="conda")
    torch = add_dist(host.env(), "torch", "2.13.0")
    (torch / "METADATA").write_text(
        "Name: torch\nRequires-Dist: numpy\nRequires-Dist: sympy>=1.13\n"
        "Requires-Dist: optree>=0.11; extra == 'optree'\n"
        "Requires-Dist: pywin32; sys_platform == 'win32'\n\nText\n"
    )
    add_dist(host.env(), "sympy", "1.14")
    add_dist(host.env(), "leftover", "1.0")
    result = host(check=True, state="exact", python="3.11", pip=["torch"])
    # numpy and with it openblas stay: torch, which pip installed, needs them.
    assert result["actions"]["conda"]["unlink"] == ["idna-3.1-0"]
    assert result["actions"]["pip"]["uninstall"] == ["leftover==1.0"]
    assert result["reasons"] == ["idna is not asked for", "leftover is not asked for"]
    assert "conda idna 3.1 0" not in result["diff"]["after"]
    assert host.commands == []


def test_exact_of_nothing_is_refused(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    assert "would remove all" in host(state="exact")["msg"]


# -- extras and markers


def test_extras_and_markers_do_not_start_pip(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0")
    requests = add_dist(host.env(), "requests", "2.32.0")
    (requests / "METADATA").write_text(
        "Name: requests\nProvides-Extra: socks\nRequires-Dist: idna<4\n"
        "Requires-Dist: PySocks!=1.5.7,>=1.5.6; extra == 'socks'\n"
        "Requires-Dist: win-inet-pton; (sys_platform == 'win32') and extra == 'socks'\n"
    )
    wish = ["requests[socks]>=2", "tomli; python_version < '3.11'", "pywin32; platform_system == 'Windows'"]
    host.uv = "/usr/bin/uv"
    missing = host(pip=wish, frozen=True)
    assert missing["drift"] == ["requests 2.32.0 does not satisfy requests[socks]>=2"]
    add_dist(host.env(), "PySocks", "1.7.1")
    add_dist(host.env(), "idna", "3.10")
    result = host(pip=wish)
    assert (result["changed"], host.commands) == (False, [])


# -- variables and kernelspec


def test_variables_are_those_of_conda(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    result = host(packages=["six"], variables={"HF_ENDPOINT": "https://x", "N": 4})
    assert result["changed"] is True
    state = host.env() / "conda-meta" / "state"
    assert json.loads(state.read_text()) == {"version": 1, "env_vars": {"HF_ENDPOINT": "https://x", "N": "4"}}
    assert host(packages=["six"], variables={"N": "4"})["changed"] is False
    assert host(packages=["six"], state="exact", variables={"N": "4"})["changed"] is True
    assert json.loads(state.read_text())["env_vars"] == {"N": "4"}
    assert host.leftovers() == []
    assert host(packages=["six"], variables={"not a name": "1"})["code"] == "bad_input"


def test_a_kernelspec_is_written_without_jupyter(host: Host, tmp_path: Path) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0")
    add_dist(host.env(), "ipykernel", "6.29")
    options: Lines = {
        "python": "3.11",
        "kernelspec": {"display_name": "Course", "prefix": str(tmp_path / "j")},
    }
    path = tmp_path / "j" / "share" / "jupyter" / "kernels" / "torch" / "kernel.json"
    assert host(check=True, **options)["changed"] is True
    assert not path.exists()
    assert host(**options)["changed"] is True
    content = json.loads(path.read_text())
    assert content["argv"][0] == f"{host.env()}/bin/python"
    assert content["display_name"] == "Course"
    assert host(**options)["changed"] is False
    other = path.parent.parent / "other" / "kernel.json"
    other.parent.mkdir()
    other.write_text('{"argv": ["/usr/bin/python3"]}')
    host(state="absent", kernelspec=options["kernelspec"])
    assert not path.exists()
    assert other.exists()


def test_a_kernelspec_needs_ipykernel(host: Host) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0")
    result = host(python="3.11", kernelspec={"name": "x"})
    assert "needs ipykernel" in result["msg"]
    assert host.commands == []


def test_a_group_may_change_directories_and_records_alone(host: Host) -> None:
    add_conda(host.env(), "six-1.17.0-0")
    gid = grp.getgrnam("daemon").gr_gid
    assert host(packages=["six"], group="daemon")["reasons"] == ["the group daemon cannot change it"]
    for path in (host.env(), host.env() / "lib", host.env() / "conda-meta"):
        assert (path.stat().st_gid, path.stat().st_mode & 0o7777) == (gid, 0o2775)
    history = (host.env() / "conda-meta" / "history").stat()
    assert (history.st_gid, history.st_mode & 0o777) == (gid, 0o664)
    # A file of a package is the cache's as well.
    assert (host.env() / "lib" / "six.txt").stat().st_gid != gid
    assert (host.env().parent / ".torchfleet-torch.lock").stat().st_mode & 0o777 == 0o660
    assert host(packages=["six"], group="daemon")["changed"] is False
    assert host(group="no-such-group")["code"] == "bad_input"
    assert host(owner="no-such-user")["code"] == "bad_input"


# -- frozen


def test_frozen_changes_nothing_and_tells_what_differs(host: Host) -> None:
    assert host(frozen=True, packages=["six"])["drift"] == [f"{host.env()} does not exist"]
    assert not host.env().parent.exists()
    add_conda(host.env(), "six-1.16.0-0")
    before = snapshot(host.base)
    result = host(frozen=True, packages=["six>=1.17"], variables={"A": "1"})
    assert (result["changed"], result["reasons"]) == (False, [])
    assert result["drift"] == [
        "six 1.16.0 0 does not satisfy six>=1.17",
        "its variables are not as asked for",
    ]
    assert host(frozen=True, state="absent")["drift"] == [f"{host.env()} exists"]
    assert snapshot(host.base) == before


# -- where pip looks, and secrets


def test_a_named_source_is_the_only_place(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0", "pip-25.2-py_0")
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://own/simple\nextra-index-url = https://extra/simple\n"
        "find-links = /wheels\ntrusted-host = lab\nproxy = http://proxy:3128\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/more")
    seen: Lines = {}

    def effect() -> None:
        seen.update({**os.environ, **host.environments[-1]})
        add_dist(host.env(), "torch", "2.13.0")

    host.answers(effect=effect)
    host(pip=["torch"], pip_sources=[{"name": "nju", "index_url": "https://nju/cpu"}])
    words = " ".join(host.commands[0])
    assert "https://nju/cpu" in words
    assert not any(one in words for one in ("own", "extra", "/wheels", "/more"))
    assert "--proxy http://proxy:3128 --trusted-host lab" in words
    assert "PIP_FIND_LINKS" not in seen
    assert seen["PIP_CONFIG_FILE"] == os.devnull


def test_passwords_and_tokens_are_nowhere_in_the_result(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    add_conda(host.env(), "python-3.11.7-h1_0")
    host.uv = "/usr/bin/uv"
    hidden: set[str] = set()
    real = basic.AnsibleModule.__init__

    def init(module: Any, *args: Any, **options: Any) -> None:
        real(module, *args, **options)
        monkeypatch.setattr(module, "no_log_values", hidden)

    monkeypatch.setattr(basic.AnsibleModule, "__init__", init)
    address = "https://user:hunter22@lab.example/wheels/mine-1.0-py3-none-any.whl"
    result = host(
        check=True,
        frozen=True,
        pip=[f"mine @ {address}"],
        channels=["https://lab.example/t/tk-12345/main"],
        pip_sources=[{"name": "x", "index_url": "https://user:other%21@lab.example/simple"}],
    )
    assert hidden >= {"hunter22", "tk-12345", "other%21"}
    assert "hunter22" not in json.dumps(result)
    assert result["drift"] == [
        "mine @ https://***@lab.example/wheels/mine-1.0-py3-none-any.whl is not installed"
    ]
