from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import DownloadError
from imgstored.hashing import Hasher, fingerprint
from imgstored.transfer.digest import Digest, Expected, digested, drain

UUID = "01b2c898-945f-11e1-a523-af1afbe22822"
DATA = b"the image's bytes"
SHA1 = hashlib.sha1(DATA).hexdigest()
OTHER = hashlib.sha1(b"other").hexdigest()


@given(blocks=st.lists(st.binary(max_size=5000), max_size=10))
def test_passes_the_blocks_on_and_hashes_them(blocks: list[bytes]) -> None:
    whole = b"".join(blocks)
    hasher = Hasher()
    digest = Digest(hasher)
    expected = Expected(UUID, len(whole), hashlib.sha1(whole).hexdigest())
    assert list(digested(blocks, expected, digest)) == blocks
    assert digest.size == len(whole)
    assert digest.sha1 == hashlib.sha1(whole).hexdigest()
    assert hasher.fingerprint() == fingerprint(whole)


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_takes_any_kind_of_bytes(view: type) -> None:
    assert drain(digested([view(DATA)], Expected(UUID, len(DATA), SHA1), Digest())) == len(DATA)


def test_compares_nothing_that_the_manifest_does_not_say() -> None:
    assert drain(digested([DATA], Expected(UUID), Digest())) == len(DATA)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            Expected(UUID, len(DATA), OTHER),
            f'image {UUID} file checksum (sha1) error: expected "{OTHER}", downloaded checksum was "{SHA1}"',
        ),
        (Expected(UUID, 99, SHA1), f"image {UUID} file size error: expected 99 bytes, downloaded 17 bytes"),
        (Expected(UUID, 16, SHA1), f"image {UUID} file size error: expected 16 bytes, downloaded 17 bytes"),
        (
            Expected(UUID, len(DATA), OTHER, path="/tmp/x.gz"),
            f'image file checksum (sha1) error: manifest says "{OTHER}", /tmp/x.gz is "{SHA1}"',
        ),
        (
            Expected(UUID, 99, SHA1, path="/tmp/x.gz"),
            "image file size error: manifest says 99 bytes, /tmp/x.gz is 17 bytes",
        ),
    ],
)
def test_says_what_differs_in_imgadms_words(expected: Expected, message: str) -> None:
    with pytest.raises(DownloadError, match=re.escape(message)) as caught:
        drain(digested([DATA], expected, Digest()))
    assert caught.value.hint


def test_more_than_expected_is_refused_before_it_is_passed_on() -> None:
    passing = digested([DATA, b"more", DATA], Expected(UUID, len(DATA)), Digest())
    assert next(passing) == DATA
    with pytest.raises(DownloadError, match="size error"):
        next(passing)
