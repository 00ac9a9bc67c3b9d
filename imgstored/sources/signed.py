"""Static image sites that somebody signed: nothing of them is believed but what a trusted key vouches for.

site.minisig ──► the index, by its hash ──► the list and the manifests, by theirs ──► the file's SHA-256
"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
import structlog
import trio
from msgspec import Struct

from imgstored import lanes
from imgstored.errors import UntrustedSourceError
from imgstored.host import shortage
from imgstored.host.filesystem import make_folder, replace_file
from imgstored.http.documents import DocumentLimits
from imgstored.http.location import shown
from imgstored.manifest import check_uuid, decoded, upgrade
from imgstored.site import layout
from imgstored.site.minisign import MAX_SIGNATURES
from imgstored.site.trust import Provenance, Seen, Trusted, UntrustedError, believed, checked_index, keys_of
from imgstored.sources.answers import displayed, read_list, the_manifest
from imgstored.sources.base import Listed, Offer
from imgstored.sources.server import AskLimits, Server
from imgstored.sources.static import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgstored.http.documents import Fetch
    from imgstored.site.layout import Hashed, Index, Indexed
    from imgstored.sources.base import SourceSpec

log = structlog.get_logger(__name__)

_POINTER: Final = DocumentLimits(max_bytes=MAX_SIGNATURES, total_seconds=15.0, tries=2)
_INDEX: Final = DocumentLimits(max_bytes=layout.MAX_INDEX, total_seconds=60.0, tries=2)
#: Bytes of a file of `SeenVersions`, and keys in it.
_MAX_SEEN: Final = 1 << 16
_MAX_KEYS: Final = 64


class SeenVersions:
    """The newest version of each signed site that was believed, in a folder; without one, in memory.

    One file a site. All methods block, and may be called from any thread.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Seen]] = {}

    def of(self, url: str) -> dict[str, Seen]:
        """By the texts of keys. Raises `UntrustedError` where it cannot be read: then nobody knows."""
        with self._lock:
            return dict(self._of(url))

    def _of(self, url: str) -> dict[str, Seen]:
        known = self._known.get(url)
        if known is not None:
            return known
        known = {}
        if self._folder is not None:
            path = self._path(url)
            try:
                with path.open("rb") as file:
                    known = decoded(file.read(_MAX_SEEN), dict[str, Seen])
            except FileNotFoundError:
                pass
            except (OSError, msgspec.MsgspecError) as error:
                raise UntrustedError(
                    f"which of its versions was seen last cannot be read ({path}): {error}"
                ) from error
        self._known[url] = known
        return known

    def note(self, url: str, key: str, seen: Seen) -> None:
        """Writes down a version, which is on the disk when this returns. Raises `UntrustedError`."""
        with self._lock:
            known = self._of(url)
            before = known.get(key)
            if before is not None and before.version >= seen.version:
                return
            new = {key: seen, **{name: each for name, each in known.items() if name != key}}
            new = dict(list(new.items())[:_MAX_KEYS])
            if self._folder is not None:
                try:
                    make_folder(self._folder, mode=0o700)
                    replace_file(self._path(url), msgspec.json.encode(new), mode=0o600)
                except OSError as error:
                    raise UntrustedError(
                        f"its version cannot be written down: {shortage.why(error)}"
                    ) from error
            self._known[url] = new

    def _path(self, url: str) -> Path:
        assert self._folder is not None
        return self._folder / (hashlib.sha256(url.encode()).hexdigest() + ".json")


class _Site(Struct, frozen=True):
    """A site's state that was believed."""

    trusted: Trusted
    images: dict[str, Indexed]
    index: Index


class SignedSource:
    """A site that `imgctl export-site --sign` wrote; `URL` is its folder `images`."""

    def __init__(
        self,
        spec: SourceSpec,
        *,
        fetch: Fetch,
        limits: AskLimits,
        seen: SeenVersions | None = None,
        clock: Callable[[], float] = trio.current_time,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.spec = spec
        self._keys = keys_of(spec.keys)
        self._server = Server(spec, fetch=fetch)
        self._limits = limits
        self._seen = seen or SeenVersions()
        self._clock = clock
        self._now = now
        self._asking = trio.Lock()
        self._answered = float("-inf")
        self._site: _Site | None = None

    @property
    def incomplete(self) -> str | None:
        """As the contract says."""
        return self._server.incomplete

    async def ping(self) -> None:
        """Returns if there is a pointer that is believed."""
        await self._state(kept=False)

    async def list(self) -> list[Listed]:
        """All images."""
        site = await self._state(kept=False)
        listed = site.index.list
        body = await self._get(layout.list_name(listed), listed, self._limits.listing)
        url = self._server.url("/" + layout.list_name(listed))
        read = await lanes.in_thread(read_list, url, body)
        self._server.incomplete = read.left_out.words(self.spec.url)
        return await lanes.in_thread(displayed, read.by_uuid.values(), self.spec.url)

    async def offer(self, uuid: str) -> Offer | None:
        """The image, as the index has it."""
        check_uuid(uuid)
        site = await self._state()
        image = site.images.get(uuid)
        if image is None:
            return None
        name = f"{uuid}/{layout.manifest_name(image.manifest)}"
        body = await self._get(name, image.manifest, self._limits.manifest)
        manifest = the_manifest(self._server.url(f"/{name}"), body, uuid)
        # Where the file is says the form of the site, and no manifest.
        location = self._server.location(self._server.url(f"/{uuid}/{layout.FILE}"))
        trusted = site.trusted
        provenance = Provenance(
            trusted.key.text, trusted.signature.text(), image.manifest.sha256, image.file.sha256
        )
        return Offer(upgrade(_sized(manifest, image, self._refuse)), location, provenance)

    # -- what is believed ------------------------------------------------------------------------------------

    async def _state(self, *, kept: bool = True) -> _Site:
        """The site's state; concurrent callers share one look at it."""
        came = self._clock()
        async with self._asking:
            usable = came - KEPT_SECONDS if kept else came
            if self._site is None or self._answered <= usable:
                self._site = await self._fetch_state(self._site)
                self._answered = self._clock()
            return self._site

    async def _fetch_state(self, before: _Site | None) -> _Site:
        url = self._server.url("/" + layout.POINTER)
        data = await self._server.get(url, _POINTER)
        if data is None:
            self._refuse("it is not signed: there is no " + layout.POINTER)
        try:
            seen = await lanes.in_thread(self._seen.of, self.spec.url)
            trusted = believed(data, self._keys, now=self._now(), seen=seen)
        except UntrustedError as error:
            self._refuse(str(error))
        if before is not None and before.trusted == trusted:
            return before
        named = trusted.pointer.index
        body = await self._server.demand(self._server.url("/" + layout.index_name(named)), _INDEX)
        try:
            index = await lanes.in_thread(checked_index, trusted, body)
            # Only now: a pointer to an index that is not there must not keep the site's own next one out.
            await lanes.in_thread(
                self._seen.note, self.spec.url, trusted.key.text, Seen(trusted.pointer.version, named.sha256)
            )
        except UntrustedError as error:
            self._refuse(str(error))
        log.info(
            "a signed site is believed",
            source=self.spec.url,
            version=trusted.pointer.version,
            key=trusted.key.name,
            images=len(index.images),
        )
        return _Site(trusted, {image.uuid: image for image in index.images}, index)

    async def _get(self, name: str, wanted: Hashed, limits: DocumentLimits) -> bytes:
        """The manifest that the index names. Raises `UntrustedSourceError` for anything else."""
        body = await self._server.demand(self._server.url(f"/{name}"), limits)
        if not wanted.is_of(body):
            self._refuse(f"{name} is not what the index names: it was changed, or is of another state")
        return body

    def _refuse(self, why: str) -> NoReturn:
        raise UntrustedSourceError(
            f"{shown(self.spec.url)} is not believed: {why}",
            hint="tell who signs the site; do not use it without `keys` unless you know why",
        )


def _sized(
    manifest: dict[str, object], image: Indexed, refuse: Callable[[str], NoReturn]
) -> dict[str, object]:
    """The manifest, whose file must have the index's size."""
    files = manifest.get("files")
    first = files[0] if isinstance(files, list) and files else None
    if not isinstance(first, dict) or first.get("size") != image.file.size:
        refuse(f"the manifest of image {image.uuid} and the index are not of the same file")
    return manifest
