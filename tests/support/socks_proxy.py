"""A SOCKS 5 proxy on loopback (RFC 1928, RFC 1929)."""

from __future__ import annotations

import contextlib
import socket
import struct

from tests.support.forward_proxy import ForwardProxy


class SocksProxy(ForwardProxy):
    """`seen` has `host:port` of every connection that it made; `login` is the user and password it wants.

    It sends its replies `whole`, or a byte at a time: TCP has no messages.
    """

    def __init__(
        self, *, login: tuple[str, str] | None = None, refuse: bool = False, whole: bool = False
    ) -> None:
        super().__init__()
        self._reply = socket.socket.sendall if whole else _drip
        self._login = login
        self._refuse = refuse

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error, IndexError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            methods = _read(client, _read(client, 2)[1])
            wanted = 0 if self._login is None else 2
            self._reply(client, bytes([5, wanted if wanted in methods else 255]))
            if wanted not in methods or (self._login is not None and not self._let_in(client)):
                return
            head = _read(client, 4)
            size = {1: 4, 4: 16}.get(head[3]) or _read(client, 1)[0]
            address = _read(client, size)
            host = address.decode() if head[3] == 3 else socket.inet_ntop(_FAMILIES[head[3]], address)
            port = struct.unpack("!H", _read(client, 2))[0]
            self.seen.append(f"{host}:{port}")
            if self._refuse:
                self._reply(client, b"\x05\x02\x00\x01" + bytes(6))
                return
            server = socket.create_connection((host, port))
            self._open.append(server)
            self._reply(client, b"\x05\x00\x00\x03\x04name" + bytes(2))
            self.join(client, server)

    def _let_in(self, client: socket.socket) -> bool:
        user = _read(client, _read(client, 2)[1])
        password = _read(client, _read(client, 1)[0])
        good = (user.decode(), password.decode()) == self._login
        self._reply(client, bytes([1, 0 if good else 1]))
        return good


_FAMILIES = {1: socket.AF_INET, 4: socket.AF_INET6}


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data


def _drip(sock: socket.socket, data: bytes) -> None:
    for number in data:
        sock.sendall(bytes([number]))
