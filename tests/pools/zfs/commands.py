"""The programs `zfs` and `zpool`, which look at real pools of the tests and change them."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgstored.zstream.token import parse_token

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where the disks of pools are, and where pools are mounted.
FOLDER = Path("/tmp/zfs")


def run(*command: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def got(name: str, properties: str) -> list[str]:
    return run("zfs", "get", "-H", "-o", "value", properties, name).splitlines()


def sent_by_zfs(*arguments: str) -> bytes:
    return subprocess.run(["zfs", "send", *arguments], capture_output=True, check=True).stdout


def make_pool(name: str, size: str, *options: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    disk = FOLDER / f"{name}.img"
    disk.unlink(missing_ok=True)
    run("truncate", "-s", size, str(disk))
    run("zpool", "create", *options, "-m", str(FOLDER / name), name, str(disk))


def empty(name: str) -> None:
    """Destroys all that is in a pool."""
    lines = run("zfs", "list", "-H", "-r", "-t", "all", "-o", "name,userrefs", name).splitlines()
    for snapshot, holds in (line.split("\t") for line in lines):
        if holds not in ("-", "0"):
            for hold in run("zfs", "holds", "-H", snapshot).splitlines():
                run("zfs", "release", hold.split("\t")[1], snapshot)
    for child in (line.split("\t")[0] for line in lines):
        if child.count("/") == 1 and "@" not in child:
            destroyed(child)


def destroyed(name: str) -> None:
    """Destroys it if it is still there. A volume may be open by udev."""
    for _ in range(30):
        done = subprocess.run(["zfs", "destroy", "-R", name], capture_output=True, text=True, check=False)
        if not done.returncode or "does not exist" in done.stderr:
            return
        time.sleep(0.1)
    raise AssertionError(done.stderr)


def exported(name: str) -> None:
    """Exports it. A new volume may be open by udev."""
    for _ in range(30):
        if not subprocess.run(["zpool", "export", name], capture_output=True, check=False).returncode:
            return
        time.sleep(0.1)
    raise AssertionError(f"{name} stays busy")


def device(name: str) -> Path:
    """The disk of a volume POOL/…, once udev has made it."""
    path = Path("/dev/zvol", name)
    for _ in range(100):
        if path.exists():
            return path
        time.sleep(0.1)
    raise AssertionError(f"{path} does not appear")


@contextmanager
def mounted_tree(dataset: str) -> Iterator[Path]:
    """The files of a container image's snapshot @final."""
    with tempfile.TemporaryDirectory() as place:
        run("mount", "-t", "zfs", f"{dataset}@final", place)
        try:
            yield Path(place, "root")
        finally:
            run("umount", place)


def resume_point(name: str) -> int:
    """The bytes that the kernel's receive token states; 0 if there is no token, or no dataset."""
    token = run("zfs", "get", "-H", "-o", "value", "receive_resume_token", name, check=False).strip()
    return parse_token(token).bytes if token not in ("", "-") else 0
