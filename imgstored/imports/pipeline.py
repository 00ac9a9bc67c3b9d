"""The parts of one attempt of an import: a download into a spool and the pump behind it, or a pump alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from imgstored.imports.leftovers import spool_name
from imgstored.transfer.digest import Expected
from imgstored.transfer.disk import DiskConversion
from imgstored.transfer.download import Download
from imgstored.transfer.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgstored.http.location import Location, Part, Verify
    from imgstored.imports.delta import Delta
    from imgstored.imports.local_file import LocalFile
    from imgstored.imports.resources import Resources
    from imgstored.imports.spec import ImportSpec
    from imgstored.manifest import Manifest
    from imgstored.pools.base import Blocks, Room
    from imgstored.site.trust import Provenance
    from imgstored.transfer.stages import Stages

log = structlog.get_logger(__name__)


class Pipeline:
    """Makes the downloads and pumps of one import."""

    def __init__(
        self,
        spec: ImportSpec,
        manifest: Manifest,
        resources: Resources,
        stages: Stages,
        note: Callable[[str], None],
        signed: Provenance | None,
    ) -> None:
        """`note` gets what troubles a download; `signed` is who vouches for the image."""
        self._spec = spec
        self._manifest = manifest
        self._resources = resources
        self._stages = stages
        self._note = note
        self._signed = signed

    def reusing(self, locations: Sequence[Location], *, layers: bool) -> list[Location]:
        """The locations; of their parts, those that are in files of the library are read there.

        Not when something was wrong before: then all of it comes from the server.
        """
        library = self._resources.library
        wanted = {part.sha256 for location in locations for part in location.parts if part.sha256}
        there = library.layers(wanted) if layers and library is not None and wanted else {}

        def known(part: Part) -> Part:
            path, offset = there.get(part.sha256 or "", (None, 0))
            return replace(part, path=None if path is None else str(path), offset=offset)

        return [replace(each, parts=tuple(map(known, each.parts))) for each in locations]

    def of_file(self, file: LocalFile, verify: Verify) -> Pump:
        """The pump of a file that is here."""
        return self._pump(file.blocks, file.fail, self.expected(path=file.path), verify)

    def of_delta(self, delta: Delta, locations: Sequence[Location], room: Room) -> tuple[Download, Pump]:
        """The download of what a delta misses, and the pump behind it, of one attempt."""
        download = delta.download(locations, room, self._note_trouble)
        index, manifest = delta.index, self._manifest
        # No manifest describes the stream, but an index that the manifest names.
        expected = Expected(
            self._spec.uuid,
            size=index.stream_size,
            sha256=index.sha256,
            type=manifest.type,
            dataset=manifest.dataset,
        )
        download.watermark.waiting = self._stages.waiting
        return download, self._pump(delta.stream, download.watermark.fail, expected, _strictest(locations))

    def of_locations(
        self, locations: Sequence[Location], room: Room, disk_room: Room | None
    ) -> tuple[Download, Pump]:
        """The download of the file, and the pump behind it, of one attempt; `disk_room` is for a disk."""
        resources, file = self._resources, self._manifest.file
        name = spool_name(*self._spec.key)
        download = Download(
            locations,
            size=None if file is None else file.size,
            path=resources.spools / name,
            journal=resources.journal.ranges(name),
            limits=resources.limits.download,
            room=room,
            note=self._note_trouble,
        )
        download.watermark.waiting = self._stages.waiting
        pump = self._pump(
            download.blocks,
            download.watermark.fail,
            self.expected(parts=locations[0].parts if locations else ()),
            _strictest(locations),
            None if disk_room is None else self._conversion(locations[0], disk_room),
        )
        return download, pump

    def _note_trouble(self, text: str) -> None:
        log.info("a download has trouble", uuid=self._spec.uuid, trouble=text)
        self._note(text)

    def _conversion(self, location: Location, room: Room) -> DiskConversion:
        """The conversion of a registry's disk into the image's stream."""
        [part] = location.parts
        assert part.sha256 is not None, "what is in a registry has a digest"
        return DiskConversion(
            self._spec.uuid,
            in_layer=location.contents == "layer with a disk",
            sha256=part.sha256,
            folder=self._resources.spools,
            room=room,
            max_size=self._resources.limits.decompress.max_image,
        )

    def expected(self, *, path: str | None = None, parts: Sequence[Part] = ()) -> Expected:
        """The size and checksums that the bytes must have."""
        manifest, file = self._manifest, self._manifest.file
        return Expected(
            self._spec.uuid,
            size=None if file is None else file.size,
            sha1=None if file is None else file.sha1,
            sha256=(None if file is None else file.sha256) if self._signed is None else self._signed.file,
            parts=tuple((part.size, part.sha256) for part in parts),
            path=path,
            type=manifest.type,
            dataset=manifest.dataset,
        )

    def _pump(
        self,
        open_blocks: Callable[[], Blocks],
        release: Callable[[BaseException], None],
        expected: Expected,
        verify: Verify,
        convert: DiskConversion | None = None,
    ) -> Pump:
        limits = self._resources.limits.decompress
        return Pump(
            open_blocks,
            expected,
            limits,
            verify=verify,
            release=release,
            stages=self._stages,
            convert=convert,
        )


def _strictest(locations: Sequence[Location]) -> Verify:
    """The strictest way to verify of the locations, for bytes that may come from any."""
    return "first" if any(location.verify == "first" for location in locations) else "streaming"
