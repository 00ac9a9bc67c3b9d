"""A live screen, drawn by curses: without flicker, at any size, and removed at exit."""

from __future__ import annotations

import curses
import os
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from imgctl.status_text import Line

    Layout = Callable[[int], Sequence[Line]]

#: Keys that end it; Ctrl-C is a signal.
_QUIT = {ord("q"), ord("Q")}

#: Columns below which nothing is laid out any narrower.
_NARROWEST = 20

#: Signals that would leave the terminal as it is.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def show(frames: Callable[[], Layout | None], seconds: float) -> None:
    """Draws a frame every so many seconds, until there are no more or the user presses q.

    A frame is a function of the number of columns: the window may change its size meanwhile.

    Whatever ends it, the terminal is as it was before. Raises `curses.error` where there can be no screen.
    """
    # Once set, ncurses would not look at how large the window is.
    for name in ("LINES", "COLUMNS"):
        os.environ.pop(name, None)
    curses.setupterm()
    with _leaving_on_signals():
        curses.wrapper(_run, frames, seconds)


def _run(screen: curses.window, frames: Callable[[], Layout | None], seconds: float) -> None:
    styles = _styles()
    with suppress(curses.error):  # a terminal that cannot
        curses.curs_set(0)
    while (layout := frames()) is not None:
        due = time.monotonic() + seconds
        _draw(screen, layout, styles)
        while (left := due - time.monotonic()) > 0:
            screen.timeout(max(1, int(left * 1000)))
            key = screen.getch()
            if key in _QUIT:
                return
            if key == curses.KEY_RESIZE:
                _draw(screen, layout, styles)
            elif key == -1 and due - time.monotonic() > 0.05:
                time.sleep(0.05)  # a terminal that is gone has no keys, and says so at once


def _draw(screen: curses.window, layout: Layout, styles: dict[str, int]) -> None:
    height, width = screen.getmaxyx()
    screen.erase()
    for row, line in enumerate(layout(max(_NARROWEST, width - 1))[:height]):
        text = line.text.encode(screen.encoding, "backslashreplace").decode(screen.encoding)
        with suppress(curses.error):  # the window became smaller, or a character is wider
            # In the last column of the last row the cursor has nowhere to go.
            screen.addnstr(row, 0, text, width - 1, styles.get(line.style, curses.A_NORMAL))
    screen.refresh()


def _styles() -> dict[str, int]:
    bad = curses.A_BOLD
    if curses.has_colors() and not os.environ.get("NO_COLOR"):
        with suppress(curses.error):  # a terminal that has no default colours
            curses.use_default_colors()
            curses.init_pair(1, curses.COLOR_RED, -1)
            bad |= curses.color_pair(1)
    return {"title": curses.A_BOLD, "columns": curses.A_REVERSE, "bad": bad}


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """Turns signals that would end the process at once into an orderly end."""
    before: list[Any] = [signal.signal(number, _leave) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in zip(_ENDING, before, strict=True):
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
