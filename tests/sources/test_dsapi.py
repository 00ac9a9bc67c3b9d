from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from imgstored.errors import APIError
from imgstored.sources.base import SourceSpec
from imgstored.sources.client import open_source
from tests.sources.contract import OLD, OLD_MANIFEST, ImageServer, SourceContract

if TYPE_CHECKING:
    from pathlib import Path


class DsapiServer(ImageServer):
    type = "dsapi"
    locations = {  # noqa: RUF012
        "= /datasets": "try_files /datasets.json =404;",
        "~ ^/datasets/([^/]+)$": "try_files /datasets/$1/manifest.json =404;",
    }

    def prepare(self) -> None:
        (self.root / "ping").write_text('{"ping": "pong"}')

    def write_list(self, text: str) -> None:
        (self.root / "datasets.json").write_text(text)

    def folder(self, uuid: str) -> Path:
        return self.root / "datasets" / uuid


class TestContract(SourceContract):
    @pytest.fixture
    def server(self, site, start_nginx):
        return DsapiServer(site, start_nginx)


async def test_the_url_may_end_in_datasets(site, start_nginx):
    server = DsapiServer(site, start_nginx)
    server.add_all()
    source = open_source(SourceSpec(f"{server.nginx.url}/datasets", "dsapi"))
    await source.ping()
    assert len(await source.list()) == 4
    offer = await source.offer(OLD)
    assert offer is not None
    assert offer.location is not None
    assert offer.location.url == f"{server.nginx.url}/datasets/{OLD}/old%201%25.zfs.bz2"
    assert offer.location.source == f"{server.nginx.url}/datasets"


async def test_the_files_own_url_wins(site, start_nginx):
    server = DsapiServer(site, start_nginx)
    url = "http://mirror.example:8080/files/old.zfs?x=1"
    server.add({**OLD_MANIFEST, "files": [{**OLD_MANIFEST["files"][0], "url": url}]}, "file", b"")
    offer = await server.source().offer(OLD)
    assert offer is not None
    assert offer.location is not None
    assert (offer.location.url, offer.location.verify) == (url, "first")


@pytest.mark.parametrize("uuid", ["44444444-aaaa-4bbb-8ccc-000000000001", 7])
async def test_the_manifest_of_another_image_is_refused(start_faulty, uuid):
    body = json.dumps({**OLD_MANIFEST, "uuid": uuid}).encode()
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, body))
    with pytest.raises(APIError, match="another image"):
        await open_source(SourceSpec(server.url, "dsapi")).offer(OLD)
