"""Checks of the view: whether it can be mounted, and answers. All block; on a dead mount perhaps for ever."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgstored.doctor.check import Finding
from imgstored.doctor.folders import few_inodes, nearest, unusable
from imgstored.host.mounts import holding, mounted, mounted_at
from imgstored.view import mountpoint
from imgstored.view.plain import MARKER

if TYPE_CHECKING:
    from imgstored.doctor.check import Status, Subject
    from imgstored.host.mounts import Mount

_INSTALL: Final = "install fuse3, and `pip install 'imgstore[fuse]'`; `view.mode = \"files\"` needs neither"
_OTHER_LINK: Final = 'set `view.link` to another path, or to "" for none'
_BY_ITSELF: Final = "imgstored mounts it again by itself"
_DEVICE: Final = Path("/dev/fuse")
#: The file-system type of a view in the kernel's list.
_KIND: Final = "fuse.imgstored"


def fuse(subject: Subject) -> list[Finding]:
    """Checks the needs of a mount. Plain files suffice unless the configuration demands FUSE."""
    mode = subject.settings.view.mode
    if mode in ("off", "files"):
        return [Finding("fuse", "ok", f'not needed: `view.mode` is "{mode}"')]
    lacking = _lacking()
    if not lacking:
        return [Finding("fuse", "ok", "pyfuse3 and /dev/fuse are there")]
    status: Status = "fail" if mode == "fuse" else "ok"
    instead = "" if mode == "fuse" else "; the view is plain files"
    return [Finding("fuse", status, f"{' and '.join(lacking)}{instead}", _INSTALL)]


def _lacking() -> list[str]:
    lacking = []
    if importlib.util.find_spec("pyfuse3") is None:
        lacking.append("pyfuse3 is not installed")
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        lacking.append(f"{_DEVICE}: {error.strerror or error}")
    if os.geteuid() != 0 and mountpoint.fusermount() is None:
        lacking.append("no fusermount3, without which only root can mount")
    return lacking


def view(subject: Subject) -> list[Finding]:
    """Checks the view, the link to it, and the file system that it is on."""
    return [*_shown(subject), *_link(subject), *_place(subject)]


def _shown(subject: Subject) -> list[Finding]:
    mode, path = subject.settings.view.mode, Path(subject.settings.view.path)
    if mode == "off":
        return [Finding("view", "ok", 'there is none: `view.mode` is "off"')]
    try:
        os.statvfs(path)  # not `stat`, which the kernel may answer for a dead mount
        names = sorted(os.listdir(path))[:2]  # noqa: PTH208 - names are what is wanted
    except FileNotFoundError:
        return [_missing(subject, path)]
    except OSError as error:
        if error.errno in mountpoint.DEAD:
            return [_dead(subject, path)]
        return [Finding("view", "fail", f"{path}: {error.strerror or error}", "choose another `view.path`")]
    if not subject.runs:
        return [_to_come(path, names)]
    if subject.view == "files":
        return [Finding("view", "ok", f"plain files in {path}")]
    mount = mounted_at(Path(os.path.realpath(path)))
    if mount is not None and mount.kind == _KIND:
        return [Finding("view", "ok", f"mounted at {path} ({mount.kind}), and answers")]
    if mount is not None:
        hint = f"unmount that; then {_BY_ITSELF}"
        return [Finding("view", "fail", f"something else is mounted at {path}: {mount.kind}", hint)]
    hint = f"somebody unmounted it; once the folder is empty, {_BY_ITSELF}"
    return [Finding("view", "fail", f"nothing is mounted at {path}", hint)]


def _link(subject: Subject) -> list[Finding]:
    """Reports a wrong link to the view; the next start makes it anew."""
    table = subject.settings.view
    if table.mode == "off" or not table.link:
        return []
    try:
        found = mountpoint.link_state(Path(table.link), Path(table.path))
    except OSError as error:
        return [Finding("view", "warn", f"{table.link}: {error.strerror or error}", _OTHER_LINK)]
    if found == "taken":
        seen = f"{table.link} is not a link to {table.path}, and stays as it is"
        return [Finding("view", "warn", seen, f"remove it, and restart imgstored; or {_OTHER_LINK}")]
    if found == "absent" and subject.runs:
        return [Finding("view", "warn", f"the link {table.link} is not there", "a restart makes it again")]
    return []


def _place(subject: Subject) -> list[Finding]:
    """Checks free inodes for plain files, which take some five per image; a mount takes none."""
    table = subject.settings.view
    wanted = table.mode == "files" or (table.mode == "auto" and bool(_lacking()))
    if not (subject.view == "files" if subject.runs else wanted):
        return []
    findings = []
    try:
        place = Path(os.path.realpath(table.path))
        mount = holding(place, mounted())
        if mount is not None and _is_ram_disk(mount):
            seen = f"{table.path} is on the RAM disk {mount.source}, with few inodes, and lost at a reboot"
            hint = "set `view.path` to a dataset's folder, as /var/imgstored/images, and `view.link` to this"
            findings.append(Finding("view", "warn", seen, hint))
        few = few_inodes("view", nearest(place))
    except OSError:
        return findings  # the folder has a finding of its own
    return findings if few is None else [*findings, few]


def _is_ram_disk(mount: Mount) -> bool:
    """The names of ramdisk(4D): SmartOS has `/` on /devices/ramdisk:a."""
    return re.match(r"/dev(ices)?/(pseudo/)?ramdisk\b", mount.source) is not None


def _missing(subject: Subject, path: Path) -> Finding:
    if subject.runs:
        again = "a restart of imgstored makes it again"
        hint = f"somebody removed it; {again if subject.view == 'files' else _BY_ITSELF}"
        return Finding("view", "fail", f"{path} is not there", hint)
    fault = unusable(path)
    if fault is not None:
        return Finding("view", "fail", f"{path} cannot be made: {fault}", "choose another `view.path`")
    return Finding("view", "ok", f"{path} does not exist yet: the first start creates it")


def _dead(subject: Subject, path: Path) -> Finding:
    if subject.runs:
        hint = f"`{mountpoint.UNMOUNT} {path}`, and restart imgstored"
        return Finding("view", "fail", f"{path} is a mount whose server is gone", hint)
    seen = f"{path} is the mount of a daemon that is gone"
    return Finding("view", "warn", seen, f"the next start takes it over; `{mountpoint.UNMOUNT}` removes it")


def _to_come(path: Path, names: list[str]) -> Finding:
    ours = os.path.lexists(path / os.fsdecode(MARKER))
    mount = mounted_at(Path(os.path.realpath(path)))
    if mount is not None and mount.kind == _KIND:
        return Finding("view", "ok", f"another imgstored, which runs, shows it at {path}")
    if mount is not None:
        seen = f"{path} is a mount already: {mount.kind}"
        return Finding("view", "fail", seen, "unmount it, or choose another `view.path`")
    if names and not ours:
        seen = f"{path} is not empty: it has {names[0]}"
        return Finding("view", "fail", seen, "the view needs a folder of its own; choose another `view.path`")
    return Finding("view", "ok", f"{path}{' has the files of before' if ours else ' is empty'}")
