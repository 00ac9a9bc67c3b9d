"""The plan of an import: the image, and each ancestor that is not installed. Pure: no I/O.

A plan is filled in step by step, because it depends on the manifests of the sources:

    while (uuid := plan.next()) is not None:
        plan.add(await find(uuid))

The walk goes from the image to its origin, and so on, and ends at the first image that is installed or under
way. An import executes the plan: it starts what `to_do` lists. A dry run renders the plan's steps and
refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from imgstored.errors import ImgstoreError, InvalidManifestError, OriginNotInstalledError
from imgstored.http.location import public
from imgstored.manifest.platform import Platform, check_platform

if TYPE_CHECKING:
    from imgstored.imports.spec import ImportSpec
    from imgstored.sources.search import Found

#: The limit of IMGAPI servers.
MAX_ANCESTRY = 100

#: The state of an image in the spec's pool. An image that is being deleted is still installed.
State = Literal["installed", "deleting", "under-way", "missing"]
StateOf = Callable[[str], State]


class Step(Struct, frozen=True):
    """One image of the ancestry; `found` is what a source has of a missing image."""

    uuid: str
    state: State
    found: Found | None = None


class Plan:
    """The walk over one ancestry, and its result."""

    def __init__(self, spec: ImportSpec, state_of: StateOf, platform: Platform | None = None) -> None:
        self.spec = spec
        self.steps: list[Step] = []  #: the image first, then its origin, and so on
        self.refusals: list[ImgstoreError] = []  #: reasons to refuse the import, in the order of the steps
        self._state_of = state_of
        self._platform = platform
        self._next: str | None = spec.uuid

    def next(self) -> str | None:
        """The uuid of the image to look for next; None at the end of the walk.

        Raises `InvalidManifestError` for an ancestry without an end.
        """
        uuid = self._next
        if uuid is None:
            return None
        state = self._state_of(uuid)
        if state != "missing":
            self.steps.append(Step(uuid, state))
            self._next = None
            return None
        if len(self.steps) >= MAX_ANCESTRY or any(step.uuid == uuid for step in self.steps):
            raise self._endless(uuid)
        return uuid

    def add(self, found: Found) -> None:
        """Takes what a source has of the image that `next` asked for."""
        manifest = found.manifest
        self.steps.append(Step(manifest.uuid, "missing", found))
        self._next = manifest.origin
        try:
            check_platform(manifest, self._platform)
        except ImgstoreError as error:
            self.refusals.append(error)

    def look_again(self) -> None:
        """Takes back the last step, which is no longer under way: the walk goes on from there."""
        self._next = self.steps.pop().uuid

    def is_stale(self) -> bool:
        """True if the image at which the walk ended has another state by now."""
        last = self.steps[-1]
        return last.found is None and self._state_of(last.uuid) != last.state

    def in_deletion(self) -> str | None:
        """The uuid of an image of the plan that is being deleted now, if there is one."""
        return next((step.uuid for step in self.steps if self._state_of(step.uuid) == "deleting"), None)

    @property
    def base(self) -> str | None:
        """The installed ancestor at which the walk ended; None if there is none."""
        last = self.steps[-1]
        return last.uuid if len(self.steps) > 1 and last.state in ("installed", "deleting") else None

    def to_do(self) -> list[Found]:
        """The images to import, each after its origin, by the states of now.

        Raises `OriginNotInstalledError` for an image whose origin was deleted since the walk.
        """
        starting: dict[str, Found] = {}
        for step in reversed(self.steps):
            if step.found is None or self._state_of(step.uuid) != "missing":
                continue
            origin = step.found.manifest.origin
            if origin is not None and origin not in starting and not self._may_be_cloned(origin):
                raise OriginNotInstalledError(
                    f'origin image "{origin}" of image "{step.uuid}" was deleted meanwhile',
                    hint="try again: the import then includes it",
                )
            starting[step.uuid] = step.found
        return list(starting.values())

    def _may_be_cloned(self, uuid: str) -> bool:
        return self._state_of(uuid) in ("installed", "under-way")

    def _endless(self, origin: str) -> InvalidManifestError:
        head = self.steps[0].found
        assert head is not None
        return InvalidManifestError(
            f'image "{self.spec.uuid}" has an endless ancestry at origin "{origin}"',
            hint=f"the manifests at {public(head.source.url)} are wrong; tell the operator of that server",
        )
