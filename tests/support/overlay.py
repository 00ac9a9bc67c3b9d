"""This machine with a layer over it: what a command installs or removes is in the layer, and goes with it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# $1 is the layer's folder, $2 what is run. Processes that it leaves behind end with their pid namespace.
_ENTER = """
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs run "$1/root/run"
exec chroot "$1/root" sh -euc "$2"
"""


def run_over(folder: Path, script: str, *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs a shell script as root in the layer of `folder`, which the next run finds as it was left."""
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return subprocess.run(
        [*unshare, "sh", "-euc", _ENTER, "sh", str(folder), script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )
