"""The errors that all pools raise in the same words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.errors import (
    ImageHasDependentClonesError,
    OriginNotInstalledError,
    PoolError,
    StreamError,
    UsageError,
)
from imgstored.pools.base import MAX_TAG

if TYPE_CHECKING:
    from imgstored.pools.base import Occupant
    from imgstored.zstream.records import Begin

_OTHER_FILE = "its manifest and its file do not belong together; tell its publisher"


def refuse_other_origin(uuid: str, begin: Begin, origin: tuple[str, int] | None) -> None:
    """Raises unless the stream builds on the snapshot `origin`, the uuid of its image and its guid.

    `StreamError` for a full stream, `OriginNotInstalledError` for one that builds on another snapshot.
    """
    if origin is None and not begin.fromguid:
        return
    if not begin.fromguid:
        raise StreamError(f"image {uuid} has an origin, but its stream is a full one", hint=_OTHER_FILE)
    if origin is None or origin[1] != begin.fromguid:
        given = "no origin is given" if origin is None else f"that of {origin[0]} is {origin[1]}"
        raise OriginNotInstalledError(
            f"image {uuid} builds on a snapshot with the guid {begin.fromguid}, but {given}",
            hint=_OTHER_FILE,
            data={"fromguid": begin.fromguid},
        )


def small_blocks(uuid: str, origin: str) -> StreamError:
    """The error for an incremental stream without large blocks whose origin has some.

    Kernels receive such a stream into a clone without an error, and a change within a large block is then
    wrong (openzfs/zfs#6224, seen with OpenZFS 2.1).
    """
    return StreamError(
        f"image {uuid} was sent without large blocks, and its origin {origin} with large blocks"
        " (`zfs send -L`): together they would be damaged",
        hint="make the image with `zfs send -L`, as its origin was; tell its publisher",
    )


def refuse_dependents(uuid: str, names: list[str]) -> None:
    """Raises `ImageHasDependentClonesError`, in imgadm's words, if there are any."""
    if names:
        others = f" and {len(names) - 1} others..." if len(names) > 1 else ""
        raise ImageHasDependentClonesError(
            f'image "{uuid}" has dependent clones: {names[0]}{others}',
            hint="delete these first",
            data={"dependents": names},
        )


def incomplete(uuid: str, pool: str) -> PoolError:
    """The error for a partial that is not complete, and so cannot be published."""
    return PoolError(
        f'image "{uuid}" is not completely in pool "{pool}"', hint="receive the image (again) first"
    )


def damaged(uuid: str, pool: str) -> PoolError:
    """The error for a published image whose files are damaged."""
    return PoolError(f'image "{uuid}" is damaged in pool "{pool}"', hint="delete it, and import it again")


def check_tag(tag: str) -> None:
    """Raises `UsageError` for text that cannot be the tag of a hold."""
    if not tag or not tag.isprintable() or len(tag.encode()) > MAX_TAG:
        raise UsageError(
            "not a valid tag for a hold", hint=f"a tag is 1 to {MAX_TAG} bytes of printable text on one line"
        )


def in_the_way(found: Occupant) -> PoolError:
    """The error if a dataset that is not an image, or not yet, has the image's name."""
    name = found.name
    if found.hidden:
        return PoolError(
            f"{name} is in the way: it is to be ignored, or an image is being made of it",
            hint="look at it with `zfs list -t all` and `zfs get imgadm:ignore`; destroy or rename it",
        )
    uuid = name.rpartition("/")[2]
    if found.image is not None:
        return PoolError(
            f"{name} has its snapshot @final, but no manifest: it is not an image yet",
            hint=f"its receiver may still write the manifest; `imgctl update {uuid}` fetches one",
        )
    if found.receiving:
        return PoolError(
            f"another program is receiving {name}, which is not an image yet",
            hint="import it again when the receive has ended; imgstored never destroys such a dataset",
        )
    return PoolError(
        f"{name} is in the way: it has no snapshot @final, so it is not an image",
        hint=f"`imgctl update {uuid}` names its snapshot; destroy or rename a dataset that you do not need",
    )
