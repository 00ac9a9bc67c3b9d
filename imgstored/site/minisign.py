"""Keys and signatures in minisign's form (https://jedisct1.github.io/minisign/). No I/O.

A signature is four lines: an untrusted comment; base64 of `ED`, the key's id (8 bytes) and the signature of
the BLAKE2b-512 of the data (`Ed`: of the data itself); a trusted comment; and the signature of that first
signature with the trusted comment, so that nobody changes one without the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from msgspec import Struct

from imgstored.errors import KeyFileError
from imgstored.site.ed25519 import PUBLIC, SEED, SIGNATURE, public_key, sign, verifies

#: Bytes of a file with a key, and of one with signatures.
MAX_KEY: Final = 4096
MAX_SIGNATURES: Final = 16384
#: Signatures of one file: one by each key of a rotation.
_MAX_BLOCKS: Final = 16

_UNTRUSTED: Final = "untrusted comment: "
_TRUSTED: Final = "trusted comment: "
_ID: Final = 8
_PLAIN, _HASHED, _SCRYPT, _NO_KDF, _BLAKE2B = b"Ed", b"ED", b"Sc", b"\0\0", b"B2"
#: Of a secret key's file: algorithms, salt, the two limits of scrypt; then id, seed, public key, checksum.
_HEAD: Final = 2 + 2 + 2 + 32 + 8 + 8
_BODY: Final = _ID + SEED + PUBLIC + 32
#: Memory that a password may cost (bytes): minisign's own keys take 1 GiB.
_MAX_SCRYPT: Final = (1 << 30) + (64 << 20)


class PublicKey(Struct, frozen=True):
    """A public key. Equal keys have equal ids, not the other way round."""

    id: bytes
    key: bytes

    @property
    def text(self) -> str:
        """As a configuration has it: base64, 56 characters that begin with RW."""
        return _text(_PLAIN + self.id + self.key)

    @property
    def name(self) -> str:
        """The id as minisign writes it."""
        return key_name(self.id)

    def file(self) -> str:
        """The text of its file."""
        return f"{_UNTRUSTED}minisign public key {self.name}\n{self.text}\n"


class SecretKey(Struct, frozen=True):
    """A secret key."""

    id: bytes
    seed: bytes

    def __repr__(self) -> str:
        return f"SecretKey({key_name(self.id)})"

    @property
    def public(self) -> PublicKey:
        """Its public key."""
        return PublicKey(self.id, public_key(self.seed))

    def file(self) -> str:
        """The text of its file, without a password, as `minisign -G -W` writes it."""
        # Without a password there are neither its limits nor a checksum.
        head = _PLAIN + _NO_KDF + _BLAKE2B + bytes(_HEAD - 6)
        data = head + self.id + self.seed + self.public.key + bytes(32)
        return f"{_UNTRUSTED}minisign encrypted secret key\n{_text(data)}\n"


class Signature(Struct, frozen=True):
    """One signature."""

    key_id: bytes
    hashed: bool  #: of the data's BLAKE2b-512
    signature: bytes
    comment: str  #: the trusted one
    over_all: bytes  #: of the signature and the comment

    @property
    def name(self) -> str:
        """The key's id as minisign writes it."""
        return key_name(self.key_id)

    def comment_is_of(self, key: PublicKey) -> bool:
        """True if the key signed the comment, and the signature itself, of whatever data."""
        return key.id == self.key_id and verifies(
            key.key, self.over_all, self.signature + self.comment.encode()
        )

    def is_of(self, key: PublicKey, data: bytes) -> bool:
        """True if it is the key's, of this data."""
        if not self.comment_is_of(key):
            return False
        message = hashlib.blake2b(data).digest() if self.hashed else data
        return verifies(key.key, self.signature, message)

    def text(self) -> str:
        """Its four lines."""
        kind = _HASHED if self.hashed else _PLAIN
        return (
            f"{_UNTRUSTED}signature from imgstore\n{_text(kind + self.key_id + self.signature)}\n"
            f"{_TRUSTED}{self.comment}\n{_text(self.over_all)}\n"
        )


def key_name(key_id: bytes) -> str:
    """A key's id as minisign writes it: a number in hexadecimal, of at most 16 digits."""
    return f"{int.from_bytes(key_id, 'little'):X}"


def signed(key: SecretKey, data: bytes, comment: str) -> Signature:
    """The signature of data, with a trusted comment of one printable line."""
    signature = sign(key.seed, hashlib.blake2b(data).digest())
    return Signature(key.id, True, signature, comment, sign(key.seed, signature + comment.encode()))


def parse_signatures(data: bytes) -> list[Signature]:
    """The signatures of a file, which minisign's own has one of. Raises `ValueError`."""
    if len(data) > MAX_SIGNATURES:
        raise ValueError(f"it has more than {MAX_SIGNATURES} bytes")
    lines = data.decode("utf-8").splitlines()
    if not lines or len(lines) % 4 or len(lines) > 4 * _MAX_BLOCKS:
        raise ValueError("it is not signatures of four lines each")
    return [_signature(lines[place : place + 4]) for place in range(0, len(lines), 4)]


def _signature(lines: list[str]) -> Signature:
    untrusted, first, trusted, second = lines
    if not untrusted.startswith(_UNTRUSTED) or not trusted.startswith(_TRUSTED):
        raise ValueError("a comment is missing")
    data, over_all = _bytes(first), _bytes(second)
    if len(data) != 2 + _ID + SIGNATURE or len(over_all) != SIGNATURE:
        raise ValueError("a signature is too short or too long")
    if data[:2] not in (_PLAIN, _HASHED):
        raise ValueError("a signature is of an unknown kind")
    comment = trusted.removeprefix(_TRUSTED)
    if not comment.isprintable():
        raise ValueError("a comment cannot be printed")
    return Signature(data[2 : 2 + _ID], data[:2] == _HASHED, data[2 + _ID :], comment, over_all)


def parse_public_key(text: str) -> PublicKey:
    """A public key: its 56 characters, or the text of its file. Raises `KeyFileError`."""
    try:
        data = _bytes(_last_line(text))
    except ValueError:
        data = b""
    if len(data) != 2 + _ID + PUBLIC or data[:2] != _PLAIN:
        raise KeyFileError(
            "not a public key of minisign", hint="it has 56 characters, the second line of minisign.pub"
        )
    return PublicKey(data[2 : 2 + _ID], data[2 + _ID :])


def parse_secret_key(text: str, password: bytes | None = None) -> SecretKey:
    """A secret key, by the text of its file. Raises `KeyFileError`, also for a missing or wrong password."""
    try:
        data = _bytes(_last_line(text))
    except ValueError:
        data = b""
    if len(data) != _HEAD + _BODY or (data[:2], data[4:6]) != (_PLAIN, _BLAKE2B):
        raise KeyFileError(
            "not a secret key of minisign", hint="`imgctl keys make` and `minisign -G` make one"
        )
    kdf, body = data[2:4], data[_HEAD:]
    if kdf == _SCRYPT:
        if password is None:
            raise KeyFileError("the secret key has a password", hint=_UNLOCK)
        body = _unlocked(data, password)
    elif kdf != _NO_KDF:
        raise KeyFileError("the secret key is encrypted in an unknown way", hint=_UNLOCK)
    key_id, seed = body[:_ID], body[_ID : _ID + SEED]
    public, checksum = body[_ID + SEED : -32], body[-32:]
    if kdf == _SCRYPT and checksum != _checksum(key_id, seed, public):
        raise KeyFileError("the password is wrong")
    if public != public_key(seed):
        raise KeyFileError("the secret key is damaged: its public half is another one's")
    return SecretKey(key_id, seed)


def is_secret(text: str) -> bool:
    """True if a text looks like that of a secret key: it is longer than a public one."""
    return len(_last_line(text)) > len(_text(bytes(2 + _ID + PUBLIC)))


def needs_password(text: str) -> bool:
    """True if a secret key has a password. Raises `KeyFileError`."""
    try:
        return _bytes(_last_line(text))[2:4] == _SCRYPT
    except ValueError as error:
        raise KeyFileError("not a secret key of minisign") from error


_UNLOCK: Final = "give the password, or make a key without one (`minisign -G -W`, or `imgctl keys make`)"


def _unlocked(data: bytes, password: bytes) -> bytes:
    """The body of a key with a password. Costs the memory that the key says, 1 GiB by default."""
    salt = data[6:38]
    operations = int.from_bytes(data[38:46], "little")
    memory = int.from_bytes(data[46:54], "little")
    factor, parallel = _scrypt_cost(operations, memory)
    try:
        stream = hashlib.scrypt(
            password, salt=salt, n=factor, r=8, p=parallel, maxmem=_MAX_SCRYPT, dklen=_BODY
        )
    except (ValueError, MemoryError) as error:
        raise KeyFileError(f"the password of the secret key cannot be used: {error}") from error
    return bytes(one ^ other for one, other in zip(data[_HEAD:], stream, strict=True))


def _scrypt_cost(operations: int, memory: int) -> tuple[int, int]:
    """N and p as libsodium chooses them (crypto_pwhash_scryptsalsa208sha256, pickparams); r is 8."""
    operations = max(operations, 32768)
    most = operations // 32 if operations < memory // 32 else memory // 1024
    factor = next(power for power in range(1, 64) if 1 << power > most // 2)
    if operations < memory // 32:
        return 1 << factor, 1
    return 1 << factor, min(operations // 4 // (1 << factor), 0x3FFFFFFF) // 8 or 1


def _checksum(key_id: bytes, seed: bytes, public: bytes) -> bytes:
    return hashlib.blake2b(_PLAIN + key_id + seed + public, digest_size=32).digest()


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line]
    if not lines or len(lines) > 2 or len(text) > MAX_KEY:
        raise KeyFileError("not a key of minisign", hint="a key's file has two lines")
    return lines[-1].strip()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("it is not base64") from error
