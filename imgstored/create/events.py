"""The notifications of `create`, `export` and `publish`."""

from __future__ import annotations

from typing import ClassVar, Literal

from imgproto.documents import ManifestDocument  # noqa: TC002  (msgspec reads the types)
from imgproto.events import MakingStep  # noqa: TC002

from imgstored.events.notifications import Event


class Inheriting(Event, frozen=True):
    """The new image inherits fields of its origin."""

    kind: ClassVar[str] = "inheriting"
    uuid: str
    name: str
    version: str


class ManifestMade(Event, frozen=True):
    """The new image's manifest, still without its file. `prefix` and `suffix` form the file's name."""

    kind: ClassVar[str] = "manifest"
    manifest: ManifestDocument
    prefix: str
    suffix: str


class Making(Event, frozen=True):
    """A step starts or ends. `what` is its machine or snapshot."""

    kind: ClassVar[str] = "making"
    step: MakingStep
    what: str


class Sending(Event, frozen=True):
    """The daemon starts to write the snapshot's stream into the file."""

    kind: ClassVar[str] = "sending"


class Publishing(Event, frozen=True):
    """A step of publishing ends: the manifest is `imported`, the `file` uploaded, the image `activated`."""

    kind: ClassVar[str] = "publishing"
    step: Literal["imported", "file", "activated"]
    uuid: str
    name: str
    version: str
    state: str | None = None
    compression: str | None = None
