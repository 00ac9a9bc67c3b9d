"""`vmadm`: installs the images that a payload names, holds them, and runs vmadm."""

from __future__ import annotations

import enum
import json
import os
import stat
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from imgctl import event_text
from imgctl.errors import CommandError, RemoteError, UsageError
from imgctl.run.narrator import TerminalBar
from imgctl.session import is_terminal
from imgctl.text import is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgproto.events import EventDocument

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session

    Images = Mapping[str | None, Sequence[str]]

    #: A client of its own, the pool (None: the daemon's first one), and the images.
    Part = tuple[Client, str | None, Sequence[str]]

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
    _ensure_all([(session.client(), pool, uuids) for pool, uuids in images.items()])


#: Bytes of a payload.
MAX_PAYLOAD = 16 << 20

#: vmadm's commands that take a payload in which images can be.
_COMMANDS = ("create", "validate", "update", "reprovision")
_DISKS = ("disks", "add_disks", "update_disks")


class Payload(enum.Enum):
    """The place of a payload that is in no file."""

    NONE = "none"  #: the command takes none
    STDIN = "stdin"


def payload_of(arguments: Sequence[str]) -> Payload | str:
    """The file's path, or where else vmadm takes its payload from."""
    if not arguments or arguments[0] not in _COMMANDS:
        return Payload.NONE
    path, rest = _file(arguments[1:])
    if path is None and arguments[0] == "update" and any("=" in word for word in rest):
        return Payload.NONE  # `vmadm update UUID KEY=VALUE`
    return Payload.STDIN if path in (None, "-", "/dev/stdin", "/dev/fd/0") else str(path)


def _file(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `-f`, as nopt reads it, and the other words."""
    path: str | None = None
    rest, words = [], iter(arguments)
    for word in words:
        if word in ("-f", "--file"):
            path = next(words, None)
        elif word.startswith("--file="):
            path = word.removeprefix("--file=")
        else:
            rest.append(word)
    return path, rest


def images_of(content: bytes) -> dict[str | None, list[str]]:
    """The uuids of the images that a payload names, by pool; None is the daemon's first pool.

    Nothing of what is no JSON, or no payload: vmadm will say so.
    """
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    images: dict[str | None, list[str]] = {}
    for pool, uuid in _named(payload) if isinstance(payload, dict) else ():
        named = images.setdefault(pool, [])
        if uuid not in named:
            named.append(uuid)
    return images


def _named(payload: dict[str, Any]) -> Iterator[tuple[str | None, str]]:
    pool = _text(payload, "zpool")
    parts = [part for disks in _DISKS if isinstance(part := payload.get(disks), list)]
    for each in [payload, *(disk for part in parts for disk in part if isinstance(disk, dict))]:
        uuid = _text(each, "image_uuid")
        if uuid is not None and is_uuid(uuid):
            yield _text(each, "zpool") or pool, uuid


def _text(document: dict[str, Any], field: str) -> str | None:
    value = document.get(field)
    return value if isinstance(value, str) and value else None


# -- the images of several pools at the same time ------------------------------------------------------------


def _ensure_all(parts: Sequence[Part]) -> None:
    """Returns when all images are installed. Raises the first error; the other imports then end, too."""
    tell = _Teller(with_bar=len(parts) == 1)
    try:
        if len(parts) == 1:
            _ensure_part(parts[0], tell)
        else:
            _side_by_side(parts, tell)
    finally:
        tell.close()


def _ensure_part(part: Part, tell: _Teller) -> None:
    client, pool, uuids = part
    with client:
        client.ensure(uuids, pool=pool, on_event=tell)


def _side_by_side(parts: Sequence[Part], tell: _Teller) -> None:
    """A thread a pool. Whoever is left when one has failed, or at Ctrl-C, ends with this process."""
    ended: list[BaseException | None] = []
    changed = threading.Condition()

    def run(part: Part) -> None:
        error: BaseException | None = None
        try:
            _ensure_part(part, tell)
        except BaseException as raised:  # noqa: BLE001  (raised below, in the thread that waits)
            error = raised
        with changed:
            ended.append(error)
            changed.notify()

    for part in parts:
        threading.Thread(target=run, args=(part,), daemon=True).start()
    with changed:
        changed.wait_for(lambda: len(ended) == len(parts) or any(ended))
    for error in ended:
        if error is not None:
            raise error


class _Teller:
    """Lines and a bar for people on standard error: all of standard output is vmadm's."""

    def __init__(self, *, with_bar: bool) -> None:
        self._terminal = sys.stderr if is_terminal(sys.stderr) else None
        self._bar = TerminalBar(wanted=with_bar)
        self._lock = threading.Lock()

    def __call__(self, event: EventDocument) -> None:
        if event["event"] == "already-installed":
            return
        with self._lock:
            if self._terminal is None:
                return
            if event["event"] == "progress":
                self._bar.show(event)
            elif (line := event_text.line(event)) is not None:
                self._bar.print(line, self._terminal)

    def close(self) -> None:
        """Removes the bar, and returns once no thread writes any more: Python aborts if it ends meanwhile."""
        with self._lock:
            self._terminal = None
            self._bar.close()
