from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import ClientError, ConfigError, UsageError
from imgstored.http.location import origin_of
from imgstored.sources.base import SourceSpec
from imgstored.sources.spec import (
    changes,
    channel_of,
    each_once,
    identity,
    normalised,
    others,
    spec_of,
    verify_for,
    with_query,
    without_query,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://images.smartos.org", "https://images.smartos.org"),
        ("https://images.smartos.org/", "https://images.smartos.org"),
        ("https://images.smartos.org:443/", "https://images.smartos.org"),
        ("http://h:80", "http://h"),
        ("http://h:443", "http://h:443"),
        ("https://h:80/", "https://h:80"),
        ("images.example.com", "http://images.example.com"),
        ("localhost:8080/datasets/", "http://localhost:8080/datasets"),
        ("h?x=http://y", "http://h?x=http://y"),
        ("http://h:80/?channel=dev", "http://h?channel=dev"),
        ("http://h/a/b//?channel=dev", "http://h/a/b?channel=dev"),
        ("HTTPS://Images.Example.COM/A/", "https://images.example.com/A"),
        ("http://[::1]:80/", "http://[::1]"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_normal_form(url, expected):
    assert normalised(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "ftp://h",
        "file:///etc/passwd",
        "http://user:secret@h/",
        "user:secret@h",
        "http://h:0",
        "http://h:x",
        "http://h/#f",
        "http://h/ x",
        "http://h/\n",
        "http://h\t",
        "http://hö",
        "http://h" + "x" * 9000,
        "http://[::1",
    ],
)
def test_what_is_no_url_of_a_web_server_is_refused(url):
    with pytest.raises(ClientError) as caught:
        normalised(url)
    assert "secret" not in str(caught.value)


_TEXT = st.text("abcXYZ019:/?#[]@!$&'()*+,;=.-_~% \t\n\x00ü", max_size=40)
_URLS = st.one_of(
    _TEXT,
    st.builds(
        "{}://{}{}/{}".format,
        st.sampled_from(["http", "https", "HTTP"]),
        st.sampled_from(["h", "Images.Example", "[::1]", "127.0.0.1"]),
        st.sampled_from(["", ":80", ":443", ":8080"]),
        _TEXT,
    ),
)


@given(_URLS)
def test_a_normal_form_stays_and_keeps_the_server(url):
    try:
        once = normalised(url)
    except ClientError:
        return
    assert normalised(once) == once
    assert not once.partition("?")[0].endswith("/")
    if "://" in url.partition("?")[0]:
        assert origin_of(once) == origin_of(url)
    base, parameters = without_query(once)
    assert "?" not in base
    assert origin_of(with_query(base + "/images", parameters)) == origin_of(once)


@given(
    st.lists(
        st.tuples(st.text("ab&=?#% ü", min_size=1), st.text("ab&=?#% ü")).filter(lambda p: p[0] != "channel")
    )
)
def test_a_query_comes_back_as_it_was(parameters):
    url = with_query("http://h/x", [*parameters, ("channel", "c&d")])
    assert without_query(url) == ("http://h/x", parameters)
    assert channel_of(SourceSpec(url)) == "c&d"


def test_what_makes_a_source_the_same():
    spec = SourceSpec("http://h?channel=dev")
    same = [SourceSpec("http://h?channel=dev", channel="dev")]
    others = [
        SourceSpec("http://h"),
        SourceSpec("http://h", channel="dev"),
        SourceSpec("http://h?channel=dev", "static"),
        SourceSpec("http://h?channel=dev", insecure=True),
        SourceSpec("http://h?channel=dev", channel="x"),
    ]
    assert [identity(spec) == identity(other) for other in same + others] == [True] + [False] * 5


@pytest.mark.parametrize(
    ("source", "url", "insecure", "expected"),
    [
        ("https://h", "https://h/f", False, "streaming"),
        ("https://h", "https://other/f", False, "streaming"),
        ("https://h", "https://h/f", True, "first"),
        ("http://h", "http://h/f", False, "first"),
        ("http://h", "https://h/f", False, "first"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/f", False, "streaming"),
        ("http://127.9.9.9", "http://localhost/f", False, "streaming"),
        ("http://[::1]", "http://[::1]/f", False, "streaming"),
        ("http://127.0.0.1", "http://h/f", False, "first"),
        ("http://localhost.example", "http://localhost.example/f", False, "first"),
        ("http://128.0.0.1", "http://128.0.0.1/f", False, "first"),
    ],
)
def test_who_cannot_be_overheard_may_stream(source, url, insecure, expected):
    assert verify_for(SourceSpec(source, insecure=insecure), url) == expected
    for fixed in ("streaming", "first"):
        assert verify_for(SourceSpec(source, insecure=insecure, verify=fixed), url) == fixed


# -- what clients name, and a list that somebody edited ------------------------------------------------------

A, B, C = (SourceSpec(f"http://{name}") for name in "abc")


@pytest.mark.parametrize(
    ("now", "wanted", "reordered", "added", "deleted"),
    [
        ([A, B], [A, B], False, [], []),
        ([A, B], [B, A], True, [], []),
        ([A, B], [B], False, [], [A]),
        ([A], [B, A], False, [B], []),
        ([A, B], [C, B, A], True, [C], []),
        ([A, B], [], False, [], [A, B]),
        ([A], [SourceSpec("http://a", insecure=True)], False, [SourceSpec("http://a", insecure=True)], [A]),
    ],
)
def test_what_was_done(now, wanted, reordered, added, deleted):
    done = changes(now, wanted)
    assert (done.reordered, done.added, done.deleted) == (reordered, added, deleted)


def test_those_of_the_configuration_stay_there():
    assert others([B, A, C], [A]) == [B, C]
    with pytest.raises(ConfigError, match="is set in imgstored's configuration file"):
        others([B], [A])


def test_a_source_that_is_named_twice_is_one():
    assert each_once([A, B, A]) == [A, B]


def test_what_a_client_says_of_a_source():
    assert spec_of({"url": "a/"}) == A
    assert spec_of({"url": "http://a", "type": "dsapi", "insecure": True, "channel": None}) == SourceSpec(
        "http://a", "dsapi", insecure=True
    )
    assert spec_of({"url": "a", "channel": "dev"}) == SourceSpec("http://a", channel="dev")
    # As it is listed: the channel of a URL is said once more.
    assert spec_of({"url": "a?channel=dev", "channel": "dev"}) == SourceSpec("http://a?channel=dev")


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        ({}, UsageError),
        ({"url": 5}, UsageError),
        ({"url": "a", "type": 1}, UsageError),
        ({"url": "a", "channel": ["x"]}, UsageError),
        ({"url": "a", "type": "ftp"}, ConfigError),
        ({"url": "ftp://a"}, ClientError),
    ],
)
def test_what_is_no_source_is_refused(wire, error):
    with pytest.raises(error):
        spec_of(wire)
