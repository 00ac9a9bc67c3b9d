"""One receive, from the first byte or from the point of an interruption.

If a part of the image is there, the kernel continues from its receive token with a resuming stream, which is
made from the whole stream (`imgstored.zstream.resume`). A part of another stream is dropped, and the receive
starts again. If the kernel refuses to continue, that shows only after it has got the stream, which can be
read only once: then the part is dropped, and `ResumeError` says that the next try starts again.

The kernel gets only streams whose outline is that of an image. It verifies the checksums of a stream that is
passed on unchanged, so these are not verified twice.
"""

from __future__ import annotations

import enum
from contextlib import closing
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct

from imgstored.errors import ImgstoreError, PoolError, ResumeError, StreamError
from imgstored.pools.refusals import refuse_other_origin, small_blocks
from imgstored.pools.zfs.pipe import Inlet, outlet
from imgstored.pools.zfs.programs import FINAL, PARTIAL, Dataset, dataset
from imgstored.pools.zfs.properties import of_kind
from imgstored.pools.zfs.unpack import drop_partial
from imgstored.zstream.reader import OutlineReader, StreamReader, begin_of
from imgstored.zstream.records import Begin, Feature, Objset
from imgstored.zstream.resume import Resumer, refuse_other_stream
from imgstored.zstream.token import ResumeToken, parse_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from imgstored.pools.base import Blocks, PoolImage
    from imgstored.pools.zfs.lzc import Lzc
    from imgstored.zstream.fletcher4 import Buffer

log = structlog.get_logger(__name__)


class _Start(enum.Enum):
    AFRESH = "afresh"
    DONE = "done"  #: the partial is complete; the stream is only checked


class _Checked:
    """Passes the stream on unchanged, after a check of its outline."""

    def __init__(self) -> None:
        self._reader = OutlineReader()

    def feed(self, piece: Buffer) -> Buffer:
        """The piece. An unfinished last record is not checked yet, and the kernel cannot use it."""
        self._reader.check(piece)
        return piece

    def finish(self) -> None:
        """Raises `StreamError` unless the stream is complete."""
        self._reader.finish()


class Receive(Struct, frozen=True):
    """One image's receive into POOL/UUID-partial."""

    lzc: Lzc
    uuid: str
    origin: PoolImage | None
    properties: Mapping[str, int | str]

    def run(self, blocks: Blocks) -> PoolImage:
        """Receives all of it. Raises as `Pool.receive` does."""
        begin, stream = begin_of(iter(blocks))
        origin = self.origin
        refuse_other_origin(self.uuid, begin, None if origin is None else (origin.uuid, origin.guid))
        if (
            origin is not None
            and Feature.LARGE_BLOCKS not in begin.features
            and self._has_large_blocks(origin)
        ):
            raise small_blocks(self.uuid, origin.uuid)
        start = self._start(begin)
        if start is _Start.DONE:
            log.info("the image is all there, and not received again", uuid=self.uuid)
            _drain(stream)
        else:
            resumer = Resumer(start.point) if isinstance(start, ResumeToken) else None
            self._receive(begin, resumer, stream)
        partial = self._partial()
        if partial is None or partial.guid != begin.toguid:
            raise PoolError(
                f'pool "{self.lzc.pool}": {self._doing} failed: it was changed or destroyed meanwhile',
                hint="another program may use it; import the image again",
            )
        return partial.image(self.uuid)

    def _has_large_blocks(self, origin: PoolImage) -> bool:
        """Makes the kernel send the origin, and looks at the beginning: nothing else shows that."""
        snapshot, doing = f"{self.lzc.pool}/{origin.uuid}{FINAL}", f"looking at image {origin.uuid}"
        try:
            with closing(
                outlet(self.lzc.pool, lambda fd: self.lzc.send(snapshot, fd, doing, origin=None))
            ) as sent:
                begin, _ = begin_of(sent)
        except ImgstoreError as error:
            # Most images have none: an origin that cannot be sent must not block its incremental images.
            log.warning(
                "cannot tell whether an origin has large blocks", uuid=origin.uuid, error=error.message
            )
            return False
        return Feature.LARGE_BLOCKS in begin.features

    # -- where to begin --------------------------------------------------------------------------------------

    def _start(self, begin: Begin) -> _Start | ResumeToken:
        partial = self._partial()
        if partial is None:
            return _Start.AFRESH
        try:
            start = self._continued(partial, begin)
        except ImgstoreError as error:
            log.warning("begins afresh, and drops what is there", uuid=self.uuid, error=error.message)
            self._drop()
            return _Start.AFRESH
        if isinstance(start, ResumeToken):
            log.info("goes on with a receive", uuid=self.uuid, offset=start.bytes)
        return start

    def _continued(self, partial: Dataset, begin: Begin) -> _Start | ResumeToken:
        """The way in which the partial can be used. Raises `ImgstoreError` if there is none."""
        if partial.origin != self._origin_snapshot:
            raise ResumeError(f"its origin is {partial.origin}, and the stream's {self._origin_snapshot}")
        if partial.guid is not None:
            if partial.guid != begin.toguid:
                raise ResumeError(f"it has the guid {partial.guid}, and the stream {begin.toguid}")
            return _Start.DONE
        if partial.token is None:
            raise ResumeError("it is not of a receive that can be resumed")
        token = parse_token(partial.token)
        refuse_other_stream(begin, token.point)
        return token

    # -- all of it -------------------------------------------------------------------------------------------

    def _receive(self, begin: Begin, resumer: Resumer | None, blocks: Iterator[Buffer]) -> None:
        check = resumer or _Checked()
        first = check.feed(next(blocks))
        inlet = self._open(begin)
        try:
            taken = inlet.write(first)
            while taken and (block := next(blocks, None)) is not None:
                taken = inlet.write(check.feed(block))
            if taken:
                check.finish()
        except StreamError:
            inlet.finish()
            self._drop()
            raise
        except BaseException:
            # The kernel sees a stream that ends early, and keeps the received part.
            inlet.finish()
            raise
        self._raise_failure(inlet.finish(), resumed=resumer is not None)

    def _raise_failure(self, error: BaseException | None, *, resumed: bool) -> None:
        """Raises the kernel's error, if there is one; drops the part of a stream that it refused."""
        if error is None:
            return
        if isinstance(error, StreamError):
            self._drop()
            if resumed:
                raise ResumeError(
                    f"the kernel refused to go on with image {self.uuid}: {error.message}",
                    hint="the received part is gone; import the image again from the start",
                ) from error
        raise error

    def _open(self, begin: Begin) -> Inlet:
        properties = of_kind(self.properties, volume=begin.objset is Objset.VOLUME)

        def kernel(fd: int) -> None:
            self.lzc.receive(
                self._name + FINAL, fd, self._doing, origin=self._origin_snapshot, properties=properties
            )

        return Inlet(self.lzc.pool, kernel)

    def _partial(self) -> Dataset | None:
        return dataset(self.lzc, self._name, self._doing)

    def _drop(self) -> None:
        drop_partial(self.lzc, self.uuid)

    @property
    def _name(self) -> str:
        return f"{self.lzc.pool}/{self.uuid}{PARTIAL}"

    @property
    def _origin_snapshot(self) -> str | None:
        return None if self.origin is None else f"{self.lzc.pool}/{self.origin.uuid}{FINAL}"

    @property
    def _doing(self) -> str:
        return f"receiving image {self.uuid}"


def _drain(blocks: Iterator[Buffer]) -> None:
    """Checks the stream, and does nothing else with it. Raises `StreamError`."""
    reader = StreamReader()
    for block in blocks:
        reader.check(block)
    reader.finish()
