"""`imgstored`: reads its arguments and its configuration, and runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imgstored import __version__
from imgstored.errors import ImgstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence


def argument_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(
        prog="imgstored", description="The daemon that owns this host's images. It stays in the foreground."
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML; without it, every key has its default"
    )
    parser.add_argument(
        "--check", action="store_true", help="read the configuration, say what is wrong, and exit"
    )
    parser.add_argument("--version", action="version", version=f"imgstored {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon; returns 0 after a clean stop, 1 after an error, 2 for wrong arguments."""
    arguments = argument_parser().parse_args(argv)

    # Imported late: --help, --version and a wrong configuration need none of it.
    from imgstored import config

    try:
        settings = config.load(arguments.config)
        if arguments.check:
            from imgstored.specs import check

            check(settings)
        else:
            from imgstored.app import serve

            serve(settings, arguments.config)
    except ImgstoreError as error:
        sys.stderr.write(f"imgstored: error ({error.code}): {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
