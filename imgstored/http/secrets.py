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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imgstored.http import credentials
from imgstored.http.location import public

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

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

#: Characters of a text. A longer one with something like a secret in it is hidden as a whole.
_MOST_LOOKED_AT: Final = 256 << 10
#: The same of all such texts of one value together: a server may send a list of nothing else.
_MOST_IN_ALL: Final = 2 << 20

#: Characters. A shorter secret may be a part of a longer word, and is hidden only where it is not.
_LONG: Final = 12
#: What may be between two words: the end of an escape looks like a letter or a digit.
_BEFORE: Final = (
    r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2})|(?<=%25[0-9A-Fa-f]{2})|(?<=%2525[0-9A-Fa-f]{2})"
    r"|(?<=\\[abefnrtv])|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4}))"
)
_AFTER: Final = r"(?![A-Za-z0-9])"

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

    def covers(self, text: str) -> bool:
        """Counts a text; whether it may be looked at."""
        self._left -= len(text)
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
        for secret in self._known:
            if secret.anchor in text:
                text = secret.spelt.sub(HIDDEN, text) if len(text) <= _MOST_LOOKED_AT else HIDDEN
        return text

    def hidden_in(self, value: Any, keep: Container[str] = (), *, allowance: Allowance | None = None) -> Any:
        """The same of all texts in a value of lists and maps. Texts of `keep`, and `Disclosed`, stay."""
        allowed = allowance or Allowance()

        def walk(each: Any) -> Any:
            match each:
                case Disclosed():
                    return each
                case str():
                    if each in keep or not self._suspects(each):
                        return each
                    return self.hidden(each) if allowed.covers(each) else HIDDEN
                case Mapping():
                    return {walk(key): walk(inner) for key, inner in each.items()}
                case list() | tuple():
                    return [walk(inner) for inner in each]
            return each

        return walk(value)

    def may_be_in(self, data: bytes) -> bool:
        """True if encoded data may have a secret. Fast; False is sure."""
        return any(anchor in data for anchor in self._anchors)

    def _suspects(self, text: str) -> bool:
        return any(secret.anchor in text for secret in self._known)

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
        self._known = tuple(before.get(text) or _secret(text) for text in longest_first)
        self._anchors = tuple({secret.anchor.encode("utf-8", "surrogatepass") for secret in self._known})


class _Secret(NamedTuple):
    """`anchor` is a part that all spellings have, `spelt` matches any of them."""

    text: str
    anchor: str
    spelt: re.Pattern[str]


def _secret(text: str) -> _Secret:
    runs = [found.span() for found in _RUN.finditer(text)]
    start, stop = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    if stop - start < _ENOUGH:
        # A few signs. However else they may be spelt, what is looked for would be found everywhere.
        return _Secret(text, text, re.compile(re.escape(text)))
    # From the first letter to the last: an expression that begins so is fast, and what is left says nothing.
    core = text[runs[0][0] : runs[-1][1]]
    spelt = "".join(map(_spellings, core))
    return _Secret(
        text, text[start:stop], re.compile(spelt if len(core) >= _LONG else _BEFORE + spelt + _AFTER)
    )


def _spellings(character: str) -> str:
    """A regular expression of all spellings of one character. What it repeats is bounded, and so its time."""
    if character.isascii() and character.isalnum():
        return character
    code, data = ord(character), character.encode(errors="replace")
    spelt = [re.escape(character), *([r"\+"] if character == " " else [])]
    for each in {data, character.encode("latin-1", errors="ignore")} - {b""}:
        spelt.append("(?i:" + "".join(f"%(?:25){{0,4}}{byte:02x}" for byte in each) + ")")
        # As Python shows bytes, or text that was decoded as Latin-1.
        spelt.append("".join(rf"(?:{re.escape(chr(byte))}|(?i:\\{{1,8}}x{byte:02x}))" for byte in each))
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    halves = (units[place : place + 4] for place in range(0, len(units), 4))
    spelt.append("(?i:" + "".join(rf"\\{{1,8}}u{half}" for half in halves) + ")")
    spelt.append(rf"(?i:\\{{1,8}}U{code:08x}|&(?:amp;){{0,3}}\#(?:0{{0,6}}{code}|x0{{0,6}}{code:x});)")
    spelt += [rf"\\{{1,8}}{escape}" for escape in _ESCAPES.get(character, ())]
    spelt += [rf"&(?:amp;){{0,3}}{name};" for name in _ENTITIES.get(character, ())]
    if character == "\\":
        return rf"(?:\\{{1,8}}|{'|'.join(spelt)})"
    # Backslashes in front of it are a part of its spelling.
    return rf"(?:\\{{0,8}}(?:{'|'.join(spelt)}))"


#: What stands for a character behind a backslash, other than itself.
_ESCAPES: Final = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}

#: Its names in HTML.
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
