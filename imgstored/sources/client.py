"""The client of one source: it asks the server, notes how that went, and keeps the last good list.

No answer of a source is believed here; a list only has to be readable.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import structlog
import trio
from msgspec import Struct

from imgstored.errors import (
    ImgstoreError,
    InternalError,
    InvalidManifestError,
    ManifestValidationError,
    SourcePingError,
)
from imgstored.host import shortage
from imgstored.host.durable import replace_file
from imgstored.http.documents import fetch_document
from imgstored.http.location import public, shown
from imgstored.manifest import MAX_LIST, check_uuid, parse
from imgstored.sources.base import Listed
from imgstored.sources.dsapi import DsapiSource
from imgstored.sources.imgapi import ImgapiSource
from imgstored.sources.server import AskLimits
from imgstored.sources.signed import SeenVersions, SignedSource
from imgstored.sources.spec import identity
from imgstored.sources.static import StaticSource

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from imgproto.documents import ProblemDocument, SourceStateDocument

    from imgstored.sources.base import Offer, Source, SourceSpec, SourceType
    from imgstored.sources.search import Answer, Hit
    from imgstored.sources.server import Fetch

log = structlog.get_logger(__name__)

_KINDS: dict[SourceType, Callable[..., Source]] = {
    "imgapi": ImgapiSource,
    "dsapi": DsapiSource,
    "static": StaticSource,
}

#: Servers of which the health is known: those in use, and some that callers name.
_KNOWN = 256

#: What is wrong with an image, in an answer of a source that works.
_OF_AN_IMAGE = (InvalidManifestError, ManifestValidationError)

_SUFFIX = ".json"


def open_source(
    spec: SourceSpec,
    *,
    fetch: Fetch = fetch_document,
    limits: AskLimits | None = None,
    seen: SeenVersions | None = None,
) -> Source:
    """The source that `spec` describes; its URL must be in normal form. Nothing is asked yet.

    `seen` remembers the versions of signed sites. Raises `KeyFileError` for keys that are none.
    """
    if spec.keys:
        return SignedSource(spec, fetch=fetch, limits=limits or AskLimits(), seen=seen)
    return _KINDS[spec.type](spec, fetch=fetch, limits=limits or AskLimits())


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

    async def ping(self) -> ImgstoreError | None:
        """What is wrong with the source; None if it is there."""
        with self._question() as question:
            await self._source.ping()
        return question.error

    async def must_answer(self) -> None:
        """Raises `SourcePingError` if the source is not there."""
        error = await self.ping()
        if error is not None:
            spec = self.spec
            raise SourcePingError(
                f'unexpected ping error with "{spec.type}" image source "{shown(spec.url)}": {error.message}',
                hint=error.hint or "see that the server is up and of that type, or force it (-f)",
                data={"cause": error.as_wire()},
            ) from error

    async def list(self, *, save: bool) -> tuple[Sequence[Listed], ProblemDocument | None]:
        """The source's images, and the problem with it: {source, error, listed_at?}.

        The last good list stands in for one that fails. With `save` a good one becomes the last.
        """
        images: list[Listed] = []
        with self._question() as question:
            images = await self._source.list()
        error = question.error
        if error is None:
            if save:
                async with self._lists.busy:
                    await trio.to_thread.run_sync(
                        self._lists.save, self.spec, images, self._now().isoformat()
                    )
            return images, None
        log.warning("a source cannot be listed", source=self.spec.url, error=error.message)
        problem: ProblemDocument = {"source": public(self.spec.url), "error": error.as_wire()}
        async with self._lists.busy:
            last = await trio.to_thread.run_sync(self._lists.load, self.spec)
        if last is None:
            return [], problem
        return last[0], {**problem, "listed_at": last[1]}

    async def last_list(self) -> Sequence[Listed]:
        """What the source had when it last answered; it is not asked."""
        last = await trio.to_thread.run_sync(self._lists.load, self.spec)
        return [] if last is None else last[0]

    async def offer(self, uuid: str, read: Callable[[Offer], Hit]) -> Answer:
        """What the source says about an image. Errors are returned, so that other sources still count."""
        with self._question() as question:
            offer = await self._source.offer(uuid)
            return None if offer is None else read(offer)
        assert question.error is not None
        log.warning("a source failed", source=self.spec.url, uuid=uuid, error=question.error.message)
        return question.error

    def _question(self) -> Question:
        return Question(self.spec, self._health)


# -- how it did ----------------------------------------------------------------------------------------------


class Health(Struct):
    """The health of one server. Times are seconds since the epoch; None: never since the daemon's start."""

    answered_at: float | None = None
    failed_at: float | None = None
    error: ImgstoreError | None = None  #: the last one, until it answers again

    def as_wire(self, spec: SourceSpec, *, listed_at: float | None) -> SourceStateDocument:
        """The form that the protocol's *status* has, without what may be secret in the URL."""
        return {
            "url": public(spec.url),
            "type": spec.type,
            "answered_at": self.answered_at,
            "failed_at": self.failed_at,
            "error": None if self.error is None else self.error.as_wire(),
            "listed_at": listed_at,
        }


class HealthLog:
    """The health of the servers that were asked last. Used from trio's thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: OrderedDict[Hashable, Health] = OrderedDict()

    def of(self, spec: SourceSpec) -> Health:
        """How a source did."""
        return self._known.get(_server(spec), Health())

    def note(self, spec: SourceSpec, error: ImgstoreError | None) -> None:
        """Records that a question has ended, with its error if it failed."""
        health = self._known.setdefault(_server(spec), Health())
        if error is None or isinstance(error, _OF_AN_IMAGE):
            health.answered_at, health.error = self._clock(), None
        else:
            health.failed_at, health.error = self._clock(), error
        self._known.move_to_end(_server(spec))
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)


def _server(spec: SourceSpec) -> Hashable:
    # With another channel it is the same server.
    return spec.type, spec.url


class Question:
    """A block that asks a source. Its error is kept instead of raised, and noted in the source's health."""

    def __init__(self, spec: SourceSpec, health: HealthLog) -> None:
        self._spec = spec
        self._health = health
        self.error: ImgstoreError | None = None

    def __enter__(self) -> Question:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ImgstoreError):
            self.error = error
        elif isinstance(error, Exception):
            # A mistake of ours in reading one server's answer must not hide all the others.
            log.exception("asking a source failed", source=public(self._spec.url), exc_info=error)
            self.error = InternalError(
                "a fault in imgstored: a query of a source failed", hint="its log has the details"
            )
        elif error is not None:
            return False
        self._health.note(self._spec, self.error)
        return True


# -- what it had ---------------------------------------------------------------------------------------------


class LastLists:
    """A folder with the last good list of each source, for when it does not answer.

    One file a source: `{source, listed_at, manifests}`. All methods block. Hold `busy` while one changes the
    folder.
    """

    def __init__(self, folder: Path) -> None:
        self.busy = trio.Lock()
        self._folder = folder

    def save(self, spec: SourceSpec, images: Sequence[Listed], listed_at: str) -> None:
        """Writes a list. Errors are only logged: the caller has the list."""
        content = {
            "source": public(spec.url),
            "listed_at": listed_at,
            "manifests": [image.manifest for image in images],
        }
        data = json.dumps(content, ensure_ascii=False).encode()
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

    def load(self, spec: SourceSpec) -> tuple[list[Listed], str] | None:
        """The last good list and its time (ISO), or None. A file that is damaged is as good as none."""
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


def _read(data: bytes, spec: SourceSpec) -> tuple[list[Listed], str]:
    """Raises `InvalidManifestError` or `InvalidUUIDError` unless it is what `save` wrote."""
    content = parse(data, limit=MAX_LIST)
    listed_at, manifests = content.get("listed_at"), content.get("manifests")
    if not isinstance(listed_at, str) or not isinstance(manifests, list):
        raise InvalidManifestError("not a kept list")
    return [Listed(_named(manifest), spec.url) for manifest in manifests], listed_at


def _named(manifest: object) -> dict[str, Any]:
    if not isinstance(manifest, dict):
        raise InvalidManifestError("not a manifest")
    check_uuid(manifest.get("uuid"))
    return manifest
