"""Names in registries: hosts, repositories, tags, digests, and references to images. Pure.

The grammar is that of the distribution specification, and of Docker's references for names without a host.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from imgstored.errors import ClientError
from imgstored.foreign_text import printable
from imgstored.http.location import origin_of

if TYPE_CHECKING:
    from imgstored.http.location import Origin

#: Docker Hub: the name of the registry in references, and the host that answers for it.
DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_HOST: Final = "registry-1.docker.io"

_PATH: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")

#: Characters of a repository's path with its host: more do not fit clients' references.
_MAX_NAME: Final = 255

_SCHEME: Final = "oci://"
#: What is before a reference to a container image where a URL is wanted.
CONTAINER: Final = "docker://"


class Reference(Struct, frozen=True):
    """An image in a registry: by its digest if there is one, else by its tag."""

    host: str  #: `host[:port]`, as a URL has it; `docker.io` is Docker Hub's name
    path: str  #: the repository
    tag: str | None = None
    digest: str | None = None

    @property
    def wanted(self) -> str:
        """The name to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        scheme = "" if _looks_like_a_host(self.host) else _SCHEME
        return f"{scheme}{self.host}/{self.path}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """A reference as Docker has it: `[HOST/]PATH[:TAG][@DIGEST]`; `oci://` may be in front of a host.

    A name without a host is Docker Hub's, and its tag is `latest` if it has neither tag nor digest. The first
    component is a host if it has a dot or a colon, or is `localhost`. Raises `ClientError`.
    """
    given = text[:300]
    has_scheme = text.startswith(_SCHEME)
    rest, at, digest = text.removeprefix(_SCHEME).partition("@")
    first, slash, others = rest.partition("/")
    is_host = has_scheme or (slash and _looks_like_a_host(first))
    host, name = (first, others) if is_host else (DOCKER_HUB, rest)
    path, colon, tag = name.partition(":")
    host = _hub_name(host.lower())
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _HOST.fullmatch(host):
        raise _refused(given, "that is no host", "a registry is HOST or HOST:PORT")
    check_path(path)
    if colon and not is_tag(tag):
        raise _refused(given, "that is no tag", "a tag has up to 128 letters, digits, and . _ -")
    if at and not is_digest(digest):
        raise _refused(given, "that is no digest", "a digest is sha256: and 64 hexadecimal digits")
    return Reference(host, path, tag if colon else None if at else "latest", digest if at else None)


def _looks_like_a_host(text: str) -> bool:
    return text == "localhost" or "." in text or ":" in text


def api_url(host: str) -> str:
    """The URL of the server that answers for a registry's host: over TLS, except on this machine.

    Raises `ClientError` for what is no host.
    """
    if not _HOST.fullmatch(host):
        raise _refused(host[:300], "that is no host", "a registry is HOST or HOST:PORT")
    host = DOCKER_HUB_HOST if _hub_name(host) == DOCKER_HUB else host
    scheme = "http" if is_loopback(origin_of(f"https://{host}").host) else "https"
    return f"{scheme}://{host}"


def web_url(text: str) -> str:
    """`oci://HOST/PATH` as the URL of the server that answers for it; any other URL as it is.

    Raises `ClientError`.
    """
    if not text.startswith(_SCHEME):
        return text
    host, slash, path = text.removeprefix(_SCHEME).partition("/")
    return f"{api_url(host)}{slash}{path}"


def repository_of(url: str, default: str) -> tuple[str, str]:
    """The server's URL, and the path of the repository, of `http[s]://HOST/PATH`.

    `default` is the path where the URL has none. Raises `ClientError`, also for plain HTTP to another host.
    """
    origin = origin_of(url)
    check_plain(origin)
    path = urlsplit(url).path.strip("/") or default
    check_path(path)
    return f"{origin.scheme}://{origin.authority}", path


def check_plain(origin: Origin) -> None:
    """Raises `ClientError` for a registry that is reached by plain HTTP, and is not on this machine."""
    if not origin.tls and not is_loopback(origin.host):
        raise ClientError(
            f"http://{origin.authority}: a registry on another host is not spoken to without TLS",
            hint=f"use https://{origin.authority}; if its certificate is its own authority's, set `ca_file`",
        )


def is_loopback(host: str) -> bool:
    """True if the host is this machine, by its name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_path(path: str) -> None:
    """Raises `ClientError` for what is no path of a repository."""
    if len(path) > _MAX_NAME or not _PATH.fullmatch(path):
        raise _refused(
            path[:300], "that is no repository", "it has lower-case letters and digits, with / . _ - between"
        )


def is_tag(text: str) -> bool:
    """True if `text` is a tag."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """True if `text` is a digest that can be checked here: SHA-256 or SHA-512."""
    return _DIGEST.fullmatch(text) is not None


def hasher(digest: str) -> Any:
    """A new hash object of the digest's algorithm."""
    return hashlib.new(digest.partition(":")[0])


def matches(data: bytes | memoryview, digest: str) -> bool:
    """True if the bytes have the digest."""
    return is_digest(digest) and _hexdigest(data, digest) == digest.partition(":")[2]


def digest_of(data: bytes) -> str:
    """The SHA-256 digest of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def referrers_tag(digest: str) -> str:
    """The tag that lists the referrers of a manifest where the registry has no API for that."""
    return digest.replace(":", "-", 1)


def _hexdigest(data: bytes | memoryview, digest: str) -> str:
    found = hasher(digest)
    found.update(data)
    return str(found.hexdigest())


def _hub_name(host: str) -> str:
    return DOCKER_HUB if host in (DOCKER_HUB_HOST, "index.docker.io", DOCKER_HUB) else host


def _refused(text: str, why: str, hint: str) -> ClientError:
    return ClientError(f'"{printable(text)}": {why}', hint=hint)
