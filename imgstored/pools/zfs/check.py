"""Reads all of an image: the kernel checks each block as it sends it, and we the stream that comes."""

from __future__ import annotations

import errno
from contextlib import closing
from typing import TYPE_CHECKING, Final

from imgstored.errors import PoolError, StreamError
from imgstored.pools.base import Checked
from imgstored.zstream.reader import StreamReader

if TYPE_CHECKING:
    from collections.abc import Generator

    from imgstored.pools.base import OnRead, PoolImage

#: A block that is not what was written: EIO, and ECKSUM, which Linux calls EBADE.
_DAMAGE: Final = {errno.EIO} | {getattr(errno, name) for name in ("EBADE", "ECKSUM") if hasattr(errno, name)}


def check_stream(
    image: PoolImage, sent: Generator[bytes, None, None], written: int, on_read: OnRead
) -> Checked:
    """What reading all of `sent` shows; `written` are the bytes of the dataset that are newer than @final.

    Raises what `on_read` raises, and `PoolError` where the image cannot be read for another reason.
    """
    return Checked(
        image,
        stream_size=None,
        damaged=_damaged(sent, on_read),
        changed=f"{written} bytes were written to its dataset after @final" if written else None,
    )


def _damaged(sent: Generator[bytes, None, None], on_read: OnRead) -> str | None:
    reader, done = StreamReader(), 0
    with closing(sent):
        try:
            for piece in sent:
                reader.check(piece)
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
