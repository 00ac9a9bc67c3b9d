"""Vacuum: which images nobody needs, and in which order they can be deleted. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from imgstored.catalog.catalog import Key


class Candidate(Struct, frozen=True):
    """An installed image. `dependents` are the names (POOL/…) of what is cloned from it, machines' too."""

    pool: str
    uuid: str
    name: str
    published_at: str
    installed_at: float | None  #: seconds since the epoch, None where that is not known
    dependents: Collection[str]
    held: bool = False
    unknown: bool = False  #: it has no manifest, and may be a machine

    @property
    def key(self) -> Key:
        """The image's pool and uuid."""
        return self.pool, self.uuid

    @property
    def kept(self) -> bool:
        """True if the image stays, whatever the rule says."""
        return self.held or self.unknown

    @property
    def dataset(self) -> str:
        """The name that the image has among the dependents of its origin."""
        return f"{self.pool}/{self.uuid}"


class Rule(Struct, frozen=True):
    """The unused images that stay."""

    installed_before: float | None = None  #: seconds since the epoch: those installed later stay
    keep: int = 0  #: so many of the newest of each name, in each pool, stay

    def allows(self, image: Candidate) -> bool:
        """True if the image is old enough to go."""
        if self.installed_before is None:
            return True
        return image.installed_at is not None and image.installed_at < self.installed_before


def to_delete(images: Sequence[Candidate], rule: Rule) -> list[Candidate]:
    """The images to delete, in an order in which each can be: what is cloned from it goes before it.

    What is in use stays, and with it all that it was cloned from. Otherwise the order is that of `images`.
    """
    newest = _newest(images, rule.keep)
    left = [image for image in images if not image.kept and image.key not in newest and rule.allows(image)]
    chosen: list[Candidate] = []
    gone: set[str] = set()
    while left:
        leaves = [image for image in left if gone.issuperset(image.dependents)]
        if not leaves:
            break
        chosen += leaves
        gone.update(image.dataset for image in leaves)
        left = [image for image in left if image.dataset not in gone]
    return chosen


def _newest(images: Iterable[Candidate], keep: int) -> set[Key]:
    """The newest versions of each name, as many as are kept."""
    versions: dict[tuple[str, str], list[Candidate]] = {}
    for image in images:
        versions.setdefault((image.pool, image.name), []).append(image)
    return {
        image.key
        for same in versions.values()
        for image in sorted(same, key=lambda image: (image.published_at, image.uuid), reverse=True)[:keep]
    }
