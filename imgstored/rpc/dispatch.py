"""Dispatch of a request: find the method, check the requester, run it, turn faults into errors, log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from imgstored import lanes
from imgstored.errors import (
    CancelledError,
    ImgstoreError,
    InternalError,
    NotPermittedError,
    StoppingError,
    UsageError,
)
from imgstored.host import exhaustion
from imgstored.http.secrets import redacted
from imgstored.rpc.params import checked, printable
from imgstored.rpc.wire import encode_error, encode_response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.lanes import Lane
    from imgstored.rpc.call import Call, Method, Methods

log = structlog.get_logger(__name__)

#: Parameters that identify the image of a change; others may hold secrets, and stay out of the log.
_LOGGED = ("uuid", "uuids", "pool")
#: Characters of a client's text in a log or a message.
_SHOWN = 40
#: Images that one line of the log names at most.
_MAX_LOGGED = 20


#: Called with each request when its outcome is known: the method ("unknown" if there is no such method), "ok"
#: or the error's name, and the seconds that it took. Called in trio's thread; raises nothing.
Timing = Callable[[str, str, float], None]


def stopping() -> StoppingError:
    """The answer to every request while the daemon stops."""
    return StoppingError("the daemon is stopping", hint="try again when it is back; imports resume then")


async def perform(call: Call, methods: Methods, timing: Timing | None = None) -> Any:
    """The method's result, or its `ImgstoreError`, which is returned and not raised.

    Cancelling the call's own scope gives `CancelledError`: only the stopping daemon does so, while the client
    is still there. A cancellation from outside passes through, but no other exception does.
    """
    began = time.monotonic()
    method = methods.get(call.method)
    outcome: Any = CancelledError("the client has left")
    try:
        outcome = await _run(call, method)
    finally:
        seconds = time.monotonic() - began
        _record(call, method, outcome, seconds)
        if timing is not None:
            timing("unknown" if method is None else call.method, _code(outcome), seconds)
    return outcome


def encode_outcome(call: Call, outcome: Any) -> bytes:
    """The response; an error in its place if MessagePack cannot express the result."""
    try:
        if isinstance(outcome, ImgstoreError):
            return encode_error(call.id, without_secrets(outcome.as_wire()))
        return encode_response(call.id, outcome)
    except (TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        log.exception("an answer cannot be encoded", method=printable(call.method, _SHOWN))
        return encode_error(call.id, _mistake(call.method, error).as_wire())


def without_secrets(value: Any) -> Any:
    """An error in wire form, without possible secrets in its texts, which no client needs."""
    match value:
        case str():
            return redacted(value)
        case dict():
            return {key: without_secrets(each) for key, each in value.items()}
        case list() | tuple():
            return [without_secrets(each) for each in value]
    return value


async def _run(call: Call, method: Method | None) -> Any:
    try:
        if method is None:
            return _unknown(call.method)
        if method.change:
            call.require_change()
        if method.operation.who == "root":
            call.require_root(method.why_root)
        params = checked(call.method, method.operation.params, call.params)
        with call.scope, lanes.bound(_lane(call, method)):
            await call.turn(params)
            return await method.run(params, call)
        return stopping()
    except ImgstoreError as error:
        return _truthful(error)
    except BaseExceptionGroup as group:
        return _truthful(_outcome_of(call, group))
    except Exception as error:
        log.exception("a method failed", method=printable(call.method, _SHOWN))
        return _mistake(call.method, error)


def _truthful(outcome: ImgstoreError) -> ImgstoreError:
    """The error; if it comes of something that has run out, its message and hint say so."""
    short = exhaustion.behind(outcome)
    if short is None:
        return outcome
    message = outcome.message
    if short.what not in message and not (short.words and short.words in message):
        message = f"the daemon has {short.what}: {message}"
    answer = outcome.with_others(())  # a copy
    answer.message, answer.hint, answer.data = message, short.hint, dict(outcome.data)
    return answer


def _lane(call: Call, method: Method) -> Lane:
    if method.change:
        return "changes"
    return "questions" if call.access.may_change(call.peer) else "strangers"


def _outcome_of(call: Call, group: BaseExceptionGroup[BaseException]) -> ImgstoreError:
    """The answer if several tasks of a method failed. Raises a cancellation that is among the failures."""
    failures, others = group.split(Exception)
    mistakes = None if failures is None else failures.split(ImgstoreError)[1]
    if mistakes is not None:
        log.error("a method failed", method=printable(call.method, _SHOWN), exc_info=mistakes)
    if others is not None:
        # An error beside a cancellation would go up with it, and end the daemon.
        raise others
    first = next(_leaves(group))
    if mistakes is None and isinstance(first, ImgstoreError):
        return first
    return _mistake(call.method, mistakes or group)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _unknown(method: str) -> UsageError:
    return UsageError(
        f'unknown method "{printable(method, _SHOWN)}"',
        hint="imgctl and imgstored may be of different versions",
    )


def _mistake(method: str, error: BaseException) -> InternalError:
    return InternalError.unexpected(f'"{method}"', error)


def _record(call: Call, method: Method | None, outcome: Any, seconds: float) -> None:
    change = method is not None and method.change
    facts: dict[str, Any] = {}
    if change:
        facts = {name: value for name in _LOGGED if (value := _shown(call, name)) is not None}
        if isinstance(outcome, NotPermittedError):
            facts["counted"] = call.peer.uid
    (log.info if change else log.debug)(
        "request",
        method=printable(call.method, _SHOWN),
        uid=call.peer.uid,
        pid=call.peer.pid,
        client=call.client.name,
        outcome=_code(outcome),
        seconds=round(seconds, 3),
        **facts,
    )


def _code(outcome: Any) -> str:
    return outcome.code if isinstance(outcome, ImgstoreError) else "ok"


def _shown(call: Call, name: str) -> str | list[str] | None:
    """A parameter for the log; None if it has another type, which the answer says."""
    match call.params.get(name):
        case str(text) if name != "uuids":
            return printable(text, _SHOWN)
        case [*items] if name == "uuids" and all(isinstance(item, str) for item in items):
            return [printable(item, _SHOWN) for item in items[:_MAX_LOGGED]]
    return None
