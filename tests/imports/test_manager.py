"""What clients request at the same time, with a real pool, a real journal and a real web server."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.receipts import Receipts
from imgstored.errors import (
    ActiveImageNotFoundError,
    CancelledError,
    ImageHasDependentClonesError,
    ImageHeldError,
    ImageNotInstalledError,
    ImgstoreError,
    InternalError,
    InvalidUUIDError,
    MinPlatformError,
    NoSpaceError,
    OriginNotInstalledError,
    PoolError,
    PoolNotFoundError,
    ResumeError,
    StreamError,
    UncompressionError,
    UsageError,
)
from imgstored.events.stream import Ended, Refused, Requester
from imgstored.imports.journal import Journal
from imgstored.imports.leftovers import Leftovers
from imgstored.imports.manager import MAX_IMAGES
from imgstored.imports.spec import ImportSpec
from imgstored.library.library import Library
from imgstored.manifest.platform import Platform
from imgstored.pools.embedded import EmbeddedPool
from imgstored.sources.source_set import SourceSet
from tests.imports.house import TESTER, open_house, pages, receiving, until
from tests.support.events import (
    AlreadyInstalled,
    Downloaded,
    Importing,
    Installed,
    Installing,
    Planned,
)
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.limits import import_limits
from tests.support.streams import filesystem_stream

__all__ = ["open_house", "pages"]

NOWHERE = "99999999-aaaa-4bbb-8ccc-000000000001"


async def test_an_import_tells_its_story_and_leaves_nothing_else(open_house, nginx):
    async with open_house() as house:
        events = [event for event in await house.all_events(INCREMENTAL) if event["event"] != "progress"]
        assert events[0] == Importing(INCREMENTAL, "incremental", "1.0.0", nginx.url)
        assert Planned(2, 1_851_100 + 537_128) in events
        assert all(
            event in events for event in (Downloaded(BASE, 1_851_100), Downloaded(INCREMENTAL, 537_128))
        )
        assert events[-1] == Installed(INCREMENTAL, "incremental", "1.0.0")
        assert events.index(Installed(BASE, "base", "1.0.0")) < len(events) - 1
        assert house.view.shown == {BASE, INCREMENTAL}
        assert house.left() == []
        assert (await house.images.image(BASE, None, recursive=True))["children"] == {
            "snapshots": [f"zones/{BASE}@final"],
            "clones": [f"zones/{INCREMENTAL}"],
        }
        assert await house.all_events(BASE) == [AlreadyInstalled(BASE, "base", "1.0.0")]


class DoubtfulPool(EmbeddedPool):
    """Goes on with a receive, and finds at its end that it cannot, as only a kernel may."""

    refusals = 1

    def receive(self, uuid, blocks, **settings):
        image = super().receive(uuid, blocks, **settings)
        if self.refusals:
            self.refusals -= 1
            self.abandon(uuid)
            raise ResumeError("the kernel refused to go on")
        return image


async def test_what_a_pool_cannot_go_on_with_is_received_again_and_not_downloaded_again(open_house, nginx):
    async with open_house(kind=DoubtfulPool) as house:
        events = await house.all_events(ZVOL)
        notes = [event["text"] for event in events if event["event"] == "note"]
        assert notes == ["the kernel refused to go on; receiving it from the beginning"]
        assert house.pool.image(ZVOL) is not None
        assert house.left() == []
    gets = [hit for hit in nginx.settled_hits() if hit.path == f"/{ZVOL}/file"]
    assert sum(hit.bytes_sent for hit in gets) < 1.1 * fixture_file(ZVOL).stat().st_size


async def test_two_imports_share_the_origin_that_neither_has(open_house, nginx, pages):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    pages.add(fixture_manifest(INCREMENTAL) | {"uuid": other}, fixture_file(INCREMENTAL))
    async with open_house() as house, trio.open_nursery() as nursery:
        nursery.start_soon(house.all_events, INCREMENTAL)
        nursery.start_soon(house.all_events, other)
    assert sum(hit.path == f"/{BASE}/file" for hit in nginx.settled_hits()) <= 2
    async with open_house() as house:
        assert {image.uuid for image in house.catalog.all()} == {BASE, INCREMENTAL, other}


async def test_the_last_who_leaves_ends_the_import(open_house, monkeypatch):
    received, cancelled = trio.Event(), threading.Event()

    def wait() -> None:
        trio.from_thread.run_sync(received.set)
        cancelled.wait(10)

    monkeypatch.setattr(EmbeddedPool, "receive", receiving(wait))
    async with open_house() as house:
        async with house.imports.request([BASE], requester=Requester("first")):
            async with house.imports.request([BASE], requester=Requester("second")):
                await received.wait()
                assert sorted(house.imports.jobs()[0]["clients"]) == ["first", "second"]
            assert house.imports.jobs()[0]["clients"] == ["first"]
            assert house.pool.partials() == [BASE]
        cancelled.set()
        await until(lambda: not house.imports.jobs())
        assert house.pool.partials() == []
        assert [each.wanted for each in house.journal.imports()] == [False]


async def test_an_image_is_not_deleted_under_one_that_is_being_cloned_from_it(open_house):
    async with open_house() as house:
        await house.all_events(BASE)
        async with house.imports.request([INCREMENTAL], requester=TESTER) as request:
            async for event in request:
                if event["event"] == "plan":
                    with pytest.raises(ImageHasDependentClonesError, match=f"zones/{INCREMENTAL}"):
                        await house.delete(BASE)
        with pytest.raises(ImageHasDependentClonesError):
            await house.delete(BASE)
        await house.delete(INCREMENTAL)
        await house.delete(BASE, "zones")
        assert house.view.shown == set()
        with pytest.raises(ImageNotInstalledError):
            await house.delete(BASE)


@pytest.mark.parametrize("how", ["import", "install"])
@pytest.mark.parametrize("fails", [False, True], ids=["deleted", "kept"])
async def test_an_import_waits_for_the_deletion_of_its_origin(open_house, monkeypatch, how, fails):
    """If the origin is gone then, an import includes it; nobody has to ask twice."""
    begun, let = threading.Event(), threading.Event()

    async with open_house() as house:
        await house.all_events(BASE)
        destroy = house.pool.destroy

        def slow(uuid: str) -> None:
            begun.set()
            assert let.wait(20)
            if fails:
                raise PoolError("the pool does not want to")
            destroy(uuid)

        monkeypatch.setattr(house.pool, "destroy", slow)
        outcome: list[ImgstoreError] = []

        async def importing() -> None:
            try:
                await _installed(house, fixture_manifest(INCREMENTAL), INCREMENTAL, how)
            except OriginNotInstalledError as error:
                outcome.append(error)

        async def deleting() -> None:
            with suppress(PoolError):
                await house.delete(BASE)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deleting)
            await trio.to_thread.run_sync(begun.wait)
            nursery.start_soon(importing)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert outcome == []
            assert house.catalog.find("zones", INCREMENTAL) is None
            let.set()
        there = {image.uuid for image in house.catalog.all()}
        # A file alone brings no origin.
        refused = how == "install" and not fails
        assert (there, len(outcome)) == (set() if refused else {BASE, INCREMENTAL}, int(refused))


async def test_a_view_that_is_broken_does_not_undo_an_import(open_house):
    async with open_house() as house:
        house.view.broken = True
        assert Installed(BASE, "base", "1.0.0") in await house.all_events(BASE)
        assert house.left() == []


@pytest.mark.parametrize("step", ["write_manifest", "publish", "receive"])
@pytest.mark.parametrize(
    ("fault", "told"),
    [(NoSpaceError("full"), NoSpaceError), (ZeroDivisionError("mistake"), InternalError)],
    ids=["error", "mistake"],
)
async def test_a_step_that_fails_ends_one_import_and_nothing_else(open_house, monkeypatch, step, fault, told):
    def fail(*_: object, **__: object) -> None:
        raise fault

    async with open_house() as house:
        owner = Catalog if step == "write_manifest" else EmbeddedPool
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, fail)
            with pytest.raises(told):
                await house.all_events(BASE)
        assert house.pool.partials() == []
        assert await house.images.installed() == []
        assert house.view.shown == set()
        assert Installed(BASE, "base", "1.0.0") in await house.all_events(BASE)
        assert house.left() == []


async def test_a_receipt_that_cannot_be_written_is_named(open_house, tmp_path):
    """It is in the state folder, not in imgadm's."""
    (tmp_path / "file").touch()
    async with open_house() as house:
        house.resources.receipts = Receipts(tmp_path / "file")
        with pytest.raises(PoolError, match="the receipt of image") as caught:
            await house.all_events(BASE)
        assert "state" in caught.value.hint
        house.resources.receipts = None
        assert Installed(BASE, "base", "1.0.0") in await house.all_events(BASE)


async def test_an_image_is_deleted_though_its_files_stay(open_house, monkeypatch, tmp_path):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    heard: list[object] = []
    manifest = tmp_path / "state" / "imgadm" / "images" / f"zones-{BASE}.json"
    async with open_house(heard=heard.append) as house:
        await house.all_events(BASE)
        with monkeypatch.context() as patch:
            patch.setattr(Catalog, "forget_manifest", fail)
            await house.delete(BASE)
        assert await house.images.installed() == []
        assert [event.outcome for event in heard if isinstance(event, Ended)] == ["installed", "deleted"]
        assert manifest.exists()
    async with open_house():
        assert not manifest.exists()


async def test_no_room_is_said_before_anything_is_fetched(open_house, nginx):
    async with open_house(limits=import_limits(min_free=1 << 60)) as house:
        with pytest.raises(NoSpaceError, match="not enough room"):
            await house.all_events(BASE)
        assert house.left() == []
    assert not any(hit.path.endswith("/file") for hit in nginx.settled_hits())


async def test_a_platform_that_is_too_old_is_told(open_house, pages):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    requirements = {"min_platform": {"7.0": "20300101T000000Z"}}
    pages.add(fixture_manifest(BASE) | {"uuid": other, "requirements": requirements}, fixture_file(BASE))
    async with open_house(platform=Platform("7.0", "20200101T000000Z")) as house:
        with pytest.raises(MinPlatformError):
            await house.all_events(other)


async def test_a_file_is_installed_also_when_its_client_has_closed_it(open_house):
    async with open_house() as house:
        fd = os.open(fixture_file(ZVOL), os.O_RDONLY)
        asked = house.imports.install(fixture_manifest(ZVOL), fd, requester=TESTER, path="zvol.bz2")
        async with asked as request:
            assert await anext(request) == Installing(ZVOL, "zvol", "1.0.0")
            os.close(fd)
            assert Installed(ZVOL, "zvol", "1.0.0", from_file=True) in [event async for event in request]
        assert house.left() == []


@pytest.mark.parametrize("trouble", ["none", "changed", "grown", "cut", "no room"])
async def test_a_file_that_is_installed_is_copied_for_the_library(open_house, monkeypatch, tmp_path, trouble):
    """As it was installed, and where there is room; the image is installed in any case."""
    file, library = tmp_path / "file", Library(tmp_path / "library", 100 << 20)
    library.open()
    file.write_bytes(content := fixture_file(ZVOL).read_bytes())
    publish = EmbeddedPool.publish
    async with open_house() as house:
        house.resources.library = library
        free_space = house.resources.free_space

        def then(pool, uuid):
            if trouble == "no room":
                free_space.reconfigure(1 << 60)
            elif trouble != "none":
                data = {"changed": b"x" + content[1:], "grown": content + b"x", "cut": content[:-1]}
                file.write_bytes(data[trouble])
            return publish(pool, uuid)

        monkeypatch.setattr(EmbeddedPool, "publish", then)
        with file.open("rb") as given, structlog.testing.capture_logs() as logs:
            asked = house.imports.install(fixture_manifest(ZVOL), given.fileno(), requester=TESTER)
            async with asked as request:
                events = [event async for event in request]
        assert events[-1] == Installed(ZVOL, "zvol", "1.0.0", from_file=True)
        refused = [line["error"] for line in logs if line["event"] == "the original file is not kept"]
        if trouble == "none":
            assert (tmp_path / "library" / ZVOL / "file").read_bytes() == content
            assert refused == []
        else:
            assert ("not enough room" if trouble == "no room" else "image file") in refused[0]
            assert "came, and more" not in refused[0], "it was refused before anything was written"
            assert list((tmp_path / "library").iterdir()) == []
        assert free_space.reserved(free_space.claim_folder(library.folder).storage) == 0


async def test_a_partial_download_that_becomes_too_old_is_dropped_also_while_it_runs(open_house, monkeypatch):
    monkeypatch.setattr("imgstored.imports.manager._EXPIRY_INTERVAL", 0.02)
    monkeypatch.setattr("imgstored.imports.manager.ImportManager._go_on", _does_not_go_on)
    kept, dropped, wanted = (f"11111111-aaaa-4bbb-8ccc-{number:012}" for number in (21, 22, 23))
    async with open_house(limits=import_limits(keep_partial_seconds=1000.0)) as house:
        for uuid in (kept, dropped, wanted):
            house.journal.begin(ImportSpec(uuid, "zones"), fixture_manifest(BASE) | {"uuid": uuid})
            (house.spools / f"zones-{uuid}").write_bytes(b"a part")
        house.journal.park("zones", kept)
        house.journal.park("zones", dropped)
        with house.journal.transaction() as db:
            db.execute("UPDATE imports SET touched_at = touched_at - 2000 WHERE uuid != ?", (kept,))
        await until(lambda: not (house.spools / f"zones-{dropped}").exists())
        await until(lambda: len(house.journal.imports()) == 2)
        assert {path.name for path in house.spools.iterdir()} == {f"zones-{kept}", f"zones-{wanted}"}
        # As the configuration says now, after SIGHUP.
        house.resources.reconfigure(import_limits(keep_partial_seconds=0.0))
        await until(lambda: [each.spec.uuid for each in house.journal.imports()] == [wanted])


async def _does_not_go_on(*_):
    """In place of an import."""


async def test_an_import_that_begins_is_not_taken_for_an_old_one(open_house, monkeypatch):
    """It waits while old ones are dropped, and is wanted before the next look."""
    monkeypatch.setattr("imgstored.imports.manager._EXPIRY_INTERVAL", 0.0)
    async with open_house(limits=import_limits(keep_partial_seconds=0.0)) as house:
        for _ in range(20):
            house.journal.begin(ImportSpec(BASE, "zones"), fixture_manifest(BASE))
            house.journal.park("zones", BASE)
            events = await house.all_events(BASE)
            assert any(event["event"] == Installed.kind for event in events)
            await house.delete(BASE)
        assert house.left() == []


@pytest.mark.parametrize("how", ["import", "install"])
@pytest.mark.parametrize(
    ("uuid", "type_", "found"),
    [(ZVOL, "zone-dataset", "volume"), (ZVOL, "lx-dataset", "volume"), (BASE, "zvol", "filesystem")],
)
async def test_a_stream_of_another_kind_than_the_manifest_says(open_house, pages, how, uuid, type_, found):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    manifest = fixture_manifest(uuid) | {"uuid": other, "type": type_}
    pages.add(manifest, fixture_file(uuid))
    async with open_house() as house:
        with pytest.raises(StreamError, match=f'stream of a {found}, but the manifest.s type is "{type_}"'):
            await _installed(house, manifest, uuid, how)
        assert house.left() == []
        assert house.catalog.all() == []


@pytest.mark.parametrize("how", ["import", "install"])
@pytest.mark.parametrize(
    ("uuid", "type_"), [(ZVOL, "other"), (ZVOL, "vm"), (BASE, "other"), (BASE, "lx-dataset"), (BASE, None)]
)
async def test_a_type_that_fits_the_stream_or_says_nothing(open_house, pages, how, uuid, type_):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    manifest = fixture_manifest(uuid) | {"uuid": other, "type": type_}
    pages.add(manifest, fixture_file(uuid))
    async with open_house() as house:
        await _installed(house, manifest, uuid, how)
        assert [image.uuid for image in house.catalog.all()] == [other]


async def _installed(house, manifest, uuid, how):
    if how == "import":
        return await house.all_events(manifest["uuid"])
    with fixture_file(uuid).open("rb") as file:
        async with house.imports.install(manifest, file.fileno(), requester=TESTER) as request:
            return [event async for event in request]


async def test_a_file_whose_origin_is_not_there_is_refused(open_house):
    async with open_house() as house:
        with fixture_file(INCREMENTAL).open("rb") as file:
            asked = house.imports.install(fixture_manifest(INCREMENTAL), file.fileno(), requester=TESTER)
            async with asked as request:
                with pytest.raises(OriginNotInstalledError, match=BASE):
                    await anext(request)
        assert house.left() == []


async def test_an_unfinished_import_goes_on_with_the_next_daemon(open_house):
    async with open_house() as house:
        house.journal.begin(ImportSpec(BASE, "zones"), fixture_manifest(BASE))
    async with open_house() as house:
        await until(lambda: house.catalog.all() and not house.left())


async def test_an_unfinished_import_of_a_stream_goes_on_as_one(open_house, pages):
    """The server makes the file when it is asked: its manifest knows neither its size nor its checksum."""
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    manifest = fixture_manifest(BASE) | {"uuid": other}
    pages.add(manifest, filesystem_stream(size=200_000, seed=1))
    async with open_house() as house:
        house.journal.begin(ImportSpec(other, "zones", zstream=True), manifest)
        house.journal.begin(ImportSpec(BASE, "zones"), fixture_manifest(BASE))
    async with open_house() as house:
        await until(lambda: len(house.catalog.all()) == 2 and not house.left())


@pytest.mark.parametrize("others", [False, True], ids=["nobody else", "others"])
async def test_cancelling_an_import_that_waits_drops_its_partial(open_house, monkeypatch, nginx, others):
    """As cancelling one that runs; who asks meanwhile gets a new one."""
    received = trio.Event()
    stopped: list[bool] = []

    def wait() -> None:
        trio.from_thread.run_sync(received.set)
        trio.from_thread.run(until, lambda: bool(stopped))

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedPool, "receive", receiving(wait))
        async with open_house() as house, house.imports.request([BASE], requester=TESTER):
            await received.wait()
            house.imports.stop()
            stopped.append(True)
    nginx.stop()
    begun, let = threading.Event(), threading.Event()
    abandon = EmbeddedPool.abandon

    def slowly(self, uuid):
        begun.set()
        assert let.wait(20)
        abandon(self, uuid)

    monkeypatch.setattr(EmbeddedPool, "abandon", slowly)
    async with open_house() as house, trio.open_nursery() as nursery:
        await until(lambda: any(each.error for each in house.imports._waiting.values()))
        assert house.pool.partials() == [BASE]
        nursery.start_soon(house.imports.cancel, BASE)
        await trio.to_thread.run_sync(begun.wait)
        nginx.start()
        if others:
            nursery.start_soon(house.all_events, INCREMENTAL)
            nursery.start_soon(house.all_events, BASE)
            await trio.testing.wait_all_tasks_blocked(0.1)
            # The cancelled one alone, which is still being dropped.
            assert [job["phase"] for job in house.imports.jobs()] == ["waiting"]
        let.set()
        if others:
            await until(lambda: len(house.catalog.all()) == 2)
        else:
            await until(lambda: not house.imports._waiting)
            assert house.pool.partials() == []
            assert [each.wanted for each in house.journal.imports()] == [False]


@pytest.mark.parametrize(
    ("fault", "told"), [(PoolError("no answer"), PoolError), (OSError(5, "I/O error"), InternalError)]
)
async def test_what_a_cancelled_one_leaves_and_cannot_be_dropped_is_said(
    open_house, monkeypatch, nginx, fault, told
):
    async with open_house() as house:
        house.journal.begin(ImportSpec(BASE, "zones"), fixture_manifest(BASE))
    nginx.stop()

    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(Leftovers, "drop", fail)
    async with open_house() as house:
        await until(lambda: any(each.error for each in house.imports._waiting.values()))
        with pytest.raises(told):
            await house.imports.cancel(BASE)
        assert not house.imports._waiting
        monkeypatch.undo()
        nginx.start()
        await house.all_events(BASE)


@pytest.mark.parametrize("fault", [NoSpaceError("full"), PoolError("the disk I/O failed")])
async def test_an_unfinished_import_waits_while_the_journal_fails(open_house, monkeypatch, fault):
    """The source fails, and then the journal; the import goes on once both are back."""
    monkeypatch.setattr("imgstored.imports.manager._FIRST_PAUSE", 0.02)
    async with open_house() as house:
        house.journal.begin(ImportSpec(BASE, "zones"), fixture_manifest(BASE))
    asked_in: list[int] = []
    failing = False
    imports, find = Journal.imports, SourceSet.find_shared

    def fail(journal):
        if failing:
            asked_in.append(threading.get_ident())
            raise fault
        return imports(journal)

    async def not_found(*given, **settings):
        nonlocal failing
        failing = failing or not asked_in
        if failing:
            raise ActiveImageNotFoundError("not there")
        return await find(*given, **settings)

    monkeypatch.setattr(Journal, "imports", fail)
    monkeypatch.setattr(SourceSet, "find_shared", not_found)
    async with open_house() as house:
        await until(lambda: len(asked_in) >= 2)
        assert threading.get_ident() not in asked_in
        failing = False
        await until(lambda: house.catalog.find("zones", BASE) and not house.left())


async def test_spools_that_cannot_be_removed_do_not_hold_up_the_start(open_house):
    """Folders in their place: of an image that is installed, of an old download, and of nothing known."""
    old, unknown = (f"11111111-aaaa-4bbb-8ccc-{number:012}" for number in (21, 22))
    spools = [f"zones-{uuid}" for uuid in (BASE, old, unknown)]
    async with open_house() as house:
        await house.all_events(BASE)
        house.journal.begin(ImportSpec(BASE, "zones"), fixture_manifest(BASE))
        house.journal.begin(ImportSpec(old, "zones"), fixture_manifest(BASE) | {"uuid": old})
        house.journal.park("zones", old)
        house.journal.begin(ImportSpec(ZVOL, "zones"), fixture_manifest(ZVOL))
        for name in spools:
            (house.spools / name / "something").mkdir(parents=True)
    async with open_house(limits=import_limits(keep_partial_seconds=0.0)) as house:
        assert house.imports.fault is None
        await until(lambda: house.catalog.find("zones", ZVOL) and len(house.journal.imports()) == 2)
        # What is written down of them stays as long as they do.
        assert {each.spec.uuid for each in house.journal.imports()} == {BASE, old}
    for name in spools:
        (house.spools / name / "something").rmdir()
        (house.spools / name).rmdir()
    async with open_house(limits=import_limits(keep_partial_seconds=0.0)) as house:
        assert house.left() == []


async def test_imports_wait_while_nobody_can_look_at_what_was_left(open_house, monkeypatch):
    monkeypatch.setattr("imgstored.imports.manager._JOURNAL_PAUSE", 0.02)
    bad, looks = True, 0
    iterdir = Path.iterdir

    def fail(path):
        nonlocal looks
        if path.name == "spool" and bad:
            looks += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return iterdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fail)
        async with open_house() as house:
            with structlog.testing.capture_logs() as logs:
                seen = looks
                await until(lambda: looks > seen + 3)
            assert "imports wait" not in [line["event"] for line in logs]  # that was said once
            with pytest.raises(PoolError, match=r"cannot be swept up: .*Input/output error"):
                await house.all_events(BASE)
            bad = False
            await until(lambda: house.imports.fault is None)
            assert Installed(BASE, "base", "1.0.0") in await house.all_events(BASE)


async def test_a_held_image_is_not_deleted(open_house):
    async with open_house() as house:
        await house.all_events(BASE)
        await house.images.hold(BASE, "web", None)
        await house.images.hold(BASE, "web", None)
        with pytest.raises(UsageError, match="reserved for clients"):
            await house.images.hold(BASE, "client:me", None)
        with pytest.raises(ImageHeldError, match=f'image "{BASE}" is held: web'):
            await house.delete(BASE)
    async with open_house() as house:
        assert await house.images.holds(BASE, None) == ["web"]
        await house.images.release(BASE, "web", None)
        await house.images.release(BASE, "web", None)
        await house.delete(BASE)
        with pytest.raises(ImageNotInstalledError):
            await house.images.holds(BASE, None)


async def test_a_clients_hold_ends_with_it_and_with_a_daemon_that_was_killed(open_house):
    async with open_house() as house:
        await house.all_events(BASE)
        async with house.images.holding(BASE, None, requester=Requester("vm")) as request:
            held = await anext(request)
            assert held["event"] == "held"
            assert await house.images.holds(BASE, None) == [held["tag"]]
            with pytest.raises(ImageHeldError, match="vm"):
                await house.delete(BASE)
        assert await house.images.holds(BASE, None) == []
        # As a killed daemon leaves it.
        house.pool.hold(BASE, held["tag"])
    async with open_house() as house:
        assert await house.images.holds(BASE, None) == []


async def test_a_stopping_daemon_takes_nothing_new(open_house):
    async with open_house() as house:
        house.imports.stop()
        with pytest.raises(CancelledError, match="stopping"):
            await house.all_events(BASE)


@pytest.mark.parametrize(
    ("uuids", "settings", "error"),
    [
        ([], {}, UsageError),
        ([BASE] * (MAX_IMAGES + 1), {}, UsageError),
        (["../x"], {}, InvalidUUIDError),
        ([BASE, "nonsense"], {}, InvalidUUIDError),
        ([BASE], {"pool": "tank"}, PoolNotFoundError),
    ],
)
async def test_what_cannot_be_requested_is_refused_at_once(open_house, uuids, settings, error):
    async with open_house() as house:
        with pytest.raises(error):
            await house.all_events(*uuids, **settings)
        with pytest.raises(ImgstoreError):
            await house.imports.cancel("nonsense")


async def test_a_request_that_fails_before_it_starts_is_published_with_who_asked(open_house):
    heard = []
    async with open_house() as house:
        house.events.subscribe(heard.append)
        with pytest.raises(ActiveImageNotFoundError):
            await house.all_events(NOWHERE)
        with fixture_file(INCREMENTAL).open("rb") as file:
            manifest = fixture_manifest(INCREMENTAL)
            asked = house.imports.install(manifest, file.fileno(), requester=TESTER)
            async with asked as request:
                with pytest.raises(OriginNotInstalledError):
                    await anext(request)
    assert [type(event) for event in heard] == [Refused, Refused]
    assert {event.requester for event in heard} == {TESTER}
    assert [(each.action.kind, each.action.uuid, each.action.name) for each in heard] == [
        ("import", NOWHERE, ""),
        ("install", INCREMENTAL, "incremental"),
    ]


async def test_what_is_tried_again_after_a_restart_is_not_published_each_time(open_house):
    async with open_house() as house:
        house.journal.begin(ImportSpec(NOWHERE, "zones"), fixture_manifest(BASE) | {"uuid": NOWHERE})
    heard = []
    async with open_house(heard=heard.append) as house:
        house.journal.park("zones", NOWHERE)
        # Asks the source in the same way, and after it.
        with pytest.raises(ActiveImageNotFoundError):
            await house.all_events(NOWHERE)
    assert [(type(event), event.requester) for event in heard] == [(Refused, TESTER)]


async def test_a_journal_that_is_full_does_not_undo_an_import(open_house, monkeypatch):
    def full(*_):
        raise NoSpaceError("there is no room left for the journal")

    async with open_house() as house:
        monkeypatch.setattr(house.journal, "end", full)
        assert Installed(BASE, "base", "1.0.0") in await house.all_events(BASE)
    monkeypatch.undo()
    async with open_house() as house:
        assert [image.uuid for image in house.catalog.all()] == [BASE]
        assert house.left() == []


async def test_an_origin_that_two_images_share_is_told_of_once(open_house, pages):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    pages.add(fixture_manifest(INCREMENTAL) | {"uuid": other}, fixture_file(INCREMENTAL))
    async with open_house() as house:
        events = await house.all_events(INCREMENTAL, other)
    assert events.count(Installed(BASE, "base", "1.0.0")) == 1
    assert sum(event["event"] == "installed" for event in events) == 3


async def test_images_that_fail_with_their_origin_give_its_error_once(open_house, pages):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    pages.add(fixture_manifest(INCREMENTAL) | {"uuid": other}, fixture_file(INCREMENTAL))
    pages.add(fixture_manifest(BASE), b"x" * fixture_file(BASE).stat().st_size)
    async with open_house() as house:
        with pytest.raises(UncompressionError) as caught:
            await house.all_events(BASE, INCREMENTAL, other)
    assert caught.value.as_wire()["data"] == {"others": []}


async def test_the_error_of_a_request_has_nothing_of_another_request(open_house, pages):
    other = "11111111-aaaa-4bbb-8ccc-000000000009"
    for uuid in INCREMENTAL, other:
        damaged = b"x" * fixture_file(INCREMENTAL).stat().st_size
        pages.add(fixture_manifest(INCREMENTAL) | {"uuid": uuid}, damaged)
    failed: dict[tuple[str, ...], dict[str, object]] = {}
    async with open_house() as house:

        async def ask(*uuids: str) -> None:
            with pytest.raises(UncompressionError) as caught:
                await house.all_events(*uuids)
            failed[uuids] = caught.value.as_wire()["data"]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, INCREMENTAL)
            nursery.start_soon(ask, INCREMENTAL, other)
    assert failed[INCREMENTAL,] == {"others": []}
    (second,) = failed[INCREMENTAL, other]["others"]
    assert (second["code"], second["data"]) == ("UncompressionError", {})


@pytest.mark.parametrize("again", [BASE, INCREMENTAL], ids=["the image", "one with this origin"])
async def test_who_asks_again_at_once_gets_a_new_import_and_not_the_cancelled_one(
    open_house, monkeypatch, again
):
    dropping, go_on = trio.Event(), threading.Event()
    drop = Leftovers.drop

    def slowly(self, pool, uuid, kept, *, locked):
        trio.from_thread.run_sync(dropping.set)
        assert go_on.wait(30)
        drop(self, pool, uuid, kept, locked=locked)

    monkeypatch.setattr(Leftovers, "drop", slowly)
    async with open_house() as house:
        async with house.imports.request([BASE], requester=TESTER) as request:
            async for event in request:
                if event["event"] == "plan":
                    break
        # The last one has left.
        await dropping.wait()
        assert [job["uuid"] for job in house.imports.jobs()] == [BASE]
        async with house.imports.request([again], requester=TESTER) as request:
            # Its manifests are found, and then it waits.
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert [job["uuid"] for job in house.imports.jobs()] == [BASE]
            go_on.set()
            events = [event async for event in request]
        assert events[-1]["uuid"] == again
        assert events[-1]["event"] == "installed"
        assert house.left() == []
