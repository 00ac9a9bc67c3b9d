"""A daemon, an image server, and images made for the test."""

from __future__ import annotations

import gzip
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.gate import Gate
from tests.support.image_site import ImageSite
from tests.support.nginx import Nginx
from tests.support.shared_daemon import SharedDaemon
from tests.support.streams import filesystem_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Served:
    """An image site behind a running nginx."""

    pages: ImageSite
    nginx: Nginx

    @property
    def url(self) -> str:
        return self.nginx.url

    def bytes_sent(self) -> int:
        """Bytes of image files that the server has sent."""
        return sum(hit.bytes_sent for hit in self.nginx.hits() if hit.path.endswith("/file"))

    def bytes_sent_of(self, uuid: str) -> int:
        """Bytes of one image's file that the server has sent."""
        return sum(hit.bytes_sent for hit in self.nginx.settled_hits() if hit.path == f"/{uuid}/file")

    def requests(self, uuid: str) -> int:
        """Requests for an image's file."""
        return sum(hit.path == f"/{uuid}/file" for hit in self.nginx.hits())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """An image server with the three fixture images."""
    pages = ImageSite(tmp_path / "site")
    pages.add_fixtures()
    with Nginx(tmp_path / "nginx", root=pages.folder) as nginx:
        yield Served(pages, nginx)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """An empty OCI registry, without TLS and logins."""
    with DockerRegistry(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def gate(served: Served) -> Iterator[Gate]:
    """Holds back what tests want to see under way: `gated` serves it from behind."""
    with Gate(served.pages.folder) as gate:
        yield gate


@contextmanager
def gated(
    served: Served,
    gate: Gate,
    folder: Path,
    *uuids: str,
    connections: int = 2,
    more: str = "",
    **settings: Any,
) -> Iterator[Daemon]:
    """A daemon and its image server, which sends the files of these images as the gate lets them through."""
    folder.mkdir()
    locations = {f"/{uuid}/": gate.location for uuid in uuids}
    limits = f"[limits]\nconnections = {connections}\nmin_rate = 0\n"
    with Nginx(folder / "nginx", root=served.pages.folder, locations=locations) as nginx:
        served.nginx = nginx
        with Daemon(folder / "store", config=static_source(nginx.url) + limits + more, **settings) as daemon:
            yield daemon


@pytest.fixture
def daemon(tmp_path: Path, served: Served) -> Iterator[Daemon]:
    """imgstored with that server as its only source."""
    with Daemon(tmp_path / "store", config=static_source(served.url)) as running:
        yield running


@pytest.fixture(scope="session")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDaemon]:
    with SharedDaemon(tmp_path_factory.mktemp("shared")) as lender:
        yield lender


@pytest.fixture(scope="session")
def crashing_lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDaemon]:
    with SharedDaemon(tmp_path_factory.mktemp("crashing"), crashing=True) as lender:
        yield lender


@contextmanager
def lent(lender: SharedDaemon, served: Served) -> Iterator[Daemon]:
    try:
        yield lender.lend(served.url, static_source(served.url))
    finally:
        lender.take_back()


@pytest.fixture
def shared_daemon(lender: SharedDaemon, served: Served) -> Iterator[Daemon]:
    """As `daemon`, but its history and its log have what other tests did."""
    with lent(lender, served) as running:
        yield running


@pytest.fixture
def crashing_daemon(crashing_lender: SharedDaemon, served: Served) -> Iterator[Daemon]:
    """As `shared_daemon`, and it can be told where to die."""
    with lent(crashing_lender, served) as running:
        yield running


def static_source(url: str, **settings: object) -> str:
    lines = [f'url = "{url}"', 'type = "static"']
    lines += [f"{key} = {value!r}".replace("'", '"') for key, value in settings.items()]
    return "[[sources]]\n" + "\n".join(lines) + "\n"


def made_image(
    uuid: str, *, size: int = 32 << 20, seed: int = 1, **fields: Any
) -> tuple[dict[str, Any], bytes]:
    """A zone-dataset image of `size` bytes of stream that hardly compresses: (manifest, file)."""
    file = _made_file(size, seed)
    manifest = {
        "v": 2,
        "uuid": uuid,
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": f"made-{seed}",
        "version": "1.0.0",
        "state": "active",
        "disabled": False,
        "public": True,
        "published_at": "2026-11-24T00:00:09.000Z",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [{"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}],
    }
    return {**manifest, **fields}, file


@lru_cache(maxsize=4)
def _made_file(size: int, seed: int) -> bytes:
    return gzip.compress(filesystem_stream(size=size, seed=seed), compresslevel=1)
