"""The tables of commands. A command has a function in `imgctl.run`, a row in a table here, and a place.

`imgctl` imports only the table of the command that runs, because it starts often and must start fast.
"""

from __future__ import annotations

from importlib import import_module

from imgctl.commands.base import GLOBAL_OPTIONS, Command

__all__ = ["GLOBAL_OPTIONS", "Command", "all_commands", "find_command"]

#: All commands in the order of `help`, and the table of each.
_PLACES = {
    "help": "shell",
    "sources": "sources",
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
    "tree": "maintenance",
    "du": "maintenance",
    "history": "maintenance",
    "hold": "holds",
    "release": "holds",
    "holds": "holds",
    "pin": "holds",
    "unpin": "holds",
    "verify": "maintenance",
    "export": "making",
    "export-site": "sites",
    "keys": "sites",
    "mirror": "sites",
    "vmadm": "programs",
    "jobs": "imports",
    "watch": "imports",
    "cancel": "imports",
    "status": "daemon",
    "top": "daemon",
    "doctor": "daemon",
    "zstream": "programs",
    "completion": "shell",
}

#: For shells only, and not in `help`.
_HIDDEN = {"__complete": "shell"}

_ALIASES = {"?": "help", "available": "avail", "info": "get", "destroy": "delete"}


def find_command(name: str) -> Command | None:
    """The command of that name or alias."""
    name = _ALIASES.get(name, name)
    return _command(name) if name in _PLACES or name in _HIDDEN else None


def all_commands() -> list[Command]:
    """All commands, in the order of `help`."""
    return [_command(name) for name in _PLACES]


def _command(name: str) -> Command:
    place = _PLACES.get(name) or _HIDDEN[name]
    table: tuple[Command, ...] = import_module(f"imgctl.commands.{place}").COMMANDS
    return next(command for command in table if command.names[0] == name)
