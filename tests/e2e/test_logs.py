"""The log of the real daemon: what belongs together can be found, and nothing secret is in there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from imgctl import RemoteError

from tests.e2e.conftest import static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.daemon import Daemon
from tests.support.gate import Gate
from tests.support.image_site import BASE, INCREMENTAL, ImageSite, fixture_file, fixture_manifest
from tests.support.nginx import free_port

BAD = "22222222-aaaa-4bbb-8ccc-000000000001"
MISSING = "22222222-aaaa-4bbb-8ccc-0000000000ff"

SECRET = "s3cretvalue"

DEBUG = '[log]\nlevel = "debug"\nformat = "json"\n'


def lines_of(daemon: Daemon) -> list[dict[str, Any]]:
    return [json.loads(line) for line in daemon.log.read_text().splitlines()]


def add_bad(pages) -> None:
    """An image of which the server has other bytes than its manifest says."""
    manifest = {**fixture_manifest(BASE), "uuid": BAD}
    manifest["files"] = [{**manifest["files"][0], "sha1": "1" * 40}]
    pages.add(manifest, fixture_file(BASE))


def fails(daemon: Daemon, *arguments: str) -> str:
    """What the command says while it fails."""
    done = daemon.imgctl(*arguments)
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_all_lines_of_an_import_have_its_id_and_so_has_what_else_tells_of_it(tmp_path, served):
    add_bad(served.pages)
    dead = static_source(f"http://127.0.0.1:{free_port()}")
    events: list[dict[str, Any]] = []
    with Daemon(tmp_path / "store", config=dead + static_source(served.url) + DEBUG) as daemon:
        with daemon.client() as client:
            client.import_image(INCREMENTAL, on_event=events.append)
            for uuid in (BAD, MISSING):
                with pytest.raises(RemoteError):
                    client.import_image(uuid)
            history = {entry["uuid"]: entry for entry in client.history()}
        lines = [line for line in lines_of(daemon) if line["event"] != "request"]
    progress = [event for event in events if event["event"] == "progress"]
    told = {image["uuid"]: image["import_id"] for event in progress for image in event["images"]}
    assert told.keys() == {BASE, INCREMENTAL}
    for uuid, last in (
        (BASE, "installed"),
        (INCREMENTAL, "installed"),
        (BAD, "not installed"),
        (MISSING, None),
    ):
        about = [line for line in lines if line.get("uuid") == uuid]
        (import_id,) = {line["import_id"] for line in about}
        assert about == [line for line in lines if line.get("import_id") == import_id]
        events_of = [line["event"] for line in about]
        assert events_of[0] == "looking for an image"
        assert last is None or events_of[-1] == last
        assert last is None or "installing" in events_of
        assert {"a source failed", "a source was not waited for"} & set(events_of)
        assert history[uuid]["import_id"] == import_id
        assert told.get(uuid, import_id) == import_id
    assert len({entry["import_id"] for entry in history.values()}) == 4


def test_two_clients_that_ask_for_one_image_are_in_one_import(tmp_path, site, start_nginx):
    ImageSite(site).add_fixtures()
    with Gate(site) as gate:
        gate.hold()
        slow = start_nginx(locations={f"/{BASE}/": gate.location})
        with Daemon(tmp_path / "store", config=static_source(slow.url) + DEBUG) as daemon:
            commands = [started(daemon, "import", BASE) for _ in range(2)]
            until(lambda: any(len(job["clients"]) == 2 for job in jobs(daemon)))
            gate.open()
            for command in commands:
                command.communicate(timeout=60)
            assert [command.returncode for command in commands] == [0, 0]
            lines = [line for line in lines_of(daemon) if line.get("uuid") == BASE]
    assert [line["event"] for line in lines].count("installing") == 1
    assert len({line["import_id"] for line in lines if line["event"] in ("installing", "installed")}) == 1


# -- nothing secret ------------------------------------------------------------------------------------------


def loose_server(request, wire) -> None:
    """Repeats what it was sent, badly, and sends who wants a file to an address with a secret."""
    if request.target.startswith(f"/{BAD}/file"):
        location = f"http://127.0.0.1:1/file?X-Amz-Signature={SECRET}"
        wire.reply("302 Found", {"Location": location, "Set-Cookie": f"id={SECRET}"})
        return
    said = (
        f"cannot GET http://u:{SECRET}@127.0.0.1{request.target}\n2026-01-01T00:00:00Z [info ] forged"
        f"\x1b[31m\u202e Authorization: {request.headers.get('authorization')} " + "x" * 5000
    )
    body = json.dumps({"code": "InternalError", "message": said}).encode()
    wire.reply("500 Internal Server Error", {"Content-Type": "application/json"}, body)


def with_secrets(url: str, **settings: object) -> str:
    """A source whose URL, headers and proxy's URL are as secret as can be."""
    return static_source(
        f"{url}?token={SECRET}&channel=dev", headers={"Authorization": f"Basic {SECRET}"}, **settings
    ).replace('"Authorization": ', "Authorization = ")


def kept(daemon: Daemon) -> str:
    """All that is written down for people to see, and the names of all files."""
    state = daemon.folder / "state"
    folders = [state / "lists", state / "receipts", state / "imgadm", daemon.images]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += state.glob("history.sqlite*")
    assert any(path.parent.name == "lists" for path in files)
    assert any(path.parent.name == "receipts" for path in files)
    names = "\n".join(map(str, daemon.folder.rglob("*")))
    return names + "".join(path.read_bytes().decode("latin-1") for path in files)


@pytest.mark.slow
def test_no_secret_of_a_source_gets_out(tmp_path, served, start_faulty):
    add_bad(served.pages)
    loose = start_faulty(loose_server)
    port = free_port()
    config = (
        with_secrets(f"http://127.0.0.1:{free_port()}")
        + with_secrets(loose.url)
        + with_secrets(served.url)
        + with_secrets("http://images.invalid", proxy=f"http://me:{SECRET}@127.0.0.1:{free_port()}")
        + DEBUG
        + f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
    )
    with Daemon(tmp_path / "store", config=config) as daemon:
        said = [daemon.imgctl("-v", "import", INCREMENTAL, check=True).stdout]
        said += [fails(daemon, "import", uuid) for uuid in (BAD, MISSING)]
        said += [
            fails(daemon, "import", "-S", f"http://u:{SECRET}@127.0.0.1:{port}", MISSING),
            fails(daemon, "import", "-S", f"{loose.url}?token={SECRET}", MISSING),
            fails(daemon, "sources", "-a", f"http://u:{SECRET}@127.0.0.1:{port}"),
            fails(daemon, "sources", "-a", f"{loose.url}/?token={SECRET}"),
        ]
        for command in (["avail"], ["avail", "-j"], ["sources", "-c"], ["list", "-j"], ["jobs", "-j"],
                        ["history", "-j"], ["status", "-j"], ["du"], ["verify"], ["get", BASE], ["update"],
                        ["import", "--dry-run", BAD]):  # fmt: skip
            done = daemon.imgctl(*command)
            said.append(done.stdout + done.stderr)
        with daemon.client() as client:
            for ask in (client.available, client.check_sources, client.known_images, client.status,
                        client.list, client.history, client.usage):  # fmt: skip
                said.append(json.dumps(ask()))
            for uuid in (BAD, MISSING):
                with pytest.raises(RemoteError) as refused:
                    client.import_image(uuid, on_event=lambda event: said.append(json.dumps(event)))
                said.append(repr(vars(refused.value)))
        scraped = subprocess.run(
            ["/usr/bin/curl", "-sS", f"http://127.0.0.1:{port}/metrics"],
            capture_output=True,
            text=True,
            check=True,
        )
        everything = "\n".join([*said, scraped.stdout, kept(daemon)])
    log = daemon.log.read_text()
    # It was sent to the servers that it was meant for, and there was something to tell of them.
    assert any(SECRET in request.target + str(request.headers) for request in loose.requests)
    assert "channel=dev" in everything
    assert "forged" in log
    assert SECRET not in everything
    assert SECRET not in log
    assert "\x1b" not in "".join([log, *said])
    for line in lines_of(daemon):
        assert len(json.dumps(line)) < 5000, "a server's words are cut"


def test_a_user_in_a_sources_url_is_refused_without_being_told(tmp_path):
    config = static_source(f"http://me:{SECRET}@images.example.com")
    with pytest.raises(RuntimeError, match="a user in a URL is not allowed") as refused:
        Daemon(tmp_path / "store", config=config).start()
    assert SECRET not in str(refused.value)


def test_a_user_in_a_url_of_imgadm_is_refused_without_being_told(tmp_path):
    daemon = Daemon(tmp_path / "store", config=DEBUG)
    conf = Path(daemon.folder, "state", "imgadm", "imgadm.conf")
    conf.parent.mkdir(parents=True)
    conf.write_text(json.dumps({"sources": [{"type": "imgapi", "url": f"http://me:{SECRET}@h"}]}))
    with daemon:
        said = [
            fails(daemon, *command) for command in (["avail"], ["import", BASE], ["sources"], ["show", BASE])
        ]
    assert "a user in a URL is not allowed" in said[0]
    assert SECRET not in "".join([*said, daemon.log.read_text()])


def test_what_fails_again_and_again_is_told_once(tmp_path):
    config = static_source(f"http://127.0.0.1:{free_port()}") + DEBUG
    with Daemon(tmp_path / "store", config=config) as daemon:
        for _ in range(3):
            daemon.imgctl("avail")
        told = [line for line in lines_of(daemon) if line["level"] not in ("debug", "info")]
    assert [line["event"] for line in told] == ["a source cannot be listed"]


@pytest.mark.parametrize(
    "redirected",
    ["2>/dev/full", "2> >(exec true)", "2>&-", "<&- >&- 2>&-"],
    ids=["a full disk", "a pipe that nobody reads", "closed", "all closed"],
)
def test_a_log_that_cannot_be_written_fails_no_start_and_no_import(tmp_path, served, redirected):
    before = ["bash", "-c", f'exec {redirected}; exec "$@"', "bash"]
    with Daemon(tmp_path / "store", config=static_source(served.url) + DEBUG, before=before) as daemon:
        # No file of the daemon's has the number of a standard one, which others write to.
        standard = [os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in range(3)]  # noqa: PTH115
        assert all(name.startswith(("/dev/", "pipe:", str(daemon.log))) for name in standard)
        assert daemon.imgctl("import", INCREMENTAL).returncode == 0
        assert daemon.stop() == 0
