"""The states of an import, and what is kept when it ends. Pure: two tables, and the rules that read them.

Theory of operation. An import is in exactly one phase. `Import.enter` alone changes it, along the table of
transitions:

    waiting ──► downloading ──► receiving ──► installing ──► installed
       └──────── a local file ──────▲

`waiting` lasts until the import has one of the slots for downloads. The pool may receive already while the
import is `downloading`: the phase says `receiving` once the whole file is there. When a server has sent
another file, the import goes back to `downloading`, from another mirror. `installing` begins when the stream
has ended and its checksums hold; in it the pool renames the partial, and that rename is the commit, which
cannot be cancelled. If somebody else has taken the image's name at that moment, the import goes back to
`receiving`, and waits. An import that finds its image installed by somebody else goes to `installed` from
wherever it is. `failed` and `cancelled` are final, as is `installed`.

The phase is for people. What an end leaves behind depends on the reason of the end, and not on the phase:
`End` names the reasons, `end_after` finds the reason of an error, and `KEPT` says what each of them keeps.
The next start reads the journal's row: a wanted import goes on, any other waits for a request, and a partial
without a wanted import is dropped. A daemon that is killed keeps everything, so its imports go on as after
`STOPPED`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.delta.index import IndexFaultError
from imgstored.errors import (
    CancelledError,
    DamagedLayerError,
    ImgstoreError,
    NoSpaceError,
    StreamError,
    UncompressionError,
)
from imgstored.transfer.digest import WrongFileError
from imgstored.transfer.mirror import ChangedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproto.documents import Phase

# -- phases --------------------------------------------------------------------------------------------------

#: The phases that may follow each phase.
TRANSITIONS: Final[Mapping[Phase, tuple[Phase, ...]]] = {
    "waiting": ("downloading", "receiving", "installed", "failed", "cancelled"),
    "downloading": ("downloading", "receiving", "installed", "failed", "cancelled"),
    "receiving": ("downloading", "installing", "installed", "failed", "cancelled"),
    "installing": ("receiving", "installed", "failed"),
    "installed": (),
    "failed": (),
    "cancelled": (),
}


def check_transition(before: Phase, after: Phase) -> None:
    """Raises `ValueError` for a transition that the table does not have."""
    if after not in TRANSITIONS[before]:
        raise ValueError(f"an import cannot go from {before} to {after}")


def final_phase(error: ImgstoreError | None) -> Phase:
    """The phase of an import that has ended."""
    if error is None:
        return "installed"
    return "cancelled" if isinstance(error, CancelledError) else "failed"


# -- what is kept --------------------------------------------------------------------------------------------


class End(Enum):
    """The reason why an import ended, or an attempt of it."""

    INSTALLED = auto()  #: the image is there, by this import
    INSTALLED_BY_OTHERS = auto()  #: somebody else was faster
    STOPPED = auto()  #: the daemon is stopping
    ABANDONED = auto()  #: nobody wants the image any more
    ORIGIN_FAILED = auto()  #: the origin was not installed
    FAILED = auto()  #: a server or the pool failed, or the pool has no room; the download is right so far
    SPOILED = auto()  #: the bytes are not the image's, none came, or there is no room for the download
    WRONG_BYTES = auto()  #: of one attempt: the bytes are not the image's, but another mirror may have it


class Kept(Struct, frozen=True):
    """The things that an end keeps; all others are dropped."""

    partial: bool  #: what the pool received
    download: bool  #: the spool, and the journal's ranges
    journal: bool  #: the journal's row of the import
    wanted: bool  #: the row's mark that the import goes on by itself after a restart


#: What is kept after each end.
KEPT: Final[Mapping[End, Kept]] = {
    # The pool has made the partial the image; there is none to drop.
    End.INSTALLED: Kept(partial=True, download=False, journal=False, wanted=False),
    End.INSTALLED_BY_OTHERS: Kept(partial=False, download=False, journal=False, wanted=False),
    End.STOPPED: Kept(partial=True, download=True, journal=True, wanted=True),
    End.ABANDONED: Kept(partial=False, download=True, journal=True, wanted=False),
    End.ORIGIN_FAILED: Kept(partial=False, download=True, journal=True, wanted=False),
    End.FAILED: Kept(partial=False, download=True, journal=True, wanted=False),
    End.SPOILED: Kept(partial=False, download=False, journal=False, wanted=False),
    End.WRONG_BYTES: Kept(partial=False, download=False, journal=True, wanted=True),
}

#: The bytes are not the image's, but another mirror may have it.
WRONG_BYTES_ERRORS: Final = (
    WrongFileError,
    ChangedError,
    IndexFaultError,
    UncompressionError,
    StreamError,
    DamagedLayerError,
)


def end_after(error: ImgstoreError, *, local_file: bool, done: int, by_download: bool = False) -> End:
    """The end of an import that `error` ended, when `done` bytes of its file were there.

    The next installation reads a local file again, and without any byte there is nothing to keep. If the
    download itself has no room (`by_download`), keeping it would leave no room for others.
    """
    if local_file or not done or isinstance(error, WRONG_BYTES_ERRORS):
        return End.SPOILED
    if by_download and isinstance(error, NoSpaceError):
        return End.SPOILED
    return End.FAILED
