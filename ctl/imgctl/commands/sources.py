"""Image sources."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import HELP, Command

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
)
