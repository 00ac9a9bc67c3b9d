"""A connection through a SOCKS 5 proxy (RFC 1928, RFC 1929); socksio has the messages.

`conversation` does no I/O; `socks_tunnel` is the blocking one, and `imgstored.http.socks_transport` httpx2's.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Iterator

    from imgstored.http.location import Origin
    from imgstored.http.proxy import Proxy

#: What to do next: send these bytes, or receive exactly so many, which the conversation is sent.
Step = bytes | int

#: Bytes of an address in a reply, by its type: IPv4, IPv6 (RFC 1928, 5).
_ADDRESS = {1: 4, 4: 16}
_NAME = 3

#: What the conversation raises when the proxy has closed the connection.
CLOSED = "the proxy closed the connection"


def conversation(proxy: Proxy, host: str, port: int) -> Generator[Step, bytes, None]:
    """Has the proxy connect to `host`, of which it resolves the name. TCP may cut replies into any pieces.

    Raises `OSError`, without the credentials in its text.
    """
    from socksio import socks5

    connection = socks5.SOCKS5Connection()
    methods = [socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.login is not None:
        methods.append(socks5.SOCKS5AuthMethod.USERNAME_PASSWORD)
    with _faults(proxy):
        connection.send(socks5.SOCKS5AuthMethodsRequest(methods))
        yield connection.data_to_send()
        chosen = connection.receive_data((yield 2))
        assert isinstance(chosen, socks5.SOCKS5AuthReply)
        if chosen.method not in methods:
            raise OSError(f"the proxy {proxy.url} wants other credentials")
        if chosen.method == socks5.SOCKS5AuthMethod.USERNAME_PASSWORD:
            assert proxy.login is not None
            user, password = (text.encode() for text in proxy.login)
            connection.send(socks5.SOCKS5UsernamePasswordRequest(user, password))
            yield connection.data_to_send()
            verdict = connection.receive_data((yield 2))
            assert isinstance(verdict, socks5.SOCKS5UsernamePasswordReply)
            if not verdict.success:
                raise OSError(f"the proxy {proxy.url} refuses the credentials")
        request = socks5.SOCKS5CommandRequest.from_address(socks5.SOCKS5Command.CONNECT, (host, port))
        connection.send(request)
        yield connection.data_to_send()
        reply = connection.receive_data((yield from _reply()))
        assert isinstance(reply, socks5.SOCKS5Reply)
        if reply.reply_code != socks5.SOCKS5ReplyCode.SUCCEEDED:
            words = reply.reply_code.name.lower().replace("_", " ")
            raise OSError(f"the proxy {proxy.url} refuses the connection ({words})")


def socks_tunnel(sock: socket.socket, proxy: Proxy, origin: Origin) -> None:
    """Has the proxy, to which `sock` is connected, connect to `origin`. Blocks. Raises as `conversation`."""
    steps = conversation(proxy, origin.host, origin.port)
    with contextlib.suppress(StopIteration):
        step = next(steps)
        while True:
            if isinstance(step, bytes):
                sock.sendall(step)
                step = next(steps)
            else:
                step = steps.send(_exactly(sock, step))


@contextlib.contextmanager
def _faults(proxy: Proxy) -> Iterator[None]:
    from socksio import ProtocolError

    try:
        yield
    except (ProtocolError, ValueError) as error:
        raise OSError(f"the proxy {proxy.url} does not speak SOCKS 5") from error


def _reply() -> Generator[Step, bytes, bytes]:
    """The reply to a request to connect; its length is in it."""
    head = yield 4
    if head[3] == _NAME:
        length = yield 1
        return head + length + (yield length[0] + 2)
    if head[3] not in _ADDRESS:
        raise ValueError("an address of an unknown type")
    return head + (yield _ADDRESS[head[3]] + 2)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionResetError(CLOSED)
        data += piece
    return bytes(data)
