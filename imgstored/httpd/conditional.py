"""The bytes of a file that a request gets: conditions and ranges (RFC 9110, 13 and 14). No I/O."""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from werkzeug.http import (
    http_date,
    parse_date,
    parse_etags,
    parse_if_range_header,
    parse_range_header,
)

from imgstored.httpd.message import OpenFile, Request, Response, Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

#: Ranges of one request. Each costs a head of its own.
_MAX_RANGES: Final = 64
_NO_BYTES: Final = re.compile(r"[ \t]*-0+[ \t]*", re.ASCII)


def answer_with(file: OpenFile, request: Request) -> Response:
    """The answer to a GET or HEAD request for the file. Takes the file over, and closes it."""
    try:
        return _answer(file, request)
    except BaseException:
        file.close()
        raise


def _answer(file: OpenFile, request: Request) -> Response:
    modified = int(file.modified)
    headers = [
        ("ETag", file.etag),
        ("Last-Modified", _http_date(modified)),
        ("Accept-Ranges", "bytes"),
    ]
    status = _condition(request, file.etag, modified)
    if status is not None:
        return Response(status, headers, close=file.close)
    kind = ("Content-Type", file.kind)
    ranges = None
    if request.method == "GET" and _range_holds(request.headers, file, modified):
        ranges = _ranges(request.headers.get("range"), file.size)
    if ranges is None:
        headers = [kind, *headers, *file.headers]
        return Response(HTTPStatus.OK, headers, [_span(file, 0, file.size)], close=file.close)
    if not ranges:
        headers = [("Content-Range", f"bytes */{file.size}"), *headers]
        return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers, close=file.close)
    if len(ranges) == 1:
        ((start, stop),) = ranges
        headers = [kind, ("Content-Range", f"bytes {start}-{stop - 1}/{file.size}"), *headers]
        return Response(HTTPStatus.PARTIAL_CONTENT, headers, [_span(file, start, stop)], close=file.close)
    return _several(file, ranges, headers)


def _condition(request: Request, etag: str, modified: int) -> HTTPStatus | None:
    """The status of an answer without the file, None where the client gets it (RFC 9110, 13.2.2)."""
    headers = request.headers
    if "if-match" in headers:
        if not parse_etags(headers["if-match"]).contains_raw(etag):
            return HTTPStatus.PRECONDITION_FAILED
    else:
        since = _date(headers.get("if-unmodified-since"))
        if since is not None and modified > since.timestamp():
            return HTTPStatus.PRECONDITION_FAILED
    if "if-none-match" in headers:
        tags = parse_etags(headers["if-none-match"])
        return HTTPStatus.NOT_MODIFIED if tags.contains_weak(etag.strip('"')) else None
    since = _date(headers.get("if-modified-since"))
    return None if since is None or modified > since.timestamp() else HTTPStatus.NOT_MODIFIED


@lru_cache(maxsize=1024)
def _http_date(seconds: int) -> str:
    return http_date(seconds)


def _date(value: str | None) -> datetime | None:
    """The date of a header, None where it is none."""
    try:
        return parse_date(value)
    except (OverflowError, ValueError):  # a date that no clock has
        return None


def _range_holds(headers: Mapping[str, str], file: OpenFile, modified: int) -> bool:
    """True if the client's part is of this very file, so that it may go on with a range."""
    condition = headers.get("if-range")
    if condition is None:
        return not file.only_if_range
    try:
        wanted = parse_if_range_header(condition)
    except (OverflowError, ValueError):  # a date that no clock has
        return False
    if wanted.date is not None:
        return not file.only_if_range and modified == wanted.date.timestamp()
    return not condition.startswith("W/") and wanted.etag == file.etag.strip('"')


def _ranges(value: str | None, size: int) -> list[tuple[int, int]] | None:
    """Offsets [start, stop) of what is asked for; None: everything; empty: nothing of it exists."""
    wanted = _with_bytes(value)
    if wanted == "bytes=" != value:
        return []
    parsed = parse_range_header(wanted)
    if parsed is None or parsed.units != "bytes" or len(parsed.ranges) > _MAX_RANGES:
        return None
    found = []
    for first, stop in parsed.ranges:
        start = max(0, size + first) if first < 0 else first
        if start < size:
            found.append((start, size if stop is None else min(stop, size)))
    # Whoever asks for more than there is gets each byte once.
    return None if sum(stop - start for start, stop in found) > size else found


def _with_bytes(value: str | None) -> str | None:
    """A Range header without "the last 0 bytes", which no file has, and are no mistake (RFC 9110, 14.1.2)."""
    if value is None or "-0" not in value:
        return value
    unit, _, ranges = value.partition("=")
    wanted = [each for each in ranges.split(",") if not _NO_BYTES.fullmatch(each)]
    return f"{unit}={','.join(wanted)}"


def _several(
    file: OpenFile, ranges: Sequence[tuple[int, int]], headers: Sequence[tuple[str, str]]
) -> Response:
    boundary = secrets.token_hex(12)
    parts: list[bytes | Span] = []
    for start, stop in ranges:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {file.kind}\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{file.size}\r\n\r\n"
        )
        parts += [head.encode(), _span(file, start, stop)]
    parts.append(f"\r\n--{boundary}--\r\n".encode())
    kind = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    return Response(HTTPStatus.PARTIAL_CONTENT, [kind, *headers], parts, close=file.close)


def _span(file: OpenFile, start: int, stop: int) -> Span:
    return Span(file.fd, start, stop, file.available)
