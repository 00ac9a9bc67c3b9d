"""A configuration's text: the line of each key, and all its faults at once, with what was meant. Pure."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec import Struct, inspect

from imgstored.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    #: The way to a value: keys, and places in arrays.
    Way: TypeAlias = tuple[str | int, ...]

#: What tells where a statement of TOML ends: strings and comments hide brackets and line ends.
_TOKEN: Final = re.compile(
    r""""{3}(?:\\.|[^\\])*?"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}]|\n""",
    re.DOTALL,
)
MANUAL: Final = "`man imgstored.toml` lists all keys"


def written(way: Way) -> str:
    """The way as messages have it: `sources[0].url`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way)
    return text.removeprefix(".")


# -- lines ---------------------------------------------------------------------------------------------------


def lines(text: str) -> dict[str, int]:
    """The line (1 is the first) of each key and table of a TOML document; of the last one where it is in two.

    tomllib names no lines, so it gets each statement by itself. The text must be TOML.
    """
    found: dict[str, int] = {}
    places: dict[Way, int] = {}  # the last element of each array of tables
    table: Way = ()
    for number, statement in _statements(text):
        document = tomllib.loads(statement)
        header = re.match(r"\s*(\[\[?)", statement)
        if header is None:
            for way in _ways(document, table):
                found[written(way)] = number
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


def _placed(names: Sequence[str], places: Mapping[Way, int]) -> Way:
    """The way to a table: a name of an array of tables means its last element."""
    way: Way = ()
    for name in names:
        way = (*way, name)
        if way in places:
            way = (*way, places[way])
    return way


def _ways(value: Any, way: Way) -> Iterator[Way]:
    """The ways to all that is in a value, itself included unless it is the whole statement."""
    steps: Any = ()
    if isinstance(value, dict):
        steps = value.items()
    elif isinstance(value, list):
        steps = enumerate(value)
    for step, below in steps:
        yield (*way, step)
        yield from _ways(below, (*way, step))


# -- faults --------------------------------------------------------------------------------------------------


def faults(document: Mapping[str, Any], kind: type[Struct]) -> list[ConfigError]:
    """Lists all faults of a document of that kind, in its order; `data["key"]` is the path of one.

    msgspec alone ends at the first fault, and knows no names that are nearly right.
    """
    return [*_table_faults(document, inspect.type_info(kind), ())]


def _table_faults(table: Any, kind: inspect.Type, way: Way) -> Iterator[ConfigError]:
    assert isinstance(kind, inspect.StructType)
    fields = {field.name: field for field in kind.fields}
    for name, value in table.items():
        if name not in fields:
            yield _fault(f"unknown key: {written((*way, name))}", _meant(name, fields), (*way, name))
        else:
            yield from _value_faults(value, fields[name].type, kind.cls, (*way, name))
    for name, field in fields.items():
        if field.required and name not in table:
            yield _fault(f"missing key: {written((*way, name))}", MANUAL, way)


def _value_faults(value: Any, kind: inspect.Type, table: type, way: Way) -> Iterator[ConfigError]:
    struct, array = _tables_of(kind)
    if isinstance(value, dict) and struct is not None:
        yield from _table_faults(value, struct, way)
        return
    if isinstance(value, list) and value and array is not None:
        for place, each in enumerate(value):
            yield from _value_faults(each, array.item_type, table, (*way, place))
        return
    try:
        msgspec.convert({way[-1]: value} if isinstance(way[-1], str) else value, _alone(table, kind, way))
    except msgspec.ValidationError as error:
        what, below = _parted(str(error))
        # What is inside of a value that is checked as a whole, such as a table of headers.
        where = written(way) + (re.sub(r"^[^.\[]*", "", below) if isinstance(way[-1], str) else below)
        allowed = _allowed(kind)
        hint = _meant(value, allowed) if allowed and isinstance(value, str) else MANUAL
        yield _fault(f"{where}: {what[:1].lower()}{what[1:]}", hint, way)


def _alone(table: type, kind: inspect.Type, way: Way) -> Any:
    """A type that checks one key of a table, or one element of an array."""
    if isinstance(way[-1], int):
        return kind.cls if isinstance(kind, inspect.StructType) else Any
    annotated = msgspec.structs.fields(table)
    wanted = next(field.type for field in annotated if field.encode_name == way[-1])
    return msgspec.defstruct("Alone", [(str(way[-1]), wanted)])


def _tables_of(kind: inspect.Type) -> tuple[inspect.StructType | None, inspect.ListType | None]:
    """The table, and the array of tables, that a value of that type may be."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    struct = next((each for each in kinds if isinstance(each, inspect.StructType)), None)
    arrays = (each for each in kinds if isinstance(each, inspect.ListType))
    return struct, next((each for each in arrays if isinstance(each.item_type, inspect.StructType)), None)


def _allowed(kind: inspect.Type) -> list[str]:
    """The words that a value may be; none where it may be others, too."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return [str(word) for each in kinds if isinstance(each, inspect.LiteralType) for word in each.values]


def _meant(text: str, words: Any) -> str:
    """A hint: the word that is nearly that, or all there are."""
    import difflib

    near = difflib.get_close_matches(text, list(words), n=1, cutoff=0.6)
    known = ", ".join(words)
    return f"did you mean `{near[0]}`? There are: {known}" if near else f"there are: {known}"


def _parted(message: str) -> tuple[str, str]:
    """The message of msgspec and its place: ("Expected `int`, got `str`", "tries")."""
    match = re.fullmatch(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", message, re.DOTALL)
    assert match is not None
    return match[1].replace("`", ""), match[2] or ""


def _fault(message: str, hint: str, way: Way) -> ConfigError:
    return ConfigError(message, hint=hint, data={"key": written(way)})


def raise_all(found: Iterable[ConfigError]) -> None:
    """Raises the first of some faults, with the others beside it; nothing where there is none."""
    for first in (errors := [*found])[:1]:
        raise (first.beside(errors[1:]) if errors[1:] else first) from first.__cause__
