"""Who may publish: real keys, and headers that are not what they should be."""

from __future__ import annotations

import base64
import os
import time
from email.utils import formatdate

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import ConfigError
from imgstored.serve.writers import _FIELD, Writers, read_key

NOW = 1_800_000_000.0
TOKEN = "0123456789abcdef0123"
DATE = formatdate(NOW, usegmt=True)


def basic(text):
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def signed(name="ops", algorithm="rsa-sha256", date=DATE, text=None):
    data = (f"date: {date}" if text is None else text).encode()
    signature = {
        "rsa-sha256": lambda: RSA.sign(data, padding.PKCS1v15(), hashes.SHA256()),
        "rsa-sha512": lambda: RSA.sign(data, padding.PKCS1v15(), hashes.SHA512()),
        "ecdsa-sha256": lambda: EC.sign(data, ec.ECDSA(hashes.SHA256())),
        "ed25519": lambda: ED.sign(data),
    }[algorithm]()
    encoded = base64.b64encode(signature).decode()
    value = f'Signature keyId="/{name}/keys/{name}",algorithm="{algorithm}",signature="{encoded}"'
    return {"authorization": value, "date": date}


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    keys = {}
    for name, key, form in (("ops", RSA, "PEM"), ("ec", EC, "PEM"), ("ed", ED, "SSH")):
        path = folder / name
        encoding, kind = {
            "PEM": (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "SSH": (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        }[form]
        path.write_bytes(key.public_key().public_bytes(encoding, kind))
        keys[name] = read_key(name, path)
    return Writers({"ci": TOKEN, "other": TOKEN[::-1]}, keys, now=lambda: NOW)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, "ci"),
        ({"authorization": f"bearer {TOKEN}"}, "ci"),
        ({"authorization": f"Bearer {TOKEN[::-1]}"}, "other"),
        (basic(f"anybody:{TOKEN}"), "ci"),
        (signed(), "ops"),
        (signed(algorithm="rsa-sha512"), "ops"),
        (signed("ec", "ecdsa-sha256"), "ec"),
        (signed("ed", "ed25519"), "ed"),
        (signed(date=formatdate(NOW - 290, usegmt=True)), "ops"),
        ({}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": f"Bearer {TOKEN}x"}, None),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, None),
        ({"authorization": "Bearer é"}, None),
        (basic(TOKEN), None),
        (basic(":"), None),
        ({"authorization": "Basic ???"}, None),
        ({"authorization": TOKEN}, None),
        (signed("nobody"), None),
        (signed("ec"), None),  # another one's key
        (signed(date=formatdate(NOW - 310, usegmt=True)), None),  # replayed later
        (signed(date=formatdate(NOW + 310, usegmt=True)), None),
        (signed(text="date: yesterday"), None),
        (signed() | {"date": formatdate(NOW + 1, usegmt=True)}, None),
        (signed(date="yesterday"), None),
        (signed() | {"authorization": signed()["authorization"].replace("rsa-sha256", "none")}, None),
        ({"authorization": 'Signature keyId="ops",signature="?"', "date": DATE}, None),
    ],
)
def test_who_it_is(writers, headers, name):
    assert writers.name(headers) == name


@given(st.text(max_size=200), st.text(max_size=50), st.sampled_from(["Bearer ", "Basic ", "Signature ", ""]))
def test_any_header_is_nobody(value, date, scheme):
    writers = Writers({"ci": TOKEN}, {}, now=lambda: NOW)
    assert writers.name({"authorization": scheme + value, "date": date}) is None


def test_a_key_that_is_none_is_named(tmp_path):
    path = tmp_path / "key"
    for data in (None, b"", b"nonsense", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"serve\.keys\.ops: .*key cannot be used"):
            read_key("ops", path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"serve\.keys\.ops: .*key cannot be used"):
        read_key("ops", path)


@pytest.mark.alone
@pytest.mark.parametrize("text", ["a", 'a="', "keyId=", 'a="b",', "é", '"'])
def test_a_long_header_costs_no_more_than_its_length(text):
    """Anybody can send one; one that takes seconds would hold up the whole daemon."""
    began = time.monotonic()
    _FIELD.findall(text * 200_000)
    assert time.monotonic() - began < 10
