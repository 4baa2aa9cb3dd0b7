"""gpu_facts' readers of the driver, on what real tools wrote: dpkg, DKMS, rpm, dnf, zypper, kmod, efitools.

fixtures/gpu_facts/README.md says where each file came from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import installation
from ansible_collections.torchfleet.gpu.plugins.module_utils.der import Certificate, certificate, fields
from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host
from ansible_collections.torchfleet.gpu.plugins.module_utils.modinfo import flavour, read_modinfo
from ansible_collections.torchfleet.gpu.plugins.module_utils.packages import (
    of_other_branches,
    package_manager,
    packages,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.secure_boot import (
    Keys,
    secure_boot,
    signature_lists,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.truth import os_release, pci
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.flavours import ranges

FIXTURES = Path(__file__).parent / "fixtures" / "gpu_facts"
KERNEL = "6.1.0-50-amd64"
DKMS_KEY = "DKMS module signing key"
SERIAL = "1b54d965d09a87b8aeb83b0dd5d9a736f376d65f"
EFIVARS = "/sys/firmware/efi/efivars"
SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
MOK_LIST = f"{EFIVARS}/MokListRT-{SHIM}"

Files = dict[str, "str | bytes"]
MakeHost = Callable[..., Host]


def recorded(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def silent(command: list[str]) -> tuple[int, str, str]:
    raise AssertionError(f"nothing had to be run, but: {command}")


@pytest.fixture
def host(tmp_path: Path) -> MakeHost:
    def build(files: Files, run: Callable[[list[str]], tuple[int, str, str]] = silent) -> Host:
        for name, content in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Host(run, root=str(tmp_path), machine="x86_64")

    return build


# Operating systems: the lines that count, as the systems themselves have them, quotes and all


@pytest.mark.parametrize(
    ("lines", "expected", "manager"),
    [
        ('VERSION_ID="13"\nVERSION_CODENAME=trixie\nID=debian', ("debian", "13", "trixie", []), "dpkg"),
        (
            'VERSION_ID="26.04"\nVERSION_CODENAME=resolute\nID=ubuntu\nID_LIKE=debian',
            ("ubuntu", "26.04", "resolute", ["debian"]),
            "dpkg",
        ),
        ('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.6"', ("rhel", "9.6", None, ["fedora"]), "rpm"),
        (
            'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="10.0"',
            ("rocky", "10.0", None, ["rhel", "centos", "fedora"]),
            "rpm",
        ),
        (
            'ID="almalinux"\nID_LIKE="rhel centos fedora"\nVERSION_ID="10.0"',
            ("almalinux", "10.0", None, ["rhel", "centos", "fedora"]),
            "rpm",
        ),
        ('ID="ol"\nVERSION_ID="7.5"', ("ol", "7.5", None, []), "rpm"),
        ('ID=fedora\nVERSION_ID=42\nVERSION_CODENAME=""', ("fedora", "42", None, []), "rpm"),
        (
            'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.2"',
            ("opensuse-leap", "15.2", None, ["suse", "opensuse"]),
            "rpm",
        ),
        ('VERSION_ID="12.1"\nID="sles"', ("sles", "12.1", None, []), "rpm"),
    ],
)
def test_os_release(
    host: MakeHost, lines: str, expected: tuple[str, str, str | None, list[str]], manager: str
) -> None:
    machine = host({"/etc/os-release": lines + "\n", "/usr/bin/rpm": ""})
    found = os_release(machine)
    assert (found["id"], found["version"], found["codename"], found["like"]) == expected
    assert package_manager(machine, found) == manager


# dpkg


def killed_dpkg() -> Files:
    files: Files = {"/var/lib/dpkg/status": recorded("dpkg/status")}
    for path in (FIXTURES / "dpkg/updates").iterdir():
        files[f"/var/lib/dpkg/updates/{path.name}"] = path.read_bytes()
    return files


def test_dpkg_that_was_killed_in_the_build_of_a_module(host: MakeHost) -> None:
    """Its status file still says unpacked of what its journal knows to be installed."""
    witness, rows, half = packages(host(killed_dpkg()), "dpkg")
    assert witness == {"name": "nvidia-open-kernel-dkms", "version": "535.261.03-1", "manager": "dpkg"}
    assert {row["name"]: row["branch"] for row in rows} == {
        "firmware-nvidia-gsp": "535",
        "libcuda1": "535",
        "libnvidia-ptxjitcompiler1": "535",
        "nvidia-alternative": "535",
        "nvidia-kernel-dkms": "535",
        "nvidia-kernel-support": "535",
        "nvidia-modprobe": "535",
        "nvidia-open-kernel-dkms": "535",
        "nvidia-open-kernel-support": "535",
        "nvidia-persistenced": "535",
    }
    assert {row["name"]: row["state"] for row in half} == {
        "glx-alternative-mesa": "triggers-pending",
        "libc-bin": "triggers-pending",
        "nvidia-kernel-dkms": "half-configured",
        "update-glx": "triggers-pending",
    }


def test_a_package_that_the_journal_mended_is_whole(host: MakeHost) -> None:
    mended = "Package: libc-bin\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n"
    files = killed_dpkg()
    files["/var/lib/dpkg/updates/0022"] = mended
    _witness, _rows, half = packages(host(files), "dpkg")
    assert "libc-bin" not in [row["name"] for row in half]


def status(*rows: tuple[str, str, str]) -> Files:
    text = "\n".join(
        f"Package: {name}\nStatus: {state}\nArchitecture: amd64\nVersion: {version}\n"
        for name, version, state in rows
    )
    return {"/var/lib/dpkg/status": text}


def test_holds_and_branches_by_dpkg(host: MakeHost) -> None:
    held, installed = "hold ok installed", "install ok installed"
    _witness, rows, half = packages(
        host(
            status(
                ("linux-modules-nvidia-580-server-6.8.0-45-generic", "6.8.0-45.45+1", held),
                ("nvidia-driver-580-server", "580.173.02-0ubuntu0.24.04.1", held),
                ("libnvidia-compute-570-server", "570.195.03-0ubuntu0.24.04.1", installed),
                ("nvidia-modprobe", "535.161.07-1", installed),  # a tool of its own: no leftover
                ("cuda-compat-13-2", "595.58.03-1", installed),
                ("nvidia-container-toolkit", "1.18.0-1", installed),
                ("nvidia-cuda-toolkit", "12.0.140~12.0.1-4", installed),
                ("firmware-nvidia-graphics", "20250410-2", installed),
                ("nvidia-driver-470", "470.256.02-0ubuntu1", "deinstall ok config-files"),
            )
        ),
        "dpkg",
    )
    assert {row["name"]: (row["branch"], row["held"]) for row in rows} == {
        "cuda-compat-13-2": ("595", False),
        "libnvidia-compute-570-server": ("570", False),
        "linux-modules-nvidia-580-server-6.8.0-45-generic": ("580", True),
        "nvidia-driver-580-server": ("580", True),
        "nvidia-modprobe": ("535", False),
    }
    assert half == []
    witness = {"name": "nvidia-driver-580-server"}
    assert of_other_branches(rows, witness) == [
        {"name": "libnvidia-compute-570-server", "version": "570.195.03-0ubuntu0.24.04.1", "branch": "570"}
    ]
    assert of_other_branches(rows, None) == []


# rpm


def rpm(command: list[str]) -> tuple[int, str, str]:
    assert command[:2] == ["rpm", "-qa"]
    return 0, recorded("rpm-qa.txt").decode(), ""


def test_rpm(host: MakeHost) -> None:
    witness, rows, half = packages(host({}, rpm), "rpm")
    assert witness == {"name": "kmod-nvidia-open-dkms", "version": "580.95.05-1.el9", "manager": "rpm"}
    assert half == []
    assert {row["name"]: row["branch"] for row in rows if row["branch"] != "580"} == {
        "nvidia-driver-NVML": "575"
    }
    assert len(rows) == 13 and not any(row["held"] for row in rows)
    assert "nvidia-container-toolkit" not in [row["name"] for row in rows]
    assert {row["arch"] for row in rows} == {"noarch", "x86_64"}
    assert [row["name"] for row in of_other_branches(rows, witness)] == ["nvidia-driver-NVML"]


@pytest.mark.parametrize(
    ("path", "fixture", "held"),
    [
        ("/etc/dnf/plugins/versionlock.list", "versionlock.list", {"kmod-nvidia-open-dkms", "nvidia-driver"}),
        ("/etc/dnf/versionlock.toml", "versionlock.toml", {"kmod-nvidia-open-dkms", "nvidia-driver"}),
        (
            "/etc/zypp/locks",
            "zypp-locks",
            {
                "kmod-nvidia-open-dkms",
                "nvidia-driver",
                "nvidia-driver-NVML",
                "nvidia-driver-cuda",
                "nvidia-driver-cuda-libs",
            },
        ),
    ],
)
def test_locks(host: MakeHost, path: str, fixture: str, held: set[str]) -> None:
    _witness, rows, _half = packages(host({path: recorded(fixture)}, rpm), "rpm")
    assert {row["name"] for row in rows if row["held"]} == held


@pytest.mark.parametrize(
    ("line", "held"),
    [
        ("nvidia-driver-3:580.95.05-1.el9.*", True),
        ("3:nvidia-driver-580.95.05-1.el9.x86_64", True),
        ("nvidia-driver-580.95.05", True),
        ("*nvidia*580*", True),
        ("nvidia-driver-3:575.57.08-1.el9.*", False),
        ("!nvidia-driver-3:580.95.05-1.el9.*", False),
        ("# nvidia-driver", False),
        ("nvidia-driver  # by hand", True),
    ],
)
def test_spellings_of_a_lock(host: MakeHost, line: str, held: bool) -> None:
    _witness, rows, _half = packages(host({"/etc/dnf/plugins/versionlock.list": line + "\n"}, rpm), "rpm")
    assert next(row["held"] for row in rows if row["name"] == "nvidia-driver") is held


# Kernel modules


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "kind"), [("nvidia-current", "proprietary"), ("nvidia-current-open", "open")]
)
def test_real_modules(name: str, kind: str, suffix: str) -> None:
    def modinfo(command: list[str]) -> tuple[int, str, str]:
        assert suffix == ".zst" and command == ["modinfo", str(FIXTURES / f"{name}.ko.zst")]
        return 0, recorded(f"{name}.modinfo").decode(), ""

    found = read_modinfo(FIXTURES / f"{name}.ko{suffix}", modinfo)
    assert flavour(found.pop("license")) == kind
    assert found == {"version": "535.261.03", "signed": True, "signer": DKMS_KEY, "serial": SERIAL}


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_signature_that_was_cut_is_none(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "nvidia.ko"
    path.write_bytes(recorded("nvidia-current.ko")[:-cut])
    assert read_modinfo(path, silent)["signed"] is False


def test_a_signature_that_nobody_can_read_is_still_one(tmp_path: Path) -> None:
    data = bytearray(recorded("nvidia-current.ko"))
    data[-300:-200] = bytes(100)
    data[-440:-400] = b"\xff" * 40
    path = tmp_path / "nvidia.ko"
    path.write_bytes(data)
    found = read_modinfo(path, silent)
    assert found["signed"] is True and found["version"] == "535.261.03"


def test_modules_of_every_kernel(host: MakeHost, tmp_path: Path) -> None:
    """The kernel that boots next has none, and one that was removed has left its own."""
    new, gone = "6.1.0-51-amd64", "6.1.0-9-amd64"
    machine = host(
        {
            f"/lib/modules/{KERNEL}/updates/dkms/nvidia-current.ko": recorded("nvidia-current.ko"),
            f"/lib/modules/{new}/modules.order": "",
            f"/lib/modules/{gone}/updates/dkms/nvidia-current-open.ko": recorded("nvidia-current-open.ko"),
            MOK_LIST: b"\6\0\0\0" + recorded("dkms.esl"),
        }
    )
    kernel = {"running": KERNEL, "next": new, "installed": [KERNEL, new]}
    rows = installation.modules(machine, kernel, Keys(machine), "")
    assert [(row["kernel"], row["version"], row["flavour"], row["trusted"]) for row in rows] == [
        (gone, "535.261.03", "open", True),
        (KERNEL, "535.261.03", "proprietary", True),
        (new, None, None, None),
    ]


def test_a_module_that_several_kernels_share_is_read_once(host: MakeHost, tmp_path: Path) -> None:
    asked = []

    def modinfo(command: list[str]) -> tuple[int, str, str]:
        asked.append(command)
        return 0, recorded("nvidia-current-open.modinfo").decode(), ""

    old, new = "5.14.0-503.el9", "5.14.0-570.el9"
    machine = host({f"/lib/modules/{old}/extra/nvidia.ko.zst": b"\x28\xb5\x2f\xfd"}, modinfo)
    weak = tmp_path / f"lib/modules/{new}/weak-updates"
    weak.mkdir(parents=True)
    (weak / "nvidia.ko.zst").symlink_to(f"../../{old}/extra/nvidia.ko.zst")
    kernel = {"running": old, "next": new, "installed": [old, new]}
    rows = installation.modules(machine, kernel, Keys(machine), "")
    assert [row["version"] for row in rows] == ["535.261.03"] * 2 and len(asked) == 1


def test_compressed_modules_of_kernels_that_rest_are_not_unpacked(host: MakeHost) -> None:
    old, new = "5.14.0-503.el9", "5.14.0-570.el9"
    data = recorded("nvidia-current.ko.xz")
    machine = host({f"/lib/modules/{name}/extra/nvidia.ko.xz": data for name in (old, new)})
    kernel = {"running": new, "next": new, "installed": [old, new]}
    rows = installation.modules(machine, kernel, Keys(machine), "")
    assert [(row["path"] is not None, row["version"]) for row in rows] == [(True, None), (True, "535.261.03")]
    # A host whose running kernel has no module: what there is must be told.
    rows = installation.modules(machine, {**kernel, "running": "6.1", "next": None}, Keys(machine), "")
    assert [row["version"] for row in rows] == ["535.261.03"] * 2


# DKMS


def tree(root: Path, listing: str) -> None:
    """Lay out again what find listed: kind, path, target."""
    for line in listing.splitlines():
        kind, name, target = [*line.split(" "), ""][:3]
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "d":
            path.mkdir(exist_ok=True)
        elif kind == "l":
            inside = root / target.lstrip("/") if target.startswith("/") else path.parent / target
            path.symlink_to(os.path.relpath(inside, path.parent))
        else:
            path.touch()


def test_dkms_that_was_killed(host: MakeHost, tmp_path: Path) -> None:
    machine = host({})
    tree(tmp_path, recorded("dkms-killed.txt").decode())
    for name in ("nvidia-current", "nvidia-current-open"):
        (tmp_path / f"usr/src/{name}-535.261.03").mkdir(parents=True)
    log = tmp_path / "var/lib/dkms/nvidia-current/535.261.03/build/make.log"
    log.write_text(f"DKMS make.log for nvidia-current-535.261.03 for kernel {KERNEL} (x86_64)\n")
    assert installation.dkms(machine) == [
        {
            "name": "nvidia-current-open",
            "version": "535.261.03",
            "kernel": KERNEL,
            "state": "installed",
            "log": None,
        },
        {
            "name": "nvidia-current",
            "version": "535.261.03",
            "kernel": KERNEL,
            "state": "failed",
            "log": "/var/lib/dkms/nvidia-current/535.261.03/build/make.log",
        },
    ]


def test_dkms_before_and_after_a_build(host: MakeHost, tmp_path: Path) -> None:
    machine = host({})
    tree(tmp_path, recorded("dkms-killed.txt").decode())
    (tmp_path / "usr/src/nvidia-current-535.261.03").mkdir(parents=True)
    (tmp_path / "var/lib/dkms/nvidia-current/535.261.03/build").rmdir()
    rows = installation.dkms(machine)
    # Its source was removed; the other has not been built for any kernel.
    assert [(row["name"], row["kernel"], row["state"]) for row in rows] == [
        ("nvidia-current-open", None, "broken"),
        ("nvidia-current", None, "added"),
    ]
    (tmp_path / "usr/src/nvidia-current-open-535.261.03").mkdir(parents=True)
    (tmp_path / f"var/lib/dkms/nvidia-current-open/kernel-{KERNEL}-x86_64").unlink()
    assert installation.dkms(machine)[0]["state"] == "built"


# Secure Boot


def test_keys_that_efitools_wrote() -> None:
    dkms = Certificate(DKMS_KEY, SERIAL)
    assert signature_lists(recorded("dkms.esl")) == [dkms]
    both = recorded("hash.esl") + recorded("site.esl") + recorded("dkms.esl")
    assert [item.name for item in signature_lists(both)] == ["Example Lab Secure Boot CA", DKMS_KEY]
    assert signature_lists(recorded("dkms.esl")[:-1]) == []
    assert certificate(recorded("mok.pub")) == dkms
    assert certificate(b"") is None and certificate(b"\x30\x84\xff\xff\xff\xff") is None
    with pytest.raises(ValueError):
        fields(b"\x30")


def test_mok_of_a_host_that_enrolled_its_key(host: MakeHost) -> None:
    machine = host(
        {
            MOK_LIST: b"\6\0\0\0" + recorded("site.esl") + recorded("dkms.esl"),
            "/var/lib/dkms/mok.pub": recorded("mok.pub"),
        }
    )
    keys = Keys(machine)
    assert keys.report(machine) == {
        "enrolled": ["Example Lab Secure Boot CA", DKMS_KEY],
        "pending": [],
        "key": {"path": "/var/lib/dkms/mok.pub", "name": DKMS_KEY, "enrolled": True},
    }
    assert keys.trusts(DKMS_KEY, SERIAL) is True
    assert keys.trusts("somebody else", "00") is False


def test_a_key_of_the_same_name_is_not_the_same_key(host: MakeHost) -> None:
    """Every DKMS of Debian names its key alike: one that another installation enrolled is of no use."""
    machine = host(
        {
            MOK_LIST: b"\6\0\0\0" + recorded("other-dkms.esl"),
            f"{EFIVARS}/MokNew-{SHIM}": b"\7\0\0\0" + recorded("dkms.esl"),
            "/var/lib/dkms/mok.pub": recorded("mok.pub"),
            "/proc/keys": f"0a2b I------ 1 perm 1f030000 0 0 asymmetri {DKMS_KEY}: 12ab: X509.rsa 56cd []",
        }
    )
    keys = Keys(machine)
    report = keys.report(machine)
    assert report and report["pending"] == [DKMS_KEY] and report["key"]["enrolled"] is False
    assert keys.trusts(DKMS_KEY, SERIAL) is False


def test_keys_that_are_built_into_the_kernel(host: MakeHost) -> None:
    name = "Debian Secure Boot CA"
    row = f"2f1c8a40 I------     1 perm 1f030000     0     0 asymmetri {name}: 6ccece7e: X509.rsa 4c6b []\n"
    keys = Keys(host({"/proc/keys": row}))
    assert keys.trusts(name, "ab12") is True
    assert keys.trusts(DKMS_KEY, SERIAL) is False
    assert keys.report(host({})) is None


def test_without_lists_nobody_can_tell(host: MakeHost) -> None:
    assert Keys(host({})).trusts(DKMS_KEY, SERIAL) is None


@pytest.mark.parametrize(("state", "expected"), [(b"\1", False), (b"\0", True)])
def test_shim_can_be_told_not_to_look(host: MakeHost, state: bytes, expected: bool) -> None:
    machine = host(
        {
            f"{EFIVARS}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\6\0\0\0\1",
            f"{EFIVARS}/MokSBStateRT-{SHIM}": b"\6\0\0\0" + state,
        }
    )
    assert secure_boot(machine) is expected


# Daemons, uvm, repositories


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"/usr/lib/systemd/system/x.service": ""}, {"enabled": False, "active": False}),
        (
            {
                "/usr/lib/systemd/system/x.service": "",
                "/etc/systemd/system/multi-user.target.wants/x.service": "",
                "/sys/fs/cgroup/system.slice/x.service/cgroup.procs": "812\n",
            },
            {"enabled": True, "active": True},
        ),
        (
            {
                "/lib/systemd/system/x.service": "",
                "/sys/fs/cgroup/systemd/system.slice/x.service/cgroup.procs": "",
            },
            {"enabled": False, "active": False},
        ),
    ],
)
def test_daemon(host: MakeHost, files: Files, expected: dict[str, bool] | None) -> None:
    assert installation.daemon(host(files), "x.service") == expected


def test_fabric_manager(host: MakeHost) -> None:
    rows: list[dict[str, Any]] = [{"name": "nvidia-fabricmanager-580", "version": "1:580.95.05-0ubuntu1"}]
    off = {"enabled": False, "active": False}
    assert installation.fabric_manager(host({}), rows) == {"version": "580.95.05", **off}
    assert installation.fabric_manager(host({}), []) is None
    unit: Files = {"/usr/lib/systemd/system/nvidia-fabricmanager.service": ""}
    assert installation.fabric_manager(host(unit), []) == {"version": None, **off}


@pytest.mark.parametrize(
    ("files", "at_boot"),
    [
        ({"/etc/modules-load.d/nvidia.conf": "nvidia-uvm\n"}, True),
        ({"/etc/modules": "# x\nnvidia_uvm\n"}, True),
        ({"/etc/modules-load.d/nvidia.conf": "#nvidia-uvm\nnvidia-drm\n"}, False),
        ({"/etc/modules-load.d/nvidia": "nvidia-uvm\n"}, False),
    ],
)
def test_uvm(host: MakeHost, files: Files, at_boot: bool) -> None:
    assert installation.uvm(host(files)) == {"loaded": False, "at_boot": at_boot}


PPA = "http://ppa.launchpadcontent.net/graphics-drivers/ppa/ubuntu"
CUDA = "https://developer.download.nvidia.com/compute/cuda/repos/"


def test_repositories_that_others_configured(host: MakeHost) -> None:
    deb822 = (
        f"Types: deb\nURIs: {CUDA}debian12/x86_64/\nSuites: /\n\nEnabled: no\nTypes: deb\nURIs: {CUDA}x/\n"
    )
    repo = (
        f"[cuda-rhel9-x86_64]\nname=cuda-rhel9-x86_64\nbaseurl={CUDA}rhel9/x86_64\nenabled=0\n"
        "[epel]\nbaseurl=https://mirrors.tuna.tsinghua.edu.cn/epel/9/\nenabled=1\n"
    )
    found = installation.sources(
        host(
            {
                "/etc/apt/sources.list": f"deb https://mirror.example/debian x main\n# deb {CUDA}old/ /\n",
                "/etc/apt/sources.list.d/cuda.list": f"deb [signed-by=/x.gpg] {CUDA}ubuntu2404/x86_64/ /\n",
                "/etc/apt/sources.list.d/other.sources": deb822,
                "/etc/apt/sources.list.d/torchfleet-nvidia.sources": f"URIs: {CUDA}debian12/x86_64/\n",
                "/etc/apt/sources.list.d/toolkit.list": "deb https://nvidia.github.io/libnvidia-container /",
                "/etc/apt/sources.list.d/ppa.list": f"deb {PPA} noble main\n",
                "/etc/yum.repos.d/cuda-rhel9.repo": repo,
            }
        )
    )
    assert [(Path(row["path"]).name, row["url"], row["enabled"]) for row in found] == [
        ("cuda.list", f"{CUDA}ubuntu2404/x86_64/", True),
        ("ppa.list", PPA, True),
        ("other.sources", f"{CUDA}debian12/x86_64/", True),
        ("other.sources", f"{CUDA}x/", False),
        ("cuda-rhel9.repo", f"{CUDA}rhel9/x86_64", False),
    ]


# The table of flavours, which the action plugin hands to the module


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("102d", ["proprietary"]),  # K80
        ("1b06", ["proprietary"]),  # GTX 1080 Ti
        ("1db4", ["proprietary"]),  # V100
        ("1eb8", ["open", "proprietary"]),  # T4
        ("2330", ["open", "proprietary"]),  # H100
        ("2342", ["open"]),  # GH200
        ("2684", ["open", "proprietary"]),  # RTX 4090
        ("2901", ["open"]),  # B200
        ("ffff", None),
    ],
)
def test_which_modules_drive_a_gpu(host: MakeHost, device: str, expected: list[str] | None) -> None:
    base = "/sys/bus/pci/devices/0000:18:00.0"
    files: Files = {
        f"{base}/vendor": "0x10de\n",
        f"{base}/class": "0x030200\n",
        f"{base}/device": f"0x{device}\n",
    }
    (gpu,), _switches = pci(host(files), ranges())
    assert (sorted(gpu["flavours"]) if gpu["flavours"] else None) == expected


def test_the_table_is_small_enough_to_send() -> None:
    assert len(ranges()) < 20
