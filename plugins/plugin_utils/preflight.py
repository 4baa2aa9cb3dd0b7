"""What preflight makes of the roles' variables: the wish, the mirrors to ask, and all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import rolling, tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import (
    Problem,
    mapping,
    note,
    problem,
    sequence,
)
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import DRIVER_KEYS

SHA256 = re.compile(r"[0-9a-f]{64}\Z")
ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
RESERVED = ("base", "root")
PREFIX = re.compile(r"/[A-Za-z0-9._/+-]+\Z")
# Of these the planner tells more exactly than their types do.
PLANNED = re.compile("pytorch_environments|pytorch_sources|nvidia_driver_(" + "|".join(DRIVER_KEYS) + r")\b")
APT = ("debian", "ubuntu")
# Kinds of sources that are channels of a mirror of Anaconda's.
CLOUDS = {"conda-forge": "conda-forge", "pytorch-channel": "pytorch"}
# A group of mirrors that is one of pytorch_sources; the plan can do without it.
SOURCE = "pytorch_sources: "
# Bytes of the page of a package: its start, and all of it (torch's on PyPI has some hundred kilobytes).
INDEX_START, INDEX = 8192, 4 << 20
# The groups of mirrors that a driver comes from, by the plan's repository.
REPOSITORIES = {"nvidia": "nvidia_driver_nvidia_urls", "local": "nvidia_driver_local_repository"}
# The mirrors of PyPI, asked for uv.
UV = "pytorch_uv_version"
PIN = re.compile(r"([a-z]+)={2,3}([^+,]+)")


def wish(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The wish of docs/contracts.md; what is malformed goes on as it is, for the planner to tell."""
    clouds = [f"{str(url).rstrip('/')}/cloud" for url in sequence(variables["mirrors_anaconda_urls"])]
    urls: dict[str, list[Any]] = {
        "pypi": sequence(variables["mirrors_pypi_urls"]),
        **{kind: [f"{cloud}/{name}" for cloud in clouds] for kind, name in CLOUDS.items()},
    }
    for row in sequence(variables["mirrors_torch_indexes"]):
        urls.setdefault(str(mapping(row).get("kind")), []).append(mapping(row).get("url"))
    return {
        "driver": {key: variables[f"nvidia_driver_{key}"] for key in DRIVER_KEYS},
        "environments": variables["pytorch_environments"],
        "sources": [
            # A source without URLs takes those of the mirrors of its kind.
            {"urls": urls.get(row.get("kind", "pypi"), []), **row} if isinstance(row, dict) else row
            for row in sequence(variables["pytorch_sources"])
        ],
        "pypi_urls": variables["mirrors_pypi_urls"],
    }


def mirror_groups(
    plan: Mapping[str, Any], truth: Mapping[str, Any], wished: Mapping[str, Any], variables: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The groups of mirrors that the plan needs, as torchfleet.gpu.mirror_probe takes them."""
    groups: list[dict[str, Any]] = []
    channels = sequence(variables["mirrors_anaconda_channels"])
    if plan["environments"] or variables["conda_envs_environments"]:
        groups.append(
            {
                "name": "mirrors_pypi_urls",
                "urls": variables["mirrors_pypi_urls"],
                "path": "pip/",
                "expect": "pip-",
            }
        )
        if channels:
            groups.append(
                {
                    "name": "mirrors_anaconda_urls",
                    "urls": variables["mirrors_anaconda_urls"],
                    "path": f"pkgs/{channels[0]}/noarch/repodata.json",
                    "expect": '"subdir"',
                    "optional": [
                        *(f"pkgs/{channel}/noarch/repodata.json" for channel in channels[1:]),
                        *map(cloud, sequence(variables["mirrors_anaconda_cloud_channels"])),
                    ],
                }
            )
    prefix = variables["conda_envs_prefix"]
    new = any(missing(truth, f"{prefix}/{row['name']}") for row in plan["environments"])
    if (
        new
        and variables["pytorch_installer"] != "pip"
        and missing(truth, str(variables["pytorch_uv_prefix"]))
    ):
        groups.append({"name": UV, "urls": variables["mirrors_pypi_urls"], "path": "uv/", "expect": "uv-"})
    operating_system = mapping(truth.get("os"))
    if plan["driver"]["packages"] and operating_system.get("id") == "debian":
        groups.append(
            {
                "name": "mirrors_debian_urls",
                "urls": variables["mirrors_debian_urls"],
                "path": f"dists/{operating_system.get('codename')}/InRelease",
                "expect": "Origin: Debian",
            }
        )
    groups += _driver_group(plan["driver"], truth, variables)
    groups += _installer_group(truth, variables)
    for environment in plan["environments"]:
        groups += [
            group
            for group in _source_groups(
                environment, truth, wished, variables, {row["name"] for row in groups}
            )
            if {**group, "name": ""} not in [{**row, "name": ""} for row in groups]
        ]
    return groups


def cloud(channel: Any) -> str:
    """What a mirror of Anaconda's is asked for, where it has the channel."""
    return f"cloud/{channel}/noarch/repodata.json"


def missing(truth: Mapping[str, Any], path: str) -> bool:
    """Whether it is known that the path is not there yet."""
    rows = map(mapping, sequence(truth.get("disks")))
    return any(row.get("path") == path and row.get("exists") is False for row in rows)


def _installer_group(truth: Mapping[str, Any], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The installer of Miniconda, where there is none."""
    urls = sequence(variables.get("__preflight_installer_urls"))
    if not urls or not missing(truth, str(variables["miniconda_prefix"])):
        return []
    directories, names = zip(*(str(url).rsplit("/", 1) for url in urls), strict=True)
    return [{"name": "miniconda_release", "urls": list(directories), "path": names[0], "expect": "#!/"}]


def _source_groups(
    environment: Mapping[str, Any],
    truth: Mapping[str, Any],
    wished: Mapping[str, Any],
    variables: Mapping[str, Any],
    taken: Container[str],
) -> list[dict[str, Any]]:
    """What the sources of a build are asked: for the build itself where the environment is not there yet."""
    chosen = {source["name"] for source in environment["sources"]}
    new = missing(truth, f"{variables['conda_envs_prefix']}/{environment['name']}")
    release = f"torch-{environment['torch']}"
    python = f"-cp{''.join(str(environment['python']).split('.')[:2])}-"
    pins = [match.groups() for match in map(PIN.match, environment["requirements"]) if match]
    groups = []
    for source in map(mapping, sequence(wished["sources"])):
        kind = source.get("kind", "pypi")
        # A path on the host is not asked.
        if source.get("name") not in chosen or not all(
            str(url).startswith(("http://", "https://")) for url in source["urls"]
        ):
            continue
        path, expect, count = "", ".whl", INDEX_START
        if kind == "index":
            path = f"{environment['variant']}/torch/"
            if new:
                expect, count = f"{release}+{environment['variant']}{python}", INDEX
        elif kind in CLOUDS:
            path, expect = "noarch/repodata.json", '"subdir"'
        elif kind == "pypi":
            if not new:  # that it answers is asked by a smaller page
                continue
            path, expect, count = "torch/", release + python, INDEX
        name = SOURCE + source["name"]
        groups.append(
            {
                "name": f"{name} ({environment['name']})" if name in taken else name,
                "urls": source["urls"],
                "path": path,
                "expect": expect,
                "search_bytes": count,
            }
        )
        if not new or kind not in ("index", "pypi"):
            continue
        # A source that lacks what goes with torch is none for this build.
        below, local = (
            (f"{environment['variant']}/", f"+{environment['variant']}") if kind == "index" else ("", "")
        )
        groups += [
            {
                "name": f"{name} ({environment['name']} {package})",
                "urls": source["urls"],
                "path": f"{below}{package}/",
                "expect": f"{package}-{version}{local}-",
                "search_bytes": INDEX,
            }
            for package, version in pins
            if package != "torch"
        ]
    return groups


def _driver_group(
    driver: Mapping[str, Any], truth: Mapping[str, Any], variables: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The repository that the driver comes from, where it is not the distribution's."""
    name = mapping(truth.get("os"))
    system = tables.system(str(name.get("id")), str(name.get("version")))
    path, urls = None, []
    if system and driver["repository"] == "nvidia":
        path, urls = system.nvidia_index(str(truth.get("machine"))), variables[REPOSITORIES["nvidia"]]
    elif system and driver["repository"] == "local":
        row = mapping(variables[REPOSITORIES["local"]])
        path, urls = _local_index(system, str(row.get("suite") or "/")), [row.get("url")]
    urls = [url for url in sequence(urls) if str(url).startswith(("http://", "https://"))]
    if not path or not urls:
        return []
    expect = "<repomd" if path.endswith(".xml") else "NVIDIA" if driver["repository"] == "nvidia" else "Date:"
    return [{"name": REPOSITORIES[driver["repository"]], "urls": urls, "path": path, "expect": expect}]


def _local_index(system: tables.System, suite: str) -> str:
    if system.id not in APT:
        return "repodata/repomd.xml"
    # A suite that ends in a slash is a flat repository.
    return f"{suite}InRelease".lstrip("/") if suite.endswith("/") else f"dists/{suite}/InRelease"


def silent(probed: Mapping[str, Any]) -> dict[str, str]:
    """The groups in which no mirror answers, and what each mirror said instead."""
    return {name: "; ".join(group["failures"]) for name, group in probed.items() if not group["url"]}


def _asks(group: str, source: str) -> bool:
    """A second environment has a group of its own, with its name behind the source's."""
    return f"{group} (".startswith(f"{SOURCE}{source} (")


def without_silent(wished: Mapping[str, Any], probed: Mapping[str, Any]) -> dict[str, Any]:
    """The wish without the sources and the repositories that do not answer, and warnings that say so."""
    dead = silent(probed)
    driver = mapping(wished.get("driver"))
    # One that is asked for by name is not gone round: that it does not answer is a problem.
    gone = [
        name for name, group in REPOSITORIES.items() if group in dead and driver.get("repository") == "auto"
    ]
    names = [str(mapping(row).get("name")) for row in sequence(wished["sources"])]
    torch = {
        name: next(found for group, found in dead.items() if _asks(group, name))
        for name in names
        if any(_asks(group, name) for group in dead)
    }
    found = {**torch, **{f"the repository {name}": dead[REPOSITORIES[name]] for name in gone}}
    return {
        "wish": {
            **wished,
            "driver": {**driver, "silent": gone},
            "sources": [row for row in sequence(wished["sources"]) if mapping(row).get("name") not in torch],
        },
        "warnings": [
            note(
                "silent_source",
                f"{name} does not answer: {said}; the plan does without it",
                "name a mirror that the host can reach, or set mirrors_proxy",
            )
            for name, said in found.items()
        ],
    }


def problems(
    plan: Mapping[str, Any],
    variables: Mapping[str, Any],
    installer: Mapping[str, str],
    unknown: Sequence[Mapping[str, Any]],
    argument_errors: Sequence[str],
    probed: Mapping[str, Any],
) -> list[Problem]:
    """All that is wrong with a host's wish: the plan's own problems, and what only the variables tell.

    A host that told nothing has an empty plan.
    """
    found: list[Problem] = list(plan.get("problems", ()))
    for row in unknown:
        found.append(
            problem(
                "unknown_variable",
                f"the variable {row['name']}",
                f"a variable that the role {row['role']} does not have",
                "one of those in the README of the role",
                f"did you mean {row['closest']}?"
                if row["closest"]
                else "remove it, or name it in preflight_foreign_variables if it is not meant for the role",
            )
        )
    found += type_problems(error for error in argument_errors if not PLANNED.search(error))
    found += installer_problems(str(variables["miniconda_sha256"]), **installer)
    found += path_problems(variables)
    found += uv_problems(variables)
    found += environment_problems(variables)
    found += rolling_problems(variables)
    optional = set(REPOSITORIES.values()) if variables["nvidia_driver_repository"] == "auto" else set()
    optional |= {UV} if variables["pytorch_installer"] != "uv" else set()
    for group, said in silent(probed).items():
        # Without one source the plan may still hold; if it does not, this is why.
        if not (group.startswith(SOURCE) or group in optional) or plan.get("problems"):
            found.append(
                problem(
                    "no_mirror",
                    group,
                    f"no mirror answers: {said}",
                    "at least one that the host can reach",
                    "name one that it can reach, or set mirrors_proxy or, for a private CA, "
                    "mirrors_ca_certificates",
                )
            )
    return found


def type_problems(argument_errors: Iterable[str]) -> list[Problem]:
    return [
        problem(
            "bad_variable",
            "a variable of the wrong type or value",
            error,
            "what the README of the role says of it",
            "correct the value where it is set (inventory, group_vars, -e)",
        )
        for error in argument_errors
    ]


def path_problems(variables: Mapping[str, Any]) -> list[Problem]:
    """Prefixes that the scripts of conda cannot bear."""
    found = []
    prefix, environments = str(variables["miniconda_prefix"]), str(variables["conda_envs_prefix"])
    fix = "choose a short path of letters, digits and . _ + -"
    if not PREFIX.match(prefix) or len(prefix) > 90:
        expected = "an absolute path of at most 90 characters without spaces"
        found.append(problem("bad_prefix", "miniconda_prefix", prefix, expected, fix))
    elif not PREFIX.match(environments) or len(environments) > 90:
        expected = "an absolute path of at most 90 characters without spaces"
        found.append(problem("bad_prefix", "conda_envs_prefix", environments, expected, fix))
    return found


def rolling_problems(variables: Mapping[str, Any]) -> list[Problem]:
    """Sizes of batches that are none."""
    bad = rolling.bad_sizes(variables["rolling_batches"])
    if not bad:
        return []
    expected = "at least one size, each a number of hosts such as 1, or a share of all such as 25%"
    fix = "correct the list where it is set"
    return [problem("bad_batches", "rolling_batches", ", ".join(bad), expected, fix)]


def uv_problems(variables: Mapping[str, Any]) -> list[Problem]:
    """Without a hash uv is not installed, and nobody would notice that pip is used instead."""
    known, wanted = variables["__pytorch_uv_hashes"], str(variables["pytorch_uv_version"])
    if variables["pytorch_installer"] == "pip" or wanted in known:
        return []
    return [
        problem(
            "no_hash",
            "pytorch_uv_version",
            wanted,
            "a release of which the role pytorch has the hashes: " + ", ".join(known),
            "take one of those, or set pytorch_installer to pip",
        )
    ]


def environment_problems(variables: Mapping[str, Any]) -> list[Problem]:
    """Names that cannot be, and environments of which two roles would make different things by turns."""
    found = []
    torch = {str(row.get("name")): row for row in map(mapping, sequence(variables["pytorch_environments"]))}
    seen: set[str] = set()
    gone = [
        row
        for row in map(mapping, sequence(variables["conda_envs_environments"]))
        if row.get("state") == "absent"
    ]
    for row in map(mapping, sequence(variables["conda_envs_environments"])):
        name = str(row.get("name", ""))
        if not ENVIRONMENT.match(name) or name in RESERVED:
            found.append(
                problem(
                    "bad_name",
                    "conda_envs_environments, the name of an environment",
                    repr(name),
                    "letters, digits, '.', '_', '+', '-' with a letter or digit first; neither base nor root",
                    "rename the environment; it becomes a directory",
                )
            )
        elif name in seen:
            found.append(
                problem(
                    "same_name",
                    "conda_envs_environments, the name of an environment",
                    f"{name}, twice",
                    "each name once",
                    "make one entry of the two, or rename one",
                )
            )
        seen.add(name)
        other = torch.get(name)
        if other is None:
            continue
        if row.get("state") == "absent":
            found.append(
                problem(
                    "contradiction",
                    f"the environment {name}",
                    "absent in conda_envs_environments, and wished in pytorch_environments",
                    "one wish for an environment: each run would remove it and install it again",
                    "take it out of one of the two lists",
                )
            )
        elif row.get("python") and not _agree(str(row["python"]), str(other.get("python"))):
            found.append(
                problem(
                    "contradiction",
                    f"the Python of the environment {name}",
                    f"{row['python']} in conda_envs_environments, {other.get('python')} in "
                    "pytorch_environments",
                    "one version for an environment: each run would change it twice",
                    "name the same in both, or leave it out of conda_envs_environments",
                )
            )
    wished = sorted({*torch, *seen} - {row.get("name") for row in gone})
    if variables["miniconda_state"] == "absent" and wished:
        found.append(
            problem(
                "contradiction",
                "miniconda_state",
                f"absent, and the environments {', '.join(wished)} are wished",
                "an installation of conda for the environments, or none of them",
                "set pytorch_environments and conda_envs_environments to [], or miniconda_state to present",
            )
        )
    for name in torch:
        if name in RESERVED:
            found.append(
                problem(
                    "bad_name",
                    "pytorch_environments, the name of an environment",
                    name,
                    "neither base nor root, which stand for Miniconda itself",
                    "rename the environment",
                )
            )
    return found


def _agree(one: str, two: str) -> bool:
    """3.11 and 3.11.7 do: the shorter leaves open what the longer says."""
    return all(a == b for a, b in zip(one.split("."), two.split("."), strict=False))


def installer_problems(wanted: str, file: str, sha256: str) -> list[Problem]:
    """What is wrong with the pin of Miniconda's installer, of which the data have this sha256 (or none)."""
    where = "take it from https://repo.anaconda.com/miniconda/"
    if not (wanted or sha256):
        return [
            problem(
                "no_hash",
                "miniconda_release",
                f"no sha256 is known for {file}",
                "a release of which the role knows the hash, or miniconda_sha256",
                f"set miniconda_sha256: {where}",
            )
        ]
    if wanted and not SHA256.match(wanted):
        return [
            problem(
                "bad_hash",
                "miniconda_sha256",
                wanted,
                "64 digits of 0-9a-f: the sha256 of the installer",
                f"leave it empty for a release of which the role knows the hash, or {where}",
            )
        ]
    if wanted and sha256 and wanted != sha256:
        return [
            problem(
                "wrong_hash",
                "miniconda_sha256",
                wanted,
                f"{sha256}, which is the sha256 of {file}",
                "leave miniconda_sha256 empty; an installer of your own needs a miniconda_release of its own",
            )
        ]
    return []
