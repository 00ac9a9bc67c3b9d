"""A pool whose datasets are in memory: for faults, and for hosts without ZFS. Real ones: tests/guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.errors import PoolError
from imgstored.pools.base import SourceDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class MemoryDatasets:
    """The datasets and their snapshots. `failing`: methods that fail; `stream`: what is sent."""

    def __init__(self) -> None:
        self.known: dict[str, SourceDataset] = {}
        self.snapshots: dict[str, str] = {}  # to whose it is: a mark, or "theirs"
        self.failing: set[str] = set()
        self.stream: Callable[[], Iterator[bytes]] = lambda: iter([b"a stream"])
        self.sent: list[tuple[str, str | None]] = []
        self.rolled_back: list[str] = []

    def add(self, name: str, *, volume: bool = False, origin: str | None = None, final: bool = True) -> None:
        self.known[name] = SourceDataset(name, volume, 10 << 20, origin, final)

    def look(self, dataset: str) -> SourceDataset:
        self._fail("look")
        try:
            return self.known[dataset]
        except KeyError:
            raise PoolError(f'there is no dataset "{dataset}"') from None

    def freeze(self, dataset: str, mark: str) -> str | None:
        final, moved = f"{dataset}@final", None
        if final in self.snapshots:
            moved = f"{final}-{mark}"
            self.snapshots[moved] = self.snapshots.pop(final)
        self._fail("freeze")
        self.snapshots[final] = mark
        return moved

    def thaw(self, dataset: str, mark: str) -> None:
        self._fail("thaw")
        final = f"{dataset}@final"
        if self.snapshots.get(final) == mark:
            del self.snapshots[final]
        if final not in self.snapshots and f"{final}-{mark}" in self.snapshots:
            self.snapshots[final] = self.snapshots.pop(f"{final}-{mark}")

    def send(self, dataset: str, origin: str | None) -> Iterator[bytes]:
        assert f"{dataset}@final" in self.snapshots
        self.sent.append((dataset, origin))
        return self.stream()

    def snapshot(self, datasets: Sequence[str], name: str) -> None:
        self._fail("snapshot")
        self.snapshots |= {f"{dataset}@{name}": "ours" for dataset in datasets}

    def has(self, dataset: str, name: str) -> bool:
        return f"{dataset}@{name}" in self.snapshots

    def roll_back(self, datasets: Sequence[str], name: str) -> None:
        self._fail("roll_back")
        for dataset in datasets:
            if self.snapshots.pop(f"{dataset}@{name}", None):
                self.rolled_back.append(dataset)

    def _fail(self, method: str) -> None:
        if method in self.failing:
            raise PoolError(f"{method} failed")


class MemoryPool:
    """As much of a pool as making images needs."""

    name = "zones"

    def __init__(self) -> None:
        self.all = MemoryDatasets()

    def datasets(self) -> MemoryDatasets:
        return self.all
