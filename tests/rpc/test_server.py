from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import structlog.testing
import trio

from imgstored.errors import ConfigError, NotPermittedError
from imgstored.rpc import server as server_module
from imgstored.rpc.framing import MessageLimits
from imgstored.rpc.peer import ChangeRights, peer_of
from imgstored.rpc.server import Server
from tests.rpc.harness import PATIENCE, Somebody, connecting, method, request, serving
from tests.support.descriptors import open_files
from tests.support.limits import socket_limits

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="what Linux does")

GROUP = 54321


async def say(call):
    return "said"


METHODS = {
    "read": method(say, "filler"),
    "change": method(say, change=True),
    "file": method(say, file=True),
}


async def until(condition) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for is within the daemon
            await trio.sleep(0.002)


def code(message):
    return None if message[2] is None else message[2]["code"]


async def receive(somebody):
    with trio.fail_after(PATIENCE):
        return await trio.to_thread.run_sync(somebody.receive, abandon_on_cancel=True)


@pytest.fixture
def group(monkeypatch):
    """Members of GROUP may change; the system need not have such a group."""
    monkeypatch.setattr(server_module, "change_rights", lambda name: ChangeRights(0, name, GROUP))
    return "operators"


# -- who may what --------------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize(
    ("identity", "allowed"),
    [
        ({"uid": 0, "gid": 0}, True),
        ({"uid": 65534, "gid": 65534}, False),
        ({"uid": 65534, "gid": 65534, "groups": [1, GROUP]}, True),
        ({"uid": 65534, "gid": GROUP}, True),
        ({"uid": 65534, "gid": 0}, False),
        ({"uid": 65534, "gid": 65534, "groups": [0]}, False),
    ],
)
async def test_who_may_change(path, group, identity, allowed):
    data = request(1, "read") + request(2, "change")
    async with serving(path, METHODS, group=group):
        with Somebody(path, data, **identity) as somebody:
            messages = []
            while len(messages) < 2:
                messages += await receive(somebody)
            answers = {message[1]: message for message in messages}
            assert answers[1] == [1, 1, None, "said"]
            assert code(answers[2]) == (None if allowed else "NotPermitted")
            if not allowed:
                assert "operators" in answers[2][2]["message"]


@as_root
async def test_without_a_group_only_root_may_change(path):
    async with serving(path, METHODS):
        with Somebody(path, request(1, "change"), gid=0, groups=[GROUP]) as somebody:
            (message,) = await receive(somebody)
            assert code(message) == "NotPermitted"


@as_root
@pytest.mark.parametrize(("groups", "connects"), [([GROUP], True), ([], False)])
async def test_the_mode_says_who_may_connect(path, group, groups, connects):
    async with serving(path, METHODS, group=group, mode=0o660):
        with Somebody(path, request(1, "read"), groups=groups) as somebody:
            assert bool(await receive(somebody)) is connects


@as_root
async def test_who_may_not_change_has_little_to_say(path):
    limits = socket_limits(readers_message=MessageLimits(size=1000))
    async with serving(path, METHODS, limits=limits), connecting(path) as root:
        assert (await root.call(1, "read", filler="x" * 2000)) == (None, "said")
        with Somebody(path, request(1, "read", filler="x" * 2000)) as somebody:
            (message,) = await receive(somebody)
            assert (message[1], code(message)) == (None, "Usage")


@pytest.mark.parametrize("name", ["peer_at_once", "peer_of"])
async def test_nobody_knows_who_it_is(path, monkeypatch, name):
    def unknown(_):
        raise NotPermittedError("the system does not identify the client")

    monkeypatch.setattr(server_module, name, unknown)
    if name == "peer_of":
        monkeypatch.setattr(server_module, "peer_at_once", lambda _: None)
    before = open_files()
    async with serving(path, METHODS), connecting(path) as client:
        (message,) = await client.rest()
        assert (message[1], code(message)) == (None, "NotPermitted")
    assert open_files() <= before


def test_an_unknown_group_is_refused(path):
    with pytest.raises(ConfigError, match="no-such-group"):
        Server(path, METHODS, group="no-such-group", limits=socket_limits())


# -- how many ------------------------------------------------------------------------------------------------


async def test_too_many_connections(path):
    before = open_files()
    async with serving(path, METHODS, limits=socket_limits(clients=3)) as server:
        async with connecting(path) as a, connecting(path) as b, connecting(path) as c:
            for client in (a, b, c):
                assert await client.call(1, "read") == (None, "said")
            async with connecting(path) as refused:
                (message,) = await refused.rest()
                assert (message[1], code(message)) == (None, "Usage")
                assert "too many connections: 3 at most" in message[2]["message"]
            assert await a.call(2, "read") == (None, "said")
        await until(lambda: server.connections == 0)
        async with connecting(path) as later:
            assert await later.call(1, "read") == (None, "said")
    assert open_files() <= before


@as_root
async def test_a_quarter_of_the_connections_is_for_those_who_may_change(path, group):
    read = request(1, "read")
    async with serving(path, METHODS, group=group, limits=socket_limits(clients=4)) as server:
        with Somebody(path, read) as a, Somebody(path, read) as b, Somebody(path, read) as c:
            for somebody in (a, b, c):
                assert await receive(somebody) == [[1, 1, None, "said"]]
            with Somebody(path, read) as reader:
                (message,) = await receive(reader)
                assert "too many connections" in message[2]["message"]
            with Somebody(path, read, groups=[GROUP]) as member:
                assert await receive(member) == [[1, 1, None, "said"]]
                async with connecting(path) as root:
                    (message,) = await root.rest()
                    assert "too many connections" in message[2]["message"]
        await until(lambda: server.connections == 0)


async def test_new_limits_are_for_new_connections(path):
    async with serving(path, METHODS, limits=socket_limits(clients=1)) as server, connecting(path) as a:
        assert await a.call(1, "read") == (None, "said")
        server.reconfigure(socket_limits(clients=2))
        async with connecting(path) as b:
            assert await b.call(1, "read") == (None, "said")


@as_root
async def test_who_connects_all_the_time_is_turned_away_and_holds_up_nobody(path, monkeypatch):
    monkeypatch.setattr("imgstored.rpc.budgets._CONNECTS_BURST", 5)
    monkeypatch.setattr("imgstored.rpc.budgets._CONNECTS", 1e-3)
    before = open_files()
    async with serving(path, METHODS) as server, connecting(path) as root:
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                with Somebody(path, request(1, "read")) as somebody:
                    assert await receive(somebody) == [[1, 1, None, "said"]]
            for data in (request(1, "read"), b""):
                with Somebody(path, data) as somebody:
                    (message,) = await receive(somebody)
                    assert message[2]["message"] == "uid 65534 connects too often"
            # Others may: somebody else, and who may change however often.
            with Somebody(path, request(1, "read"), uid=65533) as somebody:
                assert await receive(somebody) == [[1, 1, None, "said"]]
            for _ in range(20):
                async with connecting(path) as client:
                    assert await client.call(1, "read") == (None, "said")
            assert await root.call(2, "read") == (None, "said")
        assert server.connections <= 2
        refused = [line for line in logs if line["event"] == "a connection is refused"]
        assert all("counted" in line for line in refused)
    await until(lambda: open_files() <= before)


async def test_when_nobody_says_who_comes_some_are_looked_up_and_others_turned_away(path, monkeypatch):
    """The event loop waits for none of them."""
    release = threading.Event()

    def slow(connected):
        release.wait(PATIENCE)
        return peer_of(connected)

    async with serving(path, METHODS), AsyncExitStack() as stack:
        root = await stack.enter_async_context(connecting(path))
        assert await root.call(1, "read") == (None, "said")
        monkeypatch.setattr(server_module, "peer_at_once", lambda _: None)
        monkeypatch.setattr(server_module, "peer_of", slow)
        waiting = [await stack.enter_async_context(connecting(path)) for _ in range(32)]
        async with connecting(path) as client:
            (message,) = await client.rest()
            assert "too many connections" in message[2]["message"]
        assert await root.call(2, "read") == (None, "said")
        release.set()
        for client in waiting:
            assert await client.call(1, "read") == (None, "said")


async def test_a_burst_of_connections_is_served(path):
    async def one() -> None:
        async with connecting(path) as client:
            assert await client.call(1, "read") == (None, "said")

    async with serving(path, METHODS), trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(one)


# -- what must not end the daemon ----------------------------------------------------------------------------


async def test_one_connection_that_fails_leaves_the_others_alone(path, monkeypatch):
    before = open_files()
    async with serving(path, METHODS) as server, connecting(path) as other:
        assert await other.call(1, "read") == (None, "said")
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr("imgstored.rpc.connection.Decoder.feed", lambda *_: 1 / 0)
            async with connecting(path) as client:
                await client.ask(1, "read")
                assert await client.rest() == []
        assert "a connection failed" in [entry["event"] for entry in logs]
        await until(lambda: server.connections == 1)
        assert await other.call(2, "read") == (None, "said")
    assert open_files() <= before


@pytest.mark.parametrize("name", ["peer_at_once", "peer_of"])
async def test_a_lookup_that_fails_leaves_the_others_alone(path, monkeypatch, name):
    async with serving(path, METHODS) as server:
        with monkeypatch.context() as patch:
            patch.setattr(server_module, name, lambda _: 1 / 0)
            if name == "peer_of":
                patch.setattr(server_module, "peer_at_once", lambda _: None)
            for _ in range(40):  # more than may be on their way in at once
                async with connecting(path) as client:
                    assert await client.rest() == []
        assert server.connections == 0
        async with connecting(path) as client:
            assert await client.call(1, "read") == (None, "said")


async def test_a_shortage_of_descriptors_passes(path, monkeypatch):
    monkeypatch.setattr(server_module, "_SHORTAGE_PAUSE", 0.01)
    failures = [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]
    accept = socket.socket.accept

    def short(self):
        if failures:
            raise OSError(failures.pop(), "short")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", short)
    async with serving(path, METHODS), connecting(path) as client:
        assert await client.call(1, "read") == (None, "said")
    assert failures == []


# -- descriptors that a stranger passes ----------------------------------------------------------------------

#: Passes a TCP socket whose close takes 20 s, and nobody else has it. `chr(10)` would end `exec`'s line.
_PASS_LINGERING = """
import array, struct
port = int({port})
peer = socket.create_connection(("127.0.0.1", port))
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
peer.setblocking(False)
try:
    while True: peer.send(bytes(65536))
except BlockingIOError: pass
first = bytes.fromhex(data)
passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [peer.fileno()]))]
connected.sendmsg([first] if first else [b"\\x94"], passed)
peer.close()
data = ""
sys.stdout.write("passed" + chr(10)); sys.stdout.flush()
sys.stdin.readline()
"""


@asynccontextmanager
async def lingering(path, data, monkeypatch, limits):
    """A server to which somebody passes such a descriptor before it knows who that is."""
    passed = threading.Event()

    def slow(connected):
        peer = peer_of(connected)
        if peer.uid:
            # Were the descriptor received while somebody still has it, nothing would linger.
            passed.wait(PATIENCE)
        return peer

    monkeypatch.setattr(server_module, "peer_at_once", lambda _: None)
    monkeypatch.setattr(server_module, "peer_of", slow)
    with socket.create_server(("127.0.0.1", 0)) as sink:
        script = _PASS_LINGERING.format(port=sink.getsockname()[1])
        async with serving(path, METHODS, limits=limits) as server:
            with Somebody(path, data, then=script) as somebody:
                assert await trio.to_thread.run_sync(somebody.line) == "passed"
                passed.set()
                yield server
            began = trio.current_time()
        assert trio.current_time() - began < 2


async def longest_gap(path, seconds=0.4) -> float:
    """Seconds that the daemon, whose loop is this one, does not get to serve anybody."""
    longest, ends = 0.0, trio.current_time() + seconds
    before = time.monotonic()
    while trio.current_time() < ends:
        async with connecting(path) as client:
            await client.ask(1, "read")
            await client.receive()
        longest = max(longest, time.monotonic() - before)
        before = time.monotonic()
        await trio.sleep(0.005)
    return longest


@pytest.mark.alone
@as_root
@on_linux
@pytest.mark.parametrize("data", [request(1, "read"), b"\xc1", b""])
async def test_a_descriptor_that_is_slow_to_close_holds_up_nobody(path, data, monkeypatch):
    async with lingering(path, data, monkeypatch, socket_limits(stop=0.3)) as server:
        assert await longest_gap(path) < 0.3
        # The kernel is still at it, in a thread: the connection keeps its place.
        await until(lambda: server.connections == 1)


@pytest.mark.alone
@as_root
@on_linux
async def test_one_that_nobody_received_holds_up_nobody(path, monkeypatch):
    """The connection is refused, and closed with the descriptor in it."""
    async with lingering(path, b"", monkeypatch, socket_limits(clients=1, stop=0.3)) as server:
        assert await longest_gap(path) < 0.3
        await until(lambda: server.connections == 0)


@as_root
async def test_a_stranger_passes_a_file_and_is_answered(path, tmp_path):
    before = open_files()
    script = (
        "import array; read, write = os.pipe();"
        "connected.sendmsg([bytes.fromhex(data)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,"
        " array.array('i', [write]))]); data = ''"
    )
    async with serving(path, METHODS):
        with Somebody(path, request(1, "read"), then=script) as somebody:
            assert await receive(somebody) == [[1, 1, None, "said"]]
    assert open_files() <= before


# -- the beginning and the end -------------------------------------------------------------------------------


async def test_stopping_before_it_serves(path):
    server = Server(path, METHODS, limits=socket_limits())
    server.stop()
    with trio.fail_after(PATIENCE):
        await server.serve()
    assert not path.exists()


async def test_cancelling_leaves_nothing(path):
    before = open_files()
    async with trio.open_nursery() as nursery:
        server = Server(path, METHODS, limits=socket_limits())
        await nursery.start(server.serve)
        async with connecting(path) as client:
            assert await client.call(1, "read") == (None, "said")
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await until(lambda: not path.exists())
                assert await client.rest() == []
    assert open_files() <= before


async def test_a_second_daemon_is_refused_before_it_has_started(path):
    async with serving(path, METHODS), connecting(path) as client:
        second = Server(path, METHODS, limits=socket_limits())
        with pytest.raises(ConfigError, match="another imgstored is listening"):
            await second.serve()
        assert await client.call(1, "read") == (None, "said")


async def test_who_comes_while_it_stops_is_told_or_refused(path):
    async def hold(_):
        with trio.CancelScope(shield=True):
            await trio.sleep(0.2)

    async with serving(path, {"hold": method(hold)}) as server, connecting(path) as client:
        await client.ask(1, "hold")
        await trio.sleep(0.05)
        server.stop()
        await until(lambda: not path.exists())
        assert [message[1] for message in await client.rest()] == [1, None]
