"""Digests and indexes of the library's files: made once, and never those of another file."""

from __future__ import annotations

import base64
import hashlib
import json
import os

import pytest

from imgstored.errors import DownloadError, NotSupportedError
from imgstored.library.digests import Digests
from imgstored.library.folder import examined
from imgstored.library.library import ChangedError
from imgstored.manifest import load
from tests.library.test_library import keep, opened
from tests.support.image_site import BASE, ZVOL, fixture_file, fixture_manifest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "library"


def test_md5s_are_added_later_and_kept(folder):
    library = opened(folder)
    keep(library, BASE)
    assert library.get(BASE).entry.md5 is None
    Digests(library).digest_missing()
    wanted = base64.b64encode(hashlib.md5(fixture_file(BASE).read_bytes()).digest()).decode()
    assert library.get(BASE).entry.md5 == wanted
    assert opened(folder).get(BASE).entry.md5 == wanted


def test_the_sha256_is_known_once_somebody_asked(folder):
    library = opened(folder)
    keep(library, BASE)
    wanted = hashlib.sha256(fixture_file(BASE).read_bytes()).hexdigest()
    assert Digests(library).sha256(BASE) == wanted
    (folder / BASE / "file").unlink()  # it is not read again
    assert Digests(library).sha256(BASE) == wanted
    with pytest.raises(ChangedError):
        Digests(library).sha256(ZVOL)


def test_a_damaged_file_has_no_digests_and_others_do(folder):
    library = opened(folder)
    for uuid in (BASE, ZVOL):
        keep(library, uuid)
    data = bytearray((folder / BASE / "file").read_bytes())
    data[0] ^= 1
    (folder / BASE / "file").write_bytes(data)
    with pytest.raises(DownloadError, match="damaged"):
        Digests(library).sha256(BASE)
    Digests(library).digest_missing()
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

    Digests(library).index_missing(make)
    assert (asked, named(library, BASE)) == ([], None), "nobody has hashed the files yet"
    Digests(library).digest_missing()
    etag = library.get(BASE).etag
    for each in (library, library, opened(folder)):
        Digests(each).index_missing(make)
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
    Digests(library).digest_missing()

    def make(fd):
        raise NotSupportedError("no zstd")

    Digests(library).index_missing(make)
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
        Digests(library).digest_missing()
        Digests(library).index_missing(lambda fd: b"index of " + os.pread(fd, 9, 0))
        with os.fdopen(library.open_index(BASE), "rb") as index:
            assert index.read() == b"index of " + content
    assert len(list((folder / BASE).glob("index-*"))) == 1


def test_a_damaged_file_is_read_once(folder):
    library = opened(folder)
    keep(library, BASE)
    (folder / BASE / "file").write_bytes(bytes(fixture_file(BASE).stat().st_size))
    digests, blocks = Digests(library), []
    for _ in range(3):
        digests.digest_missing(lambda: blocks.append(1))
    once = len(blocks)
    library.remove(BASE)
    keep(library, BASE)
    digests.digest_missing(lambda: blocks.append(1))
    assert len(blocks) == 2 * once > 0
    assert library.get(BASE).entry.sha256 == hashlib.sha256(fixture_file(BASE).read_bytes()).hexdigest()
