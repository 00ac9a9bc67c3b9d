"""Images that have most in common, and their files with an index."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from imgstored.create.compress import compressed_with_index
from imgstored.delta.build import IndexBuilder
from tests.support.streams import StreamWriter, in_pieces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgstored.zstream.fletcher4 import ByteOrder
    from tests.support.image_site import ImageSite

OLD = "22222222-aaaa-4bbb-8ccc-000000000001"
NEW = "22222222-aaaa-4bbb-8ccc-000000000002"


def files(count: int, *, seed: int = 1, largest: int = 40_000) -> list[bytes]:
    """Contents of so many files, half of which compress well."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        size = chance.randrange(700, largest)
        text = b" ".join(b"%d" % chance.getrandbits(20) for _ in range(size // 7 + 1))[:size]
        made.append(text if number % 2 else chance.randbytes(size))
    return made


def upgraded(contents: Sequence[bytes], *, every: int = 8, seed: int = 2) -> list[bytes]:
    """The same files, every eighth of which is another one, with a new one first, and in another order."""
    chance = random.Random(seed)
    new = list(contents)
    new[::every] = (files(1, seed=number + 100)[0] for number in range(0, len(contents), every))
    new = [*files(1, seed=99), *new]
    chance.shuffle(new)
    return new


def tree(
    contents: Sequence[bytes], *, guid: int, record_size: int = 8 << 10, byte_order: ByteOrder = "<"
) -> bytes:
    """The stream of a filesystem with these files."""
    writer = StreamWriter(byte_order, guid=guid)
    parts = [writer.begin()]
    for number, content in enumerate(contents, 1):
        parts.append(writer.object(number, block_size=record_size, bonus=guid.to_bytes(8, "big") * 21))
        content = content.ljust(len(content) + -len(content) % 512, b"\0")
        for offset in range(0, len(content), record_size):
            parts.append(writer.write(number, offset, content[offset : offset + record_size]))
        parts.append(writer.free(number, len(content), (1 << 64) - 1))
    parts += (writer.freeobjects(len(contents) + 1, 31), writer.end())
    return b"".join(parts)


class Indexed(NamedTuple):
    """An image's file, and its index."""

    file: bytes
    index: bytes


def indexed(stream: bytes) -> Indexed:
    """The file of a stream, and its index, as the daemon makes them."""
    builder = IndexBuilder()
    file = b"".join(compressed_with_index(in_pieces(stream), builder, workers=1))
    return Indexed(file, builder.finish())


def manifest_of(made: Indexed, uuid: str, **fields: Any) -> dict[str, Any]:
    """A manifest of an image with this file and this index."""
    return {
        "v": 2,
        "uuid": uuid,
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": "tree",
        "version": uuid[-1],
        "state": "active",
        "disabled": False,
        "public": True,
        "published_at": f"2026-11-24T00:00:0{uuid[-1]}.000Z",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [
            {
                "sha1": hashlib.sha1(made.file, usedforsecurity=False).hexdigest(),
                "size": len(made.file),
                "compression": "zstd",
                "index": {"sha256": hashlib.sha256(made.index).hexdigest(), "size": len(made.index)},
            }
        ],
        **fields,
    }


def publish(site: ImageSite, made: Indexed, uuid: str, **fields: Any) -> Path:
    """Puts an image with its index onto a site; returns the index's path."""
    site.add(manifest_of(made, uuid, **fields), made.file)
    path = site.folder / uuid / "file.index"
    path.write_bytes(made.index)
    return path
