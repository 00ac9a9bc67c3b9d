"""Images of another server in the library: chosen, once and on a schedule, and whatever ends the daemon."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.e2e.conftest import gated, made_image, static_source
from tests.support.daemon import Daemon
from tests.support.faulty_server import FaultyServer
from tests.support.full import small
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_manifest

UUIDS = [f"22222222-aaaa-4bbb-8ccc-00000000005{number}" for number in range(5)]
LARGE = "22222222-aaaa-4bbb-8ccc-000000000061"
LIBRARY = "[library]\nkeep_mib = 1\n"
MIB = 1 << 20
ROOM = "[library]\nkeep_mib = 9\n"


def publish(served, number, **fields):
    """A version of `app`; a later one has a higher number."""
    manifest, file = made_image(
        UUIDS[number],
        size=MIB,
        seed=number + 1,
        name="app",
        version=f"1.{number}.0",
        published_at=f"2026-0{number + 1}-01T00:00:00.000Z",
        **fields,
    )
    served.pages.add(manifest, file)


@pytest.fixture
def several(served):
    for number in range(4):
        publish(served, number, **({"os": "linux"} if number == 3 else {}))
    return served


@pytest.fixture
def keeper(tmp_path, several):
    with Daemon(tmp_path / "keeper", config=static_source(several.url) + LIBRARY) as daemon:
        yield daemon


def library(daemon):
    folder = daemon.folder / "state" / "library"
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def mirror(daemon, *arguments, status=0):
    done = daemon.imgctl("mirror", "-j", *arguments)
    assert done.returncode == status, done.stderr + done.stdout
    return json.loads(done.stdout)


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_newest_of_a_name_and_their_origins(keeper, several):
    planned = mirror(keeper, "-n", "--name", "app", "--newest", "2", several.url)
    assert [each["uuid"] for each in planned["new"]] == [UUIDS[3], UUIDS[2]]
    assert library(keeper) == []
    done = mirror(keeper, "--name", "app", "--newest", "2", several.url)
    assert (done["chosen"], done["failed"], len(done["new"])) == (2, [], 2)
    # They exceed library.keep_mib, which is for others.
    assert library(keeper) == [UUIDS[2], UUIDS[3]]
    again = mirror(keeper, "--name", "app", "--newest", "2", several.url)
    assert (again["chosen"], again["new"], again["size"]) == (2, [], 0)
    name = fixture_manifest(INCREMENTAL)["name"]
    assert [each["uuid"] for each in mirror(keeper, "--name", name, several.url)["new"]] == [
        BASE,
        INCREMENTAL,
    ]
    assert mirror(keeper, "-n", "--name", "app", "--os", "linux", several.url)["chosen"] == 1
    shown = keeper.imgctl("mirror", "-n", several.url).stdout
    assert f"[dry-run] Mirror image {ZVOL} (" in shown
    assert "[dry-run] 7 images chosen, 3 new (" in shown
    assert keeper.imgctl("list", "-H").stdout == ""


def test_an_image_that_fails_is_named_and_the_others_are_there(keeper, several):
    path = several.pages.folder / UUIDS[0] / "file"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = mirror(keeper, "--name", "app", several.url, status=1)
    assert [each["uuid"] for each in done["failed"]] == [UUIDS[0]]
    assert "checksum" in done["failed"][0]["error"]["message"]
    assert library(keeper) == UUIDS[1:4]
    shown = keeper.imgctl("mirror", "--name", "app", several.url)
    assert f"Error mirroring image {UUIDS[0]} (app@1.0.0): " in shown.stdout


def test_a_server_that_is_down_is_an_error_and_nothing_goes(keeper, several):
    mirror(keeper, "--name", "app", several.url)
    several.nginx.stop()
    done = keeper.imgctl("mirror", "--name", "app", several.url)
    assert done.returncode == 1
    assert "refused" in done.stderr.lower()
    assert library(keeper) == UUIDS[:4]


def test_without_a_library_it_says_what_to_do(tmp_path, several):
    with Daemon(tmp_path / "plain", config=static_source(several.url)) as daemon:
        done = daemon.imgctl("mirror", several.url)
        assert (done.returncode, "library.keep_mib" in done.stderr) == (1, True)


def test_a_schedule_keeps_up_and_lets_go(tmp_path, several):
    table = f'[[mirror]]\nurl = "{several.url}"\nname = "app"\nnewest = 2\nevery = "1s"\n'
    config = static_source(several.url) + table
    with Daemon(tmp_path / "keeper", config=config) as daemon:
        until(lambda: library(daemon) == [UUIDS[2], UUIDS[3]])
        publish(several, 4)
        # The oldest is one that no schedule chooses; there is no room for what is only kept.
        until(lambda: library(daemon) == [UUIDS[3], UUIDS[4]])
        daemon.kill()
        daemon.start()
        mirror(daemon, "--name", "app", "--os", "linux", several.url)  # by a client: it stays
        assert library(daemon) == [UUIDS[3], UUIDS[4]]
    with Daemon(tmp_path / "keeper", config=static_source(several.url) + ROOM) as daemon:
        # Without a schedule its images are files like others.
        until(lambda: kinds(daemon) == {UUIDS[3]: "mirrored", UUIDS[4]: "kept"})


def test_an_incomplete_list_lets_nothing_go(tmp_path, several):
    """The other server's list is cut: what it lacks may still be there."""
    listed = [each for each in several.pages.manifests if each["uuid"] in UUIDS]
    known = {each["uuid"]: each for each in listed}
    cut = threading.Event()
    asked = []

    def answer(request, wire):
        url = urlsplit(request.target)
        if url.path == "/ping":
            return wire.reply("200 OK", {}, b'{"ping": "pong", "imgapi": true}')
        if url.path == "/images":
            # The newer half of it, and no further pages.
            limit = int(parse_qs(url.query)["limit"][0])
            body = listed[2:][: min(2, limit)] if cut.is_set() else listed[:limit]
            asked.append(cut.is_set())
            return wire.reply("200 OK", {}, json.dumps(body).encode())
        _, _, uuid, *rest = url.path.split("/")
        if rest:
            return wire.part((several.pages.folder / uuid / "file").read_bytes(), request)
        return wire.reply("200 OK", {}, json.dumps(known[uuid]).encode())

    with FaultyServer(answer) as server:
        table = f'[[mirror]]\nurl = "{server.url}"\nname = "app"\nevery = "1s"\n'
        source = static_source(server.url).replace("static", "imgapi")
        with Daemon(tmp_path / "keeper", config=source + table) as daemon:
            until(lambda: library(daemon) == UUIDS[:4])
            cut.set()
            until(lambda: asked.count(True) > 6)
            assert library(daemon) == UUIDS[:4]
            assert set(kinds(daemon).values()) == {"scheduled"}


def test_a_server_that_sends_nothing_holds_up_no_other(tmp_path, several):
    """All of its places are taken, as long as it likes; other mirrors, and hosts that pull, have theirs."""
    listed = [
        {**each, "uuid": f"22222222-aaaa-4bbb-8ccc-0000000009{number:02}", "name": "slow"}
        for number, each in enumerate([several.pages.manifests[-1]] * 12)
    ]
    known = {each["uuid"]: each for each in listed}
    release, asked = threading.Event(), []

    def answer(request, wire):
        path = urlsplit(request.target).path
        if path == "/ping":
            return wire.reply("200 OK", {}, b'{"ping": "pong", "imgapi": true}')
        if path == "/images":
            return wire.reply("200 OK", {}, json.dumps(listed).encode())
        _, _, uuid, *rest = path.split("/")
        if not rest:
            return wire.reply("200 OK", {}, json.dumps(known[uuid]).encode())
        asked.append(uuid)
        release.wait(PATIENCE)
        return wire.close()

    with FaultyServer(answer) as server:
        sources = static_source(several.url) + static_source(server.url).replace("static", "imgapi")
        table = f'[[mirror]]\nurl = "{server.url}"\nevery = "1h"\n'
        limits = "[limits]\nimports = 1\n"
        try:
            with Daemon(tmp_path / "keeper", config=sources + LIBRARY + table + limits) as daemon:
                until(lambda: asked)
                done = mirror(daemon, "--name", "app", several.url)
                assert len(done["new"]) == 4
                release.set()
        finally:
            release.set()


def test_another_file_under_the_uuid_is_named_and_stays(keeper, several):
    mirror(keeper, "--name", "app", several.url)
    before = (keeper.folder / "state" / "library" / UUIDS[1] / "file").read_bytes()
    several.pages.manifests[:] = [each for each in several.pages.manifests if each["uuid"] != UUIDS[1]]
    manifest, file = made_image(UUIDS[1], size=MIB, seed=77, name="app", version="1.1.0")
    several.pages.add(manifest, file)
    keeper.stop()  # it has the list
    keeper.start()
    done = mirror(keeper, "--name", "app", several.url, status=1)
    assert (done["new"], [each["uuid"] for each in done["failed"]]) == ([], [UUIDS[1]])
    assert "another file" in done["failed"][0]["error"]["message"]
    assert (keeper.folder / "state" / "library" / UUIDS[1] / "file").read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_what_the_library_cannot_keep_has_failed(tmp_path, served):
    """There is room for the file while it comes, and none for what goes with it."""
    manifest, file = made_image(LARGE, size=2 * MIB)
    served.pages.add(manifest, file)
    with small(tmp_path / "disk", 8 * MIB) as folder:
        config = static_source(served.url) + f'[library]\nkeep_mib = 1\npath = "{folder}/library"\n'
        with Daemon(tmp_path / "keeper", config=config + "[limits]\nmin_free_mib = 1\n") as daemon:
            taken = folder / "library" / LARGE
            taken.write_bytes(b"in the way of the folder")
            done = mirror(daemon, "--name", manifest["name"], served.url, status=1)
            assert (done["new"], [each["uuid"] for each in done["failed"]]) == ([], [LARGE])
            assert "the library cannot keep the file" in done["failed"][0]["error"]["message"]
            taken.unlink()
            assert len(mirror(daemon, "--name", manifest["name"], served.url)["new"]) == 1


def test_schedules_come_and_go_with_the_configuration(tmp_path, several):
    table = f'[[mirror]]\nurl = "{several.url}"\nname = "app"\nevery = "1s"\nnewest = '
    config = static_source(several.url) + ROOM
    with Daemon(tmp_path / "keeper", config=config + table + "1\n") as daemon:
        until(lambda: library(daemon) == [UUIDS[3]])

        def reload(old, new):
            text = daemon.config_file.read_text()
            assert old in text
            daemon.config_file.write_text(text.replace(old, new))
            os.kill(daemon.pid, signal.SIGHUP)

        reload("newest = 1", "newest = 3")
        until(lambda: library(daemon) == UUIDS[1:4])
        until(lambda: set(kinds(daemon).values()) == {"scheduled"})
        reload("newest = 3", "newest = 2")
        until(lambda: kinds(daemon).get(UUIDS[1]) == "kept")
        assert {kinds(daemon)[uuid] for uuid in UUIDS[2:4]} == {"scheduled"}
        reload(table + "2\n", "")
        until(lambda: set(kinds(daemon).values()) == {"kept"})


def kinds(daemon):
    folder = daemon.folder / "state" / "library"
    return {uuid: json.loads((folder / uuid / "entry.json").read_text())["kind"] for uuid in library(daemon)}


def test_after_kill_9_it_goes_on_where_it_was(tmp_path, served, gate):
    manifest, file = made_image(LARGE, size=24 * MIB)
    served.pages.add(manifest, file)
    gate.hold(after=12 * MIB)
    table = (
        f'[library]\nkeep_mib = 1\n[[mirror]]\nurl = "SERVER"\nname = "{manifest["name"]}"\nevery = "1s"\n'
    )
    with gated(served, gate, tmp_path / "rack", LARGE, more=table) as daemon:
        # The server's address is known only now.
        daemon.stop()
        daemon.config_file.write_text(daemon.config_file.read_text().replace("SERVER", served.url))
        daemon.start()
        spool = daemon.folder / "state" / "library" / f".coming-{LARGE}"
        until(lambda: gate.given >= 12 * MIB)
        until(lambda: spool.exists() and spool.stat().st_blocks * 512 >= 8 * MIB)
        daemon.kill()
        gate.open()
        before = gate.given
        daemon.start()
        until(lambda: library(daemon) == [LARGE])
        assert (daemon.folder / "state" / "library" / LARGE / "file").read_bytes() == file
        assert gate.given - before < len(file) - 4 * MIB
