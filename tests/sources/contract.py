"""What every kind of source must do, against a real web server that serves a folder as that kind."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import APIError, ClientError, InvalidManifestError, InvalidUUIDError
from imgstored.http.documents import fetch_document
from imgstored.http.location import Access
from imgstored.sources.base import SourceSpec
from imgstored.sources.client import open_source
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgstored.sources.base import Source, SourceType
    from tests.support.nginx import Nginx

OLD = "22222222-aaaa-4bbb-8ccc-000000000001"
UNKNOWN = "99999999-aaaa-4bbb-8ccc-000000000009"

#: A manifest as DSAPI servers have them, and its file.
OLD_FILE = b"not really a stream"
OLD_MANIFEST: dict[str, Any] = {
    "uuid": OLD,
    "name": "old",
    "version": "1.0",
    "type": "zone-dataset",
    "os": "smartos",
    "creator_uuid": "352971aa-31ba-496c-9ade-a379feaecd52",
    "creator_name": "sdc",
    "published_at": "2012-05-02T15:15Z",
    "files": [
        {"path": "old 1%.zfs.bz2", "sha1": hashlib.sha1(OLD_FILE).hexdigest(), "size": len(OLD_FILE)},
    ],
}


class ImageServer:
    """A folder that nginx serves as an image server of some kind."""

    type: SourceType
    #: Settings of paths that are both a document and a folder.
    locations: dict[str, str] = {}  # noqa: RUF012  never changed
    #: The file of the old manifest, below the image's own folder.
    old_file_name = "old 1%.zfs.bz2"

    def __init__(self, root: Path, start_nginx: Callable[..., Nginx]) -> None:
        self.root = root
        self.nginx = start_nginx(locations=self.locations)
        self.manifests: list[Any] = []
        self.prepare()
        self.write_list(json.dumps([]))

    def prepare(self) -> None:
        """Writes what is there without any image."""

    def write_list(self, text: str) -> None:
        """What the server answers when it is asked for its list."""
        raise NotImplementedError

    def folder(self, uuid: str) -> Path:
        """Where the image's files are."""
        raise NotImplementedError

    def add(self, manifest: dict[str, Any], name: str, file: bytes) -> None:
        folder = self.folder(manifest["uuid"])
        folder.mkdir(parents=True)
        (folder / name).write_bytes(file)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        self.manifests.append(manifest)
        self.write_list(json.dumps(self.manifests))

    def add_all(self) -> None:
        for uuid in (BASE, INCREMENTAL, ZVOL):
            self.add(fixture_manifest(uuid), "file", fixture_file(uuid).read_bytes())
        self.add(OLD_MANIFEST, self.old_file_name, OLD_FILE)

    def source(self, **settings: Any) -> Source:
        return open_source(SourceSpec(self.nginx.url, self.type, **settings))


class SourceContract:
    """The tests; a kind's class gives `server`."""

    async def test_the_server_is_known_by_its_ping(self, server: ImageServer) -> None:
        await server.source().ping()

    async def test_a_server_of_no_kind_is_not(self, server: ImageServer, start_nginx, tmp_path) -> None:
        (tmp_path / "empty").mkdir()
        other = start_nginx(root=tmp_path / "empty")
        with pytest.raises(APIError, match=r"40[34]"):
            await open_source(SourceSpec(other.url, server.type)).ping()

    async def test_a_server_that_is_down(self, server: ImageServer) -> None:
        server.nginx.stop()
        source = server.source()
        for question in (source.ping, source.list, lambda: source.offer(BASE)):
            with pytest.raises(ClientError, match="connection refused"):
                await question()

    async def test_the_list_has_every_image_as_v2_in_order(self, server: ImageServer) -> None:
        server.add_all()
        listed = await server.source().list()
        assert [image.manifest["uuid"] for image in listed] == [BASE, INCREMENTAL, ZVOL, OLD]
        assert {image.manifest["v"] for image in listed} == {2}
        assert {image.source for image in listed} == {server.nginx.url}
        assert dict(listed[0].manifest) == fixture_manifest(BASE)

    async def test_an_empty_list(self, server: ImageServer) -> None:
        assert await server.source().list() == []

    @pytest.mark.parametrize(
        "text", ["", "{}", '{"images": []}', "[", "null", "[" * 100_000, "<html>index</html>"]
    )
    async def test_a_list_that_is_none_is_an_api_error(self, server: ImageServer, text: str) -> None:
        server.write_list(text)
        with pytest.raises(APIError, match="not a list of images"):
            await server.source().list()

    async def test_what_is_no_manifest_hides_no_other(self, server: ImageServer) -> None:
        bad = [None, 1, "x", [], {}, {"uuid": "../../etc"}, {"uuid": [BASE]}, {"uuid": BASE + "A"}]
        odd = {"uuid": OLD, "name": {"not": "a name"}, "creator_uuid": "x", "owner": "y", "files": "none"}
        server.write_list(
            json.dumps([*bad, fixture_manifest(BASE), odd, fixture_manifest(BASE) | {"name": "x"}])
        )
        listed = await server.source().list()
        assert [dict(image.manifest) for image in listed] == [fixture_manifest(BASE), odd]
        source = server.source()
        await source.list()
        assert f"{len(bad)} entries of the list of" in (source.incomplete or "")

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            ('"n": 1e999', "a number that is too large or too long"),
            ('"n": ' + "9" * 5000, "a number that is too large or too long"),
            ('"n": NaN', "NaN is not a JSON number"),
            (r'"n": "\ud800"', r"half a character \(a lone surrogate\)"),
            ('"n": ' + "[" * 40 + "]" * 40, "nested more than"),
            ('"n": ' + "[" * 29 + "]" * 29, "nested more than"),
            ('"n": ' + "[" * 100_000 + "]" * 100_000, "nested more than"),
            ('"n": [' + "1," * 70_000 + "1]", "more than 60000 values"),
            ('"n": 1, "n": 1', "two equal keys"),
        ],
        ids=["number", "digits", "nan", "surrogate", "deep", "deep-to-wrap", "very-deep", "values", "keys"],
    )
    async def test_a_damaged_manifest_costs_itself_only(
        self, server: ImageServer, damage: str, reason: str
    ) -> None:
        server.add_all()
        folder = server.folder(UNKNOWN)
        folder.mkdir(parents=True)
        damaged = f'{{"v": 2, "uuid": "{UNKNOWN}", {damage}}}'
        (folder / "manifest.json").write_text(damaged)
        server.write_list(
            f"[{json.dumps(fixture_manifest(BASE))}, {damaged}, {json.dumps(fixture_manifest(ZVOL))}]"
        )
        source = server.source()
        assert [image.manifest["uuid"] for image in await source.list()] == [BASE, ZVOL]
        words = (
            f"1 entry of the list of {server.nginx.url} is unusable, and left out \\({UNKNOWN}: .*{reason}"
        )
        assert re.match(words, source.incomplete or "")
        assert await source.offer(BASE) is not None
        with pytest.raises(InvalidManifestError, match=f"manifest is invalid: .*{reason}") as caught:
            await source.offer(UNKNOWN)
        assert "tell its operator" in caught.value.hint

    async def test_damage_that_hides_where_an_entry_ends_is_the_lists(self, server: ImageServer) -> None:
        text = json.dumps([fixture_manifest(BASE), fixture_manifest(ZVOL)])
        for damaged in (text[:-1], text[:-100], text + "]", text.replace("}", "", 1), text[:-1] + "}"):
            server.write_list(damaged)
            with pytest.raises(APIError, match="not a list of images"):
                await server.source().list()

    async def test_a_uuid_in_upper_case_is_the_same_one(self, server: ImageServer) -> None:
        server.add_all()
        served = fixture_manifest(BASE) | {"uuid": BASE.upper()}
        server.write_list(json.dumps([served]))
        assert [dict(image.manifest) for image in await server.source().list()] == [fixture_manifest(BASE)]

    async def test_an_offer_is_manifest_and_file(self, server: ImageServer) -> None:
        server.add_all()
        offer = await server.source().offer(INCREMENTAL)
        assert offer is not None
        assert dict(offer.manifest) == fixture_manifest(INCREMENTAL)
        assert offer.location is not None
        assert (offer.location.source, offer.location.verify) == (server.nginx.url, "streaming")
        document = await fetch_document(offer.location)
        assert document.body == fixture_file(INCREMENTAL).read_bytes()

    async def test_an_old_manifest_becomes_v2_and_its_file_is_found(self, server: ImageServer) -> None:
        server.add_all()
        offer = await server.source().offer(OLD)
        assert offer is not None
        assert offer.manifest["v"] == 2
        assert offer.manifest["files"][0]["compression"] == "bzip2"
        assert offer.location is not None
        assert (await fetch_document(offer.location)).body == OLD_FILE

    async def test_an_image_that_is_not_there(self, server: ImageServer) -> None:
        server.add_all()
        assert await server.source().offer(UNKNOWN) is None

    @pytest.mark.parametrize("uuid", ["", "..", f"{BASE}/../..", BASE.upper(), f"{BASE}\n", f"{BASE}?x"])
    async def test_what_is_no_uuid_is_not_asked_for(self, server: ImageServer, uuid: str) -> None:
        with pytest.raises(InvalidUUIDError):
            await server.source().offer(uuid)
        assert server.nginx.settled_hits() == []

    async def test_an_image_without_a_file_has_no_location(self, server: ImageServer) -> None:
        for uuid, files in ((BASE, []), (ZVOL, None)):
            server.add({**fixture_manifest(uuid), "files": files}, "file", b"")
            offer = await server.source().offer(uuid)
            assert offer is not None
            assert offer.location is None

    async def test_a_manifest_of_no_version_is_refused(self, server: ImageServer) -> None:
        server.add({"uuid": OLD, "name": "x"}, "file", b"")
        with pytest.raises(InvalidManifestError, match='does not have a "v" field'):
            await server.source().offer(OLD)

    async def test_the_settings_headers_go_to_the_server(self, server: ImageServer, start_faulty) -> None:
        faulty = start_faulty(lambda request, wire: wire.reply("403 Forbidden", {}, b"no"))
        spec = SourceSpec(f"{faulty.url}", server.type, access=Access(headers=(("X-Key", "secret"),)))
        source = open_source(spec)
        for question in (source.ping, source.list, lambda: source.offer(BASE)):
            with pytest.raises(APIError, match="no"):
                await question()
        assert {request.headers["x-key"] for request in faulty.requests} == {"secret"}
        assert all(request.headers["user-agent"].startswith("imgstored/") for request in faulty.requests)

    async def test_a_certificate_counts_unless_it_must_not(self, server: ImageServer, start_nginx) -> None:
        server.add_all()
        secure = start_nginx(tls=True, locations=server.locations)
        spec = SourceSpec(secure.url, server.type)
        with pytest.raises(ClientError, match="certificate is not trusted"):
            await open_source(spec).offer(BASE)
        with pytest.raises(ClientError, match="certificate is not trusted"):
            await open_source(SourceSpec(secure.url, server.type, access=Access(insecure=True))).offer(BASE)
        offer = await open_source(SourceSpec(secure.url, server.type, insecure=True)).offer(BASE)
        assert offer is not None
        assert offer.location is not None
        assert offer.location.access.insecure
