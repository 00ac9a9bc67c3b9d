"""smf/check-host on real ZFS: a receive is interrupted and resumed, and nothing of the script stays."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.zpool import WORKER, Zpool, run

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).parents[2] / "smf" / "check-host"


@pytest.fixture(scope="module")
def pool() -> Iterator[Zpool]:
    with Zpool(f"scratch{WORKER}", "256M") as made:
        yield made


def test_each_check_passes_and_the_pool_is_empty_again(pool: Zpool) -> None:
    done = run("sh", str(SCRIPT), "-p", sys.executable, "-z", pool.name, check=False)
    lines = [re.split(r"  +", line, maxsplit=2) for line in done.stdout.splitlines()]
    zfs = {(check, verdict) for verdict, check, _ in lines if check.startswith("zfs")}
    assert zfs == {("zfs send", "ok"), ("zfs program", "ok"), ("zfs resume", "ok")}, done.stdout
    resumed = [seen for _, check, seen in lines if check == "zfs resume"]
    assert [seen.partition(":")[0] for seen in resumed] == ["by-sender", "by-rewriter"]
    assert (done.returncode, done.stderr) == (0, "")
    assert pool.names() == []


def test_a_pool_that_is_full(pool: Zpool) -> None:
    run("zfs", "create", "-V", "110M", f"{pool.name}/reserved")
    try:
        done = run("sh", str(SCRIPT), "-p", sys.executable, "-z", pool.name, check=False)
        assert re.search(r"^fail  zfs ", done.stdout, re.MULTILINE), done.stdout
        assert done.returncode == 1
        assert pool.names() == ["reserved"]
    finally:
        pool.destroy("reserved")
