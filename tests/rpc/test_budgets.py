"""What one user has of the daemon, over all its connections, and what is left for the others."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import structlog.testing
import trio
import trio.testing
from msgspec.structs import replace

from imgstored.rpc import server as server_module
from imgstored.rpc.budgets import Budgets, ConnectionRates, Own
from imgstored.rpc.call import always
from imgstored.rpc.peer import ChangeRights, Peer
from tests.rpc.harness import PATIENCE, connecting, method, request, serving
from tests.support.descriptors import open_files
from tests.support.limits import socket_limits

ROOT, NOBODY, OTHER = 0, 65534, 65533


class Daemon:
    """Methods, and which of them run."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.made = 0
        self.lanes: list[str] = []
        self.release = trio.Event()

    async def wait(self, call):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.release.wait()
        finally:
            self.running -= 1
        return "waited"

    async def large(self, call):
        self.made += 1
        return [{"text": "x" * 1000, "number": number} for number in range(call.params.get("count", 4000))]

    async def bad(self, call):
        return [*range(100_000), object()]

    async def some(self, call):
        self.made += 1
        return "x" * 30_000

    async def say(self, call):
        return "said"

    @property
    def methods(self):
        return {
            "wait": method(self.wait),
            "watch": replace(method(self.wait), lasting=True),
            "ask": replace(method(self.wait), asks=always),
            "large": replace(method(self.large, "count"), large=True),
            "large found": replace(method(self.large), large=True, asks=always),
            "large ask": replace(method(self.wait), large=True, asks=always),
            "bad": replace(method(self.bad), large=True),
            "say": method(self.say),
            "some": method(self.some),
            "change": method(self.say, change=True),
        }


@pytest.fixture
def daemon():
    return Daemon()


@pytest.fixture
def who(monkeypatch):
    """The uid of whoever connects next."""
    uid = [NOBODY]
    monkeypatch.setattr(server_module, "peer_at_once", lambda _: Peer(uid[0], 1, frozenset({uid[0]})))
    monkeypatch.setattr(server_module, "change_rights", lambda _: ChangeRights(ROOT))
    return uid


class Crowd:
    """Connections of several users."""

    def __init__(self, path, who, stack):
        self._path, self._who, self._stack = path, who, stack

    async def connect(self, uid):
        self._who[0] = uid
        client = await self._stack.enter_async_context(connecting(self._path))
        await client.ask(0, "say")
        message = await client.receive()
        return client if message == [1, 0, None, "said"] else message


@pytest.fixture
async def crowd(path, who):
    async with AsyncExitStack() as stack:
        yield Crowd(path, who, stack)


async def until(condition) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for is within the daemon
            await trio.sleep(0.002)


async def settled() -> None:
    """Until nothing happens any more, in threads neither."""
    for _ in range(5):
        await trio.sleep(0.02)
        await trio.testing.wait_all_tasks_blocked()


# -- how much ------------------------------------------------------------------------------------------------


async def test_connections_of_one_user(path, daemon, crowd):
    limits = socket_limits(clients=40, user_clients=3)
    async with serving(path, daemon.methods, limits=limits) as server:
        for _ in range(3):
            assert not isinstance(await crowd.connect(NOBODY), list)
        refused = await crowd.connect(NOBODY)
        assert refused[2]["message"] == "too many connections of uid 65534: 3 at most"
        # Others have their own, and who may change has no such limit.
        assert not isinstance(await crowd.connect(OTHER), list)
        for _ in range(10):
            assert not isinstance(await crowd.connect(ROOT), list)
        assert server.connections == 14


async def test_a_connection_that_ends_makes_room(path, daemon, who):
    async with serving(path, daemon.methods, limits=socket_limits(user_clients=1)) as server:
        for _ in range(10):
            async with connecting(path) as client:
                assert await client.call(1, "say") == (None, "said")
            await until(lambda: server.connections == 0)


@pytest.mark.parametrize(
    ("name", "limit", "words"),
    [
        ("wait", "user_requests", "more than 10 requests of uid 65534 are in flight"),
        ("watch", "user_watches", "more than 10 requests `m` of uid 65534 are in flight"),
    ],
)
async def test_requests_of_one_user_over_all_connections(path, daemon, crowd, name, limit, words):
    async with serving(path, daemon.methods, limits=socket_limits(**{limit: 10})):
        clients = [await crowd.connect(NOBODY) for _ in range(5)]
        for client in clients[:2]:
            await client.send(*([0, number, name, []] for number in range(1, 6)))
        await until(lambda: daemon.running == 10)
        for client in clients[2:]:
            await client.send(*([0, number, name, []] for number in range(1, 5)))
            assert {(await client.receive())[2]["message"] for _ in range(4)} == {words}
        await settled()
        assert daemon.running == 10
        # Others, and who may change, are not concerned.
        for uid in (OTHER, ROOT):
            other = await crowd.connect(uid)
            await other.send(*([0, number, name, []] for number in range(1, 21)))
            await until(lambda uid=uid: daemon.running == (20 if uid == OTHER else 40))
        daemon.release.set()
        await until(lambda: daemon.running == 0)
        # What is answered counts no longer.
        assert (await clients[4].call(9, name))[1] == "waited"


async def test_a_client_that_leaves_takes_its_requests_along(path, daemon, who):
    async with serving(path, daemon.methods, limits=socket_limits(user_requests=5, user_watches=5)):
        for _ in range(4):
            async with connecting(path) as client:
                await client.send(*([0, number, "watch", []] for number in range(5)))
                await until(lambda: daemon.running == 5)
            await until(lambda: daemon.running == 0)


@pytest.mark.parametrize("name", ["ask", "large ask"])
async def test_questions_that_ask_servers_take_turns_and_hold_up_nothing_else(path, daemon, crowd, name):
    async with serving(path, daemon.methods):
        clients = [await crowd.connect(NOBODY) for _ in range(4)]
        for client in clients:
            await client.send(*([0, number, name, []] for number in range(1, 11)))
        await until(lambda: daemon.running == 2)
        await settled()
        assert daemon.running == 2
        for each in [*clients, await crowd.connect(ROOT), await crowd.connect(OTHER)]:
            assert await each.call(20, "say") == (None, "said")
            error, result = await each.call(21, "large", count=10)
            assert error is None
            assert len(result) == 10
        daemon.release.set()
        for client in clients:
            assert {(await client.receive())[1] for _ in range(10)} == set(range(1, 11))
        assert daemon.most == 2


async def test_one_user_connects_so_often(autojump_clock):
    rates = ConnectionRates()
    assert sum(rates.may_connect(NOBODY) for _ in range(1000)) == 256
    assert rates.may_connect(OTHER)
    await trio.sleep(1)
    # Those that were turned away count for nothing.
    assert sum(rates.may_connect(NOBODY) for _ in range(1000)) == 50
    await trio.sleep(60)
    for uid in range(10_000, 20_000):
        assert rates.may_connect(uid)
    await trio.sleep(60)
    assert rates.may_connect(NOBODY)
    assert len(rates._due) < 10


async def test_one_user_sends_so_many_requests_a_second(autojump_clock):
    budgets = Budgets()
    budget, changer = budgets.of(NOBODY, changer=False), budgets.of(ROOT, changer=True)
    began = trio.current_time()
    for _ in range(256):
        await budget.pace()
    assert trio.current_time() == began  # at once, after a rest

    async def connection() -> None:
        for _ in range(20):
            await budget.pace()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(connection)
    assert trio.current_time() - began == pytest.approx(2.0)
    for _ in range(10_000):
        await changer.pace()
    assert trio.current_time() - began == pytest.approx(2.0)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("took", "rests"), [(0.0, 0.0), (0.1, 0.4), (10.0, 2.0)])
async def test_one_user_rests_after_a_large_answer(autojump_clock, took, rests, whole):
    """Also after one that the client did not want to its end."""
    budget = Budgets().of(NOBODY, changer=False)
    large, small = Daemon().methods["large"], Daemon().methods["say"]
    with trio.move_on_after(float("inf") if whole else took), budget.turn(large, Own()) as turn:
        await turn.begin({})
        await turn.send()
        await trio.sleep(took if whole else 1000.0)
    ended = trio.current_time()
    with budget.turn(small, Own()) as turn:
        await turn.begin({})
        assert trio.current_time() == ended
    with budget.turn(large, Own()) as turn:
        await turn.begin({})
        assert trio.current_time() - ended == pytest.approx(rests)


async def test_who_waited_for_others_does_not_rest_for_it(autojump_clock):
    budgets, method = Budgets(), Daemon().methods["large found"]
    users = [budgets.of(uid, changer=False) for uid in range(1, 6)]

    async def take(user, seconds, *, task_status=trio.TASK_STATUS_IGNORED):
        with user.turn(method, Own()) as turn:
            await turn.begin({})
            await turn.send()
            task_status.started()
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        for user in users[:4] * 2:
            await nursery.start(take, user, 10.0)
        await take(users[4], 0.1)
        assert trio.current_time() == pytest.approx(began := 10.1)
        with users[4].turn(method, Own()) as turn:
            await turn.begin({})
            assert trio.current_time() - began == pytest.approx(0.4)


# -- large answers -------------------------------------------------------------------------------------------


async def test_who_does_not_read_holds_nothing_but_its_place(path, daemon, crowd):
    """Of 64 large answers on each of ten connections two are made: nobody reads the first."""
    async with serving(path, daemon.methods, limits=socket_limits(send=1000, user_requests=640)) as server:
        deaf = [await crowd.connect(NOBODY) for _ in range(10)]
        for client in deaf:
            await client.send(*([0, number, "large", [{}]] for number in range(1, 65)))
        await until(lambda: daemon.made == 2)
        await settled()
        assert daemon.made == 2
        waiting = sum(connection._outbox.size for connection in server._connections)
        assert waiting < 2 * (400 << 10)  # and not 4 MiB each
        # The others have their own turns.
        for uid in (OTHER, ROOT):
            client = await crowd.connect(uid)
            _, result = await client.call(1, "large")
            assert len(result) == 4000
        # Once they read, each gets its answers, whole.
        async with trio.open_nursery() as nursery:
            for client in deaf:
                nursery.start_soon(four_thousand, client)


@pytest.mark.parametrize("stops", [False, True])
async def test_large_answers_of_all_who_may_only_read_that_ask_servers(path, daemon, crowd, stops):
    """Who asks holds up no large answer; those that are found are sent to eight at a time."""
    users = range(1001, 1006)
    limits = socket_limits(clients=60, send=1000)
    async with serving(path, daemon.methods, limits=limits) as server:
        asking = [await crowd.connect(uid) for uid in users for _ in range(2)]
        for client in asking:
            await client.ask(1, "large ask")
        await until(lambda: daemon.running == 10)
        _, result = await (await crowd.connect(OTHER)).call(1, "large", count=10)
        assert len(result) == 10
        daemon.release.set()
        for client in asking:
            assert await client.receive() == [1, 1, None, "waited"]

        for client in asking:
            await client.ask(2, "large found")
        await until(lambda: daemon.made == 11)
        await settled()
        waiting = [each for each in server._connections if each._outbox.size]
        assert len(waiting) == 8
        _, result = await (await crowd.connect(ROOT)).call(1, "large")
        assert len(result) == 4000
        if stops:
            server.stop()
            codes = []

            async def read(client) -> None:
                answers = [message for message in await client.rest() if message[:2] == [1, 2]]
                codes.extend(error["code"] for _, _, error, _ in answers if error is not None)

            async with trio.open_nursery() as nursery:
                for client in asking:
                    nursery.start_soon(read, client)
            assert codes == ["Cancelled"] * 2
            return
        async with trio.open_nursery() as nursery:
            for client in asking:
                nursery.start_soon(four_thousand, client, 1)


async def four_thousand(client, times=3) -> None:
    for _ in range(times):
        assert len((await client.receive())[3]) == 4000


async def test_who_may_change_gets_one_large_answer_at_a_time_on_a_connection(path, daemon, crowd):
    async with serving(path, daemon.methods, limits=socket_limits(send=1000)):
        client = await crowd.connect(ROOT)
        await client.send(*([0, number, "large", [{}]] for number in range(1, 65)))
        await until(lambda: daemon.made == 1)
        await settled()
        assert daemon.made == 1
        for _ in range(64):
            assert len((await client.receive())[3]) == 4000
        assert daemon.made == 64


async def test_small_answers_that_nobody_reads_do_not_pile_up_either(path, daemon, crowd):
    async with serving(path, daemon.methods, limits=socket_limits(send=1000)) as server:
        deaf = [await crowd.connect(NOBODY) for _ in range(2)]
        for client in deaf:
            await client.send(*([0, number, "some", []] for number in range(1, 60)))
        await until(lambda: daemon.made == 118)
        await settled()
        assert max(connection._outbox.size for connection in server._connections) < (128 << 10) + 31_000
        for client in deaf:
            assert {(await client.receive())[1] for _ in range(59)} == set(range(1, 60))


async def test_other_messages_come_behind_a_large_answer_not_within_it(path, daemon, crowd):
    async with serving(path, daemon.methods, limits=socket_limits(send=1000)):
        client = await crowd.connect(NOBODY)
        await client.ask(1, "large")
        await until(lambda: daemon.made == 1)
        await settled()
        await client.send(*([0, number, "say", []] for number in range(2, 40)))
        await settled()
        messages = [await client.receive() for _ in range(39)]
        assert [len(message[3]) for message in messages] == [4000] + [4] * 38


async def test_who_leaves_in_the_middle_of_a_large_answer_gives_its_turn_back(path, daemon, who):
    before = open_files()
    async with serving(path, daemon.methods, limits=socket_limits(send=1000)) as server:
        for turn in range(1, 8):
            async with connecting(path) as client:
                await client.ask(1, "large")
                await client.socket.recv(1000)
                assert daemon.made == turn
            await until(lambda: server.connections == 0)
        assert server._budgets._budgets == {}
    assert open_files() <= before


async def test_an_answer_that_cannot_be_encoded_to_its_end_ends_the_connection(path, daemon, crowd):
    async with serving(path, daemon.methods) as server:
        client, other = await crowd.connect(NOBODY), await crowd.connect(NOBODY)
        with structlog.testing.capture_logs() as logs:
            await client.ask(1, "bad")
            await until(lambda: server.connections == 1)
        assert "an answer cannot be encoded" in [line["event"] for line in logs]
        assert await other.call(1, "say") == (None, "said")


async def test_stopping_answers_those_that_wait_for_their_turn(path, daemon, crowd):
    async with serving(path, daemon.methods) as server:
        client = await crowd.connect(NOBODY)
        await client.send(*([0, number, "ask", []] for number in range(1, 21)))
        await until(lambda: server._budgets.of(NOBODY, changer=False).requests == 20)
        await until(lambda: daemon.running == 2)
        server.stop()
        *answers, _goodbye = await client.rest()
        assert sorted(message[1] for message in answers) == list(range(1, 21))
        assert {message[2]["code"] for message in answers} == {"Cancelled"}


# -- what the log has ----------------------------------------------------------------------------------------


async def test_what_anybody_can_have_refused_is_counted(path, daemon, crowd):
    async with serving(path, daemon.methods, limits=socket_limits(user_clients=1)):
        client = await crowd.connect(NOBODY)
        with structlog.testing.capture_logs() as logs:
            await client.raw(b"".join(request(number, "change") for number in range(30)))
            codes = [(await client.receive())[2]["code"] for _ in range(30)]
            await crowd.connect(NOBODY)
        assert codes == ["NotPermitted"] * 30
        said = [line for line in logs if line["log_level"] == "info"]
        assert {line["event"] for line in said} == {"request", "a connection is refused"}
        assert all("counted" in line for line in said)


# -- descriptors ---------------------------------------------------------------------------------------------


async def test_the_last_descriptors_are_for_those_who_may_change(path, daemon, crowd, monkeypatch):
    async with serving(path, daemon.methods):
        monkeypatch.setattr("imgstored.host.descriptors.is_reserved", lambda _: True)
        refused = await crowd.connect(NOBODY)
        assert refused[2]["message"] == "the daemon has too many open files"
        assert "limit" in refused[2]["hint"]
        assert not isinstance(await crowd.connect(ROOT), list)
