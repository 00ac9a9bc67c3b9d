"""Which sources there are, and what all of them together have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import trio

from imgstored.errors import (
    ImageNotFoundError,
    ImgstoreError,
    InvalidUUIDError,
    NoSourcesError,
    UsageError,
)
from imgstored.http.location import public
from imgstored.manifest import check_uuid, load, unchecked
from imgstored.sources.base import Listed, SourceSpec
from imgstored.sources.imgadm_conf import ImgadmConf, check_type
from imgstored.sources.questions import Questions
from imgstored.sources.registry import Found, open_source
from imgstored.sources.search import Answer, Hit, Search
from imgstored.sources.source_edit import changes, each_once, others, set_elsewhere, spec_of
from imgstored.sources.url import channel_of, identity, normalised

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from imgproto.documents import (
        AddedDocument,
        AvailableDocument,
        CheckedSourceDocument,
        DeletedSourcesDocument,
        EditedSourcesDocument,
        KnownDocument,
        ManifestDocument,
        ProblemDocument,
        SourceDocument,
        SourceStateDocument,
    )

    from imgstored.sources.base import Offer, Source

log = structlog.get_logger(__name__)

#: imgadm's own, where nobody has named another.
DEFAULT_SOURCE = SourceSpec("https://images.smartos.org")

#: Sources that one request asks at the same time.
_AT_A_TIME = 16


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SourceBook:
    """The sources of imgstored's configuration, then those of imgadm's. Used from trio's thread.

    Clients change imgadm's file only. No lock is held while a source is asked.
    """

    def __init__(
        self,
        configured: Sequence[SourceSpec] | None,
        *,
        imgadm_conf: Path,
        lists: Path,
        open_source: Callable[[SourceSpec], Source] = open_source,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`configured` is None where the configuration says nothing: imgadm's default may then count.

        `lists` is a folder for copies of the sources' lists. Raises `ClientError` for a URL that is none.
        """
        self._conf = ImgadmConf(imgadm_conf)
        self._questions = Questions(lists, open_source, now)
        self._writing = trio.Lock()
        self.reconfigure(configured)

    def reconfigure(self, configured: Sequence[SourceSpec] | None) -> None:
        """Takes the configuration's sources as they are now. Raises `ClientError` for a URL that is none."""
        self._configured = (
            None if configured is None else [replace(spec, url=normalised(spec.url)) for spec in configured]
        )
        self._questions.forget_all()

    # -- which there are -------------------------------------------------------------------------------------

    def listed(self) -> list[SourceDocument]:
        """All sources, in order, as {url, type, insecure, channel}. Raises `ConfigError`."""
        # Reads imgadm's file, a few hundred bytes; imgadm may have changed it meanwhile.
        return [as_wire(spec) for spec in self._specs()]

    async def add(self, url: str, kind: str | None, insecure: bool, force: bool) -> AddedDocument:
        """Adds a source (imgapi, if nothing else is said), after it has answered unless forced.

        Returns {added, source}. Raises `ClientError` for what is no URL, `ConfigError`, `SourcePingError`.
        """
        spec = SourceSpec(normalised(url), check_type("imgapi" if kind is None else kind, url), insecure)
        added = False
        if identity(spec) not in map(identity, await trio.to_thread.run_sync(self._specs)):
            if not force:
                await self._questions.ping(spec)
            async with self._writing:
                added = await trio.to_thread.run_sync(partial(self._conf.add, spec, default=self._default()))
        return {"added": added, "source": as_wire(spec)}

    async def delete(self, url: str) -> DeletedSourcesDocument:
        """Removes the sources with this URL. Returns {deleted}, those that there were.

        Raises `ClientError` for what is no URL, `ConfigError` also for a source that is not a client's.
        """
        url = normalised(url)
        if any(spec.url == url for spec in self._configured or ()):
            raise set_elsewhere(url)
        async with self._writing:
            deleted = await trio.to_thread.run_sync(partial(self._conf.delete, url, default=self._default()))
        for spec in deleted:
            self._questions.forget(spec)
        return {"deleted": [as_wire(spec) for spec in deleted]}

    async def replace(
        self, given: Sequence[Mapping[str, Any]], *, before: Sequence[Mapping[str, Any]], force: bool
    ) -> EditedSourcesDocument:
        """Makes the sources those that are given; each that is new must answer unless forced.

        `before` is what was listed when somebody began to edit it. Returns {reordered, added, deleted}.
        Raises `UsageError` where that has changed since, `ConfigError` also where one of the configuration is
        left out, and as `add` does.
        """
        wanted = each_once(spec_of(each) for each in given)
        theirs = others(wanted, self._configured or ())
        if not force:
            for spec in changes(await trio.to_thread.run_sync(self._specs), wanted).added:
                await self._questions.ping(spec)
        async with self._writing:
            now = await trio.to_thread.run_sync(self._specs)
            if [*map(as_wire, now)] != [*before]:
                raise UsageError(
                    "somebody else has changed the image sources meanwhile", hint="edit them once more"
                )
            await trio.to_thread.run_sync(partial(self._conf.replace, theirs, default=self._default()))
        done = changes(now, wanted)
        for spec in done.deleted:
            self._questions.forget(spec)
        return {
            "reordered": done.reordered,
            "added": [*map(as_wire, done.added)],
            "deleted": [*map(as_wire, done.deleted)],
        }

    def _specs(self) -> list[SourceSpec]:
        """All sources, each once. Reads a file. Raises `ConfigError`."""
        theirs = self._conf.sources()
        if theirs is None:
            theirs = [] if self._configured is not None else [DEFAULT_SOURCE]
        return each_once([*(self._configured or ()), *theirs])

    def _default(self) -> SourceSpec | None:
        return DEFAULT_SOURCE if self._configured is None else None

    async def _some(self) -> list[SourceSpec]:
        specs = await trio.to_thread.run_sync(self._specs)
        if not specs:
            raise NoSourcesError(
                "imgadm has no configured sources", hint="`imgctl sources -a URL` adds an image server"
            )
        return specs

    # -- asking all of them ----------------------------------------------------------------------------------

    async def check(self) -> list[CheckedSourceDocument]:
        """Asks every source whether it is there: {url, type, ok, error}, the error in wire form or None."""
        specs = await trio.to_thread.run_sync(self._specs)
        errors: dict[int, ImgstoreError | None] = {}

        async def ask(place: int) -> None:
            errors[place] = await self._questions.error_of(specs[place])

        await _side_by_side(ask, len(specs))
        wires = [None if (error := errors[place]) is None else error.as_wire() for place in range(len(specs))]
        return [
            {"url": public(spec.url), "type": spec.type, "ok": wire is None, "error": wire}
            for spec, wire in zip(specs, wires, strict=True)
        ]

    async def available(
        self, sources: tuple[str, ...] | None = None, channel: str | None = None
    ) -> AvailableDocument:
        """What the sources have: {images: [{manifest, source}], problems: [{source, error, listed_at?}]}.

        Of an image that several have, the first source's manifest. A source that fails is a problem; with
        `listed_at`, its last good list stands in. `sources` and `channel` are as of `find`, and so is what is
        raised for them; otherwise raises `NoSourcesError`, `ConfigError`.
        """
        specs = await self._asked(sources, channel)
        configured = sources is None and channel is None
        lists: dict[int, Sequence[Listed]] = {}
        problems: dict[int, ProblemDocument] = {}

        async def ask(place: int) -> None:
            lists[place], problem = await self._questions.list(specs[place], keep=configured)
            if problem is not None:
                problems[place] = problem

        await _side_by_side(ask, len(specs))
        if configured:
            await self._questions.keep_only(specs)
        images: dict[str, Listed] = {}
        for place in range(len(specs)):
            for image in lists[place]:
                images.setdefault(image.manifest["uuid"], image)
        return {
            "images": [
                {"manifest": dict(image.manifest), "source": public(image.source)}
                for image in images.values()
            ],
            "problems": [problems[place] for place in sorted(problems)],
        }

    async def standings(self) -> list[SourceStateDocument]:
        """How the sources did of late, as in the protocol's *status*; none is asked. Raises `ConfigError`."""
        return [*await self._questions.standings(await trio.to_thread.run_sync(self._specs))]

    async def known(self) -> list[KnownDocument]:
        """The images of the last good lists, {uuid, name, version} each; no source is asked."""
        specs = await trio.to_thread.run_sync(self._specs)
        found: dict[str, KnownDocument] = {}
        for spec in specs:
            for image in await self._questions.last_list(spec):
                manifest = image.manifest
                brief: KnownDocument = {
                    "uuid": manifest["uuid"],
                    "name": manifest.get("name"),
                    "version": manifest.get("version"),
                }
                found.setdefault(manifest["uuid"], brief)
        return [*found.values()]

    async def find(
        self, uuid: str, *, active: bool, sources: tuple[str, ...] | None = None, channel: str | None = None
    ) -> Found:
        """Looks for an image in all sources at once; with `active`, only for one in that state.

        `sources` are URLs that replace the configured ones. Raises what `Search.found` does, and
        `NoSourcesError`, `ConfigError`, `InvalidUUIDError`, `ClientError` for what is no URL.
        """
        check_uuid(uuid)
        specs = await self._asked(sources, channel)
        search = Search(uuid, specs, active=active)
        await self._search(search, specs, uuid, _importable)
        return search.found()

    async def show(self, uuid: str) -> ManifestDocument:
        """The manifest of an image, as v2, in whatever state it is and with whatever faults.

        Raises `ImageNotFoundError` also for what is no uuid, as imgadm does; otherwise as `find`.
        """
        try:
            check_uuid(uuid)
        except InvalidUUIDError as error:
            raise ImageNotFoundError(f'image "{uuid}" was not found', hint=error.hint) from error
        specs = await self._some()
        search = Search(uuid, specs, active=False)
        await self._search(search, specs, uuid, _as_served)
        return dict(search.found().manifest.document)

    async def _search(
        self, search: Search, specs: Sequence[SourceSpec], uuid: str, read: Callable[[Offer], Hit]
    ) -> None:
        """Asks all of them, and waits for answers as long as the search wants to."""
        answers, answered = trio.open_memory_channel[tuple[int, Answer]](len(specs))

        async def ask(place: int) -> None:
            answers.send_nowait((place, await self._questions.offer(specs[place], uuid, read)))

        with answers, answered:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_side_by_side, ask, len(specs))
                while (left := search.left(trio.current_time())) != 0:
                    with trio.move_on_after(float("inf") if left is None else left):
                        search.answered(*await answered.receive(), trio.current_time())
                nursery.cancel_scope.cancel()
        for spec in search.silent():
            log.warning("a source was not waited for", source=spec.url, uuid=uuid)

    async def _asked(self, sources: tuple[str, ...] | None, channel: str | None) -> list[SourceSpec]:
        """The sources that a client's question goes to."""
        specs = await self._some() if sources is None else await self._chosen(sources)
        return specs if channel is None else [replace(spec, channel=channel) for spec in specs]

    async def _chosen(self, urls: tuple[str, ...]) -> list[SourceSpec]:
        """What a client names instead of the configured sources; one that is configured with its settings."""
        known = await trio.to_thread.run_sync(self._specs)
        chosen: list[SourceSpec] = []
        for url in map(normalised, urls):
            chosen += [spec for spec in known if spec.url == url] or [SourceSpec(url)]
        if not chosen:
            raise NoSourcesError(
                "no image source was named", hint="name one, or none to use the configured ones"
            )
        return each_once(chosen)


def as_wire(spec: SourceSpec) -> SourceDocument:
    """The protocol's *source*."""
    return {
        "url": spec.url,
        "type": spec.type,
        "insecure": spec.insecure,
        "channel": channel_of(spec),
    }


def _importable(offer: Offer) -> Hit:
    return Hit(load(offer.manifest, rules="import"), offer.location)


def _as_served(offer: Offer) -> Hit:
    return Hit(unchecked(offer.manifest), None)


async def _side_by_side(ask: Callable[[int], Awaitable[None]], count: int) -> None:
    """Asks for 0 … count - 1, some at a time. `ask` raises nothing."""
    limiter = trio.CapacityLimiter(_AT_A_TIME)

    async def one(place: int) -> None:
        async with limiter:
            await ask(place)

    async with trio.open_nursery() as nursery:
        for place in range(count):
            nursery.start_soon(one, place)
