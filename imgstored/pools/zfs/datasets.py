"""The source datasets of new images: their facts, and temporary snapshots of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imgstored.errors import PoolError, UsageError
from imgstored.manifest.values import UUID
from imgstored.pools.base import SourceDataset
from imgstored.pools.zfs.pipe import outlet
from imgstored.pools.zfs.programs import CREATING, FINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.pools.base import Blocks
    from imgstored.pools.zfs.lzc import Lzc

#: zfsconcepts(7), without the space: a name must not look like two words of a message.
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]+(/[A-Za-z0-9_.:-]+)+")
#: Less than ZFS's 255 bytes, to leave some for names of snapshots.
_MAX_NAME: Final = 200
_ORIGIN: Final = re.compile(rf"(?P<dataset>.+)/(?P<uuid>{UUID.pattern})@.+")

_LOOK: Final = """
local name = (...)["argv"].dataset
if not zfs.exists(name) then return {} end
local found = {type = zfs.get_prop(name, "type"), origin = zfs.get_prop(name, "origin")}
if found.type == "volume" then
    found.size = zfs.get_prop(name, "volsize")
else
    found.size = zfs.get_prop(name, "logicalreferenced")
end
return found
"""

#: Finds the snapshot @final, and an earlier one that was moved out of its way.
_FROZEN: Final = """
local given = (...)["argv"]
local found = {}
if zfs.exists(given.final) then
    found.final = true
    found.mark = zfs.get_prop(given.final, "imgstored:creating")
end
found.moved = zfs.exists(given.moved)
return found
"""

#: The snapshots of a dataset that are later than one of them; none if that does not exist.
_LATER: Final = """
local given = (...)["argv"]
local found = {there = false, later = {}}
if not zfs.exists(given.snapshot) then return found end
found.there = true
local created = zfs.get_prop(given.snapshot, "createtxg")
for snapshot in zfs.list.snapshots(given.dataset) do
    if zfs.get_prop(snapshot, "createtxg") > created then found.later[snapshot] = true end
end
return found
"""


class ZfsDatasets(Struct, frozen=True):
    """See `imgstored.pools.base.Datasets`."""

    lzc: Lzc

    def look(self, dataset: str) -> SourceDataset:
        """The facts about a dataset."""
        self._check(dataset)
        found = self.lzc.ask(_LOOK, f"looking at {dataset}", dataset=dataset)
        if not found:
            raise PoolError(f'there is no dataset "{dataset}"', hint="`zfs list -t filesystem,volume`")
        origin = found.get("origin")
        match = _ORIGIN.fullmatch(origin or "")
        image = match["uuid"] if match is not None and match["dataset"] == self.lzc.pool else None
        from_final = image is not None and origin.endswith(FINAL)
        return SourceDataset(dataset, found["type"] == "volume", found["size"], image, from_final)

    def freeze(self, dataset: str, mark: str) -> str | None:
        """Takes the snapshot @final; first renames an existing one."""
        self._check(dataset)
        doing = f"taking a snapshot of {dataset}"
        moved = None
        if self._frozen(dataset, mark).get("final"):
            moved = f"{dataset}{FINAL}-{mark}"
            self.lzc.rename(dataset + FINAL, moved, doing)
        self.lzc.snapshot([dataset + FINAL], doing, {CREATING: mark})
        return moved

    def thaw(self, dataset: str, mark: str) -> None:
        """Destroys the snapshot @final if it is ours, and gives the name back to the earlier one."""
        self._check(dataset)
        doing = f"removing a snapshot of {dataset}"
        found = self._frozen(dataset, mark)
        if found.get("mark") == mark:
            self.lzc.destroy_snapshot(dataset + FINAL, doing)
        elif found.get("final"):
            return
        if found["moved"]:
            self.lzc.rename(f"{dataset}{FINAL}-{mark}", dataset + FINAL, doing)

    def send(self, dataset: str, origin: str | None) -> Blocks:
        """The stream of @final, as the kernel makes it."""
        self._check(dataset)
        base = None if origin is None else f"{self.lzc.pool}/{origin}{FINAL}"
        doing = f"sending {dataset}"
        return outlet(self.lzc.pool, lambda fd: self.lzc.send(dataset + FINAL, fd, doing, origin=base))

    def snapshot(self, datasets: Sequence[str], name: str) -> None:
        """Takes a snapshot of each, all at one moment."""
        for dataset in datasets:
            self._check(dataset)
        self.lzc.snapshot([f"{dataset}@{name}" for dataset in datasets], "taking snapshots", {})

    def has(self, dataset: str, name: str) -> bool:
        """True if there is that snapshot of the dataset."""
        return bool(self._later(dataset, name)["there"])

    def roll_back(self, datasets: Sequence[str], name: str) -> None:
        """Rolls each back; also destroys later snapshots, such as those of a machine while it ran."""
        for dataset in datasets:
            snapshot, doing = f"{dataset}@{name}", f"rolling back {dataset}"
            found = self._later(dataset, name)
            if not found["there"]:
                continue
            for later in sorted(found["later"]):
                self.lzc.destroy_snapshot(later, doing)
            self.lzc.roll_back(dataset, snapshot, doing)
            self.lzc.destroy_snapshot(snapshot, doing)

    def _later(self, dataset: str, name: str) -> dict[str, Any]:
        self._check(dataset)
        found: dict[str, Any] = self.lzc.ask(
            _LATER, f"looking at {dataset}", dataset=dataset, snapshot=f"{dataset}@{name}"
        )
        return found

    def _frozen(self, dataset: str, mark: str) -> dict[str, object]:
        final = dataset + FINAL
        found: dict[str, object] = self.lzc.ask(
            _FROZEN, f"looking at {dataset}", final=final, moved=f"{final}-{mark}"
        )
        return found

    def _check(self, dataset: str) -> None:
        if (
            not _NAME.fullmatch(dataset)
            or len(dataset) > _MAX_NAME
            or not dataset.startswith(f"{self.lzc.pool}/")
        ):
            raise UsageError(
                f'"{dataset[:_MAX_NAME]}" is not the name of a dataset in pool "{self.lzc.pool}"',
                hint=f"a name is as in {self.lzc.pool}/web/data",
            )
