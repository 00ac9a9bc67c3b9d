from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import UsageError
from imgstored.rpc.params import Params, printable

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

GETTERS = {
    "text": lambda value: isinstance(value, str),
    "optional_text": lambda value: value is None or isinstance(value, str),
    "texts": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "optional_texts": lambda value: (
        value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    ),
    "flag": lambda value: value is None or isinstance(value, bool),
    "number": lambda value: type(value) is int,
    "optional_number": lambda value: value is None or type(value) is int,
    "mapping": lambda value: isinstance(value, dict),
    "mappings": lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
}


@given(st.sampled_from(sorted(GETTERS)), values)
def test_a_getter_gives_what_was_sent_or_refuses_it_by_name(getter, value):
    params = Params("method", {"it": value})
    if GETTERS[getter](value):
        assert getattr(params, getter)("it") == (value if getter != "flag" else bool(value))
        return
    with pytest.raises(UsageError) as caught:
        getattr(params, getter)("it")
    assert caught.value.message.startswith('method: the parameter "it" ')


@pytest.mark.parametrize("values_", [{}, {"it": None}])
def test_nil_counts_as_left_out(values_):
    params = Params("method", values_)
    assert params.optional_text("it") is None
    assert params.optional_texts("it") is None
    assert params.flag("it") is False
    for getter in ("text", "texts", "number", "mapping", "mappings"):
        with pytest.raises(UsageError, match='method: the parameter "it" is missing'):
            getattr(params, getter)("it")


def test_what_comes_out_is_a_copy():
    sent = {"list": ["a"], "map": {"a": 1}}
    params = Params("method", sent)
    params.texts("list").append("b")
    params.mapping("map")["b"] = 2
    assert sent == {"list": ["a"], "map": {"a": 1}}


@given(st.dictionaries(st.text(max_size=60), st.none(), max_size=5), st.sets(st.text(max_size=5)))
def test_unknown_parameters_are_refused(sent, known):
    params = Params("method", sent)
    if set(sent) <= known:
        params.check_known(known)
        return
    with pytest.raises(UsageError, match="method: unknown parameter") as caught:
        params.check_known(known)
    assert len(caught.value.message) < 90
    assert caught.value.message.isprintable()


@given(st.text(max_size=40), st.integers(0, 20))
def test_printable(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert printable(shown, limit) == shown
    if text.isprintable() and len(text) <= limit and text == text.strip():
        assert shown == text
