"""`completion` prints a script for a shell, which calls `__complete` while the user types."""

from __future__ import annotations

import re
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgctl.errors import RemoteError, UsageError
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.completion import Place
    from imgctl.session import Session

    #: A word, and what is said about it.
    Candidate = tuple[str, str]

#: Somebody is waiting at a prompt.
SECONDS = 2.0

#: Of the history, the newest.
ENTRIES = 1000

#: What can stand on a command line as it is. Names come from servers; nobody is to type `$(...)` by Tab.
_PLAIN = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9@.+,/:=~_%-]*")


def script(session: Session, arguments: Arguments) -> None:
    """`completion bash|zsh|fish`."""
    from imgctl.completion import SHELLS, completion_script

    shell = arguments.one()
    if shell not in SHELLS:
        raise UsageError(f'unknown shell: "{shell}"', hint=f"it may be one of {', '.join(SHELLS)}")
    print(completion_script(shell, session.program), end="")


def complete(session: Session, arguments: Arguments) -> int:
    """`__complete words WORD... | KIND [PREFIX]`: a candidate a line, and what it is after a tab.

    After `words`, the words of a command line up to the one that is typed, the first line says what else the
    shell is to do (`:files`, `:nospace`, or `:`). Silent when it fails.
    """
    if arguments.rest[:1] == ["words"]:
        return _complete_words(session, arguments.rest[1:])
    kind, prefix = (*arguments.rest, "", "")[:2]
    candidates = _asked(session, kind)
    if candidates is None:
        return 1
    _say(session, _plain(candidates), "", prefix)
    return 0


def _complete_words(session: Session, words: Sequence[str]) -> int:
    from imgctl.completion import place_of

    place = place_of(words, imgadm=session.is_imgadm)
    if place.kind == "files":
        session.say([":files"])
        return 0
    if place.kind in _KINDS:
        session.socket_path = place.socket or session.socket_path
        candidates = [*_plain(_asked(session, place.kind) or [])]
    else:
        candidates = [*_known(session, place)]
    session.say([":nospace" if place.kind in ("fields", "filters") else ":"])
    _say(session, candidates, place.before, place.word)
    return 0


def _known(session: Session, place: Place) -> Iterator[Candidate]:
    """The candidates that nobody has to be asked for."""
    from imgctl.commands import aliases, all_commands
    from imgctl.completion import flags
    from imgctl.image_fields import FIELDS
    from imgctl.listing import FORMS

    if place.kind == "commands":
        for command in all_commands():
            names = [*command.names[:1], *aliases(command, imgadm=session.is_imgadm)]
            yield from ((name, command.summary) for name in names if name[0].isalpha())
    elif place.kind == "flags":
        yield from flags(place.command, imgadm=session.is_imgadm)
    elif place.kind == "fields":
        yield from ((field, "field") for field in FIELDS)
        if not session.is_imgadm:
            yield from ((form, "form") for form in FORMS)
    elif place.kind == "filters":
        yield from ((f"{field}=", "filter") for field in FIELDS)
    else:
        yield from ((word, "") for word in place.kind.removeprefix("=").split())


def _asked(session: Session, kind: str) -> list[Candidate] | None:
    """The daemon's answer; None if there is none."""
    if kind not in _KINDS or (session.socket_path or "").startswith("ssh://"):
        return None  # who types a word waits for no other host
    try:
        with _at_most(SECONDS), session.client() as client:
            return [*_KINDS[kind](client, not session.is_imgadm)]
    except (RemoteError, OSError):
        return None


def _say(session: Session, candidates: Iterable[Candidate], before: str, prefix: str) -> None:
    session.say(
        f"{before}{word}\t{printable(meaning)}" for word, meaning in candidates if word.startswith(prefix)
    )


def _plain(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    return ((word, meaning) for word, meaning in candidates if _PLAIN.fullmatch(word))


def _installed(client: Client, by_name: bool) -> Iterator[Candidate]:
    yield from _aliases(client, by_name)
    yield from _images((image.get("manifest") or {} for image in client.list()), by_name)


def _available(client: Client, by_name: bool) -> Iterator[Candidate]:
    # Only where nothing is known yet are the sources worth the wait.
    known = client.known_images()
    yield from _aliases(client, by_name)
    yield from _images(known or (image["manifest"] for image in client.available()["images"]), by_name)


def _aliases(client: Client, by_name: bool) -> Iterator[Candidate]:
    return ((each["alias"], each["uuid"]) for each in (client.aliases() if by_name else ()))


def _jobs(client: Client, by_name: bool) -> Iterator[Candidate]:
    return _images(client.jobs(), by_name)


def _history(client: Client, by_name: bool) -> Iterator[Candidate]:
    latest = {entry.get("uuid"): entry for entry in client.history(limit=ENTRIES)}
    return _images(latest.values(), by_name)


def _pools(client: Client, _by_name: bool) -> Iterator[Candidate]:
    return ((str(pool), "pool") for pool in client.pools())


def _sources(client: Client, _by_name: bool) -> Iterator[Candidate]:
    return ((str(source.get("url")), str(source.get("type"))) for source in client.sources())


_KINDS: Mapping[str, Callable[[Client, bool], Iterator[Candidate]]] = {
    "installed": _installed,
    "available": _available,
    "jobs": _jobs,
    "history": _history,
    "pools": _pools,
    "sources": _sources,
}


def _images(documents: Iterable[Mapping[str, Any]], by_name: bool) -> Iterator[Candidate]:
    """Each image by its uuid, and by its name and version where no other one has the same."""
    named: dict[str, list[str]] = {}
    for document in documents:
        uuid, name = str(document.get("uuid")), f"{document.get('name')}@{document.get('version')}"
        name = name if document.get("name") else ""
        named.setdefault(name, []).append(uuid)
    for name, uuids in sorted(named.items()):
        if by_name and name and len(uuids) == 1:
            yield name, uuids[0]
    for name, uuids in sorted(named.items()):
        yield from ((uuid, name) for uuid in uuids)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises `TimeoutError` in the block when it takes longer."""
    before = signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_late(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError("timed out")
