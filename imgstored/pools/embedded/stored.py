"""Streams of stored images, byte for byte as they came."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from imgstored.errors import StreamError
from imgstored.pools.embedded.files import BLOCK, read_exactly
from imgstored.pools.embedded.notes import DISK, SKELETON, STREAM
from imgstored.zstream.records import (
    DAMAGED,
    HEADER_SIZE,
    RecordType,
    byte_order_of,
    measure,
    parse_record,
)
from imgstored.zstream.volume import DISK as DISK_OBJECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from imgstored.pools.embedded.files import Folder
    from imgstored.zstream.fletcher4 import ByteOrder


class StoredStream(Protocol):
    """A stream, or its beginning, in open files, which stay readable when they are deleted."""

    def pieces(self, limit: int) -> Iterator[bytes]:
        """The first `limit` bytes, or as many as there are. Raises `OSError` and `StreamError`."""
        ...


def open_stream(folder: Folder, *, volume: bool, stack: ExitStack) -> StoredStream:
    """The stream in `folder`, open until `stack` is closed. Raises `OSError`."""

    def opened(name: str) -> int:
        fd = folder.open(name, os.O_RDONLY)
        stack.callback(os.close, fd)
        return fd

    if volume:
        return VolumeStream(opened(SKELETON), opened(DISK))
    return FilesystemStream(opened(STREAM))


class FilesystemStream:
    """A stream that was kept as it came."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pieces(self, limit: int) -> Iterator[bytes]:
        """The first `limit` bytes."""
        position = 0
        while data := os.pread(self._fd, min(BLOCK, limit - position), position):
            yield data
            position += len(data)


class VolumeStream:
    """A stream put together from the disk and a skeleton, which has the records without the disk's data."""

    def __init__(self, skeleton: int, disk: int) -> None:
        self._skeleton = _Ahead(skeleton)
        self._disk = disk

    def pieces(self, limit: int) -> Iterator[bytes]:
        """The first `limit` bytes, in pieces of about 1 MiB."""
        parts: list[bytes] = []
        waiting = position = 0
        for part in self._parts() if limit else ():
            part = part[: limit - position]
            parts.append(part)
            position += len(part)
            waiting += len(part)
            if waiting >= BLOCK or position == limit:
                yield b"".join(parts)
                parts, waiting = [], 0
            if position == limit:
                return
        if parts:
            yield b"".join(parts)

    def _parts(self) -> Iterator[bytes]:
        """Headers and payloads in turn."""
        at = 0
        order: ByteOrder | None = None
        while header := self._skeleton.read(HEADER_SIZE, at):
            order = order or byte_order_of(header)
            if order is None or len(header) < HEADER_SIZE:
                raise StreamError("a volume's stream is damaged in the pool", hint=DAMAGED)
            _, length = measure(header, order)
            record = parse_record(header, b"", order)
            at += HEADER_SIZE
            yield header
            if record.type is RecordType.WRITE and record.object == DISK_OBJECT:
                yield read_exactly(self._disk, length, record.offset)
            elif length:
                yield self._skeleton.read(length, at)
                at += length


class _Ahead:
    """Reads small parts of a file in large ones."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._start = 0
        self._block = b""

    def read(self, size: int, offset: int) -> bytes:
        """The bytes at `offset`; fewer than `size` only at the file's end."""
        start = offset - self._start
        if start < 0 or start + size > len(self._block):
            self._block, self._start = read_exactly(self._fd, max(size, BLOCK), offset), offset
            start = 0
        return self._block[start : start + size]
