"""Available and installed images."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import (
    ANCESTRY_COLUMNS,
    COLUMNS,
    DOCUMENT_FORM,
    FIELDS,
    HELP,
    IMAGE,
    IS_JSON,
    JSON,
    LISTING,
    NO_HEADER,
    OUTCOMES,
    POOL,
    SORT,
    UUIDS,
    Command,
)

COMMANDS = (
    Command(
        ("avail", "available", "search"),
        "avail [OPTIONS] [FILTERS]",
        "list available images",
        "images:avail",
        (HELP, JSON, UUIDS, NO_HEADER, COLUMNS, SORT),
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
        "show [-j] [-o FORM] IMAGE...",
        "show manifest of an available image",
        "images:show",
        (HELP, IS_JSON, DOCUMENT_FORM),
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
            UUIDS,
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
            ("list -q os=smartos", "for scripts: only uuids"),
            ("list -o csv,uuid,name,clones", "for a spreadsheet"),
        ),
    ),
    Command(
        ("get",),
        "get [-P POOL] [-r] [-j] [-o FORM] IMAGE...",
        "info on an installed image",
        "images:get",
        (
            HELP,
            POOL,
            Option(("-r",), "", "Add the image's snapshots and clones."),
            IS_JSON,
            DOCUMENT_FORM,
        ),
        examples=((f"get -r {IMAGE}", "its manifest, snapshots and clones"),),
        imgadms_usage="get [-P POOL] [-r] UUID",
    ),
    Command(
        ("info",),
        "info [-P POOL] [-j] [-o FORM] IMAGE",
        "show what is known of an installed image",
        "info:info",
        (HELP, POOL, JSON, DOCUMENT_FORM),
        "Shows its space, its file, origin and clones, what holds it, and who installed it\n"
        "from where. Under the name imgadm, `info` is `get`.",
        examples=(("info base@latest", "for people"), (f"info -j {IMAGE}", "for programs")),
    ),
    Command(
        ("outdated",),
        "outdated [OPTIONS]",
        "list installed images of which a source has a newer version",
        "outdated:outdated",
        (HELP, Option(POOL.flags, POOL.argument, "Only this pool. Default is all."), *LISTING),
        "Asks all sources. An image counts as newer if it has the same name, os and type,\n"
        "can be imported, was published later, and is not installed in that pool.",
        examples=(
            ("outdated", "all pools"),
            ("outdated -j", "the same as JSON, with the uuids of the newer images"),
        ),
    ),
    Command(
        ("alias",),
        "alias [OPTIONS] [-d ALIAS | ALIAS IMAGE]",
        "name an image yourself: list, set and delete aliases",
        "alias:alias",
        (HELP, *LISTING, Option(("-d",), "ALIAS", "Delete an alias.")),
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
            UUIDS,
            NO_HEADER,
            ANCESTRY_COLUMNS,
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
