"""Imports and deletions alongside somebody who changes the same pool, and takes the same locks."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec.structs import replace

from imgstored.catalog import image_locks
from imgstored.create.export import Exporter
from imgstored.errors import ImageNotInstalledError, ImgstoreError, PoolError
from imgstored.imports import import_
from imgstored.pools import timeout
from imgstored.pools.base import Occupant, PoolImage
from tests.imports.house import TESTER, House, open_house, pages, until
from tests.support.events import (
    AlreadyInstalled,
    AncestorInstalled,
    Downloaded,
    Installed,
    InstalledMeanwhile,
    Note,
    WaitingForLock,
)
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.lock_holder import LockHolder, is_free
from tests.support.other_writer import OtherWriter
from tests.support.shared_pool import SharedPool
from tests.support.streams import real_stream
from tests.support.triton_agent import NO_SHA1, agents_manifest, record_text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["open_house", "pages"]


@pytest.fixture
def other(tmp_path):
    state = tmp_path / "state"
    return OtherWriter(tmp_path / "other", pool=state / "pool", manifests=state / "imgadm" / "images")


@pytest.fixture
def locks(tmp_path):
    """The folder of the locks."""
    return tmp_path / "state" / "locks"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    monkeypatch.setattr(image_locks, "_ANNOUNCE_AFTER", 0.05)
    monkeypatch.setattr(import_, "_PAUSE", 0.01)


def downloads(nginx) -> int:
    return sum(hit.path.endswith("/file") for hit in nginx.settled_hits())


async def test_what_others_do_is_seen_by_the_next_who_asks(open_house, other, nginx):
    async with open_house(kind=SharedPool) as house:
        assert await house.images.installed() == []
        other.install(BASE)
        [wire] = await house.images.installed()
        assert (wire["manifest"], wire["source"]) == (fixture_manifest(BASE), "http://imgadm")
        assert house.view.shown == {BASE}
        assert await house.all_events(BASE) == [AlreadyInstalled(BASE, "base", "1.0.0")]
        assert AncestorInstalled(BASE) in await house.all_events(INCREMENTAL)
        await house.delete(INCREMENTAL)

        other.write_manifest(BASE, description="another")
        assert (await house.images.image(BASE, None, recursive=False))["manifest"]["description"] == "another"
        other.delete(BASE)
        for ask in (
            house.images.image(BASE, None, recursive=False),
            house.delete(BASE),
            house.images.hold(BASE, "tag", None),
            house.images.holds(BASE, None),
        ):
            with pytest.raises(ImageNotInstalledError):
                await ask
        assert house.view.shown == set()
    assert downloads(nginx) <= 2


async def test_the_view_follows_without_anybody_asking(open_house, other):
    async with open_house(kind=SharedPool, every=0.02) as house:
        other.install(BASE)
        await until(lambda: house.view.shown == {BASE})
        other.delete(BASE)
        await until(lambda: house.view.shown == set())


async def told_to_wait(request) -> list[object]:
    """The events up to the one that says that the image's lock is waited for."""
    events: list[object] = []
    async for event in request:
        events.append(event)
        if event["event"] == "waiting-for-lock":
            return events
    raise AssertionError(f"nothing was waited for: {events}")


async def test_an_import_waits_for_imgadm_and_finds_the_image(open_house, other, locks):
    async with open_house(kind=SharedPool) as house:
        with LockHolder(locks, BASE) as imgadm:
            async with house.imports.request([BASE], requester=TESTER) as request:
                events = await told_to_wait(request)
                # The download does not wait.
                while Downloaded(BASE, 1_851_100) not in events:
                    events.append(await anext(request))
                assert house.pool.partials() == []
                other.install(BASE)
                imgadm.release()
                rest = [event async for event in request if event["event"] != "progress"]
        assert rest == [InstalledMeanwhile(BASE, "base", "1.0.0")]
        assert house.left() == []
        assert house.view.shown == {BASE}
        assert house.catalog.get("zones", BASE).source == "http://imgadm"
    assert is_free(locks, BASE)


async def test_an_import_whose_image_imgadm_did_not_install_goes_on(open_house, locks, monkeypatch):
    free = []
    publish = SharedPool.publish

    def published(self, uuid):
        free.append(is_free(locks, uuid))
        return publish(self, uuid)

    monkeypatch.setattr(SharedPool, "publish", published)
    async with open_house(kind=SharedPool) as house:
        with LockHolder(locks, BASE) as imgadm:
            async with house.imports.request([INCREMENTAL], requester=TESTER) as request:
                assert WaitingForLock(BASE) in await told_to_wait(request)
                # Who waits for an origin must not keep imgadm from the image.
                assert await trio.to_thread.run_sync(is_free, locks, INCREMENTAL)
                imgadm.release()
                events = [event async for event in request]
        assert Installed(BASE, "base", "1.0.0") in events
        assert Installed(INCREMENTAL, "incremental", "1.0.0") in events
        assert free == [False, False]
        assert house.left() == []


async def test_a_file_that_imgadm_has_installed_meanwhile_is_no_error(open_house, other, locks):
    async with open_house(kind=SharedPool) as house:
        with LockHolder(locks, ZVOL) as imgadm, fixture_file(ZVOL).open("rb") as file:
            asked = house.imports.install(fixture_manifest(ZVOL), file.fileno(), requester=TESTER)
            async with asked as request:
                await told_to_wait(request)
                other.install(ZVOL)
                imgadm.release()
                rest = [event async for event in request if event["event"] != "progress"]
        assert rest == [InstalledMeanwhile(ZVOL, "zvol", "1.0.0", from_file=True)]
        assert house.left() == []


async def test_a_child_goes_on_with_the_origin_that_imgadm_has_installed(open_house, other, locks):
    async with open_house(kind=SharedPool) as house:
        with LockHolder(locks, BASE) as imgadm:
            async with house.imports.request([INCREMENTAL], requester=TESTER) as request:
                await told_to_wait(request)
                other.install(BASE)
                imgadm.release()
                events = [event async for event in request if event["event"] != "progress"]
        assert InstalledMeanwhile(BASE, "base", "1.0.0") in events
        assert events[-1] == Installed(INCREMENTAL, "incremental", "1.0.0")
        assert house.catalog.get("zones", INCREMENTAL).origin == BASE


async def test_a_deletion_waits_for_who_is_at_work_on_the_image(open_house, locks):
    async with open_house(kind=SharedPool) as house:
        await house.all_events(BASE)
        with LockHolder(locks, BASE) as imgadm:
            with trio.move_on_after(0.1) as gave_up:
                await house.delete(BASE)
            assert gave_up.cancelled_caught
            assert len(await house.images.installed()) == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.delete, BASE)
                await trio.sleep(0.05)
                assert house.pool.image(BASE) is not None
                imgadm.release()
        assert await house.images.installed() == []


def receive(house: House) -> None:
    """As imgadm is doing it, or did until it was killed."""
    house.pool.receive(BASE, [real_stream("base")])
    assert house.pool.partials() == [BASE]


async def test_what_imgadm_is_receiving_is_left_alone(open_house, locks):
    async with open_house(kind=SharedPool) as house:
        with LockHolder(locks, BASE):
            async with house.imports.request([BASE], requester=TESTER) as request:
                await told_to_wait(request)
                receive(house)
            await until(lambda: not house.imports.jobs())
            assert house.pool.partials() == [BASE]
    with LockHolder(locks, BASE):
        async with open_house(kind=SharedPool) as house:
            assert house.pool.partials() == [BASE]
    async with open_house(kind=SharedPool) as house:
        assert house.pool.partials() == []


async def test_a_manifest_that_imgadm_has_written_first_is_left_alone(open_house, other):
    async with open_house(kind=SharedPool):
        other.write_manifest(BASE)
    async with open_house(kind=SharedPool) as house:
        assert other.manifest(BASE).exists()
        assert await house.images.installed() == []


# -- who takes no lock, and receives straight into POOL/UUID -------------------------------------------------


class OccupiedPool(SharedPool):
    """`found` has the name of an image: as on ZFS, where others receive straight into POOL/UUID."""

    found: Occupant | None = None
    #: What happens right before an image is published.
    before_publish: Callable[[], None] | None = None

    def occupant(self, uuid: str) -> Occupant | None:
        return super().occupant(uuid) if self.found is None else self.found

    def publish(self, uuid: str) -> PoolImage:
        if self.before_publish is not None:
            self.before_publish()
        if self.found is not None:
            raise PoolError("a dataset of that name is there")
        return super().publish(uuid)


HALF = Occupant(f"zones/{BASE}", None, used=5, receiving=True)


async def told_of_others(request) -> list[object]:
    """The events up to the one that says that somebody else is receiving the image."""
    events: list[object] = []
    async for event in request:
        events.append(event)
        if event["event"] == "note" and "is being received by another program" in event["text"]:
            return events
    raise AssertionError(f"nobody was waited for: {events}")


async def test_an_import_takes_what_somebody_else_was_receiving(open_house, other):
    async with open_house(kind=OccupiedPool) as house:
        house.pool.found = HALF
        async with house.imports.request([BASE], requester=TESTER) as request:
            events = await told_of_others(request)
            assert events[-1] == Note(f"zones/{BASE} is being received by another program; waiting for that")
            while Downloaded(BASE, 1_851_100) not in events:
                events.append(await anext(request))
            assert (house.pool.partials(), await house.images.installed()) == ([], [])
            with pytest.raises(ImageNotInstalledError):
                await house.delete(BASE)
            other.install(BASE)
            house.pool.found = None  # only now: the import looks in a thread
            rest = [event async for event in request if event["event"] != "progress"]
        assert rest == [InstalledMeanwhile(BASE, "base", "1.0.0")]
        assert house.catalog.get("zones", BASE).source == "http://imgadm"
        assert house.left() == []


async def test_an_import_goes_on_when_what_somebody_else_received_has_gone(open_house):
    async with open_house(kind=OccupiedPool) as house:
        house.pool.found = HALF
        async with house.imports.request([BASE], requester=TESTER) as request:
            await told_of_others(request)
            house.pool.found = None
            rest = [event async for event in request if event["event"] != "progress"]
        assert rest[-1] == Installed(BASE, "base", "1.0.0")
        assert house.catalog.get("zones", BASE).source != "http://imgadm"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (HALF, "is receiving"),
        (replace(HALF, receiving=False), "has no snapshot @final"),
        (replace(HALF, image=PoolImage(BASE, 1, None, "filesystem", 5, 5)), "no manifest"),
        (replace(HALF, receiving=False, hidden=True), "is to be ignored"),
    ],
)
async def test_an_import_does_not_wait_for_what_does_not_change(open_house, other, monkeypatch, found, said):
    monkeypatch.setattr(import_, "_STANDSTILL", 0.05)
    monkeypatch.setattr(import_, "_UNSETTLED", 0.05)
    async with open_house(kind=OccupiedPool) as house:
        house.pool.found = found
        with pytest.raises(PoolError, match=said) as caught:
            await house.all_events(BASE)
        assert f"zones/{BASE}" in caught.value.message
        assert caught.value.hint
        # The download serves the next try.
        assert house.pool.partials() == []
        assert not other.manifest(BASE).exists()


async def test_an_import_does_not_wait_for_a_pool_that_hangs(open_house, monkeypatch):
    """Nor does it keep imgadm's lock meanwhile."""
    monkeypatch.setattr(timeout, "TIMEOUT", 0.05)
    hangs = threading.Event()
    monkeypatch.setattr(OccupiedPool, "occupant", lambda *_: hangs.wait(60) and None)
    async with open_house(kind=OccupiedPool) as house:
        try:
            with pytest.raises(PoolError, match='pool "zones" does not answer'):
                await house.all_events(BASE)
        finally:
            hangs.set()
        monkeypatch.undo()
        assert (await house.all_events(BASE))[-1] == Installed(BASE, "base", "1.0.0")


async def test_it_waits_as_long_as_the_dataset_grows(open_house, monkeypatch):
    monkeypatch.setattr(import_, "_STANDSTILL", 0.2)
    looks = 0

    def growing(self, uuid):
        nonlocal looks
        looks += 1
        return replace(HALF, used=looks) if looks < 40 else None

    monkeypatch.setattr(OccupiedPool, "occupant", growing)
    async with open_house(kind=OccupiedPool) as house:
        assert (await house.all_events(BASE))[-1] == Installed(BASE, "base", "1.0.0")
    assert looks >= 40


async def test_who_is_faster_at_the_last_moment_is_waited_for(open_house, other):
    async with open_house(kind=OccupiedPool) as house:

        def faster() -> None:
            house.pool.found = HALF

        house.pool.before_publish = faster
        async with house.imports.request([BASE], requester=TESTER) as request:
            await told_of_others(request)
            other.install(BASE)
            house.pool.found = None  # only now: the import looks in a thread
            rest = [event async for event in request if event["event"] != "progress"]
        assert rest == [InstalledMeanwhile(BASE, "base", "1.0.0")]
        assert len(await house.images.installed()) == 1
        assert other.manifest(BASE).exists()
        assert house.left() == []


# -- a manifest that has no checksum -------------------------------------------------------------------------


async def test_an_image_whose_manifest_has_a_sha1_of_zeros(open_house, pages):
    """The agent's manifests are installed as others: only the size is compared. A server's SHA-1 is, too."""
    (base,) = (each for each in pages.manifests if each["uuid"] == BASE)
    base["files"][0]["sha1"] = "0" * 40
    pages._write_list()
    async with open_house(kind=SharedPool) as house:
        with pytest.raises(ImgstoreError, match="checksum"):
            await house.all_events(BASE)
        agents = agents_manifest(BASE, fixture_file(BASE).stat().st_size)
        with fixture_file(BASE).open("rb") as file:
            async with house.imports.install(agents, file.fileno(), requester=TESTER) as request:
                events = [event async for event in request]
        assert events[-1] == Installed(BASE, "agents-01", "1.0.0", from_file=True)
        await house.delete(BASE)
        with fixture_file(BASE).open("rb") as file:
            short = agents_manifest(BASE, 7)
            with pytest.raises(ImgstoreError, match="size error"):
                async with house.imports.install(short, file.fileno(), requester=TESTER) as request:
                    events = [event async for event in request]


async def test_what_the_agent_installed_can_be_exported_and_installed_again(open_house, other, tmp_path):
    async with open_house(kind=SharedPool) as house:
        other.install(BASE)
        other.manifest(BASE).write_text(record_text(agents_manifest(BASE, 5), "zones"))
        [wire] = await house.images.installed()
        assert (wire["source"], wire["manifest"]["files"][0]["sha1"]) == ("tritond", NO_SHA1)
        path = tmp_path / "exported"
        with path.open("w+b") as file:
            export = Exporter(house.catalog).export(
                BASE, file.fileno(), client="test", path="exported", compression="gzip"
            )
            async with export as job:
                assert [event async for event in job]
            manifest = job.result["manifest"]
        assert manifest["files"][0]["sha1"] == hashlib.sha1(path.read_bytes()).hexdigest()
        await house.delete(BASE)
        with path.open("rb") as file:
            async with house.imports.install(manifest, file.fileno(), requester=TESTER) as request:
                events = [event async for event in request]
        assert events[-1] == Installed(BASE, "agents-01", "1.0.0", from_file=True)
