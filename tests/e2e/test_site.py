"""A static site of the library's images: written by one host, served by nginx, used by others."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from imgctl import Client
from imgctl.errors import FileSystemError

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.nginx import Nginx, free_port

MADE = "22222222-aaaa-4bbb-8ccc-000000000031"
#: What docs/serving.md tells an operator to write, so that imgadm needs no redirect.
FOR_IMGADM = {
    "/": "try_files $uri $uri/index.html =404; types { } default_type application/json;",
    "~ /file$": "types { } default_type application/octet-stream;",
}


@pytest.fixture
def maker(tmp_path, served):
    """A host whose library has the three fixture images."""
    config = static_source(served.url) + "[library]\nkeep_mib = 100\n"
    with Daemon(tmp_path / "maker", config=config) as daemon:
        for uuid in (INCREMENTAL, ZVOL):
            daemon.imgctl("import", uuid, check=True)
        yield daemon


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "www"


def export(maker, folder, *arguments, status=0):
    done = maker.imgctl("export-site", "-j", *arguments, str(folder))
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def add(maker, uuid):
    """Imports an image that its source has only now."""
    maker.imgctl("avail", check=True)
    maker.imgctl("import", uuid, check=True)


@contextmanager
def host(path, *, url, type_, more="", keys=()):
    """Another host with the site as its only source."""
    text = f'[[sources]]\nurl = "{url}"\ntype = "{type_}"\n'
    if keys:
        text += f"keys = {json.dumps(list(keys))}\n"
    with Daemon(path, config=text + more) as daemon:
        yield daemon


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read(), answer.headers


def test_a_private_image_is_exported_if_it_is_named(maker, folder, served):
    """Everybody may read a site."""
    manifest, file = made_image(MADE, size=1 << 20, public=False)
    served.pages.add(manifest, file)
    add(maker, MADE)
    done = export(maker, folder)
    assert done["images"] == 3
    assert [(each["image"], each["reason"]) for each in done["left_out"]] == [
        (MADE, "its manifest calls it private; name it to export it")
    ]
    assert not (folder / "images" / MADE).exists()
    assert MADE not in (folder / "images" / "index.html").read_text()
    done = maker.imgctl("export-site", "-j", str(folder), MADE)
    assert done.returncode == 0, done.stderr
    assert (folder / "images" / MADE / "file").read_bytes() == file
    assert json.loads(done.stdout)["left_out"] == []


@pytest.mark.parametrize(
    ("type_", "below", "locations"),
    [
        ("static", "/images", {}),
        ("imgapi", "", {}),
        ("imgapi", "", FOR_IMGADM),
        ("dsapi", "", FOR_IMGADM),
    ],
)
def test_other_hosts_install_from_it(tmp_path, maker, folder, type_, below, locations):
    folder.mkdir()
    with Nginx(tmp_path / "nginx-site", root=folder, locations=locations) as nginx:
        done = export(maker, folder, "--url", nginx.url)
        assert (done["images"], len(done["new"]), done["left_out"]) == (3, 3, [])
        assert (done["linked"], done["copied"]) == (3, 0)
        with host(tmp_path / "other", url=nginx.url + below, type_=type_) as other:
            listed = other.imgctl("avail", "-H", "-o", "uuid").stdout.split()
            assert sorted(listed) == [BASE, INCREMENTAL, ZVOL]
            for uuid in (INCREMENTAL, ZVOL):
                done = other.imgctl("import", uuid)
                assert done.returncode == 0, done.stderr
            assert json.loads(other.imgctl("sources", "-c", "-j").stdout or "[]") is not None


def test_the_plainest_web_server_will_do(tmp_path, maker, folder):
    export(maker, folder)
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "-d", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}/images"
            with host(tmp_path / "other", url=url, type_="static") as other:
                done = other.imgctl("import", INCREMENTAL)
                assert done.returncode == 0, done.stderr
        finally:
            server.terminate()


def test_a_manifest_is_no_page(maker, served, folder):
    """A plain web server says text/html of index.html: what a browser makes of it has no tags."""
    text = "<script>alert('</html>')</script>"
    manifest, file = made_image(MADE, size=1 << 20, description=text, tags={text: text})
    served.pages.add(manifest, file)
    add(maker, MADE)
    export(maker, folder, "--url", "http://www.example.com")
    pages = list(folder.rglob("index.html"))
    assert len(pages) == 2 + 2 * 4
    assert not any(b"<" in page.read_bytes() for page in pages)
    shown = json.loads((folder / "images" / MADE / "index.html").read_bytes())
    assert (shown["description"], shown["tags"]) == (text, {text: text})
    listed = json.loads((folder / "images" / "index.html").read_bytes())
    assert shown in listed


def test_a_folder_of_another_user(maker, folder):
    """Whose web server reads it; root's files stay root's."""
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    export(maker, folder)
    done = subprocess.run(
        ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/bin/cat", "index.html"],
        cwd=folder / "images",
        capture_output=True,
    )
    assert len(json.loads(done.stdout)) == 3
    file = folder / "images" / BASE / "file"
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o644)


def test_what_a_web_server_gives_of_it(tmp_path, maker, folder):
    """The requests of imgadm, which follows no redirect, and their answers."""
    folder.mkdir()
    with Nginx(tmp_path / "nginx-site", root=folder, locations=FOR_IMGADM) as nginx:
        export(maker, folder, "--url", nginx.url)
        assert json.loads(get(f"{nginx.url}/ping")[0])["imgapi"] is True
        body, headers = get(f"{nginx.url}/images?limit=1000")
        assert headers["Content-Type"] == "application/json"
        assert sorted(each["uuid"] for each in json.loads(body)) == [BASE, INCREMENTAL, ZVOL]
        manifest = json.loads(get(f"{nginx.url}/images/{BASE}")[0])
        assert (manifest["v"], manifest["state"]) == (2, "active")
        assert manifest["files"] == fixture_manifest(BASE)["files"]
        file, headers = get(f"{nginx.url}/images/{BASE}/file")
        assert file == fixture_file(BASE).read_bytes()
        assert headers["Content-Length"] == str(manifest["files"][0]["size"])
        datasets = json.loads(get(f"{nginx.url}/datasets")[0])
        url = next(each["files"][0]["url"] for each in datasets if each["uuid"] == BASE)
        assert get(url)[0] == file
        assert json.loads(get(f"{nginx.url}/datasets/{BASE}")[0])["files"][0]["url"] == url
        assert all(hit.status == 200 for hit in nginx.settled_hits())


def test_the_checksums_are_right(maker, folder):
    export(maker, folder)
    done = subprocess.run(
        ["/usr/bin/sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == 6


def test_again_it_writes_only_what_is_new(maker, folder, served):
    first = export(maker, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = export(maker, folder)
    assert (again["new"], again["written"], again["images"]) == ([], 0, first["images"])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    manifest, file = made_image(MADE, size=1 << 20)
    served.pages.add(manifest, file)
    add(maker, MADE)
    third = export(maker, folder)
    assert (third["new"], third["images"]) == ([MADE], 4)
    assert (folder / "images" / BASE / "file").stat().st_mtime_ns == before[folder / "images" / BASE / "file"]


def test_whoever_reads_it_meanwhile_never_sees_half(tmp_path, maker, folder, served):
    """Through nginx, again and again, while exports write it: all that a list names is there, and whole."""
    uuids = [f"22222222-aaaa-4bbb-8ccc-0000000001{number:02}" for number in range(4)]
    export(maker, folder)
    ended, seen, wrong = threading.Event(), set(), []

    def read():
        while True:
            last = ended.is_set()
            try:
                listed = json.loads(get(f"{site.url}/images/index.html")[0])
                for image in listed:
                    place = f"{site.url}/images/{image['uuid']}"
                    assert json.loads(get(f"{place}/index.html")[0]) == image
                    file = get(f"{place}/file")[0]
                    assert hashlib.sha1(file).hexdigest() == image["files"][0]["sha1"], image["uuid"]
                seen.add(len(listed))
            except (AssertionError, OSError, ValueError) as error:
                wrong.append(repr(error))
                return
            if last:
                return

    with Nginx(tmp_path / "nginx", root=folder) as site:
        readers = [threading.Thread(target=read) for _ in range(2)]
        for each in readers:
            each.start()
        try:
            for number, uuid in enumerate(uuids):
                served.pages.add(*made_image(uuid, size=1 << 20, seed=number + 50))
                add(maker, uuid)
                export(maker, folder)
        finally:
            ended.set()
            for each in readers:
                each.join()
    assert wrong == []
    assert max(seen) == 3 + len(uuids)


def test_chosen_images_bring_their_origins_and_others_can_be_removed(maker, folder):
    export(maker, folder)
    name = fixture_manifest(INCREMENTAL)["name"]
    done = maker.imgctl("export-site", "-j", str(folder), name)
    assert json.loads(done.stdout)["images"] == 2
    assert (folder / "images" / ZVOL).is_dir()  # a list that a client has may name it
    done = maker.imgctl("export-site", "-j", "--delete", str(folder), f"{name}@latest")
    assert json.loads(done.stdout)["deleted"] == 1
    assert sorted(each["uuid"] for each in json.loads((folder / "images/index.html").read_text())) == [
        BASE,
        INCREMENTAL,
    ]
    assert not (folder / "images" / ZVOL).exists()
    done = maker.imgctl("export-site", str(folder), "nonsense")
    assert done.returncode == 1
    assert "Left out nonsense: the library does not have it" in done.stdout


def test_installed_images_without_their_file_are_named(tmp_path, served, folder):
    """The library's budget has room for one of them."""
    manifest, file = made_image(MADE, size=2 << 20)
    served.pages.add(manifest, file)
    with Daemon(tmp_path / "small", config=static_source(served.url) + "[library]\nkeep_mib = 1\n") as daemon:
        for uuid in (ZVOL, MADE):
            daemon.imgctl("import", uuid, check=True)
        done = export(daemon, folder)
        assert [each["image"] for each in done["left_out"]] == [MADE]
        assert done["images"] == 1
        shown = daemon.imgctl("export-site", str(folder))
        assert (
            f"Left out {MADE} (made-1): it is installed, but its original file was not kept" in shown.stdout
        )
        assert daemon.imgctl("export-site", str(folder), MADE).returncode == 1


def test_without_a_library_it_says_what_to_do(tmp_path, folder):
    with Daemon(tmp_path / "plain") as daemon:
        done = daemon.imgctl("export-site", str(folder))
        assert done.returncode == 1
        assert "library.keep_mib" in done.stderr


def test_links_in_the_folder_lead_nowhere(tmp_path, maker, folder):
    """Its owner is somebody else, who would like root to write elsewhere."""
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "index.html").write_text("mine")
    folder.mkdir()
    (folder / "images").symlink_to(secret)
    done = maker.imgctl("export-site", str(folder))
    assert (done.returncode, "cannot be written" in done.stderr) == (1, True)
    assert [path.name for path in secret.iterdir()] == ["index.html"]
    (folder / "images").unlink()
    (folder / "images").mkdir()
    (folder / "images" / BASE).symlink_to(secret)
    assert maker.imgctl("export-site", str(folder)).returncode == 1
    (folder / "images" / BASE).unlink()
    (folder / "images" / BASE).mkdir()
    (folder / "images" / BASE / "file").symlink_to(secret / "index.html")
    (folder / "images" / "index.html").symlink_to(secret / "index.html")
    os.mkfifo(folder / "ping")
    export(maker, folder)
    assert (secret / "index.html").read_text() == "mine"
    assert not (folder / "images" / BASE / "file").is_symlink()
    assert (folder / "ping").is_file()


def test_where_there_are_no_links_it_copies_once(maker, folder, tmp_path):
    folder.mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        done = export(maker, folder)
        size = sum(fixture_file(uuid).stat().st_size for uuid in (BASE, INCREMENTAL, ZVOL))
        assert (done["linked"], done["copied"], len(done["new"])) == (0, size, 3)
        assert (folder / "images" / BASE / "file").read_bytes() == fixture_file(BASE).read_bytes()
        assert export(maker, folder)["new"] == []
    finally:
        subprocess.run(["/usr/bin/umount", str(folder)], check=True)


def test_a_full_folder_is_an_error_and_the_site_stays_as_it_was(maker, folder, served):
    manifest, file = made_image(MADE, size=12 << 20)
    folder.mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        export(maker, folder)
        before = (folder / "images/index.html").read_bytes()
        served.pages.add(manifest, file)
        add(maker, MADE)
        done = maker.imgctl("export-site", str(folder))
        assert done.returncode == 1
        assert "there is no room left" in done.stderr
        assert (folder / "images/index.html").read_bytes() == before
        assert not list(folder.rglob(".imgstore-*"))
    finally:
        subprocess.run(["/usr/bin/umount", str(folder)], check=True)


def test_a_damaged_file_of_the_library_is_left_out(maker, folder):
    path = maker.folder / "state" / "library" / ZVOL / "file"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = export(maker, folder, status=1)
    assert [each["image"] for each in done["left_out"]] == [ZVOL]
    assert "damaged" in done["left_out"][0]["reason"]
    assert not (folder / "images" / ZVOL).exists()
    assert hashlib.sha256((folder / "images" / BASE / "file").read_bytes()).hexdigest() in (
        (folder / "SHA256SUMS").read_text()
    )


def test_the_folder_may_be_relative_and_only_root_may_ask(maker, folder):
    done = maker.imgctl("export-site", "--days", "3", str(folder))
    assert "--days is for a signature" in done.stderr
    assert not Path(folder).exists()


def test_the_daemons_own_folders_are_no_place_for_a_site(tmp_path, maker):
    """However somebody gets there; and the library is as it was."""
    state = maker.folder / "state"
    library = state / "library"
    (tmp_path / "link").symlink_to(library)
    before = sorted(path.relative_to(state) for path in library.rglob("*"))
    for folder in (library, library / BASE, state, tmp_path / "link", library / ".." / "library"):
        done = maker.imgctl("export-site", "--delete", str(folder))
        assert done.returncode == 1, folder
        assert "is in a folder of the daemon's own" in done.stderr
    assert sorted(path.relative_to(state) for path in library.rglob("*")) == before


def test_what_is_no_folder_is_said_to_be_none(maker):
    """imgctl opens folders alone; other clients may pass anything."""
    reader, writer = os.pipe()
    file = os.memfd_create("file")
    try:
        with Client(str(maker.socket)) as client:
            for fd in (reader, file):
                with pytest.raises(FileSystemError, match="it cannot be used: Not a directory"):
                    client.request("site.export", {"path": "it"}, file=fd)
    finally:
        for fd in (reader, writer, file):
            os.close(fd)


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://x", "http://x/\n", "http://", "http://user:pw@x", "http://x:0"]
)
def test_a_url_that_no_client_can_use_is_refused(maker, folder, url):
    done = maker.imgctl("export-site", "--url", url, str(folder))
    assert done.returncode == 1
    assert "error (ClientError)" in done.stderr
    assert not (folder / "images").exists()


def test_what_is_no_key_is_said_to_be_none(tmp_path, maker, folder):
    junk = tmp_path / "junk"
    junk.write_text("junk")
    done = maker.imgctl("export-site", "--sign", str(junk), str(folder))
    assert done.returncode == 1
    assert "neither a secret nor a public key" in done.stderr
