"""The tables of docs/configuration.md, from imgstored/config/tables.py. Pure: no I/O."""

from __future__ import annotations

import re

from docs.man import keys

_HEAD = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]


def configuration(page: str) -> str:
    """The page with its tables as the code has them; the words between them stay.

    Each table stands below the heading with its name, the first one before all of these. Raises `ValueError`
    for a table that the page has no heading for.
    """
    made: list[str] = []
    missing = dict.fromkeys(keys.TABLES)
    table = ""
    for paragraph in page.rstrip("\n").split("\n\n"):
        if heading := re.fullmatch(r"## `\[+(\w+)\]+`", paragraph):
            table = heading[1]
        if paragraph.startswith("| key |"):
            made.append("\n".join([*_HEAD, *_rows(table)]))
            missing.pop(table, None)
        else:
            made.append(paragraph)
    if missing:
        raise ValueError(f"docs/configuration.md has no heading and table of keys for: {', '.join(missing)}")
    return "\n\n".join(made) + "\n"


def _rows(table: str) -> list[str]:
    rows = [
        (f"`{key.name}`", re.sub(r'("\w+")', r"`\1`", key.values), key.default, key.meaning)
        for key in keys.keys(table)
    ]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
