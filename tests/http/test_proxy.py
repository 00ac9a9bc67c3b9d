from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import ClientError
from imgstored.http.location import Access, Location
from imgstored.http.proxy import Proxy, parse_proxy, proxy_for
from imgstored.http.secrets import redacted

PROXY = Proxy("p", 8080)


def location(url: str, proxy: str | None = None) -> Location:
    return Location(url, "", Access(proxy=proxy))


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://h/", {}, None),
        ("http://h/", {"http_proxy": "http://p:8080"}, PROXY),
        ("https://h/", {"http_proxy": "http://p:8080"}, None),
        ("https://h/", {"HTTPS_PROXY": "p:8080"}, PROXY),
        ("https://h/", {"all_proxy": "p:8080"}, PROXY),
        ("https://h/", {"https_proxy": "p:8080", "HTTPS_PROXY": "other:1"}, PROXY),
        ("https://h/", {"https_proxy": "p"}, Proxy("p", 1080)),
        ("https://h/", {"https_proxy": ""}, None),
    ],
)
def test_the_environment_names_the_proxy(url, environ, proxy):
    assert proxy_for(location(url), environ) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("*", "h.example", True),
        ("example", "h.example", True),
        (".example", "h.example", True),
        ("*.example", "h.example", True),
        ("ample", "h.example", False),
        ("h.example:80", "h.example", True),
        ("h.example:81", "h.example", False),
        ("other, H.Example", "h.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("::1", "[::1]", True),
        ("[::1]:80", "[::1]", True),
        ("localhost", "127.0.0.1", False),
        ("", "h.example", False),
    ],
)
def test_no_proxy_exempts_hosts(no_proxy, host, exempt):
    environ = {"http_proxy": "http://p:8080", "NO_PROXY": no_proxy}
    assert proxy_for(location(f"http://{host}/"), environ) == (None if exempt else PROXY)


def test_the_sources_own_proxy_wins():
    environ = {"http_proxy": "http://other:1", "no_proxy": "*"}
    assert proxy_for(location("http://h/", "http://p:8080"), environ) == PROXY


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy(scheme):
    proxy = parse_proxy(f"{scheme}://user:p%40ss@p:9")
    assert (proxy.socks, proxy.login, proxy.authorization) == (True, ("user", "p@ss"), None)
    assert proxy.url == "socks5://p:9"
    assert "p@ss" not in repr(proxy)
    assert parse_proxy(f"{scheme}://p") == Proxy("p", 1080, socks=True)


@pytest.mark.parametrize("login", ["user:@", ":x@", "u" * 256 + ":x@"])
def test_a_login_that_socks_cannot_carry(login):
    with pytest.raises(ClientError, match="not usable"):
        parse_proxy(f"socks5://{login}p")


def test_credentials_become_a_header_and_stay_hidden():
    proxy = parse_proxy("http://user:p%40ss@p:8080")
    assert proxy.authorization == "Basic dXNlcjpwQHNz"  # user:p@ss
    assert proxy.url == "http://p:8080"
    assert "dXNl" not in repr(proxy)


@pytest.mark.parametrize(
    "setting",
    [
        "https://u:secret@p:1",
        "socks4://p:1",
        "socks5://:1",
        "http://",
        "http://p:x",
        "http://[::1",
        "http://a..b:1",
        f"http://{'a' * 64}:1",
        "http://\udcff:x@p:1",
        "socks5://u:\udcff@p:1",
    ],
)
def test_an_unusable_proxy_is_refused_without_its_password(setting):
    with pytest.raises(ClientError, match="not usable") as caught:
        parse_proxy(setting)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_environment_gives_a_proxy_or_none_or_a_client_error(proxy, no_proxy):
    try:
        chosen = proxy_for(location("http://h.example/"), {"http_proxy": proxy, "no_proxy": no_proxy})
    except ClientError:
        return
    assert chosen is None or 0 < chosen.port < 65536


@pytest.mark.parametrize("port", ["²", "٣", "9" * 5000])
def test_what_is_no_port_exempts_nothing_else(port):
    environ = {"http_proxy": "http://p:1", "no_proxy": f"other.example:{port}"}
    assert proxy_for(location("http://h.example/"), environ) is not None


def test_the_hint_of_an_unusable_proxy_can_be_read_where_secrets_are_hidden():
    with pytest.raises(ClientError) as caught:
        parse_proxy("ftp://p:1")
    assert redacted(caught.value.hint) == caught.value.hint
    assert "not a URL" not in caught.value.hint
