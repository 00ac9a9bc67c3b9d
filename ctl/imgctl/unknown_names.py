"""What helps whoever named an image that is not there. Asks the daemon, and no source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgctl import advice
from imgctl.errors import RemoteError
from imgctl.text import is_uuid, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from imgproto.params import Among

    from imgctl.client import Client

_NOT_THERE = ("ImageNotInstalled", "ImageNotFound", "ActiveImageNotFound")


def advised(client: Client, error: RemoteError, texts: Sequence[str], among: Among) -> RemoteError:
    """The error with a better hint, where one of the texts is a name that nothing has."""
    text = next((text for text in texts if f'"{printable(text)}"' in error.message), None)
    if text is None or is_uuid(text) or error.code not in _NOT_THERE:
        return error
    try:
        hint = _hint(client, text, among)
    except RemoteError:
        hint = None
    if hint is None:
        return error
    return type(error)(error.code, error.message, hint, error.exit_status, error.data)


def _hint(client: Client, text: str, among: Among) -> str | None:
    """None: the daemon's own hint is as good."""
    if among in ("available", "active"):
        found = advice.did_you_mean(text, _names(client.known_images(), text))
        return found or None
    there: Iterable[Mapping[str, Any]] = client.jobs() if among == "jobs" else _installed(client)
    aliases = [each["alias"] for each in client.aliases()]
    if found := advice.did_you_mean(text, [*aliases, *_names(there, text)]):
        return found
    if among == "jobs":
        return "`imgctl jobs` lists the imports under way"
    if among != "installed":
        return None
    known = client.known_images()
    if any(str(image["uuid"]).startswith(text) for image in known) or text in _names(known, text):
        return None
    offered = advice.did_you_mean(text, _names(known, text))
    return (
        f"{offered} (a source has that)"
        if offered
        else ("`imgctl list` lists the installed images, and `imgctl avail` those of the sources")
    )


def _installed(client: Client) -> Iterator[Mapping[str, Any]]:
    return (image.get("manifest") or {} for image in client.list())


def _names(images: Iterable[Mapping[str, Any]], text: str) -> list[str]:
    """The images' names, with their versions if the text has one."""
    named = [image for image in images if image.get("name")]
    if "@" in text:
        return [f"{image['name']}@{image.get('version')}" for image in named]
    return [str(image["name"]) for image in named]
