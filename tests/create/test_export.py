from __future__ import annotations

import random

import pytest

from imgstored.catalog.catalog import Catalog, InstalledImage
from imgstored.create.export import Exporter
from imgstored.errors import ImageNotInstalledError, ImgstoreError, InvalidManifestError, UsageError
from imgstored.manifest import load
from imgstored.pools.embedded import EmbeddedPool
from tests.support.streams import StreamWriter, filesystem_stream

BASE, TOP, FILES = (f"11111111-aaaa-4bbb-8ccc-00000000000{number}" for number in (1, 2, 3))
BLOCK = 8 << 10
SIZE = 16 * BLOCK
TO_THE_END = (1 << 64) - 1


def block(seed):
    return random.Random(seed).randbytes(BLOCK)


def volume(guid, *, fromguid=0, writes=(), frees=(), size=SIZE):
    """The stream of a volume: `writes` and `frees` are numbers of blocks, ascending."""
    writer = StreamWriter(guid=guid)
    yield writer.begin(fromguid=fromguid, objset=3)
    yield writer.object(1, kind=23, block_size=BLOCK)
    for number in sorted({*writes, *frees}):
        if number in writes:
            yield writer.write(1, number * BLOCK, block(guid * 100 + number), kind=23)
        else:
            yield writer.free(1, number * BLOCK, BLOCK)
    yield writer.object(2, kind=24, block_size=512)
    yield writer.volume_size(size)
    yield writer.end()


@pytest.fixture
def catalog(tmp_path):
    """A volume, a larger one that is incremental, and a filesystem."""
    pool = EmbeddedPool("zones", tmp_path / "pool")
    catalog = Catalog({"zones": pool}, tmp_path / "images")
    streams = {
        BASE: (volume(1, writes=[0, 1, 2, 9]), None),
        TOP: (volume(2, fromguid=1, writes=[1, 20], frees=[2, 3], size=2 * SIZE), BASE),
        FILES: ([filesystem_stream(size=1 << 20, seed=5)], None),
    }
    for uuid, (stream, origin) in streams.items():
        pool.receive(uuid, stream, origin=origin)
        manifest = {"v": 2, "uuid": uuid, "name": f"n{uuid[-1]}", "version": "1", "type": "zvol", "os": "bsd"}
        catalog.add(InstalledImage("zones", pool.publish(uuid), {**manifest, "files": [{"old": 1}]}))
    yield catalog
    pool.close()


async def exported(catalog, output, uuid, **options):
    async with Exporter(catalog).export(uuid, output[0], client="tests", path="out", **options) as job:
        events = [event async for event in job]
        return events, job.result["manifest"]


async def test_a_disk_of_several_layers(catalog, output, tmp_path):
    _, manifest = await exported(catalog, output, TOP, form="raw")
    disk = output[1].read_bytes()
    expected = {0: block(100), 1: block(201), 9: block(109), 20: block(220)}
    assert len(disk) == 2 * SIZE
    for number in range(32):
        assert disk[number * BLOCK : (number + 1) * BLOCK] == expected.get(number, bytes(BLOCK)), number
    (stored,) = (tmp_path / "pool" / TOP).glob("*.raw")
    assert stored.read_bytes() == disk
    assert manifest["files"] == [{"old": 1}]


@pytest.mark.parametrize("uuid", [BASE, TOP, FILES])
async def test_the_stream_is_the_one_that_came(catalog, output, uuid):
    events, manifest = await exported(catalog, output, uuid, compression="none")
    assert output[1].read_bytes() == b"".join(bytes(piece) for piece in catalog.pool(None).send(uuid))
    (file,) = manifest["files"]
    image = catalog.get("zones", uuid).image
    assert (file["dataset_guid"], file["size"]) == (str(image.guid), output[1].stat().st_size)
    assert [event["event"] for event in events if event["event"] != "progress"] == ["manifest", "sending"]


@pytest.mark.parametrize(
    ("uuid", "options", "kind"),
    [
        (FILES, {"form": "raw"}, UsageError),
        (BASE, {"form": "raw", "compression": "gzip"}, UsageError),
        (BASE, {"form": "vdi"}, UsageError),
        (BASE, {"compression": "lz4"}, UsageError),
        (BASE.replace("1", "9"), {}, ImageNotInstalledError),
        ("../etc", {}, ImgstoreError),
        (BASE, {"pool": "tank"}, ImgstoreError),
    ],
)
async def test_what_is_refused(catalog, output, uuid, options, kind):
    with pytest.raises(kind):
        await exported(catalog, output, uuid, **options)
    assert output[1].stat().st_size == 0


async def test_an_image_that_lost_its_manifest(catalog, output):
    image = catalog.get("zones", BASE)
    catalog.add(InstalledImage("zones", image.image, {"uuid": BASE}))
    with pytest.raises(UsageError, match="has lost its manifest"):
        await exported(catalog, output, BASE)


@pytest.mark.parametrize("uuid", [BASE, TOP])
async def test_a_manifest_that_says_anything(catalog, output, uuid):
    image = catalog.get("zones", uuid)
    odd = {"uuid": uuid, "v": [], "version": 1, "name": None, "type": {}, "origin": FILES, "files": 5, "x": 1}
    catalog.add(InstalledImage("zones", image.image, odd))
    events, manifest = await exported(catalog, output, uuid)
    (file,) = manifest.pop("files")
    origin = {"origin": BASE} if uuid == TOP else {}
    assert manifest == {"uuid": uuid, "v": 2, "version": 1, "name": None, "type": {}, "x": 1} | origin
    assert file["size"] == output[1].stat().st_size
    assert events[0]["prefix"] == f"{uuid}-1"
    assert load({**manifest, "files": [file]}, rules="install").origin == image.origin


async def test_a_manifest_that_nobody_could_install(catalog, output):
    image = catalog.get("zones", BASE)
    deep: list = []
    for _ in range(30):
        deep = [deep]
    catalog.add(InstalledImage("zones", image.image, {**image.manifest, "x": deep}))
    with pytest.raises(InvalidManifestError, match="nested more than 28 levels deep"):
        await exported(catalog, output, BASE)


@pytest.mark.parametrize("form", ["stream", "raw"])
async def test_the_number_1_is_a_version(catalog, output, form):
    """As `imgadm create ... version=1.0` writes it."""
    image = catalog.get("zones", BASE)
    catalog.add(InstalledImage("zones", image.image, {**image.manifest, "version": 1}))
    _, manifest = await exported(catalog, output, BASE, form=form)
    assert manifest["version"] == 1
