"""JSON from outside, with its bounds checked before anything is built from it.

What `json` alone would do: a megabyte of opening brackets ends in RecursionError, 64 MiB of `[],` become more
than a gigabyte of lists, of two equal keys the last one silently wins, and NaN is a number.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from imgstored.errors import InvalidManifestError

#: Bytes of one manifest. Tags, the largest field, may have 100 KiB.
MAX_MANIFEST: Final = 1 << 20

#: Bytes of a server's list; servers give at most 1000 images at a time.
MAX_LIST: Final = 64 << 20

#: Arrays and objects within each other.
MAX_DEPTH: Final = 32

#: Values of one document, keys not counted: 20,000 images of 50 fields.
MAX_VALUES: Final = 1 << 20

#: Values of one manifest, keys counted: what fits into one message of a client, with room around it.
MAX_MANIFEST_VALUES: Final = 60_000

#: Integers beyond these are read as floating-point numbers, as imgadm reads every number; what is kept as an
#: integer fits MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md, limitation).
MIN_INTEGER: Final = -(1 << 63)
MAX_INTEGER: Final = (1 << 64) - 1

#: Levels that the catalogue's records and the socket's messages put around a manifest.
_AROUND: Final = 4

#: Digits of the largest double, and some; a longer number is not worth reading.
_MAX_NUMBER: Final = 400

_UUID = re.compile(rb'"uuid"[ \t\r\n]*:[ \t\r\n]*"([0-9a-fA-F-]{36})"')

#: What JSON may have around a value (RFC 8259, 2).
_BLANK: Final = b" \t\r\n"

#: Bytes that are looked through at a time.
_PIECE: Final = 1 << 18

_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
#: A string, also one without an end, or a bracket or comma outside strings. It matches at each quote: if it
#: did not, it would look through everything behind for each of those that follow.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


_T = TypeVar("_T")


class Damaged(Struct, frozen=True):
    """An entry of a list that cannot be used."""

    uuid: object  #: as the entry has it, of any type; None where it has none
    reason: str


class _RefusedError(ValueError):
    """The document is JSON as `json` understands it, but not JSON that we take."""


def parse(data: bytes, *, limit: int = MAX_MANIFEST) -> dict[str, Any]:
    """The JSON object in `data`, of at most `limit` bytes. Raises `InvalidManifestError`."""
    try:
        value = _decode(data, limit)
        if not isinstance(value, dict):
            raise _RefusedError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise InvalidManifestError(
            f"manifest is invalid: {error}", hint="a manifest is one JSON object, in UTF-8"
        ) from error
    return value


def parse_list(data: bytes, *, limit: int = MAX_LIST) -> list[Any]:
    """The JSON array in `data`, of at most `limit` bytes. Raises `InvalidManifestError`."""
    try:
        value = _decode(data, limit)
        if not isinstance(value, list):
            raise _RefusedError("not a JSON array")
    except (ValueError, RecursionError) as error:
        raise InvalidManifestError(
            f"list of manifests is invalid: {error}", hint="an image server's list is a JSON array, in UTF-8"
        ) from error
    return value


def parse_entries(data: bytes, *, limit: int = MAX_LIST) -> list[Any]:
    """As `parse_list`, but what is wrong with one entry makes only that one a `Damaged`.

    An entry is good if it would also be good by itself: see `check_document`. Raises `InvalidManifestError`
    where it is not certain where an entry ends (a list that is cut off), and for too many values.
    """
    try:
        entries = parse_list(data, limit=limit)
        if _is_small(data):
            return entries
        return [_checked(entry) for entry in entries]
    except InvalidManifestError:
        return _by_entry(data, limit)


def decoded(data: bytes, kind: type[_T]) -> _T:
    """The JSON in `data` as a value of the type. The caller bounds its size. Raises `msgspec.DecodeError`.

    msgspec alone has errors of other classes for text that is no UTF-8, and for deep nesting.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def is_larger(document: object, limit: int) -> bool:
    """True if a decoded document has more than `limit` characters and values together, keys counted."""
    todo, size = [document], 0
    while todo and size <= limit:
        match todo.pop():
            case str() as text:
                size += len(text)
            case dict() as inner:
                size += sum(map(len, inner))
                todo.extend(inner.values())
            case list() as inner:
                todo.extend(inner)
            case _:
                pass
        size += 1
    return size > limit


def check_document(document: object) -> None:
    """Raises `InvalidManifestError` unless this is what JSON can say, within bounds, with room to wrap it.

    For documents that did not come through `parse`, or will be kept in another document.
    """
    todo: list[tuple[object, int]] = [(document, 1)]
    values = 0
    while todo:
        value, depth = todo.pop()
        values += 1
        if values > MAX_MANIFEST_VALUES:
            raise _invalid(f"has more than {MAX_MANIFEST_VALUES} values")
        match value:
            case dict() | list() if depth > MAX_DEPTH - _AROUND:
                raise _invalid(f"is nested more than {MAX_DEPTH - _AROUND} levels deep")
            case dict():
                todo.extend((key if isinstance(key, str) else object(), depth) for key in value)
                todo.extend((inner, depth + 1) for inner in value.values())
            case list():
                todo.extend((inner, depth + 1) for inner in value)
            case _:
                _check_scalar(value)


def _check_scalar(value: object) -> None:
    match value:
        case None | bool():
            return
        case str():
            if _SURROGATE.search(value):
                raise _invalid("has half a character (a lone surrogate)")
        case int():
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                raise _invalid("has an integer of more than 64 bits")
        case float():
            if not math.isfinite(value):
                raise _invalid("has a number that is not finite")
        case _:
            raise _invalid("is not JSON")


def _invalid(why: str) -> InvalidManifestError:
    return InvalidManifestError(f"manifest is invalid: it {why}")


def _is_small(data: bytes) -> bool:
    """True if no entry of the list in `data` can be too large or too deep for `check_document`."""
    structure = _structure(_without_escapes(data))
    if data.count(b'"') + structure.count(b",") + structure.count(b"[") > MAX_MANIFEST_VALUES:
        return False
    return _depth_left(structure.replace(b",", b""), MAX_DEPTH - _AROUND + 1) == b""


def _checked(entry: object) -> object:
    try:
        check_document(entry)
    except InvalidManifestError as error:
        return Damaged(entry.get("uuid") if isinstance(entry, dict) else None, _why(error))
    return entry


def _by_entry(data: bytes, limit: int) -> list[Any]:
    """The list, each entry read by itself. Raises `InvalidManifestError`."""
    try:
        if len(data) > limit:
            raise _RefusedError(f"larger than {limit} bytes")
        plain = _without_escapes(data)
        _check_number(plain, _structure(plain))
        return [_entry(text, depth) for text, depth in _cut(data)]
    except ValueError as error:
        raise InvalidManifestError(
            f"list of manifests is invalid: {error}", hint="an image server's list is a JSON array, in UTF-8"
        ) from error


def _cut(data: bytes) -> list[tuple[bytes, int]]:
    """The entries of the array in `data` and their depths, by its strings, brackets and commas alone."""
    text = data.removeprefix(b"\xef\xbb\xbf").strip(_BLANK)
    if not text.startswith(b"["):
        raise _RefusedError("not a JSON array")
    entries: list[tuple[bytes, int]] = []
    depth = deepest = begin = 0
    for token in _TOKEN.finditer(text):
        if begin and depth == 0:
            raise _RefusedError("not a JSON array")
        if token[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and token[0] == b","):
            entries.append((text[begin : token.start()], deepest - 1))
            deepest = 1
        elif begin:
            continue
        begin = token.end()
    if depth != 0 or (begin == len(text) and not text.endswith(b"]")):
        raise _RefusedError("its brackets do not match")
    if begin != len(text):
        raise _RefusedError("not a JSON array")
    return [] if len(entries) == 1 and not entries[0][0].strip(_BLANK) else entries


def _entry(text: bytes, depth: int) -> Any:
    value: Any
    try:
        if depth > MAX_DEPTH:
            raise _RefusedError(f"nested more than {MAX_DEPTH} levels deep")
        value = _built(text)
        check_document(value)
    except InvalidManifestError as error:
        reason = _why(error)
    except (ValueError, RecursionError) as error:
        reason = str(error)
        value = _read_leniently(text)
    else:
        return value
    return Damaged(value.get("uuid") if isinstance(value, dict) else None, reason)


def _read_leniently(text: bytes) -> Any:
    """The entry as other programs read it, to know at least which image it is."""
    try:
        return _LENIENT.decode(text.decode(errors="replace"))
    except (ValueError, RecursionError):
        uuid = _UUID.search(text)
        return None if uuid is None else {"uuid": uuid[1].decode()}


def _why(error: InvalidManifestError) -> str:
    return error.message.partition(" is invalid: ")[2]


def _decode(data: bytes, limit: int) -> Any:
    if len(data) > limit:
        raise _RefusedError(f"larger than {limit} bytes")
    _check_shape(data)
    return _built(data)


def _built(data: bytes) -> Any:
    value = _STRICT.decode(data.decode("utf-8-sig"))
    # UTF-8 cannot hold half a character, only an escape can; so most documents need not be looked through.
    if _SURROGATE_ESCAPE.search(data):
        _check_characters(value)
    return value


def _check_shape(data: bytes) -> None:
    """Bounds depth and number of values by the brackets and commas outside strings, in time linear in `data`.

    Up to the point where a document stops being JSON, this sees the same brackets as the decoder does.
    """
    if len(data) <= MAX_VALUES and data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return  # neither bound can be passed, whatever is in strings, and the decoder sees the rest
    plain = _without_escapes(data)
    structure = _structure(plain)
    _check_number(plain, structure)
    brackets = _depth_left(structure.replace(b",", b""), MAX_DEPTH)
    if b"[]" in brackets:
        raise _RefusedError(f"nested more than {MAX_DEPTH} levels deep")
    if brackets:
        raise _RefusedError("its brackets do not match")


def _check_number(plain: bytes, structure: bytes) -> None:
    """Bounds the number of values."""
    if plain.count(b'"') > 4 * MAX_VALUES or structure.count(b",") + structure.count(b"[") > MAX_VALUES:
        raise _RefusedError(f"more than {MAX_VALUES} values")


def _depth_left(brackets: bytes, levels: int) -> bytes:
    """The brackets that are left without so many levels, from the innermost on."""
    for _ in range(levels):
        if not brackets:
            break
        brackets = brackets.replace(b"[]", b"")
    return brackets


def _without_escapes(data: bytes) -> bytes:
    """Within a string a backslash begins an escape; without escapes each quote begins or ends a string."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"")


def _structure(plain: bytes) -> bytes:
    """Commas and brackets outside strings, all brackets as square ones. A string without end goes on."""
    structure = bytearray()
    inside = 0
    for start in range(0, len(plain), _PIECE):  # by pieces, for `split` makes many small objects
        parts = plain[start : start + _PIECE].split(b'"')
        structure += b"".join(parts[inside::2]).translate(_ONE_KIND, _NOT_STRUCTURE)
        inside ^= (len(parts) - 1) & 1
    return bytes(structure)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RefusedError("two equal keys in one object")
    return value


def _integer(text: str) -> int | float:
    if len(text) <= len(str(MAX_INTEGER)):
        value = int(text)
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return value
    return _number(text)


def _number(text: str) -> float:
    value = float(text) if len(text) <= _MAX_NUMBER else math.inf
    if not math.isfinite(value):
        raise _RefusedError("a number that is too large or too long")
    return value


def _constant(name: str) -> Any:
    raise _RefusedError(f"{name} is not a JSON number")


def _check_characters(value: object) -> None:
    todo = [value]
    while todo:
        match todo.pop():
            case str() as text if _SURROGATE.search(text):
                raise _RefusedError("half a character (a lone surrogate)")
            case dict() as inner:
                todo.extend(inner)
                todo.extend(inner.values())
            case list() as inner:
                todo.extend(inner)
            case _:
                pass


_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
_LENIENT = json.JSONDecoder(parse_int=float)
