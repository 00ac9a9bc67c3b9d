"""`python -m imgstored.zstream`: resumes an interrupted `zfs receive` from a stream in a file.

    zfs receive -s POOL/DATASET < FILE                                           # interrupted
    token=$(zfs get -H -o value receive_resume_token POOL/DATASET)
    python -m imgstored.zstream resume --token $token FILE | zfs receive -s POOL/DATASET

And it makes the stream of a volume from a disk:

    python -m imgstored.zstream write --name zones/disk@final DISK | zfs receive POOL/DATASET

Exit status: 0; 1 for a stream or a token that is wrong, and where reading or writing fails; 2 for wrong
arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imgstored.errors import ImgstoreError, UsageError
from imgstored.zstream.disk import open_disk
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import Feature
from imgstored.zstream.resume import resume
from imgstored.zstream.token import parse_token
from imgstored.zstream.write import DEFAULT_BLOCK_SIZE, NewVolume, check_block_size, padded, volume_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PIECE = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except ImgstoreError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"zstream: error: {error.message}\n{hint}")
        return 1
    except BrokenPipeError:
        # Who read has gone and knows why. Nothing more is to be written there, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write("zstream: error: the output was closed before the end of the stream\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"zstream: error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zstream", description="Works on plain (not compressed) ZFS send streams."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "resume", help="write the stream that continues an interrupted `zfs receive -s` of FILE"
    )
    command.add_argument("--token", required=True, help="the dataset's property receive_resume_token")
    _add_file(command)
    command.set_defaults(run=_resume)

    command = commands.add_parser("token", help="show what a receive token says, as JSON")
    command.add_argument("token", metavar="TOKEN")
    command.set_defaults(run=_token)

    command = commands.add_parser(
        "check", help="verify every checksum of a stream, and show what it is, as JSON"
    )
    _add_file(command)
    command.set_defaults(run=_check)

    _add_write(commands.add_parser("write", help="write the stream of a volume with what is on DISK"))
    return parser


def _add_write(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", required=True, help="DATASET@SNAPSHOT, the sender's name of it")
    command.add_argument(
        "--block-size",
        type=int,
        default=DEFAULT_BLOCK_SIZE,
        metavar="BYTES",
        help="the volume's volblocksize (default: %(default)s)",
    )
    command.add_argument("--guid", type=int, help="the snapshot's guid (default: by chance)")
    command.add_argument("--created", type=int, metavar="SECONDS", help="its time since 1970 (default: now)")
    command.add_argument(
        "--raw", action="store_true", help="take DISK as it is, also if it looks like another format"
    )
    command.add_argument(
        "disk", metavar="DISK", help="a raw disk or block device; or, with qemu-img, a qcow2 or vmdk"
    )
    command.set_defaults(run=_write_volume)


def _add_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", nargs="?", default="-", help="default: standard input")


def _resume(arguments: argparse.Namespace) -> None:
    point = parse_token(arguments.token).point
    _refuse_terminal("pipe it into `zfs receive -s`")
    with _opened(arguments.file) as file:
        for piece in resume(_pieces(file), point):
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _token(arguments: argparse.Namespace) -> None:
    token = parse_token(arguments.token)
    point = token.point
    assert point.features is not None
    _write(
        {
            "object": point.object,
            "offset": point.offset,
            "bytes": token.bytes,
            "toguid": str(point.toguid),
            "fromguid": str(point.fromguid) if point.fromguid else None,
            "toname": token.toname,
            "features": _names(point.features),
        }
    )


def _check(arguments: argparse.Namespace) -> None:
    reader = StreamReader(resuming=True)
    with _opened(arguments.file) as file:
        for piece in _pieces(file):
            reader.check(piece)
    reader.finish()
    begin = reader.begin
    assert begin is not None
    _write(
        {
            "objset": begin.objset.name.lower(),
            "toguid": str(begin.toguid),
            "fromguid": str(begin.fromguid) if begin.fromguid else None,
            "toname": begin.toname,
            "features": _names(begin.features),
            "bytes": reader.offset,
        }
    )


def _write_volume(arguments: argparse.Namespace) -> None:
    _refuse_terminal("write it to a file, or pipe it into `zfs receive`")
    check_block_size(arguments.block_size)
    with open_disk(arguments.disk, raw=arguments.raw) as disk:
        volume = NewVolume(
            name=arguments.name,
            size=padded(disk.size, arguments.block_size),
            guid=secrets.randbits(64) | 1 if arguments.guid is None else arguments.guid,
            created=int(time.time()) if arguments.created is None else arguments.created,
            block_size=arguments.block_size,
        )
        if volume.size != disk.size:
            sys.stderr.write(
                f"zstream: the disk has {disk.size} bytes, which are no whole blocks of {volume.block_size}: "
                f"the volume has {volume.size}, the last of them zeros\n"
            )
        for piece in volume_stream(volume, disk.extents(volume.block_size)):
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _refuse_terminal(hint: str) -> None:
    if sys.stdout.isatty():
        raise UsageError("the stream is not for a terminal", hint=hint)


def _opened(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb")


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _names(features: Feature) -> list[str]:
    return [feature.name.lower() for feature in Feature if feature in features and feature.name]


def _write(document: dict[str, Any]) -> None:
    """Guids are strings, as in a manifest: not every reader of JSON keeps 64 bits."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
