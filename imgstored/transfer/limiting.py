"""Finds the stage that limits an import, by where its time went recently. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What an image waits for: its turn to download, its origin, who else is at work on it; or one of the stages.
Stage = Literal["turn", "origin", "lock", "network", "checksum", "decompress", "pool"]

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

#: What it may wait for before it is received. While the download goes on, nothing is lost by that.
_BEFORE: Final[tuple[Stage, ...]] = ("origin", "lock")
#: In the order in which the bytes pass.
_ON_THE_WAY: Final[tuple[Stage, ...]] = ("network", "checksum", "decompress", "pool")

#: Shares of the time: from which one a wait is what counts, and below which one nothing is.
_MOSTLY: Final = 0.5
_HARDLY: Final = 0.05


def limiting(spent: Mapping[Stage, float], seconds: float, *, downloading: bool) -> Stage | None:
    """The stage that was busy for most of the last `seconds`; `spent` has the busy seconds of each.

    While more is `downloading`, what keeps the image from being received costs no time yet. None where
    nothing took a share worth speaking of.
    """
    if seconds <= 0.0:
        return None
    if spent.get("turn", 0.0) >= _MOSTLY * seconds:
        return "turn"
    for stage in _BEFORE:
        if spent.get(stage, 0.0) >= _MOSTLY * seconds:
            return "network" if downloading else stage
    slowest = max(_ON_THE_WAY, key=lambda stage: spent.get(stage, 0.0))
    return slowest if spent.get(slowest, 0.0) >= _HARDLY * seconds else None
