"""The health of a pool, as ZFS reports it.

Asks no pool: one that is suspended would keep whoever asks it in the kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: On Linux, a folder for each pool that is imported, with a file `state` of one word.
_KSTAT: Final = Path("/proc/spl/kstat/zfs")

_LONGEST: Final = 32


def health(pool: str, folder: Path = _KSTAT) -> str | None:
    """`ONLINE`, `DEGRADED`, `SUSPENDED`, …; None where the system does not say."""
    try:
        with (folder / pool / "state").open("rb") as file:
            word = file.read(_LONGEST).decode("ascii", "replace").strip()
    except OSError:
        return None
    return word if word.isalpha() and word.isupper() else None
