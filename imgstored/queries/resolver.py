"""Resolves names to images: installed, in the sources, under way, or in the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from imgstored import lanes
from imgstored.errors import (
    ActiveImageNotFoundError,
    ImageNotFoundError,
    ImageNotInstalledError,
    ImgstoreError,
    UsageError,
)
from imgstored.http.location import shown as without_secrets
from imgstored.manifest.values import shown
from imgstored.queries.names import Candidates, Named, named, resolve
from imgstored.sources.container import is_reference
from imgstored.sources.search import silent_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproto.documents import JobDocument, NamedDocument

    from imgstored.catalog.aliases import Aliases
    from imgstored.catalog.catalog import Catalog
    from imgstored.catalog.refresh import Refresh
    from imgstored.queries.history import History
    from imgstored.sources.source_set import SourceSet

Among = Literal["installed", "available", "active", "jobs", "history"]

#: Names in one request, at most.
MAX_NAMES = 1000


class Resolver:
    """Answers `resolve`. For trio's thread."""

    def __init__(
        self,
        catalog: Catalog,
        refresh: Refresh,
        sources: SourceSet,
        history: History,
        jobs: Callable[[], list[JobDocument]],
        aliases: Aliases,
    ) -> None:
        self._catalog = catalog
        self._refresh = refresh
        self._sources = sources
        self._history = history
        self._jobs = jobs
        self._aliases = aliases

    async def resolve(
        self,
        names: Sequence[str],
        among: str,
        *,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> list[NamedDocument]:
        """Finds the one image that each name or alias means, as {uuid, name, version}.

        `pool` counts for "installed"; `sources` (URLs that replace the configured ones) and `channel` for
        "available" and "active". Raises `AmbiguousNameError`, and for a name that means nothing the error
        that imgadm has for such a uuid; `PoolNotFoundError`, `NoSourcesError`, `UsageError`.
        """
        if not 0 < len(names) <= MAX_NAMES:
            raise UsageError(
                f"{len(names)} images are named", hint=f"name at least one, and at most {MAX_NAMES}"
            )
        candidates: Sequence[list[Named]]
        not_found: Callable[[str], ImgstoreError]
        match among:
            case "installed":
                candidates, not_found = await self._installed(pool)
            case "available" | "active" if all(map(is_reference, names)):
                candidates, not_found = await self._containers(names)
            case "available" | "active":
                candidates, not_found = await self._offered(sources, channel, active=among == "active")
                containers, _ = await self._containers(names)
                candidates = [*containers, *candidates]
            case "jobs":
                candidates, not_found = await self._under_way()
            case "history":
                candidates, not_found = await self._past()
            case _:
                known = ", ".join(get_args(Among))
                raise UsageError(
                    f'resolve: unknown set of images "{shown(among)}"', hint=f"it may be one of {known}"
                )
        meant = [self._aliases.meaning(name) for name in names]
        if among == "installed":
            there = {image.uuid for image in candidates[0]}
            for alias, uuid in zip(names, meant, strict=True):
                if alias != uuid and uuid not in there:
                    raise _stale(alias, uuid, self._catalog.pool(pool).name)
        # In a thread: there may be a thousand names, and ten thousand images.
        return await lanes.in_thread(_resolved, meant, candidates, not_found)

    async def _installed(self, pool: str | None) -> _Where:
        name = self._catalog.pool(pool).name
        await self._refresh.pool(name)
        found = [_of_document(uuid, image.manifest) for uuid, image in self._catalog.of_pool(name).items()]
        return [found], lambda text: ImageNotInstalledError(text, name)

    async def _offered(self, sources: Sequence[str] | None, channel: str | None, *, active: bool) -> _Where:
        replaced = None if sources is None else tuple(sources)
        offered = await self._sources.available(replaced, channel)
        wanted = [
            image["manifest"]
            for image in offered["images"]
            if not active or image["manifest"].get("state") in (None, "active")
        ]
        found = await lanes.in_thread(lambda: [*map(named, wanted)])
        missing = [problem for problem in offered["problems"] if "listed_at" not in problem]
        hint = "`imgctl avail` lists the images that the sources have"
        if missing:
            hint = silent_hint([without_secrets(problem["source"]) for problem in missing])
        elif offered["incomplete"]:
            reasons = "; ".join(each["message"] for each in offered["incomplete"])
            hint = f"{reasons}. The uuid of an image finds also what a list lacks"

        def not_found(text: str) -> ImgstoreError:
            data = {"problems": offered["problems"]}
            if active:
                message = f'an active image "{text}" was not found in image sources'
                return ActiveImageNotFoundError(message, hint=hint, data=data)
            return ImageNotFoundError(f'image "{text}" was not found', hint=hint, data=data)

        return [found], not_found

    async def _containers(self, names: Sequence[str]) -> _Where:
        """The images of those names that are container images'; they exist, or this raises."""
        found = []
        for name in filter(is_reference, dict.fromkeys(names)):
            image = await self._sources.container(name)
            found.append(Named(image.uuid, name, image.manifest["version"]))
        return [found], lambda text: ImageNotFoundError(f'image "{text}" was not found')

    async def _under_way(self) -> _Where:
        # An import that was under way a moment ago may have ended: then its image is installed.
        installed = [_of_document(image.uuid, image.manifest) for image in self._catalog.all()]
        pool = self._catalog.pool(None).name
        return [[named(job) for job in self._jobs()], installed], lambda text: ImageNotInstalledError(
            text, pool
        )

    async def _past(self) -> _Where:
        def not_found(text: str) -> ImgstoreError:
            return ImageNotFoundError(
                f'the history has no image "{text}"', hint="`imgctl history` lists what is"
            )

        return [await self._history.images()], not_found


def _stale(alias: str, uuid: str, pool: str) -> ImageNotInstalledError:
    """The error of an alias whose image is gone; it names the alias, which the user knows, and the uuid."""
    hint = (
        f'the alias "{alias}" means image {uuid}, which is not installed: `imgctl import {uuid}` installs it,'
        f" `imgctl alias -d {alias}` removes the alias"
    )
    return ImageNotInstalledError(alias, pool, hint)


#: Groups of candidates, of which an earlier one takes precedence; and the error if no candidate is meant.
_Where = tuple["list[list[Named]]", "Callable[[str], ImgstoreError]"]


def _resolved(
    names: Sequence[str], candidates: Sequence[list[Named]], not_found: Callable[[str], ImgstoreError]
) -> list[NamedDocument]:
    arranged = [Candidates(some) for some in candidates]
    found = {name: _first(name, arranged, not_found).as_wire() for name in dict.fromkeys(names)}
    return [found[name] for name in names]


def _first(name: str, candidates: Sequence[Candidates], not_found: Callable[[str], ImgstoreError]) -> Named:
    for some in candidates:
        if (image := resolve(name, some)) is not None:
            return image
    raise not_found(shown(name))


def _of_document(uuid: str, manifest: object) -> Named:
    """An installed image, whose manifest may be missing, or name another uuid."""
    return named({**(manifest if isinstance(manifest, dict) else {}), "uuid": uuid})
