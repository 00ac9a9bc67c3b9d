from __future__ import annotations

import errno
import os

import msgpack
import pytest
import structlog.testing
import trio
from hypothesis import given
from hypothesis import strategies as st

from imgstored import lanes
from imgstored.errors import (
    ConfigError,
    ImageNotFoundError,
    ImgstoreError,
    InternalError,
    PoolError,
    UsageError,
)
from imgstored.host import descriptors, exhaustion
from imgstored.rpc.call import MAX_CLIENT_NAME, Call, Client, PassedFile
from imgstored.rpc.dispatch import encode_outcome, perform, stopping
from imgstored.rpc.peer import ChangeRights, Peer
from tests.rpc import harness

READER = Peer(uid=1000, pid=7, groups=frozenset({1000}))
ROOT = Peer(uid=0, pid=1, groups=frozenset({0}))


async def _nowhere(request, event):
    raise AssertionError((request, event))


def call(method="m", values=None, peer=ROOT, file=None):
    return Call(
        id=1,
        method=method,
        params=values or {},
        client=Client(peer),
        access=ChangeRights(daemon_uid=0),
        notify_client=_nowhere,
        file=file,
    )


def method(run, *params, **settings):
    return {"m": harness.method(run, *params, **settings)}


def raising(error):
    async def run(_):
        raise error

    return run


async def answer(_):
    return {"it": 1}


async def test_a_result():
    assert await perform(call(), method(answer)) == {"it": 1}


async def test_an_unknown_method():
    outcome = await perform(call("\x1b[31m" + "x" * 1000), {})
    assert isinstance(outcome, UsageError)
    assert outcome.message == f'unknown method "[31m{"x" * 36}"'


async def test_an_unknown_parameter():
    outcome = await perform(call(values={"b": 1}), method(answer, "a"))
    assert isinstance(outcome, UsageError)
    assert outcome.hint == "it has: a"


@pytest.mark.parametrize(("peer", "code"), [(READER, "NotPermitted"), (ROOT, None)])
async def test_changes_are_for_those_who_may(peer, code):
    outcome = await perform(call(peer=peer), method(answer, change=True))
    assert getattr(outcome, "code", None) == code


async def test_an_error_is_the_answer():
    error = ImageNotFoundError("no such image")
    assert await perform(call(), method(raising(error))) is error


async def test_a_mistake_is_told_without_its_details():
    with structlog.testing.capture_logs() as logs:
        outcome = await perform(call(), method(raising(KeyError("secret"))))
    assert isinstance(outcome, InternalError)
    assert "secret" not in str(outcome.as_wire())
    assert [entry["event"] for entry in logs] == ["a method failed", "request"]
    assert logs[0]["exc_info"]


@pytest.mark.parametrize("mixed", [False, True])
async def test_errors_of_several_tasks(mixed):
    first = ImageNotFoundError("first")
    errors = [ExceptionGroup("", [first]), ValueError("a mistake") if mixed else UsageError("second")]
    outcome = await perform(call(), method(raising(ExceptionGroup("", errors))))
    assert isinstance(outcome, InternalError) if mixed else outcome is first


async def _fails_when_cancelled(_):
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ImageNotFoundError("while it was cleaned up")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(trio.sleep_forever)


async def test_cancelling_the_call_gives_an_answer(autojump_clock):
    async def forever(_):
        await trio.sleep_forever()

    ended = call()
    ended.scope.deadline = trio.current_time() + 1
    outcome = await perform(ended, method(forever))
    assert outcome.as_wire() == stopping().as_wire()


async def test_an_error_while_a_call_is_cancelled_is_the_answer(autojump_clock):
    ended = call()
    ended.scope.deadline = trio.current_time() + 1
    outcome = await perform(ended, method(_fails_when_cancelled))
    assert outcome.message == "while it was cleaned up"


async def test_cancelling_from_outside_goes_through_and_takes_no_error_along(autojump_clock):
    with structlog.testing.capture_logs() as logs, trio.move_on_after(1) as scope:
        await perform(call(), method(_fails_when_cancelled))
    assert scope.cancelled_caught
    assert [(entry["event"], entry["outcome"]) for entry in logs] == [("request", "Cancelled")]


async def test_a_mistake_while_cancelled_from_outside_is_logged(autojump_clock):
    async def run(_):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("a mistake")

    with structlog.testing.capture_logs() as logs, trio.move_on_after(1) as scope:
        await perform(call(), method(run))
    assert scope.cancelled_caught
    assert [entry["event"] for entry in logs] == ["a method failed", "request"]


async def test_the_log_says_who_changed_what_and_nothing_else():
    values = {"uuid": "u\x1b" * 50, "uuids": ["a"] * 30, "pool": 3, "url": "https://user:secret@host/"}
    with structlog.testing.capture_logs() as logs:
        await perform(call(values=values), method(answer, *values, change=True))
        await perform(call(values=values), method(answer, *values))
    changed, read = logs
    assert changed["log_level"] == "info"
    assert changed["uuid"] == "u" * 40
    assert changed["uuids"] == ["a"] * 20
    assert "pool" not in changed
    assert (changed["uid"], changed["pid"], changed["client"]) == (0, 1, "pid 1")
    assert "secret" not in str(logs)
    assert read["log_level"] == "debug"
    assert "uuid" not in read


@pytest.mark.parametrize("result", [object(), {1}, 10**400, ImgstoreError("m", data={"bad": object()})])
def test_an_answer_that_cannot_be_said_is_a_mistake(result):
    kind, id_, error, answered = msgpack.unpackb(encode_outcome(call(), result))
    assert (kind, id_, answered) == (1, 1, None)
    assert error["code"] == "InternalError"


def test_an_answer_that_is_nested_too_deep_is_a_mistake():
    result: list[object] = []
    for _ in range(5000):
        result = [result]
    assert msgpack.unpackb(encode_outcome(call(), result))[2]["code"] == "InternalError"


jsonish = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(jsonish)
def test_any_result_comes_back(result):
    assert msgpack.unpackb(encode_outcome(call(), result)) == [1, 1, None, result]


@given(st.text(max_size=200))
def test_a_clients_name_can_be_printed(name):
    client = Client(READER)
    client.introduce(name)
    assert client.name.isprintable()
    assert 0 < len(client.name) <= MAX_CLIENT_NAME


def test_a_client_without_a_name_has_a_number():
    assert Client(READER).name == "pid 7"


def test_a_passed_file_is_taken_once(tmp_path):
    with (tmp_path / "f").open("w") as file:
        taker = call(file=PassedFile(file.fileno()))
        assert taker.take_file() == file.fileno()
        with pytest.raises(UsageError, match="m: no file was passed"):
            taker.take_file()
        taker.file.close()  # closes nothing: the descriptor is another's
        file.write("still open")


def test_without_a_file_there_is_none_to_take():
    with pytest.raises(UsageError, match="no file was passed"):
        call().take_file()


# -- a shortage of descriptors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConfigError('config file "/x" cannot be read: Too many open files', hint="correct the file"),
            'config file "/x" cannot be read: Too many open files',
        ),
        (
            PoolError("it failed", hint="buy a disk"),
            "the daemon has too many open files: it failed",
        ),
        (ValueError("x"), '"m" failed: the daemon has too many open files'),
    ],
)
async def test_what_fails_for_want_of_descriptors_says_so(error, message):
    async def run(_):
        raise error from OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    outcome = await perform(call(), method(run))
    assert (outcome.message, outcome.hint) == (message, descriptors.HINT)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), '"m" failed: the daemon has too little memory'),
        (PoolError("it failed"), "the daemon has too little memory: it failed"),
        (
            RuntimeError("can't start new thread"),
            '"m" failed: the daemon has no memory for a thread, or as many threads as it may have',
        ),
    ],
)
async def test_what_fails_for_want_of_memory_says_so(error, message):
    async def run(_):
        raise error from (None if isinstance(error, RuntimeError) else MemoryError())

    outcome = await perform(call(), method(run))
    assert (outcome.message, outcome.hint) == (message, exhaustion.MEMORY_HINT)


async def test_what_fails_for_another_reason_keeps_its_hint():
    async def run(_):
        raise ConfigError("it is not valid", hint="correct the file") from OSError(
            errno.ENOENT, "no such file"
        )

    outcome = await perform(call(), method(run))
    assert outcome.hint == "correct the file"


# -- lanes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "settings", "lane"),
    [
        (READER, {}, "strangers"),
        (ROOT, {}, "questions"),
        (ROOT, {"change": True}, "changes"),
    ],
)
async def test_a_request_runs_in_the_lane_of_who_asks_and_of_what(peer, settings, lane):
    async def run(_):
        return [lanes.current(), await lanes.in_thread(lanes.current)]

    assert await perform(call(peer=peer), method(run, **settings)) == [lane, lane]
    assert lanes.current() == "changes"
