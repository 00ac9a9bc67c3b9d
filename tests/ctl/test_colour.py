"""Colour: on a terminal that has it, for people who have not asked for none, and only under our own name."""

from __future__ import annotations

import os
import pty
import subprocess
from contextlib import suppress

import pytest

from imgstored.errors import DownloadError
from tests.support.events import AlreadyInstalled, Downloaded, Installed, InstalledMeanwhile

U = "11111111-aaaa-4bbb-8ccc-000000000001"
RED, GREEN, DIM, END = "\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[m"


@pytest.fixture
def on_terminal(imgctl):
    """What a command writes to a terminal."""

    def run(*arguments: str, imgadm: bool = False, **variables: str) -> str:
        terminal, end = pty.openpty()
        environment = {**imgctl.environment, "TERM": "xterm", **variables}
        environment = {
            name: value for name, value in environment.items() if name in variables or name != "NO_COLOR"
        }
        line = imgctl.line(*arguments, imgadm=imgadm)
        with subprocess.Popen(line, stdin=end, stdout=end, stderr=end, env=environment) as running:
            os.close(end)
            written = b""
            with suppress(OSError):  # EIO: nobody has the other end any more
                while data := os.read(terminal, 4096):
                    written += data
            running.wait(30)
        os.close(terminal)
        return written.decode().replace("\r\n", "\n")

    return run


def test_errors_are_red_and_hints_are_dim(daemon, on_terminal):
    daemon.store.scripts[U] = [DownloadError("broken\nin two", hint="again")]
    assert on_terminal("import", "-q", U) == (
        f"{RED}imgctl import: error (DownloadError): broken{END}\n"
        f"{RED}    in two{END}\n"
        f"{DIM}  hint: again{END}\n"
    )


@pytest.mark.parametrize(
    "event", [Installed(U, "a", "1"), AlreadyInstalled(U, "a", "1"), InstalledMeanwhile(U, "a", "1")]
)
def test_what_is_installed_is_green(daemon, imgctl, on_terminal, event):
    daemon.store.scripts[U] = [Downloaded(U, 1024), event]
    first, second = imgctl("import", U).stdout.splitlines()
    assert on_terminal("import", "-q", U) == f"{first}\n{GREEN}{second}{END}\n"


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"NO_COLOR": "0"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_there_is_none_where_it_is_not_wanted(daemon, on_terminal, variables):
    daemon.store.scripts[U] = [Installed(U, "a", "1"), DownloadError("broken", hint="again")]
    assert "\x1b" not in on_terminal("import", "-q", U, **variables)


def test_a_variable_that_is_empty_does_not_count(daemon, on_terminal):
    daemon.store.scripts[U] = [Installed(U, "a", "1")]
    assert GREEN in on_terminal("import", "-q", U, NO_COLOR="")


def test_there_is_none_under_imgadms_name(daemon, on_terminal):
    daemon.store.scripts[U] = [Installed(U, "a", "1"), DownloadError("broken", hint="again")]
    assert "\x1b" not in on_terminal("import", "-q", U, imgadm=True)


def test_there_is_none_in_a_pipe(daemon, imgctl):
    daemon.store.scripts[U] = [Installed(U, "a", "1"), DownloadError("broken", hint="again")]
    shown = imgctl("import", U, env={**imgctl.environment, "TERM": "xterm"})
    assert "\x1b" not in shown.stdout + shown.stderr


def test_names_bring_no_colours_of_their_own(daemon, on_terminal):
    daemon.store.scripts[U] = [Installed(U, "a\x1b[31m", "1")]
    assert on_terminal("import", "-q", U) == f"{GREEN}Imported image {U} (a\\x1b[31m@1){END}\n"
