"""The rows of the table, and how they read. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The first one in which a time has less than four digits before the point.
_UNITS = ((1e6, "µs"), (1e3, "ms"), (1, "s"))
_HEADINGS = ("case", "ours: median (min–max)", "peer: median (min–max)", "ratio", "goal", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `reached` is None where there is no goal."""

    case: str
    ours: str
    peer: str = ""
    ratio: str = ""
    goal: str = ""
    reached: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """As the table shows them."""
        verdict = {None: "", True: "ok", False: "**missed**"}[self.reached]
        return (self.case, self.ours, self.peer, self.ratio, self.goal, verdict)


def compared(
    case: str, ours: Sequence[float], peer: str, theirs: Sequence[float], *, at_most: float | None
) -> Row:
    """Seconds of both sides; the goal is a bound on the medians' ratio."""
    ratio = statistics.median(ours) / statistics.median(theirs)
    goal = "" if at_most is None else f"≤ {at_most:g}"
    reached = None if at_most is None else ratio <= at_most
    return Row(case, seconds(ours), f"{seconds(theirs)} {peer}", f"{ratio:.2f}", goal, reached)


def bounded(case: str, values: Sequence[float], goal: str, *, at_most: float) -> Row:
    """MiB of our side; all of the values are to keep within the bound."""
    return Row(case, mib(values), goal=goal, reached=max(values) <= at_most)


def seconds(values: Sequence[float]) -> str:
    """The median and what it lies between."""
    scale, unit = next((each for each in _UNITS if max(values) * each[0] < 1000), _UNITS[-1])
    median, least, most = (f"{value * scale:.3g}" for value in _summary(values))
    return f"{median} {unit}" if len(values) == 1 else f"{median} {unit} ({least}–{most})"


def mib(values: Sequence[float]) -> str:
    """The same for sizes in MiB."""
    median, least, most = (f"{value:.1f}" for value in _summary(values))
    return f"{median} MiB" if len(values) == 1 else f"{median} MiB ({least}–{most})"


def _summary(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def markdown(rows: Iterable[Row]) -> str:
    """The table."""
    lines = [_HEADINGS, tuple("---" for _ in _HEADINGS), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
