"""The figures of one import: how many bytes came, from where, and how many of them went to the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.http.location import origin_of
from imgstored.imports.progress import Sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.transfer.download import Download
    from imgstored.transfer.pump import Pump
    from imgstored.transfer.stages import Stages


class Figures:
    """The figures of one import, over all of its attempts. The import alone begins an attempt."""

    def __init__(self, stages: Stages, total: int | None, *, from_file: bool) -> None:
        """`total` is the file's bytes, None if unknown. With `from_file` nothing is downloaded."""
        self._stages = stages
        self._total = total
        self._from_file = from_file
        self._download: Download | None = None
        self._pump: Pump | None = None
        self._before: Mapping[str, int] = {}

    def begin_file(self, pump: Pump, total: int) -> None:
        """Begins to count the bytes of a local file with `total` bytes."""
        self._pump, self._total = pump, total

    def begin_download(self, download: Download, pump: Pump) -> None:
        """Begins to count an attempt; what the attempts before it fetched still counts."""
        self._before = self.fetched
        self._download, self._pump = download, pump

    def add_fetched(self, fetched: Mapping[str, int]) -> None:
        """Counts bytes that came over the network outside the attempts, by source."""
        self._before = {**self._before, **fetched}

    @property
    def total(self) -> int | None:
        """Compressed bytes of the file, None if unknown."""
        if self._total is None and self._download is not None:
            return self._download.total
        return self._total

    @property
    def done(self) -> int:
        """Compressed bytes that are there."""
        if self._download is not None:
            return self._download.done
        return 0 if self._pump is None else self._pump.compressed

    @property
    def received(self) -> int:
        """Bytes of the stream that went to the pool."""
        return 0 if self._pump is None else self._pump.stream

    @property
    def fetched(self) -> Mapping[str, int]:
        """Bytes that came over the network, by source."""
        total = dict(self._before)
        for mirror in () if self._download is None else self._download.mirrors:
            source = origin_of(mirror.location.source).authority
            total[source] = total.get(source, 0) + mirror.fetched
        return total

    @property
    def kept(self) -> int:
        """Compressed bytes that were there before the download began."""
        return 0 if self._download is None else self._download.kept

    @property
    def connections(self) -> int:
        """Connections of the download that are open."""
        return 0 if self._download is None else self._download.connections

    def sample(self) -> Sample:
        """A sample of the progress, and of the time that each stage took so far."""
        consumed = 0 if self._pump is None else self._pump.consumed
        came = self.done if self._from_file else sum(self.fetched.values())
        first = self._pump is not None and self._pump.verifies_first
        return Sample(self.done, came, consumed, self.total, self._stages.seconds(), first)
