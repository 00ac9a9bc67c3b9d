"""`__bridge`: standard input and output as the daemon's socket, for an imgctl on another host."""

from __future__ import annotations

import _socket
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from imgctl.connection import HELLO_SECONDS, connected_to, default_socket

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session

_PIECE = 256 << 10


def bridge(session: Session, arguments: Arguments) -> None:
    """`__bridge`. Ends when the daemon or the other side does."""
    arguments.none()
    connected = connected_to(session.socket_path or default_socket(), HELLO_SECONDS)
    connected.settimeout(None)
    # It may wait for input that never comes; then it ends with the process.
    threading.Thread(target=_send, args=(connected,), daemon=True).start()
    while piece := connected.recv(_PIECE):
        view = memoryview(piece)
        while view:
            view = view[os.write(1, view) :]


def _send(connected: _socket.socket) -> None:
    with suppress(OSError):
        while piece := os.read(0, _PIECE):
            connected.sendall(piece)
        connected.shutdown(_socket.SHUT_WR)
