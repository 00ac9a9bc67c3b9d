"""Reads all of an image: the kernel checks each block that it sends, and the daemon the stream."""

from __future__ import annotations

import errno
import hashlib
import struct
from contextlib import closing
from typing import TYPE_CHECKING, Final

from imgstored.errors import PoolError, StreamError
from imgstored.pools.base import Checked
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import RecordType

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from imgstored.pools.base import OnRead, PoolImage
    from imgstored.zstream.records import Record

#: The records around all others.
_AROUND: Final = (RecordType.BEGIN, RecordType.END)
#: Object, offset and length of a WRITE record.
_PLACE: Final = struct.Struct("<QQQ")

#: The size of the pieces that are hashed: large blocks may be split.
_BLOCK: Final = 128 << 10

#: A block that is not what was written: EIO, and ECKSUM, which Linux calls EBADE.
_DAMAGE: Final = {errno.EIO} | {getattr(errno, name) for name in ("EBADE", "ECKSUM") if hasattr(errno, name)}


def check_stream(
    image: PoolImage,
    sent: Generator[bytes, None, None],
    written: int,
    on_read: OnRead,
    *,
    content: bool = False,
) -> Checked:
    """The result of reading all of `sent`; `written` are the bytes of the dataset that are newer than @final.

    Raises what `on_read` raises, and `PoolError` if the image cannot be read for another reason than damage.
    """
    data = Content() if content else None
    damaged = _damaged(sent, on_read, data)
    return Checked(
        image,
        stream_size=None,
        content=None if data is None or damaged is not None else data.hexdigest(),
        damaged=damaged,
        changed=f"{written} bytes were written to its dataset after @final" if written else None,
    )


def differs(increment: Generator[bytes, None, None]) -> bool:
    """Whether there is anything in the stream of an increment: more than its begin and its end."""
    reader = StreamReader()
    with closing(increment):
        for piece in increment:
            if any(record.type not in _AROUND for record in reader.records(piece)):
                return True
    reader.finish()
    return False


class Content:
    """A SHA-256 of the data in a stream, and of its places.

    Everything else may differ between two `zfs send` of one snapshot: names of datasets in BEGIN, features of
    a later OpenZFS, the records for free space, large blocks.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, records: Iterable[Record]) -> None:
        """Adds the stream's next records."""
        for record in records:
            if record.type is RecordType.WRITE:
                payload = memoryview(record.payload).cast("B")
                for start in range(0, len(payload), _BLOCK):
                    piece = payload[start : start + _BLOCK]
                    self._digest.update(_PLACE.pack(record.object, record.offset + start, len(piece)))
                    self._digest.update(piece)

    def hexdigest(self) -> str:
        """The hash in lower-case hexadecimal."""
        return self._digest.hexdigest()


def _damaged(sent: Generator[bytes, None, None], on_read: OnRead, content: Content | None) -> str | None:
    reader, done = StreamReader(), 0
    with closing(sent):
        try:
            for piece in sent:
                if content is None:
                    reader.check(piece)
                else:
                    content.update(reader.records(piece))
                done += len(piece)
                on_read(done)
            reader.finish()
        except StreamError as error:
            return error.message
        except PoolError as error:
            if error.data.get("errno") not in _DAMAGE:
                raise
            return f"its blocks cannot be read after byte {done} of its stream; see `zpool status -v`"
    return None
