"""msgpack without its C part refuses what it refuses with it, and gives the same otherwise."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imgctl import NotConnectedError
from imgctl import connection as client
from imgctl.connection import Connection
from msgpack import _cmsgpack, fallback

from imgstored.rpc import wire
from imgstored.rpc.framing import MessageLimits
from tests.rpc.test_wire import encoded, messages
from tests.support.without import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LIMITS = MessageLimits()
BOTH = (_cmsgpack, fallback)

#: What no client should send. 0x91, 0xdd, 0xc4, 0xd4 and others: the format's own first bytes.
HOSTILE = {
    "deep": b"\x91" * 100_000,
    "deep maps": b"\x81\xa1x" * 100_000,
    "an array of four milliards": b"\xdd\xff\xff\xff\xff",
    "a map of four milliards": b"\xdf\xff\xff\xff\xff",
    "a string of four milliards": b"\x94\x00\x01\xdb\xff\xff\xff\xff",
    "binary": b"\x94\x00\x01\xc4\x01x\x90",
    "empty binary": b"\x94\x00\x01\xc4\x00\x90",
    "an extension": b"\x94\x00\x01\xd4\x01x\x90",
    "a timestamp": b"\x94\x00\x01\xd6\xff\x00\x00\x00\x00\x90",
    "an empty extension": b"\x94\x00\x01\xc7\x00\x01\x90",
    "never used": b"\x94\x00\x01\xc1\x90",
    "no UTF-8": b"\x94\x00\x01\xa2\xff\xfe\x90",
    "half a surrogate pair": b"\x94\x00\x01\xa3\xed\xa0\x80\x90",
    "a key that is a number": b"\x94\x00\x01\xa1m\x91\x81\x01\x02",
    "a key that is nil": b"\x94\x00\x01\xa1m\x91\x81\xc0\x02",
    "a key that is an array": b"\x94\x00\x01\xa1m\x91\x81\x90\x02",
    "a key twice": b"\x94\x00\x01\xa1m\x91\x82\xa1a\x01\xa1a\x02",
    "many values": b"\xdd\x00\x02\x00\x00" + b"\xc0" * (2 << 16),
    "a sound one": b"\x94\x00\x01\xa1m\x91\x81\xa1a\x01",
}


def decoded(implementation: Any, data: bytes) -> tuple[list[wire.Message], str | None]:
    """The messages, and why there are no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "msgpack", _as_msgpack(implementation))
        decoder = wire.Decoder(LIMITS)
        found = decoder.feed(data)
    return found, None if decoder.fault is None else decoder.fault.message


def _as_msgpack(implementation: Any) -> SimpleNamespace:
    return SimpleNamespace(
        Unpacker=implementation.Unpacker,
        unpackb=implementation.unpackb,
        packb=msgpack.packb,
        UnpackException=msgpack.UnpackException,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused_alike(name: str):
    first, second = (decoded(each, HOSTILE[name]) for each in BOTH)
    assert first == second


@settings(max_examples=200)
@given(st.lists(messages, max_size=3), st.data())
def test_what_is_damaged_is_refused_alike(sent: list[wire.Message], draw: st.DataObject):
    data = b"".join(map(encoded, sent)) + draw.draw(st.binary(max_size=30))
    if data:
        position = draw.draw(st.integers(0, len(data) - 1))
        data = data[:position] + draw.draw(st.binary(max_size=3)) + data[position + 1 :]
    # Their texts, because NaN is not equal to itself.
    assert repr(decoded(_cmsgpack, data)) == repr(decoded(fallback, data))


@given(st.lists(messages, max_size=3))
def test_what_is_sound_is_read_alike(sent: list[wire.Message]):
    data = b"".join(map(encoded, sent))
    assert decoded(_cmsgpack, data) == decoded(fallback, data) == (sent, None)


# -- the client --------------------------------------------------------------------------------------------


@pytest.fixture(params=BOTH, ids=lambda each: each.__name__)
def connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """One whose other end the test has: `connection.other`."""
    monkeypatch.setattr(client, "msgpack", _as_msgpack(request.param))
    ours, theirs = socket.socketpair()
    made = Connection("/nowhere")
    made._socket, made.other = ours, theirs  # type: ignore[attr-defined]
    with ours, theirs:
        yield made


@pytest.mark.parametrize("name", ["deep", "deep maps", "binary", "an extension", "never used", "no UTF-8"])
def test_the_client_refuses_what_is_no_answer(connection: Any, name: str):
    sender = threading.Thread(target=_send, args=(connection.other, HOSTILE[name]))
    sender.start()
    with pytest.raises(NotConnectedError):
        connection._receive()
    connection.close()
    sender.join()


def _send(to: socket.socket, data: bytes) -> None:
    try:
        to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other end has had enough


def test_a_long_answer_is_not_begun_anew_with_every_piece(connection: Any, monkeypatch: pytest.MonkeyPatch):
    """Without its C part, msgpack reads an unfinished message from its first byte each time."""
    answer = [1, 1, None, ["x" * 100] * 40_000]
    data = msgpack.packb(answer)
    tries: list[int] = []

    class Counting(client.msgpack.Unpacker):  # type: ignore[misc,name-defined]
        def __next__(self) -> Any:
            tries.append(connection._unfinished)
            return super().__next__()

    connection._unpacker = Counting(raw=False, max_buffer_size=client.MAX_MESSAGE)
    monkeypatch.setattr(client, "_is_readable", lambda connected, seconds: True)  # the other end is quick
    sender = threading.Thread(target=_send, args=(connection.other, data))
    sender.start()
    assert connection._receive() == answer
    sender.join()
    assert all(later >= min(2 * earlier, len(data)) for earlier, later in pairwise(tries))


# -- all the rest ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_that_is_said_of_the_socket_holds_without_the_c_part():
    code = (
        "import sys, msgpack, pytest\n"
        "assert msgpack.Unpacker.__module__ == 'msgpack.fallback', msgpack.Unpacker.__module__\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    names = ("framing", "wire", "connection", "dispatch", "methods", "params", "server")
    tests = [f"tests/rpc/test_{name}.py" for name in names] + ["tests/ctl/test_client.py"]
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-m", "not alone", *tests],
        cwd=ROOT,
        env=environment("msgpack._cmsgpack"),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
