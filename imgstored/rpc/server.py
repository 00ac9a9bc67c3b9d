"""Accepts connections on the daemon's socket."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError, UsageError
from imgstored.host import descriptors
from imgstored.rpc.budgets import Budgets
from imgstored.rpc.client_socket import ClientSocket
from imgstored.rpc.connection import Connection
from imgstored.rpc.dispatch import stopping
from imgstored.rpc.listener import Listening, listen
from imgstored.rpc.peer import access_for, peer_of
from imgstored.rpc.wire import encode_error

if TYPE_CHECKING:
    from pathlib import Path

    from imgstored.rpc.budgets import Budget
    from imgstored.rpc.call import Methods
    from imgstored.rpc.connection import Limits
    from imgstored.rpc.dispatch import Timing

log = structlog.get_logger(__name__)

#: `accept` fails with these when the process or the system is short of something; it passes.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds to wait for it to pass.
_SHORTAGE_PAUSE = 0.2
#: Connections of which it is not known yet who is there; others wait in the kernel.
_ARRIVALS = 32
#: Threads that look up who that is.
_LOOKUPS = 4
#: Seconds that a client which is turned away may take to read why.
_REFUSAL = 1.0


class Server:
    """The socket and all its connections. Made and used in trio's thread.

    `mode` says who may open the socket; `group` owns it, and its members may change.
    Raises `ConfigError` when there is no such group.
    """

    def __init__(
        self,
        path: Path,
        methods: Methods,
        *,
        mode: int = 0o666,
        group: str | None = None,
        limits: Limits,
        timing: Timing | None = None,
    ) -> None:
        self._timing = timing
        self._path = path
        self._methods = methods
        self._mode = mode
        self._limits = limits
        self._access = access_for(group)
        self._lookups = trio.CapacityLimiter(_LOOKUPS)
        self._connections: dict[Connection, Budget] = {}
        self._budgets = Budgets()
        self._arriving = trio.Semaphore(_ARRIVALS)
        self._accepting = trio.CancelScope()

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return len(self._connections)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listens and serves until `stop`. Started when clients can connect.

        Raises `ConfigError` when another daemon listens there, or the socket cannot be made. On return, and
        when cancelled, the socket's name and all connections are gone.
        """
        listening = await trio.to_thread.run_sync(self._listen, limiter=self._lookups)
        try:
            async with trio.open_nursery() as nursery:
                with self._accepting:
                    accepting = trio.socket.from_stdlib_socket(listening.socket)
                    task_status.started()
                    log.info("listening", path=str(self._path), mode=oct(self._mode))
                    await self._accept(accepting, nursery)
                listening.close()
                for connection in list(self._connections):
                    connection.stop()
                nursery.cancel_scope.deadline = trio.current_time() + self._limits.stop
        finally:
            listening.close()

    def reconfigure(self, limits: Limits) -> None:
        """Uses these limits from now on; who is connected keeps those that were in force then."""
        self._limits = limits

    def stop(self) -> None:
        """No new connections from now on; requests in flight are answered with `CancelledError`."""
        self._accepting.cancel()

    def _listen(self) -> Listening:
        return listen(self._path, mode=self._mode, group_gid=self._access.group_gid)

    async def _accept(self, listening: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            await self._arriving.acquire()
            try:
                connected, _ = await listening.accept()
            except OSError as error:
                self._arriving.release()
                if error.errno in _SHORTAGES:
                    log.warning("no connection can be accepted for now", error=str(error))
                    await trio.sleep(_SHORTAGE_PAUSE)
                elif error.errno != errno.ECONNABORTED:
                    raise
                continue
            nursery.start_soon(self._welcome, ClientSocket(connected))

    async def _welcome(self, client_socket: ClientSocket) -> None:
        try:
            try:
                connection = await self._admit(client_socket)
            finally:
                self._arriving.release()
            await self._converse(connection, client_socket)
        except ImgstoreError as error:
            log.info("a connection is refused", error=error.message, counted=error.message)
            await _refuse(client_socket, error)
        except Exception:
            # One connection's failure must not end the others.
            log.exception("a connection failed")
        finally:
            await client_socket.close()

    async def _converse(self, connection: Connection, client_socket: ClientSocket) -> None:
        try:
            await connection.run()
            # Until it is closed the connection keeps its place.
            await client_socket.close()
        finally:
            self._budgets.leave(self._connections.pop(connection))

    async def _admit(self, client_socket: ClientSocket) -> Connection:
        """A connection that counts from now on. Raises `ImgstoreError` when there is no place for it."""
        peer = await trio.to_thread.run_sync(peer_of, client_socket.raw, limiter=self._lookups)
        changer = self._access.may_change(peer)
        budget = self._budgets.of(peer.uid, changer=changer)
        readers = sum(not other.changer for other in self._connections.values())
        if self._accepting.cancel_called:
            raise stopping()
        if len(self._connections) >= self._limits.clients or (
            not changer and readers >= self._limits.readers
        ):
            raise self._full()
        if not changer and budget.connections >= self._limits.user_clients:
            raise self._full(peer.uid)
        if not changer and descriptors.is_reserved(client_socket.raw.fileno()):
            raise UsageError("the daemon has too many open files", hint=descriptors.HINT)
        if changer:
            client_socket.trust()
        connection = Connection(
            client_socket, peer, self._methods, self._access, self._limits, budget, self._timing
        )
        self._connections[connection] = budget
        self._budgets.enter(budget)
        return connection

    def _full(self, uid: int | None = None) -> UsageError:
        most = self._limits.clients if uid is None else self._limits.user_clients
        return UsageError(
            f"too many connections{'' if uid is None else f' of uid {uid}'}: {most} at most",
            hint="try again later; `limits` in the configuration sets the maximum",
        )


async def _refuse(client_socket: ClientSocket, error: ImgstoreError) -> None:
    with trio.move_on_after(_REFUSAL):
        try:
            await client_socket.send(memoryview(encode_error(None, error.as_wire())))
        except OSError as broken:
            log.debug("a client that is turned away is gone already", error=str(broken))
