"""Suggestions for a word that was mistyped, or a name that no image has.

Imported only where something went wrong: difflib takes longer to import than a listing takes to run.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from imgctl.errors import RemoteError
from imgctl.text import is_uuid, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from imgproto.params import Among

    from imgctl.client import Client

#: Characters of a word beyond which nobody mistyped it: the comparison takes the square of them.
_LONGEST = 100

#: Words that are compared, and that are offered.
_COMPARED, _OFFERED = 20_000, 3


def close(word: str, known: Iterable[str]) -> list[str]:
    """The known words that look like this one, the closest first."""
    if len(word) > _LONGEST:
        return []
    words = [each for each in dict.fromkeys(known) if len(each) <= _LONGEST][:_COMPARED]
    lower = {each.lower(): each for each in reversed(words)}
    return [lower[each] for each in get_close_matches(word.lower(), [*lower], n=_OFFERED)]


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """The question "did you mean"; empty if no known word looks like this one.

    `before` stands before each word that is offered.
    """
    found = " or ".join(f'"{before}{printable(each)}"' for each in close(word, known))
    return f"did you mean {found}?" if found else ""


def hint(word: str, known: Iterable[str], otherwise: str) -> str:
    """The question, where there is one, and what helps in any case."""
    return " ".join(filter(None, (did_you_mean(word, known), otherwise)))


#: Commands of docker, incus and others that people type here. docs/expectations.md has them, too.
ELSEWHERE = {
    "df": "`imgctl du` shows the space that images use",
    "image": "the command comes alone: `imgctl list`, `imgctl delete`",
    "images": "`imgctl list` lists the installed images, with --docker those of containers",
    "inspect": "`imgctl info IMAGE` is for people, `imgctl get IMAGE` for programs",
    "launch": "imgstore creates no machines: `imgctl vmadm create` runs vmadm, and brings the image first",
    "load": "`imgctl install -f - < FILE` installs what `imgctl export -o -` wrote",
    "login": "`docker login` or `podman login`, and the key auth_file of the configuration",
    "logs": "the daemon's log is the service's: `journalctl -u imgstored`; `imgctl events` has what happens",
    "monitor": "`imgctl events` prints what happens",
    "prune": "`imgctl vacuum -n` shows what nothing needs",
    "ps": "`imgctl jobs` lists imports under way; imgstore runs no machines",
    "push": "`imgctl publish IMAGE URL`",
    "remote": "`imgctl sources` lists image servers, and adds them",
    "rmi": "`imgctl delete IMAGE`, or `imgctl rm IMAGE`",
    "run": "imgstore starts no machines: `imgctl vmadm create` runs vmadm, and brings the image first",
    "save": "`imgctl export -o - IMAGE > FILE`",
    "tag": "`imgctl alias NAME IMAGE`",
    "version": "`imgctl --version`, and `imgctl status` for the daemon's",
}


def elsewhere(command: str) -> str:
    """The hint for a command that is another tool's; empty if it is none."""
    return ELSEWHERE.get(command, "")


_NOT_THERE = ("ImageNotInstalled", "ImageNotFound", "ActiveImageNotFound")


def advised(client: Client, error: RemoteError, texts: Sequence[str], among: Among) -> RemoteError:
    """The error with a better hint, where one of the texts is a name that nothing has."""
    text = next((text for text in texts if f'"{printable(text)}"' in error.message), None)
    if text is None or is_uuid(text) or error.code not in _NOT_THERE:
        return error
    try:
        hint = _better_hint(client, text, among)
    except RemoteError:
        hint = None
    if hint is None:
        return error
    return type(error)(error.code, error.message, hint, error.exit_status, error.data)


def _better_hint(client: Client, text: str, among: Among) -> str | None:
    """None: the daemon's own hint is as good."""
    if among in ("available", "active"):
        names = _names(client.known_images(), text)
        # A source that does not answer now may have had it: the daemon knows more about that.
        return None if text in names else did_you_mean(text, names) or None
    there: Iterable[Mapping[str, Any]] = client.jobs() if among == "jobs" else _installed(client)
    aliases = [each["alias"] for each in client.aliases()]
    if text in aliases:
        return None  # the daemon says what it means, and that this is gone
    if found := did_you_mean(text, [*aliases, *_names(there, text)]):
        return found
    if among == "jobs":
        return "`imgctl jobs` lists the imports under way"
    if among != "installed":
        return None
    known = client.known_images()
    if any(str(image["uuid"]).startswith(text) for image in known) or text in _names(known, text):
        return None
    offered = did_you_mean(text, _names(known, text))
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
