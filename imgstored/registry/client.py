"""Registries as the daemon asks them: documents and blobs of repositories, by the distribution specification.

Registries ──► Repository ──► endpoints: its mirrors, and then the registry itself
settings       one path       each with an access, and an authenticator, of its own
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import structlog
import trio
from msgspec import Struct

from imgstored import __version__, lanes
from imgstored.errors import APIError, BadContentError, ClientError
from imgstored.foreign_text import printable
from imgstored.http.addresses import Nearness
from imgstored.http.documents import DocumentLimits, fetch_document
from imgstored.http.location import Access, Location, Part, origin_of, shown
from imgstored.http.secrets import redacted
from imgstored.manifest import decoded
from imgstored.registry.auth import Authenticator, scope_of
from imgstored.registry.documents import (
    ACCEPT,
    MAX_DOCUMENT,
    Descriptor,
    ImageManifest,
    Index,
    described_document,
    read_document,
)
from imgstored.registry.reference import (
    api_url,
    check_path,
    check_plain,
    digest_of,
    is_digest,
    is_tag,
    matches,
    referrers_tag,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgstored.http.documents import Document, Fetch
    from imgstored.http.location import Verify
    from imgstored.registry.auth import Headers

_T = TypeVar("_T")

log = structlog.get_logger(__name__)

_USER_AGENT: Final = ("User-Agent", f"imgstored/{__version__}")

DOCUMENT: Final = DocumentLimits(max_bytes=MAX_DOCUMENT, total_seconds=30.0, tries=2)
_TAGS: Final = DocumentLimits(max_bytes=8 << 20, total_seconds=60.0, tries=2)

#: Tags that one repository may have, and how many are asked for at a time.
_MAX_TAGS: Final = 100_000
_PAGE: Final = 1000
#: Seconds for all pages: a registry may give them one tag at a time.
_TAGS_SECONDS: Final = 120.0

#: Bytes of an answer that is read in the thread of the event loop; one of 4 MiB takes 0.2 s.
_SMALL: Final = 64 << 10

#: What the digests begin with that downloads are checked against.
_SHA256: Final = "sha256:"

_OK, _PARTIAL, _UNAUTHORIZED, _NOT_FOUND = 200, 206, 401, 404

#: Characters of a registry's own words that are passed on.
_MAX_TEXT: Final = 300

#: Registries, each with settings, whose tokens are remembered.
_KEPT: Final = 256


class RegistrySpec(Struct, frozen=True):
    """The settings of one registry."""

    host: str  #: `host[:port]`, in lower case
    access: Access = Access()
    auth_file: str | None = None  #: of logins, in the form of Docker's config.json
    token_server: str | None = None  #: `host[:port]` that may get the login, beside the registry's own
    mirrors: tuple[str, ...] = ()  #: URLs of servers with the same repositories, asked first


class Fetched(Struct, frozen=True):
    """A document of a registry."""

    url: str  #: where it is, for messages
    body: bytes
    digest: str
    document: ImageManifest | Index

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor that names the document."""
        return described_document(self.body, self.document)


class Endpoint:
    """One server that answers for repositories."""

    def __init__(self, url: str, access: Access, auth: Authenticator, source: str, fetch: Fetch) -> None:
        """`source` is the URL of what people named, for messages."""
        self.url = url
        self.access = access
        self.auth = auth
        self.source = source
        self._fetch = fetch
        self._near: Nearness | None = None  # of the farthest that answered for it

    @property
    def near(self) -> Nearness:
        """The server's nearness to this host, as far as is known."""
        return Nearness.PUBLIC if self._near is None else self._near

    async def get(
        self, path: str, scope: str, *, limits: DocumentLimits, headers: Sequence[tuple[str, str]] = ()
    ) -> Document:
        """GETs `path`, and authenticates where the server asks for that. Any status is returned.

        Raises `ClientError`, `APIError`, `ConfigError`.
        """
        sent = await self.auth.fresh(scope)
        document = await self._ask(path, sent, limits, headers)
        if document.status == _UNAUTHORIZED and await self.answered(document, scope, sent):
            document = await self._ask(path, self.auth.headers(scope), limits, headers)
        return document

    async def answered(self, refused: Document, scope: str, sent: Headers) -> bool:
        """True if there are other credentials to send than those that were refused."""
        challenge = refused.headers.get("www-authenticate", "")
        return await self.auth.answer(scope, challenge, sent, near=self.near)

    def location(self, path: str, granted: Headers = ()) -> Location:
        """Something on the server, with what was granted."""
        access = self.access
        if granted:
            access = dataclasses.replace(access, headers=(*access.headers, *granted))
        return Location(f"{self.url}{path}", self.source, access)

    async def _ask(
        self, path: str, granted: Headers, limits: DocumentLimits, headers: Sequence[tuple[str, str]]
    ) -> Document:
        location = self.location(path, granted)
        document = await self._fetch(location, limits=limits, headers=(_USER_AGENT, *headers))
        self.heard(document)
        return document

    def heard(self, answer: Document) -> None:
        """Notes how near the server is that answered."""
        self._near = answer.near if self._near is None else min(self._near, answer.near)


class _Renewed:
    """The `Authorization` of requests for blobs, which go on for longer than a token is good."""

    def __init__(self, endpoint: Endpoint, scope: str) -> None:
        self._endpoint = endpoint
        self._scope = scope

    def headers(self) -> Headers:
        return self._endpoint.auth.headers(self._scope)

    def renew(self, challenge: str, sent: Headers, near: Nearness) -> bool:
        return trio.from_thread.run(self._renew, challenge, sent, near)

    async def _renew(self, challenge: str, sent: Headers, near: Nearness) -> bool:
        return await self._endpoint.auth.answer(self._scope, challenge, sent, near=near)


class Repository:
    """One repository. Raises `ClientError`, `APIError`, `ConfigError`; every call has a time limit.

    A `BadContentError` is of what was asked for, and not of the registry.
    """

    def __init__(self, path: str, endpoints: Sequence[Endpoint]) -> None:
        """The last of the endpoints is the registry itself; the others are its mirrors, asked first."""
        self.path = path
        self.endpoints = tuple(endpoints)

    @property
    def own(self) -> Endpoint:
        """The registry itself."""
        return self.endpoints[-1]

    @property
    def url(self) -> str:
        """The repository's URL, for messages."""
        return f"{self.own.url}/{self.path}"

    async def ping(self) -> None:
        """Returns if the registry is one, and lets us read the repository."""
        scope = scope_of(self.path)
        document = await self.own.get("/v2/", scope, limits=DOCUMENT)
        if document.status != _OK:
            raise refusal(f"{self.own.url}/v2/", document)

    async def document(self, wanted: str, *, limits: DocumentLimits = DOCUMENT) -> Fetched | None:
        """The manifest or index with this tag or digest, which is checked; None where there is none."""
        if not is_digest(wanted) and not is_tag(wanted):
            raise ClientError(f"{shown(self.url)}: neither a tag nor a digest", hint="see what was asked for")
        path = f"/v2/{self.path}/manifests/{quote(wanted, safe=':')}"

        def read(endpoint: Endpoint, answer: Document) -> Fetched:
            url = f"{endpoint.url}{path}"
            digest = wanted if is_digest(wanted) else digest_of(answer.body)
            if not matches(answer.body, digest):
                raise BadContentError(
                    f"{shown(url)}: the answer is not what the digest says",
                    hint="it was changed, or damaged on the way; tell the operator of the registry",
                )
            found = read_document(url, answer.body, answer.headers.get("content-type", ""))
            return Fetched(url, answer.body, digest, found)

        return await self._first(path, read, limits, (("Accept", ACCEPT),))

    async def blob(self, wanted: Descriptor, *, limits: DocumentLimits = DOCUMENT) -> bytes:
        """A small blob, which is checked."""
        path = self.blob_path(wanted.digest)
        if wanted.size > limits.max_bytes:
            raise BadContentError(f"{shown(self.url)}: a document has {wanted.size} bytes, which is too many")

        def read(endpoint: Endpoint, answer: Document) -> bytes:
            if not wanted.is_of(answer.body):
                raise BadContentError(
                    f"{shown(endpoint.url + path)}: the answer is not what the digest says",
                    hint="it was changed, or damaged on the way; tell the operator of the registry",
                )
            return answer.body

        body = await self._first(path, read, limits, ())
        if body is None:
            raise BadContentError(
                f"{shown(self.own.url + path)}: the blob is not there (404)",
                hint="the image is damaged on the registry; push it again",
                data={"status": _NOT_FOUND},
            )
        return body

    async def head(self, wanted: Descriptor, size: int) -> bytes:
        """The first bytes of a blob, unchecked; none where a server does not give a part of it."""
        path = self.blob_path(wanted.digest)
        last = min(size, wanted.size) - 1
        if last < 0:
            return b""

        def read(endpoint: Endpoint, answer: Document) -> bytes:
            return answer.body

        limits = DocumentLimits(max_bytes=size, total_seconds=30.0, tries=2)
        asked = (("Range", f"bytes=0-{last}"), ("Accept-Encoding", "identity"))
        try:
            return await self._first(path, read, limits, asked) or b""
        except ClientError:
            return b""

    async def tags(self, *, seconds: float = _TAGS_SECONDS) -> list[str]:
        """All tags of the repository, which come within `seconds`; none where there is no such repository."""
        with trio.move_on_after(seconds):
            return await self._tags()
        raise APIError(
            f"{shown(self.url)}: the tags of the repository did not all come within {seconds:.0f} seconds",
            hint="tell the operator of the registry, or use another one",
        )

    async def _tags(self) -> list[str]:
        tags: dict[str, None] = {}
        last = ""
        while True:
            query = [("n", str(_PAGE)), *([("last", last)] if last else [])]
            path = f"/v2/{self.path}/tags/list"
            document = await self.own.get(f"{path}?{urlencode(query)}", scope_of(self.path), limits=_TAGS)
            if document.status == _NOT_FOUND:
                return [*tags]
            if document.status != _OK:
                raise refusal(self.own.url + path, document)
            page = await lanes.in_thread(_tags, self.own.url + path, document.body)
            before = len(tags)
            tags.update(dict.fromkeys(page))
            # A registry without pages gives all tags at once, whatever it is asked for.
            if len(tags) == before or "link" not in document.headers or len(tags) > _MAX_TAGS:
                return [*tags]
            last = page[-1]

    async def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """The descriptors that refer to a manifest, of all servers: a mirror may lack some, or not answer."""
        found: dict[str, Descriptor] = {}
        for endpoint in self.endpoints:
            try:
                listed = await self._referrers(endpoint, digest, artifact_type)
            except (ClientError, APIError) as error:
                if endpoint is self.own and not found:
                    raise
                log.warning("a registry or its mirror failed", server=endpoint.url, error=error.message)
            else:
                found.update((each.digest, each) for each in listed)
        return [*found.values()]

    async def _referrers(
        self, endpoint: Endpoint, digest: str, artifact_type: str | None
    ) -> Sequence[Descriptor]:
        """By the server's API, else by the tag in its place."""
        query = "" if artifact_type is None else "?" + urlencode({"artifactType": artifact_type})
        path = f"/v2/{self.path}/referrers/{digest}"
        scope = scope_of(self.path)
        answer = await endpoint.get(path + query, scope, limits=DOCUMENT, headers=(("Accept", ACCEPT),))
        found: ImageManifest | Index | None = None
        if answer.status == _OK:
            url = endpoint.url + path
            found = read_document(url, answer.body, answer.headers.get("content-type", ""))
        elif answer.status == _NOT_FOUND:
            listed = await Repository(self.path, [endpoint]).document(referrers_tag(digest))
            found = None if listed is None else listed.document
        else:
            raise refusal(endpoint.url + path, answer)
        if not isinstance(found, Index):
            return []
        return [each for each in found.manifests if artifact_type in (None, each.artifact_type)]

    def blob_path(self, digest: str) -> str:
        """The path of a blob on each of the servers."""
        assert is_digest(digest)
        return f"/v2/{self.path}/blobs/{digest}"

    def locations(
        self, blobs: Sequence[Descriptor], *, verify: Verify, url: str | None = None
    ) -> tuple[Location, ...]:
        """The places of the file that the blobs form, one after another; `transfer` downloads it.

        One location for each server that has them. `url` names the file in messages, where it is several
        blobs. Each location asks for tokens by itself, and asks anew when they expire. Raises
        `BadContentError` for a blob that could not be checked.
        """
        for blob in blobs:
            if not blob.digest.startswith(_SHA256):
                raise BadContentError(
                    f"{shown(self.url)}: the digest of a layer is no SHA-256, so that it cannot be checked",
                    hint="push the image again, with a program that writes SHA-256",
                )
        found = []
        for endpoint in self.endpoints:
            parts = tuple(
                Part(endpoint.url + self.blob_path(blob.digest), blob.size, blob.digest.removeprefix(_SHA256))
                for blob in blobs
            )
            base = parts[0].url if len(parts) == 1 else endpoint.url + (url or f"/v2/{self.path}")
            found.append(
                Location(
                    base,
                    endpoint.source,
                    endpoint.access,
                    verify,
                    authorization=_Renewed(endpoint, scope_of(self.path)),
                    parts=parts,
                    blobs=f"{endpoint.url}/v2/{self.path}/blobs/",
                )
            )
        return tuple(found)

    async def _first(
        self,
        path: str,
        read: Callable[[Endpoint, Document], _T],
        limits: DocumentLimits,
        headers: Sequence[tuple[str, str]],
    ) -> _T | None:
        """The result of `read` for the first good answer; None if the registry itself has nothing there."""
        for endpoint in self.endpoints:
            try:
                answer = await endpoint.get(path, scope_of(self.path), limits=limits, headers=headers)
                if answer.status in (_OK, _PARTIAL):
                    if len(answer.body) <= _SMALL:
                        return read(endpoint, answer)
                    return await lanes.in_thread(read, endpoint, answer)
                if answer.status == _NOT_FOUND:
                    if endpoint is self.own:
                        return None
                    continue
                raise refusal(endpoint.url + path, answer)
            except (ClientError, APIError) as error:
                if endpoint is self.own:
                    raise
                log.warning("a mirror of a registry failed", mirror=endpoint.url, error=error.message)
        raise AssertionError("the last endpoint answers or raises")


class Registries:
    """The registries of the settings, and others as they are named. Used from trio's thread."""

    def __init__(self, specs: Iterable[RegistrySpec] = (), *, fetch: Fetch = fetch_document) -> None:
        self._fetch = fetch
        self._specs: dict[str, RegistrySpec] = {}
        self._endpoints: dict[tuple[str, Access, RegistrySpec | None, str], Endpoint] = {}
        self.configure(specs)

    def configure(self, specs: Iterable[RegistrySpec]) -> None:
        """Takes the settings in place of those before."""
        self._specs = {spec.host: spec for spec in specs}
        self._endpoints.clear()

    def spec_of(self, url: str) -> RegistrySpec | None:
        """The settings of the registry at `url`."""
        return self._specs.get(origin_of(url).authority)

    def repository(
        self, url: str, path: str, *, access: Access | None = None, source: str | None = None
    ) -> Repository:
        """A repository of the registry at `url`, `http[s]://HOST`.

        `access` are settings that win over those of the registry; `source` is the URL that people know.
        Raises `ClientError`.
        """
        check_path(path)
        check_plain(origin_of(url))
        spec = self.spec_of(url)
        named = source or f"{url}/{path}"
        mirrors = () if spec is None else spec.mirrors
        endpoints = [self._endpoint(mirror, Access(), named) for mirror in mirrors]
        return Repository(path, [*endpoints, self._endpoint(url, access or Access(), named)])

    def of_host(self, host: str, path: str) -> Repository:
        """A repository of the registry that a reference calls `host`. Raises `ClientError`."""
        return self.repository(api_url(host), path)

    def _endpoint(self, url: str, access: Access, source: str) -> Endpoint:
        spec = self.spec_of(url)
        key = (url, access, spec, source)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            merged = access if spec is None else _merged(access, spec.access)
            auth = Authenticator(
                url,
                merged,
                fetch=self._fetch,
                auth_file=None if spec is None else spec.auth_file,
                token_server=None if spec is None else spec.token_server,
            )
            endpoint = self._endpoints[key] = Endpoint(url, merged, auth, source, self._fetch)
            while len(self._endpoints) > _KEPT:
                del self._endpoints[next(iter(self._endpoints))]
        return endpoint


def refusal(url: str, answer: Document) -> APIError:
    """The error for an answer that is not what was asked for, in the registry's own words if it has some."""
    said = _own_words(answer.body)
    status = f"the registry answers with status {answer.status}"
    hint = status if said else ""
    if answer.status in (401, 403):
        hint = f"{status}: it may need a login: `auth_file` of the registry"
    return APIError(f"{shown(url)}: {said or status}", hint=hint, data={"status": answer.status})


class _Fault(Struct):
    code: str = ""
    message: str = ""


class _Faults(Struct):
    errors: list[_Fault] = []


class _Tags(Struct):
    tags: list[str] | None = None


def _own_words(body: bytes) -> str:
    """The distribution specification's form is {errors: [{code, message}]}; else a few plain words."""
    try:
        faults = decoded(body[:MAX_DOCUMENT], _Faults).errors
        text = "; ".join(f"{fault.message} ({fault.code})" for fault in faults[:3])
    except msgspec.MsgspecError:
        text = body[:_MAX_TEXT].decode(errors="replace").strip()
        if text.startswith("<") or "\n" in text:
            return ""
    return redacted(printable(text[:_MAX_TEXT]))


def _tags(url: str, body: bytes) -> list[str]:
    """The tags of one page. Raises `APIError`."""
    try:
        return [tag for tag in decoded(body, _Tags).tags or () if is_tag(tag)]
    except msgspec.MsgspecError as error:
        raise APIError(
            f"{shown(url)}: not a list of tags", hint="see that the address is a registry's"
        ) from error


def _merged(access: Access, below: Access) -> Access:
    """The access, and of the one below what it does not say."""
    default = Access()
    said = {
        field.name: getattr(access, field.name)
        for field in dataclasses.fields(access)
        if getattr(access, field.name) != getattr(default, field.name)
    }
    return dataclasses.replace(below, **said)
