from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.http.dial import AbortableSocket, AbortedError, Answered, connect, resolve_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

#: TEST-NET-1, RFC 5737: nobody answers there.
NOWHERE = "192.0.2.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """A server that takes no more connections: its queue is full, and the kernel drops what comes."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        address = sock.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        time.sleep(0.05)
        yield address
        for client in waiting:
            client.close()


def to(*addresses: tuple[str, int]) -> Any:
    """A resolver that gives these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
    return lambda host, port: found


def test_the_first_address_that_answers(listener: socket.socket) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        resolve = to(closed.getsockname(), listener.getsockname())
        with connect(AbortableSocket(), "host", 1, resolve=resolve, seconds=5) as sock:
            assert sock.getpeername() == listener.getsockname()


def test_a_family_that_the_host_does_not_have(listener: socket.socket) -> None:
    """As an IPv6 address is on a host without IPv6."""
    unknown = (socket.AF_X25, socket.SOCK_STREAM, 0, "", ("::1", 1))
    with pytest.raises(OSError, match="not supported"):
        connect(AbortableSocket(), "host", 1, resolve=lambda *_: [unknown], seconds=5)
    found = [unknown, *to(listener.getsockname())("host", 1)]
    with connect(AbortableSocket(), "host", 1, resolve=lambda *_: found, seconds=5) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_an_address_that_does_not_answer_keeps_nobody_waiting(
    full: tuple[str, int], listener: socket.socket
) -> None:
    resolve = to(full, listener.getsockname())
    before = time.monotonic()
    # Each address had its share of the time before: half an hour of this hour.
    with connect(AbortableSocket(), "host", 1, resolve=resolve, seconds=3600) as sock:
        assert sock.getpeername() == listener.getsockname()
    assert time.monotonic() - before < 600


def test_the_address_that_answered_is_the_first_the_next_time(listener: socket.socket) -> None:
    answered = Answered()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        addresses = to(closed.getsockname(), listener.getsockname())("host", 1)
        assert answered.ordered("host", 1, addresses) == addresses
        with connect(
            AbortableSocket(), "host", 1, resolve=lambda *_: addresses, seconds=5, answered=answered
        ):
            pass
        assert answered.ordered("host", 1, addresses) == addresses[::-1]
        assert answered.ordered("other", 1, addresses) == addresses


def test_families_take_turns() -> None:
    found: list[tuple[Any, ...]] = [
        (family, socket.SOCK_STREAM, 0, "", (name, 1))
        for family, name in [(socket.AF_INET6, "a"), (socket.AF_INET6, "b"), (socket.AF_INET, "c")]
    ]
    assert [entry[4][0] for entry in Answered().ordered("host", 1, found)] == ["a", "c", "b"]


@pytest.mark.alone
def test_nobody_answers(full: tuple[str, int]) -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        connect(AbortableSocket(), "host", 1, resolve=to(full), seconds=0.3)
    assert time.monotonic() - before < 1.5


def test_refused() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            connect(AbortableSocket(), "host", 1, resolve=to(closed.getsockname()), seconds=5)


def test_a_host_without_addresses() -> None:
    with pytest.raises(OSError, match="no address"):
        connect(AbortableSocket(), "host", 1, resolve=to(), seconds=5)


def test_the_systems_resolver() -> None:
    found = {entry[4][0] for entry in resolve_blocking("localhost", 80)}
    assert found <= {"127.0.0.1", "::1"}
    assert found


def test_aborted_while_it_connects(full: tuple[str, int]) -> None:
    abortable = AbortableSocket()
    with ThreadPoolExecutor(1) as executor:
        connecting = executor.submit(connect, abortable, "host", 1, resolve=to(full), seconds=30)
        time.sleep(0.05)
        abortable.abort("not wanted")
        abortable.abort("a second time")
        with pytest.raises(AbortedError, match="not wanted"):
            connecting.result(5)


def test_aborted_before_it_connects(listener: socket.socket) -> None:
    abortable = AbortableSocket()
    abortable.abort("not wanted")
    with pytest.raises(AbortedError, match="not wanted"):
        connect(abortable, "host", 1, resolve=to(listener.getsockname()), seconds=5)


def test_aborted_while_it_waits_for_bytes(listener: socket.socket) -> None:
    abortable = AbortableSocket()
    reading = threading.Event()
    with connect(abortable, "host", 1, resolve=to(listener.getsockname()), seconds=5) as sock:
        sock.settimeout(30)

        def read() -> bytes:
            reading.set()
            return sock.recv(1)

        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(read)
            reading.wait(5)
            abortable.abort("not wanted")
            assert waiting.result(5) == b""
        with pytest.raises(AbortedError):
            abortable.check()


def test_a_released_socket_is_left_alone(listener: socket.socket) -> None:
    abortable = AbortableSocket()
    with connect(abortable, "host", 1, resolve=to(listener.getsockname()), seconds=5) as sock:
        peer, _ = listener.accept()
        with peer:
            abortable.release()
            abortable.abort("not wanted")
            peer.sendall(b"x")
            sock.settimeout(5)
            assert sock.recv(1) == b"x"
