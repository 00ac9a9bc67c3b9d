"""The spec of an import: which image, into which pool, from where. Pure: no I/O."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace


class ImportSpec(Struct, frozen=True):
    """One image, its pool, and where the image comes from.

    The same value goes from the request to the journal and, after a restart, from the journal to the import.
    """

    uuid: str
    pool: str
    sources: tuple[str, ...] | None = None  #: URLs in place of the configured sources
    channel: str | None = None
    zstream: bool = False  #: the sources' files may have another size and checksum than the manifests say

    @property
    def key(self) -> tuple[str, str]:
        """The pool and the uuid. There is one import of a key at a time."""
        return self.pool, self.uuid

    def of(self, uuid: str) -> ImportSpec:
        """The spec of an ancestor."""
        return replace(self, uuid=uuid)
