from __future__ import annotations

import contextlib
import json
import time
import tracemalloc
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import InvalidManifestError
from imgstored.manifest import (
    MAX_DEPTH,
    MAX_LIST,
    MAX_MANIFEST,
    Damaged,
    decoded,
    parse,
    parse_entries,
    parse_list,
)
from imgstored.manifest import document as decoder
from imgstored.manifest.document import MAX_MANIFEST_VALUES, MAX_VALUES, check_document

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.text('[]{}",:\\u0', max_size=20)
)
keys = st.text(st.characters(codec="utf-8"), max_size=5) | st.text('[]{}"\\', max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=6)
)
objects = st.dictionaries(keys, values, max_size=6)
arrays = st.lists(values, max_size=6)


def depth_of(value: object) -> int:
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0


@given(objects, st.booleans(), st.sampled_from([None, 2]))
def test_what_json_writes_is_read_back(document, ascii_only, indent):
    data = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    assert parse(data) == document
    check_document(document)


@given(arrays)
def test_a_list_is_read_back(document):
    assert parse_list(json.dumps(document).encode()) == document


@given(objects, st.integers(1, 20))
def test_how_it_is_cut_up_for_the_scan_changes_nothing(document, piece):
    plain = json.dumps(document).encode().replace(b"\\\\", b"").replace(b'\\"', b"")
    with mock.patch.object(decoder, "_PIECE", piece):
        pieces = decoder._structure(plain)
    assert pieces == decoder._structure(plain)


@given(st.binary(max_size=60) | st.text('[]{}":,\\u0dD8ce9.-eINft \n', max_size=60).map(str.encode))
def test_any_bytes_are_a_bounded_list_or_an_error(data):
    with contextlib.suppress(InvalidManifestError):
        value = parse_list(data)
        assert depth_of(value) <= MAX_DEPTH
        assert value == json.loads(data)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@given(st.text("[]{}", max_size=80), st.text('"\\[]', max_size=10))
def test_brackets_in_strings_do_not_count(brackets, mixture):
    document = {brackets: [brackets, mixture, {mixture + "x": brackets}]}
    assert parse(json.dumps(document).encode()) == document


def nested(depth: int) -> bytes:
    """Objects and arrays in turn, `depth` of them."""
    inner = b"1"
    for level in range(depth - 1):
        inner = b"[%s]" % inner if level % 2 else b'{"[": %s}' % inner
    return b'{"a": %s}' % inner


def test_the_depth_has_a_limit():
    assert depth_of(parse(nested(MAX_DEPTH))) == MAX_DEPTH
    with pytest.raises(InvalidManifestError, match="nested more than 32 levels deep"):
        parse(nested(MAX_DEPTH + 1))


def test_a_document_to_be_wrapped_has_room():
    check_document(parse(nested(MAX_DEPTH - 4)))
    with pytest.raises(InvalidManifestError, match="nested more than 28 levels deep"):
        check_document(parse(nested(MAX_DEPTH - 3)))


def test_the_size_has_a_limit():
    data = b'{"a":"%s"}' % (b"x" * (MAX_MANIFEST - 8))
    assert len(data) == MAX_MANIFEST
    assert len(parse(data)["a"]) == MAX_MANIFEST - 8
    with pytest.raises(InvalidManifestError, match="larger than 1048576 bytes"):
        parse(data + b" ")
    assert parse(data + b" ", limit=MAX_MANIFEST + 1)
    with pytest.raises(InvalidManifestError, match="larger than 67108864 bytes"):
        parse_list(b" " * (MAX_LIST + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * (8 << 20),
        b'{"a":' * (1 << 20),
        b"[" * (4 << 20) + b"]" * (4 << 20),
        b"[" + b"[]," * (2 << 20) + b"1]",
        b'["' + b'\\"' * (4 << 20),
        b'"' * (8 << 20),
        b"[" + b"9" * (8 << 20) + b"]",
        b"]" * (8 << 20),
    ],
    ids=["open", "objects", "deep", "wide", "unterminated", "quotes", "digits", "closing"],
)
@pytest.mark.alone
def test_hostile_documents_cost_neither_time_nor_memory(data):
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(InvalidManifestError):
        parse_list(data)
    assert time.perf_counter() - begin < 3
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * len(data) + (24 << 20)


def test_the_number_of_values_has_a_limit():
    assert len(parse_list(b"[" + b"1," * (MAX_VALUES - 2) + b"1]")) == MAX_VALUES - 1
    with pytest.raises(InvalidManifestError, match="more than 1048576 values"):
        parse_list(b"[" + b"1," * MAX_VALUES + b"1]")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"uuid": 1, "uuid": 2}', "two equal keys"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "two equal keys"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": -1%s}' % (b"0" * 5000), "too large"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"\\uDFFF": 1}', "half a character"),
        (b'{"a": "\xed\xa0\x80"}', "utf-8"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": "\n"}', "control character"),
        (b"b", "Expecting value: line 1 column 1"),
        (b"", "Expecting value"),
        (b'{"a": 1} {}', "Extra data"),
        (b"[}]", "Expecting value: line 1 column 2"),
        (b"[{}," * 20, "brackets do not match"),
        (b"{]", "Expecting property name"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_reason(data, why):
    with pytest.raises(InvalidManifestError, match=why) as caught:
        parse(data)
    assert caught.value.message.startswith("manifest is invalid: ")
    assert caught.value.code == "InvalidManifest"


def test_a_manifest_fits_into_a_message():
    check_document({"a": [1] * (MAX_MANIFEST_VALUES - 3)})
    with pytest.raises(InvalidManifestError, match="more than 60000 values"):
        check_document({"a": [1] * (MAX_MANIFEST_VALUES - 2)})


DAMAGED = [
    "1e999",
    '{"a": 1, "a": 2}',
    "-Infinity",
    r'["\ud800"]',
    "[" * 40 + "]" * 40,
    "{]",
    "tru",
    '{"a"}',
    "",
]


@given(arrays, st.lists(st.tuples(st.integers(0, 6), st.sampled_from(DAMAGED)), min_size=1, max_size=3))
def test_a_damaged_entry_costs_itself_only(good, damage):
    entries: list[object] = [*good]
    texts = [json.dumps(value, ensure_ascii=False) for value in good]
    for place, text in damage:
        entries.insert(place, Damaged)
        texts.insert(place, text)
    if len(texts) == 1 and not texts[0]:
        return  # an empty list
    for data in (f"[{','.join(texts)}]", f"\ufeff \n[ {' , '.join(texts)} ]\t"):
        read = parse_entries(data.encode())
        assert [Damaged if isinstance(value, Damaged) else value for value in read] == entries


@given(st.binary(max_size=60) | st.text('[]{}",:\\1 ', max_size=60).map(str.encode))
def test_any_bytes_are_a_list_or_none(data):
    with contextlib.suppress(InvalidManifestError):
        assert isinstance(parse_entries(data), list)


@given(arrays, st.integers(1, 40))
def test_a_list_that_is_cut_off_is_none(good, cut):
    data = json.dumps([*good, "end"]).encode()
    with pytest.raises(InvalidManifestError):
        parse_entries(data[: max(0, len(data) - cut)])


def test_the_damaged_entry_says_which_image_it_is():
    texts = ['{"uuid": "x", "n": 1e999}', '{"uuid": ["x"], "n": NaN}', '{"n": NaN}', "NaN", "tru"]
    read = parse_entries(f"[{','.join(texts)}]".encode())
    assert [entry.uuid for entry in read] == ["x", ["x"], None, None, None]
    uuid = "33333333-aaaa-4bbb-8ccc-000000000001"
    very_deep = '{"uuid" : "%s", "n": %s}' % (uuid, "[" * 50_000 + "]" * 50_000)  # noqa: UP031
    assert parse_entries(f"[1, {very_deep}]".encode())[1] == Damaged(uuid, "nested more than 32 levels deep")


@pytest.mark.parametrize("levels", [28, 29])
def test_an_entry_may_be_as_deep_as_a_manifest(levels):
    deep = '{"n":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"
    assert isinstance(parse_entries(f"[{deep}]".encode())[0], Damaged) == (levels > 28)


def test_a_list_must_be_a_list():
    with pytest.raises(InvalidManifestError, match="not a JSON array"):
        parse_list(b"{}")


def test_integers_beyond_64_bits_become_what_imgadm_reads():
    read = parse(
        b'{"a": 18446744073709551615, "b": 18446744073709551616, "c": -9223372036854775809, "d": 1%s}'
        % (b"0" * 300)
    )
    assert read["a"] == 2**64 - 1
    assert isinstance(read["a"], int)
    assert [read["b"], read["c"], read["d"]] == [2.0**64, -(2.0**63), 1e300]
    assert all(isinstance(read[key], float) for key in "bcd")


def test_pairs_of_surrogates_and_a_byte_order_mark_are_read():
    assert parse(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00 \\\\ud800"}') == {"a": "\U0001f600 \\ud800"}


@pytest.mark.parametrize(
    "value",
    [
        2**64,
        -(2**63) - 1,
        10**5000,
        float("nan"),
        float("inf"),
        "\ud800",
        b"bytes",
        ("a",),
        {1: 2},
        {"\udfff": 1},
    ],
    ids=["large", "small", "huge", "nan", "infinity", "surrogate", "bytes", "tuple", "key", "surrogate key"],
)
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(InvalidManifestError):
        check_document({"a": [value]})


class _Typed(msgspec.Struct):
    name: str = ""
    number: float = 0.0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"other": ' + b"[" * 5000,
        b'{"other": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"number": 1e999}',
        b'{"number": ' + b"9" * 5000 + b"}",
        b'{"number": NaN}',
    ],
)
def test_a_value_of_a_type_has_one_class_of_errors(data):
    with pytest.raises(msgspec.DecodeError):
        decoded(data, _Typed)


def test_nobody_decodes_values_of_a_type_otherwise():
    """Of text that is no UTF-8, and of deep nesting, msgspec's own errors are of other classes."""
    root = Path(__file__).parents[2]
    direct = {
        str(path.relative_to(root))
        for folder in ("imgstored", "ctl")
        for path in (root / folder).rglob("*.py")
        if "json.decode(" in path.read_text()
    }
    assert direct == {"imgstored/manifest/document.py"}
