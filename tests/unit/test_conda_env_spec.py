"""MatchSpecs and requirements: what is accepted, what is refused, what an installed package satisfies."""

from __future__ import annotations

from itertools import product

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_spec, pip_spec
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Reference
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version as ReferenceVersion

MAIN = "https://mirrors.tuna.tsinghua.edu.cn/anaconda/pkgs/main/linux-64"

# Ascending; each line's versions are equal. The order of conda itself (24.7.1).
CONDA_ORDER = """
0.4 0.4.0
0.4.1.rc 0.4.1.RC
0.4.1
0.5a1
0.5b3
0.5C1
0.5
0.9.6
0.960923
1.0 1.0.0
1.0.1_
1.0.1a
1.0.1
1.0.1post.a
1.1dev1
1.1_
1.1a1
1.1.0dev1 1.1.dev1
1.1.a1
1.1.0rc1
1.1.0 1.1
1.1.0post1 1.1.post1
1.1post1
2.13.0+cpu
2.13.0
3.10.0rc1
3.10.2
9e
1996.07.12
2024a
1!0.4.1
1!3.1.1.6
2!0.4.1
"""


def test_conda_versions_are_ordered_as_conda_orders_them() -> None:
    lines = [line.split() for line in CONDA_ORDER.split("\n") if line]
    for (one, left), (two, right) in product(enumerate(lines), repeat=2):
        for a, b in product(left, right):
            expected = (one > two) - (one < two)
            assert conda_spec.Version(a).compare(conda_spec.Version(b)) == expected, (a, b)


@pytest.mark.parametrize("text", ["", ".", "1..2", "1.2.", "a!1", "!1", "1+", "1+a+b", "1 2", "1,2", "1/2"])
def test_what_is_no_conda_version(text: str) -> None:
    with pytest.raises(conda_spec.SpecError):
        conda_spec.Version(text)


@pytest.mark.parametrize(
    ("spec", "version", "build", "expected"),
    [
        ("p", "1.0", "0", True),
        ("P", "1.0", "0", True),
        ("p *", "1.0", "0", True),
        # = is a prefix of components, not of characters
        ("p=3.11", "3.11.7", "0", True),
        ("p=3.11", "3.11", "0", True),
        ("p=3.1", "3.11.7", "0", False),
        ("p=3.11.*", "3.11.7", "0", True),
        ("p=3.1*", "3.11.7", "0", False),
        ("p 3.11.*", "3.11.7", "0", True),
        ("p ==3.11.*", "3.11.7", "0", True),
        ("p = 3.11", "3.11.7", "0", True),
        ("p=1.0.0", "1", "0", True),
        # == and a bare version are the same version
        ("p==1.0", "1.0.0", "0", True),
        ("p==1.0", "1.0.1", "0", False),
        ("p 1.0", "1.0.1", "0", False),
        ("p 1.0", "1.0", "0", True),
        ("p==2.13.0", "2.13.0+cpu", "0", False),
        # comparisons
        ("p>=1.26,<2", "1.26.4", "0", True),
        ("p >=1.26, <2", "2.0", "0", False),
        ("p >= 1.26", "1.9", "0", False),
        ("p<2.0", "2.0rc1", "0", True),
        ("p!=1.5", "1.5.0", "0", False),
        ("p!=1.5.*", "1.5.2", "0", False),
        ("p!=1.5.*", "1.6", "0", True),
        ("p~=1.4.2", "1.4.9", "0", True),
        ("p~=1.4.2", "1.5", "0", False),
        ("p>=1,<1.5|>=2", "2.1", "0", True),
        ("p>=1,<1.5|>=2", "1.7", "0", False),
        ("p 1.*.3", "1.9.3", "0", True),
        ("p 1.*.3", "1.9.4", "0", False),
        # builds
        ("p=1.0=py_0", "1.0", "py_0", True),
        ("p=1.0=py_0", "1.0", "py_1", False),
        ("p=1.0=py_0", "1.0.1", "py_0", False),
        ("p 1.0 py_0", "1.0", "py_0", True),
        ("p 1 py_0", "1", "py_0", True),
        ("p * *cuda*", "1.0", "h1_cuda126_0", True),
        ("p=*=*cuda*", "1.0", "h1_cpu_0", False),
        ("p >=1.0 py*", "1.2", "py311_0", True),
        ("p[version='>=1.2,<2', build=py_0]", "1.5", "py_0", True),
        ('p[version=">=1.2"]', "1.1", "py_0", False),
        ("p=9[version='=1.1']", "1.1", "py_0", True),
        # channels: a surely different one is left to conda, which may know it by another name
        ("pkgs/main::p", "1.0", "0", True),
        ("defaults::p=1", "1.0", "0", True),
        (MAIN.rsplit("/", 1)[0] + "::p", "1.0", "0", True),
        ("conda-forge::p", "1.0", "0", None),
        ("conda-forge::p=2", "1.0", "0", False),
        ("p[channel=conda-forge]", "1.0", "0", None),
        # what the names of the records do not tell
        ("p[md5=0123456789abcdef0123456789abcdef]", "1.0", "0", None),
        ("p[build_number=1]", "1.0", "0", None),
        # another name
        ("q", "1.0", "0", False),
    ],
)
def test_whether_a_conda_package_satisfies(
    spec: str, version: str, build: str, expected: bool | None
) -> None:
    record = conda_spec.Record("p", version, build, lambda: MAIN)
    assert conda_spec.parse(spec).matches(record) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "-p",
        "--channel=x",
        "p>",
        "p>=",
        "p==",
        "p=",
        "p>1,,<2",
        "p>1,",
        "p|q",
        "p>>1",
        "p<>1",
        "p 1 2 3",
        "p >1 <2",
        "p~=1",
        "p~=1.0.*",
        "p>1.*.2",
        "p ^1",
        "p ^(1$",
        "p(x)",
        "p[",
        "p]",
        "p[version]",
        "p[colour=red]",
        "p[version='']",
        "p[name=q]",
        "::p",
        "=1.0",
        "p*",
        "a b\nc",
        "https://example.org/p-1.0-0.conda",
        "/tmp/p-1.0-0.tar.bz2",
        "./p",
    ],
)
def test_what_is_no_matchspec(text: str) -> None:
    with pytest.raises(conda_spec.SpecError):
        conda_spec.parse(text)


VERSIONS = [
    *("0.9", "1.0.dev1", "1.0a1.dev2", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0.0", "1", "1.0+1", "1.0+cpu"),
    *("1.0+cpu.1", "1.0+cu128", "1.0.post1.dev2", "1.0.post1", "1.0-1", "1.0.0.1", "1.0.1", "1.1", "v1.2"),
    *("1.10", "2.0", "2.13", "2.13.0", "2.13.0+cpu", "2.13.1a0", "1!0.5", "1.0_beta2", "1.0-alpha"),
]


def test_python_versions_are_ordered_as_packaging_orders_them() -> None:
    for one, two in product(VERSIONS, repeat=2):
        mine, other = pip_spec.Version(one).key(), pip_spec.Version(two).key()
        reference, its_other = ReferenceVersion(one), ReferenceVersion(two)
        assert (mine < other, mine == other) == (reference < its_other, reference == its_other), (one, two)


@pytest.mark.parametrize("operator", ["==", "!=", "<=", ">=", "<", ">", "~=", "==="])
def test_python_versions_are_accepted_as_packaging_accepts_them(operator: str) -> None:
    compared = 0
    for bound, suffix in product(VERSIONS, ("", ".*")):
        if operator == "~=" and ("v" in bound or "_" in bound):
            continue  # packaging 26.2 cannot read these itself
        text = f"{operator}{bound}{suffix}"
        try:
            reference = SpecifierSet(text)
        except InvalidSpecifier:
            with pytest.raises(pip_spec.RequirementError):
                pip_spec.parse("p" + text)
            continue
        requirement = pip_spec.parse("p" + text)
        for version in VERSIONS:
            compared += 1
            assert requirement.accepts(version) == reference.contains(version, prereleases=True), (
                text,
                version,
            )
    assert compared > 100


@pytest.mark.parametrize(
    "text",
    [
        *(
            "p",
            "P.q_r",
            "p[a,b]>=1",
            "p >= 1 , <2",
            "p (>=1)",
            "p>=1,",
            "p[]",
            "p[]>=1",
            "p===foo",
            "p==1.0+cpu",
        ),
        *("p @ https://x/y.whl", "p@https://x", "p @ file:///x/y.whl", "p @ git+https://x/y@main"),
        *("p; python_version<'3'", "p>=1;os_name=='x'", "p @ https://x/y.whl ; os_name=='x'"),
        *("", ">=1", "p>=", "p==1 2", "p =1", "p 1.0", "p,", "p>=1.*", "p~=1", "p>=1.0+cpu", "p[", "p[a b]"),
        *(
            "p-",
            "-p",
            "./x",
            "https://x/y.whl",
            "git+https://x",
            "p @",
            "p;",
            "-r requirements.txt",
            "p\n--no-index",
        ),
    ],
)
def test_requirements_are_read_as_packaging_reads_them(text: str) -> None:
    try:
        reference = Reference(text)
    except InvalidRequirement:
        with pytest.raises(pip_spec.RequirementError):
            pip_spec.parse(text)
        return
    requirement = pip_spec.parse(text)
    assert (requirement.url, bool(requirement.marker)) == (reference.url, reference.marker is not None)
    assert requirement.name == pip_spec.normalise(reference.name)


@pytest.mark.parametrize("name", ["Foo-Bar", "foo_bar", "FOO.BAR", "foo-_.bar"])
def test_names_are_normalised(name: str) -> None:
    assert pip_spec.normalise(name) == "foo-bar"
    assert pip_spec.parse(f"{name}>=1").name == "foo-bar"


@pytest.mark.parametrize(
    ("text", "version", "url", "expected"),
    [
        ("torch==2.13.0", "2.13.0+cpu", None, True),
        ("torch==2.13.0+cpu", "2.13.0+cpu", None, True),
        ("torch==2.13.0+cpu", "2.13.0", None, False),
        ("torch==2.13.0+cpu", "2.13.0+cu128", None, False),
        ("torch", None, None, False),
        ("torch", "2.13.0a1", None, True),
        ("torch", "no version", None, True),
        ("torch>=2", "no version", None, False),
        # only the installer can tell
        ("torch[extra]", "2.0", None, None),
        ("torch[extra]>=3", "2.0", None, False),
        ("torch; sys_platform == 'win32'", None, None, None),
        ("torch>=3; sys_platform == 'win32'", "2.0", None, None),
        ("torch>=2; sys_platform == 'win32'", "2.0", None, True),
        # PEP 610
        ("t @ https://x/t.whl", "1", "https://x/t.whl", True),
        ("t @ https://x/t.whl#sha256=00", "1", "https://x/t.whl", True),
        ("t @ https://x/t.whl", "1", "https://x/u.whl", None),
        ("t @ https://x/t.whl", "1", None, None),
        ("t @ https://x/t.whl", None, None, False),
    ],
)
def test_whether_a_distribution_satisfies(
    text: str, version: str | None, url: str | None, expected: bool | None
) -> None:
    assert pip_spec.parse(text).satisfied(version, url) is expected
