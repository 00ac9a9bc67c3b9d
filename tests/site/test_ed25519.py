"""Ed25519 in Python alone: RFC 8032's vectors, and the package cryptography as the judge."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.site import ed25519
from tests.support.without import environment

#: RFC 8032, 7.1: secret key, public key, message, signature.
VECTORS = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
)
L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19


@pytest.mark.parametrize(("seed", "public", "message", "signature"), VECTORS)
def test_the_vectors_of_the_rfc(seed, public, message, signature):
    seed, public, message, signature = map(bytes.fromhex, (seed, public, message, signature))
    for make, sign, verifies in (
        (ed25519.pure_public_key, ed25519.pure_sign, ed25519.pure_verifies),
        (ed25519.public_key, ed25519.sign, ed25519.verifies),
    ):
        assert make(seed) == public
        assert sign(seed, message) == signature
        assert verifies(public, signature, message)
        assert not verifies(public, signature, message + b"x")


@settings(max_examples=20, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200), bit=st.integers(0, 511))
def test_both_say_the_same(seed, message, bit):
    public, signature = ed25519.public_key(seed), ed25519.sign(seed, message)
    assert ed25519.pure_public_key(seed) == public
    assert ed25519.pure_sign(seed, message) == signature
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    for verifies in (ed25519.verifies, ed25519.pure_verifies):
        assert verifies(public, signature, message)
        assert not verifies(public, bytes(flipped), message)


@settings(max_examples=20, deadline=None)
@given(public=st.binary(min_size=32, max_size=32), signature=st.binary(min_size=64, max_size=64))
def test_both_refuse_what_is_nothing(public, signature):
    assert not ed25519.pure_verifies(public, signature, b"")
    assert not ed25519.verifies(public, signature, b"")


@pytest.mark.parametrize("verifies", [ed25519.verifies, ed25519.pure_verifies])
def test_one_signature_has_one_form(verifies):
    """S + L is the same number in the group (RFC 8032, 8.4)."""
    _, public, message, signature = map(bytes.fromhex, VECTORS[1])
    other = int.from_bytes(signature[32:], "little") + L
    assert not verifies(public, signature[:32] + other.to_bytes(32, "little"), message)
    assert not verifies(public, signature[:-1], message)
    assert not verifies(public[:-1], signature, message)


def test_a_key_that_is_no_point_or_not_in_its_one_form():
    for y in (2, P, P + 1, P + 3):
        assert not ed25519.pure_verifies(y.to_bytes(32, "little"), bytes(64), b"")


def test_without_cryptography_it_works_the_same(tmp_path):
    """As on SmartOS, whose global zone has no Rust."""
    seed, public, message, signature = VECTORS[2]
    program = (
        "import sys; from imgstored.site import ed25519 as e\n"
        f"seed, message = bytes.fromhex('{seed}'), bytes.fromhex('{message}')\n"
        "print(e.public_key(seed).hex(), e.sign(seed, message).hex(),"
        " e.verifies(e.public_key(seed), e.sign(seed, message), message), 'cryptography' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment("cryptography"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [public, signature, "True", "False"]
