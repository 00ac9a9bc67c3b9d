"""Downloads from servers that do what a sound one does not."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from msgspec.structs import replace

from imgstored.errors import DownloadError
from imgstored.host import exhaustion
from imgstored.http.failures import Backoff
from imgstored.http.location import Access, Location
from imgstored.transfer import plan
from imgstored.transfer.digest import Expected, WrongFileError
from imgstored.transfer.download import Download, DownloadLimits
from imgstored.transfer.mirror import ChangedError
from imgstored.transfer.pump import Pump
from imgstored.transfer.spool import Spool
from tests.support.faulty_server import FaultyServer, Request, Wire
from tests.support.limits import decompress_limits, download_limits
from tests.support.memory_journal import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
SIZE = 4 * MIB + 12345
RANGES = 5
CONTENT = bytes(8) + (0x2F5BACBAC).to_bytes(8, "little") + random.Random(1).randbytes(SIZE - 16)
#: The same up to the third range.
LATER = CONTENT[: 2 * MIB] + random.Random(2).randbytes(SIZE - 2 * MIB)
OTHER = random.Random(3).randbytes(SIZE)

#: Patient: a connection that is given up because the machine is busy asks once more, and then the numbers of
#: requests mean something else.
LIMITS = download_limits(connections=3, tries=3, backoff=Backoff(first=0.02, most=0.1), silence_seconds=20)
#: What was asked for first is answered first, too.
ONE_BY_ONE = replace(LIMITS, connections=1)
IMPATIENT = replace(LIMITS, silence_seconds=0.5)

Answer = "Callable[[Request, Wire], None]"


class Case:
    """One spool, and servers of which each has its own ways."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spool"
        self.journal = MemoryJournal()
        self.notes: list[str] = []

    def download(
        self,
        *servers: FaultyServer,
        limits: DownloadLimits = LIMITS,
        size: int | None = SIZE,
        access: Access | None = None,
    ) -> Download:
        return Download(
            [Location(server.url + "/file?secret", "source", access or Access()) for server in servers],
            size=size,
            path=self.path,
            journal=self.journal,
            limits=limits,
            note=self.notes.append,
            environ={},
        )

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def fetched(download: Download) -> int:
    """Bytes that came over the network."""
    return sum(mirror.fetched for mirror in download.mirrors)


def sound(request: Request, wire: Wire) -> None:
    wire.part(CONTENT, request)


@contextmanager
def first(count: int, fault: Callable[[Request, Wire], None]) -> Iterator[FaultyServer]:
    """A server whose first `count` answers are faulty."""

    def answer(request: Request, wire: Wire) -> None:
        (fault if request.number <= count else sound)(request, wire)

    with FaultyServer(answer) as server:
        yield server


def whole(content: bytes, request: Request, wire: Wire) -> None:
    wire.reply("200 OK", {"ETag": '"1"'}, content)


def chunked(content: bytes, wire: Wire) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    wire.reply("200 OK", {"Transfer-Encoding": "chunked"}, body, length=False)


# -- faults that pass --------------------------------------------------------------------------------------


def wrong_content_range(request: Request, wire: Wire) -> None:
    wire.part(CONTENT, request, Content_Range=f"bytes 17-99/{SIZE}")


def no_content_range(request: Request, wire: Wire) -> None:
    wire.reply("206 Partial Content", {}, CONTENT[: MIB - 1])


def wrong_length(request: Request, wire: Wire) -> None:
    wire.part(CONTENT, request, Content_Length="5")


def begun(request: Request, wire: Wire) -> None:
    """The first 1000 bytes of what was asked for."""
    start, stop = request.range
    assert stop is not None
    head = {"Content-Length": str(stop - start), "Content-Range": f"bytes {start}-{stop - 1}/{SIZE}"}
    wire.reply("206 Partial Content", head, CONTENT[start : start + 1000])


def cut_off(request: Request, wire: Wire) -> None:
    begun(request, wire)
    wire.close()


def reset(request: Request, wire: Wire) -> None:
    wire.reset()


def closed(request: Request, wire: Wire) -> None:
    wire.close()


def silent(request: Request, wire: Wire) -> None:
    wire.stall()


def silent_midway(request: Request, wire: Wire) -> None:
    begun(request, wire)
    wire.stall()


def busy(request: Request, wire: Wire) -> None:
    wire.reply("503 Service Unavailable", {"Retry-After": "3600"})


def several_parts(request: Request, wire: Wire) -> None:
    wire.part(CONTENT, request, Content_Type="multipart/byteranges; boundary=x")


FAULTS = [
    (wrong_content_range, "another range than was asked for"),
    (no_content_range, "without saying which"),
    (wrong_length, "announces 5 bytes"),
    (cut_off, "bytes early"),
    (reset, "reset"),
    (closed, "closed the connection"),
    (silent, "silence|sent nothing"),
    (silent_midway, "silence|sent nothing"),
    (busy, "503"),
    (several_parts, "several ranges"),
]


def limits_for(fault: Answer) -> DownloadLimits:
    return IMPATIENT if fault in (silent, silent_midway) else LIMITS


@pytest.mark.parametrize(("fault", "words"), FAULTS)
async def test_a_fault_that_passes_is_tried_again(case: Case, fault: Answer, words: str) -> None:
    with first(1, fault) as server:
        await case.download(server, limits=limits_for(fault)).run()
        assert case.content == CONTENT
        assert len(server.requests) == RANGES + 1 or fault in (silent, silent_midway)
    assert all("trying again in" in note and "secret" not in note for note in case.notes)


@pytest.mark.parametrize(("fault", "words"), [entry for entry in FAULTS if entry[0] is not silent])
async def test_a_fault_that_stays_is_a_clear_error(case: Case, fault: Answer, words: str) -> None:
    with FaultyServer(fault) as server:
        with pytest.raises(DownloadError, match=words) as caught:
            await case.download(server, limits=limits_for(fault)).run()
        # Those that fail beside others only show that it does not bear so many at a time.
        assert LIMITS.tries <= len(server.requests) < LIMITS.tries + LIMITS.connections
        assert caught.value.message.startswith(server.url + "/file: ")
    assert "try again" in caught.value.hint


@pytest.mark.parametrize(("fault", "words"), FAULTS[:5])
async def test_a_fault_that_stays_sends_us_to_the_next_mirror(case: Case, fault: Answer, words: str) -> None:
    with FaultyServer(fault) as bad, FaultyServer(sound) as good:
        download = case.download(bad, good)
        await download.run()
        assert case.content == CONTENT
        assert download.mirrors[0].fetched + download.mirrors[1].fetched == SIZE


@pytest.mark.parametrize("mirrors", [1, 2])
async def test_what_this_host_lacks_is_known_of_the_error(
    case: Case, mirrors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers the client looks for it, and has another hint for it."""

    def no_descriptor(*_: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Download, "_resolve", no_descriptor)
    with FaultyServer(sound) as server:
        with pytest.raises(DownloadError, match="Too many open files") as caught:
            await case.download(*[server] * mirrors).run()
        assert not server.requests
    lacks = exhaustion.behind(caught.value)
    assert lacks is not None
    assert lacks.hint == exhaustion.DESCRIPTORS_HINT


async def test_a_server_that_wants_to_be_left_alone_is(case: Case) -> None:
    with first(1, busy) as server:
        began = trio.current_time()
        await case.download(server).run()
        # No longer than the limit on back-off, though.
        assert 0.1 <= trio.current_time() - began < 60


async def test_a_range_goes_on_where_its_connection_broke(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        if request.number in (2, 3):
            cut_off(request, wire)
        else:
            sound(request, wire)

    with FaultyServer(answer) as server:
        download = case.download(server, limits=ONE_BY_ONE)
        await download.run()
        assert case.content == CONTENT
        assert fetched(download) == SIZE
        starts = [request.range[0] for request in server.requests]
        assert starts == [0, MIB, MIB + 1000, MIB + 2000, 2 * MIB, 3 * MIB, 4 * MIB]


async def test_a_server_that_always_breaks_off_is_used_as_long_as_it_helps(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.reply("200 OK", {"Content-Length": str(SIZE)}, CONTENT[: 3 * MIB])
        wire.close()

    # Without ranges the same bytes come each time.
    with FaultyServer(answer) as server:
        with pytest.raises(DownloadError, match="bytes early"):
            await case.download(server).run()
        assert len(server.requests) == LIMITS.tries


async def test_answers_that_bring_nothing_are_not_asked_for_without_end(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a spool wants other bytes than it says: a fault of ours, or an index made for it."""
    monkeypatch.setattr(Spool, "write", lambda self, offset, data: 0)
    with FaultyServer(sound) as server:
        with pytest.raises(DownloadError, match="nothing of what is missing"):
            await case.download(server).run()
        assert len(server.requests) < 20


async def test_a_drip(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.reply(
            "206 Partial Content",
            {"Content-Length": str(MIB), "Content-Range": f"bytes 0-{MIB - 1}/{SIZE}", "ETag": '"1"'},
        )
        for _ in range(100):
            wire.send(CONTENT[:1])
            wire.stall(0.05)

    limits = replace(LIMITS, min_rate=1000, rate_seconds=0.3, tries=1)
    with FaultyServer(answer) as server, pytest.raises(DownloadError, match="less than 1000 bytes a second"):
        await case.download(server, limits=limits).run()


async def test_a_server_that_bears_two_connections(case: Case) -> None:
    active = 0
    most = 0
    lock = threading.Lock()

    def answer(request: Request, wire: Wire) -> None:
        nonlocal active, most
        with lock:
            active += 1
            refused = active > 2
            most = max(most, active)
        if refused:
            wire.reply("503 Service Unavailable", {})
        else:
            time.sleep(0.02)
            sound(request, wire)
        with lock:
            active -= 1

    with FaultyServer(answer) as server:
        await case.download(server, limits=replace(LIMITS, connections=5)).run()
    assert case.content == CONTENT
    assert most > 2


async def test_a_slow_connections_range_is_asked_for_twice(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_SLOW_SECONDS", 0.2)

    def answer(request: Request, wire: Wire) -> None:
        if request.number == 2:
            begun(request, wire)
            wire.stall()
        else:
            sound(request, wire)

    with FaultyServer(answer) as server:
        download = case.download(server, limits=replace(LIMITS, silence_seconds=100))
        with trio.fail_after(50):
            await download.run()
        assert case.content == CONTENT
        # What the slow one had brought by then need not come again. On a busy machine others are slow, too.
        slow = server.requests[1].range[0]
        assert any(0 <= request.range[0] - slow <= 1000 for request in server.requests[2:])
    assert case.notes == []


# -- another file than before ------------------------------------------------------------------------------


def switching(before: bytes, after: bytes, at: int, tag: Callable[[int], str | None]) -> Answer:
    """From request `at` on another content; `tag` gives the ETag of the first and the second."""

    def answer(request: Request, wire: Wire) -> None:
        late = request.number >= at
        content, etag = (after if late else before), tag(late)
        if request.headers.get("if-range", etag) != etag:
            wire.reply("200 OK", {"ETag": etag} if etag else {}, content)
        else:
            wire.part(content, request, etag=etag)

    return answer


def tagged(late: int) -> str:
    return '"after"' if late else '"before"'


async def test_a_file_that_changes_where_nobody_has_read_yet(case: Case) -> None:
    with FaultyServer(switching(CONTENT, LATER, 3, tagged)) as server:
        download = case.download(server, limits=ONE_BY_ONE)
        await download.run()
        assert case.content == LATER
        assert fetched(download) > SIZE
    assert any("downloads the file again, to compare it" in note for note in case.notes)


async def test_a_file_that_changes_where_it_was_read(case: Case) -> None:
    with FaultyServer(switching(CONTENT, OTHER, 3, tagged)) as server:
        with pytest.raises(ChangedError, match="changed while it was downloaded"):
            await case.download(server, limits=ONE_BY_ONE).run()
        assert case.journal.spooled is None
        again = case.download(server)
        await again.run()
        assert again.resumed == 0
        assert case.content == OTHER


async def test_a_change_that_only_the_date_tells(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        late = request.number >= 3
        wire.part(
            OTHER if late else CONTENT,
            request,
            etag=None,
            Last_Modified=f"Mon, 0{2 if late else 1} Jan 2024 00:00:00 GMT",
            Date="Fri, 01 Mar 2024 00:00:00 GMT",
        )

    with FaultyServer(answer) as server, pytest.raises(ChangedError):
        await case.download(server, limits=ONE_BY_ONE).run()


async def test_a_change_of_size(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.part(CONTENT if request.number < 3 else CONTENT + b"x", request, etag=None)

    with FaultyServer(answer) as server:
        with pytest.raises(DownloadError, match=f"expected {SIZE} bytes, the server has {SIZE + 1} bytes"):
            await case.download(server).run()
        # With a size from the manifest, what came before is still worth something.
        assert case.journal.spooled is not None


async def test_servers_behind_one_name_that_disagree_only_about_the_tag(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.part(CONTENT, request, etag=f'"{request.number % 2}"')

    with FaultyServer(answer) as server:
        await case.download(server).run()
    assert case.content == CONTENT


async def test_a_change_that_several_connections_find_out_counts_once(case: Case) -> None:
    barrier = threading.Barrier(3, timeout=30)

    def answer(request: Request, wire: Wire) -> None:
        late = request.number > 3
        if 3 < request.number <= 6:
            barrier.wait()
        wire.part(CONTENT, request, etag=tagged(late))

    # The first range is alone; then three ask at once, and so on.
    with FaultyServer(answer) as server:
        download = case.download(server, limits=replace(LIMITS, connections=3))
        await download.run()
        assert case.content == CONTENT
        assert download._plan.mirrors[0].changes == 1


async def test_a_server_that_lies_about_its_bytes_is_found_out_by_the_checksum(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        wire.part(OTHER if request.number == 4 else CONTENT, request)

    with FaultyServer(answer) as server:
        download = case.download(server)
        await download.run()
    expected = Expected("01b2c898-945f-11e1-a523-af1afbe22822", SIZE, hashlib.sha1(CONTENT).hexdigest())
    pump = Pump(
        download.blocks, expected, decompress_limits(), verify="streaming", release=download.watermark.fail
    )
    with pytest.raises(WrongFileError, match="checksum"):
        await trio.to_thread.run_sync(pump.run, lambda stream: sum(map(len, stream)))


# -- without ranges ----------------------------------------------------------------------------------------


async def test_the_file_comes_whole_with_a_break_in_between(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        if request.number == 1:
            wire.reply("200 OK", {"Content-Length": str(SIZE)}, CONTENT[: 2 * MIB + 5])
            wire.close()
        else:
            whole(CONTENT, request, wire)

    with FaultyServer(answer) as server:
        await case.download(server).run()
        assert len(server.requests) == 2
    assert case.content == CONTENT


async def test_the_file_comes_whole_and_is_another_after_a_break(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        if request.number == 1:
            wire.reply("200 OK", {"Content-Length": str(SIZE)}, CONTENT[: 2 * MIB + 5])
            wire.close()
        else:
            whole(OTHER, request, wire)

    with FaultyServer(answer) as server, pytest.raises(ChangedError):
        await case.download(server).run()


async def test_a_server_that_stops_serving_ranges(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        if request.number < 3:
            sound(request, wire)
        else:
            whole(CONTENT, request, wire)

    with FaultyServer(answer) as server:
        await case.download(server).run()
    assert case.content == CONTENT


@pytest.mark.parametrize("size", [SIZE, None])
async def test_in_chunks(case: Case, size: int | None) -> None:
    with FaultyServer(lambda request, wire: chunked(CONTENT, wire)) as server:
        await case.download(server, size=size).run()
    assert case.content == CONTENT


async def test_too_much_in_chunks(case: Case) -> None:
    with FaultyServer(lambda request, wire: chunked(CONTENT + b"x", wire)) as server:
        with pytest.raises(DownloadError, match=f"expected {SIZE} bytes, the server sends more"):
            await case.download(server).run()
        assert len(server.requests) == 1


async def test_too_little_in_chunks(case: Case) -> None:
    with FaultyServer(lambda request, wire: chunked(CONTENT[:-1], wire)) as server:
        with pytest.raises(DownloadError, match=f"expected {SIZE} bytes, downloaded {SIZE - 1} bytes"):
            await case.download(server).run()
        assert len(server.requests) == LIMITS.tries


async def test_an_endless_file(case: Case) -> None:
    with FaultyServer(lambda request, wire: chunked(CONTENT, wire)) as server:
        limits = replace(LIMITS, max_size=SIZE - 1)
        with pytest.raises(DownloadError, match="the server sends more"):
            await case.download(server, size=None, limits=limits).run()


async def test_a_file_of_unstated_size_that_is_shorter_after_a_break(case: Case) -> None:
    def answer(request: Request, wire: Wire) -> None:
        if request.number == 1:
            wire.reply(
                "200 OK",
                {"Transfer-Encoding": "chunked"},
                b"%x\r\n%b" % (SIZE, CONTENT[: 2 * MIB]),
                length=False,
            )
            wire.close()
        else:
            chunked(CONTENT[:MIB], wire)

    with FaultyServer(answer) as server:
        with pytest.raises(ChangedError):
            await case.download(server, size=None).run()
        await case.download(server, size=None).run()
    assert case.content == CONTENT[:MIB]


# -- what may be sent --------------------------------------------------------------------------------------


async def test_headers_are_sent_to_their_server(case: Case) -> None:
    with FaultyServer(sound) as server:
        await case.download(server, access=Access(headers=(("X-Auth-Token", "t"),))).run()
        assert all(request.headers["x-auth-token"] == "t" for request in server.requests)
        assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)


async def test_a_header_that_cannot_be_sent(case: Case) -> None:
    with FaultyServer(sound) as server:
        with pytest.raises(DownloadError, match="cannot be sent"):
            await case.download(server, access=Access(headers=(("X", "a\r\nY: b"),))).run()
        assert server.requests == []


# -- cancelling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [silent, silent_midway])
async def test_cancelled_while_a_server_is_silent(case: Case, fault: Answer) -> None:
    with FaultyServer(fault) as server:
        download = case.download(server, limits=replace(LIMITS, silence_seconds=60))
        began = trio.current_time()
        with trio.move_on_after(0.3):
            await download.run()
        assert trio.current_time() - began < 20


async def test_cancelled_while_a_mirror_rests(case: Case) -> None:
    with FaultyServer(busy) as server:
        limits = replace(LIMITS, backoff=Backoff(first=60, most=60))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(case.download(server, limits=limits).run)
            with trio.fail_after(30):
                while not case.notes:  # noqa: ASYNC110  a thread writes them
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert len(server.requests) == 1
