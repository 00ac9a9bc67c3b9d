"""The subject of the checks: a host with its configuration, and the daemon, if it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.config import Config
    from imgstored.errors import ImgstoreError
    from imgstored.pools.base import Pool

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """`pools` and `view` are those of the running daemon; None where none runs."""

    settings: Config
    files: tuple[Path, ...] = ()
    pools: Mapping[str, Pool] | None = field(default=None, repr=False)
    view: str | None = None  #: `fuse`, `files`, `off`
    faults: tuple[ImgstoreError, ...] = ()  #: what the running daemon cannot use of its own files

    @property
    def runs(self) -> bool:
        """Whether it is the daemon that asks."""
        return self.pools is not None

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self.settings.state)

    @property
    def min_free(self) -> int:
        """Bytes that imports leave free."""
        return self.settings.limits.min_free_mib * _MIB
