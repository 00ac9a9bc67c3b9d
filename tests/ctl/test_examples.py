"""The examples in each command's help are command lines that the command takes."""

from __future__ import annotations

import shlex

import pytest
from imgctl.arguments import parse
from imgctl.commands import GLOBAL_OPTIONS, all_commands, find_command

COMMANDS = [*all_commands(), find_command("__complete")]
#: What a shell does with the rest of the line.
SHELL = ("|", ">", "<", "&&", ";")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.names[0])
def test_every_command_has_examples_that_it_takes(command):
    assert command.examples
    for line, meaning in command.examples:
        words = shlex.split(line)
        end = next((place for place, word in enumerate(words) if word.startswith(SHELL)), len(words))
        given = parse(GLOBAL_OPTIONS, words[:end], mixed=False)
        name, *rest = given.rest
        assert name in command.names
        parse(command.options, rest, mixed=command.mixed)
        assert meaning
        assert not meaning.endswith(".")


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.names[0])
def test_help_shows_them(imgctl, command):
    shown = imgctl("help", command.names[0]).stdout
    _, examples = shown.split("\nExamples:\n")
    for line, meaning in command.examples:
        assert f"    imgctl {line}\n        {meaning}\n" in examples


def test_imgadms_help_has_none(imgctl):
    assert "Examples" not in imgctl("help", "import", imgadm=True).stdout
