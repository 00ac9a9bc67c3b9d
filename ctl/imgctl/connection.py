"""One connection to imgstored: MessagePack-RPC as in docs/protocol.md, one request at a time."""

from __future__ import annotations

# What `socket` is made of: that brings enum and selectors as well, a quarter of what a command costs.
import _socket
import os
import select
import sys
import time

import msgpack
from imgproto import PROTOCOL_VERSION

import imgctl
from imgctl.errors import InvalidArgumentError, NotConnectedError, RemoteError, remote_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self, TypeAlias

    from imgproto.events import EventDocument

    from imgctl.ssh import Bridge

    OnEvent: TypeAlias = Callable[[EventDocument], None]

#: Bytes of one message from the daemon: a list of all images of a large server has some ten MiB.
MAX_MESSAGE = 256 << 20
#: Seconds for connecting and the daemon's first word; both are a matter of milliseconds.
HELLO_SECONDS = 30.0
#: Bytes read at once.
_RECEIVE = 256 << 10
#: Seconds between two tries while the daemon has more new connections than it can take.
_BUSY_PAUSE = 0.02

_REQUEST, _RESPONSE, _NOTIFICATION = 0, 1, 2


def default_socket() -> str:
    """The daemon's socket, unless IMGSTORED_SOCKET names another."""
    folder = "/var/run" if sys.platform.startswith("sunos") else "/run"
    return os.environ.get("IMGSTORED_SOCKET") or f"{folder}/imgstored/imgstored.sock"


class Connection:
    """Connects when it is first needed, or on entering `with`; not for several threads at once.

    `socket_path` is a path, or `ssh://[USER@]HOST[:PORT]` for the daemon of another host, by the user's ssh.

    All methods raise `RemoteError` when the daemon refuses or fails, and its kind `NotConnectedError` when
    there is no daemon or it breaks off. `Client` says the rest.
    """

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        name: str | None = None,
        timeout: float | None = None,
        reconnect: float | None = None,
    ) -> None:
        self._reconnect = reconnect
        self.socket_path = socket_path or default_socket()
        self._name = name or f"imgctl.Client {imgctl.__version__} (pid {os.getpid()})"
        self._timeout = timeout
        self._socket: _socket.socket | None = None
        self._bridge: Bridge | None = None  # to another host
        self._unpacker = _unpacker()
        self._unfinished = 0  # bytes that came since the last whole message
        self._id = 0
        self._asking = False

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connects and says hello, unless connected; connects anew after the daemon closed the connection."""
        if self._socket is not None and not _has_ended(self._socket):
            return
        self.close()
        self._unpacker, self._unfinished = _unpacker(), 0
        if self.socket_path.startswith("ssh://"):
            from imgctl.ssh import Bridge

            # It may ask for a password: who types it takes longer than a daemon.
            self._bridge = Bridge(self.socket_path)
            self._socket = self._bridge.socket
        else:
            self._socket = connected_to(self.socket_path, HELLO_SECONDS)
        self._ask("hello", {"client": self._name, "protocol": PROTOCOL_VERSION})
        # Only the answer to hello is a matter of moments.
        self._socket.settimeout(self._timeout)

    def close(self) -> None:
        """Ends the connection and all interest in imports. A second call does nothing."""
        connected, self._socket = self._socket, None
        bridge, self._bridge = self._bridge, None
        if connected is not None:
            connected.close()
        if bridge is not None:
            bridge.close()

    # -- requests --------------------------------------------------------------------------------------------

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of any method; parameters that are None are left out."""
        return self.request(method, params)

    def request(
        self,
        method: str,
        params: Mapping[str, object],
        *,
        on_event: OnEvent | None = None,
        file: int | None = None,
    ) -> Any:
        """The result of a method that has events, or takes a descriptor (`file`; the caller closes it)."""
        if self._asking:
            raise RuntimeError("this client has a request in flight; use another Client")
        if file is not None and self.socket_path.startswith("ssh://"):
            raise InvalidArgumentError(
                "InvalidArgument",
                "the daemon of another host cannot open files of this one",
                hint="`imgctl copy IMAGE HOST` copies an image; or run imgctl there",
            )
        self.connect()
        return self._ask(method, params, on_event, file)

    def _repeatable(self, method: str, params: Mapping[str, object], on_event: OnEvent | None) -> Any:
        """As `request`, of what can be asked again: with `reconnect` it is, when the daemon is back."""
        if self._asking:
            raise RuntimeError("this client has a request in flight; use another Client")
        asking = self.lasting(method, lambda: params)
        try:
            while True:
                try:
                    event = next(asking)
                except StopIteration as end:
                    return end.value
                if on_event is not None:
                    on_event(event)
        finally:
            asking.close()

    def lasting(
        self, method: str, params: Callable[[], Mapping[str, object]]
    ) -> Generator[EventDocument, None, Any]:
        """Yields the events, returns the result. With `reconnect`, asks again when the daemon is back.

        Notes say so. The first connection is not waited for.
        """
        from imgctl.patience import BACK, Patience, is_lost

        self.connect()
        patience = None if self._reconnect is None else Patience(self._reconnect)
        while True:
            try:
                return (yield from self.exchange(method, params(), None))
            except RemoteError as error:
                if patience is None or not is_lost(error):
                    raise
                lost = error
            yield {"event": "note", "text": patience.lost(lost)}
            patience.wait(lost, self.connect)
            yield {"event": "note", "text": BACK}

    def _ask(
        self,
        method: str,
        params: Mapping[str, object],
        on_event: OnEvent | None = None,
        file: int | None = None,
    ) -> Any:
        exchange = self.exchange(method, params, file)
        try:
            while True:
                try:
                    event = next(exchange)
                except StopIteration as end:
                    return end.value
                if on_event is not None:
                    on_event(event)
        finally:
            exchange.close()

    def exchange(
        self, method: str, params: Mapping[str, object], file: int | None
    ) -> Generator[EventDocument, None, Any]:
        """Yields the events, returns the result. Closes the connection if the caller stops early."""
        self._id = self._id + 1 & 0xFFFFFFFF
        request = [_REQUEST, self._id, method, [{k: v for k, v in params.items() if v is not None}]]
        self._asking, answered = True, False
        try:
            self._send(_packed(request), file)
            while True:
                match self._receive():
                    case [kind, "event", [dict(sent)]] if kind == _NOTIFICATION:
                        if sent.pop("id", None) == self._id:
                            event: Any = sent
                            yield event
                    case [kind, None, dict(error), _] if kind == _RESPONSE:
                        raise remote_error(error)  # about the connection, which the daemon now closes
                    case [kind, id_, error, result] if kind == _RESPONSE and id_ == self._id:
                        answered = True
                        if isinstance(error, dict):
                            raise remote_error(error)
                        return result
                    case [kind, *_] if kind == _NOTIFICATION:
                        continue  # of a newer daemon
                    case _:
                        raise NotConnectedError(
                            f"the program that listens at {self.socket_path} is not imgstored"
                        )
        finally:
            self._asking = False
            if not answered:
                self.close()

    def _send(self, data: bytes, file: int | None) -> None:
        connected = self._open()
        try:
            if file is not None:
                import array

                passed = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [file]))]
                data = data[connected.sendmsg([data], passed) :]
            if data:
                connected.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # what the daemon said before it closed can still be read
        except OSError as error:
            raise self._lost(error) from error

    def _receive(self) -> Any:
        """The next message."""
        while True:
            began = time.monotonic()
            try:
                message = next(self._unpacker, None)
            except (ValueError, msgpack.UnpackException) as error:
                raise NotConnectedError(
                    f"the program that listens at {self.socket_path} does not speak MessagePack: {error}"
                ) from error
            if message is not None:
                self._unfinished = 0
                return message
            self._feed_more(time.monotonic() - began)

    def _feed_more(self, tried: float) -> None:
        """Feeds at least what comes next, after a try of `tried` seconds to make a message of what is there.

        Where msgpack is plain Python, each try begins with the message's first byte. So there is none until
        as much again has come, or nothing comes for as long as the last one took.
        """
        enough = 2 * self._unfinished
        self._feed()
        while self._unfinished < enough and _is_readable(self._open(), tried):
            try:
                self._feed()
            except NotConnectedError:
                return  # what came before the end may be whole; if not, the next read says the same

    def _feed(self) -> None:
        try:
            data = self._open().recv(_RECEIVE)
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost(None)
        self._unfinished += len(data)
        if self._unfinished > MAX_MESSAGE:
            raise NotConnectedError(f"the daemon's answer has more than {MAX_MESSAGE} bytes")
        self._unpacker.feed(data)

    def _open(self) -> _socket.socket:
        if self._socket is None:
            raise NotConnectedError("the connection was closed in the middle of a request")
        return self._socket

    def _lost(self, error: OSError | None) -> NotConnectedError:
        if self._bridge is not None and not isinstance(error, TimeoutError):
            return self._bridge.ended()
        if isinstance(error, TimeoutError):
            return NotConnectedError(
                f"imgstored at {self.socket_path} did not answer in time", hint="its log may say why"
            )
        why = "" if error is None else f": {error.strerror or error}"
        return NotConnectedError(
            f"imgstored at {self.socket_path} closed the connection{why}",
            hint="imports resume when it is back; try again then",
            lost=True,
        )


def _unpacker() -> msgpack.Unpacker:
    """The daemon sends only JSON's types: no binary data, no extensions."""
    return msgpack.Unpacker(
        raw=False,
        strict_map_key=True,
        unicode_errors="strict",
        max_buffer_size=MAX_MESSAGE,
        max_bin_len=0,
        max_ext_len=0,
    )


def _packed(request: Sequence[Any]) -> bytes:
    """Raises `InvalidArgumentError` for what MessagePack cannot say."""
    try:
        # Text with bytes that are not UTF-8 (from a command line) names nothing that the daemon could know.
        packed: bytes = msgpack.packb(request, unicode_errors="replace", default=_foreign)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError("InvalidArgument", f"cannot send this: {error}") from error
    return packed


def _foreign(value: Any) -> float:
    """Integers beyond 64 bits go as JavaScript would have them."""
    if isinstance(value, int):
        return float(value)
    raise TypeError(f"MessagePack has no {type(value).__name__}")


def _has_ended(connected: _socket.socket) -> bool:
    """True if the daemon closed an idle connection, or announced that it will."""
    return _is_readable(connected, 0)


def _is_readable(connected: _socket.socket, seconds: float) -> bool:
    """True if something comes, or the end, within that time."""
    ready = select.poll()
    ready.register(connected, select.POLLIN)
    return bool(ready.poll(seconds * 1000))


def connected_to(path: str, seconds: float) -> _socket.socket:
    """A connection to the daemon's socket. Raises `NotConnectedError`."""
    deadline = time.monotonic() + seconds
    connected = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connected.settimeout(seconds)
        while True:
            try:
                connected.connect(path)
            except BlockingIOError:
                # Linux's answer when the backlog is full and the socket has a time limit: unix(7), EAGAIN.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_BUSY_PAUSE)
            else:
                return connected
    except OSError as error:
        connected.close()
        raise _unreachable(path, error) from error
    except BaseException:
        connected.close()
        raise


def _unreachable(path: str, error: OSError) -> NotConnectedError:
    if isinstance(error, PermissionError):
        return NotConnectedError(
            f"{path} may not be opened: {error.strerror or error}", hint="use sudo or pfexec"
        )
    start = "svcadm enable imgstored" if sys.platform.startswith("sunos") else "systemctl start imgstored"
    by_hand = "`imgstored --config FILE` by hand"
    elsewhere = "say where it listens with --socket PATH or IMGSTORED_SOCKET"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return NotConnectedError(
            f"imgstored is not running: nothing listens at {path}",
            hint=f"`{start}`, or {by_hand}; or {elsewhere}",
        )
    return NotConnectedError(
        f"cannot connect to imgstored at {path}: {error.strerror or error}", hint=elsewhere
    )
