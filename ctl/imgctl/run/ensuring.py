"""Ensures the images of several pools at the same time; reports progress only on a terminal."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from imgctl import event_text
from imgctl.run.narrator import TerminalBar
from imgctl.session import is_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproto.events import EventDocument

    from imgctl.client import Client

    #: A client of its own, the pool (None: the daemon's first one), and the images.
    Part = tuple[Client, str | None, Sequence[str]]


def ensure_all(parts: Sequence[Part]) -> None:
    """Returns when all images are installed. Raises the first error; the other imports then end, too."""
    tell = _Teller(with_bar=len(parts) == 1)
    try:
        if len(parts) == 1:
            _ensure(parts[0], tell)
        else:
            _side_by_side(parts, tell)
    finally:
        tell.close()


def _ensure(part: Part, tell: _Teller) -> None:
    client, pool, uuids = part
    with client:
        client.ensure(uuids, pool=pool, on_event=tell)


def _side_by_side(parts: Sequence[Part], tell: _Teller) -> None:
    """A thread a pool. Whoever is left when one has failed, or at Ctrl-C, ends with this process."""
    ended: list[BaseException | None] = []
    changed = threading.Condition()

    def run(part: Part) -> None:
        error: BaseException | None = None
        try:
            _ensure(part, tell)
        except BaseException as raised:  # noqa: BLE001  (raised below, in the thread that waits)
            error = raised
        with changed:
            ended.append(error)
            changed.notify()

    for part in parts:
        threading.Thread(target=run, args=(part,), daemon=True).start()
    with changed:
        changed.wait_for(lambda: len(ended) == len(parts) or any(ended))
    for error in ended:
        if error is not None:
            raise error


class _Teller:
    """Lines and a bar for people on standard error: all of standard output is vmadm's."""

    def __init__(self, *, with_bar: bool) -> None:
        self._terminal = sys.stderr if is_terminal(sys.stderr) else None
        self._bar = TerminalBar(wanted=with_bar)
        self._lock = threading.Lock()

    def __call__(self, event: EventDocument) -> None:
        if event["event"] == "already-installed":
            return
        with self._lock:
            if self._terminal is None:
                return
            if event["event"] == "progress":
                self._bar.show(event)
            elif (line := event_text.line(event)) is not None:
                self._bar.print(line, self._terminal)

    def close(self) -> None:
        """Removes the bar, and returns once no thread writes any more: Python aborts if it ends meanwhile."""
        with self._lock:
            self._terminal = None
            self._bar.close()
