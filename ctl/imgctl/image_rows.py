"""The rows of `list` and `avail`: the manifest's fields, and computed ones. Pure: no I/O.

The computed fields are imgadm's: see its `help list`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_TAG = "docker:tag:"

#: Computed fields, and those of a manifest that servers and imgadm know. An image may have others, too.
FIELDS = (
    "uuid", "name", "version", "os", "type", "pub", "published", "published_at", "published_date", "size",
    "source", "clones", "zpool", "state", "public", "disabled", "owner", "origin", "description",
    "pinned", "held", "v", "acl", "billing_tags", "channels", "cpu_type", "disk_driver", "docker_id",
    "docker_repo", "docker_short_id", "docker_tags", "error", "eula", "expires_at", "files",
    "generate_passwords", "homepage", "icon", "image_size", "inherited_directories", "nic_driver",
    "requirements", "tags", "traits", "uploaded_at", "urn", "users",
)  # fmt: skip


def image_row(image: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an *image* of the protocol, or of `{manifest, source}`. The manifest stays as it is."""
    manifest = image.get("manifest")
    row: dict[str, Any] = dict(manifest) if isinstance(manifest, dict) else {}
    published = row.get("published_at")
    if isinstance(published, str):
        row["published_date"] = row["pub"] = published[:10]
        row["published"] = _without_milliseconds(published)
    for field in ("source", "clones", "zpool"):
        if image.get(field) is not None:
            row[field] = image[field]
    holds = image.get("holds")
    if isinstance(holds, list):
        row |= {"held": holds, "pinned": "pinned" in holds}
    files = row.get("files")
    if isinstance(files, list) and files and isinstance(files[0], dict) and "size" in files[0]:
        row["size"] = files[0]["size"]
    tags = row.get("tags")
    if row.get("type") == "docker" and isinstance(tags, dict):
        row.update(_docker_fields(tags))
    return row


def docker_rows(images: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `list --docker` shows of rows of docker images: heads only, a row a tag.

    How imgadm words `created` is not known; ours is the time of publishing.
    """
    rows = list(images)
    origins = {origin for row in rows if isinstance(origin := row.get("origin"), str)}
    heads = [row for row in rows if row.get("uuid") not in origins]
    return [
        {
            "uuid": row.get("uuid"),
            "repository": row.get("docker_repo"),
            "tag": tag,
            "image_id": row.get("docker_short_id"),
            "created": row.get("published"),
        }
        for row in sorted(heads, key=lambda row: str(row.get("published_at")))
        for tag in row.get("docker_tags") or [None]
    ]


def _without_milliseconds(time: str) -> str:
    whole, dot, fraction = time.partition(".")
    return whole + fraction.lstrip("0123456789") if dot else time


def _docker_fields(tags: Mapping[Any, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "docker_tags": [tag[len(_TAG) :] for tag in tags if isinstance(tag, str) and tag.startswith(_TAG)]
    }
    id_ = tags.get("docker:id")
    if isinstance(id_, str):
        fields |= {"docker_id": id_, "docker_short_id": id_[:12]}
    if tags.get("docker:repo") is not None:
        fields["docker_repo"] = tags["docker:repo"]
    return fields
