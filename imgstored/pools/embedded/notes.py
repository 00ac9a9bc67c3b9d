"""The small files of the embedded pool: images, the points where receives can resume, holds.

They are the pool's own, but anything may have happened to them: an unreadable file counts as missing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog

from imgstored.hashing import BLAKE3, Fingerprint, fingerprint
from imgstored.zstream.reader import ReaderState  # noqa: TC001  (msgspec reads the annotation)
from imgstored.zstream.volume import VolumeState  # noqa: TC001  (msgspec reads the annotation)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.pools.embedded.files import Folder

log = structlog.get_logger(__name__)

IMAGE: Final = "image.json"
CHECKPOINT: Final = "checkpoint"
HOLDS: Final = "holds.json"
STREAM: Final = "stream.zfs"
DISK: Final = "disk.raw"
SKELETON: Final = "skeleton.zfs"
TREE: Final = "tree"
#: The names of an image's files, and of its folder.
FILES: Final = frozenset({IMAGE, HOLDS, STREAM, DISK, SKELETON, TREE})

#: The maximum size of such a file, in bytes.
_LIMIT: Final = 1 << 20


class ImageNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """image.json. Sizes in bytes."""

    uuid: str
    guid: int
    origin: str | None
    fromguid: int
    kind: Literal["filesystem", "volume", "tree"]  #: a tree is a container image, and has no stream
    stream_size: int  #: of a tree, bytes of its files
    skeleton_size: int = 0
    volume_size: int = 0
    block_size: int = 0  #: of a volume
    tree_used: int = 0  #: bytes that a tree occupies
    tree_hash: str = ""  #: algorithm:hexadecimal digest of all that is in a tree
    dataset: int = 0  #: random for each receive; 0 in an older file
    format: Literal[1] = 1


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The resume point of a receive. Sizes in bytes."""

    origin: str | None
    reader: ReaderState
    volume: VolumeState | None = None  #: of a volume
    skeleton_size: int = 0
    format: Literal[1] = 1


class _Holds(msgspec.Struct, forbid_unknown_fields=True):
    tags: list[str]


def read_image(folder: Folder) -> ImageNote | None:
    """The note of the image in `folder`; None if it is unreadable."""
    try:
        note = msgspec.json.decode(folder.read(IMAGE, _LIMIT), type=ImageNote)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None
    numbers = (note.guid, note.fromguid, note.stream_size, note.skeleton_size, note.volume_size, note.dataset)
    return note if min(numbers) >= 0 and max(numbers) < 1 << 64 else None


def write_image(folder: Folder, note: ImageNote) -> None:
    """Raises `OSError`."""
    folder.replace(IMAGE, msgspec.json.format(msgspec.json.encode(note)) + b"\n")


def read_checkpoint(folder: Folder, uuid: str) -> Checkpoint | None:
    """The resume point of the receive of `uuid` into `folder`; None if unknown."""
    try:
        line, _, content = folder.read(CHECKPOINT, _LIMIT).partition(b"\n")
        name, _, digest = line.decode("ascii").rpartition(":")
        # A checkpoint without an algorithm's name is from an older daemon.
        written = Fingerprint(name or BLAKE3, bytes.fromhex(digest))
        if not written.can_be_compared:
            log.warning(
                "a receive cannot go on: what its checkpoint was hashed with is not installed",
                uuid=uuid,
                algorithm=written.algorithm[:40],
            )
            return None
        return msgspec.json.decode(content, type=Checkpoint) if written.is_of(content) else None
    except (OSError, msgspec.MsgspecError, ValueError):
        return None


def write_checkpoint(folder: Folder, checkpoint: Checkpoint) -> None:
    """Raises `OSError`."""
    content = msgspec.json.encode(checkpoint)
    algorithm, digest = fingerprint(content)
    folder.replace(CHECKPOINT, f"{algorithm}:{digest.hex()}\n".encode() + content)


def read_holds(folder: Folder) -> set[str]:
    """The tags that hold the image. Raises `OSError` or `ValueError` if they cannot be read."""
    try:
        return set(msgspec.json.decode(folder.read(HOLDS, _LIMIT), type=_Holds).tags)
    except FileNotFoundError:
        return set()


def keep_holds(folder: Folder) -> None:
    """Keeps an unreadable file of holds under another name, one for each image."""
    try:
        read_holds(folder)
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            os.rename(HOLDS, f"{HOLDS}.damaged", src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def write_holds(folder: Folder, tags: set[str]) -> None:
    """Writes the tags; the file survives a power cut once this returns. Raises `OSError`."""
    folder.replace(HOLDS, msgspec.json.encode(_Holds(sorted(tags))), durable=True)


def occupied(files: Mapping[str, os.stat_result], note: ImageNote | None = None) -> int:
    """The bytes that files occupy; those of a tree were counted when it was made."""
    return (0 if note is None else note.tree_used) + sum(status.st_blocks * 512 for status in files.values())


def is_whole(files: Mapping[str, os.stat_result], note: ImageNote) -> bool:
    """True if the files of an image exist with their sizes, or the folder of a tree exists."""
    if note.kind == "tree":
        return TREE in files and stat.S_ISDIR(files[TREE].st_mode)
    if note.kind == "volume":
        sizes = {DISK: note.volume_size, SKELETON: note.skeleton_size}
    else:
        sizes = {STREAM: note.stream_size}
    return all(name in files and files[name].st_size == size for name, size in sizes.items())
