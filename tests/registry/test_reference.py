from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import ClientError
from imgstored.http.location import origin_of
from imgstored.registry.reference import (
    api_url,
    digest_of,
    is_tag,
    matches,
    parse_reference,
    referrers_tag,
    repository_of,
    web_url,
)

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("library/alpine:3.20", "docker.io/library/alpine:3.20"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20"),
        ("user/thing", "docker.io/user/thing:latest"),
        ("ghcr.io/a/b/c:1", "ghcr.io/a/b/c:1"),
        ("GHCR.io/a:T", "ghcr.io/a:T"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("oci://registry/a:1", "oci://registry/a:1"),
        (f"alpine@{SHA}", f"docker.io/library/alpine@{SHA}"),
        (f"alpine:3@{SHA}", f"docker.io/library/alpine:3@{SHA}"),
    ],
)
def test_references_are_dockers(text, parsed):
    reference = parse_reference(text)
    assert str(reference) == parsed
    assert parse_reference(str(reference)) == reference
    assert reference.wanted == (SHA if "@" in text else parsed.rpartition(":")[2])


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "/", "a/", "/a", "A", "a:", "a:-x", "a:" + "x" * 129, "a@sha256:1", f"a@{SHA}a",
        "a@md5:1",
        "a//b", "a/../b", "..", "a b", "a\n", "a:1\n", "x.y/", "x.y/a?b", "http://x.y/a", "oci://", "oci:///a",
        "oci://u:p@x.y/a", "x.y:port/a", "a/" * 200 + "a", "a%2f..", "-a", "a-", "a._b",
    ],
)  # fmt: skip
def test_what_is_no_reference(text):
    with pytest.raises(ClientError):
        parse_reference(text)


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused(text):
    with suppress(ClientError):
        reference = parse_reference(text)
        assert parse_reference(str(reference)) == reference
        assert repository_of(f"{api_url(reference.host)}/{reference.path}", "x")[1] == reference.path


_part = st.sampled_from(["a", "b0", "a.b", "a-b", "a--b", "a_b", "a__b", "0"])
_references = st.builds(
    lambda host, path, tag, digest: f"{host}/{'/'.join(path)}{tag}{digest}",
    st.sampled_from(["docker.io", "localhost:5000", "a.example", "[::1]:1"]),
    st.lists(_part, min_size=1, max_size=4),
    st.sampled_from(["", ":1", ":A.b-c_d", ":_"]),
    st.sampled_from(["", f"@{SHA}"]),
)


@given(_references)
def test_a_reference_names_itself(text):
    reference = parse_reference(text)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("oci://r.example/a/b", "https://r.example/a/b"),
        ("oci://r.example:5000/a", "https://r.example:5000/a"),
        ("oci://127.0.0.1:5000/a", "http://127.0.0.1:5000/a"),
        ("oci://localhost:5000", "http://localhost:5000"),
        ("oci://[::1]:5000/a", "http://[::1]:5000/a"),
        ("oci://docker.io/user/a", "https://registry-1.docker.io/user/a"),
        ("https://127.0.0.1:5000/a", "https://127.0.0.1:5000/a"),
    ],
)
def test_a_registrys_url(text, url):
    assert web_url(text) == url


@pytest.mark.parametrize(
    "host", ["[:::]", "[:]", "[1:2:3:4:5:6:7:8:9]", "[fffff::]", "a..b", "a:99999", "x" * 64]
)
def test_what_is_no_host(host):
    """Python's urlsplit refuses some of them by itself, in some versions."""
    for text in (f"oci://{host}/a", f"oci://{host}"):
        with pytest.raises(ClientError):
            origin_of(web_url(text))


def test_plain_http_is_for_this_machine_alone():
    assert repository_of("http://127.0.0.1:5000/a/b/", "images") == ("http://127.0.0.1:5000", "a/b")
    assert repository_of("https://r.example", "images") == ("https://r.example", "images")
    for url in ("http://r.example/a", "http://10.0.0.1/a", "http://127.0.0.1.example/a"):
        with pytest.raises(ClientError, match="not spoken to without TLS"):
            repository_of(url, "images")


def test_digests():
    assert matches(b"x", digest_of(b"x"))
    assert not matches(b"y", digest_of(b"x"))
    assert not matches(b"x", "md5:9dd4e461268c8034f5c8564e155c67a6")
    assert is_tag(referrers_tag(SHA))
    assert referrers_tag(SHA) == "sha256-" + "a" * 64
