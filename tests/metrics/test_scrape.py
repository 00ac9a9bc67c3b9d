"""A real daemon, real imports through nginx, and what a scrape says before and after."""

from __future__ import annotations

import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest
from imgctl import RemoteError
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.gate import Gate
from tests.support.image_site import BASE, INCREMENTAL, ImageSite, fixture_file, fixture_manifest
from tests.support.nginx import free_port

BAD = "22222222-aaaa-4bbb-8ccc-000000000001"
MADE = "22222222-aaaa-4bbb-8ccc-000000000002"
MISSING = "22222222-aaaa-4bbb-8ccc-0000000000ff"

#: Far longer than anything here takes.
TIMEOUT = 60.0


class Scraped(dict[tuple[str, ...], float]):
    """Samples by name and labels, 0 for what is not there."""

    def __missing__(self, key: tuple[str, ...]) -> float:
        return 0.0

    def since(self, before: Scraped, *key: str) -> float:
        return self[key] - before[key]


class Scraper:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    def __call__(self) -> Scraped:
        with urllib.request.urlopen(self._url, timeout=TIMEOUT) as answer:
            text = answer.read().decode()
        return Scraped(
            {
                (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def until(self, wanted) -> Scraped:
        """The first scrape that is as wanted."""
        deadline = time.monotonic() + TIMEOUT
        while not wanted(found := self()):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


@contextmanager
def measured(tmp_path, url):
    port = free_port()
    config = static_source(url) + f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
    with Daemon(tmp_path / "store", config=config) as daemon:
        yield daemon, Scraper(port)


@pytest.fixture
def pages(site):
    made = ImageSite(site)
    made.add_fixtures()
    return made


def host_of(url: str) -> str:
    return url.removeprefix("http://")


def test_imports_bytes_hits_deletions_and_requests(tmp_path, pages, nginx):
    bad = {**fixture_manifest(BASE), "uuid": BAD}
    bad["files"] = [{**bad["files"][0], "sha1": "1" * 40}]
    pages.add(bad, fixture_file(BASE))
    with measured(tmp_path, nginx.url) as (daemon, scrape):
        before = scrape()
        with daemon.client() as client:
            client.import_image(INCREMENTAL)
            client.import_image(INCREMENTAL)
            client.ensure([BASE, INCREMENTAL])
            for uuid in (BAD, MISSING):
                with pytest.raises(RemoteError):
                    client.import_image(uuid)
            with pytest.raises(RemoteError):
                client.delete(BASE)
            client.delete(INCREMENTAL)
            after = scrape()
    sent = sum(hit.bytes_sent for hit in nginx.settled_hits() if hit.path.endswith("/file"))
    assert after.since(before, "imgstored_imports_total", "installed") == 2
    assert after.since(before, "imgstored_imports_total", "failed") == 2
    assert after.since(before, "imgstored_import_failures_total", "DownloadError") == 1
    assert after.since(before, "imgstored_import_failures_total", "ActiveImageNotFound") == 1
    assert after.since(before, "imgstored_source_bytes_total", host_of(nginx.url)) == sent > 4_000_000
    assert after.since(before, "imgstored_cache_hits_total", "installed") == 3
    assert after.since(before, "imgstored_deletions_total", "deleted") == 1
    assert after.since(before, "imgstored_import_seconds_count") == 3
    for stage in ("turn", "origin", "lock", "network", "checksum", "decompress", "pool"):
        assert after.since(before, "imgstored_import_stage_seconds_count", stage) == 3
    assert after.since(before, "imgstored_import_stage_seconds_sum", "decompress") > 0
    assert after.since(before, "imgstored_rpc_request_seconds_count", "import", "ok") == 2
    assert after.since(before, "imgstored_rpc_request_seconds_count", "import", "DownloadError") == 1
    assert after.since(before, "imgstored_rpc_request_seconds_sum", "import", "ok") > 0
    assert after["imgstored_images", "zones"] == 1
    assert after["imgstored_clients",] == 1
    assert after["imgstored_view_info", "files"] == 1
    assert after["imgstored_pool_up", "zones"] == 1
    assert after["imgstored_pool_size_bytes", "zones"] > after["imgstored_pool_available_bytes", "zones"] > 0
    assert after["imgstored_source_up", nginx.url] == 1
    assert after["imgstored_download_bytes_per_second",] == 0


@pytest.mark.slow
def test_what_is_under_way_who_joins_and_what_is_resumed(tmp_path, pages, start_nginx):
    pages.add(*made_image(MADE, size=4 << 20))
    with Gate(pages.folder) as gate:
        gate.hold(after=1_500_000)
        slow = start_nginx(locations={f"/{MADE}/": gate.location})
        _asked_for_by_three(tmp_path, slow.url)


def _asked_for_by_three(tmp_path, url):
    """Of a server that has sent a part of the image, and the rest byte by byte."""
    source = host_of(url)
    with measured(tmp_path, url) as (daemon, scrape):

        def ask() -> None:
            with daemon.client() as client, pytest.raises(RemoteError, match="cancelled"):
                client.import_image(MADE)

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        found = scrape.until(
            lambda now: (
                now["imgstored_source_bytes_total", source] > 1_000_000
                and now["imgstored_download_bytes_per_second",] > 0
                and now["imgstored_cache_hits_total", "joined"] == 2
            )
        )
        assert found["imgstored_imports_under_way", "downloading"] == 1
        assert found["imgstored_clients",] == 3
        scrape.until(lambda now: now["imgstored_imports_limited", "network"] == 1)
        with daemon.client() as client:
            client.cancel(MADE)
        for asker in askers:
            asker.join(TIMEOUT)
        ended = scrape()
        assert ended["imgstored_imports_under_way", "downloading"] == 0
        assert ended["imgstored_imports_total", "cancelled"] == 1
        assert ended["imgstored_resumed_bytes_total",] == 0
        again = threading.Thread(target=ask)
        again.start()
        resumed = scrape.until(lambda now: now["imgstored_resumed_bytes_total",] > 0)
        assert resumed["imgstored_resumed_bytes_total",] <= ended["imgstored_source_bytes_total", source]
        with daemon.client() as client:
            client.cancel(MADE)
        again.join(TIMEOUT)


def test_a_daemon_that_cannot_listen_says_so(tmp_path):
    config = '[metrics]\nlisten = "unix:/proc/metrics.sock"\n'
    with pytest.raises(RuntimeError, match=r"metrics\.listen: cannot listen at /proc/metrics\.sock"):
        Daemon(tmp_path / "store", config=config).start()
