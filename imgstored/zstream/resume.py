"""Converts a whole send stream into the one that continues an interrupted receive. Pure: no I/O.

The kernel continues a receive only with a *resuming* stream, which `zfs send -t TOKEN` makes from the
snapshot. Who has no snapshot, but the stream in a file, gets the same here: docs/zstream-resume.md says how.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgstored.errors import ResumeError
from imgstored.zstream.fletcher4 import Buffer, ByteOrder, Fletcher4, Sums, combine
from imgstored.zstream.nvlist import pack_uint64s
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import CHECKED_SIZE, Begin, Feature, Record, RecordType, end_checksum
from imgstored.zstream.token import TOLD_FEATURES, ResumePoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ZERO: Final = (0, 0, 0, 0)
_MASK: Final = (1 << 64) - 1
#: `drr_versioninfo`, whose features begin at bit 2.
_VERSIONINFO_AT: Final = 16
_DATA: Final = (RecordType.WRITE, RecordType.WRITE_EMBEDDED)
#: Where a receive stands that has not written anything yet (module/zfs/dmu_recv.c, `dmu_recv_begin_sync`).
_START: Final = (1, 0)

_HINT: Final = "drop what was received (`zfs receive -A`), and receive the whole stream"


def resume(pieces: Iterable[Buffer], point: ResumePoint) -> Iterator[bytes]:
    """The resuming stream, in pieces, of the whole stream in `pieces`. Raises as `Resumer` does."""
    resumer = Resumer(point)
    for piece in pieces:
        if made := resumer.feed(piece):
            yield made
    resumer.finish()


class Resumer:
    """Takes the pieces of a stream from its first byte on, and gives back those of the resuming stream.

    Raises `StreamError` where the stream is not sound, and its subclass `ResumeError` where it is another one
    than the receive began with. Gives out nothing before its checksum held. Holds no more than a
    `StreamReader` does, and what it makes of one piece.
    """

    def __init__(self, point: ResumePoint) -> None:
        self._point = point
        self._reader = StreamReader()
        self._order: ByteOrder = "<"
        self._sums = Fletcher4()  # of what was given out, until `_lead` takes over
        self._lead: Sums | None = None  # how much more our sums are than those of the whole stream
        self._matched = (point.object, point.offset) == _START

    def feed(self, piece: Buffer) -> bytes:
        """The bytes that the piece adds to the resuming stream; none in the omitted part."""
        made: list[Buffer] = []
        for record, sums in self._reader.records_and_sums(piece):
            if self._lead is not None:
                made += self._shift(record, sums)
            elif record.type == RecordType.BEGIN:
                made += self._begin(record)
            elif self._is_wanted(record):
                made += self._copy(record, sums)
        return b"".join(made)

    def finish(self) -> None:
        """Says that there are no more pieces. Raises `StreamError` unless the stream was complete."""
        self._reader.finish()

    # -- which records ---------------------------------------------------------------------------------------

    def _is_wanted(self, record: Record) -> bool:
        """True if `zfs send -t` would send it, too: of the point's object all but the data before it."""
        point = self._point
        match record.type:
            case RecordType.WRITE | RecordType.WRITE_EMBEDDED:
                return self._is_data_wanted(record)
            case RecordType.FREE:
                end = record.offset + record.length
                return (record.object, end) > (point.object, point.offset)
            case RecordType.FREEOBJECTS:
                return record.object + record.length > point.object
            case RecordType.END:
                self._refuse_unless(self._matched)
                return True
            case RecordType.OBJECT if (record.object, 0) == (point.object, point.offset):
                self._matched = True
                return True
            case _:
                return record.object >= point.object

    def _is_data_wanted(self, record: Record) -> bool:
        place, point = (record.object, record.offset), (self._point.object, self._point.offset)
        if place < point:
            return False
        self._refuse_unless(self._matched or place == point)
        return True

    def _refuse_unless(self, matched: bool) -> None:
        if not matched:
            raise ResumeError(
                f"the receive stands at byte {self._point.offset} of object {self._point.object}, "
                "and the stream has no record there",
                hint=_HINT,
            )

    # -- their new form --------------------------------------------------------------------------------------

    def _begin(self, record: Record) -> tuple[Buffer, ...]:
        """BEGIN with the feature RESUMING, and the resume point as its payload."""
        begin, point = self._reader.begin, self._point
        assert begin is not None
        refuse_other_stream(begin, point)
        if record.payload:
            raise ResumeError("the stream's BEGIN record has a payload that is not understood", hint=_HINT)
        header, order = bytearray(record.header), begin.byte_order
        self._order, self._sums = order, Fletcher4(order)
        payload = pack_uint64s(
            {"resume_object": point.object, "resume_offset": point.offset}, point.byte_order
        )
        (versioninfo,) = struct.unpack_from(f"{order}Q", header, _VERSIONINFO_AT)
        struct.pack_into(f"{order}I", header, 4, len(payload))
        struct.pack_into(f"{order}Q", header, _VERSIONINFO_AT, versioninfo | Feature.RESUMING << 2)
        self._sums.update(header)
        self._sums.update(payload)
        return header, payload

    def _copy(self, record: Record, sums: Sums) -> tuple[Buffer, ...]:
        """The record after a gap: summed anew. From the first data on there are no more gaps."""
        checked = bytearray(record.header[:CHECKED_SIZE])
        if record.type == RecordType.END:
            struct.pack_into(f"{self._order}4Q", checked, 8, *self._sums.sums)
        self._sums.update(checked)
        ours = self._sums.sums
        stated = struct.pack(f"{self._order}4Q", *ours)
        self._sums.update(stated)
        self._sums.update(record.payload)
        if record.type in _DATA:
            self._lead = self._after(record, _minus(ours, sums), stated)
        return checked, stated, record.payload

    def _shift(self, record: Record, sums: Sums) -> tuple[Buffer, ...]:
        """The record whose predecessor was given out, too: the same but for its checksum.

        What the sums of both streams differ by depends on how many bytes follow, not on which. So the
        payload, which the reader has summed, need not be summed again.
        """
        assert self._lead is not None
        if record.type == RecordType.END:
            self._sums.sums = _plus(end_checksum(record.header, self._order), self._lead)
            return self._copy(record, sums)
        lead = combine(self._lead, CHECKED_SIZE // 4, _ZERO)
        stated = struct.pack(f"{self._order}4Q", *_plus(sums, lead))
        self._lead = self._after(record, lead, stated)
        return record.header[:CHECKED_SIZE], stated, record.payload

    def _after(self, record: Record, lead: Sums, stated: bytes) -> Sums:
        """By how much our sums lead after the record, from `lead` before its own checksum, which differs."""
        a, b, c, d = lead
        layout = f"{self._order}8I"
        theirs = struct.unpack_from(layout, record.header, CHECKED_SIZE)
        for our, their in zip(struct.unpack(layout, stated), theirs, strict=True):
            a += our - their
            b += a
            c += b
            d += c
        lead = a & _MASK, b & _MASK, c & _MASK, d & _MASK
        return combine(lead, len(record.payload) // 4, _ZERO)


def refuse_other_stream(begin: Begin, point: ResumePoint) -> None:
    """Raises `ResumeError` unless the point is one of the stream that begins so.

    Refuses what the kernel would, and what it would not notice: other block sizes than before.
    """
    for what, has, wanted in (
        ("holds the snapshot with guid", begin.toguid, point.toguid),
        ("builds on the snapshot with guid", begin.fromguid, point.fromguid),
    ):
        if has != wanted:
            raise ResumeError(f"the stream {what} {has}, and the receive's {wanted}", hint=_HINT)
    if point.features is not None and begin.features & TOLD_FEATURES != point.features & TOLD_FEATURES:
        raise ResumeError(
            "the stream was made with other options (-L, -e, -c) than the receive's", hint=_HINT
        )


def _plus(sums: Sums, lead: Sums) -> Sums:
    a, b, c, d = ((one + other) & _MASK for one, other in zip(sums, lead, strict=True))
    return a, b, c, d


def _minus(sums: Sums, others: Sums) -> Sums:
    a, b, c, d = ((one - other) & _MASK for one, other in zip(sums, others, strict=True))
    return a, b, c, d
