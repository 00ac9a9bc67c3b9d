"""Checks of the daemon's own folder and imgadm's: existence, integrity, free space. All of them block.

The checks do not open lock files: to close one would release a lock that this very process has on it.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgstored.doctor.check import Finding, size
from imgstored.errors import ConfigError, DamagedError, ImgstoreError
from imgstored.host import shortage
from imgstored.manifest import MAX_LIST, parse
from imgstored.sources.imgadm_conf import ImgadmConf
from imgstored.state.damage import DAMAGED, kept, look_at
from imgstored.state.folder import refuse_newer
from imgstored.state.schema import JOURNAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgstored.doctor.check import Subject

#: With fewer free bytes, one image may fill the file system.
LITTLE: Final = 2 << 30
_LOCKS: Final = Path("/proc/locks")
#: With fewer free inodes, one image may take the last ones: each takes some ten.
_FEW: Final = 200
#: The number of names in a message.
_SHOWN: Final = 5
_DAY: Final = 86400.0
_AS_ROOT: Final = "start imgstored as root, or name another folder in its configuration"


def state(subject: Subject) -> list[Finding]:
    """Checks the state folder, its version, and damaged files that were set aside in it."""
    folder = subject.state
    fault = unusable(folder)
    if fault is not None:
        return [Finding("state", "fail", fault, _AS_ROOT)]
    if not folder.exists():
        return [Finding("state", "ok", f"{folder} does not exist yet: the first start creates it")]
    try:
        refuse_newer(folder)
    except ConfigError as error:
        return [Finding("state", "fail", error.message, error.hint)]
    faults = [
        Finding("state", "warn" if isinstance(fault, DamagedError) else "fail", fault.message, fault.hint)
        for fault in subject.faults
    ]
    # A running daemon reports these itself.
    aside = [] if faults else [path.name for path in kept(folder / DAMAGED)]
    if aside:
        seen = f"damaged, and set aside: {some(aside)}"
        faults = [Finding("state", "warn", seen, look_at(folder / DAMAGED))]
    return faults or [Finding("state", "ok", str(folder))]


def space(subject: Subject) -> list[Finding]:
    """Checks the free space for downloads."""
    return [room("space", nearest(subject.state / "spool"), subject.min_free)]


def partials(subject: Subject) -> list[Finding]:
    """Checks for downloads without a client, and half-received images that belong to no import."""
    days = subject.settings.limits.keep_partial_days
    journal = subject.state / JOURNAL
    if not journal.is_file():
        return [Finding("partials", "ok", "no imports yet")]
    try:
        with closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT pool, uuid, wanted, touched_at FROM imports").fetchall()
    except sqlite3.Error as error:
        hint = "the next start sets a damaged journal aside; see the disk"
        return [Finding("partials", "fail", f"{journal} cannot be read: {error}", hint)]
    parked = [row for row in rows if not row[2]]
    kept = sum(_occupied(subject.state / "spool" / f"{row[0]}-{row[1]}") for row in parked)
    going_on = len(rows) - len(parked)
    interrupted = f"{_imports(len(parked))} interrupted, with {size(kept)} on disk"
    seen = f"{_imports(going_on)} under way, {interrupted if parked else 'none interrupted'}"
    findings = [Finding("partials", "ok", seen)]
    if any(time.time() - row[3] > (days + 1) * _DAY for row in parked):
        hint = "the next start drops them; or ask for the image again"
        findings = [Finding("partials", "warn", f"{seen}, some for more than {days} days", hint)]
    known = {(row[0], row[1]) for row in rows}
    for name, pool in (subject.pools or {}).items():
        strays = [uuid for uuid in pool.partials() if (name, uuid) not in known]
        if strays:
            of_pool = f'pool "{name}" has parts of images that imgstored does not import: {some(strays)}'
            hint = f"if no imgadm is at work: `zfs destroy -r {name}/UUID-partial`"
            findings.append(Finding("partials", "warn", of_pool, hint))
    return findings


def _imports(count: int) -> str:
    return f"{count} import{'' if count == 1 else 's'}"


# -- imgadm's ------------------------------------------------------------------------------------------------


def imgadm_conf(subject: Subject) -> list[Finding]:
    """Checks imgadm's configuration file, which has the sources."""
    path = subject.settings.imgadm_folder / "imgadm.conf"
    try:
        sources = ImgadmConf(path).sources()
    except ImgstoreError as error:
        return [Finding("imgadm.conf", "fail", error.message, error.hint)]
    if sources is None:
        return [Finding("imgadm.conf", "ok", f"{path} names no sources")]
    return [Finding("imgadm.conf", "ok", f"{path}: {len(sources)} sources")]


def manifests(subject: Subject) -> list[Finding]:
    """Checks the files with the manifests."""
    folder = subject.settings.imgadm_folder / "images"
    fault = unusable(folder)
    if fault is not None:
        return [Finding("manifests", "fail", fault, _AS_ROOT)]
    try:
        names = (
            sorted(path.name for path in folder.iterdir() if path.suffix == ".json")
            if folder.exists()
            else []
        )
    except OSError as error:
        return [Finding("manifests", "fail", f"{folder} cannot be read: {error.strerror or error}", _AS_ROOT)]
    bad = [f"{name} ({why})" for name in names if (why := _fault_of(folder / name)) is not None]
    if bad:
        hint = f"`imgctl update` writes them anew from the sources; they are in {folder}"
        return [Finding("manifests", "fail", f"{len(bad)} of {len(names)} cannot be read: {some(bad)}", hint)]
    return [Finding("manifests", "ok", f"{len(names)} in {folder}")]


def _fault_of(path: Path) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return "not a regular file"
            record = parse(file.read(MAX_LIST + 1), limit=MAX_LIST)
    except OSError as error:
        return error.strerror or str(error)
    except ImgstoreError as error:
        return error.message
    return None if isinstance(record.get("manifest"), dict) else "it has no manifest"


def locks(subject: Subject) -> list[Finding]:
    """Reports imgadm's lock files. They stay when nobody has the locks, and do no harm then."""
    folder = subject.settings.imgadm_locks_folder
    fault = unusable(folder)
    if fault is not None:
        return [Finding("locks", "fail", fault, _AS_ROOT)]
    held, left = [], 0
    holders = _holders()
    for path in folder.glob("img.*.import.lock"):
        try:
            inode = path.stat().st_ino
        except OSError:
            continue  # gone meanwhile
        if inode in holders:
            held.append(f"{path.name.split('.')[1]} by pid {holders[inode]}")
        else:
            left += 1
    at_work = f" ({some(held)})" if held else ""
    seen = f"in {folder}: {len(held)} held{at_work}, {left} left over, which do no harm"
    return [Finding("locks", "ok", seen)]


def _holders() -> dict[int, str]:
    """The holders of POSIX locks by inode, on Linux (proc_locks(5)); empty elsewhere."""
    try:
        lines = _LOCKS.read_bytes().splitlines()
        fields = (line.decode().split() for line in lines)
        return {int(f[5].rsplit(":", 1)[1]): f[4] for f in fields if len(f) >= 8 and f[1] == "POSIX"}
    except (OSError, ValueError, IndexError):
        return {}


# -- in common -----------------------------------------------------------------------------------------------


def unusable(folder: Path) -> str | None:
    """The reason why the daemon cannot write into a folder, or make it; None if it can."""
    place = nearest(folder)
    if not place.is_dir():
        return f"{place} is not a folder"
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        return f"{place} may not be written"
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"{place} is on a file system that is read-only"
    return None


def room(check: str, folder: Path, min_free: int) -> Finding:
    """Checks the free space of a folder's file system."""
    status = os.statvfs(folder)
    found = rated(check, f"in {folder}", status.f_bavail * status.f_frsize, min_free)
    return found if found.status == "fail" else few_inodes(check, folder) or found


def few_inodes(check: str, folder: Path) -> Finding | None:
    """Reports a file system with few or no free inodes."""
    free = shortage.free_inodes(folder)
    if free is None or free >= _FEW:
        return None
    hint = "remove files that nobody needs from that file system"
    seen = f"only {free} free inodes in {folder}: a file system without them takes no more files"
    return Finding(check, "warn" if free else "fail", seen if free else f"no free inodes in {folder}", hint)


def rated(check: str, where: str, free: int, min_free: int) -> Finding:
    """The finding about free bytes: a failure if imports are refused, a warning if they may be soon."""
    seen = f"{size(free)} free {where}"
    if free < min_free:
        hint = "make room: `imgctl vacuum`, `imgctl delete`"
        return Finding(check, "fail", f"{seen}, and imports must leave {size(min_free)} free", hint)
    if free < LITTLE:
        return Finding(
            check, "warn", seen, "free space before an image needs it: `imgctl du`, `imgctl vacuum`"
        )
    return Finding(check, "ok", seen)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place))


def _occupied(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def some(names: Iterable[str]) -> str:
    """The first few names, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(itertools.islice(names, _SHOWN)) + more
