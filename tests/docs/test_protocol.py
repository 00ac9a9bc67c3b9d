"""docs/protocol.md has every operation, parameter and key of `imgproto`, and no others."""

from __future__ import annotations

import re
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from imgproto import documents
from imgproto.operations import OPERATIONS, Operation
from imgproto.params import Among

from tests.docs.pages import PAGES

TEXT = PAGES["docs/protocol.md"]

#: The documents that have a name there, in italics.
NAMED: dict[str, Any] = {
    "image": documents.ImageDocument,
    "problem": documents.ProblemDocument,
    "job": documents.JobDocument,
    "plan": documents.PlanDocument,
    "usage": documents.UsageDocument,
    "entry": documents.EntryDocument,
    "finding": documents.FindingDocument,
    "status": documents.StatusDocument,
    "error": documents.ErrorDocument,
}


class Row(NamedTuple):
    params: str
    result: str
    who: str


def rows() -> dict[str, Row]:
    """The table of methods."""
    section = TEXT.partition("\n## Methods\n")[2]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {name.strip("`"): Row(*others) for name, *others in cells if len(others) == 3}


# -- shapes: `{uuid, images: [image], error?}` ---------------------------------------------------------------


class Shape(NamedTuple):
    """Fields with whether each is optional, and the shape of its value where one is given."""

    fields: dict[str, tuple[bool, Any]]


def parsed(text: str) -> Any:
    """A `Shape`, a list with one value, a word, or None for what is left out."""
    tokens = re.findall(r"[{}\[\],:?…]|[\w. ]*\w", " ".join(text.split()))
    value = _value(tokens)
    assert not tokens, f"{text}: {tokens} is left"
    return value


def _value(tokens: list[str]) -> Any:
    match tokens.pop(0):
        case "[":
            inner = [_value(tokens)]
            assert tokens.pop(0) == "]"
            return inner
        case "{":
            return _shape(tokens)
        case "…":
            return None
        case word:
            return word.strip()


def _shape(tokens: list[str]) -> Any:
    if tokens[0] == "…":
        del tokens[:2]
        return None
    fields: dict[str, tuple[bool, Any]] = {}
    while True:
        name, optional, value = tokens.pop(0).strip(), False, None
        if tokens[0] == "?":
            optional = bool(tokens.pop(0))
        if tokens[0] == ":":
            tokens.pop(0)
            value = _value(tokens)
        fields[name] = (optional, value)
        if tokens.pop(0) == "}":
            return Shape(fields)


def without_none(hint: Any) -> Any:
    others = [each for each in get_args(hint) if each is not NoneType]
    return others[0] if NoneType in get_args(hint) else hint


def compare(shape: Any, hint: Any, where: str) -> None:
    """The text's shape has the keys of the type, and the shapes of all maps in it."""
    hint = without_none(hint)
    if isinstance(shape, list):
        assert get_origin(hint) is list, where
        compare(shape[0], get_args(hint)[0], f"{where}[]")
    elif isinstance(shape, Shape):
        assert is_typeddict(hint), where
        optional = {name: name in hint.__optional_keys__ for name in hint.__annotations__}
        assert {name: each[0] for name, each in shape.fields.items()} == optional, where
        for name, field in get_type_hints(hint).items():
            compare(shape.fields[name][1], field, f"{where}.{name}")
    elif shape in NAMED:
        assert hint is NAMED[shape], where
    elif is_typeddict(hint):
        # An error is described once; a source is what `sources.list` has.
        assert hint in (documents.ErrorDocument, documents.SourceDocument), (
            f"{where} says nothing of its keys"
        )


def without_parentheses(text: str) -> str:
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return text


# -- the tests -----------------------------------------------------------------------------------------------


def test_the_table_has_all_operations():
    assert {name: row.who for name, row in rows().items()} == {
        name: operation.who for name, operation in OPERATIONS.items()
    }


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=[*OPERATIONS])
def test_the_parameters_of_an_operation(operation: Operation[Any, Any]):
    told, _, file = without_parentheses(rows()[operation.name].params).partition(";")
    named = {name: bool(optional) for name, optional in re.findall(r"`(\w+)`(\??)", told)}
    shape: Any = operation.params
    assert named == {name: name in shape.__optional_keys__ for name in shape.__annotations__}
    assert ("descriptor" in file) == operation.file


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=[*OPERATIONS])
def test_the_result_of_an_operation(operation: Operation[Any, Any]):
    told, hint = rows()[operation.name].result, operation.result
    assert told.startswith("array of ") == (get_origin(hint) is list)
    if get_origin(hint) is list:
        (hint,) = get_args(hint)
    shape, name = re.search(r"`(\{.*?\})`", told), re.match(r"(?:array of )?\*(\w+)\*", told)
    if is_typeddict(hint):
        assert shape or name, told
    if name is not None:
        assert hint is NAMED[name[1]]
    elif shape is not None:
        compare(parsed(shape[1]), hint, operation.name)


@pytest.mark.parametrize("name", [name for name in NAMED if name != "error"])
def test_a_document(name: str):
    (shape,) = re.findall(rf"^\*{name}\*: `(\{{[^`]*\}})`|\. \*{name}\*: `(\{{[^`]*\}})`", TEXT, re.MULTILINE)
    compare(parsed("".join(shape)), NAMED[name], name)


def test_an_error():
    (shape,) = re.findall(r"An error is `(\{[^`]*\})`", TEXT)
    compare(parsed(shape), documents.ErrorDocument, "error")


def test_where_names_are_looked_up():
    told = re.search(r"`among` \((.*?)\)", rows()["resolve"].params)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == set(get_args(Among))


def test_how_a_verified_image_may_be():
    table = TEXT.partition("| result | meaning |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(get_args(documents.Result))


@pytest.mark.parametrize(
    "wrong", ["{manifest}", "{manifest, zpool, source, clones?, cloneNames?, holds?}", "[image]", "job"]
)
def test_what_is_wrong_is_seen(wrong: str):
    with pytest.raises(AssertionError):
        compare(parsed(wrong), documents.ImageDocument, "image")
