"""The lines about creating and publishing an image, in imgadm's words. Pure: no I/O.

The events and their fields are those of docs/protocol.md. An event that is not known has no line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    Event = Mapping[str, Any]

_STEPS = {
    "vm-stopping": "Stopping VM {} to snapshot it",
    "vm-snapshotting": 'Snapshotting VM "{}" to @imgadm-create-pre-prepare',
    "vm-starting": "Preparing VM {} (starting it)",
    "prepare-running": "Prepare script is running",
    "prepare-succeeded": "Prepare script succeeded",
    "prepare-timeout": "Timeout waiting for prepare-image script to signal it started",
    "prepare-stopped": "Prepare script stopped VM {}",
    "final-moved": 'Moving existing @final snapshot out of the way to "{}"',
    "snapshotting": 'Snapshotting to "{}"',
    "vm-rolling-back": "Rollback VM {} to pre-prepare snapshot (cleanup)",
    "vm-restarting": "Restarting VM {} (cleanup)",
}


def line(event: Event, file: str) -> str | None:
    """The event's line; None where there is none. `file` is the image's file."""
    text = {field: printable(value) for field, value in event.items()}
    match event.get("event"):
        case "inheriting":
            return f"Inheriting from origin image {text['uuid']} ({text['name']} {text['version']})"
        case "making":
            sentence = _STEPS.get(text["step"])
            return None if sentence is None else sentence.format(text["what"])
        case "publishing" if event.get("step") == "imported":
            of = f"{text['name']}, {text['version']}, state={text['state']}"
            return f"Imported image {text['uuid']} ({of})"
        case "publishing" if event.get("step") == "file":
            compression = text["compression"]
            return f'Added file "{printable(file)}" (compression "{compression}") to image {text["uuid"]}'
        case "publishing" if event.get("step") == "activated":
            return f"Activated image {text['uuid']}"
        case _:
            return None
