"""An inventory of the daemon's files and datasets, read without a change. All of it blocks.

A daemon may be at work meanwhile. So what comes and goes is looked at without a lock, and what is gone when
it is looked at was never there.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from imgstored.catalog.holds import CLIENT_TAG
from imgstored.catalog.manifest_files import ManifestFiles
from imgstored.catalog.receipts import Receipts
from imgstored.errors import ImgstoreError
from imgstored.host import lock_holders
from imgstored.host.filesystem import NEW
from imgstored.imports.leftovers import INDEX, PAYLOADS
from imgstored.manifest.values import UUID
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.zfs import ZfsPool
from imgstored.state.damage import DAMAGED, kept
from imgstored.state.schema import HISTORY, JOURNAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgstored.config.tables import Config, PoolTable
    from imgstored.pools.base import Pool

#: An image of a pool: (pool, uuid).
Key = tuple[str, str]

_LOCK: Final = "lock"


class InPool(Struct, frozen=True):
    """The contents of one pool: uuids, and names of the pool's own."""

    images: frozenset[str]
    partials: frozenset[str]
    strays: frozenset[str]  #: files that are part of no image
    client_holds: frozenset[str]  #: images that clients hold
    damage: tuple[str, ...]  #: sentences


class InJournal(Struct, frozen=True):
    """The contents of the journal. Names are those of spools."""

    imports: Mapping[Key, bool] = field(default_factory=dict)  #: whether each is wanted
    spools: frozenset[str] = frozenset()
    ranges: frozenset[str] = frozenset()  #: and of validators
    faults: tuple[str, ...] = ()


class Inventory(Struct, frozen=True):
    """The whole inventory, at about one moment."""

    running: bool
    pools: Mapping[str, InPool]
    journal: InJournal
    spools: frozenset[str]  #: names of files
    receipts: frozenset[Key]
    manifests: frozenset[Key]
    marks: frozenset[Key]  #: of pending manifests
    half_written: frozenset[str]  #: paths of files that never got their names
    creating: frozenset[str]  #: notes about images that are being made
    damaged: tuple[str, ...]  #: what was set aside


def opened(settings: Config, table: PoolTable) -> Pool:
    """Opens a pool for reading. Raises `PoolError`."""
    if table.type == "zfs":
        return ZfsPool(table.name)
    return EmbeddedPool(table.name, settings.pool_folder(table), read_only=True)


def taken(settings: Config, pools: Mapping[str, Pool]) -> Inventory:
    """Takes the inventory. Raises `OSError`, `PoolError`."""
    state, images = Path(settings.state), settings.imgadm_folder / "images"
    files = ManifestFiles(images)
    return Inventory(
        running=_runs(state),
        pools={name: _in_pool(pool) for name, pool in pools.items()},
        journal=_in_journal(state),
        spools=frozenset(name.removesuffix(INDEX).removesuffix(PAYLOADS) for name in _names(state / "spool")),
        receipts=frozenset(
            (name, uuid) for name in pools for uuid in Receipts(state / "receipts").uuids(name)
        ),
        manifests=frozenset(_manifests(images, pools)),
        marks=frozenset((name, uuid) for name in pools for uuid in files.marked(name)),
        half_written=frozenset(_half_written([state, *_folders(state), images])),
        creating=frozenset(name for name in _names(state / "creating") if name.endswith(".json")),
        damaged=tuple(path.name for path in kept(state / DAMAGED)),
    )


def _runs(state: Path) -> bool:
    """True if a daemon has the folder. Takes no lock, not even for a moment."""
    try:
        fd = os.open(state / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return lock_holders.of_lockf(fd) is not None
    finally:
        os.close(fd)


def _in_pool(pool: Pool) -> InPool:
    uses = pool.uses()
    return InPool(
        images=frozenset(image.uuid for image in pool.images()),
        partials=frozenset(pool.partials()),
        strays=frozenset(pool.strays() if isinstance(pool, EmbeddedPool) else ()),
        client_holds=frozenset(
            uuid for uuid, use in uses.items() if any(tag.startswith(CLIENT_TAG) for tag in use.tags)
        ),
        damage=tuple(pool.damage()),
    )


def _in_journal(state: Path) -> InJournal:
    faults = [fault for name in (JOURNAL, HISTORY) for fault in _faults_of(state / name)]
    path = state / JOURNAL
    if faults or not path.exists():
        return InJournal(faults=tuple(faults))
    try:
        with closing(_connect(path)) as db:
            imports = db.execute("SELECT pool, uuid, wanted FROM imports").fetchall()
            spools = {row[0] for row in db.execute("SELECT uuid FROM spools")}
            ranges = {
                row[0] for row in db.execute("SELECT uuid FROM ranges UNION SELECT uuid FROM validators")
            }
    except sqlite3.Error as error:  # a whole database, but not one of ours
        return InJournal(faults=(f"{path.name}: {error}",))
    wanted = {(row[0], row[1]): bool(row[2]) for row in imports}
    return InJournal(wanted, frozenset(spools), frozenset(ranges))


def _faults_of(path: Path) -> list[str]:
    """The faults that SQLite finds in a database."""
    if not path.exists():
        return []
    try:
        with closing(_connect(path)) as db:
            found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(3)")]
    except sqlite3.Error as error:
        found = [str(error)]
    return [f"{path.name}: {fault}" for fault in found if fault != "ok"]


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)


def _manifests(folder: Path, pools: Iterable[str]) -> list[Key]:
    names = [name.removesuffix(".json") for name in _names(folder) if name.endswith(".json")]
    keys = [(pool, name.removeprefix(f"{pool}-")) for pool in pools for name in names]
    return [(pool, uuid) for pool, uuid in keys if UUID.fullmatch(uuid)]


def _folders(state: Path) -> list[Path]:
    return [state / name for name in ("receipts", "lists", "creating", "signed")]


def _half_written(folders: Iterable[Path]) -> list[str]:
    return [str(folder / name) for folder in folders for name in _names(folder) if name.endswith(NEW)]


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)  # noqa: PTH208  (names alone)
    return []


def errors_of(error: ImgstoreError | OSError) -> tuple[str, str]:
    """The message and the hint of the error that prevented a look."""
    if isinstance(error, ImgstoreError):
        return error.message, error.hint
    return f"{error.filename or 'a file'}: {error.strerror or error}", "run this as the daemon's user"
