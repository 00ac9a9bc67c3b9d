"""Hypothesis's manifests: good ones with some fields that are anything, and anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DATA = Path(__file__).parent.parent / "data"
SHA1 = "4225e44835795df43017e20991de1c59203a6363"
OTHER = "11111111-aaaa-4bbb-8ccc-0000000000ff"

FIELDS = [
    "v", "uuid", "urn", "owner", "name", "version", "description", "homepage", "eula", "icon", "state",
    "error",
    "disabled", "activated", "public", "published_at", "type", "os", "origin", "files", "acl", "requirements",
    "users", "billing_tags", "traits", "tags", "generate_passwords", "inherited_directories", "nic_driver",
    "disk_driver", "cpu_type", "image_size", "channels", "creator_uuid", "restricted_to_uuid",
]  # fmt: skip
INNER = [
    "sha1", "size", "compression", "dataset_guid", "path", "url", "networks", "min_ram", "max_ram", "brand",
    "bootrom", "min_platform", "max_platform", "name", "description", "message", "7.0",
]  # fmt: skip
_TEXTS = [
    "7.0", "zvol", "docker", "smartos", "active", "20120101T000000Z", "2012-05-01T12:00:00Z", OTHER, SHA1,
    "gzip", "http://[::1", "http://host:x/", "²", "٠", "http://host/a.gz", "null", "2", "../..", "\x1b[2J",
]  # fmt: skip


def _values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
        max_leaves=8,
    )


names = st.sampled_from(INNER) | st.text(max_size=4)
#: Also what no JSON has: integers of any size, NaN, half a character.
anything = _values(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(_TEXTS)
)  # fmt: skip
#: What JSON can say, and what `parse` makes of it.
json_values = _values(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=10)
    | st.sampled_from(_TEXTS)
)

BASE: dict[str, Any] = json.loads((DATA / "base.imgmanifest").read_text())
FILE = BASE["files"][0]


def changed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Good manifests of which something is anything."""
    return st.one_of(
        st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=3).map(
            lambda changes: {**BASE, **changes}
        ),
        st.dictionaries(st.sampled_from(INNER), values, max_size=2).map(
            lambda changes: {**BASE, "files": [{**FILE, **changes}]}
        ),
        st.dictionaries(st.sampled_from(INNER), values, max_size=3).map(
            lambda wants: {**BASE, "requirements": wants}
        ),
    )


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have some fields of a manifest, or none."""
    return st.dictionaries(
        st.sampled_from(FIELDS) | st.text(st.characters(codec="utf-8"), max_size=4), values, max_size=8
    )
