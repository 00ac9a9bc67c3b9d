"""Look-ups of names by a name server that does not answer, or not yet."""

from __future__ import annotations

import socket
import threading

import pytest
import trio
import trio.testing

from imgstored import lanes
from imgstored.errors import ClientError
from imgstored.http.documents import DocumentLimits, fetch_document
from imgstored.http.location import Location
from imgstored.http.lookups import Lookups

PATIENCE = 30


class NameServer:
    """Answers `dead` names when it is told to, and all others at once."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked: list[str] = []
        self.threads = 0
        self.most = 0
        self._lock = threading.Lock()

    def ask(self, host, port, *rest):
        name = host.decode() if isinstance(host, bytes) else host
        with self._lock:
            self.asked.append(name)
            self.threads += 1
            self.most = max(self.most, self.threads)
        try:
            if name.startswith("dead"):
                self.release.wait(PATIENCE)
                raise socket.gaierror(socket.EAI_AGAIN, "no answer")
            if name == "unknown":
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        finally:
            with self._lock:
                self.threads -= 1


@pytest.fixture
async def names():
    server = NameServer()
    trio.socket.set_custom_hostname_resolver(Lookups(server.ask))
    yield server
    server.release.set()
    trio.socket.set_custom_hostname_resolver(None)


async def until(condition) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for is in a thread
            await trio.sleep(0.002)


async def look_up(name: str, lane: lanes.Lane, failures: list[Exception] | None = None) -> None:
    with lanes.bound(lane):
        try:
            await trio.socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
        except OSError as error:
            assert failures is not None
            failures.append(error)


async def test_all_who_ask_for_a_dead_name_share_one_thread_and_its_error(names):
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:
        for _ in range(640):
            nursery.start_soon(look_up, "dead.example", "strangers", failures)
        await until(lambda: names.threads)
        await trio.testing.wait_all_tasks_blocked()
        assert names.asked == ["dead.example"]
        names.release.set()
    assert len({id(each) for each in failures}) == 640
    assert {each.args for each in failures} == {(socket.EAI_AGAIN, "no answer")}


async def test_who_gives_up_leaves_the_look_up_to_those_who_ask_next(names):
    for _ in range(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_up, "dead.example", "strangers")
            await until(lambda: names.threads)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert names.asked == ["dead.example"]


async def test_changes_do_not_wait_for_look_ups_of_what_reads(names):
    async with trio.open_nursery() as nursery:
        for number in range(500):
            nursery.start_soon(look_up, f"dead{number}.example", "strangers", [])
            nursery.start_soon(look_up, f"dead{number}.example", "questions", [])
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            await look_up("live.example", "changes")
        assert names.most <= 16 + 16 + 1
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        nursery.cancel_scope.cancel()


async def test_an_error_is_each_callers_own_and_nothing_is_remembered(names):
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="no such name"):
            await trio.socket.getaddrinfo("unknown", 1)
    assert names.asked == ["unknown"] * 2


async def test_an_address_is_not_looked_up(names):
    assert (await trio.socket.getaddrinfo("127.0.0.1", 80))[0][4] == ("127.0.0.1", 80)
    assert names.asked == []


async def test_documents_of_a_dead_name_take_one_thread_and_end_in_time(names):
    limits = DocumentLimits(connect_seconds=0.2, total_seconds=5, tries=1)
    dead = Location("http://dead.example/x", "http://dead.example")
    failures = []

    async def fetch() -> None:
        with lanes.bound("strangers"):
            try:
                await fetch_document(dead, limits=limits, environ={})
            except ClientError as error:
                failures.append(error.message)

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(fetch)
    assert len(failures) == 60
    assert names.asked == ["dead.example"]
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0


async def test_a_look_up_without_a_thread_keeps_nobody_waiting(names, monkeypatch):
    """Such a look-up was in the table of those under way, and all later ones of that name waited for it."""

    def start(*_, **__):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(trio.lowlevel, "start_thread_soon", start)
        with pytest.raises(RuntimeError, match="new thread"):
            await trio.socket.getaddrinfo("alive", 80)
    assert lanes.lookups().borrowed_tokens == 0
    with trio.fail_after(PATIENCE):
        assert await trio.socket.getaddrinfo("alive", 80)
