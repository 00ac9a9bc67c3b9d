"""`imgctl.Client` against the daemon's own socket; and against what is none."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import imgctl
import msgpack
import pytest
from imgctl import Client, NotConnectedError, RemoteError
from imgctl import connection as connection_module

from imgstored.errors import ImageHasDependentClonesError, NoSourcesError
from tests.ctl.fake_daemon import HOLD, FakeDaemon
from tests.support.descriptors import no_files_left
from tests.support.events import AlreadyInstalled, Installed, Progress
from tests.support.limits import socket_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

U = "11111111-aaaa-4bbb-8ccc-000000000001"
V = "11111111-aaaa-4bbb-8ccc-000000000002"
IMAGE = {"manifest": {"uuid": U, "name": "base"}, "zpool": "zones", "cloneNames": [], "clones": 0}


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(str(daemon.path), timeout=30) as connected:
        yield connected


def test_what_is_installed(daemon, client):
    daemon.store.images = [IMAGE]
    assert client.list() == [IMAGE]
    assert client.get(U) == IMAGE
    assert client.get(U, "zones", recursive=True)["children"] == {
        "snapshots": [f"zones/{U}@final"],
        "clones": [],
    }
    client.delete(U)
    assert client.list() == []


def test_sources_and_what_they_have(daemon, client):
    source = {"url": "http://h", "type": "imgapi", "insecure": False, "channel": None}
    assert client.add_source("http://h") == {"added": True, "source": source}
    assert client.add_source("http://h", "imgapi")["added"] is False
    assert client.add_source("http://h", "static", insecure=True)["source"]["insecure"] is True
    assert [each["type"] for each in client.sources()] == ["imgapi", "static"]
    daemon.sources.checked = [{"url": "http://h", "type": "imgapi", "ok": True, "error": None}]
    assert client.check_sources() == daemon.sources.checked
    assert len(client.delete_source("http://h")) == 2
    daemon.sources.found["images"] = [{"manifest": {"uuid": U}, "source": "http://h"}]
    assert client.available() == daemon.sources.found
    daemon.sources.manifests[U] = {"uuid": U}
    assert client.show(U) == {"uuid": U}


def test_an_import_tells_its_events(daemon, client):
    daemon.store.scripts[U] = [Progress(1, 2, 3.0), Installed(U, "base", "1")]
    events: list[dict[str, Any]] = []
    client.import_image(U, pool="tank", sources=["http://s"], channel="dev", on_event=events.append)
    assert [event["event"] for event in events] == ["progress", "installed"]
    assert events[1] == Installed(U, "base", "1")
    assert daemon.store.wishes == [
        {
            "uuids": [U],
            "client": f"imgctl.Client {imgctl.__version__} (pid {os.getpid()})",
            "pool": "tank",
            "sources": ["http://s"],
            "channel": "dev",
            "zstream": False,
        }
    ]


def test_ensure_needs_no_listener(daemon, client):
    daemon.store.scripts = {U: [AlreadyInstalled(U, "a", "1")], V: [AlreadyInstalled(V, "b", "1")]}
    client.ensure([U, V])
    assert daemon.store.wishes[0]["uuids"] == [U, V]


def test_install_passes_the_open_file(daemon, client, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(b"stream")
    manifest = {"uuid": U, "name": "base", "version": "1"}
    with no_files_left(60):  # the daemon here closes what it got when it has answered
        client.install(manifest, file)
    assert daemon.store.files == [(manifest, b"stream", str(file))]


def test_install_with_a_manifest_that_does_not_fit_in_the_socket_at_once(daemon, client, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(b"stream")
    manifest = {"uuid": U, "name": "base", "version": "1", "description": "x" * 900_000}
    client.install(manifest, file)
    assert daemon.store.files == [(manifest, b"stream", str(file))]


def test_install_without_the_file(client):
    with pytest.raises(FileNotFoundError):
        client.install({}, "/nonexistent/image")


def test_jobs_and_cancel(daemon, client):
    daemon.store.underway = [{"uuid": U, "clients": ["one"]}]
    assert client.jobs() == daemon.store.underway
    client.cancel(U)
    assert daemon.store.cancelled == [U]


def test_an_error_has_all_that_the_daemon_said_and_the_connection_goes_on(daemon, client):
    daemon.store.errors["delete"] = ImageHasDependentClonesError(
        "in use", hint="wait", data={"dependents": [V]}
    )
    with pytest.raises(RemoteError) as caught:
        client.delete(U)
    error = caught.value
    assert (error.code, error.message, error.hint) == ("ImageHasDependentClones", "in use", "wait")
    assert (error.exit_status, error.data) == (1, {"dependents": [V]})
    with pytest.raises(RemoteError) as caught:
        client.get(U)
    assert (caught.value.code, caught.value.exit_status) == ("ImageNotInstalled", 3)
    assert client.list() == []
    assert daemon._server.connections == 1


def test_hello_may_be_said_again(client):
    assert client.call("hello", client="tests", protocol=1)["server"] == "imgstored"


def test_it_connects_when_needed_and_again_after_close(daemon):
    client = Client(str(daemon.path))
    assert client.list() == []
    client.close()
    client.close()
    assert client.list() == []
    client.close()


def test_leaving_from_a_listener_ends_the_interest(daemon, client):
    def listener(event: object) -> None:
        raise LookupError

    daemon.store.scripts[U] = [Progress(1, 2, 3.0), HOLD]
    with pytest.raises(LookupError):
        client.ensure([U], on_event=listener)
    assert daemon.store.left.wait(30)
    assert client.list() == []


def test_one_request_at_a_time(daemon, client):
    daemon.store.scripts[U] = [Progress(1, 2, 3.0)]
    with pytest.raises(RuntimeError, match="in flight"):
        client.ensure([U], on_event=lambda event: client.list())


def test_watch_has_a_connection_of_its_own(daemon, client):
    daemon.store.scripts["watch"] = [Progress(1, 2, 3.0), Installed(U, "a", "1"), HOLD]
    events = client.watch()
    assert next(events)["event"] == "progress"
    assert client.list() == []
    assert next(events)["uuid"] == U
    events.close()
    assert daemon.store.left.wait(30)


def test_watching_one_ends_with_it(daemon, client):
    daemon.store.scripts[U] = [Installed(U, "a", "1")]
    assert [event["event"] for event in client.watch(U)] == ["installed"]


def test_watching_a_failing_one_raises(daemon, client):
    daemon.store.scripts[U] = [NoSourcesError("none")]
    with pytest.raises(RemoteError, match="none"):
        list(client.watch(U))


def test_a_long_list_comes_whole(daemon, client):
    daemon.store.images = [{**IMAGE, "manifest": {"uuid": U, "description": "x" * 10_000}}] * 2_000
    assert len(client.list()) == 2_000


def test_numbers_and_text_that_messagepack_cannot_say(daemon, client, tmp_path):
    file = tmp_path / "image"
    file.write_bytes(b"")
    client.install({"uuid": U, "name": "\udc80", "version": "1", "big": 2**70}, file)
    assert daemon.store.files[0][0] == {"uuid": U, "name": "?", "version": "1", "big": float(2**70)}
    with pytest.raises(RemoteError) as caught:
        client.call("show", uuid=object())
    assert caught.value.code == "InvalidArgument"


@pytest.mark.parametrize("image", [None, 5, b"base", ["base"]], ids=repr)
def test_an_image_that_is_no_text_is_refused(client, image):
    for ask in (client.get, client.import_image, client.ensure if image != ["base"] else client.get):
        with pytest.raises(RemoteError) as caught:
            ask(image)
        assert caught.value.code == "InvalidArgument"


def test_one_source_may_be_named_without_a_list(client, monkeypatch):
    seen = []
    for name in ("request", "_repeatable"):
        monkeypatch.setattr(client, name, lambda method, params, *_: seen.append(params["sources"]))
    client.import_image(U, sources="http://images.example.com")
    client.plan(U, sources="http://images.example.com")
    assert seen == [["http://images.example.com"]] * 2


def test_a_daemon_that_stops_says_so(daemon, client):
    daemon.store.scripts[U] = [HOLD]
    errors: list[RemoteError] = []

    def ask() -> None:
        with pytest.raises(RemoteError) as caught:
            client.ensure([U])
        errors.append(caught.value)

    asking = threading.Thread(target=ask)
    asking.start()
    assert daemon.store.begun.wait(30)
    daemon.stop()
    asking.join(5)
    assert [error.code for error in errors] == ["Cancelled"]
    with pytest.raises(NotConnectedError):
        client.list()


def test_one_that_is_turned_away_learns_why(folder):
    with FakeDaemon(folder, limits=socket_limits(clients=1)) as daemon, Client(str(daemon.path)) as first:
        with pytest.raises(RemoteError, match="too many connections"), Client(str(daemon.path)):
            pass
        assert first.list() == []


def test_a_silent_daemon_is_not_waited_for(daemon):
    daemon.store.scripts[U] = [HOLD]
    with Client(str(daemon.path), timeout=0.1) as client:
        with pytest.raises(NotConnectedError, match="did not answer in time"):
            client.ensure([U])
        assert daemon.store.left.wait(30)


def test_a_daemon_that_was_restarted_is_found_again(folder):
    with FakeDaemon(folder) as daemon, Client(str(daemon.path)) as client:
        daemon.stop()
        with FakeDaemon(folder) as again:
            again.store.images = [IMAGE]
            assert client.list() == [IMAGE]


def test_nobody_there(folder):
    with pytest.raises(NotConnectedError) as caught:
        Client(str(folder / "none")).list()
    assert caught.value.message == f"imgstored is not running: nothing listens at {folder}/none"
    assert caught.value.code == "ClientError"
    assert "systemctl start imgstored" in caught.value.hint


@pytest.mark.parametrize("platform", ["linux", "sunos5"])
def test_where_the_daemon_is_by_default(monkeypatch, platform):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.delenv("IMGSTORED_SOCKET", raising=False)
    run = "/var/run" if platform == "sunos5" else "/run"
    assert Client().socket_path == f"{run}/imgstored/imgstored.sock"
    monkeypatch.setenv("IMGSTORED_SOCKET", "/elsewhere")
    assert Client().socket_path == "/elsewhere"
    assert Client("/given").socket_path == "/given"
    with pytest.raises(NotConnectedError) as caught:
        Client().list()
    assert ("svcadm" if platform == "sunos5" else "systemctl") in caught.value.hint


def test_a_path_that_no_socket_can_have():
    with pytest.raises(NotConnectedError, match="too long"):
        Client("/" + "x" * 200).list()


def test_a_full_backlog_is_waited_for(folder):
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(path)
        listening.listen(0)
        waiting.connect(path)
        later = threading.Timer(0.2, lambda: listening.accept()[0].close())
        later.start()
        connected = connection_module.connected_to(path, 5)
        connected.close()
        later.join()
        # That one still stands in line, as nobody accepted it.
        with pytest.raises(NotConnectedError, match="temporarily unavailable"):
            connection_module.connected_to(path, 0.1)


@contextmanager
def answering(folder: Path, answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that is not imgstored."""
    path = str(folder / "other")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            connected, _ = listening.accept()
            with connected:
                connected.recv(1 << 16)
                answer(connected)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join(5)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"\xc1", "does not speak MessagePack"),
        (b"\x81\x01\x02", "does not speak MessagePack"),
        (b"\xc4\x01x", "does not speak MessagePack"),
        (b"\x93\x00\x01\xa3abc", "is not imgstored"),
        (msgpack.packb([1, 77, None, None]), "is not imgstored"),
        (msgpack.packb("hello"), "is not imgstored"),
        (b"\x93", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_what_is_not_imgstored_is_told(folder, said, words):
    with (
        answering(folder, lambda connected: connected.sendall(said)) as path,
        pytest.raises(NotConnectedError, match=words),
    ):
        Client(path, timeout=30).connect()


def test_an_endless_message_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_MESSAGE", 4 << 20)

    def answer(connected: socket.socket) -> None:
        connected.sendall(b"\x94\x01\x01\xc0\xdd\x00\x10\x00\x00")
        try:
            while True:
                connected.sendall(b"\xa8 content" * 65536)
        except OSError:
            return

    with answering(folder, answer) as path, pytest.raises(NotConnectedError, match="more than"):
        Client(path, timeout=30).connect()


def test_notifications_that_are_not_known_are_passed_over(folder):
    def answer(connected: socket.socket) -> None:
        known = {"id": 1, "event": "x"}
        for message in (
            [2, "news", [{}]],
            [2, "event", [{"id": 9}]],
            [2, "event", [known]],
            [1, 1, None, {}],
        ):
            connected.sendall(msgpack.packb(message))
        connected.recv(1)

    with answering(folder, answer) as path:
        client = Client(path, timeout=30)
        client.connect()
        client.close()
