"""The tables of commands. A command has a function in `imgctl.run`, a row in a table here, and a place.

`imgctl` imports only the table of the command that runs, because it starts often and must start fast.
"""

from __future__ import annotations

from importlib import import_module

from imgctl.commands.base import GLOBAL_OPTIONS, IMGADMS_GLOBAL_OPTIONS, SOCKET, Command

__all__ = [
    "GLOBAL_OPTIONS",
    "IMGADMS_GLOBAL_OPTIONS",
    "SOCKET",
    "Command",
    "aliases",
    "all_commands",
    "command_names",
    "find_command",
]

#: All commands in the order of `help`, and the table of each.
_PLACES = {
    "help": "daemon",
    "sources": "servers",
    "avail": "images",
    "show": "images",
    "import": "imports",
    "install": "imports",
    "list": "images",
    "get": "images",
    "update": "maintenance",
    "delete": "images",
    "ancestry": "images",
    "vacuum": "maintenance",
    "create": "making",
    "publish": "making",
    "ensure": "imports",
    "wait": "imports",
    "tree": "maintenance",
    "info": "images",
    "outdated": "images",
    "alias": "images",
    "du": "maintenance",
    "history": "maintenance",
    "hold": "images",
    "release": "images",
    "holds": "images",
    "pin": "images",
    "unpin": "images",
    "verify": "maintenance",
    "export": "making",
    "copy": "making",
    "export-site": "servers",
    "keys": "servers",
    "mirror": "servers",
    "vmadm": "imports",
    "jobs": "imports",
    "watch": "imports",
    "cancel": "imports",
    "status": "daemon",
    "top": "daemon",
    "events": "daemon",
    "doctor": "daemon",
    "config": "daemon",
    "zstream": "making",
    "completion": "daemon",
}

#: For shells only, and not in `help`.
_HIDDEN = {"__complete": "daemon", "__bridge": "daemon"}

_ALIASES = {"?": "help", "available": "avail", "destroy": "delete"}

#: Names that people bring from other tools. Under imgadm's name they are as unknown as they are to imgadm.
_OTHER_TOOLS = {"pull": "import", "ls": "list", "rm": "delete", "search": "avail"}

#: What imgadm calls so, and imgctl does not.
_IMGADMS = {"info": "get"}


def find_command(name: str, *, imgadm: bool = False) -> Command | None:
    """The command of that name or alias; with `imgadm`, under imgadm's name."""
    name = (_IMGADMS if imgadm else _OTHER_TOOLS).get(name, _ALIASES.get(name, name))
    return _command(name) if name in _PLACES or name in _HIDDEN else None


def aliases(command: Command, *, imgadm: bool = False) -> list[str]:
    """The other names of a command."""
    names = [*_ALIASES, *(_IMGADMS if imgadm else _OTHER_TOOLS)]
    return [name for name in names if find_command(name, imgadm=imgadm) is command]


def command_names() -> list[str]:
    """All names that `find_command` takes, but for those that only shells use."""
    return [*_PLACES, *_ALIASES, *_OTHER_TOOLS]


def all_commands() -> list[Command]:
    """All commands, in the order of `help`."""
    return [_command(name) for name in _PLACES]


def _command(name: str) -> Command:
    place = _PLACES.get(name) or _HIDDEN[name]
    table: tuple[Command, ...] = import_module(f"imgctl.commands.{place}").COMMANDS
    return next(command for command in table if command.names[0] == name)
