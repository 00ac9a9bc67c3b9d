from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.config import loading, specs
from imgstored.errors import ConfigError
from imgstored.httpd.address import TcpAddress, UnixAddress, counted_as
from imgstored.httpd.address import parse_listen as parse


def parse_listen(text):
    return parse(text, key="metrics.listen", example="127.0.0.1:9275")


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unix", "unix"),
        ("a:b", "a:b"),
    ],
)
def test_whom_an_address_counts_as(client, counted):
    assert counted_as(client) == counted


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9275", TcpAddress("127.0.0.1", 9275)),
        ("127.8.9.1:1", TcpAddress("127.8.9.1", 1)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("unix:/run/imgstored/metrics.sock", UnixAddress(Path("/run/imgstored/metrics.sock"))),
    ],
)
def test_an_address(text, address):
    assert parse_listen(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["0.0.0.0:9275", "192.0.2.1:9275", "[::]:9275", "[2001:db8::1]:9275"])
def test_what_others_can_reach_is_only_taken_if_that_is_said(text):
    with pytest.raises(ConfigError, match="other hosts can reach") as refused:
        specs.metrics_address(loading.parse(f'[metrics]\nlisten = "{text}"'))
    assert "remote = true" in refused.value.hint
    settings = loading.parse(f'[metrics]\nlisten = "{text}"\nremote = true')
    assert str(specs.metrics_address(settings)) == text


@pytest.mark.parametrize(
    "text",
    ["", "9275", ":9275", "localhost:9275", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x",
     "127.0.0.1:9275/metrics", "::1:9275", "999.0.0.1:80", "[127.0.0.1:80", "unix:", "unix:relative",
     "unix:/a\0b", "http://127.0.0.1:9275", "127.0.0.1:٩٢"],
)  # fmt: skip
def test_what_is_none_is_refused_by_its_key(text):
    with pytest.raises(ConfigError, match=r"^metrics\.listen: ") as refused:
        parse_listen(text)
    assert "127.0.0.1:9275" in refused.value.hint


@given(st.text())
def test_any_text_is_an_address_or_refused(text):
    try:
        address = parse_listen(text)
    except ConfigError:
        return
    assert parse_listen(str(address)) == address


def test_a_wrong_one_is_found_without_a_start():
    with pytest.raises(ConfigError, match=r"metrics\.listen"):
        specs.check(loading.parse('[metrics]\nlisten = "0.0.0.0:80"'))
    specs.check(loading.parse('[metrics]\nlisten = "0.0.0.0:80"\nremote = true'))


def test_there_are_none_unless_they_are_wanted():
    assert specs.metrics_address(loading.parse("")) is None
