"""Both bindings of libzfs_core on real ZFS, in the guest only: the contract, and the same errors.

The other modules here ask the binding that a host with pyzfs has.
"""

from __future__ import annotations

import errno
import importlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import ImgstoreError
from imgstored.pools.zfs import ZfsPool, faults, lzc, programs
from imgstored.pools.zfs.core import CallError
from imgstored.pools.zfs.library import Library
from imgstored.pools.zfs.pyzfs import Pyzfs
from tests.pools.contract import BASE, GUIDS, ZVOL, PoolContract, install, pool
from tests.pools.contract import receive as receive_real
from tests.pools.layer_contract import LayerContract
from tests.pools.zfs.commands import FOLDER, empty, exported, make_pool, mounted_tree, resume_point, run
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgstored.pools.zfs.core import Core
    from imgstored.zstream.nvlist import Tree

__all__ = ["pool"]

#: No pool of another file, which runs at the same time.
TANK, OTHER, MANY = "tank5", "tank6", "many5"

ROOT = Path(__file__).parents[3]

BOTH = pytest.mark.parametrize("binding", [Pyzfs, Library])


@pytest.fixture(scope="module")
def disks() -> Iterator[None]:
    make_pool(TANK, "3G")
    yield
    run("zpool", "destroy", "-f", TANK, check=False)


class OurPools:
    """A real pool, opened again and again by our own binding."""

    name = TANK

    def open(self) -> ZfsPool:
        opened = ZfsPool(self.name)
        assert opened.binding == "libzfs_core.so.3"
        return opened

    def resume_point(self, uuid: str) -> int:
        return resume_point(f"{self.name}/{uuid}-partial")

    @contextmanager
    def tree(self, uuid: str) -> Iterator[Path]:
        with mounted_tree(f"{self.name}/{uuid}") as tree:
            yield tree


@pytest.fixture
def pools(disks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[OurPools]:
    monkeypatch.setattr(lzc, "BINDINGS", (Library,))
    yield OurPools()
    empty(TANK)


class TestLayersWithoutPyzfs(LayerContract):
    """What every pool must do with container images."""


class TestContractWithoutPyzfs(PoolContract):
    """What every pool must do."""


def test_a_host_with_pyzfs_uses_it(disks: None) -> None:
    assert ZfsPool(TANK).binding == "pyzfs"


def test_killed_in_the_middle(pools: OurPools, tmp_path: Path) -> None:
    """The kernel sees the stream's end when the process is gone, and what it has is not received again."""
    stream = tmp_path / "stream"
    stream.write_bytes(real_stream("base"))
    script = (
        "from imgstored.pools.zfs import library, lzc\n"
        "from tests.pools.zfs.receiver import main\n"
        "lzc.BINDINGS = (library.Library,)\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, TANK, str(stream), "30", "waiting"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        while child.stdout.read(1) != b".":
            assert child.poll() is None
        child.kill()
        assert child.wait() == -signal.SIGKILL
    pool = pools.open()
    assert pool.partials() == [BASE]
    assert install(pool, "base").guid == GUIDS["base"]


# -- the same errors -----------------------------------------------------------------------------------------


def opened(name: str, binding: Callable[[], Core]) -> ZfsPool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lzc, "BINDINGS", (binding,))
        return ZfsPool(name)


def refused(act: Callable[[], object]) -> tuple[type[ImgstoreError], str, str, object]:
    with pytest.raises(ImgstoreError) as caught:
        act()
    error = caught.value
    return type(error), error.message, error.hint, error.data


def same_refusal(act: Callable[[Callable[[], Core]], object]) -> str:
    """Asserts that both bindings refuse it in the same words, and returns these."""
    one, two = (refused(lambda binding=binding: act(binding)) for binding in (Pyzfs, Library))
    assert one[:3] == two[:3]
    return one[1]


def test_a_pool_that_is_not_there() -> None:
    assert "no such pool" in same_refusal(lambda binding: opened("nopool9", binding))


def receive_afresh(pool: ZfsPool) -> None:
    pool.abandon(BASE)
    receive_real(pool, "base")


def test_what_a_user_can_meet(disks: None) -> None:
    """A quota, no room, something in the way, holds, clones, what is missing, and a faulty program."""

    def refusal(act: Callable[[ZfsPool], object]) -> str:
        return same_refusal(lambda binding: act(opened(TANK, binding)))

    try:
        pool = opened(TANK, Library)
        install(pool, "zvol")
        # What earlier tests have destroyed is freed in the background.
        run("zpool", "wait", "-t", "free", TANK)
        used = int(run("zfs", "get", "-Hpo", "value", "used", TANK))
        run("zfs", "set", f"quota={used + (1 << 20)}", TANK)
        assert "a quota is used up" in refusal(receive_afresh)
        run("zfs", "set", "quota=none", TANK)
        pool.abandon(BASE)
        free = pool.space().available
        reserve = f"{TANK}/reserve"
        run("zfs", "create", "-o", f"reservation={free - (2 << 20)}", "-o", "canmount=off", reserve)
        assert "no room left" in refusal(receive_afresh)
        run("zfs", "destroy", reserve)
        pool.abandon(BASE)
        receive_real(pool, "base")
        run("zfs", "create", "-o", "canmount=off", f"{TANK}/{BASE}")
        assert "a dataset of that name" in refusal(lambda pool: pool.publish(BASE))
        run("zfs", "destroy", f"{TANK}/{BASE}")
        pool.publish(BASE)
        final = f"{TANK}/{BASE}@final"
        run("zfs", "hold", "theirs", final)
        assert "is busy" in refusal(lambda pool: pool._lzc.destroy_snapshot(final, "removing it"))
        run("zfs", "release", "theirs", final)
        run("zfs", "clone", "-o", "canmount=off", final, f"{TANK}/clone")
        assert "has clones" in refusal(lambda pool: pool._lzc.destroy_snapshot(final, "removing it"))
        run("zfs", "snapshot", f"{TANK}/{BASE}@later")
        assert "has clones" in refusal(lambda pool: pool._lzc.roll_back(f"{TANK}/{BASE}", final, "it"))
        assert "of that name" in refusal(lambda pool: pool._lzc.snapshot([final], "it", {}))
        assert "is missing" in refusal(lambda pool: pool._lzc.snapshot([f"{TANK}/no@x"], "it", {}))
        assert "is missing" in refusal(lambda pool: pool._lzc.rename(f"{TANK}/no", f"{TANK}/x", "it"))
        assert "is missing" in refusal(lambda pool: pool._lzc.roll_back(f"{TANK}/no", f"{TANK}/no@x", "it"))
        assert "is missing" in refusal(lambda pool: b"".join(pool.datasets().send(f"{TANK}/no", None)))
        assert "attempt to" in refusal(lambda pool: pool._lzc.ask("return 1 + {}", "asking"))
        assert "expected" in refusal(lambda pool: pool._lzc.ask("return )", "asking"))
        for each in (Pyzfs, Library):
            core = opened(TANK, each)._lzc
            assert core.holds(f"{TANK}/no@x", "asking") == []
            assert core.hold(final, "ü tag", "holding")
            assert core.hold(final, "ü tag", "holding again")
            assert core.holds(final, "asking") == ["ü tag"]
            core.release(final, "ü tag", "releasing")
            core.destroy_snapshot(f"{TANK}/{BASE}@no", "removing it")
    finally:
        run("zfs", "set", "quota=none", TANK)
        empty(TANK)


def test_pools_that_cannot_be_used() -> None:
    """As a read-only one."""
    make_pool(OTHER, "128M")
    try:
        exported(OTHER)
        run("zpool", "import", "-o", "readonly=on", "-d", str(FOLDER), OTHER)
        assert "pool is read-only" in same_refusal(lambda binding: opened(OTHER, binding))
    finally:
        exported(OTHER)


@BOTH
def test_without_privilege(disks: None, binding: type[Pyzfs | Library]) -> None:
    script = (
        "import os; from imgstored.pools.zfs import ZfsPool, lzc, library, pyzfs\n"
        f"lzc.BINDINGS = ({binding.__module__.rpartition('.')[2]}.{binding.__name__},)\n"
        f"os.setuid(65534); ZfsPool({TANK!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "PoolError" in done.stderr
    assert "lacks the privilege" in done.stderr


#: What a call may return: the system's numbers, and ZFS's own.
NUMBERS = [*range(1, 134), *range(1024, 1046)]

#: pyzfs's function that makes an error of a call's number, with arguments as ours are.
TRANSLATED: list[tuple[str, Callable[[Any, int], object]]] = [
    ("lzc_channel_program", lambda told, n: told.lzc_channel_program_translate_error(n, b"zones", None)),
    ("lzc_channel_program", lambda told, n: told.lzc_channel_program_translate_error(n, b"zones", b"said")),
    (
        "lzc_destroy_snaps",
        lambda told, n: told.lzc_destroy_snaps_translate_errors(n, {}, [b"zones/a@x"], False),
    ),
    ("lzc_clone", lambda told, n: told.lzc_clone_translate_error(n, b"zones/a", b"zones/o@x", {})),
    ("lzc_create", lambda told, n: told.lzc_create_translate_error(n, b"zones/a", 2, {})),
    ("lzc_get_holds", lambda told, n: told.lzc_get_holds_translate_error(n, b"zones/a@x")),
    ("lzc_hold", lambda told, n: told.lzc_hold_translate_errors(n, {}, {b"zones/a@x": b"tag"}, -1)),
    (
        "lzc_receive_resumable",
        lambda told, n: told.lzc_receive_translate_errors(
            n, b"zones/a@x", 3, False, False, False, False, None, None
        ),
    ),
    ("lzc_rename", lambda told, n: told.lzc_rename_translate_error(n, b"zones/a", b"zones/b")),
    ("lzc_rollback_to", lambda told, n: told.lzc_rollback_to_translate_error(n, b"zones/a", b"zones/a@x")),
    ("lzc_send", lambda told, n: told.lzc_send_translate_error(n, b"zones/a@x", None, 3, [])),
    ("lzc_send", lambda told, n: told.lzc_send_translate_error(n, b"zones/a@x", b"zones/o@x", 3, [])),
    ("lzc_snapshot", lambda told, n: told.lzc_snapshot_translate_errors(n, {}, [b"zones/a@x"], {})),
]


@pytest.mark.parametrize(("call", "translate"), TRANSLATED)
def test_every_number_means_what_pyzfs_says(call: str, translate: Callable[[Any, int], object]) -> None:
    Pyzfs()
    told = importlib.import_module("libzfs_core._error_translation")
    exceptions = importlib.import_module("libzfs_core.exceptions")
    differ = set()
    for number in NUMBERS:
        with pytest.raises(exceptions.ZFSError) as caught:
            translate(told, number)
        theirs = faults.explained(caught.value, "zones", "trying")
        details = getattr(caught.value, "details", None)
        ours = faults.explained(CallError(call, number, details), "zones", "trying")
        assert (type(ours), ours.hint) == (type(theirs), theirs.hint)
        if ours.message != theirs.message:
            differ.add(number)
    # pyzfs's classes have numbers of their own, and we say the kernel's.
    numbers = {"lzc_create": {1044}, "lzc_receive_resumable": {1044}, "lzc_send": {errno.EXDEV}}
    assert differ == numbers.get(call, set())


# -- lists, and memory ---------------------------------------------------------------------------------------

TEXTS = st.binary(min_size=1, max_size=20).filter(lambda text: b"\0" not in text)
TREES = st.recursive(
    st.dictionaries(TEXTS, st.integers(0, 2**64 - 1) | TEXTS | st.booleans() | st.none(), max_size=5),
    lambda lists: st.dictionaries(TEXTS, lists | TEXTS, max_size=4),
    max_leaves=10,
)


@given(TREES)
def test_lists_by_the_real_libnvpair(tree: dict[bytes, Tree]) -> None:
    core = Library()
    with core._list(tree) as made:
        assert core._read(made) == tree


def test_memory_in_proportion_to_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 images are listed with the least that a program gets, and of 16 KiB it grows to what is needed."""
    make_pool(MANY, "512M")
    try:
        pool = opened(MANY, Library)
        install(pool, "base")
        Pyzfs()
        core = importlib.import_module("libzfs_core")
        names = [f"{MANY}/22222222-aaaa-4bbb-8ccc-{number:012}".encode() for number in range(299)]
        with ThreadPoolExecutor(50) as threads:
            list(threads.map(lambda name: core.lzc_clone(name, f"{MANY}/{BASE}@final".encode()), names))
        core.lzc_snapshot([name + b"@final" for name in names])
        given: list[int] = []
        run_program = pool._lzc._core.channel_program

        def counted(*arguments: Any, memory: int, **options: Any) -> object:
            given.append(memory)
            return run_program(*arguments, memory=memory, **options)

        monkeypatch.setattr(pool._lzc._core, "channel_program", counted)
        images, uses = pool.images(), pool.uses()
        assert len(images) == len(pool.images(images)) == len(uses) == 300
        assert len(uses[BASE].dependents) == 299
        assert set(given) == {1 << 20}
        monkeypatch.setattr(lzc, "_LEAST", 16 << 10)
        pool._lzc._needed.clear()
        given.clear()
        assert {image.uuid for image in pool.images()} == {image.uuid for image in images}
        assert given[0] == 16 << 10
        assert len(given) > 1
        given.clear()
        pool.images()
        assert len(given) == 1
    finally:
        run("zpool", "destroy", "-f", MANY)


MANY_SNAPSHOTS = """
local name = (...)["argv"].dataset
for n = 1, 60 do zfs.sync.snapshot(name .. "@" .. string.rep("x", 50) .. n) end
"""


def test_too_little_memory_at_first(disks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is not undone when its memory is used up: it runs again with more, and goes on."""
    pool = opened(TANK, Library)
    try:
        install(pool, "zvol")
        pool._lzc.change(MANY_SNAPSHOTS, "taking", dataset=f"{TANK}/{ZVOL}")
        monkeypatch.setattr(lzc, "_LEAST", 4 << 10)
        pool._lzc._needed.clear()
        pool.destroy(ZVOL)
        assert pool._lzc._needed[programs._DESTROY] > 4 << 10
        assert pool.image(ZVOL) is None
        assert pool.images() == []
    finally:
        empty(TANK)
