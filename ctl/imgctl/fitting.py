"""Tables that fit a terminal. Pure: no I/O. Imported only where there is one.

What is too long is cut, uuids to their beginning, which stands for them; then columns at the right are left
out, unless they were asked for by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Between two columns.
_GAP = 2
#: Cells that a column of text keeps, and digits of a uuid.
_SHORTEST, _DIGITS = 12, 8
#: Columns of times, and the cells of one.
_TIMES, _TIME = ("when", "published", "published_at", "since"), 20


class Screen(NamedTuple):
    """The cells of a line, and what stands for what was cut off."""

    columns: int
    ellipsis: str = "…"


def cells(text: str) -> int:
    """The cells that text takes: two for a wide character, none for one that joins the one before it.

    The text is printable: what else has no width (joiners, directions) was escaped.
    """
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def cut(text: str, limit: int, ellipsis: str = "…") -> str:
    """The text in at most so many cells."""
    if cells(text) <= limit:
        return text
    ellipsis = ellipsis[: max(0, limit)]
    kept, left = "", limit - len(ellipsis)
    for character in text:
        left -= _width(character)
        if left < 0:
            break
        kept += character
    return kept + ellipsis


def fitted(
    lines: Sequence[Sequence[str]], names: Sequence[str], screen: Screen, *, may_drop: bool = True
) -> list[list[str]]:
    """The cells of all lines, padded but for the last, so that a line fits if that is possible at all."""
    columns = [*zip(*lines, strict=True)]
    widths = [max(map(cells, column)) for column in columns]
    limits: list[int] | None = None
    # Uuids that are told apart only near their ends leave no room for anything else: then names do it.
    for apart in (True, False):
        count = len(columns)
        floors = [_floor(column, name, apart=apart) for column, name in zip(columns, names, strict=False)]
        while (limits := _limits(widths[:count], floors, names, screen)) is None and may_drop and count > 2:
            count -= 1
        if limits is not None:
            break
    if limits is None:  # no line can fit
        limits = [min(pair) for pair in zip(widths, floors, strict=False)][:count]
    cut_columns = [
        [cut(text, limit, "" if _is_uuid(name) else screen.ellipsis) for text in column]
        for column, name, limit in zip(columns, names, limits, strict=False)
    ]
    last = cut_columns.pop()
    padded = [
        [text + " " * (limit - cells(text)) for text in column]
        for column, limit in zip(cut_columns, limits, strict=False)
    ]
    return [[*line] for line in zip(*padded, last, strict=True)]


def _limits(
    widths: Sequence[int], floors: Sequence[int], names: Sequence[str], screen: Screen
) -> list[int] | None:
    """The cells of each column; None where they do not fit."""
    room = screen.columns - _GAP * (len(widths) - 1)
    if sum(widths) <= room:
        return [*widths]
    for uuids_are_short in (False, True):
        lowest = [
            width if _is_uuid(name) and not uuids_are_short else min(width, floor)
            for width, floor, name in zip(widths, floors, names, strict=False)
        ]
        if sum(lowest) <= room:
            return _shared(widths, lowest, room, names)
    return None


def _shared(widths: Sequence[int], lowest: Sequence[int], room: int, names: Sequence[str]) -> list[int]:
    """Gives the room that is left to the columns that want it, but none to a uuid that was cut."""
    limits = [*lowest]
    wider = [
        place for place, width in enumerate(widths) if limits[place] < width and not _is_uuid(names[place])
    ]
    for _ in range(room - sum(lowest)):
        wider = [place for place in wider if limits[place] < widths[place]]
        if not wider:
            break
        limits[min(wider, key=limits.__getitem__)] += 1
    return limits


def _floor(column: Sequence[str], name: str, *, apart: bool) -> int:
    """The cells that a column keeps: half a time is none; with `apart`, each uuid is told from the others."""
    if not _is_uuid(name):
        return _TIME if name.lower() in _TIMES else _SHORTEST
    return digits(column) if apart else _DIGITS


def digits(uuids: Iterable[str]) -> int:
    """The characters of their beginnings, eight at least, that still tell these uuids apart."""
    uuids = {*uuids}
    return next(
        (count for count in range(_DIGITS, 36) if len({uuid[:count] for uuid in uuids}) == len(uuids)), 36
    )


def _is_uuid(name: str) -> bool:
    return name.lower().endswith("uuid")


def _width(character: str) -> int:
    if category(character) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
