"""What is secret in settings and URLs, and what only looks so."""

from __future__ import annotations

import base64

import pytest

from imgstored.http.credentials import of_environment, of_headers, of_link, of_proxy, of_source

BASIC = base64.b64encode(b"me:passw0rd").decode()


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        (
            "Authorization",
            f"Basic {BASIC}",
            {f"Basic {BASIC}", BASIC, BASIC.rstrip("="), "me:passw0rd", "passw0rd"},
        ),
        ("Authorization", "Bearer abcdef", {"Bearer abcdef", "abcdef"}),
        ("Authorization", "Basic not-base64", {"Basic not-base64", "not-base64"}),
        ("X-Api-Key", "k3y1", {"k3y1"}),
        ("X-Tenant", "k3y1", set()),
        ("X-Tenant", "production", {"production"}),
        ("Cookie", "id=abcdef; b=c", {"id=abcdef; b=c", "abcdef"}),
        ("Accept-Version", "1.2.3.4.5", set()),
        ("user-agent", "imgadm/3.0.0", set()),
    ],
)
def test_of_a_header(name, value, secrets):
    assert of_headers({name: value}) == secrets


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://h/a?channel=dev&account=930896af-bf8c-48d4-885c-6573a94b1853", set()),
        ("https://h/a?channel=dev&x=abcdef&y=abc", {"abcdef"}),
        ("https://h/a?token=abcd", {"abcd"}),
        ("https://h/a?token=a%2Fb%20c+d", {"a%2Fb%20c+d", "a/b c d"}),
        ("https://h", set()),
        ("https://me:a%2Fbcd@h", {"me:a%2Fbcd", "a%2Fbcd", "me:a/bcd", "a/bcd"}),
        ("https://[h?token=abcdef", set()),
    ],
)
def test_of_a_sources_url(url, secrets):
    pairs = {
        base64.b64encode(each.encode()).decode().rstrip("=") for each in secrets if each.startswith("me:")
    }
    assert of_source(url) == secrets | pairs


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        (
            "https://h/f?X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600&X-Amz-Signature=0a1b2c",
            {"20260101T000000Z", "0a1b2c"},
        ),
        ("https://h/f?filename=base-64-lts.zfs.gz&response-content-type=application/octet-stream", set()),
        ("https://h/f?sha1=" + "a1" * 20 + "&id=11111111-aaaa-4bbb-8ccc-000000000001", set()),
        ("https://h/f?st=abcdefghijklmnop0123&e=1", {"abcdefghijklmnop0123"}),
    ],
)
def test_of_a_url_that_a_server_made_up(url, secrets):
    assert of_link(url) == secrets


def test_of_proxies():
    assert "pa:ss" in of_proxy("me:pa%3Ass@h:1")
    assert base64.b64encode(b"me:pa:ss").decode().rstrip("=") in of_proxy("socks5://me:pa%3Ass@h:1")
    assert of_proxy("http://h:1") == of_proxy("h:1") == set()
    assert "passw0rd" in of_environment({"HTTPS_PROXY": " http://me:passw0rd@h ", "PATH": "/x:y@z"})
    assert of_environment({"PATH": "a:passw0rd@h"}) == set()


def test_half_a_character_in_a_login():
    assert "p\udcffss" in of_environment({"http_proxy": "http://u:p\udcffss@p:1"})
    assert "p\ud800ss" in of_source("http://u:p\ud800ss@h/")
