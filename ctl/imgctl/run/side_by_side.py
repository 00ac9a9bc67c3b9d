"""Imports several images at the same time, each with a client of its own, and tells of them as of one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from imgctl.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgproto.events import EventDocument, Progress

    from imgctl.connection import OnEvent
    from imgctl.run.several import Named

#: Imports that are asked for at a time; the daemon downloads fewer.
_AT_ONCE = 8


def each_at_once(
    images: Sequence[Named],
    import_one: Callable[[str, OnEvent], None],
    tell: OnEvent,
    seconds: float | None = None,
) -> dict[Named, CommandError]:
    """Imports each image; returns the errors, in the order of the images. What takes longer than that is one.

    All threads tell through one lock. At Ctrl-C they end with this process, and with them what they wanted.
    """
    ended: dict[Named, BaseException | None] = {image: image.error for image in images if not image.uuid}
    ahead = iter([image for image in images if image.uuid])
    changed = threading.Condition()
    sums = _Sums(tell)

    def work() -> None:
        while (image := _next(ahead, changed)) is not None:
            error: BaseException | None = None
            try:
                import_one(image.uuid or "", sums.teller(image.text))
            except BaseException as raised:  # noqa: BLE001  (raised below, in the thread that waits)
                error = raised
            sums.done(image.text)
            with changed:
                ended[image] = error
                changed.notify()

    for _ in range(min(_AT_ONCE, len(images))):
        threading.Thread(target=work, daemon=True).start()
    try:
        with changed:
            changed.wait_for(lambda: len(ended) == len(images), seconds)
    finally:
        sums.silence()
    errors: dict[Named, CommandError] = {}
    for image in images:
        match ended.get(image, _too_long(image, seconds)):
            case None:
                pass
            case CommandError() as error:
                errors[image] = error
            case other:
                raise other
    return errors


def _too_long(image: Named, seconds: float | None) -> CommandError:
    return CommandError(
        "TimedOut",
        f"image {image.text} is not installed after {seconds or 0:g} s",
        "its import goes on if anybody wants it: `imgctl jobs`",
        TIMED_OUT,
    )


def _next(ahead: Iterator[Named], lock: threading.Condition) -> Named | None:
    with lock:
        return next(ahead, None)


#: The exit status, as of timeout(1).
TIMED_OUT = 124


class _Sums:
    """Passes on events one at a time; the progress is that of all imports together."""

    def __init__(self, tell: OnEvent) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._latest: dict[str, Progress] = {}
        self._silent = False
        self._told: set[str] = set()

    def silence(self) -> None:
        """Returns once nobody tells anything any more.

        Python aborts when it ends while a thread is writing to one of its files.
        """
        with self._lock:
            self._silent = True

    def teller(self, text: str) -> OnEvent:
        """The listener for the events of one import."""

        def tell(event: EventDocument) -> None:
            with self._lock:
                if self._silent:
                    return
                if event["event"] == "progress":
                    self._latest[text] = event
                    event = self._sum()
                elif (fact := repr(sorted(event.items(), key=lambda item: item[0]))) in self._told:
                    return  # of an origin that several images share
                else:
                    self._told.add(fact)
                self._tell(event)

        return tell

    def done(self, text: str) -> None:
        """The import has ended: nothing of it is under way."""
        with self._lock:
            if not self._silent and (last := self._latest.get(text)) is not None:
                last["images"] = []
                if last.get("fraction") is not None:
                    last["fraction"], last["eta"] = 1.0, None
                self._tell(self._sum())

    def _sum(self) -> Progress:
        all_ = [*self._latest.values()]
        totals = [each["total"] for each in all_]
        summed: Progress = {
            "event": "progress",
            "done": sum(each["done"] for each in all_),
            "total": None if None in totals else sum(total or 0 for total in totals),
            "rate": sum(each["rate"] for each in all_),
            "images": [image for each in all_ for image in each["images"]],
        }
        # Of an older daemon nobody knows.
        if all("fraction" in each for each in all_):
            summed["fraction"], summed["eta"] = self._far(all_)
        return summed

    def _far(self, all_: Sequence[Progress]) -> tuple[float | None, float | None]:
        """How far all of them are, large ones more than small ones, and how long the last one takes."""
        known = [(each.get("fraction"), each["total"]) for each in all_]
        whole = sum(total or 0 for _, total in known)
        etas = [eta for each in all_ if (eta := each.get("eta")) is not None]
        if not whole or any(fraction is None or total is None for fraction, total in known):
            return None, max(etas, default=None)
        passed = sum((fraction or 0.0) * (total or 0) for fraction, total in known)
        return passed / whole, max(etas, default=None)
