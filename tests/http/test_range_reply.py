from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgstored.http.range_reply import FetchError, RangeReply, read_reply

DATE = "Tue, 24 Nov 2026 09:00:00 GMT"
OLD = "Mon, 23 Nov 2026 09:00:00 GMT"
ETAG = '"abc"'


def read(status: int, start: int = 100, stop: int | None = 200, **headers: str) -> RangeReply:
    return read_reply(
        status, [(name.replace("_", "-"), value) for name, value in headers.items()], start, stop
    )


def test_a_sound_part():
    reply = read(206, Content_Range="bytes 100-199/1000", Content_Length="100", ETag=ETAG)
    assert reply == RangeReply(True, 100, 200, 1000, ETAG)


def test_a_part_that_ends_with_the_file():
    assert read(206, Content_Range="bytes 100-149/150").stop == 150
    assert read(206, stop=None, Content_Range="bytes 100-149/150").stop == 150


def test_a_part_of_a_file_of_unknown_size():
    assert read(206, Content_Range="bytes 100-199/*") == RangeReply(True, 100, 200, None, None)


def test_the_whole_file():
    assert read(200, Content_Length="1000") == RangeReply(False, 0, 1000, 1000, None)
    assert read(200, Transfer_Encoding="chunked") == RangeReply(False, 0, None, None, None)
    # RFC 9112, 6.3: Transfer-Encoding overrides Content-Length.
    assert read(200, Transfer_Encoding="chunked", Content_Length="5").total is None


@pytest.mark.parametrize("blank", [" ", "\t", "\x1c", "\x1d", "\x1f", "\x85", "\xa0"])
def test_blanks_around_a_length(blank):
    """Some of them `int` takes no more than a letter."""
    assert read(200, Content_Length=f"{blank}5{blank}").stop == 5
    for inside in (f"5{blank}5", blank, "²", "5_0", "+5"):
        with pytest.raises(FetchError, match="Content-Length"):
            read(200, Content_Length=inside)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Range": "bytes 0-99/1000"},
        {"Content_Range": "bytes 200-299/1000"},
        {"Content_Range": "bytes 101-199/1000"},
        {"Content_Range": "bytes 100-199/150"},
        {"Content_Range": "bytes 199-100/1000"},
        {"Content_Range": "bytes */1000"},
        {"Content_Range": "100-199/1000"},
        {"Content_Range": "bytes 100-199/1000x"},
        {"Content_Range": "bytes +100-199/1000"},
        {"Content_Range": f"bytes 100-199/{'9' * 30}"},
        {},
        {"Content_Range": "bytes 100-199/1000", "Content_Length": "99"},
        {"Content_Range": "bytes 100-199/1000", "Content_Length": "ten"},
        {"Content_Range": "bytes=100-198/1000", "Content_Length": "98"},
        {"Content_Range": "bytes 100-201/1000", "Content_Length": "101"},
        {"Content_Length": "99"},
        {"Content_Type": "multipart/byteranges; boundary=x"},
    ],
)
def test_a_lie_about_the_range_is_a_passing_fault(headers):
    with pytest.raises(FetchError) as caught:
        read(206, **headers)
    assert not caught.value.lasting
    # A number that is none says nothing about ranges.
    assert caught.value.ranges == (headers.get("Content_Length") != "ten")


@pytest.mark.parametrize(
    ("headers", "first", "end", "total"),
    [
        # RFC 9110, 15.3.7: what a server may send instead.
        ({"Content_Range": "bytes 100-198/1000"}, 100, 199, 1000),
        ({"Content_Range": "bytes 100-100/1000"}, 100, 101, 1000),
        ({"Content_Range": "bytes 100-299/1000"}, 100, 300, 1000),
        ({"Content_Range": "bytes 50-199/1000"}, 50, 200, 1000),
        ({"Content_Range": "bytes 0-149/1000", "Content_Length": "150"}, 0, 150, 1000),
        ({"Content_Range": "bytes 100-199/1000", "Content_Encoding": "gzip"}, 100, 200, 1000),
        # What servers write instead, where the number of bytes proves what they mean.
        ({"Content_Range": "bytes=100-199/1000"}, 100, 200, 1000),
        ({"Content_Range": "bytes: 100-199/1000"}, 100, 200, 1000),
        ({"Content_Range": "BYTES  100-199/*"}, 100, 200, None),
        ({"Content_Range": "100-199/1000", "Content_Length": "100"}, 100, 200, 1000),
        ({"Content_Range": "bytes 100-200/1000", "Content_Length": "100"}, 100, 200, 1000),
        ({"Content_Range": "bytes=100-200/200", "Content_Length": "100"}, 100, 200, 200),
        ({"Content_Range": "bytes 100-150/150"}, 100, 150, 150),
        ({"Content_Length": "100"}, 100, 200, None),
    ],
)
def test_a_part_with_the_first_byte_that_was_asked_for(headers, first, end, total):
    reply = read(206, **headers)
    assert (reply.partial, reply.start, reply.stop, reply.total) == (True, first, end, total)


def test_a_part_that_is_the_whole_file():
    reply = read(206, Content_Range="bytes 0-999/1000", Content_Length="1000")
    assert (reply.partial, reply.start, reply.stop, reply.total) == (False, 0, 1000, 1000)
    # Unless just that was asked for: the server has ranges, then.
    assert read(206, 0, 1000, Content_Range="bytes 0-999/1000").partial
    assert not read(206, 0, None, Content_Range="bytes 0-999/1000").partial


def test_headers_that_contradict_each_other():
    fields = [("Content-Length", "100"), ("content-length", "101")]
    with pytest.raises(FetchError, match="contradicts itself"):
        read_reply(200, fields, 0, None)


@pytest.mark.parametrize(
    ("status", "lasting", "words"),
    [
        (401, True, "access is refused"),
        (403, True, "access is refused"),
        (404, True, "not there"),
        (410, True, "status 410"),
        (420, False, "status 420"),
        (421, False, "status 421"),
        (509, False, "status 509"),
        (529, False, "status 529"),
        (204, True, "status 204"),
        (304, True, "status 304"),
        (429, False, "status 429"),
        (500, False, "status 500"),
        (503, False, "status 503"),
    ],
)
def test_refusals(status, lasting, words):
    with pytest.raises(FetchError, match=words) as caught:
        read(status, Retry_After="3")
    assert caught.value.lasting is lasting
    if status == 503:
        assert caught.value.retry_after == 3


def test_a_range_beyond_the_end_says_how_large_the_file_is():
    with pytest.raises(FetchError, match="the file has 50 bytes"):
        read(416, Content_Range="bytes */50")


@pytest.mark.parametrize("content_range", ["bytes */101", "bytes */*", ""])
def test_a_refused_range_that_the_file_has_is_no_sign_of_its_size(content_range):
    with pytest.raises(FetchError, match=r"\(416\)") as caught:
        read(416, Content_Range=content_range)
    assert (caught.value.ranges, caught.value.other_size, caught.value.lasting) == (True, False, True)


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501])
def test_a_refusal_that_may_be_meant_for_the_range(status):
    with pytest.raises(FetchError, match=str(status)) as caught:
        read(status)
    assert caught.value.ranges
    assert not caught.value.without_ranges().ranges


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": ETAG}, ETAG),
        ({"ETag": 'W/"abc"'}, None),
        ({"ETag": "abc"}, None),
        ({"ETag": ETAG, "Last_Modified": OLD, "Date": DATE}, ETAG),
        ({"Last_Modified": OLD, "Date": DATE}, OLD),
        ({"Last_Modified": OLD}, None),
        ({"Last_Modified": DATE, "Date": DATE}, None),  # may change again within the second
        ({"Last_Modified": "yesterday", "Date": DATE}, None),
    ],
)
def test_only_what_names_one_state_for_sure_is_a_validator(headers, validator):
    assert read(200, Content_Length="1", **headers).validator == validator


NAMES = [
    "Content-Range",
    "Content-Length",
    "Content-Encoding",
    "Content-Type",
    "ETag",
    "Last-Modified",
    "Date",
]
VALUES = st.text(max_size=40) | st.from_regex(r"bytes [0-9]{1,3}-[0-9]{1,3}/([0-9]{1,4}|\*)", fullmatch=True)


@given(
    st.sampled_from([200, 206, 416, 500]),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=5),
    st.integers(0, 500),
    st.integers(1, 500),
)
@example(206, [("Content-Range", "bytes 5-9/10")], 5, 5)
def test_any_head_is_refused_or_is_about_what_was_asked(status, fields, start, length):
    try:
        reply = read_reply(status, fields, start, start + length)
    except FetchError:
        return
    if reply.partial:
        assert reply.stop is not None
        assert reply.start <= start < reply.stop
        assert reply.total is None or reply.stop <= reply.total
    else:
        assert (reply.start, reply.stop) == (0, reply.total)
