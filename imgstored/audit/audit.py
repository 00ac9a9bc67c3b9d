"""`imgstored --check --deep`: reads every image to its end, and looks for what belongs to nothing.

It changes nothing, and may run while a daemon runs. Then it looks twice at things that come and go by the
daemon's work, and reports only those that stay.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgstored import __version__
from imgstored.audit.inventory import errors_of, opened, taken
from imgstored.audit.orphans import orphans
from imgstored.catalog.manifest_files import MISSING, ManifestFiles
from imgstored.catalog.receipts import Receipts
from imgstored.config import loading, specs
from imgstored.doctor.check import Finding, size
from imgstored.doctor.folders import some
from imgstored.errors import ImageNotInstalledError, ImgstoreError
from imgstored.http.secrets import KNOWN
from imgstored.library.folder import examined
from imgstored.maintenance.differences import Manifest, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgproto.documents import DoctorDocument

    from imgstored.audit.orphans import Orphan
    from imgstored.config.tables import Config
    from imgstored.doctor.check import Status
    from imgstored.pools.base import Pool

#: Seconds between two looks at things that a daemon may be changing. Each of the daemon's steps is shorter.
PAUSE: Final = 2.0


def audited(files: Sequence[Path], *, pause: float = PAUSE) -> DoctorDocument:
    """The findings for the host that these files configure. Blocks until all images are read.

    Raises `ConfigError`.
    """
    settings = loading.load(*files)
    specs.check(settings)
    KNOWN.configure(specs.secrets(settings, os.environ))
    running, findings = examine(settings, pause=pause)
    found: DoctorDocument = {
        "version": __version__,
        "running": running,
        "findings": [finding.as_wire() for finding in findings],
    }
    return found


def examine(settings: Config, *, pause: float = PAUSE) -> tuple[bool, list[Finding]]:
    """Examines a host. Returns whether a daemon runs, and the findings. Blocks."""
    if not Path(settings.state).exists():
        return False, [Finding("state", "ok", f"{settings.state} does not exist yet: there is nothing")]
    findings: list[Finding] = []
    pools = _opened(settings, findings)
    for name, pool in pools.items():
        findings += _images(name, pool, settings)
    findings += _library(settings, pause)
    try:
        running, left = _orphans(settings, pause)
    except (ImgstoreError, OSError) as error:
        return False, [*findings, Finding("leftovers", "fail", *errors_of(error))]
    return running, findings + _reported(left)


def _opened(settings: Config, findings: list[Finding]) -> dict[str, Pool]:
    """The pools that can be read; `findings` gets the reasons why others cannot."""
    pools = {}
    for table in settings.pools:
        try:
            pools[table.name] = opened(settings, table)
        except (ImgstoreError, OSError) as error:
            findings.append(Finding(f"pool {table.name}", "fail", *errors_of(error)))
    return pools


def _images(name: str, pool: Pool, settings: Config) -> Iterator[Finding]:
    """Reads each image of a pool."""
    check = f"images of {name}"
    receipts = Receipts(Path(settings.state) / "receipts")
    files = ManifestFiles(settings.imgadm_folder / "images")
    read = bytes_read = 0
    try:
        images = sorted(pool.images(), key=lambda image: image.uuid)
    except ImgstoreError as error:
        yield Finding(check, "fail", error.message, error.hint)
        return
    for image in images:
        try:
            fault = _fault_of(name, pool, image.uuid, receipts, files)
        except ImageNotInstalledError:
            continue  # somebody has deleted it meanwhile
        except ImgstoreError as error:
            yield Finding(check, "fail", f"{image.uuid}: {error.message}", error.hint)
            continue
        read, bytes_read = read + 1, bytes_read + image.referenced
        if fault is not None:
            status, seen = fault
            hint = "`imgctl verify` says the same; delete it, and import it again"
            yield Finding(check, status, f"{image.uuid}: {seen}", hint)
    yield Finding(check, "ok", f"{read} read to the end, {size(bytes_read)}")


def _fault_of(
    name: str, pool: Pool, uuid: str, receipts: Receipts, files: ManifestFiles
) -> tuple[Status, str] | None:
    """The fault of an installed image; None if it is whole. Blocks until the image is read.

    Raises as `Pool.check` does.
    """
    receipt = receipts.read(name, uuid)
    content = receipt is not None and isinstance(receipt.content, str)
    checked = pool.check(uuid, lambda done: None, content=content)
    origin = checked.image.origin
    below = None if origin is None else pool.image(origin)
    if origin is not None and below is None:
        return "fail", f"its origin {origin} is not installed"
    record = files.read(name, uuid)
    assert record is not None  # only of one that is known already
    missing = record.stamp == MISSING
    manifest = Manifest(missing, broken=not missing and set(record.manifest) == {"uuid"})
    found = verdict(receipt, checked, None if below is None else below.guid, manifest)
    if found.result == "ok" or (found.result == "unknown" and pool.shared):
        return None
    return ("warn" if found.result == "unknown" else "fail"), found.reason


def _library(settings: Config, pause: float) -> Iterator[Finding]:
    """Reads each file of the library; a wrong one again after a pause, as a daemon may be writing it."""
    folder = settings.library_folder
    if not folder.exists():
        return
    if not settings.has_library:
        # What was half made in it stays so until a daemon uses it again.
        yield Finding("library", "ok", f"{folder} is not in use, and was not read")
        return
    hint = "the next start removes or sets aside what is no image; remove a damaged one's folder"
    try:
        found = dict(examined(folder))
        wrong = [name for name, fault in found.items() if fault is not None]
        if wrong:
            time.sleep(pause)
            for name, fault in examined(folder, wrong):
                if fault is not None:
                    yield Finding("library", "fail", f"{name}: {fault}", hint)
    except OSError as error:
        yield Finding("library", "fail", *errors_of(error))
        return
    yield Finding("library", "ok", f"{len(found)} in {folder}, read to the end")


def _orphans(settings: Config, pause: float) -> tuple[bool, list[Orphan]]:
    """The orphans; while a daemon runs, those that stay after a pause. Raises as `taken` does."""

    def look() -> tuple[bool, list[Orphan]]:
        # Opened again each time: a pool that is only looked at knows what was there when it was opened.
        found = taken(settings, _opened(settings, []))
        return found.running, orphans(found)

    running, left = look()
    if running and left:
        time.sleep(pause)
        _, again = look()
        left = [orphan for orphan in left if orphan in again]
    return running, left


def _reported(left: Sequence[Orphan]) -> list[Finding]:
    """One finding for each kind of orphan."""
    kinds: Mapping[str, list[Orphan]] = {}
    kinds = {orphan.what: [each for each in left if each.what == orphan.what] for orphan in left}
    found = [
        Finding(
            "leftovers",
            each[0].severity,
            f"{len(each)} {what}: {some(one.name for one in each)}",
            each[0].hint,
        )
        for what, each in kinds.items()
    ]
    return found or [Finding("leftovers", "ok", "nothing that belongs to nothing")]
