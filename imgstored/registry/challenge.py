"""Challenges of a registry: the WWW-Authenticate header (RFC 9110, 11.6.1). Pure."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

#: Characters of a header that are looked at.
_MAX_HEADER: Final = 8192

_SCHEME: Final = re.compile(r"[ \t,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]+|(?=,)|\Z)")
_PARAMETER: Final = re.compile(
    r"[ \t,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    r'(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z:/-]+))'
)
_ESCAPED: Final = re.compile(r"\\(.)")


class Challenge(Struct, frozen=True):
    """One way to authenticate that the server takes."""

    scheme: str  #: lower case
    parameters: dict[str, str]  #: names in lower case

    def get(self, name: str) -> str:
        """A parameter, "" where there is none."""
        return self.parameters.get(name, "")


def read_challenges(header: str) -> list[Challenge]:
    """The challenges of the header; what cannot be read is left out with what follows it."""
    if len(header) > _MAX_HEADER:
        return []
    found: list[Challenge] = []
    place = 0
    while (scheme := _SCHEME.match(header, place)) is not None:
        place = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(header, place)) is not None:
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if quoted is not None else plain)
            place = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


def chosen(challenges: list[Challenge]) -> Challenge | None:
    """The challenge to answer: a token rather than a password in each request."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None
