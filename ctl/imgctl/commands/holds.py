"""Holds on images."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import HELP, IMAGE, LISTING, OUTCOMES, POOL, Command

COMMANDS = (
    Command(
        ("hold",),
        "hold [-P POOL] [-j] IMAGE... TAG",
        "protect an image from deletion",
        "holds:hold",
        (HELP, POOL, OUTCOMES),
        examples=((f"hold {IMAGE} golden", 'keep it until "golden" is released'),),
    ),
    Command(
        ("release",),
        "release [-P POOL] [-j] IMAGE... TAG",
        "end a hold",
        "holds:release",
        (HELP, POOL, OUTCOMES),
        examples=((f"release {IMAGE} golden", "end that hold; others stay"),),
    ),
    Command(
        ("holds",),
        "holds [OPTIONS] [IMAGE]",
        "list the holds of all images, or of one",
        "holds:holds",
        (HELP, Option(POOL.flags, POOL.argument, "Only this pool. Default is all."), *LISTING),
        examples=(("holds", "all images that are held"), (f"holds {IMAGE}", "the tags that hold it")),
    ),
    Command(
        ("pin",),
        "pin [-P POOL] [-j] IMAGE...",
        "protect an image from deletion and vacuum",
        "holds:pin",
        (HELP, POOL, OUTCOMES),
        "The same as `hold IMAGE pinned`.",
        examples=((f"pin {IMAGE}", "keep it until it is unpinned"),),
    ),
    Command(
        ("unpin",),
        "unpin [-P POOL] [-j] IMAGE...",
        "remove the pin of an image",
        "holds:unpin",
        (HELP, POOL, OUTCOMES),
        examples=((f"unpin {IMAGE}", "allow its deletion again"),),
    ),
)
