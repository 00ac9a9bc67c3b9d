"""A synchronous client of imgstored: one connection, one request at a time. Documents: docs/protocol.md.

with Client() as client:
    client.ensure(["11111111-aaaa-4bbb-8ccc-000000000001"], on_event=print)
    for image in client.list():
        print(image["manifest"]["name"])
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from imgctl.connection import PROTOCOL_VERSION, Connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgctl.connection import Document, OnEvent

    Documents: TypeAlias = list[Document]
    Tags: TypeAlias = list[str]


class Client(Connection):
    """What imgstored does, a method each.

    All methods raise `RemoteError` when the daemon refuses or fails, and its kind `NotConnectedError` when
    there is no daemon or it breaks off. Leaving a request early (an exception out of `on_event`, Ctrl-C)
    closes the connection, and with it ends the interest in its images; the next call connects again.
    """

    # -- images ----------------------------------------------------------------------------------------------

    def list(self, *, holds: bool = False) -> Documents:
        """All installed images, by `published_at`, then name; with the tags that hold them if asked."""
        images: Documents = self.call("list", holds=holds or None)
        return images

    def get(self, uuid: str, pool: str | None = None, recursive: bool = False) -> Document:
        """One installed image; with its `children` when recursive."""
        image: Document = self.call("get", uuid=uuid, pool=pool, recursive=recursive or None)
        return image

    def ancestry(self, uuid: str, pool: str | None = None) -> Documents:
        """An installed image, what it was cloned from, and so on."""
        images: Documents = self.call("ancestry", uuid=uuid, pool=pool)
        return images

    def available(self) -> Document:
        """What the sources have: `{images: [{manifest, source}], problems: [...]}`."""
        found: Document = self.call("avail")
        return found

    def show(self, uuid: str) -> Document:
        """The manifest of an image in the sources."""
        manifest: Document = self.call("show", uuid=uuid)
        return manifest

    def delete(self, uuid: str, pool: str | None = None) -> None:
        """Removes an installed image that nothing depends on."""
        self.call("delete", uuid=uuid, pool=pool)

    def resolve(
        self,
        names: Sequence[str],
        *,
        among: str,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> Documents:
        """The images that people call so, one a name: `{uuid, name, version}`.

        `among` is "installed", "available", "active" (available, and can be imported) or "jobs".
        """
        given = None if sources is None else [*sources]
        found: Documents = self.call(
            "resolve", names=[*names], among=among, pool=pool, sources=given, channel=channel
        )
        return found

    def usage(self, pool: str | None = None, uuids: Sequence[str] = ()) -> Documents:
        """What images (all, or those of `uuids`) occupy, and how they are related: a *usage* a pool."""
        listed: Documents = self.call("usage", pool=pool, uuids=[*uuids] or None)
        return listed

    def history(self, uuid: str | None = None, limit: int | None = None) -> Documents:
        """What was done, the newest `limit` entries, oldest first: *entry* documents."""
        entries: Documents = self.call("history", uuid=uuid, limit=limit)
        return entries

    def status(self) -> Document:
        """How the daemon, its pools, sources and imports are: a *status* document."""
        found: Document = self.call("status")
        return found

    def doctor(self) -> Document:
        """What keeps the host from having its images: `{findings: [{check, status, seen, hint}]}`."""
        found: Document = self.call("doctor")
        return found

    def pools(self) -> Tags:
        """The names of the daemon's pools; the first is the one that is used where a request names none."""
        pools: Tags = self.call("hello", client=self._name, protocol=PROTOCOL_VERSION)["pools"]
        return pools

    # -- sources ---------------------------------------------------------------------------------------------

    def sources(self) -> Documents:
        """The sources in their order: `{url, type, insecure, channel}`."""
        listed: Documents = self.call("sources.list")
        return listed

    def add_source(
        self, url: str, kind: str | None = None, *, insecure: bool = False, force: bool = False
    ) -> Document:
        """Appends a source, unless it is there: `{added, source}`. `force` does so although it is down."""
        outcome: Document = self.call(
            "sources.add", url=url, type=kind, insecure=insecure or None, force=force or None
        )
        return outcome

    def delete_source(self, url: str) -> Documents:
        """Removes all sources of that URL; returns them."""
        deleted: Documents = self.call("sources.delete", url=url)["deleted"]
        return deleted

    def known_images(self) -> Documents:
        """What the sources had when they were last listed, as `{uuid, name, version}`; none is asked."""
        known: Documents = self.call("sources.known")
        return known

    def set_sources(
        self,
        sources: Sequence[Mapping[str, Any]],
        *,
        before: Sequence[Mapping[str, Any]],
        force: bool = False,
    ) -> Document:
        """Makes these the sources, if they were `before` until now: `{reordered, added, deleted}`."""
        given, known = [dict(source) for source in sources], [dict(source) for source in before]
        changed: Document = self.call("sources.set", sources=given, before=known, force=force or None)
        return changed

    def check_sources(self) -> Documents:
        """Asks every source whether it is there: `{url, type, ok, error}`."""
        checked: Documents = self.call("sources.check")
        return checked

    # -- imports ---------------------------------------------------------------------------------------------

    def import_image(
        self,
        uuid: str,
        *,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
        zstream: bool = False,
        on_event: OnEvent | None = None,
    ) -> None:
        """Returns when the image and its ancestry are installed. `sources` replace the configured ones.

        With `zstream`, what the sources send is taken as it is: no size and no checksum is compared.
        """
        given = None if sources is None else [*sources]
        params = {"uuid": uuid, "pool": pool, "sources": given, "channel": channel}
        self.request("import", {**params, "zstream": zstream or None}, on_event=on_event)

    def plan(
        self,
        uuid: str,
        *,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> Document:
        """What `import_image` would do: a *plan* document."""
        given = None if sources is None else [*sources]
        plan: Document = self.call("plan", uuid=uuid, pool=pool, sources=given, channel=channel)
        return plan

    def ensure(
        self, uuids: Sequence[str], *, pool: str | None = None, on_event: OnEvent | None = None
    ) -> None:
        """Returns when all of the images are installed; at once when they are."""
        self.request("ensure", {"uuids": [*uuids], "pool": pool}, on_event=on_event)

    def install(
        self,
        manifest: Mapping[str, Any],
        file_path: str | os.PathLike[str],
        *,
        pool: str | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """Installs an image from its manifest and its file. Raises `OSError` if that cannot be opened."""
        descriptor = os.open(file_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            params = {"manifest": dict(manifest), "pool": pool, "path": os.fsdecode(file_path)}
            self.request("install", params, on_event=on_event, file=descriptor)
        finally:
            os.close(descriptor)

    def verify(
        self,
        uuids: Sequence[str] | None = None,
        *,
        pool: str | None = None,
        record: bool = False,
        on_event: OnEvent | None = None,
    ) -> dict[str, int]:
        """Reads images (None: all) again, and compares them with what was installed; how many are how.

        With `record`, what they are now is written down instead, for later comparisons.
        """
        params = {"uuids": None if uuids is None else [*uuids], "pool": pool, "record": record or None}
        results: dict[str, int] = self.request("verify", params, on_event=on_event)
        return results

    def jobs(self) -> Documents:
        """The imports under way."""
        listed: Documents = self.call("jobs")
        return listed

    def watch(self, uuid: str | None = None) -> Iterator[Document]:
        """The events of all imports, without end; or those of one until it has ended.

        Has a connection of its own, which closes when the iterator does.
        """
        with Client(self.socket_path, name=self._name) as own:
            yield from own.exchange("watch", {"uuid": uuid}, None)

    def cancel(self, uuid: str) -> None:
        """Ends an import for all who want it; what is downloaded serves the next one."""
        self.call("cancel", uuid=uuid)

    # -- upkeep ----------------------------------------------------------------------------------------------

    def update(
        self, uuids: Sequence[str] = (), *, dry_run: bool = False, on_event: OnEvent | None = None
    ) -> None:
        """Brings the manifests of these images, or of all, up to date with the sources."""
        params = {"uuids": [*uuids] or None, "dry_run": dry_run or None}
        self.request("update", params, on_event=on_event)

    def unused(
        self, *, older_than: int | None = None, keep: int = 0, on_event: OnEvent | None = None
    ) -> Documents:
        """The images that nothing needs, in an order in which each can be deleted.

        But for those installed in the last `older_than` seconds, and the `keep` newest of each name. The
        events say what is left out for another reason.
        """
        params = {"older_than": older_than, "keep": keep or None}
        images: Documents = self.request("vacuum", params, on_event=on_event)
        return images

    # -- making ----------------------------------------------------------------------------------------------

    def create(
        self,
        source: str,
        file: int,
        manifest: Mapping[str, Any],
        *,
        fields: Sequence[str] = (),
        compression: str | None = None,
        incremental: bool = False,
        max_origin_depth: int | None = None,
        script: str | None = None,
        path: str | None = None,
        on_event: OnEvent | None = None,
    ) -> Document:
        """Makes an image of a stopped machine (its uuid) or a dataset (POOL/NAME); returns its manifest.

        `file` is the descriptor of an empty file to write it to, which stays yours. `fields` are
        `field=value`, as on the command line; they replace the manifest's.
        """
        params = {
            "source": source,
            "manifest": dict(manifest),
            "fields": [*fields],
            "compression": compression,
            "incremental": incremental or None,
            "max_origin_depth": max_origin_depth,
            "script": script,
            "path": path,
        }
        made: Document = self.request("create", params, on_event=on_event, file=file)["manifest"]
        return made

    def export(
        self,
        uuid: str,
        file: int,
        *,
        pool: str | None = None,
        compression: str | None = None,
        form: str | None = None,
        path: str | None = None,
        on_event: OnEvent | None = None,
    ) -> Document:
        """Writes an installed image to an empty file; returns the manifest that goes with it.

        `form` is "stream", or "raw" for the disk of a volume.
        """
        params = {"uuid": uuid, "pool": pool, "compression": compression, "format": form, "path": path}
        manifest: Document = self.request("export", params, on_event=on_event, file=file)["manifest"]
        return manifest

    def publish(
        self,
        manifest: Mapping[str, Any],
        file_path: str | os.PathLike[str],
        url: str,
        *,
        on_event: OnEvent | None = None,
    ) -> Document:
        """Gives an image to an IMGAPI server: `{uuid, url}`. Raises `OSError` if there is no such file."""
        descriptor = os.open(file_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            params = {"manifest": dict(manifest), "url": url, "path": os.fsdecode(file_path)}
            published: Document = self.request("publish", params, on_event=on_event, file=descriptor)
            return published
        finally:
            os.close(descriptor)

    # -- holds -----------------------------------------------------------------------------------------------

    def hold(self, uuid: str, tag: str, pool: str | None = None) -> None:
        """Keeps an image from being deleted, by anybody, until the tag is released."""
        self.call("hold", uuid=uuid, tag=tag, pool=pool)

    def release(self, uuid: str, tag: str, pool: str | None = None) -> None:
        """Ends a hold."""
        self.call("release", uuid=uuid, tag=tag, pool=pool)

    def holds(self, uuid: str, pool: str | None = None) -> Tags:
        """The tags that hold an image."""
        tags: Tags = self.call("holds", uuid=uuid, pool=pool)
        return tags

    @contextmanager
    def holding(self, uuid: str, pool: str | None = None) -> Iterator[None]:
        """Keeps an image from being deleted as long as the block lasts, and this program lives.

        Has a connection of its own: whatever ends that ends the hold.
        """
        with Client(self.socket_path, name=self._name) as own:
            asked = own.exchange("hold", {"uuid": uuid, "pool": pool}, None)
            next(asked)
            try:
                yield
            finally:
                asked.close()
