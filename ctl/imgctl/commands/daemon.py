"""How the daemon is, and what is wrong with its host."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import HELP, JSON, Command

COMMANDS = (
    Command(
        ("status",),
        "status [-j]",
        "show how the daemon, its pools, sources and imports are",
        "status:status",
        (HELP, JSON),
        "Asks no source: what is shown of them is how they answered last. The exit status\n"
        "is 1 if a pool or a source needs attention, and 0 if all is well.",
        examples=(
            ("status", "all at one glance"),
            ("status -j", "the same as JSON, for monitoring; the exit status says whether all is well"),
        ),
    ),
    Command(
        ("top",),
        "top [-d SECONDS] [-n COUNT] [-j]",
        "watch imports: how fast each is, and what limits it",
        "status:top",
        (
            HELP,
            Option(("-d",), "SECONDS", "Seconds between two looks. Default is 1."),
            Option(("-n",), "COUNT", "End after so many looks. Default is to go on until q or Ctrl-C."),
            Option(JSON.flags, JSON.argument, "Print each look as a line of JSON."),
        ),
        "LIMIT is what an image waits for: the network; checksum, decompress or pool, where\n"
        "the bytes are worked on; its turn to download, its origin, or the lock of who else\n"
        "is at work on it. It is measured over the last seconds. On a terminal the screen is\n"
        "drawn anew each time; elsewhere one look is printed after another.",
        examples=(
            ("top", "follow what is imported, until q"),
            ("top -j -n 10 -d 5", "for scripts: ten looks in JSON, one every five seconds"),
        ),
    ),
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
