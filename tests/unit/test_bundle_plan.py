"""What a host needs of a bundle, what a bundle means for the plan, and that the two agree."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import bundle
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.planner import plan
from plan_hosts import SOURCES, truth

UV = "0.13.9"
VARIABLES: dict[str, Any] = {
    "__conda_envs_wishes": [],
    "__miniconda_file": "Miniconda3-x-Linux-x86_64.sh",
    "__miniconda_sha256": "a" * 64,
    "__miniconda_solving": {"channels": ["defaults"]},
    "__pytorch_uv_hashes": {UV: ["b" * 64]},
    "miniconda_state": "present",
    "pytorch_installer": "auto",
    "pytorch_uv_version": UV,
}


def wish(*names: str, **more: Any) -> dict[str, Any]:
    environment = {"name": "torch", "python": "3.11", "torch": "auto", "variant": "auto"}
    return {
        "driver": more.pop("driver", {}),
        "environments": [{**environment, **more}],
        "sources": [SOURCES[name] for name in names],
        "pypi_urls": ["https://pypi.example.org/simple"],
    }


def asked(host: dict[str, Any], wished: dict[str, Any], **variables: Any) -> list[dict[str, Any]]:
    return bundle.requests(plan(host, wished, host="gpu01"), host, {**VARIABLES, **variables})


def by_kind(requests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in requests}


def manifest(
    requests: list[dict[str, Any]], carries: dict[str, list[str]], complete: bool = True
) -> dict[str, Any]:
    """As the module leaves it."""
    entries = {
        one["key"]: {
            "files": [],
            "digest": "",
            "carries": carries.get(one["kind"], []),
            **one.get("note", {}),
        }
        for one in requests
        if one["kind"] != "rpm"
    }
    return {"complete": complete, "requests": entries, "channels": ["pkgs/main"], "files": {}}


def test_a_bare_host_needs_an_installer_python_torch_uv_and_the_driver() -> None:
    requests = asked(truth(["H100"]), wish("pypi"))
    assert [one["kind"] for one in requests] == ["installer", "conda", "wheels", "uv", "apt"]
    found = by_kind(requests)
    assert found["wheels"]["key"] == "torch 2.15.0 cu132 for Python 3.11 on x86_64-manylinux_2_36"
    assert found["conda"]["wish"]["python"] == "3.11" and found["conda"]["wish"]["packages"] == ["pip"]
    assert found["apt"]["key"].startswith("driver 580.") and found["apt"]["system"] == "debian-12-amd64"


def test_what_is_the_same_has_the_same_key_on_every_host() -> None:
    one, two = (asked(truth(["H100"] * count), wish("pypi")) for count in (1, 8))
    assert [row["key"] for row in one] == [row["key"] for row in two]
    assert bundle.merged([one, two]) == one


@pytest.mark.parametrize(
    ("glibc", "platform"),
    [("2.17", "2_17"), ("2.30", "2_28"), ("2.36", "2_36"), ("2.43", "2_40"), (None, "2_17")],
)
def test_uv_resolves_for_the_newest_glibc_that_it_knows_of(glibc: str | None, platform: str) -> None:
    assert bundle._platform(truth(glibc=glibc)) == f"x86_64-manylinux_{platform}"


def test_declared_environments_bring_their_packages_and_share_python_with_torch() -> None:
    declared = [
        {"name": "torch", "packages": ["numpy"], "pip": ["einops"]},
        {"name": "tools", "python": "3.12"},
    ]
    found = [
        one
        for one in asked(truth(), wish("cpu-wheels"), __conda_envs_wishes=declared)
        if one["kind"] == "conda"
    ]
    assert [one["wish"]["python"] for one in found] == ["3.11", "3.12"]
    assert found[0]["wish"]["packages"] == ["numpy", "pip"] and found[0]["wish"]["pip"] == ["einops"]


def test_a_lock_that_a_host_made_since_leaves_the_key_as_it_was() -> None:
    rows = [{"name": "tools", "python": "3.12", "lock": lock} for lock in (None, "a lock", "another")]
    found = [
        next(
            one
            for one in asked(truth(), wish("cpu-wheels"), __conda_envs_wishes=[row])
            if one["kind"] == "conda"
        )
        for row in rows
    ]
    assert len({one["key"] for one in found}) == 1 and len({one["digest"] for one in found}) == 3


def test_torch_of_a_channel_is_a_matter_of_conda_alone() -> None:
    requests = asked(truth(["V100"], "535.261.03"), wish("conda-forge"))
    assert [one["kind"] for one in requests] == ["installer", "conda"]
    request = requests[1]
    assert request["specs"] and request["cuda"] and request["note"] == {"source": "conda-forge"}
    assert (
        f"torch {plan(truth(['V100'], '535.261.03'), wish('conda-forge'))['environments'][0]['torch']}"
        in request["key"]
    )
    assert [list(one) for one in request["channels"]] == [["conda-forge"]]


def test_every_mirror_of_the_course_and_its_nvidia_channel_is_a_source() -> None:
    source = {
        "name": "course",
        "kind": "pytorch-channel",
        "urls": ["https://one/cloud/pytorch", "https://two/cloud/pytorch"],
        "nvidia_urls": ["https://extra/cloud/nvidia"],
    }
    (row,) = [
        one
        for one in asked(truth(["V100"], "535.261.03"), {**wish("pypi"), "sources": [source]})
        if one["kind"] == "conda"
    ]
    assert row["channels"] == [
        {"pytorch": url, "nvidia": "https://extra/cloud/nvidia"} for url in source["urls"]
    ]


def test_headers_of_the_kernels_are_part_of_what_a_driver_needs() -> None:
    host = truth(["H100"])
    host["kernel"]["headers"] = []
    assert by_kind(asked(host, wish("pypi")))["apt"]["key"].endswith(", headers of 6.1.0-41-amd64")
    host["virtualization"]["type"] = "container"


def test_a_host_that_keeps_its_driver_needs_none() -> None:
    assert "apt" not in by_kind(asked(truth(["H100"], "535.261.03"), wish("pypi")))


# -- the plan from the bundle


@pytest.mark.parametrize(
    ("gpus", "driver", "sources", "kind"),
    [
        (["H100"], None, ("pypi",), "wheels"),
        ([], None, ("cpu-wheels",), "wheels"),
        (["V100"], "535.261.03", ("site",), "wheels"),
        (["V100"], "535.261.03", ("conda-forge",), "conda"),
    ],
)
def test_the_plan_made_from_a_bundle_is_the_one_that_it_was_made_for(
    gpus: list[str], driver: str | None, sources: tuple[str, ...], kind: str
) -> None:
    host, wished = truth(gpus, driver), wish(*sources)
    before = plan(host, wished, host="gpu01")
    requests = asked(host, wished)
    build = before["environments"][0]
    # PyPI's files have no local version.
    local = "" if sources == ("pypi",) else f"+{build['variant']}"
    carried = manifest(requests, {kind: [f"torch=={build['torch']}{local}"]})
    variables = bundle.variables(carried, "/var/lib/bundle", host)
    from_bundle = {
        "driver": {
            key: variables.get(f"nvidia_driver_{key}", default)
            for key, default in (("repository", "auto"), ("local", []))
        },
        "environments": wished["environments"],
        "sources": variables["pytorch_sources"],
        "pypi_urls": variables["mirrors_pypi_urls"],
    }
    after = plan(host, from_bundle, host="gpu01")
    assert after["problems"] == []
    assert [after["environments"][0][key] for key in ("torch", "variant")] == [
        build["torch"],
        build["variant"],
    ]
    assert [after["driver"][key] for key in ("action", "version", "packages")] == [
        before["driver"][key] for key in ("action", "version", "packages")
    ]
    again = bundle.requests(after, host, VARIABLES)
    assert [one["key"] for one in again] == [one["key"] for one in requests]
    assert bundle.problems(carried, again, "/srv/bundle") == []


def test_a_bundle_stands_for_the_mirrors() -> None:
    found = bundle.variables(
        manifest(asked(truth(["H100"]), wish("pypi")), {}), "/media/usb", truth(["H100"])
    )
    assert found["mirrors_pypi_urls"] == ["file:///media/usb/pypi/simple"]
    assert found["mirrors_anaconda_urls"] == ["file:///media/usb/anaconda"]
    assert found["mirrors_anaconda_channels"] == ["main"]
    assert found["nvidia_driver_local_repository"] == {
        "url": "file:///media/usb/apt/debian-12-amd64",
        "suite": "./",
        "trusted": True,
    }


def test_a_driver_of_another_system_is_not_offered() -> None:
    carried = manifest(asked(truth(["H100"]), wish("pypi")), {})
    assert "nvidia_driver_local" not in bundle.variables(carried, "/b", truth(["H100"], os="debian13"))


# -- problems


def test_each_thing_that_is_missing_is_named_with_what_to_do() -> None:
    requests = asked(truth(["H100"]), wish("pypi"))
    carried = manifest([one for one in requests if one["kind"] not in ("uv", "apt")], {})
    found = bundle.problems(carried, requests, "/srv/bundle")
    assert [one["code"] for one in found] == ["not_in_bundle"] * 2
    assert "does not carry uv 0.13.9 for x86_64" in found[0]["found"] and "driver 580." in found[1]["found"]
    assert all("playbooks/bundle.yml" in one["fix"] for one in found)
    assert all(one["fix"].endswith("and carry the bundle again") for one in found)


def test_a_driver_of_rpm_is_told_to_come_another_way() -> None:
    requests = asked(truth(["H100"], os="rhel9"), wish("pypi"))
    (found,) = bundle.problems(manifest(requests, {}), requests, "/srv/bundle")
    assert "carries packages of apt alone" in found["fix"]


def test_a_bundle_that_was_not_finished_is_one() -> None:
    (found,) = bundle.problems(manifest([], {}, complete=False), [], "/srv/bundle")
    assert found["code"] == "bundle" and "did not come to its end" in found["found"]


def test_files_that_are_not_there_are_named(tmp_path: Any) -> None:
    requests = asked(truth(), wish("cpu-wheels"))
    carried = manifest(requests, {})
    carried["requests"][requests[0]["key"]]["files"] = ["installers/x.sh"]
    carried["files"] = {"installers/x.sh": {"size": 3, "sha256": "a" * 64}}
    (found,) = bundle.problems(carried, requests, str(tmp_path))
    assert "installers/x.sh" in found["found"]
    (tmp_path / "installers").mkdir()
    (tmp_path / "installers/x.sh").write_text("abc")
    assert bundle.problems(carried, requests, str(tmp_path)) == []
    assert bundle.problems(carried, requests, str(tmp_path), lacking=["x"])


# -- apt's view of several hosts


def stanza(name: str, version: str) -> str:
    return f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"


def test_what_one_of_the_hosts_lacks_is_not_taken_as_installed() -> None:
    one = stanza("libc6", "2.36") + stanza("gcc", "12") + stanza("make", "4.3")
    two = stanza("libc6", "2.36") + stanza("make", "4.4")
    (merged,) = bundle.merged([[{"key": "driver", "status": text}] for text in (one, two)])
    assert merged["status"] == stanza("libc6", "2.36")
