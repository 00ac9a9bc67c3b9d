"""Progress bars on a terminal, below the lines about events.

`Bar` counts bytes, as imgadm does. `Bars` has a line for each image under way and one for all of them, with
what the daemon says of their slowest stage. Without the package tqdm there are only the lines.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, TextIO

from imgctl.event_text import bar_label
from imgctl.fitting import cells, cut
from imgctl.text import duration, printable, rate_cell, size

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
    from collections.abc import Mapping
    from typing import Any

    from imgproto.events import ImageProgress, Progress

#: What there is room for in a terminal of at least so many columns.
_FORMS = (
    (79, "{l_bar}{bar}| {amount} [{elapsed}<{remaining}, {speed}]"),
    (56, "{l_bar}{bar}| {amount}, {remaining} left"),
    (0, "{percentage:.0f}%, {remaining} left, {amount}"),
)
#: The same where nobody knows how much is to come.
_FORMS_WITHOUT_TOTAL = ((56, "{desc}: {amount} [{elapsed}, {speed}]"), (0, "{amount}, {speed}"))


#: The columns of a terminal from which on there is a bar, and from which on there are bytes and rate.
_WITH_BAR, _WITH_BYTES = 56, 79
#: Images that have a line of their own; lines of the terminal that are left free.
_MAX_LINES, _FREE_LINES = 8, 4

#: Columns that a bar leaves free, beside the one that tqdm does: a terminal writes ^C there, and would go to
#: the next line otherwise, from which nobody could remove the bar any more.
_SPARE = 1

#: Columns of a terminal that does not say how many it has.
_WIDTH = 80

#: The steps of a bar.
_SCALE = 10_000

#: What an image waits for, where that is not the network.
_WAITS = {
    "turn": "waits for its turn",
    "origin": "waits for its origin",
    "lock": "waits for a lock",
    "checksum": "checksum",
    "decompress": "decompressing",
    "pool": "pool",
}


def shown(
    before: Bar | Bars | None, progress: Progress, terminal: TextIO, *, bytes_only: bool = False
) -> Bar | Bars:
    """What shows a request's progress, which it does now; `before` is what showed it before.

    imgadm's bar counts bytes; an older daemon says nothing else, and so does one that verifies.
    """
    if bytes_only or "fraction" not in progress:
        bar = before if isinstance(before, Bar) else Bar(terminal)
        bar.show(bar_label(progress), progress["done"], progress["total"])
        return bar
    encoding = (getattr(terminal, "encoding", None) or "").lower()
    bars = (
        before if isinstance(before, Bars) else Bars(terminal, "…" if encoding.startswith("utf") else "...")
    )
    bars.show(progress)
    return bars


class Bars:
    """Lines on a terminal, which `close` removes."""

    def __init__(self, terminal: TextIO, ellipsis: str) -> None:
        self._terminal = terminal
        self._ellipsis = ellipsis
        self._lines: list[tqdm[Any]] = []

    def show(self, progress: Progress) -> None:
        """Draws what is under way of a request."""
        if not HAS_BAR:
            return
        columns, rows = _size(self._terminal)
        facts = _facts(progress, min(_MAX_LINES, max(1, rows - _FREE_LINES)))
        texts = [_texts(each, columns, self._ellipsis) for _, each in facts]
        # Bars are of one length, or nobody could compare them.
        width = max((cells(after) for _, after, has_bar in texts if has_bar), default=0)
        lines = [
            (
                fraction,
                f"{before}|{{bar}}| {after}{' ' * (width - cells(after))}" if has_bar else before + after,
            )
            for (fraction, _), (before, after, has_bar) in zip(facts, texts, strict=True)
        ]
        while len(self._lines) > len(lines):
            self._lines.pop().close()
        for place, (fraction, form) in enumerate(lines):
            if place == len(self._lines):
                self._lines.append(_line(self._terminal, place, form))
            line = self._lines[place]
            line.bar_format, line.n = form, int(_SCALE * (fraction or 0.0))
            line.refresh()

    def print_above(self, line: str, stream: TextIO) -> None:
        """Prints a line; the bars move down."""
        if self._lines:
            tqdm.write(line, file=stream)
        else:
            print(line, file=stream)

    def clear(self) -> None:
        """Removes the lines until the next `show`."""
        while self._lines:
            self._lines.pop().close()

    def close(self) -> None:
        """Removes the lines."""
        self.clear()


def _line(terminal: TextIO, place: int, form: str) -> tqdm[Any]:
    class _Line(tqdm):  # type: ignore[type-arg]  # not generic when it runs
        @property
        def format_dict(self) -> Any:
            facts = super().format_dict
            return {**facts, "ncols": max(1, (facts["ncols"] or _WIDTH) - _SPARE)}

    return _Line(
        total=_SCALE,
        position=place,
        leave=False,
        mininterval=0,
        dynamic_ncols=True,
        bar_format=form,
        file=terminal,
    )


def _size(terminal: TextIO) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(terminal.fileno())
    except (OSError, ValueError):
        return _WIDTH, 24
    return columns or _WIDTH, rows or 24


def _facts(progress: Progress, most: int) -> list[tuple[float | None, dict[str, str]]]:
    """What each line says: the images that are under way, and all of the request."""
    under_way = [image for image in progress["images"] if image["phase"] != "installed"]
    shown = sorted(under_way, key=lambda image: image["phase"] == "waiting")
    if len(under_way) > most:
        shown = shown[: most - 1]
    lines = [(image.get("fraction"), _of_image(image)) for image in shown]
    count = len(progress["images"])
    if count > 1:
        lines.append(
            (progress.get("fraction"), {**_common(progress), "name": f"{count} images", "waits": ""})
        )
    return lines


def _of_image(image: ImageProgress) -> dict[str, str]:
    name = printable(image["name"]) + (f"@{printable(image['version'])}" if image["version"] else "")
    waits = _WAITS.get(image.get("limits") or "", "")
    if image["phase"] in ("waiting", "installing") and not waits:
        waits = image["phase"]
    return {**_common(image), "name": name, "waits": waits}


def _common(facts: Mapping[str, Any]) -> dict[str, str]:
    fraction, total = facts.get("fraction"), facts["total"]
    left = duration(facts.get("eta"))
    return {
        # Not rounded: 100 % is an installed image.
        "percent": "  ?%" if fraction is None else f"{int(100 * fraction):3d}%",
        "amount": size(facts["done"]) + (f" of {size(total)}" if total else ""),
        "rate": rate_cell(facts.get("rate")) or "",
        "left": f"{left} left" if left else "",
        "known": "" if fraction is None else "yes",
    }


def _texts(facts: Mapping[str, str], columns: int, ellipsis: str) -> tuple[str, str, bool]:
    """What a line of so many columns says before its bar and after it, and whether it has one.

    As parts of a format of tqdm's, which puts in the bar.
    """
    if columns >= _WITH_BYTES:
        said, room = [facts["amount"], facts["rate"], facts["left"], facts["waits"]], 24
    elif columns >= _WITH_BAR:
        said, room = [facts["left"] or facts["waits"]], 20
    else:
        said, room = (
            [facts["left"], facts["waits"] if not facts["left"] else facts["rate"]],
            max(8, columns // 2 - 6),
        )
    tail = ", ".join(each for each in said if each)
    name = cut(facts["name"], room, ellipsis)
    name = (
        (name + " " * (room - cells(name)) if columns >= _WITH_BAR else name)
        .replace("{", "{{")
        .replace("}", "}}")
    )
    if columns >= _WITH_BAR and facts["known"]:
        return f"{name} {facts['percent']}", tail, True
    return f"{name} {facts['percent']}", f"{', ' if tail else ''}{tail}", False


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
                desc=printable(label),
                total=total,
                initial=done,
                leave=False,
                mininterval=0,  # the daemon sends no more than can be looked at
                dynamic_ncols=True,
                file=self._terminal,
            )
            return
        self._bar.total = total
        self._bar.set_description_str(printable(label), refresh=False)
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
            total, columns, rate = facts["total"], facts["ncols"] or _WIDTH, facts["rate"]
            if rate is None and facts["elapsed"]:
                rate = (facts["n"] - facts["initial"]) / facts["elapsed"]
            forms = _FORMS if total else _FORMS_WITHOUT_TOTAL
            return {
                **facts,
                "ncols": max(1, columns - _SPARE),
                "bar_format": next(form for least, form in forms if columns >= least),
                "amount": size(facts["n"]) + (f" of {size(total)}" if total else ""),
                "speed": f"{size(int(rate))}/s" if rate else "-",
            }

    return _InBytes
