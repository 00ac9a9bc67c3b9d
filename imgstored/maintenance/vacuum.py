"""Vacuum: finds the images that nothing needs, and the order of their deletion. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from imgstored.catalog.catalog import Key


class Candidate(Struct, frozen=True):
    """An installed image. `dependents` are the names (POOL/…) of its clones, images and machines."""

    pool: str
    uuid: str
    name: str
    published_at: str
    installed_at: float | None  #: seconds since the epoch, None if unknown
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
    """The rule for unused images that stay."""

    installed_before: float | None = None  #: seconds since the epoch: those installed later stay
    keep: int = 0  #: the number of newest images of each name that stay in each pool

    def allows(self, image: Candidate) -> bool:
        """True if the image is old enough to go."""
        if self.installed_before is None:
            return True
        return image.installed_at is not None and image.installed_at < self.installed_before


def to_delete(images: Sequence[Candidate], rule: Rule) -> list[Candidate]:
    """The images to delete, clones before their origins, otherwise in the order of `images`.

    Images in use stay, and with them their origins.
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
    """The `keep` newest versions of each name."""
    versions: dict[tuple[str, str], list[Candidate]] = {}
    for image in images:
        versions.setdefault((image.pool, image.name), []).append(image)
    return {
        image.key
        for same in versions.values()
        for image in sorted(same, key=lambda image: (image.published_at, image.uuid), reverse=True)[:keep]
    }
