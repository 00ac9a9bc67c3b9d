from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl import javascript

from tests.ctl.test_table import json_values


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("", 0),
        (" 12 ", 12),
        ("1e3", 1000),
        ("0x10", 16),
        ("0b2", None),
        ("0x", None),
        ("0x-1", None),
        ("1_000", None),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        ("inf", None),
        ("NaN", None),
        ("\u0661", None),
        ("2026-11-24", None),
        (True, 1),
        (None, None),
        ([], None),
        (math.nan, None),
        (7, 7),
    ],
)
def test_number(value, number):
    assert javascript.number(value) == number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, "null"),
        (2.0, "2"),
        (-3, "-3"),
        (0.5, "0.5"),
        (["a", None, 1], "a,,1"),
        ({}, "[object Object]"),
    ],
)
def test_text(value, text):
    assert javascript.text(value) == text


@given(json_values)
def test_every_value_has_a_text_and_is_a_number_or_not(value):
    assert isinstance(javascript.text(value), str)
    number = javascript.number(value)
    assert number is None or not math.isnan(number)


@given(st.integers(-(2**53), 2**53))
def test_integers_come_back(value):
    assert javascript.number(javascript.text(value)) == value
