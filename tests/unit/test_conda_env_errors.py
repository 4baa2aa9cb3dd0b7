"""What conda 26.7.1, pip 23.2 and uv 0.13 printed, and the one message it becomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_cli, pip_cli

FIXTURES = Path(__file__).parent / "fixtures" / "conda_env"
MIRROR = "https://mirrors.tuna.tsinghua.edu.cn"


@pytest.mark.parametrize(
    ("name", "code", "parts"),
    [
        ("notfound", "not_found", ["nosuchpkg not found in defaults", "channels"]),
        ("notfound-ver", "not_found", ["python=3.14 not found in defaults"]),
        ("offline-miss", "not_found", ["nosuch not found in defaults"]),
        ("unsat", "conflict", ["python 3.11.*", "conda 26.7.1 would require", "Loosen"]),
        ("chan-404", "channel", [f"{MIRROR}/anaconda/cloud/nochan answers 404", "channels"]),
        ("chan-403", "network", [f"{MIRROR}/e403/x/linux-64/repodata.json: HTTP 403 Forbidden"]),
        ("chan-503", "network", [f"{MIRROR}/e503/x/linux-64/repodata.json: HTTP 503 Service"]),
        ("chan-dns", "network", ["Failed to resolve no.such.host.invalid", "proxy"]),
        ("chan-refused", "network", ["http://127.0.0.1:9/x/linux-64/repodata.json: Connection refused"]),
        ("ssl-bad", "certificate", ["unable to get local issuer certificate", "CA"]),
        ("corrupt", "hash", ["six-1.17.0-pyh0pypi_0.conda has the sha256 b91c45", "expected 6a9569"]),
        ("truncated", "hash", ["pytz-2026.6-pyh0pypi_0.conda has the sha256"]),
        ("explicit-badmd5", "hash", ["has the md5 7fe398655f6965fe27c9c4ea89c681cb"]),
        ("pkg-404", "network", ["idna-3.20-pyh0pypi_0.conda: HTTP 404 Not Found"]),
        ("remove-all-missing", "not_an_environment", ["/opt/miniconda3/envs/ex"]),
        ("remove-base", "unknown", ["Cannot remove current environment"]),
    ],
)
def test_recorded_failures_of_conda(name: str, code: str, parts: list[str]) -> None:
    stdout = (FIXTURES / f"{name}.json").read_text()
    problem = conda_cli.conda_problem(1, stdout, "", ["spec"])
    assert problem is not None
    assert problem.code == code
    for part in parts:
        assert part in str(problem)


@pytest.mark.parametrize("name", ["create", "create-dry", "install", "install-dry", "remove-env"])
def test_recorded_successes_of_conda(name: str) -> None:
    stdout = (FIXTURES / f"{name}.json").read_text()
    assert conda_cli.conda_problem(0, stdout, "", []) is None
    assert conda_cli.parse_json(stdout)["success"] is True


def test_usage_error_of_conda() -> None:
    problem = conda_cli.conda_problem(2, "", (FIXTURES / "badarg.err").read_text(), ["x"])
    assert problem is not None
    assert "unrecognized arguments: --nosuch" in problem.what


def test_a_traceback_of_conda_shows_the_line_that_tells() -> None:
    # conda 24.7.1 fails to print its own error for a full disk.
    stderr = (
        "Traceback (most recent call last):\nOSError: [Errno 28] No space left on device: '/e/numpy'\n"
        "AttributeError: 'OSError' object has no attribute 'dump_map'\n"
    )
    problem = conda_cli.conda_problem(1, "", stderr, [])
    assert problem is not None
    assert problem.code == "disk"
    assert (
        problem.what == "conda ended with status 1: OSError: [Errno 28] No space left on device: '/e/numpy'"
    )


def test_status_0_with_an_exception_is_a_failure() -> None:
    stdout = json.dumps({"exception_name": "CondaToSNonInteractiveError", "message": "Terms of https://x"})
    problem = conda_cli.conda_problem(0, stdout, "", [])
    assert problem is not None
    assert problem.code == "terms"


@pytest.mark.parametrize(
    ("exception", "message", "code"),
    [
        (
            "PackagesNotFoundError",
            "not available from current channels:\n\n  - foo\n\nCurrent channels:\n",
            "not_found",
        ),
        ("UnsatisfiableError", "conflicts", "conflict"),
        ("LibMambaUnsatisfiableError", "conflicts", "conflict"),
        ("EnvironmentNotWritableError", "The current user does not have write permissions", "permission"),
        ("NoSpaceLeftError", "No space left on devices.", "disk"),
        ("OSError", "[Errno 28] No space left on device: '/opt'", "disk"),
        ("PermissionError", "[Errno 13] Permission denied: '/opt'", "permission"),
        ("ZstdError", "Unknown frame descriptor", "channel"),
        ("CondaVerificationError", "The package for six appears to be corrupted", "cache"),
        ("InvalidMatchSpec", "Invalid spec 'x'", "spec"),
        ("NeverHeardOfError", "something", "unknown"),
    ],
)
def test_other_exceptions_of_conda(exception: str, message: str, code: str) -> None:
    stdout = json.dumps({"exception_name": exception, "message": message})
    problem = conda_cli.conda_problem(1, stdout, "", ["foo"])
    assert problem is not None
    assert problem.code == code
    assert problem.fix


def test_packages_and_channels_of_older_conda() -> None:
    # 24.7.1 has no field for the packages where a channel is named.
    message = (
        "The following packages are not available from current channels:\n\n  - nosuch\n\n"
        "Current channels:\n\n  - https://x/main/linux-64\n  - https://x/main/noarch\n\nTo search for"
    )
    stdout = json.dumps(
        {"exception_name": "PackagesNotFoundError", "message": message, "packages": ["nosuch"]}
    )
    problem = conda_cli.conda_problem(1, stdout, "", [])
    assert problem is not None
    assert problem.what == "nosuch not found in https://x/main/linux-64, https://x/main/noarch"


def test_several_errors_become_one_message_without_repetitions() -> None:
    errors = [{"exception_name": "NoSpaceLeftError", "message": "No space left"}] * 5
    errors.append(
        {"exception_name": "CondaHTTPError", "url": "https://x", "reason": "Gone", "status_code": "410"}
    )
    problem = conda_cli.conda_problem(1, json.dumps({"exception_name": "M", "errors": errors}), "", [])
    assert problem is not None
    assert problem.what == "No space left; https://x: HTTP 410 Gone"


def test_a_long_reason_of_the_solver_is_shortened() -> None:
    message = "\n".join(f"line {number}" for number in range(200))
    stdout = json.dumps({"exception_name": "UnsatisfiableError", "message": message})
    problem = conda_cli.conda_problem(1, stdout, "", [])
    assert problem is not None
    assert len(problem.what.splitlines()) < 20
    assert "188 more lines" in problem.what


@pytest.mark.parametrize(
    ("stdout", "expected"),
    [
        ('{"success": true}', {"success": True}),
        ('Continue? [y/N]: y\nnoise\n{"success": true}\n', {"success": True}),
        ('{"success": true}\nafterwards', {"success": True}),
        ("", {}),
        ("Exiting.\n", {}),
        ('{"success": tr', {}),
        ("[1, 2]", {}),
    ],
)
def test_json_is_found_in_the_output(stdout: str, expected: dict[str, bool]) -> None:
    assert conda_cli.parse_json(stdout) == expected


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [
        ("uv-notfound", "not_found", "nosuchpkg-torchfleet was not found"),
        ("uv-nover", "not_found", "no version of idna==99"),
        ("uv-conflict", "conflict", "requests==2.31.0 depends on idna>=2.5,<4"),
        ("uv-refused", "network", "Connection refused"),
        ("uv-dns", "network", "Name or service not known"),
        ("uv-ssl", "certificate", "invalid peer certificate"),
        ("pip-nover", "not_found", "idna==99 (from versions: none)"),
        ("pip-conflict", "conflict", "idna==1.0 and requests==2.31.0"),
        ("pip-refused", "network", "Connection refused"),
        ("pip-ssl", "certificate", "self-signed certificate"),
    ],
)
def test_recorded_failures_of_pip_and_uv(name: str, code: str, part: str) -> None:
    problem = conda_cli.pip_problem(1, "", (FIXTURES / f"{name}.txt").read_text())
    assert problem.code == code
    assert part in problem.what
    assert "\n" not in problem.what


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk"),
        (
            "error: Failed to install: x\n  cause: No space left on device (os error 28)",
            "disk",
        ),
        ("error: Permission denied (os error 13)", "permission"),
        ("error: externally-managed-environment", "managed"),
        ("error: The interpreter at /x is externally managed, and indicates the following", "managed"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "hash"),
        ("segmentation fault", "unknown"),
    ],
)
def test_other_failures_of_pip_and_uv(stderr: str, code: str) -> None:
    assert conda_cli.pip_problem(1, "", stderr).code == code


def test_a_timeout_is_named() -> None:
    assert conda_cli.pip_problem(124, "", "").code == "timeout"
    problem = conda_cli.conda_problem(124, "", "", [])
    assert problem is not None
    assert problem.code == "timeout"


def test_dry_runs_of_pip_and_uv() -> None:
    names = ["certifi", "charset-normalizer", "requests", "urllib3"]
    versions = ["2026.10.18", "3.5.2", "2.31.0", "2.8.0"]
    pip = pip_cli.would_install((FIXTURES / "pip-dry.txt").read_text(), "")
    assert pip == [f"{name}=={version}" for name, version in zip(names, versions)]
    assert pip_cli.would_install("", (FIXTURES / "uv-dry.txt").read_text()) == pip
    assert pip_cli.would_install("", "Audited 1 package in 4ms\nWould make no changes\n") == []


def test_configuration_of_pip_is_read_in_its_order(tmp_path: Path) -> None:
    home, prefix = tmp_path / "home", tmp_path / "env"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://user/simple\nextra-index-url =\n  https://one/simple\n  https://two/simple\n"
        "cert = /etc/user.pem\n[install]\nfind_links = /wheels\n"
    )
    prefix.mkdir()
    (prefix / "pip.conf").write_text("[global]\nindex-url = https://site/simple\nfind-links = /other\n")
    environ = {"HOME": str(home), "XDG_CONFIG_DIRS": str(tmp_path / "none"), "PIP_CERT": "/etc/ca.pem"}
    configuration = pip_cli.pip_configuration(str(prefix), environ)
    source = pip_cli.configured_source(configuration)
    # The environment's file beats the user's, [install] beats [global], a variable beats every file.
    assert source.index_url == "https://site/simple"
    assert source.extra_index_urls == ("https://one/simple", "https://two/simple")
    assert source.find_links == ("/wheels",)
    assert configuration["cert"] == "/etc/ca.pem"
    assert pip_cli.pip_configuration(str(prefix), {**environ, "PIP_CONFIG_FILE": "/dev/null"}) == {
        "cert": "/etc/ca.pem"
    }


def test_command_lines() -> None:
    source = pip_cli.source(
        {"name": "x", "index_url": "https://i", "extra_index_urls": ["https://e"], "find_links": ["/w"]}
    )
    arguments = ["--index-url", "https://i", "--extra-index-url", "https://e", "--find-links", "/w"]
    assert pip_cli.pip_command("/e/bin/python", source, "/c", ["--dry-run", "--", "a==1"]) == [
        *("/e/bin/python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"),
        *("--cache-dir", "/c", *arguments, "--dry-run", "--", "a==1"),
    ]
    assert pip_cli.uv_command("/uv", "/e/bin/python", source, None, ["--", "a==1"]) == [
        *("/uv", "pip", "install", "--no-progress", "--python", "/e/bin/python"),
        *("--index-strategy", "unsafe-best-match", *arguments, "--", "a==1"),
    ]
    offline = pip_cli.source({"name": "x", "index_url": "https://i", "find_links": ["/w"], "no_index": True})
    assert offline.arguments() == ["--no-index", "--find-links", "/w"]
