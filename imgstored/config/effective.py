"""The configuration that holds: each value, with the file and line that it is from, as TOML or as a document.

Secrets are hidden. Beside them the TOML means the same as the files.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import msgspec

from imgstored.config.loading import keyed_files
from imgstored.config.tables import Mode
from imgstored.config.text import written
from imgstored.http.secrets import HIDDEN, KNOWN, redacted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from imgstored.config.tables import Config
    from imgstored.config.text import Way

DEFAULT: Final = "default"
#: Tables of which every value is a secret.
_SECRET_TABLES: Final = frozenset({"headers", "tokens"})
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class Value(msgspec.Struct, frozen=True):
    """One key. `at` is `FILE:LINE`, or `default`; docs/configuration.md says what no value (None) means."""

    way: tuple[str | int, ...]
    value: Any
    at: str


def effective(settings: Config, files: Sequence[Path]) -> list[Value]:
    """All keys, those of no table first. `files` are what the settings are of. `KNOWN` has their secrets."""
    lines = keyed_files(files)
    return [
        Value(way, _public(way, value), _origin(way, lines))
        for way, value in sorted(_leaves(settings, ()), key=lambda leaf: len(leaf[0]) > 1)
    ]


def document(values: Sequence[Value]) -> list[dict[str, Any]]:
    """The document for programs: `{key, value, from}`."""
    return [{"key": written(each.way), "value": each.value, "from": each.at} for each in values]


def toml(values: Sequence[Value]) -> Iterator[str]:
    """The text for people: TOML, each value with its source behind it. A key without a value is a comment."""
    last: Way = ()
    for each in values:
        *table, name = each.way
        if (*table,) != last:
            last = (*table,)
            yield ""
            yield _header(last)
        text = f"{name} =" if each.value is None else f"{name} = {_text(each.value)}"
        yield f"{'# ' if each.value is None else ''}{text}  # {each.at}"


class _Octal(int):
    """The mode of a file, which people read in octal digits."""


def _leaves(value: Any, way: Way) -> Iterator[tuple[Way, Any]]:
    if isinstance(value, msgspec.Struct):
        types = get_type_hints(type(value), include_extras=True)
        for name in value.__struct_fields__:
            held = getattr(value, name)
            yield from _leaves(_Octal(held) if types[name] == Mode else held, (*way, name))
    elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
        for place, each in enumerate(value):
            yield from _leaves(each, (*way, place))
    else:
        yield way, value


def _origin(way: Way, lines: Mapping[str, Mapping[str, int]]) -> str:
    """The last file that has the key; an array of tables is wholly of the last file that has it."""
    key = written(way)
    array = next((written(way[:at]) for at, step in enumerate(way) if isinstance(step, int)), None)
    for file, numbers in reversed([*lines.items()]):
        if key in numbers:
            return f"{file}:{numbers[key]}"
        if array is not None and any(each == array or each.startswith(f"{array}[") for each in numbers):
            break
    return DEFAULT


def _public(way: Way, value: Any) -> Any:
    if isinstance(value, dict) and way[-1] in _SECRET_TABLES:
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, str):
        return redacted(KNOWN.hidden(value))
    return KNOWN.hidden_in(value) if isinstance(value, dict | list) else value


def _header(table: Way) -> str:
    names = ".".join(str(step) for step in table if isinstance(step, str))
    return f"[[{names}]]" if isinstance(table[-1], int) else f"[{names}]"


def _text(value: Any) -> str:
    """As TOML writes it; its basic strings are JSON's, but for a character that JSON leaves as it is."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {_text(each)}" for name, each in value.items()) + " }"
    if isinstance(value, _Octal):
        return f"0o{value:o}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)
