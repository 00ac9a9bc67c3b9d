"""What ends a command: one hierarchy, shaped like the daemon's errors (docs/protocol.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class CommandError(Exception):
    """Base of all that is reported to the user in imgadm's form.

    `code` is imgadm's name of the error (empty: it has none), `message` a sentence, `hint` what to do
    about it (may be empty), `exit_status` what imgctl ends with, `data` further facts for programs.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        exit_status: int = 1,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_status = exit_status
        self.data: dict[str, Any] = dict(data or {})


class UsageError(CommandError):
    """The command line makes no sense."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("Usage", message, hint)


class RemoteError(CommandError):
    """The daemon answered with an error; its codes are those of imgstored's errors."""


class NotConnectedError(RemoteError):
    """There is no daemon at the socket, or it broke off, or what it said is not the protocol."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("ClientError", message, hint)


def remote_error(error: Mapping[str, Any]) -> RemoteError:
    """The error of a response. A field that is missing or of another type gets a sensible value."""
    status, data = error.get("exit_status"), error.get("data")
    return RemoteError(
        str(error.get("code") or "InternalError"),
        str(error.get("message") or "the daemon does not say what is wrong"),
        str(error.get("hint") or ""),
        status if isinstance(status, int) and 0 < status < 256 else 1,
        data if isinstance(data, dict) else {},
    )


def in_imgadms_words(error: CommandError, command: str) -> CommandError:
    """The error with the name that imgadm has for it.

    What an image server refuses has the name that the server gave it, and what cannot be reached that of the
    system's error. Only `avail` says ClientError for the latter.
    """
    code = error.code
    if code in ("APIError", "DownloadError"):
        code = _text(error.data.get("server_code")) or code
    if code in ("ClientError", "DownloadError") and command not in ("avail", "available"):
        code = _text(error.data.get("errno")) or code
    if code == error.code:
        return error
    return CommandError(code, error.message, error.hint, error.exit_status, error.data)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
