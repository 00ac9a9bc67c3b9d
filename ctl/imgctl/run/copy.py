"""`copy`: installed images to another host by ssh, each with the origins that the host lacks."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, suppress
from typing import IO, TYPE_CHECKING

from imgctl import ssh
from imgctl.errors import CommandError, NotConnectedError
from imgctl.run import archive
from imgctl.run.making import compression_of, exported
from imgctl.run.narrator import TerminalBar
from imgctl.run.several import count_of, named, report_each
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from imgproto.documents import ImageDocument

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session


def copy(session: Session, arguments: Arguments) -> int:
    """`copy [-P POOL] [-c COMPRESSION] [-q] IMAGE... HOST`."""
    *texts, where = arguments.some(2)
    host, pool, compression = ssh.Host(where), arguments.text("-P"), compression_of(arguments)
    images = named(session, texts, among="installed", pool=pool)
    errors = {image: image.error for image in images if image.error is not None}
    with session.client() as here:
        there = _installed_on(session, host)
        before = {*there}
        for image in images:
            if image.uuid is None:
                continue
            try:
                _copy_one(session, arguments, here, host, there, image.uuid, pool, compression)
            except NotConnectedError:
                raise
            except CommandError as error:
                errors[image] = error
    if len(images) == 1:
        for problem in errors.values():
            raise problem
        return 0
    # Also origins that came along; what was there before was not copied.
    already = sum(image.uuid in before for image in images)
    known = f", {already} already there" if already else ""
    return report_each(session, errors, f"copied {count_of(len(there - before))} to {host.name}{known}")


def _installed_on(session: Session, host: ssh.Host) -> set[str]:
    from imgctl.client import Client

    with Client(host.url, name=f"{session.program} copy") as there:
        return {image["manifest"]["uuid"] for image in there.list()}


def _copy_one(
    session: Session,
    arguments: Arguments,
    here: Client,
    host: ssh.Host,
    there: set[str],
    uuid: str,
    pool: str | None,
    compression: str,
) -> None:
    """Copies an image, its origins first, as far as they are not there; `there` gets what was copied."""
    if uuid in there:
        session.say([f"Image {printable(uuid)} is already installed on {host.name}"])
    for image in _lacking(here, uuid, pool, there):
        _send(session, arguments, here, host, image["manifest"], compression)
        there.add(image["manifest"]["uuid"])
        session.say([f"Copied image {_shown(image['manifest'])} to {host.name}"])


def _lacking(here: Client, uuid: str, pool: str | None, there: set[str]) -> Sequence[ImageDocument]:
    """The image and its origins that are not there, the base first."""
    found: list[ImageDocument] = []
    wanted: str | None = uuid
    while wanted is not None and wanted not in there:
        found.append(here.get(wanted, pool))
        wanted = found[-1]["manifest"].get("origin")
    return found[::-1]


def _send(
    session: Session,
    arguments: Arguments,
    here: Client,
    host: ssh.Host,
    manifest: Mapping[str, Any],
    compression: str,
) -> None:
    """Exports one image, and has imgctl there install it."""
    with ExitStack() as stack:
        made = stack.enter_context(exported(session, arguments, here, manifest["uuid"], compression))
        # What imgctl there says when it succeeds is said here; what it complains about is its own words.
        command = host.command("install", "-q", "-f", "-")
        process = ssh.started(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        stack.callback(_end, process)
        total = _size_of(made.manifest)
        bar = stack.enter_context(TerminalBar(wanted=total > 0 and not arguments.flag("-q")))
        out = _Counted(process, f"{manifest.get('name')}@{manifest.get('version')}", total, bar)
        with suppress(BrokenPipeError):  # it says itself why it reads no more
            archive.write(out, made.manifest, made.prefix, made.suffix, made.file.descriptor)
        out.close()
        if status := process.wait():
            raise CommandError(
                "RemoteInstall",
                f"{host.name} did not install image {manifest['uuid']} (status {status})",
                hint="what ssh and imgctl there have said is above",
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of it when something went wrong here."""
    if process.poll() is None:
        process.terminate()
    process.wait()


def _shown(manifest: Mapping[str, Any]) -> str:
    uuid, name, version = (printable(manifest.get(key)) for key in ("uuid", "name", "version"))
    return f"{uuid} ({name}@{version})"


def _size_of(manifest: Mapping[str, Any]) -> int:
    files = manifest.get("files") or [{}]
    return int(files[0].get("size") or 0)


class _Counted:
    """The standard input of a process, with a bar of what went through it."""

    def __init__(self, process: subprocess.Popen[bytes], label: str, total: int, bar: TerminalBar) -> None:
        assert process.stdin is not None
        self._stream: IO[bytes] = process.stdin
        self._label, self._total, self._done = label, total, 0
        self._bar = bar

    def write(self, data: bytes) -> int:
        """Writes all of it."""
        written = self._stream.write(data)
        self._done += written
        self._bar.show_bytes(self._label, min(self._done, self._total), self._total)
        return written

    def flush(self) -> None:
        """Writes what waits."""
        self._stream.flush()

    def close(self) -> None:
        """Tells the process that this was all."""
        with suppress(BrokenPipeError):
            self._stream.close()
