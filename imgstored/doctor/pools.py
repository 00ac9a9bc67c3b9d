"""Checks of the pools: existence, write access, free space. All block, in a suspended pool for ever."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

from imgstored.doctor.check import Finding, size
from imgstored.doctor.folders import nearest, rated, room, some, unusable
from imgstored.doctor.host import program
from imgstored.errors import ImgstoreError
from imgstored.host import signals
from imgstored.pools.zfs import ZfsPool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgstored.config.tables import PoolTable
    from imgstored.doctor.check import Status, Subject
    from imgstored.pools.base import Pool

#: Seconds for `zpool`.
_LIMIT: Final = 8.0

#: Pool features that the streams of images may need, and the images that do.
_FEATURES: Final = {
    "large_blocks": "images made by `zfs send -L`",
    "embedded_data": "images made by `zfs send -e`",
    "lz4_compress": "images made by `zfs send -c`",
    "zstd_compress": "images made by `zfs send -c` of a pool with zstd",
}
_PROPERTIES: Final = ("health", "readonly", *(f"feature@{name}" for name in _FEATURES))


def pool(name: str, subject: Subject) -> list[Finding]:
    """Checks the pool of that name."""
    table = next(table for table in subject.settings.pools if table.name == name)
    check = f"pool {name}"
    if table.type == "embedded":
        return _embedded(subject, table, check)
    try:
        opened = (subject.pools or {}).get(table.name) or ZfsPool(table.name)
        free = opened.space().available
        unfinished = unfinished_images(check, opened, subject.settings.imgadm_folder / "images")
    except ImgstoreError as error:
        return [Finding(check, "fail", error.message, error.hint)]
    return [
        rated(check, "for datasets", free, subject.min_free),
        *unfinished,
        *zpool_findings(check, table.name),
    ]


def unfinished_images(check: str, pool: Pool, manifests: Path) -> list[Finding]:
    """Reports receives of other programs, and datasets without a manifest; `manifests` is a folder."""
    findings = [
        Finding(check, "ok", f"another program is receiving {pool.name}/{uuid}: {size(used)} so far")
        for uuid, used in sorted(pool.incoming().items())
    ]
    bare = sorted(
        f"{pool.name}/{image.uuid}"
        for image in pool.images()
        if not os.path.lexists(manifests / f"{pool.name}-{image.uuid}.json")
    )
    if bare:
        hint = "their receiver may still write these; `imgctl update UUID` fetches one from a source"
        findings.append(Finding(check, "warn", f"images without a manifest: {some(bare)}", hint))
    return findings


def _embedded(subject: Subject, table: PoolTable, check: str) -> list[Finding]:
    folder = subject.settings.pool_folder(table)
    fault = unusable(folder)
    if fault is not None:
        hint = "start imgstored as root, or name another `path` for the pool in its configuration"
        return [Finding(check, "fail", fault, hint)]
    if subject.runs and not folder.exists():
        hint = "is its disk mounted? Then restart imgstored"
        return [Finding(check, "fail", f"{folder} no longer exists", hint)]
    return [room(check, nearest(folder), subject.min_free)]


def zpool_findings(check: str, name: str, zpool: str | None = None) -> list[Finding]:
    """Checks the pool by `zpool get`, if the program exists."""
    path = zpool or program("zpool")
    if path is None:
        return []
    try:
        with signals.for_child():
            done = subprocess.run(  # noqa: S603 - a path of the system, and a name that was checked
                [path, "get", "-H", "-o", "property,value", ",".join(_PROPERTIES), name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "no answer" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        return [Finding(check, "warn", f"`zpool get` failed: {why}", "see `zpool status`")]
    found = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    return [*_health(check, name, found), *_features(check, found)]


def _health(check: str, name: str, found: Mapping[str, str]) -> list[Finding]:
    health, findings = found.get("health", "unknown"), []
    if health not in ("ONLINE", "unknown"):
        status: Status = "warn" if health == "DEGRADED" else "fail"
        findings.append(Finding(check, status, f"its health is {health}", f"see `zpool status {name}`"))
    if found.get("readonly") == "on":
        hint = f"`zpool export {name}`, and import it without -o readonly=on"
        findings.append(Finding(check, "fail", "it was imported read-only", hint))
    return findings


def _features(check: str, found: Mapping[str, str]) -> list[Finding]:
    lacking = [name for name in _FEATURES if found.get(f"feature@{name}", "enabled") in ("disabled", "-")]
    if not lacking:
        return []
    what = "; ".join(f"{name} ({_FEATURES[name]})" for name in lacking)
    hint = "such images are refused; `zpool upgrade` enables features, for good"
    return [Finding(check, "warn", f"it lacks {what}", hint)]
