"""What every pool must do with the layers of container images: one suite, as `contract` is."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest
import structlog

from imgstored.errors import (
    ImageHasDependentClonesError,
    LayerError,
    NoSpaceError,
    OriginNotInstalledError,
    PoolError,
)
from imgstored.pools.base import Boundless
from tests.pools.contract import BASE, INCREMENTAL, OTHER, InterruptedByTestError
from tests.pools.contract import install as install_stream
from tests.support.layers import Member, file, folder, hard, link, listing, member, tar_of
from tests.support.streams import in_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.pools.base import Pool, PoolImage
    from tests.pools.contract import Pools

BOTTOM: list[Member] = [
    folder("bin"),
    file("bin/sh", b"#!" * 100_000),
    hard("bin/bash", "bin/sh"),
    folder("etc"),
    file("etc/motd", b"welcome"),
    link("lib", "usr/lib"),
]
TOP: list[Member] = [file("etc/.wh.motd", b""), file("etc/hosts", b"localhost"), file("lib/libc.so", b"c")]
BOTH = {
    "bin": None,
    "bin/bash": b"#!" * 100_000,
    "bin/sh": b"#!" * 100_000,
    "etc": None,
    "etc/hosts": b"localhost",
    "lib": "-> usr/lib",
    "usr": None,
    "usr/lib": None,
    "usr/lib/libc.so": b"c",
}


def unpack(pool: Pool, uuid: str, members: list[Member], *, origin: str | None = None) -> PoolImage:
    return pool.unpack(uuid, in_pieces(owned(*members), 100_000), origin=origin)


def owned(*members: Member) -> bytes:
    """A layer of files that whoever runs the tests may make."""
    for info, _ in members:
        info.uid, info.gid = os.geteuid(), os.getegid()
    return tar_of(*members)


def install(pool: Pool, uuid: str, members: list[Member], *, origin: str | None = None) -> PoolImage:
    unpack(pool, uuid, members, origin=origin)
    return pool.publish(uuid)


class LayerContract:
    """The tests."""

    def test_a_layer_and_one_on_top_of_it(self, pool: Pool, pools: Pools) -> None:
        received = unpack(pool, BASE, BOTTOM)
        assert (pool.images(), pool.image(BASE)) == ([], None)
        below = pool.publish(BASE)
        assert (below.uuid, below.guid, below.kind) == (BASE, received.guid, "filesystem")
        above = install(pool, INCREMENTAL, TOP, origin=BASE)
        assert (above.origin, above.guid != below.guid) == (BASE, True)
        with pools.tree(INCREMENTAL) as tree:
            assert listing(tree) == BOTH
            assert (tree / "bin/sh").stat().st_ino == (tree / "bin/bash").stat().st_ino
        with pools.tree(BASE) as tree:
            assert set(listing(tree)) == {"bin", "bin/bash", "bin/sh", "etc", "etc/motd", "lib"}
        with pytest.raises(ImageHasDependentClonesError):
            pool.destroy(BASE)
        pool.destroy(INCREMENTAL)
        pool.destroy(BASE)
        assert pool.images() == []

    def test_it_is_there_after_a_restart(self, pools: Pools) -> None:
        pool = pools.open()
        install(pool, BASE, BOTTOM)
        before = install(pool, INCREMENTAL, TOP, origin=BASE)
        again = pools.open()
        assert sorted(image.uuid for image in again.images()) == [BASE, INCREMENTAL]
        image = again.image(INCREMENTAL)
        assert image is not None
        assert (image.guid, image.origin, image.kind) == (before.guid, BASE, "filesystem")
        with pools.tree(INCREMENTAL) as tree:
            assert listing(tree) == BOTH

    def test_modes_times_and_links_are_kept_through_layers(self, pool: Pool, pools: Pools) -> None:
        special = (member("run/pipe", tarfile.FIFOTYPE, mode=0o622, mtime=11), b"")
        su = file("bin/su", b"su", mode=0o4755, mtime=12)
        install(pool, BASE, [folder("bin", mtime=10), su, special])
        install(pool, INCREMENTAL, [file("etc/x")], origin=BASE)
        with pools.tree(INCREMENTAL) as tree:
            status = (tree / "bin/su").stat()
            assert (oct(status.st_mode), status.st_mtime) == (oct(stat.S_IFREG | 0o4755), 12)
            assert (tree / "bin").stat().st_mtime == 10
            pipe = (tree / "run/pipe").stat()
            assert (oct(pipe.st_mode), pipe.st_mtime) == (oct(stat.S_IFIFO | 0o622), 11)

    def test_odd_times_and_attributes(self, pool: Pool, pools: Pools) -> None:
        """A time that 63 bits of nanoseconds have no room for, and a name that is no UTF-8."""
        late = file("late", b"x", mtime=12_000_000_000)
        named = file("named", b"x", pax_headers={"SCHILY.xattr.user.@": "y", "SCHILY.xattr.user.": "z"})
        layer = owned(late, named).replace(b"user.@=", b"user.\xff=")
        pool.unpack(BASE, in_pieces(layer, 100_000), origin=None)
        pool.publish(BASE)
        install(pool, INCREMENTAL, [file("x", b"x")], origin=BASE)
        for uuid in (BASE, INCREMENTAL):
            checked = pool.check(uuid, lambda _: None)
            assert (checked.damaged, checked.changed) == (None, None)
        with pools.tree(INCREMENTAL) as tree:
            assert set(listing(tree)) == {"late", "named", "x"}

    def test_what_no_image_of_this_host_has_is_left_out_and_told(self, pool: Pool, pools: Pools) -> None:
        device = (member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3), b"")
        odd = file("odd", b"x", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})
        with structlog.testing.capture_logs() as logged:
            install(pool, BASE, [device, odd])
        with pools.tree(BASE) as tree:
            assert set(listing(tree)) == {"dev", "odd"}
        [told] = [each for each in logged if "left out" in each["event"]]
        assert (told["uuid"], told["devices"], told["attributes"]) == (BASE, 1, 1)

    def test_an_empty_layer(self, pool: Pool, pools: Pools) -> None:
        install(pool, BASE, [])
        pool.unpack(INCREMENTAL, [], origin=BASE)
        pool.publish(INCREMENTAL)
        with pools.tree(INCREMENTAL) as tree:
            assert listing(tree) == {}

    @pytest.mark.parametrize("size", [0, 600, 150_000])
    def test_an_interrupted_layer_is_unpacked_again(self, pool: Pool, pools: Pools, size: int) -> None:
        layer = owned(*BOTTOM, file("big", bytes(300_000)))

        def broken() -> Iterator[memoryview]:
            yield from in_pieces(layer[:size], 100_000)
            raise InterruptedByTestError

        with pytest.raises(InterruptedByTestError):
            pool.unpack(BASE, broken())
        with pytest.raises(PoolError):
            pool.publish(BASE)
        assert pool.images() == []
        install(pools.open(), BASE, BOTTOM)
        with pools.tree(BASE) as tree:
            assert "big" not in listing(tree)

    def test_a_bad_layer(self, pool: Pool) -> None:
        with pytest.raises(LayerError, match="leads out of the image"):
            unpack(pool, BASE, [file("a"), file("../outside")])
        with pytest.raises(PoolError):
            pool.publish(BASE)
        pool.abandon(BASE)
        assert (pool.partials(), pool.images()) == ([], [])
        install(pool, BASE, BOTTOM)

    def test_a_part_of_a_layer_is_no_part_of_a_stream(self, pool: Pool) -> None:
        with pytest.raises(LayerError):
            unpack(pool, BASE, [file("../outside")])
        install_stream(pool, "base")
        assert pool.image(BASE) is not None

    def test_an_origin_that_is_not_there(self, pool: Pool) -> None:
        with pytest.raises(OriginNotInstalledError):
            unpack(pool, INCREMENTAL, TOP, origin=BASE)
        assert pool.partials() == []

    def test_one_that_is_there_already(self, pool: Pool) -> None:
        install(pool, BASE, BOTTOM)
        with pytest.raises(PoolError, match="already in pool"):
            unpack(pool, BASE, BOTTOM)

    def test_no_room(self, pool: Pool) -> None:
        class Full(Boundless):
            def take(self, size: int) -> None:
                if size > 1 << 16:
                    raise NoSpaceError("there is no room left")

        with pytest.raises(NoSpaceError):
            pool.unpack(BASE, in_pieces(owned(*BOTTOM), 100_000), room=Full())
        pool.abandon(BASE)
        install(pool, OTHER, [file("small")])

    def test_it_can_be_checked(self, pool: Pool) -> None:
        install(pool, BASE, BOTTOM)
        read: list[int] = []
        checked = pool.check(BASE, read.append)
        assert (checked.damaged, checked.changed) == (None, None)
        assert read

    def test_what_has_holds_stays(self, pool: Pool) -> None:
        install(pool, BASE, BOTTOM)
        pool.hold(BASE, "tag")
        with pytest.raises(PoolError):
            pool.destroy(BASE)
        pool.release(BASE, "tag")
        pool.destroy(BASE)
