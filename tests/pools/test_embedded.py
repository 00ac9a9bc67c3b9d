"""What is particular to the embedded pool: its files, and what may happen to them."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import (
    CancelledError,
    ImgstoreError,
    NoSpaceError,
    NotSupportedError,
    OriginNotInstalledError,
    PoolError,
    StreamError,
    UsageError,
)
from imgstored.pools.base import Boundless
from imgstored.pools.embedded import EmbeddedPool, files, notes, receive
from imgstored.zstream.reader import StreamReader
from tests.pools.contract import (
    BASE,
    EVERY,
    IMAGES,
    INCREMENTAL,
    OTHER,
    ZVOL,
    InterruptedByTestError,
    Name,
    PoolContract,
    begin,
    install,
    interrupted,
    pool,
    sent,
)
from tests.pools.contract import receive as receive_real
from tests.pools.layer_contract import BOTTOM, TOP, LayerContract, owned, unpack
from tests.pools.layer_contract import install as install_layer
from tests.support.layers import file as layer_file
from tests.support.streams import StreamWriter, filesystem_stream, in_pieces, real_stream, stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["pool"]

ZVOL_SHA256 = "d81ae44870f201872606cb189dfca03410e5867fc2e6c6b934a74725e0f1f1ff"
TO_THE_END = 2**64 - 1


class EmbeddedPools:
    """A folder, and the pools that were opened on it. As after a restart, only the last one is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> EmbeddedPool:
        return EmbeddedPool("zones", self.folder)

    def resume_point(self, uuid: str) -> int:
        return resume_point(self.folder, uuid)

    @contextmanager
    def tree(self, uuid: str) -> Iterator[Path]:
        yield self.folder / uuid / "tree"


def resume_point(pool: Path, uuid: str) -> int:
    """As the checkpoint in the partial's folder says."""
    try:
        folder = files.Folder.at(pool / f"{uuid}-partial")
    except FileNotFoundError:
        return 0
    with folder:
        checkpoint = notes.read_checkpoint(folder, uuid)
    return 0 if checkpoint is None else checkpoint.reader.offset


@pytest.fixture
def pools(tmp_path: Path) -> EmbeddedPools:
    return EmbeddedPools(tmp_path / "pool")


class TestContract(PoolContract):
    """What every pool must do."""


class TestLayers(LayerContract):
    """What every pool must do with container images."""

    def test_what_is_not_wanted_is_not_read_to_its_end(self, pool: EmbeddedPool) -> None:
        """A tree is read once more for its hash, and holes, which cost its author nothing, make that long."""
        ended = False

        def blocks() -> Iterator[bytes]:
            nonlocal ended
            yield from in_pieces(owned(layer_file("a", bytes(4 << 20))), 100_000)
            ended = True

        class Unwanted(Boundless):
            def take(self, size: int) -> None:
                if ended:
                    raise CancelledError("nobody wants it")

        with pytest.raises(CancelledError):
            pool.unpack(BASE, blocks(), room=Unwanted())
        assert pool.image(BASE) is None


# -- what is kept --------------------------------------------------------------------------------------------


@EVERY
def test_streams_come_back_byte_for_byte(pool: EmbeddedPool, name: Name) -> None:
    if name == "incremental":
        install(pool, "base")
    install(pool, name)
    assert sent(pool, IMAGES[name]) == real_stream(name)


def test_a_filesystem_is_kept_as_its_stream(pools: EmbeddedPools) -> None:
    install(pools.open(), "base")
    assert (pools.folder / BASE / "stream.zfs").read_bytes() == real_stream("base")


def test_a_volume_is_kept_as_a_sparse_disk(pools: EmbeddedPools) -> None:
    image = install(pools.open(), "zvol")
    disk = pools.folder / ZVOL / "disk.raw"
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == ZVOL_SHA256
    assert disk.stat().st_size == 25_165_824
    assert disk.stat().st_blocks * 512 < 1 << 20
    assert image.used < 1 << 20


def test_nobody_else_can_read_it(pools: EmbeddedPools) -> None:
    pool = pools.open()
    for name in ("base", "zvol"):
        install(pool, name)  # type: ignore[arg-type]
    begin(pool, "incremental", 300_000)
    pool.hold(BASE, "tag")
    found = list(pools.folder.rglob("*"))
    assert len(found) == 12
    for path in (pools.folder, *found):
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


@pytest.mark.parametrize("order", ["<", ">"])
def test_packed_and_large_records_of_a_filesystem_are_kept(pool: EmbeddedPool, order: Any) -> None:
    writer = StreamWriter(order, guid=9)
    stream = b"".join(
        [
            writer.begin(features=4 | 1 << 16 | 1 << 17 | 1 << 19 | 1 << 22),
            writer.object(7),
            writer.write(7, 0, b"packed.." * 64, compressed_from=4096),
            writer.write_embedded(7, 4096, 4096, b"embedded"),
            writer.write(7, 1 << 20, random.Random(1).randbytes(1 << 20)),
            writer.end(),
        ]
    )
    pool.receive(BASE, in_pieces(stream, 70_000))
    pool.publish(BASE)
    assert sent(pool, BASE) == stream


def test_a_packed_record_of_a_volume_is_refused(pool: EmbeddedPool) -> None:
    writer = StreamWriter()
    head = writer.begin(objset=3) + writer.object(1) + writer.write(1, 0, bytes(512), compressed_from=8192)
    with pytest.raises(StreamError, match="compressed blocks") as caught:
        pool.receive(ZVOL, interrupted(head, len(head)))  # at once: nothing that follows is asked for
    assert "without -c" in caught.value.hint


def test_what_a_volume_writes_beyond_its_size(pools: EmbeddedPools) -> None:
    pool = pools.open()
    stream = b"".join(stream_of([b"x" * 100_000], guid=1, objset="volume", volume_size=8192))
    with pytest.raises(StreamError, match="of a volume of 8192 bytes"):
        pool.receive(ZVOL, [stream])
    with pytest.raises(PoolError):
        pool.publish(ZVOL)


# -- volumes -------------------------------------------------------------------------------------------------

UNIT = 4096
UNITS = 40
Step = tuple[str, int, int]  # what, where, how many units


KINDS = st.sampled_from(["write", "zeros", "free"])


@st.composite
def volume_steps(draw: st.DrawFn) -> list[Step]:
    """Steps through a volume from its start to its end, with gaps."""
    at, steps = 0, []
    for gap, what, count in draw(
        st.lists(st.tuples(st.integers(0, 3), KINDS, st.integers(1, 5)), min_size=3, max_size=12)
    ):
        at += gap
        if at + count <= UNITS:
            steps.append((what, at, count))
        at += count
    return steps


def volume_stream(
    steps: list[Step], *, size: int, guid: int, fromguid: int = 0, end: int | None = None, seed: int = 1
) -> tuple[list[bytes], Callable[[bytes], bytes]]:
    """The records, and what they make of a disk. `end`: everything from there on is freed first."""
    writer, chance = StreamWriter(guid=guid), random.Random(seed)
    records = [writer.begin(objset=3, fromguid=fromguid), writer.object(1, kind=23)]
    changes: list[tuple[int, bytes]] = []
    if end is not None:
        records.append(writer.free(1, end * UNIT, TO_THE_END))
    for what, at, count in steps:
        content = chance.randbytes(count * UNIT) if what == "write" else bytes(count * UNIT)
        changes.append((at * UNIT, content))
        if what == "free":
            records.append(writer.free(1, at * UNIT, count * UNIT))
        else:
            records.append(writer.write(1, at * UNIT, content, kind=23))
    records += [writer.object(2, kind=24, block_size=512), writer.volume_size(size), writer.end()]

    def applied(disk: bytes) -> bytes:
        made = bytearray(disk.ljust(UNITS * UNIT, b"\0"))
        if end is not None:
            made[end * UNIT :] = bytes(len(made) - end * UNIT)
        for offset, content in changes:
            made[offset : offset + len(content)] = content
        return bytes(made[:size].ljust(size, b"\0"))

    return records, applied


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("volumes")


@settings(max_examples=20, deadline=None)
@given(
    volume_steps(), volume_steps(), st.none() | st.integers(0, UNITS), st.integers(0, 10**6), st.booleans()
)
def test_any_volume_and_its_clone(
    folders: Path, first: list[Step], second: list[Step], end: int | None, cut: int, cloning: bool
) -> None:
    """Received in one go, and cut after any record, a volume and its clone are what the records say."""
    size = UNITS * UNIT
    origin, made = volume_stream(first, size=size, guid=5)
    clone, remade = volume_stream(second, size=size + UNIT, guid=6, fromguid=5, end=end, seed=2)
    expected = {BASE: made(b""), INCREMENTAL: remade(made(b""))}
    folder = folders / "pool"
    shutil.rmtree(folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        if not cloning:
            patch.setattr(files, "_FICLONE", 0)
        opened = EmbeddedPool("zones", folder)
        for uuid, records, origin_uuid in ((BASE, origin, None), (INCREMENTAL, clone, BASE)):
            stream = b"".join(records)
            for at in (cut % len(stream), None):
                try:
                    opened.receive(uuid, stream_until(stream, at), origin=origin_uuid)
                except InterruptedByTestError:
                    opened = EmbeddedPool("zones", folder)
            opened.publish(uuid)
            assert (folder / uuid / "disk.raw").read_bytes() == expected[uuid]
            assert sent(opened, uuid) == stream


def stream_until(stream: bytes, at: int | None) -> Iterator[memoryview]:
    if at is None:
        return in_pieces(stream, 10_000)
    return interrupted(stream, at)


def test_what_another_stream_left_is_gone(pools: EmbeddedPools) -> None:
    """A checkpoint, more of the first stream than it says, and then a stream that goes on in another way."""
    size = UNITS * UNIT
    origin, made = volume_stream([("write", 0, 6), ("write", 20, 15)], size=size, guid=5)
    wanted, remade = volume_stream([("write", 2, 2), ("write", 30, 1)], size=size, guid=6, fromguid=5)
    left, _ = volume_stream(
        [("write", 2, 2), ("write", 8, 9), ("free", 20, 9)], size=size, guid=6, fromguid=5
    )
    pool = pools.open()
    pool.receive(BASE, [b"".join(origin)])
    pool.publish(BASE)
    with pytest.raises(InterruptedByTestError):
        pool.receive(INCREMENTAL, interrupted(b"".join(left), len(b"".join(left[:3]))), origin=BASE)
    partial = pools.folder / f"{INCREMENTAL}-partial"
    checkpoint = (partial / "checkpoint").read_bytes()
    with pytest.raises(InterruptedByTestError):
        pool.receive(INCREMENTAL, interrupted(b"".join(left), len(b"".join(left[:5]))), origin=BASE)
    (partial / "checkpoint").write_bytes(checkpoint)
    pool.receive(INCREMENTAL, [b"".join(wanted)], origin=BASE)
    pool.publish(INCREMENTAL)
    assert (pools.folder / INCREMENTAL / "disk.raw").read_bytes() == remade(made(b""))


def test_a_clone_frees_what_its_origin_had(pools: EmbeddedPools) -> None:
    """By a FREE, by a WRITE of zeros, and by a FREE to the end; all of them leave holes."""
    size = UNITS * UNIT
    origin, made = volume_stream([("write", 0, UNITS)], size=size, guid=5)
    steps = [("free", 2, 3), ("zeros", 9, 3), ("write", 34, 1)]
    clone, remade = volume_stream(steps, size=size, guid=6, fromguid=5, end=30)
    pool = pools.open()
    pool.receive(BASE, origin)
    pool.publish(BASE)
    pool.receive(INCREMENTAL, clone, origin=BASE)
    pool.publish(INCREMENTAL)
    disk = pools.folder / INCREMENTAL / "disk.raw"
    expected = remade(made(b""))
    assert disk.read_bytes() == expected
    assert disk.stat().st_blocks * 512 < UNIT * 30


def test_a_clone_takes_only_the_room_of_its_data(pools: EmbeddedPools) -> None:
    pool = pools.open()
    writer = StreamWriter(guid=5)
    size = 1 << 40
    records = [
        writer.begin(objset=3),
        writer.write(1, 1 << 39, b"x" * UNIT),
        writer.volume_size(size),
        writer.end(),
    ]
    pool.receive(BASE, records)
    assert pool.publish(BASE).referenced == size
    writer = StreamWriter(guid=6)
    records = [writer.begin(objset=3, fromguid=5), writer.write(1, 1 << 38, b"y" * UNIT), writer.end()]
    pool.receive(INCREMENTAL, records, origin=BASE)
    image = pool.publish(INCREMENTAL)
    assert (image.referenced, image.origin) == (size, BASE)
    assert image.used < 100_000
    with (pools.folder / INCREMENTAL / "disk.raw").open("rb") as disk:
        for offset, content in ((1 << 38, b"y"), (1 << 39, b"x"), (1 << 37, b"\0")):
            disk.seek(offset)
            assert disk.read(UNIT) == content * UNIT


def test_a_clone_is_of_the_kind_of_its_origin(pool: EmbeddedPool) -> None:
    install(pool, "base")
    guid = pool.images()[0].guid
    stream = b"".join(stream_of([b"x" * 8192], guid=1, fromguid=guid, objset="volume"))
    with pytest.raises(StreamError, match="another kind"):
        pool.receive(ZVOL, [stream], origin=BASE)


# -- going on ------------------------------------------------------------------------------------------------


def boundaries(stream: bytes) -> list[int]:
    """Where records begin, but for the first."""
    places, at = [], 0
    for record in StreamReader().records(stream):
        at += len(record.header) + len(record.payload)
        places.append(at)
    return places


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("base", 80), ("incremental", 16), ("zvol", 4)])
def test_cut_between_records(pools: EmbeddedPools, name: Name, every: int) -> None:
    pool, stream = pools.open(), real_stream(name)
    if name == "incremental":
        install(pool, "base")
    for place in boundaries(stream)[::every]:
        begin(pool, name, place)
        assert pools.resume_point(IMAGES[name]) == place
        install(pool, name)
        assert sent(pool, IMAGES[name]) == stream
        pool.destroy(IMAGES[name])


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_cut_at_any_byte(folders: Path, first: float, second: float) -> None:
    stream = real_stream("zvol")
    pool = EmbeddedPool("zones", folders / "any")
    for part in (first, second):
        begin(pool, "zvol", int(part * len(stream)))
        point = resume_point(folders / "any", ZVOL)
        assert point in (0, *boundaries(stream))
    assert point >= min(int(second * len(stream)), len(stream)) - 9000
    install(pool, "zvol")
    assert sent(pool, ZVOL) == stream
    assert hashlib.sha256((folders / "any" / ZVOL / "disk.raw").read_bytes()).hexdigest() == ZVOL_SHA256
    pool.destroy(ZVOL)


def test_what_is_there_is_not_written_again(pools: EmbeddedPools, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pools.open()
    begin(pool, "base", 3_000_000)
    written = []
    monkeypatch.setattr(os, "pwritev", counting(os.pwritev, written))
    receive_real(pool, "base")
    assert 500_000 < sum(written) < 1_000_000


def counting(function: Callable[..., int], results: list[int]) -> Callable[..., int]:
    def counted(*args: Any) -> int:
        results.append(function(*args))
        return results[-1]

    return counted


@pytest.mark.parametrize("name", ["base", "zvol"])
@pytest.mark.parametrize("part", [0.0, 0.4, 0.8])
def test_a_partial_that_was_tampered_with(pools: EmbeddedPools, name: Name, part: float) -> None:
    """Every file in turn, at several places, one byte. Of the disk, where something was written."""
    uuid, stream = IMAGES[name], real_stream(name)
    for file in ("stream.zfs", "disk.raw", "skeleton.zfs", "checkpoint"):
        pool = pools.open()
        begin(pool, name, len(stream) - 100_000)
        path = pools.folder / f"{uuid}-partial" / file
        if path.exists():
            content = bytearray(path.read_bytes())
            content[int(part * (80_000 if file == "disk.raw" else len(content)))] ^= 1
            path.write_bytes(content)
        pool = pools.open()
        install(pool, name)
        assert sent(pool, uuid) == stream
        if name == "zvol":
            assert hashlib.sha256((pools.folder / uuid / "disk.raw").read_bytes()).hexdigest() == ZVOL_SHA256
        pool.destroy(uuid)


@pytest.mark.parametrize("name", ["base", "zvol"])
@pytest.mark.parametrize("file", ["stream.zfs", "disk.raw", "skeleton.zfs"])
@pytest.mark.parametrize("how", ["zeros", "short", "gone", "link"])
def test_a_partial_that_lost_something_in_a_power_cut(
    pools: EmbeddedPools, name: Name, file: str, how: str
) -> None:
    uuid, stream = IMAGES[name], real_stream(name)
    pool = pools.open()
    begin(pool, name, len(stream) - 50_000)
    path = pools.folder / f"{uuid}-partial" / file
    if path.exists():
        size = path.stat().st_size
        if how in ("gone", "link"):
            path.unlink()
        else:
            os.truncate(path, size // 3)
        if how == "zeros":
            os.truncate(path, size)
        if how == "link":
            path.symlink_to("/etc/passwd")
    before = Path("/etc/passwd").read_bytes()
    pool = pools.open()
    install(pool, name)
    assert sent(pool, uuid) == stream
    assert Path("/etc/passwd").read_bytes() == before


def test_a_stream_that_differs_late(pool: EmbeddedPool) -> None:
    """Its beginning, which `blocks` gives only once, is taken from what is there."""
    first = filesystem_stream(size=4 << 20, seed=1, guid=7)
    content = [first[700 : 700 + (2 << 20)], b"another" * 100_000]
    second = b"".join(stream_of(content, guid=7))
    with pytest.raises(InterruptedByTestError):
        pool.receive(
            BASE, interrupted(b"".join(stream_of([content[0], b"one" * 100_000], guid=7)), 2_300_000)
        )
    pool.receive(BASE, in_pieces(second, 65_000))
    pool.publish(BASE)
    assert sent(pool, BASE) == second


# -- kill -9 -------------------------------------------------------------------------------------------------

#: What changes files: the child is killed before its n-th call of any of them.
CALLS = ("pwritev", "rename", "replace", "fsync", "mkdir", "ftruncate", "unlink")


def killed(folder: Path, name: Name, call: int) -> bool:
    """Receives and publishes in a child that is killed before its `call`-th system call; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            left = call

            def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
                def called(*args: Any, **kwargs: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*args, **kwargs)

                return called

            for function in CALLS:
                setattr(os, function, deadly(getattr(os, function)))
            receive.INTERVAL = 100_000  # type: ignore[misc]
            pool = EmbeddedPool("zones", folder)
            receive_real(pool, name)
            pool.publish(IMAGES[name])
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["incremental", "zvol"])
def test_killed_at_every_step(tmp_path: Path, name: Name) -> None:
    """Whatever happens, after a restart there is either the whole image or none, and it can be received."""
    template = tmp_path / "template"
    install(EmbeddedPool("zones", template), "base")
    call, resumed, published = 0, 0, 0
    while True:
        call += 1
        folder = tmp_path / f"pool-{call}"
        shutil.copytree(template, folder)
        if not killed(folder, name, call):
            break
        pool = EmbeddedPool("zones", folder)
        assert not list(folder.glob(".trash-*"))
        if pool.image(IMAGES[name]) is None:
            resumed += resume_point(folder, IMAGES[name]) > 0
            install(pool, name)
        else:
            published += 1
        assert sent(pool, IMAGES[name]) == real_stream(name)
        if name == "zvol":
            assert hashlib.sha256((folder / ZVOL / "disk.raw").read_bytes()).hexdigest() == ZVOL_SHA256
        del pool
        shutil.rmtree(folder)
    assert call > 20
    assert resumed > 10
    assert published >= 1


@pytest.mark.slow
def test_killed_from_outside(tmp_path: Path) -> None:
    """A real process, at no particular point."""
    stream = filesystem_stream(size=24 << 20, seed=1)
    (tmp_path / "stream").write_bytes(stream)
    script = f"""
import os
from pathlib import Path
from imgstored.pools.embedded import EmbeddedPool, receive
from tests.support.streams import in_pieces
receive.INTERVAL = 1 << 20
pool = EmbeddedPool("zones", Path({str(tmp_path / "pool")!r}))
def blocks():
    for piece in in_pieces(Path({str(tmp_path / "stream")!r}).read_bytes(), 100_000):
        yield piece
        os.write(2, b".")
pool.receive({BASE!r}, blocks())
"""
    for count in (1, 30, 100, 200):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as child:
            assert child.stderr is not None
            assert child.stderr.read(count) == b"." * count
            child.kill()
        pool = EmbeddedPool("zones", tmp_path / "pool")
        assert resume_point(tmp_path / "pool", BASE) >= (count - 1) * 100_000 - (1 << 20) - 200_000
        del pool
    pool = EmbeddedPool("zones", tmp_path / "pool")
    assert resume_point(tmp_path / "pool", BASE) > 18_000_000
    pool.receive(BASE, in_pieces(stream))
    pool.publish(BASE)
    assert sent(pool, BASE) == stream


# -- the folder ----------------------------------------------------------------------------------------------


def test_half_made_things_are_swept(pools: EmbeddedPools) -> None:
    pool = pools.open()
    install(pool, "base")
    begin(pool, "zvol", 200_000)
    (pools.folder / f"{OTHER}-partial").mkdir()
    (pools.folder / f"{OTHER}-partial" / "stream.zfs").write_bytes(b"no checkpoint")
    shutil.copytree(pools.folder / BASE, pools.folder / f".trash-{OTHER}-0123")
    (pools.folder / ".trash-file").write_bytes(b"")
    pool = pools.open()
    assert sorted(path.name for path in pools.folder.iterdir()) == sorted([BASE, f"{ZVOL}-partial", "lock"])
    assert pool.partials() == [ZVOL]


@pytest.mark.parametrize("name", ["base", "zvol"])
def test_a_folder_that_nobody_touched_is_not_listed_again(
    pools: EmbeddedPools, monkeypatch: pytest.MonkeyPatch, name: Name
) -> None:
    install(pools.open(), name)
    before = pools.open().images()  # lists the folder, and marks it
    listed = []
    statuses = files.Folder.statuses
    monkeypatch.setattr(files.Folder, "statuses", lambda folder: listed.append(folder) or statuses(folder))
    assert pools.open().images() == before
    assert listed == []


@pytest.mark.parametrize("name", ["base", "zvol"])
def test_what_comes_to_a_folder_or_goes_is_seen_at_the_next_start(pools: EmbeddedPools, name: Name) -> None:
    install(pools.open(), name)
    (image,) = pools.open().images()
    folder = pools.folder / image.uuid
    (folder / "image.json.new").write_bytes(b"half a note")
    (folder / "else").write_bytes(bytes(100_000))
    (now,) = pools.open().images()
    assert now.used >= image.used + 100_000
    assert not (folder / "image.json.new").exists()
    (folder / "else").unlink()
    assert pools.open().images() == [image]
    pool = pools.open()
    pool.hold(image.uuid, "tag")
    assert pools.open().holds(image.uuid) == ["tag"]
    assert pools.open().holds(image.uuid) == ["tag"]
    pool = pools.open()
    pool.release(image.uuid, "tag")
    stream = folder / ("stream.zfs" if name == "base" else "disk.raw")
    assert [each.uuid for each in pools.open().images()] == [image.uuid]
    # Without a change of the folder itself.
    os.truncate(stream, stream.stat().st_size - 1)
    pool = pools.open()
    assert (pool.images(), pool.damage()) == ([], [f"image {image.uuid} is damaged, and left out"])
    stream.unlink()
    assert pools.open().images() == []


def test_what_is_in_the_place_of_an_image_is_named(pools: EmbeddedPools) -> None:
    install(pools.open(), "base")
    (pools.folder / OTHER).write_text("no folder")
    (pools.folder / ZVOL).symlink_to(pools.folder / BASE)
    (pools.folder / "notes.txt").write_text("of somebody")
    assert pools.open().strays() == sorted([OTHER, ZVOL, "notes.txt"])


def test_the_tag_of_damaged_holds_is_nobody_elses(pools: EmbeddedPools) -> None:
    pool = pools.open()
    install(pool, "base")
    with pytest.raises(UsageError, match="unreadable"):
        pool.hold(BASE, "(unreadable)")
    assert pool.holds(BASE) == []


def test_a_hold_is_seen_whatever_time_a_folder_has(pools: EmbeddedPools) -> None:
    """Also on a file system that does not change a folder's time when a name comes to it."""
    install(pools.open(), "base")
    (image,) = pools.open().images()
    folder = pools.folder / image.uuid
    times = folder.stat()
    pools.open().hold(image.uuid, "tag")
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert pools.open().holds(image.uuid) == ["tag"]


def test_a_folder_whose_time_cannot_be_set_is_listed_each_time(
    pools: EmbeddedPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def utime(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    install(pools.open(), "base")
    monkeypatch.setattr(os, "utime", utime)
    assert [image.uuid for image in pools.open().images()] == [BASE]
    assert [image.uuid for image in pools.open().images()] == [BASE]


def test_garbage_is_left_alone(pools: EmbeddedPools, tmp_path: Path) -> None:
    pool = pools.open()
    install(pool, "base")
    good = (pools.folder / BASE / "image.json").read_bytes()
    names = [f"22222222-aaaa-4bbb-8ccc-00000000000{n}" for n in range(8)]
    garbage = {
        names[0]: b"",
        names[1]: b"{}",
        names[2]: b"[" * 100_000,
        names[3]: b"\xff\xfe",
        names[4]: good,  # of another image
        names[5]: good.replace(BASE.encode(), names[5].encode()),  # without its stream
        names[6]: bytes(2 << 20),
    }
    for name, content in garbage.items():
        (pools.folder / name).mkdir()
        (pools.folder / name / "image.json").write_bytes(content)
    (pools.folder / names[7]).symlink_to(pools.folder / BASE)
    (pools.folder / f"{names[7]}-partial").write_bytes(b"a file")
    (pools.folder / f"{OTHER}-partial").symlink_to(tmp_path)
    (pools.folder / "lost+found").mkdir()
    pool = pools.open()
    assert [image.uuid for image in pool.images()] == [BASE]
    assert len(list(pools.folder.iterdir())) == 13
    assert [pool.resume_point(uuid) for uuid in (OTHER, names[0], names[7])] == [0, 0, 0]
    # What is in the way of an image does not keep it from being installed.
    for uuid in (OTHER, names[0], names[7]):
        install(pool, "base", uuid)
        assert sent(pool, uuid) == real_stream("base")
    assert (tmp_path / "pool").is_dir()


@pytest.mark.parametrize(
    "content", [b"\0", b"", b'{"tags": ["\xff"]}', b"\xff\xfe", b'{"tags": [1]}', b"[" * 9999]
)
def test_holds_that_cannot_be_read_hold(pools: EmbeddedPools, content: bytes) -> None:
    pool = pools.open()
    install(pool, "base")
    pool.hold(BASE, "tag")
    assert pool.damage() == []
    (pools.folder / BASE / "holds.json").write_bytes(content)
    pool = pools.open()
    (said,) = pool.damage()
    assert f"`imgctl release {BASE} '(unreadable)'`" in said
    with pytest.raises(PoolError, match=r"held: \(unreadable\)"):
        pool.destroy(BASE)
    # What is added does not hide it, and the file is kept.
    pool.hold(BASE, "another")
    pool.hold(BASE, "more")
    pool.release(BASE, "more")
    assert (pools.folder / BASE / "holds.json.damaged").read_bytes() == content
    assert len(pool.damage()) == 1
    pool.release(BASE, "(unreadable)")
    assert (pool.damage(), pool.holds(BASE)) == ([], ["another"])
    pool.release(BASE, "another")
    pool.destroy(BASE)


@pytest.mark.parametrize("number", ["-1", "1e99", '"x"', "1" + "0" * 400, "null"])
@pytest.mark.parametrize("field", ["guid", "stream_size", "dataset"])
def test_a_damaged_image_is_named_until_it_is_replaced(pools: EmbeddedPools, field: str, number: str) -> None:
    pool = pools.open()
    install(pool, "zvol")
    install(pool, "base")
    note = pools.folder / BASE / "image.json"
    note.write_text(re.sub(f'"{field}": [0-9]+', f'"{field}": {number}', note.read_text()))
    pool = pools.open()
    assert [image.uuid for image in pool.images()] == [ZVOL]
    assert pool.damage() == [f"image {BASE} is damaged, and left out"]
    install(pool, "base")
    assert pool.damage() == []
    assert len(pools.open().images()) == 2


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_in_the_locks_place_is_set_aside(pools: EmbeddedPools, kind: str) -> None:
    pool = pools.open()
    install(pool, "base")
    pool.close()
    lock = pools.folder / "lock"
    lock.unlink()
    {"folder": lock.mkdir, "link": lambda: lock.symlink_to("/dev/zero"), "pipe": lambda: os.mkfifo(lock)}[
        kind
    ]()
    pool = pools.open()
    assert [image.uuid for image in pool.images()] == [BASE]
    (said,) = pool.damage()
    assert said.startswith("lock.damaged-")


class _Counted(Boundless):
    """Has room for so many bytes, and knows what was asked for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.added = self.written = 0

    def add(self, size: int) -> None:
        self.added += size
        if size > self.size:
            raise NoSpaceError("no room for the copy")

    def spent(self, size: int) -> None:
        self.written += size


def test_a_clone_asks_for_the_room_of_its_copy(pools: EmbeddedPools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first byte of it; a file system that shares blocks needs none."""
    monkeypatch.setattr(files, "_cloned", lambda *_: False)
    pool = pools.open()
    size = 40 * UNIT
    records, _ = volume_stream([("write", 0, 20)], size=size, guid=1)
    pool.receive(BASE, records)
    pool.publish(BASE)
    child, _ = volume_stream([], size=size, guid=2, fromguid=1)
    too_small = _Counted(10 * UNIT)
    with pytest.raises(NoSpaceError, match="no room for the copy"):
        pool.receive(ZVOL, child, origin=BASE, room=too_small)
    assert too_small.written == 0
    pool.abandon(ZVOL)
    room = _Counted(size)
    pool.receive(ZVOL, child, origin=BASE, room=room)
    pool.publish(ZVOL)
    assert room.written == 20 * UNIT <= room.added <= size
    assert sent(pool, ZVOL) == b"".join(child)


@pytest.mark.parametrize("file", ["skeleton.zfs", "disk.raw"])
def test_an_image_that_was_damaged_is_not_sent_as_if_it_were_not(pools: EmbeddedPools, file: str) -> None:
    pool = pools.open()
    install(pool, "zvol")
    os.truncate(pools.folder / ZVOL / file, 10_000)
    with pytest.raises(PoolError, match="damaged"):
        sent(pool, ZVOL)
    assert pools.open().images() == []


def test_an_image_can_be_read_while_it_is_destroyed(pool: EmbeddedPool) -> None:
    install(pool, "base")
    pieces = iter(pool.send(BASE))
    first = next(pieces)
    pool.destroy(BASE)
    assert first + b"".join(pieces) == real_stream("base")


def test_one_process_at_a_time(pools: EmbeddedPools) -> None:
    first = pools.open()
    script = "import sys; from pathlib import Path; from imgstored.pools.embedded import EmbeddedPool\n"
    script += f"EmbeddedPool('zones', Path({str(pools.folder)!r}))"
    command = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert "in use by another process" in done.stderr
    first.close()
    assert subprocess.run(command, capture_output=True, check=False, cwd=root).returncode == 0


# -- when there is no room -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_no_space(small_disk: Path) -> None:
    pool = EmbeddedPool("zones", small_disk / "pool")
    assert pool.space().available < 4 << 20
    stream = filesystem_stream(size=8 << 20, seed=1)
    for _ in range(2):
        with pytest.raises(NoSpaceError, match='no room left in pool "zones"') as caught:
            pool.receive(BASE, in_pieces(stream, 300_000))
        assert caught.value.hint
        assert str(small_disk) not in str(caught.value)
    pool.abandon(BASE)
    assert pool.space().available > 2 << 20
    install(pool, "zvol")
    pool.close()


def test_a_file_that_may_not_grow(pool: EmbeddedPool) -> None:
    with at_most(1 << 20), pytest.raises(PoolError, match="File too large"):
        receive_real(pool, "base")
    install(pool, "base")
    assert sent(pool, BASE) == real_stream("base")


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Files may not grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImgstoreError, match="Not a directory"):
        EmbeddedPool("zones", tmp_path / "file" / "pool")


# -- files ---------------------------------------------------------------------------------------------------


def test_many_buffers_are_written(tmp_path: Path) -> None:
    buffers = [bytes([n % 256]) * (n % 7) for n in range(5000)]
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert files.write_all(fd, buffers, 5) == 5 + sum(map(len, buffers))
        assert (tmp_path / "file").read_bytes() == bytes(5) + b"".join(buffers)
    finally:
        os.close(fd)


@pytest.mark.parametrize("way", ["fallocate", "zeros"])
def test_holes_where_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "zeros":
        monkeypatch.setattr(files, "_fallocate", lambda: None)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        files.write_all(fd, [b"x" * (4 << 20)], 0)
        files.punch(fd, 100, 3 << 20)
        assert (tmp_path / "file").read_bytes() == b"x" * 100 + bytes((3 << 20) - 100) + b"x" * (1 << 20)
        assert (os.fstat(fd).st_blocks * 512 < 2 << 20) == (way == "fallocate")
    finally:
        os.close(fd)


@pytest.mark.parametrize("in_kernel", [True, False])
def test_copies_keep_their_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool) -> None:
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range")
    source, target = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("source", "target"))
    try:
        for offset in (1 << 20, 9 << 20, 20 << 20):
            files.write_all(source, [os.urandom(3 << 20)], offset)
        os.ftruncate(source, 64 << 20)
        files.copy_sparsely(source, target, 2 << 20, 22 << 20)
        expected = bytes(2 << 20) + (tmp_path / "source").read_bytes()[2 << 20 : 22 << 20]
        assert (tmp_path / "target").read_bytes() == expected
        assert os.fstat(target).st_blocks * 512 < 9 << 20
    finally:
        os.close(source)
        os.close(target)


# -- container images ----------------------------------------------------------------------------------------


def test_a_changed_tree_is_found(pools: EmbeddedPools) -> None:
    pool = pools.open()
    install_layer(pool, BASE, BOTTOM)
    tree = pools.folder / BASE / "tree"
    changes: list[Callable[[], object]] = [
        lambda: (tree / "etc/motd").write_bytes(b"hacked!"),
        lambda: (tree / "etc/motd").chmod(0o666),
        lambda: (tree / "etc/new").touch(),
        lambda: (tree / "bin/bash").unlink(),
    ]
    for change in changes:
        change()
        checked = pool.check(BASE, lambda _read: None)
        assert checked.damaged == "its tree is not what its layers made"
        pool.destroy(BASE)
        install_layer(pool, BASE, BOTTOM)
        assert pool.check(BASE, lambda _read: None).damaged is None
    shutil.rmtree(tree)
    assert pool.check(BASE, lambda _read: None).damaged
    assert pools.open().images() == []


def test_a_container_image_has_no_stream(pool: EmbeddedPool) -> None:
    install_layer(pool, BASE, BOTTOM)
    with pytest.raises(NotSupportedError, match="is a container image"):
        pool.send(BASE)


def test_a_layer_on_an_image_that_has_none(pool: EmbeddedPool) -> None:
    install(pool, "base")
    with pytest.raises(OriginNotInstalledError, match="is no container image"):
        unpack(pool, INCREMENTAL, TOP, origin=BASE)


def test_a_layer_costs_what_it_changes_where_blocks_can_be_shared(pools: EmbeddedPools) -> None:
    """And elsewhere no more than all of it."""
    pool = pools.open()
    size = 8 << 20
    install_layer(pool, BASE, [layer_file("big", random.Random(1).randbytes(size))])
    image = install_layer(pool, INCREMENTAL, [layer_file("small")], origin=BASE)
    assert image.referenced == size + 1
    assert image.used <= size + (1 << 20)
