"""The gate for all that leaves the daemon: it knows the secrets in use, and hides them in every spelling.

A server, a proxy or a library may quote what it was sent. So every request announces its secrets before it is
sent, and answers, events, the log, the history and the metrics pass the gate. `redacted` also hides what only
looks like a secret: a second line of defence.
"""

from __future__ import annotations

import html.entities
import json
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus

from imgstored.http import credentials
from imgstored.http.location import public

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Sequence

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
_MOST_IN_ALL: Final = 256 << 10
#: Characters of a secret of which the usual spellings are kept. A longer one is hidden alone as it is.
_MOST_SPELT: Final = 256

#: Characters. A shorter secret may be a part of a longer word, and is hidden only where it is not.
_LONG: Final = 12

#: Letters and digits: no encoder changes these.
_RUN: Final = re.compile(r"[A-Za-z0-9]+")
#: Characters of a run that are enough to look for first, because that is much faster.
_ENOUGH: Final = 3

#: Hexadecimal digits of an escape.
_MOST_TAKEN: Final = 8

#: How often a text is decoded: a server quotes what a proxy quoted, and a library shows that.
_MOST_NESTED: Final = 6

_IN_URLS: Final = r"%(?P<byte>[0-9A-Fa-f]{2})"
#: JSON and Python.
_IN_STRINGS: Final = (
    r"\\(?:x(?P<x>[0-9A-Fa-f]{2})|u(?P<u>[0-9A-Fa-f]{4})|U(?P<U>[0-9A-Fa-f]{8})"
    r"|(?P<letter>[abfnrtv])|(?P<sign>[\x00-/:-@\[-`{-\x7f]))"
)
_IN_HTML: Final = (
    r"&(?:#(?P<number>[0-9]{1,8})|#[xX](?P<hexadecimal>[0-9A-Fa-f]{1,8})|(?P<name>[A-Za-z][A-Za-z0-9]{1,9}));"
)
#: Escapes of all kinds, and of each. They are bounded, so that time grows with the text alone.
_ESCAPES: Final = tuple(
    map(re.compile, (f"{_IN_URLS}|{_IN_STRINGS}|{_IN_HTML}", _IN_URLS, _IN_STRINGS, _IN_HTML))
)
_CODE: Final = re.compile(r"%[0-9A-F]{2}")
_LETTERS: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ENTITIES: Final = {**html.entities.name2codepoint, "apos": ord("'")}

#: What stands for any characters that are not ASCII: these have too many spellings to be told apart.
_FOREIGN: Final = "\x80"
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
#: What stands for a secret while others are looked for: no secret is a part of it, as one may be of HIDDEN.
_GONE: Final = "\ufdd0"
_SIGNS: Final = "".join(chr(code) for code in range(128) if not chr(code).isalnum())


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
    Python or HTML, and in any mixture of these. Where it is spelt in a usual way, it alone is hidden, and
    otherwise the whole text.
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
    """`anchor` is a part that all spellings have. Letters and digits are never escaped."""

    def __init__(self, text: str) -> None:
        run = max(_RUN.findall(text), key=len, default="")
        # Of a few signs, however else they may be spelt, what is looked for would be found everywhere.
        self._forms = [_Wanted(form) for form in _forms(text)] if len(run) >= _ENOUGH else []
        # A long one takes longer to look for, in a text that is made for that.
        self.anchor = run[:_LONG] if self._forms else text
        self.text = text

    def removed_from(self, text: str) -> str:
        """The text without the usual spellings, which are most; `_GONE` stands in their place."""
        for spelt in self._usual:
            text = spelt.replaced(text)
        return text

    def is_in(self, stages: Collection[str]) -> bool:
        """True if a text has the secret, however spelt; `stages` are the text's."""
        return any(form.is_in(stage) for form in self._forms for stage in stages)

    @cached_property
    def _usual(self) -> list[_Wanted]:
        """What one encoder makes of the secret, the longest first."""
        text = self.text
        if not self._forms:
            return [_Wanted(text, anywhere=True)]
        spelt = {text, text.strip(_SIGNS)}
        if len(text) <= _MOST_SPELT:
            spelt |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
            coded = [quote(text, safe=safe, errors="replace") for safe in ("", "/", "!~*'()")]
            coded.append(quote_plus(text, errors="replace"))
            spelt |= {*coded, *(_CODE.sub(lambda code: code[0].lower(), each) for each in coded)}
            escaped = html.escape(text)
            spelt |= {escaped, escaped.replace("&#x27;", "&#39;")}
        return [_Wanted(each) for each in sorted(spelt, key=len, reverse=True)]


class _Wanted:
    """A text that is looked for: a short one only where it is no part of a longer word."""

    def __init__(self, text: str, *, anywhere: bool = False) -> None:
        self._text = text
        self._word: re.Pattern[str] | None = None
        if len(text) < _LONG and not anywhere:
            before, behind = (_NO_WORD[each.isascii() and each.isalnum()] for each in (text[0], text[-1]))
            self._word = re.compile(f"(?<!{before}){re.escape(text)}(?!{behind})")

    def is_in(self, text: str) -> bool:
        return self._text in text and (self._word is None or self._word.search(text) is not None)

    def replaced(self, text: str) -> str:
        """The text with `_GONE` in its place."""
        return text.replace(self._text, _GONE) if self._word is None else self._word.sub(_GONE, text)


#: What may not be beside a sign (anything may), and beside a letter or a digit.
_NO_WORD: Final = (r"[^\s\S]", "[A-Za-z0-9]")


def _without(suspected: Sequence[_Secret], text: str) -> str:
    if len(text) * len(suspected) > _MOST_LOOKED_AT:
        return HIDDEN
    if not suspected:
        return text
    # What was hidden before stays as it is, if a secret is a part of that, too.
    if not any(HIDDEN in secret.text for secret in suspected):
        text = text.replace(HIDDEN, _GONE)
    for secret in suspected:
        text = secret.removed_from(text)
    left = [secret for secret in suspected if secret.anchor in text]
    if left:
        stages = _stages(text.replace(_GONE, "\0"))
        if any(secret.is_in(stages) for secret in left):
            return HIDDEN
    return text.replace(_GONE, HIDDEN)


def _stages(text: str) -> set[str]:
    """The text as it is, decoded once, twice and so on, each in the form in which texts are compared.

    What an encoder made of a secret becomes the secret at one of them. If encoders of one kind made it, what
    looks like an escape of another kind in the secret itself stays.
    """
    stages = {_comparable(text)}
    for escapes in _ESCAPES:
        decoded = text
        for _ in range(_MOST_NESTED):
            decoded, count = escapes.subn(_decoded, decoded)
            if not count:
                break
            stages.add(_comparable(decoded))
    return stages


def _decoded(escape: re.Match[str]) -> str:
    kind = escape.lastgroup or ""
    text = escape[kind]
    match kind:
        case "letter":
            return _LETTERS[text]
        case "sign":
            return text
        case "name":
            return chr(_ENTITIES[text]) if text in _ENTITIES else escape[0]
    code = int(text, 10 if kind == "number" else 16)
    return chr(code) if code <= sys.maxunicode else _FOREIGN


def _comparable(text: str) -> str:
    """Spaces may be pluses in a form."""
    return _NOT_ASCII.sub(_FOREIGN, text.replace("+", " "))


def _forms(text: str) -> frozenset[str]:
    """What is looked for of a secret: each of its stages.

    A long part that is ASCII is enough, without signs at its ends: a server may have lost the others. A short
    one would be found in texts that have nothing to do with it.
    """
    forms = set()
    for stage in _stages(text):
        longest = max((part.strip(_SIGNS) for part in stage.split(_FOREIGN)), key=len)
        form = stage
        if len(longest) >= _LONG:
            # What stands before it may have taken its first characters for the end of an escape.
            form = longest[min(_MOST_TAKEN, len(longest) - _LONG) :]
        if _RUN.search(form):
            forms.add(form)
    return frozenset(forms)


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
