"""Parsing of image servers' answers, which may hold anything. Takes bytes, returns values. No I/O."""

from __future__ import annotations

import http
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from imgstored.errors import APIError, BadContentError, InvalidManifestError, InvalidUUIDError
from imgstored.foreign_text import one_line
from imgstored.http.location import shown
from imgstored.http.secrets import KNOWN, redacted
from imgstored.manifest import (
    MAX_MANIFEST,
    Damaged,
    check_uuid,
    in_lower_case,
    is_larger,
    parse,
    parse_entries,
    upgrade,
)
from imgstored.sources.base import Listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgstored.http.documents import Document

#: Characters of a server's own words that are passed on, and how many faults of one request.
_MAX_TEXT = 300
_MAX_FAULTS = 10
#: What a server may call an error.
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")

#: Bytes of an answer that show what it is, and how a web page begins.
_BEGINNING = 1024
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<title", b"<!--")


def failure(url: str, document: Document) -> APIError:
    """The error for an answer that is not 200, in the server's own words where it has some.

    IMGAPI's form is {code, message, errors?: [{field, code, message?}]}.
    """
    what = _in_imgapis_form(document.body) or _in_plain_words(document)
    phrase = _phrase(document.status)
    return APIError(
        f"{shown(url)}: {what or phrase}",
        hint="" if what is None else f"the server answered with status {phrase}",
        data={"status": document.status, **_code(document.body)},
    )


def one_object(url: str, body: bytes) -> dict[str, Any]:
    """A JSON object. Raises `APIError`."""
    try:
        return parse(body)
    except InvalidManifestError as error:
        raise _another_answer(url, "what an image server says", body, error) from error


def the_manifest(url: str, body: bytes, uuid: str) -> dict[str, Any]:
    """The manifest of image `uuid`, as served. Raises `APIError`; `BadContentError` for another image's.

    Raises `InvalidManifestError` where it is that of the image, but damaged.
    """
    for entry in _alone(body):
        if isinstance(entry, Damaged) and in_lower_case(entry.uuid) == uuid:
            raise damaged_manifest(url, entry.reason)
    manifest = one_object(url, body)
    if in_lower_case(manifest.get("uuid")) != uuid:
        raise BadContentError(
            f'{shown(url)}: the server answers with another image ("{_clean(str(manifest.get("uuid")))}")',
            hint="the server is faulty; tell its operator",
        )
    return manifest


def damaged_manifest(url: str, reason: str) -> InvalidManifestError:
    """The error for a manifest of the right image that cannot be used."""
    return InvalidManifestError(
        f"manifest is invalid: {_clean(reason)} ({shown(url)})",
        hint="the manifest is damaged on the server; tell its operator",
    )


def _alone(body: bytes) -> list[Any]:
    """The manifest, as a list of it would have it."""
    try:
        return parse_entries(b"[" + body.removeprefix(b"\xef\xbb\xbf") + b"]")
    except InvalidManifestError:
        return []


class LeftOut(Struct, frozen=True):
    """Elements of a list that are no manifests, or damaged ones."""

    damaged: Mapping[str, str] = MappingProxyType({})  #: what is wrong, by uuid
    nameless: tuple[str, ...] = ()  #: what is wrong with those without a uuid

    def __add__(self, other: LeftOut) -> LeftOut:
        return LeftOut({**self.damaged, **other.damaged}, self.nameless + other.nameless)

    def words(self, url: str) -> str:
        """The sentence for people; empty where nothing was left out."""
        number = len(self.damaged) + len(self.nameless)
        examples = (*(f"{uuid}: {reason}" for uuid, reason in self.damaged.items()), *self.nameless)
        if number == 0:
            return ""
        if number == 1:
            return f"1 entry of the list of {shown(url)} is unusable, and left out ({examples[0]})"
        return (
            f"{number} entries of the list of {shown(url)} are unusable, and left out (one is {examples[0]})"
        )


class ManifestList(Struct, frozen=True):
    """A list of manifests as served: the first of each uuid, in the server's order."""

    by_uuid: dict[str, dict[str, Any]]
    left_out: LeftOut
    elements: int  #: of the list, with those that were left out
    last: str | None  #: the last uuid in it


class Page(Struct, frozen=True):
    """The images of a list, or of one page of it."""

    images: list[Listed]
    uuids: frozenset[str]  #: with those of damaged manifests
    left_out: LeftOut
    elements: int  #: as the server counts them
    last: str | None  #: the last uuid in it


def read_list(url: str, body: bytes) -> ManifestList:
    """The manifests of a list; elements that are none, or damaged, are left out. Raises `APIError`."""
    try:
        elements = parse_entries(body)
    except InvalidManifestError as error:
        raise _another_answer(url, "a list of images", body, error) from error
    by_uuid: dict[str, dict[str, Any]] = {}
    damaged: dict[str, str] = {}
    nameless: list[str] = []
    last = None
    # A list may have 64 times as much as a manifest; one element that has cannot be imported anyway.
    crowded = len(body) > MAX_MANIFEST
    for element in elements:
        uuid = _uuid_of(element)
        last = uuid or last
        reason = ""
        if isinstance(element, Damaged):
            reason = _clean(element.reason)
        elif uuid is None:
            reason = "no manifest with a uuid"
        elif crowded and is_larger(element, MAX_MANIFEST):
            reason = f"larger than {MAX_MANIFEST} bytes"
        if uuid is None:
            nameless.append(reason)
        elif reason:
            damaged.setdefault(uuid, reason)
        else:
            by_uuid.setdefault(uuid, element if element["uuid"] == uuid else {**element, "uuid": uuid})
    if last is None and any(isinstance(element, Damaged) for element in elements):
        no_list = InvalidManifestError(f"list of manifests is invalid: {nameless[0]}")
        raise _another_answer(url, "a list of images", body, no_list)
    return ManifestList(by_uuid, LeftOut(damaged, tuple(nameless)), len(elements), last)


def _another_answer(url: str, wanted: str, body: bytes, error: InvalidManifestError) -> APIError:
    """The error for an answer with status 200 that is not what was asked for. It says what came."""
    begins = body[:_BEGINNING].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    came = f": {error.message.partition(' is invalid: ')[2] or error.message}"
    if not begins:
        came = ", but empty"
    elif begins.startswith(_HTML):
        came = ", but a web page (HTML)"
    elif begins.startswith(b"<"):
        came = ", but XML or another text with tags"
    return APIError(
        f"{shown(url)}: the answer is not {wanted}{came}",
        hint="the URL may be wrong, or the server's type (`sources -a URL -t TYPE`: imgapi, dsapi, static)",
    )


def displayed(manifests: Iterable[Mapping[str, Any]], source: str) -> list[Listed]:
    """The manifests as v2; as they are where they cannot be upgraded."""
    return [Listed(_for_display(manifest), source) for manifest in manifests]


def read_page(url: str, body: bytes, source: str) -> Page:
    """The images of a list, or of one page of it. Raises `APIError`."""
    served = read_list(url, body)
    return Page(
        displayed(served.by_uuid.values(), source),
        frozenset(served.by_uuid) | frozenset(served.left_out.damaged),
        served.left_out,
        served.elements,
        served.last,
    )


def _for_display(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return upgrade(manifest)
    except InvalidManifestError:
        return manifest


def _uuid_of(element: object) -> str | None:
    if not isinstance(element, dict | Damaged):
        return None
    try:
        uuid = element.uuid if isinstance(element, Damaged) else element.get("uuid")
        return check_uuid(in_lower_case(uuid))
    except InvalidUUIDError:
        return None


def _code(body: bytes) -> dict[str, str]:
    try:
        code = parse(body).get("code")
    except InvalidManifestError:
        return {}
    return {"server_code": code} if isinstance(code, str) and _CODE.fullmatch(code) else {}


def _in_imgapis_form(body: bytes) -> str | None:
    try:
        error = parse(body)
    except InvalidManifestError:
        return None
    message, faults = error.get("message"), error.get("errors")
    if not isinstance(message, str) or not (text := _clean(message)):
        return None
    lines = [text]
    for fault in faults[:_MAX_FAULTS] if isinstance(faults, list) else []:
        values = [fault.get(key) for key in ("field", "code", "message")] if isinstance(fault, dict) else []
        if words := [_clean(value) for value in values if isinstance(value, str)]:
            lines.append("    " + ": ".join(words))
    return "\n".join(lines)


def _in_plain_words(document: Document) -> str | None:
    """The text of an answer that is a short plain one, as of dsapid ("Not found")."""
    kind = document.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    if kind != "text/plain" or len(document.body) > _MAX_TEXT:
        return None
    try:
        text = _clean(document.body.decode())
    except UnicodeDecodeError:
        return None
    return text if text and not text.startswith("<") else None


def _phrase(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _clean(text: str) -> str:
    """One line of printable characters, not too long, without the secrets that a server may repeat."""
    line = one_line(redacted(KNOWN.hidden(text)[: 2 * _MAX_TEXT]))
    return line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "…"
