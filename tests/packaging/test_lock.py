"""The locks have what pyproject.toml asks for, with hashes, and it is what these tests run with."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "tools.lock")
AGAIN = "`make lock` brings the locks up to date"


class Locked(NamedTuple):
    """What a lock says of one package; there may be two, for different Pythons."""

    name: str
    version: str
    here: bool  #: its marker holds for this Python
    hashes: int
    asked_for: bool  #: by pyproject.toml itself, not only by another package
    marker: str  #: where it is needed; "" is everywhere


def read_lock(name: str) -> list[Locked]:
    text = (ROOT / "tests" / name).read_text()
    blocks = re.findall(r"^(\S.*==.*(?:\n {4}.*)*)", text, re.MULTILINE)
    return [_locked(block) for block in blocks]


def _locked(block: str) -> Locked:
    requirement = Requirement(block.partition("\\")[0])
    (specifier,) = requirement.specifier
    return Locked(
        canonicalize_name(requirement.name),
        specifier.version,
        requirement.marker is None or requirement.marker.evaluate(),
        len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)),
        re.search(r"# .*imgstore \(pyproject\.toml", block) is not None,
        str(requirement.marker or ""),
    )


def wanted(lock: str) -> dict[str, Requirement]:
    if lock == "tools.lock":
        lines = PROJECT["dependency-groups"]["tools"]
    else:
        extras = PROJECT["project"]["optional-dependencies"].values()
        lines = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
        lines += [line for extra in extras for line in extra]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_asked_for_is_locked(lock: str):
    locked = read_lock(lock)
    asked_for = {each.name for each in locked if each.asked_for}
    assert asked_for == wanted(lock).keys(), AGAIN


@pytest.mark.parametrize("lock", LOCKS)
def test_locked_versions_are_those_that_are_asked_for(lock: str):
    locked = read_lock(lock)
    for name, requirement in wanted(lock).items():
        versions = [each.version for each in locked if each.name == name]
        assert versions
        assert all(requirement.specifier.contains(each) for each in versions), f"{requirement}: {AGAIN}"


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_asked_for_on_some_systems_is_locked_for_these(lock: str):
    locked = {each.name: each.marker for each in read_lock(lock) if "python" not in each.marker}
    asked = {name: str(each.marker) for name, each in wanted(lock).items() if each.marker}
    assert asked == ({"blake3": 'sys_platform != "sunos5"'} if lock == "requirements.lock" else {})
    assert {name: locked[name] for name in asked} == asked, AGAIN


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_hashes(lock: str):
    locked = read_lock(lock)
    assert len(locked) > 8
    assert [each.name for each in locked if not each.hashes] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_the_versions_here_are_the_locked_ones(lock: str):
    here = {each.name: each.version for each in read_lock(lock) if each.here}
    assert {name: version(name) for name in here} == here, "tests/setup.sh installs what is locked"


def test_the_locks_do_not_contradict_each_other():
    first, second = ({(each.name, each.version) for each in read_lock(lock)} for lock in LOCKS)
    both = {name for name, _ in first} & {name for name, _ in second}
    assert {each for each in second if each[0] in both} <= first


def test_the_build_systems_tools_are_locked():
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        (locked,) = (each for each in read_lock("tools.lock") if each.name == requirement.name)
        assert requirement.specifier.contains(locked.version)
