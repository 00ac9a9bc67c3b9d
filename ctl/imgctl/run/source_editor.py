"""`sources -e`: the list of sources as lines (`URL [TYPE [OPTION,...]]`, imgadm's form) in an editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from imgctl.errors import CommandError, NotConnectedError, UsageError
from imgctl.session import is_terminal
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgproto.documents import EditedSourcesDocument

    from imgctl.client import Client
    from imgctl.session import Session

_UNCHANGED: EditedSourcesDocument = {"reordered": False, "added": [], "deleted": []}


def edited(session: Session, client: Client, *, force: bool) -> EditedSourcesDocument:
    """Lets people edit the sources, as often as they like while something is wrong; returns what was changed.

    Raises `CommandError` when they give up, or nobody can be asked; what they wrote is then kept in a file,
    which the error names.
    """
    before = client.sources()
    text = text_of(before)
    descriptor, name = tempfile.mkstemp(prefix=f"{session.program}-sources-", suffix=".txt", text=True)
    path = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    while True:
        try:
            _run_editor(path)
            written = path.read_text(encoding="utf-8", errors="replace")
            if written == text:
                outcome = _UNCHANGED
            else:
                outcome = client.set_sources(parse_text(written), before=before, force=force)
        except CommandError as error:
            if not _again(session, error):
                error.hint = f"nothing is changed; what was written is in {path}"
                raise
            # Somebody else may have changed them; the text has what this one wants.
            before = client.sources()
        else:
            path.unlink()
            return outcome


def _run_editor(path: Path) -> None:
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    try:
        status = subprocess.run([*words, str(path)], check=False).returncode  # noqa: S603  the user's own editor
    except OSError as error:
        raise CommandError("", f"cannot run the editor {words[0]}: {error.strerror or error}") from error
    if status:
        raise CommandError("", f"the editor {words[0]} exited with status {status}")


def _again(session: Session, error: CommandError) -> bool:
    """Prints what is wrong, and asks whether to go on; False without a terminal, or if the daemon is gone."""
    if isinstance(error, NotConnectedError) or not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        return False
    session.report(error)
    try:
        answer = input("Edit again? [Y/n] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("", "y", "yes")


HEADER = """\
# Image sources, one per line; the first that has an image is asked first:
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
