"""Authentication at one registry: what its challenges ask for, and the tokens that it takes meanwhile.

A login goes to the registry's own host and port, and to the token server that the settings name, and nowhere
else. The registry may name any other token server: that one is asked as nobody in particular.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

import msgspec
import structlog
import trio
from msgspec import Struct

from imgstored import lanes
from imgstored.errors import APIError, ClientError
from imgstored.http.documents import DocumentLimits
from imgstored.http.location import Location, origin_of, shown
from imgstored.http.secrets import KNOWN
from imgstored.http.upload import Body, in_pieces, send
from imgstored.manifest import decoded
from imgstored.registry.challenge import chosen, read_challenges
from imgstored.registry.logins import read_login
from imgstored.registry.reference import DOCKER_HUB_HOST, check_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.http.addresses import Nearness
    from imgstored.http.documents import Document, Fetch
    from imgstored.http.location import Access
    from imgstored.registry.challenge import Challenge
    from imgstored.registry.logins import Login

log = structlog.get_logger(__name__)

#: A token server's answer: the token is a header afterwards.
_LIMITS: Final = DocumentLimits(max_bytes=64 << 10, total_seconds=30.0)
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")

#: Seconds that a token is good for if nobody says; a token that is about to expire is not used any more.
_DEFAULT_SECONDS: Final = 60.0
_SPARE_SECONDS: Final = 10.0
_MOST_SECONDS: Final = 86400.0

#: The token server of Docker Hub, which is another host.
_HUB_TOKENS: Final = "auth.docker.io"

#: Header fields of one request.
Headers = tuple[tuple[str, str], ...]


class Token(Struct):
    """The answer of a token server."""

    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


class _Granted(Struct, frozen=True):
    headers: Headers
    until: float  # of trio's clock

    def __repr__(self) -> str:
        return "_Granted(…)"


def scope_of(path: str, *, push: bool = False) -> str:
    """The scope of a token for a repository."""
    return f"repository:{path}:{'pull,push' if push else 'pull'}"


class Authenticator:
    """Answers the challenges of one registry. Used from trio's thread, but `headers` from any."""

    def __init__(
        self,
        url: str,
        access: Access,
        *,
        fetch: Fetch,
        auth_file: str | None = None,
        token_server: str | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """`url` is the registry's; `token_server`, `host[:port]`, may get the login, beside the registry."""
        self._origin = origin_of(url)
        self._url = url
        self._access = access
        self._fetch = fetch
        self._auth_file = auth_file
        self._token_server = token_server
        self._clock = clock
        self._granted: dict[str, _Granted] = {}
        self._asking = trio.Lock()

    def headers(self, scope: str) -> Headers:
        """The headers of a request for `scope`; none as long as the registry has not asked for them."""
        granted = self._granted.get(scope)
        return () if granted is None else granted.headers

    async def fresh(self, scope: str) -> Headers:
        """As `headers`, without a token that is about to expire."""
        granted = self._granted.get(scope)
        if granted is not None and granted.until <= self._clock():
            del self._granted[scope]
        return self.headers(scope)

    async def answer(self, scope: str, challenge: str, sent: Headers, *, near: Nearness) -> bool:
        """Does what the registry's `challenge` asks for; False where that would be the same as was `sent`.

        `near` is the nearness of the registry, which may send us to no token server that is nearer. Raises
        `ClientError`, `APIError`, `ConfigError`.
        """
        wanted = chosen(read_challenges(challenge))
        if wanted is None or any(name.lower() == "authorization" for name, _ in self._access.headers):
            return False
        async with self._asking:
            if (there := self.headers(scope)) and there != sent:
                return True  # somebody else was faster
            if wanted.scheme == "basic":
                login = await self._login(scope)
                if login is None or not login.user:
                    return False
                granted = _Granted((("Authorization", login.basic),), float("inf"))
            else:
                granted = await self._ask_for_token(wanted, scope, near)
            KNOWN.learn(value for _, value in granted.headers)
            KNOWN.learn(value.partition(" ")[2] for _, value in granted.headers)
            self._granted[scope] = granted
            return granted.headers != sent

    async def _login(self, scope: str) -> Login | None:
        if self._auth_file is None:
            return None
        path = scope.split(":")[1] if ":" in scope else ""
        login = await lanes.in_thread(read_login, self._auth_file, self._origin.authority, path)
        if login is not None:
            KNOWN.learn(
                secret
                for secret in (login.password, login.identity_token, login.basic.partition(" ")[2])
                if len(secret) >= 4
            )
        return login

    # -- tokens ----------------------------------------------------------------------------------------------

    async def _ask_for_token(self, challenge: Challenge, scope: str, near: Nearness) -> _Granted:
        realm = self._checked_realm(challenge.get("realm"))
        login = await self._login(scope)
        if login is not None and not self._may_get_login(realm):
            log.warning(
                "a token server does not get the login", registry=self._origin.authority, realm=shown(realm)
            )
            login = None
        query = [("service", service)] if (service := challenge.get("service")) else []
        # What is needed is known here: what the server says it wants may be less, or of another repository.
        query.append(("scope", scope))
        limit = None if self._access.internal_redirects or origin_of(realm) == self._origin else near
        asked_at = self._clock()
        if login is not None and login.identity_token:
            answer = await self._refreshed(realm, login, query, limit)
        else:
            headers: Headers = () if login is None else (("Authorization", login.basic),)
            joint = "&" if urlsplit(realm).query else "?"
            location = self._location(f"{realm}{joint}{urlencode(query)}", headers, limit)
            answer = await self._fetch(location, limits=_LIMITS, headers=(("Accept", "application/json"),))
        return self._read(realm, answer, asked_at, known=login is not None)

    async def _refreshed(
        self, realm: str, login: Login, query: list[tuple[str, str]], limit: Nearness | None
    ) -> Document:
        """OAuth 2's way: a refresh token in place of a password."""
        form = [
            ("grant_type", "refresh_token"),
            ("client_id", "imgstored"),
            ("refresh_token", login.identity_token),
            *query,
        ]
        data = urlencode(form).encode()
        body = Body(in_pieces(data), len(data), "application/x-www-form-urlencoded")
        return await send("POST", self._location(realm, (), limit), body, limits=_LIMITS)

    def _location(self, url: str, headers: Headers, limit: Nearness | None) -> Location:
        own = origin_of(url) == self._origin
        access = self._access if own else self._access.elsewhere()
        return Location(url, self._url, dataclasses.replace(access, headers=headers), limit=limit)

    def _checked_realm(self, realm: str) -> str:
        """The token server's URL. Raises `ClientError` for one that nothing is to be sent to."""
        try:
            origin = origin_of(realm)
            check_plain(origin)
        except ClientError as error:
            raise ClientError(
                f"{shown(self._url)}: the registry names a token server that is not usable: {error.message}",
                hint="tell the operator of the registry",
            ) from error
        if self._origin.tls and not origin.tls:
            raise ClientError(
                f"{shown(self._url)}: the registry leads from https to http for a token ({shown(realm)})",
                hint="tell the operator of the registry",
            )
        return realm.partition("#")[0]

    def _may_get_login(self, realm: str) -> bool:
        # With the port: who has another one of the same host is somebody else.
        server = origin_of(realm).authority
        if server == self._origin.authority:
            return True
        if self._token_server is not None:
            return server == self._token_server
        return self._origin.authority == DOCKER_HUB_HOST and server == _HUB_TOKENS

    def _read(self, realm: str, answer: Document, asked_at: float, *, known: bool) -> _Granted:
        if answer.status != 200:
            who = "the login" if known else "an anonymous request"
            hint = (
                "check `auth_file`"
                if known
                else ("`auth_file` may name a file with a login, and `token_server` the host that may get it")
            )
            raise APIError(
                f"{shown(realm)}: the token server refuses {who} ({answer.status})",
                hint=hint,
                data={"status": answer.status},
            )
        try:
            token = decoded(answer.body, Token)
        except msgspec.MsgspecError as error:
            raise APIError(f"{shown(realm)}: not the answer of a token server") from error
        text = token.token or token.access_token
        if not _TOKEN.fullmatch(text):
            raise APIError(f"{shown(realm)}: the token server sends something that is no token")
        seconds = min(_MOST_SECONDS, max(0.0, token.expires_in or _DEFAULT_SECONDS))
        until = asked_at + max(seconds - _SPARE_SECONDS, seconds / 2)
        return _Granted((("Authorization", f"Bearer {text}"),), until)
