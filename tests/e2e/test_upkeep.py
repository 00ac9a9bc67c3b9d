"""Updating, vacuuming, editing sources, and what a source has that cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import made_image
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.streams import filesystem_stream

MADE = "44444444-aaaa-4bbb-8ccc-000000000001"

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(shared_daemon):
    return shared_daemon


def manifest_file(daemon: Daemon, uuid: str):
    return daemon.folder / "state" / "imgadm" / "images" / f"zones-{uuid}.json"


def test_update_writes_down_what_the_source_says_now(daemon, served):
    daemon.imgctl("import", INCREMENTAL, check=True)
    manifest = next(each for each in served.pages.manifests if each["uuid"] == BASE)
    manifest.update(description="Better words.", tags={"role": "os"})
    served.pages.manifests[:] = [each for each in served.pages.manifests if each["uuid"] != INCREMENTAL]
    served.pages._write_list()
    daemon.stop()  # a static list is believed for some seconds
    daemon.start()
    told = (
        f'Updated 2 manifest fields for image {BASE} from "{served.url}": description, tags\n'
        f"warning: Could not find image {INCREMENTAL} in image sources (skipping)\n"
    )
    before = manifest_file(daemon, BASE).read_text()
    dry = daemon.imgctl("update", "-n")
    assert (dry.stdout, dry.stderr, dry.returncode) == (told, "", 0)
    assert manifest_file(daemon, BASE).read_text() == before
    assert daemon.imgctl("update").stdout == told
    assert json.loads(manifest_file(daemon, BASE).read_text())["manifest"] == manifest
    assert json.loads((daemon.images / BASE / "manifest.json").read_text())["tags"] == {"role": "os"}
    assert daemon.imgctl("update", BASE).stdout == ""
    assert daemon.imgctl("update", MADE).returncode == 1


def test_vacuum_takes_leaves_first_and_nothing_that_is_held(daemon):
    daemon.imgctl("import", INCREMENTAL, check=True)
    daemon.imgctl("import", ZVOL, check=True)
    daemon.imgctl("hold", ZVOL, "golden", check=True)
    assert daemon.imgctl("vacuum", "-n", "--older-than", "1h").stdout == ""
    asked = subprocess.run(
        [sys.executable, "-m", "imgctl", "vacuum"],
        env={**os.environ, "IMGSTORED_SOCKET": str(daemon.socket)},
        input="yes\n" * 9,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 1
    assert "error (NoTerminal): nothing is deleted" in asked.stderr
    assert daemon.imgctl("vacuum", "-f").stdout == (
        f"Deleted image {INCREMENTAL} (incremental@1.0.0)\nDeleted image {BASE} (base@1.0.0)\nFreed 4.2 MiB\n"
    )
    assert daemon.imgctl("list", "-H", "-o", "uuid").stdout == f"{ZVOL}\n"
    assert not manifest_file(daemon, BASE).exists()


def test_vacuum_keeps_the_newest(daemon, served):
    for number, version in enumerate(("1.0", "2.0", "3.0"), 1):
        published = f"2026-0{number}-01T00:00:00.000Z"
        fields = {"name": "web", "version": version, "published_at": published}
        served.pages.add(*made_image(f"{MADE[:-1]}{number}", size=200_000, seed=number, **fields))
    daemon.imgctl("ensure", *(f"{MADE[:-1]}{number}" for number in (1, 2, 3)), check=True)
    gone = daemon.imgctl("vacuum", "-f", "--keep", "2").stdout
    assert gone.splitlines()[0] == f"Deleted image {MADE[:-1]}1 (web@1.0)"
    assert len(gone.splitlines()) == 2


def test_show_prints_also_what_import_refuses(daemon, served):
    unactivated = {**fixture_manifest(BASE), "uuid": MADE, "state": "unactivated", "name": "not\nyet"}
    del unactivated["files"]
    served.pages.manifests.append(unactivated)
    served.pages._write_list()
    assert json.loads(daemon.imgctl("show", MADE).stdout) == unactivated
    assert daemon.imgctl("import", MADE).returncode == 1


def test_a_stream_as_the_source_has_it_now(daemon, served):
    """A server that makes the file when it is asked knows neither its size nor its checksum before."""
    manifest, _ = made_image(MADE, size=200_000)
    served.pages.add(manifest, filesystem_stream(size=200_000, seed=1))
    refused = daemon.imgctl("import", MADE)
    assert refused.returncode == 1
    assert "error (DownloadError)" in refused.stderr
    taken = daemon.imgctl("import", "--zstream", MADE)
    assert taken.returncode == 0, taken.stderr
    assert "Must download and install 1 image\n" in taken.stdout
    (served.pages.folder / BASE / "file").write_bytes(b"x" * 1000)
    assert daemon.imgctl("import", "--zstream", BASE).returncode == 1, "it must be a stream"


def test_a_source_may_be_named_several_times(served, tmp_path):
    """`-S` replaces the configured sources; the first of them that has the image counts."""
    config = "[[sources]]\nurl = 'http://127.0.0.1:9'\n"
    with Daemon(tmp_path / "store", config=config) as daemon:
        # `-S` is of the type imgapi, as imgadm's: so this server has the files of one.
        images = served.pages.folder / "images"
        images.mkdir()
        (images / ZVOL).mkdir()
        (images / ZVOL / "index.html").write_text(json.dumps(fixture_manifest(ZVOL)))
        (images / ZVOL / "file").write_bytes(fixture_file(ZVOL).read_bytes())
        result = daemon.imgctl("import", "-S", "http://127.0.0.1:9", "-S", served.url, ZVOL)
        assert result.returncode == 0, result.stderr
        assert f'from "{served.url}"' in result.stdout


class TestEditing:
    @pytest.fixture
    def bare(self, tmp_path):
        with Daemon(tmp_path / "bare") as daemon:
            yield daemon

    def edit(self, daemon: Daemon, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        editor = daemon.folder / "editor"
        editor.write_text(f"#!/bin/sh\n{script}\n")
        editor.chmod(0o755)
        command = [sys.executable, "-m", "imgctl", "sources", "-e", *arguments]
        environment = {
            "PATH": "/usr/bin:/bin",
            "EDITOR": str(editor),
            "IMGSTORED_SOCKET": str(daemon.socket),
            "TMPDIR": str(daemon.folder),
        }
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )

    def listed(self, daemon: Daemon) -> list[str]:
        return daemon.imgctl("sources").stdout.splitlines()

    def test_the_list_becomes_what_was_written(self, bare, served):
        default = "https://images.smartos.org"
        done = self.edit(bare, f'echo "{served.url} static" >> "$1"')
        assert done.stdout == f'Added "static" image source "{served.url}"\n', done.stderr
        assert self.listed(bare) == [default, served.url]
        swapped = self.edit(
            bare, 'grep -v "^https" "$1" > "$1.x"; grep "^https" "$1" >> "$1.x"; cp "$1.x" "$1"'
        )
        assert swapped.stdout == "Reordered image sources\n", swapped.stderr
        assert self.listed(bare) == [served.url, default]
        assert self.edit(bare, 'echo "# nothing" >> "$1"').stdout == "Image sources unchanged\n"
        gone = self.edit(bare, 'sed -i "/^http/d" "$1"')
        assert sorted(gone.stdout.splitlines()) == [
            f'Deleted "imgapi" image source "{default}"',
            f'Deleted "static" image source "{served.url}"',
        ]
        assert self.listed(bare) == []

    def test_what_is_wrong_changes_nothing(self, bare):
        before = self.listed(bare)
        for line, code in (
            ("http://127.0.0.1:9", "SourcePing"),
            ("http://a ftp", "ConfigError"),
            ("ftp://a", "ClientError"),
        ):
            result = self.edit(bare, f'echo "{line}" >> "$1"')
            assert result.returncode == 1
            assert f"error ({code})" in result.stderr
            assert self.listed(bare) == before
        assert self.edit(bare, 'echo "http://127.0.0.1:9" >> "$1"', "-f").returncode == 0
        assert self.listed(bare) == [*before, "http://127.0.0.1:9"]

    def test_what_somebody_else_added_meanwhile_is_not_lost(self, bare, served):
        other = f"{sys.executable} -m imgctl sources -f -a http://127.0.0.1:9 > /dev/null"
        result = self.edit(bare, f'{other}; sed -i "/^https/d" "$1"')
        assert "the image sources have changed meanwhile" in result.stderr
        assert self.listed(bare) == ["https://images.smartos.org", "http://127.0.0.1:9"]

    def test_those_of_the_configuration_stay(self, daemon, served):
        result = self.edit(daemon, 'sed -i "/^http/d" "$1"')
        assert "is set in imgstored's configuration file" in result.stderr
        assert self.listed(daemon) == [served.url]
