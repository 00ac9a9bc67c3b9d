from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.errors import CommandError
from imgctl.text import error_text, paragraph, printable, safe_json, share_cell, size

any_text = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (99, "99.0 B"),
        (1023, "1023.0 B"),
        (1638, "1.5 KiB"),
        (1_851_100, "1.7 MiB"),
        (210_207, "205.2 KiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes_are_imgadms(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9 \u65e5", "plain \u00e9 \u65e5"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\u202etxt", "\\u202etxt"),
        ("a\r\nb", "a\\r\\nb"),
        ("\udc80", "\\udc80"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


@given(any_text)
def test_printable_is_printable(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()


@given(any_text)
def test_a_message_never_begins_a_second_line_at_the_margin(message):
    first, *others = paragraph(message).split("\n")
    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in others)


@given(
    st.recursive(any_text | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(any_text, inner))
)
def test_safe_json_is_the_same_json(value):
    text = safe_json(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(text) == value
    assert all(line.isprintable() for line in text.split("\n"))


def test_an_error_with_others_and_a_hint():
    others = [{"code": "A", "message": "one"}, {"code": "B", "message": "two\nlines"}, "odd"]
    error = CommandError("A", "one", "do this", data={"others": others})
    assert error_text("imgctl", "import", error).split("\n") == [
        "imgctl import: error (A): one",
        "    error (B): two",
        "    lines",
        "  hint: do this",
    ]


def test_an_error_without_a_command_or_a_code():
    assert error_text("imgadm", "", CommandError("", "no")) == "imgadm: error: no"


@pytest.mark.parametrize(
    ("fraction", "done", "total", "shown"),
    [
        (0.424, 100, 100, "42%"),
        (0.9999, 100, 100, "99%"),
        (1.0, 100, 100, "100%"),
        (None, 25, 100, "25%"),  # an older daemon
        (None, 2048, None, "2.0 KiB"),
        (None, None, None, None),
    ],
)
def test_how_far_an_import_is(fraction, done, total, shown):
    assert share_cell(fraction, done, total) == shown
