"""The progress bar, on a real terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import termios
from typing import Any

import pytest
from imgctl.progress import Bar

from docs.make.recording import screen as emulated
from imgstored.errors import DownloadError
from tests.ctl.fake_daemon import HOLD
from tests.support.events import Downloaded, ImageProgress, Importing, Installed, Note, Planned, Progress
from tests.support.terminal import Terminal
from tests.support.without import environment

U, V = (f"11111111-aaaa-4bbb-8ccc-00000000000{number}" for number in (1, 2))
TOTAL = 64 << 20


def progress(done: int, phase: Any = "downloading", total: int | None = TOTAL) -> Progress:
    return Progress(done, total, 1e6, (ImageProgress(U, "a", "1", phase, done, total, 0),))


def steps(*middle: Any) -> list[Any]:
    return [
        Importing(U, "a", "1", "http://h"),
        Planned(1, TOTAL),
        progress(TOTAL // 4),
        0.15,
        progress(TOTAL // 2),
        0.15,
        *middle,
    ]


def on_terminal(
    imgctl, *arguments: str, stdout_too: bool = False, columns: int = 100
) -> tuple[int, str, str]:
    """Runs a command with standard error on a terminal: (status, standard output, what the terminal got)."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, columns))
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        running = imgctl.start(*arguments, stderr=theirs, stdout=theirs if stdout_too else subprocess.PIPE)
        os.close(theirs)
        with running:
            shown = b""
            while data := _read(terminal):
                shown += data
            out = running.stdout.read() if running.stdout is not None else ""
    return running.returncode, out, shown.decode()


def _read(terminal: Any) -> bytes:
    try:
        return terminal.read(65536)
    except OSError:  # EIO is how a terminal says that nobody has it open any more
        return b""


def screen(shown: str) -> list[str]:
    """What stays on the screen, as far as carriage returns, cursor-ups and spaces decide that."""
    shown = re.sub(r"\x1b\[\d*m", "", shown)  # colours
    lines, column = [""], 0
    for piece in re.split(r"(\r|\n|\x1b\[A)", shown):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            lines.append("")
            column = 0
        elif piece:
            assert not piece.startswith("\x1b"), "the bar has but one line"
            lines[-1] = lines[-1][:column] + piece + lines[-1][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.alone
def test_a_bar_with_bytes_rate_and_time_left(daemon, imgctl):
    daemon.store.scripts[U] = steps(
        progress(TOTAL), Downloaded(U, TOTAL), progress(TOTAL, "installing"), 0.15, Installed(U, "a", "1")
    )
    status, out, shown = on_terminal(imgctl, "import", U)
    assert status == 0
    assert out.splitlines() == [
        f'Importing {U} (a@1) from "http://h"',
        "Must download and install 1 image (64.0 MiB)",
        f"Downloaded image {U} (64.0 MiB)",
        f"Imported image {U} (a@1)",
    ]
    assert re.search(
        r"Download 1 image: +50%\|.*\| 32\.0 MiB of 64\.0 MiB \[00:0\d<00:0\d, +[\d.]+ [MG]iB/s\]", shown
    )
    assert re.search(r"Installing: 100%\|", shown)
    assert screen(shown) == []


def test_lines_are_printed_above_the_bar(daemon, imgctl):
    daemon.store.scripts[U] = steps(Note("slow"), Downloaded(U, TOTAL), DownloadError("broken", hint="again"))
    status, _, shown = on_terminal(imgctl, "import", U, stdout_too=True)
    assert status == 1
    assert "Download 1 image:" in shown
    assert screen(shown) == [
        f'Importing {U} (a@1) from "http://h"',
        "Must download and install 1 image (64.0 MiB)",
        "imgctl: note: slow",
        f"Downloaded image {U} (64.0 MiB)",
        "Aborting (broken)",
        "imgctl import: error (DownloadError): broken",
        "  hint: again",
    ]


def test_a_size_that_is_not_known_and_a_fresh_start(daemon, imgctl):
    daemon.store.scripts[U] = [progress(5 << 20, total=None), 0.15, progress(1 << 20, total=None), 0.15]
    status, _, shown = on_terminal(imgctl, "import", U)
    assert status == 0
    assert "Download 1 image: 5.0 MiB" in shown
    assert "Download 1 image: 1.0 MiB" in shown


@pytest.mark.parametrize(
    ("columns", "shown_there"),
    [
        (100, r"Download 1 image: +50%\|.*\| 32\.0 MiB of 64\.0 MiB \[\d\d:\d\d<"),
        (60, r"Download 1 image: +50%\|.+\| 32\.0 MiB of 64\.0 MiB, "),
        (40, r"\r50%, (\d\d:\d\d|\?) left, 32\.0 MiB of 64\.0 MiB *[\r\n]"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_how_far_it_is_shows_at_any_width(daemon, imgctl, columns, shown_there, encoding):
    daemon.store.scripts[U] = steps(Installed(U, "a", "1"))
    imgctl.environment["PYTHONIOENCODING"] = encoding
    status, _, shown = on_terminal(imgctl, "import", U, columns=columns)
    assert status == 0
    assert re.search(shown_there, shown)
    assert shown.isascii() or encoding == "utf-8"
    assert all(len(line) <= columns - 2 for line in re.split("[\r\n]", shown) if "%" in line)


@pytest.mark.parametrize("columns", [100, 79, 60, 40, 24])
@pytest.mark.parametrize("images", [(U,), (U, V)], ids=["one", "two"])
def test_ctrl_c_leaves_nothing_of_the_bars(daemon, imgctl, columns, images):
    """Wherever the terminal's own ^C goes; with the progress of today's daemon, and an older one's."""
    for known in ({"fraction": 0.25, "eta": 30.0}, {}):
        for uuid in images:
            under_way = ImageProgress(
                uuid, "a-name-of-some-length", "1", "downloading", 1 << 24, 1 << 26, 0, **known
            )
            daemon.store.scripts[uuid] = [
                Planned(1, TOTAL), Progress(1 << 24, 1 << 26, 1e6, (under_way,), **known), HOLD,
            ]  # fmt: skip
        settings = {**imgctl.environment, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        with Terminal(imgctl.line("import", *images), settings, size=(24, columns)) as terminal:
            # What comes with the first bar may be read with it.
            terminal.wait_for("2 images" if len(images) == 2 and known else "25%")
            while terminal.read_some(0.3):
                pass
            terminal.type("\x03")
            assert terminal.end() == 130
            lines = emulated(terminal.shown.decode(), columns)
        assert not [line for line in lines if "%" in line or "|" in line], lines
        assert "interrupted" in "".join(lines)


@pytest.mark.parametrize("columns", [120, 80, 60])
def test_bars_are_of_one_length(daemon, imgctl, columns):
    known = {"fraction": 0.25, "eta": 30.0}
    for uuid, total in ((U, 1 << 20), (V, 150 << 30)):
        under_way = ImageProgress(uuid, "a", "1", "downloading", total // 4, total, 0, **known)
        daemon.store.scripts[uuid] = [
            Planned(1, total), Progress(total // 4, total, 1e6, (under_way,), **known), HOLD,
        ]  # fmt: skip
    settings = {**imgctl.environment, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    with Terminal(imgctl.line("import", U, V), settings, size=(24, columns)) as terminal:
        terminal.wait_for("2 images")
        while terminal.read_some(0.3):
            pass
        lines = [line for line in emulated(terminal.shown.decode(), columns) if "|" in line]
        terminal.type("\x03")
        assert terminal.end() == 130
    assert len(lines) == 3
    assert len({(line.index("|"), line.rindex("|")) for line in lines}) == 1, lines


def test_watch_shows_a_bar_while_there_is_something(daemon, imgctl):
    nothing = Progress(0, 0, 0.0)
    daemon.store.scripts["watch"] = [
        nothing,
        progress(TOTAL // 2),
        0.15,
        nothing,
        nothing,
        progress(TOTAL // 4),
    ]
    status, out, shown = on_terminal(imgctl, "watch")
    assert (status, out) == (0, "")
    assert "50%|" in shown
    assert screen(shown) == []


@pytest.mark.parametrize("arguments", [("-q",), ("--json",)])
def test_no_bar_when_it_is_not_wanted(daemon, imgctl, arguments):
    daemon.store.scripts[U] = steps(Installed(U, "a", "1"))
    status, out, shown = on_terminal(imgctl, "import", *arguments, U)
    assert (status, shown) == (0, "")
    assert out


def test_no_bar_elsewhere(daemon, imgctl):
    daemon.store.scripts[U] = steps(Installed(U, "a", "1"))
    assert imgctl("import", U).stderr == ""


@pytest.mark.parametrize("stdout_too", [False, True])
def test_without_tqdm_there_are_only_the_lines(daemon, imgctl, stdout_too):
    daemon.store.scripts[U] = steps(Note("slow"), Downloaded(U, TOTAL), Installed(U, "a", "1"))
    paths = imgctl.environment["PYTHONPATH"]
    imgctl.environment |= environment("tqdm")
    imgctl.environment["PYTHONPATH"] += os.pathsep + paths
    imgctl.environment["IMGSTORED_SOCKET"] = str(daemon.path)
    status, out, shown = on_terminal(imgctl, "import", U, stdout_too=stdout_too)
    assert status == 0
    lines = [
        f'Importing {U} (a@1) from "http://h"',
        "Must download and install 1 image (64.0 MiB)",
        f"Downloaded image {U} (64.0 MiB)",
        f"Imported image {U} (a@1)",
    ]
    note = "imgctl: note: slow"
    if stdout_too:
        assert screen(shown) == [*lines[:2], note, *lines[2:]]
    else:
        assert out.splitlines() == lines
        assert screen(shown) == [note]
    assert "%|" not in shown


def test_a_name_that_a_terminal_would_act_on():
    """`copy` shows the name of an image, which its manifest says."""
    terminal = io.StringIO()
    bar = Bar(terminal)
    for done in (1, 2):
        bar.show("a\x1b]0;owned\x07@1", done, 4)
    assert "\\x1b]0;owned\\x07@1" in terminal.getvalue()
    assert "\x1b]" not in terminal.getvalue()
    bar.close()
