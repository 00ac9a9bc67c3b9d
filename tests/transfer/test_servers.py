"""What servers do with requests for ranges: the table of docs/servers.md, one row after another."""

from __future__ import annotations

import gzip
import random
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from imgstored.config import specs
from imgstored.config.tables import LimitsTable
from imgstored.errors import DownloadError
from imgstored.http.failures import Backoff
from imgstored.http.location import Access, Location
from imgstored.transfer.download import Download
from tests.support.faulty_server import FaultyServer, Request, Wire
from tests.support.limits import download_limits
from tests.support.memory_journal import MemoryJournal
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.transfer.download import DownloadLimits

MIB = 1 << 20
#: A compressed image, as most are, of some ranges.
CONTENT = gzip.compress(random.Random(1).randbytes(4 * MIB), 0)
SIZE = len(CONTENT)
PAGE = b"<html><body>Please log in</body></html>"
DOCUMENT = Path(__file__).parents[2] / "docs/servers.md"

LIMITS = download_limits(
    connections=8, tries=4, backoff=Backoff(first=0.02, most=0.05), silence_seconds=20, connect_seconds=20
)


@dataclass
class Server:
    """One server of the table. Its own counters are for `answer`, which several threads call."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> int:
        """How often this was called with `what`, this time included."""
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1
            return self.counts[what]


Answer = "Callable[[Server, Request, Wire], None]"


@dataclass(frozen=True)
class Row:
    """A way to answer, and what comes of it: the file, or an error and its hint."""

    answer: Answer  # type: ignore[valid-type]
    error: str = ""  #: pattern of the message
    hint: str = ""
    most: int = 100  #: requests at most
    size: int | None = SIZE
    limits: DownloadLimits = LIMITS


def sound(server: Server, request: Request, wire: Wire) -> None:
    """As a sound server answers: 200 without a Range header."""
    if "range" in request.headers:
        wire.part(CONTENT, request)
    else:
        wire.reply("200 OK", {"ETag": '"1"'}, CONTENT)


def refused(server: Server, request: Request, wire: Wire) -> None:
    wire.reply("403 Forbidden", {})


# -- ways to answer ----------------------------------------------------------------------------------------


def refuses_ranges(status: int) -> Answer:  # type: ignore[valid-type]
    def answer(server: Server, request: Request, wire: Wire) -> None:
        if "range" in request.headers:
            wire.reply(f"{status} No", {}, b"no ranges")
        else:
            sound(server, request, wire)

    return answer


def hangs_up_on_ranges(*, reset: bool) -> Answer:  # type: ignore[valid-type]
    """As some firewalls do."""

    def answer(server: Server, request: Request, wire: Wire) -> None:
        if "range" not in request.headers:
            sound(server, request, wire)
        elif reset:
            wire.reset()
        else:
            wire.close()

    return answer


def breaks_off(server: Server, request: Request, wire: Wire) -> None:
    """Each answer after 100 kB."""
    start, stop = request.range
    assert stop is not None
    head = {"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}", "Content-Length": str(stop - start)}
    wire.reply("206 Partial Content", head, CONTENT[start : min(stop, start + 100_000)])
    wire.close()


def refuses_later_ranges(server: Server, request: Request, wire: Wire) -> None:
    if request.headers.get("range", "bytes=0-").startswith("bytes=0-"):
        sound(server, request, wire)
    else:
        refused(server, request, wire)


def part(
    before: int = 0,
    behind: int = 0,
    *,
    most: int = SIZE,
    head: Callable[[int, int], str] | None = None,
    length: bool = True,
) -> Answer:  # type: ignore[valid-type]
    """A part that begins and ends elsewhere, or says so in its own way."""

    def answer(server: Server, request: Request, wire: Wire) -> None:
        if "range" not in request.headers:
            sound(server, request, wire)
            return
        start, stop = request.range
        assert stop is not None
        first, end = max(0, start - before), min(SIZE, stop + behind, start + most)
        text = f"bytes {first}-{end - 1}/{SIZE}" if head is None else head(first, end)
        headers = {"ETag": '"1"'} | ({"Content-Range": text} if text else {})
        body = CONTENT[first:end]
        if not length:
            headers["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        wire.reply("206 Partial Content", headers, body, length=length)

    return answer


def one_too_high(first: int, end: int) -> str:
    return f"bytes {first}-{end}/{SIZE}"


def whole_as_part(server: Server, request: Request, wire: Wire) -> None:
    head = {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}", "ETag": '"1"'}
    wire.reply("206 Partial Content", head, CONTENT)


def unusable_part(server: Server, request: Request, wire: Wire) -> None:
    if "range" in request.headers:
        wire.reply("206 Partial Content", {"Content-Range": "bytes */*"}, b"x")
    else:
        sound(server, request, wire)


def always_unusable(server: Server, request: Request, wire: Wire) -> None:
    wire.reply("206 Partial Content", {"Content-Range": "bytes */*"}, b"x")


def whole_only_when_one(server: Server, request: Request, wire: Wire) -> None:
    assert "range" not in request.headers
    assert "if-range" not in request.headers
    sound(server, request, wire)


def breaks_off_when_one(server: Server, request: Request, wire: Wire) -> None:
    if request.number == 1:
        assert "range" not in request.headers
        wire.reply("200 OK", {"Content-Length": str(SIZE), "ETag": '"1"'}, CONTENT[: 2 * MIB])
        wire.close()
    else:
        assert request.range[0] >= 2 * MIB
        sound(server, request, wire)


def encoded(value: str) -> Answer:  # type: ignore[valid-type]
    def answer(server: Server, request: Request, wire: Wire) -> None:
        if "range" in request.headers:
            wire.part(CONTENT, request, Content_Encoding=value)
        else:
            wire.reply("200 OK", {"Content-Encoding": value}, CONTENT)

    return answer


def encoded_whole(value: str, *, length: bool, added: bool) -> Answer:  # type: ignore[valid-type]
    body = gzip.compress(CONTENT, 1) if added else CONTENT

    def answer(server: Server, request: Request, wire: Wire) -> None:
        head = {"Content-Encoding": value}
        if length:
            wire.reply("200 OK", head, body)
        else:
            head["Transfer-Encoding"] = "chunked"
            wire.reply("200 OK", head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), length=False)

    return answer


def encoded_in_parts(server: Server, request: Request, wire: Wire) -> None:
    """Ranges of the gzip that the server makes of the file."""
    body = gzip.compress(CONTENT, 1)
    if "range" in request.headers:
        wire.part(body, request, Content_Encoding="gzip")
    else:
        wire.reply("200 OK", {"Content-Encoding": "gzip"}, body)


def encoded_and_another_file(server: Server, request: Request, wire: Wire) -> None:
    wire.reply("200 OK", {"Content-Encoding": "gzip"}, b"no gzip at all")


def some_refused(status: int) -> Answer:  # type: ignore[valid-type]
    """Once the first range has come: every second request."""

    def answer(server: Server, request: Request, wire: Wire) -> None:
        if request.number > 1 and server.count("later") % 2:
            wire.reply(f"{status} No", {}, b"too many")
        else:
            sound(server, request, wire)

    return answer


def portal(*, length: bool) -> Answer:  # type: ignore[valid-type]
    """One page of somebody in between, in place of the third answer."""

    def answer(server: Server, request: Request, wire: Wire) -> None:
        if request.number != 3:
            sound(server, request, wire)
        elif length:
            wire.reply("200 OK", {"Content-Type": "text/html"}, PAGE)
        else:
            head = {"Content-Type": "text/html; charset=utf-8", "Transfer-Encoding": "chunked"}
            wire.reply("200 OK", head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(PAGE), PAGE), length=False)

    return answer


def refused_for_good(server: Server, request: Request, wire: Wire) -> None:
    (sound if request.number == 1 else refused)(server, request, wire)


def gone(server: Server, request: Request, wire: Wire) -> None:
    wire.reply("404 Not Found", {})


def signed(status: int) -> Answer:  # type: ignore[valid-type]
    """Each signed URL is good for two requests."""

    def answer(server: Server, request: Request, wire: Wire) -> None:
        if request.target.startswith("/file"):
            wire.reply("302 Found", {"Location": f"/signed-{request.number}"})
            wire.close()
        elif server.count(request.target) > 2:
            wire.reply(f"{status} Expired", {})
        else:
            sound(server, request, wire)

    return answer


ONE = replace(specs.download_limits(LimitsTable(connections=1)), backoff=LIMITS.backoff)

ROWS: dict[str, Row] = {
    # Range
    **{f"range-refused-{status}": Row(refuses_ranges(status), most=2) for status in (400, 401, 403)},
    **{f"range-refused-{status}": Row(refuses_ranges(status), most=2) for status in (405, 416, 501)},
    **{f"range-refused-{status}": Row(refuses_ranges(status), most=2) for status in (406, 412, 418, 451)},
    **{f"range-refused-{status}": Row(refuses_ranges(status), most=4) for status in (500, 502, 503)},
    "hangs-up-on-ranges": Row(hangs_up_on_ranges(reset=False), most=4),
    "resets-on-ranges": Row(hangs_up_on_ranges(reset=True), most=4),
    "breaks-off": Row(breaks_off),
    "later-ranges-refused": Row(refuses_later_ranges),
    "refused-without-range-too": Row(refused, "access is refused .403.", "credentials", most=2),
    "one-connection": Row(whole_only_when_one, most=1, limits=ONE),
    "one-connection-broken-off": Row(breaks_off_when_one, limits=ONE),
    "whole-as-206": Row(whole_as_part, most=2),
    "shorter": Row(part(most=300_000)),
    "longer": Row(part(behind=300_000)),
    "earlier": Row(part(before=300_000)),
    "size-unknown": Row(part(head=lambda first, end: f"bytes {first}-{end - 1}/*"), size=None),
    "range-with-equals-sign": Row(part(head=lambda first, end: f"bytes={first}-{end - 1}/{SIZE}")),
    "range-one-too-high": Row(part(head=one_too_high)),
    "range-one-too-high-in-chunks": Row(part(head=one_too_high, length=False)),
    "size-of-the-part": Row(part(head=lambda first, end: f"bytes {first}-{end - 1}/{end - first}"), most=2),
    "no-content-range": Row(part(head=lambda first, end: "")),
    "no-content-range-in-chunks": Row(part(head=lambda first, end: "", length=False), most=3),
    "unusable-206": Row(unusable_part, most=3),
    "unusable-206-always": Row(always_unusable, "without saying which", "try again", most=3),
    # Content-Encoding
    **{
        f"encoding-{value or 'empty'}": Row(encoded(value))
        for value in ("gzip", "x-gzip", "aws-chunked", "UTF-8", "")
    },
    "encoding-of-the-file-itself-in-chunks": Row(encoded_whole("x-gzip", length=False, added=False)),
    "encoding-added": Row(encoded_whole("gzip", length=True, added=True), most=1),
    "encoding-added-in-chunks": Row(encoded_whole("gzip", length=False, added=True), most=1),
    "encoding-added-to-ranges": Row(encoded_in_parts, most=2),
    "encoding-and-another-file": Row(encoded_and_another_file, "no gzip, as it says", "another file", most=1),
    # Refusals of a server that has proven itself
    **{f"some-refused-{status}": Row(some_refused(status)) for status in (400, 403, 404, 420, 421)},
    **{f"some-refused-{status}": Row(some_refused(status)) for status in (509, 529)},
    "captive-portal": Row(portal(length=True)),
    "captive-portal-in-chunks": Row(portal(length=False)),
    "refused-for-good": Row(refused_for_good, "access is refused .403.", "it may limit", most=20),
    "file-gone": Row(gone, "not there .404.", "does not have its file", most=1),
    # Redirects
    **{f"signed-url-expired-{status}": Row(signed(status)) for status in (400, 401, 403, 404, 410)},
}


@pytest.mark.parametrize("name", ROWS)
async def test_a_server(name: str, tmp_path: Path) -> None:
    row, state = ROWS[name], Server()
    notes: list[str] = []
    with FaultyServer(lambda request, wire: row.answer(state, request, wire)) as server:
        download = Download(
            [Location(server.url + "/file", "source", Access())],
            size=row.size,
            path=tmp_path / "spool",
            journal=MemoryJournal(),
            limits=row.limits,
            note=notes.append,
            environ={},
        )
        if row.error:
            with pytest.raises(DownloadError, match=row.error) as caught:
                await download.run()
            assert row.hint in caught.value.hint
        else:
            await download.run()
            assert (tmp_path / "spool").read_bytes() == CONTENT
        assert len(server.requests) <= row.most, [request.headers for request in server.requests]


NGINX = {
    "nginx-limit_conn": "limit_conn two 2; limit_conn_status 403; limit_rate 4m; sendfile_max_chunk 64k;",
    "nginx-limit_req": "limit_req zone=few; limit_req_status 403;",
}


@pytest.mark.parametrize("name", NGINX)
async def test_nginx_that_limits(name: str, tmp_path: Path) -> None:
    root = tmp_path / "www"
    root.mkdir()
    (root / "file").write_bytes(CONTENT)
    key = "$binary_remote_addr"
    zones = f"limit_conn_zone {key} zone=two:1m; limit_req_zone {key} zone=few:1m rate=600r/m;"
    with Nginx(tmp_path / "nginx", root=root, extra=NGINX[name], http=zones) as nginx:
        download = Download(
            [Location(nginx.url + "/file", "source", Access())],
            size=SIZE,
            path=tmp_path / "spool",
            journal=MemoryJournal(),
            # nginx has its own clock: patience costs nothing when it is not needed.
            limits=replace(LIMITS, tries=9, backoff=Backoff(first=0.1, most=2)),
            environ={},
        )
        await download.run()
        assert (tmp_path / "spool").read_bytes() == CONTENT
        assert 403 in {hit.status for hit in nginx.settled_hits()}


def test_the_document_has_each_row() -> None:
    """The table's last column names rows of this table, `NAME` or `NAME-*` for several."""
    named = set(re.findall(r"`test_servers:([^`]+)`", DOCUMENT.read_text()))
    rows = {*ROWS, *NGINX}
    matched = {row for row in rows for name in named if _names(name, row)}
    assert matched == rows
    assert all(any(_names(name, row) for row in rows) for name in named)


def _names(name: str, row: str) -> bool:
    return row.startswith(name[:-1]) if name.endswith("*") else row == name
