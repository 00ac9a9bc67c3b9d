"""One run of imgctl: its name, its global options, its output, and its connection."""

from __future__ import annotations

import os
import sys

from imgctl.errors import RemoteError, UsageError, in_imgadms_words
from imgctl.text import HELPING, error_text, printable, safe_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, BinaryIO, TextIO

    from imgproto.params import Among

    from imgctl.client import Client
    from imgctl.errors import CommandError
    from imgctl.fitting import Screen


#: SGR parameters (ECMA-48, 8.3.117).
RED, GREEN, DIM = "31", "32", "2"


class Session:
    """The context of a command. `program` is the name under which it reports errors."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.command = ""  # as it was typed
        self.usage = ""  # the command's
        self.verbose = False
        self.structured_errors = False
        self.json_errors = False
        self.socket_path: str | None = None
        for stream in (sys.stdout, sys.stderr):
            _never_fail_to_encode(stream)

    @property
    def is_imgadm(self) -> bool:
        """True if it was run under imgadm's name, and is to behave as imgadm does."""
        return self.program == "imgadm"

    @property
    def screen(self) -> Screen | None:
        """The terminal that standard output is; None where it is none, or where imgadm would not look."""
        if self.is_imgadm or not is_terminal(sys.stdout):
            return None
        from imgctl.fitting import Screen

        try:
            columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(sys.stdout.fileno()).columns
        except (OSError, ValueError):
            return None
        return Screen(columns, "…" if speaks_unicode() else "...") if columns > 0 else None

    def client(self, timeout: float | None = None, *, patient: bool = False) -> Client:
        """A client that is not connected yet; `timeout` as of `Connection`.

        A `patient` one goes on when the daemon was restarted, but not for imgadm, which had no daemon.
        """
        from imgctl import __version__
        from imgctl.client import Client

        name = f"{self.program} {__version__} (pid {os.getpid()})"
        # imgadm knew uuids only.
        names, reconnect = not self.is_imgadm, None
        if patient and not self.is_imgadm:
            from imgctl.patience import seconds

            reconnect = seconds()
        return Client(self.socket_path, name=name, timeout=timeout, names=names, reconnect=reconnect)

    def uuid(
        self,
        text: str,
        *,
        among: Among,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> str:
        """The uuid of the image that people call `text`. `sources` replace the configured ones.

        Raises the daemon's `RemoteError` where there is none, or where it could be several (AmbiguousName).
        """
        return self.uuids([text], among=among, pool=pool, sources=sources, channel=channel)[0]

    def uuids(
        self,
        texts: Sequence[str],
        *,
        among: Among,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> list[str]:
        """As `uuid`, for several, with one question; none for full uuids, so that scripts pay nothing."""
        client = self.client()
        try:
            return client.uuids(texts, among=among, pool=pool, sources=sources, channel=channel)
        except RemoteError as error:
            raise _advised(client, error, texts, among) from error
        finally:
            client.close()

    def _usage_for(self, error: CommandError) -> str:
        """The command's usage, where its command line is what is wrong."""
        is_ours = isinstance(error, UsageError) or error.code == "Option"
        return f"{self.program} {self.usage}" if is_ours and self.usage and not self.is_imgadm else ""

    def say(self, lines: Iterable[str]) -> None:
        """Prints lines on standard output."""
        text = "\n".join(lines)
        if text:
            print(text)

    def say_json(self, value: Any) -> None:
        """Prints a value as imgadm prints JSON."""
        print(json_text(value, indent=2))

    def painted(self, text: str, style: str, stream: TextIO | None) -> str:
        """The text in a style, where the stream shows that. imgadm knew no colour."""
        return painted(text, style) if not self.is_imgadm and has_colour(stream) else text

    def complain(self, text: str) -> None:
        """Prints a line on standard error, after what was said so far."""
        flush(sys.stdout)
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Prints a warning on standard error."""
        self.complain(f"{self.program} {self.command}: warning: {printable(text)}")

    def report(self, error: CommandError) -> None:
        """Prints an error: for people, or for programs (`-E`, and `-j` as the daemon's responses have it)."""
        if self.is_imgadm:
            error = in_imgadms_words(error, self.command)
            error.hint = "" if error.code == "Option" else error.hint
        if self.structured_errors:
            from imgctl.errors import error_record

            self.complain(json_text(error_record(self.program, error)))
            return
        if self.json_errors:
            self.complain(json_text({"error": error.as_wire()}))
            return
        for line in error_text(self.program, self.command, error, self._usage_for(error)).split("\n"):
            self.complain(self.painted(line, DIM if line.startswith(HELPING) else RED, sys.stderr))
        if self.verbose and error.data:
            self.complain(f"  data: {json_text(error.data)}")


def _advised(client: Client, error: RemoteError, texts: Sequence[str], among: Among) -> RemoteError:
    from imgctl.advice import advised

    return advised(client, error, texts, among)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON, with nothing in it that could steer a terminal."""
    import json

    return safe_json(json.dumps(value, indent=indent, ensure_ascii=not speaks_unicode(), default=str))


def speaks_unicode() -> bool:
    """True if standard output takes every character."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")


def flush(stream: TextIO | None) -> None:
    """Writes what waits; a program may be started without the stream."""
    if stream is not None:
        stream.flush()


def standard_input() -> BinaryIO:
    """Standard input, as bytes. Raises `UsageError` where whoever started us has closed it."""
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Standard output, as bytes. Raises `UsageError` where whoever started us has closed it."""
    if sys.stdout is None:
        raise UsageError("standard output is closed", hint="send it to a program or a file")
    return sys.stdout.buffer


def is_terminal(stream: TextIO | None) -> bool:
    """True if people read what is written there."""
    return stream is not None and stream.isatty()


def _never_fail_to_encode(stream: Any) -> None:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def has_colour(stream: TextIO | None) -> bool:
    """True if the stream is a terminal with colour whose user has not asked for none (https://no-color.org)."""
    if stream is None or os.environ.get("NO_COLOR"):
        return False
    return (os.environ.get("TERM") or "dumb") != "dumb" and stream.isatty()


def painted(text: str, style: str) -> str:
    """The text in a style, line by line, so that no style is left open where a line is cut off."""
    return "\n".join(f"\x1b[{style}m{line}\x1b[m" for line in text.split("\n"))
