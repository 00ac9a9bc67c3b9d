"""The table of commands. A new command is a function in `imgctl.run` and a row here."""

from __future__ import annotations

from typing import NamedTuple

from imgctl.arguments import Option


class Command(NamedTuple):
    """One command. `run` is `module:function` in `imgctl.run`, imported only when the command runs."""

    names: tuple[str, ...]
    usage: str
    summary: str
    run: str
    options: tuple[Option, ...] = ()
    about: str = ""


HELP = Option(("-h", "--help"), "", "Show this help.")

#: Before the command.
GLOBAL_OPTIONS = (
    Option(("-h", "--help"), "", "Print help and exit."),
    Option(("--version",), "", "Print version and exit."),
    Option(("-v", "--verbose"), "", "Print what the daemon notes, and all facts of an error."),
    Option(("-E",), "", "On error, emit a structured JSON error object as the last line of stderr output."),
    Option(
        ("--socket",),
        "PATH",
        "Where imgstored listens. Default is IMGSTORED_SOCKET, then the system's place.",
    ),
)

_POOL = Option(("-P", "--pool"), "POOL", "The pool. Default is the daemon's.")
_QUIET = Option(("-q", "--quiet"), "", "No progress bar.")
_JSON = Option(("-j", "--json"), "", "JSON output.")
_EVENTS = Option(("-j", "--json"), "", "Print what happens as JSON, one event a line, and nothing else.")
_NO_HEADER = Option(("-H",), "", "Do not print table header row.")
_COLUMNS = Option(
    ("-o",), "FIELD,...", 'Specify fields (columns) to output. Default is "uuid,name,version,os,type,pub".'
)
_SORT = Option(("-s",), "FIELD,...", 'Sort on the given fields. Default is "published_at,name".')

_FIELDS = """\
Filters:
    FIELD=VALUE               exact string match
    FIELD=true|false          boolean match
    FIELD=~SUBSTRING          substring match

Fields for filtering, "-o" and "-s":
    Any of the manifest fields (see the "-j" output; a filter's may be dotted) plus
    the following computed fields for convenience.

    published_date, pub       just the date part of `published_at`
    published                 `published_at` with the milliseconds removed
    source                    the source URL, if available
    clones                    the number of clones (dependent images and VMs)
    zpool                     the pool of an installed image
    size                      the size, in bytes, of the image file"""

COMMANDS = (
    Command(("help", "?"), "help [COMMAND]", "help on commands", "help:show_help", (HELP,)),
    Command(
        ("sources",),
        "sources [OPTIONS]",
        "list and edit image sources",
        "sources:sources",
        (
            HELP,
            Option(("-v", "--verbose"), "", "Verbose output. List source URL and TYPE."),
            Option(("-j", "--json"), "", "List sources as JSON."),
            Option(("-a",), "URL", "Add a source. It is appended to the list of sources."),
            Option(("-d",), "URL", "Delete a source."),
            Option(("-c", "--check"), "", "Ping check all sources."),
            Option(
                ("-t", "--type"),
                "TYPE",
                'The type of an added source: "imgapi" (the default), "dsapi" or "static".',
            ),
            Option(("-k", "--insecure"), "", "Do not check the added source's TLS certificate."),
            Option(("-f", "--force"), "", "Add a source without a ping check."),
        ),
    ),
    Command(
        ("avail", "available"),
        "avail [OPTIONS] [FILTERS]",
        "list available images",
        "images:avail",
        (HELP, _JSON, _NO_HEADER, _COLUMNS, _SORT),
        _FIELDS,
    ),
    Command(("show",), "show UUID", "show manifest of an available image", "images:show", (HELP,)),
    Command(
        ("import",),
        "import [OPTIONS] UUID",
        "import image from a source",
        "imports:import_image",
        (
            HELP,
            _QUIET,
            _POOL,
            Option(("-S", "--source"), "URL", "Import from this source only. May be given several times."),
            Option(("-C", "--channel"), "CHANNEL", "The channel of the sources."),
            _EVENTS,
        ),
    ),
    Command(
        ("install",),
        "install [OPTIONS] -m MANIFEST -f FILE",
        "import from local image data",
        "imports:install",
        (
            HELP,
            _QUIET,
            _POOL,
            Option(("-m",), "MANIFEST", "Path to the image's manifest, in JSON."),
            Option(("-f",), "FILE", "Path to the image's file."),
            _EVENTS,
        ),
    ),
    Command(
        ("ensure",),
        "ensure [OPTIONS] UUID...",
        "import images that are not installed",
        "imports:ensure",
        (HELP, _QUIET, _POOL, _EVENTS),
        "Returns when all of the images are installed; at once when they are.",
    ),
    Command(
        ("list",),
        "list [OPTIONS] [FILTERS]",
        "list installed images",
        "images:list_installed",
        (HELP, _JSON, _NO_HEADER, _COLUMNS, _SORT),
        _FIELDS,
    ),
    Command(
        ("get", "info"),
        "get [-P POOL] [-r] UUID",
        "info on an installed image",
        "images:get",
        (HELP, _POOL, Option(("-r",), "", "Add the image's snapshots and clones.")),
    ),
    Command(
        ("delete", "destroy"),
        "delete [-P POOL] UUID",
        "remove an installed image",
        "images:delete",
        (HELP, _POOL),
    ),
    Command(
        ("hold",), "hold [-P POOL] UUID TAG", "keep an image from being deleted", "holds:hold", (HELP, _POOL)
    ),
    Command(("release",), "release [-P POOL] UUID TAG", "end a hold", "holds:release", (HELP, _POOL)),
    Command(
        ("holds",),
        "holds [-P POOL] [-j] UUID",
        "list what holds an image",
        "holds:holds",
        (HELP, _POOL, _JSON),
    ),
    Command(("jobs",), "jobs [-j]", "list imports under way", "jobs:jobs", (HELP, _JSON, _NO_HEADER)),
    Command(
        ("watch",),
        "watch [OPTIONS] [UUID]",
        "follow imports under way",
        "imports:watch",
        (HELP, _QUIET, _EVENTS),
        "Follows all imports until it is interrupted, or one until it has ended.",
    ),
    Command(("cancel",), "cancel UUID", "end an import, whoever wants it", "jobs:cancel", (HELP,)),
)


def find_command(name: str) -> Command | None:
    """The command of that name or alias."""
    return next((command for command in COMMANDS if name in command.names), None)
