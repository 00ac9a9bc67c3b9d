"""Tells of a request while it runs: lines, and on a terminal bars; or each event as a line of JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from imgctl import event_text
from imgctl.errors import CommandError
from imgctl.listing import with_new_keys
from imgctl.patience import BACK
from imgctl.session import GREEN, flush, is_terminal, json_text
from imgctl.text import printable

if TYPE_CHECKING:
    from types import TracebackType

    from imgproto.events import EventDocument, Progress

    from imgctl.arguments import Arguments
    from imgctl.progress import Bar, Bars
    from imgctl.session import Session

#: The events after which an image is there: since now, and in any case.
_NEW = ("installed", "installed-meanwhile")
_THERE = (*_NEW, "already-installed")


def event_document(session: Session, event: EventDocument) -> Any:
    """An event as a program reads it."""
    return event if session.is_imgadm else with_new_keys(event)


class TerminalBar:
    """A bar on standard error, below the lines; there is none if it is no terminal, or not `wanted`.

    What draws it is imported when there is first something to draw.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._terminal = sys.stderr if wanted and is_terminal(sys.stderr) else None
        self._bar: Bar | Bars | None = None

    def __enter__(self) -> TerminalBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, progress: Progress, *, bytes_only: bool = False) -> None:
        """Draws how far the images of a request are; nothing if none is under way."""
        if self._terminal is None:
            return
        if not progress["images"]:
            if self._bar is not None:
                self._bar.clear()
            return
        from imgctl.progress import shown

        self._bar = shown(self._bar, progress, self._terminal, bytes_only=bytes_only)

    def show_bytes(self, label: str, done: int, total: int | None) -> None:
        """Draws `done` of `total` bytes (None: not known)."""
        if self._terminal is None:
            return
        from imgctl.progress import Bar

        if not isinstance(self._bar, Bar):
            self.close()
            self._bar = Bar(self._terminal)
        self._bar.show(label, done, total)

    def print(self, line: str, stream: TextIO) -> None:
        """Prints a line; the bar moves down."""
        if self._bar is not None:
            self._bar.print_above(line, stream)
        else:
            print(line, file=stream)
        flush(stream)

    def close(self) -> None:
        """Removes the bar."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


class Narrator:
    """Reports a request's events. Under imgadm's name it is as imgadm reports them.

    `resumes`: the same command goes on with what an interrupted one has downloaded, and Ctrl-C says so.
    """

    def __init__(self, session: Session, arguments: Arguments, *, resumes: bool = False) -> None:
        self._as_json = arguments.flag("-j")
        self._session = session
        self._has_notes = session.verbose or is_terminal(sys.stderr)
        self._bar = TerminalBar(wanted=not self._as_json and not arguments.flag("-q"))
        self._importing = False
        self._resumes = resumes and not session.is_imgadm
        self._progress: Progress | None = None
        self._lines: set[str] = set()
        self._told_again = False  # since the daemon was restarted
        self._note = ""  # the last one: several requests may have the same to say
        self.there: set[str] = set()  #: uuids of images that are installed, as far as was told
        self.new: set[str] = set()  #: those of them that were not before

    def __enter__(self) -> Narrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if isinstance(error, CommandError) and self._importing and not self._as_json:
            self._bar.print(event_text.abort(error.message), sys.stdout)
        if isinstance(error, KeyboardInterrupt) and self._resumes:
            kept = event_text.kept(self._progress)
            self._bar.print(
                f"{self._session.program}: interrupted: {kept}; the same command continues", sys.stderr
            )

    def __call__(self, event: EventDocument) -> None:
        """Reports one event."""
        self._remember(event)
        if self._as_json:
            self._bar.print(json_text(event_document(self._session, event)), sys.stdout)
            return
        if event["event"] == "progress":
            self._bar.show(event, bytes_only=self._session.is_imgadm)
        elif event["event"] == "note":
            again, self._note = event["text"] == self._note, event["text"]
            self._told_again = self._told_again or event["text"] == BACK
            if self._has_notes and not (again and not self._session.is_imgadm):
                self._bar.print(f"{self._session.program}: note: {printable(event['text'])}", sys.stderr)
        elif (line := event_text.line(event)) is not None:
            self._importing = self._importing or event["event"] == "importing"
            if line in self._lines and self._told_again:
                return
            self._lines.add(line)
            if event["event"] in _THERE:
                line = self._session.painted(line, GREEN, sys.stdout)
            self._bar.print(line, sys.stdout)

    def _remember(self, event: EventDocument) -> None:
        if event["event"] == "progress":
            self._progress = event
        if event["event"] in _THERE:
            self.there.add(str(event.get("uuid")))
        if event["event"] in _NEW:
            self.new.add(str(event.get("uuid")))
