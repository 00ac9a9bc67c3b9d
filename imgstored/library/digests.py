"""What is found out about the library's files, once for each: digests, and indexes for deltas.

All methods block, and may be called from any thread.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from imgstored.errors import DownloadError, NotSupportedError
from imgstored.host import shortage
from imgstored.library.folder import digests_of
from imgstored.library.library import ChangedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgstored.library.folder import Entry, LibraryImage
    from imgstored.library.library import Library

log = structlog.get_logger(__name__)


class Digests:
    """Reads the files of one library."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._damaged: frozenset[tuple[str, float]] = frozenset()  # files that need no second look

    # -- digests ---------------------------------------------------------------------------------------------

    def sha256(self, uuid: str, check: Callable[[], object] = lambda: None) -> str:
        """The SHA-256 of an image's file, in hexadecimal; reads the file if nobody has done so yet.

        `check` is called meanwhile, and may raise. Raises `ChangedError` where the image is not there, or
        changes meanwhile, `DownloadError` where the file is not that of its manifest, and `OSError`.
        """
        image = self._library.get(uuid)
        if image is None:
            raise ChangedError
        return self._digested(image, check) if image.entry.sha256 is None else image.entry.sha256

    def digest_missing(self, check: Callable[[], object] = lambda: None) -> None:
        """Computes the digests of files that have none yet, and writes them down. Takes seconds a GiB.

        `check` is called for every block; what it raises ends the call.
        """
        images = [each for each in self._library.images() if each.size and each.entry.sha256 is None]
        self._damaged &= {_file_of(image) for image in images}
        for image in images:
            if _file_of(image) in self._damaged:
                continue
            try:
                self._digested(image, check)
            except ChangedError:
                pass  # the next look sees it as it is then
            except DownloadError as error:
                self._damaged |= {_file_of(image)}
                log.error("a file of the library is damaged", uuid=image.uuid, error=error.message)
            except OSError as error:
                log.error("a file of the library cannot be read", uuid=image.uuid, error=str(error))

    def _digested(self, image: LibraryImage, check: Callable[[], object]) -> str:
        """As `sha256`."""
        fd = self._library.open_file(image.uuid, used=False)
        if fd is None:
            raise ChangedError
        with os.fdopen(fd, "rb", buffering=0) as file:
            md5, sha256 = digests_of(file, image.manifest, check)

        def with_digests(now: LibraryImage) -> Entry:
            if (now.entry, now.etag) != (image.entry, image.etag):
                raise ChangedError
            return replace(image.entry, md5=md5, sha256=sha256)

        self._library.amend(image.uuid, with_digests)
        return sha256

    # -- indexes ---------------------------------------------------------------------------------------------

    def index(self, uuid: str, sha256: str, make: Callable[[int], bytes | None]) -> bytes | None:
        """The index of an image's file, whose SHA-256 is given; None if it cannot have one.

        `make` makes it of the open file if nobody has. Raises what that does, `ChangedError`, and `OSError`.
        """
        made: bytes | None = None
        try:
            index = self._library.index_path(uuid, sha256).read_bytes()
        except FileNotFoundError:
            index = made = self._made_index(uuid, make)
        described = (len(index), hashlib.sha256(index).hexdigest() if index else "")

        def with_index(now: LibraryImage) -> Entry:
            if now.entry.sha256 != sha256:
                raise ChangedError
            return replace(now.entry, index=described)

        self._library.amend(uuid, with_index, index=made)
        return index or None

    def index_missing(self, make: Callable[[int], bytes | None]) -> None:
        """Makes the indexes of files of which nobody knows whether they can have one. `make` as for `index`.

        Takes seconds a GiB. Raises what `make` raises, but for `NotSupportedError`, which ends the look.
        """
        for image in self._library.images():
            if image.entry.sha256 is None or image.entry.index is not None:
                continue
            try:
                self.index(image.uuid, image.entry.sha256, make)
            except ChangedError:
                pass  # the next look sees it as it is then
            except NotSupportedError as error:
                log.warning("files of the library get no index", error=error.message)
                return
            except OSError as error:
                log.error("a file of the library gets no index", uuid=image.uuid, error=shortage.why(error))

    def _made_index(self, uuid: str, make: Callable[[int], bytes | None]) -> bytes:
        """The index of an image's file; empty if it cannot have one."""
        fd = self._library.open_file(uuid, used=False)
        if fd is None:
            raise ChangedError
        try:
            return make(fd) or b""
        finally:
            os.close(fd)


def _file_of(image: LibraryImage) -> tuple[str, float]:
    """What tells one file of an image from another: when it came."""
    return image.etag, image.entry.added_at
