"""Verifies installed images: reads each again, and compares it with what was installed.

One verification runs at a time, on one image at a time, in one thread. While there are imports, the thread
rests most of the time. An image cannot be deleted while it is read.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio
from imgproto.events import ImageProgress, Note, Progress, Verified, Verifying
from msgspec import UNSET, Struct

from imgstored import lanes
from imgstored.catalog.manifest_files import MISSING
from imgstored.catalog.receipts import receipt_of, recorded
from imgstored.errors import ImageNotInstalledError, ImgstoreError, PoolError
from imgstored.host import shortage
from imgstored.maintenance.differences import Manifest, Verdict, verdict
from imgstored.manifest import check_uuid, shown_text
from imgstored.site.trust import signer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from imgproto.documents import Result
    from imgproto.events import EventDocument

    from imgstored.catalog.catalog import Catalog, InstalledImage, Key
    from imgstored.catalog.holds import Holds
    from imgstored.catalog.image_locks import ImageLocks
    from imgstored.catalog.receipts import Receipt, Receipts
    from imgstored.catalog.refresh import Refresh
    from imgstored.pools.base import Checked
    from imgstored.site.minisign import PublicKey

    Tell = Callable[[EventDocument], Awaitable[None]]

log = structlog.get_logger(__name__)

#: Seconds between two progress events.
_INTERVAL: Final = 0.5
#: The rest while there are imports, as a multiple of the time of reading; and the longest rest, in seconds.
_REST: Final = 3.0
_LONGEST_REST: Final = 1.0

_LOST = "it is no longer in the pool, and neither imgstored nor imgadm deleted it"


class Host(Struct, frozen=True):
    """The parts that a verifier works with. For trio's thread.

    `busy` says whether there are imports, `trusted` gives the public keys of the sources.
    """

    catalog: Catalog
    receipts: Receipts
    holds: Holds
    refresh: Refresh
    locks: ImageLocks
    busy: Callable[[], bool]
    trusted: Callable[[], Collection[str]] = tuple


class Verifier:
    """Verifies images for clients, one after another."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._turn = trio.Lock()
        # A cancelled read may still be at its last piece: the next one waits for it.
        self._thread = trio.CapacityLimiter(1)

    async def verify(
        self, uuids: Sequence[str] | None, pool: str | None, *, client: str, tell: Tell, record: bool = False
    ) -> dict[Result, int]:
        """Verifies images and their origins, all images for None. Returns the number of images by result.

        With `record`, records each image as it is now, with a checksum of its data, and later verifications
        compare with that; damaged and lost images get no record.

        Waits for another verification to end. A cancellation ends it within one piece. Raises
        `ImageNotInstalledError` for an image that is not there and never was, and what the pools raise.
        """
        if self._turn.locked():
            text = "another verification is under way; this one begins when it has ended"
            await tell(Note(event="note", text=text))
        results: dict[Result, int] = {}
        async with self._turn:
            for key in await self._keys(uuids, pool):
                verified = await self._verify(key, client, tell, record=record)
                if verified is not None:
                    result = verified["result"]
                    log.info("verified", pool=verified["pool"], uuid=verified["uuid"], result=result)
                    results[result] = results.get(result, 0) + 1
                    await tell(verified)
        return results

    # -- which images ----------------------------------------------------------------------------------------

    async def _keys(self, uuids: Sequence[str] | None, pool: str | None) -> list[Key]:
        catalog = self._host.catalog
        if uuids is None:
            names = list(catalog.pools) if pool is None else [catalog.pool(pool).name]
        else:
            names = [catalog.pool(pool).name]
        for name in names:
            await self._host.refresh.pool(name)
        there = [(image.pool, image.uuid) for image in catalog.all() if image.pool in names]
        receipts = await lanes.in_thread(self._receipts_of, names)
        known = [*dict.fromkeys([*there, *receipts])]
        return known if uuids is None else self._with_origins(names[0], uuids, set(known))

    def _receipts_of(self, pools: Sequence[str]) -> list[Key]:
        return [(pool, uuid) for pool in pools for uuid in self._host.receipts.uuids(pool)]

    def _with_origins(self, pool: str, uuids: Sequence[str], known: set[Key]) -> list[Key]:
        """Adds the origins, each before its clones: the data of an origin is read with the origin."""
        keys: dict[Key, None] = {}
        for uuid in uuids:
            if (pool, check_uuid(uuid)) not in known:
                raise ImageNotInstalledError(uuid, pool)
            chain: list[Key] = []
            next_: str | None = uuid
            while next_ is not None and (pool, next_) not in chain:
                chain.append((pool, next_))
                image = self._host.catalog.find(pool, next_)
                next_ = None if image is None else image.origin
            keys.update(dict.fromkeys(reversed(chain)))
        return list(keys)

    # -- one image -------------------------------------------------------------------------------------------

    async def _verify(self, key: Key, client: str, tell: Tell, *, record: bool) -> Verified | None:
        """The result for one image; None if it was deleted."""
        pool, uuid = key
        image = self._host.catalog.find(pool, uuid)
        if image is None:
            return await self._missing(pool, uuid)
        name, version = image.text("name"), image.text("version")
        await tell(
            Verifying(
                event="verifying",
                uuid=uuid,
                pool=pool,
                name=name,
                version=version,
                size=image.image.referenced,
            )
        )
        try:
            async with self._host.holds.held(uuid, pool, f"{client}, verifying", announced=False):
                found = await self._found(image, tell, record=record)
        except ImageNotInstalledError:
            await self._host.refresh.pool(pool)
            return await self._missing(pool, uuid)
        by = await lanes.in_thread(self._signer, image)
        return Verified(
            event="verified",
            uuid=uuid,
            pool=pool,
            name=name,
            version=version,
            result=found.result,
            reason=found.reason,
            signed_by=None if by is None else by.name,
            trusted=None if by is None else by.text in self._host.trusted(),
        )

    async def _found(self, image: InstalledImage, tell: Tell, *, record: bool) -> Verdict:
        receipt = await lanes.in_thread(self._host.receipts.read, image.pool, image.uuid)
        content = record or (receipt is not None and isinstance(receipt.content, str))
        checked = await self._read(image, tell, content=content)
        return await lanes.in_thread(self._compare, image, checked, record)

    async def _read(self, image: InstalledImage, tell: Tell, *, content: bool) -> Checked:
        """Reads all of the image. Raises what its pool raises."""
        reading = _Reading()
        pool = self._host.catalog.pool(image.pool)
        outcome: Checked | ImgstoreError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._narrate, reading, image, tell)
            try:
                check = partial(pool.check, image.uuid, reading, content=content)
                outcome = await trio.to_thread.run_sync(check, abandon_on_cancel=True, limiter=self._thread)
            except ImgstoreError as error:
                outcome = error
            finally:
                reading.stop()
            nursery.cancel_scope.cancel()
        if isinstance(outcome, ImgstoreError):
            raise outcome
        assert outcome is not None
        return outcome

    async def _narrate(self, reading: _Reading, image: InstalledImage, tell: Tell) -> None:
        while True:
            reading.yielding = self._host.busy()
            await trio.sleep(_INTERVAL)
            done = reading.done
            size = max(image.image.referenced, done)
            progress = ImageProgress(
                uuid=image.uuid,
                name=image.text("name"),
                version=image.text("version"),
                phase="verifying",
                done=done,
                total=size,
                received=done,
                import_id=None,
            )
            rate = reading.rate()
            await tell(Progress(event="progress", done=done, total=size, rate=rate, images=[progress]))

    def _compare(self, image: InstalledImage, checked: Checked, record: bool) -> Verdict:
        """Compares an image with its receipt; writes one if there is none, or with `record`."""
        host, pool, uuid = self._host, image.pool, image.uuid
        origin = checked.image.origin
        below = None if origin is None else host.catalog.pool(pool).image(origin)
        origin_guid = None if below is None else below.guid
        receipt = host.receipts.read(pool, uuid)
        found = verdict(receipt, checked, origin_guid, self._manifest(image))
        if record and found.result != "damaged":
            self._write(pool, uuid, recorded(receipt, checked, origin_guid))
            return Verdict("recorded", found.reason if found.result == "changed" else "")
        if found.result == "unknown":
            self._write(pool, uuid, receipt_of(checked.image, None, origin_guid))
        return found

    def _signer(self, image: InstalledImage) -> PublicKey | None:
        """The key that vouched for an image at its installation, if the receipt is of this very image."""
        receipt = self._host.receipts.read(image.pool, image.uuid)
        if receipt is None or receipt.signed is UNSET or not receipt.is_of(image.image):
            return None
        return signer(receipt.signed) if receipt.guid == image.image.guid else None

    def _manifest(self, image: InstalledImage) -> Manifest:
        now = self._host.catalog.with_manifest(image.pool, image.image)
        missing = now.stamp == MISSING
        return Manifest(missing, broken=not missing and set(now.manifest) == {"uuid"})

    def _write(self, pool: str, uuid: str, receipt: Receipt) -> None:
        try:
            self._host.receipts.write(pool, uuid, receipt)
        except OSError as error:
            raise PoolError(
                f"the receipt of image {uuid} cannot be written: {shortage.why(error)}",
                hint="check the file system of the daemon's state folder",
            ) from error

    # -- what is not there -----------------------------------------------------------------------------------

    async def _missing(self, pool: str, uuid: str) -> Verified | None:
        manifest = await lanes.in_thread(self._lost, pool, uuid)
        if manifest is None:
            return None
        name, version = (shown_text(manifest.get(field)) for field in ("name", "version"))
        return Verified(
            event="verified",
            uuid=uuid,
            pool=pool,
            name=name,
            version=version,
            result="lost",
            reason=_LOST,
            signed_by=None,
            trusted=None,
        )

    def _lost(self, pool: str, uuid: str) -> dict[str, object] | None:
        """The manifest of a lost image; None if the image was deleted, or another program works on it.

        A deletion, also by imgadm, deletes the manifest. Drops the receipt of a deleted image.
        """
        host = self._host
        with host.locks.tried(uuid) as ours:
            if not ours or host.catalog.pool(pool).occupant(uuid) is not None:
                return None  # another program works on it
            if host.catalog.has_manifest(pool, uuid):
                return dict(host.catalog.manifest_of(pool, uuid))
            host.receipts.forget(pool, uuid)
        return None


class _StoppedError(Exception):
    """The verification was cancelled."""


class _Reading:
    """The progress of reading one image. `Pool.check` calls it in its thread; the rest is for trio's."""

    def __init__(self) -> None:
        self.done = 0
        self.yielding = False
        self._stopped = threading.Event()
        self._began = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Rests if there are imports. Raises `_StoppedError` after `stop`."""
        self.done = done
        rest = min(_REST * (time.monotonic() - self._last), _LONGEST_REST) if self.yielding else 0
        if self._stopped.wait(rest) if rest else self._stopped.is_set():
            raise _StoppedError
        self._last = time.monotonic()

    def stop(self) -> None:
        """Stops the reading at the next piece."""
        self._stopped.set()

    def rate(self) -> float:
        """The average bytes per second."""
        return self.done / max(time.monotonic() - self._began, 0.001)
