"""A connection through a SOCKS 5 proxy (RFC 1928, RFC 1929). Blocking; socksio has the messages."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from imgstored.http.location import Origin
    from imgstored.http.proxy import Proxy

#: Bytes of an address in a reply, by its type: IPv4, IPv6 (RFC 1928, 5).
_ADDRESS = {1: 4, 4: 16}
_NAME = 3


def socks_tunnel(sock: socket.socket, proxy: Proxy, origin: Origin) -> None:
    """Has the proxy, to which `sock` is connected, connect to `origin`. The proxy resolves the name.

    Raises `OSError`, without the credentials in its text.
    """
    from socksio import socks5

    connection = socks5.SOCKS5Connection()
    methods = [socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.login is not None:
        methods.append(socks5.SOCKS5AuthMethod.USERNAME_PASSWORD)
    with _faults(proxy):
        connection.send(socks5.SOCKS5AuthMethodsRequest(methods))
        sock.sendall(connection.data_to_send())
        chosen = connection.receive_data(_exactly(sock, 2))
        assert isinstance(chosen, socks5.SOCKS5AuthReply)
        if chosen.method not in methods:
            raise OSError(f"the proxy {proxy.url} wants other credentials")
        if chosen.method == socks5.SOCKS5AuthMethod.USERNAME_PASSWORD:
            assert proxy.login is not None
            user, password = (text.encode() for text in proxy.login)
            connection.send(socks5.SOCKS5UsernamePasswordRequest(user, password))
            sock.sendall(connection.data_to_send())
            verdict = connection.receive_data(_exactly(sock, 2))
            assert isinstance(verdict, socks5.SOCKS5UsernamePasswordReply)
            if not verdict.success:
                raise OSError(f"the proxy {proxy.url} refuses the credentials")
        request = socks5.SOCKS5CommandRequest.from_address(
            socks5.SOCKS5Command.CONNECT, (origin.host, origin.port)
        )
        connection.send(request)
        sock.sendall(connection.data_to_send())
        reply = connection.receive_data(_reply(sock))
        assert isinstance(reply, socks5.SOCKS5Reply)
        if reply.reply_code != socks5.SOCKS5ReplyCode.SUCCEEDED:
            words = reply.reply_code.name.lower().replace("_", " ")
            raise OSError(f"the proxy {proxy.url} refuses the connection ({words})")


@contextlib.contextmanager
def _faults(proxy: Proxy) -> Iterator[None]:
    from socksio import ProtocolError

    try:
        yield
    except (ProtocolError, ValueError) as error:
        raise OSError(f"the proxy {proxy.url} does not speak SOCKS 5") from error


def _reply(sock: socket.socket) -> bytes:
    """The reply to a request to connect; its length is in it."""
    head = _exactly(sock, 4)
    if head[3] == _NAME:
        length = _exactly(sock, 1)
        return head + length + _exactly(sock, length[0] + 2)
    if head[3] not in _ADDRESS:
        raise ValueError("an address of an unknown type")
    return head + _exactly(sock, _ADDRESS[head[3]] + 2)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the proxy closed the connection")
        data += piece
    return bytes(data)
