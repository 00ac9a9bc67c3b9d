"""Which pointer of a site is believed."""

from __future__ import annotations

import msgspec
import pytest

from imgstored.site.layout import (
    Hashed,
    Index,
    Indexed,
    Item,
    Pointer,
    hashed,
    pages,
    parse_index,
    parse_pointer,
)
from imgstored.site.minisign import SecretKey, signed
from imgstored.site.trust import Seen, UntrustedError, believed, checked_index

ONE, TWO = SecretKey(b"1" * 8, b"1" * 32), SecretKey(b"2" * 8, b"2" * 32)
NOW = 1_800_000_000.0
UUID = "11111111-aaaa-4bbb-8ccc-000000000001"
INDEX = pages([Item(UUID, b"{}", Hashed("0" * 64, 1))], [], "x", signed=True).index


def pointer(version=5, until=NOW + 100, index=INDEX):
    return Pointer(version, int(until), hashed(index))


def text(*keys, of=None, index=INDEX):
    return "".join(signed(key, index, (of or pointer()).comment).text() for key in keys).encode()


def publics(*keys):
    return [key.public for key in keys]


def test_a_pointer_comes_back_as_it_was():
    assert parse_pointer(pointer().comment) == pointer()
    trusted = believed(text(ONE), publics(ONE), now=NOW, seen={})
    assert (trusted.pointer, trusted.key) == (pointer(), ONE.public)
    assert checked_index(trusted, INDEX).images[0].uuid == UUID


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "timestamp:1",
        pointer().comment + " ",
        pointer().comment.replace("imgstore site 1", "imgstore site 2"),
        pointer().comment.replace("version=5", "version=-5"),
        pointer().comment.replace("version=5", "version=٥"),
    ],
)
def test_other_comments_are_no_pointers(comment):
    with pytest.raises(ValueError, match="trusted comment"):
        parse_pointer(comment)


def test_the_newest_of_several_counts():
    data = text(ONE, of=pointer(7)) + text(TWO, of=pointer(8))
    assert believed(data, publics(ONE, TWO), now=NOW, seen={}).pointer.version == 8
    assert believed(data, publics(ONE), now=NOW, seen={}).pointer.version == 7


@pytest.mark.parametrize(
    ("seen", "fails"),
    [
        ({}, False),
        ({ONE: Seen(4, "a" * 64)}, False),
        ({ONE: Seen(5, hashed(INDEX).sha256)}, False),
        ({ONE: Seen(5, "a" * 64)}, True),
        ({ONE: Seen(6, hashed(INDEX).sha256)}, True),
        # What a key signed that is not trusted any more does not count.
        ({TWO: Seen(6, "a" * 64)}, False),
    ],
)
def test_versions_only_rise(seen, fails):
    by_key = {key.public.text: each for key, each in seen.items()}
    if fails:
        with pytest.raises(UntrustedError):
            believed(text(ONE), publics(ONE), now=NOW, seen=by_key)
    else:
        believed(text(ONE), publics(ONE), now=NOW, seen=by_key)


def test_what_another_trusted_key_signed_before_counts():
    seen = {TWO.public.text: Seen(6, "a" * 64)}
    with pytest.raises(UntrustedError, match="rolled back"):
        believed(text(ONE), publics(ONE, TWO), now=NOW, seen=seen)


def test_it_holds_until_its_date():
    until = NOW + 100
    believed(text(ONE, of=pointer(until=until)), publics(ONE), now=until, seen={})
    with pytest.raises(UntrustedError, match="out of date"):
        believed(text(ONE, of=pointer(until=until)), publics(ONE), now=until + 1000, seen={})


def test_an_index_that_cannot_be_read():
    for index in (b"", b"[]", b'{"list": 1}', INDEX.replace(UUID.encode(), UUID.encode() + b"\\n")):
        trusted = believed(text(ONE, of=pointer(index=index), index=index), publics(ONE), now=NOW, seen={})
        with pytest.raises(UntrustedError, match="cannot be read"):
            checked_index(trusted, index)


def test_an_image_twice_is_no_index():
    image = Indexed(UUID, Hashed("0" * 64, 1), Hashed("0" * 64, 1))
    data = msgspec.json.encode(Index(Hashed("0" * 64, 1), (image, image)))
    with pytest.raises(ValueError, match="twice"):
        parse_index(data)
