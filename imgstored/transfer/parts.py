"""A file that a server has in parts, each a file of its own: one connection for ranges of the whole."""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from imgstored.http.range_reply import FetchError, RangeReply
from imgstored.http.ranges import RangeConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.http.location import Location, Part
    from imgstored.http.ranges import Accept, Sink


#: Bytes of a file on this host that are read at a time.
_PIECE = 1 << 20


class PartsConnection:
    """As `RangeConnection`, for a location with parts: a range is fetched from the parts that it lies in."""

    def __init__(
        self, location: Location, *, reused: Callable[[int], object] = lambda _: None, **settings: Any
    ) -> None:
        """`settings` are those of `RangeConnection`. `reused` gets the number of bytes that were here."""
        self._reused = reused
        self._parts = [part for part in location.parts if part.size]
        self._stops = [*accumulate(part.size for part in self._parts)]
        self._locations = [replace(location, url=part.url, parts=()) for part in self._parts]
        self._connection = RangeConnection(self._locations[0], **settings)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._stops[-1]

    def get(
        self, start: int, stop: int | None, validator: str | None, accept: Accept, *, plain: bool = False
    ) -> RangeReply:
        """As `RangeConnection.get`. Parts have digests, and so no validators."""
        end = self.size if stop is None else min(stop, self.size)
        if start >= end:
            raise FetchError(f"the file has {self.size} bytes, and none from {start} on", other_size=True)
        whole = RangeReply(partial=not plain, start=start, stop=end, total=self.size, validator=None)
        sink: Sink | None = None

        def begin() -> Sink:
            nonlocal sink
            sink = sink or accept(whole)
            return sink

        while start < end:
            place = bisect_right(self._stops, start)
            before = self._stops[place] - self._parts[place].size
            stop_here = min(end, self._stops[place])
            here = self._read_here(place, start - before, stop_here - before, begin)
            if here > start - before:
                start = before + here
                continue
            self._connection.turn_to(self._locations[place])
            start = before + self._get(self._parts[place], start - before, stop_here - before, begin, plain)
        return whole

    def _read_here(self, place: int, start: int, stop: int, begin: Callable[[], Sink]) -> int:
        """Reads bytes of a part that is on this host. Returns where those end: `start` if there are none."""
        part = self._parts[place]
        if part.path is None:
            return start
        if (reason := self._connection.ended) is not None:
            raise FetchError(reason)
        try:
            fd = os.open(part.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                data = os.pread(fd, min(stop - start, _PIECE), part.offset + start)
            finally:
                os.close(fd)
        except OSError:
            data = b""
        if not data:
            # It was removed, which is nobody's fault.
            self._parts[place] = replace(part, path=None)
            return start
        begin()(memoryview(data))
        self._reused(len(data))
        return start + len(data)

    def _get(self, part: Part, start: int, stop: int, begin: Callable[[], Sink], plain: bool) -> int:
        """Fetches bytes of one part; returns where those end that came, which is behind `start`."""
        position = start

        def accept(reply: RangeReply) -> Sink:
            nonlocal position
            _check(reply, part, start, stop, plain)
            sink: Sink = begin()
            position = reply.start

            def take(data: memoryview) -> None:
                nonlocal position
                wanted = data[max(0, start - position) : max(0, stop - position)]
                position += len(data)
                if wanted:
                    sink(wanted)

            return take

        whole = (start, stop) == (0, part.size)
        if whole and plain:
            self._connection.get(0, None, None, accept, plain=True)
        else:
            self._connection.get(start, stop, None, accept)
        return min(position, stop)

    def abort(self, reason: str) -> None:
        """As `RangeConnection.abort`."""
        self._connection.abort(reason)

    @property
    def aborted(self) -> bool:
        """As `RangeConnection.aborted`."""
        return self._connection.aborted

    def close(self) -> None:
        """As `RangeConnection.close`."""
        self._connection.close()


def _check(reply: RangeReply, part: Part, start: int, stop: int, plain: bool) -> None:
    """Raises `FetchError` unless the answer is about the part, and worth reading."""
    if reply.encoding not in ("", "identity"):
        coding = reply.encoding[:40]
        raise FetchError(f"the answer has an encoding that was not asked for ({coding!r})", lasting=True)
    if reply.total is not None and reply.total != part.size:
        fault = f"file size error: expected {part.size} bytes, the server has {reply.total} bytes"
        raise FetchError(fault, other_size=True)
    if not reply.partial and not plain and (start, stop) != (0, part.size):
        # For each range the whole part would come again.
        raise FetchError("sends all of a blob where a part was asked for", lasting=True, ranges=True)
