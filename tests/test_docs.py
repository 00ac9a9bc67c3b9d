"""docs/imgadm.md says of every command and option what became of it, and names tests that there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from imgctl.commands import GLOBAL_OPTIONS, all_commands

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "imgadm.md").read_text()

#: imgadm's commands and options, from its manual.
IMGADM = {
    "sources": "-v --verbose -j --json -a -d -e -c --check -t --type -k --insecure -f --force "
    "--add-docker-hub",
    "avail": "-j --json -H -o -s",
    "show": "",
    "list": "-j --json -H -o -s --docker",
    "get": "-P -r",
    "import": "-q -C --channel -P -S --source --zstream",
    "install": "-P -q -m -f",
    "update": "-n --dry-run",
    "ancestry": "-j --json -H -o -P",
    "delete": "-P",
    "vacuum": "-n --dry-run -f --force",
    "create": "-m -o --output-template -c --compression -i --incremental --max-origin-depth -s -p "
    "--publish -q",
    "publish": "-q -m -f",
    "help": "",
}
OURS = {
    command.names[0]: " ".join(flag for option in command.options for flag in option.flags)
    for command in all_commands()
}


def rows() -> list[list[str]]:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if set("".join(row)) != {"-"} and row[-1] != "shown by"]


def options(command: str, *, everywhere: bool = False) -> set[str]:
    """The options that the rows of a command name; with `everywhere`, in whatever column."""
    named: set[str] = set()
    for first, *others in rows():
        spans = re.findall(r"`([^`]+)`", first)
        if spans and spans[0].split()[0] == command:
            named.update(*(span.split() for span in spans))
            for other in others if everywhere else ():
                named.update(*(span.split() for span in re.findall(r"`([^`]+)`", other)))
    return named


@cache
def names_in(path: str) -> set[str]:
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{each.name}" for each in node.body if hasattr(each, "name")}
    return names


def test_every_row_names_a_test_and_each_of_them_exists():
    assert all("`tests/" in row[-1] for row in rows())
    named = re.findall(r"`(tests/[\w/.]+)::([\w:]+)`", TEXT)
    missing = [f"{path}::{name}" for path, name in named if name not in names_in(path)]
    assert missing == []
    assert len(named) > 70


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / "docs" / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("command", OURS)
def test_every_command_of_ours_is_there_with_its_options(command: str):
    named = options(command)
    assert command in named
    assert set(OURS[command].split()) - {"-h", "--help"} - named == set()


@pytest.mark.parametrize("command", IMGADM)
def test_every_command_of_imgadms_is_there_with_its_options(command: str):
    named = options(command, everywhere=True)
    assert command in named
    assert set(IMGADM[command].split()) - named == set()


def test_every_global_option_is_there():
    named = {span for row in rows() for span in re.findall(r"`([^`]+)`", row[0])}
    assert {flag for option in GLOBAL_OPTIONS for flag in option.flags} - named == set()


def test_all_of_imgadms_twenty_defects_are_there():
    numbered = [int(match[1]) for row in rows() if (match := re.match(r"(\d+)\. ", row[0]))]
    assert numbered == list(range(1, 21))
