"""The findings of checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from imgproto.documents import FindingDocument

#: `warn` is worth a look, `fail` keeps something from working.
Status = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """One line of the report. `check` is the name of what was checked, `seen` a phrase, `hint` what to do."""

    check: str
    status: Status
    seen: str
    hint: str = ""

    def as_wire(self) -> FindingDocument:
        """The protocol's *finding*."""
        return {"check": self.check, "status": self.status, "seen": self.seen, "hint": self.hint}


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
