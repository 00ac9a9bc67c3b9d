"""What tests of making images share."""

from __future__ import annotations

import gzip
import hashlib
import os

import pytest


@pytest.fixture
def output(tmp_path):
    """An empty file that is open for writing, and its path."""
    path = tmp_path / "image"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    yield fd, path
    os.close(fd)


@pytest.fixture
def image(tmp_path):
    """A manifest, and its file, which is open for reading."""
    content = gzip.compress(bytes(range(256)) * 20_000)
    path = tmp_path / "web.zfs.gz"
    path.write_bytes(content)
    manifest = {
        "v": 2,
        "uuid": "11111111-aaaa-4bbb-8ccc-000000000001",
        "name": "web",
        "version": "1.0.0",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [{"sha1": hashlib.sha1(content).hexdigest(), "size": len(content), "compression": "gzip"}],
    }
    fd = os.open(path, os.O_RDONLY)
    yield manifest, fd, content
    os.close(fd)
