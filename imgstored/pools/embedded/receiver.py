"""The output of a receive: a filesystem's stream as it comes, or a volume's disk and skeleton."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from imgstored.errors import StreamError
from imgstored.host.filesystem import sync
from imgstored.pools.embedded.files import begin_writing_back, copy_sparsely, punch, write_all
from imgstored.pools.embedded.notes import DISK, SKELETON, STREAM, Checkpoint, ImageNote
from imgstored.zstream.reader import ReaderState, StreamReader
from imgstored.zstream.records import DAMAGED, Begin, Objset
from imgstored.zstream.volume import Free, Volume, VolumeState, Write

if TYPE_CHECKING:
    from contextlib import ExitStack

    from imgstored.pools.base import Room
    from imgstored.pools.embedded.files import Folder
    from imgstored.zstream.fletcher4 import Buffer


class Receiver(Protocol):
    """Takes a stream piece by piece. Raises `StreamError` and `OSError`."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The position after the last complete piece."""
        ...

    def take(self, piece: Buffer) -> None:
        """Verifies and writes a piece."""
        ...

    def prepare_checkpoint(self) -> None:
        """Called before a checkpoint: makes data durable that a continued receive could not check."""
        ...

    def finish(self, uuid: str) -> ImageNote:
        """Called after the last piece; returns the note of the received image."""
        ...


class Start(Struct, frozen=True):
    """The point from which a receive continues."""

    begin: Begin
    checkpoint: Checkpoint
    disk: int | None  #: of a volume's origin, open for reading


def open_receiver(folder: Folder, start: Start, stack: ExitStack, room: Room) -> Receiver:
    """A receiver into `folder`, with files that are open until `stack` is closed.

    Asks `room` for the bytes of a copy of the origin. Raises `OSError`, `NoSpaceError`.
    """

    def opened(name: str) -> int:
        fd = folder.open(name, os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, fd)
        return fd

    if start.begin.objset is Objset.VOLUME:
        return VolumeReceiver(opened(DISK), opened(SKELETON), start, room)
    return FilesystemReceiver(opened(STREAM), start)


class FilesystemReceiver:
    """Writes the stream as it comes."""

    def __init__(self, fd: int, start: Start) -> None:
        self._fd = fd
        self._start = start
        self._state = start.checkpoint.reader
        self._reader = StreamReader(self._state)
        self._position = self._written_back = self._state.offset
        os.ftruncate(fd, self._position)

    @property
    def checkpoint(self) -> Checkpoint:
        """The position."""
        return Checkpoint(self._start.checkpoint.origin, self._state)

    def take(self, piece: Buffer) -> None:
        """Verifies the records that the piece completes, and writes all of it."""
        self._reader.check(piece)
        self._position = write_all(self._fd, [piece], self._position)
        self._state = self._reader.state

    def prepare_checkpoint(self) -> None:
        """Lets the disk start writing. Nothing must be durable: a continued receive compares every byte."""
        begin_writing_back(self._fd, self._written_back, self._position - self._written_back)
        self._written_back = self._position

    def finish(self, uuid: str) -> ImageNote:
        """Ends the stream, and returns the note of the image. Raises `StreamError` if it is incomplete."""
        self._reader.finish()
        begin, origin = self._start.begin, self._start.checkpoint.origin
        return ImageNote(uuid, begin.toguid, origin, begin.fromguid, "filesystem", self._position)


class VolumeReceiver:
    """Writes the records' data to the disk, and keeps the rest of the stream as a skeleton.

    Parts of the disk that no record writes are as in the origin, or holes.
    """

    def __init__(self, disk: int, skeleton: int, start: Start, room: Room) -> None:
        self._disk, self._skeleton = disk, skeleton
        self._start = start
        self._state = start.checkpoint.reader
        self._reader = StreamReader(self._state)
        self._volume_state = start.checkpoint.volume or VolumeState()
        self._volume = Volume(start.begin.byte_order, self._volume_state)
        self._skeleton_size = start.checkpoint.skeleton_size
        self._gathered: list[Buffer] = []
        self._gathered_at = self._gathered_end = 0
        os.ftruncate(skeleton, self._skeleton_size)
        self._restore(start.disk, self._volume_state, room)

    def _restore(self, origin: int | None, state: VolumeState, room: Room) -> None:
        """Undoes writes after the checkpoint; at the start, copies the origin."""
        os.ftruncate(self._disk, min(state.cursor, os.fstat(self._disk).st_size))
        if origin is not None and state.cursor < state.inherited:
            copy_sparsely(origin, self._disk, state.cursor, state.inherited, room)

    @property
    def checkpoint(self) -> Checkpoint:
        """The position."""
        origin = self._start.checkpoint.origin
        return Checkpoint(origin, self._state, self._volume_state, self._skeleton_size)

    def take(self, piece: Buffer) -> None:
        """Carries out the records that the piece completes."""
        skeleton: list[Buffer] = []
        for record in self._reader.records(piece):
            skeleton.append(record.header)
            inherited = self._volume.state.inherited
            match self._volume.step(record):
                case Write(offset, payload) if not _is_zero(payload):
                    self._gather(offset, payload)
                case Write(offset, payload):
                    punch(self._disk, offset, min(offset + len(payload), inherited))
                case Free(offset, end):
                    punch(self._disk, offset, min(end, inherited))
                case None:
                    skeleton.append(record.payload)
        # The gathered payloads are views of this piece.
        self._flush()
        if skeleton:
            size = write_all(self._skeleton, [b"".join(skeleton)], self._skeleton_size)
            self._skeleton_size = size
        self._state, self._volume_state = self._reader.state, self._volume.state

    def _gather(self, offset: int, payload: Buffer) -> None:
        """Gathers adjacent payloads, to write them together."""
        if not self._gathered or offset != self._gathered_end:
            self._flush()
            self._gathered_at = offset
        self._gathered.append(payload)
        self._gathered_end = offset + len(payload)

    def _flush(self) -> None:
        write_all(self._disk, self._gathered, self._gathered_at)
        self._gathered = []

    def prepare_checkpoint(self) -> None:
        """Makes the origin's data durable: a continued receive compares only the stream's data."""
        if self._start.disk is not None:
            sync(self._disk)
            sync(self._skeleton)

    def finish(self, uuid: str) -> ImageNote:
        """Ends the stream, and returns the note of the image. Raises `StreamError` if it is incomplete."""
        self._reader.finish()
        begin = self._start.begin
        size = self._volume.finish()
        os.ftruncate(self._disk, size)
        return ImageNote(
            uuid,
            begin.toguid,
            self._start.checkpoint.origin,
            begin.fromguid,
            "volume",
            self._state.offset,
            skeleton_size=self._skeleton_size,
            volume_size=size,
            block_size=self._volume_state.block_size or 0,
        )


def fresh_start(begin: Begin, origin: ImageNote | None) -> Checkpoint:
    """The start of a receive. Raises `StreamError` when the origin is another kind of dataset."""
    volume = begin.objset is Objset.VOLUME
    if origin is None:
        return Checkpoint(None, ReaderState(), VolumeState() if volume else None)
    if volume != (origin.kind == "volume"):
        raise StreamError(f"the stream is of another kind than its origin, a {origin.kind}", hint=DAMAGED)
    size = origin.volume_size
    state = VolumeState(inherited=size, size=size, block_size=origin.block_size or None)
    return Checkpoint(origin.uuid, ReaderState(), state if volume else None)


def _is_zero(payload: Buffer) -> bool:
    # For most payloads that are not zero, the two ends show it.
    return not len(payload) or (not (payload[0] or payload[-1]) and bytes(payload) == bytes(len(payload)))
