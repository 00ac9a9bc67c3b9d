"""Looks after images: how they are related, what they occupy, what was done, whether they are sound."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import EVENTS, HELP, IMAGE, JSON, NO_HEADER, POOL, QUIET, Command

_ALL_POOLS = Option(POOL.flags, POOL.argument, "Only this pool. Default is all.")

COMMANDS = (
    Command(
        ("tree",),
        "tree [-P POOL] [-j]",
        "show which images are cloned from which",
        "usage:tree",
        (HELP, _ALL_POOLS, JSON),
        "For each pool the images without an origin, and below each what is cloned from\n"
        "it, images and machines. USED is what an image occupies by itself, DATA how\n"
        "much data it has with its origins'.",
        examples=(("tree", "all pools"), ("tree -j -P zones", "one pool, as nested JSON")),
    ),
    Command(
        ("du",),
        "du [-P POOL] [-j] [UUID...]",
        "show what images occupy",
        "usage:du",
        (HELP, _ALL_POOLS, JSON, NO_HEADER),
        "OWN is what deleting the image would free, SHARED what its clones stand on and\n"
        "so stays as long as they do, TOTAL both.",
        examples=(("du", "all images, the largest first"), (f"du {IMAGE}", "one image")),
    ),
    Command(
        ("history",),
        "history [-n N] [-j] [UUID]",
        "list what was imported, installed and deleted",
        "history:history",
        (HELP, Option(("-n",), "N", "The newest N entries. Default is 20."), JSON, NO_HEADER),
        "Who did what, when, from where, how long it took, and how it ended. The newest\n"
        "entry is the last one.",
        examples=(
            ("history", "the last 20 things that were done"),
            (f"history -j {IMAGE}", "all of an image"),
        ),
        among="history",
    ),
    Command(
        ("verify",),
        "verify [-q] [-P POOL] [-j] [--strict] [--record] [UUID...]",
        "read images again, and compare them with what was installed",
        "maintenance:verify",
        (
            HELP,
            QUIET,
            Option(POOL.flags, POOL.argument, "The pool. Default: all; with UUIDs, the daemon's."),
            EVENTS,
            Option(("--strict",), "", "Fail, too, where there is nothing to compare with yet."),
            Option(("--record",), "", "Write down what the images are now, with a checksum of their data."),
        ),
        "Without UUIDs: all images. Reads all of each, and of what it was made from. An\n"
        "image is ok; changed (another one is in its place, or its dataset was written\n"
        "to); damaged (its data is not what was written); lost (it is gone, and nobody\n"
        "deleted it); or unknown (imgadm installed it: what it is now is written down, and\n"
        "next time compared). The exit status is 1 if one is changed, damaged or lost. May\n"
        "take long, and leaves the disks to imports while there are any.\n"
        "With --record, what can be read is recorded: later verifications compare with\n"
        "that, and no longer with what was installed.",
        examples=(
            ("verify", "all images"),
            (f"verify {IMAGE}", "one, and its origins"),
            (f"verify --record {IMAGE}", "one that others installed: remember all of it"),
        ),
    ),
    Command(
        ("update",),
        "update [-n] [UUID...]",
        "bring manifests up to date with the sources",
        "maintenance:update",
        (
            HELP,
            Option(("-n", "--dry-run"), "", "Say what would be changed; change nothing."),
        ),
        "Asks the sources for the manifests of the installed images, and writes down what\n"
        "is new. An image that has no snapshot @final gets it, if the source says which\n"
        "one it is.",
        examples=(
            ("update -n", "what the sources know better"),
            (f"update {IMAGE}", "one image"),
        ),
    ),
    Command(
        ("vacuum",),
        "vacuum [OPTIONS]",
        "delete images that nothing needs",
        "maintenance:vacuum",
        (
            HELP,
            Option(("-n", "--dry-run"), "", "Say what would be deleted; ask nothing, delete nothing."),
            Option(("-f", "--force"), "", "Delete without asking."),
            Option(
                ("--older-than",),
                "AGE",
                "Only images that were installed so long ago: a number and s, m, h, d or w.",
            ),
            Option(("--keep",), "N", "Keep the N newest versions of each name."),
            Option(JSON.flags, JSON.argument, "With -n: what would be deleted, as JSON."),
        ),
        "An image stays while something is cloned from it, and while it is held or\n"
        "pinned. What goes has nothing cloned from it but images that go before it. What\n"
        "has no manifest is left, and named: it may be a machine.",
        examples=(
            ("vacuum -n", "what could go"),
            ("vacuum -f --older-than 30d --keep 2", "for scripts: old images, but two of each name"),
        ),
    ),
)
