from __future__ import annotations

import os

import pytest
import trio
from msgspec.structs import replace

from imgstored.create.publish import LIMITS, Publisher
from imgstored.errors import (
    ClientError,
    ImgstoreError,
    InvalidManifestError,
    ManifestValidationError,
    UploadError,
)
from imgstored.http.location import Access
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import SourceSet
from tests.support.imgapi import WritableImgapi

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture
def server():
    with WritableImgapi() as running:
        yield running


async def published(image, url, *, specs=(), limits=LIMITS, events=None):
    """The events, and the result."""
    manifest, fd, _ = image
    publisher = Publisher(lambda: specs, limits)
    events = [] if events is None else events
    async with publisher.publish(manifest, fd, url, client="tests", path="web.zfs.gz") as job:
        async for event in job:
            events.append(event)
        return events, job.result


async def refused(image, server, **options):
    """The error that publishing ends with."""
    with pytest.raises(ImgstoreError) as caught:
        await published(image, server.url, **options)
    return caught.value


async def test_an_image_is_published(image, server):
    events, result = await published(image, f"{server.url}/?channel=dev")
    steps = [event for event in events if event["event"] == "publishing"]
    assert [event["step"] for event in steps] == ["imported", "file", "activated"]
    assert (steps[0]["state"], steps[1]["compression"]) == ("unactivated", "gzip")
    assert result == {"uuid": UUID, "url": server.url}
    assert server.steps == ["import", "file", "activate"]
    assert all(query["channel"] == ["dev"] for query in server.queries)
    assert server.images[UUID]["state"] == "active"
    assert server.files[UUID] == image[2]
    assert [headers["accept-version"] for headers in server.seen] == ["~2"] * 3
    assert server.seen[1]["content-length"] == str(len(image[2]))
    assert "transfer-encoding" not in server.seen[1]


@pytest.mark.parametrize("step", ["import", "file", "activate"])
async def test_what_the_server_refuses_is_taken_back(image, server, step):
    server.refusals[step] = (422, "OwnerDoesNotExist", "there is no such owner")
    error = await refused(image, server)
    assert error.as_wire()["code"] == "OwnerDoesNotExist"
    assert error.message == f"{server.url}: there is no such owner"
    assert server.images == {}
    # Nothing was there to be taken back when the first step failed.
    assert server.steps.count("delete") == (step != "import")


@pytest.mark.parametrize("step", ["file", "activate"])
async def test_a_server_that_breaks_off(image, server, step):
    server.broken.add(step)
    error = await refused(image, server)
    assert error.code == "ClientError"
    assert server.images == {}
    assert server.steps[-2:] == [step, "delete"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"sha1": "0" * 40}, "sha1 expected to be "),
        ({"size": 5}, "size expected to be "),
        ({"size": "x\x1b"}, "x?"),
    ],
)
async def test_what_the_server_has_is_compared(image, server, damage, words):
    server.damage = damage
    error = await refused(image, server)
    assert error.code == "UploadError"
    assert words in error.message
    assert server.images == {}


async def test_a_file_that_is_not_the_manifests(image, server):
    manifest = image[0]
    manifest["files"][0]["sha1"] = "1" * 40
    error = await refused(image, server)
    assert error.message.startswith('image file checksum (sha1) error: manifest says "1111')
    assert (server.images, server.files) == ({}, {})
    manifest["files"][0]["size"] += 1
    with pytest.raises(UploadError, match="image file size error: manifest says"):
        await published(image, server.url)


async def test_what_can_be_seen_before(image, server):
    manifest, fd, content = image
    for wrong, kind in (
        ({"files": []}, InvalidManifestError),
        ({"name": "?"}, ManifestValidationError),
    ):
        with pytest.raises(kind):
            await published(({**manifest, **wrong}, fd, content), server.url)
    with pytest.raises(ClientError, match="neither http nor https"):
        await published(image, "ftp://example.com")
    assert server.steps == []


async def test_an_image_that_cannot_be_taken_back_is_told_of(image, server):
    server.refusals |= {"file": (507, "StorageIsDown", "no room"), "delete": (403, "OperatorOnly", "no")}
    events = []
    with pytest.raises(ImgstoreError) as caught:
        await published(image, server.url, events=events)
    assert caught.value.as_wire()["code"] == "StorageIsDown"
    assert events[-1] == {
        "event": "note",
        "text": f"could not delete partially published image {UUID}: {server.url}: no",
    }


async def test_a_client_that_leaves_takes_it_back(image, server):
    manifest, fd, _ = image
    with trio.move_on_after(10):
        async with Publisher(tuple).publish(manifest, fd, server.url, client="tests", path="f") as job:
            async for event in job:
                if event.get("step") == "imported":
                    break
    assert server.images == {}
    assert server.steps[-1] == "delete"


async def test_credentials_of_a_source_go_to_its_own_server_only(image, server):
    access = Access(headers=(("Authorization", "secret"),))
    spec = SourceSpec(url=f"{server.url}/elsewhere", type="imgapi", access=access)
    other = replace(spec, url="http://127.0.0.1:1")
    await published(image, server.url, specs=[other, spec])
    assert {headers["authorization"] for headers in server.seen} == {"secret"}
    server.seen.clear()
    await published(image, server.url, specs=[other])
    assert all("authorization" not in headers for headers in server.seen)


async def test_credentials_are_those_of_the_configuration_as_it_is_now(image, server, tmp_path):
    """A changed configuration takes effect by SIGHUP, without a restart."""

    def spec(password):
        return SourceSpec(server.url, access=Access(headers=(("Authorization", password),)))

    sources = SourceSet([spec("old")], imgadm_conf=tmp_path / "imgadm.conf", lists=tmp_path / "lists")
    manifest, fd, _ = image
    publisher = Publisher(sources.configured)
    sources.reconfigure([spec("new")])
    async with publisher.publish(manifest, fd, server.url, client="tests", path="f") as job:
        async for _event in job:
            pass
    assert {headers["authorization"] for headers in server.seen} == {"new"}


async def test_a_server_that_does_not_answer(image, start_faulty):
    slow = start_faulty(lambda request, wire: wire.stall())
    with pytest.raises(ClientError, match="no answer within"):
        await published(image, slow.url, limits=replace(LIMITS, total_seconds=0.3))


async def test_a_redirect_is_an_error(image, start_faulty):
    server = start_faulty(lambda request, wire: wire.reply("302 Found", {"Location": "http://127.0.0.1:1/"}))
    error = await refused(image, server)
    assert "302" in error.message + error.hint
    assert len(server.requests) == 1


async def test_the_file_must_be_a_file(image):
    manifest, _, _ = image
    reader, writer = os.pipe()
    publishing = Publisher(tuple).publish(manifest, reader, "http://127.0.0.1:1", client="tests", path="f")
    try:
        async with publishing as job:
            with pytest.raises(ImgstoreError, match="is not a regular file"):
                await anext(job)
    finally:
        os.close(reader)
        os.close(writer)
