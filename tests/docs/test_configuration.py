"""docs/configuration.md against the types that decide: each key, its default, and its possible values."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from docs.man import keys
from docs.man.markdown import blocks

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def documented() -> dict[tuple[str, str], tuple[str, str]]:
    """Default and meaning of each key, by table and name."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    table = ""
    for block in blocks(TEXT):
        if block.kind == "heading" and block.level > 1:
            table = block.words.strip("`[]")
        for key, default, meaning in block.rows:
            found[table, key.strip("`")] = (default.replace("`", ""), meaning)
    return found


DOCUMENTED = documented()
KEYS = {(table, name): field for table in keys.TABLES for name, field in keys.fields(table).items()}


def test_every_key_is_documented_and_nothing_else():
    assert DOCUMENTED.keys() == KEYS.keys()


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_its_default_is_the_one_that_is_said(key):
    said, _ = DOCUMENTED[key]
    match KEYS[key].default:
        case msgspec.NODEFAULT:
            # A table of text that is empty has a factory instead of a value.
            assert said == ("none" if KEYS[key].default_factory is not msgspec.NODEFAULT else "")
        case None:
            assert said, "what holds where nothing is said?"
        case bool(value):
            assert said == str(value).lower()
        case float(value):
            assert said == f"{value:g}"
        case int(value):
            assert said in (str(value), f"0o{value:o}")
        case str(value):
            assert said.split(" (")[0].strip('"') == value


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_each_of_its_words_is_explained(key):
    said = " ".join(DOCUMENTED[key])
    for type_ in getattr(KEYS[key].type, "types", (KEYS[key].type,)):
        if isinstance(type_, inspect.LiteralType):
            assert all(f'"{value}"' in said for value in type_.values)
