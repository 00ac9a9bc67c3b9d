"""A request while it is answered, and the methods that answer requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct

from imgstored.errors import NotPermittedError, UsageError
from imgstored.events.stream import Requester
from imgstored.host import foreign_files
from imgstored.rpc.params import printable
from imgstored.rpc.peer import ChangeRights, Peer, check_change

if TYPE_CHECKING:
    from imgproto.operations import Operation

#: Characters of a client's name that are kept, for logs and for the list of jobs.
MAX_CLIENT_NAME = 80

#: Sends an event of a request (its id) to the client; waits while too much is pending for the client.
Notify = Callable[[int, Mapping[str, Any]], Awaitable[None]]


#: Returns when a method may run with these checked parameters.
Turn = Callable[[Mapping[str, Any]], Awaitable[None]]

#: Whether a method with these parameters asks image servers.
Asks = Callable[[Mapping[str, Any]], bool]


def never(_: Mapping[str, Any]) -> bool:
    """Stands for a method that asks no image server."""
    return False


def always(_: Mapping[str, Any]) -> bool:
    """Stands for a method that asks image servers whatever its parameters."""
    return True


async def _at_once(_: Mapping[str, Any]) -> None:
    return


class PassedFile:
    """A descriptor that came with a request; the code that takes it closes it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def take(self) -> int | None:
        """The descriptor, once."""
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def close(self) -> None:
        """Closes the descriptor soon if nobody took it. A second call does nothing."""
        descriptor = self.take()
        if descriptor is not None:
            foreign_files.close(descriptor)


class Client:
    """The process behind a connection: its identity from the kernel, and the name that it chose."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._name: str | None = None

    @property
    def name(self) -> str:
        """The client's name, for people: a mere claim, which gives no rights."""
        return self._name or f"pid {self.peer.pid}"

    def introduce(self, name: str) -> None:
        """Sets the name that the client chose, without characters that cannot be printed."""
        self._name = printable(name, MAX_CLIENT_NAME)


@dataclass(eq=False, slots=True)
class Call:
    """A request that is being answered. `params` are unchecked; `scope` ends it early.

    `turn` returns when the method may run with these parameters.
    """

    id: int
    method: str
    params: Mapping[str, Any]
    client: Client
    access: ChangeRights = field(repr=False)
    notify_client: Notify = field(repr=False)
    file: PassedFile | None = field(default=None, repr=False)
    turn: Turn = field(default=_at_once, repr=False)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope, repr=False)

    @property
    def peer(self) -> Peer:
        """The process that sent the request."""
        return self.client.peer

    @property
    def requester(self) -> Requester:
        """The client, for actions on its behalf, and their records."""
        return Requester(self.client.name, self.client.peer.uid)

    async def notify(self, event: Mapping[str, Any]) -> None:
        """Sends an event. Progress (`event["event"]`) never waits; other events may."""
        await self.notify_client(self.id, event)

    def take_file(self) -> int:
        """The descriptor that came with the request; the caller closes it. Raises `UsageError`."""
        descriptor = None if self.file is None else self.file.take()
        if descriptor is None:
            raise UsageError(
                f"{self.method}: no file was passed",
                hint="pass one descriptor (SCM_RIGHTS) with the request, in a sendmsg of its own",
            )
        return descriptor

    def require_change(self) -> None:
        """Raises `NotPermittedError` unless the peer may change."""
        check_change(self.peer, self.access)

    @property
    def is_root(self) -> bool:
        """True if the peer is root, or the daemon's own user, who may know all that the daemon knows."""
        return self.peer.uid in (0, self.access.daemon_uid)

    def require_root(self, why: str) -> None:
        """Raises `NotPermittedError` unless the peer is root, or the daemon's own user."""
        if not self.is_root:
            raise NotPermittedError(
                f"uid {self.peer.uid} may not {self.method}: it {why}, so only root may",
                hint="use sudo or pfexec; `imgctl create --raw` needs neither",
                data={"uid": self.peer.uid},
            )


class Method(Struct, frozen=True):
    """An operation and its function, which gets checked parameters."""

    operation: Operation[Any, Any]
    run: Callable[[Any, Call], Awaitable[Any]]
    large: bool = False  #: the answer may have tens of MiB, and is sent while it is encoded
    asks: Asks = never  #: whether it asks image servers, with these parameters
    lasting: bool = False  #: it lasts as long as the client wants
    why_root: str = ""  #: why an operation for root is for root alone: what "it" does, for a message

    @property
    def change(self) -> bool:
        """True if users who may only read are refused, before `run` gets the call."""
        return self.operation.who != "read"


#: By the operation's name.
Methods = Mapping[str, Method]
