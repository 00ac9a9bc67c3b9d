"""Exports installed images: as the stream that they were installed from, or as a raw disk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from imgproto.events import ManifestMade, Sending

from imgstored.create.job import MAX_JOBS, in_thread, running
from imgstored.create.manifest import check_compression, file_prefix, file_suffix, restoring
from imgstored.create.output import Output, closed, pour
from imgstored.errors import ImageNotInstalledError, StreamError, UsageError
from imgstored.manifest import check_uuid
from imgstored.pools.embedded.files import punch
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.volume import Free, Volume, VolumeState, Write

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from imgproto.documents import MadeDocument

    from imgstored.catalog.catalog import Catalog, InstalledImage
    from imgstored.create.job import Job, Reporter
    from imgstored.pools.base import Pool

FORMATS: Final = ("stream", "raw")


class Exporter:
    """Exports what is in the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._limiter = trio.CapacityLimiter(MAX_JOBS)

    def export(
        self,
        uuid: str,
        fd: int,
        *,
        client: str,
        path: str,
        pool: str | None = None,
        compression: str = "none",
        index: bool = False,
        form: str = "stream",
    ) -> AbstractAsyncContextManager[Job[MadeDocument]]:
        """Writes an image into the file open as `fd`, an empty one; the job's result is `{manifest}`.

        `form`: "stream" is what `install` takes; "raw", of a volume, the disk with holes where it is zeros,
        of which the manifest says nothing. With `index`, the file's index comes behind it.
        """
        pool = self._catalog.pool(pool).name
        image = self._catalog.get(pool, check_uuid(uuid))
        compression = check_compression(compression, index=index)
        if form not in FORMATS:
            raise UsageError(f'invalid format "{form[:40]}": must be one of "stream", "raw"')
        if form == "raw" and (compression != "none" or image.image.kind != "volume"):
            what = "is not compressed" if compression != "none" else "can only be made of a zvol"
            raise UsageError(f"a raw disk {what}", hint="leave out --format or -c")
        if image.manifest.keys() <= {"uuid"}:
            raise UsageError(
                f'image "{uuid}" has lost its manifest', hint="`imgctl update` fetches it from its source"
            )
        manifest = restoring(image.manifest, uuid=image.uuid, origin=image.origin)
        write = (
            partial(self._stream, image, manifest, compression, index)
            if form == "stream"
            else partial(self._raw, image)
        )

        def write_file(reporter: Reporter) -> MadeDocument:
            with Output(fd, path, check=reporter.check) as output:
                return write(output, reporter)

        async def work(job: Job[MadeDocument]) -> MadeDocument:
            return await in_thread(job, write_file, self._limiter)

        return running(client, work)

    def _stream(
        self,
        image: InstalledImage,
        manifest: dict[str, Any],
        compression: str,
        index: bool,
        output: Output,
        reporter: Reporter,
    ) -> MadeDocument:
        prefix, suffix = file_prefix(manifest), file_suffix(manifest, compression)
        reporter.tell(ManifestMade(event="manifest", manifest=manifest, prefix=prefix, suffix=suffix))
        reporter.tell(Sending(event="sending"))
        sent = self._catalog.pool(image.pool).send(image.uuid)
        total = image.image.referenced if image.origin is None else None
        pour(sent, compression, output, reporter, total, index=index)
        # As a string, which also those can read whose numbers have 53 bits.
        file = {**output.described(compression), "dataset_guid": str(image.image.guid)}
        return {"manifest": {**manifest, "files": [file]}}

    def _raw(self, image: InstalledImage, output: Output, reporter: Reporter) -> MadeDocument:
        manifest = dict(image.manifest)
        prefix = file_prefix(manifest)
        reporter.tell(ManifestMade(event="manifest", manifest=manifest, prefix=prefix, suffix=".raw"))
        reporter.tell(Sending(event="sending"))
        pool = self._catalog.pool(image.pool)
        state = VolumeState()
        for each in reversed(self._ancestry(image)):
            state = _replayed(each, pool, state, output, reporter)
        return {"manifest": manifest}

    def _ancestry(self, image: InstalledImage) -> list[InstalledImage]:
        """The image and all that it was cloned from."""
        chain = [image]
        while (origin := chain[-1].origin) is not None:
            below = self._catalog.find(image.pool, origin)
            if below is None:
                raise ImageNotInstalledError(origin, image.pool)
            chain.append(below)
        return chain


def _replayed(
    image: InstalledImage, pool: Pool, below: VolumeState, output: Output, reporter: Reporter
) -> VolumeState:
    """Does to the disk what an image's stream says; what is below it is on the disk already.

    Returns with what the next one begins. Raises `StreamError` for what is no volume's.
    """
    reader, volume = StreamReader(), None
    sent = pool.send(image.uuid)
    with closed(sent):
        for block in reporter.watched(sent, image.image.referenced):
            for record in reader.records(block):
                if volume is None:
                    assert reader.begin is not None
                    volume = Volume(reader.begin.byte_order, below)
                _apply(volume.step(record), below.inherited, output)
    reader.finish()
    if volume is None:
        raise StreamError("the stream is empty")
    size = volume.finish()
    output.truncate(size)
    return VolumeState(inherited=size, size=size, block_size=volume.state.block_size)


def _apply(change: Write | Free | None, inherited: int, output: Output) -> None:
    """Does to the disk what a record says."""
    match change:
        case Write(offset, payload):
            output.put(payload, offset)
        case Free(offset, end):
            output.change(lambda fd: punch(fd, offset, min(end, inherited)))
