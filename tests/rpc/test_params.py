from __future__ import annotations

from typing import Any, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgproto.operations import OPERATIONS

from imgstored.errors import UsageError
from imgstored.rpc import params as params_module
from imgstored.rpc.params import checked, printable

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def all_are(kind, value):
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


#: What a parameter of each type may be, and how a message calls it.
TYPES = {
    str: (lambda value: isinstance(value, str), "a string"),
    list[str]: (lambda value: all_are(str, value), "an array of strings"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: type(value) is int, "an integer"),
    dict[str, Any]: (lambda value: isinstance(value, dict), "a map"),
    list[dict[str, Any]]: (lambda value: all_are(dict, value), "an array of maps"),
}
NEEDED = {kind: TypedDict("Needed", {"it": kind}) for kind in TYPES}
OPTIONAL = {kind: TypedDict("Optional", {"it": NotRequired[kind | None]}) for kind in TYPES}


@given(st.sampled_from([*TYPES]), st.booleans(), values)
def test_a_parameter_is_what_was_sent_or_is_refused_by_name(kind, needed, value):
    fits, words = TYPES[kind]
    shape = (NEEDED if needed else OPTIONAL)[kind]
    if fits(value) or (value is None and not needed):
        # As text, for what is no number equals nothing.
        assert repr(checked("method", shape, {"it": value})) == repr({} if value is None else {"it": value})
        return
    with pytest.raises(UsageError) as caught:
        checked("method", shape, {"it": value})
    wrong = "is missing" if value is None else f"must be {words}"
    assert caught.value.message == f'method: the parameter "it" {wrong}'


@pytest.mark.parametrize("values_", [{}, {"it": None}])
@pytest.mark.parametrize("kind", TYPES)
def test_nil_counts_as_left_out(values_, kind):
    assert checked("method", OPTIONAL[kind], values_) == {}
    with pytest.raises(UsageError, match='method: the parameter "it" is missing'):
        checked("method", NEEDED[kind], values_)


def test_what_comes_out_is_a_copy():
    sent = {"list": ["a"], "map": {"a": 1}}
    params = checked("method", TypedDict("Both", {"list": list[str], "map": dict[str, Any]}), sent)
    params["list"].append("b")
    params["map"]["b"] = 2
    assert sent == {"list": ["a"], "map": {"a": 1}}


@given(st.dictionaries(st.text(max_size=60), st.none(), max_size=5), st.sets(st.text(max_size=5)))
def test_unknown_parameters_are_refused(sent, known):
    shape = TypedDict("Known", dict.fromkeys(known, NotRequired[Any]))
    if set(sent) <= known:
        assert checked("method", shape, sent) == {}
        return
    with pytest.raises(UsageError, match="method: unknown parameter") as caught:
        checked("method", shape, sent)
    assert len(caught.value.message) < 90
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=[*OPERATIONS])
def test_a_message_can_name_the_type_of_every_parameter(operation):
    fields = params_module._fields(operation.params)
    assert {name for name, field in fields.items() if field.type not in params_module._WORDS} == set()


@given(st.text(max_size=40), st.integers(0, 20))
def test_printable(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert printable(shown, limit) == shown
    if text.isprintable() and len(text) <= limit and text == text.strip():
        assert shown == text
