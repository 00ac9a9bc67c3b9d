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
from imgstored.manifest import decoded
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

#: Nanoseconds by which an image's folder is younger than its note while it has the image's files alone.
_UNTOUCHED: Final = 1

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
    found = read_image_with_status(folder)
    return None if found is None else found[0]


def read_image_with_status(folder: Folder) -> tuple[ImageNote, os.stat_result] | None:
    """As `read_image`, with the status of the note's file."""
    try:
        content, status = folder.read_with_status(IMAGE, _LIMIT)
        note = decoded(content, ImageNote)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None
    numbers = (note.guid, note.fromguid, note.stream_size, note.skeleton_size, note.volume_size, note.dataset)
    return (note, status) if min(numbers) >= 0 and max(numbers) < 1 << 64 else None


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
        return decoded(content, Checkpoint) if written.is_of(content) else None
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
        return set(decoded(folder.read(HOLDS, _LIMIT), _Holds).tags)
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
    return all(name in files and files[name].st_size == size for name, size in _sizes(note).items())


def _sizes(note: ImageNote) -> dict[str, int]:
    """The sizes of an image's files beside its note, by their names."""
    if note.kind == "volume":
        return {DISK: note.volume_size, SKELETON: note.skeleton_size}
    return {STREAM: note.stream_size}


def mark_untouched(folder: Folder, files: Mapping[str, os.stat_result], note: ImageNote) -> None:
    """Makes the time of an image's folder follow from that of its note, if it has the image's files alone.

    Names that come to the folder later, or go, change its time.
    """
    if note.kind != "tree" and files.keys() - {HOLDS} == {IMAGE, *_sizes(note)}:
        written = files[IMAGE]
        with contextlib.suppress(OSError):  # then the next start lists it again
            os.utime(folder.fd, ns=(written.st_atime_ns, written.st_mtime_ns + _UNTOUCHED))


def untouched(folder: Folder, note: ImageNote, written: os.stat_result) -> dict[str, os.stat_result] | None:
    """The statuses of an image's files, without a listing; None if its folder may have others.

    Holds are looked for all the same: no image must be lost by the times that a file system gives folders.
    """
    if note.kind == "tree" or os.fstat(folder.fd).st_mtime_ns != written.st_mtime_ns + _UNTOUCHED:
        return None
    files = {IMAGE: written}
    for name in (*_sizes(note), HOLDS):
        status = folder.status(name)
        if status is not None:
            files[name] = status
        elif name != HOLDS:
            return None
    return files
