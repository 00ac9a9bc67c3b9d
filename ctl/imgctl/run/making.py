"""`create`, `publish`, `export`: new images and copies for other hosts."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgctl import event_text
from imgctl.errors import CommandError, NotConnectedError, UsageError
from imgctl.run.image_files import ImageFile, check_exists, read_manifest
from imgctl.run.imports import MAX_MANIFEST
from imgctl.run.narrator import TerminalBar
from imgctl.run.several import count_of, named, report_each, texts_of
from imgctl.session import is_terminal, json_text, standard_output
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgproto.documents import ManifestDocument
    from imgproto.events import EventDocument, ManifestMade, Progress

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session

_COMPRESSIONS = ("none", "bzip2", "gzip", "xz", "zstd")
_ALSO = {"gz": "gzip", "bz2": "bzip2"}

#: Where a token comes from if no file is named, and bytes of a file at most.
_TOKEN = "IMGCTL_TOKEN"  # noqa: S105  (a variable's name)
_MAX_TOKEN = 4096

#: Characters of a prepare script; the daemon takes no more either.
_MAX_SCRIPT = 1 << 20


def create(session: Session, arguments: Arguments) -> None:
    """`create [OPTIONS] SOURCE [FIELD=VALUE...]`."""
    source, *fields = arguments.some()
    if arguments.text("-o") is not None and arguments.text("-p") is not None:
        raise UsageError("cannot specify both -o,--output-template and -p,--publish")
    compression = compression_of(arguments)
    depth = arguments.number("--max-origin-depth", "max-origin-depth", 2, imgadms="must be greater than 1")
    manifest = _given_manifest(arguments.text("-m"))
    script = _script(arguments.text("-s"))
    url = arguments.text("-p")
    token = None if url is None else _token(arguments)
    is_disk = arguments.flag("--raw") or arguments.flag("--as-raw")
    _refuse_mixed(arguments, is_disk=is_disk)
    with ExitStack() as stack:
        if url is None:
            target = _target(arguments, imgadm=session.is_imgadm)
        else:
            target = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="imgctl-", dir=temporary_folder()))
            )
        client = stack.enter_context(session.client()) if url is not None or not is_disk else None
        file = stack.enter_context(ImageFile(target))
        with Maker(session, arguments, file) as tell:
            if is_disk:
                from imgctl.run.programs import make

                made = make(session, file, source, manifest, fields, compression, arguments, tell)
            else:
                assert client is not None
                made = client.create(
                    source,
                    file.descriptor,
                    manifest,
                    fields=fields,
                    compression=compression,
                    index=arguments.flag("--index"),
                    incremental=arguments.flag("-i"),
                    max_origin_depth=depth,
                    script=script,
                    path=file.shown,
                    on_event=tell,
                )
        made = file.take_index(made, keep=url is None)
        session.say([f'Saving manifest to "{printable(file.manifest_path)}"'])
        file.keep(made)
        if url is not None and client is not None:
            with Maker(session, arguments, file) as tell:
                client.publish(made, file.path, url, token=token, on_event=tell)
            session.say([_published(made, url)])


def publish(session: Session, arguments: Arguments) -> None:
    """`publish [-q] [--sign KEYFILE]... -m MANIFEST -f FILE URL | [-P POOL] IMAGE URL`."""
    if (
        not session.is_imgadm
        and len(arguments.rest) == 2
        and not (arguments.text("-m") or arguments.text("-f"))
    ):
        _publish_installed(session, arguments, *arguments.rest)
        return
    url = arguments.one()
    manifest_path, file_path = arguments.text("-m"), arguments.text("-f")
    if manifest_path is None:
        raise UsageError("-m <manifest> is required")
    if file_path is None:
        raise UsageError("-f <file> is required")
    check_exists("manifest", manifest_path)
    check_exists("file", file_path)
    manifest = read_manifest(manifest_path, MAX_MANIFEST, dated=False)
    token, keys = _token(arguments), _keys(session, arguments)
    with session.client() as client, Maker(session, arguments, file_path) as tell:
        client.publish(manifest, file_path, url, token=token, keys=keys, on_event=tell)
    session.say([_published(manifest, url)])


def _publish_installed(session: Session, arguments: Arguments, text: str, url: str) -> None:
    """An installed image: its stream, compressed with zstd, which a registry gets in layers."""
    (image,) = named(session, [text], among="installed", pool=arguments.text("-P"))
    keys = _keys(session, arguments)
    with (
        session.client() as client,
        exported(session, arguments, client, image.uuid or "", "zstd") as made,
    ):
        made.file.keep(made.manifest)
        with Maker(session, arguments, made.file) as tell:
            client.publish(made.manifest, made.file.path, url, keys=keys, on_event=tell)
        session.say([_published(made.manifest, url)])


def _keys(session: Session, arguments: Arguments) -> list[str]:
    """The secret keys that sign the image."""
    if not arguments.flag("--sign"):
        return []
    from imgctl.run.sites import secret_keys

    return secret_keys(session, arguments)


def _token(arguments: Arguments) -> str | None:
    """The token for the server: of a file, as arguments are seen by everybody, or of the environment."""
    path = arguments.text("--token-file")
    if path is None:
        return os.environ.get(_TOKEN) or None
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MAX_TOKEN)
        else:
            with Path(path).open("rb") as file:
                data = file.read(_MAX_TOKEN)
    except OSError as error:
        raise UsageError(
            f"the token's file {printable(path)} cannot be read: {error.strerror or error}"
        ) from error
    token = data.decode("ascii", "replace").strip()
    if not token or not token.isprintable() or " " in token or "\ufffd" in token:
        raise UsageError(f"there is no token in {printable(path)}: one word of ASCII is expected")
    return token


def export(session: Session, arguments: Arguments) -> int:
    """`export [-P POOL] [-o PATH] [-c COMPRESSION] [--format FORMAT] IMAGE...`."""
    texts, form = texts_of(session, arguments), arguments.text("--format") or "stream"
    if form not in ("stream", "raw", "qcow2"):
        raise UsageError(f'invalid --format "{form}": must be one of "stream", "raw", "qcow2"')
    compression = compression_of(arguments)
    if form != "stream" and compression != "none":
        raise UsageError("a disk is not compressed: leave out -c, or --format")
    _refuse_index(arguments, compression)
    if arguments.text("-o") == "-":
        return _export_to_output(session, arguments, texts, form, compression)
    if len(texts) > 1 and not _target(arguments).is_dir():
        raise UsageError(f'-o "{arguments.text("-o")}" is no folder, as several images need')
    images = named(session, texts, among="installed", pool=arguments.text("-P"))
    if len(images) == 1:
        _export(session, arguments, images[0].uuid or "", form, compression)
        return 0
    errors = {image: image.error for image in images if image.error is not None}
    for image in images:
        if image.uuid is None:
            continue
        try:
            _export(session, arguments, image.uuid, form, compression)
        except NotConnectedError:
            raise
        except CommandError as error:
            errors[image] = error
    return report_each(session, errors, f"exported {count_of(len(images) - len(errors))}")


def _export(session: Session, arguments: Arguments, uuid: str, form: str, compression: str) -> None:
    """One image."""
    with session.client() as client, ImageFile(_target(arguments)) as file:
        with Maker(session, arguments, file, quiet_manifest=True) as tell:
            manifest = client.export(
                uuid,
                file.descriptor,
                pool=arguments.text("-P"),
                compression=compression,
                index=arguments.flag("--index"),
                form="stream" if form == "stream" else "raw",
                path=file.shown,
                on_event=tell,
            )
        manifest = file.take_index(manifest)
        if form == "qcow2":
            file.convert_to_qcow2()
        file.keep(manifest if form == "stream" else None)
        what = [file.manifest_path, file.path] if form == "stream" else [file.path]
        what += [file.index_path] if arguments.flag("--index") else []
        session.say(f'Exported image {printable(uuid)} to "{printable(path)}"' for path in what)


def _export_to_output(
    session: Session, arguments: Arguments, texts: list[str], form: str, compression: str
) -> int:
    """One image on standard output: a stream with its manifest, which `install -f -` reads, or its disk."""
    if len(texts) > 1:
        raise UsageError("standard output has room for one image")
    if is_terminal(sys.stdout):
        raise UsageError("an image cannot be written to a terminal", hint="send it to a program or a file")
    from imgctl.run import archive

    out = standard_output()
    (image,) = named(session, texts, among="installed", pool=arguments.text("-P"))
    # A manifest has the size and SHA-1 of the file, and comes first.
    with (
        session.client() as client,
        exported(session, arguments, client, image.uuid or "", compression, raw=form != "stream") as made,
    ):
        file = made.file
        if form == "stream":
            archive.write(out, made.manifest, made.prefix, made.suffix, file.descriptor)
            return 0
        if form == "qcow2":
            file.convert_to_qcow2()
        file.keep(None)
        with Path(file.path).open("rb") as disk:
            shutil.copyfileobj(disk, out)
        out.flush()
    return 0


class Exported(NamedTuple):
    """An image in a file of a temporary folder. What is to be kept goes on from the file."""

    manifest: ManifestDocument
    file: ImageFile
    prefix: str  #: of the names of its two files
    suffix: str  #: of the name of the image's file


@contextmanager
def exported(
    session: Session, arguments: Arguments, client: Client, uuid: str, compression: str, *, raw: bool = False
) -> Iterator[Exported]:
    """Exports an installed image of the pool of `arguments`; the file is there while the block lasts."""
    names = "image", ""

    def tell(event: EventDocument) -> None:
        nonlocal names
        if event["event"] == "manifest":
            names = event["prefix"], event["suffix"]
        maker(event)

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="imgctl-", dir=temporary_folder()))
        file = stack.enter_context(ImageFile(Path(folder)))
        with Maker(session, arguments, file, quiet_manifest=True) as maker:
            manifest = client.export(
                uuid,
                file.descriptor,
                pool=arguments.text("-P"),
                compression=compression,
                form="raw" if raw else "stream",
                path=file.shown,
                on_event=tell,
            )
        yield Exported(manifest, file, *names)


class Maker:
    """Reports how an image is made: imgadm's lines and, on a terminal, a bar."""

    def __init__(
        self,
        session: Session,
        arguments: Arguments,
        file: ImageFile | str,
        *,
        quiet_manifest: bool = False,
    ) -> None:
        self._session = session
        self._file = file
        self._quiet_manifest = quiet_manifest
        self._bar = TerminalBar(wanted=not arguments.flag("-q"))

    def __enter__(self) -> Maker:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, event: EventDocument) -> None:
        """Reports one event."""
        if event["event"] == "progress":
            self._show_progress(event)
        elif event["event"] == "note":
            self._session.warn(event["text"])
        elif event["event"] == "manifest":
            self._named(event)
        elif event["event"] == "sending":
            if not self._quiet_manifest:
                self._print(f'Sending image file to "{printable(self._path)}"')
        elif (line := event_text.making_line(event, self._path)) is not None:
            self._print(line)

    @property
    def _path(self) -> str:
        return self._file if isinstance(self._file, str) else self._file.path

    def _named(self, event: ManifestMade) -> None:
        """Names the files, as soon as the manifest is known."""
        if isinstance(self._file, ImageFile):
            self._file.name(event["prefix"], event["suffix"])
        if not self._quiet_manifest:
            shown = json_text(event["manifest"], indent=2)
            self._print("Manifest:\n" + "\n".join(f"    {line}" for line in shown.split("\n")))

    def _show_progress(self, event: Progress) -> None:
        done, total = event["done"], event["total"]
        self._bar.show_bytes(Path(self._path).name, done, total if total and total >= done else None)

    def _print(self, line: str) -> None:
        self._bar.print(line, sys.stdout)


def compression_of(arguments: Arguments) -> str:
    """The compression that `-c` names. Raises `UsageError`."""
    given = arguments.text("-c") or "none"
    compression = _ALSO.get(given, given)
    if compression not in _COMPRESSIONS:
        names = ", ".join(f'"{name}"' for name in _COMPRESSIONS)
        raise UsageError(f'invalid -c,--compression "{given}": must be one of {names}')
    return compression


def _given_manifest(path: str | None) -> dict[str, Any]:
    """The fields that -m gives; none without it."""
    if path is None:
        return {}
    if path != "-":
        check_exists("manifest", path)
    return read_manifest(path, MAX_MANIFEST, dated=False)


def _script(path: str | None) -> str | None:
    if path is None:
        return None
    check_exists("prepare-image script", path)
    with Path(path).open("rb") as file:
        data = file.read(_MAX_SCRIPT + 1)
    try:
        script = data.decode()
    except UnicodeDecodeError:
        raise UsageError(f'the prepare-image script "{path}" is not UTF-8 text') from None
    if not script or len(data) > _MAX_SCRIPT:
        raise UsageError(f'the prepare-image script "{path}" is empty, or has more than 1 MiB')
    return script


def _refuse_mixed(arguments: Arguments, *, is_disk: bool) -> None:
    """Raises `UsageError` for options that exclude each other."""
    for flag in ("-i", "-s", "--max-origin-depth"):
        if is_disk and arguments.flag(flag):
            raise UsageError(f"{flag} is not for a disk")
    _refuse_index(arguments, compression_of(arguments))
    if arguments.flag("--block-size") and not is_disk:
        raise UsageError("--block-size is for a disk, with --raw")


def _refuse_index(arguments: Arguments, compression: str) -> None:
    """Raises `UsageError` for an index of what cannot have one, or that has no place."""
    if arguments.flag("--index") and (compression != "zstd" or arguments.text("-o") == "-"):
        raise UsageError("--index is for files, with -c zstd")


def _target(arguments: Arguments, *, imgadm: bool = False) -> Path:
    """Raises `CommandError` for a folder, as a slash at the end says, that is not there."""
    given = arguments.text("-o") or "."
    if given.endswith("/") and not imgadm and not Path(given).is_dir():
        raise CommandError(
            "FileSystem", f'there is no folder "{given}"', hint=f'make it first: `mkdir -p "{given}"`'
        )
    return Path(given)


def temporary_folder() -> str:
    """The folder for files that are only published: they may be too large for /tmp."""
    return os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108  (a folder of its own is made in it)


def _published(manifest: dict[str, Any], url: str) -> str:
    return f"Successfully published image {printable(manifest.get('uuid'))} to {printable(url)}"
