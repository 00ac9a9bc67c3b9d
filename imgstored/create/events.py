"""The notifications that a client gets while an image is made, exported or published."""

from __future__ import annotations

from typing import ClassVar, Literal

from imgproto.documents import ManifestDocument  # noqa: TC002  (msgspec reads the types)
from imgproto.events import MakingStep  # noqa: TC002

from imgstored.events.notifications import Event


class Inheriting(Event, frozen=True):
    """The new image takes over fields of the image that it was cloned from."""

    kind: ClassVar[str] = "inheriting"
    uuid: str
    name: str
    version: str


class ManifestMade(Event, frozen=True):
    """The new image's manifest, as yet without its file. `prefix` and `suffix` are what to call that."""

    kind: ClassVar[str] = "manifest"
    manifest: ManifestDocument
    prefix: str
    suffix: str


class Making(Event, frozen=True):
    """A step begins, or is done. `what` is the machine or snapshot that it is about."""

    kind: ClassVar[str] = "making"
    step: MakingStep
    what: str


class Sending(Event, frozen=True):
    """The snapshot's stream is on its way into the file."""

    kind: ClassVar[str] = "sending"


class Publishing(Event, frozen=True):
    """A step of publishing is done: the image is `imported`, its `file` is there, it is `activated`."""

    kind: ClassVar[str] = "publishing"
    step: Literal["imported", "file", "activated"]
    uuid: str
    name: str
    version: str
    state: str | None = None
    compression: str | None = None
