"""What happens while an image is made, as those who asked for it are told."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from imgstored.events.notifications import Event

Step = Literal[
    "vm-stopping",
    "vm-snapshotting",
    "vm-starting",
    "prepare-running",
    "prepare-succeeded",
    "prepare-timeout",
    "prepare-stopped",
    "final-moved",
    "snapshotting",
    "vm-rolling-back",
    "vm-restarting",
]


class Inheriting(Event, frozen=True):
    """The new image takes over fields of the image that it was cloned from."""

    kind: ClassVar[str] = "inheriting"
    uuid: str
    name: str
    version: str


class ManifestMade(Event, frozen=True):
    """The new image's manifest, as yet without its file. `prefix` and `suffix` are what to call that."""

    kind: ClassVar[str] = "manifest"
    manifest: dict[str, Any]
    prefix: str
    suffix: str


class Making(Event, frozen=True):
    """A step begins, or is done. `what` is the machine or snapshot that it is about."""

    kind: ClassVar[str] = "making"
    step: Step
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
