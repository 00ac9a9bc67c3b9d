"""How the configuration's `[[registries]]` and sources of the type `oci` are understood."""

from __future__ import annotations

import pytest

from imgstored.config import loading, specs
from imgstored.errors import ConfigError


def registries(text: str):
    return specs.registry_specs(loading.parse(text))


def test_all_of_a_table():
    (spec,) = registries(
        '[[registries]]\nhost = "R.example:443"\nca_file = "/ca"\ncert_file = "/cert"\nkey_file = "/key"\n'
        'auth_file = "/auth"\ntoken_server = "T.example:443"\nproxy = "http://p:1"\ninsecure = true\n'
        'mirrors = ["https://m.example:5000/", "http://127.0.0.1:5000"]\ninternal_redirects = true\n'
    )
    access = spec.access
    assert (spec.host, spec.auth_file, spec.token_server) == ("r.example", "/auth", "t.example")
    assert spec.mirrors == ("https://m.example:5000", "http://127.0.0.1:5000")
    assert (access.ca_file, access.cert_file, access.key_file) == ("/ca", "/cert", "/key")
    assert (access.proxy, access.insecure, access.internal_redirects) == ("http://p:1", True, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('host = "https://r.example"', "no host"),
        ('host = ""', "no host"),
        ('host = "r.example"\nkey_file = "/k"', "key_file without cert_file"),
        ('host = "r.example"\nmirrors = ["http://m.example"]', "not spoken to without TLS"),
        ('host = "r.example"\nmirrors = ["https://m.example/path"]', "has a path"),
        ('host = "r.example"\nmirrors = ["https://u:p@m.example"]', "a user in a URL"),
        ('host = "r.example"\n[[registries]]\nhost = "R.example:443"', "has a table already"),
    ],
)
def test_tables_that_cannot_be(text, why):
    with pytest.raises(ConfigError, match=why) as caught:
        registries(f"[[registries]]\n{text}\n")
    assert caught.value.message.startswith("registries[")


@pytest.mark.parametrize(
    ("text", "url", "kind"),
    [
        ('url = "oci://r.example/a"', "https://r.example/a", "oci"),
        ('url = "oci://127.0.0.1:5000"', "http://127.0.0.1:5000", "oci"),
        ('url = "https://r.example/a"\ntype = "oci"', "https://r.example/a", "oci"),
        ('url = "https://r.example/a"', "https://r.example/a", "imgapi"),
    ],
)
def test_sources(text, url, kind):
    found = specs.source_specs(loading.parse(f"[[sources]]\n{text}\n"))
    assert found is not None
    assert [(each.url, each.type) for each in found] == [(url, kind)]


def test_a_source_by_plain_http_from_elsewhere_is_refused():
    text = '[[sources]]\nurl = "http://r.example/a"\ntype = "oci"\n'
    with pytest.raises(ConfigError, match=r"sources\[0\]: .*without TLS"):
        specs.source_specs(loading.parse(text))


def test_mirrors_of_registries_keep_their_type():
    (spec,) = specs.mirror_specs(loading.parse('[[mirror]]\nurl = "oci://r.example/a"\n'))
    assert spec.url == "oci://r.example/a"
