"""The subject that each check looks at, and the findings that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproto.documents import FindingDocument

    from imgstored.config.tables import Config
    from imgstored.errors import ImgstoreError
    from imgstored.pools.base import Pool

_MIB = 1 << 20

#: `warn` is worth a look, `fail` keeps something from working.
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A host with its configuration. `pools` and `view` are the running daemon's; None where none runs."""

    settings: Config
    files: tuple[Path, ...] = ()
    pools: Mapping[str, Pool] | None = field(default=None, repr=False)
    view: str | None = None  #: `fuse`, `files`, `off`
    faults: tuple[ImgstoreError, ...] = ()  #: the files of its own that the running daemon cannot use
    known: bool = True  #: False: the files cannot be read, and nobody knows the settings

    @property
    def runs(self) -> bool:
        """True if the running daemon examines its own host."""
        return self.pools is not None

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self.settings.state)

    @property
    def min_free(self) -> int:
        """Bytes that imports leave free."""
        return self.settings.limits.min_free_mib * _MIB


class Finding(Struct, frozen=True):
    """One line of the report: the name of the `check`, a phrase about what was `seen`, and what to do."""

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
