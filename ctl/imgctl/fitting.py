"""Tables that fit a terminal. Pure: no I/O. Imported only where there is one.

What is too long is cut, uuids to their beginning, which stands for them. Then columns are left out, unless
they were asked for by name: first those that the table can best do without, then those at the right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Between two columns; and the columns that stay in any case.
_GAP, _FEWEST = 2, 2
#: Digits that a uuid keeps.
DIGITS = 8
#: Columns of times.
_TIMES = ("when", "published", "published_at", "since")


class _Least(NamedTuple):
    """The cells that a column of text keeps, and one of times."""

    text: int
    time: int


#: Where there is room for it; and where the columns that are left are those that a table is for. Half a time
#: is none, but its date is one.
_ROOMY, _TIGHT = _Least(12, 20), _Least(8, 10)


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
    lines: Sequence[Sequence[str]],
    names: Sequence[str],
    screen: Screen,
    *,
    may_drop: bool = True,
    drop: Sequence[str] = (),
) -> list[list[str]]:
    """The cells of all lines, padded but for the last, so that a line fits if that is possible at all.

    `drop` are the columns that are left out first, in this order.
    """
    columns = [*zip(*lines, strict=True)]
    widths = [max(map(cells, column)) for column in columns]
    places, limits = _layout(columns, widths, names, screen, drop if may_drop else None)
    cut_columns = [
        [
            cut(text, limit, "" if _is_uuid(names[place]) or _is_time(names[place]) else screen.ellipsis)
            for text in columns[place]
        ]
        for place, limit in zip(places, limits, strict=True)
    ]
    last = cut_columns.pop()
    padded = [
        [text + " " * (limit - cells(text)) for text in column]
        for column, limit in zip(cut_columns, limits, strict=False)
    ]
    return [[*line] for line in zip(*padded, last, strict=True)]


def _layout(
    columns: Sequence[Sequence[str]],
    widths: Sequence[int],
    names: Sequence[str],
    screen: Screen,
    drop: Sequence[str] | None,
) -> tuple[Sequence[int], list[int]]:
    """The places of the columns that are shown, and the cells of each."""
    # Uuids that are told apart only near their ends leave no room for anything else: then names do it.
    for apart in (True, False):
        for places, least in _choices(names, drop):
            floors = [_floor(columns[place], names[place], least, apart=apart) for place in places]
            limits = _limits([widths[place] for place in places], floors, [names[p] for p in places], screen)
            if limits is not None:
                return places, limits
    return places, [min(widths[place], floor) for place, floor in zip(places, floors, strict=True)]


def _choices(names: Sequence[str], drop: Sequence[str] | None) -> Iterator[tuple[list[int], _Least]]:
    """The columns to try, by their places, all of them first."""
    places = [*range(len(names))]
    yield places, _ROOMY
    for name in drop or ():
        if name in names:
            places = [place for place in places if names[place] != name]
            yield places, _ROOMY
    least = _TIGHT if drop else _ROOMY
    yield places, least
    while drop is not None and len(places) > _FEWEST:
        places = places[:-1]
        yield places, least


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
            for width, floor, name in zip(widths, floors, names, strict=True)
        ]
        if sum(lowest) <= room:
            return _shared(widths, lowest, room, names)
    return None


def _shared(widths: Sequence[int], lowest: Sequence[int], room: int, names: Sequence[str]) -> list[int]:
    """Gives the room that is left to the columns that want it, but none to a uuid or a time that was cut."""
    limits = [*lowest]
    wider = [
        place
        for place, width in enumerate(widths)
        if limits[place] < width and not _is_uuid(names[place]) and not _is_time(names[place])
    ]
    for _ in range(room - sum(lowest)):
        wider = [place for place in wider if limits[place] < widths[place]]
        if not wider:
            break
        limits[min(wider, key=limits.__getitem__)] += 1
    return limits


def _floor(column: Sequence[str], name: str, least: _Least, *, apart: bool) -> int:
    """The cells that a column keeps; with `apart`, each uuid is told from the others."""
    if _is_uuid(name):
        return digits(column) if apart else DIGITS
    return least.time if _is_time(name) else least.text


def digits(uuids: Iterable[str]) -> int:
    """The characters of their beginnings, eight at least, that still tell these uuids apart."""
    uuids = {*uuids}
    return next(
        (count for count in range(DIGITS, 36) if len({uuid[:count] for uuid in uuids}) == len(uuids)), 36
    )


def _is_uuid(name: str) -> bool:
    return name.lower().endswith("uuid") or name == "image"


def _is_time(name: str) -> bool:
    return name.lower() in _TIMES


def _width(character: str) -> int:
    if category(character) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
