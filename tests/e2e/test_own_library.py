"""What a host has kept is what it imports from, before any source is asked."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.nginx import free_port

TAKEN = '"event": "its file is in the library"'
KEEP = "[library]\nkeep_mib = 100\n"


@pytest.fixture
def keeper(tmp_path, served):
    """A daemon that has imported INCREMENTAL, kept its files, and deleted the images."""
    with Daemon(tmp_path / "keeper", config=static_source(served.url) + KEEP) as daemon:
        imported(daemon, INCREMENTAL)
        daemon.imgctl("delete", INCREMENTAL, check=True)
        daemon.imgctl("delete", BASE, check=True)
        yield daemon


def imported(daemon, *words):
    done = daemon.imgctl("import", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def entry(daemon, uuid):
    return json.loads((daemon.folder / "state" / "library" / uuid / "entry.json").read_text())


def test_it_imports_what_it_has_kept_without_its_sources(keeper, served):
    sent = served.bytes_sent()
    served.nginx.stop()
    planned = json.loads(keeper.imgctl("import", "-n", "-j", INCREMENTAL).stdout)
    assert planned["to_come"] == 0
    imported(keeper, INCREMENTAL)
    assert keeper.log.read_text().count(TAKEN) == 2
    for uuid in (BASE, INCREMENTAL):
        # As if it had come from there: imgadm's file names the source.
        with keeper.client() as client:
            got = client.get(uuid)
        assert got["manifest"] == fixture_manifest(uuid)
        assert got["source"] == served.url
    assert keeper.imgctl("verify").returncode == 0
    served.nginx.start()
    assert served.bytes_sent() == sent


def test_a_damaged_copy_is_set_aside(keeper, served):
    file = keeper.folder / "state" / "library" / BASE / "file"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    done = keeper.imgctl("import", BASE)
    assert done.returncode == 1
    assert "try again" in done.stderr
    assert keeper.imgctl("list", "-H").stdout == ""
    imported(keeper, BASE)
    assert keeper.imgctl("verify").returncode == 0
    assert (keeper.folder / "state" / "library" / BASE / "file").read_bytes() == fixture_file(
        BASE
    ).read_bytes()
    assert [path.name[:9] for path in file.parents[1].iterdir() if path.name.startswith(".damaged")]


def test_a_stream_as_it_is_now_comes_from_the_source(keeper, served):
    sent = served.bytes_sent_of(BASE)
    imported(keeper, "--zstream", BASE)
    assert served.bytes_sent_of(BASE) > sent


def test_a_source_that_counts_no_longer_is_none(keeper, served):
    """Its copies stay, and are asked for with the manifest of another source."""
    keeper.stop()
    port = free_port()
    config = keeper.config_file
    config.write_text(config.read_text().replace(served.url, f"http://127.0.0.1:{port}"))
    keeper.start()
    done = keeper.imgctl("import", BASE)
    assert done.returncode == 1
    assert "refused" in done.stderr.lower()


def test_the_file_of_another_manifest_is_not_taken(keeper, served):
    """The source has another file under the uuid by now; with -S its manifest counts."""
    manifest = {**fixture_manifest(ZVOL), "uuid": BASE}
    served.pages.manifests[:] = [each for each in served.pages.manifests if each["uuid"] != BASE]
    served.pages.add(manifest, fixture_file(ZVOL))
    keeper.stop()  # it has the list
    keeper.start()
    imported(keeper, "-S", served.url, BASE)
    assert TAKEN not in keeper.log.read_text()
    with keeper.client() as client:
        assert client.get(BASE)["manifest"]["files"] == manifest["files"]


def test_what_was_published_here_is_no_source(tmp_path, served):
    """Else whoever may publish here would say what this host takes for an image of its sources."""
    port, token = free_port(), "a-token-of-the-tests-0123456789"
    serve = f'[serve]\nlisten = "127.0.0.1:{port}"\ntokens = {{ ci = "{token}" }}\n'
    url = f"http://127.0.0.1:{port}"
    with Daemon(tmp_path / "server", config=static_source(served.url) + KEEP + serve) as server:
        manifest = tmp_path / "manifest.json"
        forged = {**fixture_manifest(ZVOL), "uuid": BASE}
        manifest.write_text(json.dumps(forged))
        source = f'[[sources]]\nurl = "{url}"\nheaders = {{ Authorization = "Bearer {token}" }}\n'
        with Daemon(tmp_path / "author", config=source) as author:
            done = author.imgctl("publish", "-m", str(manifest), "-f", str(fixture_file(ZVOL)), url)
            assert done.returncode == 0, done.stderr
        assert entry(server, BASE)["kind"] == "published"
        imported(server, BASE)
        with server.client() as client:
            assert client.get(BASE)["manifest"]["files"] == fixture_manifest(BASE)["files"]
