"""The bounds of messages in a stream of MessagePack, found without building them. Pure: no I/O.

msgpack's own `Unpacker` finds them too, but builds objects as it goes: 4 MiB of empty arrays become 300 MiB
of objects, an array's declared length is allocated at once at each of up to 1024 levels, and
`max_buffer_size` does not count the memory that a slowly arriving message has used already. This module reads
only headers, and checks the bounds at each; a message within bounds is then unpacked in one go.

The format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from imgstored.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


Kind = Literal["scalar", "string", "array", "map", "refused"]


class MessageLimits(Struct, frozen=True):
    """Bounds on one message from a client, checked before anything of it is built in memory."""

    size: int = 4 << 20  #: bytes
    depth: int = 32  #: arrays and maps within each other, the message's own array counted
    #: values in all its arrays and maps; a value of one byte becomes up to 72 bytes in memory
    values: int = 1 << 16


#: Readers send nothing long, and every user of the machine may be a reader.
READERS_MESSAGE = MessageLimits(size=64 << 10, values=1 << 10)


class ProtocolError(UsageError):
    """A client sent something that is not a message, so the begin of the next message is unknown."""


class Header(Struct, frozen=True):
    """The meaning of the first byte of a value."""

    kind: Kind
    content: int = 0  #: bytes after the first byte, or values of an array, or pairs of a map
    length: int = 0  #: bytes after the first byte that hold `content`; 0 if the first byte has it


class Frame(Struct, frozen=True):
    """One whole message, undecoded. `start` is its first byte's position in the stream."""

    start: int
    data: bytes


def _headers() -> Iterator[Header]:
    """The format's table of first bytes, 0x00 to 0xff.

    Extensions and binary data are refused: the protocol does not use them, and without them JSON could
    express every message.
    """
    for first in range(256):
        if first <= 0x7F or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3):
            yield Header("scalar")
        elif first <= 0x8F:
            yield Header("map", first & 0x0F)
        elif first <= 0x9F:
            yield Header("array", first & 0x0F)
        elif first <= 0xBF:
            yield Header("string", first & 0x1F)
        else:
            yield _NAMED.get(first, Header("refused"))


_NAMED: Final = {
    0xCA: Header("scalar", 4),
    0xCB: Header("scalar", 8),
    0xCC: Header("scalar", 1),
    0xCD: Header("scalar", 2),
    0xCE: Header("scalar", 4),
    0xCF: Header("scalar", 8),
    0xD0: Header("scalar", 1),
    0xD1: Header("scalar", 2),
    0xD2: Header("scalar", 4),
    0xD3: Header("scalar", 8),
    0xD9: Header("string", length=1),
    0xDA: Header("string", length=2),
    0xDB: Header("string", length=4),
    0xDC: Header("array", length=2),
    0xDD: Header("array", length=4),
    0xDE: Header("map", length=2),
    0xDF: Header("map", length=4),
}
HEADERS: Final = tuple(_headers())


class Framer:
    """Cuts a stream into messages. The work is linear in the number of bytes, in pieces of any size.

    After a `fault` nothing more comes out: the bytes after it have no meaning.
    """

    def __init__(self, limits: MessageLimits) -> None:
        self.fault: ProtocolError | None = None
        self._limits = limits
        self._buffer = bytearray()
        self._base = 0  # the buffer's first byte in the stream, where a message begins
        self._begin()

    def _begin(self) -> None:
        self._next = 0  # the next value's first byte in the buffer; may lie beyond what is there
        self._values = 0
        self._remaining = [1]  # values yet to come, for the message itself and each container that is open
        self._in_map = [False]

    @property
    def position(self) -> int:
        """The number of bytes so far."""
        return self._base + len(self._buffer)

    @property
    def unfinished(self) -> int | None:
        """The position of an incomplete message; None if there is none."""
        return self._base if self._buffer else None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The messages that `data` completes; those before a fault come out like any others."""
        frames: list[Frame] = []
        if self.fault is not None:
            return frames
        self._buffer += data
        try:
            while self._whole():
                frames.append(self._cut())
        except ProtocolError as error:
            self.fault = error
            self._buffer.clear()
        return frames

    def _cut(self) -> Frame:
        with memoryview(self._buffer) as view:
            frame = Frame(self._base, bytes(view[: self._next]))
        del self._buffer[: self._next]
        self._base += self._next
        self._begin()
        return frame

    def _whole(self) -> bool:
        """Reads the headers that are there; returns True if they are a whole message."""
        while self._remaining:
            if self._next >= len(self._buffer):
                return False
            header = HEADERS[self._buffer[self._next]]
            end = self._next + 1 + header.length
            if end > len(self._buffer):
                return False
            content = header.content
            if header.length:
                content = int.from_bytes(self._buffer[self._next + 1 : end], "big")
            self._value(header.kind, content, end)
        return self._next <= len(self._buffer)

    def _value(self, kind: Kind, content: int, end: int) -> None:
        """Takes one value, whose header ends at `end`."""
        if len(self._remaining) == 1 and kind != "array":
            raise ProtocolError("a message is an array", hint="this socket speaks MessagePack-RPC")
        if self._in_map[-1] and self._remaining[-1] % 2 == 0 and kind != "string":
            raise ProtocolError("a map's keys are strings")
        self._remaining[-1] -= 1
        if kind == "refused":
            raise ProtocolError("binary data and MessagePack's extension types are not used here")
        if kind in ("scalar", "string"):
            end += content
        else:
            self._open(content if kind == "array" else 2 * content, in_map=kind == "map")
        if end > self._limits.size:
            raise ProtocolError(f"a message has more than {self._limits.size} bytes")
        self._next = end
        while self._remaining and self._remaining[-1] == 0:
            self._remaining.pop()
            self._in_map.pop()

    def _open(self, count: int, *, in_map: bool) -> None:
        self._values += count
        if self._values > self._limits.values:
            raise ProtocolError(f"a message has more than {self._limits.values} values")
        # The first entry stands for the message itself, which is no container.
        if len(self._remaining) > self._limits.depth:
            raise ProtocolError(f"a message is nested deeper than {self._limits.depth}")
        self._remaining.append(count)
        self._in_map.append(in_map)
