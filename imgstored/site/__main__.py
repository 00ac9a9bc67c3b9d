"""`python -m imgstored.site`: makes and reads keys, for imgctl; no daemon.

Standard input has one request in JSON: {"do": "make"}, or {"do": "read", "text": …, "password": … or null}.
The answer is a line of JSON: {id, public, secret, password}, `secret` only where the text is of a secret key,
without its password; or {error}.

Exit status: 0; 1 after {error}.
"""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any, Final

from imgstored.errors import ImgstoreError, KeyFileError
from imgstored.manifest import parse
from imgstored.site.minisign import SecretKey, is_secret, needs_password, parse_public_key, parse_secret_key

_GIVEN: Final = 1 << 16


def main() -> int:
    """Answers one request; returns the exit status."""
    try:
        answer = _answer(parse(sys.stdin.buffer.read(_GIVEN + 1), limit=_GIVEN))
    except ImgstoreError as error:
        answer = {"error": error.as_wire()}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


def _answer(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("do") == "make":
        return _shown(SecretKey(secrets.token_bytes(8), secrets.token_bytes(32)))
    text, password = str(given.get("text")), given.get("password")
    if not is_secret(text):
        try:
            public = parse_public_key(text)
        except KeyFileError as error:
            hint = "`imgctl keys make FILE` makes a secret one, and FILE.pub for others"
            raise KeyFileError("neither a secret nor a public key of minisign", hint=hint) from error
        return {"id": public.name, "public": public.file()}
    if needs_password(text) and password is None:
        raise KeyFileError("the secret key has a password", data={"password": True})
    return _shown(parse_secret_key(text, None if password is None else str(password).encode()))


def _shown(key: SecretKey) -> dict[str, Any]:
    return {"id": key.public.name, "public": key.public.file(), "secret": key.file()}


if __name__ == "__main__":
    sys.exit(main())
