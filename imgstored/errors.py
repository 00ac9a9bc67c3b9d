"""Every error that a user can meet, in one hierarchy.

Each has imgadm's name for it (`code`, which programs match on), imgadm's exit status, a sentence that says
what is wrong, and a hint that says what to do about it. Docstrings mark the names that imgadm does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from imgstored.host import exhaustion

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from imgproto.documents import ErrorDocument

#: The tag of `imgctl pin`.
PINNED = "pinned"


class ImgstoreError(Exception):
    """The base of all errors that a client gets.

    `message` is the sentence, `hint` what to do (may be empty), `data` further facts for programs.
    """

    code: ClassVar[str] = "InternalError"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = dict(data or {})

    def with_others(self, others: Iterable[ImgstoreError]) -> Self:
        """A copy that has other errors of the same request as `data["others"]`, each once.

        The error itself stays as it is: other requests may fail with it, too.
        """
        distinct = [other for other in dict.fromkeys(others) if other is not self]
        copied = self.__class__.__new__(self.__class__, *self.args)
        copied.__dict__.update(self.__dict__)
        # The cause stays known: the hint of a shortage, for example, may help more.
        copied.__cause__, copied.__context__ = self.__cause__, self.__context__
        copied.data = {**self.data, "others": [other.as_wire() for other in distinct]}
        return copied

    def as_wire(self) -> ErrorDocument:
        """The form in which the error crosses the socket."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "exit_status": self.exit_status,
            "data": dict(self.data),
        }


class InternalError(ImgstoreError):
    """A fault of the daemon itself; its log has the traceback."""

    @classmethod
    def unexpected(cls, what: str, error: BaseException) -> Self:
        """The error of something that an unexpected exception ended: the daemon lacks something, or is wrong.

        `what` is the beginning of a sentence, such as "a query".
        """
        short = exhaustion.behind(error)
        if short is None:
            found = cls(
                f"{what} failed because of a fault in imgstored",
                hint="the daemon's log has the details; please report it",
            )
        else:
            found = cls(f"{what} failed: the daemon has {short.what}", hint=short.hint)
        found.__cause__ = error
        return found


# -- requests ------------------------------------------------------------------------------------------------


class UsageError(ImgstoreError):
    """The request itself is malformed."""

    code = "Usage"


class InvalidUUIDError(ImgstoreError):
    """The uuid is not 8-4-4-4-12 lower-case hexadecimal digits."""

    code = "InvalidUUID"

    def __init__(self, uuid: str) -> None:
        super().__init__(f'invalid uuid: "{uuid}"', hint="give the full uuid of the image, in lower case")


class AmbiguousNameError(ImgstoreError):
    """Several images have the name; `data["candidates"]` lists them (not in imgadm, which has only uuids)."""

    code = "AmbiguousName"


class NotPermittedError(ImgstoreError):
    """The client may read but not change (not in imgadm, which only runs as root)."""

    code = "NotPermitted"


class CancelledError(ImgstoreError):
    """A client cancelled the import, or the daemon is stopping (not in imgadm)."""

    code = "Cancelled"


class StoppingError(CancelledError):
    """The daemon is stopping; `data["stopping"]` is true: the client may ask the next daemon."""

    def __init__(
        self, message: str = "imgstored is stopping", *, hint: str = "try again in a moment"
    ) -> None:
        super().__init__(message, hint=hint, data={"stopping": True})


class EventsGoneError(ImgstoreError):
    """No event of that number is kept; `data` has `since`, `oldest` and `newest` (not in imgadm)."""

    code = "EventsGone"


class ConfigError(ImgstoreError):
    """The configuration cannot be used; `data["others"]` has further faults of it."""

    code = "ConfigError"

    def all_faults(self) -> list[ConfigError]:
        """The fault itself, and those of `data["others"]`, each as an error of its own."""
        first = ConfigError(self.message, hint=self.hint)
        first.__cause__ = self.__cause__
        others = self.data.get("others", ())
        return [first, *(ConfigError(other["message"], hint=other["hint"]) for other in others)]


# -- images and manifests ------------------------------------------------------------------------------------


class InvalidManifestError(ImgstoreError):
    """The document is not a manifest: not JSON, too large, too deep, or without a version."""

    code = "InvalidManifest"


class ManifestValidationError(ImgstoreError):
    """The manifest has faults; `data["errors"]` lists each as {field, code, message}."""

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

    def __init__(self, uuid: str, pool: str, hint: str | None = None) -> None:
        """Without a `hint`, the hint is the command that installs the image."""
        super().__init__(
            f'image "{uuid}" was not found on zpool "{pool}"',
            hint=f"`imgctl import {uuid}` installs it, if a source has it" if hint is None else hint,
        )


class OriginNotInstalledError(ImgstoreError):
    """The origin of an incremental image is not in the pool."""

    code = "OriginNotInstalled"
    exit_status = 3


class ImageHasDependentClonesError(ImgstoreError):
    """The image has clones; `data["dependents"]` names the datasets."""

    code = "ImageHasDependentClones"


class ImageMissingOriginalSnapshotError(ImgstoreError):
    """None of the dataset's snapshots is the image's original one."""

    code = "ImageMissingOriginalSnapshot"

    def __init__(self, uuid: str, guid: int | None = None) -> None:
        expected = "" if guid is None else f" (expected a snapshot with guid {guid})"
        super().__init__(
            f'image "{uuid}" is missing its original snapshot{expected}',
            hint="its machines keep running; to get the image back, install it in another pool",
        )


class MinPlatformError(ImgstoreError):
    """The platform is older than the image requires."""

    code = "MinPlatform"


class MaxPlatformError(ImgstoreError):
    """The platform is newer than the image allows."""

    code = "MaxPlatform"


class DamagedError(ImgstoreError):
    """The daemon cannot use something of its own files, and goes on without it (only in `status`)."""

    code = "Damaged"


# -- creating images -----------------------------------------------------------------------------------------


class NotSupportedError(ImgstoreError):
    """The host or the pool does not support the request."""

    code = "NotSupported"


class VmNotFoundError(ImgstoreError):
    """vmadm knows no such machine."""

    code = "VmNotFound"

    def __init__(self, vm: str) -> None:
        super().__init__(f'vm "{vm}" was not found', hint="`vmadm list` shows the machines")


class VmNotStoppedError(ImgstoreError):
    """The machine runs; only a stopped one can become an image."""

    code = "VmNotStopped"

    def __init__(self, vm: str) -> None:
        super().__init__(
            f'vm "{vm}" is not stopped',
            hint=f"`vmadm stop {vm}`; or give a prepare script (-s), which stops it, and then restores it",
        )


class VmHasNoOriginError(ImgstoreError):
    """The source of an incremental image is not a clone of an image."""

    code = "VmHasNoOrigin"


class OriginHasNoFinalSnapshotError(ImgstoreError):
    """The source of an incremental image is a clone of another snapshot of its origin."""

    code = "OriginHasNoFinalSnapshot"


class MaxOriginDepthError(ImgstoreError):
    """The new image would have more origins than allowed."""

    code = "MaxOriginDepth"

    def __init__(self, depth: int) -> None:
        super().__init__(
            f'cannot create image: maximum origin depth "{depth}" has been reached',
            hint="create it without -i, or allow more with --max-origin-depth",
        )


class PrepareImageError(ImgstoreError):
    """The prepare script failed."""

    code = "PrepareImageError"


class PrepareImageDidNotRunError(ImgstoreError):
    """The machine started, but the prepare script did not report."""

    code = "PrepareImageDidNotRun"


class UploadError(ImgstoreError):
    """An image server received bytes other than those that the daemon sent."""

    code = "UploadError"


class FileSystemError(ImgstoreError):
    """The daemon cannot read or write a file that a client opened."""

    code = "FileSystem"


# -- sources and downloads -----------------------------------------------------------------------------------


class NoSourcesError(ImgstoreError):
    """No image source is configured."""

    code = "NoSources"


class SourcePingError(ImgstoreError):
    """A new source does not answer like an image server."""

    code = "SourcePing"


class ClientError(ImgstoreError):
    """The daemon could not reach a server, or lost the connection: `URL: cause`.

    `data["errno"]` is the system's name for the cause, such as ECONNREFUSED.
    """

    code = "ClientError"


class APIError(ImgstoreError):
    """A server answered with an error, or with an invalid answer.

    `data["status"]` is HTTP's, `data["server_code"]` the server's own name for the error, where there is one.
    """

    code = "APIError"


class RefusedError(APIError):
    """An image server refused a publication; the error has the server's own name."""

    def __init__(self, name: str, error: APIError) -> None:
        super().__init__(error.message, hint=error.hint, data=error.data)
        self.name = name

    def as_wire(self) -> ErrorDocument:
        """The form in which the error crosses the socket."""
        return {**super().as_wire(), "code": self.name}


class BadContentError(APIError):
    """A server works, but has damaged, incomplete or wrong content."""


class UntrustedSourceError(APIError):
    """A source with `keys` offers what no trusted key signed, or what is out of date (not in imgadm)."""

    code = "UntrustedSource"


class UntrustedImageError(UntrustedSourceError, BadContentError):
    """No trusted key signed one image of a registry, whose other images may be signed."""


class KeyFileError(ImgstoreError):
    """A key for signatures is malformed, or cannot be used (not in imgadm)."""

    code = "KeyFile"


class DownloadError(ImgstoreError):
    """The download of an image failed, or its bytes do not match the manifest."""

    code = "DownloadError"


class UncompressionError(ImgstoreError):
    """The image file is damaged, incomplete, or decompresses to more than allowed."""

    code = "UncompressionError"


# -- pools ---------------------------------------------------------------------------------------------------


class StreamError(ImgstoreError):
    """The decompressed data is not a valid ZFS send stream (imgadm: `zfs receive` failed, InternalError)."""


class ResumeError(StreamError):
    """A receive token is malformed, or belongs to another stream; the stream itself may be valid."""


class LayerError(ImgstoreError):
    """A container image's layer, or a registry's disk, cannot be unpacked (imgadm: InternalError)."""

    code = "LayerError"


class DamagedLayerError(LayerError):
    """Where the layer is damaged, or was made wrong, another source may have it whole."""


class PoolError(ImgstoreError):
    """The pool refused a request, or failed."""


class PoolNotFoundError(PoolError):
    """The daemon has no such pool (imgadm: InternalError)."""

    code = "PoolNotFound"


class ImageHeldError(PoolError):
    """The image has holds; `data["holds"]` lists the tags (not in imgadm, which has no holds)."""

    code = "ImageHeld"

    def __init__(self, uuid: str, tags: Sequence[str]) -> None:
        hints = [f"`imgctl unpin {uuid}` removes the pin"] if PINNED in tags else []
        if set(tags) != {PINNED}:
            hints.append(
                f"`imgctl release {uuid} TAG` ends a hold; the hold of a client ends with its connection"
            )
        super().__init__(
            f'image "{uuid}" is held: {", ".join(tags)}',
            hint="; ".join(hints),
            data={"holds": list(tags)},
        )


class ImageLockedError(PoolError):
    """Another process has kept the image's lock for too long; the message names it (not in imgadm)."""

    code = "ImageLocked"


class NoSpaceError(PoolError):
    """Not enough free space, before or during the receive (not in imgadm, which does not check)."""

    code = "NoSpace"
