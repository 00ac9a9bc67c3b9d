"""The type of a command, and the options that several commands share."""

from __future__ import annotations

from imgctl.arguments import Option


class Command:
    """One command. `run` is `module:function` in `imgctl.run`, imported only when the command runs."""

    __slots__ = (
        "about",
        "among",
        "examples",
        "imgadms_options",
        "imgadms_usage",
        "mixed",
        "names",
        "options",
        "run",
        "summary",
        "usage",
    )

    def __init__(
        self,
        names: tuple[str, ...],
        usage: str,
        summary: str,
        run: str,
        options: tuple[Option, ...] = (),
        about: str = "",
        *,
        mixed: bool = True,
        examples: tuple[tuple[str, str], ...] = (),
        among: str = "installed",
        imgadms_usage: str = "",
    ) -> None:
        """`mixed` False: the arguments after the first belong to another program.

        `examples` are command lines without the program, and what each does; `among` is the set of images
        from which the command takes its argument, as one of `completion.DYNAMIC`. Under imgadm's name
        an image is named by its uuid alone, and the usage is `imgadms_usage` where that is more different.
        """
        self.names = names
        self.usage = usage
        self.summary = summary
        self.run = run
        self.options = options
        self.about = about
        self.mixed = mixed
        self.examples = examples
        self.among = among
        self.imgadms_options = options
        if not all(option.imgadms for option in options):
            self.imgadms_options = tuple(option for option in options if option.imgadms)
        self.imgadms_usage = imgadms_usage or usage.replace("IMAGE", "UUID")

    def asks_for_json(self, form: str | None) -> bool:
        """True if an argument of `-o` is that form, and not the name of a file."""
        return form == "json" and any(
            "-o" in option.flags and option.argument in ("FORM", FORM.argument) for option in self.options
        )


#: The image of the examples.
IMAGE = "3dbbdcca-2eab-11e8-b925-23bf77789921"

HELP = Option(("-h", "--help"), "", "Show this help.")

#: Also taken after the command, but not under imgadm's name.
SOCKET = Option(
    ("--socket",), "PATH", "The socket of imgstored. Default is IMGSTORED_SOCKET, then the system's path."
)

#: Before the command.
GLOBAL_OPTIONS = (
    Option(("-h", "--help"), "", "Print help and exit."),
    Option(("--version",), "", "Print version and exit."),
    Option(("-v", "--verbose"), "", "Print the daemon's notes, and all facts of an error."),
    Option(("-E",), "", "On error, emit a structured JSON error object as the last line of stderr output."),
    Option(
        ("-H", "--host"),
        "HOST",
        "The daemon of another host, by ssh: [ssh://][USER@]HOST[:PORT].",
        imgadms=False,
    ),
    SOCKET,
)

#: The same under imgadm's name.
IMGADMS_GLOBAL_OPTIONS = tuple(option for option in GLOBAL_OPTIONS if option.imgadms)

POOL = Option(("-P", "--pool"), "POOL", "The pool. Default is the daemon's.")
QUIET = Option(("-q", "--quiet"), "", "No progress bar.")
JSON = Option(("-j", "--json"), "", "JSON output.")
EVENTS = Option(("-j", "--json"), "", "Print events as JSON, one per line, and nothing else.")
OUTCOMES = Option(
    ("-j", "--json"),
    "",
    "Print what became of each image as JSON: {name, uuid, outcome, error}.",
    imgadms=False,
)
NO_HEADER = Option(("-H",), "", "Do not print table header row.")
_FORMS = ' Or a form: "json", "yaml", "csv", "wide"; both as "csv,uuid,name".'
COLUMNS = Option(
    ("-o",),
    "FIELD,...",
    'Specify fields (columns) to output. Default is "uuid,name,version,os,type,pub".' + _FORMS,
)
ANCESTRY_COLUMNS = Option(
    ("-o",),
    "FIELD,...",
    'Specify fields (columns) to output. Default is "uuid,name,version,published".' + _FORMS,
)
FORM = Option(("-o",), "FIELD,...", "The fields (columns) to show." + _FORMS)
DOCUMENT_FORM = Option(("-o",), "FORM", 'The form, "json" or "yaml".', imgadms=False)
UUIDS = Option(("-q", "--quiet"), "", "Only uuids, one per line.", imgadms=False)
IS_JSON = Option(("-j", "--json"), "", "The same, with errors as JSON, too.", imgadms=False)
#: Of a command that lists.
LISTING = (JSON, FORM, UUIDS, NO_HEADER)
SORT = Option(("-s",), "FIELD,...", 'Sort on the given fields. Default is "published_at,name".')

FIELDS = """\
Filters:
    FIELD=VALUE               exact string match
    FIELD=true|false          boolean match
    FIELD=~SUBSTRING          substring match
    WORD                      the same as name=~WORD; not under the name imgadm

Fields for filtering, "-o" and "-s":
    Any of the manifest fields (see the "-j" output; a filter's may be dotted) plus
    the following computed fields for convenience.

    published_date, pub       just the date part of `published_at`
    published                 `published_at` with the milliseconds removed
    source                    the source URL, if available
    clones                    the number of clones (dependent images and VMs)
    zpool                     the pool of an installed image
    pinned                    whether an installed image is pinned
    held                      the tags that hold an installed image
    size                      the size, in bytes, of the image file"""
