"""bzip2: by the lbzip2 program where it is installed, else by the standard library on one processor.

lbzip2 uses all processors, and takes about three quarters of libbz2's processor time. It runs as a filter: a
thread feeds it, the caller reads. The program ends with the caller, which closes both of its pipes.
"""

from __future__ import annotations

import bz2
import os
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from typing import IO, TYPE_CHECKING

from imgstored.host import signals
from imgstored.transfer.decompress.serial import BLOCK, Format, corrupt, cut_short
from imgstored.transfer.decompress.sniff import BZIP2_END, BZIP2_MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.transfer.decompress.feed import Feed

#: Where systems have it (Debian; pkgsrc in a SmartOS zone and in its global one). Never looked up in PATH.
PROGRAMS = ("/usr/bin/lbzip2", "/opt/local/bin/lbzip2", "/opt/tools/bin/lbzip2")

_INPUT = 256 << 10
#: Characters of what the program says that are looked at.
_WORDS = 1000
#: Bytes of the last stream's content.
_TOKEN = 16
#: Bytes of the file's end that say whether a stream ends there: its mark and its checksum, not aligned.
_END = 16
_CRC_SIZE = 4
_MARK = int.from_bytes(BZIP2_END, "big")
_MARK_BITS = (1 << 48) - 1


def _begins(head: bytes) -> bool:
    return BZIP2_MAGIC.startswith(head[:3]) and all(level in b"123456789" for level in head[3:4])


#: How the standard library decodes it.
BZIP2 = Format("bzip2", _begins, bz2.BZ2Decompressor, (OSError, ValueError), padding=1, padding_ends=True)


def program() -> str | None:
    """The program, or None where it is not installed."""
    return next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)


def decode_by_program(feed: Feed, path: str, workers: int) -> Iterator[bytes]:
    """The content of the bzip2 file in `feed`, 1 MiB at most at a time, decoded by the program at `path`.

    Raises `UncompressionError`, and what `feed` raises. Closing the iterator ends the program; a `feed` that
    blocks has to be released first.

    The program passes over what follows a stream and begins no other one, and also over a stream whose start
    is damaged. So it gets one stream more, with content that nobody can foresee: this comes out only if the
    program has decoded everything before it.
    """
    with ExitStack() as stack:
        # Not a file, for which there may be no room. What does not fit into the pipe is lost.
        words, said = os.pipe()
        stack.callback(os.close, words)
        os.set_blocking(said, False)
        try:
            with signals.for_child():
                process = subprocess.Popen(  # noqa: S603  an absolute path of ours, and no word from outside
                    [path, "--decompress", "--stdout", "-n", str(workers)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    bufsize=0,
                    env={},
                    cwd="/",
                )
        finally:
            os.close(said)
        assert process.stdin is not None
        assert process.stdout is not None
        # In reverse: end the program, which ends the feeding thread, and reap it.
        stack.callback(process.wait)
        stack.enter_context(process.stdout)
        executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="lbzip2"))
        stack.callback(process.kill)
        token = secrets.token_bytes(_TOKEN)
        fed = executor.submit(copy_context().run, _feed, feed, process.stdin, bz2.compress(token, 1))
        held = b""
        while piece := process.stdout.read(BLOCK - _TOKEN):
            held += piece
            if len(held) > _TOKEN:
                yield held[:-_TOKEN]
                held = held[-_TOKEN:]
        fed.result()
        if process.wait() != 0:
            why = os.read(words, _WORDS).decode("ascii", "replace")
            if "unexpected end of file" in why:
                raise cut_short("bzip2", feed.position)
            raise corrupt("bzip2", why.strip().rpartition(": ")[2] or "it cannot be decoded")
        if held != token:
            raise corrupt("bzip2", "garbage after the end of a stream")


def _feed(feed: Feed, stdin: IO[bytes], last: bytes) -> None:
    """Feeds the program, and `last` after the file's last stream. Reads all of the file in any case."""
    # A broken pipe: the program has seen enough, or was ended; its status tells which.
    with stdin, suppress(BrokenPipeError):
        end, zeros = b"", 0
        while piece := feed.take(_INPUT):
            # Zeros at the end of the file are padding, which the program would not pass over.
            length = len(bytes(piece).rstrip(b"\0"))
            if length:
                _write_zeros(stdin, zeros)
                _write(stdin, piece[:length])
                end += bytes(min(zeros, _END)) + bytes(piece[max(0, length - _END) : length])
                end, zeros = end[-_END:], 0
            zeros += len(piece) - length
        missing = missing_zeros(end)
        if missing is not None and missing <= zeros:
            _write(stdin, memoryview(bytes(missing) + last))
    while feed.take(_INPUT):
        continue


def missing_zeros(end: bytes) -> int | None:
    """The zero bytes that end the stream whose other bytes end with `end`; None if no stream ends there.

    A stream ends with a mark of 48 bits, a checksum of 32, and up to 7 bits that fill the last byte.
    """
    for zeros in range(_CRC_SIZE + 2):
        bits = int.from_bytes(end + bytes(zeros), "big") >> 8 * _CRC_SIZE
        if any(bits >> filling & _MARK_BITS == _MARK for filling in range(8)):
            return zeros
    return None


def _write(stdin: IO[bytes], piece: memoryview) -> None:
    while piece:
        written = os.write(stdin.fileno(), piece)
        piece = piece[written:]


def _write_zeros(stdin: IO[bytes], count: int) -> None:
    zeros = memoryview(bytes(min(count, _INPUT)))
    while count:
        piece = zeros[:count]
        _write(stdin, piece)
        count -= len(piece)
