"""What is wrong is named, and nothing of it stays."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.support.access import let_everybody_in
from tests.support.image_site import BASE, INCREMENTAL, fixture_file, fixture_manifest

OTHER = "22222222-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture
def daemon(shared_daemon):
    return shared_daemon


def leftovers(daemon) -> list[str]:
    """Whatever an import may leave: spools, partials, trash, manifests without an image."""
    state = daemon.folder / "state"
    found = [path for folder in ("spool", "pool", "imgadm/images") for path in (state / folder).glob("*")]
    return [str(path.relative_to(state)) for path in found if path.name != "lock"]


def broken(field: str, value: object, *, file: bytes | None = None):
    manifest = fixture_manifest(BASE)
    manifest["uuid"] = OTHER
    manifest["files"][0][field] = value
    return manifest, fixture_file(BASE) if file is None else file


def corrupted() -> tuple[dict, bytes]:
    """A sound gzip file of a stream in which one byte is wrong, with the right checksum of that file."""
    import gzip
    import hashlib

    stream = bytearray(gzip.decompress(fixture_file(BASE).read_bytes()))
    stream[2_000_000] ^= 1
    file = gzip.compress(bytes(stream))
    manifest, _ = broken("sha1", hashlib.sha1(file).hexdigest())
    manifest["files"][0]["size"] = len(file)
    return manifest, file


def cut_short() -> tuple[dict, bytes]:
    """A stream that ends in the middle, with the right checksum of the file."""
    import hashlib

    file = fixture_file(BASE).read_bytes()[:1_000_000]
    manifest, _ = broken("sha1", hashlib.sha1(file).hexdigest())
    manifest["files"][0]["size"] = len(file)
    return manifest, file


@pytest.mark.parametrize(
    ("image", "code", "words"),
    [
        (broken("sha1", "1" * 40), "DownloadError", 'file checksum (sha1) error: expected "1111'),
        (broken("size", 1_851_101), "DownloadError", "expected 1851101 bytes"),
        (corrupted(), "InternalError", "checksum"),
        (cut_short(), "UncompressionError", "ends"),
        (broken("sha1", "0" * 39), "ManifestValidation", "files[0].sha1"),
        (broken("size", None), "ManifestValidation", "files[0].size"),
    ],
    ids=["checksum", "size", "corrupt", "truncated", "manifest", "size-absent"],
)
def test_a_bad_image_gets_its_error_and_leaves_nothing(daemon, served, image, code, words):
    served.pages.add(*image)
    result = daemon.imgctl("import", OTHER)
    assert result.returncode == 1
    error = next(line for line in result.stderr.splitlines() if ": error (" in line)
    assert f"error ({code})" in error
    assert words in error
    assert leftovers(daemon) == []
    assert daemon.imgctl("list").stdout == ""
    assert [path.name for path in daemon.images.iterdir() if not path.name.startswith(".")] in (
        [],
        ["by-name"],
    )


def test_an_unknown_uuid_is_not_found(daemon):
    result = daemon.imgctl("import", OTHER)
    assert result.returncode == 1
    assert (
        f'error (ActiveImageNotFound): an active image "{OTHER}" was not found in image sources'
        in result.stderr
    )


def test_an_origin_that_no_source_has_is_named(daemon, served):
    manifest = fixture_manifest(INCREMENTAL) | {
        "uuid": OTHER,
        "origin": "33333333-aaaa-4bbb-8ccc-000000000001",
    }
    served.pages.add(manifest, fixture_file(INCREMENTAL))
    result = daemon.imgctl("import", OTHER)
    assert result.returncode == 1
    assert "33333333-aaaa-4bbb-8ccc-000000000001" in result.stderr
    assert leftovers(daemon) == []


def test_an_install_of_the_wrong_file_says_so(daemon, tmp_path):
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps(fixture_manifest(BASE)))
    result = daemon.imgctl("install", "-m", str(manifest), "-f", str(fixture_file(INCREMENTAL)))
    assert result.returncode == 1
    assert "error (DownloadError): image file size error: manifest says 1851100 bytes" in result.stderr
    assert leftovers(daemon) == []


def test_garbage_on_the_socket_ends_that_connection_only(daemon):
    with socket.socket(socket.AF_UNIX) as rude, daemon.client() as polite:
        rude.connect(str(daemon.socket))
        rude.sendall(b"\xc1" * 1000)
        rude.settimeout(5)
        while rude.recv(65536):
            continue
        assert polite.list() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_is_not_root_may_read_and_not_change(daemon):
    def as_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    let_everybody_in(daemon.folder)

    def imgctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "imgctl", *arguments],
            env={**os.environ, "IMGSTORED_SOCKET": str(daemon.socket)},
            preexec_fn=as_nobody,
            capture_output=True,
            text=True,
            timeout=30,
        )

    assert imgctl("list").returncode == 0
    refused = imgctl("import", BASE)
    assert refused.returncode == 1
    assert "error (NotPermitted)" in refused.stderr
    assert daemon.imgctl("list").stdout == ""
