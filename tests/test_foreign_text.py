from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgstored.foreign_text import one_line, printable, shortened

TEXTS = st.text() | st.text("\x1b[0m\n\r\x07\u202e\x9b \tab\ud800")


@given(TEXTS)
def test_a_printable_text_keeps_its_length_and_what_can_be_printed(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert all(new in (old, "?") for old, new in zip(text, shown, strict=True))
    assert printable(shown) == shown


@given(TEXTS | st.binary())
def test_one_line_has_no_ends_of_lines_and_single_spaces(text):
    line = one_line(text)
    assert line.isprintable()
    assert "  " not in line
    assert line == line.strip()


@given(st.text(), st.integers(1, 50))
def test_a_text_is_shortened_to_the_limit(text, limit):
    short = shortened(text, limit)
    assert len(short) <= limit
    assert short == text if len(text) <= limit else short == text[: limit - 1] + "…"
