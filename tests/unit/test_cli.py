"""torchfleet-plan as its users call it: options, names of GPUs, facts, answers, exit status."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import cli, tables
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOOP = 0.25  # CPU seconds of an empty loop on the machine on which the half second was promised
TRUTHS = Path(__file__).parent / "fixtures" / "preflight"
COMMAND = (
    "from ansible_collections.torchfleet.gpu.plugins.plugin_utils.cli import main; raise SystemExit(main())"
)
TODAY = ("--today", "2026-11-23")
KEYS = {
    "driver": {"action", "branch", "version", "flavour", "packages"},
    "torch": {"version", "variant", "requirement", "source", "torchvision", "torchaudio"},
}

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    try:
        status = cli.main([*arguments, *TODAY])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def plan(capsys: Capture, *arguments: str, status: int = 0) -> dict[str, Any]:
    ended, out, err = run(capsys, *arguments, "--json")
    assert (ended, err) == (status, "")
    return dict(json.loads(out))


def separate(*arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    """A process of its own, that sees the project as its console script does."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments, *TODAY],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT / "collections"), "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )


# ---- what the host is


@pytest.mark.parametrize(
    "name", ["10de:2330", "10DE:2330", "0x2330", "2330", "H100 SXM5 80GB", "nvidia h100-sxm5 80gb"]
)
def test_a_gpu_by_its_id_or_its_name(capsys: Capture, name: str) -> None:
    answer = plan(capsys, "--gpu", name)
    assert [gpu["device"] for gpu in answer["gpus"]] == ["2330"]


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("rtx 4090", "2684"),
        ("GTX 1080 Ti", "1b06"),
        ("GeForce RTX 5090", "2b85"),
        ("Tesla T4", "1eb8"),
        ("k80", "102d"),
        ("B200", "2901"),
        ("gb10", "2e12"),
        ("V100 PCIe 32GB", "1db6"),
        ("A100 pcie 80gb", "20b5"),
    ],
)
def test_a_name_without_its_brand_is_enough(capsys: Capture, name: str, device: str) -> None:
    assert cli.device(name) == device


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("V100", ["10de:1db4  Tesla V100 PCIe 16GB (Volta)", "10de:1db1  Tesla V100 SXM2 16GB (Volta)"]),
        ("4090", ["10de:2684  GeForce RTX 4090 (Ada)", "10de:2685  GeForce RTX 4090 D (Ada)"]),
        ("GT 730", ["10de:0f02  GeForce GT 730 (Fermi)", "10de:1287  GeForce GT 730 (Kepler)"]),
        ("GeForce RTX", ["more"]),
        ("RTX 409O", ["10de:2684  GeForce RTX 4090 (Ada)"]),
        ("Voodoo2", ["PCI id"]),
    ],
)
def test_an_ambiguous_or_unknown_name_lists_what_it_may_be(
    capsys: Capture, name: str, candidates: list[str]
) -> None:
    status, out, err = run(capsys, "--gpu", name)
    assert (status, out) == (2, "")
    assert f"--gpu {name}" in err
    for text in candidates:
        assert text in err


def test_an_unknown_id_is_a_problem_of_the_plan(capsys: Capture) -> None:
    answer = plan(capsys, "--gpu", "ffff", status=1)
    assert [row["code"] for row in answer["problems"]] == ["unknown_gpu"]
    assert answer["torch"] is None


def test_every_gpu_of_the_host_counts(capsys: Capture) -> None:
    answer = plan(capsys, "--gpu", "GTX 1080 Ti", "--gpu", "RTX 5090", status=1)
    assert [row["code"] for row in answer["problems"]] == ["mixed_gpus"]
    two = plan(capsys, "--gpu", "2330", "--gpu", "10de:2330")
    assert [gpu["slot"] for gpu in two["gpus"]] == ["0000:01:00.0", "0000:02:00.0"]


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("debian12", "Debian 12"),
        ("Debian-12", "Debian 12"),
        ("ubuntu2404", "Ubuntu 24.04"),
        ("ubuntu24.04", "Ubuntu 24.04"),
        ("rhel9", "Red Hat Enterprise Linux 9"),
        ("rocky9", "Rocky Linux 9"),
        ("rocky9.4", "Rocky Linux 9"),
        ("alma9", "AlmaLinux 9"),
        ("oracle8", "Oracle Linux 8"),
        ("rhel10", "Red Hat Enterprise Linux 10"),
        ("fedora44", "Fedora 44"),
        ("sles15", "SUSE Linux Enterprise Server 15"),
        ("opensuse15", "openSUSE Leap 15"),
    ],
)
def test_an_operating_system_by_its_short_name(capsys: Capture, name: str, system: str) -> None:
    answer = plan(capsys, "--os", name)
    assert answer["host"]["os"] == system
    assert "assumed_os" not in [row["code"] for row in answer["reasons"]]


def test_every_operating_system_of_the_tables_has_a_short_name(capsys: Capture) -> None:
    for system in tables.systems():
        answer = plan(capsys, "--os", system.id + system.version.replace(".", ""))
        assert answer["host"]["os"] == system.name


@pytest.mark.parametrize("name", ["plan9", "debian99", "rocky", "windows"])
def test_an_operating_system_that_the_tables_lack_is_a_problem(capsys: Capture, name: str) -> None:
    answer = plan(capsys, "--os", name, status=1)
    assert [row["code"] for row in answer["problems"]] == ["unknown_os"]


def test_without_a_name_it_says_which_system_it_assumed(capsys: Capture) -> None:
    answer = plan(capsys)
    (reason,) = (row for row in answer["reasons"] if row["code"] == "assumed_os")
    assert "ubuntu2404" in reason["text"]
    assert "--os" in reason["remedy"]
    assert answer["host"]["os"] == "Ubuntu 24.04"
    assert "Ubuntu 24.04 (assumed)" in run(capsys)[1]


def test_glibc_is_that_of_the_system_or_the_one_given(capsys: Capture) -> None:
    plan(capsys, "--os", "rhel8", "--torch", "2.15.0", "--variant", "cpu")
    answer = plan(
        capsys, "--os", "rhel8", "--torch", "2.15.0", "--variant", "cpu", "--glibc", "2.17", status=1
    )
    assert "glibc >= 2.28; the host has 2.17" in answer["problems"][0]["text"]


def test_the_machine_decides_as_well(capsys: Capture) -> None:
    answer = plan(
        capsys,
        "--gpu",
        "T4",
        "--arch",
        "aarch64",
        "--driver",
        "580.95.05",
        "--sources",
        "pypi,wheels",
        status=1,
    )
    assert [row["code"] for row in answer["problems"]] == ["no_build"]
    assert plan(capsys, "--gpu", "GB10", "--arch", "aarch64")["torch"]["cuda"].startswith("13.")


# ---- the driver, and the wish


def test_the_driver_that_is_there_is_kept_when_told_so(capsys: Capture) -> None:
    answer = plan(capsys, "--gpu", "2330", "--driver", "535.261.03", "--driver-policy", "keep")
    assert answer["driver"]["action"] == "keep"
    assert answer["driver"]["version"] == "535.261.03"
    assert answer["driver"]["flavour"] is None
    assert answer["torch"]["cuda"].startswith("12.")
    losers = " ".join(row["text"] for row in answer["reasons"])
    assert "needs driver >= 580.65.06; the host keeps 535.261.03" in losers


def test_a_driver_may_be_upgraded_where_that_serves_better(capsys: Capture) -> None:
    kept = plan(capsys, "--gpu", "2330", "--driver", "535.261.03", "--driver-policy", "keep")
    better = plan(capsys, "--gpu", "2330", "--driver", "535.261.03")
    assert better["driver"]["action"] == "upgrade"
    assert better["driver"]["replaces"]["version"] == "535.261.03"
    assert better["driver"]["packages"]
    assert Version(better["torch"]["version"]) > Version(kept["torch"]["version"])


def test_without_a_driver_one_is_installed_unless_it_must_stay_so(capsys: Capture) -> None:
    answer = plan(capsys, "--gpu", "2330", "--driver", "none")
    assert answer["driver"]["action"] == "install"
    assert answer["driver"]["flavour"] in ("open", "proprietary")
    assert answer == plan(capsys, "--gpu", "2330")
    none = plan(capsys, "--gpu", "2330", "--driver-policy", "keep", status=1)
    assert "set --driver-policy to auto" in none["problems"][0]["remedy"]


def test_a_branch_stands_for_its_newest_release(capsys: Capture) -> None:
    answer = plan(capsys, "--gpu", "2330", "--driver", "580", "--driver-policy", "keep")
    known = [offer for system in tables.systems() for row in system.repositories.values() for offer in row]
    newest = max((offer for offer in known if offer.branch == "580"), key=lambda offer: offer.version)
    assert answer["driver"]["version"] == newest.text
    assert answer["reasons"][1]["code"] == "assumed_driver"


def test_what_the_wish_pins(capsys: Capture) -> None:
    assert plan(capsys, "--gpu", "2330", "--torch", "2.7.1")["torch"]["version"] == "2.7.1"
    assert plan(capsys, "--gpu", "2330", "--torch", ">=2.5,<2.9")["torch"]["version"] == "2.8.0"
    assert plan(capsys, "--gpu", "2330", "--variant", "cu126")["torch"]["variant"] == "cu126"
    assert plan(capsys, "--gpu", "2330", "--variant", "cpu")["torch"]["variant"] == "cpu"
    assert plan(capsys, "--gpu", "2330", "--python", "3.9")["torch"]["version"] == "2.8.0"
    assert plan(capsys, "--gpu", "2330", "--torchaudio")["torch"]["version"] == "2.11.0"
    answer = plan(capsys, "--gpu", "2330", "--torch", "99.0", status=1)
    assert answer["problems"][0]["text"].startswith("--torch: 99.0")


def test_the_order_of_the_sources_is_the_order_of_preference(capsys: Capture) -> None:
    first = plan(capsys, "--gpu", "2330", "--sources", "pypi,wheels")["torch"]
    second = plan(capsys, "--gpu", "2330", "--sources", "wheels", "--sources", "pypi")["torch"]
    assert (first["source"], second["source"]) == ("pypi", "wheels")
    assert first["version"] == second["version"]
    assert second["index_url"].endswith("/" + second["variant"])


def test_a_conda_channel_gives_channels_and_specs(capsys: Capture) -> None:
    torch = plan(capsys, "--gpu", "2330", "--sources", "pytorch-channel", "--torchvision")["torch"]
    assert torch["version"] == "2.5.1"
    assert torch["requirement"] == torch["specs"][0]
    assert len(torch["channels"]) == 2
    assert not {"index_url", "find_links"} & set(torch)


# ---- facts that gpu_facts wrote


@pytest.mark.parametrize(
    "wrap",
    [
        lambda truth: truth,
        lambda truth: {"torchfleet_truth": truth},
        lambda truth: {"preflight_truth": truth},
        lambda truth: {"ansible_facts": {"torchfleet_truth": truth}, "changed": False},
    ],
    ids=["bare", "variable", "preflight_truth", "result"],
)
@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump, lambda value: json.dumps(value, indent="\t")])
def test_facts_instead_of_options(capsys: Capture, tmp_path: Path, wrap: Any, dump: Any) -> None:
    path = tmp_path / "facts"
    path.write_text(dump(wrap(yaml.safe_load((TRUTHS / "hopper.yml").read_text(encoding="utf-8")))))
    answer = plan(capsys, "--facts", str(path))
    assert [gpu["slot"] for gpu in answer["gpus"]] == ["0000:18:00.0"]
    assert answer["driver"]["action"] == "install"
    assert answer["host"]["os"] == "Debian GNU/Linux 12 (bookworm)"


@pytest.mark.parametrize(
    "option",
    [
        ("--gpu", "2330"),
        ("--driver", "none"),
        ("--os", "debian12"),
        ("--arch", "x86_64"),
        ("--glibc", "2.36"),
    ],
)
def test_facts_and_what_they_tell_contradict(capsys: Capture, option: tuple[str, str]) -> None:
    status, out, err = run(capsys, "--facts", str(TRUTHS / "hopper.yml"), *option)
    assert (status, out) == (2, "")
    assert f"leave out {option[0]}" in err


@pytest.mark.parametrize(
    "text", [None, "[]", "a: b", "{", "\0", "- x: [", "torchfleet_truth: 7", "&a [*a]", "[" * 9999]
)
def test_facts_that_cannot_be_read(capsys: Capture, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "facts"
    if text is not None:
        path.write_text(text)
    status, out, err = run(capsys, "--facts", str(path))
    assert (status, out) == (2, "")
    assert f"--facts {path}" in err


def test_facts_do_not_steer_the_terminal(capsys: Capture, tmp_path: Path) -> None:
    facts = yaml.safe_load((TRUTHS / "hopper.yml").read_text(encoding="utf-8"))
    facts["os"]["name"] = "Debian\x1b[2J\n12"
    (tmp_path / "facts").write_text(json.dumps(facts))
    out = run(capsys, "--facts", str(tmp_path / "facts"))[1]
    assert out.startswith("Host      Debian[2J 12, x86_64\n")


# ---- wrong usage


@pytest.mark.parametrize(
    "arguments",
    [
        "--driver new", "--driver 1", "--driver-policy maybe", "--arch riscv64", "--python 2", "--python 3",
        "--torch newest", "--torch >>2", "--variant rocm6", "--glibc 2", "--sources pip", "--sources ,",
        "--sources pypi,pypi", "--today tomorrow", "gpu07", "--gpus 2330", "--gpu",
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2(capsys: Capture, arguments: str) -> None:
    status, out, err = run(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert "torchfleet-plan: error:" in err


# ---- the answer


CASES: list[list[str]] = [
    ["--gpu", "2330"],
    ["--gpu", "1b06", "--os", "debian12", "--explain"],
    ["--gpu", "102d", "--explain"],
    ["--gpu", "1b06", "--gpu", "2b85", "--explain"],
    ["--gpu", "2330", "--driver", "535", "--driver-policy", "keep", "--explain"],
    ["--gpu", "2330", "--driver", "535", "--driver-policy", "keep", "--forward-compat", "--explain"],
    ["--gpu", "2330", "--sources", "pytorch-channel", "--torchvision", "--explain"],
    ["--gpu", "ffff", "--os", "plan9", "--torch", "99", "--explain"],
    ["--gpu", "2901", "--driver-policy", "keep"],
    ["--gpu", "2330", "--python", "3.7", "--sources", "pypi"],
    ["--gpu", "3002", "--explain"],
    [],
]


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_the_keys_of_the_answer(capsys: Capture, arguments: list[str]) -> None:
    status, out, _err = run(capsys, *arguments, "--json")
    answer = json.loads(out)
    assert status == (1 if answer["problems"] else 0)
    assert KEYS["driver"] <= answer["driver"].keys()
    assert answer["driver"]["action"] in ("keep", "install", "upgrade", "none", "remove")
    if answer["torch"] is not None:
        assert KEYS["torch"] <= answer["torch"].keys()
        assert len({"index_url", "find_links", "channels"} & answer["torch"].keys()) == 1
    elif not answer["problems"]:
        pytest.fail("no torch, and no problem either")
    for name in ("reasons", "warnings", "problems"):
        for row in answer[name]:
            assert list(row) == ["code", "text", "remedy"]
            assert row["text"]
            assert row["remedy"] or name != "problems"


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_texts_name_options_and_not_the_keys_of_the_wish(capsys: Capture, arguments: list[str]) -> None:
    _status, out, err = run(capsys, *arguments, "--explain")
    for key in ("environments[", "driver.state", "driver.upgrade", "driver.forward_compat", "sources["):
        assert key not in out + err


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_what_people_read_fits_80_columns(capsys: Capture, arguments: list[str]) -> None:
    status, out, err = run(capsys, *arguments)
    for line in (out + err).splitlines():
        assert len(line) <= 80 or len(line.split()) <= 2, line
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")][:4] == [
        "Host", "GPUs", "Driver", "torch",
    ]  # fmt: skip
    assert ("Problem" in err) == (status == 1)
    assert "Problem" not in out


def test_explain_adds_the_reasons_and_the_remedies(capsys: Capture) -> None:
    arguments = ["--gpu", "2330", "--driver", "535", "--driver-policy", "keep"]
    short, long = run(capsys, *arguments)[1], run(capsys, *arguments, "--explain")[1]
    assert "Reason" not in short
    assert "needs driver >= 580.65.06" in long
    assert "-> " in long
    assert len(long) > len(short)


def test_equal_gpus_are_counted(capsys: Capture) -> None:
    out = run(capsys, "--gpu", "2330", "--gpu", "2330")[1]
    assert "2 x H100 SXM5 80GB (Hopper, 9.0)" in out


def test_the_same_input_gives_the_same_bytes() -> None:
    arguments = ["--gpu", "1b06", "--gpu", "1db6", "--os", "debian12", "--json"]
    first, second = (separate(*arguments, seed=seed) for seed in ("1", "2"))
    assert first.stdout
    assert (first.stdout, first.stderr) == (second.stdout, second.stderr)


def test_help_and_version(capsys: Capture) -> None:
    status, out, _err = run(capsys, "--help")
    assert status == 0
    assert "--driver-policy" in out


# ---- what the command is


def test_the_defaults_are_those_of_the_roles() -> None:
    given = yaml.safe_load((tables.DATA / "command.yml").read_text(encoding="utf-8"))["sources"]
    roles = yaml.safe_load((ROOT / "roles" / "mirrors" / "defaults" / "main.yml").read_text(encoding="utf-8"))
    assert given["pypi"]["urls"] == roles["mirrors_pypi_urls"]
    indexes = [row["url"] for row in roles["mirrors_torch_indexes"] if row["kind"] == "index"]
    assert given["wheels"]["urls"] == indexes
    for name in ("conda-forge", "pytorch-channel"):
        cloud = name.removesuffix("-channel")
        assert given[name]["urls"] == [f"{url}/cloud/{cloud}" for url in roles["mirrors_anaconda_urls"]]


def test_the_help_tells_the_defaults_of_the_data(capsys: Capture) -> None:
    out = " ".join(run(capsys, "--help")[1].split())
    given = yaml.safe_load((tables.DATA / "command.yml").read_text(encoding="utf-8"))["defaults"]
    for value in given.values():
        assert f"(default: {value})" in out


def test_it_needs_no_ansible_and_half_a_second() -> None:
    code = (
        "import sys; from ansible_collections.torchfleet.gpu.plugins.plugin_utils.cli import main; main(); "
        "sys.exit(sum(name.partition('.')[0] == 'ansible' for name in sys.modules))"
    )
    command = [sys.executable, "-c", code, "--gpu", "2330", "--gpu", "1b06", "--explain"]
    # CPU and not wall, the best of three, beside a loop: other tests run at the time, and slow any program.
    loop = [sys.executable, "-c", "for _ in range(5_000_000): pass"]
    costs = [(cpu(command), cpu(loop)) for _ in range(3)]
    assert min(cost for cost, _ in costs) < 0.5 * max(1.0, min(beside for _, beside in costs) / LOOP), costs


def cpu(command: Sequence[str]) -> float:
    """The CPU seconds of a command that ends well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", ""], "--gpu '': no GPU is known by that name: give the PCI id"),
        (["--explian"], "did you mean --explain?"),
        (["--sources", ""], "--sources: found none, expected some of pypi, wheels"),
        (["--sources", "pypi,tuna"], "--sources: found 'tuna', expected some of pypi"),
    ],
)
def test_wrong_usage_says_what_would_be_right(capsys: Capture, arguments: list[str], said: str) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 2, "the message, and where the options are listed"


def test_names_of_machines_and_lists_as_people_write_them(capsys: Capture) -> None:
    written = ["--gpu", "GB10", "--os", "ubuntu2404", "--arch", "arm64", "--sources", "pypi, wheels"]
    exact = ["--gpu", "GB10", "--os", "ubuntu2404", "--arch", "aarch64", "--sources", "pypi,wheels"]
    assert run(capsys, *written) == run(capsys, *exact)


def test_a_driver_policy_of_none(capsys: Capture) -> None:
    """The remedy that problems name must be an option, and must help."""
    host = ["--gpu", "V100 PCIe 32GB", "--os", "fedora44"]
    status, _out, err = run(capsys, *host)
    assert status == 1
    assert "set --driver-policy to none, or --variant to cpu" in " ".join(err.split())
    for way in (["--driver-policy", "none"], ["--variant", "cpu"]):
        status, out, err = run(capsys, *host, *way)
        assert (status, err) == (0, "")
        assert re.search(r"^torch     \S+ cpu from", out, re.MULTILINE)
        assert "Driver    none" in out


def test_an_unknown_branch_is_told(capsys: Capture) -> None:
    status, out, _err = run(capsys, "--gpu", "2684", "--driver", "999.1.1", "--os", "debian12")
    assert status == 0
    assert "driver branch 999 is not in the tables" in " ".join(out.split())


def test_facts_that_are_no_facts_are_told_in_a_line(capsys: Capture, tmp_path: Path) -> None:
    for content, told in (
        (b"gpus:\n  - {slot: ", "neither JSON nor YAML"),
        (bytes(range(128, 256)), "no text"),
    ):
        (tmp_path / "facts").write_bytes(content)
        status, _out, err = run(capsys, "--facts", str(tmp_path / "facts"))
        assert (status, len(err.splitlines())) == (2, 2)
        assert told in err
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        assert run(capsys, "--facts", str(path))[0] == 2
        assert said in run(capsys, "--facts", str(path))[2]
