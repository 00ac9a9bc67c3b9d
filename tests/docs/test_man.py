"""The manual pages: made from the code, and such that groff and mandoc have nothing to say against them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.commands import GLOBAL_OPTIONS, all_commands

from docs.man import keys
from docs.man.pages import ENVIRONMENT, pages
from docs.man.roff import inline
from imgstored.__main__ import argument_parser

ROOT = Path(__file__).parents[2]
PAGES = pages()


def shown(name: str) -> str:
    """A page as people see it, on one line, in ASCII."""
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", "-rHY=0", f"{ROOT}/docs/man/{name}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name):
    written = (ROOT / "docs" / "man" / name).read_text()
    assert written == PAGES[name], "run `python -m docs.man`"


@pytest.mark.parametrize("name", PAGES)
def test_neither_groff_nor_mandoc_warns(name):
    for command in (["groff", "-man", "-ww", "-Tutf8", "-z"], ["mandoc", "-T", "lint"]):
        done = subprocess.run(
            [*command, f"{ROOT}/docs/man/{name}"], capture_output=True, text=True, timeout=30
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_option_of_every_command_is_there():
    text = shown("imgctl.1")
    for command in all_commands():
        place = text.index(f"imgctl {command.usage} ")
        for option in command.options:
            tag = ", ".join(option.flags) + (f" {option.argument}" if option.argument else "")
            meaning = " ".join(option.help.replace("`", "").split())
            assert f"{tag} {meaning}" in text[place:], (command.names[0], tag)
        for line, _ in command.examples:
            assert f"imgctl {line}" in text[place:]
    for option in GLOBAL_OPTIONS:
        assert ", ".join(option.flags) in text


def test_every_option_of_the_daemon_is_there():
    text = shown("imgstored.8")
    for action in argument_parser()._actions:
        assert f"{', '.join(action.option_strings)} {action.metavar or ''}".strip() in text


def test_every_key_is_there():
    text = shown("imgstored.toml.5")
    for table in keys.TABLES:
        for name, field in keys.fields(table).items():
            assert f"{name} = {keys.values(field.type)}" in text


def test_every_variable_that_imgctl_looks_at_is_there():
    read = re.compile(r"environ(?:\.get\(|\[)\s*\"(\w+)\"|\"(\w+)\" in os\.environ")
    used = {
        one or other for path in (ROOT / "ctl").rglob("*.py") for one, other in read.findall(path.read_text())
    }
    assert used == ENVIRONMENT.keys()


def test_the_wheel_ships_the_pages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared.items() >= {f"docs/man/{name}": f"share/man/man{name[-1]}/{name}" for name in PAGES}.items()


@given(st.text(st.characters(exclude_categories=["C"]), max_size=300))
def test_no_text_becomes_a_command_of_roff(words):
    lines = inline(words.replace("`", "").replace("*", "").replace("[", "")).split("\n")
    assert not any(line.startswith((".", "'")) for line in lines)
    assert all(line.isascii() for line in lines)
