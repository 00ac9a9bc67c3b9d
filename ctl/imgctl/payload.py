"""vmadm's payload: its place in the arguments, and the images that it names. Pure: no I/O."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Any

from imgctl.text import is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Bytes of a payload.
MAX_PAYLOAD = 16 << 20

#: vmadm's commands that take a payload in which images can be.
_COMMANDS = ("create", "validate", "update", "reprovision")
_DISKS = ("disks", "add_disks", "update_disks")


class Payload(enum.Enum):
    """Where the payload is, if it is in no file."""

    NONE = "none"  #: the command takes none
    STDIN = "stdin"


def payload_of(arguments: Sequence[str]) -> Payload | str:
    """The file's path, or where else vmadm takes its payload from."""
    if not arguments or arguments[0] not in _COMMANDS:
        return Payload.NONE
    path, rest = _file(arguments[1:])
    if path is None and arguments[0] == "update" and any("=" in word for word in rest):
        return Payload.NONE  # `vmadm update UUID KEY=VALUE`
    return Payload.STDIN if path in (None, "-", "/dev/stdin", "/dev/fd/0") else str(path)


def _file(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """What `-f` says, as nopt reads it; and what is no option of it."""
    path: str | None = None
    rest, words = [], iter(arguments)
    for word in words:
        if word in ("-f", "--file"):
            path = next(words, None)
        elif word.startswith("--file="):
            path = word.removeprefix("--file=")
        else:
            rest.append(word)
    return path, rest


def images_of(content: bytes) -> dict[str | None, list[str]]:
    """The uuids of the images that a payload names, by pool; None is the daemon's first pool.

    Nothing of what is no JSON, or no payload: vmadm will say so.
    """
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    images: dict[str | None, list[str]] = {}
    for pool, uuid in _named(payload) if isinstance(payload, dict) else ():
        named = images.setdefault(pool, [])
        if uuid not in named:
            named.append(uuid)
    return images


def _named(payload: dict[str, Any]) -> Iterator[tuple[str | None, str]]:
    pool = _text(payload, "zpool")
    parts = [part for disks in _DISKS if isinstance(part := payload.get(disks), list)]
    for each in [payload, *(disk for part in parts for disk in part if isinstance(disk, dict))]:
        uuid = _text(each, "image_uuid")
        if uuid is not None and is_uuid(uuid):
            yield _text(each, "zpool") or pool, uuid


def _text(document: dict[str, Any], field: str) -> str | None:
    value = document.get(field)
    return value if isinstance(value, str) and value else None
