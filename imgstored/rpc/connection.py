"""One client's connection: reads its requests, runs them in parallel, and writes answers and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
import trio
from msgspec import Struct, field

from imgstored.errors import CancelledError, ImgstoreError, UsageError
from imgstored.rpc.budgets import Own
from imgstored.rpc.call import Call, Client, Methods, PassedFile
from imgstored.rpc.dispatch import encode_outcome, perform, stopping
from imgstored.rpc.framing import READERS_MESSAGE, MessageLimits, ProtocolError
from imgstored.rpc.outbox import Outbox
from imgstored.rpc.wire import (
    Decoder,
    Message,
    Request,
    bearer,
    encode_error,
    encode_in_slices,
    encode_notification,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.rpc.budgets import Budget, Turn
    from imgstored.rpc.call import Method
    from imgstored.rpc.client_socket import ClientSocket
    from imgstored.rpc.dispatch import Timing
    from imgstored.rpc.peer import ChangeRights, Peer

log = structlog.get_logger(__name__)

#: Bytes that are read at once. As tiny requests they take 6 ms; more would delay other connections.
_RECEIVE = 8 << 10
#: Bytes that a client has to read within `Limits.send`. A limit for each byte would let it take for ever.
_SEND = 64 << 10


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds on the socket's connections. Times in seconds.

    Fields without a default are configured (`LimitsTable`).
    """

    clients: int  #: connections at the same time; a quarter is reserved for users who may change
    client_requests: int  #: of one connection that are not yet answered
    user_clients: int  #: connections of one user who may not change
    user_requests: int  #: requests of one such user, over all connections, that are not yet answered
    user_watches: int  #: of these, those that last as long as the client wants
    client_idle_seconds: float  #: without a request in flight and without a whole message
    send: float = 20.0  #: for the client to read 64 KiB of the pending data, or all of it
    stop: float = 2.0  #: for the last answers, when the daemon stops
    outbox: int = 1 << 20  #: pending bytes for one client at which producers of more have to wait
    readers_outbox: int = 128 << 10  #: the same for a client that may not change
    message: MessageLimits = field(default_factory=MessageLimits)
    readers_message: MessageLimits = READERS_MESSAGE  #: of clients that may not change

    @property
    def readers(self) -> int:
        """Connections of users who may not change: never all connections."""
        return self.clients - max(1, self.clients // 4)


class Connection:
    """One connection. It uses the socket while `run` runs; the socket's owner closes it."""

    def __init__(
        self,
        client_socket: ClientSocket,
        peer: Peer,
        methods: Methods,
        access: ChangeRights,
        limits: Limits,
        budget: Budget,
        timing: Timing | None = None,
    ) -> None:
        self._timing = timing
        self._budget = budget
        self._own = Own()
        self._socket = client_socket
        self._methods = methods
        self._access = access
        self._limits = limits
        self.client = Client(peer)
        self._decoder = Decoder(limits.message if access.may_change(peer) else limits.readers_message)
        self._outbox = Outbox(limits.outbox if budget.changer else limits.readers_outbox)
        self._calls: dict[int, Call] = {}
        self._files: dict[int, PassedFile] = {}  # by the start of the message that each belongs to
        self._reading = trio.CancelScope()
        self._whole = trio.CancelScope()
        self._stopping = False

    async def run(self) -> None:
        """Serves the client until it leaves, breaks the protocol, is silent too long, or the daemon stops."""
        try:
            with self._whole:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._serve()
                    self._outbox.finish()
        finally:
            for file in self._files.values():
                file.close()

    def stop(self) -> None:
        """Answers all requests in flight with `CancelledError`, now; then `run` ends."""
        self._stopping = True
        for call in self._calls.values():
            call.scope.cancel()
        self._reading.cancel()

    # -- requests --------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        async with trio.open_nursery() as requests:
            goodbye: ImgstoreError | None = None
            with self._reading:
                self._heard()
                goodbye = await self._read(requests)
            if self._reading.cancelled_caught:
                goodbye = stopping() if self._stopping else self._silent()
            if not self._stopping:
                # A stopping daemon cancels requests one by one instead, so that each is still answered.
                requests.cancel_scope.cancel()
            if goodbye is None:
                self._whole.cancel()
        if goodbye is not None:
            self._outbox.put(None, encode_error(None, goodbye.as_wire()))

    async def _read(self, requests: trio.Nursery) -> ImgstoreError | None:
        """Starts requests as they come in. Returns the client's error, or None when the client left."""
        while True:
            since = self._decoder.position
            try:
                data, descriptor = await self._socket.receive(_RECEIVE)
            except OSError as error:
                log.debug("a connection broke", pid=self.client.peer.pid, error=str(error))
                return None
            except ProtocolError as error:
                return error
            messages = self._decoder.feed(data)
            if descriptor is not None:
                self._assign(PassedFile(descriptor), messages, since)
            if not data:
                return None
            for message in messages:
                fault = await self._begin(message, requests)
                if fault is not None:
                    return fault
                # Requests begin in the order of their arrival, and many do not delay other connections.
                await trio.lowlevel.checkpoint()
            if self._decoder.fault is not None:
                return self._decoder.fault

    def _assign(self, file: PassedFile, messages: list[Message], since: int) -> None:
        start = bearer(messages, self._decoder.unfinished, since)
        if start is None:
            file.close()
        else:
            self._files[start] = file

    async def _begin(self, message: Message, requests: trio.Nursery) -> ProtocolError | None:
        """Starts one request, or refuses it. Returns an error that makes the whole connection unusable."""
        if not isinstance(message, Request):
            return ProtocolError("a client sends nothing but requests")
        self._heard()
        await self._budget.pace()
        if message.id in self._calls:
            return ProtocolError(f"two requests in flight have the id {message.id}")
        file = self._file_for(message)
        method = self._methods.get(message.method)
        error = stopping() if self._stopping else self._too_many(method)
        if error is not None:
            if file is not None:
                file.close()
            self._heard()
            await self._outbox.wait_for_space()
            self._outbox.put(message.id, encode_error(message.id, error.as_wire()))
            return None
        call = Call(
            id=message.id,
            method=message.method,
            params=message.params,
            client=self.client,
            access=self._access,
            notify_client=self._notify,
            file=file,
        )
        self._calls[message.id] = call
        self._budget.begin(method)
        self._heard()
        requests.start_soon(self._answer, call, method)
        return None

    def _file_for(self, request: Request) -> PassedFile | None:
        file = self._files.pop(request.start, None)
        method = self._methods.get(request.method)
        if file is not None and (method is None or not method.operation.file):
            file.close()
            return None
        return file

    def _silent(self) -> CancelledError:
        return CancelledError(
            f"no request for {self._limits.client_idle_seconds:g} seconds", hint="connect again"
        )

    def _too_many(self, method: Method | None) -> UsageError | None:
        """The reason to refuse one more request; None if there is none."""
        limits, budget = self._limits, self._budget
        of_uid = f"of uid {budget.uid} are in flight"
        if len(self._calls) >= limits.client_requests:
            why = f"more than {limits.client_requests} requests of one connection are in flight"
        elif not budget.changer and budget.requests >= limits.user_requests:
            why = f"more than {limits.user_requests} requests {of_uid}"
        elif not budget.changer and method is not None and method.lasting:
            if budget.watches < limits.user_watches:
                return None
            why = f"more than {limits.user_watches} requests `{method.operation.name}` {of_uid}"
        else:
            return None
        return UsageError(why, hint="wait for a response first")

    async def _answer(self, call: Call, method: Method | None) -> None:
        try:
            with self._budget.turn(method, self._own) as turn:
                call.turn = turn.begin
                outcome = await perform(call, self._methods, self._timing)
                large = method is not None and method.large and not isinstance(outcome, ImgstoreError)
                if large and not await self._may_send(call, turn):
                    outcome, large = stopping(), False
                if not self._stopping:
                    await self._outbox.wait_for_space()
                # Encoded only now: a client that does not read must not pile up answers.
                if large:
                    await self._stream(call, outcome)
                else:
                    self._outbox.put(call.id, encode_outcome(call, outcome))
        finally:
            self._budget.end(method)
            del self._calls[call.id]
            if call.file is not None:
                call.file.close()
            self._heard()

    async def _may_send(self, call: Call, turn: Turn) -> bool:
        """Waits for the turn of a large answer; False when the daemon stops meanwhile."""
        call.scope = trio.CancelScope()  # that of the method has ended
        if self._stopping:
            call.scope.cancel()
        with call.scope:
            await turn.send()
        return not call.scope.cancelled_caught

    async def _stream(self, call: Call, result: Any) -> None:
        """Encodes a large answer no faster than the client reads it."""
        stream = self._outbox.open(call.id)
        try:
            for piece in encode_in_slices(call.id, result):
                await stream.put(piece)
            stream.close()
        except (TypeError, ValueError, OverflowError, RecursionError):
            log.exception("an answer cannot be encoded", method=call.method)
            self._whole.cancel()
        finally:
            if not stream.closed:
                self._outbox.break_off(stream)

    def _heard(self) -> None:
        """Restarts the idle time: it counts from now, or from the answer to the last request in flight."""
        silent_from = trio.current_time() if not self._calls else float("inf")
        self._reading.deadline = silent_from + self._limits.client_idle_seconds

    # -- output ----------------------------------------------------------------------------------------------

    async def _notify(self, request: int, event: Mapping[str, Any]) -> None:
        data = encode_notification("event", {**event, "id": request})
        if event.get("event") == "progress":
            self._outbox.put_progress(request, data)
            return
        await self._outbox.wait_for_space()
        self._outbox.put(request, data)

    async def _write(self) -> None:
        """Sends the outbox; a client that does not read, or is gone, ends the connection."""
        try:
            while (data := await self._outbox.take()) is not None:
                await self._send(memoryview(data))
        except OSError as error:
            log.debug("a client is gone", pid=self.client.peer.pid, error=str(error))
            self._whole.cancel()
        except trio.TooSlowError:
            log.info(
                "a client does not read its answers and is disconnected",
                pid=self.client.peer.pid,
                uid=self.client.peer.uid,
                seconds=self._limits.send,
                waiting=self._outbox.size,
                counted=self.client.peer.uid,
            )
            self._whole.cancel()

    async def _send(self, view: memoryview) -> None:
        for start in range(0, len(view), _SEND):
            piece = view[start : start + _SEND]
            with trio.fail_after(self._limits.send):
                while piece:
                    piece = piece[await self._socket.send(piece) :]
