"""State folders as older daemons left them: see tests/data/README.md."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
#: Of the import that was interrupted.
RANGE = 1 << 20
#: Bytes of its stream that the pool of `state-2` had.
RECEIVED = 2_039_034
TINY = "55555555-aaaa-4bbb-8ccc-000000000001"
BASE = "11111111-aaaa-4bbb-8ccc-000000000001"


def left_behind(name: str, state: Path) -> None:
    """Makes `state` what the daemon of tests/data/NAME left."""
    shutil.copytree(DATA / name, state, ignore=shutil.ignore_patterns("*.sql"))
    for dump in (DATA / name).glob("*.sql"):
        with closing(sqlite3.connect(state / f"{dump.stem}.sqlite")) as db:
            db.executescript(dump.read_text())
    spool = state / "spool" / f"zones-{BASE}"
    spool.parent.mkdir()
    file = (DATA / "base.zfs.gz").read_bytes()
    spool.write_bytes(file[:RANGE] + bytes(len(file) - RANGE))
    partial = state / "pool" / f"{BASE}-partial"
    if partial.exists():
        (partial / "stream.zfs").write_bytes(gzip.decompress(file)[:RECEIVED])
