from __future__ import annotations

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from imgstored.rpc.outbox import Outbox


async def drained(outbox: Outbox) -> list[bytes]:
    outbox.finish()
    taken = []
    while (data := await outbox.take()) is not None:
        taken.append(data)
    return taken


async def test_messages_come_out_in_their_order():
    outbox = Outbox(100)
    outbox.put(1, b"a")
    outbox.put(None, b"bb")
    outbox.put(2, b"c")
    assert outbox.size == 4
    assert await drained(outbox) == [b"a", b"bb", b"c"]
    assert outbox.size == 0


async def test_progress_replaces_progress_that_waits():
    outbox = Outbox(100)
    outbox.put_progress(1, b"1:10%")
    outbox.put_progress(2, b"2:10%")
    outbox.put_progress(1, b"1:100%")
    assert outbox.size == len(b"1:100%2:10%")
    assert await drained(outbox) == [b"1:100%", b"2:10%"]


async def test_progress_does_not_overtake_what_came_before_it():
    outbox = Outbox(100)
    outbox.put_progress(1, b"10%")
    outbox.put(1, b"note")
    outbox.put_progress(1, b"20%")
    outbox.put_progress(1, b"30%")
    outbox.put(1, b"answer")
    assert await drained(outbox) == [b"10%", b"note", b"30%", b"answer"]


async def test_progress_that_was_taken_is_not_replaced():
    outbox = Outbox(100)
    outbox.put_progress(1, b"10%")
    assert await outbox.take() == b"10%"
    outbox.put_progress(1, b"20%")
    assert await drained(outbox) == [b"20%"]


async def test_room_comes_when_something_is_taken_and_for_one_at_a_time(autojump_clock):
    outbox = Outbox(10)
    sizes = []

    async def put() -> None:
        await outbox.wait_for_space()
        outbox.put(None, bytes(10))
        sizes.append(outbox.size)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(put)
        await trio.testing.wait_all_tasks_blocked()
        assert sizes == [10]
        for taken in range(5):
            await outbox.take()
            await trio.testing.wait_all_tasks_blocked()
            assert sizes == [10] * min(taken + 2, 5)
    assert outbox.size == 0


async def test_who_takes_waits_for_what_comes(autojump_clock):
    outbox = Outbox(10)
    taken = []

    async def take() -> None:
        while (data := await outbox.take()) is not None:
            taken.append(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        outbox.put(1, b"a")
        await trio.testing.wait_all_tasks_blocked()
        assert taken == [b"a"]
        outbox.finish()
    assert taken == [b"a"]


async def test_what_comes_after_the_end_is_dropped():
    outbox = Outbox(10)
    outbox.put_progress(1, b"first")
    outbox.finish()
    outbox.put(1, b"late")
    outbox.put_progress(1, b"late")
    outbox.put_progress(2, b"late")
    assert outbox.size == 5
    assert await drained(outbox) == [b"first"]


actions = st.lists(
    st.tuples(st.sampled_from(["put", "progress", "take"]), st.integers(1, 3), st.integers(0, 5)), max_size=30
)


@given(actions)
def test_any_order_of_things(steps):
    """Nothing is lost but progress that newer progress replaced, and each request keeps its order."""

    async def run() -> None:
        outbox = Outbox(1000)
        put: dict[int, list[tuple[str, bytes]]] = {1: [], 2: [], 3: []}
        taken: list[bytes] = []
        waiting = 0
        for number, (kind, request, length) in enumerate(steps):
            data = b"%d:%d:%s" % (request, number, b"x" * length)
            if kind == "take":
                if outbox.size:
                    taken.append(await outbox.take() or b"")
            elif kind == "put":
                outbox.put(request, data)
                put[request].append((kind, data))
            else:
                outbox.put_progress(request, data)
                put[request].append((kind, data))
        waiting = outbox.size
        rest = await drained(outbox)
        assert sum(map(len, rest)) == waiting
        assert outbox.size == 0
        taken += rest
        for request, sent in put.items():
            seen = [data for data in taken if data.startswith(b"%d:" % request)]
            everything = [data for _, data in sent]
            assert [data for data in everything if data in seen] == seen
            for index, (kind, data) in enumerate(sent):
                replaced = kind == "progress" and index + 1 < len(sent) and sent[index + 1][0] == "progress"
                assert data in seen or replaced

    trio.run(run)


# -- messages that come in pieces ----------------------------------------------------------------------------


async def test_pieces_stay_together_and_others_come_behind():
    outbox = Outbox(100)
    outbox.put(1, b"before")
    stream = outbox.open(2)
    await stream.put(b"a")
    outbox.put(3, b"behind")
    outbox.put_progress(4, b"50%")
    await stream.put(b"b")
    assert [await outbox.take() for _ in range(3)] == [b"before", b"a", b"b"]
    await stream.put(b"c")
    stream.close()
    assert await drained(outbox) == [b"c", b"behind", b"50%"]
    assert outbox.size == 0


async def test_pieces_come_no_faster_than_they_are_taken(autojump_clock):
    """Nor do those who wait behind keep them from coming, however much that is."""
    outbox = Outbox(10)
    stream = outbox.open(1)
    put = 0

    async def produce() -> None:
        nonlocal put
        for _ in range(100):
            await stream.put(bytes(64 << 10))
            put += 1
        stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await trio.testing.wait_all_tasks_blocked()
        assert put == 4
        outbox.put(2, bytes(1000))
        for taken in range(1, 97):
            await outbox.take()
            await trio.testing.wait_all_tasks_blocked()
            assert put == 4 + taken
    assert [len(data) for data in await drained(outbox)] == [64 << 10] * 4 + [1000]


async def test_of_a_message_that_is_broken_off_nothing_is_sent_or_nothing_after_it():
    outbox = Outbox(100)
    stream = outbox.open(1)
    await stream.put(b"half")
    outbox.put(2, b"next")
    outbox.break_off(stream)
    assert await drained(outbox) == [b"next"]
    outbox = Outbox(100)
    stream = outbox.open(1)
    await stream.put(b"half")
    assert await outbox.take() == b"half"
    await stream.put(b"more")
    outbox.put(2, b"next")
    outbox.break_off(stream)
    assert await outbox.take() is None


async def test_who_takes_waits_for_the_next_piece(autojump_clock):
    outbox = Outbox(10)
    taken = []

    async def take() -> None:
        while (data := await outbox.take()) is not None:
            taken.append(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        stream = outbox.open(1)
        await trio.testing.wait_all_tasks_blocked()
        await stream.put(b"a")
        await trio.testing.wait_all_tasks_blocked()
        assert taken == [b"a"]
        outbox.finish()
        await trio.testing.wait_all_tasks_blocked()
        stream.close()
    assert taken == [b"a"]
