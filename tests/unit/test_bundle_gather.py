"""Gathering: what uv, conda and apt are asked, what becomes of their answers, and what is not done twice."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import bundle, bundle_gather
from ansible_collections.torchfleet.gpu.plugins.module_utils.bundle_gather import Gather, GatherError
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import Web, download
from ansible_collections.torchfleet.gpu.plugins.module_utils.progress import Progress

HOST = {"machine": "x86_64", "platform": "x86_64-manylinux_2_36", "python": "3.11"}
WHEELS = {
    "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl": b"torch",
    "jinja2-3.1.6-py3-none-any.whl": b"jinja2",
}
PYLOCK = """
[[packages]]
name = "{}"
version = "{}"
wheels = [{{ url = "{}", size = {}, hashes = {{ sha256 = "{}" }} }}]
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Tools:
    """Stands in for uv, conda and apt."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self.asked: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.records: list[dict[str, Any]] = []
        self.lacking = "no channel"
        self.apt = {"update": "", "install": "", "show": ""}

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], stdin: str
    ) -> tuple[int, str, str]:
        self.asked.append([*command, *stdin.split()])
        self.environments.append(dict(environment))
        if "compile" in command:
            if "pylock.toml" not in command:
                return 0, "jinja2==3.1.6\ntorch==2.13.0+cpu\n", ""
            data = WHEELS["jinja2-3.1.6-py3-none-any.whl"]
            url = (self.site / "index/jinja2-3.1.6-py3-none-any.whl").as_uri()
            return 0, PYLOCK.format("jinja2", "3.1.6", url, len(data), sha(data)), ""
        if "create" in command and self.lacking in command:
            return 1, json.dumps({"exception_name": "PackagesNotFoundError", "message": "none there"}), ""
        if "create" in command:
            link = [{"dist_name": one["fn"].rpartition(".")[0]} for one in self.records]
            return 0, json.dumps({"actions": {"FETCH": self.records, "LINK": link}}), ""
        if command[0].startswith("apt"):
            verb = next(one for one in command if one in self.apt)
            return (100, "", "E: broken\n") if self.apt[verb] == "broken" else (0, self.apt[verb], "")
        return 1, "", "unknown"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site"
    (path / "index").mkdir(parents=True)
    for name, data in WHEELS.items():
        (path / ("" if name.startswith("torch") else "index") / name).write_bytes(data)
    return path


class Maker:
    def __init__(self, tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.tools, self.directory = site, Tools(site), tmp_path / "bundle"
        self.params = {
            "pypi_urls": ["https://pypi.example/simple"],
            "anaconda_urls": [f"{site.as_uri()}/anaconda", "https://other.example/anaconda"],
            "conda_config": {"default_channels": ["https://x/anaconda/pkgs/main"]},
            "refresh": False,
            "prune": False,
            "ca_file": "",
        }
        self.fetched: list[str] = []
        self.progress = Progress(None)
        monkeypatch.setattr(Gather, "need_uv", lambda _self: "/uv")
        monkeypatch.setattr(Gather, "need_conda", lambda _self: "/conda")

        def counted(web: Web, urls: list[str], dest: str, sha256: str) -> Any:
            done = download(web, urls, dest, sha256)
            if done.url != dest:
                self.fetched.append(Path(dest).name)
            return done

        monkeypatch.setattr(bundle_gather, "download", counted)

    def __call__(self, *requests: dict[str, Any], **params: Any) -> dict[str, Any]:
        self.fetched.clear()
        self.tools.asked.clear()
        gather = Gather(str(self.directory), Web(5), self.tools, {**self.params, **params}, self.progress)
        return gather.present(requests, ["pkgs/main"])

    @property
    def files(self) -> dict[str, Any]:
        return dict(bundle.read(str(self.directory))["files"])


@pytest.fixture
def make(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    return Maker(tmp_path, site, monkeypatch)


def wheels(site: Path, **more: Any) -> dict[str, Any]:
    source = {"name": "site", "index_url": "https://pypi.example/simple", "find_links": [str(site)]}
    given = {
        "kind": "wheels",
        "key": "torch",
        **HOST,
        "requirements": ["torch===2.13.0+cpu"],
        "sources": [source],
    }
    return {**given, **more}


class TestWheels:
    def test_come_flat_and_by_the_index_for_the_platform_of_the_host(self, make: Maker, site: Path) -> None:
        done = make(wheels(site))
        assert sorted(make.files) == sorted(f"wheels/{name}" for name in WHEELS)
        assert done["changed"] and sorted(make.fetched) == sorted(WHEELS)
        first, second = make.tools.asked
        for words in (first, second):
            assert words[words.index("--python-platform") + 1] == "x86_64-manylinux_2_36"
            assert words[words.index("--python-version") + 1] == "3.11"
        # What the flat listing has is not locked: uv would fetch all of it for its hash.
        assert second[-1] == "jinja2===3.1.6"
        torch = make.files["wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"]
        assert torch["sha256"] == sha(b"torch") and torch["size"] == 5
        entry = bundle.read(str(make.directory))["requests"]["torch"]
        assert entry["carries"] == ["torch==2.13.0+cpu"]

    def test_a_second_run_asks_nobody_and_fetches_nothing(self, make: Maker, site: Path) -> None:
        make(wheels(site))
        done = make(wheels(site))
        assert not done["changed"] and not make.tools.asked and not make.fetched

    def test_a_request_of_before_is_solved_again_by_wish(self, make: Maker, site: Path) -> None:
        make(wheels(site))
        assert make(wheels(site), refresh=True)["solved"] == ["torch"]
        assert make.tools.asked and not make.fetched

    def test_a_run_that_was_cut_goes_on_where_it_was(self, make: Maker, site: Path) -> None:
        jinja2 = site / "index/jinja2-3.1.6-py3-none-any.whl"
        away = jinja2.rename(site / "away")
        with pytest.raises(GatherError, match=r"jinja2-3.1.6-py3-none-any.whl: .* The next run goes on"):
            make(wheels(site))
        assert bundle.read(str(make.directory))["complete"] is False
        away.rename(jinja2)
        done = make(wheels(site))
        assert make.fetched == [jinja2.name] and not done["solved"] and not make.tools.asked
        assert bundle.read(str(make.directory))["complete"] is True

    def test_what_went_upstream_is_forgotten_once_nothing_needs_it(self, make: Maker, site: Path) -> None:
        torch, jinja2 = WHEELS
        make(wheels(site))
        entry = bundle.read(str(make.directory))
        (site / torch).unlink()
        newer = site / "torch-2.13.0+cpu-1-cp311-cp311-linux_x86_64.whl"
        newer.write_bytes(b"torch, built again")
        for spoil in (Path.unlink, lambda path: path.write_bytes(b"TORCH")):
            spoil(make.directory / "wheels" / torch)
            with pytest.raises(GatherError, match=f"{re.escape(torch)}: .*bundle_refresh=true"):
                make(wheels(site))
            done = make(wheels(site), refresh=True)
            assert sorted(make.files) == sorted([f"wheels/{jinja2}", f"wheels/{newer.name}"])
            assert make.fetched == [newer.name]
            assert bundle.verify(str(make.directory), bundle.read(str(make.directory))) == []
            (make.directory / "wheels" / torch).write_bytes(b"torch")
            (make.directory / "wheels" / newer.name).unlink()
            bundle.write(str(make.directory), entry)
        assert done["unneeded"] == [f"wheels/{torch}"]

    def test_all_that_cannot_be_had_is_told_at_once(self, make: Maker, site: Path) -> None:
        request = {"kind": "installer", "sha256": "0" * 64, "licence": "MIT"}
        gone = [
            {**request, "key": name, "file": f"{name}.sh", "urls": [(site / name).as_uri()]}
            for name in ("one", "two")
        ]
        with pytest.raises(GatherError, match=r"(?s)one\.sh: .*two\.sh: ") as caught:
            make(*gone)
        assert str(caught.value).count("The next run goes on") == 1
        bad = [conda(key=key, wish={"packages": [f"-c {key}"]}) for key in ("left", "right")]
        with pytest.raises(GatherError, match=r"left: packages: .*; right: packages: "):
            make(bad[0], wheels(site), bad[1])
        assert "torch" in bundle.read(str(make.directory))["requests"], "what could be had is solved"

    def test_a_damaged_file_is_fetched_again_and_no_other(self, make: Maker, site: Path) -> None:
        make(wheels(site))
        (make.directory / "wheels/jinja2-3.1.6-py3-none-any.whl").write_bytes(b"jinja3")
        assert make(wheels(site))["changed"] and make.fetched == ["jinja2-3.1.6-py3-none-any.whl"]

    def test_what_is_no_longer_needed_is_told_and_goes_by_wish(self, make: Maker, site: Path) -> None:
        make(wheels(site))
        (make.directory / "wheels/stray.whl").write_bytes(b"")
        other = wheels(site, key="jinja2 alone")
        told = make(other)
        assert told["unneeded"] == ["wheels/stray.whl"] and not told["removed"]
        assert (make.directory / "wheels/stray.whl").exists()
        gone = make(other, prune=True)
        assert gone["removed"] == ["wheels/stray.whl"] and not (make.directory / "wheels/stray.whl").exists()
        assert list(bundle.read(str(make.directory))["requests"]) == ["jinja2 alone"]
        assert len(make.files) == 2

    def test_files_of_a_request_that_went_go_with_it(self, make: Maker, site: Path) -> None:
        installer = site / "x.sh"
        installer.write_bytes(b"#!/bin/sh\n")
        request = {"kind": "installer", "key": "x", "file": "x.sh", "sha256": sha(b"#!/bin/sh\n")}
        make(wheels(site), {**request, "licence": "MIT", "urls": [installer.as_uri()]})
        assert make(wheels(site))["unneeded"] == ["installers/x.sh"]
        assert make(wheels(site), prune=True)["removed"] == ["installers/x.sh"]
        assert "installers/x.sh" not in make.files

    def test_the_next_source_is_tried_and_all_are_named(
        self, make: Maker, site: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        bad = {"name": "none", "find_links": [str(tmp_path / "empty")]}
        good = wheels(site)["sources"][0]
        with pytest.raises(
            GatherError, match=r"torch cannot be had from any source\. none: no wheel of torch"
        ):
            make(wheels(site, sources=[bad]))
        make(wheels(site, sources=[bad, good]))
        assert len(make.files) == 2


def conda(**more: Any) -> dict[str, Any]:
    wish = {"python": "3.11", "packages": ["six"], "channels": [], "content": None, "pip": [], "lock": None}
    base = {
        "kind": "conda",
        "key": "tools",
        "digest": "",
        "specs": [],
        "channels": [],
        "cuda": "",
        "variant": "",
    }
    rest = {"note": {}, "subdir": "linux-64", "glibc": "2.36", "config": {"channels": ["defaults"]}}
    return {**HOST, **base, **rest, "wish": {**wish, **more.pop("wish", {})}, **more}


def packaged(make: Maker, channel: str, name: str, data: bytes = b"package") -> dict[str, Any]:
    path = make.site / "anaconda" / channel / "linux-64" / f"{name}.conda"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    record = {
        "name": name.rsplit("-", 2)[0],
        "version": name.rsplit("-", 2)[1],
        "fn": path.name,
        "md5": "0" * 32,
    }
    record.update(
        url=path.as_uri(), channel=path.parent.parent.as_uri(), subdir="linux-64", license="PSF-2.0"
    )
    return {**record, "sha256": sha(data), "size": len(data), "depends": ["libc"]}


def test_conda_solves_for_the_host_and_its_records_become_an_index(make: Maker) -> None:
    make.tools.records = [packaged(make, "pkgs/main", "six-1.16-0")]
    make(conda(cuda="12.6", variant="cu126"))
    (words,) = make.tools.asked
    assert words[:2] == ["/conda", "create"] and "--dry-run" in words and words[-2:] == ["python=3.11", "six"]
    told = make.tools.environments[0]
    assert (told["CONDA_SUBDIR"], told["CONDA_OVERRIDE_GLIBC"], told["CONDA_OVERRIDE_CUDA"]) == (
        "linux-64",
        "2.36",
        "12.6",
    )
    row = make.files["anaconda/pkgs/main/linux-64/six-1.16-0.conda"]
    assert row["licence"] == "PSF-2.0" and row["mirrors"] == [
        "https://other.example/anaconda/pkgs/main/linux-64/six-1.16-0.conda"
    ]
    index = json.loads((make.directory / "anaconda/pkgs/main/linux-64/repodata.json").read_text())
    record = index["packages.conda"]["six-1.16-0.conda"]
    assert record["depends"] == ["libc"] and not {"url", "channel", "fn"} & set(record)


def test_torch_of_a_channel_is_told_as_the_planner_calls_it(make: Maker) -> None:
    make.tools.records = [packaged(make, "cloud/conda-forge", "pytorch-2.12.1-cuda129_0")]
    channels = [{"conda-forge": "https://x/cloud/conda-forge"}]
    make(conda(specs=["pytorch=2.12.1=cuda129*"], channels=channels, variant="cu129"))
    assert bundle.read(str(make.directory))["requests"]["tools"]["carries"] == ["torch==2.12.1+cu129"]
    words = make.tools.asked[0]
    assert words[words.index("--override-channels") :][:5] == [
        *("--override-channels", "-c", "https://x/cloud/conda-forge", "-c", "defaults")
    ]


def test_a_channel_that_no_mirror_has_is_refused_by_name(make: Maker) -> None:
    record = packaged(make, "pkgs/main", "six-1.16-0")
    record.update(url="https://lab.example/own/linux-64/six-1.16-0.conda", channel="https://lab.example/own")
    make.tools.records = [record]
    with pytest.raises(GatherError, match="is no channel of a mirror"):
        make(conda())


def test_a_channel_of_torch_is_known_by_its_name_wherever_a_mirror_has_it(make: Maker) -> None:
    """As SUSTech's nvidia channel, which is below anaconda-extra."""
    extra = (make.site / "anaconda-extra/cloud/nvidia").as_uri()
    torch = packaged(make, "cloud/pytorch", "pytorch-2.0.0-py3.10_cuda11.7")
    cuda = packaged(make, "../anaconda-extra/cloud/nvidia", "cuda-cudart-11.7.99-0")
    url = f"{extra}/linux-64/{cuda['fn']}"
    make.tools.records = [torch, {**cuda, "url": url, "channel": extra}]
    named = {"pytorch": f"{make.site.as_uri()}/anaconda/cloud/pytorch", "nvidia": f"{extra}/"}
    make(conda(channels=[named], variant="cu117"))
    row = make.files["anaconda/cloud/nvidia/linux-64/cuda-cudart-11.7.99-0.conda"]
    assert row["url"] == url and len(make.files) == 2


def test_a_channel_of_which_nothing_is_needed_has_an_index_all_the_same(make: Maker) -> None:
    """The CPU build takes nothing from nvidia, and conda is given that channel beside it."""
    make.tools.records = [packaged(make, "cloud/pytorch", "pytorch-2.0.0-py3.11_cpu")]
    make(conda(channels=[{"pytorch": "https://x/cloud/pytorch", "nvidia": "https://y/cloud/nvidia"}]))
    manifest = bundle.read(str(make.directory))
    for subdir in ("noarch", "linux-64"):
        index = make.directory / f"anaconda/cloud/nvidia/{subdir}/repodata.json"
        assert json.loads(index.read_text())["packages"] == {}
        # A host gets the indexes of what it needs.
        assert f"anaconda/cloud/nvidia/{subdir}/repodata.json" in bundle.indexes(
            bundle.narrowed(manifest, ["tools"])
        )


def test_the_next_mirror_of_a_channel_is_tried_and_all_are_named(make: Maker) -> None:
    make.tools.records = [packaged(make, "cloud/pytorch", "pytorch-2.0.0-py3.10_cuda11.7")]
    bad, good = ({"pytorch": f"https://{name}/cloud/pytorch"} for name in ("bad", "good"))
    make.tools.lacking = bad["pytorch"]
    with pytest.raises(GatherError, match=r"tools: conda create: .*none there"):
        make(conda(channels=[bad]))
    assert make(conda(channels=[bad, good]))["solved"] == ["tools"]
    assert [good["pytorch"] in words for words in make.tools.asked] == [False, True]


def test_a_disk_that_is_short_is_refused_before_the_first_file(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.tools.records = [packaged(make, "pkgs/main", "six-1.16-0", b"x" * 2000)]
    with monkeypatch.context() as patch:
        patch.setattr(f"{bundle_gather.__name__}.wheels.free", lambda _path: 1999)
        with pytest.raises(GatherError, match=r"0 GB are to be fetched, .* Nothing was fetched"):
            make(conda())
    assert make.fetched == []
    make(conda())
    with monkeypatch.context() as patch:
        patch.setattr(f"{bundle_gather.__name__}.wheels.free", lambda _path: 0)
        assert make(conda())["changed"] is False


def test_a_lock_is_taken_as_it_is(make: Maker) -> None:
    record = packaged(make, "pkgs/main", "six-1.16-0")
    row = {"channel": "pkgs/main", "subdir": "linux-64", "fn": record["fn"], "sha256": record["sha256"]}
    lock = {
        "torchfleet_lock": 1,
        "platform": "linux-64",
        "channels": {"pkgs/main": "https://x/anaconda/pkgs/main"},
    }
    text = json.dumps({**lock, "conda": [row], "pip": []})
    make(conda(wish={"lock": text}, digest="one"))
    assert list(make.files) == ["anaconda/pkgs/main/linux-64/six-1.16-0.conda"] and not make.tools.asked
    # Another lock is another solution, although the wish is the same.
    assert make(conda(wish={"lock": text}, digest="two"))["solved"] == ["tools"]


def test_a_bad_wish_is_told_before_conda_is_asked(make: Maker) -> None:
    with pytest.raises(GatherError, match="tools: packages: "):
        make(conda(wish={"packages": ["-c evil"]}))
    assert not make.tools.asked


CONTROL = "Package: {0}\nVersion: {1}\nSection: non-free/kernel\nFilename: pool/x.deb\nSHA256: {2}\n"
APT: dict[str, Any] = {
    **{"kind": "apt", "key": "driver", "system": "debian-12-amd64", "codename": "of nowhere"},
    **{"architecture": "amd64", "packages": ["nvidia-driver"], "options": ["--no-install-recommends"]},
    **{
        "status": "Package: libc6\n\n",
        "pin": "Package: x\n",
        "key_text": "",
        "note": {"driver": {"version": "535"}},
    },
    "stanzas": [
        {"url": "https://x/debian", "suites": "bookworm", "components": ["contrib"], "key": "/k.gpg"}
    ],
}


def offered(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/apt-get")
    lines, controls = [], []
    for name, version in (("nvidia-driver", "535.261.03-1"), ("dkms", "1:3.0")):
        file = f"{name}_{urllib.parse.quote(version)}_amd64.deb".replace("%3A", "%3a")
        data = name.encode()
        (make.site / f"{name}.deb").write_bytes(data)
        uri = (make.site / f"{name}.deb").as_uri()
        lines.append(f"'{uri}' {file} {len(data)} SHA256:{sha(data)}")
        controls.append(CONTROL.format(name, version, sha(data)))
    make.tools.apt.update(install="\n".join(lines), show="\n".join(controls))


def test_apt_tells_what_that_host_lacks_from_a_root_of_its_own(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(make, monkeypatch)
    seen = {}

    ask = Gather.apt_get

    def look(self: Gather, request: Any, command: Sequence[str]) -> str:
        root = self.work / "apt"
        seen.update(
            {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
        )
        return ask(self, request, command)

    monkeypatch.setattr(Gather, "apt_get", look)
    make(APT, ca_file="/authorities.pem")
    assert sorted(make.files) == [
        "apt/debian-12-amd64/dkms_1%3a3.0_amd64.deb",
        "apt/debian-12-amd64/nvidia-driver_535.261.03-1_amd64.deb",
    ]
    assert (
        seen["status"] == APT["status"] and seen["etc/preferences.d/zz-torchfleet-nvidia.pref"] == APT["pin"]
    )
    assert "Components: main contrib\nSigned-By: /k.gpg\n" in seen["etc/sources.list.d/driver.sources"]
    words = make.tools.asked[1]
    assert words[-2:] == ["--no-install-recommends", "nvidia-driver"] and "--print-uris" in words
    assert any(one.startswith("Dir::State::status=") for one in words)
    assert "Acquire::https::CAInfo=/authorities.pem" in words
    assert make.tools.asked[2][-1] == "dkms=1:3.0"
    packages = (make.directory / "apt/debian-12-amd64/Packages").read_text()
    assert "Filename: ./nvidia-driver_535.261.03-1_amd64.deb" in packages
    assert bundle.read(str(make.directory))["requests"]["driver"]["driver"] == {"version": "535"}


def test_what_apt_says_is_told(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(make, monkeypatch)
    make.tools.apt["update"] = "broken"
    with pytest.raises(GatherError, match="driver: E: broken"):
        make(APT)
    make.tools.apt.update(update="", install="")
    with pytest.raises(GatherError, match="apt names no file"):
        make(APT)


def test_without_apt_another_machine_is_asked_for(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(GatherError, match=r"has no apt-get.*bundle_host"):
        make(APT)


def test_how_far_the_gathering_is_counts_whole_files_and_parts(make: Maker, site: Path) -> None:
    make(wheels(site))
    gather = Gather(str(make.directory), Web(5), make.tools, make.params, make.progress)
    gather.manifest = bundle.read(str(make.directory))
    whole, *_ = gather.manifest["files"]
    size = gather.manifest["files"][whole]["size"]
    assert gather.arrived(whole) == size > 1
    place = make.directory / whole
    place.with_name(f"{place.name}.part").write_bytes(place.read_bytes()[:-1])
    place.unlink()
    assert gather.arrived(whole) == size - 1
    place.with_name(f"{place.name}.part").unlink()
    assert gather.arrived(whole) == 0
