"""`export-site`, `keys`, `mirror`: static sites of the library's images, their keys, and mirrors."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgctl.errors import CommandError, UsageError
from imgctl.run.narrator import TerminalBar
from imgctl.run.programs import keys_program
from imgctl.run.several import count_of
from imgctl.session import is_terminal
from imgctl.text import printable, size

if TYPE_CHECKING:
    from imgproto.documents import NamedDocument, SiteDocument
    from imgproto.events import EventDocument

    from imgctl.arguments import Arguments
    from imgctl.session import Session

#: Days of a signature, at most.
_MOST_DAYS = 3650
#: Bytes of a key's file.
_MAX_KEY = 4096
#: Where a password comes from if there is no terminal.
_PASSWORD = "IMGCTL_KEY_PASSWORD"  # noqa: S105  (a variable's name)


def export_site(session: Session, arguments: Arguments) -> int:
    """`export-site [--sign KEYFILE]... [--days N] [--url URL] [--delete] DIR [IMAGE...]`."""
    folder, *names = arguments.some()
    if arguments.flag("--days") and not arguments.flag("--sign"):
        raise UsageError("--days is for a signature, with --sign")
    keys = secret_keys(session, arguments)
    Path(folder).mkdir(mode=0o755, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with session.client() as client, _Progress(session, arguments, folder) as tell:
            done = client.export_site(
                fd,
                names,
                url=arguments.text("--url"),
                keys=keys,
                days=arguments.number("--days", "--days", 1, _MOST_DAYS),
                delete=arguments.flag("--delete"),
                path=folder,
                on_event=tell,
            )
    finally:
        os.close(fd)
    if arguments.flag("-j"):
        session.say_json(done)
    else:
        _report(session, folder, done)
    # What is only not kept, or private, is no failure, unless it was asked for.
    expected = (
        "it is installed, but its original file was not kept",
        "its manifest calls it private; name it to export it",
    )
    return 1 if any(names or each["reason"] not in expected for each in done["left_out"]) else 0


def keys(session: Session, arguments: Arguments) -> None:
    """`keys make FILE`, `keys show FILE...`."""
    if not arguments.rest:
        raise UsageError("name what to do: `keys make FILE`, or `keys show FILE...`")
    action, *paths = arguments.rest
    if action == "make" and len(paths) == 1:
        made = keys_program(session, {"do": "make"})
        _write(paths[0], made["secret"], 0o600)
        try:
            _write(paths[0] + ".pub", made["public"], 0o644)
        except OSError:
            Path(paths[0]).unlink()
            raise
        _show(session, arguments, [made])
    elif action == "show" and paths:
        _show(session, arguments, [_opened(session, path) for path in paths])
    else:
        raise UsageError("name what to do: `keys make FILE`, or `keys show FILE...`")


def mirror(session: Session, arguments: Arguments) -> int:
    """`mirror [--name NAME] [--os OS] [--newest N] [--to URL] [-n] URL`; exit status 1: an image failed."""
    url, newest = arguments.one(), arguments.number("--newest", "--newest", 1)
    dry_run = arguments.flag("-n")
    with session.client() as client, _Progress(session, arguments, "Mirror") as tell:
        done = client.mirror(
            url,
            name=arguments.text("--name"),
            os=arguments.text("--os"),
            newest=newest,
            to=arguments.text("--to"),
            dry_run=dry_run,
            on_event=tell,
        )
    if arguments.flag("-j"):
        session.say_json(done)
    else:
        prefix, verb = ("[dry-run] ", "Mirror") if dry_run else ("", "Mirrored")
        session.say(
            [f"{prefix}{verb} image {_called(each)}" for each in done["new"]]
            + [f"Copied image {_called(each)}" for each in done.get("copied", [])]
            + [
                f"Error mirroring image {_called(each)}: {printable(each['error']['message'])}"
                for each in done["failed"]
            ]
            + [
                f"{prefix}{count_of(done['chosen'])} chosen, {len(done['new'])} new ({size(done['size'])}),"
                f" {len(done['failed'])} failed"
            ]
        )
    return 1 if done["failed"] else 0


def _called(image: NamedDocument) -> str:
    return printable(f"{image['uuid']} ({image['name']}@{image['version']})")


def _show(session: Session, arguments: Arguments, found: list[dict[str, Any]]) -> None:
    rows = [{"id": each["id"], "key": each["public"].splitlines()[1]} for each in found]
    if arguments.flag("-j"):
        session.say_json(rows)
    else:
        session.say(f"{row['id']}  {row['key']}" for row in rows)


def secret_keys(session: Session, arguments: Arguments) -> list[str]:
    """The texts of the secret keys that `--sign` names, without a password. Asks for passwords."""
    paths = arguments.texts("--sign")
    for path in paths:
        with suppress(OSError):
            if Path(path).stat().st_mode & 0o077:
                session.warn(f"others can read the secret key {path}")
    return [_opened(session, path)["secret"] for path in paths]


def _opened(session: Session, path: str) -> dict[str, Any]:
    """A key's file: {id, public, secret}, the last only of a secret key. Asks for its password."""
    with Path(path).open("rb") as file:
        text = file.read(_MAX_KEY + 1).decode("utf-8", "replace")
    try:
        return keys_program(session, {"do": "read", "text": text})
    except CommandError as error:
        if error.data.get("password") is not True:
            raise CommandError(
                error.code, f"{printable(path)}: {error.message}", error.hint, error.exit_status
            ) from error
    password = os.environ.get(_PASSWORD)
    if password is None:
        if not is_terminal(sys.stdin):
            raise CommandError(
                "NoTerminal",
                f"{printable(path)} has a password, and there is no terminal to ask for it",
                f"set {_PASSWORD}, or use a key without a password",
            )
        password = getpass(f"Password of {printable(path)}: ")
    return keys_program(session, {"do": "read", "text": text, "password": password})


def _write(path: str, text: str, mode: int) -> None:
    """Writes a new file, never over another one."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)


def _report(session: Session, folder: str, done: SiteDocument) -> None:
    new = len(done["new"])
    linked = f", {done['linked']} of them linked" if done["linked"] else ""
    copied = f", {size(done['copied'])} copied" if done["copied"] else ""
    lines = [f'Exported {count_of(done["images"])} to "{printable(folder)}": {new} new{linked}{copied}']
    if done["deleted"]:
        lines.append(f"Removed {count_of(done['deleted'])}")
    for each in done["left_out"]:
        name = f" ({printable(each['name'])})" if each["name"] else ""
        lines.append(f"Left out {printable(each['image'])}{name}: {printable(each['reason'])}")
    if done["until"] is not None:
        import time

        until = time.strftime("%Y-%m-%d", time.gmtime(done["until"]))
        by = ", ".join(map(printable, done["signed_by"]))
        lines.append(f"Signed version {done['version']} by {by}; it holds until {until}")
    session.say(lines)


class _Progress:
    """Shows notes and, on a terminal, a bar."""

    def __init__(self, session: Session, arguments: Arguments, what: str) -> None:
        self._session = session
        self._what = what
        self._bar = TerminalBar(wanted=not arguments.flag("-q"))

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, event: EventDocument) -> None:
        if event["event"] == "note":
            self._session.warn(event["text"])
        elif event["event"] == "progress":
            self._bar.show_bytes(self._what, event["done"], event["total"])
