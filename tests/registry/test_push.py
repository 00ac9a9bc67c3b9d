"""Pushes into a real registry."""

from __future__ import annotations

import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from imgstored.errors import APIError, ClientError, UploadError
from imgstored.registry import push
from imgstored.registry.client import Registries, RegistrySpec
from imgstored.registry.documents import Descriptor, ImageManifest
from imgstored.registry.push import Pusher, Upload, Uploads
from imgstored.registry.reference import digest_of
from tests.support.docker_registry import DockerRegistry, auth_file

if TYPE_CHECKING:
    from imgstored.registry.client import Repository

MIB = 1 << 20
CONTENT = random.Random(4).randbytes(3 * MIB + 5)
DIGEST = digest_of(CONTENT)


class StopError(Exception):
    """Instead of kill -9: nothing of the push's own runs any more."""


async def read(offset: int, size: int) -> bytes:
    return CONTENT[offset : offset + size]


async def at_once(seconds: float) -> None:
    pass


def repository(registry: DockerRegistry | str, path: str = "a/b", **settings: Any) -> Repository:
    url = registry if isinstance(registry, str) else registry.url
    spec = RegistrySpec(url.partition("://")[2], **settings)
    return Registries([spec]).repository(url, path)


def pusher(where: Repository, uploads: Uploads | None = None) -> Pusher:
    return Pusher(where, uploads or Uploads(), chunk=MIB, sleep=at_once)


async def test_a_blob_comes_in_chunks_and_only_once(start_registry):
    registry = start_registry()
    told: list[int] = []
    assert await pusher(repository(registry)).blob(DIGEST, len(CONTENT), read, told=told.append) == len(
        CONTENT
    )
    assert told == [0, MIB, 2 * MIB, 3 * MIB, len(CONTENT)]
    assert registry.request("GET", f"/v2/a/b/blobs/{DIGEST}").content == CONTENT
    assert await pusher(repository(registry)).blob(DIGEST, len(CONTENT), read) == 0


async def test_a_push_goes_on_where_it_was_cut_off(start_registry, tmp_path):
    registry = start_registry()
    asked: list[int] = []

    async def dies(offset: int, size: int) -> bytes:
        asked.append(offset)
        if offset >= 2 * MIB:
            raise StopError
        return await read(offset, size)

    # Each time another daemon: only the folder is the same.
    with pytest.raises(StopError):
        await pusher(repository(registry), Uploads(tmp_path / "uploads")).blob(DIGEST, len(CONTENT), dies)
    assert asked == [0, MIB, 2 * MIB]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "uploads").iterdir()} == {0o600}
    sent = await pusher(repository(registry), Uploads(tmp_path / "uploads")).blob(DIGEST, len(CONTENT), read)
    assert sent == len(CONTENT) - 2 * MIB
    assert registry.request("GET", f"/v2/a/b/blobs/{DIGEST}").content == CONTENT


async def test_an_upload_that_the_registry_forgot_begins_anew(start_registry):
    registry = start_registry()
    uploads = Uploads()
    with pytest.raises(StopError):
        await pusher(repository(registry), uploads).blob(DIGEST, len(CONTENT), partial(dies_at, 2 * MIB))
    registry.stop()
    for folder in registry.folder.glob("storage/**/_uploads/*"):
        folder.rename(registry.folder / folder.name)
    registry.start()
    assert await pusher(repository(registry), uploads).blob(DIGEST, len(CONTENT), read) == len(CONTENT)


async def dies_at(place: int, offset: int, size: int) -> bytes:
    if offset >= place:
        raise StopError
    return await read(offset, size)


async def test_a_chunk_that_is_cut_off_does_not_spoil_the_push(start_registry, monkeypatch):
    monkeypatch.setattr("imgstored.registry.push._PIECE", 64 << 10)
    registry = start_registry()
    uploads = Uploads()
    with pytest.raises(StopError):
        await pusher(repository(registry), uploads).blob(DIGEST, len(CONTENT), partial(dies_at, 5 * MIB // 2))
    await pusher(repository(registry), uploads).blob(DIGEST, len(CONTENT), read)
    assert registry.request("GET", f"/v2/a/b/blobs/{DIGEST}").content == CONTENT


async def test_a_registry_that_is_away_for_a_moment(start_registry):
    registry = start_registry()
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        registry.start()

    async def read_and_stop(offset: int, size: int) -> bytes:
        if offset == MIB and not naps:
            registry.stop()
        return await read(offset, size)

    push = Pusher(repository(registry), Uploads(), chunk=MIB, sleep=sleep)
    await push.blob(DIGEST, len(CONTENT), read_and_stop)
    assert naps
    assert registry.request("GET", f"/v2/a/b/blobs/{DIGEST}").content == CONTENT


async def test_a_registry_that_is_gone_is_given_up(start_registry):
    registry = start_registry()
    where = repository(registry)

    async def stop(offset: int, size: int) -> bytes:
        registry.stop()
        return await read(offset, size)

    with pytest.raises(ClientError):
        await pusher(where).blob(DIGEST, len(CONTENT), stop)


async def test_a_blob_of_another_repository_is_mounted(start_registry):
    registry = start_registry()
    uploads = Uploads()
    await pusher(repository(registry), uploads).blob(DIGEST, len(CONTENT), read)
    assert await pusher(repository(registry, "c"), uploads).blob(DIGEST, len(CONTENT), read) == 0
    assert registry.request("GET", f"/v2/c/blobs/{DIGEST}").content == CONTENT
    # What was there, and is not any more, is pushed.
    registry.request("DELETE", f"/v2/c/blobs/{DIGEST}")
    registry.request("DELETE", f"/v2/a/b/blobs/{DIGEST}")
    assert await pusher(repository(registry, "d"), uploads).blob(DIGEST, len(CONTENT), read) == len(CONTENT)


async def test_other_bytes_than_the_digest_says_are_refused(start_registry):
    registry = start_registry()
    digest = digest_of(b"other")
    with pytest.raises(UploadError, match="digest"):
        await pusher(repository(registry)).blob(digest, len(CONTENT), read)
    assert not await pusher(repository(registry)).has(digest)


@pytest.mark.parametrize("kind", ["htpasswd", "token"])
async def test_who_may_push(start_registry, start_tokens, tmp_path, kind):
    tokens = start_tokens() if kind == "token" else None
    registry = start_registry(tokens=tokens, htpasswd=tokens is None)
    with pytest.raises(APIError):
        await pusher(repository(registry)).blob(DIGEST, len(CONTENT), read)
    login: dict[str, Any] = {"auth_file": str(auth_file(tmp_path / "auth", registry.host))}
    if tokens is not None:
        login["token_server"] = urlsplit(tokens.url).netloc
    push = pusher(repository(registry, **login))
    config = await push.small_blob(b"{}", "application/x")
    await push.blob(DIGEST, len(CONTENT), read)
    layer = Descriptor("application/y", DIGEST, len(CONTENT))
    descriptor = await push.document(ImageManifest(config=config, layers=[layer]), ["one", "two"])
    if tokens is not None:
        assert {asked.query["scope"] for asked in tokens.requests} == {"repository:a/b:pull,push"}
    where = repository(registry, **login)
    assert sorted(await where.tags()) == ["one", "two"]
    found = await where.document("two")
    assert found is not None
    assert found.descriptor == descriptor


async def test_what_refers_to_an_image_is_listed_without_the_api(start_registry):
    registry = start_registry()
    push = pusher(repository(registry))
    config = await push.small_blob(b"{}", "application/x")
    subject = await push.document(ImageManifest(config=config, layers=[config]), ["one"])
    for kind in ("a/x", "a/y", "a/y"):
        referrer = ImageManifest(config=config, layers=[config], artifact_type=kind, subject=subject)
        await push.document(referrer)
    found = await push.repository.referrers(subject.digest)
    assert [each.artifact_type for each in found] == ["a/x", "a/y"]


async def test_the_login_goes_to_no_other_host(start_faulty, tmp_path):
    elsewhere = start_faulty(lambda request, wire: wire.reply("404 Not Found", {}, b"no"))

    def answer(request: Any, wire: Any) -> None:
        if "authorization" not in request.headers:
            return wire.reply("401 Unauthorized", {"WWW-Authenticate": "Basic realm=x"}, b"{}")
        if "uploads" in request.target:
            place = elsewhere.url.replace("127.0.0.1", "localhost") + "/upload"
            return wire.reply("202 Accepted", {"Location": place}, b"")
        return wire.reply("404 Not Found", {}, b"")

    registry = start_faulty(answer)
    host = registry.url.removeprefix("http://")
    push = pusher(repository(registry.url, auth_file=str(auth_file(tmp_path / "auth", host))))
    with pytest.raises(UploadError, match="forgets uploads"):
        await push.blob(DIGEST, 0, read)
    assert elsewhere.requests
    assert all("authorization" not in request.headers for request in elsewhere.requests)


def test_uploads_are_remembered_for_a_while(tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    uploads.sweep()
    assert uploads.of("r", DIGEST) is None
    uploads.note("r", DIGEST, Upload("a", "https://r/x"))
    assert Uploads(tmp_path / "uploads").of("r", DIGEST) == Upload("a", "https://r/x")
    assert uploads.of("other", DIGEST) is None
    (record,) = (tmp_path / "uploads").iterdir()
    record.write_bytes(b"damaged")
    assert uploads.of("r", DIGEST) is None
    os.utime(record, (1, 1))
    uploads.sweep()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_of_the_future_is_forgotten_in_the_end(tmp_path, monkeypatch):
    uploads = Uploads(tmp_path / "uploads")
    uploads.note("r", DIGEST, Upload("a", "https://r/x"))
    (record,) = (tmp_path / "uploads").iterdir()
    ahead = time.time() + 10 * 365 * 86400
    os.utime(record, (ahead, ahead))
    uptime = time.monotonic()
    for passed, there in ((0, True), (push._REMEMBERED - 60, True), (push._REMEMBERED + 60, False)):
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda passed=passed: uptime + passed)
            uploads.sweep()
        assert record.exists() == there


@pytest.mark.parametrize(
    "place", ["http://[::1", "http://a..b/x", "http://[:::]/", "\xe9\x85", "ftp://x/", "x" * 9000]
)
async def test_a_place_for_an_upload_that_is_none(start_faulty, place):
    registry = start_faulty(
        lambda request, wire: wire.reply(
            "202 Accepted" if "uploads" in request.target else "404 Not Found", {"Location": place}
        )
    )
    with pytest.raises(ClientError):
        await pusher(repository(registry)).blob(DIGEST, len(CONTENT), read)


@pytest.mark.parametrize("last", ["\xb2", "9" * 5000, "-1", "", "1_0"])
async def test_an_upload_of_which_the_registry_says_rubbish_begins_anew(start_faulty, last):
    registry = start_faulty(
        lambda request, wire: wire.reply(
            "204 No Content" if "known" in request.target else "404 Not Found", {"Range": f"0-{last}"}
        )
    )
    uploads = Uploads()
    where = repository(registry)
    uploads.note(where.own.url, DIGEST, Upload(where.path, f"{registry.url}/known"))
    with pytest.raises(APIError, match="404"):
        await pusher(where, uploads).blob(DIGEST, len(CONTENT), read)
    assert [request.target for request in registry.requests][1:] == ["/known", "/v2/a/b/blobs/uploads/"]
