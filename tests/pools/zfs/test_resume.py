"""How an interrupted receive goes on on real ZFS: after cuts, reboots and kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from imgstored.errors import ResumeError, StreamError
from imgstored.pools.zfs import ZfsPool, receive
from imgstored.zstream.resume import Resumer
from tests.pools.contract import (
    BASE,
    GUIDS,
    IMAGES,
    OTHER,
    ZVOL,
    InterruptedByTestError,
    begin,
    content,
    install,
    interrupted,
)
from tests.pools.contract import receive as receive_real
from tests.pools.zfs.commands import FOLDER, exported, got, resume_point, run
from tests.pools.zfs.made_streams import KINDS, NEXT, with_origin
from tests.support.streams import in_pieces, real_stream

if TYPE_CHECKING:
    from collections.abc import Callable


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
        there = resume_point(f"{pool.name}/{NEXT}-partial")
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
    exported(pool.name)
    run("zpool", "import", "-d", str(FOLDER), pool.name)
    again = ZfsPool(pool.name)
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


def test_a_restart_between_receiving_and_publishing(pool: ZfsPool) -> None:
    receive_real(pool, "zvol")
    assert ZfsPool(pool.name).partials() == [ZVOL]
    ZfsPool(pool.name).abandon(ZVOL)
    assert run("zfs", "list", "-H", "-r", "-o", "name", pool.name).split() == [pool.name]


# -- tokens that kernels stumble over ------------------------------------------------------------------------


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
    name = f"{pool.name}/{NEXT}-partial"
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
    assert run("zfs", "list", "-H", "-r", "-o", "name", pool.name).split() == [pool.name]


def test_an_image_into_which_something_was_cut_is_deleted(pool: ZfsPool, made: dict[str, bytes]) -> None:
    pool.receive(NEXT, in_pieces(made["-Lce"]))
    pool.publish(NEXT)
    changes = made["-Lce -i"]
    cut_into(f"{pool.name}/{NEXT}@more", changes[: len(changes) * 2 // 3], "-F")
    assert [image.uuid for image in pool.images()] == [NEXT]
    pool.destroy(NEXT)
    assert run("zfs", "list", "-H", "-r", "-o", "name", pool.name).split() == [pool.name]


# -- kill -9 -------------------------------------------------------------------------------------------------


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
    stream, file = made["large"], tmp_path / "stream"
    file.write_bytes(stream)
    points, shares = (110, 225), []
    pool.receive(OTHER, in_pieces(stream))
    pool.publish(OTHER)
    for point in points:
        command = [sys.executable, "-m", "tests.pools.zfs.receiver", pool.name, str(file), str(point), how]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as child:
            assert child.stdout is not None
            assert child.stdout.read(1) == b"."
            if how == "waiting":
                time.sleep(0.5)
            child.kill()
            assert child.wait() == -signal.SIGKILL
        there = resume_point(f"{pool.name}/{BASE}-partial")
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
