"""`status` and `top`: the state of the daemon, once or continuously."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from imgctl.errors import NotConnectedError, RemoteError
from imgctl.listing import document_form, say_document, with_new_keys
from imgctl.patience import is_lost, seconds
from imgctl.session import flush, is_terminal, json_text
from imgctl.status_text import away_lines, problems, status_lines, top_lines
from imgctl.text import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproto.documents import StatusDocument

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.fitting import Screen
    from imgctl.screen import Layout
    from imgctl.session import Session
    from imgctl.status_text import Line

#: Seconds that the daemon may take for its answer; it asks no other machine.
_TIMEOUT = 15.0

#: Seconds between two frames, and what they may be.
_EVERY, _SHORTEST, _LONGEST = 1.0, 0.1, 3600.0


def status(session: Session, arguments: Arguments) -> int:
    """`status [-j]`. Status 1 if something needs attention."""
    arguments.none()
    form = document_form(arguments)
    with session.client(timeout=_TIMEOUT) as client:
        found = client.status()
    if form:
        say_document(session, with_new_keys(found), form)
    else:
        session.say(status_lines(found, time.time(), session.screen))
    return 1 if problems(found) else 0


def top(session: Session, arguments: Arguments) -> None:
    """`top [-d SECONDS] [-n COUNT] [-j]`."""
    arguments.none()
    count = arguments.number("-n", "number of frames", 1)
    every = arguments.seconds("-d", _SHORTEST, _LONGEST) or _EVERY
    with session.client(timeout=_TIMEOUT) as client:
        looks = _Looks(client, count, session.screen)
        if arguments.flag("-j"):
            looks.print_json(every)
        elif not _has_screen() or not _on_screen(looks, every):
            looks.print_frames(every)


class _Looks:
    """As many frames as the user wants, each from a request of its own: an answer has all, and is small."""

    def __init__(self, client: Client, count: int | None, screen: Screen | None) -> None:
        self._client = client
        self._screen = screen
        self._left = count
        self._last: StatusDocument | None = None
        self._away_since: float | None = None
        self._patience = seconds()

    def _status(self) -> StatusDocument | None:
        """The next answer; None while the daemon is away. Raises `RemoteError` when that takes too long."""
        try:
            found = self._client.status()
        except RemoteError as error:
            if self._last is None or not (is_lost(error) or isinstance(error, NotConnectedError)):
                raise
            now = time.monotonic()
            self._away_since = self._away_since or now
            if self._patience is None or now - self._away_since > self._patience:
                raise
            return None
        self._last, self._away_since = found, None
        return found

    def frame(self) -> Layout | None:
        """The next frame, by the number of columns; None when there were enough."""
        if self._left == 0:
            return None
        if self._left is not None:
            self._left -= 1
        found, now, screen = self._status(), time.time(), self._screen
        if found is None:
            away = duration(time.monotonic() - (self._away_since or 0.0))
            notice = f"imgstored is away, since {away}: waiting for it, for up to {duration(self._patience)}"
            return lambda columns: away_lines(notice, screen and screen._replace(columns=columns))

        def layout(columns: int) -> Sequence[Line]:
            return top_lines(found, now, screen and screen._replace(columns=columns))

        return layout

    def print_frames(self, seconds: float) -> None:
        """One after another, with an empty line between them."""
        first = True
        while (layout := self.frame()) is not None:
            lines = layout(self._screen.columns if self._screen else 0)
            print("\n".join([*([] if first else [""]), *(line.text for line in lines)]))
            first = False
            self._pause(seconds)

    def print_json(self, seconds: float) -> None:
        """Each answer as a line."""
        while self._left != 0:
            self._left = None if self._left is None else self._left - 1
            found = self._status()
            if found is not None:
                print(json_text(with_new_keys(found)))
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        flush(sys.stdout)
        if self._left != 0:
            time.sleep(seconds)


def _has_screen() -> bool:
    terminal = is_terminal(sys.stdout) and is_terminal(sys.stdin)
    return terminal and (os.environ.get("TERM") or "dumb") != "dumb"


def _on_screen(looks: _Looks, seconds: float) -> bool:
    """True if there could be a screen."""
    try:
        import curses

        from imgctl.screen import show
    except ImportError:  # some systems have it in a package of its own
        return False
    try:
        show(looks.frame, seconds)
    except curses.error:
        return False
    return True
