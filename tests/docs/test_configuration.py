"""docs/configuration.md is made from the types that decide: each key, values, default, meaning."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import inspect

from docs.make.configuration import configuration
from docs.man import keys
from imgstored.config.loading import parse

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def test_the_page_is_up_to_date():
    assert configuration(TEXT) == TEXT, "run `python -m docs.man`"


@pytest.mark.parametrize("table", keys.TABLES)
def test_every_key_is_there_with_a_meaning(table):
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for key in keys.keys(table):
        assert key.meaning
        assert any(row.startswith(f"| `{key.name}` |") and key.meaning in row for row in rows)


def test_a_table_without_a_heading_is_told_of():
    without = TEXT.replace("## `[log]`", "## The log")
    with pytest.raises(ValueError, match=r"no heading and table of keys for: log"):
        configuration(without)


@pytest.mark.parametrize("table", keys.TABLES)
def test_each_of_the_words_that_a_key_may_have_is_there(table):
    for key, field in zip(keys.keys(table), keys.fields(table).values(), strict=True):
        for type_ in getattr(field.type, "types", (field.type,)):
            if isinstance(type_, inspect.LiteralType):
                assert all(f'"{value}"' in key.values for value in type_.values)


def test_a_default_that_is_said_holds():
    """Those that are values: the daemon takes each of them for the same configuration as none."""
    said = {"limits": [], "log": [], "socket": [], "view": []}
    for table, lines in said.items():
        for key in keys.keys(table):
            if key.default != "none":
                value = key.default.split(" (")[0].strip("`")
                lines.append(f'{key.name} = "{value}"' if value.startswith("/") else f"{key.name} = {value}")
    text = "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in said.items())
    assert parse(text) == parse("")
