"""What a server says in answer to a request for a range, and whether that is what was asked. Pure."""

from __future__ import annotations

import email.utils
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from imgstored.errors import DownloadError
from imgstored.http.retry import TRANSIENT_STATUSES, retry_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,1000}"')

#: What an IMGAPI calls the 404 of a file; its words, a body, are not read here.
_GONE = "ResourceNotFound"

#: RFC 9110, 8.8.2.2: a date is a strong validator only if it is clearly older than the answer.
_SETTLED_SECONDS = 60.0


class FetchError(DownloadError):
    """One request for bytes failed.

    `lasting`: the same request would fail again. `other_size`: the server's file is larger or smaller than
    the one that is wanted, which lasts. `retry_after`: seconds for which the server wants to be left alone.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        lasting: bool = False,
        other_size: bool = False,
        retry_after: float | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, data=data)
        self.lasting = lasting or other_size
        self.other_size = other_size
        self.retry_after = retry_after


class RangeReply(Struct, frozen=True):
    """What follows: bytes [start, stop) of a file of `total` bytes; None where the server does not say."""

    partial: bool  #: False: the server sends the whole file, whatever was asked for
    start: int
    stop: int | None
    total: int | None
    validator: str | None  #: strong ETag or date that names this state of the file


def read_reply(status: int, fields: Iterable[tuple[str, str]], start: int, stop: int | None) -> RangeReply:
    """Reads the head of an answer to a request for bytes [start, stop) (stop None: to the end).

    Raises `FetchError`, without the URL in its text, for everything but a sound 206 or 200.
    """
    headers = _headers(fields)
    if status not in (200, 206):
        raise _refusal(status, headers, start)
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise FetchError(
            f"sends the file encoded ({headers['content-encoding'][:40]!r}), which was not asked for"
        )
    length = _length(headers)
    if status == 200:
        return RangeReply(False, 0, length, length, _validator(headers))
    return _partial(headers, length, start, stop)


def _partial(headers: dict[str, str], length: int | None, start: int, stop: int | None) -> RangeReply:
    if headers.get("content-type", "").strip().lower().startswith("multipart/"):
        raise FetchError("sends several ranges where one was asked for")
    text = headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise FetchError(f"sends a part of the file without saying which (Content-Range {text[:80]!r})")
    first, end = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    expected = end if stop is None else stop
    if total is not None:
        expected = total if stop is None else min(stop, total)
    if (first, end) != (start, expected) or first >= end:
        raise FetchError(
            f"sends another range than was asked for: {text[:80]!r} instead of from {start} to {expected - 1}"
        )
    if length is not None and length != end - first:
        raise FetchError(f"announces {length} bytes for a range of {end - first}")
    return RangeReply(True, first, end, total, _validator(headers))


def _refusal(status: int, headers: dict[str, str], start: int) -> FetchError:
    if status == 416:
        has = headers.get("content-range", "").removeprefix("bytes */")
        size = f"; the file has {has} bytes" if _NUMBER.fullmatch(has) else ""
        return FetchError(f"has no bytes from {start} on{size}", other_size=True)
    if status == 404:
        return FetchError(
            "the file is not there (404)", lasting=True, data={"status": status, "server_code": _GONE}
        )
    if status in (401, 403, 407):
        return FetchError(
            f"access is refused ({status})",
            hint="the source may need credentials",
            lasting=True,
            data={"status": status},
        )
    return FetchError(
        f"the server answers with status {status}",
        lasting=status not in TRANSIENT_STATUSES,
        retry_after=retry_after(headers),
        data={"status": status},
    )


def _headers(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Lower-case names. Raises `FetchError` if one that decides over lengths is there twice and differs."""
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        if headers.setdefault(key, value) != value and key in (
            "content-length",
            "content-range",
            "content-encoding",
        ):
            raise FetchError(f"contradicts itself: {name} {headers[key][:40]!r} and {value[:40]!r}")
    return headers


def _length(headers: dict[str, str]) -> int | None:
    """Bytes of the body. RFC 9112, 6.3: where there is a Transfer-Encoding, Content-Length says nothing."""
    if "transfer-encoding" in headers:
        return None
    text = headers.get("content-length")
    if text is None:
        return None
    if not _NUMBER.fullmatch(text.strip()):
        raise FetchError(f"unexpected missing or invalid Content-Length header: {text[:40]!r}")
    return int(text)


def _validator(headers: dict[str, str]) -> str | None:
    etag = headers.get("etag", "").strip()
    if _STRONG_ETAG.fullmatch(etag):
        return etag
    modified = headers.get("last-modified", "").strip()
    try:
        changed = email.utils.parsedate_to_datetime(modified)
        answered = email.utils.parsedate_to_datetime(headers.get("date", ""))
        settled = (answered - changed).total_seconds() >= _SETTLED_SECONDS
    except (ValueError, TypeError, OverflowError):
        return None
    return modified if settled and modified.isascii() and modified.isprintable() else None
