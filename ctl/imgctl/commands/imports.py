"""Imports: begin, watch and end them."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import EVENTS, HELP, IMAGE, JSON, NO_HEADER, POOL, QUIET, Command

COMMANDS = (
    Command(
        ("import",),
        "import [OPTIONS] UUID",
        "import image from a source",
        "imports:import_image",
        (
            HELP,
            QUIET,
            POOL,
            Option(("-S", "--source"), "URL", "Import from this source only. May be given several times."),
            Option(("-C", "--channel"), "CHANNEL", "The channel of the sources."),
            Option(
                ("--zstream",),
                "",
                "The source sends the image's stream as it has it now: no size and no checksum of the "
                "manifest is compared.",
            ),
            Option(("-n", "--dry-run"), "", "Say what would be done, and whether it fits; change nothing."),
            EVENTS,
        ),
        examples=(
            (f"import {IMAGE}", "install it, and what it was made from"),
            (f"import -P tank -S https://images.example.com {IMAGE}", "into another pool, from one server"),
        ),
        among="available",
    ),
    Command(
        ("install",),
        "install [OPTIONS] -m MANIFEST -f FILE",
        "import from local image data",
        "imports:install",
        (
            HELP,
            QUIET,
            POOL,
            Option(("-m",), "MANIFEST", "Path to the image's manifest, in JSON."),
            Option(("-f",), "FILE", "Path to the image's file."),
            EVENTS,
        ),
        examples=(("install -m web.imgmanifest -f web.zfs.gz", "install from these two files"),),
    ),
    Command(
        ("ensure",),
        "ensure [OPTIONS] UUID...",
        "import images that are not installed",
        "imports:ensure",
        (HELP, QUIET, POOL, EVENTS),
        "Returns when all of the images are installed; at once when they are.",
        examples=((f"ensure -q {IMAGE}", "for scripts: be sure that it is installed"),),
        among="available",
    ),
    Command(
        ("jobs",),
        "jobs [-j]",
        "list imports under way",
        "imports:jobs",
        (HELP, JSON, NO_HEADER),
        examples=(("jobs", "how far each import is, and who waits for it"),),
    ),
    Command(
        ("watch",),
        "watch [OPTIONS] [UUID]",
        "follow imports under way",
        "imports:watch",
        (HELP, QUIET, EVENTS),
        "Follows all imports until it is interrupted, or one until it has ended.",
        examples=(
            ("watch", "all imports, until Ctrl-C"),
            (f"watch -j {IMAGE}", "one of them, an event a line, for programs"),
        ),
        among="jobs",
    ),
    Command(
        ("cancel",),
        "cancel UUID",
        "end an import, whoever wants it",
        "imports:cancel",
        (HELP,),
        examples=((f"cancel {IMAGE}", "end it; what is downloaded serves the next try"),),
        among="jobs",
    ),
)
