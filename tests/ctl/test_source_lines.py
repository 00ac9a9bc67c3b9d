"""Image sources as lines that people edit."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.errors import UsageError
from imgctl.run.source_editor import parse_text, text_of


def source(url: str, kind: str = "imgapi", **fields: object) -> dict[str, object]:
    return {"url": url, "type": kind, "insecure": False, "channel": None, **fields}


words = st.from_regex(r"[A-Za-z0-9:/._?=&-]{1,30}", fullmatch=True)
sources = st.builds(
    source,
    words,
    st.sampled_from(["imgapi", "dsapi", "static", "oci"]),
    insecure=st.booleans(),
    channel=st.none() | st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True),
)


@given(st.lists(sources, max_size=5))
def test_what_is_written_is_read_again(given_sources):
    read = parse_text(text_of(given_sources))
    assert len(read) == len(given_sources)
    for one, other in zip(read, given_sources, strict=True):
        if one["channel"] is None and other["channel"] is not None:
            assert f"channel={other['channel']}" in other["url"]  # there it is said already
            other = {**other, "channel": None}
        assert one == other


@given(st.text(max_size=200))
def test_any_text_is_sources_or_an_error_for_people(text):
    with suppress(UsageError):
        assert all(source["url"] for source in parse_text(text))


def test_lines_comments_and_defaults():
    text = "# all\n\nhttp://a\n http://b  dsapi # old\nhttp://c static insecure,channel=dev\n"
    assert parse_text(text) == [
        source("http://a"),
        source("http://b", "dsapi"),
        source("http://c", "static", insecure=True, channel="dev"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("http://a imgapi secure", "unknown source option: secure"),
        ("http://a imgapi channel=", "unknown source option: channel="),
        ("http://a imgapi insecure x", "not an image source: http://a imgapi insecure x"),
    ],
)
def test_what_is_wrong_is_named(line, message):
    with pytest.raises(UsageError) as caught:
        parse_text(line)
    assert caught.value.message == message


def test_nothing_in_a_line_steers_a_terminal():
    assert "\x1b" not in text_of([source("http://a\x1b[31m")])
