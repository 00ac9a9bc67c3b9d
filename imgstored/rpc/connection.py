"""One client's connection: reads its requests, runs them side by side, and writes what they have to say."""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING, Any

import structlog
import trio

from imgstored.errors import CancelledError, ImgstoreError, UsageError
from imgstored.rpc.call import Call, Client, Methods, PassedFile
from imgstored.rpc.dispatch import encode_outcome, perform, stopping
from imgstored.rpc.framing import ProtocolError
from imgstored.rpc.outbox import Outbox
from imgstored.rpc.params import Params
from imgstored.rpc.peer import Access, Peer, may_change
from imgstored.rpc.wire import Decoder, Message, Request, bearer, encode_error, encode_notification

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgstored.rpc.limits import Limits

log = structlog.get_logger(__name__)

#: Bytes that are read at once. More would let a client that sends nothing but tiny values hold up the others.
_RECEIVE = 32 << 10
#: Bytes that are handed to the kernel at once: what `Limits.send` is the time for.
_SEND = 64 << 10
#: Room for one descriptor; the kernel drops others and says so. Padding would let a second one in.
_ONE_DESCRIPTOR = socket.CMSG_LEN(array.array("i").itemsize)
#: Where the system has no such flag, a program that is started at this very moment inherits the descriptor.
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Connection:
    """Lives as long as `run` does. The socket is the connection's, which closes it."""

    def __init__(
        self, connected: trio.socket.SocketType, peer: Peer, methods: Methods, access: Access, limits: Limits
    ) -> None:
        self._socket = connected
        self._methods = methods
        self._access = access
        self._limits = limits
        # To close a descriptor can block for as long as its file system likes: none are taken from readers.
        self._ancillary = _ONE_DESCRIPTOR if may_change(peer, access.group_gid, access.daemon_uid) else 0
        self.client = Client(peer)
        self._decoder = Decoder(limits.message)
        self._outbox = Outbox(limits.outbox)
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
            self._socket.close()

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
        """Starts requests as they come in. Returns what the client did wrong; None when it left."""
        while True:
            since = self._decoder.position
            try:
                data, file = await self._receive()
            except OSError as error:
                log.debug("a connection broke", pid=self.client.peer.pid, error=str(error))
                return None
            except ProtocolError as error:
                return error
            messages = self._decoder.feed(data)
            if file is not None:
                self._assign(file, messages, since)
            if not data:
                return None
            for message in messages:
                fault = await self._begin(message, requests)
                if fault is not None:
                    return fault
            if self._decoder.fault is not None:
                return self._decoder.fault

    async def _receive(self) -> tuple[bytes, PassedFile | None]:
        """Some bytes, none at the end, and the descriptor that came with them.

        Raises `ProtocolError` for more than one descriptor.
        """
        if not self._ancillary:
            return await self._socket.recv(_RECEIVE), None
        data, ancillary, flags, _ = await self._socket.recvmsg(_RECEIVE, self._ancillary, _CLOSE_ON_EXEC)
        files = [PassedFile(descriptor) for descriptor in _descriptors(ancillary)]
        if len(files) > 1 or flags & socket.MSG_CTRUNC:
            for file in files:
                file.close()
            raise ProtocolError("more than one descriptor was passed at once")
        return data, files[0] if files else None

    def _assign(self, file: PassedFile, messages: list[Message], since: int) -> None:
        start = bearer(messages, self._decoder.unfinished, since)
        if start is None:
            file.close()
        else:
            self._files[start] = file

    async def _begin(self, message: Message, requests: trio.Nursery) -> ProtocolError | None:
        """Starts one request, or refuses it. Returns what makes the whole connection useless."""
        if not isinstance(message, Request):
            return ProtocolError("a client sends nothing but requests")
        if message.id in self._calls:
            return ProtocolError(f"two requests in flight have the id {message.id}")
        self._heard()
        if self._stopping or len(self._calls) >= self._limits.in_flight:
            error = stopping() if self._stopping else self._too_many()
            await self._outbox.room()
            self._outbox.put(message.id, encode_error(message.id, error.as_wire()))
            return None
        call = Call(
            id=message.id,
            method=message.method,
            params=Params(message.method[:40], message.params),
            client=self.client,
            access=self._access,
            notify_client=self._notify,
            file=self._file_for(message),
        )
        self._calls[message.id] = call
        requests.start_soon(self._answer, call)
        return None

    def _file_for(self, request: Request) -> PassedFile | None:
        file = self._files.pop(request.start, None)
        method = self._methods.get(request.method)
        if file is not None and (method is None or not method.file):
            file.close()
            return None
        return file

    def _silent(self) -> CancelledError:
        return CancelledError(f"nothing was asked for {self._limits.idle:g} seconds", hint="connect again")

    def _too_many(self) -> UsageError:
        return UsageError(
            f"more than {self._limits.in_flight} requests of one connection are in flight",
            hint="wait for an answer first",
        )

    async def _answer(self, call: Call) -> None:
        try:
            outcome = await perform(call, self._methods)
            if not self._stopping:
                await self._outbox.room()
            # Encoded only now: a client that does not read must not pile up answers.
            self._outbox.put(call.id, encode_outcome(call, outcome))
        finally:
            del self._calls[call.id]
            if call.file is not None:
                call.file.close()
            self._heard()

    def _heard(self) -> None:
        """The silence that is allowed begins now, or when the last request in flight is answered."""
        silent_from = trio.current_time() if not self._calls else float("inf")
        self._reading.deadline = silent_from + self._limits.idle

    # -- what goes out ---------------------------------------------------------------------------------------

    async def _notify(self, request: int, event: Mapping[str, Any]) -> None:
        data = encode_notification("event", {"id": request, **event})
        if event.get("event") == "progress":
            self._outbox.put_progress(request, data)
            return
        await self._outbox.room()
        self._outbox.put(request, data)

    async def _write(self) -> None:
        """Sends what is in the outbox; a client that does not read, or is gone, ends the connection."""
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
            )
            self._whole.cancel()

    async def _send(self, view: memoryview) -> None:
        sent = 0
        while sent < len(view):
            with trio.fail_after(self._limits.send):
                sent += await self._socket.send(view[sent : sent + _SEND])


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return found.tolist()
