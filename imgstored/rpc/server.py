"""Accepts connections on the daemon's socket."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError, UsageError
from imgstored.host import descriptors
from imgstored.rpc.budgets import Budgets, ConnectionRates
from imgstored.rpc.client_socket import ClientSocket, turn_away
from imgstored.rpc.connection import Connection
from imgstored.rpc.dispatch import stopping
from imgstored.rpc.listener import Listening, listen
from imgstored.rpc.peer import change_rights, peer_at_once, peer_of
from imgstored.rpc.wire import encode_error

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from imgstored.rpc.budgets import Budget
    from imgstored.rpc.call import Methods
    from imgstored.rpc.connection import Limits
    from imgstored.rpc.dispatch import Timing
    from imgstored.rpc.peer import Peer

log = structlog.get_logger(__name__)

#: Errors of `accept` when the process or the system is short of something, which passes.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds to wait for that.
_SHORTAGE_PAUSE = 0.2
#: Connections that are accepted before other tasks get their turn.
_AT_ONCE = 64
#: Connections at the same time that a directory service has to identify; others are turned away.
_MAX_LOOKED_UP = 32
#: Seconds between two log lines about refused connections.
_SAY_EVERY = 1.0
#: Threads for these look-ups.
_LOOKUPS = 4
#: Seconds that a refused client may take to read the reason.
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
        self._access = change_rights(group)
        self._lookups = trio.CapacityLimiter(_LOOKUPS)
        self._connections: dict[Connection, Budget] = {}
        self._budgets = Budgets()
        self._rates = ConnectionRates()
        self._looked_up = 0  # connections that a directory service is identifying
        self._turned_away = 0  # since the last log line about that
        self._said_at = float("-inf")
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
                    listening.socket.setblocking(False)
                    task_status.started()
                    log.info("listening", path=str(self._path), mode=oct(self._mode))
                    await self._accept(listening.socket, nursery)
                listening.close()
                for connection in list(self._connections):
                    connection.stop()
                nursery.cancel_scope.deadline = trio.current_time() + self._limits.stop
        finally:
            listening.close()

    def reconfigure(self, limits: Limits) -> None:
        """Uses these limits for new connections; existing connections keep their limits."""
        self._limits = limits

    def stop(self) -> None:
        """Accepts no more connections, and answers requests in flight with `CancelledError`."""
        self._accepting.cancel()

    def _listen(self) -> Listening:
        return listen(self._path, mode=self._mode, group_gid=self._access.group_gid)

    async def _accept(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        """Accepts all connections quickly: in the kernel each would wait behind all others."""
        while True:
            await trio.lowlevel.wait_readable(listening)
            for _ in range(_AT_ONCE):
                try:
                    connected, _ = listening.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _SHORTAGES:
                        log.warning("no connection can be accepted for now", error=str(error))
                        await trio.sleep(_SHORTAGE_PAUSE)
                    elif error.errno != errno.ECONNABORTED:
                        raise
                    break
                self._arrive(connected, nursery)

    def _arrive(self, connected: socket.socket, nursery: trio.Nursery) -> None:
        """Lets a client in, or turns it away as cheaply as possible."""
        try:
            peer = peer_at_once(connected)
            self._check_pace(peer)
        except ImgstoreError as error:
            turn_away(connected, encode_error(None, error.as_wire()))
            self._say_refused(error)
        except Exception:
            # One connection's failure must not end the others.
            log.exception("a connection failed")
            turn_away(connected, b"")
        else:
            self._looked_up += peer is None
            client_socket = ClientSocket(trio.socket.from_stdlib_socket(connected))
            nursery.start_soon(self._welcome, client_socket, peer)

    def _check_pace(self, peer: Peer | None) -> None:
        """Raises `UsageError` if a reader connects too often, or too many clients are unidentified."""
        if peer is None:
            if self._looked_up >= _MAX_LOOKED_UP:
                raise self._full()
        elif not self._access.may_change(peer) and not self._rates.may_connect(peer.uid):
            raise UsageError(
                f"uid {peer.uid} connects too often", hint="use one connection for several requests, or wait"
            )

    def _say_refused(self, error: ImgstoreError) -> None:
        """Logs refused connections, once per second: there may be many, and a line costs more than one."""
        self._turned_away += 1
        if trio.current_time() >= self._said_at + _SAY_EVERY:
            log.info(
                "a connection is refused",
                error=error.message,
                counted=error.message,
                refused=self._turned_away,
            )
            self._said_at, self._turned_away = trio.current_time(), 0

    async def _welcome(self, client_socket: ClientSocket, peer: Peer | None) -> None:
        try:
            if peer is None:
                peer = await self._look_up(client_socket)
            connection = self._admit(client_socket, peer)
            await self._converse(connection, client_socket)
        except ImgstoreError as error:
            log.info("a connection is refused", error=error.message, counted=error.message)
            await _refuse(client_socket, error)
            client_socket.give_up()
        except Exception:
            # One connection's failure must not end the others.
            log.exception("a connection failed")
        finally:
            await client_socket.close()

    async def _look_up(self, client_socket: ClientSocket) -> Peer:
        """Identifies the peer by a directory service. Raises `ImgstoreError`."""
        try:
            peer = await trio.to_thread.run_sync(peer_of, client_socket.raw, limiter=self._lookups)
        finally:
            self._looked_up -= 1
        self._check_pace(peer)
        return peer

    async def _converse(self, connection: Connection, client_socket: ClientSocket) -> None:
        try:
            await connection.run()
            # The connection keeps its place until the socket is closed.
            await client_socket.close()
        finally:
            self._budgets.leave(self._connections.pop(connection))

    def _admit(self, client_socket: ClientSocket, peer: Peer) -> Connection:
        """A new connection, which counts from now on. Raises `ImgstoreError` if there is no place for it."""
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
