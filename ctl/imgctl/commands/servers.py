"""Other image servers: the sources of images, static sites with their keys, and mirrors."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import HELP, QUIET, Command

COMMANDS = (
    Command(
        ("sources",),
        "sources [OPTIONS]",
        "list and edit image sources",
        "sources:sources",
        (
            HELP,
            Option(("-v", "--verbose"), "", "Verbose output. List source URL and TYPE."),
            Option(("-j", "--json"), "", "List sources as JSON."),
            Option(("-o",), "FORM", 'The form of the list: "json", "yaml", "csv" or "wide".', imgadms=False),
            Option(("-a",), "URL", "Add a source. It is appended to the list of sources."),
            Option(("-d",), "URL", "Delete a source."),
            Option(("-e",), "", "Edit the sources in $VISUAL, $EDITOR or vi."),
            Option(("-c", "--check"), "", "Ping check all sources."),
            Option(
                ("-t", "--type"),
                "TYPE",
                'The type of an added source: "imgapi" (the default), "dsapi", "static", or "oci" (the'
                " default for oci://HOST/PATH).",
            ),
            Option(("-k", "--insecure"), "", "Do not check the added source's TLS certificate."),
            Option(("-f", "--force"), "", "Add a source without a ping check."),
        ),
        examples=(
            ("sources -v", "all sources, with their types"),
            ("sources -a https://images.example.com -t dsapi", "add one"),
            ("sources -a oci://registry.example.com/images", "add a repository of an OCI registry"),
            ("sources -e", "add, remove and reorder them in an editor"),
            ("sources -c", "check whether each one answers"),
        ),
    ),
    Command(
        ("export-site",),
        "export-site [OPTIONS] DIR [IMAGE...]",
        "write the library's images as a static site",
        "sites:export_site",
        (
            HELP,
            Option(("--sign",), "KEYFILE", "Sign the site with this secret key. May be given several times."),
            Option(("--days",), "N", "With --sign: how long the signature holds. Default is 30 days."),
            Option(("--url",), "URL", "The address of the site, for DSAPI, whose manifests have it."),
            Option(("--delete",), "", "Remove images from the site that are not among these."),
            QUIET,
            Option(("-j", "--json"), "", "Print what was done as JSON."),
        ),
        "DIR becomes a folder that any web server can serve to imgctl (-t static URL/images)\n"
        "and, as docs/serving.md says, to imgadm. IMAGE is a uuid, NAME, NAME@VERSION or\n"
        "NAME@latest; origins come along. Default is all images of the library. A second\n"
        "run writes only what is new; clients never see half of an export.\n"
        "Hosts with the public key in `keys` of the source take only what is signed.\n"
        "The exit status is 1 if a requested image is left out or damaged.",
        examples=(
            ("export-site /srv/www/images", "the whole library"),
            ("export-site --sign site.key /media/stick base@latest", "signed, the newest image of a name"),
        ),
    ),
    Command(
        ("keys",),
        "keys [-j] make|show FILE...",
        "make and show keys that sign sites",
        "sites:keys",
        (HELP, Option(("-j", "--json"), "", "JSON output.")),
        "`make` writes a new secret key to FILE, without a password, and its public key to\n"
        "FILE.pub. `show` prints the public key of FILE, which may be of either kind. Both\n"
        "are minisign's files: `minisign -G` makes keys, too, and `minisign -V` verifies what\n"
        "is signed. A key with a password is unlocked when it is used.",
        examples=(
            ("keys make site.key", "a new key"),
            ("keys show site.key", "its public key, for `keys` of a source"),
        ),
    ),
    Command(
        ("mirror",),
        "mirror [OPTIONS] URL",
        "keep images of another server in the library",
        "sites:mirror",
        (
            HELP,
            Option(("--name",), "NAME", "Only images of this name."),
            Option(("--os",), "OS", "Only images of this operating system."),
            Option(("--newest",), "N", "Only the N newest images of each name."),
            Option(("--to",), "URL", "Also copy the images into a registry, oci://HOST/PATH."),
            Option(("-n", "--dry-run"), "", "Show what would be fetched, but fetch nothing."),
            QUIET,
            Option(("-j", "--json"), "", "Print what was done as JSON."),
        ),
        "Fetches the original files of active images, and of their origins, that the library\n"
        "lacks; nothing is installed. URL is a configured source, an IMGAPI server, or a\n"
        "registry (oci://HOST/PATH). The images stay until they are deleted from the library.\n"
        "A table [[mirror]] of the configuration does the same on a schedule. After an\n"
        "interruption the same command goes on. The exit status is 1 if an image failed; the\n"
        "others are there.",
        examples=(
            ("mirror -n --os smartos https://images.smartos.org", "what would be fetched"),
            (
                "mirror --to oci://registry.example.com/images oci://other.example.com/images",
                "from one registry into another",
            ),
            ("mirror --name base-64-lts --newest 3 https://images.smartos.org", "the three newest of a name"),
        ),
    ),
)
