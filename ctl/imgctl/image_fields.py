"""The fields of listed images: the manifest's, computed ones, and filters on them. Pure: no I/O.

The computed fields are imgadm's: see its `help list`.
"""

from __future__ import annotations

from imgctl import javascript
from imgctl.errors import UsageError

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Filter = Callable[[Mapping[str, Any]], bool]

_TAG = "docker:tag:"

#: Stands for a field that is not there, where None is JSON's null.
_MISSING = object()

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
    """The rows of `list --docker`, made of rows of docker images: heads only, one row per tag.

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


def parse_filter(argument: str, *, words: bool = False) -> Filter:
    """True if a row meets `field=value` (exactly), `field=true|false` or `field=~part`.

    With `words`, one without a sign is a part of the name. Raises `UsageError` for another form.
    """
    field, equals, wanted = argument.partition("=")
    if words and field and not equals:
        field, equals, wanted = "name", "=", f"~{argument}"
    if not field or not equals:
        raise UsageError(f'invalid filter: "{argument}" (must be of the form "field=value")')
    matches = _matcher(wanted)
    return lambda row: matches(lookup(row, field))


def meets_all(row: Mapping[str, Any], filters: Sequence[Filter]) -> bool:
    """True if the row meets every filter."""
    return all(meets(row) for meets in filters)


def has_field(row: Mapping[str, Any], path: str) -> bool:
    """True if the row has a field at a dotted path."""
    return lookup(row, path) is not _MISSING


def lookup(value: Any, path: str) -> Any:
    """The value at a dotted path, whose names may have dots themselves (`min_platform.7.0`)."""
    if isinstance(value, list):
        name, _, rest = path.partition(".")
        index = int(name) if name.isascii() and name.isdigit() and len(name) < 9 else len(value)
        if index >= len(value):
            return _MISSING
        return lookup(value[index], rest) if rest else value[index]
    if not hasattr(value, "keys"):
        return _MISSING
    if path in value:
        return value[path]
    at = path.find(".")
    while at >= 0:
        if path[:at] in value and (found := lookup(value[path[:at]], path[at + 1 :])) is not _MISSING:
            return found
        at = path.find(".", at + 1)
    return _MISSING


def _matcher(wanted: str) -> Callable[[Any], bool]:
    if wanted in ("true", "false"):
        return lambda value: value is (wanted == "true")
    if wanted.startswith("~"):
        part = wanted[1:]
        return lambda value: _contains(value, part)
    return lambda value: value is not _MISSING and value is not None and javascript.text(value) == wanted


def _contains(value: Any, part: str) -> bool:
    """Matches an element of an array, or a part of any other value's text."""
    if value is _MISSING or value is None or isinstance(value, dict):
        return False
    if isinstance(value, list):
        return any(javascript.text(item) == part for item in value)
    return part in javascript.text(value)
