"""The library on a real folder: what appears, what is evicted, and what a crash leaves."""

from __future__ import annotations

import hashlib
import json
import os
import time

import pytest

from imgstored.library.folder import COMING_SECONDS, Entry, LibraryImage, examined
from imgstored.library.library import Library, evicted
from imgstored.manifest import load
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest

SIZES = {uuid: fixture_file(uuid).stat().st_size for uuid in (BASE, INCREMENTAL, ZVOL)}
ALL = sum(SIZES.values())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "library"


def opened(folder, budget=ALL, **options):
    library = Library(folder, budget, **options)
    library.open()
    return library


def keep(library, uuid):
    file = library.folder.parent / f"spool-{uuid}"
    file.write_bytes(fixture_file(uuid).read_bytes())
    return library.keep(load(fixture_manifest(uuid), rules="import"), file)


def content(library, uuid):
    fd = library.open_file(uuid)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def test_what_is_kept_is_served_bit_for_bit_also_after_a_restart(folder):
    library = opened(folder)
    assert keep(library, BASE)
    assert not (folder.parent / f"spool-{BASE}").exists()
    for each in (library, opened(folder)):
        assert [image.uuid for image in each.images()] == [BASE]
        assert each.get(BASE).document == fixture_manifest(BASE)
        assert json.loads(each.get(BASE).encoded) == fixture_manifest(BASE)
        assert content(each, BASE) == fixture_file(BASE).read_bytes()
        assert each.size == SIZES[BASE]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / BASE / "file").stat().st_mode & 0o777 == 0o600


def pieces(uuid):
    data = fixture_file(uuid).read_bytes()
    return iter([data[:1000], memoryview(data)[1000:]])


def test_a_copy_of_a_file(folder):
    library, manifest = opened(folder), load(fixture_manifest(ZVOL), rules="import")
    assert library.copy(manifest, pieces(ZVOL), SIZES[ZVOL])
    assert content(library, ZVOL) == fixture_file(ZVOL).read_bytes()
    # Nothing is read of what is there already, or does not fit.
    again = pieces(ZVOL)
    assert not library.copy(manifest, again, SIZES[ZVOL])
    assert not opened(folder.parent / "small", SIZES[ZVOL] - 1).copy(manifest, again, SIZES[ZVOL])
    assert len(list(again)) == 2


@pytest.mark.parametrize("size", [SIZES[ZVOL] - 1, SIZES[ZVOL] + 1])
def test_a_copy_of_another_size_is_none(folder, size):
    library, manifest = opened(folder), load(fixture_manifest(ZVOL), rules="import")
    with pytest.raises(OSError, match=f"{SIZES[ZVOL]} bytes, and not {size}"):
        library.copy(manifest, pieces(ZVOL), size)
    assert library.get(ZVOL) is None
    assert list(folder.iterdir()) == []


def test_what_is_there_is_not_kept_again(folder):
    library = opened(folder)
    assert keep(library, BASE)
    assert not keep(library, BASE)
    assert (folder.parent / f"spool-{BASE}").exists()


def test_what_exceeds_the_budget_alone_is_not_kept(folder):
    library = opened(folder, SIZES[BASE] - 1)
    assert not keep(library, BASE)
    assert keep(library, INCREMENTAL)


def test_the_least_recently_served_goes_first(folder):
    library = opened(folder, ALL - 1)
    assert keep(library, BASE)
    assert keep(library, INCREMENTAL)
    content(library, BASE)
    assert keep(library, ZVOL)
    assert {image.uuid for image in library.images()} == {BASE, ZVOL}
    assert sorted(path.name for path in folder.iterdir()) == [BASE, ZVOL]


def test_the_order_of_use_survives_a_restart(folder):
    library = opened(folder, ALL)
    for uuid in (BASE, INCREMENTAL):
        keep(library, uuid)
    os.utime(folder / INCREMENTAL / "entry.json", (1, 1))
    again = opened(folder, ALL - 1)
    keep(again, ZVOL)
    assert {image.uuid for image in again.images()} == {BASE, ZVOL}


def test_a_pinned_one_stays(folder):
    library = opened(folder, ALL - 1, pinned=lambda: [BASE])
    for uuid in (BASE, INCREMENTAL, ZVOL):
        keep(library, uuid)
    assert {image.uuid for image in library.images()} == {BASE, ZVOL}


def test_whoever_reads_a_file_that_is_evicted_gets_all_of_it(folder):
    library = opened(folder)
    keep(library, BASE)
    fd = library.open_file(BASE)
    assert library.remove(BASE)
    assert not library.remove(BASE)
    with os.fdopen(fd, "rb") as file:
        assert file.read() == fixture_file(BASE).read_bytes()
    assert library.open_file(BASE) is None
    assert list(folder.iterdir()) == []


def test_what_was_published_here_is_never_evicted():
    def image(number, kind, size):
        manifest = load(
            fixture_manifest(BASE) | {"uuid": f"11111111-aaaa-4bbb-8ccc-{number:012}"}, rules="import"
        )
        return LibraryImage(manifest, Entry(kind, 0.0), b"", "", size, icon=False, used_at=number)

    images = [image(1, "published", 10), image(2, "kept", 10), image(3, "kept", 10)]
    assert evicted(images, 10, frozenset()) == [images[1].uuid]
    assert evicted(images, 20, frozenset()) == []
    assert evicted(images, 0, frozenset()) == [images[1].uuid, images[2].uuid]
    assert evicted(images, 0, frozenset({images[1].uuid})) == [images[2].uuid]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").write_bytes(b"{"),
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff" * 100),
        lambda folder: (folder / "manifest.json").write_text(json.dumps(fixture_manifest(ZVOL))),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "entry.json").write_bytes(b"[]"),
        lambda folder: (folder / "entry.json").write_bytes(b'{"kind": "k\xffpt", "since": 0.0}'),
        lambda folder: (folder / "entry.json").write_bytes(b'{"kind":' + b"[" * 5000),
        lambda folder: (folder / "entry.json").unlink(),
        lambda folder: os.truncate(folder / "file", 100),
        lambda folder: (folder / "file").unlink(),
    ],
)
def test_a_damaged_image_costs_that_image_alone(folder, damage):
    library = opened(folder)
    keep(library, BASE)
    keep(library, ZVOL)
    damage(folder / BASE)
    again = opened(folder)
    assert [image.uuid for image in again.images()] == [ZVOL]
    (aside,) = folder.glob(".damaged-*")
    assert aside.name.startswith(f".damaged-{BASE}"), "for people to look at"
    # The image can come again, and not all that was ever damaged stays.
    assert keep(again, BASE)
    for number in range(20):
        (folder / f".damaged-{number}").mkdir()
    again.sweep()
    assert len(list(folder.glob(".damaged-*"))) == 10


def test_whatever_is_in_the_place_of_a_coming_file_is_no_mistake(folder):
    opened(folder)
    (folder / f".coming-{BASE}").mkdir()
    (folder / f".coming-{ZVOL}").write_bytes(b"part")
    os.utime(folder / f".coming-{BASE}", (1, 1))
    os.utime(folder / f".coming-{ZVOL}", (1, 1))
    opened(folder)
    assert list(folder.iterdir()) == []


def test_what_a_crash_left_is_removed(folder):
    library = opened(folder)
    keep(library, BASE)
    for name in (f".new-{ZVOL}-01234567", f".old-{ZVOL}-01234567"):
        (folder / name).mkdir()
        (folder / name / "file").write_bytes(b"half")
    (folder / "notes.txt").write_text("of somebody")
    assert [image.uuid for image in opened(folder).images()] == [BASE]
    assert sorted(path.name for path in folder.iterdir()) == [BASE, "notes.txt"]


def test_copies_of_schedules_and_of_mirrors_are_not_evicted(folder):
    library = opened(folder)
    for uuid, kind in ((BASE, "mirrored"), (ZVOL, "scheduled"), (INCREMENTAL, "kept")):
        keep(library, uuid)
        library.hold(uuid, kind)
    library = opened(folder, budget=0)
    assert library.evict() == [INCREMENTAL]
    library.hold(BASE, "kept")
    assert library.get(BASE).entry.kind == "mirrored"  # it stays at least as long
    assert library.release({ZVOL}) == []
    assert library.release(()) == [ZVOL]
    assert [image.uuid for image in opened(folder).images()] == [BASE]


def test_a_link_in_place_of_a_file_is_not_followed(folder, tmp_path):
    library = opened(folder)
    keep(library, BASE)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(SIZES[BASE]))
    (folder / BASE / "file").unlink()
    (folder / BASE / "file").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        library.open_file(BASE)


def published(library, uuid):
    document = {key: value for key, value in fixture_manifest(uuid).items() if key != "files"}
    library.publish(load({**document, "state": "unactivated"}, rules="create"))


def uploaded(library, uuid, data):
    with library.upload(uuid) as upload:
        upload.write(data)
        file = {"sha1": upload.sha1, "size": upload.size, "compression": "gzip"}
        upload.finish(lambda old: load({**old, "files": [file]}, rules="create"))


@pytest.mark.parametrize("step", [1, 2])
def test_a_second_upload_that_fails_leaves_no_manifest_of_another_file(folder, monkeypatch, step):
    library = opened(folder)
    published(library, BASE)
    uploaded(library, BASE, b"first")
    written = []
    write = Library._write

    def full(*arguments):
        written.append(arguments)
        if len(written) == step:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(Library, "_write", full)
    with pytest.raises(OSError, match="No space"):
        uploaded(library, BASE, b"other")
    for each in (library, opened(folder)):
        image = each.get(BASE)
        if image.manifest.file is not None:
            assert hashlib.sha1(content(each, BASE)).hexdigest() == image.manifest.file.sha1


def test_what_a_published_image_builds_on_stays(folder):
    library = opened(folder, SIZES[BASE])
    keep(library, BASE)
    published(library, INCREMENTAL)
    library.budget = 1
    library.evict()
    assert {image.uuid for image in library.images()} == {BASE, INCREMENTAL}


def test_all_that_the_library_writes_is_known_to_who_examines_it(folder):
    library = opened(folder)
    keep(library, BASE)
    library.spoil(ZVOL, 2)
    library.spool(ZVOL).write_bytes(b"a part")
    assert library.spoilt(ZVOL) == 2
    found = dict(examined(folder))
    assert len(found) == 3
    assert set(found.values()) == {None}


# -- a clock that jumps --------------------------------------------------------------------------------------


def test_what_was_used_last_is_evicted_last_whatever_the_clock_says(folder, monkeypatch):
    """The clock was ten years ahead when one of two was used, and is right when the other one is."""
    library = opened(folder)
    keep(library, BASE)
    keep(library, ZVOL)
    now = time.time()
    for uuid, ahead in ((ZVOL, 10 * 365 * 86400), (BASE, 0)):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda ahead=ahead: now + ahead)
            os.close(library.open_file(uuid))
    for each in (library, opened(folder)):
        first = evicted(each.images(), max(image.size for image in each.images()), frozenset())
        assert first[0] == ZVOL


def test_a_coming_file_of_the_future_is_dropped_in_the_end(folder, monkeypatch):
    library = opened(folder)
    coming = library.spool(BASE)
    coming.write_bytes(b"x")
    ahead = time.time() + 10 * 365 * 86400
    os.utime(coming, (ahead, ahead))
    uptime = time.monotonic()
    for passed, there in ((0, True), (COMING_SECONDS - 60, True), (COMING_SECONDS + 60, False)):
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda passed=passed: uptime + passed)
            library.sweep()
        assert coming.exists() == there
