"""`python -m bench.tree_streams`: send streams of the trees of `bench.trees`, for `python -m bench.deltas`.

With the records that ZFS makes of such files, and without a ZFS: under emulation it took ten minutes to make
one of them. What of a stream of real ZFS is the same, `--like STREAM` says. Of each record size there are

    files-SIZE-old.zfs      the older tree
    files-SIZE-placed.zfs   the same dataset once it was upgraded: new files come after all others
    files-SIZE-rebuilt.zfs  the newer tree in a dataset made anew: other object numbers, times and guid
    volume-SIZE-old.zfs     the older tree on an ext4, and
    volume-SIZE-placed.zfs  the same ext4 once it was upgraded; both with mount(8), as root
"""

from __future__ import annotations

import argparse
import hashlib
import os
import struct
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.progress import say
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import RecordType
from imgstored.zstream.write import NewVolume, volume_stream
from tests.support.streams import StreamWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SIZES = {"8K": 8 << 10, "128K": 128 << 10}
_VOLUME = 700 << 20
_PIECE = 8 << 20
_SECTOR = 512
#: DMU_OT_PLAIN_FILE_CONTENTS, DMU_OT_DIRECTORY_CONTENTS.
_FILE, _DIRECTORY = 19, 20
_TO_THE_END = (1 << 64) - 1
#: Bytes of an entry in a directory's micro-ZAP, and of its head; and of the attributes of a file.
_CHUNK, _BONUS = 64, 176
#: The first object of a tree: a dataset has a few of its own.
_FIRST = 128


@dataclass(slots=True)
class Node:
    """A file, a link or a folder, as an object of a dataset."""

    number: int
    kind: int
    changed: int  #: seconds since the epoch
    content: bytes = b""  #: of a file; of a link its target is an attribute, and the content empty
    target: bytes = b""


class Dataset:
    """The objects of a filesystem, in the order in which they were made."""

    def __init__(self, *, first: int, made_at: int) -> None:
        self._made_at = made_at
        self._next = first
        self.nodes: dict[str, Node] = {}

    def unpack(self, archive: Path) -> None:
        """Puts files there, each as a new object, as a package manager does."""
        with tarfile.open(archive) as tar:
            for member in tar:
                self._folders(member.name)
                content = b""
                if member.isreg():
                    file = tar.extractfile(member)
                    assert file is not None
                    content = file.read()
                elif not member.issym():
                    continue
                self._put(member.name, _FILE, int(member.mtime), content, os.fsencode(member.linkname))

    def remove(self, names: Iterable[str]) -> None:
        """Takes files away."""
        for name in names:
            self.nodes.pop(name, None)

    def _folders(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for end in range(1, len(parts) + 1):
            folder = "/".join(parts[:end])
            if folder not in self.nodes:
                self._put(folder, _DIRECTORY, self._made_at, b"", b"")

    def _put(self, name: str, kind: int, changed: int, content: bytes, target: bytes) -> None:
        self.nodes[name] = Node(self._next, kind, changed, content, target)
        self._next += 1

    def stream(self, guid: int, record_size: int) -> Iterator[bytes]:
        """The stream of the dataset; objects come by their numbers."""
        inside: dict[str, list[tuple[str, Node]]] = {}
        for name, node in self.nodes.items():
            folder, _, leaf = name.rpartition("/")
            inside.setdefault(folder, []).append((leaf, node))
        writer = StreamWriter(guid=guid)
        yield writer.begin(toname="trees/tree@final")
        last = _FIRST
        for name, node in sorted(self.nodes.items(), key=lambda item: item[1].number):
            if node.number > last + 1:
                yield writer.freeobjects(last + 1, node.number - last - 1)
            content = node.content if node.kind == _FILE else _zap(inside.get(name, ()), guid)
            yield from _object(writer, node, content, record_size, self._made_at)
            last = node.number
        yield writer.freeobjects(last + 1, 31 - last % 32)
        yield writer.end()


def _object(
    writer: StreamWriter, node: Node, content: bytes, record_size: int, made_at: int
) -> Iterator[bytes]:
    """A file of up to a record has one block of its size; a larger one has whole records."""
    block = record_size
    if len(content) <= record_size:
        block = max(_SECTOR, -(-len(content) // _SECTOR) * _SECTOR)
    content = content.ljust(-(-len(content) // block) * block, b"\0")
    # Mode, size, owner and the like; then the times, of which a file that is made anew has another ctime.
    bonus = struct.pack("<4Q", 0x2F505A, 0o100644, len(node.content), node.number)
    bonus += struct.pack("<8Q", node.changed, 0, node.changed, 0, made_at, node.number, made_at, node.number)
    bonus = bonus.ljust(_BONUS, b"\0") + node.target
    yield writer.object(node.number, kind=node.kind, block_size=block, bonus=bonus)
    yield writer.free(node.number, len(content), _TO_THE_END)
    for offset in range(0, len(content), block):
        piece = content[offset : offset + block]
        if any(piece):
            yield writer.write(node.number, offset, piece, kind=node.kind)


def _zap(entries: Iterable[tuple[str, Node]], guid: int) -> bytes:
    """What a folder has: a micro-ZAP (OpenZFS include/sys/zap_impl.h), however many entries there are."""
    head = struct.pack("<QQQ", (1 << 63) + 3, guid | 1, 0).ljust(_CHUNK, b"\0")
    made = [struct.pack("<QI2x50s", 8 << 60 | node.number, 0, os.fsencode(name)) for name, node in entries]
    return head + b"".join(made)


def main() -> int:
    """Makes all streams; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.tree_streams")
    parser.add_argument("--work", type=Path, default=Path("build/bench/trees"))
    parser.add_argument(
        "--like", type=Path, help="compare with what real ZFS made of old.tar, of 8 KiB records"
    )
    arguments = parser.parse_args()
    work: Path = arguments.work
    gone = (work / "gone").read_text().splitlines()
    placed = Dataset(first=_FIRST, made_at=1_790_000_000)
    placed.unpack(work / "old.tar")
    for name, size in _SIZES.items():
        _write(work / f"files-{name}-old.zfs", placed.stream(11, size))
    placed.unpack(work / "upgrade.tar")
    placed.remove(gone)
    rebuilt = Dataset(first=_FIRST + 5, made_at=1_795_000_000)
    rebuilt.unpack(work / "new.tar")
    for name, size in _SIZES.items():
        _write(work / f"files-{name}-placed.zfs", placed.stream(12, size))
        _write(work / f"files-{name}-rebuilt.zfs", rebuilt.stream(13, size))
    _volumes(work, gone)
    if arguments.like is not None:
        _compare(arguments.like, work / "files-8K-old.zfs")
    return 0


def _write(path: Path, stream: Iterable[bytes | bytearray]) -> None:
    with path.open("wb") as file:
        file.writelines(stream)
    say(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def _volumes(work: Path, gone: Iterable[str]) -> None:
    disk, folder = work / "disk.img", work / "mounted"
    disk.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    subprocess.run(["truncate", "--size", str(_VOLUME), str(disk)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    with _mounted(disk, folder):
        _unpack(work / "old.tar", folder)
    _write_volumes(work, disk, "old", 21)
    with _mounted(disk, folder):
        _unpack(work / "upgrade.tar", folder)
        for inside in gone:
            (folder / inside).unlink(missing_ok=True)
    _write_volumes(work, disk, "placed", 22)
    disk.unlink()
    folder.rmdir()


def _write_volumes(work: Path, disk: Path, kind: str, guid: int) -> None:
    for name, size in _SIZES.items():
        volume = NewVolume("trees/disk@final", _VOLUME, guid, 1_790_000_000, size)
        _write(work / f"volume-{name}-{kind}.zfs", volume_stream(volume, _extents(disk)))


def _extents(disk: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with disk.open("rb") as file:
        while piece := file.read(_PIECE):
            yield offset, piece
            offset += len(piece)


@contextmanager
def _mounted(disk: Path, folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "loop", str(disk), str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _unpack(archive: Path, folder: Path) -> None:
    # As dpkg does it: a file is never written over.
    command = ["tar", "--extract", "--unlink-first", "--file", str(archive), "--directory", str(folder)]
    subprocess.run(command, check=True)


def _compare(real: Path, made: Path) -> None:
    """Prints how many bytes of payloads of the one stream are in the other."""
    ours = {digest for digest, _ in _payloads(made)}
    total = same = 0
    for digest, size in _payloads(real):
        total += size
        same += size if digest in ours else 0
    print(f"of the payloads that ZFS made, {100 * same / total:.2f} % of the bytes are in {made.name}")


def _payloads(path: Path) -> Iterator[tuple[bytes, int]]:
    reader = StreamReader()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            for record in reader.records(piece):
                if record.type == RecordType.WRITE:
                    yield hashlib.sha256(record.payload).digest(), len(record.payload)


if __name__ == "__main__":
    sys.exit(main())
