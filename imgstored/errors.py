"""Every error that a user can meet, in one hierarchy.

Each has imgadm's name for it (`code`, which programs match on), imgadm's exit status, a sentence that says
what is wrong, and a hint that says what to do about it. Names that imgadm does not have are ours and say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproto.documents import ErrorDocument

#: The tag of `imgctl pin`.
PINNED = "pinned"


class ImgstoreError(Exception):
    """The base of all errors that a client may get.

    `message` is the sentence, `hint` what to do (may be empty), `data` further facts for programs.
    """

    code: ClassVar[str] = "InternalError"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = dict(data or {})

    def as_wire(self) -> ErrorDocument:
        """The form in which the error crosses the socket."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "exit_status": self.exit_status,
            "data": self.data,
        }


class InternalError(ImgstoreError):
    """Something that should not happen did; the daemon's log has the traceback."""


# -- what was asked ------------------------------------------------------------------------------------------


class UsageError(ImgstoreError):
    """The request itself is malformed."""

    code = "Usage"


class InvalidUUIDError(ImgstoreError):
    """Not 8-4-4-4-12 lower-case hexadecimal digits."""

    code = "InvalidUUID"

    def __init__(self, uuid: str) -> None:
        super().__init__(f'invalid uuid: "{uuid}"', hint="an image is named by its full uuid, in lower case")


class AmbiguousNameError(ImgstoreError):
    """Several images are called so: `data["candidates"]` (a name of ours: imgadm has only uuids)."""

    code = "AmbiguousName"


class NotPermittedError(ImgstoreError):
    """The peer may read but not change (a name of ours: imgadm only runs as root)."""

    code = "NotPermitted"


class CancelledError(ImgstoreError):
    """Somebody cancelled the import, or the daemon is stopping (a name of ours)."""

    code = "Cancelled"


class ConfigError(ImgstoreError):
    """The configuration cannot be used."""

    code = "ConfigError"


# -- images and manifests ------------------------------------------------------------------------------------


class InvalidManifestError(ImgstoreError):
    """Not a manifest at all: not JSON, too large, too deep, or without a version."""

    code = "InvalidManifest"


class ManifestValidationError(ImgstoreError):
    """A manifest with faults; `data["errors"]` lists each as {field, code, message}."""

    code = "ManifestValidation"


class ImageNotFoundError(ImgstoreError):
    """No source has the image."""

    code = "ImageNotFound"


class ActiveImageNotFoundError(ImgstoreError):
    """No source has the image in the state "active"."""

    code = "ActiveImageNotFound"


class ImageNotInstalledError(ImgstoreError):
    """The image is not in the pool."""

    code = "ImageNotInstalled"
    exit_status = 3

    def __init__(self, uuid: str, pool: str) -> None:
        super().__init__(
            f'image "{uuid}" was not found on zpool "{pool}"', hint=f"`imgctl import {uuid}` installs it"
        )


class OriginNotInstalledError(ImgstoreError):
    """An incremental image whose origin is not in the pool."""

    code = "OriginNotInstalled"
    exit_status = 3


class ImageHasDependentClonesError(ImgstoreError):
    """The image is in use: `data["dependents"]` names the datasets."""

    code = "ImageHasDependentClones"


class ImageMissingOriginalSnapshotError(ImgstoreError):
    """None of a dataset's snapshots is the one that the image was made of."""

    code = "ImageMissingOriginalSnapshot"

    def __init__(self, uuid: str, guid: int | None = None) -> None:
        expected = "" if guid is None else f" (expected a snapshot with guid {guid})"
        super().__init__(
            f'image "{uuid}" is missing its original snapshot{expected}',
            hint="machines that were made from it go on; to have the image again, install it in another pool",
        )


class MinPlatformError(ImgstoreError):
    """The platform is older than the image asks for."""

    code = "MinPlatform"


class MaxPlatformError(ImgstoreError):
    """The platform is newer than the image allows."""

    code = "MaxPlatform"


# -- making images -------------------------------------------------------------------------------------------


class NotSupportedError(ImgstoreError):
    """What is asked for cannot be done on this host, or in this pool, at all."""

    code = "NotSupported"


class VmNotFoundError(ImgstoreError):
    """vmadm knows no such machine."""

    code = "VmNotFound"

    def __init__(self, vm: str) -> None:
        super().__init__(f'vm "{vm}" was not found', hint="`vmadm list` shows the machines")


class VmNotStoppedError(ImgstoreError):
    """An image is made of a machine that does not run."""

    code = "VmNotStopped"

    def __init__(self, vm: str) -> None:
        super().__init__(
            f'vm "{vm}" is not stopped',
            hint=f"`vmadm stop {vm}`; or give a prepare script (-s), which stops it, and then restores it",
        )


class VmHasNoOriginError(ImgstoreError):
    """An incremental image was asked for, of what was not cloned from an image."""

    code = "VmHasNoOrigin"


class OriginHasNoFinalSnapshotError(ImgstoreError):
    """An incremental image was asked for, of what was cloned from another snapshot of the image."""

    code = "OriginHasNoFinalSnapshot"


class MaxOriginDepthError(ImgstoreError):
    """The new image would have more images below it than was allowed."""

    code = "MaxOriginDepth"

    def __init__(self, depth: int) -> None:
        super().__init__(
            f'cannot create image: maximum origin depth "{depth}" has been reached',
            hint="create it without -i, or allow more with --max-origin-depth",
        )


class PrepareImageError(ImgstoreError):
    """The prepare script ran, and failed."""

    code = "PrepareImageError"


class PrepareImageDidNotRunError(ImgstoreError):
    """The machine started, and nothing was heard of the prepare script."""

    code = "PrepareImageDidNotRun"


class UploadError(ImgstoreError):
    """An image server has not got the bytes that were sent to it."""

    code = "UploadError"


class FileSystemError(ImgstoreError):
    """A file that a client opened cannot be read or written."""

    code = "FileSystem"


# -- sources and downloads -----------------------------------------------------------------------------------


class NoSourcesError(ImgstoreError):
    """No image source is configured."""

    code = "NoSources"


class SourcePingError(ImgstoreError):
    """A source to be added does not answer as an image server."""

    code = "SourcePing"


class ClientError(ImgstoreError):
    """A server could not be reached, or broke off: `URL: cause`."""

    code = "ClientError"


class APIError(ImgstoreError):
    """A server answered with an error, or with something that is not an answer."""

    code = "APIError"


class RefusedError(APIError):
    """An image server refused what was to be published; the error has the name that the server gave it."""

    def __init__(self, name: str, error: APIError) -> None:
        super().__init__(error.message, hint=error.hint, data=error.data)
        self.name = name

    def as_wire(self) -> ErrorDocument:
        """The form in which the error crosses the socket."""
        return {**super().as_wire(), "code": self.name}


class DownloadError(ImgstoreError):
    """The bytes of an image could not be had, or are not those of the manifest."""

    code = "DownloadError"


class UncompressionError(ImgstoreError):
    """The image file is damaged, cut short, or larger inside than is allowed."""

    code = "UncompressionError"


# -- pools ---------------------------------------------------------------------------------------------------


class StreamError(ImgstoreError):
    """What was decompressed is not a sound ZFS send stream (imgadm: `zfs receive` failed, InternalError)."""


class ResumeError(StreamError):
    """A receive token is malformed, or belongs to another stream; the stream itself may be sound."""


class PoolError(ImgstoreError):
    """The pool refused or failed; says which pool and why."""


class PoolNotFoundError(PoolError):
    """No such pool."""


class ImageHeldError(PoolError):
    """Somebody holds the image: `data["holds"]` has the tags (a name of ours: imgadm knows no holds)."""

    code = "ImageHeld"

    def __init__(self, uuid: str, tags: Sequence[str]) -> None:
        hints = [f"`imgctl unpin {uuid}` lets go of it"] if PINNED in tags else []
        if set(tags) != {PINNED}:
            hints.append(f"`imgctl release {uuid} TAG` ends a hold; those of clients end with them")
        super().__init__(
            f'image "{uuid}" is held: {", ".join(tags)}',
            hint="; ".join(hints),
            data={"holds": list(tags)},
        )


class NoSpaceError(PoolError):
    """Not enough room, found before or while receiving (a name of ours: imgadm does not look)."""

    code = "NoSpace"
