"""Streams that the real ZFS makes, of every kind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.pools.zfs.commands import FOLDER, device, make_pool, run, sent_by_zfs

if TYPE_CHECKING:
    from imgstored.pools.zfs import ZfsPool

KINDS = ["plain", "-L", "-c", "-e", "-Lce", "-Lce -i", "volume -Lce"]
#: Images of made streams.
MADE = "33333333-aaaa-4bbb-8ccc-000000000001"
NEXT = "33333333-aaaa-4bbb-8ccc-000000000002"


def make_streams(source: str) -> dict[str, bytes]:
    """Streams of a filesystem with large, compressed and embedded blocks and holes; and of a volume.

    What was sent stays in the pool `source`, which it makes.
    """
    make_pool(source, "1G", "-O", "compression=lz4")
    run("zfs", "create", f"{source}/fs")
    chance, folder = random.Random(5), FOLDER / source / "fs"
    (folder / "text").write_bytes(b"".join(b"line %d\n" % chance.randrange(10**9) for _ in range(100_000)))
    run("zfs", "set", "recordsize=1m", f"{source}/fs")
    (folder / "random").write_bytes(chance.randbytes(3_300_000))
    for number in range(60):
        (folder / f"small-{number}").write_bytes(b"x" * 600 + b"%d" % number)
    with (folder / "holes").open("wb") as file:
        for place in (0, 5 << 20, 17 << 20):
            file.seek(place)
            file.write(chance.randbytes(100_000))
    run("zfs", "snapshot", f"{source}/fs@one")
    (folder / "small-7").unlink()
    (folder / "random").write_bytes(chance.randbytes(1_500_000))
    run("zfs", "snapshot", f"{source}/fs@two")
    run("zfs", "create", "-V", "16m", f"{source}/disk")
    with device(f"{source}/disk").open("r+b") as file:
        file.write(chance.randbytes(2_000_000) + b"text " * 200_000)
    run("zfs", "snapshot", f"{source}/disk@one")
    run("zfs", "create", f"{source}/large")
    (FOLDER / source / "large" / "random").write_bytes(chance.randbytes(24 << 20))
    run("zfs", "snapshot", f"{source}/large@one")
    return {
        "plain": sent_by_zfs(f"{source}/fs@one"),
        "-L": sent_by_zfs("-L", f"{source}/fs@one"),
        "-c": sent_by_zfs("-c", f"{source}/fs@one"),
        "-e": sent_by_zfs("-e", f"{source}/fs@one"),
        "-Lce": sent_by_zfs("-Lce", f"{source}/fs@one"),
        "-Lce -i": sent_by_zfs("-Lce", "-i", f"{source}/fs@one", f"{source}/fs@two"),
        "volume -Lce": sent_by_zfs("-Lce", f"{source}/disk@one"),
        "large": sent_by_zfs(f"{source}/large@one"),
        "-R": sent_by_zfs("-R", f"{source}/fs@two"),
    }


def with_origin(pool: ZfsPool, kind: str, made: dict[str, bytes]) -> str | None:
    if not kind.endswith("-i"):
        return None
    pool.receive(MADE, [made["-Lce"]])
    return pool.publish(MADE).uuid
