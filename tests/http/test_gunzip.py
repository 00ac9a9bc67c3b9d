from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.http import gunzip
from imgstored.http.gunzip import Body, NotGzipError, TooLargeError, TooManyPiecesError


def fed(data: bytes, step: int, *, limit: int = 1 << 20, zipped: bool = True) -> bytes:
    body = Body(limit, gzip=zipped)
    for start in range(0, len(data), step):
        body.feed(data[start : start + step])
    return body.finish()


@given(st.lists(st.binary(max_size=2000), max_size=4), st.integers(1, 500))
def test_members_come_out_as_they_went_in(parts, step):
    assert fed(b"".join(gzip.compress(part) for part in parts), step) == b"".join(parts)
    assert fed(b"".join(parts), step, zipped=False) == b"".join(parts)


@given(st.binary(max_size=3000), st.integers(1, 500))
def test_any_bytes_are_decoded_or_refused(data, step):
    try:
        fed(data, step, limit=1000)
    except (NotGzipError, TooLargeError):
        return
    assert len(data) <= 1000


@pytest.mark.parametrize("cut", [1, 5, 10, 30])
def test_an_end_in_the_middle_is_noticed(cut):
    with pytest.raises(NotGzipError):
        fed(gzip.compress(bytes(range(256)))[:-cut], 7)


def test_rubbish_after_the_end_is_noticed():
    with pytest.raises(NotGzipError):
        fed(gzip.compress(b"x") + b"rubbish", 1000)


def test_a_bomb_does_not_go_off():
    with pytest.raises(TooLargeError):
        fed(gzip.compress(bytes(50 << 20)), 1 << 16)


def test_many_empty_members_are_bounded_by_what_was_taken():
    with pytest.raises(TooLargeError):
        fed(gzip.compress(b"") * 1000, 1 << 16, limit=1000)


def test_a_body_in_single_bytes_is_bounded_and_one_in_sound_pieces_is_not(monkeypatch):
    monkeypatch.setattr(gunzip, "_PIECES", 100)
    assert fed(bytes(100), 1, zipped=False) == bytes(100)
    with pytest.raises(TooManyPiecesError):
        fed(bytes(102), 1, zipped=False)
    assert len(fed(bytes(1 << 20), 1 << 10, zipped=False)) == 1 << 20
