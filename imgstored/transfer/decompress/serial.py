"""Decoding one part of a file after another: gzip members, bzip2 and xz streams, zstd frames.

The errors of all decoders are here, too, in imgadm's words where it has some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from imgstored.errors import UncompressionError
from imgstored.transfer.decompress.meter import PART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgstored.transfer.decompress.feed import Feed
    from imgstored.transfer.decompress.meter import Meter

#: Bytes that a decoder may return at a time.
BLOCK = 1 << 20

# What is left of a step when a part ends is decoded again from there. The step grows while a part goes on, so
# that a file of very many tiny parts is not read over and over.
_FIRST_STEP = 4 << 10
_LAST_STEP = 256 << 10

#: How much of what does not belong there is shown.
_SHOWN = 16

_HINT = "usually indicates a network error while downloading, try again"


class Decoder(Protocol):
    """Decodes one part, as `bz2.BZ2Decompressor` and `lzma.LZMADecompressor` do."""

    @property
    def eof(self) -> bool:
        """True if the part has ended."""
        ...

    @property
    def needs_input(self) -> bool:
        """True if nothing more comes out without more input."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Input that follows the part's end."""
        ...

    def decompress(self, data: bytes | memoryview, /, max_length: int) -> bytes:
        """At most `max_length` bytes (zstd: at least one of its blocks)."""
        ...


class Format(Struct, frozen=True):
    """The decoding of one kind of file."""

    name: str
    begins: Callable[[bytes], bool]  #: whether bytes (8, or fewer at the end) begin a part
    decoder: Callable[[], Decoder]
    errors: tuple[type[Exception], ...]  #: what the decoder raises for bad input
    padding: int  #: zero bytes may follow a part, in multiples of this; 0 for not at all
    padding_ends: bool = False  #: nothing but the end may follow the zero bytes


def decode_serially(feed: Feed, form: Format, meter: Meter) -> Iterator[bytes]:
    """Decodes all of `feed`. Raises `UncompressionError`."""
    while True:
        meter.spend(PART)
        yield from decode_part(feed, form)
        if at_end(feed, form):
            return


def decode_part(feed: Feed, form: Format) -> Iterator[bytes]:
    """Decodes up to the end of one part. Raises `UncompressionError`."""
    decoder = form.decoder()
    step = _FIRST_STEP
    while not decoder.eof:
        data: bytes | memoryview = b""
        if decoder.needs_input:
            data = feed.take(step)
            step = min(2 * step, _LAST_STEP)
            if not data:
                raise cut_short(form.name, feed.position)
        try:
            decoded = decoder.decompress(data, BLOCK)
        except form.errors as error:
            raise corrupt(form.name, error) from error
        if decoded:
            yield decoded
    feed.back(len(decoder.unused_data))


def at_end(feed: Feed, form: Format) -> bool:
    """Skips padding; whether nothing follows. Raises `UncompressionError` for what is not another part."""
    zeros = feed.skip_zeros() if form.padding else 0
    if zeros and zeros % form.padding:
        raise corrupt(form.name, f"padding of {zeros} bytes")
    following = feed.peek(8)
    if following and ((zeros and form.padding_ends) or not form.begins(following)):
        raise trailing(form.name, feed.position, feed.peek(_SHOWN))
    return not following


def corrupt(name: str, cause: object) -> UncompressionError:
    """The file is not what a compressor of format `name` writes."""
    return UncompressionError(
        f"{name} uncompression error while importing: {cause} (corrupt compressed file)", hint=_HINT
    )


def cut_short(name: str, position: int) -> UncompressionError:
    """The file stops before its format says so. `position` is its length in bytes."""
    return UncompressionError(
        f"{name} uncompression error while importing: the file ends in the middle, after {position} bytes",
        hint=_HINT,
    )


def trailing(name: str, position: int, found: bytes) -> UncompressionError:
    """Something else follows the compressed data, at byte `position`."""
    return UncompressionError(
        f"{name} uncompression error while importing: garbage ({found.hex(' ')}) after the end of the "
        f"compressed data, at byte {position}",
        hint=_HINT,
    )
