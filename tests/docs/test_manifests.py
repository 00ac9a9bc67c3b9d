"""docs/manifests.md says what happens to each kind of odd manifest, and names tests and cases that exist."""

from __future__ import annotations

import ast
import fnmatch
import re
from pathlib import Path

import pytest

from tests.support.odd_manifests import ON_DISK, SERVED

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "manifests.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| the ") and not set(line) <= set("|- ")
]
NAMED = re.findall(r"`(tests/[\w/.]+)::(\w+)`", TEXT)
#: Patterns of cases, such as `name-*`.
CASES = {
    case
    for row in ROWS
    for group in re.findall(r"\(((?:`[\w*-]+`(?:, )?)+)\)", row[-1])
    for case in re.findall(r"`([^`]+)`", group)
}


def test_every_row_says_by_what_it_is_shown():
    assert len(ROWS) > 30
    assert all(len(row) == 3 for row in ROWS), [row for row in ROWS if len(row) != 3]
    assert all("`tests/" in row[-1] or "(`" in row[-1] for row in ROWS)


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_the_test_exists(path: str, name: str):
    names = {
        node.name
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in names


def test_every_case_has_its_row_and_every_row_its_case():
    there = {*SERVED, *ON_DISK}
    assert [case for case in CASES if not fnmatch.filter(there, case)] == []
    without = [name for name in there if not any(fnmatch.fnmatch(name, case) for case in CASES)]
    # Those of the page's last rows, which speak of all bounds and of any object.
    assert sorted(without) == ["large-numbers", "state-nonsense"]
