"""Which platform image a host runs, by what SmartOS's uname and version file say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from imgstored.config import loading, specs
from imgstored.errors import ConfigError
from imgstored.manifest.platform import Platform
from imgstored.smartos import parse_platform, running

if TYPE_CHECKING:
    from pathlib import Path

BUILD = "joyent_20260312T002244Z"


@pytest.mark.parametrize(
    ("content", "version"),
    [
        ("7.0\n", "7.0"),
        ("10.12", "10.12"),
        (None, "6.5"),
        ("", "6.5"),
        ("\x1b[2J", "6.5"),
        ("7" * 500, "6.5"),
    ],
)
def test_a_smartos_host(tmp_path: Path, content: str | None, version: str) -> None:
    file = tmp_path / "version"
    if content is not None:
        file.write_text(content)
    assert running("SunOS", BUILD, file) == Platform(version, "20260312T002244Z")


@pytest.mark.parametrize(
    ("system", "build"),
    [("Linux", BUILD), ("SunOS", "omnios-r151050-3de3520a2d5"), ("SunOS", "11.4.0.15.0"), ("SunOS", "_")],
)
def test_what_is_no_smartos(tmp_path: Path, system: str, build: str) -> None:
    assert running(system, build, tmp_path / "none") is None


def test_this_host() -> None:
    assert (running() is not None) == (os.uname().sysname == "SunOS" and "joyent_" in os.uname().version)


def test_a_platform_of_the_configuration() -> None:
    assert parse_platform("7.0/20190314T232247Z") == Platform("7.0", "20190314T232247Z")
    assert specs.platform(loading.parse('platform = "7.0/20190314T232247Z"')) == Platform(
        "7.0", "20190314T232247Z"
    )
    assert specs.platform(loading.parse('platform = "any"')) is None
    assert specs.platform(loading.parse("")) == running()


@pytest.mark.parametrize(
    "text",
    ["", "7.0", "7.0/", "7.0/2019", "/20190314T232247Z", "x/20190314T232247Z", "7.0/20190314T232247Z\n"],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^platform: "):
        parse_platform(text)
    with pytest.raises(ConfigError, match=r"^platform: "):
        specs.check(loading.parse(f"platform = {text!r}" if "\n" not in text else 'platform = "7.0\\n"'))
