"""The progress bar of a request: bytes, rate and time left, below the lines about events.

Without the package tqdm there are only the lines.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TextIO

from imgctl.text import size

try:
    from tqdm import tqdm
except ImportError:
    HAS_BAR = False
else:
    HAS_BAR = True
    # No thread that watches over the bar, and no lock between processes: there is one of each.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())

if TYPE_CHECKING:
    from typing import Any

#: What there is room for in a terminal of at least so many columns.
_FORMS = (
    (79, "{l_bar}{bar}| {amount} [{elapsed}<{remaining}, {speed}]"),
    (56, "{l_bar}{bar}| {amount}, {remaining} left"),
    (0, "{percentage:3.0f}%, {remaining} left, {amount}"),
)
#: The same where nobody knows how much is to come.
_FORMS_WITHOUT_TOTAL = ((56, "{desc}: {amount} [{elapsed}, {speed}]"), (0, "{amount}, {speed}"))


class Bar:
    """One bar on a terminal, which `close` removes."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._bar: tqdm[Any] | None = None

    def show(self, label: str, done: int, total: int | None) -> None:
        """Draws `done` of `total` bytes (None: not known)."""
        if not HAS_BAR:
            return
        if self._bar is not None and done < self._bar.n:
            self.clear()  # it began again: there is no rate yet
        if self._bar is None:
            # What was there before does not count for the rate.
            self._bar = _tqdm()(
                desc=label,
                total=total,
                initial=done,
                leave=False,
                mininterval=0,  # the daemon sends no more than can be looked at
                dynamic_ncols=True,
                file=self._terminal,
            )
            return
        self._bar.total = total
        self._bar.set_description_str(label, refresh=False)
        self._bar.update(done - self._bar.n)

    def print_above(self, line: str, stream: TextIO) -> None:
        """Prints a line; the bar moves down."""
        if self._bar is None:
            print(line, file=stream)
        else:
            tqdm.write(line, file=stream)

    def clear(self) -> None:
        """Removes the bar until the next `show`."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def close(self) -> None:
        """Removes the bar."""
        self.clear()


def _tqdm() -> type[tqdm[Any]]:
    """A bar with our units, and with what a terminal of its width has room for."""

    class _InBytes(tqdm):  # type: ignore[type-arg]  # not generic when it runs
        @property
        def format_dict(self) -> Any:
            facts = super().format_dict
            total, columns, rate = facts["total"], facts["ncols"] or 80, facts["rate"]
            if rate is None and facts["elapsed"]:
                rate = (facts["n"] - facts["initial"]) / facts["elapsed"]
            forms = _FORMS if total else _FORMS_WITHOUT_TOTAL
            return {
                **facts,
                "bar_format": next(form for least, form in forms if columns >= least),
                "amount": size(facts["n"]) + (f" of {size(total)}" if total else ""),
                "speed": f"{size(int(rate))}/s" if rate else "-",
            }

    return _InBytes
