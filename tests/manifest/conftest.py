from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def base() -> dict[str, Any]:
    """The manifest of a zone-dataset image."""
    return json.loads((DATA / "base.imgmanifest").read_text())


@pytest.fixture
def zvol() -> dict[str, Any]:
    return json.loads((DATA / "zvol.imgmanifest").read_text())


@pytest.fixture
def dsmanifest() -> dict[str, Any]:
    """A manifest as DSAPI servers have it."""
    return {
        "name": "base64",
        "version": "1.8.1",
        "type": "zone-dataset",
        "description": "Base 64-bit template",
        "published_at": "2012-10-25T11:04Z",
        "created_at": "2012-10-24T10:00:00.000Z",
        "updated_at": "2012-10-26T10:00:00.000Z",
        "os": "smartos",
        "files": [
            {
                "path": "base64-1.8.1.zfs.bz2",
                "sha1": "6cda4b3a0d4a5c4a5c4a5c4a5c4a5c4a5c4a5c4a",
                "size": 108943393,
                "url": "http://datasets.example.com/datasets/X/base64-1.8.1.zfs.bz2",
            }
        ],
        "requirements": {"networks": [{"name": "net0", "description": "public"}]},
        "users": [{"name": "root"}],
        "generate_passwords": True,
        "image_size": "10240",
        "uuid": "f669428c-a939-11e2-a485-b790efc0f0c1",
        "creator_uuid": "352971aa-31ba-496c-9ade-a379feaecd52",
        "creator_name": "sdc",
        "vendor_uuid": "352971aa-31ba-496c-9ade-a379feaecd52",
        "cloud_name": "sdc",
        "platform_type": "smartos",
        "urn": "sdc:sdc:base64:1.8.1",
    }
