"""The candidates for each word of a command line, from the tables of commands. Pure: no I/O.

A *kind* is one that `imgctl __complete` lists (`DYNAMIC`), "files", "fields", "filters", or `=` and the words
themselves; "" is a word that nothing is known of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.commands import GLOBAL_OPTIONS, all_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgctl.commands import Command

#: What the daemon is asked for.
DYNAMIC = ("installed", "available", "jobs", "history", "pools", "sources")

#: Manifests' fields and imgadm's computed ones, that `-o`, `-s` and filters take.
FIELDS = (
    "uuid", "name", "version", "os", "type", "pub", "published", "published_at", "published_date", "size",
    "source", "clones", "zpool", "state", "public", "disabled", "owner", "origin", "description",
    "pinned", "held",
)  # fmt: skip

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
    "SOURCE": "files",
    "FORMAT": "=stream raw qcow2",
    "FIELD,...": "fields",
    "FILTERS": "filters",
    "FIELD=VALUE": "filters",
    "TYPE": "=imgapi dsapi static",
    "COMPRESSION": "=none gzip bzip2 xz zstd",
}

#: How usages call an image.
_IMAGE = ("UUID", "IMAGE")


def option_kinds(command: Command | None) -> Iterator[tuple[tuple[str, ...], str]]:
    """The flags of each option that has an argument, and its kind. None: the options before a command."""
    for option in GLOBAL_OPTIONS if command is None else command.options:
        if option.argument:
            yield option.flags, _kind(command, option.argument)


def flags(command: Command | None) -> list[str]:
    """All flags. None: those before a command."""
    return [
        flag for option in (GLOBAL_OPTIONS if command is None else command.options) for flag in option.flags
    ]


def argument_kinds(command: Command) -> tuple[list[str], str]:
    """The kinds of the arguments by their places, and that of all further ones."""
    kinds: list[str] = []
    # What comes after another program's own command is mostly a file.
    further = "" if command.mixed else "files"
    for word in _argument_names(command):
        kind = _kind(command, word.removesuffix("..."))
        if word.endswith("...") or kind == "filters":
            further = kind or further
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
