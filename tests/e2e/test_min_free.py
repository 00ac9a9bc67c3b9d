"""`limits.min_free_mib` stays free, whatever comes, and however many at once; on a small file system.

Whoever measures does so all the time: the free space must not be too little even for a moment.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
from contextlib import contextmanager, suppress

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import started
from tests.support.daemon import Daemon
from tests.support.faulty_server import FaultyServer
from tests.support.full import small
from tests.support.image_site import BASE, ZVOL, fixture_manifest
from tests.support.streams import StreamWriter, filesystem_stream, stream_of

MIB = 1 << 20
MIN_FREE = 8 * MIB
VOLUME = "44444444-aaaa-4bbb-8ccc-00000000000c"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


class Lowest:
    """The least free space that there was."""

    def __init__(self, folder):
        self.folder = folder
        self.found = self.free
        self._ended = False
        self._thread = threading.Thread(target=self._look)

    @property
    def free(self):
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def _look(self):
        while not self._ended:
            self.found = min(self.found, self.free)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended = True
        self._thread.join()


@contextmanager
def small_store(tmp_path, source, size):
    """A daemon whose state, spool and pool are on a file system of so many bytes."""
    with small(tmp_path / "disk", size) as folder:
        limits = f"[limits]\nmin_free_mib = {MIN_FREE // MIB}\n"
        daemon = Daemon(tmp_path / "store", config=source + limits)
        text = daemon.config_file.read_text()
        daemon.config_file.write_text(text.replace(f"{daemon.folder}/state", f"{folder}/state"))
        with daemon, Lowest(folder) as lowest:
            yield daemon, lowest


def made_uuid(number):
    return f"44444444-aaaa-4bbb-8ccc-0000000000{number:02}"


def described(uuid, file):
    manifest, _ = made_image(uuid, size=MIB)
    files = [{"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}]
    return {**manifest, "files": files}


def without_ranges(root, *, length):
    """A server that sends whole files only, with or without saying how long they are."""

    def answer(request, wire):
        path = root / request.target.partition("?")[0].lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            wire.reply("404 Not Found", {})
            return
        content = path.read_bytes()
        says = f"Content-Length: {len(content)}\r\n" if length or path.suffix else ""
        with suppress(OSError):  # whoever has no room hangs up
            wire.send(f"HTTP/1.0 200 OK\r\nConnection: close\r\n{says}\r\n".encode() + content)
        wire.close()

    return FaultyServer(answer)


@pytest.mark.parametrize("length", [True, False], ids=["a length", "no length"])
def test_several_at_once_from_a_server_without_ranges(served, tmp_path, length):
    """Each would fit alone: its file and its stream. Not all of them do; none of them takes the reserve."""
    uuids = [made_uuid(number) for number in range(4)]
    for number, uuid in enumerate(uuids):
        served.pages.add(*made_image(uuid, size=9 * MIB, seed=number + 1))
    with (
        without_ranges(served.pages.folder, length=length) as server,
        small_store(tmp_path, static_source(server.url), 48 * MIB) as (daemon, lowest),
    ):
        clients = [started(daemon, "import", uuid) for uuid in uuids]
        said = [client.communicate(timeout=100)[1] for client in clients]
        installed = json.loads(daemon.imgctl("list", "-j").stdout)
        assert lowest.found >= MIN_FREE
        refused = [text for text in said if text and "(NoSpace)" in str(text)]
        assert refused
        assert len(installed) + len(refused) == len(uuids)
        # Once there is room, each of the others comes.
        for image in installed:
            daemon.imgctl("delete", image["manifest"]["uuid"], check=True)
        daemon.imgctl("import", uuids[-1], check=True)
        assert lowest.found >= MIN_FREE


@pytest.mark.parametrize("size", [4, 40], ids="{} MiB".format)
def test_a_stream_of_which_nobody_says_how_long_it_is(served, tmp_path, size):
    """`--zstream` believes no manifest, and the server says nothing either."""
    manifest, _ = made_image(made_uuid(1), size=MIB)
    served.pages.add(manifest, filesystem_stream(size=size * MIB, seed=3))
    with (
        without_ranges(served.pages.folder, length=False) as server,
        small_store(tmp_path, static_source(server.url), 48 * MIB) as (daemon, lowest),
    ):
        done = daemon.imgctl("import", "--zstream", made_uuid(1))
        assert (done.returncode == 0) == (size == 4), done.stderr
        assert lowest.found >= MIN_FREE
        if done.returncode:
            assert "not enough room in" in done.stderr


def test_a_small_file_that_becomes_a_large_stream(served, tmp_path):
    stream = stream_of((b"much the same" * (MIB // 13) for _ in range(60)), guid=7)
    file = gzip.compress(b"".join(stream))
    assert len(file) < MIB
    served.pages.add(described(made_uuid(1), file), file)
    with small_store(tmp_path, static_source(served.url), 48 * MIB) as (daemon, lowest):
        done = daemon.imgctl("import", made_uuid(1))
        assert "(NoSpace)" in done.stderr
        assert lowest.found >= MIN_FREE
        daemon.imgctl("import", BASE, check=True)


def test_a_small_clone_of_a_large_volume(served, tmp_path):
    """tmpfs cannot share blocks: the clone begins with a copy of its origin's disk."""
    size = 26 * MIB
    stream = stream_of([b"\x01" * size], guid=1, objset="volume")
    file = gzip.compress(b"".join(stream), compresslevel=1)
    kind = {key: fixture_manifest(ZVOL)[key] for key in ("type", "nic_driver", "disk_driver", "cpu_type")}
    kind["image_size"] = size // MIB
    served.pages.add({**described(VOLUME, file), **kind}, file)
    writer = StreamWriter(guid=2)
    records = [
        writer.begin(fromguid=1, objset=3),
        writer.object(1, kind=23),
        writer.object(2, kind=24, block_size=512),
        writer.volume_size(size),
        writer.end(),
    ]
    small_file = gzip.compress(b"".join(records))
    assert len(small_file) < 400
    served.pages.add({**described(made_uuid(2), small_file), **kind, "origin": VOLUME}, small_file)
    with small_store(tmp_path, static_source(served.url), 48 * MIB) as (daemon, lowest):
        daemon.imgctl("import", VOLUME, check=True)
        before = lowest.free
        done = daemon.imgctl("import", made_uuid(2))
        assert "(NoSpace)" in done.stderr
        assert lowest.found >= MIN_FREE
        # It was refused before the first byte of the copy.
        assert before - lowest.found < 2 * MIB
