"""The client of one source: it asks the server, notes how that went, and keeps the last good list.

No answer of a source is believed here; a list only has to be readable.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import structlog
import trio
from msgspec import Struct
from msgspec.structs import replace

from imgstored import lanes
from imgstored.errors import ImgstoreError, InvalidManifestError, SourcePingError
from imgstored.host import shortage
from imgstored.host.filesystem import replace_file
from imgstored.http.documents import fetch_document
from imgstored.http.location import public, shown
from imgstored.http.secrets import KNOWN
from imgstored.manifest import MAX_LIST, check_uuid, parse
from imgstored.registry.client import Registries
from imgstored.sources.base import Listed
from imgstored.sources.container import ContainerSource
from imgstored.sources.dsapi import DsapiSource
from imgstored.sources.health import OF_AN_IMAGE, OF_THE_IMAGE, Question
from imgstored.sources.imgapi import ImgapiSource
from imgstored.sources.oci import OciSource
from imgstored.sources.server import AskLimits
from imgstored.sources.signed import SeenVersions, SignedSource
from imgstored.sources.spec import identity
from imgstored.sources.static import StaticSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from imgproto.documents import ProblemDocument

    from imgstored.http.documents import Fetch
    from imgstored.sources.base import Offer, Source, SourceSpec, SourceType
    from imgstored.sources.health import HealthLog
    from imgstored.sources.search import Answer, Hit

T = TypeVar("T")

log = structlog.get_logger(__name__)

_KINDS: dict[SourceType, Callable[..., Source]] = {
    "imgapi": ImgapiSource,
    "dsapi": DsapiSource,
    "static": StaticSource,
}

_SUFFIX = ".json"


def open_source(
    spec: SourceSpec,
    *,
    fetch: Fetch = fetch_document,
    limits: AskLimits | None = None,
    seen: SeenVersions | None = None,
    registries: Registries | None = None,
) -> Source:
    """The source that `spec` describes; its URL must be in normal form. Nothing is asked yet.

    `registries` are those of the settings. `seen` remembers the versions of signed sites. Raises
    `KeyFileError` for keys that are none.
    """
    if spec.keys and spec.type != "oci":
        return SignedSource(spec, fetch=fetch, limits=limits or AskLimits(), seen=seen)
    registries = registries or Registries(fetch=fetch)
    if spec.type == "docker":
        return ContainerSource(spec, registries=registries)
    if spec.type == "oci":
        return OciSource(spec, registries=registries, limits=limits or AskLimits())
    return _KINDS[spec.type](spec, fetch=fetch, limits=limits or AskLimits())


class Listing(NamedTuple):
    """The contents of a source: its images, why there may be more (a sentence), and the problem with it."""

    images: Sequence[Listed]
    incomplete: str = ""
    problem: ProblemDocument | None = None


class SourceClient:
    """Asks one source. Used from trio's thread."""

    def __init__(
        self,
        spec: SourceSpec,
        source: Source,
        *,
        health: HealthLog,
        lists: LastLists,
        now: Callable[[], datetime],
    ) -> None:
        """`source` has a cache of its own; `health` and `lists` are those of all clients."""
        self.spec = spec
        self._source = source
        self._health = health
        self._lists = lists
        self._now = now
        self._logged = ""  # why its list is incomplete
        self._listings: dict[Hashable, SharedAnswer[Listing]] = {}

    async def ping(self) -> ImgstoreError | None:
        """Asks the source whether it is there; returns the error if it is not."""
        with self._question() as question:
            await self._source.ping()
        self._log_incomplete()
        return question.error

    async def must_answer(self) -> None:
        """Raises `SourcePingError` if the source is not there."""
        error = await self.ping()
        if error is not None:
            spec = self.spec
            raise SourcePingError(
                f'unexpected ping error with "{spec.type}" image source "{shown(spec.url)}": {error.message}',
                hint=f"{error.hint or 'see that the server is of that type'}, or force it (-f)",
                data={"cause": error.as_wire()},
            ) from error

    async def list(self, *, save: bool) -> Listing:
        """The source's images, and the problem with it.

        The last good list stands in for one that fails. With `save` a good one becomes the last. Who asks
        while the source is being asked, in the same lane, gets that answer.
        """
        listing = self._listings.setdefault((save, lanes.current()), SharedAnswer())
        return await listing.get(partial(self._list, save=save))

    async def _list(self, *, save: bool) -> Listing:
        images: list[Listed] = []
        with self._question() as question:
            images = await self._source.list()
        self._log_incomplete()
        error = question.error
        if error is None:
            good = KeptList(images, self._now().isoformat(), self._source.incomplete or "")
            if save:
                await self._lists.change(self._lists.save, self.spec, good)
            return Listing(good.images, good.incomplete)
        log.warning("a source cannot be listed", source=self.spec.url, error=error.message)
        problem: ProblemDocument = {"source": public(self.spec.url), "error": error.as_wire()}
        last = await self._lists.change(self._lists.load, self.spec)
        if last is None:
            return Listing([], "", problem)
        return Listing(last.images, last.incomplete, {**problem, "listed_at": last.listed_at})

    async def last_list(self) -> Sequence[Listed]:
        """The images that the source had when it last answered; it is not asked."""
        last = await self._last()
        return [] if last is None else last.images

    async def incomplete(self) -> str:
        """Why the last list of the source may lack images, a sentence; it is not asked."""
        if self._source.incomplete is not None:
            return self._source.incomplete
        last = await self._last()
        return "" if last is None else last.incomplete

    async def _last(self) -> KeptList | None:
        return await lanes.in_thread(self._lists.load, self.spec)

    async def offer(self, uuid: str, read: Callable[[Offer], Hit]) -> Answer:
        """Asks the source about an image. Errors are returned, so that other sources still count."""
        with self._question(OF_THE_IMAGE) as question:
            offer = await self._source.offer(uuid)
            self._log_incomplete()
            if offer is None:
                return None
            # What a server quotes there would be in manifests that everybody reads.
            return read(replace(offer, manifest=KNOWN.hidden_in(offer.manifest)))
        assert question.error is not None
        log.warning("a source failed", source=self.spec.url, uuid=uuid, error=question.error.message)
        return question.error

    def _question(self, harmless: tuple[type[ImgstoreError], ...] = OF_AN_IMAGE) -> Question:
        return Question(self.spec, self._health, harmless)

    def _log_incomplete(self) -> None:
        """Once for each reason."""
        incomplete = self._source.incomplete or ""
        if incomplete not in ("", self._logged):
            log.warning("a source's list is incomplete", source=self.spec.url, error=incomplete)
        self._logged = incomplete


class SharedAnswer(Generic[T]):
    """The answer to a question that many ask at once: one of them asks, and the others get what comes."""

    def __init__(self) -> None:
        self._asking = trio.Lock()
        self._answers = 0
        self._wanted_by = 0
        self._answer: T | None = None

    async def get(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The next answer to come. `ask` raises nothing; where who asks is cancelled, the next one asks."""
        came = self._answers
        self._wanted_by += 1
        try:
            async with self._asking:
                if self._answers == came or self._answer is None:
                    self._answer = await ask()
                    self._answers += 1
                return self._answer
        finally:
            self._wanted_by -= 1
            if not self._wanted_by:
                self._answer = None  # it may be large


# -- what it had ---------------------------------------------------------------------------------------------


class KeptList(Struct, frozen=True):
    """A good list of a source."""

    images: Sequence[Listed]
    listed_at: str  #: ISO time
    incomplete: str = ""  #: why it may lack images


class LastLists:
    """A folder with the last good list of each source, for when it does not answer.

    One file a source: `{source, listed_at, manifests, incomplete}`. All methods block but `change`, which
    runs one that changes the folder.
    """

    def __init__(self, folder: Path) -> None:
        # A thread of its own, in no lane: who may change waits for it, too.
        self._thread = trio.CapacityLimiter(1)
        self._folder = folder

    async def change(self, method: Callable[..., T], *arguments: object) -> T:
        """Runs one of the methods in a thread, one at a time."""
        return await trio.to_thread.run_sync(method, *arguments, limiter=self._thread)

    def save(self, spec: SourceSpec, kept: KeptList) -> None:
        """Writes a list. Errors are only logged: the caller has the list."""
        content = {
            "source": public(spec.url),
            "listed_at": kept.listed_at,
            "manifests": [image.manifest for image in kept.images],
            "incomplete": kept.incomplete,
        }
        data = json.dumps(KNOWN.hidden_in(content), ensure_ascii=False).encode()
        path = self._path(spec)
        try:
            if len(data) > MAX_LIST:
                path.unlink(missing_ok=True)  # rather none than one that is long out of date
                log.warning("a source's list is too large to be kept", source=spec.url, bytes=len(data))
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data, mode=0o600)
        except OSError as error:
            log.warning(
                "a source's list cannot be kept",
                source=spec.url,
                path=str(path),
                error=shortage.why(error),
            )

    def load(self, spec: SourceSpec) -> KeptList | None:
        """The last good list, or None. A file that is damaged is as good as none."""
        path = self._path(spec)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_LIST + 1)
            return _read(data, spec)
        except FileNotFoundError:
            return None
        except (OSError, ImgstoreError) as error:
            log.warning("a kept list cannot be used", source=spec.url, path=str(path), error=str(error))
            return None

    def saved_at(self, spec: SourceSpec) -> float | None:
        """When the last good list was saved, in seconds since the epoch; None where there is none."""
        try:
            return self._path(spec).stat().st_mtime
        except OSError:
            return None

    def drop_others(self, specs: Iterable[SourceSpec]) -> None:
        """Removes the lists of all sources but these."""
        wanted = {self._path(spec).name for spec in specs}
        try:
            for path in list(self._folder.iterdir()) if self._folder.is_dir() else []:
                if path.name not in wanted:
                    path.unlink()
        except OSError as error:
            log.warning("an old list cannot be removed", folder=str(self._folder), error=str(error))

    def _path(self, spec: SourceSpec) -> Path:
        name = hashlib.sha256(json.dumps(identity(spec)).encode()).hexdigest()
        return self._folder / (name + _SUFFIX)


def _read(data: bytes, spec: SourceSpec) -> KeptList:
    """Raises `InvalidManifestError` or `InvalidUUIDError` unless it is what `save` wrote."""
    content = parse(data, limit=MAX_LIST)
    listed_at, manifests = content.get("listed_at"), content.get("manifests")
    if not isinstance(listed_at, str) or not isinstance(manifests, list):
        raise InvalidManifestError("not a kept list")
    incomplete = content.get("incomplete")  # not in lists of older daemons
    return KeptList(
        [Listed(_named(manifest), spec.url) for manifest in manifests],
        listed_at,
        incomplete if isinstance(incomplete, str) else "",
    )


def _named(manifest: object) -> dict[str, Any]:
    if not isinstance(manifest, dict):
        raise InvalidManifestError("not a manifest")
    check_uuid(manifest.get("uuid"))
    return manifest
