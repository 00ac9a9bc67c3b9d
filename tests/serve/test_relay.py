"""A file on its way, as its clients see it: how far it may be sent, and what ends them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from imgstored.errors import DownloadError
from imgstored.manifest import load
from imgstored.serve import relay
from imgstored.serve.relay import Fetch
from imgstored.transfer.download import Download, DownloadLimits
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, fixture_manifest
from tests.support.memory_journal import MemoryJournal

SIZE = 3 << 20
CONTENT = memoryview(random.Random(1).randbytes(SIZE))
OTHER = memoryview(random.Random(2).randbytes(SIZE))


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """A file whose download the test plays. Whoever waits does so for long."""
    monkeypatch.setattr(relay, "_PATIENCE", PATIENCE)
    coming = Fetch(load(fixture_manifest(BASE), rules="import"), SIZE, tmp_path / "spool")
    limits = DownloadLimits(connections=2, connect_seconds=1, silence_seconds=1, min_rate=0, tries=1)
    download = Download([], size=SIZE, path=coming.path, journal=MemoryJournal(), limits=limits)
    coming.begin(download, 0)
    download._spool.open(SIZE, lambda: None)
    yield coming
    download._spool.close()
    coming.end()


def came(fetch, start, stop, content=CONTENT):
    fetch._download._spool.write(start, content[start:stop])


def over(fetch):
    """Everything that will come has come."""
    fetch._download.watermark.finish()
    fetch._download._spool.close()


def test_the_last_byte_waits_until_the_file_is_right(fetch):
    available = fetch.available()
    for start in range(0, SIZE, 1 << 20):
        came(fetch, start, start + (1 << 20))
    over(fetch)
    assert available(0) == SIZE - 1
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(available, offset) for offset in (SIZE - 1, SIZE - 1)]
        # It waits, and does not look again and again.
        assert wait(waiting, timeout=0.2).done == set()
        fetch.finish()
        assert [each.result(PATIENCE) for each in waiting] == [SIZE, SIZE]


def test_a_file_that_is_wrong_cuts_off_all(fetch):
    available = fetch.available()
    came(fetch, 0, 1000)
    over(fetch)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(available, 1000)
        assert wait([waiting], timeout=0.2).done == set()
        fetch.fail(DownloadError("its checksum is wrong"))
        with pytest.raises(DownloadError, match="checksum"):
            waiting.result(PATIENCE)


def test_nobody_completes_an_older_state_with_the_right_file(fetch):
    """Their bytes are of a file that the source has replaced meanwhile: also once the new one is right."""
    came(fetch, 1 << 20, 2 << 20, OTHER)
    early = fetch.available()
    assert early(1 << 20) == 2 << 20
    fetch._download._spool.begin_anew()
    late = fetch.available()
    for start in range(0, SIZE, 1 << 20):
        came(fetch, start, start + (1 << 20))
    over(fetch)
    fetch.finish()
    assert late(2 << 20) == SIZE
    with pytest.raises(DownloadError, match="changed"):
        early(2 << 20)
