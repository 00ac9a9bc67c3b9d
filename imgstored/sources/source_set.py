"""The set of sources: which there are, questions to all of them, and searches that callers share.

find_shared ──► find ──► one SourceClient for each source ──► Search, which decides
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import trio
from msgspec import Struct, field
from msgspec.structs import replace

from imgstored import lanes
from imgstored.errors import (
    ImageNotFoundError,
    ImgstoreError,
    InternalError,
    InvalidUUIDError,
    NoSourcesError,
    UsageError,
)
from imgstored.http.credentials import of_source
from imgstored.http.documents import all_within
from imgstored.http.location import public
from imgstored.http.secrets import KNOWN
from imgstored.import_id import bound
from imgstored.manifest import check_uuid, load, unchecked
from imgstored.registry.reference import CONTAINER
from imgstored.sources.base import Listed, SourceSpec
from imgstored.sources.client import LastLists, SourceClient, open_source
from imgstored.sources.container import ContainerImages, ContainerSource
from imgstored.sources.health import HealthLog, unheard
from imgstored.sources.imgadm_conf import ImgadmConf
from imgstored.sources.search import Answer, Found, Hit, Search
from imgstored.sources.spec import (
    as_wire,
    changes,
    check_type,
    checked,
    each_once,
    given_back,
    identity,
    meant,
    normalised,
    others,
    set_elsewhere,
    spec_of,
    type_for,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from imgproto.documents import (
        AddedDocument,
        AvailableDocument,
        CheckedSourceDocument,
        DeletedSourcesDocument,
        EditedSourcesDocument,
        KnownDocument,
        ManifestDocument,
        SourceDocument,
        SourceStateDocument,
    )

    from imgstored.manifest import Manifest
    from imgstored.registry.containers import LayerImage
    from imgstored.sources.base import Offer, Source

S = TypeVar("S")
T = TypeVar("T")

log = structlog.get_logger(__name__)

#: imgadm's own, where nobody has named another.
DEFAULT_SOURCE = SourceSpec("https://images.smartos.org")

#: Sources that one request asks at the same time.
_AT_A_TIME = 16

#: Seconds in which all of them have answered, or count as not answering, and that each has at least. Few
#: sources that are silent do not come near it; of a thousand, each has less time, so that all are asked soon.
_ALL_SECONDS = 120.0
_LEAST_SECONDS = 2.0

#: Clients that are kept, with their caches: of the sources in use, and of some that callers name.
_CLIENTS = 64


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SourceSet:
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
        changed: Callable[[str, ImgstoreError | None], None] = unheard,
        copied: Callable[[str], tuple[Manifest, str] | None] = lambda _: None,
    ) -> None:
        """`configured` is None where the configuration says nothing: imgadm's default may then count.

        `lists` is a folder for copies of the sources' lists; `changed` is as of `HealthLog`. `copied` gives
        the manifest of an image whose file is here, and the URL, for people, of the source that it came
        from. Raises `ClientError` for a URL that is none.
        """
        self._conf = ImgadmConf(imgadm_conf)
        self._writing = trio.Lock()
        self._open_source = open_source
        self._now = now
        self._copied = copied
        self._lists = LastLists(lists)
        self._health = HealthLog(changed=changed)
        self._clients: OrderedDict[SourceSpec, SourceClient] = OrderedDict()
        self._searches = SharedSearches()
        self.containers = ContainerImages()  #: where those are that were asked for by name
        self.reconfigure(configured)

    async def run(self) -> None:
        """Tells of sources what has to wait, until it is cancelled."""
        await self._health.run()

    def reconfigure(self, configured: Sequence[SourceSpec] | None) -> None:
        """Takes the configuration's sources as they are now. Raises `ClientError` for a URL that is none."""
        self._configured = (
            None if configured is None else [replace(spec, url=normalised(spec.url)) for spec in configured]
        )
        self._clients.clear()

    def configured(self) -> Sequence[SourceSpec]:
        """The configuration's sources as they are now, with headers and certificates."""
        return self._configured or ()

    # -- which there are -------------------------------------------------------------------------------------

    async def listed(self) -> list[SourceDocument]:
        """All sources, in order, as {url, type, insecure, channel}. Raises `ConfigError`."""
        return [as_wire(spec) for spec in await self._known()]

    async def add(self, url: str, kind: str | None, insecure: bool, force: bool) -> AddedDocument:
        """Adds a source (imgapi by default). It must answer first, unless forced.

        Returns {added, source}. Raises `ClientError` for what is no URL, `ConfigError`, `SourcePingError`.
        """
        spec = checked(SourceSpec(normalised(url), check_type(kind or type_for(url), url), insecure))
        added = False
        if identity(spec) not in map(identity, await self._known()):
            if not force:
                await self._new_client(spec).must_answer()
            async with self._writing:
                added = await lanes.in_thread(partial(self._conf.add, spec, default=self._default()))
        return {"added": added, "source": as_wire(spec)}

    async def delete(self, url: str) -> DeletedSourcesDocument:
        """Removes the sources with this URL. Returns {deleted}.

        The URL may be as those are told it who may not know all of it. Raises `ClientError` for what is no
        URL, `ConfigError` also for a source that is not a client's, `UsageError` where it may be several.
        """
        url = meant(normalised(url), await self._known())
        if any(spec.url == url for spec in self._configured or ()):
            raise set_elsewhere(url)
        async with self._writing:
            deleted = await lanes.in_thread(partial(self._conf.delete, url, default=self._default()))
        for spec in deleted:
            self._clients.pop(spec, None)
        return {"deleted": [as_wire(spec) for spec in deleted]}

    async def replace(
        self,
        given: Sequence[Mapping[str, Any]],
        *,
        before: Sequence[Mapping[str, Any]],
        force: bool,
        told: Callable[[str], str] = str,
    ) -> EditedSourcesDocument:
        """Replaces the sources by those given. Each new one must answer first, unless forced.

        `before` is what was listed when somebody began to edit it. `told` is how a URL was listed: one that
        comes back so stays as it is. Returns {reordered, added, deleted}.
        Raises `UsageError` where that has changed since, `ConfigError` also where one of the configuration is
        left out, and as `add` does.
        """
        known = await self._known()
        wanted = each_once(given_back([spec_of(each) for each in given], known, told))
        theirs = others(wanted, self._configured or ())
        if not force:
            for spec in changes(known, wanted).added:
                await self._new_client(spec).must_answer()
        async with self._writing:
            now = await self._known()
            if [{**as_wire(spec), "url": told(spec.url)} for spec in now] != [*before]:
                raise UsageError("the image sources have changed meanwhile", hint="edit them again")
            await lanes.in_thread(partial(self._conf.replace, theirs, default=self._default()))
        done = changes(now, wanted)
        for spec in done.deleted:
            self._clients.pop(spec, None)
        return {
            "reordered": done.reordered,
            "added": [*map(as_wire, done.added)],
            "deleted": [*map(as_wire, done.deleted)],
        }

    async def _known(self) -> list[SourceSpec]:
        """All sources, each once. Raises `ConfigError`."""
        return await lanes.in_thread(self._specs)

    def _specs(self) -> list[SourceSpec]:
        """As `_known`. Blocks: it reads imgadm's file, which imgadm may have changed meanwhile."""
        theirs = self._conf.sources()
        KNOWN.configure(
            (secret for spec in theirs or () for secret in of_source(spec.url)), of=str(self._conf.path)
        )
        if theirs is None:
            theirs = [] if self._configured is not None else [DEFAULT_SOURCE]
        return each_once([*(self._configured or ()), *theirs])

    def _default(self) -> SourceSpec | None:
        return DEFAULT_SOURCE if self._configured is None else None

    async def _some(self) -> list[SourceSpec]:
        specs = await self._known()
        if not specs:
            raise NoSourcesError(
                "imgadm has no configured sources", hint="`imgctl sources -a URL` adds an image server"
            )
        return specs

    # -- their clients ---------------------------------------------------------------------------------------

    def _client(self, spec: SourceSpec) -> SourceClient:
        """The client of a source; the one that was kept, if there is one."""
        client = self._clients.get(spec)
        if client is None:
            client = self._clients[spec] = self._new_client(spec)
            if len(self._clients) > _CLIENTS:
                self._clients.popitem(last=False)
        self._clients.move_to_end(spec)
        return client

    def _new_client(self, spec: SourceSpec) -> SourceClient:
        return SourceClient(
            spec, self._open_source(spec), health=self._health, lists=self._lists, now=self._now
        )

    # -- questions to all of them ----------------------------------------------------------------------------

    async def check(self) -> list[CheckedSourceDocument]:
        """Asks every source whether it is there: {url, type, ok, error, incomplete}.

        The error in wire form or None; why the source's last list may lack images, or None.
        """
        clients = [self._client(spec) for spec in await self._known()]
        errors = await _fan_out(clients, lambda client: client.ping())
        return [
            {
                "url": public(client.spec.url),
                "type": client.spec.type,
                "ok": error is None,
                "error": None if error is None else error.as_wire(),
                "incomplete": await client.incomplete() or None,
            }
            for client, error in zip(clients, errors, strict=True)
        ]

    async def available(
        self, sources: tuple[str, ...] | None = None, channel: str | None = None
    ) -> AvailableDocument:
        """The images of all sources.

        {images: [{manifest, source}], problems: [{source, error, listed_at?}],
        incomplete: [{source, message}]}. Of an image that several have, the first source's manifest. A source
        that fails is a problem; with `listed_at`, its last good list stands in. `incomplete` are the lists
        that may lack images. `sources` and `channel` are as of `find`, and so is what is
        raised for them; otherwise raises `NoSourcesError`, `ConfigError`.
        """
        specs = await self._asked(sources, channel)
        configured = sources is None and channel is None
        answers = await _fan_out(specs, lambda spec: self._client(spec).list(save=configured))
        if configured:
            await self._lists.change(self._lists.drop_others, specs)
        images: dict[str, Listed] = {}
        for answer in answers:
            for image in answer.images:
                images.setdefault(image.manifest["uuid"], image)
        return {
            "images": [
                {"manifest": dict(image.manifest), "source": public(image.source)}
                for image in images.values()
            ],
            "problems": [answer.problem for answer in answers if answer.problem is not None],
            "incomplete": [
                {"source": public(spec.url), "message": answer.incomplete}
                for spec, answer in zip(specs, answers, strict=True)
                if answer.incomplete
            ],
        }

    async def health(self) -> list[SourceStateDocument]:
        """The health of the sources, as in the protocol's *status*; none is asked. Raises `ConfigError`."""
        specs = await self._known()

        def saved() -> list[float | None]:
            return [self._lists.saved_at(spec) for spec in specs]

        return [
            self._health.of(spec).as_wire(spec, listed_at=listed_at)
            for spec, listed_at in zip(specs, await lanes.in_thread(saved), strict=True)
        ]

    async def known(self) -> list[KnownDocument]:
        """The images of the last good lists, {uuid, name, version} each; no source is asked."""
        specs = await self._known()
        found: dict[str, KnownDocument] = {}
        for spec in specs:
            for image in await self._client(spec).last_list():
                manifest = image.manifest
                brief: KnownDocument = {
                    "uuid": manifest["uuid"],
                    "name": manifest.get("name"),
                    "version": manifest.get("version"),
                }
                found.setdefault(manifest["uuid"], brief)
        return [*found.values()]

    # -- container images ------------------------------------------------------------------------------------

    async def container(self, name: str) -> LayerImage:
        """The image of a container image's uppermost layer, by a reference as people write it.

        From now on an import of it takes it from there, the same image even if the tag moves on. Raises
        `ClientError` for what is no reference, `ImageNotFoundError`, `APIError`, `NotSupportedError`.
        """
        url = normalised(f"{CONTAINER}{name.removeprefix(CONTAINER)}")
        source = self._open_source(SourceSpec(url, "docker"))
        assert isinstance(source, ContainerSource)
        image, pinned = await source.top()
        self.containers.remember(image.uuid, pinned)
        return image

    # -- searches --------------------------------------------------------------------------------------------

    async def find_shared(
        self,
        uuid: str,
        *,
        active: bool,
        sources: tuple[str, ...] | None = None,
        channel: str | None = None,
        import_id: str,
        nursery: trio.Nursery,
        copies: bool = False,
    ) -> Found:
        """As `find`. Concurrent callers with the same question share one search, including its error.

        The search runs in `nursery`, which outlives the first caller: others may be waiting, too. The log
        lines of the search have the first caller's `import_id`, and all callers get that with the image.
        """

        async def search() -> Found:
            with bound(import_id):
                log.debug("looking for an image", uuid=uuid)
                found = await self.find(uuid, active=active, sources=sources, channel=channel, copies=copies)
            return replace(found, import_id=import_id)

        return await self._searches.find((uuid, active, sources, channel, copies), search, nursery)

    async def find(
        self,
        uuid: str,
        *,
        active: bool,
        sources: tuple[str, ...] | None = None,
        channel: str | None = None,
        copies: bool = False,
    ) -> Found:
        """Looks for an image in all sources at once; with `active`, only for one in that state.

        `sources` are URLs that replace the configured ones. With `copies` none of these is asked for what was
        copied from one of them, unless that has keys, or a channel is meant. Raises what `Search.found` does,
        and `NoSourcesError`, `ConfigError`, `InvalidUUIDError`, `ClientError` for what is no URL.
        """
        check_uuid(uuid)
        specs = await self._asked(sources, channel)
        if copies and sources is None and channel is None:
            copy = self._copy(uuid, specs)
            if copy is not None and (not active or copy.manifest.state == "active"):
                return copy
        search = Search(uuid, specs, active=active)
        await self._search(search, specs, uuid, _importable)
        return search.found()

    def _copy(self, uuid: str, specs: Sequence[SourceSpec]) -> Found | None:
        """The manifest that was copied from a source and still counts, without a place of its file."""
        copied = self._copied(uuid)
        if copied is None:
            return None
        manifest, url = copied
        spec = next((spec for spec in specs if public(spec.url) == url), None)
        return None if spec is None or spec.keys else Found(manifest, spec, ())

    async def lacking(
        self, url: str, uuids: Collection[str], *, also: Collection[str] = ()
    ) -> dict[str, str] | None:
        """The images that a source no longer offers: their states there, or "absent".

        `url` is without what is secret. None: nobody knows, because no source has that URL, or it fails, or
        it lists nothing at all; `also` are URLs that are asked though they are of no source. Raises as
        `listed`.
        """
        specs = [spec for spec in await self._known() if public(spec.url) == url]
        if not specs and url in also:
            specs = await self._chosen((url,))
        if len(specs) != 1:
            return None
        listing = await self._client(specs[0]).list(save=False)
        if listing.problem is not None or not listing.images:
            return None
        offered = {
            image.manifest["uuid"]
            for image in listing.images
            if image.manifest.get("state", "active") == "active" and not image.manifest.get("disabled")
        }
        found: dict[str, str] = {}
        for uuid in sorted(set(uuids) - offered):
            # A list may lack images; the answer about one of them counts.
            answer = await self._client(specs[0]).offer(uuid, _importable)
            if answer is None:
                found[uuid] = "absent"
            elif isinstance(answer, Hit) and answer.manifest.state != "active":
                found[uuid] = answer.manifest.state
        return found

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

        async def ask(question: tuple[int, SourceSpec]) -> None:
            place, spec = question
            answers.send_nowait((place, await self._client(spec).offer(uuid, read)))

        with answers, answered:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fan_out, list(enumerate(specs)), ask)
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
        """The sources that a client names. Those that are configured keep their settings."""
        known = await self._known()
        chosen: list[SourceSpec] = []
        for url, kind in ((normalised(url), type_for(url)) for url in urls):
            chosen += [spec for spec in known if spec.url == url] or [SourceSpec(url, kind)]
        if not chosen:
            raise NoSourcesError(
                "no image source was named", hint="name one, or none to use the configured ones"
            )
        return each_once(chosen)


def _importable(offer: Offer) -> Hit:
    return Hit(load(offer.manifest, rules="import"), offer.location, offer.signed, offer.others)


def _as_served(offer: Offer) -> Hit:
    return Hit(unchecked(offer.manifest), None)


async def _fan_out(items: Sequence[S], ask: Callable[[S], Awaitable[T]]) -> list[T]:
    """The result of `ask` for each item, some at a time, each within its share of the time for all.

    `ask` raises nothing, and fetches documents.
    """
    seconds = max(_LEAST_SECONDS, _ALL_SECONDS * _AT_A_TIME / max(1, len(items)))
    limiter = trio.CapacityLimiter(_AT_A_TIME)
    answers: dict[int, T] = {}

    async def one(place: int, item: S) -> None:
        async with limiter:
            with all_within(seconds):
                answers[place] = await ask(item)

    async with trio.open_nursery() as nursery:
        for place, item in enumerate(items):
            nursery.start_soon(one, place, item)
    return [answers[place] for place in range(len(items))]


# -- one search for all who want the same --------------------------------------------------------------------

#: What is searched for: (uuid, must be active, sources that replace the configured ones, channel).
Query = tuple[str, bool, tuple[str, ...] | None, str | None, bool]


class _Flight(Struct, eq=False):
    """A search under way."""

    ended: trio.Event = field(default_factory=trio.Event)
    found: Found | None = None
    error: ImgstoreError | None = None


class SharedSearches:
    """Searches under way, by their query. Nothing is remembered once a search has ended."""

    def __init__(self) -> None:
        self._flights: dict[Query, _Flight] = {}

    async def find(
        self, query: Query, search: Callable[[], Awaitable[Found]], nursery: trio.Nursery
    ) -> Found:
        """Waits for the search for `query`; runs `search` in `nursery` where none is under way.

        Raises the search's `ImgstoreError`, or `InternalError` for a mistake in it.
        """
        flight = self._flights.get(query)
        if flight is None:
            flight = self._flights[query] = _Flight()
            nursery.start_soon(self._run, query, flight, search)
        await flight.ended.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.found is not None
        return flight.found

    async def _run(self, query: Query, flight: _Flight, search: Callable[[], Awaitable[Found]]) -> None:
        try:
            flight.found = await search()
        except ImgstoreError as error:
            flight.error = error
        except Exception as error:
            log.exception("looking for an image failed", uuid=query[0])
            flight.error = InternalError.unexpected("the search for an image", error)
        finally:
            del self._flights[query]
        # Not reached when the daemon is stopping: then the waiting callers are cancelled, too.
        flight.ended.set()
