"""`events`: what happens in the store, a line for each thing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from imgctl.event_text import numbered_line
from imgctl.listing import with_new_keys
from imgctl.session import flush, json_text
from imgctl.text import printable

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session


#: The number of an event, at most; 0 is for all that are kept.
_MOST = 10**18


def events(session: Session, arguments: Arguments) -> None:
    """`events [-j] [--since NUMBER] [--no-follow]`."""
    arguments.none()
    since, follow = (
        arguments.number("--since", "number of an event", 0, _MOST),
        not arguments.flag("--no-follow"),
    )
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
