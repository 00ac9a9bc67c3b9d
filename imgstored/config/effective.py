"""The configuration that holds: each value, with its file and line, as TOML or as a document.

Secrets are hidden. Apart from them the TOML means the same as the files.
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
    from imgstored.config.text import KeyPath

DEFAULT: Final = "default"
#: Tables in which every value is a secret.
_SECRET_TABLES: Final = frozenset({"headers", "tokens"})
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class Value(msgspec.Struct, frozen=True):
    """One key. `at` is `FILE:LINE`, or `default`; docs/configuration.md says what a value of None means."""

    path: tuple[str | int, ...]
    value: Any
    at: str


def effective(settings: Config, files: Sequence[Path]) -> list[Value]:
    """All keys, first those outside tables. The settings come from `files`; `KNOWN` has their secrets."""
    lines = keyed_files(files)
    return [
        Value(path, _public(path, value), _file_and_line(path, lines))
        for path, value in sorted(_leaves(settings, ()), key=lambda leaf: len(leaf[0]) > 1)
    ]


def document(values: Sequence[Value]) -> list[dict[str, Any]]:
    """The document for programs: `{key, value, from}`."""
    return [{"key": written(each.path), "value": each.value, "from": each.at} for each in values]


def toml(values: Sequence[Value]) -> Iterator[str]:
    """The text for people: TOML, with the place of each value. A key without a value is a comment."""
    last: KeyPath = ()
    for each in values:
        *table, name = each.path
        if (*table,) != last:
            last = (*table,)
            yield ""
            yield _header(last)
        text = f"{name} =" if each.value is None else f"{name} = {_text(each.value)}"
        yield f"{'# ' if each.value is None else ''}{text}  # {each.at}"


class _Octal(int):
    """The mode of a file, which people read in octal digits."""


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, msgspec.Struct):
        types = get_type_hints(type(value), include_extras=True)
        for name in value.__struct_fields__:
            held = getattr(value, name)
            yield from _leaves(_Octal(held) if types[name] == Mode else held, (*path, name))
    elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
        for place, each in enumerate(value):
            yield from _leaves(each, (*path, place))
    else:
        yield path, value


def _file_and_line(path: KeyPath, lines: Mapping[str, Mapping[str, int]]) -> str:
    """The place of the key in the last file that has it; all of an array of tables comes from one file."""
    key = written(path)
    array = next((written(path[:at]) for at, step in enumerate(path) if isinstance(step, int)), None)
    for file, numbers in reversed([*lines.items()]):
        if key in numbers:
            return f"{file}:{numbers[key]}"
        if array is not None and any(each == array or each.startswith(f"{array}[") for each in numbers):
            break
    return DEFAULT


def _public(path: KeyPath, value: Any) -> Any:
    if isinstance(value, dict) and path[-1] in _SECRET_TABLES:
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, str):
        return redacted(KNOWN.hidden(value))
    return KNOWN.hidden_in(value) if isinstance(value, dict | list) else value


def _header(table: KeyPath) -> str:
    names = ".".join(str(step) for step in table if isinstance(step, str))
    return f"[[{names}]]" if isinstance(table[-1], int) else f"[{names}]"


def _text(value: Any) -> str:
    """The value as TOML. Its basic strings are JSON's, except for one character that JSON does not escape."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {_text(each)}" for name, each in value.items()) + " }"
    if isinstance(value, _Octal):
        return f"0o{value:o}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)
