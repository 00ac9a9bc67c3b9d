"""Imports: begin, watch and end them; also before vmadm runs."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import EVENTS, HELP, IMAGE, LISTING, POOL, QUIET, Command

_VMADM = """\
`create`, `validate`, `update` and `reprovision` first install the `image_uuid` of
the payload (-f FILE, or standard input) and of each disk, if they are missing, into
the `zpool` of the payload or the disk. Nobody can delete these images until vmadm
has ended. If an image cannot be installed, vmadm does not run. Other commands of
vmadm just run. Payload, arguments, output and exit status are vmadm's own.

IMGCTL_VMADM names a program to run in place of /usr/sbin/vmadm, such as a wrapper."""

DETACH = Option(
    ("--detach",),
    "",
    "Return as soon as the import has begun. The daemon goes on, also after a restart; `imgctl wait` waits "
    "for it, and `imgctl cancel` ends it.",
    imgadms=False,
)

COMMANDS = (
    Command(
        ("import", "pull"),
        "import [OPTIONS] IMAGE...",
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
                "Get the image's stream from the source as it is now, and ignore the size and checksum of "
                "the manifest.",
            ),
            Option(
                ("-n", "--dry-run"),
                "",
                "Show what the import would do, and whether it fits, but change nothing.",
            ),
            DETACH,
            EVENTS,
        ),
        "IMAGE may also be the name of a container image, or of a virtual machine's disk in a\n"
        "registry: [HOST/]PATH:TAG, or [HOST/]PATH@DIGEST. Without HOST it is Docker Hub's.\n\n"
        "A terminal shows a line for each image under way, and one for all: how far the\n"
        "slowest stage is (download, decompression or pool), and the time left. Ctrl-C keeps\n"
        "what was downloaded. When the daemon is restarted, the command waits for it and\n"
        "goes on.",
        examples=(
            (f"import {IMAGE}", "install it and its origins"),
            (f"import -P tank -S https://images.example.com {IMAGE}", "into another pool, from one server"),
            ("import base@latest web@1.2", "two images, at the same time"),
            ("import docker.io/library/alpine:3.20", "a container image"),
            ("import --detach web@1.2", "begin the import, and leave it to the daemon"),
        ),
        among="available",
        imgadms_usage="import [OPTIONS] UUID",
    ),
    Command(
        ("install",),
        "install [OPTIONS] [-m MANIFEST] -f FILE",
        "import from local image data",
        "imports:install",
        (
            HELP,
            QUIET,
            POOL,
            Option(("-m",), "MANIFEST", "Path to the image's manifest, in JSON."),
            Option(
                ("-f",),
                "FILE",
                'Path to the image\'s file. "-": standard input; without -m it is what `export -o -` writes.',
            ),
            EVENTS,
        ),
        examples=(
            ("install -m web.imgmanifest -f web.zfs.gz", "install from these two files"),
            ("install -f - < web.tar", "install what `export -o -` wrote"),
        ),
        imgadms_usage="install [OPTIONS] -m MANIFEST -f FILE",
    ),
    Command(
        ("ensure",),
        "ensure [OPTIONS] IMAGE...",
        "import images that are not installed",
        "imports:ensure",
        (HELP, QUIET, POOL, DETACH, EVENTS),
        "Returns when all images are installed; if they are installed already, at once. If an\n"
        "image cannot be found, nothing is imported.",
        examples=((f"ensure -q {IMAGE}", "for scripts: make sure that it is installed"),),
        among="available",
    ),
    Command(
        ("wait",),
        "wait [-q] [-t SECONDS] [-j] IMAGE...",
        "wait until images are installed",
        "imports:wait",
        (
            HELP,
            QUIET,
            Option(("-t", "--timeout"), "SECONDS", "Wait at most this long. Default is no limit."),
            EVENTS,
        ),
        "Waits for imports under way, whoever began them, also with `import --detach`, and\n"
        "also while the daemon is restarted. The exit status is 0 when all images are\n"
        "installed, that of the error if an import has failed or there is none, and 124 if\n"
        "the time is over. It begins no import, and ends none.",
        examples=(
            (f"wait {IMAGE}", "until it is installed, or its import has failed"),
            ("wait -q -t 600 web@1.2 && echo there", "for scripts: ten minutes at most"),
        ),
        among="jobs",
    ),
    Command(
        ("jobs",),
        "jobs [OPTIONS]",
        "list imports under way",
        "imports:jobs",
        (HELP, *LISTING),
        examples=(("jobs", "the progress of each import, and its clients"),),
    ),
    Command(
        ("watch",),
        "watch [OPTIONS] [IMAGE]",
        "follow imports under way",
        "imports:watch",
        (HELP, QUIET, EVENTS),
        "Follows all imports until you interrupt it, or one import until it ends.",
        examples=(
            ("watch", "all imports, until Ctrl-C"),
            (f"watch -j {IMAGE}", "one import, an event per line, for programs"),
        ),
        among="jobs",
    ),
    Command(
        ("cancel",),
        "cancel IMAGE...",
        "cancel an import for all its clients",
        "imports:cancel",
        (HELP,),
        examples=((f"cancel {IMAGE}", "cancel it; the next import resumes its download"),),
        among="jobs",
        imgadms_usage="cancel UUID",
    ),
    Command(
        ("vmadm",),
        "vmadm COMMAND [ARGS...]",
        "run vmadm, once its images are installed",
        "vmadm:vmadm",
        (HELP,),
        _VMADM,
        mixed=False,
        examples=(
            ("vmadm create -f web.json", "create a machine, and import its image if it is missing"),
            ("vmadm validate create -f web.json", "check whether vmadm could create it"),
        ),
    ),
)
