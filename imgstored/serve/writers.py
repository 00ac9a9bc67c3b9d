"""The clients that may publish: by tokens, and by the keys of HTTP signatures as IMGAPI has them.

A signature is `Authorization: Signature keyId="NAME",algorithm="rsa-sha256",signature="BASE64"`, over the
text `date: ` and the request's Date header (sdc-imgapi, docs/index.md, "Authentication").
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from imgstored.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

#: Seconds by which a signed date may differ from ours.
_SKEW: Final = 300.0
#: Bytes of a key's file that are looked at.
_MAX_KEY: Final = 64 << 10
#: Characters of an Authorization header that are looked at.
_MAX_HEADER: Final = 4096

#: Never looked for in the middle of a word: that would take a time that grows with the square of its length.
_FIELD: Final = re.compile(r'(?<!\w)(\w+)="([^"]*)"', re.ASCII)
_ALGORITHMS: Final = ("rsa-sha256", "rsa-sha512", "ecdsa-sha256", "ed25519")


class Writers:
    """Those who may publish."""

    def __init__(
        self,
        tokens: Mapping[str, str],
        keys: Mapping[str, Any],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`tokens` and `keys` are by the names of their owners; a key is one of `cryptography`."""
        self._tokens = dict(tokens)
        self._keys = dict(keys)
        self._now = now

    def name(self, headers: Mapping[str, str]) -> str | None:
        """Whose request it is by its headers; None: nobody's who may publish."""
        scheme, _, rest = headers.get("authorization", "")[:_MAX_HEADER].partition(" ")
        match scheme.lower():
            case "bearer":
                return self._by_token(rest.strip())
            case "basic":
                return self._by_token(_password(rest.strip()))
            case "signature":
                return self._by_signature(rest, headers.get("date", ""))
        return None

    def _by_token(self, token: str | None) -> str | None:
        found = None
        if token:
            for name, known in self._tokens.items():
                # Each of them is compared, in the same time.
                if hmac.compare_digest(known.encode(), token.encode()):
                    found = name
        return found

    def _by_signature(self, fields: str, date: str) -> str | None:
        given = dict(_FIELD.findall(fields))
        name = given.get("keyId", "").rpartition("/")[2]
        key = self._keys.get(name)
        if key is None or not self._is_fresh(date):
            return None
        try:
            signature = base64.b64decode(given.get("signature", ""), validate=True)
        except (binascii.Error, ValueError):
            return None
        text = f"date: {date}".encode("utf-8", "replace")
        return name if _verified(key, given.get("algorithm", ""), signature, text) else None

    def _is_fresh(self, date: str) -> bool:
        try:
            then = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError, OverflowError):
            return False
        return abs(then - self._now()) <= _SKEW


def _password(encoded: str) -> str | None:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return None


def _verified(key: Any, algorithm: str, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    algorithm = algorithm.lower()
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm in ("rsa-sha256", "rsa-sha512"):
            digest = hashes.SHA256() if algorithm == "rsa-sha256" else hashes.SHA512()
            key.verify(signature, text, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm == "ecdsa-sha256":
            key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey) and algorithm == "ed25519":
            key.verify(signature, text)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def read_key(name: str, path: Path) -> Any:
    """The public key in a file, PEM or OpenSSH. Raises `ConfigError` that names the key's owner."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key
    except ImportError as error:
        raise ConfigError(
            f"serve.keys.{name}: the Python package cryptography is not installed",
            hint="install it, or use serve.tokens",
        ) from error
    try:
        # Nobody waits for the other end of a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.read(fd, _MAX_KEY)
        finally:
            os.close(fd)
        return load_pem_public_key(data) if data.lstrip().startswith(b"-----") else load_ssh_public_key(data)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"serve.keys.{name}: {path} cannot be used: {error}",
            hint=f"a public key for one of {', '.join(_ALGORITHMS)}, in PEM or in OpenSSH's form",
        ) from error
