"""`export -o -` and `install -f -`: an image in one stream, as `tar` reads and writes it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from imgctl.run import archive

from imgstored.errors import NoSpaceError
from tests.support.events import ManifestMade, Sending
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

U = "11111111-aaaa-4bbb-8ccc-000000000001"
CONTENT = os.urandom(70_001)
MANIFEST = {
    "v": 2, "uuid": U, "name": "é/../web", "version": "1.0", "published_at": "2026-01-01T00:00:00Z",
    "files": [{"size": len(CONTENT), "sha1": hashlib.sha1(CONTENT).hexdigest(), "compression": "gzip"}],
}  # fmt: skip


@pytest.fixture
def room(tmp_path: Path, imgctl: Command) -> Path:
    """Where files are written that only pass."""
    folder = tmp_path / "room"
    folder.mkdir()
    imgctl.environment["TMPDIR"] = str(folder)
    return folder


@pytest.fixture
def exported(daemon: FakeDaemon, room: Path) -> FakeDaemon:
    daemon.making.events = [ManifestMade({"uuid": U}, "web-1.0", ".zfs.gz"), Sending()]
    daemon.making.result = {"manifest": MANIFEST}
    daemon.making.content = CONTENT
    return daemon


def stream(imgctl: Command, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    return imgctl(*arguments, text=False, **settings)  # type: ignore[return-value]


def packed(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def test_there_and_back(exported: FakeDaemon, imgctl: Command, room: Path):
    written = stream(imgctl, "export", "-c", "gzip", "-o", "-", U)
    assert (written.returncode, written.stderr) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(written.stdout)) as tar:
        assert tar.getnames() == ["web-1.0.imgmanifest", "web-1.0.zfs.gz"]
        assert json.loads(tar.extractfile("web-1.0.imgmanifest").read()) == MANIFEST
        assert tar.extractfile("web-1.0.zfs.gz").read() == CONTENT
    installed = stream(imgctl, "install", "-f", "-", stdin=None, input=written.stdout)
    assert (installed.returncode, installed.stderr) == (0, b"")
    assert f"Installed image {U}".encode() in installed.stdout
    ((manifest, data, _),) = exported.store.files
    assert (manifest, data) == (MANIFEST, CONTENT)
    assert [*room.iterdir()] == []


def test_what_tar_writes_is_read(daemon: FakeDaemon, imgctl: Command, room: Path, tmp_path: Path):
    (tmp_path / "a.imgmanifest").write_text(json.dumps(MANIFEST))
    (tmp_path / "a.zfs.gz").write_bytes(CONTENT)
    tar = ["tar", "-C", str(tmp_path), "--format=gnu", "-c", "a.imgmanifest", "a.zfs.gz"]
    made = subprocess.run(tar, capture_output=True, check=True, timeout=30).stdout
    assert stream(imgctl, "install", "-f", "-", stdin=None, input=made).returncode == 0
    assert daemon.store.files[0][1] == CONTENT


def test_a_file_alone_with_its_manifest_beside(
    daemon: FakeDaemon, imgctl: Command, room: Path, tmp_path: Path
):
    (tmp_path / "m").write_text(json.dumps(MANIFEST))
    line = ("install", "-m", str(tmp_path / "m"), "-f", "-")
    assert stream(imgctl, *line, stdin=None, input=CONTENT).returncode == 0
    assert daemon.store.files[0][:2] == (MANIFEST, CONTENT)
    assert [*room.iterdir()] == []


def test_a_disk_is_written_as_it_is(exported: FakeDaemon, imgctl: Command, room: Path):
    exported.making.events = [ManifestMade({"uuid": U}, "web-1.0", ".raw"), Sending()]
    assert stream(imgctl, "export", "--format", "raw", "-o", "-", U).stdout == CONTENT
    assert exported.making.asked[0]["form"] == "raw"
    assert [*room.iterdir()] == []


def test_what_fails_leaves_nothing(exported: FakeDaemon, imgctl: Command, room: Path):
    exported.making.events = [NoSpaceError("no room")]
    failed = stream(imgctl, "export", "-o", "-", U)
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert b"error (NoSpace): no room" in failed.stderr
    assert [*room.iterdir()] == []


def test_a_reader_that_leaves_ends_it_quietly(exported: FakeDaemon, imgctl: Command, room: Path):
    exported.making.content = bytes(4 << 20)
    exported.making.result = {"manifest": {**MANIFEST, "files": []}}
    with imgctl.start("export", "-o", "-", U, text=False) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(1)  # type: ignore[unused-ignore]
        running.stdout.close()
        assert running.wait(30) == 141
        assert running.stderr.read() == b""
    assert [*room.iterdir()] == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"", "empty header"),
        (b"not a tar archive" * 100, "invalid header"),
        (bytes(10240), "end of file header"),
        (packed(("a.zfs", CONTENT)), 'begins with "a.zfs", and not with a manifest'),
        (packed(("a.imgmanifest", b"x" * ((1 << 20) + 1))), "and not with a manifest"),
        (packed(("a.imgmanifest", b"{}")), "end of file header"),
        (packed(("a.imgmanifest", b"{")), "manifest is invalid"),
        (packed(("a.imgmanifest", b"{}"), kind=tarfile.SYMTYPE), "no plain file"),
        (packed(("a.imgmanifest", b"{}"), kind=tarfile.XHDTYPE), "no plain file"),
        (packed(("a.imgmanifest", b"{}"), ("x", b"12")), "the file has 2 bytes, and none by its manifest"),
        (packed(("a.imgmanifest", json.dumps(MANIFEST).encode()), ("x", b"12")), "the file has 2 bytes"),
        (
            packed(("a.imgmanifest", json.dumps(MANIFEST).encode()), ("x", CONTENT))[:40_000],
            "bytes too early",
        ),
    ],
)
def test_what_is_no_image(daemon: FakeDaemon, imgctl: Command, room: Path, given: bytes, words: str):
    refused = stream(imgctl, "install", "-f", "-", stdin=None, input=given)
    assert refused.returncode == 1
    assert b"error (InvalidManifest): " in refused.stderr
    assert words in refused.stderr.decode()
    assert daemon.store.files == []
    assert [*room.iterdir()] == []


def test_a_large_file_has_a_header_that_tar_reads():
    class Counting(io.RawIOBase):
        """Keeps the headers."""

        def __init__(self) -> None:
            self.written = b""

        def write(self, data: Any) -> int:
            self.written += bytes(data[:512])
            return len(data)

    out = Counting()
    archive._write_header(out, "x.zfs", 9 << 40)
    assert archive._read_header(io.BytesIO(out.written)).size == 9 << 40


def test_a_name_that_no_header_has_room_for(exported: FakeDaemon, imgctl: Command, room: Path):
    exported.making.events = [ManifestMade({"uuid": U}, "é" * 60, ".zfs"), Sending()]
    with tarfile.open(fileobj=io.BytesIO(stream(imgctl, "export", "-o", "-", U).stdout)) as tar:
        assert tar.getnames() == [f"{U}.imgmanifest", f"{U}.zfs"]


@pytest.mark.parametrize("columns", [100, 40])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["export", "-o", "-", U], b"an image cannot be written to a terminal"),
        (["install", "-f", "-"], b"standard input is a terminal"),
    ],
)
def test_a_terminal_is_no_place_for_it(
    exported: FakeDaemon, imgctl: Command, columns: int, line: list[str], words: bytes
):
    settings = {**imgctl.environment, "TERM": "dumb", "PYTHONIOENCODING": "ascii"}
    with Terminal(imgctl.line(*line), settings, size=(24, columns)) as terminal:
        assert terminal.end() == 1
        assert words in terminal.shown
    assert exported.making.asked == []


def test_one_at_a_time(exported: FakeDaemon, imgctl: Command):
    assert "standard output has room for one image" in imgctl("export", "-o", "-", U, U[:-1] + "2").stderr


def test_for_imgadm_it_is_a_file(daemon: FakeDaemon, imgctl: Command, tmp_path: Path):
    (tmp_path / "m").write_text("{}")
    refused = imgctl("install", "-m", str(tmp_path / "m"), "-f", "-", imgadm=True, cwd=tmp_path)
    assert 'error (Usage): file path does not exist: "-"' in refused.stderr


# -- a folder that is not there ------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_no_name_of_a_file(
    exported: FakeDaemon, imgctl: Command, tmp_path: Path
):
    missing = tmp_path / "missing"
    refused = imgctl("export", "-o", f"{missing}/", U)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines() == [
        f'imgctl export: error (FileSystem): there is no folder "{missing}/"',
        f'  hint: make it first: `mkdir -p "{missing}/"`',
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["room"]
    missing.mkdir()
    assert imgctl("export", "-o", f"{missing}/", U).returncode == 0
    assert sorted(path.name for path in missing.iterdir()) == ["web-1.0.imgmanifest", "web-1.0.zfs.gz"]
