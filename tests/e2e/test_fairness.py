"""What a user without rights does on the socket, while root works."""

from __future__ import annotations

import json
import os
import resource
import socket
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from imgctl import RemoteError
from imgproto.operations import OPERATIONS

from tests.e2e.conftest import static_source
from tests.e2e.test_on_demand import until
from tests.e2e.test_threads import LanedDaemon
from tests.support.access import let_everybody_in
from tests.support.crowd import Crowd
from tests.support.daemon import CHAIN_TOP, ZVOL, Daemon
from tests.support.faulty_server import FaultyServer
from tests.support.flood import Flood

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

#: Connections of the crowd, and requests on each: as many as the socket takes of those who may only read.
CONNECTIONS, REQUESTS = 190, 64


def resident(pid: int) -> int:
    """The most memory that a process has had, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def limit_files(pid: int, soft: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def fill_history(folder: Path, *, rows: int = 10_000) -> None:
    """Of a daemon that is stopped."""
    with closing(sqlite3.connect(folder / "state" / "history.sqlite", isolation_level=None)) as db:
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO history (action, uuid, name, version, pool, client, started_at, outcome, message)"
            " VALUES ('import', ?, ?, '1', 'zones', 'c', 1.0, 'failed', ?)",
            [(str(uuid.UUID(int=row)), f"name-{row}", "m" * 300) for row in range(rows)],
        )
        db.execute("COMMIT")


def crowd(daemon: Daemon, method: str, *, reads: bool, connections: int = CONNECTIONS, **params) -> Crowd:
    let_everybody_in(daemon.folder)
    return Crowd(daemon.socket, method, connections=connections, requests=REQUESTS, reads=reads, **params)


def seconds_of_work(daemon: Daemon) -> float:
    """How long root takes to import an image, list it, and delete it."""
    began = time.monotonic()
    for words in (["import", ZVOL], ["list"], ["delete", ZVOL]):
        daemon.imgctl(*words, check=True)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("method", "params", "reads"),
    [
        ("history", {"limit": 10_000}, False),
        ("history", {"limit": 10_000}, True),
        ("watch", {}, False),
        ("watch", {}, True),
        ("resolve", {"names": [f"name-{number}" for number in range(1000)], "among": "history"}, True),
        ("avail", {}, True),
    ],
)
@pytest.mark.alone
@pytest.mark.slow
def test_a_crowd_of_one_user_takes_little_memory_and_holds_up_nobody(daemon, method, params, reads):
    daemon.stop()
    fill_history(daemon.folder)
    daemon.start()
    alone = seconds_of_work(daemon)
    before = resident(daemon.pid)
    with crowd(daemon, method, reads=reads, **params):
        busy = seconds_of_work(daemon)
        # Before users had budgets: 760 MiB for one connection, and more than 30 s.
        assert resident(daemon.pid) - before < 150
        assert busy < 8 * alone + 5
    assert "a method failed" not in daemon.log.read_text()


@pytest.mark.alone
@pytest.mark.slow
def test_a_user_who_connects_all_the_time_holds_up_nobody(daemon):
    let_everybody_in(daemon.folder)
    with daemon.client() as client:
        client.call("hello", client="tests", protocol=1)

    def seconds() -> float:
        began = time.monotonic()
        for _ in range(10):
            with daemon.client() as client:
                client.call("hello", client="tests", protocol=1)
        return time.monotonic() - began

    alone = seconds()
    with Flood(daemon.socket):
        # When each connection got a thread or two, before it was refused: 10 to 20 s.
        assert seconds() < 20 * alone + 5
    until(lambda: "connects too often" in daemon.log.read_text())
    assert daemon.log.read_text().count("connects too often") < 30


@pytest.mark.alone
@pytest.mark.slow
def test_a_server_that_sends_single_bytes_is_asked_once_and_holds_up_nobody(tmp_path, served):
    listed = json.dumps([{"uuid": str(uuid.UUID(int=row)), "name": "x" * 300} for row in range(400)]).encode()
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in listed) + b"0\r\n\r\n"

    def answer(_, wire):
        wire.reply("200 OK", {"Transfer-Encoding": "chunked"}, chunks, length=False)

    with FaultyServer(answer) as server:
        sources = static_source(served.url) + static_source(server.url)
        with Daemon(tmp_path / "store", config=sources) as daemon:
            alone = seconds_of_work(daemon)
            with crowd(daemon, "avail", reads=False):
                until(lambda: len(server.requests) > 1)
                assert seconds_of_work(daemon) < 8 * alone + 5
            # Of thousands of questions; one answer is for all who asked before it came.
            assert len(server.requests) < 20


@pytest.mark.alone
@pytest.mark.slow
def test_a_name_server_that_does_not_answer_holds_up_no_change(tmp_path, served):
    """In a mount namespace of its own the daemon has one that hears, and says nothing."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.9\noptions timeout:20 attempts:1\n")
    mounts = f'mount --bind {conf} /etc/resolv.conf && exec "$@"'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.9", 53))
        deaf.settimeout(30)
        sources = static_source(served.url) + static_source("http://images.example.com")
        before = ["unshare", "-m", "sh", "-c", mounts, "sh"]
        with Daemon(tmp_path / "store", config=sources, before=before) as daemon:
            alone = seconds_of_work(daemon)
            assert deaf.recv(512)
            with crowd(daemon, "avail", reads=True):
                assert seconds_of_work(daemon) < 5 * alone + 5


@pytest.mark.slow
def test_when_descriptors_are_short_changes_go_on_and_strangers_are_told(daemon):
    """The limit comes down while the daemon runs. Of what is left a quarter is reserved."""
    limit_files(daemon.pid, 2 * open_files(daemon.pid) + 60)
    with crowd(daemon, "avail", reads=True):
        until(lambda: "the daemon has too many open files" in daemon.log.read_text())
        daemon.imgctl("import", ZVOL, check=True)
        daemon.imgctl("delete", ZVOL, check=True)


@pytest.mark.slow
def test_what_fails_for_want_of_descriptors_does_not_blame_a_file(daemon):
    with daemon.client() as client:
        client.call("hello", client="tests", protocol=1)

        def refused() -> RemoteError | None:
            # The lowest number that is free is the next that the kernel gives; what starts may end meanwhile.
            numbers = {int(each.name) for each in Path(f"/proc/{daemon.pid}/fd").iterdir()}
            limit_files(daemon.pid, min({*range(len(numbers) + 1)} - numbers))
            try:
                client.call("sources.list")
            except RemoteError as error:
                return error
            return None

        error = until(refused)
        assert "too many open files" in str(error).lower()
        assert "limits.clients" in error.hint
        limit_files(daemon.pid, 512)
        assert client.call("sources.list")


@pytest.mark.slow
def test_what_is_refused_thousands_of_times_takes_a_few_lines(daemon):
    before = daemon.log.read_text().count("\n")
    with crowd(daemon, "delete", reads=True, uuid=ZVOL), daemon.client() as client:
        until(lambda: '"outcome": "NotPermitted"' in daemon.log.read_text())
        for _ in range(500):
            client.call("hello", client="tests", protocol=1)
    assert daemon.log.read_text().count("\n") - before < 20


@pytest.mark.slow
def test_no_question_takes_a_thread_of_those_that_changes_have(tmp_path, served):
    params = {
        "hello": {"client": "tests", "protocol": 1},
        "list": {"holds": True},
        "get": {"uuid": ZVOL, "recursive": True},
        "ancestry": {"uuid": ZVOL},
        "show": {"uuid": ZVOL},
        "holds": {"uuid": ZVOL},
        "plan": {"uuid": CHAIN_TOP},
        "history": {"uuid": ZVOL},
    }
    among = ("installed", "available", "active", "jobs", "history")
    questions = {name for name, each in OPERATIONS.items() if each.who == "read"} - {
        "watch",
        "events",
        "resolve",
    }
    with LanedDaemon(tmp_path / "store", config=static_source(served.url)) as daemon:
        daemon.imgctl("import", ZVOL, check=True)
        with daemon.client() as client:
            for name in sorted(questions):
                client.call(name, **params.get(name, {}))
            for where in among:
                assert client.call("resolve", names=[ZVOL], among=where)
        assert "has no limiter" not in daemon.log.read_text()
