"""`vmadm`: installs and holds the images that a payload names, then runs vmadm."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from imgctl.errors import CommandError, RemoteError, UsageError
from imgctl.payload import MAX_PAYLOAD, Payload, images_of, payload_of
from imgctl.session import is_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session

    #: Uuids by pool; None is the daemon's first one.
    Images = Mapping[str | None, Sequence[str]]

_PROGRAM = "/usr/sbin/vmadm"

#: An image may be deleted in the moment between its import and its hold; not again and again.
_TRIES = 3


def vmadm(session: Session, arguments: Arguments) -> int:
    """`vmadm COMMAND [ARGS...]`: vmadm's exit status."""
    program, given = _program(), arguments.rest
    payload = payload_of(given)
    if payload is Payload.NONE:
        os.execv(program, [program, *given])  # noqa: S606 - there is to be no shell
    content = _content(payload)
    # What is no JSON goes to vmadm as it is: it has to say what is wrong with it, and says it best.
    images = images_of(content or b"")
    with ExitStack() as holds:
        if images:
            _have(session, images, holds)
        from imgctl.child import run_child

        ended = run_child([program, *given], content if payload is Payload.STDIN else None)
    return ended.pass_on()


def _program() -> str:
    program = os.environ.get("IMGCTL_VMADM") or _PROGRAM
    if not os.access(program, os.X_OK):
        raise CommandError(
            "NotInstalled",
            f"there is no program {program}",
            hint="this host has no vmadm; IMGCTL_VMADM names another program",
        )
    return program


def _content(payload: Payload | str) -> bytes | None:
    """The payload; None where vmadm is to say that there is none. Raises `CommandError`, `OSError`."""
    if payload is Payload.STDIN:
        if sys.stdin is None or is_terminal(sys.stdin):
            return None
        content = _limited(0)
    else:
        try:
            fd = os.open(str(payload), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(
                    f'"{payload}" is no plain file, and can be read only once',
                    hint="give it on standard input, without -f",
                )
            content = _limited(fd)
        finally:
            os.close(fd)
    if len(content) > MAX_PAYLOAD:
        raise UsageError(f"the payload has more than {MAX_PAYLOAD >> 20} MiB")
    return content


def _limited(fd: int) -> bytes:
    """At most a byte more than a payload may have, and nothing left in a buffer of Python's."""
    content, limit = bytearray(), MAX_PAYLOAD + 1
    while len(content) < limit and (piece := os.read(fd, min(1 << 20, limit - len(content)))):
        content += piece
    return bytes(content)


# -- the images ----------------------------------------------------------------------------------------------


def _have(session: Session, images: Images, holds: ExitStack) -> None:
    """Returns when all images are installed, and held until `holds` is closed. Raises `RemoteError`."""
    for left in reversed(range(_TRIES)):
        _ensure(session, images)
        try:
            with ExitStack() as taken:
                for pool, uuids in images.items():
                    for uuid in uuids:
                        taken.enter_context(session.client().holding(uuid, pool))
                holds.push(taken.pop_all())
        except RemoteError as error:
            if error.code != "ImageNotInstalled" or not left:
                raise
        else:
            return


def _ensure(session: Session, images: Images) -> None:
    """All pools at once. Raises the first error that there is."""
    from imgctl.run.ensuring import ensure_all

    clients: list[tuple[Client, str | None, Sequence[str]]] = [
        (session.client(), pool, uuids) for pool, uuids in images.items()
    ]
    ensure_all(clients)
