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
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus

from imgstored.http import credentials
from imgstored.http.location import public

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

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

#: Characters of a text that may have a secret in it. A longer one is hidden as a whole.
_MOST_LOOKED_AT: Final = 64 << 10
#: The same of all such texts of one value together: a server may send a list of nothing else.
_MOST_IN_ALL: Final = 512 << 10

#: Characters. A shorter secret may be a part of a longer word, and is hidden only where it is not.
_LONG: Final = 12

#: Letters and digits: no encoder changes these.
_RUN: Final = re.compile(r"[A-Za-z0-9]+")
#: Characters of a run that are enough to look for first, because that is much faster.
_ENOUGH: Final = 3

#: How often a text is decoded: a server quotes what a proxy quoted, and a library shows that.
_MOST_NESTED: Final = 6

#: An escape of URLs; of JSON or Python, where each nesting doubles the backslashes; of HTML. It begins at the
#: first backslash of a row, and is bounded otherwise: a text takes time in proportion to its length.
_ESCAPE: Final = re.compile(
    r"%([0-9A-Fa-f]{2})"
    r"|(?<!\\)\\++(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([abfnrtv]))"
    r"|&(?:#([0-9]{1,8})|#[xX]([0-9A-Fa-f]{1,8})|([A-Za-z][A-Za-z0-9]{1,9}));"
)
_CODE: Final = re.compile(r"%[0-9A-F]{2}")
_LETTERS: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ENTITIES: Final = {**html.entities.name2codepoint, "apos": ord("'")}

#: What stands for any characters that are not ASCII: these have too many spellings to be told apart.
_FOREIGN: Final = "\x80"
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
#: Backslashes stand in front of what is escaped, and a form has a plus for a space.
_ALIKE: Final = {ord("\\"): None, ord("+"): " "}
_SIGNS: Final = "".join(chr(code) for code in range(128) if not chr(code).isalnum())


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
                    return _without(suspected, each) if allowed.covers(each) else HIDDEN
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
        self._forms = _forms(text) if len(run) >= _ENOUGH else frozenset()
        self.anchor = run if self._forms else text
        self.text = text

    def removed_from(self, text: str) -> str:
        """The text without the usual spellings, which are most."""
        for spelt in self._usual():
            if spelt not in text:
                continue
            if len(spelt) >= _LONG or not self._forms:
                text = text.replace(spelt, HIDDEN)
            else:
                pieces, at = [], 0
                for found in _words(spelt, text):
                    pieces += [text[at:found], HIDDEN]
                    at = found + len(spelt)
                text = "".join(pieces) + text[at:]
        return text

    def is_in(self, stages: Sequence[str]) -> bool:
        """True if a text has the secret, however spelt; `stages` are the text's."""
        return any(
            form in stage if len(form) >= _LONG else next(_words(form, stage), None) is not None
            for form in self._forms
            for stage in stages
        )

    def _usual(self) -> list[str]:
        """What one encoder makes of the secret, the longest first."""
        text = self.text
        if not self._forms:
            return [text]
        escaped = [json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]
        coded = [quote(text, safe=safe, errors="replace") for safe in ("", "/")]
        coded.append(quote_plus(text, errors="replace"))
        coded += [_CODE.sub(lambda code: code[0].lower(), each) for each in coded]
        plain = [text, *([bare] if len(bare := text.strip(_SIGNS)) >= _LONG else [])]
        return sorted({*plain, *escaped, *coded, html.escape(text)}, key=len, reverse=True)


def _without(suspected: Sequence[_Secret], text: str) -> str:
    if suspected and len(text) > _MOST_LOOKED_AT:
        return HIDDEN
    for secret in suspected:
        text = secret.removed_from(text)
    left = [secret for secret in suspected if secret.anchor in text]
    if left:
        stages = _stages(text)
        if any(secret.is_in(stages) for secret in left):
            return HIDDEN
    return text


def _stages(text: str) -> list[str]:
    """The text as it is, decoded once, twice and so on, each in the form in which texts are compared.

    What an encoder made of a secret becomes the secret at one of them. Later ones may decode what is in the
    secret itself, as they do with the secret.
    """
    stages = [_comparable(text)]
    for _ in range(_MOST_NESTED):
        text, count = _ESCAPE.subn(_decoded, text)
        if not count:
            break
        stages.append(_comparable(text))
    return stages


def _decoded(escape: re.Match[str]) -> str:
    byte, short, usual, long, letter, number, hexadecimal, name = escape.groups()
    if letter is not None:
        return _LETTERS[letter]
    if name is not None:
        return chr(_ENTITIES[name]) if name in _ENTITIES else escape[0]
    code = int(number) if number is not None else int(byte or short or usual or long or hexadecimal, 16)
    return chr(code) if code <= sys.maxunicode else _FOREIGN


def _comparable(text: str) -> str:
    return _NOT_ASCII.sub(_FOREIGN, text.translate(_ALIKE))


def _forms(text: str) -> frozenset[str]:
    """What is looked for of a secret: each of its stages, without the signs at its ends, which say nothing.

    A part that is ASCII is enough if it is long: a server may have lost the other characters.
    """
    forms = set()
    for stage in _stages(text):
        longest = max((part.strip(_SIGNS) for part in stage.split(_FOREIGN)), key=len)
        form = longest if len(longest) >= _LONG else stage.strip(_SIGNS)
        if _RUN.search(form):
            forms.add(form)
    return frozenset(forms)


def _words(word: str, text: str) -> Iterator[int]:
    """Where the word is in a text, and is no part of a longer one."""
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (_joins(text[at - 1 : at], word[0]) or _joins(word[-1], text[end : end + 1])):
            yield at
            at = text.find(word, end)
        else:
            at = text.find(word, at + 1)


def _joins(before: str, behind: str) -> bool:
    return all(each.isascii() and each.isalnum() for each in (before, behind))


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
