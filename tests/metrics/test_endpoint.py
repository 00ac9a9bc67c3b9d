"""The real server, on real sockets: what it answers, and what a client can take of it."""

from __future__ import annotations

import contextlib
import socket
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

import imgstored.metrics
from imgstored.errors import ConfigError
from imgstored.http.secrets import KNOWN
from imgstored.httpd.address import TcpAddress, UnixAddress
from imgstored.metrics import endpoint, open_metrics
from imgstored.pools.base import Space
from imgstored.queries.status import PoolStates
from tests.support.nginx import free_port

#: Far longer than anything here takes.
PATIENCE = 30.0


class Pool:
    """A pool that says how much room it has, or hangs in the kernel."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers = threading.Event()
        self.answers.set()

    def space(self) -> Space:
        self.answers.wait(PATIENCE)
        return Space(1000, 400)

    def incoming(self) -> dict[str, int]:
        return {}


class Host:
    def __init__(self) -> None:
        self.pools = {"zones": Pool("zones"), "dead": Pool("dead")}
        self.sources = [
            {"url": "https://well", "error": None, "answered_at": 1.0},
            {"url": "https://failing", "error": {"message": "no"}, "answered_at": None},
            {"url": "https://never-asked", "error": None, "answered_at": None},
        ]
        self.jobs = [{"phase": "downloading", "limits": "network", "rate": 1000.0}]
        self.unreadable = False

    def of_pool(self, name):
        image = SimpleNamespace(image=SimpleNamespace(used=7))
        return {"zones": {"a": image, "b": image}, "dead": {}}[name]

    async def health(self):
        if self.unreadable:
            raise ConfigError("imgadm.conf is not valid")
        return self.sources


@pytest.fixture
def host():
    made = Host()
    yield made
    for pool in made.pools.values():
        pool.answers.set()


@asynccontextmanager
async def serving(address, host, **settings):
    metrics = open_metrics(address, **{"mode": 0o600, "group": None, **settings})
    catalog = SimpleNamespace(pools=host.pools, of_pool=host.of_pool, unfinished=lambda _: [])
    states = PoolStates(catalog, {}, timeout=0.2)
    metrics.show(states, host, jobs=lambda: host.jobs, fetched=dict, clients=lambda: 3, view=lambda: "fuse")
    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(metrics.serve)
            yield metrics
            nursery.cancel_scope.cancel()


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def address(port):
    return TcpAddress("127.0.0.1", port)


async def asked(port, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        return b"".join([piece async for piece in stream])


async def get(port, path="/metrics", *, method="GET", headers="") -> tuple[int, dict[str, str], str]:
    answer = await asked(
        port, f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n".encode()
    )
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in pairs}, body


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_how_the_daemon_stands(address, port, host):
    async with serving(address, host):
        status, headers, text = await get(port)
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(text)
    assert found["imgstored_pool_size_bytes", "zones"] == 1000
    assert found["imgstored_pool_available_bytes", "zones"] == 400
    assert found["imgstored_pool_used_bytes", "zones"] == 600
    assert found["imgstored_images", "zones"] == 2
    assert found["imgstored_imports_under_way", "downloading"] == 1
    assert found["imgstored_imports_under_way", "waiting"] == 0
    assert found["imgstored_imports_limited", "network"] == 1
    assert found["imgstored_imports_limited", "pool"] == 0
    assert found["imgstored_download_bytes_per_second",] == 1000
    assert found["imgstored_clients",] == 3
    assert found["imgstored_view_info", "fuse"] == 1
    assert found["imgstored_source_up", "https://well"] == 1
    assert found["imgstored_source_up", "https://failing"] == 0
    assert ("imgstored_source_up", "https://never-asked") not in found
    assert found["process_resident_memory_bytes",] > 1 << 20


async def test_no_secret_is_told(address, port, host):
    """As where a server has it in the name of a pool, say."""
    async with serving(address, host):
        _, _, before = await get(port)
        assert '"zones"' in before
        KNOWN.configure(["zones"])
        _, _, body = await get(port)
    assert "zones" not in body
    assert '"(hidden)"' in body


async def test_a_pool_that_does_not_answer_is_down_and_holds_up_nothing(address, port, host):
    host.pools["dead"].answers.clear()
    async with serving(address, host):
        with trio.fail_after(PATIENCE / 2):
            for _ in range(3):
                found = samples((await get(port))[2])
                assert found["imgstored_pool_up", "zones"] == 1
                assert found["imgstored_pool_up", "dead"] == 0
                assert found["imgstored_pool_size_bytes", "zones"] == 1000
                assert ("imgstored_pool_size_bytes", "dead") not in found
        host.pools["dead"].answers.set()
        while not samples((await get(port))[2])["imgstored_pool_up", "dead"]:  # noqa: ASYNC110  as its thread ends
            await trio.sleep(0.1)


async def test_without_imgadms_file_there_is_all_but_the_sources(address, port, host):
    host.unreadable = True
    async with serving(address, host):
        found = samples((await get(port))[2])
    assert found["imgstored_clients",] == 3
    assert not any(name[0] == "imgstored_source_up" for name in found)


async def test_what_else_is_answered(address, port, host):
    async with serving(address, host):
        assert (await get(port, "/healthz"))[::2] == (200, "ok\n")
        assert (await get(port, "/"))[0] == 404
        assert (await get(port, "/metrics/../../etc/passwd"))[0] == 404
        status, headers, _ = await get(port, method="POST")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        status, headers, text = await get(port, method="HEAD")
        assert (status, text) == (200, "")
        assert int(headers["content-length"]) > 1000


async def test_a_body_that_nobody_wants_holds_up_nobody(address, port, host):
    async with serving(address, host):
        for _ in range(20):
            head = b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n"
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                with trio.move_on_after(0.2), contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(head + b"x" * 4_000_000)
        assert (await get(port))[0] == 200


async def test_openmetrics_for_who_wants_that(address, port, host):
    async with serving(address, host):
        _, headers, text = await get(port, headers="Accept: application/openmetrics-text; version=1.0.0\r\n")
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize("version", ["a.b", "1.x", "", ".", "9" * 5000, "²"])
async def test_a_version_that_is_none_gets_the_plain_form(address, port, host, version):
    async with serving(address, host):
        accept = f"Accept: application/openmetrics-text; version={version}\r\n"
        status, headers, text = await get(port, headers=accept)
    assert status == 200
    assert "imgstored_" in text
    assert headers["content-type"].startswith(("text/plain", "application/openmetrics-text"))


async def test_a_head_that_does_not_end_is_refused(address, port, host):
    async with serving(address, host):
        answer = await asked(port, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert b" 431 " in answer or b" 400 " in answer
        assert (await get(port))[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [b"\0" * 100, b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50],
    ids=["zeros", "too little", "another protocol"],
)
async def test_nonsense_ends_its_own_connection_only(address, port, host, said):
    async with serving(address, host):
        with trio.move_on_after(5):
            await asked(port, said)
        assert (await get(port))[0] == 200


async def test_an_upgrade_to_another_protocol_is_ignored(address, port, host):
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    async with serving(address, host):
        answer = await asked(port, f"GET /metrics HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert (await get(port))[0] == 200


@pytest.fixture
def without_end(monkeypatch):
    """Connections are not ended for being silent, so that nothing depends on how long that takes."""
    seconds = {"head_seconds": 1000.0, "idle_seconds": 1000.0, "silence_seconds": 1000.0}
    monkeypatch.setattr(endpoint, "_LIMITS", replace(endpoint._LIMITS, connections=16, **seconds))


@pytest.mark.usefixtures("without_end")
@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nHost: h\r\n"], ids=["nothing", "half"])
async def test_who_keeps_the_server_waiting_keeps_others_waiting_no_longer(address, port, host, said):
    async with serving(address, host):
        with ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(said)
            with trio.fail_after(PATIENCE):
                for _ in range(20):
                    assert (await get(port))[0] == 200


@pytest.mark.usefixtures("without_end")
async def test_who_waits_for_an_answer_keeps_the_place(address, port, host):
    host.pools["dead"].answers.clear()  # so that each answer takes some time, and they come one by one
    answers = []

    async def scrape():
        answers.append((await get(port))[0])

    async with serving(address, host):
        with ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(scrape)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(40):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    assert answers == [200] * 12


@pytest.mark.usefixtures("without_end")
async def test_who_does_not_read_the_answer_gives_way(address, port, host):
    """Nor does it keep the daemon from stopping: 16 of them are still there at the end."""
    host.sources = [{"url": f"https://{at:050000}", "error": None, "answered_at": 1.0} for at in range(200)]
    async with serving(address, host):
        with ExitStack() as stack:
            for _ in range(16):
                client = stack.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", port))
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await get(port, "/healthz"))[0] == 200


async def test_who_leaves_in_the_middle_ends_nothing(address, port, host):
    host.pools["dead"].answers.clear()
    async with serving(address, host):
        for _ in range(5):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            await stream.aclose()
        assert (await get(port))[0] == 200


async def test_it_ends_with_who_runs_it_whatever_clients_do(address, port, host):
    async with serving(address, host):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n")
    with pytest.raises(OSError, match=r"refused|all attempts"):
        await trio.open_tcp_stream("127.0.0.1", port)
    await stream.aclose()


async def test_a_unix_socket(tmp_path, host):
    path = tmp_path / "m.sock"
    async with serving(UnixAddress(path), host, mode=0o640):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        curl = ["/usr/bin/curl", "-sS", "--unix-socket", str(path), "http://h/healthz"]
        done = await trio.run_process(curl, capture_stdout=True)
        assert done.stdout == b"ok\n"
        with pytest.RaisesGroup(ConfigError, flatten_subgroups=True) as refused:
            async with serving(UnixAddress(path), host):
                pass
        assert "another imgstored" in repr(refused.value)
    assert not path.exists()


async def test_a_port_that_is_taken(address, port, host):
    group = pytest.RaisesGroup(ConfigError, flatten_subgroups=True)
    with socket.create_server(("127.0.0.1", port)), group as refused:
        async with serving(address, host):
            pass
    assert f"metrics.listen: cannot listen at 127.0.0.1:{port}" in repr(refused.value)


def test_a_name_that_is_no_socket_is_left_alone(tmp_path, host):
    path = tmp_path / "file"
    path.write_text("mine")

    async def main() -> None:
        async with serving(UnixAddress(path), host):
            pass

    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True) as refused:
        trio.run(main)
    assert "metrics.listen: " in repr(refused.value)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("package", ["werkzeug", "prometheus_client"])
def test_without_the_packages_it_is_said_what_to_install(address, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"metrics.listen: the Python package {package}") as refused:
        open_metrics(address, mode=0o600, group=None)
    assert "imgstore[serve]" in refused.value.hint


def test_where_there_are_none_nothing_of_it_is_imported():
    assert open_metrics(None, mode=0o600, group=None) is None
    program = (
        "import sys, imgstored.app\n"
        "names = {'prometheus_client', 'werkzeug', 'h11', 'imgstored.metrics.counts'}\n"
        "sys.exit(str(names & sys.modules.keys()) if names & sys.modules.keys() else 0)"
    )
    root = Path(imgstored.metrics.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, timeout=PATIENCE)
