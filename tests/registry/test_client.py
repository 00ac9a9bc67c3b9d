from __future__ import annotations

import base64
import json
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trio

from imgstored.errors import APIError, ClientError, ConfigError
from imgstored.http.addresses import Nearness
from imgstored.http.documents import fetch_document
from imgstored.http.location import Access
from imgstored.http.ranges import RangeConnection, Timeouts
from imgstored.http.secrets import KNOWN
from imgstored.registry import client
from imgstored.registry.auth import Authenticator
from imgstored.registry.client import Registries, RegistrySpec, Repository
from imgstored.registry.documents import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    read_document,
)
from imgstored.registry.logins import login_in
from tests.support.docker_registry import PASSWORD, USER, DockerRegistry, auth_file

if TYPE_CHECKING:
    from imgstored.http.location import Location

BLOB = b"a small config"


def filled(registry: DockerRegistry, repository: str = "some/images") -> str:
    """Puts an image with the tag `one`; returns its digest."""
    config = {"mediaType": "application/x", **registry.blob(repository, BLOB)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [config]}
    return registry.manifest(repository, "one", document)


def repository(registry: DockerRegistry, path: str = "some/images", **settings: Any) -> Repository:
    spec = RegistrySpec(registry.host, **settings)
    return Registries([spec]).repository(registry.url, path)


async def read_all(images: Repository, digest: str) -> None:
    """Reads what `filled` put there, in all ways."""
    await images.ping()
    assert await images.tags() == ["one"]
    by_tag, by_digest = await images.document("one"), await images.document(digest)
    assert by_tag is not None
    assert by_digest is not None
    assert (by_tag.digest, by_tag.body) == (digest, by_digest.body)
    assert isinstance(by_tag.document, ImageManifest)
    assert await images.blob(by_tag.document.config) == BLOB
    assert await images.document("two") is None
    (location,) = images.locations(by_tag.document.layers, verify="first")
    assert await trio.to_thread.run_sync(fetched, location) == BLOB


def fetched(location: Location) -> bytes:
    connection = RangeConnection(location, timeouts=Timeouts(5, 5), environ={})
    got = bytearray()
    try:
        connection.get(0, None, None, lambda reply: got.extend)
    finally:
        connection.close()
    return bytes(got)


async def test_an_open_registry(start_registry):
    registry = start_registry()
    await read_all(repository(registry), filled(registry))


async def test_what_is_not_there(start_registry):
    images = repository(start_registry(), "nothing/here")
    await images.ping()
    assert await images.tags() == []
    assert await images.document("one") is None
    assert await images.referrers("sha256:" + "a" * 64) == []
    with pytest.raises(APIError, match="blob is not there"):
        await images.blob(Descriptor("x", "sha256:" + "a" * 64, 3))


async def test_a_login(start_registry, tmp_path):
    registry = start_registry(htpasswd=True)
    digest = filled(registry)
    with pytest.raises(APIError, match="authentication required") as caught:
        await repository(registry).ping()
    assert "auth_file" in caught.value.hint
    await read_all(repository(registry, auth_file=str(auth_file(tmp_path / "auth", registry.host))), digest)
    wrong = auth_file(tmp_path / "wrong", registry.host, password="incorrect horse")
    with pytest.raises(APIError, match="authentication required"):
        await repository(registry, auth_file=str(wrong)).ping()
    # It is hidden in whatever leaves the daemon from now on.
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    hidden = KNOWN.hidden(f"{PASSWORD} {encoded}")
    assert hidden.count("(hidden)") == 2
    assert PASSWORD not in hidden


async def test_an_authority_of_its_own_and_a_clients_certificate(start_registry):
    registry = start_registry(tls=True, clients=True)
    digest = filled(registry)
    with pytest.raises(ClientError, match="certificate is not trusted"):
        await repository(registry).ping()
    with pytest.raises(ClientError):
        await repository(registry, access=Access(ca_file=str(registry.ca_file))).ping()
    access = Access(
        ca_file=str(registry.ca_file),
        cert_file=str(registry.folder / "client.pem"),
        key_file=str(registry.folder / "client.key"),
    )
    await read_all(repository(registry, access=access), digest)


async def test_tokens(start_registry, start_tokens, tmp_path):
    tokens = start_tokens()
    registry = start_registry(tokens=tokens)
    digest = filled(registry)
    login = str(auth_file(tmp_path / "auth", registry.host))
    images = repository(registry, auth_file=login, token_server=urlsplit(tokens.url).netloc)
    await read_all(images, digest)
    # One token is enough for all of it, and the same registry's other repositories need their own.
    assert [asked.query for asked in tokens.requests] == [
        {"service": "registry.test", "scope": "repository:some/images:pull"}
    ]
    (granted,) = images.own.auth.headers("repository:some/images:pull")
    assert KNOWN.hidden(granted[1]) == "(hidden)"


async def test_a_token_without_a_login(start_registry, start_tokens):
    tokens = start_tokens(login=False)
    registry = start_registry(tokens=tokens)
    await read_all(repository(registry), filled(registry))
    assert {asked.authorization for asked in tokens.requests} == {""}
    tokens.login = True
    with pytest.raises(APIError, match="the token server refuses an anonymous request"):
        await repository(registry).ping()


async def test_a_refresh_token(start_registry, start_tokens, tmp_path):
    tokens = start_tokens()
    registry = start_registry(tokens=tokens)
    digest = filled(registry)
    path = tmp_path / "auth"
    path.write_text(json.dumps({"auths": {registry.host: {"identitytoken": "refresh-me"}}}))
    server = urlsplit(tokens.url).netloc
    await read_all(repository(registry, auth_file=str(path), token_server=server), digest)
    assert tokens.requests[0].form["grant_type"] == "refresh_token"


async def test_a_token_that_expires_is_got_anew(start_registry, start_tokens):
    tokens = start_tokens(login=False, seconds=0)
    registry = start_registry(tokens=tokens)
    filled(registry)
    images = repository(registry)
    clock = 0.0
    images.own.auth._clock = lambda: clock
    tokens.seconds = 120
    await images.ping()
    clock = 100.0
    await images.ping()
    assert len(tokens.requests) == 1
    clock = 111.0  # what is about to expire is not sent any more
    await images.ping()
    assert len(tokens.requests) == 2


def challenge(request: Any, wire: Any, realm: str) -> None:
    if request.headers.get("authorization") == "Bearer good":
        wire.reply("200 OK", {}, b"{}")
    else:
        wire.reply("401 Unauthorized", {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, b"{}")


def give_token(request: Any, wire: Any) -> None:
    wire.reply("200 OK", {}, b'{"token": "good"}')


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("named", [True, False])
async def test_the_login_goes_to_no_other_host_or_port_but_the_one_named(start_faulty, tmp_path, named, name):
    tokens = start_faulty(give_token)
    realm = tokens.url.replace("127.0.0.1", name) + "/token"
    registry = start_faulty(partial(challenge, realm=realm))
    host = registry.url.removeprefix("http://")
    spec = RegistrySpec(
        host,
        auth_file=str(auth_file(tmp_path / "auth", host)),
        token_server=urlsplit(realm).netloc if named else name,
    )
    await Registries([spec]).repository(registry.url, "a").ping()
    assert [("authorization" in asked.headers) for asked in tokens.requests] == [named]
    assert tokens.requests[0].target == "/token?service=s&scope=repository%3Aa%3Apull"


@pytest.mark.parametrize(
    ("realm", "why"),
    [
        ("", "not a URL"),
        ("ftp://x", "neither http nor https"),
        ("file:///etc/passwd", "neither http nor https"),
        ("http://tokens.example/", "not spoken to without TLS"),
        ("https://user:secret@tokens.example/", "a user in a URL"),
    ],
)
async def test_a_token_server_that_is_not_asked(start_faulty, realm, why):
    registry = start_faulty(partial(challenge, realm=realm))
    with pytest.raises(ClientError, match=why):
        await Registries().repository(registry.url, "a").ping()


@pytest.mark.parametrize("internal_redirects", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_registry_sends_nobody_to_a_token_server_that_is_nearer(host, internal_redirects):
    """The listener stands for a service that trusts whoever reaches it."""
    access = Access(internal_redirects=internal_redirects)
    auth = Authenticator("https://registry.example", access, fetch=fetch_document)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        asked = f'Bearer realm="https://{host}:{listener.getsockname()[1]}/token"'
        if not internal_redirects:
            with pytest.raises(ClientError, match=r"internal address"):
                await auth.answer("scope", asked, (), near=Nearness.PUBLIC)
            with pytest.raises(BlockingIOError):
                listener.accept()
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(auth.answer, "scope", asked, (), near=Nearness.PUBLIC))
                await trio.lowlevel.wait_readable(listener)
                listener.accept()[0].close()
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": 1}',
        b'{"token": "\xff"}',
        b'{"x":' + b"[" * 5000,
    ],
)
async def test_what_is_no_token(start_faulty, token):
    tokens = start_faulty(lambda request, wire: wire.reply("200 OK", {}, token))
    registry = start_faulty(partial(challenge, realm=tokens.url))
    with pytest.raises(APIError, match=r"token server"):
        await Registries().repository(registry.url, "a").ping()


async def test_a_401_for_ever_ends(start_faulty):
    tokens = start_faulty(lambda request, wire: wire.reply("200 OK", {}, b'{"token": "bad"}'))
    registry = start_faulty(partial(challenge, realm=tokens.url))
    with pytest.raises(APIError, match="401"):
        await Registries().repository(registry.url, "a").ping()
    assert (len(tokens.requests), len(registry.requests)) == (1, 2)


async def test_a_blob_goes_on_with_a_new_token(start_faulty):
    content = bytes(range(256)) * 100
    current = "first"

    def tokens(request: Any, wire: Any) -> None:
        wire.reply("200 OK", {}, json.dumps({"token": current}).encode())

    token_server = start_faulty(tokens)

    def answer(request: Any, wire: Any) -> None:
        if request.headers.get("authorization") != f"Bearer {current}":
            return wire.reply("401 X", {"WWW-Authenticate": f'Bearer realm="{token_server.url}"'}, b"no")
        return wire.part(content, request)

    registry = start_faulty(answer)
    layer = Descriptor("x", "sha256:" + "a" * 64, len(content))
    (location,) = Registries().repository(registry.url, "a").locations([layer], verify="first")

    def fetch() -> bytes:
        nonlocal current
        connection = RangeConnection(location, timeouts=Timeouts(5, 5), environ={})
        got = bytearray()
        for start in range(0, len(content), 6400):
            connection.get(start, start + 6400, None, lambda reply: got.extend)
            if start == 6400:
                current = "second"
        connection.close()
        return bytes(got)

    assert await trio.to_thread.run_sync(fetch) == content
    assert len(token_server.requests) == 2


async def test_a_changed_document_is_refused(start_faulty):
    registry = start_faulty(lambda request, wire: wire.reply("200 OK", {}, b'{"schemaVersion": 2}'))
    images = Registries().repository(registry.url, "a")
    with pytest.raises(APIError, match="not what the digest says"):
        await images.document("sha256:" + "a" * 64)
    with pytest.raises(APIError, match="not what the digest says"):
        await images.blob(Descriptor("x", "sha256:" + "a" * 64, 20))


async def test_a_mirror_is_asked_first_and_the_registry_where_it_fails(start_registry, start_faulty):
    mirror, registry = start_registry(), start_registry()
    digest = filled(mirror)
    images = repository(registry, mirrors=(mirror.url,))
    found = await images.document(digest)
    assert found is not None
    assert found.url.startswith(mirror.url)
    assert [
        location.url.partition("/v2")[0] for location in images.locations([found.descriptor], verify="first")
    ] == [
        mirror.url,
        registry.url,
    ]
    filled(registry)
    for broken in (
        start_faulty(lambda request, wire: wire.close()),
        start_faulty(lambda request, wire: wire.reply("403 Forbidden", {}, b"no")),
        start_faulty(lambda request, wire: wire.reply("404 Not Found", {}, b"no")),
        start_faulty(lambda request, wire: wire.reply("200 OK", {}, b"changed")),
    ):
        found = await repository(registry, mirrors=(broken.url,)).document(digest)
        assert found is not None
        assert found.url.startswith(registry.url)
        assert broken.requests
        assert "authorization" not in broken.requests[0].headers


async def test_tags_come_in_pages(start_faulty):
    pages = {"/v2/a/tags/list?n=1000": (["b", "a"], True), "/v2/a/tags/list?n=1000&last=a": (["c"], False)}

    def answer(request: Any, wire: Any) -> None:
        tags, more = pages[request.target]
        headers = {"Link": "</v2/a/tags/list?last=x>; rel=next"} if more else {}
        wire.reply("200 OK", headers, json.dumps({"name": "a", "tags": tags}).encode())

    registry = start_faulty(answer)
    assert await Registries().repository(registry.url, "a").tags() == ["b", "a", "c"]


async def test_a_registry_that_has_ever_more_tags_keeps_nobody_waiting(start_faulty):
    def answer(request: Any, wire: Any) -> None:
        body = json.dumps({"name": "a", "tags": [f"t{len(registry.requests)}"]}).encode()
        wire.reply("200 OK", {"Link": "</v2/a/tags/list?last=x>; rel=next"}, body)

    registry = start_faulty(answer)
    with pytest.raises(APIError, match="did not all come within 0 seconds"):
        await Registries().repository(registry.url, "a").tags(seconds=0.3)


@pytest.mark.parametrize(("count", "in_thread"), [(1, False), (2000, True)])
async def test_a_large_document_does_not_hold_up_the_event_loop(start_faulty, monkeypatch, count, in_thread):
    each = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "a" * 64, "size": 1}
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each] * count}).encode()
    threads = []

    def read(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return read_document(*arguments)

    monkeypatch.setattr(client, "read_document", read)
    images = Registries().repository(start_faulty(lambda _, wire: wire.reply("200 OK", {}, body)).url, "a")
    found = await images.document("one")
    assert found is not None
    assert isinstance(found.document, Index)
    assert len(found.document.manifests) == count
    assert [thread is not threading.current_thread() for thread in threads] == [in_thread]


@pytest.mark.parametrize("has_api", [True, False])
async def test_referrers_by_the_api_or_the_tag_that_stands_in_for_it(start_faulty, has_api):
    digest = "sha256:" + "a" * 64
    listed = [
        {"mediaType": OCI_MANIFEST, "digest": f"sha256:{each * 64}", "size": 1, "artifactType": f"a/{name}"}
        for each, name in (("c", "x"), ("d", "y"))
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
    place = f"/v2/a/referrers/{digest}" if has_api else f"/v2/a/manifests/{digest.replace(':', '-')}"

    def answer(request: Any, wire: Any) -> None:
        found = request.target.partition("?")[0] == place
        wire.reply(*(("200 OK", {}, index) if found else ("404 Not Found", {}, b"{}")))

    images = Registries().repository(start_faulty(answer).url, "a")
    assert [each.artifact_type for each in await images.referrers(digest)] == ["a/x", "a/y"]
    assert [each.artifact_type for each in await images.referrers(digest, "a/y")] == ["a/y"]
    assert await images.referrers("sha256:" + "b" * 64) == []


HOST = "r.example:5000"


@pytest.mark.parametrize(
    ("auths", "user"),
    [
        ({HOST: {"auth": base64.b64encode(b"u:p:q").decode()}}, "u"),
        ({f"https://{HOST}": {"username": "u", "password": "p:q"}}, "u"),
        ({f"https://{HOST}/v1/": {"username": "u", "password": "p:q"}}, "u"),
        ({HOST: {"username": "x"}, f"{HOST}/a/b": {"username": "u", "password": "p:q"}}, "u"),
        ({HOST: {"username": "x"}, f"{HOST}/a": {"username": "u", "password": "p:q"}}, "u"),
        ({f"{HOST}/other": {"username": "u", "password": "p:q"}}, None),
        ({"r.example": {"username": "u", "password": "p:q"}}, None),
        ({HOST: {}}, None),
    ],
)
def test_logins(auths, user):
    login = login_in(json.dumps({"auths": auths}).encode(), "file", HOST, "a/b")
    assert (None if login is None else (login.user, login.password)) == (
        None if user is None else (user, "p:q")
    )
    assert "p:q" not in repr(login)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"auths": []}',
        json.dumps({"auths": {HOST: "x"}}),
        json.dumps({"auths": {HOST: {"auth": "%"}}}),
        json.dumps({"auths": {HOST: {"auth": base64.b64encode(b"no colon").decode()}}}),
        json.dumps({"auths": {HOST: {"auth": 1}}}),
        json.dumps({"credsStore": "desktop"}),
        json.dumps({"credHelpers": {HOST: "x"}}),
    ],
)
def test_files_of_logins_that_cannot_be_used(content, tmp_path):
    (tmp_path / "auth").write_text(content)
    with pytest.raises(ConfigError, match=r"the logins in .*auth: the file"):
        login_in(content.encode(), str(tmp_path / "auth"), HOST, "a/b")


async def test_a_file_of_logins_that_is_not_there(start_registry, tmp_path):
    registry = start_registry(htpasswd=True)
    with pytest.raises(ConfigError, match="No such file"):
        await repository(registry, auth_file=str(tmp_path / "auth")).ping()


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        (b'{"errors": [{"message": "\xff"}]}', b'{"tags": ["\xff"]}'),
        (b'{"errors":' + b"[" * 5000,) * 2,
        (b"\xff",) * 2,
    ],
)
async def test_words_of_a_registry_that_are_none(start_faulty, words, tags):
    registry = start_faulty(lambda request, wire: wire.reply("500 x", {}, words))
    with pytest.raises(APIError, match=r"/v2/: "):
        await Registries().repository(registry.url, "a").ping()
    listing = start_faulty(lambda request, wire: wire.reply("200 OK", {}, tags))
    with pytest.raises(APIError, match="not a list of tags"):
        await Registries().repository(listing.url, "a").tags()
