"""The secrets in the settings of a source, in a URL, and in a proxy's URL. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, unquote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Headers whose values say nothing about who asks.
_PLAIN_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "accept-version",
        "cache-control",
        "content-type",
        "from",
        "host",
        "pragma",
        "referer",
        "user-agent",
        "via",
    }
)

#: Fields of IMGAPI's queries: what is asked for, which is in manifests, too.
_PLAIN_FIELDS: Final = frozenset(
    {
        "account",
        "action",
        "billing_tag",
        "channel",
        "compression",
        "identity",
        "limit",
        "marker",
        "name",
        "os",
        "owner",
        "public",
        "sha1",
        "state",
        "tag",
        "type",
        "uuid",
        "version",
    }
)

#: Names of fields that say that the value is secret.
_TELLING: Final = re.compile(
    r"tok|sig|auth|key|pass|pwd|secret|cred|policy|jwt|session|sas$|^hd?n|md5|hmac", re.IGNORECASE
)

#: The number of characters of a value that is taken for a secret: of one whose name says so, and of others.
_TOLD, _LIKELY = 4, 6

#: What else may be a token in a URL that a server has made up: letters and digits, mixed, and many of them.
_TOKEN: Final = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_~+=%-]{16,}")
#: Names of images, and checksums: these are in manifests, too.
_PUBLIC: Final = re.compile(
    r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64}"
)

_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})


def of_headers(headers: Mapping[str, str]) -> set[str]:
    """The secrets in headers that somebody set: whole values, what is behind a scheme, cookies, passwords."""
    found: set[str] = set()
    for name, value in headers.items():
        if name.lower() not in _PLAIN_HEADERS:
            found |= _kept(_of_value(name, value), _TOLD if _TELLING.search(name) else _LIKELY)
    return found


def _of_value(name: str, value: str) -> Iterator[str]:
    yield value
    scheme, space, rest = value.partition(" ")
    if name.lower() == "cookie":
        yield from (cookie.partition("=")[2].strip() for cookie in value.split(";"))
    elif space:
        yield rest.strip()
    if scheme.lower() == "basic":
        yield from _of_basic(rest.strip())


def _of_basic(encoded: str) -> Iterator[str]:
    try:
        login = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return
    yield from _of_login(login)


def _of_login(login: str) -> Iterator[str]:
    """The secrets of `user:password`: both together, the password, and HTTP's Basic form of them."""
    if not login.partition(":")[2]:
        return
    yield login
    yield login.partition(":")[2]
    # Half a character is in no login that is sent, but may be in a file, or in the environment.
    data = base64.b64encode(login.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    yield data
    yield data.translate({ord("+"): "-", ord("/"): "_"})


def of_source(url: str) -> set[str]:
    """The secrets in a source's URL: its user's password, and what its query has beside IMGAPI's fields."""
    found = _of_user(url)
    for name, value in _query(url):
        if name.lower() not in _PLAIN_FIELDS:
            found |= _kept((value, unquote_plus(value)), _TOLD if _TELLING.search(name) else _LIKELY)
    return found


def of_link(url: str) -> set[str]:
    """The secrets in a URL that a server has made up, as that of a file: signatures, tokens."""
    found = _of_user(url)
    for name, value in _query(url):
        if name.lower() in _PLAIN_FIELDS or _PUBLIC.fullmatch(value):
            continue
        if _TELLING.search(name) or _TOKEN.fullmatch(value):
            found |= _kept((value, unquote_plus(value)), _TOLD)
    return found


def of_proxy(setting: str) -> set[str]:
    """The password in a proxy's URL, alone and with its user."""
    return _of_user(setting if "://" in setting else f"http://{setting}")


def of_environment(environ: Mapping[str, str]) -> set[str]:
    """The passwords of the proxies that the environment names."""
    settings = (value for name, value in environ.items() if name.lower() in _PROXIES)
    return {secret for setting in settings for secret in of_proxy(setting.strip())}


def _of_user(url: str) -> set[str]:
    try:
        user = urlsplit(url).netloc.rpartition("@")[0]
    except ValueError:
        return set()
    return _kept((*_of_login(user), *_of_login(unquote(user))), _TOLD)


def _query(url: str) -> list[tuple[str, str]]:
    """Names and values as they are written."""
    try:
        query = urlsplit(url).query
    except ValueError:
        return []
    return [(name, value) for name, _, value in (field.partition("=") for field in query.split("&"))]


def _kept(values: Iterator[str] | tuple[str, ...], least: int) -> set[str]:
    return {value for value in values if len(value) >= least}
