"""The candidates for each word of a command line, from the tables of commands. Pure: no I/O.

A *kind* is one that the daemon is asked for (`DYNAMIC`), "commands", "flags", "files", "fields", "filters",
or `=` and the words themselves; "" is a word that nothing is known of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgctl.commands import GLOBAL_OPTIONS, IMGADMS_GLOBAL_OPTIONS, SOCKET, all_commands, find_command
from imgctl.image_fields import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgctl.arguments import Option
    from imgctl.commands import Command

__all__ = ["DYNAMIC", "FIELDS", "argument_kinds", "flags", "option_kinds", "place_of"]

#: What the daemon is asked for.
DYNAMIC = ("installed", "available", "jobs", "history", "pools", "sources")

#: What the names of arguments mean. UUID is the command's own (`Command.among`).
_KINDS = {
    "POOL": "pools",
    "URL": "sources",
    "FILE": "files",
    "MANIFEST": "files",
    "PATH": "files",
    "DISK": "files",
    "DIR": "files",
    "SCRIPT": "files",
    "FORM": "=json yaml",
    "SOURCE": "files",
    "FORMAT": "=stream raw qcow2",
    "FIELD,...": "fields",
    "FILTERS": "filters",
    "FIELD=VALUE": "filters",
    "TYPE": "=imgapi dsapi static oci",
    "COMPRESSION": "=none gzip bzip2 xz zstd",
}

#: How usages call an image.
_IMAGE = ("UUID", "IMAGE")


def option_kinds(command: Command | None) -> Iterator[tuple[tuple[str, ...], str]]:
    """The flags of each option that has an argument, and its kind. None: the options before a command."""
    for option in GLOBAL_OPTIONS if command is None else command.options:
        if option.argument:
            yield option.flags, _kind(command, option.argument)


def options_of(command: Command | None, *, imgadm: bool = False) -> Sequence[Option]:
    """The options that may be typed. None: those before a command."""
    if command is None:
        return IMGADMS_GLOBAL_OPTIONS if imgadm else GLOBAL_OPTIONS
    if imgadm or not command.mixed:
        return command.imgadms_options if imgadm else command.options
    return (*command.options, SOCKET)


def flags(command: Command | None, *, imgadm: bool = False) -> list[tuple[str, str]]:
    """All flags with what each is for. None: those before a command."""
    return [(flag, option.help) for option in options_of(command, imgadm=imgadm) for flag in option.flags]


class Place(NamedTuple):
    """The place of the typed word on a command line. `kind` is that of its candidates."""

    kind: str
    command: Command | None
    socket: str | None  #: the socket that was named so far
    before: str = ""  #: the part of the word that stays, as `--pool=` or `uuid,`
    word: str = ""  #: the rest of it


def place_of(words: Sequence[str], *, imgadm: bool = False) -> Place:
    """The place of the last one of the words that follow the program's name."""
    *typed, word = words or [""]
    command: Command | None = None
    unknown = False
    socket = waiting = None
    count = 0
    for each in typed:
        kinds = _with_argument(command, imgadm=imgadm)
        if waiting is not None:
            socket = _socket(waiting, each) or socket
            waiting = None
        elif each.startswith("-") and each != "-":
            flag, equals, value = each.partition("=")
            if equals:
                socket = _socket(flag, value) or socket
            elif flag in kinds:
                waiting = flag
        elif command is None and not unknown:
            command = find_command(each, imgadm=imgadm)
            unknown = command is None
        else:
            count += 1
    return _place(command, word, socket, waiting, count, unknown=unknown, imgadm=imgadm)


def _socket(flag: str, value: str) -> str | None:
    """The socket that an option names."""
    if flag in ("-H", "--host"):
        return f"ssh://{value.removeprefix('ssh://')}"
    return value if flag == "--socket" else None


def _place(
    command: Command | None,
    word: str,
    socket: str | None,
    waiting: str | None,
    count: int,
    *,
    unknown: bool,
    imgadm: bool,
) -> Place:
    if unknown:
        return Place("", None, socket)
    before = ""
    flag, equals, value = word.partition("=")
    if waiting is not None:
        kind = _with_argument(command, imgadm=imgadm)[waiting]
    elif equals and flag.startswith("--"):
        kind = _with_argument(command, imgadm=imgadm).get(flag, "")
        before, word = f"{flag}=", value
    elif word.startswith("-"):
        kind = "flags"
    elif command is None:
        kind = "commands"
    else:
        kinds, further = argument_kinds(command)
        kind = kinds[count] if count < len(kinds) else further
    if kind == "fields" and "," in word:
        head, comma, word = word.rpartition(",")
        before += head + comma
    return Place(kind, command, socket, before, word)


def _with_argument(command: Command | None, *, imgadm: bool) -> dict[str, str]:
    """The flags that take an argument, and its kind."""
    return {
        flag: _kind(command, option.argument)
        for option in options_of(command, imgadm=imgadm)
        if option.argument
        for flag in option.flags
    }


def argument_kinds(command: Command) -> tuple[list[str], str]:
    """The kinds of the arguments by their places, and that of all further ones."""
    kinds: list[str] = []
    # What comes after another program's own command is mostly a file.
    further = "" if command.mixed else "files"
    for word in _argument_names(command):
        kind = _kind(command, word.removesuffix("..."))
        if word.endswith("...") or kind == "filters":
            further = further or kind
        else:
            kinds.append(kind)
    return kinds, further


def _argument_names(command: Command) -> Iterator[str]:
    """The words of the usage that are neither options nor their arguments."""
    with_argument = {flag for option in command.options if option.argument for flag in option.flags}
    skip = False
    for word in command.usage.split()[1:]:
        bare = word.strip("[]")
        if skip or bare in ("OPTIONS", "|"):
            skip = False
        elif bare.startswith("-"):
            skip = bare in with_argument
        elif bare:
            yield bare


def _kind(command: Command | None, name: str) -> str:
    if command is not None and name in _IMAGE:
        return command.among
    if name == "COMMAND" and (command is None or command.mixed):
        return "=" + " ".join(known for each in all_commands() for known in each.names if known[0].isalpha())
    if "|" in name:
        return "=" + " ".join(word for word in name.split("|") if word.isascii() and word.isalnum())
    return _KINDS.get(name, "")
