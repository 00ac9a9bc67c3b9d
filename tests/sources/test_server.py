from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import APIError
from imgstored.http.addresses import Nearness
from imgstored.http.documents import Document, DocumentLimits, fetch_document
from imgstored.http.location import Access, Location, origin_of
from imgstored.sources.base import SourceSpec
from imgstored.sources.server import AskLimits, Server
from tests.support.image_site import BASE

ACCESS = Access(ca_file="/ca.pem", proxy="http://proxy:3128", headers=(("Authorization", "secret"),))


def located(file: object, url: str = "https://images.example/base") -> Location | None:
    server = Server(SourceSpec(url, "static", access=ACCESS), fetch=fetch_document)
    return server.file_location({"files": [file]}, f"/{BASE}")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({}, f"https://images.example/base/{BASE}/file"),
        ({"path": "a b.zfs.gz"}, f"https://images.example/base/{BASE}/a%20b.zfs.gz"),
        ({"path": "%2e%2e"}, f"https://images.example/base/{BASE}/%252e%252e"),
        ({"path": "..x?y#z"}, f"https://images.example/base/{BASE}/..x%3Fy%23z"),
        ({"path": "x", "url": "https://elsewhere.example/y#z"}, "https://elsewhere.example/y"),
    ],
)
def test_where_a_file_is(file, expected):
    location = located(file)
    assert location is not None
    assert location.url == expected


@pytest.mark.parametrize(
    "file",
    [
        {"path": path}
        for path in ("", ".", "..", "a/b", "/etc/passwd", "../x", "a\\b", "a\nb", "\0", "x" * 256, 7, [])
    ]
    + [
        {"url": url}
        for url in (
            "",
            "file",
            "/file",
            "//elsewhere.example/x",
            "file:///etc/passwd",
            "ftp://h/x",
            "http://images.example/x",  # from https to http
            "https://user:pw@images.example/x",
            "https://images.example/a b",
            "https://images.example/a\r\nX: y",
            7,
            ["https://images.example/x"],
        )
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(file):
    with pytest.raises(APIError) as caught:
        located(file)
    assert caught.value.message.isprintable()
    assert "pw" not in caught.value.message


@given(st.dictionaries(st.sampled_from(["path", "url"]), st.text(max_size=20) | st.integers() | st.none()))
def test_whatever_a_path_is_it_stays_in_its_folder(file):
    try:
        location = located(file)
    except APIError:
        return
    assert location is not None
    if file.get("url") is None:
        parts = urlsplit(location.url)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == (
            "https",
            "images.example",
            "",
            "",
        )
        _, base, uuid, name = parts.path.split("/")
        assert (base, uuid) == ("base", BASE)
        assert unquote(name) == (file.get("path") or "file")
        assert name not in (".", "..")
    else:
        assert origin_of(location.url).tls


@pytest.mark.parametrize("files", [None, [], {}, "file", [None], ["file"], [[]]])
def test_no_file_is_no_location(files):
    server = Server(SourceSpec("http://h"), fetch=fetch_document)
    assert server.file_location({"files": files}, "/x") is None
    assert server.file_location({}, "/x") is None


@pytest.mark.parametrize(
    ("url", "at_home"),
    [
        ("https://images.example/elsewhere", True),
        ("https://images.example:443/x", True),
        ("https://images.example:8443/x", False),
        ("https://images.example.org/x", False),
        ("https://127.0.0.1/x", False),
    ],
)
def test_credentials_stay_at_home(url, at_home):
    location = located({"url": url})
    assert location is not None
    assert location.access == (ACCESS if at_home else Access(ca_file="/ca.pem", proxy="http://proxy:3128"))


@pytest.mark.parametrize(
    ("answers", "allowed", "limit"),
    [
        ([], False, Nearness.PUBLIC),
        ([Nearness.PUBLIC], False, Nearness.PUBLIC),
        ([Nearness.LOOPBACK], False, Nearness.LOOPBACK),
        ([Nearness.PRIVATE, Nearness.LOOPBACK], False, Nearness.PRIVATE),
        ([Nearness.LOOPBACK, Nearness.PUBLIC, Nearness.LOOPBACK], False, Nearness.PUBLIC),
        ([Nearness.PUBLIC], True, None),
    ],
)
async def test_a_files_url_leads_no_nearer_than_the_server_is(answers, allowed, limit):
    coming = iter(answers)

    async def fetch(location, *, limits, headers):
        assert location.limit is None, "its own URL is that of the settings"
        return Document(200, {}, b"", next(coming))

    spec = SourceSpec("http://images.example", "static", access=Access(internal_redirects=allowed))
    server = Server(spec, fetch=fetch)
    for _ in answers:
        await server.demand(server.url("/"), DocumentLimits())
    elsewhere = server.file_location({"files": [{"url": "http://127.0.0.1/x"}]}, f"/{BASE}")
    own = server.file_location({"files": [{"url": "http://images.example:80/x"}]}, f"/{BASE}")
    assert elsewhere is not None
    assert own is not None
    assert (elsewhere.limit, own.limit) == (limit, None)


def test_from_http_to_https_is_no_step_down():
    location = located({"url": "https://images.example/x"}, "http://images.example")
    assert location is not None
    assert location.access.headers == ()


async def test_an_answer_that_a_proxy_has_changed_is_one(start_faulty):
    server = start_faulty(lambda request, wire: wire.reply("203 Non-Authoritative Information", {}, b"[]"))
    asked = Server(SourceSpec(server.url, "static"), fetch=fetch_document)
    limits = AskLimits().listing
    assert await asked.demand(asked.url("/"), limits) == await asked.get(asked.url("/"), limits) == b"[]"
