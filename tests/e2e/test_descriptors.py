"""A daemon that is started with as few open files as illumos gives it."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_fairness import limit_files
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.faulty_server import FaultyServer

#: The soft limit there (illumos-gate, uts/common/conf/param.c).
SOFT = 256
CLIENTS, DOWNLOADS, CONNECTIONS = 300, 8, 8


def soft_limit(pid: int) -> int:
    """proc(5)."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if line.startswith("Max open files"))


def test_with_256_it_serves_300_clients_and_eight_downloads(tmp_path):
    images = {
        uuid_: made_image(uuid_, size=16 << 20, name=f"image-{number}")
        for number in range(DOWNLOADS)
        for uuid_ in [str(uuid.UUID(int=0x11111111AAAA4BBB8CCC << 48 | number))]
    }
    index = json.dumps([manifest for manifest, _ in images.values()]).encode()
    gate = threading.Event()
    held: list[str] = []

    def answer(request, wire):
        """Begins every range, and ends none before the gate opens: each connection stays in use."""
        if not request.target.endswith("/file"):
            wire.reply("200 OK", {"Content-Type": "application/json"}, index)
            return
        held.append(request.target.split("/")[1])
        gate.wait()
        wire.part(images[request.target.split("/")[1]][1], request)

    limits = f"[limits]\nclients = {CLIENTS + 20}\nimports = {DOWNLOADS}\nconnections = {CONNECTIONS}\n"
    with ExitStack() as stack:
        server = stack.enter_context(FaultyServer(answer))
        stack.callback(gate.set)
        daemon = stack.enter_context(
            Daemon(
                tmp_path / "store",
                config=static_source(server.url) + limits,
                before=["/bin/sh", "-c", f'ulimit -Sn {SOFT} && exec "$@"', "sh"],
            )
        )
        assert soft_limit(daemon.pid) > CLIENTS + DOWNLOADS * CONNECTIONS
        clients = [stack.enter_context(daemon.client()) for _ in range(CLIENTS)]
        for client in clients:
            client.call("hello", client="tests", protocol=1)
        importing = [
            threading.Thread(target=daemon.imgctl, args=("import", uuid_), kwargs={"timeout": 100})
            for uuid_ in images
        ]
        for each in importing:
            each.start()
        try:
            until(lambda: set(held) == images.keys())
            # All at the same time: the clients are answered while the downloads are held.
            assert len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) > CLIENTS + DOWNLOADS > SOFT
            assert all(len(client.jobs()) == DOWNLOADS for client in clients[::50])
        finally:
            gate.set()
            for each in importing:
                each.join()
        assert {image["manifest"]["uuid"] for image in clients[0].list()} == images.keys()
        for client in clients:
            client.call("hello", client="tests", protocol=1)
        log = daemon.log.read_text()
        assert "raised the limit of open files" in log
        assert "no connection can be accepted" not in log


def test_a_configuration_that_needs_more_raises_it_again(tmp_path):
    with Daemon(
        tmp_path / "store", before=["/bin/sh", "-c", f'ulimit -Sn {SOFT} && exec "$@"', "sh"]
    ) as daemon:
        before = soft_limit(daemon.pid)
        text = daemon.config_file.read_text()
        daemon.config_file.write_text(text + "[limits]\nclients = 400\n")
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: soft_limit(daemon.pid) == before + 2 * (400 - 256))


@pytest.mark.slow
def test_an_import_that_has_no_descriptors_left_says_so_wherever_that_is(tmp_path, served):
    """Whatever it wanted to open: imgadm's file, a lock, the spool, the pool, a module of Python's."""
    uuid_ = "11111111-aaaa-4bbb-8ccc-0000000000aa"
    served.pages.add(*made_image(uuid_, size=1 << 20))
    said = set()
    with Daemon(tmp_path / "store", config=static_source(served.url)) as daemon:
        daemon.imgctl("avail", check=True)
        for few in range(1, 40):
            numbers = {int(each.name) for each in Path(f"/proc/{daemon.pid}/fd").iterdir()}
            limit_files(daemon.pid, max(numbers) + 1 + few)
            done = daemon.imgctl("import", uuid_, timeout=60)
            limit_files(daemon.pid, 512)
            if done.returncode == 0:
                break
            assert "oo many open files" in done.stderr, done.stderr
            assert "limits.connections" in done.stderr, done.stderr
            said.add(done.stderr.splitlines()[0])
        assert done.returncode == 0
        assert said
