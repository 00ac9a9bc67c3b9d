"""minisign's files: what we write it reads, and the other way round; what is damaged is refused."""

from __future__ import annotations

import base64
import hashlib
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import KeyFileError
from imgstored.site.minisign import (
    MAX_SIGNATURES,
    SecretKey,
    is_secret,
    needs_password,
    parse_public_key,
    parse_secret_key,
    parse_signatures,
    signed,
)

MINISIGN = "/usr/bin/minisign"
KEY = SecretKey(b"12345678", bytes(range(32)))


def minisign(*arguments):
    return subprocess.run([MINISIGN, *map(str, arguments)], capture_output=True, text=True)


def test_the_files_of_a_key_are_those_of_minisign(tmp_path):
    made = minisign("-G", "-W", "-p", tmp_path / "p", "-s", tmp_path / "s")
    assert made.returncode == 0, made.stderr
    secret = parse_secret_key((tmp_path / "s").read_text())
    assert secret.file() == (tmp_path / "s").read_text()
    assert secret.public.file() == (tmp_path / "p").read_text()
    assert parse_public_key((tmp_path / "p").read_text()) == secret.public
    assert secret.seed.hex() not in repr(secret)


@pytest.mark.parametrize("key_id", [b"12345678", b"\x12345678\x01", b"\x07" + bytes(7), bytes(8)])
def test_the_id_of_a_key_is_a_number(tmp_path, key_id):
    """minisign writes no zeros before it."""
    key = SecretKey(key_id[:8], bytes(range(32)))
    (tmp_path / "s").write_text(key.file())
    made = minisign("-R", "-s", tmp_path / "s", "-p", tmp_path / "p")
    assert made.returncode == 0, made.stderr
    assert key.public.file() == (tmp_path / "p").read_text()


@pytest.mark.parametrize("data", [b"", b"some text", bytes(100_000)])
def test_signatures_go_both_ways(tmp_path, data):
    (tmp_path / "d").write_bytes(data)
    (tmp_path / "s").write_text(KEY.file())
    (tmp_path / "ours").write_text(signed(KEY, data, "a comment").text())
    verified = minisign("-V", "-P", KEY.public.text, "-m", tmp_path / "d", "-x", tmp_path / "ours")
    assert (verified.returncode, "a comment" in verified.stdout) == (0, True), verified.stderr
    for kind in ("-H", "-l"):
        theirs = tmp_path / kind
        made = minisign(
            "-S", kind, "-s", tmp_path / "s", "-m", tmp_path / "d", "-x", theirs, "-t", "no comment"
        )
        assert made.returncode == 0, made.stderr
        (signature,) = parse_signatures(theirs.read_bytes())
        assert (signature.comment, signature.hashed) == ("no comment", kind == "-H")
        assert signature.name == KEY.public.name
        assert signature.is_of(KEY.public, data)
        assert not signature.is_of(KEY.public, data + b"x")


def test_several_signatures_in_one_file():
    """minisign reads the first one, and we all of them."""
    other = SecretKey(b"abcdefgh", bytes(32))
    text = signed(KEY, b"x", "one").text() + signed(other, b"x", "two").text()
    first, second = parse_signatures(text.encode())
    assert first.is_of(KEY.public, b"x")
    assert second.is_of(other.public, b"x")
    assert not second.is_of(KEY.public, b"x")


def test_a_comment_of_another_signature_is_refused():
    one, other = signed(KEY, b"x", "one"), signed(KEY, b"x", "two")
    mixed = parse_signatures(
        "\n".join([*one.text().splitlines()[:2], *other.text().splitlines()[2:]]).encode()
    )
    assert mixed[0].comment_is_of(KEY.public)  # it is the same signature, of the same data
    changed = one.text().replace("trusted comment: one", "trusted comment: two")
    assert not parse_signatures(changed.encode())[0].comment_is_of(KEY.public)


def with_password(password: bytes) -> str:
    """A key as minisign encrypts it, at a cost of 16 MiB in place of a GiB."""
    operations, memory, salt = 32768, 16 << 20, bytes(range(32))
    plain = base64.b64decode(KEY.file().splitlines()[1])[54:-32]
    plain += hashlib.blake2b(b"Ed" + plain, digest_size=32).digest()
    # N and p by libsodium's rule for these limits.
    stream = hashlib.scrypt(password, salt=salt, n=1 << 10, r=8, p=1, maxmem=64 << 20, dklen=104)
    data = b"EdScB2" + salt + operations.to_bytes(8, "little") + memory.to_bytes(8, "little")
    data += bytes(one ^ other for one, other in zip(plain, stream, strict=True))
    return f"untrusted comment: minisign encrypted secret key\n{base64.b64encode(data).decode()}\n"


def test_a_key_with_a_password():
    text = with_password(b"secret")
    assert is_secret(text)
    assert needs_password(text)
    assert parse_secret_key(text, b"secret") == KEY
    with pytest.raises(KeyFileError, match="has a password"):
        parse_secret_key(text)
    with pytest.raises(KeyFileError, match="the password is wrong"):
        parse_secret_key(text, b"other")


@pytest.mark.parametrize(
    "text", ["", "x", "untrusted comment: x\n", "a\nb\nc\n", "x" * 5000, KEY.file()[:-10], "RWQ="]
)
def test_what_is_no_key_is_refused(text):
    for parse in (parse_public_key, parse_secret_key):
        with pytest.raises(KeyFileError):
            parse(text)


def test_a_public_key_is_no_secret_one_and_the_other_way_round():
    with pytest.raises(KeyFileError):
        parse_secret_key(KEY.public.file())
    with pytest.raises(KeyFileError):
        parse_public_key(KEY.file())
    assert not is_secret(KEY.public.file())
    assert not needs_password(KEY.file())


def test_a_damaged_secret_key_does_not_sign():
    """The two halves of one key belong together; a wrong one would give the secret away."""
    data = bytearray(base64.b64decode(KEY.file().splitlines()[1]))
    data[54 + 8] ^= 1
    with pytest.raises(KeyFileError, match="damaged"):
        parse_secret_key("untrusted comment: x\n" + base64.b64encode(data).decode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_bytes_are_signatures_or_refused(data):
    try:
        parse_signatures(data)
    except ValueError:
        return
    pytest.fail("that was a signature")


def test_a_large_file_is_not_read():
    with pytest.raises(ValueError, match="more than"):
        parse_signatures(signed(KEY, b"x", "x" * MAX_SIGNATURES).text().encode())
    many = signed(KEY, b"x", "x").text() * 17
    with pytest.raises(ValueError, match="four lines"):
        parse_signatures(many.encode())
