"""nginx as the image server, with a line of its own to every client where that is asked for."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from tests.support.nginx import NGINX, Nginx

if TYPE_CHECKING:
    from pathlib import Path

#: SO_MAX_PACING_RATE of Linux's asm-generic/socket.h, which Python's socket module does not name.
_SO_MAX_PACING_RATE = 47


class PacedNginx(Nginx):
    """nginx whose every connection carries `rate` bytes a second at most, whatever is asked on it.

    nginx's own limit_rate counts by the request, and lets through at once what a request may have in its
    first second: ranges smaller than that are not limited at all, and a client of many ranges would win by a
    trick.
    Here the kernel paces each connection. The accepted ones inherit that from the listening socket, which
    nginx takes over by the environment variable NGINX, as it does when it is upgraded.
    """

    def __init__(self, folder: Path, *, rate: int, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self._rate = rate

    def __enter__(self) -> PacedNginx:
        super().__enter__()
        return self

    def _launch(self) -> bool:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, self._rate)
            try:
                listener.bind(("127.0.0.1", self.port))
            except OSError:
                return False
            listener.listen(511)
            self._process = subprocess.Popen(
                [NGINX, "-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", "nginx.conf"],
                cwd=self.folder,
                env={**os.environ, "NGINX": f"{listener.fileno()};"},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        # It listens already: connections wait until nginx accepts them.
        return self._process.poll() is None
