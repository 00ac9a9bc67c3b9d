"""Channel programs: queries and changes in the kernel (zfs-program(8)).

A program sees the pool as it is at one moment. Names come to it as arguments and never as part of its text.
Lua's integers have 64 bits with a sign, so guids come back negative now and then. `zfs.get_prop` gives two
values, of which a table takes the first, and nil for what a dataset does not have.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from imgstored.manifest.values import UUID
from imgstored.pools.base import PoolImage, Space
from imgstored.pools.zfs.faults import failed_with

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from imgstored.pools.zfs.lzc import Lzc

_Value = TypeVar("_Value")

#: Of a snapshot @final that is there only while an image is made of a dataset.
CREATING: Final = "imgstored:creating"

PARTIAL: Final = "-partial"
FINAL: Final = "@final"

#: The child of a dataset in which an interrupted receive into it is kept; what it is called is the kernel's.
CUT: Final = "/%recv"

_TRUE: Final = ("true", "yes")

#: Tries for a busy dataset, and the seconds between two tries.
_TRIES: Final = 20
_PAUSE: Final = 0.1

_BEGIN: Final = """
local given = (...)["argv"]
"""

#: Describes a dataset. A volume that is being received has no size yet, and a query of it is an error.
_DESCRIBE: Final = """
local function describe(name)
    local found = {
        type = zfs.get_prop(name, "type"),
        origin = zfs.get_prop(name, "origin"),
        used = zfs.get_prop(name, "used"),
        ignore = zfs.get_prop(name, "imgadm:ignore"),
        dataset = zfs.get_prop(name, "guid"),
        created = zfs.get_prop(name, "creation"),
    }
    local final = name .. "@final"
    if not zfs.exists(final) then
        found.token = zfs.get_prop(name, "receive_resume_token")
        found.receiving = zfs.get_prop(name, "inconsistent")
        return found
    end
    found.guid = zfs.get_prop(final, "guid")
    found.making = zfs.get_prop(final, "imgstored:creating")
    found.clones = {}
    for clone in zfs.list.clones(final) do found.clones[clone] = true end
    if found.type == "volume" then
        found.size = zfs.get_prop(name, "volsize")
    else
        found.size = zfs.get_prop(final, "logicalreferenced")
    end
    return found
end
"""

_ONE: Final = f"""{_BEGIN}{_DESCRIBE}
if not zfs.exists(given.dataset) then return {{}} end
return describe(given.dataset)
"""

#: A name is POOL/UUID, which Python checks more closely. To query a head dataset costs several times as much
#: as to query a snapshot, so of known images only facts that others may change are queried.
_ALL: Final = f"""{_BEGIN}{_DESCRIBE}
local function changes(name)
    local found = {{known = true, ignore = zfs.get_prop(name, "imgadm:ignore"), clones = {{}}}}
    for clone in zfs.list.clones(name .. "@final") do found.clones[clone] = true end
    return found
end
local found = {{}}
for name in zfs.list.children(given.pool) do
    if #name == #given.pool + 37 and zfs.exists(name .. "@final") then
        local known = given.known[name]
        if known and known == tostring(zfs.get_prop(name .. "@final", "guid")) then
            found[name] = changes(name)
        else
            found[name] = describe(name)
        end
    end
end
return found
"""

#: Leaves out inconsistent datasets, which are being received, and clones of a @final, which are machines.
_UNNAMED: Final = f"""{_BEGIN}
local found = {{}}
for name in zfs.list.children(given.pool) do
    local origin = zfs.get_prop(name, "origin")
    if #name == #given.pool + 37 and not zfs.exists(name .. "@final")
        and zfs.get_prop(name, "inconsistent") ~= 1
        and not (origin and string.sub(origin, -6) == "@final") then
        local ignore = zfs.get_prop(name, "imgadm:ignore")
        if ignore ~= "true" and ignore ~= "yes" then
            found[name] = {{}}
            for snapshot in zfs.list.snapshots(name) do
                found[name][string.sub(snapshot, #name + 2)] = zfs.get_prop(snapshot, "guid")
            end
        end
    end
end
return found
"""

#: The kernel destroys an inconsistent dataset itself when its receive fails, unless it can be resumed.
_INCOMING: Final = f"""{_BEGIN}
local found = {{}}
for name in zfs.list.children(given.pool) do
    if #name == #given.pool + 37 and not zfs.exists(name .. "@final")
        and zfs.get_prop(name, "inconsistent") == 1 then
        found[name] = zfs.get_prop(name, "used")
    end
end
return found
"""

_PARTIALS: Final = f"""{_BEGIN}
local found = {{}}
for name in zfs.list.children(given.pool) do
    if #name == #given.pool + 45 and string.sub(name, -8) == "-partial" then found[name] = true end
end
return found
"""

#: Bytes written since @final, with or without later snapshots.
_WRITTEN: Final = f"""{_BEGIN}
return {{written = zfs.get_prop(given.dataset, "written@final")}}
"""

_SPACE: Final = f"""{_BEGIN}
return {{
    used = zfs.get_prop(given.pool, "used"),
    available = zfs.get_prop(given.pool, "available"),
}}
"""

_DEPEND: Final = """
local function depend(dataset)
    local found = {names = {}, held = {}}
    for name in zfs.list.children(dataset) do found.names[name] = true end
    for snapshot in zfs.list.snapshots(dataset) do
        for clone in zfs.list.clones(snapshot) do found.names[clone] = true end
        local holds = zfs.get_prop(snapshot, "userrefs")
        if holds and holds > 0 then found.held[snapshot] = true end
    end
    return found
end
"""

_DEPENDENTS: Final = f"""{_BEGIN}{_DEPEND}
if not zfs.exists(given.dataset) then return {{names = {{}}, held = {{}}}} end
return depend(given.dataset)
"""

_ALL_DEPENDENTS: Final = f"""{_BEGIN}{_DEPEND}
local found = {{}}
for name in zfs.list.children(given.pool) do
    if #name == #given.pool + 37 and zfs.exists(name .. "@final") then found[name] = depend(name) end
end
return found
"""

#: Changes nothing if a check fails. ZFS cannot check the destroy of a dataset with snapshots, but can check a
#: rollback, which fails like a destroy if the dataset is mounted or open. Another dataset may have got the
#: name since. An interrupted `zfs receive -s` into the dataset has left a hidden child, a clone of the
#: snapshot that it builds on, which nobody uses. A program without memory ends without undoing anything;
#: `Lzc.change` runs it again with more, and it goes on with the rest.
_DESTROY: Final = f"""{_BEGIN}
local name, snapshots = given.dataset, {{}}
if not zfs.exists(name) then return {{}} end
if given.guid ~= "" and given.guid ~= tostring(zfs.get_prop(name, "guid")) then return {{}} end
local cut = name .. "{CUT}"
local base = nil
if zfs.exists(cut) then
    base = zfs.get_prop(cut, "origin")
    local failed = zfs.check.destroy(cut)
    if failed ~= 0 then return {{failed = failed}} end
else
    cut = nil
end
for snapshot in zfs.list.snapshots(name) do
    snapshots[#snapshots + 1] = snapshot
    local failed = 0
    if snapshot == base then
        for clone in zfs.list.clones(snapshot) do
            if clone ~= cut then failed = {errno.EEXIST} end
        end
        if zfs.get_prop(snapshot, "userrefs") > 0 then failed = {errno.EBUSY} end
    else
        failed = zfs.check.destroy(snapshot)
    end
    if failed ~= 0 then return {{failed = failed}} end
end
local failed = #snapshots > 0 and zfs.check.rollback(name) or 0
if failed ~= 0 then return {{failed = failed}} end
if cut then
    failed = zfs.sync.destroy(cut)
    if failed ~= 0 then return {{failed = failed}} end
end
for _, snapshot in ipairs(snapshots) do
    failed = zfs.sync.destroy(snapshot)
    if failed ~= 0 then return {{failed = failed}} end
end
failed = zfs.sync.destroy(name)
if failed ~= 0 then return {{failed = failed}} end
return {{}}
"""


class Dataset(Struct, frozen=True):
    """A dataset that is an image, or may become one."""

    name: str  #: POOL/…
    volume: bool
    origin: str | None  #: POOL/…@…, of which it is a clone
    used: int  #: bytes
    size: int  #: bytes of its data, before compression; a volume's own size
    guid: int | None  #: of the snapshot @final, if there is one
    token: str | None  #: receive_resume_token of an interrupted receive
    clones: tuple[str, ...]  #: clones of @final (POOL/…), except those being received; sorted
    hidden: bool  #: not an image: by the property imgadm:ignore, or because one is being made of it
    receiving: bool  #: it is being received, or the receive was interrupted; only without @final
    own_guid: int  #: of the dataset, not of its snapshot; changes with each receive
    created: int  #: seconds since the epoch

    def image(self, uuid: str) -> PoolImage:
        """The dataset as an image. It must have a `guid`."""
        assert self.guid is not None
        pool = self.name.partition("/")[0]
        kind = "volume" if self.volume else "filesystem"
        origin = _image_of(self.origin, pool)
        return PoolImage(
            uuid, self.guid, origin, kind, self.used, self.size, self.clones, self.own_guid, self.created
        )


class Dependents(Struct, frozen=True):
    """The clones and holds that protect a dataset from destruction."""

    names: list[str]  #: clones of its snapshots, and datasets below it
    held: list[str]  #: its snapshots that are held


def dataset(lzc: Lzc, name: str, doing: str) -> Dataset | None:
    """The dataset of that name, or None."""
    found = lzc.ask(_ONE, doing, dataset=name)
    return _dataset(name, found) if found else None


def images(lzc: Lzc, known: Iterable[PoolImage]) -> list[PoolImage]:
    """All POOL/UUID with @final, except those that imgadm ignores or has made an image of."""
    before = {f"{lzc.pool}/{image.uuid}": image for image in known}
    # As text: a program gets no integer of 64 bits without a sign.
    guids = {name: str(_signed(image.guid)) for name, image in before.items()}
    found: dict[str, Any] = lzc.ask(_ALL, "listing images", pool=lzc.pool, known=guids)
    return [
        replace(before[name], clones=_clones(each)) if "known" in each else _dataset(name, each).image(uuid)
        for uuid, name, each in _by_uuid(lzc, found)
        if not _hidden(each)
    ]


def unnamed(lzc: Lzc) -> dict[str, dict[str, int]]:
    """All POOL/UUID without a snapshot @final that are not clones of one, with their snapshots' guids."""
    found: dict[str, dict[str, int]] = lzc.ask(_UNNAMED, "listing images", pool=lzc.pool)
    return {
        uuid: {name: guid % (1 << 64) for name, guid in snapshots.items()}
        for uuid, _, snapshots in _by_uuid(lzc, found)
    }


def incoming(lzc: Lzc) -> dict[str, int]:
    """The uuids of all POOL/UUID that are being received, with the bytes that they have."""
    found: dict[str, int] = lzc.ask(_INCOMING, "listing images", pool=lzc.pool)
    return {uuid: used for uuid, _, used in _by_uuid(lzc, found)}


def partials(lzc: Lzc) -> list[str]:
    """The uuids with a POOL/UUID-partial, which imgadm may be receiving at the moment."""
    found: dict[str, bool] = lzc.ask(_PARTIALS, "listing images", pool=lzc.pool)
    return [uuid for uuid, _, _ in _by_uuid(lzc, found, PARTIAL)]


def written(lzc: Lzc, name: str, doing: str) -> int:
    """Bytes of an image's dataset that are newer than its @final."""
    return int(lzc.ask(_WRITTEN, doing, dataset=name).get("written") or 0)


def space(lzc: Lzc) -> Space:
    """The space for datasets, which is less than that of the disks."""
    found = lzc.ask(_SPACE, "looking for its room", pool=lzc.pool)
    return Space(found["used"] + found["available"], found["available"])


def settle(lzc: Lzc) -> None:
    """Ends the open transaction group, and waits until it is on disk, as any program does that may change."""
    lzc.change(_SPACE, "looking for its room", pool=lzc.pool)


def dependents(lzc: Lzc, name: str, doing: str) -> Dependents:
    """The clones of the dataset, the datasets below it, and its held snapshots."""
    found = lzc.ask(_DEPENDENTS, doing, dataset=name)
    return Dependents(_of_others(found["names"]), sorted(found["held"]))


def all_dependents(lzc: Lzc) -> dict[str, Dependents]:
    """The dependents of all POOL/UUID with a snapshot @final, by uuid."""
    found: dict[str, Any] = lzc.ask(_ALL_DEPENDENTS, "looking what is in use", pool=lzc.pool)
    return {
        uuid: Dependents(_of_others(each["names"]), sorted(each["held"]))
        for uuid, _, each in _by_uuid(lzc, found)
    }


def destroy(lzc: Lzc, name: str, doing: str, *, guid: int | None = None) -> None:
    """Destroys a dataset and its snapshots, or nothing if a check fails; does nothing if there is none.

    A program that runs out of memory may have destroyed some snapshots; it goes on with more memory. Given a
    guid, destroys no other dataset that has the name by now. Tries again for two seconds while the dataset is
    busy: udev opens a new volume to look what is on it.
    """
    only = "" if guid is None else str(_signed(guid))
    for left in reversed(range(_TRIES)):
        failed = lzc.change(_DESTROY, doing, dataset=name, guid=only).get("failed", 0)
        if not failed:
            return
        if not left or failed != errno.EBUSY:
            raise failed_with(failed, lzc.pool, doing)
        time.sleep(_PAUSE)


def _by_uuid(lzc: Lzc, found: Mapping[str, _Value], suffix: str = "") -> Iterator[tuple[str, str, _Value]]:
    """Uuid, name and value of each dataset that is named POOL/UUID with the suffix."""
    for name, value in found.items():
        uuid = name[len(lzc.pool) + 1 :].removesuffix(suffix)
        if UUID.fullmatch(uuid):
            yield uuid, name, value


def _dataset(name: str, found: dict[str, Any]) -> Dataset:
    guid = found.get("guid")
    return Dataset(
        name=name,
        volume=found["type"] == "volume",
        origin=found.get("origin"),
        used=found["used"],
        size=found.get("size", 0),
        guid=None if guid is None else guid % (1 << 64),
        token=found.get("token"),
        clones=_clones(found),
        hidden=_hidden(found),
        receiving=found.get("receiving") == 1,
        own_guid=found["dataset"] % (1 << 64),
        created=found["created"],
    )


def _signed(guid: int) -> int:
    return guid - (1 << 64) if guid >> 63 else guid


def _clones(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(name for name in found.get("clones", ()) if not name.endswith((PARTIAL, CUT))))


def _of_others(names: Iterable[str]) -> list[str]:
    """The dependents that prevent a destroy, without the child of an interrupted receive into the dataset."""
    return sorted(name for name in names if not name.endswith(CUT))


def _hidden(found: dict[str, Any]) -> bool:
    return found.get("ignore") in _TRUE or found.get("making") is not None


def _image_of(origin: str | None, pool: str) -> str | None:
    """The uuid of the image with this snapshot @final; None for any other snapshot."""
    if origin is None:
        return None
    uuid = origin.removeprefix(f"{pool}/").removesuffix(FINAL)
    return uuid if UUID.fullmatch(uuid) and origin == f"{pool}/{uuid}{FINAL}" else None
