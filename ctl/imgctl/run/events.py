"""`events`: what happens in the store, a line for each thing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from imgctl.errors import UsageError
from imgctl.event_text import numbered_line
from imgctl.listing import with_new_keys
from imgctl.session import flush, json_text
from imgctl.text import printable

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session


def events(session: Session, arguments: Arguments) -> None:
    """`events [-j] [--since NUMBER] [--no-follow]`."""
    arguments.none()
    since, follow = _number(arguments.text("--since")), not arguments.flag("--no-follow")
    if since is None and not follow:
        since = 0
    as_json, screen = arguments.flag("-j"), session.screen

    def note(text: str) -> None:
        flush(sys.stdout)
        print(f"{session.program}: note: {printable(text)}", file=sys.stderr, flush=True)

    for event in session.client(patient=True).events(since, follow=follow, on_note=note):
        if as_json:
            print(json_text(with_new_keys(event)))
        else:
            line = numbered_line(event, None if screen is None else screen.columns)
            if screen is not None:
                from imgctl.fitting import cut

                line = cut(line, screen.columns, screen.ellipsis)
            print(line)
        flush(sys.stdout)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(
            f'invalid number of an event: "{text}"', hint="0 is for all events that are kept; `imgctl events`"
        )
    return int(text)
