"""The location of a file, and what a request for it may carry. Pure: no I/O."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from imgstored.errors import ClientError
from imgstored.foreign_text import printable

if TYPE_CHECKING:
    from imgstored.http.addresses import Nearness

#: When the pool may see an image's bytes: while they are downloaded, or only after the checksum held.
Verify = Literal["streaming", "first"]

#: What the bytes of a file are: an image's file, or what one is made of: the disk of a virtual machine, plain
#: or compressed, or a layer of a container image that has such a disk.
Contents = Literal["image", "disk", "layer with a disk"]

#: Longer addresses are refused; RFC 9110, 4.1 asks for at least 8000 characters.
MAX_URL = 8192

#: Statuses that redirect, and how many redirects are followed for one request.
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5

_DEFAULT_PORTS = {"http": 80, "https": 443}

#: RFC 3986 leaves only these in a URL; `urlsplit` would silently drop tabs and line ends.
_URL_CHARACTERS = re.compile(r"[!-~]+")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")
#: An IPv6 address, or a name in labels, as the resolver and TLS take them (RFC 1035, 2.3.4): of another one
#: Python's IDNA codec says so with errors that nobody expects of a connection.
_HOST = re.compile(
    r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|(?=.{1,254}\Z)[A-Za-z0-9_~-]{1,63}(\.[A-Za-z0-9_~-]{1,63})*\.?"
)


@dataclass(frozen=True, slots=True)
class Access:
    """The means to reach one server. Secrets are kept out of `repr`, and so out of logs."""

    ca_file: str | None = None  #: PEM file of the authorities to trust instead of the system's
    cert_file: str | None = None  #: PEM file of a client's certificate, sent to the server's own origin only
    key_file: str | None = None  #: PEM file of its key; None: it is in `cert_file`
    insecure: bool = False  #: do not verify the server's certificate
    internal_redirects: bool = False  #: redirects, and files' URLs, may lead to addresses nearer to this host
    proxy: str | None = field(default=None, repr=False)  #: http://[user:password@]host:port, or socks5://
    headers: tuple[tuple[str, str], ...] = field(
        default=(), repr=False
    )  #: sent to the server's own origin only

    def elsewhere(self) -> Access:
        """The access to another origin: without what identifies us to the server's own."""
        return dataclasses.replace(self, headers=(), cert_file=None, key_file=None)


class Authorization(Protocol):
    """Credentials that a server asks for, and that expire. For requests to one origin, from any thread."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The header fields that a request gets now."""
        ...

    def renew(self, challenge: str, sent: tuple[tuple[str, str], ...], near: Nearness) -> bool:
        """Answers a 401 with its WWW-Authenticate header; False where nothing is to be sent but what was.

        `near` is the nearness of the server. Blocks, in a thread of trio's. Raises `ClientError`, `APIError`,
        `ConfigError`.
        """
        ...


class Part(Struct, frozen=True):
    """A part of a file that a server has as a file of its own."""

    url: str
    size: int  #: bytes
    sha256: str | None = None  #: lower-case hexadecimal
    #: A file on this host that has the same bytes, from `offset` on; None: none is known.
    path: str | None = None
    offset: int = 0


class Location(Struct, frozen=True):
    """One place that has an image's file."""

    url: str
    source: str  #: the URL of the source that named it, for people
    access: Access = Access()
    verify: Verify = "streaming"
    #: Its address may not be nearer to this host than that: a server gave its URL. None: it may be any.
    limit: Nearness | None = None
    authorization: Authorization | None = None  #: for the origin of `url`, beside the access's headers
    #: The parts that are the file, one after another, all of the origin of `url`. None: the file is at `url`.
    parts: tuple[Part, ...] = ()
    blobs: str | None = None  #: of a registry: where each of its blobs is, with the digest behind it
    contents: Contents = "image"


class Origin(Struct, frozen=True):
    """The server that a URL names (RFC 6454): what credentials are bound to."""

    scheme: str
    host: str  #: lower case; an IPv6 address without brackets
    port: int

    @property
    def tls(self) -> bool:
        """True if requests to the server use TLS."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """`host[:port]` as a Host header has it: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def shown(url: str) -> str:
    """The URL for messages and logs: without user, password, query and fragment, which may hold secrets."""
    return _without(url, keep=())


def public(url: str) -> str:
    """The URL as everybody may read it: as `shown`, with the channel that it names (`?channel=`)."""
    return _without(url, keep=("channel",))


def _without(url: str, *, keep: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    query = "&".join(field for field in parts.query.split("&") if field.partition("=")[0] in keep)
    text = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment=""))
    return printable(text)


def origin_of(url: str) -> Origin:
    """The server of `url`. Raises `ClientError` unless it is http or https, with a host and no user in it."""
    return _origin(_parts(url), url)


def is_host(text: str) -> bool:
    """True if a connection can be made to what the text names: a name, or an address without brackets."""
    return _HOST.fullmatch(text) is not None


def request_target(url: str) -> str:
    """Path and query of `url`, as the first line of a request has them (RFC 9112, 3.2.1)."""
    parts = _parts(url)
    return urlunsplit(("", "", parts.path or "/", parts.query, ""))


def check_headers(access: Access) -> None:
    """Raises `ClientError` if a configured header could not be sent as one (RFC 9110, 5.1 and 5.5)."""
    for name, value in access.headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ClientError(
                f"the header {name[:40]!r} in the source's settings cannot be sent",
                hint="a header's value is one line of printable ASCII characters",
            )


def redirected(location: Location, target: str, near: Nearness) -> Location:
    """The location to which a redirect from `location` leads; `target` is the Location header's value.

    `near` is the nearness of the server that says so: it may send us to none that is nearer, unless the
    source's settings allow it. Headers, which may hold credentials, stay with the origin that they were meant
    for. Raises `ClientError` for what is not http or https, for a URL with a user in it, and for a step from
    https down to http.
    """
    old = origin_of(location.url)
    target = _encoded(target)
    if not target or len(target) > MAX_URL or not _URL_CHARACTERS.fullmatch(target):
        raise ClientError(f"{shown(location.url)}: redirects to something that is not a URL")
    try:
        if urlsplit(target).scheme:
            origin_of(target)  # `urljoin` takes "https:///path" for a place on the same server
        url = urljoin(location.url, target).partition("#")[0]
        new = origin_of(url)
    except (ValueError, ClientError) as error:
        cause = error.message if isinstance(error, ClientError) else "not a URL"
        raise ClientError(f"{shown(location.url)}: redirects to {shown(target)}: {cause}") from error
    if old.tls and not new.tls:
        raise ClientError(
            f"{shown(location.url)}: redirects from https to http ({shown(url)})",
            hint="the server's configuration is unsafe; use another source",
        )
    access = location.access if new == old else location.access.elsewhere()
    return replace(
        location,
        url=url,
        access=access,
        limit=None if access.internal_redirects else near,
        authorization=location.authorization if new == old else None,
    )


def _encoded(target: str) -> str:
    """A Location header's value with percent-encoding where it has spaces or other than ASCII.

    http.client gives a header's bytes as Latin-1, httpx2 as UTF-8 where they are.
    """
    target = target.strip(" \t")
    if len(target) > MAX_URL or not target.isprintable():
        return ""
    try:
        data = target.encode("latin-1")
        data.decode()
    except UnicodeError:
        data = target.encode()
    return quote(data, safe=_PRINTABLE)


def _parts(url: str) -> SplitResult:
    if len(url) > MAX_URL or not _URL_CHARACTERS.fullmatch(url):
        raise ClientError(f"{shown(url[:200])}: not a URL")
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ClientError(f"{shown(url)}: not a URL") from error


def _origin(parts: SplitResult, url: str) -> Origin:
    if parts.scheme not in _DEFAULT_PORTS:
        raise ClientError(f"{shown(url)}: neither http nor https")
    if "@" in parts.netloc:
        raise ClientError(
            f"{shown(url)}: a user in a URL is not allowed",
            hint="give credentials as a header in the source's settings",
        )
    try:
        port = parts.port
    except ValueError as error:
        raise ClientError(f"{shown(url)}: not a port") from error
    host = (parts.hostname or "").lower()
    if not is_host(host):
        raise ClientError(f"{shown(url)}: not a host name")
    if port == 0:
        raise ClientError(f"{shown(url)}: not a port")
    return Origin(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme])
