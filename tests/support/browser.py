"""A headless Chromium that is told by its DevTools protocol how wide a page is, and asked how it came out.

Its window cannot be as narrow as a phone, whatever `--window-size` says; the emulated screen can.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
from select import select
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

#: Seconds for any answer; far longer than anything takes.
TIMEOUT = 60.0

_CHROMIUM = (
    "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip

#: Chromium reads commands from this descriptor, and answers at the next one.
_COMMANDS = 3


class Browser:
    """One page at a time. `folder` is for its profile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = b""
        self._number = 0
        self._session = ""

    def __enter__(self) -> Browser:
        theirs, self._commands = os.pipe()
        self._answers, theirs_out = os.pipe()
        # A shell places the descriptors, in a process that has no threads.
        line = f'exec "$@" {_COMMANDS}<&{theirs} {_COMMANDS + 1}>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "bash", *_CHROMIUM, f"--user-data-dir={self._folder}", "about:blank"],
            pass_fds=(theirs, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(theirs_out)
        try:
            target = self._ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._ask("Page.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def screen(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """The next pages are shown on a screen of so many pixels."""
        # Not as a phone, which would make the page smaller until all of it fits.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Emulation.setScrollbarsHidden", hidden=True)
        scheme = "dark" if dark else "light"
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Returns when the page and all that it loads are there."""
        answer = self._ask("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, *, whole: bool = False) -> bytes:
        """What is on the screen, or with `whole` the page to its end, as PNG."""
        answer = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def too_wide(self) -> list[str]:
        """What makes the page scroll sideways: the elements that stick out, or else how wide it is."""
        found: list[str] = self.evaluate(_TOO_WIDE)
        return found

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        command: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, wanted: Any) -> dict[str, Any]:
        """The next message that is wanted; others are skipped."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            message, end, rest = self._read.partition(b"\0")
            if end:
                self._read = rest
                document: dict[str, Any] = json.loads(message)
                if wanted(document):
                    return document
                continue
            ready, _, _ = select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "chromium does not answer"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "chromium has ended"
            self._read += piece

    def _end(self) -> None:
        # The session is its own: all that it has started ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT)
        os.close(self._commands)
        os.close(self._answers)


_TOO_WIDE = """
(() => {
  const root = document.documentElement;
  if (root.scrollWidth <= innerWidth) return [];
  const scrolls = (node) => {
    for (let each = node.parentElement; each; each = each.parentElement) {
      const style = getComputedStyle(each);
      if (style.overflowX !== "visible" && each !== document.body && each !== root) return true;
      if (style.position === "fixed") return true;
    }
    return false;
  };
  const out = [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !scrolls(each))
    .map((each) => `${each.tagName} ${each.className} ${each.textContent.trim().slice(0, 60)}`);
  return [`${root.scrollWidth} of ${innerWidth} pixels`, ...out.slice(0, 8)];
})()
"""
