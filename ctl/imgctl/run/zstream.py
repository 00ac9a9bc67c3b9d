"""`zstream`: runs imgstored's program for send streams, which needs no daemon."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from imgctl.errors import CommandError

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session

_PACKAGE = "imgstored"


def zstream(session: Session, arguments: Arguments) -> NoReturn:
    """`zstream COMMAND [ARGS...]`: becomes that program.

    So its streams, its exit status, and what a signal does to it are its own.
    """
    if not sys.executable or find_spec(_PACKAGE) is None:
        raise CommandError(
            "NotInstalled",
            f"the Python that runs {session.program} ({sys.executable or 'unknown'}) has no {_PACKAGE}",
            hint="`zstream` is a part of imgstored: install the package imgstore for that Python",
        )
    # -P: never from the folder we happen to be in.
    command = [sys.executable, "-P", "-m", f"{_PACKAGE}.zstream", *arguments.rest]
    os.execv(sys.executable, command)  # noqa: S606 - there is to be no shell
