"""One version: imgstored's, which the package has, too, and imgctl, which imports nothing of it, repeats."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import imgctl
import pytest
from packaging.version import Version

import imgstored

ROOT = Path(__file__).parents[2]


def test_imgctl_has_imgstoreds_version():
    assert imgctl.__version__ == imgstored.__version__


def test_the_installed_package_has_that_version():
    assert version("imgstore") == imgstored.__version__, "tests/setup.sh installs it anew"


def test_it_is_a_version():
    assert str(Version(imgstored.__version__)) == imgstored.__version__


@pytest.mark.parametrize("program", ["imgctl", "imgstored"])
def test_the_programs_say_it(program: str):
    done = subprocess.run(
        [sys.executable, "-m", program, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{program} {imgstored.__version__}\n"


def test_the_changelog_has_the_versions_newest_first():
    entries = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\S+)\] - \d{4}-\d\d-\d\d", entry) for entry in entries[1:]]
    assert all(released), "a release is `## [1.2.3] - 2026-12-31`"
    versions = [Version(imgstored.__version__), *(Version(match[1]) for match in released if match)]
    assert versions == sorted(versions, reverse=True)
