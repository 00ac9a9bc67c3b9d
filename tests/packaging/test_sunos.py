"""What the base install is made of on illumos, where nothing is compiled but by a C compiler.

CPython calls that platform "sunos5" (`sys.platform`), whichever distribution it is. The packages' metadata is
that of the versions here, which are the locked ones.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = {"sys_platform": "linux", "platform_system": "Linux"}
ILLUMOS = {"sys_platform": "sunos5", "platform_system": "SunOS"}

#: What has to be compiled there. All else is plain Python, and its wheel installs anywhere.
IN_C = {
    "msgpack",  # and runs without what was compiled
    "msgspec",
}
IN_RUST = {"blake3"}


def needed(system: dict[str, str], *extras: str) -> set[str]:
    """The names of all packages that the wheel brings on such a system, directly or by others."""
    found: set[str] = set()
    waiting = [("imgstore", frozenset(extras))]
    done = set()
    while waiting:
        name, wanted = waiting.pop()
        done.add((name, wanted))
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**system, "extra": each}) for each in ("", *wanted)):
                found.add(canonicalize_name(requirement.name))
                item = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                if item not in done:
                    waiting.append(item)
    return found


def compiled(package: Distribution) -> list[bytes]:
    """The shared objects of a package."""
    files = [file for file in package.files or () if file.suffix == ".so"]
    return [file.locate().read_bytes() for file in files]  # type: ignore[attr-defined]


def is_rust(package: Distribution) -> bool:
    """Whether rustc compiled any of it: its panics say where in its sources, also in a stripped file."""
    return any(b"/rustc/" in content for content in compiled(package))


def is_pure(package: Distribution) -> bool:
    """Whether its wheel is for any system (PEP 427, Root-Is-Purelib)."""
    lines = (package.read_text("WHEEL") or "").splitlines()
    return "Root-Is-Purelib: true" in lines and not compiled(package)


def test_the_base_install_needs_rust_everywhere_but_there():
    here, there = needed(HERE), needed(ILLUMOS)
    assert {name for name in here if is_rust(distribution(name))} == IN_RUST
    assert {name for name in there if is_rust(distribution(name))} == set()
    assert "blake3" not in there
    assert there < here


def test_what_is_compiled_there_is_known():
    there = needed(ILLUMOS)
    assert {name for name in there if not is_pure(distribution(name))} == IN_C
    # As it stands in docs/install.md.
    assert {"trio", "httpx2", "h11", "structlog", "tqdm"} <= there - IN_C


@pytest.mark.parametrize("system", [HERE, ILLUMOS], ids=["linux", "illumos"])
def test_an_extra_brings_what_it_says(system):
    more = needed(system, "fast") - needed(system)
    assert {"isal", "numpy", "zstandard"} == more
