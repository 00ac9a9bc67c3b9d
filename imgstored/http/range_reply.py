"""Reads a server's answer to a request for a range, and checks that it is what was asked. Pure."""

from __future__ import annotations

import email.utils
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from imgstored.errors import DownloadError
from imgstored.http.failures import TRANSIENT_STATUSES, retry_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NUMBER = re.compile(r"[0-9]{1,18}")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,1000}"')

#: What an IMGAPI calls the 404 of a file; its words, a body, are not read here.
_GONE = "ResourceNotFound"
#: RFC 9110, 14.4, and how some servers write it: `bytes=0-5/10`, `0-5/10`.
_CONTENT_RANGE = re.compile(r"(bytes *[ =:] *)?([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)

#: Statuses that a request without a Range header gets, too. By any other one, servers, gateways and firewalls
#: may refuse a Range header.
_NOT_FOR_THE_RANGE = frozenset({404, 407, 408, 410, 425, 429, *TRANSIENT_STATUSES})

#: RFC 9110, 8.8.2.2: a date is a strong validator only if it is clearly older than the answer.
_SETTLED_SECONDS = 60.0


_NO_FILE = "the source names the image, but does not have its file: add another source"

#: The hint where a source has another file than its manifest says.
OTHER_FILE = "the source has another file than its manifest says: add another source, or tell whoever runs it"


class FetchError(DownloadError):
    """One request for bytes failed.

    `lasting`: the same request would fail again. `other_size`: the server's file is larger or smaller than
    the one that is wanted, which lasts. `ranges`: the Range header may be the reason, so that a request
    without one may succeed. `retry_after`: seconds for which the server wants to be left alone.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        lasting: bool = False,
        other_size: bool = False,
        ranges: bool = False,
        retry_after: float | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, data=data)
        self.lasting = lasting or other_size
        self.other_size = other_size
        self.ranges = ranges
        self.retry_after = retry_after

    def at(self, url: str) -> FetchError:
        """The error as `URL: cause`."""
        return self._copy(f"{url}: {self.message}", self.ranges)

    def without_ranges(self) -> FetchError:
        """The error of a request that had no Range header."""
        return self._copy(self.message, ranges=False)

    def _copy(self, message: str, ranges: bool) -> FetchError:
        copied = FetchError(
            message,
            hint=self.hint,
            lasting=self.lasting,
            other_size=self.other_size,
            ranges=ranges,
            retry_after=self.retry_after,
            data=self.data,
        )
        copied.__cause__ = self.__cause__ or self.__context__
        return copied


class RangeReply(Struct, frozen=True):
    """The bytes that follow: [start, stop) of a file of `total` bytes; None where the server does not say.

    A part may begin before what was asked for, and may end before or behind its end: RFC 9110, 15.3.7
    allows all of that. It has at least the first byte that was asked for.
    """

    partial: bool  #: False: the server sends the whole file, whatever was asked for
    start: int
    stop: int | None
    total: int | None
    validator: str | None  #: strong ETag or date that names this state of the file
    encoding: str = ""  #: Content-Encoding, lower case; "" where there is none
    page: bool = False  #: the answer calls itself a web page (HTML)


def read_reply(status: int, fields: Iterable[tuple[str, str]], start: int, stop: int | None) -> RangeReply:
    """Reads the head of an answer to a request for bytes [start, stop) (stop None: to the end).

    Raises `FetchError`, without the URL in its text, for everything but a 200, and a 206 with the first byte
    that was asked for. Of a 206 that contradicts itself, what the number of its bytes proves is believed.
    """
    headers = _headers(fields)
    if status not in (200, 206):
        raise _refusal(status, headers, start)
    length = _length(headers)
    first, end, total = (0, length, length) if status == 200 else _part(headers, length, start, stop)
    # A part that is all of the file, and more than was asked for, is the file: it comes as a whole.
    asked_for_all = start == 0 and stop is not None and total is not None and stop >= total
    return RangeReply(
        partial=status == 206 and (asked_for_all or (first, end) != (0, total)),
        start=first,
        stop=end,
        total=total,
        validator=_validator(headers),
        encoding=headers.get("content-encoding", "").strip().lower(),
        page=headers.get("content-type", "").strip().lower().startswith("text/html"),
    )


def _part(
    headers: dict[str, str], length: int | None, start: int, stop: int | None
) -> tuple[int, int, int | None]:
    """First byte, end and total of a 206."""
    if headers.get("content-type", "").strip().lower().startswith("multipart/"):
        raise FetchError("sends several ranges where one was asked for", ranges=True)
    text = headers.get("content-range", "").strip()
    match = _CONTENT_RANGE.fullmatch(text)
    asked = None if stop is None else stop - start
    if match is None or (match[1] is None and length is None):
        if not text and length is not None and length == asked:
            return start, start + length, None
        raise FetchError(
            f"sends a part of the file without saying which (Content-Range {text[:80]!r})", ranges=True
        )
    first, end = int(match[2]), int(match[3]) + 1
    total = None if match[4] == "*" else int(match[4])
    wanted = end if stop is None else stop
    if total is not None:
        wanted = total if stop is None else min(stop, total)
        if end == total + 1:
            end = total  # the last byte's number, taken for the number of bytes
    if length is not None and length != end - first and (first, first + length) == (start, wanted):
        end = wanted
    if not first <= start < end or (total is not None and end > total):
        raise FetchError(
            f"sends another range than was asked for: {text[:80]!r} instead of from {start} to {wanted - 1}",
            ranges=True,
        )
    if length is not None and length != end - first:
        raise FetchError(f"announces {length} bytes for a range of {end - first}", ranges=True)
    return first, end, total


def _refusal(status: int, headers: dict[str, str], start: int) -> FetchError:
    ranges, rest = status not in _NOT_FOR_THE_RANGE, retry_after(headers)
    if status == 416:
        has = headers.get("content-range", "").strip().removeprefix("bytes */")
        shorter = _NUMBER.fullmatch(has) is not None and int(has) <= start
        size = f"; the file has {has} bytes" if shorter else ""
        return FetchError(
            f"has no bytes from {start} on{size} (416)",
            hint=OTHER_FILE if shorter else "",
            lasting=True,
            other_size=shorter,
            ranges=not shorter,
        )
    if status == 404:
        return FetchError(
            f"the file is not there ({status})",
            hint=_NO_FILE,
            lasting=True,
            retry_after=rest,
            data={"status": status, "server_code": _GONE},
        )
    if status in (401, 403, 407):
        return FetchError(
            f"access is refused ({status})",
            hint="the source may need credentials",
            lasting=True,
            ranges=ranges,
            retry_after=rest,
            data={"status": status},
        )
    return FetchError(
        f"the server answers with status {status}",
        hint=_NO_FILE if status == 410 else "",
        lasting=status not in TRANSIENT_STATUSES,
        ranges=ranges,
        retry_after=rest,
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
    # What `strip` takes off is more than `int` does by itself.
    number = text.strip()
    if not _NUMBER.fullmatch(number):
        raise FetchError(f"unexpected missing or invalid Content-Length header: {text[:40]!r}")
    return int(number)


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
