"""Deltas with a real daemon and a real web server: a kill in the middle, and what people see of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import zstandard

from imgstored.delta.index import parse_index
from tests.e2e.conftest import gated, static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.e2e.test_site import export, host
from tests.support.daemon import Daemon
from tests.support.deltas import NEW, OLD, files, indexed, manifest_of, publish, tree, upgraded
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, fixture_file, fixture_manifest
from tests.support.nginx import Nginx, free_port
from tests.support.streams import real_stream

CONTENTS = files(300)
NEW_STREAM = tree(upgraded(CONTENTS), guid=12)
DELTAS = 'deltas = "always"\n'
TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def made():
    return {OLD: indexed(tree(CONTENTS, guid=11)), NEW: indexed(NEW_STREAM)}


def test_after_kill_9_a_delta_goes_on_where_it_was(served, gate, tmp_path, made):
    for uuid, each in made.items():
        publish(served.pages, each, uuid)
    file, index = made[NEW]
    with gated(served, gate, tmp_path / "slow", NEW, connections=2, more=DELTAS) as daemon:
        daemon.imgctl("import", OLD, check=True)
        gate.hold(after=len(index) + len(file) // 16)
        client = started(daemon, "import", NEW)
        until(lambda: gate.given - len(index) >= len(file) // 16, seconds=30)
        (job,) = jobs(daemon)
        assert job["delta"]["uuid"] == OLD
        assert 0 < job["delta"]["fetch"] < 0.4 * len(file)
        fetch, done = job["delta"]["fetch"], job["done"]
        assert len(file) - fetch <= done < len(file)
        daemon.kill()
        client.communicate(timeout=30)
        before = gate.given
        gate.open()
        daemon.start()
        until(lambda: NEW in daemon.imgctl("list", "-H", "-o", "uuid").stdout, seconds=60)
        # What had come of two ranges that were under way is fetched again, and nothing else, nor the index.
        assert gate.given - before <= fetch - len(file) // 16 + 2 * 65536
        daemon.imgctl("export", NEW, "-o", str(tmp_path / "out"), check=True)
    assert (tmp_path / "out.zfs").read_bytes() == NEW_STREAM


def without_index(manifest):
    """As a server has it that knows nothing of indexes."""
    (file,) = manifest["files"]
    return {**manifest, "files": [{name: file[name] for name in ("sha1", "size", "compression")}]}


@pytest.mark.parametrize("signed", [False, True])
def test_a_site_that_is_exported_has_indexes(served, tmp_path, made, signed):
    """Of the files that can have one; hosts with and without keys take deltas from it."""
    for uuid, each in made.items():
        served.pages.add(without_index(manifest_of(each, uuid)), each.file)
    www, arguments, keys = tmp_path / "www", [], []
    with Daemon(
        tmp_path / "maker", config=static_source(served.url) + "[library]\nkeep_mib = 100\n"
    ) as maker:
        if signed:
            maker.imgctl("keys", "make", str(tmp_path / "key"), check=True)
            arguments = ["--sign", str(tmp_path / "key")]
            keys = [(tmp_path / "key.pub").read_text().splitlines()[1]]
        for uuid in (OLD, NEW, BASE):
            maker.imgctl("import", uuid, check=True)
        export(maker, www, *arguments)
        images = www / "images"
        for uuid in (OLD, NEW):
            index = (images / uuid / "file.index").read_bytes()
            assert index == made[uuid].index
            (file,) = json.loads((images / uuid / "index.html").read_bytes())["files"]
            assert file["index"] == {"sha256": hashlib.sha256(index).hexdigest(), "size": len(index)}
        assert not (images / BASE / "file.index").exists()
        assert "file.index" in (www / "SHA256SUMS").read_text()
        assert export(maker, www, *arguments)["written"] == 0
    with Nginx(tmp_path / "nginx", root=www) as nginx:
        url, more = nginx.url + "/images", "[limits]\n" + DELTAS
        with host(tmp_path / "other", url=url, type_="static", more=more, keys=keys) as other:
            other.imgctl("import", OLD, check=True)
            plan = other.imgctl("import", "--dry-run", NEW, check=True).stdout
            assert f"of it only what image {OLD} (tree@1) lacks" in plan
            told = other.imgctl("-v", "import", NEW, check=True)
            assert f"the rest is in image {OLD} (tree@1)" in told.stderr
            entries = json.loads(other.imgctl("history", "-j", NEW, check=True).stdout)
            assert entries[-1]["message"].endswith(f"the rest was in image {OLD} (tree@1)")
            assert entries[-1]["code"] is None
            other.imgctl("export", NEW, "-o", str(tmp_path / "out"), check=True)
        assert (tmp_path / "out.zfs").read_bytes() == NEW_STREAM
        sent = sum(hit.bytes_sent for hit in nginx.settled_hits() if hit.path == f"/images/{NEW}/file")
        assert 0 < sent < 0.4 * len(made[NEW].file)


def named_index(url, uuid):
    with urllib.request.urlopen(f"{url}/images/{uuid}", timeout=PATIENCE) as answer:
        return json.load(answer)["files"][0].get("index")


def check_delta_from(url, folder, made, *, type_="imgapi"):
    """A host that has the older image imports the newer one through nginx, whose log has the bytes."""
    with (
        Nginx(folder / "front", root=folder, locations={"/images": f"proxy_pass {url};"}) as front,
        host(folder / "reader", url=front.url, type_=type_, more="[limits]\n" + DELTAS) as reader,
    ):
        reader.imgctl("import", OLD, check=True)
        told = reader.imgctl("-v", "import", NEW, check=True).stderr
        assert f"the rest is in image {OLD} (tree@1)" in told
        reader.imgctl("export", NEW, "-o", str(folder / "out"), check=True)
        hits = front.settled_hits()
    assert (folder / "out.zfs").read_bytes() == NEW_STREAM
    sent = sum(hit.bytes_sent for hit in hits if hit.path.startswith(f"/images/{NEW}/file"))
    assert len(made[NEW].index) < sent < 0.4 * len(made[NEW].file)


def test_a_server_makes_the_indexes_of_what_is_published_to_it(tmp_path, made):
    """Of frames of whole records; what has another form is served as ever."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = f'[serve]\nlisten = "127.0.0.1:{port}"\ntokens = {{ ci = "{TOKEN}" }}\n'
    with Daemon(tmp_path / "server", config=config) as server, Daemon(tmp_path / "author") as author:
        author.environment["IMGCTL_TOKEN"] = TOKEN
        for uuid, each in made.items():
            (tmp_path / "file").write_bytes(each.file)
            (tmp_path / "manifest").write_text(json.dumps(without_index(manifest_of(each, uuid))))
            author.imgctl(
                "publish", "-m", str(tmp_path / "manifest"), "-f", str(tmp_path / "file"), url, check=True
            )
        manifest = tmp_path / "base"
        manifest.write_text(json.dumps(fixture_manifest(BASE)))
        author.imgctl("publish", "-m", str(manifest), "-f", str(fixture_file(BASE)), url, check=True)
        until(lambda: all(named_index(url, uuid) for uuid in made), seconds=60)
        index = made[NEW].index
        assert named_index(url, NEW) == {"sha256": hashlib.sha256(index).hexdigest(), "size": len(index)}
        with urllib.request.urlopen(f"{url}/images/{NEW}/file.index", timeout=PATIENCE) as answer:
            assert answer.read() == index
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/images/{BASE}/file.index", timeout=PATIENCE)
        check_delta_from(url, tmp_path, made)
        server.kill()
        server.start()
        assert named_index(url, NEW)["size"] == len(index)


def test_a_server_names_no_index_that_it_lacks(served, tmp_path, made):
    """What comes from its sources it fetches whole; the index that it then makes is its own."""
    for uuid, each in made.items():
        publish(served.pages, each, uuid)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = f'[library]\nkeep_mib = 100\n[serve]\nlisten = "127.0.0.1:{port}"\npull = true\n'
    with Daemon(tmp_path / "rack", config=static_source(served.url) + config):
        assert named_index(url, NEW) is None
        for uuid in made:
            with urllib.request.urlopen(f"{url}/images/{uuid}/file", timeout=PATIENCE) as answer:
                assert answer.read() == made[uuid].file
        until(lambda: all(named_index(url, uuid) for uuid in made), seconds=60)
        check_delta_from(url, tmp_path, made)
    assert not [hit for hit in served.nginx.settled_hits() if hit.path.endswith(".index")]


def test_an_index_that_is_not_the_signed_one(served, tmp_path, made):
    """Who has the web server of a signed site can put another index there: it costs the whole file."""
    for uuid, each in made.items():
        served.pages.add(without_index(manifest_of(each, uuid)), each.file)
    www = tmp_path / "www"
    with Daemon(
        tmp_path / "maker", config=static_source(served.url) + "[library]\nkeep_mib = 100\n"
    ) as maker:
        maker.imgctl("keys", "make", str(tmp_path / "key"), check=True)
        for uuid in (OLD, NEW):
            maker.imgctl("import", uuid, check=True)
        export(maker, www, "--sign", str(tmp_path / "key"))
    index = www / "images" / NEW / "file.index"
    index.chmod(0o644)
    index.write_bytes(made[OLD].index.ljust(len(made[NEW].index), b"x")[: len(made[NEW].index)])
    keys = [(tmp_path / "key.pub").read_text().splitlines()[1]]
    with Nginx(tmp_path / "nginx", root=www) as nginx:
        url, more = nginx.url + "/images", "[limits]\n" + DELTAS
        with host(tmp_path / "other", url=url, type_="static", more=more, keys=keys) as other:
            other.imgctl("import", OLD, check=True)
            told = other.imgctl("-v", "import", NEW, check=True)
            assert "the index is not the one that the manifest names; fetching the whole file" in told.stderr
        sent = sum(hit.bytes_sent for hit in nginx.settled_hits() if hit.path == f"/images/{NEW}/file")
        assert sent == len(made[NEW].file)


def test_what_is_exported_with_an_index(daemon, tmp_path):
    """The index is a file of its own, which fits the image's file; without zstd there is none."""
    daemon.imgctl("import", BASE, check=True)
    told = daemon.imgctl(
        "export", BASE, "-c", "zstd", "--index", "-o", str(tmp_path / "out"), check=True
    ).stdout
    assert f'Exported image {BASE} to "{tmp_path}/out.zfs.index"' in told
    manifest = json.loads((tmp_path / "out.imgmanifest").read_bytes())
    file, index = (tmp_path / f"out.zfs.{suffix}" for suffix in ("zst", "index"))
    check_fits(manifest, file.read_bytes(), index.read_bytes(), real_stream("base"))
    # Whole, it is installed as any other.
    daemon.imgctl("delete", BASE, check=True)
    daemon.imgctl("install", "-m", str(tmp_path / "out.imgmanifest"), "-f", str(file), check=True)
    for wrong in (["-c", "gzip"], [], ["-c", "zstd", "-o", "-"]):
        done = daemon.imgctl("export", BASE, "--index", *wrong)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr


def test_an_image_of_a_disk_has_an_index(tmp_path):
    """`create --raw` needs no daemon."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"".join(files(40)).ljust(2 << 20, b"\0"))
    told = subprocess.run(
        [
            *(sys.executable, "-m", "imgctl", "create", "--raw", "-c", "zstd", "--index"),
            *("-o", str(tmp_path / "out"), str(disk), "name=disk", "version=1", "os=linux"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    manifest = json.loads((tmp_path / "out.imgmanifest").read_bytes())
    file, index = (tmp_path / f"out.zvol.{suffix}" for suffix in ("zst", "index"))
    stream = zstandard.ZstdDecompressor().stream_reader(file.read_bytes(), read_across_frames=True).read()
    check_fits(manifest, file.read_bytes(), index.read_bytes(), stream)


def check_fits(manifest, file, index, stream):
    (described,) = manifest["files"]
    assert described["size"] == len(file)
    assert described["sha1"] == hashlib.sha1(file, usedforsecurity=False).hexdigest()
    assert described["index"] == {"sha256": hashlib.sha256(index).hexdigest(), "size": len(index)}
    assert parse_index(index, file_size=len(file)).sha256 == hashlib.sha256(stream).hexdigest()
