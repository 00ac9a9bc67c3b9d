"""What is received on real ZFS: properties, streams of every kind, and streams that kernels stumble over."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from imgstored.errors import ImageHasDependentClonesError, ImgstoreError, PoolError, StreamError
from imgstored.pools.zfs import ZfsPool, receive
from tests.pools.contract import (
    BASE,
    EVERY,
    GUIDS,
    IMAGES,
    INCREMENTAL,
    ZVOL,
    Name,
    begin,
    dependents,
    install,
)
from tests.pools.zfs.commands import FOLDER, device, empty, got, make_pool, run, sent_by_zfs
from tests.pools.zfs.made_streams import KINDS, MADE, NEXT, with_origin
from tests.support.streams import StreamWriter, in_pieces, real_stream

if TYPE_CHECKING:
    from collections.abc import Iterator


@EVERY
def test_how_it_is_received(pool: ZfsPool, name: Name) -> None:
    install(pool, "base")
    if name != "base":
        install(pool, name)
    dataset = f"{pool.name}/{IMAGES[name]}"
    if name == "zvol":
        assert got(dataset, "readonly") == ["on"]
    else:
        assert got(dataset, "readonly,canmount,mounted") == ["on", "noauto", "no"]
    assert got(dataset, "origin") == [f"{pool.name}/{BASE}@final" if name == "incremental" else "-"]
    assert run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", dataset).split() == [f"{dataset}@final"]
    assert int(run("zfs", "get", "-Hp", "-o", "value", "guid", f"{dataset}@final")) == GUIDS[name]
    image = pool.image(IMAGES[name])
    assert image is not None
    assert [str(image.used)] == run("zfs", "get", "-Hp", "-o", "value", "used", dataset).split()


ZVOL_SHA256 = "d81ae44870f201872606cb189dfca03410e5867fc2e6c6b934a74725e0f1f1ff"


def test_a_volume_is_the_disk_that_it_was(pool: ZfsPool) -> None:
    install(pool, "zvol")
    assert hashlib.sha256(device(f"{pool.name}/{ZVOL}").read_bytes()).hexdigest() == ZVOL_SHA256


def test_other_properties(other_tank: str) -> None:
    given = {"canmount": "off", "compression": "lz4", "atime": "off", "org.example:by": "a test"}
    pool = ZfsPool(other_tank, properties=given)
    try:
        install(pool, "base")
        install(pool, "zvol")
        assert got(f"{other_tank}/{BASE}", "canmount,compression,atime,org.example:by,readonly") == [
            *given.values(),
            "off",
        ]
        assert got(f"{other_tank}/{ZVOL}", "compression,org.example:by") == ["lz4", "a test"]
    finally:
        empty(other_tank)


def test_cloned_as_vmadm_does(pool: ZfsPool) -> None:
    """Zone root and disk: mounted, writable, and with the content of the image."""
    for name in IMAGES:
        install(pool, name)
    for image, options in ((BASE, ()), (INCREMENTAL, ("-o", "quota=1g"))):
        clone = f"{pool.name}/vm-{image[-1]}"
        run("zfs", "clone", *options, f"{pool.name}/{image}@final", clone)
        assert got(clone, "readonly,canmount,mounted") == ["off", "on", "yes"]
        original = FOLDER / "original"
        original.mkdir(exist_ok=True)
        run("mount", "-t", "zfs", f"{pool.name}/{image}@final", str(original))
        try:
            mounted = FOLDER / clone
            assert len(list(mounted.rglob("*"))) > 10
            run("diff", "-r", "--no-dereference", str(original), str(mounted))
        finally:
            run("umount", str(original))
        (mounted / "new").write_text("written")
        assert dependents(pool, image)[-1] == clone
    run("zfs", "clone", f"{pool.name}/{ZVOL}@final", f"{pool.name}/vm-disk0")
    disk = device(f"{pool.name}/vm-disk0")
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == ZVOL_SHA256
    with disk.open("r+b") as file:
        file.write(b"written")
    with pytest.raises(ImageHasDependentClonesError, match=f"{pool.name}/vm-disk0"):
        pool.destroy(ZVOL)


def test_two_pools_do_not_mix(pool: ZfsPool, other_tank: str) -> None:
    other = ZfsPool(other_tank)
    install(pool, "base")
    begin(other, "base", 1_000_000)
    try:
        assert [image.uuid for image in pool.images()] == [BASE]
        assert (pool.partials(), other.partials(), other.images()) == ([], [BASE], [])
    finally:
        other.abandon(BASE)


# -- streams of every kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_every_kind(pool: ZfsPool, made: dict[str, bytes], source: str, kind: str) -> None:
    origin = with_origin(pool, kind, made)
    pool.receive(NEXT, in_pieces(made[kind], 200_000), origin=origin)
    pool.publish(NEXT)
    if kind == "volume -Lce":
        assert device(f"{pool.name}/{NEXT}").read_bytes() == device(f"{source}/disk").read_bytes()
        return
    run("zfs", "mount", f"{pool.name}/{NEXT}")
    snapshot = "two" if origin else "one"
    original = f"{FOLDER}/{source}/fs/.zfs/snapshot/{snapshot}"
    run("diff", "-r", original, f"{FOLDER}/{pool.name}/{NEXT}")


def test_a_raw_stream_is_refused(pool: ZfsPool, made: dict[str, bytes], source: str) -> None:
    key = ["-o", "encryption=on", "-o", "keyformat=passphrase"]
    run("zfs", "create", *key, f"{source}/secret", input="a long passphrase\n")
    run("zfs", "snapshot", f"{source}/secret@final")
    with pytest.raises(StreamError, match="raw and encrypted") as caught:
        pool.receive(BASE, [sent_by_zfs("-w", f"{source}/secret@final")])
    assert "without -w" in caught.value.hint
    # Without -w it is a stream as any other.
    pool.receive(BASE, [sent_by_zfs(f"{source}/secret@final")])
    assert got(f"{pool.name}/{BASE}-partial", "encryption") == ["off"]


def test_a_replication_stream_is_refused(pool: ZfsPool, made: dict[str, bytes]) -> None:
    with pytest.raises(StreamError) as caught:
        pool.receive(BASE, [made["-R"]])
    assert caught.value.hint
    assert pool.partials() == []


def test_damage_that_only_the_kernel_sees(pool: ZfsPool, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = bytearray(real_stream("base"))
    damaged[2_000_000] ^= 1
    monkeypatch.setattr(receive._Checked, "feed", lambda _, piece: piece)
    monkeypatch.setattr(receive._Checked, "finish", lambda _: None)
    with pytest.raises(StreamError, match="kernel found the stream to be damaged"):
        pool.receive(BASE, in_pieces(bytes(damaged)))
    assert pool.partials() == []


def test_a_feature_that_the_pool_lacks(made: dict[str, bytes]) -> None:
    make_pool("old1", "256M", "-o", "feature@large_blocks=disabled")
    try:
        pool = ZfsPool("old1")
        with pytest.raises(PoolError, match="needs a feature that the pool does not have") as caught:
            pool.receive(BASE, [made["-L"]])
        assert "without `zfs send -L`" in caught.value.hint
        pool.receive(BASE, [made["plain"]])
    finally:
        run("zpool", "destroy", "-f", "old1")


# -- what kernels stumble over -------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [(1 << 64) - 512, (1 << 64) - 1, (1 << 63) - 256])
def test_embedded_data_near_the_end_of_numbers(pool: ZfsPool, offset: int) -> None:
    """The kernel adds offset and length up (openzfs/zfs#18239): it never gets the record."""
    writer = StreamWriter()
    stream = writer.begin(features=4 | 1 << 16 | 1 << 17) + writer.object(1)
    stream += writer.write_embedded(1, offset, 512, b"x" * 100) + writer.end()
    with pytest.raises(StreamError, match=f"at byte {offset} of its object") as caught:
        pool.receive(NEXT, in_pieces(stream))
    assert caught.value.hint
    assert pool.partials() == []


@pytest.fixture
def large_blocks() -> Iterator[dict[str, bytes]]:
    """An origin, and what was changed since, each sent with and without `-L`."""
    make_pool("large", "1G")
    try:
        run("zfs", "create", "-o", "recordsize=1m", "large/fs")
        folder, chance = FOLDER / "large" / "fs", random.Random(6)
        (folder / "stays").write_bytes(chance.randbytes(5_000_000))
        (folder / "grows").write_bytes(chance.randbytes(1_500_000))
        run("zfs", "snapshot", "large/fs@one")
        with (folder / "stays").open("r+b") as file:
            file.seek(2_300_000)
            file.write(chance.randbytes(200_000))
        with (folder / "grows").open("ab") as file:
            file.write(chance.randbytes(2_000_000))
        run("zfs", "snapshot", "large/fs@two")
        yield {
            "one": sent_by_zfs("large/fs@one"),
            "one -L": sent_by_zfs("-L", "large/fs@one"),
            "two": sent_by_zfs("-i", "large/fs@one", "large/fs@two"),
            "two -L": sent_by_zfs("-L", "-i", "large/fs@one", "large/fs@two"),
        }
    finally:
        run("zpool", "destroy", "-f", "large")


@pytest.mark.parametrize(
    ("origin", "child"), [("one", "two -L"), ("one -L", "two"), ("one -L", "two -L"), ("one", "two")]
)
def test_an_image_with_and_an_origin_without_large_blocks(
    pool: ZfsPool, large_blocks: dict[str, bytes], origin: str, child: str
) -> None:
    """All of it is right, or it is refused with words, and nothing stays (openzfs/zfs#6224)."""
    pool.receive(MADE, in_pieces(large_blocks[origin]))
    pool.publish(MADE)
    said = ""
    try:
        pool.receive(NEXT, in_pieces(large_blocks[child]), origin=MADE)
    except ImgstoreError as error:
        said = f"{error.message}; {error.hint}"
    if said:
        assert (origin, child) == ("one -L", "two"), said
        assert "with large blocks (`zfs send -L`)" in said
        assert pool.partials() == []
        return
    pool.publish(NEXT)
    run("zfs", "mount", f"{pool.name}/{NEXT}")
    run("diff", "-r", f"{FOLDER}/large/fs/.zfs/snapshot/two", f"{FOLDER}/{pool.name}/{NEXT}")
