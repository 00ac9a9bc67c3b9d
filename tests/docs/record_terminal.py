"""`python -m tests.docs.record_terminal` records what imports look like on terminals into docs/sessions.md.

Everything is real: the daemon, which is killed in the middle, nginx with a limited rate, and terminals.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.docs.terminals import PAGE, SERVER, parts
from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.image_site import ImageSite
from tests.support.nginx import Nginx
from tests.support.terminal import Terminal, screen

if TYPE_CHECKING:
    from collections.abc import Iterator

WEB, DB = "44444444-aaaa-4bbb-8ccc-000000000001", "44444444-aaaa-4bbb-8ccc-000000000002"

_HEAD: Final = """\
# What terminals show

Programs record this page: the commands run on real terminals of 100 and of 40 columns, and in a locale
without UTF-8, all without colour. First come [imports](#several-images) from a server that sends slowly, as
a screen shows them at one moment (`python -m tests.docs.record_terminal`). Then comes [all else](#units)
(`python -m tests.docs.terminals`), which `tests/docs/test_terminals.py` runs again and compares.
"""


def main() -> None:
    """Writes the page."""
    with tempfile.TemporaryDirectory(prefix="terminal-") as folder:
        beginning = "\n".join([_HEAD.rstrip(), *_recorded(Path(folder)), "", ""])
    PAGE.write_text(beginning + parts(PAGE.read_text())[1])


def _recorded(folder: Path) -> Iterator[str]:
    pages = ImageSite(folder / "site")
    for uuid, name, size, seed in ((WEB, "web", 16 << 20, 1), (DB, "db", 8 << 20, 2)):
        pages.add(*made_image(uuid, size=size, seed=seed, name=name, version="1.2"))
    config = "[limits]\nconnections = 2\n"
    with (
        Nginx(folder / "nginx", root=pages.folder, limit_rate="200k") as nginx,
        Daemon(folder / "store", config=static_source(nginx.url) + config) as daemon,
    ):
        yield "\n## Several images\n\nA line for each, and one for all of them; Ctrl-C says what is kept:"
        with _terminal(daemon, "import", "web", "db") as shown:
            yield _frame(shown, nginx, "imgctl import web db", after=7.0)
            shown.type("\x03")
            shown.end()
            yield _block(shown, nginx, "imgctl import web db", last=2)
        yield "\n## The same command again, and a daemon that is killed and started"
        with _terminal(daemon, "import", "web", "db") as shown:
            shown.read_for(3.0)
            daemon.kill()
            shown.read_for(1.0)
            daemon.start()
            yield _frame(shown, nginx, "imgctl import web db", after=4.0)
        yield "\n## A terminal of 40 columns"
        with _terminal(daemon, "import", "web", "db", columns=40) as shown:
            yield _frame(shown, nginx, "imgctl import web db", after=2.0, last=3)
        yield "\n## No UTF-8, no colour"
        plain = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
        with _terminal(daemon, "import", "web", **plain) as shown:
            yield _frame(shown, nginx, "imgctl import web", after=2.0, last=1)
        yield "\n## Left to the daemon"
        for command in ("import --detach web db", "wait -t 1 web"):
            with _terminal(daemon, *command.split()) as shown:
                shown.end()
                yield _block(shown, nginx, f"imgctl {command}")
        with _terminal(daemon, "wait", "web", "db") as shown:
            shown.end()
            yield _block(shown, nginx, "imgctl wait web db", last=1)
        with _terminal(daemon, "events", "--since", "0", "--no-follow", columns=132) as shown:
            shown.end()
            yield "\n## What happened"
            yield _block(shown, nginx, "imgctl events --since 0 --no-follow")


def _terminal(daemon: Daemon, *arguments: str, columns: int = 100, **environment: str) -> Terminal:
    settings = {**os.environ, "IMGSTORED_SOCKET": str(daemon.socket), "LC_ALL": "C.UTF-8"}
    settings |= {"IMGCTL_RECONNECT": "", **environment}
    return Terminal([sys.executable, "-m", "imgctl", *arguments], settings, size=(24, columns))


def _frame(shown: Terminal, nginx: Nginx, command: str, *, after: float, last: int = 0) -> str:
    """What the screen shows so many seconds later, when nothing was being drawn."""
    shown.read_for(after)
    while shown.read_some(0.05):
        time.sleep(0)
    return _block(shown, nginx, command, last=last)


def _block(shown: Terminal, nginx: Nginx, command: str, *, last: int = 0) -> str:
    lines = screen(shown.shown)[-last:]
    text = "\n".join([f"$ {command}", *(["..."] if last else []), *lines])
    text = re.sub(r" *\^C| +$", "", text.replace(nginx.url, SERVER), flags=re.MULTILINE)
    return f"\n```text\n{re.sub(r'/tmp/[^ ]*/imgstored.sock', '/run/imgstored/imgstored.sock', text)}\n```"


if __name__ == "__main__":
    main()
