"""The errors of commands and of `Client`: one hierarchy, shaped like the daemon's errors.

CommandError
    UsageError               the command line makes no sense
    RemoteError              the daemon answered with an error; one class for each code of docs/errors.md
        ClientError          ... and so on
            NotConnectedError    there is no daemon, or it broke off
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar

#: bunyan's level "error".
_LEVEL = 50


class CommandError(Exception):
    """The base of all errors that the user sees in imgadm's form.

    `code` is imgadm's name of the error (empty: it has none), `message` a sentence, `hint` what to do
    about it (may be empty), `exit_status` what imgctl ends with, `data` further facts for programs.
    """

    #: The error's name in the records of `imgctl -E`.
    record_name: ClassVar[str] = "CommandError"

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

    def as_wire(self) -> dict[str, Any]:
        """The error as the daemon's responses have it."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "exit_status": self.exit_status,
            "data": self.data,
        }


class UsageError(CommandError):
    """The command line is wrong."""

    record_name = "UsageError"

    def __init__(self, message: str, hint: str = "", *, imgadms: str = "") -> None:
        """`imgadms` is imgadm's message, where that says it differently."""
        super().__init__("Usage", message, hint)
        self.imgadms = imgadms


class RemoteError(CommandError):
    """The daemon answered with an error. Each code has a class below; an unknown code has this one.

    An image server that refuses to publish an image has codes of its own.
    """

    record_name = "RemoteError"
    #: The classes by their codes.
    classes: ClassVar[dict[str, type[RemoteError]]] = {}

    def __init_subclass__(cls, *, code: str = "") -> None:
        if code:
            RemoteError.classes[code] = cls


def remote_error(error: Mapping[str, Any]) -> RemoteError:
    """The error of a response. A field that is missing or of another type gets a sensible value."""
    code, status, data = (
        str(error.get("code") or "InternalError"),
        error.get("exit_status"),
        error.get("data"),
    )
    return RemoteError.classes.get(code, RemoteError)(
        code,
        str(error.get("message") or "the daemon does not say what is wrong"),
        str(error.get("hint") or ""),
        status if isinstance(status, int) and 0 < status < 256 else 1,
        data if isinstance(data, dict) else {},
    )


def in_imgadms_words(error: CommandError, command: str) -> CommandError:
    """The error with the name, and where that differs the message, that imgadm has for it.

    What an image server refuses has the name that the server gave it, and what cannot be reached that of the
    system's error. Only `avail` says ClientError for the latter.
    """
    if isinstance(error, UsageError) and error.imgadms:
        return UsageError(error.imgadms, error.hint)
    code = _IMGADMS_CODES.get(error.code, error.code)
    if code in ("APIError", "DownloadError"):
        code = _text(error.data.get("server_code")) or code
    if code in ("ClientError", "DownloadError") and command not in ("avail", "available"):
        code = _text(error.data.get("errno")) or code
    if code == error.code:
        return error
    return CommandError(code, error.message, error.hint, error.exit_status, error.data)


#: What imgadm has no name of its own for.
_IMGADMS_CODES = {"PoolNotFound": "InternalError"}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# -- what was asked ------------------------------------------------------------------------------------------


class InvalidRequestError(RemoteError, code="Usage"):
    """The request itself is malformed."""


class InvalidArgumentError(RemoteError, code="InvalidArgument"):
    """A parameter has a value that MessagePack does not have."""


class InvalidUUIDError(RemoteError, code="InvalidUUID"):
    """The uuid is not 8-4-4-4-12 lower-case hexadecimal digits."""


class AmbiguousNameError(RemoteError, code="AmbiguousName"):
    """Several images have the name; `data["candidates"]` lists them."""


class EventsGoneError(RemoteError, code="EventsGone"):
    """No event of that number is kept; `data` has `since`, `oldest` and `newest`."""


class NotPermittedError(RemoteError, code="NotPermitted"):
    """The user may read but not change."""


class CancelledError(RemoteError, code="Cancelled"):
    """A client cancelled the import, or the daemon is stopping."""


class ConfigError(RemoteError, code="ConfigError"):
    """The daemon's configuration cannot be used."""


class InternalError(RemoteError, code="InternalError"):
    """The daemon has a fault, or a pool failed; the daemon's log says more."""


# -- images and manifests ------------------------------------------------------------------------------------


class InvalidManifestError(RemoteError, code="InvalidManifest"):
    """The document is not a manifest: not JSON, too large, too deep, or without a version."""


class ManifestValidationError(RemoteError, code="ManifestValidation"):
    """The manifest has faults; `data["errors"]` lists each as {field, code, message}."""


class ImageNotFoundError(RemoteError, code="ImageNotFound"):
    """No source has the image."""


class ActiveImageNotFoundError(RemoteError, code="ActiveImageNotFound"):
    """No source has the image in the state "active"."""


class ImageNotInstalledError(RemoteError, code="ImageNotInstalled"):
    """The image is not in the pool."""


class OriginNotInstalledError(RemoteError, code="OriginNotInstalled"):
    """The origin of an incremental image is not in the pool."""


class ImageHasDependentClonesError(RemoteError, code="ImageHasDependentClones"):
    """The image has clones; `data["dependents"]` names the datasets."""


class LayerError(RemoteError, code="LayerError"):
    """A container image's layer is no good tar, or leads out of the image."""


class PoolNotFoundError(RemoteError, code="PoolNotFound"):
    """The daemon has no such pool."""


class ImageHeldError(RemoteError, code="ImageHeld"):
    """The image has holds; `data["holds"]` lists the tags."""


class ImageLockedError(RemoteError, code="ImageLocked"):
    """Another process has kept the image's lock for too long."""


class ImageMissingOriginalSnapshotError(RemoteError, code="ImageMissingOriginalSnapshot"):
    """None of the dataset's snapshots is the image's original one."""


class MinPlatformError(RemoteError, code="MinPlatform"):
    """The platform is older than the image requires."""


class MaxPlatformError(RemoteError, code="MaxPlatform"):
    """The platform is newer than the image allows."""


class DamagedError(RemoteError, code="Damaged"):
    """The daemon cannot use something of its own files, and goes on without it (only in `status`)."""


class NoSpaceError(RemoteError, code="NoSpace"):
    """Not enough free space, before or during the receive."""


# -- sources and downloads -----------------------------------------------------------------------------------


class NoSourcesError(RemoteError, code="NoSources"):
    """No image source is configured."""


class SourcePingError(RemoteError, code="SourcePing"):
    """A new source does not answer like an image server."""


class ClientError(RemoteError, code="ClientError"):
    """The daemon could not reach a server, or lost the connection."""


class NotConnectedError(ClientError):
    """No daemon listens at the socket, the connection broke, or the answer is not the protocol."""

    record_name = "NotConnectedError"

    def __init__(self, message: str, hint: str = "", *, lost: bool = False) -> None:
        """`lost`: there was a connection, and the daemon closed it."""
        super().__init__("ClientError", message, hint)
        self.lost = lost


class APIError(RemoteError, code="APIError"):
    """A server answered with an error, or with an invalid answer."""


class UntrustedSourceError(RemoteError, code="UntrustedSource"):
    """A source with `keys` offers what no trusted key signed, or what is out of date."""


class KeyFileError(RemoteError, code="KeyFile"):
    """A key for signatures is malformed, or cannot be used."""


class DownloadError(RemoteError, code="DownloadError"):
    """The download of an image failed, or its bytes do not match the manifest."""


class UncompressionError(RemoteError, code="UncompressionError"):
    """The image file is damaged, incomplete, or decompresses to more than allowed."""


# -- making images -------------------------------------------------------------------------------------------


class NotSupportedError(RemoteError, code="NotSupported"):
    """The host or the pool does not support the request."""


class VmNotFoundError(RemoteError, code="VmNotFound"):
    """vmadm knows no such machine."""


class VmNotStoppedError(RemoteError, code="VmNotStopped"):
    """The machine runs; it must be stopped, or a script must prepare it."""


class VmHasNoOriginError(RemoteError, code="VmHasNoOrigin"):
    """The source of an incremental image is not a clone of an image."""


class OriginHasNoFinalSnapshotError(RemoteError, code="OriginHasNoFinalSnapshot"):
    """The source of an incremental image is a clone of another snapshot of its origin."""


class MaxOriginDepthError(RemoteError, code="MaxOriginDepth"):
    """The new image would have more origins than allowed."""


class PrepareImageError(RemoteError, code="PrepareImageError"):
    """The prepare script failed."""


class PrepareImageDidNotRunError(RemoteError, code="PrepareImageDidNotRun"):
    """The machine started, but the prepare script did not report."""


class UploadError(RemoteError, code="UploadError"):
    """An image server received other bytes than the daemon sent."""


class FileSystemError(RemoteError, code="FileSystem"):
    """The daemon cannot read or write a file that a client passed."""


def error_record(program: str, error: CommandError) -> dict[str, Any]:
    """The record of an error for programs: what `imgadm -E` prints, in bunyan's form.

    `err.code` and `err.message` are imgadm's; `err.hint` and `err.data` are added.
    """
    import os
    import socket
    import uuid

    described = {
        "message": error.message,
        "name": error.record_name,
        "stack": error.message,
        "code": error.code,
        "hint": error.hint,
        "exit_status": error.exit_status,
        "data": error.data,
    }
    return {
        "name": program,
        "req_id": os.environ.get("REQ_ID") or str(uuid.uuid4()),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "level": _LEVEL,
        "err": {key: value for key, value in described.items() if value not in ("", {})},
        "msg": error.message,
        "time": timestamp(),
        "v": 0,
    }


def timestamp() -> str:
    """The current time as JavaScript writes it: UTC with milliseconds."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
