"""Images in a real pool that others change, too, are compared with what was installed."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from msgspec.structs import replace

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.holds import Holds
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.receipts import Receipts, receipt_of
from imgstored.catalog.refresh import Refresh
from imgstored.errors import ImageHeldError, ImageNotInstalledError, InvalidUUIDError, PoolNotFoundError
from imgstored.maintenance import verifier
from imgstored.maintenance.verifier import Host, Verifier
from imgstored.pools.base import Occupant
from tests.imports.house import RememberingView, until
from tests.pools.contract import BASE, IMAGES, INCREMENTAL, OTHER, ZVOL, install
from tests.support.events import Verified, Verifying
from tests.support.image_site import fixture_manifest
from tests.support.lock_holder import LockHolder
from tests.support.shared_pool import SharedPool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgproto.events import EventDocument


@dataclass
class House:
    """A verifier, and what it stands on. `told` are the events of all verifications."""

    folder: Path
    pool: SharedPool
    catalog: Catalog
    receipts: Receipts
    verifier: Verifier
    busy: bool = False
    told: list[EventDocument] = field(default_factory=list)

    def install(self, uuid: str, *, receipt: bool = True) -> None:
        """As the daemon does; or without a receipt, as imgadm does."""
        name = next(name for name, each in IMAGES.items() if each == uuid)
        self.catalog.write_manifest("zones", uuid, fixture_manifest(uuid), "http://source")
        image = install(self.pool, name)
        self.catalog.keep_manifest("zones", uuid)
        if receipt:
            origin = None if image.origin is None else self.pool.image(image.origin)
            self.receipts.write("zones", uuid, receipt_of(image, None, origin and origin.guid))

    def image(self, uuid: str) -> Path:
        return self.folder / "pool" / uuid

    def manifest(self, uuid: str) -> Path:
        return self.folder / "images" / f"zones-{uuid}.json"

    async def verify(self, *uuids: str, pool: str | None = None, record: bool = False) -> dict[str, str]:
        """The result of each image, in order."""
        told: list[EventDocument] = []

        async def tell(event: EventDocument) -> None:
            told.append(event)
            self.told.append(event)

        counts = await self.verifier.verify(
            list(uuids) or None, pool, client="test", tell=tell, record=record
        )
        results = {event["uuid"]: event["result"] for event in told if event["event"] == "verified"}
        assert sum(counts.values()) == len(results)
        assert all(counts[result] == list(results.values()).count(result) for result in counts)
        return results  # type: ignore[return-value]

    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.told if event["event"] == "verified" and event["reason"]]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    pool = SharedPool("zones", tmp_path / "pool")
    catalog = Catalog({"zones": pool}, tmp_path / "images")
    catalog.load()
    receipts = Receipts(tmp_path / "receipts")
    host = Host(
        catalog,
        receipts,
        Holds(catalog),
        Refresh(catalog, RememberingView()),
        ImageLocks(tmp_path / "locks"),
        lambda: house.busy,
    )
    house = House(tmp_path, pool, catalog, receipts, Verifier(host))
    yield house
    pool.close()


async def test_all_is_well(house: House) -> None:
    for uuid in (BASE, INCREMENTAL, ZVOL):
        house.install(uuid)
    assert await house.verify() == dict.fromkeys((BASE, INCREMENTAL, ZVOL), "ok")
    assert await house.verify(pool="zones") == dict.fromkeys((BASE, INCREMENTAL, ZVOL), "ok")
    assert house.reasons() == []
    assert Verifying(ZVOL, "zones", "zvol", "1.0.0", 25_165_824) in house.told
    assert house.pool.holds(BASE) == []


async def test_an_origin_is_read_before_its_clone_and_once(house: House) -> None:
    for uuid in (BASE, INCREMENTAL, ZVOL):
        house.install(uuid)
    assert list(await house.verify(INCREMENTAL, BASE, INCREMENTAL)) == [BASE, INCREMENTAL]
    assert list(await house.verify(ZVOL)) == [ZVOL]


async def test_what_is_not_there_and_never_was(house: House) -> None:
    house.install(BASE)
    with pytest.raises(ImageNotInstalledError):
        await house.verify(BASE, OTHER)
    with pytest.raises(InvalidUUIDError):
        await house.verify("../x")
    with pytest.raises(PoolNotFoundError):
        await house.verify(pool="tank")
    assert house.told == []


async def test_damaged(house: House) -> None:
    house.install(BASE)
    house.install(INCREMENTAL)
    with (house.image(BASE) / "stream.zfs").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"rotten")
    assert await house.verify() == {BASE: "damaged", INCREMENTAL: "ok"}
    assert "checksum" in house.reasons()[0]


@pytest.mark.parametrize(
    ("content", "result", "words"),
    [
        (None, "damaged", "is missing"),
        ("{", "damaged", "cannot be read"),
        ('{"manifest": {"uuid": "' + OTHER + '", "v": 2}}', "damaged", "another image's"),
    ],
)
async def test_a_manifest(house: House, content: str | None, result: str, words: str) -> None:
    house.install(BASE)
    house.manifest(BASE).unlink()
    if content is not None:
        house.manifest(BASE).write_text(content)
    assert await house.verify() == {BASE: result}
    assert words in house.reasons()[0]


async def test_another_image_under_its_uuid(house: House) -> None:
    house.install(BASE)
    shutil.rmtree(house.image(BASE))
    assert house.pool.image(BASE) is None
    install(house.pool, "zvol", BASE)
    assert await house.verify() == {BASE: "changed"}
    assert await house.verify() == {BASE: "changed"}


async def test_the_same_image_installed_again_by_others(house: House) -> None:
    house.install(BASE)
    written = house.receipts.read("zones", BASE)
    shutil.rmtree(house.image(BASE))
    assert house.pool.image(BASE) is None
    again = install(house.pool, "base")
    assert await house.verify() == {BASE: "unknown"}
    assert "an earlier dataset of it" in house.reasons()[0]
    assert written is not None
    receipt = house.receipts.read("zones", BASE)
    assert receipt == receipt_of(again, None, None) != written
    assert await house.verify() == {BASE: "ok"}


async def test_of_others_it_is_written_down_what_they_are(house: House) -> None:
    house.install(BASE, receipt=False)
    assert await house.verify() == {BASE: "unknown"}
    assert await house.verify() == {BASE: "ok"}
    receipt = house.receipts.read("zones", BASE)
    assert receipt is not None
    assert receipt.guid == 3180115020765103000
    # But not of what cannot be read.
    house.install(ZVOL, receipt=False)
    (house.image(ZVOL) / "skeleton.zfs").unlink()
    assert await house.verify(ZVOL) == {ZVOL: "damaged"}
    assert house.receipts.read("zones", ZVOL) is None


async def test_lost_or_deleted(house: House) -> None:
    for uuid in (BASE, INCREMENTAL, ZVOL):
        house.install(uuid)
        shutil.rmtree(house.image(uuid))
    # As imgadm deletes.
    house.manifest(ZVOL).unlink()
    # As we begin to delete, or have not yet published.
    house.catalog.mark_pending("zones", INCREMENTAL)
    assert await house.verify() == {BASE: "lost"}
    assert house.told[-1] == Verified(BASE, "zones", "base", "1.0.0", "lost", house.reasons()[0])
    assert house.receipts.uuids("zones") == [BASE]
    assert await house.verify(BASE) == {BASE: "lost"}


async def test_what_somebody_is_at_work_on_is_not_lost(house: House) -> None:
    house.install(BASE)
    shutil.rmtree(house.image(BASE))
    with LockHolder(house.folder / "locks", BASE):
        assert await house.verify() == {}
    assert house.receipts.uuids("zones") == [BASE]


class Slow:
    """Makes the pool's checks wait for the test after each piece."""

    def __init__(self, pool: SharedPool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading = threading.Event()
        self.go = threading.Event()
        self.ended = threading.Event()
        check = pool.check

        def slowly(uuid: str, on_read: Any, **asked: bool) -> Any:
            def read(done: int) -> None:
                self.reading.set()
                self.go.wait(10)
                on_read(done)

            try:
                return check(uuid, read, **asked)
            finally:
                self.ended.set()

        monkeypatch.setattr(pool, "check", slowly)


async def happened(event: threading.Event) -> None:
    assert await trio.to_thread.run_sync(partial(event.wait, 10))


async def test_it_cannot_be_deleted_while_it_is_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.install(BASE)
    slow = Slow(house.pool, monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.verify)
        await happened(slow.reading)
        with pytest.raises(ImageHeldError, match="test, verifying"):
            house.pool.destroy(BASE)
        slow.go.set()
    house.pool.destroy(BASE)


async def test_who_leaves_ends_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.install(BASE)
    slow = Slow(house.pool, monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.verify)
        await happened(slow.reading)
        nursery.cancel_scope.cancel()
    assert house.pool.holds(BASE) == []
    assert not slow.ended.is_set()
    slow.go.set()
    await happened(slow.ended)
    assert [event for event in house.told if event["event"] == "verified"] == []
    assert await house.verify() == {BASE: "ok"}


async def test_one_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.install(BASE)
    slow = Slow(house.pool, monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.verify)
        await happened(slow.reading)
        nursery.start_soon(house.verify)
        await until(lambda: any(event["event"] == "note" for event in house.told))
        assert sum(event["event"] == "verifying" for event in house.told) == 1
        slow.go.set()
    assert [event["result"] for event in house.told if event["event"] == "verified"] == ["ok", "ok"]


async def test_it_tells_how_far_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_INTERVAL", 0.01)
    house.install(BASE)
    slow = Slow(house.pool, monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.verify)
        await until(lambda: any(event["event"] == "progress" for event in house.told))
        slow.go.set()
    progress = next(event for event in house.told if event["event"] == "progress")
    assert [(image["uuid"], image["phase"]) for image in progress["images"]] == [(BASE, "verifying")]
    assert progress["total"] is not None
    assert 0 <= progress["done"] <= progress["total"]


@pytest.mark.alone
async def test_it_rests_while_something_is_imported(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading of which each piece takes 10 ms takes four times as long."""
    check = house.pool.check

    def slowly(uuid: str, on_read: Any, **asked: bool) -> Any:
        for done in range(10):
            time.sleep(0.01)
            on_read(done)
        return check(uuid, lambda _: None, **asked)

    house.install(ZVOL)
    monkeypatch.setattr(house.pool, "check", slowly)
    seconds = {}
    for house.busy in (False, True):
        began = time.perf_counter()
        await house.verify()
        seconds[house.busy] = time.perf_counter() - began
    assert seconds[True] - seconds[False] > 0.2


# -- recording -----------------------------------------------------------------------------------------------


async def test_what_others_installed_is_recorded_and_compared(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded pool has no checksum of the data: here it says what ZFS would."""
    asked: list[bool] = []
    data = "aa"
    check = house.pool.check

    def summed(uuid: str, on_read: Any, *, content: bool = False) -> Any:
        asked.append(content)
        return replace(check(uuid, on_read), content=data if content else None)

    monkeypatch.setattr(house.pool, "check", summed)
    house.install(BASE, receipt=False)
    assert await house.verify(record=True) == {BASE: "recorded"}
    assert house.receipts.read("zones", BASE).content == "aa"  # type: ignore[union-attr]
    assert await house.verify() == {BASE: "ok"}
    data = "bb"
    assert await house.verify() == {BASE: "changed"}
    assert "SHA-256 bb" in house.reasons()[-1]
    # An operator who knows better says so.
    assert await house.verify(record=True) == {BASE: "recorded"}
    assert "SHA-256 bb" in house.reasons()[-1]
    assert await house.verify() == {BASE: "ok"}
    assert asked == [True, True, True, True, True]
    # What we installed costs no more than before.
    house.install(ZVOL)
    assert await house.verify(ZVOL) == {ZVOL: "ok"}
    assert asked[-1] is False


async def test_what_is_damaged_is_not_recorded(house: House) -> None:
    house.install(BASE)
    before = house.receipts.read("zones", BASE)
    with (house.image(BASE) / "stream.zfs").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"rotten")
    assert await house.verify(record=True) == {BASE: "damaged"}
    assert house.receipts.read("zones", BASE) == before


async def test_what_somebody_is_receiving_again_is_not_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.install(BASE)
    shutil.rmtree(house.image(BASE))
    half = Occupant(f"zones/{BASE}", None, used=5, receiving=True)
    with monkeypatch.context() as patch:
        patch.setattr(house.pool, "occupant", lambda uuid: half)
        assert await house.verify() == {}
    assert await house.verify() == {BASE: "lost"}
