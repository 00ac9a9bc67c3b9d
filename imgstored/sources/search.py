"""A search for one image in several sources: whose answer counts, and how long to wait for others. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from imgstored.errors import (
    ActiveImageNotFoundError,
    ImageNotFoundError,
    ImgstoreError,
    InvalidManifestError,
    ManifestValidationError,
)
from imgstored.http.location import public, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.http.location import Location
    from imgstored.manifest import Manifest
    from imgstored.site.trust import Provenance
    from imgstored.sources.base import SourceSpec

#: Once a source has the image, those that are preferred to it get so long (seconds), …
PREFERRED_GRACE = 2.0
#: … and those that could only be further places of the same file so long.
FURTHER_GRACE = 0.5

#: Of the sources that failed: those that a hint names, and those whose errors programs are told.
_NAMED = 3
_TOLD = 50


def silent_hint(urls: Sequence[str]) -> str:
    """The hint where these sources, one at least, have not answered. The URLs are without secrets."""
    more = len(urls) - _NAMED
    further = f", and {more} more: `imgctl sources -c`" if more > 0 else ""
    return f"it may be at a source that did not answer: {', '.join(urls[:_NAMED])}{further}"


class Hit(Struct, frozen=True):
    """A source has the image."""

    manifest: Manifest
    location: Location | None
    signed: Provenance | None = None  #: as of `Offer`
    others: tuple[Location, ...] = ()  #: as of `Offer`


class Found(Struct, frozen=True):
    """An image that at least one source has."""

    manifest: Manifest
    source: SourceSpec  #: the one whose manifest it is
    locations: tuple[Location, ...]  #: every source that has this very file, first choice first
    signed: Provenance | None = None  #: who vouches for the image, where that source has keys
    import_id: str = ""  #: of the search's log lines; the import of the image takes it over


#: None: the source does not have the image.
Answer = Hit | ImgstoreError | None


class Search:
    """Decides from the answers as they come. Times are seconds of any steady clock."""

    def __init__(self, uuid: str, specs: Sequence[SourceSpec], *, active: bool) -> None:
        """`specs` in order of preference; with `active`, an image in another state is as good as none."""
        self._uuid = uuid
        self._specs = specs
        self._active = active
        self._answers: dict[int, Answer] = {}
        self._inactive: dict[int, str] = {}  # state
        self._first_hit: float | None = None

    def answered(self, place: int, answer: Answer, now: float) -> None:
        """The source at `place` has answered."""
        if isinstance(answer, Hit):
            if self._active and answer.manifest.state != "active":
                self._inactive[place] = answer.manifest.state
                answer = None
            elif self._first_hit is None:
                self._first_hit = now
        self._answers[place] = answer

    def left(self, now: float) -> float | None:
        """The seconds to wait for more answers, 0 for no longer, None for as long as they take."""
        if len(self._answers) == len(self._specs):
            return 0.0
        if self._first_hit is None:
            return None
        best = min(self._hits())
        preferred_open = any(place not in self._answers for place in range(best))
        return max(0.0, self._first_hit + (PREFERRED_GRACE if preferred_open else FURTHER_GRACE) - now)

    def silent(self) -> list[SourceSpec]:
        """The sources that have not answered."""
        return [spec for place, spec in enumerate(self._specs) if place not in self._answers]

    def problems(self) -> list[tuple[SourceSpec, ImgstoreError]]:
        """The sources that failed, in order, and how."""
        return [
            (self._specs[place], answer)
            for place, answer in sorted(self._answers.items())
            if isinstance(answer, ImgstoreError)
        ]

    def found(self) -> Found:
        """The image of the most preferred source that has it, with every place of the same file.

        Raises why there is none: an invalid manifest, if that is all there is; the first source's error with
        those of the others, if all failed; else `ActiveImageNotFoundError` or `ImageNotFoundError`.
        """
        hits = self._hits()
        if not hits:
            raise self._nothing()
        best = min(hits)
        manifest = hits[best].manifest
        locations = [
            location
            for place in sorted(hits)
            if place == best or _same_file(hits[place].manifest, manifest)
            for location in (hits[place].location, *hits[place].others)
        ]
        there = tuple(each for each in locations if each is not None)
        return Found(manifest, self._specs[best], there, hits[best].signed)

    def _hits(self) -> dict[int, Hit]:
        return {place: answer for place, answer in self._answers.items() if isinstance(answer, Hit)}

    def _nothing(self) -> ImgstoreError:
        problems = self.problems()
        for _, error in problems:
            if isinstance(error, InvalidManifestError | ManifestValidationError):
                return error
        if problems and len(problems) == len(self._specs):
            first, *others = (error for _, error in problems[:_TOLD])
            return first.with_others(others) if others else first
        data = {
            "problems": [
                {"source": public(spec.url), "error": error.as_wire()} for spec, error in problems[:_TOLD]
            ]
        }
        hint = self._hint([spec for spec, _ in problems])
        if self._active:
            message = f'an active image "{self._uuid}" was not found in image sources'
            return ActiveImageNotFoundError(message, hint=hint, data=data)
        return ImageNotFoundError(f'image "{self._uuid}" was not found', hint=hint, data=data)

    def _hint(self, failed: list[SourceSpec]) -> str:
        if failed:
            return silent_hint([shown(spec.url) for spec in failed])
        for place, state in sorted(self._inactive.items()):
            return f'{shown(self._specs[place].url)} has it, but its state is "{state}"'
        return "`imgctl avail` lists the images that the sources have"


def _same_file(one: Manifest, other: Manifest) -> bool:
    if one.file is None or other.file is None or one.file.sha1 is None:
        return False
    return (one.file.sha1, one.file.size) == (other.file.sha1, other.file.size)
