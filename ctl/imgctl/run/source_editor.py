"""`sources -e`: the list of sources in an editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imgctl.errors import CommandError, NotConnectedError
from imgctl.session import is_terminal
from imgctl.source_lines import parse_text, text_of

if TYPE_CHECKING:
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
