"""`completion` prints a script for a shell, which calls `__complete` while the user types."""

from __future__ import annotations

import re
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgctl.errors import RemoteError, UsageError
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType
    from typing import Any

    from imgctl.arguments import Arguments
    from imgctl.client import Client
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
    """`completion bash|zsh`."""
    from imgctl.shells.script import SHELLS, completion_script

    shell = arguments.one()
    if shell not in SHELLS:
        raise UsageError(f'unknown shell: "{shell}"', hint=f"it may be one of {', '.join(SHELLS)}")
    print(completion_script(shell, session.program), end="")


def complete(session: Session, arguments: Arguments) -> int:
    """`__complete KIND [PREFIX]`: a candidate a line, and what it is after a tab. Silent when it fails."""
    kind, prefix = (*arguments.rest, "", "")[:2]
    if kind not in _KINDS:
        return 1
    try:
        with _at_most(SECONDS), session.client() as client:
            candidates = [*_KINDS[kind](client, session.program != "imgadm")]
    except (RemoteError, OSError):
        return 1
    session.say(
        f"{word}\t{printable(meaning)}"
        for word, meaning in candidates
        if word.startswith(prefix) and _PLAIN.fullmatch(word)
    )
    return 0


def _installed(client: Client, by_name: bool) -> Iterator[Candidate]:
    return _images((image.get("manifest") or {} for image in client.list()), by_name)


def _available(client: Client, by_name: bool) -> Iterator[Candidate]:
    # Only where nothing is known yet are the sources worth the wait.
    known = client.known_images()
    return _images(known or (image["manifest"] for image in client.available()["images"]), by_name)


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
