"""Manifests in DSAPI's form, dsmanifests of v1. The opposite of `manifest.upgrade`. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgstored.manifest import NIL_UUID

if TYPE_CHECKING:
    from collections.abc import Mapping

#: File names by compression: a dsmanifest says it by the ending alone.
_ENDINGS: Final = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}

#: Fields of v2 that v1 has no use for.
_DROPPED: Final = frozenset({"v", "owner", "public", "acl", "state", "disabled", "files", "channels"})


def as_dataset(document: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The dsmanifest of a v2 manifest; `base` is the server's address."""
    uuid = document["uuid"]
    owner = document.get("owner") or NIL_UUID
    published = document.get("published_at")
    dataset = {key: value for key, value in document.items() if key not in _DROPPED}
    dataset |= {
        "urn": document.get("urn") or f"sdc:{owner}:{document.get('name')}:{document.get('version')}",
        "creator_uuid": owner,
        "creator_name": "sdc",
        "vendor_uuid": owner,
        "cloud_name": "sdc",
        "platform_type": "smartos",
        "created_at": published,
        "updated_at": published,
    }
    acl = document.get("acl")
    if document.get("public") is False and isinstance(acl, list) and acl:
        dataset["restricted_to_uuid"] = acl[0]
    files = document.get("files")
    if isinstance(files, list) and files and isinstance(files[0], dict):
        name = file_name(document)
        dataset["files"] = [
            {key: value for key, value in files[0].items() if key not in ("compression", "index")}
            | {"path": name, "url": f"{base}/datasets/{uuid}/{name}"}
        ]
    return dataset


def file_name(document: Mapping[str, Any]) -> str:
    """The name of the image's file, which has nothing of the manifest in it but the uuid."""
    files = document.get("files")
    first = files[0] if isinstance(files, list) and files and isinstance(files[0], dict) else {}
    return f"{document['uuid']}.zfs{_ENDINGS.get(str(first.get('compression')), '')}"
