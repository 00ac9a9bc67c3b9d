"""`top`: a live screen on a real terminal, frames or JSON elsewhere."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from imgctl.listing import with_new_keys
from imgctl.status_text import top_lines

from imgstored.errors import InternalError
from tests.ctl.test_status import DOWN, JOB, NOW, POOL, SILENT, WAITS, U, status
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY = status(imports=[WAITS, JOB], waiting=1)

#: How an xterm is told to show another screen, and the one of before.
OTHER_SCREEN, FIRST_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
#: How it is told to clear all of it, or the rest of it.
CLEAR = (b"\x1b[2J", b"\x1b[J")


def text(document: dict[str, Any]) -> list[str]:
    return [line.text for line in top_lines(document, NOW)]


def at(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


# -- a frame -------------------------------------------------------------------------------------------------


def test_a_frame():
    assert text(BUSY) == [
        f"imgstored 1.2.3, pid 77, up 3d4h, 2 clients, 3 images  {at(NOW)}",
        "zones: 40.0 GiB used, 60.0 GiB free, 2 imports, 5.5 MiB/s, limited by network, turn",
        "",
        "IMAGE     NAME      PHASE        DONE  LEFT   RATE       LIMIT    CONNS  SIZE       ZPOOL  FROM",
        "11111111  base@1.0  downloading  25%   1m23s  5.5 MiB/s  network  8      100.0 MiB  zones  "
        "https://images.example.com",
        "21111111  web@1.0   waiting      0 B   -      -          turn     0      -          zones  a-file",
    ]


def test_a_line_for_each_pool():
    tank = {**POOL, "name": "tank"}
    lines = text(status(pools=[POOL, tank], imports=[JOB, {**JOB, "uuid": "x", "limits": "pool"}]))
    assert lines[1:3] == [
        "zones: 40.0 GiB used, 60.0 GiB free, 2 imports, 11.0 MiB/s, limited by network, pool",
        "tank: 40.0 GiB used, 60.0 GiB free, 0 imports",
    ]


def test_what_needs_attention_stands_out():
    lines = top_lines(status(pools=[POOL, SILENT], sources=[DOWN]), NOW)
    assert [line.text for line in lines if line.style == "bad"] == [
        'pool "tank" does not answer (see `zpool status`)',
        "source http://down/images: connection refused",
    ]
    assert lines[-1].text == "Nothing is being imported."


def test_the_important_columns_fit_on_a_narrow_screen():
    assert "LIMIT" in text(BUSY)[3][:80]


# -- elsewhere than on a terminal ----------------------------------------------------------------------------


def test_frames(daemon, imgctl):
    daemon.status.looks = [status(), BUSY]
    shown = imgctl("top", "-n", "2", "-d", "0.1")
    assert (shown.returncode, shown.stderr) == (0, "")
    first, second = shown.stdout.split("\n\nimgstored ")
    assert first.splitlines()[1:] == text(status())[1:]
    assert second.splitlines()[1:] == text(BUSY)[1:]
    assert "\x1b" not in shown.stdout
    assert daemon.status.asked == 2


def test_json_lines(daemon, imgctl):
    daemon.status.looks = [status(), BUSY]
    shown = imgctl("top", "-j", "-n", "3", "-d", "0.1")
    assert [json.loads(line) for line in shown.stdout.splitlines()] == [
        with_new_keys(each) for each in (status(), BUSY, BUSY)
    ]


def test_each_frame_is_written_at_once(daemon, imgctl):
    daemon.status.looks = [status()]
    running = imgctl.start("top", "-d", "3600")
    with running:
        assert running.stdout.readline().startswith("imgstored 1.2.3")
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert running.stderr.read() == ""


def test_who_stops_reading_ends_it(daemon, imgctl):
    daemon.status.looks = [status()]
    running = imgctl.start("top", "-d", "0.1")
    with running:
        running.stdout.readline()
        running.stdout.close()
        assert running.wait(30) == 141


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-n", "0"), 'invalid number of frames: "0"'),
        (("-n", "x"), 'invalid number of frames: "x"'),
        (("-n", "²"), 'invalid number of frames: "²"'),
        (("-d", "0"), 'invalid number of seconds: "0"'),
        (("-d", "nan"), 'invalid number of seconds: "nan"'),
        (("-d", "1e9"), 'invalid number of seconds: "1e9"'),
        (("-d", "soon"), 'invalid number of seconds: "soon"'),
        (("x",), "unexpected args: x"),
    ],
)
def test_what_makes_no_sense(imgctl, arguments, message):
    shown = imgctl("top", *arguments)
    assert shown.returncode == 1
    assert message in shown.stderr


def test_no_daemon(daemon, imgctl):
    daemon.stop()
    shown = imgctl("top")
    assert shown.returncode == 1
    assert "is not running" in shown.stderr


# -- on a terminal -------------------------------------------------------------------------------------------


@pytest.fixture
def live(daemon, imgctl) -> Callable[..., Terminal]:
    daemon.status.looks = [BUSY]

    def start(*arguments: str, **settings: Any) -> Terminal:
        environment = {**imgctl.environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        environment.update(settings.pop("environment", {}))
        return Terminal(imgctl.line("top", *arguments), environment, **settings)

    return start


def test_q_ends_it_and_the_screen_of_before_is_back(live):
    with live() as terminal:
        terminal.wait_for("base@1.0")
        assert not terminal.restored
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.restored
        assert OTHER_SCREEN in terminal.shown
        assert terminal.shown.index(FIRST_SCREEN) > terminal.shown.index(b"base@1.0")


def test_ctrl_c_does_too(live):
    with live() as terminal:
        terminal.wait_for("base@1.0")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert terminal.restored
        assert FIRST_SCREEN in terminal.shown
        assert b"Traceback" not in terminal.shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_leaves_the_terminal_in_order(live, number):
    with live() as terminal:
        terminal.wait_for("base@1.0")
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert terminal.restored
        assert FIRST_SCREEN in terminal.shown


def test_a_daemon_that_goes_is_waited_for(live, daemon):
    with live("-d", "0.1", environment={"IMGCTL_RECONNECT": ""}) as terminal:
        terminal.wait_for("base@1.0")
        daemon.stop()
        terminal.wait_for("imgstored is away")
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.restored


def test_a_daemon_that_does_not_come_back_leaves_the_terminal_in_order(live, daemon):
    with live("-d", "0.1", environment={"IMGCTL_RECONNECT": "0.5"}) as terminal:
        terminal.wait_for("base@1.0")
        daemon.stop()
        assert terminal.end() == 1
        assert terminal.restored
        # Said where it can be read afterwards.
        _, after = terminal.shown.split(FIRST_SCREEN)
        assert b"imgctl top: error (ClientError): " in after


def test_an_error_in_the_middle_leaves_the_terminal_in_order(live, daemon):
    daemon.status.looks = [BUSY, InternalError("a mistake")]
    with live("-d", "0.1") as terminal:
        assert terminal.end() == 1
        assert terminal.restored
        assert b"error (InternalError): a mistake" in terminal.shown.split(FIRST_SCREEN)[1]


def test_it_ends_after_so_many_frames(live, daemon):
    with live("-n", "3", "-d", "0.1") as terminal:
        assert terminal.end() == 0
        assert terminal.restored
    assert daemon.status.asked == 3


def test_what_stays_is_not_drawn_again(live, daemon):
    """No flicker: nothing is cleared, and only what differs is written."""
    looks = [status(imports=[{**JOB, "done": part << 20}]) for part in range(100)]
    daemon.status.looks = looks
    with live("-d", "0.1", "-n", "12") as terminal:
        terminal.wait_for("base@1.0")
        before = len(terminal.shown)
        assert terminal.end() == 0
        later, _ = terminal.shown[before:].split(FIRST_SCREEN)
    assert not any(clear in later for clear in CLEAR)
    assert b"%" in later
    assert b"base@1.0" not in later
    assert len(later) < 1000


def test_a_window_that_grows_and_shrinks(live):
    with live("-d", "3600", size=(24, 36)) as terminal:
        terminal.wait_for("base@1.0")
        time.sleep(0.2)
        assert b"LIMIT" not in terminal.shown
        terminal.resize(40, 150)
        # At once, not with the next frame.
        terminal.wait_for("LIMIT")
        assert b"PHASE" in terminal.shown
        start, size = len(terminal.shown), 1
        # Where the program is slow, two changes may be one to it.
        while b"network" not in terminal.shown[start:] and size < 200:
            terminal.resize(size, size)
            terminal.read_for(0.1)
            terminal.resize(30, 100 + size)
            terminal.read_for(0.1)
            size += 1
        assert b"network" in terminal.shown[start:]
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.restored


def test_more_imports_than_lines(live, daemon):
    daemon.status.looks = [status(imports=[{**JOB, "uuid": f"{number:08}-x"} for number in range(500)])]
    with live("-n", "1", size=(10, 80)) as terminal:
        assert terminal.end() == 0
        assert b"00000004" in terminal.shown
        assert b"00000499" not in terminal.shown


@pytest.mark.parametrize("name", ["dumb", "", "no-such-terminal"])
def test_a_terminal_that_can_nothing_gets_plain_frames(live, name):
    with live("-n", "1", environment={"TERM": name}) as terminal:
        assert terminal.end() == 0
        assert b"11111111  base@1.0  downloading" in terminal.shown
        assert b"\x1b" not in terminal.shown


def test_a_terminal_without_unicode(live, daemon):
    daemon.status.looks = [status(imports=[{**JOB, "name": "bäse"}])]
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    with live("-n", "1", environment=environment, size=(24, 120)) as terminal:
        assert terminal.end() == 0
        assert b"b\\xe4se@1.0" in terminal.shown


@pytest.mark.parametrize("unwanted", [True, False])
def test_colour_only_where_it_is_wanted(live, daemon, unwanted):
    daemon.status.looks = [status(sources=[DOWN])]
    environment = {"NO_COLOR": "1"} if unwanted else {}
    with live("-n", "1", environment={"TERM": "xterm-256color", **environment}) as terminal:
        assert terminal.end() == 0
        assert (b"\x1b[31m" in terminal.shown) is not unwanted
        assert U.encode() not in terminal.shown


def test_without_curses_there_are_plain_frames(live, folder):
    (folder / "hidden").mkdir()
    (folder / "hidden" / "curses.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(folder / "hidden"), str(Path(__file__).parents[2] / "ctl")])
    with live("-n", "1", environment={"PYTHONPATH": path}) as terminal:
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.shown
        assert b"base@1.0" in terminal.shown
