"""`help`: prints the commands and their options, from the tables of commands."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from imgctl.cli import unknown_command
from imgctl.commands import (
    GLOBAL_OPTIONS,
    IMGADMS_GLOBAL_OPTIONS,
    Command,
    aliases,
    all_commands,
    find_command,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgctl.arguments import Arguments, Option
    from imgctl.session import Session

#: Columns: of the explanations of options and of commands, and of a whole line.
_OPTION_COLUMN, _COMMAND_COLUMN, _WIDTH = 26, 43, 80

#: Names of images, which imgadm does not have.
_NAMES = (
    "IMAGE is a UUID, its beginning (four digits or more), NAME, NAME@VERSION or",
    "NAME@latest, if that means one image.",
)


def show_help(session: Session, arguments: Arguments) -> None:
    """`help [COMMAND]`. After `config`, `keys` and the like there may stand what these are to do."""
    if not arguments.rest:
        session.say(overview(session.program))
        return
    name, *further = arguments.rest
    command = find_command(name, imgadm=session.is_imgadm)
    if session.is_imgadm or (command is not None and not {*further} <= _words(command)):
        arguments.one()
    if command is None:
        raise unknown_command(session, name)
    session.say(command_help(session.program, command))


def _words(command: Command) -> set[str]:
    """The words of its usage, as `show` and `check` of `config show|check`."""
    return {word for part in command.usage.split()[1:] for word in part.strip("[]").split("|")}


def overview(program: str) -> list[str]:
    """The global options and all commands."""
    lines = [
        "Manage the images of a SmartOS or ZFS host.",
        "",
        "Usage:",
        f"    {program} [OPTIONS] COMMAND [ARGS...]",
        f"    {program} help COMMAND",
        "",
        "Options:",
        *_options(IMGADMS_GLOBAL_OPTIONS if program == "imgadm" else GLOBAL_OPTIONS),
        "",
        "Commands:",
    ]
    for command in all_commands():
        if find_command(command.names[0], imgadm=program == "imgadm") is not command:
            continue
        lines += _columns(f"    {program} {_usage(program, command)}", command.summary, _COMMAND_COLUMN)
    if program != "imgadm":
        lines += ["", *_NAMES]
    return [*lines, "", f"See `{program} help COMMAND` for more details."]


def command_help(program: str, command: Command) -> list[str]:
    """One command and its options."""
    lines = [
        f"{command.summary[:1].upper()}{command.summary[1:]}.",
        "",
        "Usage:",
        f"    {program} {_usage(program, command)}",
    ]
    imgadm = program == "imgadm"
    if others := aliases(command, imgadm=imgadm):
        lines += ["", f"Aliases: {', '.join(others)}"]
    lines += ["", "Options:", *_options(command.imgadms_options if imgadm else command.options)]
    if command.about:
        lines += ["", *command.about.splitlines()]
    if program != "imgadm":  # which knows no names of images, and not all of our commands
        lines += _examples(program, command)
    return lines


def _usage(program: str, command: Command) -> str:
    return command.imgadms_usage if program == "imgadm" else command.usage


def _examples(program: str, command: Command) -> list[str]:
    lines = ["", "Examples:"]
    for line, meaning in command.examples:
        lines += [f"    {program} {line}", f"        {meaning}"]
    return lines


def _options(options: Sequence[Option]) -> list[str]:
    lines: list[str] = []
    for option in options:
        flags = ", ".join(option.flags) + (f" {option.argument}" if option.argument else "")
        lines += _columns(f"    {flags}", option.help, _OPTION_COLUMN + 4)
    return lines


def _columns(left: str, right: str, column: int) -> list[str]:
    first, *others = textwrap.wrap(right, _WIDTH - column)
    lines = [left.ljust(column) + first] if len(left) < column - 1 else [left, " " * column + first]
    return lines + [" " * column + other for other in others]
