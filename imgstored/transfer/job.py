"""One request of a download, while it is under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgstored.errors import ImgstoreError
from imgstored.transfer.mirror import Mirror, ValidatorChangedError
from imgstored.transfer.spool import DifferentError

if TYPE_CHECKING:
    from imgstored.http.ranges import RangeConnection
    from imgstored.transfer.plan import Ask


class EnoughError(Exception):
    """All that a request was made for is there."""


@dataclass(eq=False, slots=True)
class Job:
    """One request under way."""

    ask: Ask
    mirror: Mirror
    connection: RangeConnection
    fetched: int = 0  #: bytes that came; written by the job's thread
    fresh: int = 0  #: bytes of them that were not there yet; likewise
    whole: bool = False  #: the answer is all of the file
    ended: bool = False
    superseded: bool = False

    def supersede(self) -> None:
        """Ends the request: what it is for is there, or not wanted any more."""
        self.superseded = True
        self.connection.abort("not needed any more")


#: What became of a job: None is success.
Outcome = ImgstoreError | DifferentError | ValidatorChangedError | None
