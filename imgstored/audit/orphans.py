"""The entries of an inventory that belong to nothing. Pure: no I/O.

Files of an import that goes on are no orphans; without a daemon these are the imports that the next one
resumes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from imgstored.library.library import SPOOL_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.audit.inventory import InJournal, InPool, Inventory, Key

#: The next start removes it.
_NEXT_START: Final = "the next start of imgstored removes it"

Severity = Literal["warn", "fail"]


class Orphan(Struct, frozen=True):
    """Something that belongs to nothing, or lacks what it needs. `what` is its kind, in the plural."""

    what: str
    name: str
    hint: str = _NEXT_START
    severity: Severity = "warn"


def orphans(found: Inventory) -> list[Orphan]:
    """All orphans of an inventory, by kind."""
    images = {(name, uuid) for name, pool in found.pools.items() for uuid in pool.images}
    return [
        *(each for name, pool in found.pools.items() for each in _of_pool(name, pool, found)),
        *_of_journal(found.journal, found, images),
        *_of_files(found, images),
    ]


def _of_pool(name: str, pool: InPool, found: Inventory) -> Iterator[Orphan]:
    wanted = {uuid for (of, uuid), goes_on in found.journal.imports.items() if of == name and goes_on}
    for uuid in sorted(pool.partials):
        if uuid in pool.images or uuid not in wanted:
            yield Orphan("half-received images", f"{name}/{uuid}-partial")
    for stray in sorted(pool.strays):
        hint = "look at it, and remove it; the next start removes only what a daemon had left half written"
        yield Orphan("files that are part of no image", f"{name}/{stray}", hint)
    if not found.running:
        for uuid in sorted(pool.client_holds):
            yield Orphan("holds of clients that are gone", f"{name}/{uuid}", "the next start releases them")
    for what in pool.damage:
        yield Orphan("damaged files", f"{name}: {what}", "check the disk", "fail")


def _of_journal(journal: InJournal, found: Inventory, images: set[Key]) -> Iterator[Orphan]:
    for pool, uuid in sorted(journal.imports):
        if (pool, uuid) in images or pool not in found.pools:
            yield Orphan("imports in the journal that are over", f"{pool}-{uuid}")
    known = {f"{pool}-{uuid}" for pool, uuid in journal.imports}
    for name in sorted(journal.spools - known):
        if not name.startswith(SPOOL_KEY):
            yield Orphan("downloads in the journal without an import", name)
    for name in sorted(journal.ranges - journal.spools):
        yield Orphan("ranges in the journal without a download", name)
    for name in sorted(found.spools - known):
        yield Orphan("downloads without an import", name)
    for fault in journal.faults:
        yield Orphan(
            "damaged databases", fault, "check the disk; the next start keeps what can be read", "fail"
        )


def _of_files(found: Inventory, images: set[Key]) -> Iterator[Orphan]:
    going_on = {key for key, wanted in found.journal.imports.items() if wanted}
    lost = (found.manifests - found.marks) - images
    for pool, uuid in sorted(lost):
        hint = "`imgctl verify` tells more; `imgctl import` installs the image again, or remove the file"
        yield Orphan("manifests without an image", f"{pool}-{uuid}.json", hint, "fail")
    for pool, uuid in sorted(found.marks - going_on):
        yield Orphan("marks of unfinished manifests", f"{pool}-{uuid}.json.unsettled")
    for pool, uuid in sorted(found.receipts - images - lost - going_on):
        yield Orphan("receipts without an image", f"{pool}-{uuid}.json")
    for pool, uuid in sorted(images - found.manifests):
        hint = f"`imgctl update {uuid}` fetches it from a source"
        yield Orphan("images without a manifest", f"{pool}/{uuid}", hint, "fail")
    for path in sorted(found.half_written):
        yield Orphan("files that were not written to their end", path, "remove it, when no daemon runs")
    if not found.running:
        for name in sorted(found.creating):
            yield Orphan("notes about images that were being made", name, "the next start tidies up")
    for name in found.damaged:
        yield Orphan("files that were damaged, and set aside", name, "look at it, and remove it")
