"""Image sources as lines for an editor: `URL [TYPE [OPTION,...]]`, in imgadm's form. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from imgctl.errors import UsageError
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADER = """\
# Image sources, one a line; the first that has an image is asked first:
#     URL [TYPE [OPTION,...]]
# TYPE is imgapi (the default), dsapi, static or oci; OPTION is insecure or channel=NAME.
"""


def text_of(sources: Iterable[Mapping[str, Any]]) -> str:
    """The sources (`{url, type, insecure, channel}`), a line each."""
    return HEADER + "".join(f"{_line(source)}\n" for source in sources)


def parse_text(text: str) -> list[dict[str, Any]]:
    """The sources that the lines say. `#` begins a comment. Raises `UsageError` for what is no such line."""
    lines = (line.split("#", 1)[0].split() for line in text.splitlines())
    return [_source(words) for words in lines if words]


def _line(source: Mapping[str, Any]) -> str:
    url, channel = str(source["url"]), source.get("channel")
    options = ["insecure"] if source.get("insecure") else []
    if channel and parse_qs(urlsplit(url).query).get("channel", [""])[-1] != channel:
        options.append(f"channel={channel}")
    return " ".join(printable(word) for word in (url, source["type"], ",".join(options)) if word)


def _source(words: list[str]) -> dict[str, Any]:
    if len(words) > 3:
        raise UsageError(f"not an image source: {' '.join(words)}", "a line is URL [TYPE [OPTION,...]]")
    url, kind, options = [*words, *("", "", "")[len(words) :]]
    kind = kind or ("oci" if url.startswith("oci://") else "imgapi")
    source: dict[str, Any] = {"url": url, "type": kind, "insecure": False, "channel": None}
    for option in options.split(",") if options else ():
        name, _, value = option.partition("=")
        if option == "insecure":
            source["insecure"] = True
        elif name == "channel" and value:
            source["channel"] = value
        else:
            raise UsageError(f"unknown source option: {option}")
    return source
