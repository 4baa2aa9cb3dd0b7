"""What the users of a host can do with its conda, tried as those users."""

from __future__ import annotations

import json
from typing import Any

import pytest

PREFIX = "/opt/miniconda3"
SHARED = "/srv/conda"
MIRROR = "https://mirrors.tuna.tsinghua.edu.cn/anaconda"


def as_user(host: Any, user: str, command: str, shell: str = "bash -lc", umask: str = "022") -> Any:
    """Run a command in a shell of that user; -l is what ssh gives."""
    inner = f"cd && umask {umask} && HOME=$(echo ~{user}) exec {shell} '{command}'"
    return host.run(f"su {user} -s /bin/sh -c %s", inner)


def output(host: Any, user: str, command: str, shell: str = "bash -lc", umask: str = "022") -> str:
    done = as_user(host, user, command, shell, umask)
    assert done.rc == 0, done.stderr + done.stdout
    return str(done.stdout)


@pytest.mark.parametrize("user", ["root", "alice", "bob"])
def test_activate_works_in_a_login_shell(host: Any, user: str) -> None:
    said = output(host, user, "conda activate base && echo $CONDA_PREFIX && python -c pass && conda -V")
    assert said.splitlines()[0] == PREFIX
    assert said.splitlines()[1].startswith("conda ")


@pytest.mark.parametrize("shell", ["bash -ic", "zsh -ic"])
def test_activate_works_in_the_shells_of_chosen_users(host: Any, shell: str) -> None:
    assert PREFIX in output(host, "alice", "conda activate base && echo $CONDA_PREFIX", shell)


def test_the_files_of_chosen_users_are_theirs_and_whole(host: Any) -> None:
    for name in (".bashrc", ".zshrc", ".config/fish/config.fish"):
        file = host.file(f"/home/alice/{name}")
        assert (file.user, file.group) == ("alice", "alice")
        assert file.content_string.count("# >>> conda initialize >>>") == 1
    assert not host.file("/home/bob/.zshrc").exists


def test_a_half_written_block_was_mended_and_the_user_lost_nothing(host: Any) -> None:
    text = host.file("/home/carol/.bashrc").content_string
    assert "/home/carol/gone" not in text
    assert text.count("# >>> conda initialize >>>") == text.count("# <<< conda initialize <<<") == 1
    assert "still here" in output(host, "carol", "shopt -s expand_aliases; . ~/.bashrc; mine", "bash -ic")


def test_members_create_environments_that_all_can_use(host: Any) -> None:
    output(host, "alice", "conda create -y -q -n shared_by_alice python")
    assert host.file(f"{SHARED}/envs/shared_by_alice/conda-meta/history").user == "alice"
    assert "Python 3" in output(host, "bob", "conda activate shared_by_alice && python -V")
    # The cache serves the next member, who has another umask and fetches nothing.
    output(host, "carol", "conda create -y -q -n shared_by_carol --offline python", umask="027")
    assert host.file(f"{SHARED}/envs/shared_by_carol").user == "carol"
    assert "Python 3" in output(host, "carol", "conda activate shared_by_carol && python -V")


def test_nobody_takes_away_what_others_made(host: Any) -> None:
    assert as_user(host, "carol", f"mv {SHARED}/envs/shared_by_alice {SHARED}/envs/mine").rc != 0
    assert host.file(f"{SHARED}/envs/shared_by_alice/bin/python").exists


def test_others_cannot_and_have_a_place_of_their_own(host: Any) -> None:
    assert as_user(host, "bob", f"conda create -y -q -p {SHARED}/envs/by_bob").rc != 0
    assert not host.file(f"{SHARED}/envs/by_bob").exists
    assert as_user(host, "bob", f"conda create -y -q -p {PREFIX}/envs/by_bob").rc != 0
    output(host, "bob", "conda create -y -q -n own")
    assert host.file("/home/bob/.conda/envs/own/conda-meta/history").user == "bob"


def test_the_shared_directories_have_the_right_modes(host: Any) -> None:
    for name, mode in (("envs", 0o3775), ("pkgs", 0o2775)):
        folder = host.file(f"{SHARED}/{name}")
        assert (folder.user, folder.group, folder.mode) == ("root", "conda", mode)
    assert host.check_output(f"find {PREFIX} {SHARED} -perm -o+w ! -type l") == ""


def test_root_never_links_what_members_can_write(host: Any) -> None:
    def caches(user: str, umask: str = "022") -> list[str]:
        shown = json.loads(output(host, user, "conda config --show pkgs_dirs --json", umask=umask))
        return list(shown["pkgs_dirs"])

    assert caches("alice")[0] == f"{SHARED}/pkgs"
    # What she extracts with that umask, the others could not read: she has a cache of her own.
    assert caches("alice", umask="077") == [f"{PREFIX}/pkgs", "/home/alice/.conda/pkgs"]
    for user in ("root", "bob"):
        assert f"{SHARED}/pkgs" not in caches(user)
        assert caches(user)[0] == f"{PREFIX}/pkgs"


def test_no_source_of_the_configuration_leads_past_the_mirror(host: Any) -> None:
    for user in ("root", "alice", "bob"):
        sources = output(host, user, "conda config --show-sources")
        assert "anaconda.com" not in sources and "anaconda.org" not in sources
        assert f"==> {PREFIX}/.condarc <==" in sources
        shown = json.loads(output(host, user, "conda config --show --json"))
        assert shown["channels"] == ["defaults"]
        defaults = [f"{row['scheme']}://{row['location']}/{row['name']}" for row in shown["default_channels"]]
        assert defaults == [f"{MIRROR}/pkgs/main", f"{MIRROR}/pkgs/r"]
        assert shown["channel_priority"] == "strict"
    assert not host.file("/etc/conda/.condarc").exists
    assert not host.file("/root/.condarc").exists
