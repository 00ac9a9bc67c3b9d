"""Available and installed images."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import COLUMNS, FIELDS, HELP, IMAGE, JSON, NO_HEADER, OUTCOMES, POOL, SORT, Command

COMMANDS = (
    Command(
        ("avail", "available", "search"),
        "avail [OPTIONS] [FILTERS]",
        "list available images",
        "images:avail",
        (HELP, JSON, NO_HEADER, COLUMNS, SORT),
        FIELDS,
        examples=(
            ("avail os=linux type=zvol", "disks of Linux machines"),
            (
                "avail -o uuid,name,version,size -s -size name=~base",
                'those with "base" in the name, largest first',
            ),
            ("avail -j requirements.brand=lx", "manifests, as JSON"),
        ),
    ),
    Command(
        ("show",),
        "show IMAGE...",
        "show manifest of an available image",
        "images:show",
        (HELP,),
        examples=((f"show {IMAGE}", "the manifest from its source"),),
        among="available",
        imgadms_usage="show UUID",
    ),
    Command(
        ("list", "ls"),
        "list [OPTIONS] [FILTERS]",
        "list installed images",
        "images:list_installed",
        (
            HELP,
            JSON,
            NO_HEADER,
            COLUMNS,
            SORT,
            Option(
                ("--docker",),
                "",
                "Only images that imgadm made from docker's, as `docker images` lists them.",
            ),
        ),
        FIELDS,
        examples=(
            ("list", "all installed images, the oldest first"),
            ("list -o uuid,name,version,clones,zpool clones=0", "images without clones"),
            ("list -H -o uuid os=smartos", "for scripts: only uuids"),
        ),
    ),
    Command(
        ("get",),
        "get [-P POOL] [-r] IMAGE...",
        "info on an installed image",
        "images:get",
        (HELP, POOL, Option(("-r",), "", "Add the image's snapshots and clones.")),
        examples=((f"get -r {IMAGE}", "its manifest, snapshots and clones"),),
        imgadms_usage="get [-P POOL] [-r] UUID",
    ),
    Command(
        ("info",),
        "info [-P POOL] [-j] IMAGE",
        "show what is known of an installed image",
        "info:info",
        (HELP, POOL, JSON),
        "Shows its space, its file, origin and clones, what holds it, and who installed it\n"
        "from where. Under the name imgadm, `info` is `get`.",
        examples=(("info base@latest", "for people"), (f"info -j {IMAGE}", "for programs")),
    ),
    Command(
        ("outdated",),
        "outdated [OPTIONS]",
        "list installed images of which a source has a newer version",
        "outdated:outdated",
        (HELP, Option(POOL.flags, POOL.argument, "Only this pool. Default is all."), JSON, NO_HEADER),
        "Asks all sources. An image counts as newer if it has the same name, os and type,\n"
        "can be imported, was published later, and is not installed in that pool.",
        examples=(
            ("outdated", "all pools"),
            ("outdated -j", "the same as JSON, with the uuids of the newer images"),
        ),
    ),
    Command(
        ("alias",),
        "alias [-j] [-H] [-d ALIAS | ALIAS IMAGE]",
        "name an image yourself: list, set and delete aliases",
        "alias:alias",
        (HELP, JSON, NO_HEADER, Option(("-d",), "ALIAS", "Delete an alias.")),
        "An alias means one image, by its uuid, until you set it anew. Every command takes\n"
        "it, and it comes before the names that servers give images. IMAGE is an installed\n"
        "image, or one of a source. Deleting an image keeps its aliases.",
        examples=(
            ("alias web-stable web@1.2", "from now on web-stable is that image"),
            ("alias", "all aliases"),
            ("alias -d web-stable", "delete one"),
        ),
    ),
    Command(
        ("ancestry",),
        "ancestry [OPTIONS] IMAGE",
        "list an image and its origins",
        "images:ancestry",
        (
            HELP,
            POOL,
            JSON,
            NO_HEADER,
            Option(
                COLUMNS.flags,
                COLUMNS.argument,
                'Specify fields (columns) to output. Default is "uuid,name,version,published".',
            ),
        ),
        "The image comes first, then its origin, and so on. See `list` for the fields.",
        examples=((f"ancestry {IMAGE}", "the image, its origin, and the origin of that"),),
    ),
    Command(
        ("delete", "destroy", "rm"),
        "delete [-P POOL] [-j] IMAGE...",
        "remove an installed image",
        "images:delete",
        (HELP, POOL, OUTCOMES),
        examples=(
            (f"delete {IMAGE}", "remove it; refused while it has clones or holds"),
            ("delete web@1.0 base@1.0", "a clone and its origin, in whatever order"),
        ),
        imgadms_usage="delete [-P POOL] UUID",
    ),
)
