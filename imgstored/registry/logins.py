"""Logins at registries, from a file in the form of Docker's config.json."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from imgstored.errors import ConfigError, InvalidManifestError
from imgstored.manifest import parse
from imgstored.registry.reference import DOCKER_HUB, DOCKER_HUB_HOST

#: Bytes of the file.
MAX_FILE: Final = 1 << 20

#: The names under which the file may have Docker Hub.
_HUB: Final = ("https://index.docker.io/v1/", "index.docker.io", DOCKER_HUB, DOCKER_HUB_HOST)


class Login(Struct, frozen=True, repr_omit_defaults=True):
    """A user of a registry: a password, or a token by which tokens are got. Never shown."""

    user: str
    password: str
    identity_token: str = ""

    def __repr__(self) -> str:
        return "Login(…)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def read_login(path: str, host: str, repository: str) -> Login | None:
    """The file's login for a registry's host, and one of its repositories. Blocks.

    Raises `ConfigError` for a file that cannot be read or is none of that form.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror or error}") from error
    return login_in(data, path, host, repository)


def login_in(data: bytes, path: str, host: str, repository: str) -> Login | None:
    """As `read_login`, of the file's content. Pure."""
    try:
        content = parse(data, limit=MAX_FILE)
    except InvalidManifestError as error:
        raise _unusable(path, "is not a JSON object") from error
    auths = content.get("auths", {})
    if not isinstance(auths, dict):
        raise _unusable(path, 'is not valid: "auths" is not an object')
    for name in _names(host, repository):
        if name in auths:
            return _login(path, auths[name])
    helpers = content.get("credHelpers")
    if content.get("credsStore") or (isinstance(helpers, dict) and host in helpers):
        raise _unusable(
            path,
            f"keeps the login for {host} in another program, which the daemon does not run",
        )
    return None


def _names(host: str, repository: str) -> list[str]:
    """The keys that may have the login, the most specific first: a repository, folders above it, the host."""
    parts = repository.split("/") if repository else []
    below = ["/".join((host, *parts[:count])) for count in range(len(parts), 0, -1)]
    if host in (DOCKER_HUB, DOCKER_HUB_HOST):
        return [*below, *_HUB]
    urls = [f"{scheme}://{host}{rest}" for scheme in ("https", "http") for rest in ("", "/", "/v1/", "/v2/")]
    return [*below, host, *urls]


def _login(path: str, entry: Any) -> Login | None:
    if not isinstance(entry, dict):
        raise _unusable(path, 'is not valid: an entry of "auths" is not an object')
    token, auth = entry.get("identitytoken", ""), entry.get("auth", "")
    user, password = entry.get("username", ""), entry.get("password", "")
    if not all(isinstance(each, str) for each in (token, auth, user, password)):
        raise _unusable(path, 'is not valid: an entry of "auths" has something else than texts')
    if auth:
        try:
            user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise _unusable(path, 'is not valid: an "auth" is not base64 of user:password') from None
        if not colon:
            raise _unusable(path, 'is not valid: an "auth" is not base64 of user:password')
        password = password.rstrip("\0")
    if not token and not user:
        return None
    return Login(user, password, token)


def _unusable(path: str, why: str) -> ConfigError:
    return ConfigError(
        f"the logins in {path}: the file {why}",
        hint='it is like Docker\'s config.json: {"auths": {"HOST": {"auth": "BASE64 OF user:password"}}}',
    )
