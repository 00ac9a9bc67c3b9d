"""What there is."""

from __future__ import annotations

from imgctl.commands.base import HELP, Command

COMMANDS = (
    Command(
        ("help", "?"),
        "help [COMMAND]",
        "help on commands",
        "help:show_help",
        (HELP,),
        examples=(("help import", "what `import` does, and its options"),),
    ),
)
