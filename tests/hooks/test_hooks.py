"""Hooks, with real programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio

from imgstored.errors import ConfigError
from imgstored.hooks import hooks as module
from imgstored.hooks.hooks import Hooks, HookSpec
from imgstored.hooks.program import check_program
from tests.host.test_guardian import is_alive, until

if TYPE_CHECKING:
    from collections.abc import Callable


class Folder:
    """Programs of a test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out = path / "out"

    def program(self, text: str, name: str = "hook") -> str:
        """A shell script; `$OUT` in it is a file of the test."""
        path = self.path / name
        path.write_text("#!/bin/sh\n" + text.replace("$OUT", str(self.out)))
        path.chmod(0o755)
        return str(path)

    def lines(self, ending: str = "") -> list[str]:
        out = Path(f"{self.out}{ending}")
        return out.read_text().splitlines() if out.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class Running:
    """Hooks that run, and what became of their runs."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def until(self, condition: Callable[[], Any]) -> None:
        for _ in range(6000):
            if condition():
                return
            await trio.sleep(0.01)
        raise AssertionError("it never happened")


def event(number: int, what: str = "installed", **facts: Any) -> Any:
    return {"number": number, "at": "2026-11-29T00:00:00.000Z", "event": what, **facts}


async def with_hooks(work: Any, *specs: HookSpec) -> None:
    """Runs `work(hooks, running)`."""
    running = Running()
    hooks = Hooks(specs, lambda ended: running.ended.append(ended.outcome), {"IMGSTORED_SOCKET": "/s"})
    async with trio.open_nursery() as nursery:
        await nursery.start(hooks.run)
        await work(hooks, running)
        nursery.cancel_scope.cancel()


async def test_a_program_gets_the_event_and_little_else(folder, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    text = 'cat > $OUT.event; echo "$@" > $OUT.arguments; pwd >> $OUT.arguments; env | sort > $OUT\n'
    spec = HookSpec((folder.program(text), "--to", "a b; rm -rf $HOME"))
    given = event(3, uuid="u", name='"; touch /tmp/x; "')

    async def work(hooks, running):
        hooks.hear(given)
        await running.until(lambda: running.ended)
        assert running.ended == ["ok"]

    await with_hooks(work, spec)
    assert [json.loads(line) for line in folder.lines(".event")] == [given]
    assert folder.lines(".arguments") == ["--to a b; rm -rf $HOME", "/"]
    found = {line.partition("=")[0] for line in folder.lines()} - {"PWD", "_", "SHLVL", "OLDPWD"}
    assert found == {
        "HOME",
        "IMGSTORED_EVENT",
        "IMGSTORED_EVENT_NUMBER",
        "IMGSTORED_SOCKET",
        "LC_ALL",
        "PATH",
    }
    assert {"IMGSTORED_EVENT=installed", "IMGSTORED_EVENT_NUMBER=3"} <= set(folder.lines())


async def test_each_hook_gets_its_events_in_order(folder):
    spec = HookSpec((folder.program("echo $IMGSTORED_EVENT_NUMBER >> $OUT"),), frozenset({"installed"}))

    async def work(hooks, running):
        for number in range(20):
            hooks.hear(event(number, "installed" if number % 2 else "deleted"))
        await running.until(lambda: len(running.ended) == 10)

    await with_hooks(work, spec)
    assert folder.lines() == [str(number) for number in range(1, 20, 2)]


async def test_a_failure_is_logged_and_counted_and_the_next_event_comes(folder):
    text = 'printf "it\\033[31m is\\nbroken" >&2; test $IMGSTORED_EVENT_NUMBER = 21\n'

    async def work(hooks, running):
        for number in range(22):
            hooks.hear(event(number))
        await running.until(lambda: len(running.ended) == 22)
        assert running.ended == ["failed"] * 21 + ["ok"]

    with structlog.testing.capture_logs() as logged:
        await with_hooks(work, HookSpec((folder.program(text),)))
    said = [line for line in logged if line["event"] == "a hook failed"]
    assert [(line["number"], line["status"], line["said"]) for line in said] == [
        (number, 1, "it?[31m is broken") for number in range(21)
    ]


@pytest.mark.parametrize("trap", ["", "trap '' TERM"])
async def test_one_that_takes_too_long_ends_with_all_that_it_started(folder, trap, monkeypatch):
    monkeypatch.setattr(module.program, "_GRACE", 0.2)
    child = folder.program(f"{trap}\necho $$ >> $OUT; while :; do sleep 0.1; done", "child")
    parent = folder.program(f"{trap}\n{child} &\necho $$ >> $OUT; while :; do sleep 0.1; done")

    async def work(hooks, running):
        hooks.hear(event(1))
        await running.until(lambda: running.ended)
        assert running.ended == ["timeout"]
        pids = [int(line) for line in folder.lines()]
        assert len(pids) == 2
        await running.until(lambda: not any(map(_alive, pids)))

    await with_hooks(work, HookSpec((parent,), seconds=2.0))


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_one_that_reads_nothing_and_says_much_holds_up_nobody(folder):
    text = "exec <&-\nhead -c 3000000 /dev/zero | tr '\\0' x >&2; exit 3\n"

    async def work(hooks, running):
        hooks.hear(event(1, message="m" * 200_000))
        await running.until(lambda: running.ended)
        assert running.ended == ["failed"]

    await with_hooks(work, HookSpec((folder.program(text),)))


async def test_what_there_is_no_room_for_is_dropped_and_counted(folder, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    go = folder.path / "go"
    spec = HookSpec(
        (folder.program(f"echo $IMGSTORED_EVENT_NUMBER >> $OUT; until [ -e {go} ]; do sleep 0.05; done"),)
    )

    async def work(hooks, running):
        hooks.hear(event(1))
        await running.until(folder.lines)
        for number in range(2, 8):
            hooks.hear(event(number))
        assert running.ended == ["dropped"] * 3
        go.touch()
        await running.until(lambda: len(running.ended) == 7)

    await with_hooks(work, spec)
    assert folder.lines() == ["1", "2", "3", "4"]


async def test_four_run_at_a_time(folder):
    go = folder.path / "go"
    text = f"echo $1 >> $OUT; until [ -e {go} ]; do sleep 0.05; done"
    program = folder.program(text)

    async def work(hooks, running):
        hooks.hear(event(1))
        await running.until(lambda: len(folder.lines()) == module.AT_A_TIME)
        await trio.sleep(0.3)
        assert len(folder.lines()) == module.AT_A_TIME
        go.touch()
        await running.until(lambda: len(running.ended) == 7)

    await with_hooks(work, *(HookSpec((program, str(number))) for number in range(7)))


async def test_the_end_of_the_daemon_waits_a_moment_and_ends_them(folder, monkeypatch):
    monkeypatch.setattr(module, "_LAST", 0.3)
    short, long = folder.program("echo short >> $OUT", "short"), folder.program("sleep 1000", "long")

    async def work(hooks, running):
        hooks.hear(event(1, "daemon-stopping"))
        await running.until(folder.lines)
        await hooks.stop()

    with trio.fail_after(60):
        await with_hooks(work, HookSpec((short,)), HookSpec((long,)))
    assert folder.lines() == ["short"]


async def test_a_changed_configuration(folder):
    first = HookSpec((folder.program("echo first >> $OUT", "first"),))
    second = HookSpec((folder.program("echo second >> $OUT", "second"),))
    third = HookSpec((folder.program("echo third >> $OUT", "third"),))

    async def work(hooks, running):
        hooks.reconfigure([second, third])
        hooks.hear(event(1))
        await running.until(lambda: len(running.ended) == 2)

    await with_hooks(work, first, second)
    assert sorted(folder.lines()) == ["second", "third"]


# -- whose program it is -------------------------------------------------------------------------------------


def _foreign(folder: Folder, path: str) -> None:
    os.chown(path, 1000, 1000)


def _writable(folder: Folder, path: str) -> None:
    Path(path).chmod(0o775)


def _in_a_foreign_folder(folder: Folder, path: str) -> None:
    os.chown(folder.path, 1000, 1000)


def _in_a_writable_folder(folder: Folder, path: str) -> None:
    folder.path.chmod(0o777)


def _not_executable(folder: Folder, path: str) -> None:
    Path(path).chmod(0o644)


def _gone(folder: Folder, path: str) -> None:
    Path(path).unlink()


def _a_folder(folder: Folder, path: str) -> None:
    Path(path).unlink()
    Path(path).mkdir()


def _a_link_to_a_foreign_one(folder: Folder, path: str) -> None:
    other = folder.program("echo >> $OUT", "other")
    os.chown(other, 1000, 1000)
    Path(path).unlink()
    Path(path).symlink_to(other)


def _a_link_by_way_of_a_foreign_one(folder: Folder, path: str) -> None:
    """The program is root's, but which one it is says who owns the second link."""
    theirs = folder.path / "theirs"
    theirs.mkdir()
    (theirs / "link").symlink_to(folder.program("echo >> $OUT", "other"))
    os.chown(theirs, 1000, 1000)
    Path(path).unlink()
    Path(path).symlink_to("theirs/link")


def _a_circle(folder: Folder, path: str) -> None:
    Path(path).unlink()
    Path(path).symlink_to(path)


@pytest.mark.parametrize(
    "spoil",
    [
        _foreign,
        _writable,
        _in_a_foreign_folder,
        _in_a_writable_folder,
        _not_executable,
        _gone,
        _a_folder,
        _a_link_to_a_foreign_one,
        _a_link_by_way_of_a_foreign_one,
        _a_circle,
    ],
)
async def test_a_program_that_others_could_change_is_never_run(folder, spoil):
    path = folder.program("echo >> $OUT")
    check_program(path)

    async def work(hooks, running):
        hooks.hear(event(1))
        await running.until(lambda: running.ended == ["ok"])
        folder.out.unlink()
        spoil(folder, path)  # while the daemon runs
        with pytest.raises(ConfigError, match=r"^hook: "):
            check_program(path)
        hooks.hear(event(2))
        await running.until(lambda: len(running.ended) == 2)
        assert running.ended[1] == "refused"

    await with_hooks(work, HookSpec((path,)))
    assert folder.lines() == []


def test_a_program_ends_with_a_daemon_that_is_killed(folder):
    """And holds up nobody who waits until all of the daemon's processes are gone."""
    program = folder.program("echo $$ > $OUT; exec sleep 600\n")
    run = f"from imgstored.hooks.program import run; run([{program!r}], b'', {{}}, 900, lambda: None)"
    daemon = subprocess.Popen([sys.executable, "-c", run], start_new_session=True)
    try:
        until(folder.lines)
        (line,) = folder.lines()
    finally:
        daemon.kill()
        daemon.wait()
    until(lambda: not is_alive(int(line)))
