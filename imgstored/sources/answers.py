"""Parsing of image servers' answers, which may hold anything. Takes bytes, returns values. No I/O."""

from __future__ import annotations

import http
import re
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import Struct

from imgstored.errors import APIError, InvalidManifestError, InvalidUUIDError
from imgstored.http.location import shown
from imgstored.http.secrets import KNOWN, redacted
from imgstored.manifest import MAX_MANIFEST, check_uuid, in_lower_case, is_larger, parse, parse_list, upgrade
from imgstored.sources.base import Listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgstored.http.documents import Document

log = structlog.get_logger(__name__)

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
    """The manifest of image `uuid`, as served. Raises `APIError`, also for the manifest of another image."""
    manifest = one_object(url, body)
    if in_lower_case(manifest.get("uuid")) != uuid:
        raise APIError(
            f'{shown(url)}: the server answers with another image ("{_clean(str(manifest.get("uuid")))}")',
            hint="the server is faulty; tell its operator",
        )
    return manifest


class ManifestList(Struct, frozen=True):
    """A list of manifests as served: the first of each uuid, in the server's order."""

    by_uuid: dict[str, dict[str, Any]]
    elements: int  #: of the list, with those that are no manifests


class Page(Struct, frozen=True):
    """The images of a list, or of one page of it."""

    images: list[Listed]
    elements: int  #: as the server counts them


def read_list(url: str, body: bytes) -> ManifestList:
    """The manifests of a list; elements that are none are left out. Raises `APIError`."""
    try:
        elements = parse_list(body)
    except InvalidManifestError as error:
        raise _another_answer(url, "a list of images", body, error) from error
    by_uuid: dict[str, dict[str, Any]] = {}
    bad = 0
    # A list may have 64 times as much as a manifest; one element that has cannot be imported anyway.
    crowded = len(body) > MAX_MANIFEST
    for element in elements:
        uuid = _uuid_of(element)
        if uuid is None or (crowded and is_larger(element, MAX_MANIFEST)):
            bad += 1
        else:
            by_uuid.setdefault(uuid, element if element["uuid"] == uuid else {**element, "uuid": uuid})
    if bad:
        log.warning("a source's list has elements that are no manifests", url=shown(url), elements=bad)
    return ManifestList(by_uuid, len(elements))


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
        hint="the URL may be wrong, or the server's type (`imgctl sources -t`: imgapi, dsapi, static)",
    )


def displayed(manifests: Iterable[Mapping[str, Any]], source: str) -> list[Listed]:
    """The manifests as v2; as they are where they cannot be upgraded."""
    return [Listed(_for_display(manifest), source) for manifest in manifests]


def read_page(url: str, body: bytes, source: str) -> Page:
    """The images of a list, or of one page of it. Raises `APIError`."""
    served = read_list(url, body)
    return Page(displayed(served.by_uuid.values(), source), served.elements)


def _for_display(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return upgrade(manifest)
    except InvalidManifestError:
        return manifest


def _uuid_of(element: object) -> str | None:
    if not isinstance(element, dict):
        return None
    try:
        return check_uuid(in_lower_case(element.get("uuid")))
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
    line = re.sub(r"\s+", " ", redacted(KNOWN.hidden(text)[: 2 * _MAX_TEXT])).strip()
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "…"
