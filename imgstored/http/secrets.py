"""The gate for all that leaves the daemon: it knows the secrets in use, and hides them in every spelling.

A server, a proxy or a library may quote what it was sent. So every request announces its secrets before it is
sent, and answers, events, the log, the history and the metrics pass the gate. `redacted` also hides what only
looks like a secret: a second line of defence.
"""

from __future__ import annotations

import html.entities
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imgstored.http import credentials
from imgstored.http.location import public

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from imgstored.http.location import Location

#: What stands in place of a secret.
HIDDEN: Final = "(hidden)"

_NAME: Final = (
    "(?:authorization|cookie|passwd|password|secret|api[-_]?key|access[-_]?key|credential|auth[-_]token)"
)

#: Names whose values are secrets, wherever they stand.
SECRET_NAME: Final = re.compile(_NAME, re.IGNORECASE)

# -- exact secrets -------------------------------------------------------------------------------------------

#: Secrets that are remembered beside those of settings: of URLs that clients and servers named.
_MOST_LEARNED: Final = 48

#: Characters of a text, for each secret that may be in it. A longer one is hidden as a whole.
_MOST_LOOKED_AT: Final = 64 << 10
#: The same of all such texts of one value together: a server may send a list of nothing else.
_MOST_IN_ALL: Final = 512 << 10

#: Characters. A shorter secret may be a part of a longer word, and is hidden only where it is not.
_LONG: Final = 12
#: What may be between two words: the end of an escape looks like a letter or a digit.
_BEFORE: Final = (
    r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2})|(?<=%25[0-9A-Fa-f]{2})|(?<=%2525[0-9A-Fa-f]{2})"
    r"|(?<=%252525[0-9A-Fa-f]{2})|(?<=%25252525[0-9A-Fa-f]{2})|(?<=\\[abefnrtv])"
    r"|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})|(?<=\\U[0-9A-Fa-f]{8}))"
)
_BEHIND: Final = r"(?![A-Za-z0-9])"

#: How any spelling of a character ends, and begins, that is not ASCII.
_FOREIGN_BEFORE: Final = (
    r"(?:(?<=[^\x00-\x7f])|(?<=[;?])|(?<=%[0-9A-Fa-f]{2})|(?<=\\x[0-9A-Fa-f]{2})"
    r"|(?<=%25[0-9A-Fa-f]{2})|(?<=%2525[0-9A-Fa-f]{2})|(?<=%252525[0-9A-Fa-f]{2})"
    r"|(?<=%25252525[0-9A-Fa-f]{2})"
    r"|(?<=\\u[0-9A-Fa-f]{4})|(?<=\\U[0-9A-Fa-f]{8}))"
)
_FOREIGN_BEHIND: Final = r"(?=[%\\&?]|[^\x00-\x7f]|(?<=\\)[xuU])"

#: Letters and digits: no encoder changes these.
_RUN: Final = re.compile(r"[A-Za-z0-9]+")
#: Characters of a run that are enough to look for first, because that is much faster.
_ENOUGH: Final = 3


class Disclosed(str):
    """A text that goes through the gate as it is: who gets it may know what is in it."""

    __slots__ = ()


class Allowance:
    """The characters of suspicious texts that are looked at in one value; others are hidden whole."""

    def __init__(self) -> None:
        self._left = _MOST_IN_ALL

    def covers(self, text: str, secrets: int) -> bool:
        """Counts a text in which so many secrets are looked for; whether it may be looked at."""
        self._left -= len(text) * secrets
        return self._left >= 0


class KnownSecrets:
    """The secrets in use. For any thread.

    A secret is found plain, percent-encoded (in a URL or a form, once or more often), escaped for JSON,
    Python or HTML, and in any mixture of these.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settings: dict[str, frozenset[str]] = {}
        self._learned: OrderedDict[str, None] = OrderedDict()
        self._known: tuple[_Secret, ...] = ()
        self._anchors: tuple[bytes, ...] = ()

    def configure(self, secrets: Iterable[str], *, of: str = "configuration") -> None:
        """Takes the secrets of one place of settings. Those that it had before are as good as learned."""
        now = frozenset(secrets)
        with self._lock:
            before = self._settings.get(of, frozenset())
            if now != before:
                self._settings[of] = now
                self._remember(before)
                self._update()

    def learn(self, secrets: Iterable[str]) -> None:
        """Remembers secrets that are about to be used. Those used last are the last to be forgotten."""
        with self._lock:
            new = set(secrets).difference(*self._settings.values())
            known = new <= self._learned.keys()
            self._remember(new)
            if not known:
                self._update()

    def forget(self) -> None:
        """Forgets all."""
        with self._lock:
            self._settings.clear()
            self._learned.clear()
            self._update()

    def hidden(self, text: str) -> str:
        """The text without the secrets."""
        return _without(self._suspected(text), text)

    def hidden_in(self, value: Any, keep: Container[str] = (), *, allowance: Allowance | None = None) -> Any:
        """The same of all texts in a value of lists and maps. Texts of `keep`, and `Disclosed`, stay."""
        allowed = allowance or Allowance()

        def walk(each: Any) -> Any:
            match each:
                case Disclosed():
                    return each
                case str():
                    suspected = () if each in keep else self._suspected(each)
                    if not suspected:
                        return each
                    return _without(suspected, each) if allowed.covers(each, len(suspected)) else HIDDEN
                case Mapping():
                    return {walk(key): walk(inner) for key, inner in each.items()}
                case list() | tuple():
                    return [walk(inner) for inner in each]
            return each

        return walk(value)

    def may_be_in(self, data: bytes) -> bool:
        """True if encoded data may have a secret. Fast; False is sure."""
        return any(anchor in data for anchor in self._anchors)

    def _suspected(self, text: str) -> list[_Secret]:
        """The secrets that may be in a text."""
        return [secret for secret in self._known if secret.anchor in text]

    def _remember(self, secrets: Iterable[str]) -> None:
        for secret in secrets:
            self._learned[secret] = None
            self._learned.move_to_end(secret)
        while len(self._learned) > _MOST_LEARNED:
            self._learned.popitem(last=False)

    def _update(self) -> None:
        # The longest first: one may be a part of another.
        texts = set(self._learned).union(*self._settings.values())
        before = {secret.text: secret for secret in self._known}
        longest_first = sorted(texts, key=lambda text: (-len(text), text))
        self._known = tuple(before.get(text) or _Secret(text) for text in longest_first)
        self._anchors = tuple({secret.anchor.encode("utf-8", "surrogatepass") for secret in self._known})


class _Secret:
    """`anchor` is a part that all spellings have."""

    def __init__(self, text: str) -> None:
        core = _core(text)
        anchor = max(_RUN.findall(core.text), key=len, default="")
        # Of a few signs, however else they may be spelt, what is looked for would be found everywhere.
        self._core = core if len(anchor) >= _ENOUGH else None
        self.anchor = text if self._core is None else anchor
        self.is_whole = self._core is None or core.is_whole
        self.text = text

    @cached_property
    def spelt(self) -> re.Pattern[str]:
        """Matches any spelling. It is made once it is needed: that takes milliseconds."""
        core = self._core
        if core is None:
            return re.compile(re.escape(self.text))
        spelt = "".join(_spellings(part) for part in _PARTS.findall(core.text))
        return re.compile(core.before + spelt + core.behind)


class _Core(NamedTuple):
    """The part of a secret that is looked for, and expressions of what has to be around it."""

    text: str
    before: str
    behind: str
    is_whole: bool  #: all of the secret that has letters


def _without(suspected: Sequence[_Secret], text: str) -> str:
    if len(text) * len(suspected) > _MOST_LOOKED_AT:
        return HIDDEN
    for secret in suspected:
        if secret.is_whole:
            text = secret.spelt.sub(HIDDEN, text)
        else:
            text = text.replace(secret.text, HIDDEN)
            if secret.spelt.search(text):
                return HIDDEN
    return text


def _core(text: str) -> _Core:
    """The part of a secret that is looked for.

    An expression that begins with a letter is fast, and what is around the letters says nothing. It is ASCII:
    other characters have too many spellings to tell them from signs. And it has a bound: a server that
    redirects makes a secret up, and must not decide how long the gate looks for it.
    """
    segment = max(_ASCII.finditer(text), key=lambda found: _longest_run(found[0]), default=None)
    runs = [] if segment is None else [found.span() for found in _RUN.finditer(text, *segment.span())]
    if segment is None or not runs:
        return _Core("", "", "", is_whole=True)
    start, stop = runs[0][0], runs[-1][1]
    is_whole = len(segment[0]) == len(text)
    if stop - start > _MOST_CHARACTERS or len(_SIGN.findall(text, start, stop)) > _MOST_SIGNS:
        start = max(runs, key=lambda run: run[1] - run[0])[0]
        signs = (found.start() for found in _SIGN.finditer(text, start, stop))
        stop = min(stop, start + _MOST_CHARACTERS, next(islice(signs, _MOST_SIGNS, None), stop))
        is_whole = False
    elif stop - start < _LONG and not is_whole:
        # A word alone is in many texts: with it comes a character that is not ASCII.
        is_short = len(text) < _LONG
        if segment.end() < len(text):
            return _Core(text[start : segment.end()], _BEFORE * is_short, _FOREIGN_BEHIND, is_whole)
        return _Core(text[segment.start() : stop], _FOREIGN_BEFORE, _BEHIND * is_short, is_whole)
    if stop - start < _LONG:
        return _Core(text[start:stop], _BEFORE, _BEHIND, is_whole)
    return _Core(text[start:stop], "", "", is_whole)


def _longest_run(text: str) -> int:
    return max(map(len, _RUN.findall(text)), default=0)


#: Characters of a secret that are looked for, and signs among them. Where a secret has more, a text that has
#: these is hidden as a whole.
_MOST_CHARACTERS: Final = 4096
_MOST_SIGNS: Final = 64

_ASCII: Final = re.compile(r"[\x00-\x7f]+")
_SIGN: Final = re.compile(r"[^A-Za-z0-9]")
#: The parts of what is looked for: letters and digits, backslashes, and single signs.
_PARTS: Final = re.compile(r"[A-Za-z0-9]+|\\+|(?s:.)")


def _spellings(part: str) -> str:
    """An expression for all spellings of a part. For each place in a text there is one way to match it.

    With several ways, a text that is nearly the secret would take as many tries as there are combinations.
    """
    if part.isalnum():
        return part
    code, byte = ord(part[0]), _hexadecimal(ord(part[0]), 2)
    number = rf"\#0{{0,6}}{code}|\#[xX]0{{0,6}}{_hexadecimal(code, 1)}"
    coded = rf"%(?:25){{0,4}}{byte}|&(?:[Aa][Mm][Pp];){{0,3}}(?:{number}{_named(part[0])});"
    escaped = rf"x{byte}|u00{byte}|U000000{byte}"
    if part[0] == "\\":
        count = len(part)
        # Each nesting doubles them.
        return rf"(?:(?:\\++(?:{escaped})){{{count}}}|\\++|(?:{coded}){{{count}}})"
    escaped += "".join(f"|{letter}" for letter in _ESCAPES.get(part, ""))
    literal = "[ +]" if part == " " else re.escape(part)
    # The backslashes in front of a sign belong to its spelling.
    return rf"\\{{0,64}}+(?:{literal}|(?<=\\)(?:{escaped})|{coded})"


def _hexadecimal(code: int, digits: int) -> str:
    """Large and small letters."""
    return "".join(f"[{each}{each.upper()}]" if each.isalpha() else each for each in f"{code:0{digits}x}")


def _named(sign: str) -> str:
    return "".join(f"|{name}" for name in _ENTITIES.get(sign, ()))


#: What stands for a character behind a backslash, other than itself.
_ESCAPES: Final = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}

#: Names of ASCII's signs in HTML.
_ENTITIES: Final[Mapping[str, tuple[str, ...]]] = {
    **{chr(code): (name,) for code, name in html.entities.codepoint2name.items()},
    "'": ("apos",),
}

#: Those of this process. The log and all sockets have them in common.
KNOWN: Final = KnownSecrets()


def announce(location: Location) -> None:
    """Lets the gate know what a request to `location` is about to send."""
    secrets = credentials.of_headers(dict(location.access.headers))
    secrets |= credentials.of_source(location.source) | credentials.of_link(location.url)
    if location.access.proxy:
        secrets |= credentials.of_proxy(location.access.proxy)
    KNOWN.learn(secrets)


# -- what looks like one -------------------------------------------------------------------------------------

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
    """The text without known secrets, passwords, tokens, and parts of URLs that may be one. Idempotent."""
    text = KNOWN.hidden(text)
    if _SUSPECT.search(text) is None:
        return text
    text = _URL.sub(lambda url: public(url[0]), text)
    text = _USER.sub(HIDDEN + "@", text)
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    text = _FIELD.sub(rf"\1{HIDDEN}", text)
    return _SCHEME.sub(lambda found: f"{found[1] or found[2]} {HIDDEN}", text)
