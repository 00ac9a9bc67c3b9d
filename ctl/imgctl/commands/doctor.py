"""What is wrong with a host."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import HELP, JSON, Command

COMMANDS = (
    Command(
        ("doctor",),
        "doctor [-j] [--config FILE]",
        "find out what keeps images from coming, and what to do about it",
        "doctor:doctor",
        (
            HELP,
            JSON,
            Option(
                ("--config",),
                "FILE",
                "The daemon's configuration, for when it does not run. Default is the system's place.",
            ),
        ),
        "Looks at the daemon, its configuration, privileges and pools, at the image sources\n"
        "(each is asked), the clock, room, the view, imgadm's files, and what is installed.\n"
        "Where no daemon answers, it looks at the host by itself (`imgstored --check`).\n"
        "Nothing is changed. The exit status is 1 if anything fails, and 0 if not.",
        examples=(
            ("doctor", "all checks; run it as root, to see what the daemon sees"),
            ("doctor -j", "the same as JSON, for monitoring"),
            ("doctor --config /etc/imgstored.toml", "why does the daemon not start?"),
        ),
    ),
)
