"""kill -9 on real ZFS, in the guest: `python -m tests.guest.kills N [--seed S]`.

As `tests.proofs.kills`, with a pool of ZFS: the daemon also dies before and after the calls of libzfs_core.
After each kill the pool has just the datasets, snapshots and holds of which clients know.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.guest.zpool import Zpool, run
from tests.proofs.fail_points import ON_ZFS
from tests.proofs.forks import Forks
from tests.proofs.kills import Kills, campaign
from tests.proofs.model import THERE, BrokenPromiseError
from tests.proofs.world import image_server, settings

if TYPE_CHECKING:
    from tests.proofs.model import Model
    from tests.proofs.world import Settings


POOL: Final = "kills"


def write(made: Settings, *, serves: bool = True) -> None:
    """Writes the configuration of a daemon with the pool."""
    file = made.write(serves=serves)
    (made.folder / "imgadm" / "images").mkdir(parents=True, exist_ok=True)
    (made.folder / "locks").mkdir(exist_ok=True)
    top = f'imgadm = "{made.folder}/imgadm"\nimgadm_locks = "{made.folder}/locks"\n'
    file.write_text(top + file.read_text() + f'[[pool]]\ntype = "zfs"\nname = "{POOL}"\n')


def only_images(pool: Zpool, model: Model) -> None:
    """Raises `BrokenPromiseError` if the pool has anything but images, with the holds that clients know."""
    images = sorted(uuid for uuid, state in model.images.items() if state == THERE)
    there, expected = pool.names(), sorted(name for uuid in images for name in (uuid, f"{uuid}@final"))
    if there != expected:
        raise BrokenPromiseError(f"the pool has {there}, and not {expected}")
    if finals := [f"{pool.name}/{uuid}@final" for uuid in images]:
        held = [line.split("\t")[0] for line in run("zfs", "holds", "-H", *finals).stdout.splitlines()]
        wanted = [name for uuid, name in zip(images, finals, strict=True) if model.holds[uuid] == THERE]
        if held != wanted:
            raise BrokenPromiseError(f"the holds are of {held}, and not of {wanted}")
    mounts = Path("/proc/self/mounts").read_text()
    if f"{pool.name}/" in mounts:
        raise BrokenPromiseError(f"a part of the pool is still mounted:\n{mounts}")


def main() -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest.kills", description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    folder = Path("/tmp/kills")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G", "kills", str(folder)], check=True)
    print(f"seed {seed}", flush=True)
    with image_server(folder / "server") as url, Forks() as forks, Zpool(POOL, "512M") as pool:
        made = settings(folder / "host", url)
        kills = Kills(
            made,
            forks,
            seed,
            write=partial(write, made),
            points=tuple(ON_ZFS),
            also=lambda model: only_images(pool, model),
        )
        status = campaign(kills, arguments.kills, folder / "report", every=10)
        print((folder / "report").read_text(), flush=True)
        if status:
            print(f"{pool.names()}\n{(made.folder / 'log').read_text()}", flush=True)
        run("zpool", "scrub", "-w", POOL)
        print(run("zpool", "status", POOL).stdout, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
