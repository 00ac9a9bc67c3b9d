"""The catalog: the installed images of all pools, with their manifests in imgadm's own files.

A pool decides which images are there; a manifest file describes one. A manifest without its image is no
installed image. A dataset with @final whose manifest is missing or unreadable is an image that lost it, and
is listed, if it was an image before: it was listed, it has a receipt, or its dataset is more than a day old.
Otherwise another program may be about to write the manifest, as Triton's agent does after it has received an
image straight into POOL/UUID; until then the image is not whole, and only `unfinished` names it.
`imgstored.catalog.refresh` updates the catalog for pools that other programs change, too.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import structlog
import trio

from imgstored import lanes
from imgstored.catalog.manifest_files import MISSING, ManifestFiles
from imgstored.errors import ImageNotInstalledError, ImgstoreError, PoolError, PoolNotFoundError
from imgstored.host import shortage
from imgstored.manifest import shown_text
from imgstored.pools.timeout import answer, changed, with_notice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from imgproto.documents import ImageDocument

    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.manifest_files import Stamp
    from imgstored.catalog.receipts import Receipts
    from imgstored.pools.base import Pool, PoolImage

log = structlog.get_logger(__name__)

Key = tuple[str, str]  #: (pool's name, uuid)

#: Seconds after the creation of a dataset for which its manifest may still come. The creation is the begin of
#: the receive; no receive is known to take longer, and the manifest comes right after it.
_YOUNG: Final = 86400.0
#: Seconds by which a clock may have been set back since then.
_SKEW: Final = 3600.0

_Answer = TypeVar("_Answer")

#: Questions of one lane to one pool at the same time. If the pool does not answer, their threads stay in the
#: kernel.
_MAX_QUESTIONS: Final = 4
#: Changes in one pool at the same time that somebody waits for to the end.
_MAX_CHANGES: Final = 16


@dataclass(frozen=True, slots=True)
class InstalledImage:
    """An image that every reader may see."""

    pool: str
    image: PoolImage
    manifest: Mapping[str, Any] = field(repr=False)
    source: str | None = None
    #: Of the manifest file when it was read; None if it was not read, or should be read again.
    stamp: Stamp | None = field(default=None, repr=False, compare=False)

    @property
    def uuid(self) -> str:
        """The image's uuid."""
        return self.image.uuid

    @property
    def origin(self) -> str | None:
        """The uuid of the image it was cloned from."""
        return self.image.origin

    @property
    def described(self) -> bool:
        """True if its manifest has more than a uuid."""
        return self.manifest.keys() != {"uuid"}

    def text(self, key: str) -> str:
        """A field of the manifest for people, of whatever type; "-" if the image has lost its manifest."""
        return shown_text(self.manifest.get(key))


class View(Protocol):
    """A place that shows installed images as files."""

    async def add(self, image: InstalledImage) -> None:
        """Shows the image."""
        ...

    async def remove(self, image: InstalledImage) -> None:
        """Shows it no longer."""
        ...


async def show(view: View, image: InstalledImage) -> None:
    """Shows the image. Where that fails, the log says so: the image is installed all the same, and listed."""
    try:
        await view.add(image)
    except ImgstoreError as error:
        log.error("an image cannot be shown in the view", uuid=image.uuid, error=error.message)


@contextmanager
def _cannot_be_written(uuid: str) -> Iterator[None]:
    """Raises `PoolError` for an `OSError` of the block, which writes an image's manifest."""
    try:
        yield
    except OSError as error:
        raise PoolError(
            f"the manifest of image {uuid} cannot be written: {shortage.why(error)}",
            hint="check the file system of imgadm's folder",
        ) from error


class Catalog:
    """The installed images of all pools, in memory. Only the methods marked as blocking access files."""

    def __init__(self, pools: Mapping[str, Pool], folder: Path, receipts: Receipts | None = None) -> None:
        self.pools = pools
        self._receipts = receipts
        self._unfinished: dict[str, dict[str, InstalledImage]] = {}
        self._files = ManifestFiles(folder)
        self._images: dict[Key, InstalledImage] = {}
        self._noting: list[set[Key]] = []
        self._threads: dict[tuple[str, str], trio.CapacityLimiter] = {}  # by pool and lane
        self._finishers: dict[str, trio.CapacityLimiter] = {}  # by pool

    # -- in memory -------------------------------------------------------------------------------------------

    def pool(self, name: str | None) -> Pool:
        """The pool of that name; the first one for None. Raises `PoolNotFoundError`."""
        if name is None:
            return next(iter(self.pools.values()))
        try:
            return self.pools[name]
        except KeyError:
            known = ", ".join(self.pools)
            raise PoolNotFoundError(
                f'no such pool: "{name}"',
                hint=f"imgstored has {known}; see `pool` in its configuration",
            ) from None

    async def ask(self, pool: str, question: Callable[[], _Answer]) -> _Answer:
        """Asks a pool `question`, which blocks, in a thread. Raises `PoolError` after a timeout."""
        return await answer(pool, question, threads=self._threads_of(pool))

    async def change(self, pool: str, change: Callable[[], _Answer]) -> _Answer:
        """Makes a change in a pool by `change`, which blocks, in a thread.

        Raises `PoolError` after a timeout; the pool may still make the change later.
        """
        return await changed(pool, change, threads=self._threads_of(pool))

    async def finish(
        self, pool: str, change: Callable[[], _Answer], notice: Callable[[], None] = lambda: None
    ) -> _Answer:
        """Makes a change in a pool by `change`, which blocks, and waits for its end, however late that is.

        The change waits neither for questions nor for other pools. Calls `notice` once the pool has not
        answered for a while.
        """
        threads = self._finishers.setdefault(pool, trio.CapacityLimiter(_MAX_CHANGES))
        return await with_notice(change, notice, threads=threads)

    def _threads_of(self, pool: str) -> trio.CapacityLimiter:
        """The threads for a pool, of the caller's lane."""
        return self._threads.setdefault((pool, lanes.current()), trio.CapacityLimiter(_MAX_QUESTIONS))

    def find(self, pool: str, uuid: str) -> InstalledImage | None:
        """The image, or None."""
        return self._images.get((pool, uuid))

    def get(self, pool: str, uuid: str) -> InstalledImage:
        """The image, or `ImageNotInstalledError`."""
        image = self.find(pool, uuid)
        if image is None:
            raise ImageNotInstalledError(uuid, pool)
        return image

    def all(self) -> list[InstalledImage]:
        """All images, oldest first, as imgadm lists them."""
        return sorted(
            self._images.values(),
            key=lambda image: (image.text("published_at"), image.text("name"), image.uuid),
        )

    def clones(self) -> dict[Key, list[str]]:
        """The sorted names of the clones, images or machines, of each image that has any."""
        names = {key: set(image.image.clones) for key, image in self._images.items()}
        for image in self._images.values():
            if image.origin is not None:
                names.setdefault((image.pool, image.origin), set()).add(f"{image.pool}/{image.uuid}")
        return {key: sorted(clones) for key, clones in names.items() if clones}

    def add(self, image: InstalledImage) -> None:
        """Adds an installed image, or replaces its entry."""
        self._images[image.pool, image.uuid] = image
        self._note(image.pool, image.uuid)

    def remove(self, pool: str, uuid: str) -> None:
        """Removes an image that is no longer installed."""
        self._images.pop((pool, uuid), None)
        self._note(pool, uuid)

    @contextmanager
    def changes(self) -> Iterator[set[Key]]:
        """Gives a set that gets the keys of all images that are added or removed while the block lasts."""
        noted: set[Key] = set()
        self._noting.append(noted)
        try:
            yield noted
        finally:
            # By identity: two empty sets are equal.
            self._noting = [each for each in self._noting if each is not noted]

    def _note(self, pool: str, uuid: str) -> None:
        for noted in self._noting:
            noted.add((pool, uuid))

    def of_pool(self, pool: str) -> dict[str, InstalledImage]:
        """A pool's images by their uuids, in a new dictionary."""
        return {uuid: image for (name, uuid), image in self._images.items() if name == pool}

    def apply(self, pool: str, found: Mapping[str, InstalledImage], *, but: set[Key]) -> list[InstalledImage]:
        """Replaces a pool's images with those found in it; returns those that came, went or changed.

        `but` are keys that changed since the search for `found` began: their entries stay.
        """
        changed = []
        for uuid, known in self.of_pool(pool).items():
            if uuid not in found and (pool, uuid) not in but:
                del self._images[pool, uuid]
                changed.append(known)
        for uuid, image in found.items():
            key = (pool, uuid)
            if key not in but:
                before = self._images.get(key)
                if before is None or (before.manifest, before.origin) != (image.manifest, image.origin):
                    changed.append(image)
                self._images[key] = image
        return changed

    # -- files (blocking) ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Reads the installed images. An image whose manifest is missing or broken is listed, too."""
        self._files.prepare()
        for name in self.pools:
            for image in self.look(name, {}).values():
                self.add(image)

    def look(self, pool: str, known: Mapping[str, InstalledImage]) -> dict[str, InstalledImage]:
        """Looks at a pool; returns its images of now, by uuid. Raises `PoolError`.

        The manifests of `known` images are read again only if their files have changed.
        """
        before = self._unfinished.get(pool, {})
        found: dict[str, InstalledImage] = {}
        unfinished: dict[str, InstalledImage] = {}
        for image in self.pools[pool].images([each.image for each in known.values()]):
            uuid = image.uuid
            each = self.with_manifest(pool, image, known.get(uuid) or before.get(uuid))
            whole = self._is_whole(each, known.get(uuid))
            (found if whole else unfinished)[uuid] = each
            if not whole and uuid not in before:
                log.info("an image has no manifest yet, and is not listed", pool=pool, uuid=uuid)
        self._unfinished[pool] = unfinished
        return found

    def look_at(self, pool: str, uuid: str) -> InstalledImage | None:
        """An image as it is now; None if there is none, or it is not whole. Raises `PoolError`."""
        image = self.pools[pool].image(uuid)
        if image is None:
            return None
        known = self.find(pool, uuid)
        found = self.with_manifest(pool, image, known or self._unfinished.get(pool, {}).get(uuid))
        return found if self._is_whole(found, known) else None

    def unfinished(self, pool: str) -> list[str]:
        """The uuids of the datasets that the last look found with @final but without a manifest."""
        return sorted(uuid for uuid in self._unfinished.get(pool, {}) if self.find(pool, uuid) is None)

    def _is_whole(self, image: InstalledImage, known: InstalledImage | None) -> bool:
        """True if every reader may see the image; `known` is its entry so far."""
        if image.described or (known is not None and self._same(image, known)):
            return True
        created = image.image.created
        if created is None or not -_SKEW < time.time() - created < _YOUNG:
            return True
        receipt = None if self._receipts is None else self._receipts.read(image.pool, image.uuid)
        return receipt is not None and receipt.is_of(image.image)

    def _same(self, image: InstalledImage, known: InstalledImage) -> bool:
        """True if it is still the dataset that was listed.

        A snapshot has the same guid in every dataset that received the same stream. So if the manifest has
        gone, too, the dataset's own guid decides.
        """
        if known.stamp == MISSING or image.stamp != MISSING:
            return True
        now = self.pools[image.pool].image(image.uuid)
        return now is not None and now.dataset == known.image.dataset

    def with_manifest(
        self, pool: str, image: PoolImage, known: InstalledImage | None = None
    ) -> InstalledImage:
        """An image of a pool with what imgadm's file says about it."""
        record = self._files.read(pool, image.uuid, None if known is None else known.stamp)
        if record is not None:
            return InstalledImage(pool, image, record.manifest, record.source, record.stamp)
        assert known is not None
        return InstalledImage(pool, image, known.manifest, known.source, known.stamp)

    def write_manifest(self, pool: str, uuid: str, manifest: Mapping[str, Any], source: str | None) -> None:
        """Writes imgadm's file for an image that is about to come; the file survives a power cut.

        `keep_manifest` makes it permanent; `reconcile` removes it if the image does not come. Raises
        `PoolError`.
        """
        with _cannot_be_written(uuid):
            self._files.mark(pool, uuid)
            self._files.write(pool, uuid, manifest, source)

    def rewrite_manifest(self, pool: str, uuid: str, manifest: Mapping[str, Any], source: str | None) -> None:
        """Replaces the manifest in imgadm's file of an installed image. Raises `PoolError`."""
        with _cannot_be_written(uuid):
            self._files.rewrite(pool, uuid, manifest, source)

    def manifest_of(self, pool: str, uuid: str) -> Mapping[str, Any]:
        """The manifest in imgadm's file, also without an image; only the uuid if the file has none."""
        record = self._files.read(pool, uuid)
        return {"uuid": uuid} if record is None else record.manifest

    def installed_at(self, pool: str, uuid: str) -> float | None:
        """The time of the installation, in seconds since the epoch; None if the image has no manifest."""
        return self._files.written_at(pool, uuid)

    def has_manifest(self, pool: str, uuid: str) -> bool:
        """True if imgadm's file of an image is there and not pending."""
        return self._files.is_there(pool, uuid) and not self._files.is_marked(pool, uuid)

    def keep_manifest(self, pool: str, uuid: str) -> None:
        """Removes the mark of the manifest of an image that is there now. Never raises."""
        try:
            self._files.unmark(pool, uuid)
        except OSError as error:
            # The next start looks again, and finds the image.
            log.warning("cannot tidy up a manifest", pool=pool, uuid=uuid, error=str(error))

    def mark_pending(self, pool: str, uuid: str) -> Stamp | None:
        """Marks the manifest of an image that is about to be deleted, for `reconcile`. Never raises.

        Returns the file's stamp, for `forget_manifest`.
        """
        try:
            self._files.mark(pool, uuid)
            return self._files.stamp(pool, uuid)
        except OSError as error:
            # A file system that is full must not keep an image from being deleted.
            log.warning("a manifest may outlive its image", pool=pool, uuid=uuid, error=str(error))
            return None

    def forget_manifest(self, pool: str, uuid: str, pending: Stamp | None = None) -> None:
        """Removes imgadm's file of an image that was deleted.

        Keeps a file that somebody has written since `mark_pending`: the image is there again.
        """
        if pending is None or self._files.stamp(pool, uuid) == pending:
            self._files.forget(pool, uuid)
        self._files.unmark(pool, uuid)

    def reconcile(self, pool: str, uuid: str) -> None:
        """Drops the manifest and the receipt of an image that was about to come or to go, if it is not there.

        The caller must hold the image's lock. A manifest without a mark stays. Raises `PoolError`, `OSError`.
        """
        if self._files.is_marked(pool, uuid):
            if self.pools[pool].image(uuid) is None:
                if self._receipts is not None:
                    self._receipts.forget(pool, uuid)
                self._files.forget(pool, uuid)
            self._files.unmark(pool, uuid)

    def sweep(self, locks: ImageLocks) -> None:
        """Reconciles what an earlier daemon left pending, except images that another program works on now."""
        for pool in self.pools:
            for uuid in sorted({*self._files.marked(pool), *self._files.half_written(pool)}):
                try:
                    with locks.tried(uuid) as ours:
                        if ours:
                            log.info("tidying up an image's manifest", pool=pool, uuid=uuid)
                            self._files.tidy(pool, uuid)
                            self.reconcile(pool, uuid)
                        else:
                            log.info("somebody is at work on an image", pool=pool, uuid=uuid)
                except (ImgstoreError, OSError) as error:
                    log.error("cannot tidy up a manifest", pool=pool, uuid=uuid, error=str(error))


def as_wires(
    catalog: Catalog, images: Iterable[InstalledImage], holds: Mapping[Key, Iterable[str]] | None = None
) -> list[ImageDocument]:
    """The *images* of the protocol, with their clones; also with their tags, if `holds` is given."""
    clones = catalog.clones()
    return [
        as_wire(image, clones.get(key, ()), None if holds is None else holds.get(key, ()))
        for image in images
        for key in [(image.pool, image.uuid)]
    ]


def as_wire(
    image: InstalledImage, clones: Iterable[str] = (), holds: Iterable[str] | None = None
) -> ImageDocument:
    """The *image* of the protocol. `holds` is None if the request did not ask for them."""
    names = list(clones)
    wire: ImageDocument = {"manifest": dict(image.manifest), "zpool": image.pool}
    if image.source is not None:
        wire["source"] = image.source
    if holds is not None:
        wire["holds"] = list(holds)
    return {**wire, "cloneNames": names, "clones": len(names)}
