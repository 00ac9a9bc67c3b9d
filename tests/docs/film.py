"""`python -m tests.docs.film` records an import, interrupted and continued: docs/pictures/session.svg."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from docs.make.recording import Frame, moving, screen, thinned
from tests.docs.pages import ROOT
from tests.e2e.conftest import made_image
from tests.support.daemon import Daemon
from tests.support.image_site import ImageSite
from tests.support.nginx import Nginx
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE = ROOT / "docs" / "pictures" / "session.svg"

COLUMNS = 92
_UUID = "5a7e2b1c-93d4-4c0f-8f1e-6b2d9c3a7e10"
_SIZE = 48 << 20
#: Seconds of the picture between two looks, and after each command.
_LEAST, _PAUSE = 0.25, 1.2


def main() -> None:
    """Records the session with real parts: nginx, the daemon, imgctl on a terminal."""
    with tempfile.TemporaryDirectory(prefix="film-") as folder:
        PICTURE.write_text(
            moving([*filmed(Path(folder))], COLUMNS, "An import that is interrupted, and goes on")
        )
    sys.stderr.write(f"wrote {PICTURE.relative_to(ROOT)}\n")


def filmed(folder: Path) -> list[Frame]:
    """The frames."""
    site = ImageSite(folder / "site")
    manifest, file = made_image(_UUID, size=_SIZE)
    site.add({**manifest, "name": "web", "version": "1.2.0"}, file)
    # As from a server at some distance: each connection has a rate of its own.
    with Nginx(folder / "nginx", root=site.folder, limit_rate="600k") as nginx:
        source = f'[[sources]]\nurl = "{nginx.url}"\ntype = "static"\n'
        with Daemon(folder / "store", config=source, view="files") as daemon:
            film = _Film({nginx.url: "http://images.example.com", str(daemon.images): "/images"})
            environment = {
                "PATH": f"{Path(sys.prefix, 'bin')}:/usr/bin:/bin",
                "IMGSTORED_SOCKET": str(daemon.socket),
                "TERM": "xterm",
                "LANG": "C.UTF-8",
                "NO_COLOR": "1",
            }
            film.run("imgctl avail -o name,version,os,pub", environment)
            film.run("imgctl import web", environment, interrupt_at=40)
            film.run("imgctl import web", environment)
            film.run("imgctl list -o uuid,name,version", environment)
            film.run(f"ls {daemon.images}/by-name/web", environment)
    return thinned(film.frames, _LEAST)


class _Film:
    """The frames so far. `names` stand for what is in the folder of the recording."""

    def __init__(self, names: dict[str, str]) -> None:
        self.frames: list[Frame] = []
        self._names = names
        self._above: list[str] = []
        self._at = 0.0

    def run(self, command: str, environment: dict[str, str], *, interrupt_at: int | None = None) -> None:
        """Types a command, and films what it writes; presses Ctrl-C once the bar is at so many percent."""
        shown = f"$ {self._said(command)}"
        for end in range(2, len(shown) + 1, 4):
            self._add([shown[:end]], 0.12)
        self._add([shown], 0.3)
        began = time.monotonic()
        with Terminal(["/bin/sh", "-c", command], environment, size=(24, COLUMNS)) as terminal:
            while terminal.process.poll() is None:
                terminal.read_for(0.1)
                lines = self._screen(terminal)
                now = time.monotonic()
                self._add([shown, *lines], now - began)
                began = now
                percent = re.search(r"(\d+)%", lines[-1] if lines else "")
                if interrupt_at is not None and percent and int(percent[1]) >= interrupt_at:
                    terminal.type("\x03")
                    interrupt_at = None
            terminal.end()
            last = [shown, *self._screen(terminal)]
        self._add(last, _PAUSE)
        self._above += last

    def _screen(self, terminal: Terminal) -> list[str]:
        return screen(self._said(terminal.shown.decode("utf-8", "replace")), COLUMNS)

    def _said(self, text: str) -> str:
        for real, name in self._names.items():
            text = text.replace(real, name)
        return text

    def _add(self, lines: list[str], seconds: float) -> None:
        self.frames.append(Frame(self._at, (*self._above, *lines)))
        self._at += seconds


def texts(svg: str) -> Iterator[str]:
    """The lines of the last frame."""
    last = svg.rpartition('<g class="f"')[2]
    yield from re.findall(r"<text[^>]*>([^<]*)</text>", last)


if __name__ == "__main__":
    main()
