"""Reads a send stream in pieces, and yields nothing before its checksum is verified. Pure: no I/O."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import Struct, field

from imgstored.errors import StreamError
from imgstored.zstream.fletcher4 import Buffer, Fletcher4, Sums
from imgstored.zstream.records import (
    CHECKED_SIZE,
    DAMAGED,
    HEADER_SIZE,
    Begin,
    Record,
    RecordType,
    byte_order_of,
    end_checksum,
    measure,
    parse_begin,
    parse_record,
    record_type,
    stated_checksum,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

B = TypeVar("B", bound=Buffer)

_NOT_STATED: Final = (0, 0, 0, 0)


class ReaderState(Struct, frozen=True):
    """The position of a reader between two records; a later reader may continue from it."""

    offset: int = 0  #: bytes of the stream that were read and verified
    sums: Sums = (0, 0, 0, 0)  #: fletcher-4 of these
    begin: bytes = b""  #: header of the BEGIN record; empty at the start
    ended: bool = False  #: END has been read


class _Run(Struct, frozen=True):
    """Whole records that lie one after the other in `data`."""

    data: memoryview
    bounds: list[int]  #: where each record begins, and where the last one ends
    ends: bool  #: the last one is END
    #: The fletcher-4 of the stream up to each record's own checksum. Complete once the run is verified.
    sums: list[Sums] = field(default_factory=list)


class StreamReader:
    """Takes pieces of any length, in order, and gives back their records.

    Every record is verified before it is given out: each record's own checksum where the sender stated one,
    END's checksum of the whole, and that BEGIN comes first, END last and nothing after it. Holds no more than
    the piece and one record that is not yet complete. After a `StreamError` it is of no more use.

    `resuming`: read also a stream that continues an interrupted receive, which by itself is no image.
    """

    def __init__(self, state: ReaderState | None = None, *, resuming: bool = False) -> None:
        state = state or ReaderState()
        self._resuming = resuming
        self._begin = parse_begin(state.begin, resuming=resuming) if state.begin else None
        self._begin_header = state.begin
        self._fletcher = Fletcher4(self._begin.byte_order if self._begin else "<", state.sums)
        self._offset = state.offset
        self._ended = state.ended
        self._rest = bytearray()  # the part of a record that has come so far

    @property
    def begin(self) -> Begin | None:
        """The facts in BEGIN; None before it has come."""
        return self._begin

    @property
    def offset(self) -> int:
        """Bytes of the stream that are verified: where the next record begins."""
        return self._offset

    @property
    def state(self) -> ReaderState:
        """From where a later reader may go on: the end of the last record that `records` gave out."""
        return ReaderState(self._offset, self._fletcher.sums, self._begin_header, self._ended)

    def records(self, piece: Buffer) -> list[Record]:
        """The records that the piece completes. Raises `StreamError`.

        Headers and payloads are views of the piece, but for a record that began in an earlier one.
        """
        return [record for record, _ in self.records_and_sums(piece)]

    def records_and_sums(self, piece: Buffer) -> list[tuple[Record, Sums]]:
        """As `records`, each with the fletcher-4 of the stream up to the record's own checksum."""
        records = []
        for run in self._verified(piece):
            assert self._begin is not None
            order, data = self._begin.byte_order, run.data
            for (start, end), sums in zip(itertools.pairwise(run.bounds), run.sums, strict=True):
                payload = start + HEADER_SIZE
                records.append((parse_record(data[start:payload], data[payload:end], order), sums))
        return records

    def check(self, piece: Buffer) -> None:
        """As `records`, for those who only want to know that they are right."""
        for _ in self._verified(piece):
            pass

    def finish(self) -> None:
        """Says that there are no more pieces. Raises `StreamError` unless the stream is complete."""
        if self._ended:
            return
        if self._begin is None and byte_order_of(self._rest) is None:
            what = "not a ZFS send stream: it does not begin with a BEGIN record"
            raise StreamError(what if self._rest else "the stream is empty", hint=DAMAGED)
        raise StreamError(
            f"the stream ends early: {self._offset + len(self._rest)} bytes came, and no END record",
            hint="the image file is incomplete; tell its publisher",
        )

    # -- where records begin and end -------------------------------------------------------------------------

    def _verified(self, piece: Buffer) -> Iterator[_Run]:
        view = memoryview(piece).cast("B")
        at = 0
        if self._rest:
            at = self._continue(view)
            if self._missing():
                return
            rest, self._rest = self._rest, bytearray()
            kind, size = self._measure(rest, 0, self._offset)
            run = _Run(memoryview(rest), [0, size], kind == RecordType.END)
            self._verify(run)
            yield run
        run = self._run(view, at)
        if len(run.bounds) > 1:
            self._verify(run)
            yield run
        at = run.bounds[-1]
        if self._ended and at < len(view):
            raise StreamError(
                f"the stream continues after its END record, at byte {self._offset}", hint=DAMAGED
            )
        self._rest += view[at:]

    def _continue(self, view: memoryview) -> int:
        """Adds to the record that began in an earlier piece; returns how much of this one belongs to it."""
        taken = 0
        while taken < len(view) and (missing := self._missing()):
            more = view[taken : taken + missing]
            self._rest += more
            taken += len(more)
        return taken

    def _missing(self) -> int:
        """Bytes that the record in `_rest` lacks; of its header, until that is there and tells the rest."""
        if len(self._rest) < HEADER_SIZE:
            return HEADER_SIZE - len(self._rest)
        return self._measure(self._rest, 0, self._offset)[1] - len(self._rest)

    def _run(self, view: memoryview, at: int) -> _Run:
        """The whole records of the piece from `at` on."""
        bounds, before, kind = [at], self._offset - at, -1
        while at + HEADER_SIZE <= len(view) and kind != RecordType.END and not self._ended:
            kind, size = self._measure(view, at, before + at)
            at += size
            if at > len(view):
                break
            bounds.append(at)
        return _Run(view, bounds, kind == RecordType.END)

    def _measure(self, data: Buffer, at: int, position: int) -> tuple[int, int]:
        """Type and size in bytes of the record that begins at `at`, which is at `position` in the stream."""
        if self._begin is None:
            self._begin_header = bytes(data[at : at + HEADER_SIZE])
            self._begin = parse_begin(self._begin_header, resuming=self._resuming)
            self._fletcher = Fletcher4(self._begin.byte_order)
        kind, length = measure(data, self._begin.byte_order, at)
        if kind == RecordType.BEGIN and position:
            raise StreamError(f"a second BEGIN record is at byte {position} of the stream", hint=DAMAGED)
        return kind, HEADER_SIZE + length

    # -- whether they are right ------------------------------------------------------------------------------

    def _verify(self, run: _Run) -> None:
        """Sums the run up, and compares with what its records state."""
        if not run.ends:
            self._sum(run, run.bounds)
            return
        *bounds, end = run.bounds
        self._sum(run, bounds)
        assert self._begin is not None
        # What END says of the whole does not include END itself.
        if end_checksum(run.data, self._begin.byte_order, bounds[-1]) != self._fletcher.sums:
            raise StreamError("the checksum of the stream as a whole is wrong", hint=DAMAGED)
        self._sum(run, [bounds[-1], end])
        self._ended = True

    def _sum(self, run: _Run, bounds: list[int]) -> None:
        """Adds the records, and compares what their headers state."""
        assert self._begin is not None
        data, order, start = run.data, self._begin.byte_order, bounds[0]
        headers = bounds[:-1]
        places = [header + CHECKED_SIZE - start for header in headers]
        sums = self._fletcher.update_noting(data[start : bounds[-1]], places)
        # BEGIN states none: its last field is where the checksum would be.
        first = 1 if self._offset == 0 else 0
        for header, right in zip(headers[first:], sums[first:], strict=True):
            stated = stated_checksum(data, order, header)
            if stated not in (right, _NOT_STATED):
                name = record_type(data, order, header).name
                position = self._offset + header - start
                raise StreamError(
                    f"the checksum of the {name} record at byte {position} of the stream is wrong",
                    hint=DAMAGED,
                )
        self._offset += bounds[-1] - start
        run.sums.extend(sums)


class OutlineReader(StreamReader):
    """As `StreamReader`, but leaves the checksums to those who verify them anyway, as the kernel does.

    Which records there are, their lengths and their order are checked. Only `check` and `finish` are for use.
    """

    def _verify(self, run: _Run) -> None:
        self._offset += run.bounds[-1] - run.bounds[0]
        self._ended = run.ends


def begin_of(blocks: Iterator[B]) -> tuple[Begin, Iterator[B | bytes]]:
    """The facts in BEGIN, and all of the blocks again. Raises `StreamError`."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= HEADER_SIZE:
            return parse_begin(head), itertools.chain([head], blocks)
    reader = StreamReader()
    reader.check(head)
    reader.finish()
    raise AssertionError("a stream is longer than its first header")
