"""The form in which `imgctl events` and hooks get an event of the store. Pure: no I/O, no clock.

The event log adds numbers and times when it writes the events down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgstored.errors import PINNED
from imgstored.events.stream import (
    DaemonChanged,
    Ended,
    HoldChanged,
    Mirrored,
    PhaseChanged,
    Refused,
    SourceChanged,
    Started,
)

if TYPE_CHECKING:
    from imgproto.events import NumberedName

    from imgstored.errors import ImgstoreError
    from imgstored.events.stream import Action, Outcome, Requester, StoreEvent

#: Characters of an error's message, and of any other text.
_MESSAGE: Final = 2000
_TEXT: Final = 1000

_OF_PHASES: Final[dict[str, NumberedName]] = {
    "downloading": "downloading",
    "receiving": "receiving",
    "installing": "installing",
}
_OF_IMPORTS: Final[dict[Outcome, NumberedName]] = {
    "installed": "installed",
    "failed": "import-failed",
    "cancelled": "import-cancelled",
    "interrupted": "import-interrupted",
}


def numbered(event: StoreEvent) -> dict[str, Any] | None:
    """The fields of a *numbered event* of the protocol except number and time; None if it gets no number."""
    match event:
        case Started(action, requester) if action.kind != "delete":
            return {**_of(action, "import-started"), **_by(requester)}
        case PhaseChanged(action, phase) if phase in _OF_PHASES:
            return _of(action, _OF_PHASES[phase])
        case Ended(action):
            return _ended(action, event)
        case Refused(action, requester, error):
            return {**_of(action, "import-failed"), **_by(requester), **_why(error)}
        case HoldChanged():
            return _hold(event)
        case SourceChanged(url, None):
            return {"event": "source-up", "source": url}
        case SourceChanged(url, error):
            return {"event": "source-down", "source": url, **_why(error)}
        case Mirrored(url, new, failed, error):
            name: NumberedName = "mirrored" if error is None else "mirror-failed"
            return {"event": name, "source": url, "new": new, "failed": failed, **_why(error)}
        case DaemonChanged(running, version, pid):
            name = "daemon-started" if running else "daemon-stopping"
            return {"event": name, "version": version, "pid": pid}
    return None


def _ended(action: Action, event: Ended) -> dict[str, Any]:
    if action.kind == "delete":
        name: NumberedName = "deleted" if event.outcome == "deleted" else "delete-failed"
        return {**_of(action, name), **_why(event.error)}
    facts = {**_of(action, _OF_IMPORTS[event.outcome]), **_why(event.error)}
    return facts if event.size is None else {**facts, "bytes": event.size}


def _hold(event: HoldChanged) -> dict[str, Any]:
    if event.tag == PINNED:
        name: NumberedName = "pinned" if event.held else "unpinned"
    else:
        name = "held" if event.held else "released"
    return {
        "event": name,
        "uuid": event.uuid,
        "name": _cut(event.name),
        "version": _cut(event.version),
        "pool": event.pool,
        "tag": _cut(event.tag),
        **_by(event.requester),
    }


def _of(action: Action, name: NumberedName) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "event": name,
        "uuid": action.uuid,
        "name": _cut(action.name),
        "version": _cut(action.version),
        "pool": action.pool,
    }
    if action.source is not None:
        facts["source"] = action.source
    if action.import_id is not None:
        facts["import_id"] = action.import_id
    return facts


def _by(requester: Requester) -> dict[str, Any]:
    facts: dict[str, Any] = {"client": requester.client}
    return facts if requester.uid is None else {**facts, "uid": requester.uid}


def _why(error: ImgstoreError | None) -> dict[str, Any]:
    return {} if error is None else {"code": error.code, "message": error.message[:_MESSAGE]}


def _cut(text: str) -> str:
    return text[:_TEXT]
