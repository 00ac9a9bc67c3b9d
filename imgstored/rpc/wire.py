"""MessagePack-RPC: bytes to messages and back. Pure: no I/O.

The form: https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md, as docs/protocol.md uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack

from imgstored.http.secrets import Allowance
from imgstored.rpc import gate
from imgstored.rpc.framing import Framer, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from imgstored.rpc.framing import MessageLimits

_REQUEST, _RESPONSE, _NOTIFICATION = 0, 1, 2

#: Bytes of a large answer that are encoded at once; and the length at which an array is encoded in parts.
_SLICE = 64 << 10
_LONG = 64

#: Request ids are unsigned integers of 32 bits.
MAX_ID = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Request:
    """`[0, id, method, [params]]`."""

    id: int
    method: str
    params: Mapping[str, Any]
    start: int = field(default=0, compare=False)  #: its first byte's position in the stream


@dataclass(frozen=True, slots=True)
class Response:
    """`[1, id, error, result]`; without an id it concerns the connection."""

    id: int | None
    error: Mapping[str, Any] | None
    result: Any
    start: int = field(default=0, compare=False)  #: its first byte's position in the stream


@dataclass(frozen=True, slots=True)
class Notification:
    """`[2, method, [params]]`."""

    method: str
    params: Mapping[str, Any]
    start: int = field(default=0, compare=False)  #: its first byte's position in the stream


Message = Request | Response | Notification


class Decoder:
    """Decodes the messages of a stream that comes in pieces of any size.

    After a `fault` no more messages come out. The pieces change neither the messages nor the fault.
    """

    def __init__(self, limits: MessageLimits) -> None:
        self.fault: ProtocolError | None = None
        self._framer = Framer(limits)
        self._limits = limits

    @property
    def position(self) -> int:
        """The number of bytes so far."""
        return self._framer.position

    @property
    def unfinished(self) -> int | None:
        """The position of an incomplete message; None if there is none."""
        return self._framer.unfinished

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The messages that `data` completes."""
        messages: list[Message] = []
        if self.fault is not None:
            return messages
        frames = self._framer.feed(data)
        self.fault = self._framer.fault
        for frame in frames:
            try:
                message = _message(_unpacked(frame.data, self._limits), frame.start)
            except ProtocolError as error:
                self.fault = error
                break
            messages.append(message)
        return messages


def bearer(messages: Iterable[Message], unfinished: int | None, since: int) -> int | None:
    """The start of the message to which a descriptor belongs that came with the bytes from `since` on.

    A stream shows only that a descriptor came with some piece of it. The kernel may put earlier bytes in
    front of that piece, but nothing after it. So the descriptor belongs to the last message that begins in
    the piece.
    """
    starts = [message.start for message in messages]
    if unfinished is not None:
        starts.append(unfinished)
    return max((start for start in starts if start >= since), default=None)


def encode_response(id_: int, result: Any) -> bytes:
    """The answer to a request.

    Raises `TypeError`, `ValueError` or `OverflowError` for values that MessagePack cannot express. All values
    of JSON pass: integers beyond 64 bits become floating-point numbers, and halves of surrogate pairs
    question marks.
    """
    return _packed([_RESPONSE, id_, None, result])


def encode_in_slices(id_: int, result: Any) -> Iterator[bytes]:
    """The bytes of `encode_response`, in pieces of some 64 KiB. Raises as that does."""
    packer, allowance = msgpack.Packer(), Allowance()
    packed = bytearray(packer.pack_array_header(4) + b"".join(map(_pack, (_RESPONSE, id_, None))))
    for piece in _leaves(packer, result, allowance):
        packed += piece
        if len(packed) >= _SLICE:
            yield bytes(packed)
            packed.clear()
    yield bytes(packed)


def _leaves(packer: Any, value: Any, allowance: Allowance) -> Iterator[bytes]:
    """Packs a value, and long arrays one element at a time. Each part passes the gate."""
    if isinstance(value, list):
        yield packer.pack_array_header(len(value))
        for element in value:
            yield from _leaves(packer, element, allowance)
    elif isinstance(value, dict) and any(map(_is_long, value.values())):
        yield packer.pack_map_header(len(value))
        for key, each in value.items():
            yield gate.encoded(key, _pack, allowance)
            yield from _leaves(packer, each, allowance)
    else:
        yield gate.encoded(value, _pack, allowance)


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _LONG


def encode_error(id_: int | None, error: Mapping[str, Any]) -> bytes:
    """Encodes the error of a request, or of the connection. Raises as `encode_response` does."""
    return _packed([_RESPONSE, id_, dict(error), None])


def encode_notification(method: str, params: Mapping[str, Any]) -> bytes:
    """Encodes a notification. Raises as `encode_response` does."""
    return _packed([_NOTIFICATION, method, [dict(params)]])


def _packed(message: list[Any]) -> bytes:
    """Encodes a message. Everything that is sent passes here."""
    return gate.encoded(message, _pack)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="replace", default=_foreign)
    return packed


def _foreign(value: Any) -> float:
    if isinstance(value, int):
        return float(value)
    raise TypeError(f"MessagePack has no {type(value).__name__}")


def _unpacked(data: bytes, limits: MessageLimits) -> Any:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            unicode_errors="strict",
            strict_map_key=True,
            max_str_len=limits.size,
            max_bin_len=0,
            max_ext_len=0,
            max_array_len=limits.values,
            max_map_len=limits.values,
        )
    except UnicodeDecodeError as error:
        raise ProtocolError("a string is not UTF-8") from error
    except (ValueError, msgpack.UnpackException) as error:
        # The framer accepted it, so the two read the format differently: trust neither.
        raise ProtocolError("a message is not MessagePack") from error


def _message(value: Any, start: int) -> Message:
    match value:
        case [kind, id_, str(method), [*params]] if _is(kind, _REQUEST) and _is_id(id_):
            return Request(id_, method, _only_map(params), start)
        case [kind, id_, error, result] if _is(kind, _RESPONSE) and (id_ is None or _is_id(id_)):
            if error is not None and not isinstance(error, dict):
                raise ProtocolError("a response's error is a map or nil")
            return Response(id_, error, result, start)
        case [kind, str(method), [*params]] if _is(kind, _NOTIFICATION):
            return Notification(method, _only_map(params), start)
        case _:
            raise ProtocolError(
                "a message is neither request nor response nor notification",
                hint="a request is [0, id, method, [params]], and the id is an unsigned integer of 32 bits",
            )


def _is(value: object, kind: int) -> bool:
    return type(value) is int and value == kind  # False is 0 and True is 1, but neither is a kind of message


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID


def _only_map(params: list[Any]) -> dict[str, Any]:
    match params:
        case []:
            return {}
        case [dict(only)]:
            return only
        case _:
            raise ProtocolError("a message's parameters are one map")
