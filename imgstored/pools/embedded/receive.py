"""One receive, from the first byte or from the point of an interruption.

A checkpoint says how far the files of a partial can be used. It is written every 64 MiB, and when the stream
is interrupted, and is not trusted: a continued receive compares the stream's first bytes with the files. That
takes less time than to verify and write them, and detects both a file that lost its end in a power cut and
another stream. So nothing needs an fsync during the receive, except a volume's copy of its origin, which the
stream does not have. `publish` makes everything durable.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from imgstored.errors import ImgstoreError, StreamError
from imgstored.pools.base import BOUNDLESS
from imgstored.pools.embedded.files import Folder, pool_errors
from imgstored.pools.embedded.notes import (
    DISK,
    ImageNote,
    read_checkpoint,
    write_checkpoint,
    write_image,
)
from imgstored.pools.embedded.receiver import Receiver, Start, fresh_start, open_receiver
from imgstored.pools.embedded.stored import StoredStream, open_stream
from imgstored.pools.refusals import refuse_other_origin
from imgstored.zstream.reader import begin_of
from imgstored.zstream.records import Begin, Objset, parse_begin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.pools.base import Blocks, Room
    from imgstored.zstream.fletcher4 import Buffer

log = structlog.get_logger(__name__)

#: Bytes of stream from one checkpoint to the next.
INTERVAL: Final = 64 << 20

PARTIAL: Final = "-partial"
TRASH: Final = ".trash-"


def set_aside(root: Folder, name: str) -> str:
    """Moves an image or a partial to the trash in one step; returns its new name. Raises `OSError`."""
    trash = f"{TRASH}{name}-{secrets.token_hex(4)}"
    os.rename(name, trash, src_dir_fd=root.fd, dst_dir_fd=root.fd)
    return trash


def discard(root: Folder, name: str) -> None:
    """Removes a partial; it vanishes in one step. Raises `OSError`."""
    empty_trash(root, set_aside(root, name))


def empty_trash(root: Folder, trash: str) -> None:
    """Removes discarded files. The next opening of the pool removes those that cannot be removed now."""
    with contextlib.suppress(OSError):
        os.unlink(trash, dir_fd=root.fd)  # it may be anything but a folder
    shutil.rmtree(trash, ignore_errors=True, dir_fd=root.fd)


class Receive(Struct, frozen=True):
    """One image's receive into the folder `root` of the pool named `pool`."""

    root: Folder
    pool: str
    uuid: str
    origin: ImageNote | None
    room: Room = BOUNDLESS

    def run(self, blocks: Blocks) -> ImageNote:
        """Receives all of it. Raises as `Pool.receive` does."""
        with ExitStack() as stack:
            folder, start, rest = self._resumed(iter(blocks), stack)
            if start is None or folder is None:
                folder, start, rest = self._fresh(rest, stack)
            with self._pool_errors():
                receiver = open_receiver(folder, start, stack, self.room)
            return self._receive(receiver, folder, rest)

    # -- where to begin --------------------------------------------------------------------------------------

    def _resumed(
        self, blocks: Iterator[Buffer], stack: ExitStack
    ) -> tuple[Folder | None, Start | None, Iterator[Buffer]]:
        """The existing partial, if the stream is the same; and in any case the blocks still to be taken."""
        with self._pool_errors():
            found = self._partial(stack)
        if found is None:
            return None, None, blocks
        folder, start, stored = found
        size = start.checkpoint.reader.offset
        same, blocks = compared(stored, size, blocks)
        if not same:
            log.info("receives afresh: the stream is not the one that was begun", uuid=self.uuid)
            return None, None, blocks
        log.info("goes on with a receive", uuid=self.uuid, offset=size)
        return folder, start, blocks

    def _partial(self, stack: ExitStack) -> tuple[Folder, Start, StoredStream] | None:
        """The usable part of an earlier receive."""
        try:
            folder = stack.enter_context(self.root.folder(self.uuid + PARTIAL))
        except OSError:
            return None
        checkpoint = read_checkpoint(folder, self.uuid)
        if checkpoint is None or checkpoint.origin != (self.origin and self.origin.uuid):
            return None
        try:
            begin = parse_begin(checkpoint.reader.begin)
            self._refuse_other_origin(begin)
            stored = open_stream(folder, volume=checkpoint.volume is not None, stack=stack)
        except (ImgstoreError, OSError) as error:
            log.warning("a partial image cannot be used", uuid=self.uuid, error=str(error))
            return None
        return folder, Start(begin, checkpoint, self._origin_disk(begin, stack)), stored

    def _fresh(self, blocks: Iterator[Buffer], stack: ExitStack) -> tuple[Folder, Start, Iterator[Buffer]]:
        """An empty partial, and the blocks of the whole stream."""
        begin, blocks = begin_of(blocks)
        self._refuse_other_origin(begin)
        start = Start(begin, fresh_start(begin, self.origin), self._origin_disk(begin, stack))
        with self._pool_errors():
            if self.root.status(self.uuid + PARTIAL) is not None:
                discard(self.root, self.uuid + PARTIAL)
            return stack.enter_context(self.root.make_folder(self.uuid + PARTIAL)), start, blocks

    def _refuse_other_origin(self, begin: Begin) -> None:
        origin = self.origin
        refuse_other_origin(self.uuid, begin, None if origin is None else (origin.uuid, origin.guid))

    def _origin_disk(self, begin: Begin, stack: ExitStack) -> int | None:
        """The disk of a volume's origin."""
        if self.origin is None or self.origin.kind != "volume" or begin.objset is not Objset.VOLUME:
            return None
        with self._pool_errors(), self.root.folder(self.origin.uuid) as folder:
            fd = folder.open(DISK, os.O_RDONLY)
        stack.callback(os.close, fd)
        return fd

    # -- all of it -------------------------------------------------------------------------------------------

    def _receive(self, receiver: Receiver, folder: Folder, blocks: Iterator[Buffer]) -> ImageNote:
        noted = receiver.checkpoint.reader.offset
        try:
            for block in blocks:
                with self._pool_errors():
                    receiver.take(block)
                    if receiver.checkpoint.reader.offset >= noted + INTERVAL:
                        _note(receiver, folder)
                        noted = receiver.checkpoint.reader.offset
        except StreamError:
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                _note(receiver, folder)
            raise
        with self._pool_errors():
            image = replace(receiver.finish(self.uuid), dataset=secrets.randbits(63) | 1)
            write_image(folder, image)
            _note(receiver, folder)
        return image

    def _pool_errors(self) -> contextlib.AbstractContextManager[None]:
        return pool_errors(self.pool, f"receiving image {self.uuid}", self.root.fd)


def compared(stored: StoredStream, size: int, blocks: Iterator[Buffer]) -> tuple[bool, Iterator[Buffer]]:
    """True if the first `size` bytes of `blocks` equal the stored ones; and the blocks still to be taken.

    If they are equal, these are the blocks that follow; if not, the whole stream, its beginning from the
    store.
    """
    pieces = _readable(stored.pieces(size))
    piece = memoryview(b"")
    position = 0
    for block in blocks:
        view = memoryview(block).cast("B")
        while len(view) and position < size:
            piece = piece or memoryview(next(pieces, b""))
            length = min(len(piece), len(view))
            # A bytearray, because two memoryviews are compared byte by byte.
            if not length or bytearray(piece[:length]) != view[:length]:
                return False, itertools.chain(stored.pieces(position), [view], blocks)
            position += length
            piece, view = piece[length:], view[length:]
        if position == size:
            return True, itertools.chain([view], blocks)
    return False, stored.pieces(position)


def _readable(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces up to the first that cannot be read."""
    with contextlib.suppress(OSError, StreamError):
        yield from pieces


def _note(receiver: Receiver, folder: Folder) -> None:
    """Writes a checkpoint, if there is something to continue."""
    if receiver.checkpoint.reader.begin:
        receiver.prepare_checkpoint()
        write_checkpoint(folder, receiver.checkpoint)
