"""Which driver a host gets from which packages, and builds that pip does not install."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_spec
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import choice, planner, tables
from plan_hosts import MIRROR, SYSTEMS, TODAY, codes, plan, truth, wish
from plan_hosts import SOURCES as ROWS


def driver(facts: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    result = plan(facts, wanted)
    assert result["problems"] == []
    found: dict[str, Any] = result["driver"]
    return found


def text(rows: list[dict[str, Any]], code: str) -> str:
    return "\n".join(row["text"] for row in rows if row["code"] == code)


# NVIDIA's repository for Debian 13 and Fedora 44 came later than the branch.
WITHOUT_580 = ("plan9", "ubuntu2004", "debian11", "debian13", "fedora44")


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in WITHOUT_580])
def test_a_bare_host_gets_the_long_term_branch(system: str) -> None:
    """Newer branches are on offer, and bring no newer torch."""
    result = plan(truth(["H100"], os=system), wish())
    assert (result["problems"], result["driver"]["branch"]) == ([], "580")
    assert result["environments"][0]["torch"] == tables.releases()[0].torch
    assert "its branch is of no known kind, 580 is LTSB" in text(result["reasons"], "driver_offer")


@pytest.mark.parametrize(
    ("system", "machine", "branch", "missing"),
    [
        ("debian12", "x86_64", "580", False),
        ("debian12", "aarch64", "580", True),
        ("debian12", "aarch64", "590", False),
        ("debian13", "x86_64", "580", True),
        ("debian13", "x86_64", "590", False),
        ("debian13", "aarch64", "590", True),
        ("debian13", "aarch64", "595", False),
        ("ubuntu2604", "aarch64", "580", True),
        ("fedora44", "x86_64", "595", True),
    ],
)
def test_a_repository_begins_with_a_branch(system: str, machine: str, branch: str, missing: bool) -> None:
    """What NVIDIA's repository lacks for a system is not promised."""
    result = plan(
        truth(["H100"], os=system, machine=machine), wish(driver={"branch": branch, "repository": "nvidia"})
    )
    assert codes(result["problems"]) == (["no_driver_offered"] if missing else [])
    if missing:
        name = result["problems"][0]["found"].split(":")[0]
        said = f"branch {branch} is not in the repository nvidia for {name}, {machine}"
        assert said in result["problems"][0]["found"]


def test_a_repository_that_does_not_answer_is_gone_round() -> None:
    result = plan(truth(["H100"], os="debian12"), wish(driver={"silent": ["nvidia"]}))
    assert (result["driver"]["repository"], result["driver"]["branch"]) == ("distribution", "535")
    assert "of nvidia: the repository does not answer (likewise 590" in text(
        result["reasons"], "driver_offer"
    )
    alone = plan(truth(["H100"], os="rhel9"), wish(driver={"silent": ["nvidia"]}))
    assert "the repository does not answer" in alone["problems"][0]["found"]


def test_volta_on_debian_13_gets_the_archives_driver() -> None:
    """NVIDIA's repository begins with 590, which has left Volta."""
    found = driver(truth(["V100"], os="debian13"), wish())
    assert (found["branch"], found["repository"], found["flavour"]) == ("550", "distribution", "proprietary")


@pytest.mark.parametrize("system", ["ubuntu2204", "ubuntu2404", "ubuntu2604"])
@pytest.mark.parametrize(("branch", "to"), [("535", "580"), ("570", "580"), ("590", "595")])
def test_ubuntus_empty_packages_are_not_taken(system: str, branch: str, to: str) -> None:
    """nvidia-headless-535-server depends on 580's: who pins 535 would silently get 580."""
    result = plan(truth(["H100"], os=system), wish(driver={"branch": branch, "repository": "distribution"}))
    assert codes(result["problems"]) == ["no_driver_offered"]
    assert (
        f"branch {branch} of the distribution: the archive moves it to {to}" in result["problems"][0]["found"]
    )


@pytest.mark.parametrize(
    ("system", "gpu", "sure"),
    [
        ("rhel9", "H100", True),
        ("rhel9", "V100", False),
        ("debian12", "H100", False),
        ("ubuntu2404", "H100", True),
    ],
)
def test_what_is_not_certain_of_a_driver_is_told(system: str, gpu: str, sure: bool) -> None:
    """The version, the repository of the system and the names of the packages: the weakest of them counts."""
    result = plan(truth([gpu], os=system), wish())
    assert ("low_confidence" in codes(result["warnings"])) is not sure


@pytest.mark.parametrize(
    ("system", "secure_boot", "modules", "first"),
    [
        ("ubuntu2404", True, "prebuilt", "linux-modules-nvidia-580-server-open-6.1.0-41-amd64"),
        ("ubuntu2404", False, "dkms", "nvidia-headless-580-server-open"),
        ("debian12", True, "dkms", "nvidia-driver-cuda"),
    ],
)
def test_modules_that_secure_boot_takes(system: str, secure_boot: bool, modules: str, first: str) -> None:
    facts = truth(["H100"], os=system, secure_boot=secure_boot)
    result = plan(facts, wish())
    assert (result["driver"]["modules"], result["driver"]["packages"][0]) == (modules, first)
    assert ("secure_boot" in codes(result["warnings"])) is (secure_boot and modules == "dkms")
    facts["mok"] = {"enrolled": ["DKMS"], "pending": [], "key": {"name": "DKMS", "enrolled": True}}
    assert "secure_boot" not in codes(plan(facts, wish())["warnings"])


def test_prebuilt_modules_for_every_kernel_of_the_host() -> None:
    facts = truth(["V100"], os="ubuntu2204")
    facts["kernel"] = {"running": "5.15.0-1", "next": "5.15.0-2", "installed": ["5.15.0-1", "5.15.0-2"]}
    found = driver(facts, wish(driver={"modules": "prebuilt"}))
    assert found["packages"][:2] == [
        "linux-modules-nvidia-580-server-5.15.0-1",
        "linux-modules-nvidia-580-server-5.15.0-2",
    ]
    result = plan(facts, wish(driver={"modules": "prebuilt", "repository": "nvidia"}))
    assert codes(result["problems"]) == ["no_driver_offered"]
    assert "has no prebuilt proprietary modules" in result["problems"][0]["found"]


def test_nvswitch_needs_fabric_manager() -> None:
    facts = truth(["H100"] * 8, os="ubuntu2404", nvswitches=4)
    assert "nvidia-fabricmanager-580" in driver(facts, wish())["packages"]
    facts = truth(["H100"] * 8, nvswitches=4)
    assert driver(facts, wish())["repository"] == "nvidia"
    result = plan(facts, wish(driver={"repository": "distribution"}))
    assert codes(result["problems"]) == ["no_driver_offered"]
    assert "without Fabric Manager" in result["problems"][0]["found"]


def test_stream_of_dnf() -> None:
    assert driver(truth(["H100"], os="rocky9"), wish())["stream"] == "nvidia-driver:580-open"
    assert driver(truth(["V100"], os="rhel8"), wish())["stream"] == "nvidia-driver:580-dkms"
    assert driver(truth(["H100"], os="rhel10"), wish())["stream"] is None


def test_a_branch_that_the_archive_moves_is_not_offered() -> None:
    facts = truth(["H100"], os="ubuntu2404")
    result = plan(facts, wish(driver={"branch": "590", "repository": "distribution"}))
    assert codes(result["problems"]) == ["no_driver_offered"]
    assert "the archive moves it to 595" in result["problems"][0]["found"]
    assert driver(facts, wish(driver={"branch": "590"}))["repository"] == "nvidia"


def test_an_older_version_of_a_branch_can_be_pinned_where_it_stays() -> None:
    found = driver(truth(["H100"]), wish(driver={"version": "580.95.05"}))
    assert (found["version"], found["repository"]) == ("580.95.05", "nvidia")
    result = plan(truth(["H100"]), wish(driver={"version": "535.1.2", "repository": "distribution"}))
    assert codes(result["problems"]) == ["no_driver_offered"]


@pytest.mark.parametrize(
    ("system", "version", "repository", "gets"),
    [
        ("debian12", "535.309.01", "auto", "distribution"),  # of bookworm-security
        ("debian13", "550.200.01", "distribution", "distribution"),
        ("ubuntu2404", "580.200.01", "distribution", "distribution"),
        ("ubuntu2404", "580.200.01", "auto", "nvidia"),  # where older and newer ones stay
    ],
)
def test_a_point_release_can_be_taken_before_the_tables_know_it(
    system: str, version: str, repository: str, gets: str
) -> None:
    facts = truth(["A100"], os=system)
    result = plan(facts, wish(driver={"version": version, "repository": repository}))
    assert result["problems"] == []
    assert (result["driver"]["version"], result["driver"]["repository"]) == (version, gets)
    assert "low_confidence" in codes(result["warnings"])


def test_an_archive_has_no_older_release_than_the_tables_and_moves_what_it_moves() -> None:
    wanted = wish(driver={"version": "535.400.01", "repository": "distribution"})
    (problem,) = plan(truth(["A100"], os="ubuntu2404"), wanted)["problems"]
    assert problem["code"] == "no_driver_offered"
    wanted = wish(driver={"version": "535.1.2", "repository": "distribution"})
    assert codes(plan(truth(["A100"]), wanted)["problems"]) == ["no_driver_offered"]


def test_the_repository_of_ones_own_comes_first() -> None:
    local = [{"version": "580.95.05", "layout": "nvidia"}]
    found = driver(truth(["H100"], os="rocky9"), wish(driver={"local": local}))
    assert (found["repository"], found["version"]) == ("local", "580.95.05")
    assert found["packages"] == driver(truth(["H100"], os="rocky9"), wish())["packages"]
    result = plan(truth(["H100"]), wish(driver={"repository": "local"}))
    assert codes(result["problems"]) == ["contradiction"]


def test_what_a_repository_cannot_serve_is_told() -> None:
    local = {"repository": "local", "local": [{"version": "580.95.05", "layout": "distribution"}]}
    (problem,) = plan(truth(["H100"], os="rocky9"), wish(driver=local))["problems"]
    assert "no distribution packages are known for Rocky Linux 9" in problem["found"]
    for there in (None, "550.163.01 proprietary"):  # to be installed, and to be replaced
        wanted = wish(driver={"repository": "distribution", "upgrade": True})
        result = plan(truth(["RTX 5090"], there, os="rocky9"), wanted)
        assert codes(result["problems"]) == ["no_repository"]


def test_a_foreign_driver_without_a_module_is_not_installed_over() -> None:
    facts = truth(["H100"])
    facts["driver"]["foreign"] = {"kind": "run", "version": "580.95.05", "path": "/usr/bin/nvidia-uninstall"}
    result = plan(facts, wish())
    assert (result["driver"]["action"], result["driver"]["version"]) == ("keep", "580.95.05")
    assert "no_module" in codes(result["warnings"])
    facts["driver"]["foreign"]["version"] = None
    assert codes(plan(facts, wish())["problems"]) == ["unreadable_driver"]


def test_an_upgrade_is_for_a_newer_torch_only() -> None:
    facts = truth(["H100"], "535.261.03 proprietary")
    found = driver(facts, wish(driver={"upgrade": True}))
    assert (found["action"], found["branch"]) == ("upgrade", "580")
    assert found["replaces"] == {"version": "535.261.03", "flavour": "proprietary"}
    assert driver(facts, wish(driver={"upgrade": True}, torch="2.10.0"))["action"] == "keep"
    assert driver(truth(["H100"], "620.70.06"), wish(driver={"upgrade": True}))["action"] == "keep"


def test_one_driver_serves_all_environments() -> None:
    wanted = wish(("pypi", "wheels"), {"upgrade": True}, torch="2.10.0")
    wanted["environments"].append({**wanted["environments"][0], "name": "new", "torch": "2.15.0"})
    result = plan(truth(["H100"], "535.261.03"), wanted)
    assert (result["problems"], result["driver"]["action"]) == ([], "upgrade")
    assert [row["torch"] for row in result["environments"]] == ["2.10.0", "2.15.0"]


def test_forward_compatibility_is_a_wish_and_for_data_centres() -> None:
    facts = truth(["H100"], "535.261.03")
    assert driver(facts, wish())["forward_compat"] is None
    result = plan(facts, wish(driver={"forward_compat": True}))
    assert result["driver"]["action"] == "keep"
    assert result["driver"]["forward_compat"] == {"package": "cuda-compat-13-0", "cuda": "13.0"}
    assert result["environments"][0]["torch"] == "2.15.0"
    for others in (["RTX 4090"], ["H100", "RTX 4090"]):
        result = plan(truth(others, "535.261.03"), wish(driver={"forward_compat": True}))
        assert (result["driver"]["forward_compat"], result["environments"][0]["torch"]) == (None, "2.10.0")
        assert "not for GeForce RTX 4090" in text(result["reasons"], "forward_compat")
    # Where the driver does as it is, nothing is added.
    assert (
        driver(truth(["H100"], "580.95.05"), wish(driver={"forward_compat": True}))["forward_compat"] is None
    )


def test_removal() -> None:
    facts = truth(["H100"], "580.95.05 open")
    result = plan(facts, wish(("cpu-wheels",), {"state": "absent"}))
    assert (result["problems"], result["driver"]["action"]) == ([], "remove")
    assert result["driver"]["replaces"] == {"version": "580.95.05", "flavour": "open"}
    assert (result["driver"]["version"], result["expect"]["cuda_available"]) == (None, False)
    assert driver(truth(["H100"]), wish(("cpu-wheels",), {"state": "absent"}))["action"] == "none"


def test_an_unreadable_version_is_not_no_driver() -> None:
    facts = truth(["H100"])
    facts["driver"]["on_disk"] = {
        "version": None,
        "flavour": "open",
        "kernel": "k",
        "path": "/lib/k/nvidia.ko",
    }
    result = plan(facts, wish())
    assert codes(result["problems"]) == ["unreadable_driver"]
    assert "/lib/k/nvidia.ko" in result["problems"][0]["found"]
    facts["driver"]["loaded"] = {"version": "580.95.05", "flavour": "open"}
    result = plan(facts, wish())
    assert (result["problems"], result["driver"]["version"]) == ([], "580.95.05")
    assert "unreadable_driver" in codes(result["warnings"])


def test_no_driver_is_advised_where_no_torch_has_code() -> None:
    for facts in (truth(["GTX 480"]), truth(["GTX 680"]), truth(["GTX 680"], "470.256.02")):
        (problem,) = plan(facts, wish(("pypi", "wheels")))["problems"]
        assert "by hand" not in problem["fix"] and "a driver >=" not in problem["fix"]
        assert "no release of torch" in problem["found"] + problem["fix"]


# Conda


def test_the_pins_of_a_course_from_the_frozen_channel() -> None:
    """pytorch==2.0.0 torchvision==0.15.0 torchaudio==2.0.0 pytorch-cuda=11.7; PyPI has 0.15.1 for it."""
    pins: dict[str, Any] = {
        "torch": "2.0.0",
        "torchvision": "0.15.0",
        "torchaudio": "2.0.0",
        "variant": "cu117",
    }
    result = plan(truth(["RTX 3090"], "535.261.03"), wish(("pypi", "pytorch-channel"), **pins))
    (row,) = result["environments"]
    assert (result["problems"], row["torch"], row["cuda"], row["requirements"]) == ([], "2.0.0", "11.7", [])
    (source,) = row["sources"]
    assert (source["kind"], source["method"]) == ("pytorch-channel", "conda")
    assert source["channels"] == [*ROWS["pytorch-channel"]["urls"], *ROWS["pytorch-channel"]["nvidia_urls"]]
    assert source["specs"][-1] == "pytorch-cuda=11.7"
    for spec, name, version, build in (
        (source["specs"][0], "pytorch", "2.0.0", "py3.11_cuda11.7_cudnn8.5.0_0"),
        (source["specs"][1], "torchvision", "0.15.0", "py311_cu117"),
        (source["specs"][2], "torchaudio", "2.0.0", "py311_cu117"),
    ):
        parsed = conda_spec.parse(spec)
        assert parsed.matches(conda_spec.Record(name, version, build, str)) is True
        for other in ("py3.11_cpu_0", "py311_cpu", "cpu_generic_py311_h1_0"):
            assert parsed.matches(conda_spec.Record(name, version, other, str)) is False
    result = plan(truth(["RTX 3090"], "535.261.03"), wish(("pypi",), **pins))
    assert "goes with torchvision 0.15.1, not the 0.15.0" in result["problems"][0]["found"]


def test_builds_that_nobody_has_read_are_the_last_resort() -> None:
    facts = truth(["H100"], "580.95.05")
    first = plan(facts, wish(("conda-forge", "pypi"), torch="2.12.1"))
    assert first["environments"][0]["sources"][0]["kind"] == "pypi"
    result = plan(facts, wish(("conda-forge",)))
    assert {"unknown_capabilities", "low_confidence"} <= set(codes(result["warnings"]))
    (row,) = result["environments"]
    assert row["sources"][0]["specs"] == [f"pytorch={row['torch']}=cuda130*"]
    # CUDA 13 holds no code for Volta at all.
    assert plan(truth(["V100"], "580.95.05"), wish(("conda-forge",)))["environments"][0]["variant"] == "cu129"


def test_an_existing_bundle_stands_alone() -> None:
    (row,) = plan(truth(["H100"], "535.261.03"), wish(("bundle",)))["environments"][0]["sources"]
    assert (row["index_url"], row["extra_index_urls"]) == (None, [])
    assert row["find_links"] == ROWS["bundle"]["urls"]
    assert MIRROR not in str(row)


def test_ptx_asks_for_the_toolkits_driver() -> None:
    """No build is known to carry it: the rule is for data to come."""
    build = next(item for item in tables.releases()[0].builds if item.variant == "cu132")
    model = tables.model("1db6")
    assert model is not None
    query = choice.Code("x86_64", (model,))
    assert [fault.rule for fault in query.against(build)[0]] == ["capability"]
    with_ptx = copy.copy(build)
    object.__setattr__(with_ptx, "ptx", frozenset(["7.0"]))
    faults, floor = query.against(with_ptx)
    assert faults == () and floor == tables.toolkit_driver("13.2")
    object.__setattr__(with_ptx, "ptx", frozenset(["7.5"]))
    assert choice.Code("x86_64", (model,)).against(with_ptx)[0]


def test_a_plan_can_be_changed_without_harm_to_the_next() -> None:
    facts, wanted = truth(["H100"], "535.261.03"), wish()
    first = planner.plan(facts, wanted, "a", TODAY)
    whole = copy.deepcopy(first)
    first["reasons"].clear()
    first["driver"]["packages"].append("x")
    first["environments"][0]["sources"][0]["index_url"] = "x"
    assert planner.plan(facts, wanted, "a", TODAY) == whole
    later = planner.plan(facts, wanted, "a", datetime.date(2020, 1, 1))
    assert "end_of_life" not in codes(later["warnings"])


def test_what_an_archive_replaces_is_told_to_those_who_ask_for_it() -> None:
    facts = truth(["H100"], os="ubuntu2404")
    assert "the archive moves it" not in text(plan(facts, wish())["reasons"], "driver_offer")
    (found,) = plan(facts, wish(driver={"branch": "535"}))["problems"]
    said = "branch 535 of the distribution: the archive moves it to 580"
    assert found["found"] == f"Ubuntu 24.04: none that fits is on offer: {said}"
    (found,) = plan(facts, wish(driver={"branch": "550"}))["problems"]
    assert "no repository has the branch 550 of driver.branch; there are 470, 580, 590" in found["found"]


def test_a_mixed_host_is_told_what_to_move() -> None:
    (found,) = plan(truth(["H100", "RTX 4090", "P100", "V100", "K80"], os="ubuntu2404"), wish())["problems"]
    assert (found["code"], found["fix"]) == (
        "mixed_gpus",
        "move the GPUs of Kepler to another host: one driver serves the rest",
    )
    (found,) = plan(truth(["P100", "RTX 5090"]), wish())["problems"]
    assert found["fix"].startswith("move the GPUs of Pascal or those of Blackwell to another host")
    (found,) = plan(truth(["K80", "V100", "H100", "RTX 5090"]), wish())["problems"]
    assert found["fix"] == "move the older or the newer GPUs to another host"


@pytest.mark.parametrize("gpus", [["P100", "RTX 5090"], ["K80"]])
def test_environments_for_the_cpu_need_no_driver(gpus: list[str]) -> None:
    """Where none can be had; else the host gets one, for whatever else its GPUs are there for."""
    result = plan(truth(gpus, os="rhel9"), wish(["wheels"], variant="cpu"))
    assert (result["problems"], result["driver"]["action"]) == ([], "none")
    assert "driver_none" in codes(result["warnings"])
    assert result["environments"][0]["variant"] == "cpu"
    assert plan(truth(["H100"], os="rhel9"), wish(["wheels"], variant="cpu"))["driver"]["action"] == "install"
    assert plan(truth(gpus, os="rhel9"), wish(["wheels"], {"state": "present"}, variant="cpu"))["problems"]


def test_wsl2_shows_no_gpu() -> None:
    facts = truth([], virtualization="wsl2")
    result = plan(facts, wish(["wheels"]))
    assert (result["problems"], result["driver"]["action"]) == ([], "none")
    assert "torch is planned for the CPU" in text(result["warnings"], "wsl2")
    assert not text(plan(facts, wish(["wheels"], variant="cpu"))["warnings"], "wsl2")
    told = plan(truth(["RTX 4090"], "580.95.05 open", virtualization="wsl2"), wish(["wheels"]))
    assert (told["driver"]["action"], told["environments"][0]["variant"]) == ("keep", "cu132")


@pytest.mark.parametrize(
    ("key", "value"), [("gpus", "2330"), ("gpus", {"device": "2330"}), ("driver", "535")]
)
def test_parts_of_a_truth_that_are_of_another_kind(key: str, value: Any) -> None:
    found = plan({**truth(["H100"]), key: value}, wish())["problems"]
    assert [(row["code"], row["what"]) for row in found] == [("bad_truth", key)]
