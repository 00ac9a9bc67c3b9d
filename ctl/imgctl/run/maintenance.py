"""`update`, `vacuum`, `verify`: maintenance of installed images."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from imgctl import event_text
from imgctl.errors import CommandError, NotConnectedError, RemoteError, UsageError, remote_error
from imgctl.run.narrator import Narrator, event_document
from imgctl.session import flush, is_terminal, json_text
from imgctl.text import printable, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproto.documents import Result, VacuumDocument
    from imgproto.events import EventDocument

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session

#: Where people answer, whatever standard input and output are: `yes |` is no answer. Characters of one.
_TERMINAL = "/dev/tty"
_LONGEST = 1000

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def update(session: Session, arguments: Arguments) -> int:
    """`update [-n] [UUID...]`. Exit status 1 when an image could not be updated; the others are."""
    uuids = session.uuids(arguments.rest, among="installed")
    failed, as_json = False, arguments.flag("-j")

    def tell(event: EventDocument) -> None:
        nonlocal failed
        failed = failed or event["event"] == "update-failed"
        if as_json:
            print(json_text(event_document(session, event)))
        elif event["event"] == "update-failed":
            session.report(remote_error(event["error"]))
        elif event["event"] == "original-unknown":
            session.complain(
                f"{session.program}: warn: cannot determine original snapshot for image "
                f'"{printable(event["uuid"])}" (source info has no "dataset_guid")'
            )
        elif (line := event_text.line(event)) is not None:
            session.say([line])

    with session.client() as client:
        client.update(uuids, dry_run=arguments.flag("-n"), on_event=tell)
    return 1 if failed else 0


def vacuum(session: Session, arguments: Arguments) -> int:
    """`vacuum [-n [-j]] [-f] [--older-than AGE] [--keep N]`. Exit status 1 when the answer is no.

    Asks on the terminal, whatever standard input is. Raises `CommandError` where there is none.
    """
    if arguments.rest:
        raise UsageError(f"unexpected arguments: {' '.join(arguments.rest)}")
    age, keep = _age(arguments.text("--older-than")), arguments.number("--keep", "--keep", 0) or 0
    dry_run, as_json = arguments.flag("-n"), arguments.flag("-j")
    if as_json and not dry_run:
        raise UsageError('"-j" needs "-n": it says what would be deleted')
    left: list[str] = []

    def tell(event: EventDocument) -> None:
        # imgadm says nothing of what it leaves.
        if session.program != "imgadm" and (line := event_text.line(event)) is not None:
            left.append(line)

    with session.client() as client:
        images = client.vacuum_candidates(older_than=age, keep=keep, on_event=tell)
        sizes = {} if session.is_imgadm else _sizes(client, images)
        if as_json:
            session.say_json([{**image, "used": sizes.get(_key(image))} for image in images])
            return 0
        session.say(left)
        if images and not dry_run and not arguments.flag("-f") and not _agreed(session, images, sizes):
            session.say(["Aborting"])
            return 1
        if dry_run:
            session.say(f"[dry-run] Deleted image {_called(image)}" for image in images)
        else:
            _delete(session, client, images)
    if sizes:
        session.say([f"{'Would free' if dry_run else 'Freed'} {size(sum(sizes.values()))}"])
    return 0


def _delete(session: Session, client: Client, images: Sequence[VacuumDocument]) -> None:
    """Raises the first error."""
    for image in images:
        try:
            client.delete(image["uuid"], image["zpool"])
        except CommandError as error:
            session.say([f"Error deleting image {_called(image)}: {printable(error.message)}"])
            raise
        session.say([f"Deleted image {_called(image)}"])


def _key(image: VacuumDocument) -> tuple[str, str]:
    return image["zpool"], image["uuid"]


def _sizes(client: Client, images: Sequence[VacuumDocument]) -> dict[tuple[str, str], int]:
    """The bytes that each deletion frees, as all are deleted; none where a pool does not say."""
    if not images:
        return {}
    try:
        usages = client.usage()
    except NotConnectedError:
        raise
    except RemoteError:
        return {}
    used = {(each["zpool"], image["uuid"]): image["used"] for each in usages for image in each["images"]}
    keys = [_key(image) for image in images]
    return {key: used[key] for key in keys} if used.keys() >= {*keys} else {}


def verify(session: Session, arguments: Arguments) -> int:
    """`verify [-q] [-P POOL] [-j] [--strict] [--record] [UUID...]`. Status 1 if one is not what it was."""
    pool = arguments.text("-P")
    uuids = session.uuids(arguments.rest, among="installed", pool=pool) if arguments.rest else None
    with session.client() as client, Narrator(session, arguments) as tell:
        results = client.verify(uuids, pool=pool, record=arguments.flag("--record"), on_event=tell)
    if not arguments.flag("-j"):
        session.say([_summary(results)])
    # There was nothing to compare an unknown one with: that is no fault of the image.
    good = {"ok", "recorded"} if arguments.flag("--strict") else {"ok", "recorded", "unknown"}
    return 0 if set(results) <= good else 1


def _summary(results: Mapping[Result, int]) -> str:
    count = sum(results.values())
    ordered = sorted(results, key=lambda result: result != "ok")
    parts = ", ".join(f"{results[result]} {result}" for result in ordered)
    return f"Verified {count} image{'' if count == 1 else 's'}" + (f": {parts}" if parts else "")


def _agreed(session: Session, images: Sequence[VacuumDocument], sizes: Mapping[tuple[str, str], int]) -> bool:
    session.say(["This will delete the following images:", *(f"    {_called(image)}" for image in images)])
    if sizes:
        session.say([f"This will free {size(sum(sizes.values()))}."])
    what = "this image" if len(images) == 1 else f"these {len(images)} images"
    answer = _ask(f"Delete {what}? [y/N] ")
    if answer is None:
        raise CommandError(
            "NoTerminal",
            "nothing is deleted: there is no terminal on which to ask",
            f"`{session.program} vacuum -f` deletes without asking; `-n` shows what would be deleted",
        )
    return answer.lower() in ("y", "yes")


def _ask(question: str) -> str | None:
    """The line that is typed in answer, "" at its end; None where there is no terminal.

    imgadm asks on standard input and output where these are the terminal, and on the process's own otherwise.
    """
    with ExitStack() as stack:
        reading, writing = sys.stdin, sys.stdout
        if not (is_terminal(reading) and is_terminal(writing)):
            own = _own(stack)
            if own is None:
                return None
            reading = reading if is_terminal(reading) else own[0]
            writing = writing if is_terminal(writing) else own[1]
        flush(sys.stdout)
        writing.write(question)
        writing.flush()
        return reading.readline(_LONGEST).strip()


def _own(stack: ExitStack) -> tuple[TextIO, TextIO] | None:
    """The controlling terminal, to read from and to write to."""
    try:
        fd = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    # One object for both would have to be seekable.
    reading = stack.enter_context(os.fdopen(fd, "r", errors="replace"))
    writing = stack.enter_context(os.fdopen(os.dup(fd), "w", errors="backslashreplace"))
    return reading, writing


def _called(image: VacuumDocument) -> str:
    return printable(f"{image['uuid']} ({image['name']}@{image['version']})")


def _age(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch("([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise UsageError(
            f'invalid --older-than "{text}": must be a number and one of "s", "m", "h", "d", "w"',
            "30d is thirty days",
        )
    return int(match[1]) * _SECONDS[match[2]]
