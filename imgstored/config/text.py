"""The text of a configuration: the line of each key, and all faults at once, with suggestions. Pure."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec import Struct, inspect

from imgstored.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    #: Leads to a value: keys, and places in arrays.
    KeyPath: TypeAlias = tuple[str | int, ...]

#: Finds where a statement of TOML ends: brackets and line ends in strings and comments do not count.
_TOKEN: Final = re.compile(
    r""""{3}(?:\\.|[^\\])*?"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}]|\n""",
    re.DOTALL,
)
MANUAL: Final = "`man imgstored.toml` lists all keys"


def written(path: KeyPath) -> str:
    """The path as messages have it: `sources[0].url`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


# -- lines ---------------------------------------------------------------------------------------------------


def lines(text: str) -> dict[str, int]:
    """The line (1 is the first) of each key and table of a TOML document; of a repeated one the last line.

    tomllib names no lines, so it parses each statement separately. The text must be TOML.
    """
    found: dict[str, int] = {}
    places: dict[KeyPath, int] = {}  # the last element of each array of tables
    table: KeyPath = ()
    for number, statement in _statements(text):
        document = tomllib.loads(statement)
        header = re.match(r"\s*(\[\[?)", statement)
        if header is None:
            for path in _paths(document, table):
                found[written(path)] = number
            continue
        names = _names(document)
        if header[1] == "[[":
            above = _placed(names[:-1], places)
            places[(*above, names[-1])] = places.get((*above, names[-1]), -1) + 1
        table = _placed(names, places)
        found[written(table)] = number
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement, with the number of its first line: it ends with a line that closes all brackets."""
    start, first, number, depth = 0, 1, 1, 0
    for token in _TOKEN.finditer(f"{text}\n"):
        word = token[0]
        depth += (word in "[{") - (word in "]}")
        number += word.count("\n")
        if word == "\n" and depth == 0:
            yield first, text[start : token.end()]
            start, first = token.end(), number


def _names(document: Any) -> list[str]:
    """The names of a header: each of its tables has only the next one."""
    names = []
    while document:
        document = document[0] if isinstance(document, list) else document
        name, document = next(iter(document.items()), ("", None))
        names.append(name)
        if document == [{}]:
            break
    return names


def _placed(names: Sequence[str], places: Mapping[KeyPath, int]) -> KeyPath:
    """The path of a table: a name of an array of tables means its last element."""
    path: KeyPath = ()
    for name in names:
        path = (*path, name)
        if path in places:
            path = (*path, places[path])
    return path


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of everything in a value."""
    steps: Any = ()
    if isinstance(value, dict):
        steps = value.items()
    elif isinstance(value, list):
        steps = enumerate(value)
    for step, below in steps:
        yield (*path, step)
        yield from _paths(below, (*path, step))


# -- faults --------------------------------------------------------------------------------------------------


def faults(document: Mapping[str, Any], kind: type[Struct]) -> list[ConfigError]:
    """Lists all faults of a document of that kind, in its order; `data["key"]` is the path of one.

    msgspec by itself ends at the first fault, and suggests no similar name.
    """
    return [*_table_faults(document, _described(kind), ())]


@cache
def _described(kind: type[Struct]) -> inspect.Type:
    """The description of a type: making it takes longer than all else that a start does with its files."""
    return inspect.type_info(kind)


def _table_faults(table: Any, kind: inspect.Type, path: KeyPath) -> Iterator[ConfigError]:
    assert isinstance(kind, inspect.StructType)
    fields = {field.name: field for field in kind.fields}
    for name, value in table.items():
        if name not in fields:
            yield _fault(f"unknown key: {written((*path, name))}", _meant(name, fields), (*path, name))
        else:
            yield from _value_faults(value, fields[name].type, kind.cls, (*path, name))
    for name, field in fields.items():
        if field.required and name not in table:
            yield _fault(f"missing key: {written((*path, name))}", MANUAL, path)


def _value_faults(value: Any, kind: inspect.Type, table: type, path: KeyPath) -> Iterator[ConfigError]:
    struct, array = _tables_of(kind)
    if isinstance(value, dict) and struct is not None:
        yield from _table_faults(value, struct, path)
        return
    if isinstance(value, list) and value and array is not None:
        for place, each in enumerate(value):
            yield from _value_faults(each, array.item_type, table, (*path, place))
        return
    if isinstance(value, dict) and array is not None:
        yield _fault(
            f"{written(path)}: expected a list of tables", f"write [[{path[-1]}]], one for each", path
        )
        return
    try:
        msgspec.convert({path[-1]: value} if isinstance(path[-1], str) else value, _alone(table, kind, path))
    except msgspec.ValidationError as error:
        what, below = _parted(str(error))
        # The fault may lie inside a value that is checked as a whole, such as a table of headers.
        where = written(path) + (re.sub(r"^[^.\[]*", "", below) if isinstance(path[-1], str) else below)
        allowed = _allowed(kind)
        hint = _meant(value, allowed) if allowed and isinstance(value, str) else MANUAL
        if struct is not None and array is None and isinstance(value, list) and isinstance(path[-1], str):
            hint = f"write [{path[-1]}]: there is one such table"
        yield _fault(f"{where}: {_in_words_of_toml(what)}", hint, path)


def _alone(table: type, kind: inspect.Type, path: KeyPath) -> Any:
    """A type that checks one key of a table, or one element of an array."""
    if isinstance(path[-1], int):
        return kind.cls if isinstance(kind, inspect.StructType) else Any
    return _one_key(table, path[-1])


@cache
def _one_key(table: type, key: str) -> type[msgspec.Struct]:
    """A table with that key alone, which `table` has."""
    annotated = msgspec.structs.fields(table)
    wanted = next(field.type for field in annotated if field.encode_name == key)
    return msgspec.defstruct("Alone", [(key, wanted)])


def _tables_of(kind: inspect.Type) -> tuple[inspect.StructType | None, inspect.ListType | None]:
    """The table, and the array of tables, that a value of that type may be."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    struct = next((each for each in kinds if isinstance(each, inspect.StructType)), None)
    arrays = (each for each in kinds if isinstance(each, inspect.ListType))
    return struct, next((each for each in arrays if isinstance(each.item_type, inspect.StructType)), None)


def _allowed(kind: inspect.Type) -> list[str]:
    """The words that a value may be; none if it may also be something else."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return [str(word) for each in kinds if isinstance(each, inspect.LiteralType) for word in each.values]


def _meant(text: str, words: Any) -> str:
    """A hint: the most similar word, and all words."""
    import difflib

    near = difflib.get_close_matches(text, list(words), n=1, cutoff=0.6)
    known = ", ".join(words)
    return f"did you mean `{near[0]}`? There are: {known}" if near else f"there are: {known}"


def _parted(message: str) -> tuple[str, str]:
    """The message of msgspec and its place: ("Expected `int`, got `str`", "tries")."""
    match = re.fullmatch(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", message, re.DOTALL)
    assert match is not None
    return match[1].replace("`", ""), match[2] or ""


_MEMBER: Final = r"(?:int|float|str|bool|object|array|null)"
#: What msgspec expects and got: "Expected `int | null`", "got `object`".
_TYPES: Final = re.compile(rf"\b((?:[Ee]xpected|got) )({_MEMBER}(?: \| {_MEMBER})*)\b")
_WORDS: Final = {
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "bool": "a boolean",
    "object": "a table",
    "array": "a list",
}


def _in_words_of_toml(message: str) -> str:
    """A message of msgspec, which has the words of JSON and of Python for types."""

    def worded(match: re.Match[str]) -> str:
        return match[1] + " or ".join(_WORDS[each] for each in match[2].split(" | ") if each in _WORDS)

    found = _TYPES.sub(worded, message)
    return found[:1].lower() + found[1:]


def _fault(message: str, hint: str, path: KeyPath) -> ConfigError:
    return ConfigError(message, hint=hint, data={"key": written(path)})


def raise_all(found: Iterable[ConfigError]) -> None:
    """Raises the first fault, with the others in its data. Does nothing if there is none."""
    for first in (errors := [*found])[:1]:
        raise (first.with_others(errors[1:]) if errors[1:] else first) from first.__cause__
