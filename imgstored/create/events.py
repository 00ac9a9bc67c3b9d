"""What happens while an image is made, as those who asked for it are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from imgstored.store.events import Event

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


@dataclass(frozen=True, slots=True)
class Inheriting(Event):
    """The new image takes over fields of the image that it was cloned from."""

    kind: ClassVar[str] = "inheriting"
    uuid: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ManifestMade(Event):
    """The new image's manifest, as yet without its file. `prefix` and `suffix` are what to call that."""

    kind: ClassVar[str] = "manifest"
    manifest: dict[str, Any] = field(repr=False)
    prefix: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Making(Event):
    """A step begins, or is done. `what` is the machine or snapshot that it is about."""

    kind: ClassVar[str] = "making"
    step: Step
    what: str


@dataclass(frozen=True, slots=True)
class Sending(Event):
    """The snapshot's stream is on its way into the file."""

    kind: ClassVar[str] = "sending"


@dataclass(frozen=True, slots=True)
class Publishing(Event):
    """A step of publishing is done: the image is `imported`, its `file` is there, it is `activated`."""

    kind: ClassVar[str] = "publishing"
    step: Literal["imported", "file", "activated"]
    uuid: str
    name: str
    version: str
    state: str | None = None
    compression: str | None = None
