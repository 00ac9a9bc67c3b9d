"""A file that a server has in parts, each a file of its own: one connection for ranges of the whole."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from imgstored.http.range_reply import FetchError, RangeReply
from imgstored.http.ranges import RangeConnection

if TYPE_CHECKING:
    from imgstored.http.location import Location, Part
    from imgstored.http.ranges import Accept, Sink


class PartsConnection:
    """As `RangeConnection`, for a location with parts: a range is fetched from the parts that it lies in."""

    def __init__(self, location: Location, **settings: Any) -> None:
        """`settings` are those of `RangeConnection`."""
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
            self._connection.turn_to(self._locations[place])
            start = before + self._get(self._parts[place], start - before, stop_here - before, begin, plain)
        return whole

    def _get(self, part: Part, start: int, stop: int, begin: Any, plain: bool) -> int:
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
