"""What hosts get, case by case, and why."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import pip_spec
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import plan_report, planner

TODAY = datetime.date(2026, 11, 23)
TUNA = "https://pypi.tuna.tsinghua.edu.cn/simple"
NJU = "https://mirror.nju.edu.cn/pytorch/whl"
PYPI = {"name": "tuna", "kind": "pypi", "urls": [TUNA]}
INDEX = {"name": "nju", "kind": "index", "urls": [NJU]}
CPU_INDEX = {**INDEX, "variants": ["cpu"]}
SITE = {
    "name": "site",
    "kind": "find_links",
    "urls": ["https://wheels.example.org/"],
    "carries": ["torch==2.13.0+cpu"],
}
GTX_1080, P100, V100, T4, A100 = "1b80", "15f8", "1db6", "1eb8", "20b0"
RTX_3090, RTX_4090, H100, GH200, B200, RTX_5090 = "2204", "2684", "2330", "2342", "2901", "2b85"
K80, GTX_680, GTX_980, GTX_480, GB10, RUBIN = "102d", "1180", "13c0", "06c0", "2e12", "3002"


def truth(
    *devices: str, driver: str | None = None, flavour: str | None = None, **other: Any
) -> dict[str, Any]:
    """The truth of a Debian 12 host with these GPUs, and a sound driver or none."""
    there = {"version": driver, "flavour": flavour} if driver else None
    base: dict[str, Any] = {
        "schema": 1,
        "os": {"id": "debian", "version": "12", "codename": "bookworm", "like": [], "name": "Debian 12"},
        "machine": "x86_64",
        "kernel": {"running": "6.1.0-41-amd64", "next": None, "headers": []},
        "glibc": "2.36",
        "python": "3.11.2",
        "virtualization": {"type": "none", "detail": None},
        "secure_boot": None,
        "gpus": [
            {"slot": f"0000:{number:02x}:00.0", "vendor": "10de", "device": device, "class": "0302"}
            for number, device in enumerate(devices, 0x18)
        ],
        "nvswitches": 0,
        "driver": {
            "package": None,
            "on_disk": there,
            "loaded": there,
            "library": None,
            "foreign": None,
            "verdict": "ok" if driver else "absent",
            "reason": "",
        },
        "processes": [],
        "disks": [],
    }
    return {**base, **other}


def wish(
    *sources: dict[str, Any], driver: dict[str, Any] | None = None, **environment: Any
) -> dict[str, Any]:
    return {
        "driver": driver or {},
        "environments": [{"name": "torch", "python": "3.11", **environment}],
        "sources": list(sources),
        "pypi_urls": [TUNA],
    }


def plan(facts: Any, wanted: Any) -> dict[str, Any]:
    return planner.plan(facts, wanted, "gpu07", TODAY)


def build(result: dict[str, Any]) -> tuple[str | None, str | None]:
    assert result["problems"] == []
    return result["environments"][0]["torch"], result["environments"][0]["variant"]


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


def codes(result: dict[str, Any]) -> list[str]:
    return [row["code"] for row in result["problems"]]


BUILDS = [
    # GPUs, driver, sources, environment, torch, variant
    ([H100], "535.261.03", [PYPI], {}, "2.10.0", "cu128"),
    ([H100], "535.261.03", [PYPI, INDEX], {}, "2.14.1", "cu126"),
    ([H100], "525.60.13", [PYPI], {}, "2.10.0", "cu128"),
    ([H100], "525.60.12", [INDEX], {}, "2.7.1", "cu118"),
    ([H100], "580.65.05", [PYPI], {}, "2.10.0", "cu128"),
    ([H100], "580.65.06", [PYPI], {}, "2.15.0", "cu132"),
    ([H100, H100], "595.112.07", [PYPI], {"torchaudio": True}, "2.11.0", "cu130"),
    ([H100], "595.112.07", [PYPI], {"torch": "2.7.1+cu126"}, "2.7.1", "cu126"),
    ([H100], "595.112.07", [PYPI], {"torch": ">=2.5,<2.9"}, "2.8.0", "cu128"),
    ([H100], "595.112.07", [PYPI], {"python": "3.10"}, "2.14.1", "cu130"),
    ([H100], "595.112.07", [PYPI], {"python": "3.9.20"}, "2.8.0", "cu128"),
    ([H100], "595.112.07", [PYPI, INDEX], {"variant": "cu126"}, "2.14.1", "cu126"),
    ([H100], "595.112.07", [PYPI, INDEX], {"variant": "cpu"}, "2.15.0", "cpu"),
    ([H100], "595.112.07", [INDEX], {"variant": "cu134"}, "2.15.0", "cu134"),
    ([GTX_1080], "580.95.05", [PYPI], {}, "2.7.1", "cu126"),
    ([GTX_1080], "580.95.05", [INDEX], {}, "2.14.1", "cu126"),
    ([GTX_980], "580.95.05", [PYPI], {}, "2.7.1", "cu126"),
    ([P100], "535.261.03", [PYPI], {}, "2.7.1", "cu126"),
    ([V100], "580.95.05", [PYPI], {}, "2.10.0", "cu128"),
    ([V100], "580.95.05", [PYPI, INDEX], {}, "2.14.1", "cu126"),
    ([V100, GTX_1080], "580.95.05", [PYPI], {}, "2.7.1", "cu126"),
    ([V100, H100], "580.95.05", [PYPI], {}, "2.10.0", "cu128"),
    ([T4], "580.95.05", [PYPI], {}, "2.15.0", "cu132"),
    ([A100, RTX_3090, RTX_4090], "580.95.05", [PYPI], {}, "2.15.0", "cu132"),
    ([RTX_5090], "570.133.07", [PYPI], {}, "2.10.0", "cu128"),
    ([B200, RTX_5090], "580.95.05", [PYPI], {}, "2.15.0", "cu132"),
    ([RUBIN], "620.70.06", [PYPI], {}, "2.15.0", "cu132"),
    ([K80], "470.256.02", [PYPI], {}, "2.0.1", "cu117"),
    ([K80], "470.256.02", [INDEX], {}, "2.3.1", "cu118"),
    ([], None, [SITE], {}, "2.13.0", "cpu"),
    ([], None, [PYPI, SITE], {}, "2.13.0", "cpu"),
    ([], None, [PYPI, CPU_INDEX], {}, "2.15.0", "cpu"),
    ([], None, [CPU_INDEX], {"python": "3.8"}, "2.4.1", "cpu"),
    ([], None, [PYPI], {"variant": "cu126"}, "2.7.1", "cu126"),
]


@pytest.mark.parametrize(("gpus", "driver", "sources", "environment", "torch", "variant"), BUILDS)
def test_build(
    gpus: list[str],
    driver: str | None,
    sources: list[dict[str, Any]],
    environment: dict[str, Any],
    torch: str,
    variant: str,
) -> None:
    result = plan(truth(*gpus, driver=driver), wish(*sources, **environment))
    assert build(result) == (torch, variant)
    on_gpu = bool(gpus) and variant != "cpu"
    assert result["expect"]["cuda_available"] is on_gpu
    assert result["expect"]["device_count"] == (len(gpus) if on_gpu else 0)


def test_whole_plan_of_a_hopper_host() -> None:
    facts = truth(H100, H100, driver="535.261.03", flavour="proprietary")
    assert plan(facts, wish(PYPI, torchvision=True)) == {
        "schema": 1,
        "host": "gpu07",
        "gpus": [
            {
                "slot": slot,
                "device": "2330",
                "name": "H100 SXM5 80GB",
                "architecture": "Hopper",
                "capability": "9.0",
            }
            for slot in ("0000:18:00.0", "0000:19:00.0")
        ],
        "driver": {
            "action": "keep",
            "replaces": None,
            "branch": "535",
            "version": "535.261.03",
            "flavour": "proprietary",
            "repository": None,
            "modules": None,
            "packages": [],
            "stream": None,
            "sources_off": [],
            "forward_compat": None,
        },
        "environments": [
            {
                "name": "torch",
                "python": "3.11",
                "torch": "2.10.0",
                "variant": "cu128",
                "cuda": "12.8",
                "companions": ["torchvision"],
                "requirements": ["torch===2.10.0", "torchvision===0.25.0"],
                "sources": [
                    {
                        "name": "tuna",
                        "kind": "pypi",
                        "method": "pip",
                        "index_url": TUNA,
                        "extra_index_urls": [],
                        "find_links": [],
                    }
                ],
            }
        ],
        "expect": {"cuda_available": True, "device_count": 2, "capabilities": ["9.0"]},
        "reasons": [
            {
                "code": "driver_kept",
                "text": "the host keeps the driver 535.261.03 that it has",
                "remedy": None,
            },
            {
                "code": "driver",
                "text": "torch 2.15.0 cu132 needs driver >= 580.65.06; the host keeps 535.261.03 "
                "(likewise 13 more, down to 2.11.0 cu130)",
                "remedy": "a driver >= 580.65.06 would allow torch 2.15.0 cu132: set driver.upgrade to true, "
                "or replace the driver by hand",
            },
            {
                "code": "source",
                "text": "torch 2.14.1 cu126 is carried by none of the sources allowed: tuna (pypi) "
                "(likewise 9 more, down to 2.11.0 cu126)",
                "remedy": "add a source that carries torch 2.14.1 cu126 (a wheel index, or find_links)",
            },
            {
                "code": "build",
                "text": "torch 2.10.0 cu128 from tuna is the newest that fits the GPU and the driver "
                "(the host keeps 535.261.03)",
                "remedy": None,
            },
        ],
        "warnings": [
            {
                "code": "end_of_life",
                "text": "driver branch 535 is past its end of life (2026-06)",
                "remedy": None,
            }
        ],
        "problems": [],
    }


def test_pascal_loses_the_newer_builds_for_want_of_code() -> None:
    result = plan(truth(GTX_1080, driver="580.95.05"), wish(PYPI))
    assert any(
        line.startswith("torch 2.15.0 cu132 has no code for GeForce GTX 1080 (compute capability 6.1)")
        for line in texts(result["reasons"])
    )


def test_last_release_for_a_gpu_is_warned_about() -> None:
    result = plan(truth(V100, driver="580.95.05"), wish(INDEX))
    assert "torch 2.14.1 is the last release with code for Tesla V100 PCIe 32GB (capability 7.0)" in texts(
        result["warnings"]
    )
    assert not any(
        "last release" in line
        for line in texts(plan(truth(H100, driver="580.95.05"), wish(INDEX))["warnings"])
    )


# Requirements and sources


def test_index_is_pinned_with_its_local_version() -> None:
    mirrors = {**INDEX, "urls": [NJU + "/", "https://second.example.org/whl"]}
    row = plan(truth(V100, driver="580.95.05"), wish(PYPI, mirrors, torchvision=True))["environments"][0]
    assert row["requirements"] == ["torch==2.14.1+cu126", "torchvision==0.29.1+cu126"]
    assert [item["index_url"] for item in row["sources"]] == [
        f"{NJU}/cu126",
        "https://second.example.org/whl/cu126",
    ]
    assert all(item["extra_index_urls"] == [TUNA] for item in row["sources"])


def test_second_source_of_the_same_build_is_the_fallback() -> None:
    row = plan(truth(H100, driver="580.95.05"), wish(PYPI, INDEX))["environments"][0]
    assert [item["name"] for item in row["sources"]] == ["tuna", "nju"]
    # PyPI's file has no local version, the index's has one.
    assert row["requirements"] == ["torch==2.15.0,!=2.15.0+cu130,!=2.15.0+cu134,!=2.15.0+cpu"]


@pytest.mark.parametrize("sources", [[PYPI], [INDEX], [PYPI, INDEX]])
def test_an_installed_build_of_another_variant_does_not_meet_the_plan(sources: list[dict[str, Any]]) -> None:
    """A host that gets a GPU, or a driver, must not keep its CPU build of the same release."""
    row = plan(truth(H100, driver="580.95.05"), wish(*sources, torch="2.15.0", variant="cu132"))
    (line,) = row["environments"][0]["requirements"]
    requirement = pip_spec.parse(line)
    for variant in ("cpu", "cu130", "cu134"):
        assert requirement.satisfied(f"2.15.0+{variant}", None) is False
    met = [text for text in ("2.15.0", "2.15.0+cu132") if requirement.satisfied(text, None)]
    assert met == (["2.15.0"] * (PYPI in sources) + ["2.15.0+cu132"] * (INDEX in sources))


def test_earliest_source_decides_the_variant_within_a_release() -> None:
    only_130 = {**INDEX, "variants": ["cu130"]}
    facts = truth(H100, driver="580.95.05")
    assert build(plan(facts, wish(only_130, PYPI, torch="2.15.0"))) == ("2.15.0", "cu130")
    assert build(plan(facts, wish(PYPI, only_130, torch="2.15.0"))) == ("2.15.0", "cu132")


def test_an_index_without_a_mirror_of_pypi_is_used_alone() -> None:
    offline = {**wish(INDEX, variant="cu132"), "pypi_urls": []}
    (row,) = plan(truth(), offline)["environments"][0]["sources"]
    assert (row["index_url"], row["extra_index_urls"]) == (f"{NJU}/cu132", [])


def test_find_links_takes_the_rest_from_pypi() -> None:
    row = plan(truth(), wish(SITE))["environments"][0]
    assert row["requirements"] == ["torch==2.13.0+cpu"]
    assert row["sources"] == [
        {
            "name": "site",
            "kind": "find_links",
            "method": "pip",
            "index_url": TUNA,
            "extra_index_urls": [],
            "find_links": ["https://wheels.example.org/"],
        }
    ]
    offline = {**wish(SITE), "pypi_urls": []}
    assert plan(truth(), offline)["environments"][0]["sources"][0]["index_url"] is None


def test_find_links_must_carry_the_companions_too() -> None:
    assert codes(plan(truth(), wish(SITE, torchvision=True))) == ["no_build"]
    both = {**SITE, "carries": ["torch==2.13.0+cpu", "torchvision==0.28.0+cpu"]}
    row = plan(truth(), wish(both, torchvision=True))["environments"][0]
    assert row["requirements"] == ["torch==2.13.0+cpu", "torchvision==0.28.0+cpu"]


def test_carried_release_that_the_tables_lack_is_told() -> None:
    newer = {**SITE, "carries": ["torch==99.1.0+cpu"]}
    result = plan(truth(), wish(newer))
    assert codes(result) == ["no_build"]
    assert any("99.1.0" in line for line in texts(result["warnings"]))


# Drivers


@pytest.mark.parametrize(
    ("gpus", "os_version", "version", "flavour", "first_package", "torch"),
    [
        ([H100], "12", "535.261.03", "proprietary", "nvidia-kernel-dkms", "2.10.0"),
        ([H100], "13", "550.163.01", "proprietary", "nvidia-kernel-dkms", "2.10.0"),
        ([GTX_1080], "12", "535.261.03", "proprietary", "nvidia-kernel-dkms", "2.7.1"),
        ([K80], "12", "470.256.02", "proprietary", "nvidia-tesla-470-kernel-dkms", "2.0.1"),
        ([K80, A100], "12", "470.256.02", "proprietary", "nvidia-tesla-470-kernel-dkms", "2.0.1"),
    ],
)
def test_bare_host_gets_the_archives_driver(
    gpus: list[str], os_version: str, version: str, flavour: str, first_package: str, torch: str
) -> None:
    facts = truth(*gpus, os={"id": "debian", "version": os_version, "name": "Debian"})
    result = plan(facts, wish(PYPI, driver={"repository": "distribution"}))
    assert result["driver"]["action"] == "install"
    assert (result["driver"]["version"], result["driver"]["flavour"]) == (version, flavour)
    assert result["driver"]["branch"] == version[:3]
    assert result["driver"]["repository"] == "distribution"
    assert result["driver"]["packages"][0] == first_package
    assert build(result)[0] == torch
    assert result["expect"]["cuda_available"] is True


def test_grace_hopper_gets_open_modules() -> None:
    result = plan(truth(GH200, machine="aarch64"), wish(INDEX, driver={"repository": "distribution"}))
    assert result["driver"]["flavour"] == "open"
    assert "nvidia-open-kernel-dkms" in result["driver"]["packages"]
    assert build(result) == ("2.14.1", "cu126")


def test_flavour_and_branch_can_be_wished() -> None:
    driver = plan(truth(H100), wish(PYPI, driver={"flavour": "open", "branch": "535"}))["driver"]
    assert (driver["flavour"], driver["packages"][0]) == ("open", "nvidia-open-kernel-dkms")
    thirteen = truth(H100, os={"id": "debian", "version": "13", "name": "Debian 13"})
    assert plan(thirteen, wish(PYPI, driver={"branch": "535"}))["driver"]["version"] == "535.274.02"


@pytest.mark.parametrize("version", ["12", "13"])
def test_blackwell_has_no_driver_in_debians_archive(version: str) -> None:
    facts = truth(RTX_5090, os={"id": "debian", "version": version, "name": "Debian"})
    assert plan(facts, wish(PYPI))["driver"]["repository"] == "nvidia"
    result = plan(facts, wish(PYPI, driver={"repository": "distribution"}))
    assert codes(result) == ["no_driver_offered"]
    problem = result["problems"][0]
    assert "too old for GeForce RTX 5090 (Blackwell): the oldest that fits is 570" in problem["found"]
    assert "a driver >= 570 with open kernel modules by hand" in problem["fix"]
    assert result["driver"]["action"] == "none"


def test_branch_that_the_archive_lacks() -> None:
    result = plan(truth(H100), wish(PYPI, driver={"branch": "580", "repository": "distribution"}))
    assert codes(result) == ["no_driver_offered"]
    assert (
        "no repository has the branch 580 of driver.branch; there are 470, 535"
        in result["problems"][0]["found"]
    )
    assert "a driver >= 520.61.05 with" in result["problems"][0]["expected"]  # as NVIDIA writes it


def test_repository_without_packages_in_the_tables() -> None:
    facts = truth(H100, os={"id": "debian", "version": "11", "name": "Debian 11"})
    assert codes(plan(facts, wish(PYPI, driver={"repository": "nvidia"}))) == ["no_repository"]


@pytest.mark.parametrize(
    ("gpus", "driver", "flavour", "text"),
    [
        ([RTX_5090], "535.261.03", None, "too old"),
        ([RTX_5090], "580.95.05", "proprietary", "proprietary kernel modules"),
        ([GTX_1080], "595.112.07", None, "too new"),
        ([GTX_1080], "580.95.05", "open", "open kernel modules"),
        ([K80], "535.261.03", None, "too new"),
    ],
)
def test_driver_that_cannot_drive_the_gpu(
    gpus: list[str], driver: str, flavour: str | None, text: str
) -> None:
    result = plan(truth(*gpus, driver=driver, flavour=flavour), wish(PYPI, INDEX))
    assert codes(result) == ["driver_unfit"]
    assert text in result["problems"][0]["found"]
    assert result["environments"][0]["torch"] is None


@pytest.mark.parametrize("driver", [None, "535.261.03", "580.95.05", "595.112.07"])
@pytest.mark.parametrize("old", [GTX_1080, V100, K80])
def test_pascal_beside_blackwell_has_no_way(old: str, driver: str | None) -> None:
    for pair in ((old, RTX_5090), (RTX_5090, old)):
        result = plan(truth(*pair, driver=driver), wish(PYPI, INDEX))
        assert codes(result) == ["mixed_gpus"]
        assert "GeForce RTX 5090 (Blackwell: open modules, driver >= 570)" in result["problems"][0]["found"]


def test_driver_wishes_that_differ_from_the_host() -> None:
    facts = truth(H100, driver="580.95.05", flavour="open")
    assert codes(plan(facts, wish(PYPI, driver={"branch": "535"}))) == ["driver_differs"]
    assert codes(plan(facts, wish(PYPI, driver={"flavour": "proprietary"}))) == ["driver_differs"]
    assert codes(plan(facts, wish(PYPI, driver={"branch": "580", "flavour": "open"}))) == []


def test_next_boots_driver_counts() -> None:
    facts = truth(H100, driver="535.261.03")
    facts["driver"]["on_disk"] = {"version": "580.95.05", "flavour": "open"}
    result = plan(facts, wish(PYPI))
    assert result["driver"]["version"] == "580.95.05"
    assert any("535.261.03 is loaded" in line for line in texts(result["warnings"]))


def test_package_without_a_module_is_kept_and_told() -> None:
    facts = truth(H100)
    facts["driver"]["package"] = {"name": "cuda-drivers", "version": "1:580.95.05-1", "manager": "dpkg"}
    result = plan(facts, wish(PYPI))
    assert (result["driver"]["action"], result["driver"]["version"]) == ("keep", "580.95.05")
    assert any("no kernel module" in line for line in texts(result["warnings"]))


def test_container_gets_no_driver_unless_allowed() -> None:
    facts = truth(H100, virtualization={"type": "container", "detail": "docker"})
    result = plan(facts, wish(CPU_INDEX))
    assert result["driver"]["action"] == "none"
    assert build(result) == ("2.15.0", "cpu")
    assert any("container" in line for line in texts(result["reasons"]))
    assert codes(plan(facts, wish(PYPI, driver={"state": "present"}))) == ["driver_in_container"]
    allowed = plan(facts, wish(PYPI, driver={"allow_in_container": True}))
    assert allowed["driver"]["action"] == "install"
    assert build(allowed) == ("2.15.0", "cu132")


def test_container_with_a_loaded_driver_uses_it() -> None:
    facts = truth(H100, driver="535.261.03", virtualization={"type": "container", "detail": "docker"})
    assert build(plan(facts, wish(PYPI))) == ("2.10.0", "cu128")


def test_virtual_machine_is_like_metal() -> None:
    facts = truth(H100, virtualization={"type": "vm", "detail": "kvm"})
    assert plan(facts, wish(PYPI))["driver"]["action"] == "install"


def test_states() -> None:
    assert codes(plan(truth(H100), wish(PYPI, driver={"state": "keep"}))) == ["no_driver"]
    kept = plan(truth(H100), wish(CPU_INDEX, driver={"state": "keep"}, variant="cpu"))
    assert (kept["driver"]["action"], kept["problems"]) == ("none", [])
    without = plan(truth(H100, driver="580.95.05"), wish(CPU_INDEX, driver={"state": "none"}))
    assert build(without) == ("2.15.0", "cpu")
    assert without["expect"]["cuda_available"] is False
    present = plan(truth(), wish(CPU_INDEX, driver={"state": "present"}))
    assert present["driver"]["action"] == "install"
    assert build(present) == ("2.15.0", "cpu")


def test_secure_boot_is_warned_about() -> None:
    assert any(
        "Secure Boot" in line for line in texts(plan(truth(H100, secure_boot=True), wish(PYPI))["warnings"])
    )
    assert not any("Secure Boot" in line for line in texts(plan(truth(H100), wish(PYPI))["warnings"]))


@pytest.mark.parametrize(
    ("today", "text"),
    [
        ("2026-06-30", "reaches its end of life"),
        ("2026-07-01", "is past"),
        ("2025-12-31", None),
        ("2026-01-01", "reaches"),
    ],
)
def test_end_of_life_of_a_branch(today: str, text: str | None) -> None:
    day = datetime.date.fromisoformat(today)
    result = planner.plan(truth(H100, driver="535.261.03"), wish(PYPI), "gpu07", day)
    found = [line for line in texts(result["warnings"]) if "end of life" in line]
    assert [text in line for line in found] == [True] if text else not found


# What cannot be had


def test_cpu_host_with_pypi_only_says_what_would_help() -> None:
    result = plan(truth(), wish(PYPI))
    assert codes(result) == ["no_build"]
    problem = result["problems"][0]
    assert problem["what"] == "environments[0] (torch)"
    assert "torch 2.15.0 cpu is carried by none of the sources allowed: tuna (pypi)" in problem["found"]
    assert "add a source that carries torch 2.15.0 cpu" in problem["fix"]
    assert result["environments"][0] == {
        "name": "torch",
        "python": "3.11",
        "torch": None,
        "variant": None,
        "cuda": None,
        "companions": [],
        "requirements": [],
        "sources": [],
    }


def test_aarch64_has_a_cpu_build_on_pypi() -> None:
    assert build(plan(truth(machine="aarch64"), wish(PYPI))) == ("2.10.0", "cpu")


def test_python_that_a_release_lacks() -> None:
    result = plan(truth(H100, driver="595.112.07"), wish(PYPI, python="3.10", torch="2.15.0"))
    assert codes(result) == ["no_build"]
    assert "is not built for Python 3.10" in result["problems"][0]["found"]
    assert "set environments[0].python to one of 3.11" in result["problems"][0]["fix"]


def test_gpu_without_any_build() -> None:
    result = plan(truth(GTX_680), wish(PYPI, INDEX))
    assert codes(result) == ["no_build"]
    assert (
        "no release of torch for x86_64 has code for GeForce GTX 680 (compute capability 3.0)"
        in result["problems"][0]["found"]
    )
    assert "set environments[0].variant to cpu" in result["problems"][0]["fix"]


def test_fermi_has_no_driver_at_all() -> None:
    assert codes(plan(truth(GTX_480), wish(PYPI))) == ["no_driver_offered"]


def test_pin_that_the_driver_forbids() -> None:
    result = plan(truth(H100, driver="535.261.03"), wish(PYPI, torch="2.15.0"))
    assert "a driver >= 580.65.06 would allow torch 2.15.0 cu132" in result["problems"][0]["fix"]


def test_pins_that_contradict_each_other_say_which_to_loosen() -> None:
    result = plan(truth(H100, driver="595.112.07"), wish(PYPI, torch="2.15.0", variant="cu126"))
    assert codes(result) == ["no_build"]
    assert "set environments[0].variant to cu132: torch 2.15.0 cu132 would do" in result["problems"][0]["fix"]
    assert "let environments[0].torch allow 2.7.1: torch 2.7.1 cu126 would do" in result["problems"][0]["fix"]


def test_no_driver_is_installed_into_wsl() -> None:
    facts = truth(virtualization={"type": "wsl2", "detail": None})
    result = plan(facts, wish(PYPI, CPU_INDEX, driver={"state": "present"}))
    assert result["driver"]["action"] == "none"
    assert "WSL2: the driver belongs to Windows, none is installed here" in texts(result["reasons"])


def test_old_glibc_and_other_c_libraries() -> None:
    assert build(plan(truth(H100, driver="595.112.07", glibc="2.28"), wish(PYPI))) == ("2.15.0", "cu132")
    facts = truth(H100, driver="595.112.07", glibc="2.17")
    assert build(plan(facts, wish(PYPI))) == ("2.6.0", "cu124")
    result = plan(truth(H100, driver="595.112.07", glibc=None), wish(PYPI))
    assert "needs glibc" in result["problems"][0]["found"]


def test_low_confidence_is_taken_only_when_named() -> None:
    only_129 = {**INDEX, "variants": ["cu129"]}
    facts = truth(H100, driver="595.112.07")
    result = plan(facts, wish(only_129))
    assert build(result) == ("2.8.0", "cu129")
    assert any("2.13.0 cu129 is not known for certain" in line for line in texts(result["reasons"]))
    named = plan(facts, wish(only_129, variant="cu129"))
    assert build(named) == ("2.13.0", "cu129")
    assert any("low confidence" in line for line in texts(named["warnings"]))


# Truths


def test_unlisted_id_in_a_known_block_is_judged_by_it() -> None:
    result = plan(truth("2325", driver="535.261.03"), wish(PYPI))
    assert build(result) == ("2.10.0", "cu128")
    assert result["gpus"][0]["capability"] == "9.0"
    assert any("10de:2325" in line and "not in the tables" in line for line in texts(result["warnings"]))


@pytest.mark.parametrize("device", ["ffff", "2a80"])
def test_unknown_gpu(device: str) -> None:
    result = plan(truth(H100, device, driver="580.95.05"), wish(PYPI))
    assert codes(result) == ["unknown_gpu"]
    assert f"10de:{device}" in result["problems"][0]["found"]
    assert "0000:19:00.0" in result["problems"][0]["what"]
    assert result["environments"][0]["torch"] is None


def test_unknown_system_lists_the_known_ones() -> None:
    facts = truth(H100, os={"id": "plan9", "version": "4", "name": "Plan 9"})
    result = plan(facts, wish(PYPI))
    assert codes(result) == ["unknown_os"]
    assert result["problems"][0]["found"] == "Plan 9"
    assert result["problems"][0]["expected"].startswith("one of Debian 11, 12, 13; Ubuntu 20.04, 22.04")


def test_all_problems_at_once() -> None:
    facts = truth(H100, "ffff", os={"id": "plan9", "version": "4"}, machine="vax")
    wanted = wish(PYPI, name="a/b", driver={"branch": "999"})
    assert sorted(codes(plan(facts, wanted))) == [
        "bad_wish",
        "bad_wish",
        "unknown_gpu",
        "unknown_machine",
        "unknown_os",
    ]


def test_several_environments_are_told_apart() -> None:
    wanted = wish(PYPI, INDEX)
    wanted["environments"].append({"name": "old", "python": "3.10", "torch": "2.5.1", "variant": "cpu"})
    result = plan(truth(H100, driver="580.95.05"), wanted)
    assert [(row["name"], row["torch"], row["variant"]) for row in result["environments"]] == [
        ("torch", "2.15.0", "cu132"),
        ("old", "2.5.1", "cpu"),
    ]
    assert any(line.startswith("old: torch 2.5.1 cpu from nju") for line in texts(result["reasons"]))


def test_input_is_left_alone() -> None:
    facts, wanted = truth(H100), wish(PYPI, INDEX, SITE)
    before = copy.deepcopy((facts, wanted))
    plan(facts, wanted)
    assert (facts, wanted) == before


def test_a_plan_in_one_line() -> None:
    assert plan_report.line(plan(truth("1db4", driver="535.261.03"), wish(PYPI))) == (
        "driver keep: the host keeps the driver 535.261.03 that it has; torch: torch 2.10.0 cu128 from tuna, "
        "for torch 2.15.0 cu132 has no code for Tesla V100 PCIe 16GB (compute capability 7.0)"
    )
    assert plan_report.line(plan(truth(), wish(PYPI, variant="cu132"))).startswith(
        "driver none: no NVIDIA GPU"
    )
    assert plan_report.line(plan(truth(GTX_480), wish(PYPI))) == "driver none; torch: torch none"
