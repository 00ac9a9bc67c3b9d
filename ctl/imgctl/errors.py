"""What ends a command, or a call of `Client`: one hierarchy, shaped like the daemon's errors.

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


class CommandError(Exception):
    """Base of all that is reported to the user in imgadm's form.

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


class UsageError(CommandError):
    """The command line makes no sense."""

    record_name = "UsageError"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("Usage", message, hint)


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


# -- what was asked ------------------------------------------------------------------------------------------


class InvalidRequestError(RemoteError, code="Usage"):
    """The request itself is malformed."""


class InvalidArgumentError(RemoteError, code="InvalidArgument"):
    """A parameter cannot be sent: MessagePack has no such value."""


class InvalidUUIDError(RemoteError, code="InvalidUUID"):
    """Not 8-4-4-4-12 lower-case hexadecimal digits."""


class AmbiguousNameError(RemoteError, code="AmbiguousName"):
    """Several images have this name: `data["candidates"]`."""


class NotPermittedError(RemoteError, code="NotPermitted"):
    """The user may read but not change."""


class CancelledError(RemoteError, code="Cancelled"):
    """Somebody cancelled the import, or the daemon is stopping."""


class ConfigError(RemoteError, code="ConfigError"):
    """The daemon's configuration cannot be used."""


class InternalError(RemoteError, code="InternalError"):
    """The daemon made a mistake, or a pool failed; the daemon's log says more."""


# -- images and manifests ------------------------------------------------------------------------------------


class InvalidManifestError(RemoteError, code="InvalidManifest"):
    """Not a manifest at all: not JSON, too large, too deep, or without a version."""


class ManifestValidationError(RemoteError, code="ManifestValidation"):
    """A manifest with faults; `data["errors"]` lists each as {field, code, message}."""


class ImageNotFoundError(RemoteError, code="ImageNotFound"):
    """No source has the image."""


class ActiveImageNotFoundError(RemoteError, code="ActiveImageNotFound"):
    """No source has the image in the state "active"."""


class ImageNotInstalledError(RemoteError, code="ImageNotInstalled"):
    """The image is not in the pool."""


class OriginNotInstalledError(RemoteError, code="OriginNotInstalled"):
    """An incremental image whose origin is not in the pool."""


class ImageHasDependentClonesError(RemoteError, code="ImageHasDependentClones"):
    """The image is in use: `data["dependents"]` names the datasets."""


class ImageHeldError(RemoteError, code="ImageHeld"):
    """Somebody holds the image: `data["holds"]` has the tags."""


class ImageMissingOriginalSnapshotError(RemoteError, code="ImageMissingOriginalSnapshot"):
    """None of a dataset's snapshots is the one that the image was made of."""


class MinPlatformError(RemoteError, code="MinPlatform"):
    """The platform is older than the image asks for."""


class MaxPlatformError(RemoteError, code="MaxPlatform"):
    """The platform is newer than the image allows."""


class NoSpaceError(RemoteError, code="NoSpace"):
    """Not enough free space, found before or while receiving."""


# -- sources and downloads -----------------------------------------------------------------------------------


class NoSourcesError(RemoteError, code="NoSources"):
    """No image source is configured."""


class SourcePingError(RemoteError, code="SourcePing"):
    """A source to be added does not answer as an image server."""


class ClientError(RemoteError, code="ClientError"):
    """A server could not be reached, or broke off."""


class NotConnectedError(ClientError):
    """There is no daemon at the socket, or it broke off, or what it said is not the protocol."""

    record_name = "NotConnectedError"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("ClientError", message, hint)


class APIError(RemoteError, code="APIError"):
    """A server answered with an error, or with something that is not an answer."""


class DownloadError(RemoteError, code="DownloadError"):
    """The bytes of an image could not be downloaded, or are not those of the manifest."""


class UncompressionError(RemoteError, code="UncompressionError"):
    """The image file is damaged, cut short, or larger inside than is allowed."""


# -- making images -------------------------------------------------------------------------------------------


class NotSupportedError(RemoteError, code="NotSupported"):
    """The host, or the pool, cannot do it at all."""


class VmNotFoundError(RemoteError, code="VmNotFound"):
    """vmadm knows no such machine."""


class VmNotStoppedError(RemoteError, code="VmNotStopped"):
    """The machine runs; it must be stopped, or a script must prepare it."""


class VmHasNoOriginError(RemoteError, code="VmHasNoOrigin"):
    """An incremental image of what was not cloned from an image."""


class OriginHasNoFinalSnapshotError(RemoteError, code="OriginHasNoFinalSnapshot"):
    """An incremental image of what was cloned from another snapshot of the image."""


class MaxOriginDepthError(RemoteError, code="MaxOriginDepth"):
    """The new image would have more images below it than was allowed."""


class PrepareImageError(RemoteError, code="PrepareImageError"):
    """The prepare script ran, and failed."""


class PrepareImageDidNotRunError(RemoteError, code="PrepareImageDidNotRun"):
    """The machine started, and the prepare script gave no sign."""


class UploadError(RemoteError, code="UploadError"):
    """An image server did not get the bytes of an image."""


class FileSystemError(RemoteError, code="FileSystem"):
    """A file that was passed cannot be read or written."""
