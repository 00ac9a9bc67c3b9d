"""What every pool must do: one suite, to which each kind of pool gives a fixture `pools`.

Subclass `PoolContract` in a test file, and have a fixture `pools` that gives `Pools`: its `open` opens the
same pool each time, as after a restart. Streams are real ones, so that a ZFS can receive them.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Literal, Protocol

import pytest

from imgstored.errors import (
    ImageHasDependentClonesError,
    ImageNotInstalledError,
    InvalidUUIDError,
    OriginNotInstalledError,
    PoolError,
    StreamError,
    UsageError,
)
from imgstored.pools.base import Use
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import CHECKED_SIZE, RecordType
from tests.support.streams import in_pieces, real_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from imgstored.pools.base import Blocks, Pool, PoolImage

BASE = "11111111-aaaa-4bbb-8ccc-000000000001"
INCREMENTAL = "11111111-aaaa-4bbb-8ccc-000000000002"
ZVOL = "11111111-aaaa-4bbb-8ccc-000000000003"
OTHER = "11111111-aaaa-4bbb-8ccc-000000000009"

Name = Literal["base", "incremental", "zvol"]
IMAGES: dict[Name, str] = {"base": BASE, "incremental": INCREMENTAL, "zvol": ZVOL}
GUIDS: dict[Name, int] = {
    "base": 3180115020765103000,
    "incremental": 11629902597155826855,
    "zvol": 6288250722394751052,
}
#: Where in BEGIN the sender's name of the snapshot is.
TONAME_AT = 56
EVERY = pytest.mark.parametrize("name", list(IMAGES))


class Pools(Protocol):
    """One pool of a test, which can be opened again."""

    def open(self) -> Pool: ...

    def resume_point(self, uuid: str) -> int:
        """The bytes of the stream that are safe in UUID-partial; 0 if there is none. Asks the disk itself."""
        ...

    def tree(self, uuid: str) -> AbstractContextManager[Path]:
        """The files of a container image that is published, by what the disk itself has."""
        ...


class InterruptedByTestError(Exception):
    """Something went wrong on the way to the pool."""


def interrupted(stream: bytes, size: int) -> Iterator[memoryview]:
    """The stream's first `size` bytes, and then an error."""
    yield from in_pieces(stream[:size], 100_000)
    raise InterruptedByTestError


def receive(pool: Pool, name: Name, blocks: Blocks | None = None, uuid: str | None = None) -> PoolImage:
    """Receives one of the real streams; the incremental one with the base as its origin."""
    origin = BASE if name == "incremental" else None
    stream = in_pieces(real_stream(name), 100_000) if blocks is None else blocks
    return pool.receive(uuid or IMAGES[name], stream, origin=origin)


def install(pool: Pool, name: Name, uuid: str | None = None) -> PoolImage:
    receive(pool, name, uuid=uuid)
    return pool.publish(uuid or IMAGES[name])


def begin(pool: Pool, name: Name, size: int, uuid: str | None = None) -> None:
    """Receives the first `size` bytes."""
    with pytest.raises(InterruptedByTestError):
        receive(pool, name, interrupted(real_stream(name), size), uuid)


def dependents(pool: Pool, uuid: str) -> list[str]:
    return list(pool.uses().get(uuid, Use()).dependents)


def sent(pool: Pool, uuid: str) -> bytes:
    return b"".join(pool.send(uuid))


def content(pool: Pool, uuid: str) -> str:
    """What the image's stream says, but for its sender's name, which all checksums depend on."""
    reader, digest = StreamReader(), hashlib.sha256()
    for piece in pool.send(uuid):
        for record in reader.records(piece):
            if record.type == RecordType.BEGIN:
                digest.update(record.header[:TONAME_AT])
            elif record.type != RecordType.END:
                digest.update(record.header[:CHECKED_SIZE])
                digest.update(record.payload)
    reader.finish()
    return digest.hexdigest()


@pytest.fixture
def pool(pools: Pools) -> Pool:
    return pools.open()


class PoolContract:
    """The tests. A stream is compared by receiving it again, which is all that a ZFS promises of it."""

    # -- an image comes to be ----------------------------------------------------------------------------

    def test_an_empty_pool(self, pool: Pool, pools: Pools) -> None:
        assert pool.images() == []
        assert pool.partials() == []
        assert pool.image(BASE) is None
        assert pools.resume_point(BASE) == pool.resume_point(BASE) == 0
        assert pool.uses() == {}

    @EVERY
    def test_received_and_then_published(self, pool: Pool, pools: Pools, name: Name) -> None:
        if name == "incremental":
            install(pool, "base")
        uuid, before = IMAGES[name], pool.images()
        received = receive(pool, name)
        assert pool.images() == before
        assert pool.image(uuid) is None
        assert pool.partials() == [uuid]
        published = pool.publish(uuid)
        assert pool.image(uuid) == published
        assert published in pool.images()
        assert pool.partials() == []
        for image in (received, published, pools.open().image(uuid)):
            assert image is not None
            assert (image.uuid, image.guid) == (uuid, GUIDS[name])
            assert image.kind == ("volume" if name == "zvol" else "filesystem")
            assert image.origin == (BASE if name == "incremental" else None)
            assert image.referenced > 0
            assert image.used > 0

    def test_received_again_it_is_another_dataset(self, pool: Pool, pools: Pools) -> None:
        received = receive(pool, "base")
        published = pool.publish(BASE)
        again = pools.open().image(BASE)
        assert again is not None
        assert received.dataset == published.dataset == again.dataset != 0
        pool = pools.open()
        pool.destroy(BASE)
        assert install(pool, "base").dataset not in (0, received.dataset)

    def test_a_volume_is_as_large_as_its_disk(self, pool: Pool) -> None:
        assert install(pool, "zvol").referenced == 25_165_824

    @EVERY
    def test_what_is_sent_makes_the_same_image(self, pool: Pool, name: Name) -> None:
        install(pool, "base")
        if name != "base":
            install(pool, name)
        receive(pool, name, pool.send(IMAGES[name]), OTHER)
        again, first = pool.publish(OTHER), pool.image(IMAGES[name])
        assert first is not None
        assert (again.guid, again.kind) == (first.guid, first.kind)
        # How many blocks of metadata there are is a ZFS's own business.
        assert again.referenced == pytest.approx(first.referenced, rel=0.01)
        assert content(pool, OTHER) == content(pool, IMAGES[name])

    @EVERY
    def test_checked(self, pool: Pool, name: Name) -> None:
        install(pool, "base")
        if name != "base":
            install(pool, name)
        uuid, read = IMAGES[name], [0]
        checked = pool.check(uuid, read.append)
        assert (checked.damaged, checked.changed) == (None, None)
        assert checked.image == pool.image(uuid)
        assert checked.stream_size in (None, len(real_stream(name)))
        assert read == sorted(read)
        assert read[-1] > 500_000

    def test_a_check_ends_when_it_is_told_to(self, pool: Pool) -> None:
        install(pool, "base")

        def interrupt(_: int) -> None:
            raise InterruptedByTestError

        with pytest.raises(InterruptedByTestError):
            pool.check(BASE, interrupt)
        with pytest.raises(ImageNotInstalledError):
            pool.check(OTHER, interrupt)
        pool.destroy(BASE)

    @pytest.mark.parametrize("size", [1, 313, 65_536, 1 << 30])
    def test_pieces_of_any_length(self, pool: Pool, size: int) -> None:
        stream = real_stream("zvol")
        pieces = [stream[start : start + 1] for start in range(2000)] + [stream[2000:]]
        receive(pool, "zvol", pieces if size == 1 else in_pieces(stream, size))
        assert pool.publish(ZVOL).guid == GUIDS["zvol"]

    def test_pieces_of_any_type(self, pool: Pool) -> None:
        stream = real_stream("zvol")
        receive(pool, "zvol", [stream[:999], b"", bytearray(stream[999:2000]), memoryview(stream)[2000:]])
        assert pool.publish(ZVOL).guid == GUIDS["zvol"]

    def test_what_is_an_image_has_its_name(self, pool: Pool) -> None:
        install(pool, "base")
        assert pool.unnamed() == {}
        with pytest.raises(PoolError):
            pool.name_final(BASE, "other")

    def test_a_pool_has_a_name_and_room(self, pool: Pool) -> None:
        assert pool.name
        space = pool.space()
        assert 0 < space.available <= space.total
        assert pool.storage

    def test_a_sound_pool_has_no_damage(self, pool: Pool) -> None:
        install(pool, "base")
        assert pool.damage() == []

    # -- what cannot be received -------------------------------------------------------------------------

    @EVERY
    @pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
    def test_cut_short(self, pool: Pool, name: Name, part: float) -> None:
        install(pool, "base", OTHER if name == "base" else BASE)
        stream = real_stream(name)
        with pytest.raises(StreamError) as caught:
            receive(pool, name, in_pieces(stream[: int(part * len(stream))]))
        assert caught.value.hint
        with pytest.raises(PoolError):
            pool.publish(IMAGES[name])
        assert pool.image(IMAGES[name]) is None

    @EVERY
    def test_damaged(self, pool: Pool, name: Name) -> None:
        if name == "incremental":
            install(pool, "base")
        damaged = bytearray(real_stream(name))
        damaged[len(damaged) // 2] ^= 16
        with pytest.raises(StreamError):
            receive(pool, name, in_pieces(bytes(damaged)))
        with pytest.raises(PoolError):
            pool.publish(IMAGES[name])
        # It is no obstacle to a sound one.
        assert install(pool, name).guid == GUIDS[name]

    @pytest.mark.parametrize("data", [b"", b"<html>not here</html>", bytes(100_000)])
    def test_no_stream(self, pool: Pool, data: bytes) -> None:
        with pytest.raises(StreamError):
            receive(pool, "base", [data])
        assert pool.image(BASE) is None

    def test_something_follows(self, pool: Pool) -> None:
        with pytest.raises(StreamError):
            receive(pool, "zvol", [real_stream("zvol") + bytes(8)])

    def test_what_is_there_already(self, pool: Pool) -> None:
        image = install(pool, "base")
        with pytest.raises(PoolError, match="already"):
            receive(pool, "base")
        assert pool.image(BASE) == image

    # -- origins -----------------------------------------------------------------------------------------

    def test_without_its_origin(self, pool: Pool) -> None:
        with pytest.raises(OriginNotInstalledError, match=BASE):
            receive(pool, "incremental")
        receive(pool, "base")
        with pytest.raises(OriginNotInstalledError, match=BASE):  # not published yet
            receive(pool, "incremental")
        assert pool.partials() == [BASE]

    def test_with_another_origin(self, pool: Pool) -> None:
        install(pool, "base")
        install(pool, "zvol")
        with pytest.raises(OriginNotInstalledError, match=f"guid {GUIDS['base']}"):
            pool.receive(INCREMENTAL, [real_stream("incremental")], origin=ZVOL)

    def test_an_incremental_stream_without_an_origin(self, pool: Pool) -> None:
        install(pool, "base")
        with pytest.raises(OriginNotInstalledError, match=f"guid {GUIDS['base']}"):
            pool.receive(INCREMENTAL, [real_stream("incremental")])

    def test_a_full_stream_with_an_origin(self, pool: Pool) -> None:
        install(pool, "base")
        with pytest.raises(StreamError, match="full") as caught:
            pool.receive(ZVOL, [real_stream("zvol")], origin=BASE)
        assert caught.value.hint
        assert pool.partials() == []

    # -- going on ----------------------------------------------------------------------------------------

    @EVERY
    @pytest.mark.parametrize("reopened", [False, True])
    @pytest.mark.parametrize("part", [0.001, 0.4, 0.97])
    def test_goes_on_where_it_was_cut(self, pools: Pools, name: Name, part: float, reopened: bool) -> None:
        pool = pools.open()
        install(pool, "base", OTHER if name == "base" else BASE)
        uuid, stream = IMAGES[name], real_stream(name)
        size = int(part * len(stream))
        begin(pool, name, size)
        pool = pools.open() if reopened else pool
        assert pool.image(uuid) is None
        assert pools.resume_point(uuid) <= size
        if part > 0.3:
            assert pools.resume_point(uuid) >= size - 300_000  # a record, and a piece
            assert pool.partials() == [uuid]
        receive(pool, name)
        pool.publish(uuid)
        assert pools.resume_point(uuid) == 0
        whole = content(pool, uuid)
        install_afresh(pool, name, uuid)
        assert whole == content(pool, uuid)

    def test_cut_again_and_again(self, pool: Pool, pools: Pools) -> None:
        stream = real_stream("base")
        points = []
        for size in range(200_000, len(stream), 600_000):
            begin(pool, "base", size)
            points.append(pools.resume_point(BASE))
            assert pool.resume_point(BASE) == points[-1]
        assert points == sorted(points)
        receive(pool, "base")
        pool.publish(BASE)
        install(pool, "base", OTHER)
        assert content(pool, BASE) == content(pool, OTHER)

    def test_cut_before_what_is_there(self, pool: Pool, pools: Pools) -> None:
        begin(pool, "base", 2_000_000)
        point = pools.resume_point(BASE)
        begin(pool, "base", 1_000_000)
        assert pools.resume_point(BASE) == point
        assert install(pool, "base").guid == GUIDS["base"]

    def test_another_stream(self, pool: Pool) -> None:
        begin(pool, "base", 2_000_000)
        image = pool.receive(BASE, in_pieces(real_stream("zvol")))
        assert (image.guid, image.kind) == (GUIDS["zvol"], "volume")
        pool.publish(BASE)
        install(pool, "zvol")
        assert content(pool, BASE) == content(pool, ZVOL)

    def test_another_origin(self, pool: Pool) -> None:
        install(pool, "base")
        install(pool, "base", OTHER)
        begin(pool, "incremental", 300_000)
        assert pool.receive(INCREMENTAL, [real_stream("incremental")], origin=OTHER).origin == OTHER
        assert pool.publish(INCREMENTAL).origin == OTHER
        assert dependents(pool, BASE) == []

    def test_complete_but_not_published(self, pools: Pools) -> None:
        receive(pools.open(), "base")
        pool = pools.open()
        assert pool.partials() == [BASE]
        assert install(pool, "base").guid == GUIDS["base"]

    def test_an_interrupted_receive_cannot_be_published(self, pool: Pool) -> None:
        begin(pool, "base", 2_000_000)
        with pytest.raises(PoolError):
            pool.publish(BASE)
        assert pool.images() == []

    def test_published_after_a_restart(self, pools: Pools) -> None:
        receive(pools.open(), "zvol")
        assert pools.open().publish(ZVOL).guid == GUIDS["zvol"]

    def test_abandoned(self, pool: Pool, pools: Pools) -> None:
        begin(pool, "base", 2_000_000)
        pool.abandon(BASE)
        pool.abandon(BASE)
        for each in (pool, pools.open()):
            assert each.partials() == []
            assert pools.resume_point(BASE) == each.resume_point(BASE) == 0
        with pytest.raises(PoolError):
            pool.publish(BASE)

    def test_nothing_to_publish(self, pool: Pool) -> None:
        with pytest.raises(PoolError):
            pool.publish(BASE)
        install(pool, "base")
        with pytest.raises(PoolError):
            pool.publish(BASE)

    # -- an image ends -----------------------------------------------------------------------------------

    @EVERY
    def test_destroyed(self, pool: Pool, pools: Pools, name: Name) -> None:
        install(pool, "base", OTHER if name == "base" else BASE)
        install(pool, name)
        pool.destroy(IMAGES[name])
        for each in (pool, pools.open()):
            assert each.image(IMAGES[name]) is None
            assert len(each.images()) == 1
        with pytest.raises(ImageNotInstalledError):
            pool.destroy(IMAGES[name])
        assert install(pool, name).guid == GUIDS[name]

    def test_an_origin_is_kept(self, pool: Pool) -> None:
        install(pool, "base")
        install(pool, "incremental")
        assert dependents(pool, BASE) == [f"{pool.name}/{INCREMENTAL}"]
        with pytest.raises(ImageHasDependentClonesError) as caught:
            pool.destroy(BASE)
        assert caught.value.message == f'image "{BASE}" has dependent clones: {pool.name}/{INCREMENTAL}'
        install(pool, "incremental", OTHER)
        with pytest.raises(ImageHasDependentClonesError, match=r"and 1 others\.\.\.") as caught:
            pool.destroy(BASE)
        assert sorted(caught.value.data["dependents"]) == sorted(dependents(pool, BASE))
        pool.destroy(OTHER)
        pool.destroy(INCREMENTAL)
        pool.destroy(BASE)
        assert pool.images() == []

    def test_the_origin_of_what_is_received_is_kept(self, pool: Pool, pools: Pools) -> None:
        install(pool, "base")
        begin(pool, "incremental", 400_000)
        for each in (pool, pools.open()):
            assert dependents(each, BASE) == [f"{each.name}/{INCREMENTAL}-partial"]
            with pytest.raises(ImageHasDependentClonesError):
                each.destroy(BASE)
        pool.abandon(INCREMENTAL)
        pool.destroy(BASE)

    def test_the_origin_is_kept_while_its_clone_comes(self, pool: Pool) -> None:
        install(pool, "base")

        def blocks() -> Iterator[memoryview]:
            for piece in in_pieces(real_stream("incremental"), 100_000):
                yield piece
                with pytest.raises(ImageHasDependentClonesError):
                    pool.destroy(BASE)

        receive(pool, "incremental", blocks())
        assert pool.publish(INCREMENTAL).origin == BASE

    def test_holds(self, pool: Pool, pools: Pools) -> None:
        install(pool, "base")
        assert pool.holds(BASE) == []
        for tag in ("vm 2", "vm 1", "vm 2"):
            pool.hold(BASE, tag)
        assert pool.holds(BASE) == ["vm 1", "vm 2"]
        again = pools.open()
        assert again.holds(BASE) == ["vm 1", "vm 2"]
        with pytest.raises(PoolError, match="vm 1, vm 2"):
            again.destroy(BASE)
        assert again.image(BASE) is not None
        again.release(BASE, "vm 1")
        again.release(BASE, "never there")
        with pytest.raises(PoolError, match="vm 2"):
            again.destroy(BASE)
        again.release(BASE, "vm 2")
        assert pools.open().holds(BASE) == []
        again.destroy(BASE)

    def test_what_is_in_use(self, pool: Pool) -> None:
        assert pool.uses() == {}
        install(pool, "base")
        install(pool, "zvol")
        assert {uuid: use for uuid, use in pool.uses().items() if use != Use()} == {}
        receive(pool, "incremental")
        pool.hold(ZVOL, "vm 2")
        pool.hold(ZVOL, "vm 1")
        coming = f"{pool.name}/{INCREMENTAL}-partial"
        assert pool.uses() == {BASE: Use((coming,)), ZVOL: Use((), ("vm 1", "vm 2"), held=True)}
        pool.publish(INCREMENTAL)
        pool.release(ZVOL, "vm 1")
        pool.release(ZVOL, "vm 2")
        uses = pool.uses()
        assert uses.pop(BASE) == Use((f"{pool.name}/{INCREMENTAL}",))
        assert set(uses.values()) == {Use()}

    @pytest.mark.parametrize("tag", ["", "x" * 10_000, "two\nlines", "\0"])
    def test_tags_that_are_none(self, pool: Pool, tag: str) -> None:
        install(pool, "zvol")
        with pytest.raises(UsageError):
            pool.hold(ZVOL, tag)
        assert pool.holds(ZVOL) == []

    # -- who asks ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "ask",
        [
            lambda pool: pool.destroy(BASE),
            lambda pool: pool.hold(BASE, "tag"),
            lambda pool: pool.release(BASE, "tag"),
            lambda pool: pool.holds(BASE),
            lambda pool: list(pool.send(BASE)),
        ],
    )
    def test_images_that_are_not_there(self, pool: Pool, ask: Callable[[Pool], object]) -> None:
        for _ in range(2):
            with pytest.raises(ImageNotInstalledError):
                ask(pool)
            receive(pool, "base")  # a partial is none either

    @pytest.mark.parametrize(
        "uuid", ["", "..", "a/b", BASE.upper(), BASE + "-partial", BASE + "\n", f"../{BASE}"]
    )
    def test_names_that_are_no_uuid(self, pool: Pool, uuid: str) -> None:
        asks: list[Callable[[], object]] = [
            lambda: pool.receive(uuid, [real_stream("zvol")]),
            lambda: pool.receive(BASE, [real_stream("incremental")], origin=uuid),
            lambda: pool.publish(uuid),
            lambda: pool.abandon(uuid),
            lambda: pool.destroy(uuid),
            lambda: pool.hold(uuid, "tag"),
            lambda: pool.send(uuid),
            lambda: pool.holds(uuid),
        ]
        for ask in asks:
            with pytest.raises(InvalidUUIDError):
                ask()

    def test_several_threads(self, pool: Pool) -> None:
        install(pool, "base")
        failures: list[BaseException] = []

        def work(name: Name, uuid: str) -> None:
            try:
                for _ in range(3):
                    install(pool, name, uuid)
                    assert any(image.uuid == uuid for image in pool.images())
                    pool.hold(uuid, "tag")
                    pool.release(uuid, "tag")
                    pool.destroy(uuid)
            except BaseException as error:  # noqa: BLE001  (shown below)
                failures.append(error)

        threads = [
            threading.Thread(target=work, args=args)
            for args in (("incremental", INCREMENTAL), ("zvol", ZVOL), ("base", OTHER))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [image.uuid for image in pool.images()] == [BASE]


def install_afresh(pool: Pool, name: Name, uuid: str) -> None:
    pool.destroy(uuid)
    install(pool, name, uuid)
