"""Equal questions at the same time are asked once."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from imgstored.errors import ClientError, ImgstoreError, InternalError
from imgstored.sources.lookup import Lookup

WANTED = ("11111111-aaaa-4bbb-8ccc-000000000001", True, None, None)


async def ask_from_many(answer, count=5, wanted=WANTED):
    """What `count` askers are told, and how often the sources were asked."""
    asked: list[object] = []
    told: list[object] = []

    async def asking(question):
        asked.append(question)
        await trio.sleep(1)
        return answer()

    lookup = Lookup(asking)

    async def one(nursery: trio.Nursery) -> None:
        try:
            told.append(await lookup.find(wanted, nursery))
        except ImgstoreError as error:
            told.append(error)

    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one, outer)
    return told, asked


async def test_one_question_for_all(autojump_clock):
    told, asked = await ask_from_many(lambda: "found")
    assert told == ["found"] * 5
    assert asked == [WANTED]


async def test_an_error_is_told_to_all(autojump_clock):
    def fail():
        raise ClientError("down")

    told, asked = await ask_from_many(fail)
    assert [error.message for error in told] == ["down"] * 5
    assert len(asked) == 1


async def test_a_mistake_is_told_without_its_details(autojump_clock):
    def fail():
        raise ZeroDivisionError("secret")

    told, _ = await ask_from_many(fail, count=2)
    assert all(isinstance(error, InternalError) and "secret" not in error.message for error in told)


async def test_who_asks_first_may_leave(autojump_clock):
    lookup = Lookup(lambda _: answer())

    async def answer():
        await trio.sleep(1)
        return "found"

    async with trio.open_nursery() as outer:
        with trio.move_on_after(0.5):
            await lookup.find(WANTED, outer)
        assert await lookup.find(WANTED, outer) == "found"
        assert trio.current_time() == pytest.approx(1.0, abs=0.6)


async def test_nothing_is_remembered(autojump_clock):
    answers = iter(["first", "second"])

    async def asking(_):
        return next(answers)

    lookup = Lookup(asking)
    async with trio.open_nursery() as nursery:
        assert await lookup.find(WANTED, nursery) == "first"
        assert await lookup.find(WANTED, nursery) == "second"
