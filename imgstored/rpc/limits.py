"""What one client may cost the daemon."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """Bounds on one message from a client, checked before anything of it is built in memory."""

    size: int = 4 << 20  #: bytes
    depth: int = 32  #: arrays and maps within each other, the message's own array counted
    #: values in all its arrays and maps; a value of one byte becomes up to 72 bytes in memory
    values: int = 1 << 16


#: Those who may not change have nothing long to say, and anybody on the machine may be one of them.
READERS_MESSAGE = MessageLimits(size=64 << 10, values=1 << 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on the socket's connections. Times in seconds.

    What has no default is configured (`LimitsTable`).
    """

    clients: int  #: connections at the same time; a quarter of them is kept for those who may change
    client_requests: int  #: of one connection that are not yet answered
    client_idle_seconds: float  #: without a request in flight and without a whole message
    send: float = 20.0  #: for the client to read 64 KiB of what waits for it, or what there is
    stop: float = 2.0  #: for the last answers, when the daemon stops
    outbox: int = 1 << 20  #: bytes that wait for one client before those who produce more have to wait
    message: MessageLimits = field(default_factory=MessageLimits)
    readers_message: MessageLimits = READERS_MESSAGE  #: from those who may not change

    @property
    def readers(self) -> int:
        """Connections of those who may not change. Theirs can never be all that there are."""
        return self.clients - max(1, self.clients // 4)
