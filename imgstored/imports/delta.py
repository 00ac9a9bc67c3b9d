"""Deltas: an import that fetches only the parts of an image's file that no installed image has.

    index ──► installed image ──► what is missing ──► ranges of the file ──► the stream

Any fault ends a delta, and the import then fetches the whole file: an index proves nothing by itself.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from msgspec.structs import replace

from imgstored import lanes
from imgstored.delta.index import MAX_INDEX, IndexFaultError, parse_index
from imgstored.http.location import origin_of
from imgstored.imports.delta_choice import Facts, against, basis_of, index_url
from imgstored.imports.leftovers import INDEX, PAYLOADS, spool_name
from imgstored.transfer.download import Download
from imgstored.transfer.payloads import PayloadSpool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from imgproto.documents import DeltaDocument

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.delta.index import Index
    from imgstored.hashing import Fingerprint
    from imgstored.http.location import Location
    from imgstored.imports.resources import Resources
    from imgstored.imports.spec import ImportSpec
    from imgstored.manifest import Manifest
    from imgstored.pools.base import Room
    from imgstored.transfer.range_journal import Spooled
    from imgstored.transfer.watermark import Watermark
    from imgstored.zstream.fletcher4 import Buffer

log = structlog.get_logger(__name__)

#: An index that does not come at once is not worth waiting for: the import works without it.
_TRIES: Final = 2
_CONNECTIONS: Final = 4


class Delta:
    """A delta that is being tried."""

    def __init__(self, index: Index, basis: InstalledImage, name: str, resources: Resources) -> None:
        self.index = index
        self.basis = basis
        self._name = name
        self._resources = resources
        self._spool: PayloadSpool | None = None

    def download(self, locations: Sequence[Location], room: Room, note: Callable[[str], None]) -> Download:
        """The download of what is missing, of one attempt."""
        resources, path = self._resources, self._resources.spools / (self._name + PAYLOADS)
        pool = resources.catalog.pool(self.basis.pool)

        def made(watermark: Watermark) -> PayloadSpool:
            self._spool = PayloadSpool(
                path,
                self.index,
                watermark,
                room,
                installed=lambda: pool.send(self.basis.uuid),
                note_rate=resources.rates.note_reading,
            )
            return self._spool

        return Download(
            locations,
            size=self.index.file_size,
            path=path,
            journal=_Forgetful(),
            limits=resources.limits.download,
            room=room,
            note=note,
            spool=made,
        )

    def stream(self) -> Iterator[Buffer]:
        """The image's stream, put together as its parts come; for the pump's thread."""
        assert self._spool is not None
        return self._spool.stream()

    @property
    def to_fetch(self) -> int | None:
        """Bytes of the file that have to be fetched; None while that is not known."""
        return None if self._spool is None else self._spool.to_fetch

    def document(self) -> DeltaDocument:
        """The *delta* of the protocol."""
        return delta_document(self.basis, self.to_fetch)

    @property
    def summary(self) -> str:
        """A phrase about the bytes to fetch, once they are known."""
        return f"fetching {self._share('is')}"

    @property
    def remark(self) -> str | None:
        """A phrase about the fetched bytes, for the history; None if it never came to fetching."""
        return None if self.to_fetch is None else f"fetched {self._share('was')}"

    def _share(self, verb: str) -> str:
        name, version = self.basis.text("name"), self.basis.text("version")
        return (
            f"{(self.to_fetch or 0) / 1e6:.1f} of {self.index.file_size / 1e6:.1f} MB:"
            f" the rest {verb} in image {self.basis.uuid} ({name}@{version})"
        )


def delta_document(basis: InstalledImage, fetch: int | None = None) -> DeltaDocument:
    """The *delta* of the protocol. `fetch`: bytes of the file that are fetched; None: not known yet."""
    return {
        "uuid": basis.uuid,
        "name": basis.text("name"),
        "version": basis.text("version"),
        "fetch": fetch,
    }


class Deltas:
    """Begins the delta of one import."""

    def __init__(self, spec: ImportSpec, manifest: Manifest, resources: Resources) -> None:
        self.fetched: dict[str, int] = {}  #: bytes of the index, by source
        self.why: str | None = None  #: why there is no delta, if there is an index
        self._spec = spec
        self._manifest = manifest
        self._resources = resources
        self._name = spool_name(*spec.key)

    def is_left(self) -> bool:
        """True if an earlier daemon, or an earlier try, has begun a delta. Blocks."""
        return (self._resources.spools / (self._name + PAYLOADS)).exists()

    async def begin(self, locations: Sequence[Location], room: Room) -> Delta | None:
        """A delta that is worth trying, or None. Raises `NoSpaceError`, and what `_index` raises."""
        basis = await self.basis(locations)
        if basis is None:
            if self.why is not None:
                log.info("no delta", uuid=self._spec.uuid, why=self.why)
            return None
        async with self._resources.download_slots:
            index = await self._index(locations, room)
        return Delta(index, basis, self._name, self._resources)

    async def basis(self, locations: Sequence[Location]) -> InstalledImage | None:
        """The installed image to make a delta from, or None; `why` then says why there is none."""
        file = self._manifest.file
        if file is None or file.index is None or file.size is None:
            return None
        basis = basis_of(self._manifest, self._spec.pool, self._resources.catalog.all())
        if basis is None:
            self.why = "no image of this name is installed"
        else:
            self.why = await lanes.in_thread(self._against, basis, locations, kind="spools")
        return basis if self.why is None else None

    def _against(self, basis: InstalledImage, locations: Sequence[Location]) -> str | None:
        """The reason against a delta, a part of a sentence; None if there is none. Blocks."""
        resources, file = self._resources, self._manifest.file
        assert file is not None
        assert file.index is not None
        assert file.size is not None
        if resources.library is not None:
            return "the library keeps the original file"
        if file.index.size > MAX_INDEX:
            return "its index is too large"
        if resources.journal.ranges(self._name).load() is not None:
            return "a part of the whole file is there"
        rates = resources.rates
        facts = Facts(
            file.size,
            file.index.size,
            basis.image.referenced,
            rates.link(origin_of(locations[0].source).authority),
            rates.reading,
        )
        policy = resources.limits.deltas
        return None if policy == "auto" and self.is_left() else against(policy, facts)

    async def _index(self, locations: Sequence[Location], room: Room) -> Index:
        """The index that the manifest names. Raises `DownloadError`, `NoSpaceError`, `IndexFaultError`."""
        file, path = self._manifest.file, self._resources.spools / (self._name + INDEX)
        assert file is not None
        assert file.index is not None
        read = partial(_index_in, path, file.index.sha256, file.size)
        index = await lanes.in_thread(read, kind="spools")
        if index is not None:
            return index
        limits = self._resources.limits.download
        download = Download(
            [_index_at(location, file.index.sha256) for location in locations],
            size=file.index.size,
            path=path,
            journal=_Forgetful(),
            limits=replace(limits, tries=_TRIES, connections=min(_CONNECTIONS, limits.connections)),
            room=room,
        )
        began = time.monotonic()
        try:
            await download.run()
        finally:
            for mirror in download.mirrors:
                source = origin_of(mirror.location.source).authority
                self.fetched[source] = self.fetched.get(source, 0) + mirror.fetched
        self._resources.rates.note_link(self.fetched, time.monotonic() - began)
        index = await lanes.in_thread(read, kind="spools")
        if index is None:
            raise IndexFaultError("the index is not the one that the manifest names")
        return index


def _index_at(location: Location, sha256: str) -> Location:
    """The place of the index: beside the file, or among the blobs of a registry."""
    url = index_url(location.url) if location.blobs is None else f"{location.blobs}sha256:{sha256}"
    return replace(location, url=url, parts=())


def _index_in(path: Path, sha256: str, file_size: int | None) -> Index | None:
    """The index in a file; None if there is none, or another one. Blocks. Raises `IndexFaultError`."""
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_INDEX else b""
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return parse_index(data, file_size=file_size)


class _Forgetful:
    """A range journal that keeps nothing: the file is small, or its content shows which parts are there."""

    def load(self) -> Spooled | None:
        """Nothing is written down."""
        return None

    def begin(self, size: int, range_size: int) -> None:
        """Nothing is written down."""

    def record(self, index: int, fingerprint: Fingerprint) -> None:
        """Nothing is written down."""

    def remember(self, url: str, validator: str) -> None:
        """Nothing is written down."""

    def forget(self) -> None:
        """Nothing is written down."""
