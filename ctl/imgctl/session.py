"""One run of imgctl: its name, its global options, its output, and its connection."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from imgctl.colour import DIM, RED, has_colour, painted
from imgctl.errors import in_imgadms_words
from imgctl.text import error_text, printable, safe_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgctl.client import Client
    from imgctl.errors import CommandError


class Session:
    """What a command is given. `program` is the name under which it reports errors."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.command = ""  # as it was typed
        self.verbose = False
        self.structured_errors = False
        self.socket_path: str | None = None
        for stream in (sys.stdout, sys.stderr):
            _never_fail_to_encode(stream)

    def client(self, timeout: float | None = None) -> Client:
        """A client that is not connected yet; `timeout` as of `Connection`."""
        from imgctl import __version__
        from imgctl.client import Client

        name = f"{self.program} {__version__} (pid {os.getpid()})"
        return Client(self.socket_path, name=name, timeout=timeout)

    def say(self, lines: Iterable[str]) -> None:
        """Prints lines on standard output."""
        text = "\n".join(lines)
        if text:
            print(text)

    def say_json(self, value: Any) -> None:
        """Prints a value as imgadm prints JSON."""
        print(json_text(value, indent=2))

    def painted(self, text: str, style: str, stream: TextIO | None) -> str:
        """The text in a style of `imgctl.colour`, where the stream shows that. imgadm knew no colour."""
        return painted(text, style) if self.program != "imgadm" and has_colour(stream) else text

    def complain(self, text: str) -> None:
        """Prints a line on standard error, after what was said so far."""
        flush(sys.stdout)
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Prints a warning on standard error."""
        self.complain(f"{self.program} {self.command}: warning: {printable(text)}")

    def report(self, error: CommandError) -> None:
        """Prints an error: for people, or for programs (`-E`)."""
        if self.program == "imgadm":
            error = in_imgadms_words(error, self.command)
        if self.structured_errors:
            from imgctl.error_record import error_record

            self.complain(json_text(error_record(self.program, error)))
            return
        for line in error_text(self.program, self.command, error).split("\n"):
            self.complain(self.painted(line, DIM if line.startswith("  hint: ") else RED, sys.stderr))
        if self.verbose and error.data:
            self.complain(f"  data: {json_text(error.data)}")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON, with nothing in it that could steer a terminal."""
    import json

    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    return safe_json(json.dumps(value, indent=indent, ensure_ascii=not unicode, default=str))


def flush(stream: TextIO | None) -> None:
    """Writes what waits; a program may be started without the stream."""
    if stream is not None:
        stream.flush()


def is_terminal(stream: TextIO | None) -> bool:
    """Whether people read what is written there."""
    return stream is not None and stream.isatty()


def _never_fail_to_encode(stream: Any) -> None:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
