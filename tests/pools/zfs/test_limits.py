"""Limits on real ZFS: many images, missing and full pools, privileges, threads and open files."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import ConfigError, NoSpaceError, PoolError, PoolNotFoundError, StreamError
from imgstored.pools.zfs import ZfsPool, pipe
from tests.pools.contract import BASE, GUIDS, INCREMENTAL, ZVOL, begin, dependents, install
from tests.pools.contract import receive as receive_real
from tests.pools.zfs.commands import FOLDER, exported, make_pool, run
from tests.support.descriptors import no_files_left
from tests.support.streams import in_pieces, real_stream
from tests.support.threads import no_threads_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_many_images(tell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel program for all of them, which reads no properties of those that are known."""
    make_pool("many9", "1G")
    try:
        pool = ZfsPool("many9")
        install(pool, "base")
        answers: list[dict[str, dict[str, Any]]] = []

        def ask(*arguments: Any, **options: Any) -> Any:
            answers.append(given := asked(*arguments, **options))
            return given

        asked = pool._lzc.ask
        monkeypatch.setattr(pool._lzc, "ask", ask)
        core = importlib.import_module("libzfs_core")
        names = [f"many9/22222222-aaaa-4bbb-8ccc-{number:012}".encode() for number in range(199)]
        with ThreadPoolExecutor(50) as threads:
            list(threads.map(lambda name: core.lzc_clone(name, f"many9/{BASE}@final".encode()), names))
        core.lzc_snapshot([name + b"@final" for name in names])
        started = time.monotonic()
        images = pool.images()
        ours = time.monotonic() - started
        assert len({image.uuid for image in images}) == len(images) == 200
        (properties,) = answers
        assert not any("known" in each for each in properties.values())
        answers.clear()
        started = time.monotonic()
        run("zfs", "list", "-H", "-r", "-t", "all", "-o", "name,origin,used,guid,imgadm:ignore", "many9")
        zfs = time.monotonic() - started
        started = time.monotonic()
        again = pool.images(images)
        known = time.monotonic() - started
        (only_clones,) = answers
        assert all(each.keys() <= {"known", "ignore", "clones"} for each in only_clones.values())
        assert len(dependents(pool, BASE)) == 199
        assert sorted(again, key=lambda image: image.uuid) == sorted(images, key=lambda image: image.uuid)
        tell(f"images() of 200: {ours:.3f} s; known: {known:.3f} s; zfs list: {zfs:.3f} s")
    finally:
        run("zpool", "destroy", "-f", "many9")


# -- errors that a user can meet -----------------------------------------------------------------------------


def test_a_pool_that_is_not_there() -> None:
    with pytest.raises(PoolNotFoundError, match=r'pool "nopool9".*no such pool') as caught:
        ZfsPool("nopool9")
    assert "zpool import" in caught.value.hint


def test_a_pool_that_goes() -> None:
    make_pool("goes1", "128M")
    pool = ZfsPool("goes1")
    run("zpool", "destroy", "goes1")
    for ask in (pool.images, pool.space, lambda: receive_real(pool, "zvol"), lambda: pool.abandon(ZVOL)):
        with pytest.raises(PoolNotFoundError):
            ask()


@pytest.mark.parametrize("name", ["", "zones/images", "9tank", "tank@x", "a" * 64, "tank\n"])
def test_names_that_are_no_pool(name: str) -> None:
    with pytest.raises(ConfigError):
        ZfsPool(name)


@pytest.fixture
def used_up(pool: ZfsPool) -> Iterator[ZfsPool]:
    yield pool
    run("zfs", "set", "quota=none", pool.name)


def test_a_quota(used_up: ZfsPool) -> None:
    install(used_up, "zvol")
    run("zfs", "set", "quota=2m", used_up.name)
    with pytest.raises(NoSpaceError, match="a quota is used up") as caught:
        receive_real(used_up, "base")
    assert "quota" in caught.value.hint
    run("zfs", "set", "quota=none", used_up.name)
    assert install(used_up, "base").guid == GUIDS["base"]


def test_no_room(pool: ZfsPool) -> None:
    free = pool.space().available
    run(
        "zfs", "create", "-o", f"reservation={free - (1 << 20)}", "-o", "canmount=off", f"{pool.name}/reserve"
    )
    assert pool.space().available <= 2 << 20
    with pytest.raises(NoSpaceError, match="no room left") as caught:
        receive_real(pool, "base")
    assert caught.value.hint
    run("zfs", "destroy", f"{pool.name}/reserve")
    assert install(pool, "base").guid == GUIDS["base"]


def test_a_read_only_pool() -> None:
    """Not even a question is answered: the kernel runs no channel programs there."""
    make_pool("ro1", "128M")
    opened = ZfsPool("ro1")
    install(opened, "zvol")
    exported("ro1")
    run("zpool", "import", "-o", "readonly=on", "-d", str(FOLDER), "ro1")
    try:
        for ask in (
            lambda: ZfsPool("ro1"),
            opened.images,
            lambda: receive_real(opened, "base"),
            lambda: opened.destroy(ZVOL),
        ):
            with pytest.raises(PoolError, match="pool is read-only") as caught:
                ask()
            assert "import it again" in caught.value.hint
    finally:
        exported("ro1")


def test_without_privilege(pool: ZfsPool) -> None:
    script = f"import os; from imgstored.pools.zfs import ZfsPool; os.setuid(65534); ZfsPool({pool.name!r})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert "PoolError" in done.stderr
    assert "lacks the privilege" in done.stderr


# -- threads and descriptors ---------------------------------------------------------------------------------


def test_nothing_is_left_open(pool: ZfsPool) -> None:
    install(pool, "base")
    pool.images()
    with no_files_left(), no_threads_left():
        for _ in range(3):
            pieces = iter(pool.send(BASE))
            assert next(pieces)
            pieces.close()  # type: ignore[attr-defined]
            begin(pool, "incremental", 300_000)
            with contextlib.suppress(StreamError):
                receive_real(pool, "zvol", [real_stream("zvol")[:-1]])
            pool.abandon(INCREMENTAL)


def test_a_kernel_that_takes_nothing(pool: ZfsPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the pool's disks are gone: the caller is told, and does not wait for ever."""
    monkeypatch.setattr(pipe, "STALL", 1.0)
    release = threading.Event()
    monkeypatch.setattr(pool._lzc, "receive", lambda *_, **__: release.wait(60))
    started = time.monotonic()
    with pytest.raises(PoolError, match="taken nothing for 1 seconds"):
        pool.receive(BASE, in_pieces(real_stream("base")))
    assert time.monotonic() - started < 10
    release.set()
