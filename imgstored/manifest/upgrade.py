"""v1 manifests and DSAPI's dsmanifests made v2, by the rules of imgadm's own upgrade.

Ours besides: `.xz` and `.zst` are recognised by their names, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from imgstored.errors import InvalidManifestError
from imgstored.manifest.values import number, shown

#: Fields of v1 that v2 has no use for.
_DROPPED: Final = frozenset(
    {
        "_url",
        "cloud_name",
        "created_at",
        "creator_admin",
        "creator_name",
        "creator_uuid",
        "owner_uuid",
        "platform_type",
        "restricted_to_uuid",
        "updated_at",
        "vendor_uuid",
    }
)

_COMPRESSION: Final = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}

_WITHOUT_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", re.ASCII)
_NUMERAL = re.compile(r"[0-9]{1,15}")


def upgrade(document: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as v2; one that is v2 or newer comes back as it is, in a dict of its own.

    Only the version is decided here, as a number or as a text that says one; of the fields, those that are
    wrong stay wrong. Raises `InvalidManifestError` for what has no version, or is a mixture of two.
    """
    if not isinstance(document, Mapping):
        raise InvalidManifestError("manifest is invalid: not a JSON object")
    version = document.get("v")
    says = number(version)
    if says is not None and says >= 2:
        return dict(document)
    if document.get("creator_uuid"):
        if version and says is None and version is not True:
            raise InvalidManifestError(f'manifest is invalid: "v" is not a number ({shown(str(version))})')
        return _from_v1(document)
    why = 'v1 without a "creator_uuid" field' if version else 'manifest does not have a "v" field'
    raise InvalidManifestError(f"manifest is invalid: {why}", hint="manifests have v: 2 today")


def _from_v1(old: Mapping[str, Any]) -> dict[str, Any]:
    if "owner" in old:
        raise InvalidManifestError('manifest is invalid: both "creator_uuid" (v1) and "owner" (v2)')
    restricted_to = old.get("restricted_to_uuid")
    if restricted_to and "public" in old:
        raise InvalidManifestError('manifest is invalid: both "restricted_to_uuid" (v1) and "public" (v2)')
    new = {key: value for key, value in old.items() if key not in _DROPPED}
    disabled = old.get("disabled") not in (None, False, 0, "")
    new |= {
        "v": 2,
        "owner": old["creator_uuid"],
        "public": not restricted_to,
        "disabled": disabled,
        "state": "disabled" if disabled else "active",
    }
    if restricted_to:
        new["acl"] = [restricted_to]
    published = old.get("published_at") or old.get("created_at")
    if published:
        new["published_at"] = _with_seconds(published)
    if isinstance(old.get("files"), list):
        new["files"] = [_file(file) for file in old["files"]]
    image_size = old.get("image_size")
    if isinstance(image_size, str) and _NUMERAL.fullmatch(image_size):
        new["image_size"] = int(image_size)
    return new


def _with_seconds(published: Any) -> Any:
    if isinstance(published, str) and _WITHOUT_SECONDS.fullmatch(published):
        return published[:-1] + ":00Z"
    return published


def _file(old: Any) -> Any:
    if not isinstance(old, dict):
        return old
    new = {key: value for key, value in old.items() if key not in ("path", "url")}
    new["compression"] = old.get("compression") or _compression_of(old.get("path") or old.get("url"))
    return new


def _compression_of(name: object) -> str:
    """By the ending of a file's path or URL."""
    if not isinstance(name, str):
        return "none"
    return _COMPRESSION.get(PurePosixPath(re.split("[?#]", name, maxsplit=1)[0]).suffix.lower(), "none")
