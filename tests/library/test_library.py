"""The library on a real folder: what appears, what is evicted, and what a crash leaves."""

from __future__ import annotations

import base64
import hashlib
import json
import os

import pytest

from imgstored.errors import DownloadError, NotSupportedError
from imgstored.library.library import ChangedError, Entry, Library, LibraryImage, evicted, examined
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


def test_md5s_are_added_later_and_kept(folder):
    library = opened(folder)
    keep(library, BASE)
    assert library.get(BASE).entry.md5 is None
    library.digest_missing()
    wanted = base64.b64encode(hashlib.md5(fixture_file(BASE).read_bytes()).digest()).decode()
    assert library.get(BASE).entry.md5 == wanted
    assert opened(folder).get(BASE).entry.md5 == wanted


def test_the_sha256_is_known_once_somebody_asked(folder):
    library = opened(folder)
    keep(library, BASE)
    wanted = hashlib.sha256(fixture_file(BASE).read_bytes()).hexdigest()
    assert library.sha256(BASE) == wanted
    (folder / BASE / "file").unlink()  # it is not read again
    assert library.sha256(BASE) == wanted
    with pytest.raises(ChangedError):
        library.sha256(ZVOL)


def test_a_damaged_file_has_no_digests_and_others_do(folder):
    library = opened(folder)
    for uuid in (BASE, ZVOL):
        keep(library, uuid)
    data = bytearray((folder / BASE / "file").read_bytes())
    data[0] ^= 1
    (folder / BASE / "file").write_bytes(data)
    with pytest.raises(DownloadError, match="damaged"):
        library.sha256(BASE)
    library.digest_missing()
    assert library.get(BASE).entry.sha256 is None
    assert library.get(ZVOL).entry.sha256 is not None


def test_an_index_is_made_once_and_named_to_others_alone(folder):
    """What lies on the disk is the manifest as it came; whose index is here no client is told of another."""
    library = opened(folder)
    foreign = {"sha256": "f" * 64, "size": 9}
    document = fixture_manifest(BASE)
    document["files"][0]["index"] = foreign
    file = folder.parent / "came"
    file.write_bytes(fixture_file(BASE).read_bytes())
    assert library.keep(load(document, rules="import"), file)
    keep(library, ZVOL)
    asked = []

    def make(fd):
        asked.append(os.fstat(fd).st_size)
        return b"index" if asked[-1] == fixture_file(BASE).stat().st_size else None

    def named(library, uuid):
        return json.loads(library.get(uuid).encoded)["files"][0].get("index")

    library.index_missing(make)
    assert (asked, named(library, BASE)) == ([], None), "nobody has hashed the files yet"
    library.digest_missing()
    etag = library.get(BASE).etag
    for each in (library, library, opened(folder)):
        each.index_missing(make)
        assert len(asked) == 2
        assert named(each, BASE) == {"sha256": hashlib.sha256(b"index").hexdigest(), "size": 5}
        assert named(each, ZVOL) is None
        assert each.get(BASE).etag != etag
        with os.fdopen(each.open_index(BASE), "rb") as index:
            assert index.read() == b"index"
        assert each.open_index(ZVOL) is None
    assert json.loads((folder / BASE / "manifest.json").read_bytes())["files"][0]["index"] == foreign
    assert dict(examined(folder)) == {BASE: None, ZVOL: None}
    sha256 = library.get(BASE).entry.sha256
    (folder / BASE / f"index-{sha256}").write_bytes(b"indeX")
    assert "index of its file" in dict(examined(folder))[BASE]


def test_without_zstd_nobody_has_looked_for_an_index(folder):
    library = opened(folder)
    keep(library, BASE)
    library.digest_missing()

    def make(fd):
        raise NotSupportedError("no zstd")

    library.index_missing(make)
    assert library.get(BASE).entry.index is None


def test_another_file_has_another_index(folder):
    library = opened(folder)
    document = {**fixture_manifest(BASE), "state": "unactivated"}
    file = document.pop("files")[0]
    library.publish(load(document, rules="create"))
    for content in (b"one", b"two"):
        with library.upload(BASE) as upload:
            upload.write(content)
            described = {**file, "sha1": upload.sha1, "size": upload.size}
            upload.finish(lambda old, new=described: load({**old, "files": [new]}, rules="create"))
        library.digest_missing()
        library.index_missing(lambda fd: b"index of " + os.pread(fd, 9, 0))
        with os.fdopen(library.open_index(BASE), "rb") as index:
            assert index.read() == b"index of " + content
    assert len(list((folder / BASE).glob("index-*"))) == 1


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
