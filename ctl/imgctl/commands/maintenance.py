"""Maintenance of images: relations, space, history, verification, updates."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import EVENTS, HELP, IMAGE, JSON, LISTING, POOL, QUIET, Command

_ALL_POOLS = Option(POOL.flags, POOL.argument, "Only this pool. Default is all.")

COMMANDS = (
    Command(
        ("tree",),
        "tree [OPTIONS]",
        "show images with their clones as a tree",
        "usage:tree",
        (HELP, _ALL_POOLS, *LISTING),
        "Shows the images of each pool that have no origin, and below each its clones,\n"
        "images and machines. USED is the space of the image alone, DATA the amount of its\n"
        "data including its origins'. With `-q`, `-o csv` or fields, lists the images alone,\n"
        "each after its origin.",
        examples=(("tree", "all pools"), ("tree -j -P zones", "one pool, as nested JSON")),
    ),
    Command(
        ("du",),
        "du [OPTIONS] [IMAGE...]",
        "show the space that images use",
        "usage:du",
        (HELP, _ALL_POOLS, *LISTING),
        "OWN is the space that deleting the image would free. SHARED is the space that its\n"
        "clones need, too. TOTAL is both.",
        examples=(("du", "all images, the largest first"), (f"du {IMAGE}", "one image")),
    ),
    Command(
        ("history",),
        "history [OPTIONS] [IMAGE]",
        "list past imports, installations and deletions",
        "history:history",
        (HELP, Option(("-n",), "N", "The newest N entries. Default is 20."), *LISTING),
        "Shows who did what, when, from which source, how long it took, and how it ended.\n"
        "The newest entry comes last. `-o wide` adds who asked, and the source.",
        examples=(
            ("history", "the last 20 actions"),
            (f"history -j {IMAGE}", "all actions on one image"),
        ),
        among="history",
    ),
    Command(
        ("verify",),
        "verify [-q] [-P POOL] [-j] [--strict] [--record] [IMAGE...]",
        "read images again, and compare them with what was installed",
        "maintenance:verify",
        (
            HELP,
            QUIET,
            Option(POOL.flags, POOL.argument, "The pool. Default: all; with UUIDs, the daemon's."),
            EVENTS,
            Option(("--strict",), "", "Fail also for images that have no record to compare with yet."),
            Option(("--record",), "", "Record the images as they are now, with a checksum of their data."),
        ),
        "Verifies all images, or those given and their origins, and reads each completely.\n"
        "An image is ok; changed (another image is in its place, or its dataset was written\n"
        "to); damaged (its data is not what was written); lost (it is gone, and nobody\n"
        "deleted it); or unknown (imgadm installed it: this verification records it, and\n"
        "the next one compares). The exit status is 1 if an image is changed, damaged or\n"
        "lost. A verification may take long, and slows down while imports run.\n"
        "With --record, later verifications compare images with this record, and no longer\n"
        "with what was installed.",
        examples=(
            ("verify", "all images"),
            (f"verify {IMAGE}", "one image and its origins"),
            (f"verify --record {IMAGE}", "an image that another program installed: record all of it"),
        ),
    ),
    Command(
        ("update",),
        "update [-n] [-j] [IMAGE...]",
        "update manifests from the sources",
        "maintenance:update",
        (
            HELP,
            Option(("-n", "--dry-run"), "", "Show the changes, but do not make them."),
            Option(EVENTS.flags, EVENTS.argument, EVENTS.help, imgadms=False),
        ),
        "Gets the manifests of installed images from the sources, and stores the changes.\n"
        "If an image has no snapshot @final, the right snapshot gets this name, provided\n"
        "that the source identifies it.",
        examples=(
            ("update -n", "what would change"),
            (f"update {IMAGE}", "one image"),
        ),
        imgadms_usage="update [-n] [UUID...]",
    ),
    Command(
        ("vacuum",),
        "vacuum [OPTIONS]",
        "delete images that nothing needs",
        "maintenance:vacuum",
        (
            HELP,
            Option(("-n", "--dry-run"), "", "Show the images, but neither ask nor delete."),
            Option(("-f", "--force"), "", "Delete without asking."),
            Option(
                ("--older-than",),
                "AGE",
                "Only images that were installed at least this long ago: a number and s, m, h, d or w.",
            ),
            Option(("--keep",), "N", "Keep the N newest versions of each name."),
            Option(JSON.flags, JSON.argument, "With -n: show the images as JSON."),
        ),
        "An image stays while it has clones, holds or a pin. Clones that vacuum deletes,\n"
        "too, do not count. Datasets without a manifest stay, and vacuum names them: they\n"
        "may be machines.",
        examples=(
            ("vacuum -n", "images that vacuum would delete"),
            ("vacuum -f --older-than 30d --keep 2", "for scripts: old images, but keep two of each name"),
        ),
    ),
)
