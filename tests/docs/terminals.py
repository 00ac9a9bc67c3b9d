"""`python -m tests.docs.terminals` records what terminals of several kinds show, into docs/sessions.md.

The page's beginning, imports under way, is what `tests.docs.record_terminal` records.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from docs.make.recording import screen
from tests.docs.pages import ROOT
from tests.docs.sandbox import Sandbox

PAGE = ROOT / "docs" / "sessions.md"
#: In place of the image server, with as many characters, so that columns stay columns.
SERVER = "http://img.example.com"

#: The kinds of terminals: columns, and the environment.
_UTF8 = {"TERM": "xterm", "NO_COLOR": "1"}
TERMINALS = {
    "100 columns": (100, _UTF8),
    "40 columns": (40, _UTF8),
    "without UTF-8": (
        80,
        {**_UTF8, "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
}


class Session(NamedTuple):
    """Commands for one thing to see, each on every terminal; `before` prepares it without a terminal."""

    title: str
    about: str
    commands: tuple[str, ...]
    before: tuple[str, ...] = ()


SESSIONS = (
    Session(
        "Units",
        "Sizes are KiB, MiB and GiB everywhere, with one decimal; rates have `/s` behind them.",
        ("imgctl avail -o name,size", "imgctl tree", "imgctl status"),
        before=("imgctl import -q incremental",),
    ),
    Session(
        "Several names, and slips",
        "All images are tried, each has its own outcome, and the worst status counts. A slip gets a hint.",
        ("imgctl get nothing basee", "imgctl ls -o name,nmae", "imgctl lsit", "imgctl list --pol zones"),
    ),
    Session(
        "What people ask of an image",
        "`info` is for people, `get` for programs.",
        ("imgctl info base", "imgctl holds", "imgctl alias", "imgctl outdated", "imgctl vacuum -n"),
        before=("imgctl hold base nightly", "imgctl alias stable base@1.0.0"),
    ),
    Session(
        "Forms",
        "Every listing has the same ones; with `-j` an error is JSON, too.",
        (
            "imgctl list -o csv,name,version",
            "imgctl list -o yaml,name,zpool",
            "imgctl list -q",
            "imgctl delete -j nothing",
        ),
    ),
    Session(
        "Tables",
        "What is too long is cut on a terminal, and uuids to a beginning that still means one image.",
        ("imgctl list", "imgctl du", "imgctl history -n 2"),
    ),
    Session(
        "Streams and other hosts",
        "An image goes through a pipe with its manifest.",
        (
            "imgctl export base -o /tmp/nowhere/",
            "imgctl export -o - base | tar -t",
            "imgctl copy base -- -oProxyCommand=x",
        ),
    ),
    Session(
        "The configuration",
        "Where each value is from, and all that is wrong at once.",
        (
            "cat /tmp/wrong.toml",
            "imgctl config show | head -n 3",
            "imgctl config check --config /tmp/wrong.toml",
        ),
        before=("printf '[view]\\npth = 1\\nmode = \"fues\"\\n' > /tmp/wrong.toml",),
    ),
    Session(
        "Completion",
        "The shells ask imgctl itself, which asks the daemon for names.",
        ("imgctl __complete words get ba", "imgctl __complete words list -o na"),
    ),
)


def recorded(sandbox: Sandbox) -> str:
    """The page from the first of these sessions on, as imgctl shows it today."""
    lines: list[str] = []
    for session in SESSIONS:
        lines.append(f"\n## {session.title}\n\n{session.about}\n")
        for command in session.before:
            status, printed = sandbox.run(command)
            assert status == 0, printed
        for name, (columns, environment) in TERMINALS.items():
            lines.append(f"{name[:1].upper()}{name[1:]}:\n\n```text")
            for command in session.commands:
                written = sandbox.on_terminal(command, columns, environment)
                lines += [f"$ {command}", *map(_steady, screen(written, 10_000))]
            lines.append("```\n")
    return "\n".join(lines).strip() + "\n"


def _steady(line: str) -> str:
    """The line without what is another one on each machine."""
    # In a table the columns stay where they are.
    width = 0 if " of " in line else 1

    def free(found: re.Match[str]) -> str:
        return f"{'...':<{width * len(found[1])}} GiB"

    line = re.sub(r"([\d.]+) (?:GiB|TiB)\b", free, line)
    return re.sub(r"(?<=[\[|#]) *[#█▏▎▍▌▋▊▉ ]*(?=[\]|])", " ... ", line)


def page() -> str:
    """Records it in a new sandbox, whose folder has a name as long as another one's."""
    with (
        tempfile.TemporaryDirectory(prefix="docs-") as folder,
        Sandbox(Path(folder), with_source=True, images=SERVER) as sandbox,
    ):
        return recorded(sandbox)


def parts(text: str) -> tuple[str, str]:
    """The beginning of the page, and these sessions."""
    at = text.index(f"\n## {SESSIONS[0].title}\n") + 1
    return text[:at], text[at:]


if __name__ == "__main__":
    PAGE.write_text(parts(PAGE.read_text())[0] + page())
    sys.stderr.write(f"wrote {PAGE.relative_to(ROOT)}\n")
