from __future__ import annotations

import os
import time

import msgpack
import pytest
import structlog.testing
import trio

from imgstored.errors import ImageNotFoundError
from imgstored.rpc import client_socket
from imgstored.rpc.framing import MessageLimits
from tests.rpc.harness import PATIENCE, connecting, method, request, serving
from tests.support.descriptors import open_files
from tests.support.limits import socket_limits


class Daemon:
    """Methods to ask for, and what became of them."""

    def __init__(self):
        self.cancelled = []
        self.read = []
        self.started = []
        self.release = trio.Event()
        self.done = trio.Event()

    async def echo(self, call):
        return call.params.get("text")

    async def fail(self, call):
        raise ImageNotFoundError("no such image")

    async def wait(self, call):
        self.started.append(call.id)
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.append(call.id)
            raise
        return "waited"

    async def flood(self, call):
        for number in range(call.params["count"]):
            await call.notify({"event": "note", "text": f"{number} " + "x" * 1000})

    async def progress(self, call):
        for done in range(call.params["count"]):
            await call.notify({"event": "progress", "done": done, "filler": "x" * 1000})
            await trio.lowlevel.checkpoint()
        self.done.set()
        return "done"

    async def large(self, call):
        self.started.append(call.id)
        return "x" * call.params["size"]

    async def read_file(self, call):
        fd = call.take_file()
        try:
            assert not os.get_inheritable(fd)
            self.read.append(os.pread(fd, 100, 0).decode())
        finally:
            os.close(fd)
        return self.read[-1]

    async def hold_file(self, call):
        return await self.wait(call)

    @property
    def methods(self):
        return {
            "echo": method(self.echo, "text"),
            "fail": method(self.fail),
            "wait": method(self.wait),
            "flood": method(self.flood, "count"),
            "progress": method(self.progress, "count"),
            "large": method(self.large, "size"),
            "read": method(self.read_file, change=True, file=True),
            "hold": method(self.hold_file, change=True, file=True),
        }


@pytest.fixture
def daemon():
    return Daemon()


@pytest.fixture
def image(tmp_path):
    (tmp_path / "image").write_text("the image")
    with (tmp_path / "image").open("rb") as file:
        yield file.fileno()


def code(message) -> str:
    return message[2]["code"]


async def until(condition) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for is within the daemon
            await trio.sleep(0.002)


async def slowest_while(client, condition) -> float:
    """Seconds that the slowest of a client's requests takes."""
    slowest = 0.0
    while condition():
        began = time.perf_counter()
        assert await client.call(1, "echo", text="x") == (None, "x")
        slowest = max(slowest, time.perf_counter() - began)
    return slowest


# -- requests ------------------------------------------------------------------------------------------------


async def test_answers_and_errors(path, daemon):
    async with serving(path, daemon.methods), connecting(path) as client:
        assert await client.call(1, "echo", text="grüße") == (None, "grüße")
        error, result = await client.call(2, "fail")
        assert (error["code"], error["message"], result) == ("ImageNotFound", "no such image", None)
        error, _ = await client.call(3, "nothing")
        assert error["code"] == "Usage"
        await client.raw(msgpack.packb([0, 4, "echo", []]))
        assert await client.receive() == [1, 4, None, None]


async def test_requests_run_side_by_side(path, daemon):
    async with serving(path, daemon.methods), connecting(path) as client:
        await client.ask(1, "wait")
        assert await client.call(2, "echo", text="b") == (None, "b")
        daemon.release.set()
        assert await client.receive() == [1, 1, None, "waited"]


async def test_requests_begin_in_their_order(path, daemon):
    async with serving(path, daemon.methods), connecting(path) as client:
        await client.send(*([0, number, "wait", []] for number in range(50)))
        await until(lambda: len(daemon.started) == 50)
        assert daemon.started == list(range(50))


async def test_an_id_may_be_used_again_once_it_is_answered(path, daemon):
    async with serving(path, daemon.methods), connecting(path) as client:
        for _ in range(20):
            assert await client.call(7, "echo", text="x") == (None, "x")


async def test_two_requests_of_one_id_end_the_connection(path, daemon):
    async with serving(path, daemon.methods) as server, connecting(path) as client:
        await client.send([0, 7, "wait", []], [0, 7, "echo", []])
        (goodbye,) = await client.rest()
        assert goodbye[:2] == [1, None]
        assert "two requests in flight have the id 7" in goodbye[2]["message"]
        await until(lambda: server.connections == 0)
        assert daemon.cancelled == [7]


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", msgpack.packb([1, 1, None, None]), msgpack.packb([2, "m", []]), b"\xc1"],
)
async def test_what_is_no_request_ends_the_connection_and_only_that(path, daemon, data):
    async with serving(path, daemon.methods), connecting(path) as other, connecting(path) as client:
        await other.ask(1, "wait")
        await client.raw(request(1, "echo", text="before") + data)
        *_, goodbye = await client.rest()
        assert (goodbye[1], code(goodbye)) == (None, "Usage")
        daemon.release.set()
        assert await other.receive() == [1, 1, None, "waited"]


async def test_a_message_that_is_too_long_ends_the_connection(path, daemon):
    limits = socket_limits(message=MessageLimits(size=1000))
    async with serving(path, daemon.methods, limits=limits), connecting(path) as client:
        await client.ask(1, "echo", text="x" * 1000)
        (goodbye,) = await client.rest()
        assert goodbye[2]["message"] == "a message has more than 1000 bytes"


async def test_too_many_in_flight_are_refused_one_by_one(path, daemon, image):
    before = open_files()
    limits = socket_limits(client_requests=3)
    async with serving(path, daemon.methods, limits=limits), connecting(path) as client:
        await client.send(*([0, number, "wait", []] for number in range(3)))
        for number in range(3, 40):
            await client.pass_files(request(number, "read"), image)
            message = await client.receive()
            assert (message[1], code(message)) == (number, "Usage")
            assert "more than 3 requests" in message[2]["message"]
        # Descriptors that came with what was refused are closed, not kept: these two are the connection.
        await until(lambda: len(open_files() - before) < 20)
        daemon.release.set()
        assert min([await client.receive() for _ in range(3)]) == [1, 0, None, "waited"]
        assert await client.call(50, "echo", text="again") == (None, "again")
    await until(lambda: open_files() <= before)


# -- leaving -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
async def test_leaving_cancels_the_requests(path, daemon, half):
    """To shut down one half is to leave, too: there would be nobody to tell when the other half went."""
    async with serving(path, daemon.methods) as server, connecting(path) as client:
        await client.send([0, 1, "wait", []], [0, 2, "wait", []])
        await until(lambda: len(daemon.started) == 2)
        if half:
            client.socket.shutdown(trio.socket.SHUT_WR)
            assert await client.rest() == []
        else:
            client.socket.close()
        await until(lambda: server.connections == 0)
        assert sorted(daemon.cancelled) == [1, 2]


async def test_leaving_in_the_middle_of_an_answer(path, daemon):
    async with serving(path, daemon.methods) as server:
        for _ in range(5):
            async with connecting(path) as client:
                await client.ask(1, "large", size=5 << 20)
                await client.socket.recv(1000)
        await until(lambda: server.connections == 0)
        async with connecting(path) as client:
            assert await client.call(1, "echo", text="x") == (None, "x")


async def test_leaving_in_the_middle_of_a_message(path, daemon):
    async with serving(path, daemon.methods) as server:
        async with connecting(path) as client:
            await client.raw(request(1, "echo", text="x" * 1000)[:500])
        await until(lambda: server.connections == 0)


async def test_nothing_stays_open(path, daemon, image):
    before = open_files()
    async with serving(path, daemon.methods) as server:
        for end in range(40):
            async with connecting(path) as client:
                await client.pass_files(request(1, "hold")[: 5 if end % 2 else 1000], image)
                if end % 3 == 0:
                    await client.raw(b"\xc1" * 10)
                    assert len(await client.rest()) == 1
        await until(lambda: server.connections == 0)
    await until(lambda: open_files() <= before)


# -- slow and silent clients ---------------------------------------------------------------------------------


@pytest.mark.alone
async def test_who_does_not_read_holds_up_nobody_and_is_disconnected(path, daemon):
    limits = socket_limits(send=0.5, outbox=10_000)
    async with serving(path, daemon.methods, limits=limits) as server:
        async with connecting(path) as deaf, connecting(path) as client:
            with structlog.testing.capture_logs() as logs:
                for one in (deaf, client):
                    assert await one.call(1, "echo", text="x") == (None, "x")
                await deaf.ask(1, "flood", count=100_000)
                assert await slowest_while(client, lambda: server.connections == 2) < 0.3
            assert "a client does not read its answers and is disconnected" in [log["event"] for log in logs]
            # What was sent to it before is whole messages up to the one that was cut off.
            notes = await deaf.rest()
            assert [note[2][0]["text"].split()[0] for note in notes] == [str(n) for n in range(len(notes))]
        await until(lambda: server.connections == 0)


async def test_a_client_that_reads_slowly_gets_everything(path, daemon):
    limits = socket_limits(send=20, outbox=10_000)
    async with serving(path, daemon.methods, limits=limits), connecting(path) as client:
        await client.ask(1, "flood", count=1000)
        for number in range(1000):
            if number % 100 == 0:
                await trio.sleep(0.02)
            message = await client.receive()
            assert message[:2] == [2, "event"]
            assert message[2][0]["text"].startswith(f"{number} ")
        assert await client.receive() == [1, 1, None, None]


async def test_bytes_now_and_then_do_not_keep_an_answer_going_for_ever(path, daemon):
    limits = socket_limits(send=0.4)
    async with serving(path, daemon.methods, limits=limits) as server, connecting(path) as client:
        await client.ask(1, "large", size=10 << 20)
        await client.socket.recv(1)
        with trio.fail_after(PATIENCE):
            while server.connections:
                await client.socket.recv(2048)
                await trio.sleep(0.05)


async def test_answers_that_are_not_read_do_not_pile_up(path, daemon):
    limits = socket_limits(send=20, outbox=1000)
    async with serving(path, daemon.methods, limits=limits) as server, connecting(path) as client:
        await client.send(*([0, number, "large", [{"size": 1 << 20}]] for number in range(30)))
        await until(lambda: len(daemon.started) == 30)
        (connection,) = server._connections
        most = 0
        with trio.move_on_after(0.3):
            while True:
                most = max(most, connection._outbox.size)
                await trio.sleep(0.01)
        assert most < 2.2 * (1 << 20)
        answers = {(await client.receive())[1] for _ in range(30)}
        assert answers == set(range(30))


@pytest.mark.alone
async def test_requests_without_end_of_one_who_does_not_read(path, daemon):
    """More are not even read once its answers wait; the others are served all the while."""
    limits = socket_limits(send=0.5, outbox=10_000)
    tiny = b"".join(request(number, "") for number in range(60_000))

    async def push(deaf) -> None:
        with trio.move_on_after(PATIENCE):
            try:
                while True:
                    await deaf.raw(tiny)
            except OSError:
                return

    async with (
        serving(path, daemon.methods, limits=limits) as server,
        connecting(path) as deaf,
        connecting(path) as client,
        trio.open_nursery() as nursery,
    ):
        for one in (deaf, client):
            assert await one.call(1, "echo", text="x") == (None, "x")
        began = trio.current_time()
        nursery.start_soon(push, deaf)
        assert await slowest_while(client, lambda: server.connections == 2) < 0.3
        assert 0.4 < trio.current_time() - began < 5


async def test_progress_is_never_old_news(path, daemon):
    async with serving(path, daemon.methods), connecting(path) as client:
        await client.ask(1, "progress", count=5000)
        with trio.fail_after(PATIENCE):
            await daemon.done.wait()
        messages = []
        while (message := await client.receive())[0] == 2:
            messages.append(message[2][0])
        assert message == [1, 1, None, "done"]
        numbers = [event["done"] for event in messages]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 4999
        assert len(numbers) < 1250
        assert {event["id"] for event in messages} == {1}


async def test_silence_ends_a_connection(path, daemon):
    async with (
        serving(path, daemon.methods, limits=socket_limits(client_idle_seconds=0.2)) as server,
        connecting(path) as client,
    ):
        began = trio.current_time()
        (goodbye,) = await client.rest()
        assert (goodbye[1], code(goodbye)) == (None, "Cancelled")
        assert "0.2 seconds" in goodbye[2]["message"]
        assert trio.current_time() - began > 0.15
        await until(lambda: server.connections == 0)


async def test_half_a_message_is_silence(path, daemon):
    async with (
        serving(path, daemon.methods, limits=socket_limits(client_idle_seconds=0.3)),
        connecting(path) as client,
    ):

        async def drip() -> None:
            for byte in request(1, "echo", text="x" * 1000):
                await client.socket.send(bytes([byte]))
                await trio.sleep(0.01)

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await drip()
        assert code(await client.receive()) == "Cancelled"


async def test_waiting_for_an_answer_is_no_silence(path, daemon):
    async with (
        serving(path, daemon.methods, limits=socket_limits(client_idle_seconds=0.5)),
        connecting(path) as client,
    ):
        await client.ask(1, "wait")
        await trio.sleep(0.8)
        daemon.release.set()
        assert await client.receive() == [1, 1, None, "waited"]
        began = trio.current_time()
        assert code(await client.receive()) == "Cancelled"
        assert trio.current_time() - began > 0.15


# -- descriptors ---------------------------------------------------------------------------------------------


async def test_a_file_is_passed(path, daemon, image):
    before = open_files()
    async with serving(path, daemon.methods), connecting(path) as client:
        await client.pass_files(request(1, "read"), image)
        assert await client.receive() == [1, 1, None, "the image"]
    await until(lambda: open_files() <= before)


async def test_a_file_is_passed_where_no_flag_closes_it_on_exec(path, daemon, image, monkeypatch):
    """illumos may lack MSG_CMSG_CLOEXEC; `read` looks whether a program would inherit the file."""
    monkeypatch.setattr(client_socket, "_CLOSE_ON_EXEC", 0)
    async with serving(path, daemon.methods), connecting(path) as client:
        await client.pass_files(request(1, "read"), image)
        assert await client.receive() == [1, 1, None, "the image"]


async def test_a_file_comes_with_the_first_byte_of_a_message_in_pieces(path, daemon, image):
    data = request(1, "read")
    async with serving(path, daemon.methods), connecting(path) as client:
        await client.pass_files(data[:1], image)
        for byte in data[1:]:
            await client.raw(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert await client.receive() == [1, 1, None, "the image"]


async def test_each_file_finds_its_request(path, daemon, tmp_path):
    names = [f"file {number}" for number in range(20)]
    async with serving(path, daemon.methods), connecting(path) as client:
        for number, name in enumerate(names):
            (tmp_path / name).write_text(name)
            with (tmp_path / name).open() as file:
                await client.raw(request(100 + number, "echo", text=name))
                await client.pass_files(request(number, "read"), file.fileno())
        answers = {}
        for _ in range(40):
            _, id_, error, result = await client.receive()
            assert error is None
            answers[id_] = result
        assert [answers[number] for number in range(20)] == names


async def test_without_a_file_the_request_says_so(path, daemon, image):
    async with serving(path, daemon.methods), connecting(path) as client:
        error, _ = await client.call(1, "read")
        assert error["message"] == "read: no file was passed"
        # A descriptor belongs to a message that begins with it, and to no later one.
        data = request(2, "read")
        await client.raw(data[:3])
        await trio.sleep(0.02)
        await client.pass_files(data[3:], image)
        assert code(await client.receive()) == "Usage"


async def test_a_file_for_a_method_that_takes_none_is_closed(path, daemon, image):
    before = open_files()
    async with serving(path, daemon.methods), connecting(path) as client:
        here = len(open_files())
        for number, method in enumerate(["echo", "nothing", "wait"] * 5):
            await client.pass_files(request(number, method), image)
        await until(lambda: len(daemon.started) == 5)
        await until(lambda: len(open_files()) <= here + 1)
    await until(lambda: open_files() <= before)


async def test_two_files_end_the_connection(path, daemon, image):
    before = open_files()
    async with serving(path, daemon.methods), connecting(path) as client:
        await client.pass_files(request(1, "read"), image, image)
        (goodbye,) = await client.rest()
        assert (goodbye[1], code(goodbye)) == (None, "Usage")
        assert "there was more than one" in goodbye[2]["message"]
    await until(lambda: open_files() <= before)
    assert daemon.read == []


async def test_a_file_whose_message_never_ends_is_closed(path, daemon, image):
    before = open_files()
    async with (
        serving(path, daemon.methods, limits=socket_limits(client_idle_seconds=0.2)) as server,
        connecting(path) as client,
    ):
        await client.pass_files(request(1, "read")[:4], image)
        assert len(await client.rest()) == 1
        await until(lambda: server.connections == 0)
    await until(lambda: open_files() <= before)


# -- the daemon stops ----------------------------------------------------------------------------------------


async def test_stopping_answers_what_is_in_flight(path, daemon):
    limits = socket_limits(stop=1000)  # nobody waits for it
    async with (
        serving(path, daemon.methods, limits=limits) as server,
        connecting(path) as client,
        connecting(path) as idle,
    ):
        await client.send([0, 1, "wait", []], [0, 2, "wait", []])
        assert await idle.call(1, "echo", text="x") == (None, "x")
        await until(lambda: len(daemon.started) == 2)
        server.stop()
        *answers, goodbye = await client.rest()
        assert {(message[1], code(message)) for message in answers} == {(1, "Cancelled"), (2, "Cancelled")}
        assert (goodbye[1], code(goodbye)) == (None, "Cancelled")
        assert [code(message) for message in await idle.rest()] == ["Cancelled"]
        await until(lambda: not path.exists())


async def test_stopping_waits_for_nobody_longer_than_the_limit(path, daemon):
    before = open_files()
    limits = socket_limits(stop=0.3, outbox=1000)
    async with connecting_later(path) as connect:
        async with serving(path, daemon.methods, limits=limits):
            deaf = await connect()
            await deaf.send(*([0, number, "large", [{"size": 1 << 20}]] for number in range(10)))
            await until(lambda: len(daemon.started) == 10)
            began = trio.current_time()
        assert 0.25 < trio.current_time() - began < 15  # else until `send`, 20 s
    await until(lambda: open_files() <= before)


class connecting_later:  # noqa: N801 - reads as a function
    def __init__(self, path):
        self._path = path
        self._stack = None

    async def __aenter__(self):
        async def connect():
            self._stack = connecting(self._path)
            return await self._stack.__aenter__()

        return connect

    async def __aexit__(self, *error):
        await self._stack.__aexit__(*error)
