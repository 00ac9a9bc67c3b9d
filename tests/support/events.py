"""Events by position: `Note("text")` for `Note(event="note", text="text")`.

They are made from their only description, in `imgproto.events`.
"""

from __future__ import annotations

from typing import Any, Final, get_args, get_type_hints

from imgproto import events

#: Fields that need not be given.
_DEFAULTS: Final[dict[str, Any]] = {
    "channel": None,
    "compression": None,
    "from_file": False,
    "images": [],
    "import_id": None,
    "signed_by": None,
    "state": None,
    "trusted": None,
}


class Maker:
    """Makes events of one shape. `kind` is the name on the wire, None for a part of an event."""

    def __init__(self, shape: Any) -> None:
        hints = get_type_hints(shape)
        named = hints.pop("event", None)
        self.kind = None if named is None else str(get_args(named)[0])
        self.fields = list(hints)
        self.optional: frozenset[str] = shape.__optional_keys__

    def __call__(self, *values: Any, **named: Any) -> Any:
        assert len(values) <= len(self.fields)
        given = dict(zip(self.fields, values, strict=False)) | named
        assert given.keys() <= set(self.fields)
        known = {} if self.kind is None else {"event": self.kind}
        needed = (field for field in self.fields if field in given or field not in self.optional)
        return known | {field: given[field] if field in given else _DEFAULTS[field] for field in needed}


AlreadyInstalled = Maker(events.AlreadyInstalled)
AncestorInstalled = Maker(events.AncestorInstalled)
Downloaded = Maker(events.Downloaded)
GatheringAncestry = Maker(events.GatheringAncestry)
Held = Maker(events.Held)
ImageProgress = Maker(events.ImageProgress)
Importing = Maker(events.Importing)
Inheriting = Maker(events.Inheriting)
Installed = Maker(events.Installed)
InstalledMeanwhile = Maker(events.InstalledMeanwhile)
Installing = Maker(events.Installing)
Left = Maker(events.Left)
CreationStep = Maker(events.CreationStep)
ManifestMade = Maker(events.ManifestMade)
ManifestUpdated = Maker(events.ManifestUpdated)
Note = Maker(events.Note)
NotInSources = Maker(events.NotInSources)
OriginalUnknown = Maker(events.OriginalUnknown)
Planned = Maker(events.Planned)
Progress = Maker(events.Progress)
Publishing = Maker(events.Publishing)
Resumed = Maker(events.Resumed)
Sending = Maker(events.Sending)
SnapshotRenamed = Maker(events.SnapshotRenamed)
UpdateFailed = Maker(events.UpdateFailed)
Verified = Maker(events.Verified)
Verifying = Maker(events.Verifying)
WaitingForLock = Maker(events.WaitingForLock)
