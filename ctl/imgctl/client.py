"""A synchronous client of imgstored: one connection, one request at a time.

with Client() as client:
    client.ensure("base@latest", on_event=print)
    for image in client.list():
        print(image["manifest"]["name"])
"""

from __future__ import annotations

import os

from imgproto import PROTOCOL_VERSION

from imgctl.connection import Connection
from imgctl.errors import InvalidArgumentError
from imgctl.text import is_uuid

#: A pipe would wait for its other end; the daemon says what it does not take.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, TypeAlias

    from imgproto.documents import (
        AddedDocument,
        AliasChange,
        AliasDocument,
        AvailableDocument,
        CheckedSourceDocument,
        DeletedSourcesDocument,
        DoctorDocument,
        EditedSourcesDocument,
        EntryDocument,
        HelloDocument,
        ImageDocument,
        JobDocument,
        KnownDocument,
        MadeDocument,
        ManifestDocument,
        MirrorDocument,
        NamedDocument,
        OutdatedDocument,
        PlanDocument,
        PublishedDocument,
        Result,
        SiteDocument,
        SourceDocument,
        StatusDocument,
        UsageDocument,
        VacuumDocument,
    )
    from imgproto.events import EventDocument, NumberedEvent
    from imgproto.params import (
        AddSourceParams,
        AliasParams,
        Among,
        CreateParams,
        EnsureParams,
        EventsParams,
        ExportParams,
        ExportSiteParams,
        GetParams,
        HelloParams,
        HistoryParams,
        HoldParams,
        ImageParams,
        ImportParams,
        InstalledParams,
        InstallParams,
        ListParams,
        MirrorParams,
        NoParams,
        OutdatedParams,
        PlanParams,
        PublishParams,
        ReleaseParams,
        ResolveParams,
        SetSourcesParams,
        UnaliasParams,
        UpdateParams,
        UrlParams,
        UsageParams,
        VacuumParams,
        VerifyParams,
        WatchParams,
    )

    from imgctl.connection import OnEvent

    #: One image, or several: uuids, or names as `Client.uuids` takes them.
    Images: TypeAlias = str | Iterable[str]
    #: The class has a method of this name.
    Listed: TypeAlias = list


class Client(Connection):
    """A connection to imgstored, with one method for each operation of the protocol.

    Images: `image` is a uuid, at least four digits of its beginning, NAME, NAME@VERSION or NAME@latest. A
    full uuid costs nothing; for a name the daemon is asked first. A name that means several images raises
    `AmbiguousNameError`. With `names=False`, texts go to the daemon as they are.

    Errors: all methods raise `RemoteError` when the daemon refuses or fails, in the class of its code
    (`imgctl.errors`), and its kind `NotConnectedError` when there is no daemon or it breaks off.

    Threads: a client serves one thread at a time, and one request at a time; it has no lock. Give each thread
    a client of its own. `on_event` runs in the thread that asks, and must not use the same client. `watch`
    and `holding` have connections of their own, so that the client can be used beside them.

    Time limits: `timeout` is how many seconds the daemon may be silent within a request; then
    `NotConnectedError` is raised. None, the default, waits as long as it takes. Progress counts as a sign of
    life. To connect, and to say hello, takes 30 seconds at most, whatever the limit.

    Restarts: with `reconnect`, `import_image`, `ensure`, `watch` and `events` go on when the daemon was
    restarted within so many seconds, and their events have notes that say so. They give up when it was lost
    five times in a minute. None, the default, raises `NotConnectedError` at once.

    Closing: `close`, or the end of the `with` block, ends the connection, and with it the interest in imports
    that nobody else wants. The next call connects again; so does one after the daemon was restarted. Leaving
    a request early (an exception out of `on_event`, Ctrl-C) closes the connection, too. A client that is not
    closed keeps a socket until it is collected. After `fork`, use a new client.

    `name` is shown in the list of imports.
    """

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        name: str | None = None,
        timeout: float | None = None,
        names: bool = True,
        reconnect: float | None = None,
    ) -> None:
        super().__init__(socket_path, name=name, timeout=timeout, reconnect=reconnect)
        self._names = names

    # -- images ----------------------------------------------------------------------------------------------

    def list(self, *, holds: bool = False) -> Listed[ImageDocument]:
        """All installed images, by `published_at`, then name; with the tags that hold them if asked."""
        params: ListParams = {"holds": holds or None}
        images: Listed[ImageDocument] = self.request("list", params)
        return images

    def get(self, image: str, pool: str | None = None, recursive: bool = False) -> ImageDocument:
        """One installed image; with its `children` when recursive."""
        params: GetParams = {
            "uuid": self._installed(image, pool),
            "pool": pool,
            "recursive": recursive or None,
        }
        found: ImageDocument = self.request("get", params)
        return found

    def ancestry(self, image: str, pool: str | None = None) -> Listed[ImageDocument]:
        """An installed image, what it was cloned from, and so on."""
        params: InstalledParams = {"uuid": self._installed(image, pool), "pool": pool}
        images: Listed[ImageDocument] = self.request("ancestry", params)
        return images

    def available(self) -> AvailableDocument:
        """The images of the sources, and the sources that did not answer."""
        params: NoParams = {}
        found: AvailableDocument = self.request("avail", params)
        return found

    def show(self, image: str) -> ManifestDocument:
        """The manifest of an image in the sources."""
        params: ImageParams = {"uuid": self._uuid(image, "available")}
        manifest: ManifestDocument = self.request("show", params)
        return manifest

    def delete(self, image: str, pool: str | None = None) -> None:
        """Removes an installed image that nothing depends on."""
        params: InstalledParams = {"uuid": self._installed(image, pool), "pool": pool}
        self.request("delete", params)

    def resolve(
        self,
        names: Images,
        *,
        among: Among,
        pool: str | None = None,
        sources: Iterable[str] | None = None,
        channel: str | None = None,
    ) -> Listed[NamedDocument]:
        """The images that have these names, one a name.

        `among` is "installed" (in `pool`), "available" in the sources, "active" (available, and can be
        imported), "jobs" or "history".
        """
        params: ResolveParams = {
            "names": _several(names),
            "among": among,
            "pool": pool,
            "sources": None if sources is None else _several(sources),
            "channel": channel,
        }
        found: Listed[NamedDocument] = self.request("resolve", params)
        return found

    def uuids(
        self,
        images: Images,
        *,
        among: Among,
        pool: str | None = None,
        sources: Iterable[str] | None = None,
        channel: str | None = None,
    ) -> Listed[str]:
        """The uuids of images by their names, as of `resolve`; the daemon is asked only for names."""
        texts = _several(images)
        names = [text for text in dict.fromkeys(texts) if not is_uuid(text)]
        if not names or not self._names:
            return texts
        found = self.resolve(names, among=among, pool=pool, sources=sources, channel=channel)
        uuids = {name: each["uuid"] for name, each in zip(names, found, strict=True)}
        return [uuids.get(text, text) for text in texts]

    def outdated(self, pool: str | None = None) -> OutdatedDocument:
        """The installed images of which the sources have newer versions. Asks every source."""
        params: OutdatedParams = {"pool": pool}
        found: OutdatedDocument = self.request("outdated", params)
        return found

    def aliases(self) -> Listed[AliasDocument]:
        """The names that the administrator gave images."""
        params: NoParams = {}
        listed: Listed[AliasDocument] = self.request("aliases", params)
        return listed

    def set_alias(self, alias: str, uuid: str) -> AliasChange:
        """Makes an alias mean the image of this uuid. It is a name of it from then on, before all others."""
        params: AliasParams = {"alias": alias, "uuid": uuid}
        change: AliasChange = self.request("alias", params)
        return change

    def delete_alias(self, alias: str) -> AliasDocument:
        """Removes an alias; returns what it meant."""
        params: UnaliasParams = {"alias": alias}
        removed: AliasDocument = self.request("unalias", params)
        return removed

    def usage(self, pool: str | None = None, images: Images = ()) -> Listed[UsageDocument]:
        """The space and the relations of images (all, if none are named), for each pool."""
        params: UsageParams = {
            "pool": pool,
            "uuids": self.uuids(images, among="installed", pool=pool) or None,
        }
        listed: Listed[UsageDocument] = self.request("usage", params)
        return listed

    def history(self, image: str | None = None, limit: int | None = None) -> Listed[EntryDocument]:
        """Past actions: the newest `limit` entries (100 if None), oldest first."""
        params: HistoryParams = {
            "uuid": None if image is None else self._uuid(image, "history"),
            "limit": limit,
        }
        entries: Listed[EntryDocument] = self.request("history", params)
        return entries

    # -- the daemon ------------------------------------------------------------------------------------------

    def hello(self) -> HelloDocument:
        """The daemon's version, its pools (the first one is the default), and its features."""
        params: HelloParams = {"client": self._name, "protocol": PROTOCOL_VERSION}
        found: HelloDocument = self.request("hello", params)
        return found

    def pools(self) -> Listed[str]:
        """The names of the daemon's pools; the first one is the default."""
        return self.hello()["pools"]

    def status(self) -> StatusDocument:
        """The state of the daemon, its pools, sources and imports."""
        params: NoParams = {}
        found: StatusDocument = self.request("status", params)
        return found

    def doctor(self) -> DoctorDocument:
        """Problems that keep the host from having its images. Asks every source."""
        params: NoParams = {}
        found: DoctorDocument = self.request("doctor", params)
        return found

    def events(
        self, since: int | None = None, *, follow: bool = True, on_note: Callable[[str], None] | None = None
    ) -> Iterator[NumberedEvent]:
        """The events of the store, without end, or with `follow` False the past ones.

        `since` is the number of the last event that is known, 0 for all that are kept; without it the events
        come from now on. Raises `EventsGoneError` where those after `since` are not kept any more. `on_note`
        gets sentences about a daemon that went away. Has a connection of its own, which closes when the
        iterator does.
        """
        params: EventsParams = {"since": since, "follow": False}
        with self._another() as own:
            if since is None:
                # So that nothing is missed, should the daemon go away before the first event.
                params["since"] = own.request("events", params)["newest"]
            params["follow"] = follow
            for event in own.lasting("events", lambda: params):
                if event["event"] == "note":
                    if on_note is not None:
                        on_note(event["text"])
                    continue
                numbered: NumberedEvent = event  # type: ignore[assignment]  # of this method
                params["since"] = numbered["number"]
                yield numbered

    # -- sources ---------------------------------------------------------------------------------------------

    def sources(self) -> Listed[SourceDocument]:
        """The sources in their order."""
        params: NoParams = {}
        listed: Listed[SourceDocument] = self.request("sources.list", params)
        return listed

    def add_source(
        self, url: str, kind: str | None = None, *, insecure: bool = False, force: bool = False
    ) -> AddedDocument:
        """Appends a source, unless it is there. `force` does so although it does not answer."""
        params: AddSourceParams = {
            "url": url,
            "type": kind,
            "insecure": insecure or None,
            "force": force or None,
        }
        outcome: AddedDocument = self.request("sources.add", params)
        return outcome

    def delete_source(self, url: str) -> Listed[SourceDocument]:
        """Removes all sources of that URL; returns them."""
        params: UrlParams = {"url": url}
        outcome: DeletedSourcesDocument = self.request("sources.delete", params)
        return outcome["deleted"]

    def known_images(self) -> Listed[KnownDocument]:
        """The images that the sources had when they were last listed; no source is asked."""
        params: NoParams = {}
        known: Listed[KnownDocument] = self.request("sources.known", params)
        return known

    def set_sources(
        self,
        sources: Sequence[Mapping[str, Any]],
        *,
        before: Sequence[Mapping[str, Any]],
        force: bool = False,
    ) -> EditedSourcesDocument:
        """Makes these the sources, if they were `before` until now."""
        params: SetSourcesParams = {
            "sources": [dict(source) for source in sources],
            "before": [dict(source) for source in before],
            "force": force or None,
        }
        changed: EditedSourcesDocument = self.request("sources.set", params)
        return changed

    def check_sources(self) -> Listed[CheckedSourceDocument]:
        """Asks every source whether it is there."""
        params: NoParams = {}
        checked: Listed[CheckedSourceDocument] = self.request("sources.check", params)
        return checked

    # -- imports ---------------------------------------------------------------------------------------------

    def import_image(
        self,
        image: str,
        *,
        pool: str | None = None,
        sources: Iterable[str] | None = None,
        channel: str | None = None,
        zstream: bool = False,
        detach: bool = False,
        on_event: OnEvent | None = None,
    ) -> None:
        """Returns when the image and its ancestry are installed. `sources` replace the configured ones.

        With `zstream`, what the sources send is taken as it is: no size and no checksum is compared. With
        `detach` it returns once the import has begun, which goes on without the client.
        """
        given = None if sources is None else _several(sources)
        params: ImportParams = {
            "uuid": self._uuid(image, "active", sources=given, channel=channel),
            "pool": pool,
            "sources": given,
            "channel": channel,
            "zstream": zstream or None,
            "detach": detach or None,
        }
        self._repeatable("import", params, on_event)

    def plan(
        self,
        image: str,
        *,
        pool: str | None = None,
        sources: Iterable[str] | None = None,
        channel: str | None = None,
    ) -> PlanDocument:
        """The plan of `import_image`, which is not carried out."""
        given = None if sources is None else _several(sources)
        params: PlanParams = {
            "uuid": self._uuid(image, "active", sources=given, channel=channel),
            "pool": pool,
            "sources": given,
            "channel": channel,
        }
        plan: PlanDocument = self.request("plan", params)
        return plan

    def ensure(
        self,
        images: Images,
        *,
        pool: str | None = None,
        detach: bool = False,
        on_event: OnEvent | None = None,
    ) -> None:
        """Returns when the image, or all of several, are installed; at once when they are.

        With `detach` it returns once their imports have begun.
        """
        params: EnsureParams = {
            "uuids": self.uuids(images, among="active"),
            "pool": pool,
            "detach": detach or None,
        }
        self._repeatable("ensure", params, on_event)

    def install(
        self,
        manifest: Mapping[str, Any],
        file_path: str | os.PathLike[str],
        *,
        pool: str | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """Installs an image from its manifest and its file. Raises `OSError` if that cannot be opened."""
        descriptor = os.open(file_path, _READ)
        try:
            params: InstallParams = {
                "manifest": dict(manifest),
                "pool": pool,
                "path": os.fsdecode(file_path),
            }
            self.request("install", params, on_event=on_event, file=descriptor)
        finally:
            os.close(descriptor)

    def jobs(self) -> Listed[JobDocument]:
        """The imports under way."""
        params: NoParams = {}
        listed: Listed[JobDocument] = self.request("jobs", params)
        return listed

    def watch(self, image: str | None = None) -> Iterator[EventDocument]:
        """The events of all imports, without end; or those of one until it has ended.

        Has a connection of its own, which closes when the iterator does.
        """
        with self._another() as own:
            params: WatchParams = {"uuid": None if image is None else own._uuid(image, "jobs")}  # noqa: SLF001
            yield from own.lasting("watch", lambda: params)

    def cancel(self, image: str) -> None:
        """Ends an import for all who want it; what is downloaded serves the next one."""
        params: ImageParams = {"uuid": self._uuid(image, "jobs")}
        self.request("cancel", params)

    # -- maintenance -----------------------------------------------------------------------------------------

    def update(self, images: Images = (), *, dry_run: bool = False, on_event: OnEvent | None = None) -> None:
        """Brings the manifests of these images, or of all, up to date with the sources."""
        params: UpdateParams = {
            "uuids": self.uuids(images, among="installed") or None,
            "dry_run": dry_run or None,
        }
        self.request("update", params, on_event=on_event)

    def vacuum_candidates(
        self, *, older_than: int | None = None, keep: int = 0, on_event: OnEvent | None = None
    ) -> Listed[VacuumDocument]:
        """The images that a vacuum would delete: nothing needs them. Deletes none.

        Their order is one in which each can be deleted. Images that were installed in the last `older_than`
        seconds, and the `keep` newest of each name, are left out; events name those that are left out for
        another reason.
        """
        params: VacuumParams = {"older_than": older_than, "keep": keep or None}
        images: Listed[VacuumDocument] = self.request("vacuum", params, on_event=on_event)
        return images

    def verify(
        self,
        images: Images | None = None,
        *,
        pool: str | None = None,
        record: bool = False,
        on_event: OnEvent | None = None,
    ) -> dict[Result, int]:
        """Reads images (None: all) again, and compares them with what was installed. Counts them by result.

        With `record`, writes down what they are now instead, for later comparisons.
        """
        params: VerifyParams = {
            "uuids": None if images is None else self.uuids(images, among="installed", pool=pool),
            "pool": pool,
            "record": record or None,
        }
        results: dict[Result, int] = self.request("verify", params, on_event=on_event)
        return results

    # -- making ----------------------------------------------------------------------------------------------

    def create(
        self,
        source: str,
        file: int,
        manifest: Mapping[str, Any],
        *,
        fields: Sequence[str] = (),
        compression: str | None = None,
        index: bool = False,
        incremental: bool = False,
        max_origin_depth: int | None = None,
        script: str | None = None,
        path: str | None = None,
        on_event: OnEvent | None = None,
    ) -> ManifestDocument:
        """Makes an image of a stopped machine (its uuid) or a dataset (POOL/NAME); returns its manifest.

        `file` is the descriptor of an empty file to write it to, which stays yours. `fields` are
        `field=value`, as on the command line; they replace the manifest's. With `index`, the file's index is
        behind it, as long as the manifest says.
        """
        params: CreateParams = {
            "source": source,
            "manifest": dict(manifest),
            "fields": [*fields],
            "compression": compression,
            "index": index or None,
            "incremental": incremental or None,
            "max_origin_depth": max_origin_depth,
            "script": script,
            "path": path,
        }
        made: MadeDocument = self.request("create", params, on_event=on_event, file=file)
        return made["manifest"]

    def export(
        self,
        image: str,
        file: int,
        *,
        pool: str | None = None,
        compression: str | None = None,
        index: bool = False,
        form: str | None = None,
        path: str | None = None,
        on_event: OnEvent | None = None,
    ) -> ManifestDocument:
        """Writes an installed image to an empty file; returns the manifest that goes with it.

        `form` is "stream", or "raw" for the disk of a volume. `index` as of `create`.
        """
        params: ExportParams = {
            "uuid": self._installed(image, pool),
            "pool": pool,
            "compression": compression,
            "index": index or None,
            "format": form,
            "path": path,
        }
        made: MadeDocument = self.request("export", params, on_event=on_event, file=file)
        return made["manifest"]

    def publish(
        self,
        manifest: Mapping[str, Any],
        file_path: str | os.PathLike[str],
        url: str,
        *,
        token: str | None = None,
        keys: Sequence[str] = (),
        on_event: OnEvent | None = None,
    ) -> PublishedDocument:
        """Gives an image to an IMGAPI server, with a token if it wants one, or to a registry.

        `keys` are texts of minisign's secret keys without a password, which sign an image in a registry.
        Raises `OSError` if there is no such file.
        """
        descriptor = os.open(file_path, _READ)
        try:
            params: PublishParams = {
                "manifest": dict(manifest),
                "url": url,
                "path": os.fsdecode(file_path),
            }
            if token is not None:
                params["token"] = token
            if keys:
                params["keys"] = [*keys]
            published: PublishedDocument = self.request("publish", params, on_event=on_event, file=descriptor)
            return published
        finally:
            os.close(descriptor)

    # -- sites -----------------------------------------------------------------------------------------------

    def export_site(
        self,
        folder: int,
        names: Iterable[str] = (),
        *,
        url: str | None = None,
        keys: Sequence[str] = (),
        days: int | None = None,
        delete: bool = False,
        path: str | None = None,
        on_event: OnEvent | None = None,
    ) -> SiteDocument:
        """Brings a static site up to date in the folder that is open as `folder`, which stays yours.

        `names` are uuids, NAME, NAME@VERSION or NAME@latest of images of the library; none means all. `keys`
        are texts of minisign's secret keys without a password, whose signature holds for `days`.
        """
        params: ExportSiteParams = {
            "names": [*names] or None,
            "url": url,
            "keys": [*keys] or None,
            "days": days,
            "delete": delete or None,
            "path": path,
        }
        done: SiteDocument = self.request("site.export", params, on_event=on_event, file=folder)
        return done

    def mirror(
        self,
        url: str,
        *,
        name: str | None = None,
        os: str | None = None,
        newest: int | None = None,
        to: str | None = None,
        dry_run: bool = False,
        on_event: OnEvent | None = None,
    ) -> MirrorDocument:
        """Keeps images of another server in the library: of a name, of an `os`, the newest of each name.

        `to` is a registry that gets them, too.
        """
        params: MirrorParams = {
            "url": url,
            "name": name,
            "os": os,
            "newest": newest,
            "to": to,
            "dry_run": dry_run or None,
        }
        done: MirrorDocument = self.request("mirror", params, on_event=on_event)
        return done

    # -- holds -----------------------------------------------------------------------------------------------

    def hold(self, image: str, tag: str, pool: str | None = None) -> None:
        """Keeps an image from being deleted, by anybody, until the tag is released."""
        params: HoldParams = {"uuid": self._installed(image, pool), "tag": tag, "pool": pool}
        self.request("hold", params)

    def release(self, image: str, tag: str, pool: str | None = None) -> None:
        """Ends a hold."""
        params: ReleaseParams = {"uuid": self._installed(image, pool), "tag": tag, "pool": pool}
        self.request("release", params)

    def holds(self, image: str, pool: str | None = None) -> Listed[str]:
        """The tags that hold an image."""
        params: InstalledParams = {"uuid": self._installed(image, pool), "pool": pool}
        tags: Listed[str] = self.request("holds", params)
        return tags

    def holding(self, image: str, pool: str | None = None) -> AbstractContextManager[None]:
        """Keeps an image from being deleted as long as the block lasts, and this program lives.

        Has a connection of its own: whatever ends that ends the hold.
        """
        from contextlib import contextmanager

        return contextmanager(self._held)(image, pool)

    def _held(self, image: str, pool: str | None) -> Iterator[None]:
        with self._another() as own:
            params: HoldParams = {"uuid": own._installed(image, pool), "pool": pool}  # noqa: SLF001
            asked = own.exchange("hold", params, None)
            next(asked)
            try:
                yield
            finally:
                asked.close()

    # -- names -----------------------------------------------------------------------------------------------

    def _uuid(
        self,
        image: str,
        among: Among,
        *,
        pool: str | None = None,
        sources: Iterable[str] | None = None,
        channel: str | None = None,
    ) -> str:
        return self.uuids([image], among=among, pool=pool, sources=sources, channel=channel)[0]

    def _installed(self, image: str, pool: str | None) -> str:
        return self._uuid(image, "installed", pool=pool)

    def _another(self) -> Client:
        return Client(self.socket_path, name=self._name, names=self._names, reconnect=self._reconnect)


def _several(texts: Images) -> list[str]:
    """One text alone is one image or source, and not its letters. Raises `InvalidArgumentError`."""
    try:
        several = [texts] if isinstance(texts, str) else [*texts]
    except TypeError as error:
        raise InvalidArgumentError("InvalidArgument", f"texts are needed: {error}") from error
    for each in several:
        if not isinstance(each, str):
            raise InvalidArgumentError(
                "InvalidArgument", f"a text is needed, and not a {type(each).__name__}"
            )
    return several
