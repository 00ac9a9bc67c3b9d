"""`python -m imgstored.zstream`: continues an interrupted `zfs receive` from a stream in a file.

    zfs receive -s POOL/DATASET < FILE                                           # interrupted
    token=$(zfs get -H -o value receive_resume_token POOL/DATASET)
    python -m imgstored.zstream resume --token $token FILE | zfs receive -s POOL/DATASET

Exit status: 0; 1 for a stream or a token that is wrong, and where reading or writing fails; 2 for wrong
arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imgstored.errors import ImgstoreError, UsageError
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import Feature
from imgstored.zstream.resume import resume
from imgstored.zstream.token import parse_token

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
    return parser


def _add_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", nargs="?", default="-", help="default: standard input")


def _resume(arguments: argparse.Namespace) -> None:
    point = parse_token(arguments.token).point
    if sys.stdout.isatty():
        raise UsageError("the stream is not for a terminal", hint="pipe it into `zfs receive -s`")
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
