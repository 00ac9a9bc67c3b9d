"""The scripts: tables in a syntax that bash and zsh share, and a function for each that reads them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from imgctl.commands import all_commands
from imgctl.shells.bash import BASH
from imgctl.shells.words import FIELDS, argument_kinds, flags, option_kinds
from imgctl.shells.zsh import ZSH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgctl.commands import Command

SHELLS = {"bash": BASH, "zsh": ZSH}


def completion_script(shell: str, program: str) -> str:
    """The script that completes the program in a shell of `SHELLS`."""
    commands = all_commands()
    known = [f"{name}:{command.summary}" for command in commands for name in _typed(command)]
    tables = [
        *_list("commands", known),
        *_list("fields", FIELDS),
        *_choice("flags", "$1", _flag_cases(commands)),
        *_choice("option", "$1 $2", _option_cases(commands)),
        *_choice("argument", "$1 $2", _argument_cases(commands)),
    ]
    return SHELLS[shell].replace("@TABLES@", "\n".join(tables)).replace("@PROGRAM@", program)


def _typed(command: Command) -> list[str]:
    """The names that are worth completing: not `?`."""
    return [name for name in command.names if name[0].isalpha()]


def _list(name: str, words: Iterable[str]) -> list[str]:
    """A function that sets `choices`."""
    return [
        f"_@PROGRAM@_{name}() {{",
        "    choices=(",
        *(f"        {shlex.quote(word)}" for word in words),
        "    )",
        "}",
    ]


def _choice(name: str, of: str, cases: Iterable[tuple[Sequence[str], str]]) -> list[str]:
    """A function that sets `kind`, and fails where nothing is known. The patterns are shell's."""
    lines = [f"_@PROGRAM@_{name}() {{", f'    case "{of}" in']
    lines += [f"        {'|'.join(patterns)}) kind={shlex.quote(kind)} ;;" for patterns, kind in cases]
    return [*lines, "        *) kind=; return 1 ;;", "    esac", "}"]


def _flag_cases(commands: Sequence[Command]) -> Iterator[tuple[list[str], str]]:
    yield ["''"], "=" + " ".join(flags(None))
    for command in commands:
        yield _typed(command), "=" + " ".join(flags(command))


def _option_cases(commands: Sequence[Command]) -> Iterator[tuple[list[str], str]]:
    """Of all options that have an argument."""
    for command in (None, *commands):
        for names, kind in option_kinds(command):
            of = [""] if command is None else _typed(command)
            yield [shlex.quote(f"{name} {flag}") for name in of for flag in names], kind


def _argument_cases(commands: Sequence[Command]) -> Iterator[tuple[list[str], str]]:
    for command in commands:
        kinds, further = argument_kinds(command)
        for place, kind in enumerate(kinds):
            yield [f"'{name} {place}'" for name in _typed(command)], kind
        if further:
            yield [f"'{name} '*" for name in _typed(command)], further
