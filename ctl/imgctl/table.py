"""Tables in the layout of imgadm (node-tabula). Pure: no I/O.

Left-justified columns with two spaces between them, no padding at the end of a line, `-` for what is missing,
and nothing at all, not even the header, where there are no rows.
"""

from __future__ import annotations

from imgctl import javascript
from imgctl.errors import UsageError
from imgctl.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from imgctl.fitting import Screen

    Row = Mapping[str, Any]

#: Between two columns.
_GAP = "  "
#: The widest that one cell makes all others of its column: servers may send a name of a mebibyte.
_WIDEST = 1024


def table(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    header: bool = True,
    screen: Screen | None = None,
    may_drop: bool = True,
    drop: Sequence[str] = (),
) -> list[str]:
    """The lines of a table with one row each. A column that no row has is full of `-`.

    For a `screen` they are cut to what it has room for, and with `may_drop` columns are left out if need be:
    those of `drop` first, then the last ones.
    """
    if not rows:
        return []
    lines = [[printable(column.upper()) for column in columns]]
    lines += [[cell(row.get(column)) for column in columns] for row in rows]
    if screen is not None:
        from imgctl.fitting import fitted

        lines = fitted(lines, columns, screen, may_drop=may_drop, drop=drop)
        return [_GAP.join(line) for line in lines[0 if header else 1 :]]
    widths = [width(column) for column in zip(*lines, strict=True)]  # the header's too when it is left out
    widths[-1:] = [0]
    if not header:
        del lines[0]
    return [_GAP.join([c.ljust(w) for c, w in zip(line, widths, strict=True)]) for line in lines]


def width(column: Iterable[str]) -> int:
    """The width of a column of cells: that of the longest one, within bounds."""
    return min(max(map(len, column)), _WIDEST)


def cell(value: Any) -> str:
    """A value as its cell shows it."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, (bool, dict, list)):
        import json

        return printable(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
    return printable(javascript.text(value))


def fields(lists: Iterable[str]) -> list[str]:
    """The names in comma-separated lists."""
    return [name.strip() for given in lists for name in given.split(",") if name.strip()]


def sort_rows(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """The rows ordered by some fields, the first one first; `-field` reverses.

    Two values compare as numbers when both are, else as text; what is missing comes first. Raises
    `UsageError` for a field without a name.
    """
    ordered = list(rows)
    for field in reversed(by):
        name = field.removeprefix("-")
        if not name:
            raise UsageError(f'invalid sort field: "{field}"')
        _sort(ordered, name, reverse=field.startswith("-"))
    return ordered


def _sort(rows: list[Row], name: str, *, reverse: bool) -> None:
    """Sorts by one field; rows that are equal in it stay as they are."""
    values = [row.get(name) for row in rows]
    numbers = [javascript.number(value) for value in values]
    if any(n is not None for n in numbers) and any(
        n is None and value is not None for n, value in zip(numbers, values, strict=True)
    ):
        from functools import cmp_to_key

        # Numbers among other text: no one key gives that order.
        rows.sort(key=cmp_to_key(lambda a, b: _compare(a.get(name), b.get(name))), reverse=reverse)
        return
    keys = [
        (value is not None, n if n is not None else _text_key(value))
        for n, value in zip(numbers, values, strict=True)
    ]
    order = sorted(range(len(rows)), key=keys.__getitem__, reverse=reverse)
    rows[:] = [rows[index] for index in order]


def _compare(a: Any, b: Any) -> int:
    if a is None or b is None:
        return (a is not None) - (b is not None)
    number_a, number_b = javascript.number(a), javascript.number(b)
    if number_a is not None and number_b is not None:
        return (number_a > number_b) - (number_a < number_b)
    text_a, text_b = javascript.text(a), javascript.text(b)
    return (text_a > text_b) - (text_a < text_b)


def _text_key(value: Any) -> Any:
    return 0 if value is None else javascript.text(value)
