from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.view.names import component

#: Any text at all, also what UTF-8 cannot say, and long.
TEXTS = st.text(st.characters(codec=None), max_size=400) | st.text("./%~\0\n\ud800é2EF", max_size=300)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base-64", b"base-64"),
        ("My image 1.0_b", b"My image 1.0_b"),
        ("a/b", b"a%2Fb"),
        ("../../etc", b"..%2F..%2Fetc"),
        ("100%", b"100%25"),
        (".", b"%2E"),
        ("..", b"%2E%2E"),
        ("...", b"..."),
        (".hidden", b".hidden"),
        ("", b"%"),
        ("a\0b\n\x7f\x85", b"a%00b%0A%7F%C2%85"),
        ("\ud800", b"%ED%A0%80"),
        ("größe", "größe".encode()),
        ("x" * 255, b"x" * 255),
    ],
)
def test_name_and_component(name, expected):
    assert component(name) == expected


def test_a_long_name_is_shortened_and_told_from_others():
    names = ["ä" * 128, "ä" * 129, "ä" * 128 + "/", "/" * 86]
    components = [component(name) for name in names]
    assert len(set(components)) == len(names)
    for short in components:
        assert len(short) <= 255
        assert re.fullmatch("(ä|%2F)+%~[0-9a-f]{32}", short.decode())
    assert component(names[0]) == components[0]


@settings(max_examples=300)
@given(TEXTS)
def test_always_one_safe_component(name):
    encoded = component(name)
    assert 1 <= len(encoded) <= 255
    assert encoded not in {b".", b".."}
    assert b"/" not in encoded
    assert all(byte >= 0x20 and byte != 0x7F for byte in encoded)
    encoded.decode("utf-8")


@settings(max_examples=300)
@given(TEXTS, TEXTS)
def test_different_names_have_different_components(one, other):
    assert (component(one) == component(other)) == (one == other)
