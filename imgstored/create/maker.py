"""Creates images from datasets and machines: snapshot, send, compress, write to the file of a client.

Nothing of it is left in the pool, however it ends. What is under way is noted in a folder, so that the next
daemon can tidy up after one that was killed.
"""

from __future__ import annotations

import json
import threading
import time
import uuid as uuids
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from imgproto.events import CreationStep, Inheriting, ManifestMade, Sending
from msgspec import Struct

from imgstored.create.job import MAX_JOBS, in_thread, running
from imgstored.create.manifest import (
    Origin,
    Source,
    check_compression,
    file_prefix,
    file_suffix,
    given_fields,
    new_manifest,
)
from imgstored.create.output import Output, pour
from imgstored.create.prepare import SNAPSHOT, Preparation, Timeouts
from imgstored.errors import (
    FileSystemError,
    ImageNotInstalledError,
    ImgstoreError,
    MaxOriginDepthError,
    NoSpaceError,
    NotSupportedError,
    OriginHasNoFinalSnapshotError,
    PoolError,
    UsageError,
    VmHasNoOriginError,
    VmNotStoppedError,
)
from imgstored.host import shortage
from imgstored.host.filesystem import make_folder, replace_file
from imgstored.manifest.values import UUID, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path

    from imgproto.documents import MadeDocument

    from imgstored.catalog.catalog import Catalog, InstalledImage
    from imgstored.create.job import Job, Reporter
    from imgstored.create.vmadm import Machine, Vmadm
    from imgstored.pools.base import Datasets, SourceDataset

log = structlog.get_logger(__name__)

#: Seconds after which a machine is not rolled back any more without asking: somebody may have used it since.
_FRESH: Final = 3600.0
#: Seconds by which a clock that is set right may go back.
_SKEW: Final = 60.0

#: Characters of a prepare script.
_MAX_SCRIPT: Final = 1 << 20


class CreateSpec(Struct, frozen=True):
    """A request to create an image. `source` is a machine's uuid, or a dataset's name."""

    source: str
    manifest: Mapping[str, Any]
    fields: Sequence[str] = ()
    compression: str = "none"
    incremental: bool = False
    max_origin_depth: int | None = None
    script: str | None = None  #: prepares the machine
    index: bool = False  #: the file has an index, for deltas

    def check(self) -> None:
        """Raises `UsageError` for what makes no sense whatever the source is."""
        check_compression(self.compression, index=self.index)
        depth = self.max_origin_depth
        if depth is not None and depth < 2:
            raise UsageError(f'invalid max-origin-depth "{depth}": must be greater than 1')
        if self.script is not None and not 0 < len(self.script) <= _MAX_SCRIPT:
            raise UsageError("the prepare script is empty, or longer than 1 MiB")
        if self.script is not None and not UUID.fullmatch(self.source):
            raise UsageError(
                "a dataset cannot be prepared by a script",
                hint="only a machine can run it; give the uuid of a machine",
            )


class _Of(Struct, frozen=True):
    """The source of a new image."""

    datasets: Datasets
    dataset: SourceDataset
    pool: str
    machine: Machine | None
    origin: InstalledImage | None

    @property
    def called(self) -> str:
        """For messages."""
        return f'dataset "{self.dataset.name}"' if self.machine is None else f'vm "{self.machine.uuid}"'


class Maker:
    """See the module. `notes` is a folder for what is under way; there need be no vmadm on the host."""

    def __init__(self, catalog: Catalog, vmadm: Vmadm, notes: Path, timeouts: Timeouts | None = None) -> None:
        self._catalog = catalog
        self._vmadm = vmadm
        self._notes = notes
        self._timeouts = timeouts or Timeouts()
        self._limiter = trio.CapacityLimiter(MAX_JOBS)
        self._last = 0
        self._lock = threading.Lock()
        self._busy: set[str] = set()  # datasets
        #: What a daemon that was killed left.
        self._left = sorted(notes.glob("*.json"))

    def create(
        self, spec: CreateSpec, fd: int, *, client: str, path: str
    ) -> AbstractAsyncContextManager[Job[MadeDocument]]:
        """Makes an image into the file open as `fd`, an empty one; the job's result is `{manifest}`."""
        spec.check()
        mark = self._mark()

        def make(reporter: Reporter) -> MadeDocument:
            with Output(fd, path, check=reporter.check) as output:
                return self._create(spec, output, mark, reporter)

        async def work(job: Job[MadeDocument]) -> MadeDocument:
            return await in_thread(job, make, self._limiter)

        return running(client, work)

    def recover(self) -> None:
        """Undoes what a daemon that was killed had begun. Blocks; images can be made meanwhile."""
        for note in self._left:
            log.info("tidying up after making an image", note=note.name)
            self._settle(note)

    def _mark(self) -> str:
        """The mark of this image's snapshots: the time in milliseconds, as in imgadm."""
        self._last = max(self._last + 1, time.time_ns() // 1_000_000)
        return str(self._last)

    # -- in a thread -----------------------------------------------------------------------------------------

    def _create(self, spec: CreateSpec, output: Output, mark: str, reporter: Reporter) -> MadeDocument:
        of = self._found(spec)
        manifest = self._manifest(spec, of, reporter)
        compression = check_compression(spec.compression)
        prefix, suffix = file_prefix(manifest), file_suffix(manifest, compression)
        reporter.tell(ManifestMade(event="manifest", manifest=manifest, prefix=prefix, suffix=suffix))
        with (
            self._alone(of),
            self._noted(mark, of, spec),
            self._prepared(of, spec, reporter),
            self._frozen(of, mark, reporter),
        ):
            reporter.tell(Sending(event="sending"))
            origin = manifest.get("origin")
            sent = of.datasets.send(of.dataset.name, origin)
            total = of.dataset.size if origin is None else None
            pour(sent, compression, output, reporter, total, index=spec.index)
        log.info("made an image", uuid=manifest["uuid"], of=of.dataset.name, size=output.size)
        return {"manifest": {**manifest, "files": [output.described(compression)]}}

    def _found(self, spec: CreateSpec) -> _Of:
        """Finds the source of the image. Raises `ImgstoreError` if it cannot become one."""
        machine = None
        name: str | None = spec.source
        if "/" not in spec.source:
            if not UUID.fullmatch(spec.source):
                raise UsageError(
                    f'"{shown(spec.source)}" is neither the uuid of a vm nor the name of a dataset',
                    hint="a dataset's name starts with its pool, as in zones/web",
                )
            machine = self._vmadm.machine(spec.source)
            name = machine.image_dataset
            if machine.state != "stopped" and spec.script is None:
                raise VmNotStoppedError(machine.uuid)
        if name is None:
            raise NotSupportedError(f'vm "{spec.source}" has nothing that an image could be made of')
        pool, _, inner = name.partition("/")
        datasets = self._catalog.pool(pool).datasets()
        if self._catalog.find(pool, inner) is not None:
            raise UsageError(
                f"{name} is an installed image", hint=f"`imgctl export {inner} -o DIR` writes it to files"
            )
        dataset = datasets.look(name)
        origin = None if dataset.origin is None else self._catalog.find(pool, dataset.origin)
        of = _Of(datasets, dataset, pool, machine, origin)
        if spec.incremental:
            self._check_incremental(of, spec.max_origin_depth)
        return of

    def _check_incremental(self, of: _Of, max_depth: int | None) -> None:
        if of.dataset.origin is None:
            raise VmHasNoOriginError(
                f"cannot create an incremental image: {of.called} has no origin",
                hint="leave out -i to create a full image",
            )
        if of.origin is None:
            raise ImageNotInstalledError(of.dataset.origin, of.pool)
        if not of.dataset.from_final:
            raise OriginHasNoFinalSnapshotError(
                f'cannot create an incremental image: origin image "{of.dataset.origin}" has no "@final" '
                'snapshot (sometimes this can be fixed by "imgadm update")',
                hint="or leave out -i to create a full image",
            )
        depth, image = 0, of.origin
        while True:
            depth += 1
            if max_depth is not None and depth > max_depth:
                raise MaxOriginDepthError(max_depth)
            below = None if image.origin is None else self._catalog.find(of.pool, image.origin)
            if below is None:
                return
            image = below

    def _manifest(self, spec: CreateSpec, of: _Of, reporter: Reporter) -> dict[str, Any]:
        fields = given_fields(spec.manifest, spec.fields)
        origin = None
        if of.origin is not None:
            above = of.origin
            name, version = above.text("name"), above.text("version")
            reporter.tell(Inheriting(event="inheriting", uuid=above.uuid, name=name, version=version))
            origin = Origin({**above.manifest, "uuid": above.uuid}, spec.incremental)
        machine = of.machine
        source = Source(
            of.dataset.volume,
            of.dataset.size,
            brand=None if machine is None else machine.brand,
            bootrom=None if machine is None else machine.bootrom,
        )
        platform = None if machine is None else self._vmadm.platform()
        return new_manifest(fields, source, uuid=str(uuids.uuid4()), origin=origin, platform=platform)

    def _prepared(self, of: _Of, spec: CreateSpec, reporter: Reporter) -> AbstractContextManager[None]:
        if spec.script is None or of.machine is None:
            return nullcontext()
        preparation = Preparation(
            self._vmadm, of.machine, of.datasets, reporter.tell, reporter.check, self._timeouts
        )
        return preparation.prepared(spec.script)

    @contextmanager
    def _frozen(self, of: _Of, mark: str, reporter: Reporter) -> Iterator[None]:
        """While the block lasts there is the snapshot @final."""
        name = of.dataset.name
        try:
            moved = of.datasets.freeze(name, mark)
            if moved is not None:
                reporter.tell(CreationStep(event="making", step="final-moved", what=moved))
            reporter.tell(CreationStep(event="making", step="snapshotting", what=f"{name}@final"))
            yield
        finally:
            of.datasets.thaw(name, mark)

    @contextmanager
    def _alone(self, of: _Of) -> Iterator[None]:
        """Two at the same dataset would take each other's snapshots away. Raises `UsageError`."""
        name = of.dataset.name
        with self._lock:
            if name in self._busy:
                raise UsageError(
                    f"an image is being made of {of.called} already", hint="try again when that is done"
                )
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.remove(name)

    # -- after a kill ----------------------------------------------------------------------------------------

    @contextmanager
    def _noted(self, mark: str, of: _Of, spec: CreateSpec) -> Iterator[None]:
        """Keeps a note of the changes to undo during the block, and after it until they are undone."""
        prepared = None if of.machine is None or spec.script is None else of.machine
        undo = {
            "pool": of.pool,
            "dataset": of.dataset.name,
            "vm": None if prepared is None else prepared.uuid,
            "running": prepared is not None and prepared.state != "stopped",
        }
        note = self._notes / f"{mark}.json"
        try:
            make_folder(self._notes, mode=0o700)
            replace_file(note, json.dumps(undo).encode(), mode=0o600)
        except OSError as error:
            kind = NoSpaceError if shortage.is_full(error) else FileSystemError
            raise kind(
                f"what is to be undone cannot be written down: {shortage.why(error)}",
                hint="check the file system of the daemon's state folder",
            ) from error
        try:
            yield
        except BaseException:
            # It may be just what is to be undone that failed. Where it did not, nothing is left to do.
            self._settle(note)
            raise
        note.unlink(missing_ok=True)

    def _settle(self, note: Path) -> None:
        """Undoes the changes of a note. Keeps the note for the next start if that fails. Never raises."""
        try:
            self._undo(note.stem, json.loads(note.read_text()))
            note.unlink(missing_ok=True)
        except (ImgstoreError, OSError, ValueError, KeyError, TypeError) as error:
            log.error("cannot tidy up after making an image", note=note.name, error=str(error))

    def _undo(self, mark: str, undo: Mapping[str, Any]) -> None:
        datasets = self._catalog.pool(undo["pool"]).datasets()
        datasets.thaw(undo["dataset"], mark)
        if undo["vm"] is not None:
            # One of the future: the clock was wrong then, or is now, and nobody knows how long ago it was.
            if not -_SKEW < time.time() - int(mark) / 1000 < _FRESH:
                raise PoolError(
                    f"vm {undo['vm']} was being prepared {mark} ms after 1970, and may have been used since",
                    hint=f"roll its datasets back to @{SNAPSHOT} by hand, or destroy these snapshots",
                )
            machine = self._vmadm.machine(undo["vm"])
            Preparation(self._vmadm, machine, datasets, lambda _: None, lambda: None).roll_back()
            if undo["running"] and self._vmadm.machine(machine.uuid).state == "stopped":
                self._vmadm.start(machine.uuid)
