"""The pool on real ZFS, in the guest only (tests/guest/run.sh). It is looked at with the program `zfs`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from imgstored.errors import (
    ConfigError,
    ImageHasDependentClonesError,
    ImageNotInstalledError,
    ImgstoreError,
    NoSpaceError,
    PoolError,
    PoolNotFoundError,
    ResumeError,
    StreamError,
    UsageError,
)
from imgstored.pools.zfs import ZfsPool, pipe, receive
from imgstored.zstream.resume import Resumer
from imgstored.zstream.token import parse_token
from tests.pools.contract import (
    BASE,
    EVERY,
    GUIDS,
    IMAGES,
    INCREMENTAL,
    OTHER,
    ZVOL,
    InterruptedByTestError,
    Name,
    PoolContract,
    begin,
    content,
    dependents,
    install,
    interrupted,
    pool,
)
from tests.pools.contract import receive as receive_real
from tests.support.streams import StreamWriter, in_pieces, real_stream
from tests.support.threads import no_threads_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["pool"]

#: The pool of most tests, and another one.
TANK, ZONES = "tank2", "zones"
FOLDER = Path("/tmp/zfs")

ZVOL_SHA256 = "d81ae44870f201872606cb189dfca03410e5867fc2e6c6b934a74725e0f1f1ff"
MADE = "33333333-aaaa-4bbb-8ccc-000000000001"
NEXT = "33333333-aaaa-4bbb-8ccc-000000000002"


def run(*command: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def sent_by_zfs(*arguments: str) -> bytes:
    return subprocess.run(["zfs", "send", *arguments], capture_output=True, check=True).stdout


def got(name: str, properties: str) -> list[str]:
    return run("zfs", "get", "-H", "-o", "value", properties, name).splitlines()


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


def resume_point(name: str) -> int:
    """The bytes that the kernel's receive token states; 0 if there is no token, or no dataset."""
    token = run("zfs", "get", "-H", "-o", "value", "receive_resume_token", name, check=False).strip()
    return parse_token(token).bytes if token not in ("", "-") else 0


def exported(name: str) -> None:
    """Exports it. A new volume may be open by udev."""
    for _ in range(30):
        if not subprocess.run(["zpool", "export", name], capture_output=True, check=False).returncode:
            return
        time.sleep(0.1)
    raise AssertionError(f"{name} stays busy")


class ZfsPools:
    """A real pool, opened again and again."""

    name = TANK

    def open(self) -> ZfsPool:
        return ZfsPool(self.name)

    def resume_point(self, uuid: str) -> int:
        return resume_point(f"{self.name}/{uuid}-partial")


@pytest.fixture(scope="module")
def disks() -> Iterator[None]:
    for name in (TANK, ZONES):
        make_pool(name, "3G")
    yield
    for name in (TANK, ZONES):
        run("zpool", "destroy", "-f", name, check=False)


@pytest.fixture
def pools(disks: None) -> Iterator[ZfsPools]:
    yield ZfsPools()
    empty(TANK)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each write gave to the kernel."""
    sizes: list[int] = []
    write = pipe.Inlet.write

    def counted(inlet: pipe.Inlet, data: bytes) -> bool:
        sizes.append(len(data))
        return write(inlet, data)

    monkeypatch.setattr(pipe.Inlet, "write", counted)
    return sizes


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Puts a figure into the report."""
    return partial(record_property, "measured")


class TestContract(PoolContract):
    """What every pool must do."""


# -- what is received ----------------------------------------------------------------------------------------


@EVERY
def test_how_it_is_received(pool: ZfsPool, name: Name) -> None:
    install(pool, "base")
    if name != "base":
        install(pool, name)
    dataset = f"{TANK}/{IMAGES[name]}"
    if name == "zvol":
        assert got(dataset, "readonly") == ["on"]
    else:
        assert got(dataset, "readonly,canmount,mounted") == ["on", "noauto", "no"]
    assert got(dataset, "origin") == [f"{TANK}/{BASE}@final" if name == "incremental" else "-"]
    assert run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", dataset).split() == [f"{dataset}@final"]
    assert int(run("zfs", "get", "-Hp", "-o", "value", "guid", f"{dataset}@final")) == GUIDS[name]
    image = pool.image(IMAGES[name])
    assert image is not None
    assert [str(image.used)] == run("zfs", "get", "-Hp", "-o", "value", "used", dataset).split()


def test_a_volume_is_the_disk_that_it_was(pool: ZfsPool) -> None:
    install(pool, "zvol")
    assert hashlib.sha256(device(ZVOL).read_bytes()).hexdigest() == ZVOL_SHA256


def device(name: str) -> Path:
    path = Path("/dev/zvol", TANK, name)
    for _ in range(100):
        if path.exists():
            return path
        time.sleep(0.1)
    raise AssertionError(f"{path} does not appear")


def test_other_properties(disks: None) -> None:
    given = {"canmount": "off", "compression": "lz4", "atime": "off", "org.example:by": "a test"}
    pool = ZfsPool(ZONES, properties=given)
    try:
        install(pool, "base")
        install(pool, "zvol")
        assert got(f"{ZONES}/{BASE}", "canmount,compression,atime,org.example:by,readonly") == [
            *given.values(),
            "off",
        ]
        assert got(f"{ZONES}/{ZVOL}", "compression,org.example:by") == ["lz4", "a test"]
    finally:
        empty(ZONES)


def test_cloned_as_vmadm_does(pool: ZfsPool) -> None:
    """Zone root and disk: mounted, writable, and with the content of the image."""
    for name in IMAGES:
        install(pool, name)
    for image, options in ((BASE, ()), (INCREMENTAL, ("-o", "quota=1g"))):
        clone = f"{TANK}/vm-{image[-1]}"
        run("zfs", "clone", *options, f"{TANK}/{image}@final", clone)
        assert got(clone, "readonly,canmount,mounted") == ["off", "on", "yes"]
        original = FOLDER / "original"
        original.mkdir(exist_ok=True)
        run("mount", "-t", "zfs", f"{TANK}/{image}@final", str(original))
        try:
            mounted = FOLDER / clone
            assert len(list(mounted.rglob("*"))) > 10
            run("diff", "-r", "--no-dereference", str(original), str(mounted))
        finally:
            run("umount", str(original))
        (mounted / "new").write_text("written")
        assert dependents(pool, image)[-1] == clone
    run("zfs", "clone", f"{TANK}/{ZVOL}@final", f"{TANK}/vm-disk0")
    disk = device("vm-disk0")
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == ZVOL_SHA256
    with disk.open("r+b") as file:
        file.write(b"written")
    with pytest.raises(ImageHasDependentClonesError, match=f"{TANK}/vm-disk0"):
        pool.destroy(ZVOL)


def test_two_pools_do_not_mix(pool: ZfsPool, disks: None) -> None:
    other = ZfsPool(ZONES)
    install(pool, "base")
    begin(other, "base", 1_000_000)
    try:
        assert [image.uuid for image in pool.images()] == [BASE]
        assert (pool.partials(), other.partials(), other.images()) == ([], [BASE], [])
    finally:
        other.abandon(BASE)


# -- streams of every kind -----------------------------------------------------------------------------------

KINDS = ["plain", "-L", "-c", "-e", "-Lce", "-Lce -i", "volume -Lce"]


@pytest.fixture(scope="module")
def made(disks: None) -> Iterator[dict[str, bytes]]:
    """Streams of a filesystem with large, compressed and embedded blocks and holes; and of a volume."""
    make_pool("made", "1G", "-O", "compression=lz4")
    run("zfs", "create", "made/fs")
    chance, folder = random.Random(5), FOLDER / "made" / "fs"
    (folder / "text").write_bytes(b"".join(b"line %d\n" % chance.randrange(10**9) for _ in range(100_000)))
    run("zfs", "set", "recordsize=1m", "made/fs")
    (folder / "random").write_bytes(chance.randbytes(3_300_000))
    for number in range(60):
        (folder / f"small-{number}").write_bytes(b"x" * 600 + b"%d" % number)
    with (folder / "holes").open("wb") as file:
        for place in (0, 5 << 20, 17 << 20):
            file.seek(place)
            file.write(chance.randbytes(100_000))
    run("zfs", "snapshot", "made/fs@one")
    (folder / "small-7").unlink()
    (folder / "random").write_bytes(chance.randbytes(1_500_000))
    run("zfs", "snapshot", "made/fs@two")
    run("zfs", "create", "-V", "16m", "made/disk")
    for _ in range(100):
        if Path("/dev/zvol/made/disk").exists():
            break
        time.sleep(0.1)
    with Path("/dev/zvol/made/disk").open("r+b") as file:
        file.write(chance.randbytes(2_000_000) + b"text " * 200_000)
    run("zfs", "snapshot", "made/disk@one")
    run("zfs", "create", "made/large")
    (FOLDER / "made" / "large" / "random").write_bytes(chance.randbytes(24 << 20))
    run("zfs", "snapshot", "made/large@one")
    yield {
        "plain": sent_by_zfs("made/fs@one"),
        "-L": sent_by_zfs("-L", "made/fs@one"),
        "-c": sent_by_zfs("-c", "made/fs@one"),
        "-e": sent_by_zfs("-e", "made/fs@one"),
        "-Lce": sent_by_zfs("-Lce", "made/fs@one"),
        "-Lce -i": sent_by_zfs("-Lce", "-i", "made/fs@one", "made/fs@two"),
        "volume -Lce": sent_by_zfs("-Lce", "made/disk@one"),
        "large": sent_by_zfs("made/large@one"),
        "-R": sent_by_zfs("-R", "made/fs@two"),
    }
    run("zpool", "destroy", "-f", "made")


def with_origin(pool: ZfsPool, kind: str, made: dict[str, bytes]) -> str | None:
    if not kind.endswith("-i"):
        return None
    pool.receive(MADE, [made["-Lce"]])
    return pool.publish(MADE).uuid


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_every_kind(pool: ZfsPool, made: dict[str, bytes], kind: str) -> None:
    origin = with_origin(pool, kind, made)
    pool.receive(NEXT, in_pieces(made[kind], 200_000), origin=origin)
    pool.publish(NEXT)
    if kind == "volume -Lce":
        assert device(NEXT).read_bytes() == Path("/dev/zvol/made/disk").read_bytes()
        return
    run("zfs", "mount", f"{TANK}/{NEXT}")
    snapshot = "two" if origin else "one"
    original = f"{FOLDER}/made/fs/.zfs/snapshot/{snapshot}"
    run("diff", "-r", original, f"{FOLDER}/{TANK}/{NEXT}")


def test_a_raw_stream_is_refused(pool: ZfsPool, made: dict[str, bytes]) -> None:
    key = ["-o", "encryption=on", "-o", "keyformat=passphrase"]
    run("zfs", "create", *key, "made/secret", input="a long passphrase\n")
    run("zfs", "snapshot", "made/secret@final")
    with pytest.raises(StreamError, match="raw and encrypted") as caught:
        pool.receive(BASE, [sent_by_zfs("-w", "made/secret@final")])
    assert "without -w" in caught.value.hint
    # Without -w it is a stream as any other.
    pool.receive(BASE, [sent_by_zfs("made/secret@final")])
    assert got(f"{TANK}/{BASE}-partial", "encryption") == ["off"]


def test_a_replication_stream_is_refused(pool: ZfsPool, made: dict[str, bytes]) -> None:
    with pytest.raises(StreamError) as caught:
        pool.receive(BASE, [made["-R"]])
    assert caught.value.hint
    assert pool.partials() == []


# -- going on ------------------------------------------------------------------------------------------------

PARTS = [0.03, 0.5, 0.999]
#: Of the stream with the most records.
MANY_PARTS = [0.01, 0.12, 0.3, 0.68, 0.9, 0.999]


def cut(pool: ZfsPool, stream: bytes, size: int, origin: str | None) -> None:
    with pytest.raises(InterruptedByTestError):
        pool.receive(NEXT, interrupted(stream, size), origin=origin)


@pytest.mark.parametrize("kind", [*IMAGES, *KINDS])
def test_cut_at_many_points_and_again(
    pool: ZfsPool, made: dict[str, bytes], kind: Any, written: list[int], tell: Callable[[str], None]
) -> None:
    """Each time the dataset sends the same as one that was received in one go."""
    if kind in IMAGES:
        stream, origin = real_stream(kind), BASE if kind == "incremental" else None
        if origin:
            install(pool, "base")
    else:
        stream, origin = made[kind], with_origin(pool, kind, made)
    guid = pool.receive(OTHER, in_pieces(stream), origin=origin).guid
    pool.publish(OTHER)
    expected = content(pool, OTHER)
    shares = []
    for part in MANY_PARTS if kind == "base" else PARTS:
        size = int(len(stream) * part)
        cut(pool, stream, size, origin)
        cut(pool, stream, (size + len(stream)) // 2, origin)
        there = resume_point(f"{TANK}/{NEXT}-partial")
        written.clear()
        pool.receive(NEXT, in_pieces(stream, 300_000), origin=origin)
        shares.append((part, sum(written) / len(stream), 1 - there / len(stream)))
        assert pool.publish(NEXT).guid == guid
        assert content(pool, NEXT) == expected
        pool.destroy(NEXT)
    again = ", ".join(f"{written:.1%}" for _, written, _ in shares)
    tell(f"{kind}: {len(stream):,} bytes; after the second cut the kernel was given {again} of it")
    # At the last cut nearly nothing is missing; a batch of writes and one block are sent again.
    assert sum(written) < max(0.15 * len(stream), 3_000_000)


def test_goes_on_after_a_reboot(pool: ZfsPool, written: list[int]) -> None:
    begin(pool, "base", 3_000_000)
    exported(TANK)
    run("zpool", "import", "-d", str(FOLDER), TANK)
    again = ZfsPool(TANK)
    assert again.partials() == [BASE]
    written.clear()
    assert install(again, "base").guid == GUIDS["base"]
    assert 700_000 < sum(written) < 1_200_000


def test_a_complete_part_is_not_received_again(pool: ZfsPool, written: list[int]) -> None:
    receive_real(pool, "base")
    written.clear()
    receive_real(pool, "base")
    assert written == []
    with pytest.raises(StreamError):
        receive_real(pool, "base", [real_stream("base")[:-500]])
    assert pool.publish(BASE).guid == GUIDS["base"]


@pytest.mark.parametrize("moved", [{"offset": 1}, {"object": 1, "offset": 0}])
def test_a_part_that_the_kernel_does_not_go_on_with(
    pool: ZfsPool, monkeypatch: pytest.MonkeyPatch, written: list[int], moved: dict[str, int]
) -> None:
    """The token was read wrongly: nothing of the part is kept, and the next try begins afresh."""
    parse = receive.parse_token

    def wrong(text: str) -> Any:
        token = parse(text)
        point = replace(token.point, **moved)
        return replace(token, point=point)

    monkeypatch.setattr(receive, "parse_token", wrong)
    begin(pool, "base", 3_000_000)
    with pytest.raises(ResumeError) as caught:
        receive_real(pool, "base")
    assert caught.value.hint
    assert pool.partials() == []
    written.clear()
    assert install(pool, "base").guid == GUIDS["base"]
    assert sum(written) == len(real_stream("base"))


def test_what_the_kernel_refuses_at_the_end(pool: ZfsPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewritten stream has a fault: nothing of it is kept, and the next try begins afresh."""
    begin(pool, "base", 2_000_000)
    feed = Resumer.feed

    def faulty(resumer: Resumer, piece: Any) -> bytes:
        made = bytearray(feed(resumer, piece))
        if len(made) > 50_000:
            made[40_000] ^= 1
        return bytes(made)

    monkeypatch.setattr(Resumer, "feed", faulty)
    with pytest.raises(ResumeError) as caught:
        receive_real(pool, "base")
    monkeypatch.setattr(Resumer, "feed", feed)
    assert "from the start" in caught.value.hint
    assert pool.partials() == []
    install(pool, "base")


def test_damage_that_only_the_kernel_sees(pool: ZfsPool, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = bytearray(real_stream("base"))
    damaged[2_000_000] ^= 1
    monkeypatch.setattr(receive._Checked, "feed", lambda _, piece: piece)
    monkeypatch.setattr(receive._Checked, "finish", lambda _: None)
    with pytest.raises(StreamError, match="kernel found the stream to be damaged"):
        pool.receive(BASE, in_pieces(bytes(damaged)))
    assert pool.partials() == []


# -- what kernels stumble over -------------------------------------------------------------------------------


def cut_into(name: str, stream: bytes, *options: str) -> None:
    """Leaves what `zfs receive -s` keeps of a stream that ends early: in NAME/%recv, as NAME is there."""
    cut = subprocess.run(
        ["zfs", "receive", "-s", *options, name], input=stream, capture_output=True, check=False
    )
    assert cut.returncode != 0
    assert got(name.partition("@")[0], "receive_resume_token")[0].startswith("1-"), cut.stderr


@pytest.mark.parametrize("then", ["go on", "another", "abandon"])
def test_a_token_that_nothing_goes_on_from(pool: ZfsPool, made: dict[str, bytes], then: str) -> None:
    """It is of a stream into what is there, in a dataset that is hidden (openzfs/zfs#8801, #10439, #14614).

    The kernel goes on with no other stream, and destroys nothing that has such a child.
    """
    name = f"{TANK}/{NEXT}-partial"
    subprocess.run(["zfs", "receive", "-u", f"{name}@final"], input=made["-Lce"], check=True)
    changes = made["-Lce -i"]
    cut_into(f"{name}@more", changes[: len(changes) * 2 // 3])
    assert run("zfs", "destroy", f"{name}@final", check=False) == ""
    if then == "abandon":
        pool.abandon(NEXT)
        assert pool.partials() == []
        return
    stream = made["-Lce" if then == "go on" else "plain"]
    if then == "another":
        stream = real_stream("base")
    pool.receive(NEXT, in_pieces(stream))
    image = pool.publish(NEXT)
    assert pool.partials() == []
    sent = b"".join(bytes(piece) for piece in pool.send(NEXT))
    assert sent
    assert image.guid == (GUIDS["base"] if then == "another" else image.guid)
    pool.destroy(NEXT)
    assert run("zfs", "list", "-H", "-r", "-o", "name", TANK).split() == [TANK]


def test_an_image_into_which_something_was_cut_is_deleted(pool: ZfsPool, made: dict[str, bytes]) -> None:
    pool.receive(NEXT, in_pieces(made["-Lce"]))
    pool.publish(NEXT)
    changes = made["-Lce -i"]
    cut_into(f"{TANK}/{NEXT}@more", changes[: len(changes) * 2 // 3], "-F")
    assert [image.uuid for image in pool.images()] == [NEXT]
    pool.destroy(NEXT)
    assert run("zfs", "list", "-H", "-r", "-o", "name", TANK).split() == [TANK]


@pytest.mark.parametrize("offset", [(1 << 64) - 512, (1 << 64) - 1, (1 << 63) - 256])
def test_embedded_data_near_the_end_of_numbers(pool: ZfsPool, offset: int) -> None:
    """The kernel adds offset and length up (openzfs/zfs#18239): it never gets the record."""
    writer = StreamWriter()
    stream = writer.begin(features=4 | 1 << 16 | 1 << 17) + writer.object(1)
    stream += writer.write_embedded(1, offset, 512, b"x" * 100) + writer.end()
    with pytest.raises(StreamError, match=f"at byte {offset} of its object") as caught:
        pool.receive(NEXT, in_pieces(stream))
    assert caught.value.hint
    assert pool.partials() == []


@pytest.fixture
def large_blocks(disks: None) -> Iterator[dict[str, bytes]]:
    """An origin, and what was changed since, each sent with and without `-L`."""
    make_pool("large", "1G")
    try:
        run("zfs", "create", "-o", "recordsize=1m", "large/fs")
        folder, chance = FOLDER / "large" / "fs", random.Random(6)
        (folder / "stays").write_bytes(chance.randbytes(5_000_000))
        (folder / "grows").write_bytes(chance.randbytes(1_500_000))
        run("zfs", "snapshot", "large/fs@one")
        with (folder / "stays").open("r+b") as file:
            file.seek(2_300_000)
            file.write(chance.randbytes(200_000))
        with (folder / "grows").open("ab") as file:
            file.write(chance.randbytes(2_000_000))
        run("zfs", "snapshot", "large/fs@two")
        yield {
            "one": sent_by_zfs("large/fs@one"),
            "one -L": sent_by_zfs("-L", "large/fs@one"),
            "two": sent_by_zfs("-i", "large/fs@one", "large/fs@two"),
            "two -L": sent_by_zfs("-L", "-i", "large/fs@one", "large/fs@two"),
        }
    finally:
        run("zpool", "destroy", "-f", "large")


@pytest.mark.parametrize(
    ("origin", "child"), [("one", "two -L"), ("one -L", "two"), ("one -L", "two -L"), ("one", "two")]
)
def test_an_image_with_and_an_origin_without_large_blocks(
    pool: ZfsPool, large_blocks: dict[str, bytes], origin: str, child: str
) -> None:
    """All of it is right, or it is refused with words, and nothing stays (openzfs/zfs#6224)."""
    pool.receive(MADE, in_pieces(large_blocks[origin]))
    pool.publish(MADE)
    said = ""
    try:
        pool.receive(NEXT, in_pieces(large_blocks[child]), origin=MADE)
    except ImgstoreError as error:
        said = f"{error.message}; {error.hint}"
    if said:
        assert (origin, child) == ("one -L", "two"), said
        assert "with large blocks (`zfs send -L`)" in said
        assert pool.partials() == []
        return
    pool.publish(NEXT)
    run("zfs", "mount", f"{TANK}/{NEXT}")
    run("diff", "-r", f"{FOLDER}/large/fs/.zfs/snapshot/two", f"{FOLDER}/{TANK}/{NEXT}")


# -- kill -9 -------------------------------------------------------------------------------------------------

RECEIVER = f"""
import os, sys, time
from functools import partial
from pathlib import Path
from imgstored.pools.zfs import ZfsPool
from tests.support.streams import in_pieces
def blocks():
    for number, piece in enumerate(in_pieces(Path(sys.argv[1]).read_bytes(), 100_000)):
        if number == int(sys.argv[2]):
            os.write(1, b".")
            if sys.argv[3] == "waiting":
                time.sleep(1000)
        yield piece
ZfsPool({TANK!r}).receive({BASE!r}, blocks())
"""


@pytest.mark.parametrize("how", ["waiting", "running"])
def test_killed_in_the_middle(
    pool: ZfsPool,
    made: dict[str, bytes],
    tmp_path: Path,
    how: str,
    written: list[int],
    tell: Callable[[str], None],
) -> None:
    """A process that receives is killed at several points; what it had received is not received again."""
    stream = made["large"]
    (tmp_path / "stream").write_bytes(stream)
    points, shares = (110, 225), []
    pool.receive(OTHER, in_pieces(stream))
    pool.publish(OTHER)
    for point in points:
        command = [sys.executable, "-c", RECEIVER, str(tmp_path / "stream"), str(point), how]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
            assert child.stdout is not None
            assert child.stdout.read(1) == b"."
            if how == "waiting":
                time.sleep(0.5)
            child.kill()
            assert child.wait() == -signal.SIGKILL
        there = resume_point(f"{TANK}/{BASE}-partial")
        # In the pipe may be 1 MiB that nobody reads any more.
        assert there >= (point - 11) * 100_000 - (2 << 20)
        written.clear()
        pool.receive(BASE, in_pieces(stream))
        shares.append(sum(written) / len(stream))
        pool.publish(BASE)
        assert content(pool, BASE) == content(pool, OTHER)
        pool.destroy(BASE)
    told = ", ".join(
        f"{point * 100_000 / len(stream):.0%}: {share:.1%}"
        for point, share in zip(points, shares, strict=True)
    )
    tell(f"killed while {how}, at part of the stream: part of it given to the kernel again: {told}")
    assert shares[-1] < 0.2


def test_a_restart_between_receiving_and_publishing(pool: ZfsPool) -> None:
    receive_real(pool, "zvol")
    assert ZfsPool(TANK).partials() == [ZVOL]
    ZfsPool(TANK).abandon(ZVOL)
    assert run("zfs", "list", "-H", "-r", "-o", "name", TANK).split() == [TANK]


# -- beside imgadm -------------------------------------------------------------------------------------------


def test_what_is_an_image(pool: ZfsPool) -> None:
    """By imgadm's rule: POOL/UUID with @final, unless it is to be ignored."""
    install(pool, "base")
    uuids = [f"22222222-aaaa-4bbb-8ccc-00000000000{number}" for number in range(5)]
    for uuid in uuids:
        run("zfs", "clone", "-o", "canmount=off", f"{TANK}/{BASE}@final", f"{TANK}/{uuid}")
    for uuid in uuids[:3]:
        run("zfs", "snapshot", f"{TANK}/{uuid}@final")
    run("zfs", "set", "imgadm:ignore=true", f"{TANK}/{uuids[1]}")
    run("zfs", "set", "imgadm:ignore=no", f"{TANK}/{uuids[2]}")
    run("zfs", "snapshot", f"{TANK}/{uuids[3]}@other")
    for name in ("cores", uuids[0].upper().replace("2", "A"), "x" * 36, f"{BASE}/{OTHER}"):
        run("zfs", "create", "-o", "canmount=off", f"{TANK}/{name}")
        run("zfs", "snapshot", f"{TANK}/{name}@final")
    images = {image.uuid: image for image in pool.images()}
    assert sorted(images) == [BASE, uuids[0], uuids[2]]
    assert images[uuids[0]].origin == BASE
    assert pool.image(uuids[1]) is None
    for uuid in (uuids[1], uuids[3]):
        with pytest.raises(ImageNotInstalledError):
            pool.destroy(uuid)
        with pytest.raises(PoolError, match="in the way"):
            pool.receive(uuid, [real_stream("zvol")])


def test_what_imgadm_installs_and_deletes(pool: ZfsPool) -> None:
    name = f"{TANK}/{BASE}"
    run("zfs", "create", "-o", "mountpoint=none", f"{TANK}/other")
    with subprocess.Popen(["zfs", "receive", f"{name}-partial"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(real_stream("base")[:2_000_000])
        child.stdin.flush()
        for _ in range(100):
            if run("zfs", "list", "-H", f"{name}-partial", check=False):
                break
            time.sleep(0.1)
        # Which cannot be disturbed, nor be swept away.
        assert pool.partials() == [BASE]
        with pytest.raises(PoolError, match="busy"):
            receive_real(pool, "base")
        with pytest.raises(PoolError, match="busy"):
            pool.abandon(BASE)
        child.stdin.write(real_stream("base")[2_000_000:])
        child.stdin.close()
        assert child.wait() == 0
    (snapshot,) = run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", f"{name}-partial").split()
    if snapshot != f"{name}-partial@final":
        run("zfs", "rename", snapshot, f"{name}-partial@final")
    run("zfs", "rename", f"{name}-partial", name)
    run("zfs", "mount", name, check=False)
    assert got(name, "mounted") == ["yes"]
    image = pool.image(BASE)
    assert image is not None
    assert image.guid == GUIDS["base"]
    # An incremental image of ours builds on it, and imgadm's is unmounted before it is destroyed.
    install(pool, "incremental")
    pool.destroy(INCREMENTAL)
    pool.destroy(BASE)
    assert pool.images() == []
    install(pool, "base")
    run("zfs", "destroy", "-r", name)
    assert pool.images() == []


def test_many_images(disks: None, tell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_of_known_images_only_what_changed_is_asked(pool: ZfsPool) -> None:
    """What others did meanwhile is seen all the same: clones, imgadm:ignore, another image, none."""
    for name in ("base", "zvol"):
        install(pool, name)
    before = pool.images()
    base, zvol = sorted(before, key=lambda image: (BASE, ZVOL).index(image.uuid))
    run("zfs", "clone", f"{TANK}/{BASE}@final", f"{TANK}/vm7")
    run("zfs", "set", "imgadm:ignore=yes", f"{TANK}/{ZVOL}")
    assert pool.images(before) == [replace(base, clones=(f"{TANK}/vm7",))]
    run("zfs", "inherit", "imgadm:ignore", f"{TANK}/{ZVOL}")
    run("zfs", "destroy", f"{TANK}/vm7")
    assert {image.uuid: image for image in pool.images(before)} == {BASE: base, ZVOL: zvol}
    run("zfs", "destroy", "-r", f"{TANK}/{ZVOL}")
    assert pool.images(before) == [base]
    # Another image under the name of one that is known.
    run("zfs", "create", "-V", "1M", f"{TANK}/{ZVOL}")
    assert pool.images(before) == [base]
    run("zfs", "snapshot", f"{TANK}/{ZVOL}@final")
    found = {image.uuid: image for image in pool.images(before)}
    assert found[ZVOL].guid != zvol.guid
    assert found[ZVOL].referenced == 1 << 20
    assert found[BASE] == base


# -- what keeps an image -------------------------------------------------------------------------------------


def test_all_that_keeps_an_image_is_named(pool: ZfsPool) -> None:
    install(pool, "base")
    name = f"{TANK}/{BASE}"
    run("zfs", "snapshot", f"{name}@foreign")
    run("zfs", "clone", f"{name}@foreign", f"{TANK}/of-foreign")
    run("zfs", "clone", f"{name}@final", f"{TANK}/vm-disk0")
    run("zfs", "create", "-o", "canmount=off", f"{name}/below")
    with pytest.raises(ImageHasDependentClonesError) as caught:
        pool.destroy(BASE)
    names = [f"{name}/below", f"{TANK}/of-foreign", f"{TANK}/vm-disk0"]
    assert caught.value.data["dependents"] == dependents(pool, BASE) == names
    assert caught.value.message == f'image "{BASE}" has dependent clones: {name}/below and 2 others...'
    for each in names:
        run("zfs", "destroy", each)
    run("zfs", "hold", "theirs", f"{name}@foreign")
    run("zfs", "hold", "backup", f"{name}@final")
    pool.hold(BASE, "ours")
    assert pool.holds(BASE) == ["ours"]
    with pytest.raises(PoolError, match=r"is held: backup, ours, theirs \(on tank2/.*@foreign\)"):
        pool.destroy(BASE)
    pool.release(BASE, "backup")  # is not ours
    run("zfs", "release", "theirs", f"{name}@foreign")
    run("zfs", "release", "backup", f"{name}@final")
    with pytest.raises(PoolError, match="is held: ours"):
        pool.destroy(BASE)
    pool.release(BASE, "ours")
    pool.destroy(BASE)
    assert run("zfs", "list", "-H", "-r", "-t", "all", "-o", "name", TANK).split() == [TANK]


def test_nobody_destroys_what_is_held(pool: ZfsPool) -> None:
    install(pool, "base")
    pool.hold(BASE, "vm 1")
    assert "imgstored:vm 1" in run("zfs", "holds", "-H", f"{TANK}/{BASE}@final")
    run("zfs", "destroy", "-r", f"{TANK}/{BASE}", check=False)
    assert pool.image(BASE) is not None
    exported(TANK)
    run("zpool", "import", "-d", str(FOLDER), TANK)
    assert ZfsPool(TANK).holds(BASE) == ["vm 1"]


@pytest.mark.parametrize("tag", ["ü" * 100, "x" * 200])
def test_the_longest_tags(pool: ZfsPool, tag: str) -> None:
    install(pool, "zvol")
    pool.hold(ZVOL, tag)
    assert pool.holds(ZVOL) == [tag]
    pool.release(ZVOL, tag)
    with pytest.raises(UsageError):
        pool.hold(ZVOL, tag + "x")
    assert pool.holds(ZVOL) == []


def test_a_mounted_image_in_use(pool: ZfsPool) -> None:
    install(pool, "base")
    run("zfs", "mount", f"{TANK}/{BASE}")
    (inside, *_) = (path for path in (FOLDER / TANK / BASE).rglob("*") if path.is_file())
    with inside.open("rb"), pytest.raises(PoolError, match=r"cannot be unmounted from .*busy") as caught:
        pool.destroy(BASE)
    assert caught.value.hint
    assert pool.image(BASE) is not None
    pool.destroy(BASE)


def test_an_open_volume_is_kept_whole(pool: ZfsPool) -> None:
    install(pool, "zvol")
    before = pool.image(ZVOL)
    with device(ZVOL).open("rb"), pytest.raises(PoolError, match="busy"):
        pool.destroy(ZVOL)
    assert pool.image(ZVOL) == before
    pool.destroy(ZVOL)


# -- errors that a user can meet -----------------------------------------------------------------------------


def test_a_pool_that_is_not_there() -> None:
    with pytest.raises(PoolNotFoundError, match=r'pool "nopool9".*no such pool') as caught:
        ZfsPool("nopool9")
    assert "zpool import" in caught.value.hint


def test_a_pool_that_goes(disks: None) -> None:
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
    run("zfs", "set", "quota=none", TANK)


def test_a_quota(used_up: ZfsPool) -> None:
    install(used_up, "zvol")
    run("zfs", "set", "quota=2m", TANK)
    with pytest.raises(NoSpaceError, match="a quota is used up") as caught:
        receive_real(used_up, "base")
    assert "quota" in caught.value.hint
    run("zfs", "set", "quota=none", TANK)
    assert install(used_up, "base").guid == GUIDS["base"]


def test_no_room(pool: ZfsPool) -> None:
    free = pool.space().available
    run("zfs", "create", "-o", f"reservation={free - (1 << 20)}", "-o", "canmount=off", f"{TANK}/reserve")
    assert pool.space().available <= 2 << 20
    with pytest.raises(NoSpaceError, match="no room left") as caught:
        receive_real(pool, "base")
    assert caught.value.hint
    run("zfs", "destroy", f"{TANK}/reserve")
    assert install(pool, "base").guid == GUIDS["base"]


def test_something_in_the_way_of_publishing(pool: ZfsPool) -> None:
    receive_real(pool, "zvol")
    run("zfs", "create", "-o", "canmount=off", f"{TANK}/{ZVOL}")
    with pytest.raises(PoolError, match="there is a dataset of that name, and it is no image"):
        pool.publish(ZVOL)
    assert pool.partials() == [ZVOL]
    run("zfs", "destroy", f"{TANK}/{ZVOL}")
    pool.publish(ZVOL)


def test_a_feature_that_the_pool_lacks(made: dict[str, bytes]) -> None:
    make_pool("old1", "256M", "-o", "feature@large_blocks=disabled")
    try:
        pool = ZfsPool("old1")
        with pytest.raises(PoolError, match="needs a feature that the pool does not have") as caught:
            pool.receive(BASE, [made["-L"]])
        assert "without `zfs send -L`" in caught.value.hint
        pool.receive(BASE, [made["plain"]])
    finally:
        run("zpool", "destroy", "-f", "old1")


def test_a_read_only_pool(pool: ZfsPool, disks: None) -> None:
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
            assert "import it anew" in caught.value.hint
    finally:
        exported("ro1")


def test_without_privilege(pool: ZfsPool) -> None:
    script = f"import os; from imgstored.pools.zfs import ZfsPool; os.setuid(65534); ZfsPool({TANK!r})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert "PoolError" in done.stderr
    assert "has not the privilege" in done.stderr


# -- threads and descriptors ---------------------------------------------------------------------------------


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_open(pool: ZfsPool) -> None:
    install(pool, "base")
    pool.images()
    before = open_files()
    with no_threads_left():
        for _ in range(3):
            pieces = iter(pool.send(BASE))
            assert next(pieces)
            pieces.close()  # type: ignore[attr-defined]
            begin(pool, "incremental", 300_000)
            with contextlib.suppress(StreamError):
                receive_real(pool, "zvol", [real_stream("zvol")[:-1]])
            pool.abandon(INCREMENTAL)
    assert open_files() == before


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
