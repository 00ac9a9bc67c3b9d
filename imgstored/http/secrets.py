"""Redaction of secrets in a text: a second line of defence. Pure.

What a library says of a failure, or a server of a request, may quote a URL, a header or a form.
"""

from __future__ import annotations

import re
from typing import Final

from imgstored.http.location import public

#: What stands in place of a secret.
HIDDEN: Final = "(hidden)"

_NAME: Final = (
    "(?:authorization|cookie|passwd|password|secret|api[-_]?key|access[-_]?key|credential|auth[-_]token)"
)

#: Names whose values are secrets, wherever they stand.
SECRET_NAME: Final = re.compile(_NAME, re.IGNORECASE)

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]{0,15}://[^\s\"'<>]+", re.IGNORECASE)

#: `user:password@host` without a scheme.
_USER: Final = re.compile(r"(?<![\w/.-])[\w.%+-]{1,64}:[^\s/@\"']{1,256}@(?=[\w\[])")

#: A header, as it is sent, or as Python shows it: `Authorization: Basic abc`, `('Cookie', 'a=b')`.
_HEADER: Final = re.compile(
    rf"({_NAME}[\w-]{{0,40}})(['\"]?\s{{0,5}}[:=,](?!\s{{0,5}}\(hidden)\s{{0,5}})(?:b?'[^']*'|b?\"[^\"]*\"|[^'\"\r\n]+)",
    re.IGNORECASE,
)

#: A field of a form, or of a query without its URL.
_FIELD: Final = re.compile(r"((?:token|signature|sig|key|auth)=)(?!\(hidden)[^\s&;,'\"<>)]+", re.IGNORECASE)

_SCHEME: Final = re.compile(
    r"\b(?:(Basic|[Bb]earer|Negotiate)\s{1,5}[A-Za-z0-9+/=._~-]{6,}|(Signature|Digest)\s{1,5}\w{1,40}=[^\r\n]*)"
)


#: Without any of these there is nothing to be found: most texts are looked at once.
_SUSPECT: Final = re.compile(r"[:=@,]|Basic|[Bb]earer|Negotiate|Signature|Digest")


def redacted(text: str) -> str:
    """The text without passwords, tokens, and parts of URLs that may be one. Idempotent."""
    if _SUSPECT.search(text) is None:
        return text
    text = _URL.sub(lambda url: public(url[0]), text)
    text = _USER.sub(HIDDEN + "@", text)
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    text = _FIELD.sub(rf"\1{HIDDEN}", text)
    return _SCHEME.sub(lambda found: f"{found[1] or found[2]} {HIDDEN}", text)
