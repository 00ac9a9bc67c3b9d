"""Events with numbers, and hooks: real daemons that are killed, real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from imgctl import Client, RemoteError

from tests.e2e.conftest import gated, made_image, static_source
from tests.e2e.test_on_demand import jobs, until
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MADE = "44444444-aaaa-4bbb-8ccc-000000000021"


def past(daemon: Daemon, since: int = 0) -> list[dict[str, Any]]:
    """The events after that number, as a program gets them."""
    done = daemon.imgctl("events", "-j", "--no-follow", "--since", str(since), check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


@contextmanager
def following(daemon: Daemon, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "imgctl", "events", *arguments],
        env={**os.environ, "IMGSTORED_SOCKET": str(daemon.socket), "IMGCTL_RECONNECT": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def test_a_line_for_each_thing_that_happens(daemon, served):
    daemon.imgctl("import", INCREMENTAL, check=True)
    daemon.imgctl("hold", INCREMENTAL, "web", check=True)
    daemon.imgctl("release", INCREMENTAL, "web", check=True)
    daemon.imgctl("pin", BASE, check=True)
    daemon.imgctl("unpin", BASE, check=True)
    daemon.imgctl("delete", INCREMENTAL, check=True)
    assert daemon.imgctl("import", MADE).returncode != 0
    served.nginx.stop()
    until(lambda: "connection refused" in daemon.imgctl("sources", "-c").stdout)
    daemon.imgctl("sources", "-c")
    served.nginx.start()
    until(lambda: "true" in daemon.imgctl("sources", "-c").stdout)
    events = past(daemon)
    assert [event["number"] for event in events] == [*range(1, len(events) + 1)]
    of_base = [event for event in events if event.get("uuid") == BASE]
    assert names(of_base) == [
        "import-started",
        "downloading",
        "receiving",
        "installing",
        "installed",
        "pinned",
        "unpinned",
    ]
    assert of_base[0]["client"].startswith("imgctl ")
    assert of_base[0]["uid"] == os.getuid()
    assert of_base[4]["bytes"] > 0
    assert {event["zpool"] for event in of_base} == {"zones"}
    rest = [event for event in events if event.get("uuid") != BASE]
    assert names(rest) == [
        "daemon-started",
        "import-started",
        "downloading",
        "receiving",
        "installing",
        "installed",
        "held",
        "released",
        "deleted",
        "import-failed",
        "source-down",
        "source-up",
    ]
    shown = daemon.imgctl("events", "--since", "0", "--no-follow", check=True).stdout.splitlines()
    assert len(shown) == len(events)
    assert all(str(event["number"]) in line for event, line in zip(events, shown, strict=True))
    assert f"base@1.0.0 {BASE} in zones" in shown[of_base[4]["number"] - 1]


def test_whoever_makes_a_source_fail_at_will_floods_no_events(tmp_path, start_faulty):
    """The source refuses one question, and answers another, as often as somebody asks."""

    def answer(request, wire):
        if request.target.startswith("/images/"):
            wire.reply("500 Broken", {"Content-Type": "application/json"}, b"{}")
        else:
            found = b"[]" if request.target.startswith("/images") else b'{"imgapi": true}'
            wire.reply("200 OK", {"Content-Type": "application/json"}, found)

    config = f'[[sources]]\nurl = "{start_faulty(answer).url}"\n'
    with Daemon(tmp_path / "store", config=config) as daemon, Client(str(daemon.socket)) as client:
        for _ in range(10):
            with pytest.raises(RemoteError):
                client.plan(MADE)
            (source,) = client.status()["sources"]
            assert source["error"] is not None
            client.check_sources()
            (source,) = client.status()["sources"]
            assert source["error"] is None
        told = [event for event in names(past(daemon)) if event.startswith("source-")]
        assert told == ["source-down", "source-up"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_who_follows_misses_nothing_when_the_daemon_is_killed(served, gate, tmp_path, ending):
    manifest, file = made_image(MADE, size=8 << 20)
    served.pages.add(manifest, file)
    gate.hold(after=len(file) // 2)
    with (
        gated(served, gate, tmp_path / "slow", MADE) as daemon,
        following(daemon, "-j", "--since", "0") as follower,
    ):
        seen = [json.loads(follower.stdout.readline())]
        daemon.imgctl("import", "--detach", MADE, check=True)
        until(lambda: any(job["done"] >= len(file) // 2 for job in jobs(daemon)))
        getattr(daemon, ending)()
        daemon.start()
        gate.open()
        daemon.imgctl("wait", MADE, check=True)
        while seen[-1]["event"] != "installed":
            seen.append(json.loads(follower.stdout.readline()))
        assert [event["number"] for event in seen] == [*range(1, len(seen) + 1)]
        assert seen == past(daemon)
        begun = ["import-started", "downloading"]
        stop = ["daemon-stopping", "import-interrupted"] if ending == "stop" else []
        assert [name for name in names(seen) if name != "receiving"] == [
            "daemon-started",
            *begun,
            *stop,
            "daemon-started",
            *begun,
            "installing",
            "installed",
        ]
        follower.terminate()
        assert "imgctl: note: imgstored is back" in follower.stderr.read()


def test_a_number_that_is_not_there(daemon):
    refused = daemon.imgctl("events", "--since", "4711")
    assert refused.returncode == 1
    assert "error (EventsGone): there is no event with number 4711: those kept are 1 to 1" in refused.stderr
    assert "`imgctl events --since 0`" in refused.stderr
    refused = daemon.imgctl("events", "--since", "x")
    assert "invalid number of an event" in refused.stderr


@pytest.mark.slow
def test_nothing_is_said_while_nothing_happens(daemon):
    with following(daemon) as follower:
        # That the follower listens shows when it says what comes.
        until(lambda: _hears(daemon, follower))
        with pytest.raises(subprocess.TimeoutExpired):
            follower.wait(1.0)
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
        assert "pinned" in follower.stdout.read()


def _hears(daemon: Daemon, follower: subprocess.Popen[str]) -> bool:
    import select

    if BASE not in daemon.imgctl("list", "-q").stdout:
        daemon.imgctl("import", "-q", BASE, check=True)
    daemon.imgctl("pin", BASE, check=True)
    daemon.imgctl("unpin", BASE, check=True)
    return bool(select.select([follower.stdout], [], [], 1.0)[0])


@pytest.mark.slow
def test_hooks(served, tmp_path):
    """As docs/operating.md has them."""
    out = tmp_path / "out"
    tell = _program(tmp_path / "tell", f'cat >> {out}; echo "$IMGSTORED_EVENT" >> {out}.names')
    hangs = _program(tmp_path / "hangs", f"echo $$ >> {out}.pid; sleep 1000")
    fails = _program(tmp_path / "fails", "echo no network >&2; exit 3")
    foreign = _program(tmp_path / "foreign", f"touch {out}.foreign")
    os.chown(foreign, 1234, 1234)
    config = "".join(
        f'[[hook]]\non = ["{on}"]\nrun = ["{path}"]\nseconds = {seconds}\n'
        for on, path, seconds in (
            ("installed", tell, 60),
            ("daemon-stopping", tell, 60),
            ("installed", hangs, 1),
            ("installed", fails, 60),
            ("installed", foreign, 60),
        )
    )
    with Daemon(tmp_path / "store", config=static_source(served.url) + config) as daemon:
        # Nobody waits for those that hang or fail.
        daemon.imgctl("import", INCREMENTAL, check=True)
        until(lambda: out.exists() and len(out.read_text().splitlines()) == 2)
        until(
            lambda: daemon.log.read_text().count('"timeout"') + daemon.log.read_text().count("=timeout") == 2
        )
        assert daemon.stop() == 0
        events = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(event["event"], event.get("uuid")) for event in events] == [
            ("installed", BASE),
            ("installed", INCREMENTAL),
            ("daemon-stopping", None),
        ]
        assert out.with_name("out.names").read_text().split() == names(events)
        assert not out.with_name("out.foreign").exists()
        said = daemon.log.read_text()
        assert "no network" in said
        assert f"{foreign} is not root's" in said
    for pid in out.with_name("out.pid").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def _program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
