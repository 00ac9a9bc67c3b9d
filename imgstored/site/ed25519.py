"""Ed25519 (RFC 8032): by the Python package cryptography where it is installed, else here. No I/O.

The functions of this module's own are some milliseconds slow, and take a time that depends on the secret:
they are for the few signatures of a host without that package, on which nobody measures the signing.
"""

from __future__ import annotations

import hashlib
from typing import Final

#: Bytes of a seed (the secret key), of a public key, and of a signature.
SEED: Final = 32
PUBLIC: Final = 32
SIGNATURE: Final = 64

#: The field's prime, the group's order, and the curve's constant (RFC 8032, 5.1).
_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT: Final = pow(2, (_P - 1) // 4, _P)  # of -1

#: A point in extended coordinates: x = X/Z, y = Y/Z, xy = T/Z.
Point = tuple[int, int, int, int]


def public_key(seed: bytes) -> bytes:
    """The public key of a secret one."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        return pure_public_key(seed)
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of a message."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        return pure_sign(seed, message)
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """True if that is the key's signature of the message."""
    if len(public) != PUBLIC or len(signature) != SIGNATURE:
        return False
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return pure_verifies(public, signature, message)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# -- RFC 8032, 5.1 and 6 -------------------------------------------------------------------------------------


def pure_public_key(seed: bytes) -> bytes:
    """As `public_key`, in Python alone."""
    return _encoded(_multiplied(_secret(seed)[0], _BASE))


def pure_sign(seed: bytes, message: bytes) -> bytes:
    """As `sign`, in Python alone."""
    scalar, prefix = _secret(seed)
    public = _encoded(_multiplied(scalar, _BASE))
    nonce = _hashed(prefix + message)
    commitment = _encoded(_multiplied(nonce, _BASE))
    answer = (nonce + _hashed(commitment + public + message) * scalar) % _L
    return commitment + answer.to_bytes(32, "little")


def pure_verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """As `verifies`, in Python alone."""
    if len(public) != PUBLIC or len(signature) != SIGNATURE:
        return False
    key = _decoded(public)
    answer = int.from_bytes(signature[32:], "little")
    if key is None or answer >= _L:
        return False
    challenge = _hashed(signature[:32] + public + message)
    x, y, z, t = key
    minus = (-x % _P, y, z, -t % _P)
    # As OpenSSL and libsodium do: the commitment is worked out, and its bytes are compared.
    found = _added(_multiplied(answer, _BASE), _multiplied(challenge, minus))
    return _encoded(found) == signature[:32]


def _hashed(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little") % _L


def _secret(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & ((1 << 254) - 8) | (1 << 254), digest[32:]


def _added(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiplied(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _added(total, point)
        point = _added(point, point)
        scalar >>= 1
    return total


def _encoded(point: Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decoded(data: bytes) -> Point | None:
    """The point; None for what is not the one encoding of a point."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    x = _recovered(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _recovered(y: int, sign: int) -> int | None:
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if square == 0:
        return None if sign else 0
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P:
        return None
    return _P - x if x & 1 != sign else x


def _base() -> Point:
    y = 4 * pow(5, -1, _P) % _P
    x = _recovered(y, 0)
    assert x is not None
    return x, y, 1, x * y % _P


_BASE: Final = _base()
