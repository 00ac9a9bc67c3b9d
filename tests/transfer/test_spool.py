from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored import hashing
from imgstored.errors import CancelledError, DownloadError, NoSpaceError
from imgstored.hashing import BLAKE2B, BLAKE3, Fingerprint, fingerprint
from imgstored.transfer.spool import DifferentError, Spool, blocks
from imgstored.transfer.watermark import Watermark
from tests.support.memory_journal import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
SIZE = 5 * MIB + 1000
CONTENT = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)


class Opened:
    """A spool, its journal and its watermark."""

    def __init__(
        self,
        path: Path,
        journal: MemoryJournal | None = None,
        *,
        size: int | None = SIZE,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.journal = journal or MemoryJournal()
        self.watermark = Watermark()
        self.spool = Spool(path, self.journal, self.watermark)
        self.spool.open(size, check)

    def write(self, start: int, stop: int, content: bytes = CONTENT) -> int:
        return self.spool.write(start, memoryview(content)[start:stop])

    def again(self, size: int | None = SIZE) -> Opened:
        """As a later process finds it."""
        self.spool.close()
        return Opened(self.path, self.journal, size=size)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    spool = Opened(tmp_path / "spool")
    yield spool
    spool.spool.close()


# -- writing -----------------------------------------------------------------------------------------------


def test_the_front_follows_the_first_gap(opened: Opened) -> None:
    opened.write(MIB, 2 * MIB)
    assert opened.watermark.position == 0
    opened.write(0, 1000)
    assert opened.watermark.position == 1000
    opened.write(2 * MIB, 2 * MIB + 500)
    opened.write(1000, MIB)
    assert opened.watermark.position == 2 * MIB + 500
    assert opened.spool.done == {0, 1}
    assert opened.spool.present == 2 * MIB + 500
    assert opened.spool.missing(2) == (2 * MIB + 500, 3 * MIB)
    assert opened.spool.missing(1) == (2 * MIB, 2 * MIB)
    assert not opened.spool.complete


def test_every_complete_range_is_journalled_with_its_hash(opened: Opened) -> None:
    assert opened.write(0, SIZE) == SIZE
    assert opened.spool.complete
    assert opened.path.read_bytes() == CONTENT
    assert opened.journal.spooled is not None
    assert opened.journal.spooled.fingerprints == {
        index: fingerprint(CONTENT[index * MIB : (index + 1) * MIB]) for index in range(6)
    }


def test_what_is_there_is_compared(opened: Opened) -> None:
    opened.write(0, MIB + 1000)
    assert opened.write(0, MIB + 2000) == 1000
    changed = bytearray(CONTENT)
    changed[MIB + 1500] ^= 1
    with pytest.raises(DifferentError) as caught:
        opened.write(MIB + 1000, MIB + 3000, bytes(changed))
    assert caught.value.offset == MIB + 1000
    with pytest.raises(DifferentError):
        opened.write(0, MIB, OTHER)
    assert opened.path.read_bytes()[: MIB + 2000] == CONTENT[: MIB + 2000]


def test_two_connections_may_bring_the_same_range(opened: Opened) -> None:
    def bring(piece: int) -> int:
        return sum(opened.write(start, min(start + piece, SIZE)) for start in range(0, SIZE, piece))

    with ThreadPoolExecutor(3) as executor:
        fresh = list(executor.map(bring, [10_000, 30_000, 70_000]))
    assert sum(fresh) == SIZE == opened.spool.present == opened.watermark.position
    assert opened.path.read_bytes() == CONTENT


def test_who_brought_the_rest_of_a_range_may_be_ahead_of_its_digest(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two connections with one range, the slower one moves the watermark before the range is complete."""
    complete = opened.spool._complete

    def overtaken(index: int, growing: object) -> None:
        opened.spool._advance()
        complete(index, growing)  # type: ignore[arg-type]

    monkeypatch.setattr(opened.spool, "_complete", overtaken)
    opened.write(MIB, 2 * MIB)
    opened.write(0, MIB)
    assert opened.watermark.position == 2 * MIB


@settings(max_examples=40, deadline=None)
@given(data=st.data(), pieces=st.lists(st.integers(1, MIB), min_size=1, max_size=6))
def test_ranges_in_any_order_make_the_file(data: st.DataObject, pieces: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        opened = Opened(Path(folder) / "spool")
        position, watermarks = {index: index * MIB for index in range(6)}, [0]
        while position:
            index = data.draw(st.sampled_from(sorted(position)))
            start = position[index]
            stop = min(start + pieces[start % len(pieces)] + MIB // 4, (index + 1) * MIB, SIZE)
            opened.write(start, stop)
            position[index] = stop
            if stop == min((index + 1) * MIB, SIZE):
                del position[index]
            first = min(position, default=None)
            expected = SIZE if first is None else position[first]
            assert opened.watermark.position == expected
            watermarks.append(opened.watermark.position)
        assert watermarks == sorted(watermarks)
        assert (Path(folder) / "spool").read_bytes() == CONTENT
        opened.spool.close()


# -- what a later process finds ----------------------------------------------------------------------------


def test_a_later_process_trusts_what_still_hashes(opened: Opened) -> None:
    opened.write(0, 2 * MIB)
    opened.write(3 * MIB, 4 * MIB)
    opened.write(4 * MIB, 4 * MIB + 10)
    opened.spool.remember("http://a/", '"1"')
    later = opened.again()
    assert later.spool.done == {0, 1, 3}
    assert later.watermark.position == 2 * MIB
    assert later.spool.present == 3 * MIB
    assert later.spool.validators == {"http://a/": '"1"'}
    later.spool.close()


def test_bytes_that_were_altered_are_to_come_again(opened: Opened) -> None:
    opened.write(0, SIZE)
    with opened.path.open("r+b") as file:
        file.seek(MIB + 7)
        file.write(b"?")
    later = opened.again()
    assert later.spool.done == {0, 2, 3, 4, 5}
    assert later.watermark.position == MIB
    later.write(MIB, 2 * MIB)
    assert later.spool.complete
    assert later.path.read_bytes() == CONTENT
    later.spool.close()


@pytest.fixture
def without_blake3(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Until undone."""
    monkeypatch.delitem(hashing._ALGORITHMS, BLAKE3)
    return monkeypatch


def test_what_was_written_without_blake3_is_trusted_with_it(
    opened: Opened, without_blake3: pytest.MonkeyPatch
) -> None:
    opened.write(0, 2 * MIB)
    without_blake3.undo()
    with opened.path.open("r+b") as file:
        file.write(b"?")
    later = opened.again()
    assert later.spool.done == {1}
    later.write(0, SIZE)
    assert later.journal.spooled is not None
    written = later.journal.spooled.fingerprints
    assert [written[index].algorithm for index in range(6)] == [BLAKE3, BLAKE2B, *[BLAKE3] * 4]
    later.spool.close()


def test_what_was_written_with_blake3_is_to_come_again_without_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened.write(0, 2 * MIB)
    opened.spool.remember("http://a/", '"1"')
    with monkeypatch.context() as patch:
        patch.delitem(hashing._ALGORITHMS, BLAKE3)
        later = opened.again()
        assert (later.spool.done, later.spool.present, later.watermark.position) == (frozenset(), 0, 0)
        assert later.spool.validators == {"http://a/": '"1"'}
        (line,) = capsys.readouterr().out.splitlines()
        assert "ranges=2" in line
        assert f"algorithms=['{BLAKE3}']" in line
        later.write(MIB, 3 * MIB)
    # Where it is installed again, both are trusted; none was compared by the other's algorithm.
    last = later.again()
    assert last.spool.done == {0, 1, 2}
    assert capsys.readouterr().out == ""
    last.spool.close()


def test_an_algorithm_that_nobody_knows(opened: Opened) -> None:
    opened.write(0, MIB)
    assert opened.journal.spooled is not None
    opened.journal.spooled.fingerprints[0] = Fingerprint("sha3-256", bytes(32))
    later = opened.again()
    assert later.spool.done == frozenset()
    later.spool.close()


def test_a_journal_entry_without_its_bytes(opened: Opened) -> None:
    opened.write(0, 2 * MIB)
    opened.path.unlink()
    later = opened.again()
    assert (later.spool.done, later.watermark.position, later.spool.present) == (frozenset(), 0, 0)
    assert later.journal.spooled is not None
    assert later.journal.spooled.fingerprints == {}
    later.spool.close()


@pytest.mark.parametrize("how", ["cut", "size", "range size", "index", "digest", "negative"])
def test_a_journal_that_cannot_be_true_begins_anew(opened: Opened, how: str) -> None:
    opened.write(0, SIZE)
    known = opened.journal.spooled
    assert known is not None
    size = SIZE
    match how:
        case "cut":
            os.truncate(opened.path, SIZE - 1)
        case "size":
            size = SIZE - 1
        case "range size":
            opened.journal.begin(SIZE, 1000)
        case "index":
            known.fingerprints[6] = Fingerprint(BLAKE3, bytes(32))
        case "negative":
            known.fingerprints[-1] = Fingerprint(BLAKE3, bytes(32))
        case "digest":
            known.fingerprints[0] = Fingerprint(BLAKE3, bytes(31))
    later = opened.again(size)
    assert (later.spool.done, later.spool.size, later.spool.present) == (frozenset(), size, 0)
    later.spool.close()


def test_a_file_without_a_journal_is_worth_nothing(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(CONTENT)
    opened = Opened(tmp_path / "spool")
    assert opened.spool.done == frozenset()
    opened.spool.close()


def test_checking_what_is_there_can_be_cancelled(opened: Opened) -> None:
    opened.write(0, SIZE)
    opened.spool.close()
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise CancelledError("stop")

    later = Spool(opened.path, opened.journal, Watermark())
    with pytest.raises(CancelledError):
        later.open(SIZE, check)
    later.close()


# -- files of unknown size ---------------------------------------------------------------------------------


def test_a_file_of_unknown_size(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "spool", size=None)
    opened.write(0, SIZE)
    assert not opened.spool.complete
    assert opened.watermark.position == SIZE
    opened.spool.settle(SIZE)
    assert opened.spool.complete
    assert opened.again(size=None).spool.complete


def test_a_file_of_unknown_size_of_which_more_had_come_before(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "spool", size=None)
    opened.write(0, SIZE)
    with pytest.raises(DifferentError):
        opened.spool.settle(SIZE - 1)
    opened.spool.close()


def test_the_size_may_become_known_but_not_smaller_than_what_the_pump_saw(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "spool", size=None)
    opened.write(0, 5000)
    with pytest.raises(DifferentError):
        opened.spool.begin(4999)
    opened.spool.begin(SIZE)
    assert (opened.spool.present, opened.watermark.position) == (0, 5000)
    opened.write(0, SIZE)
    assert opened.spool.complete
    opened.spool.close()


# -- turns of events ---------------------------------------------------------------------------------------


def test_begun_anew_what_the_pump_saw_must_come_again_as_it_was(opened: Opened) -> None:
    opened.write(0, MIB + 1000)
    opened.write(2 * MIB, 3 * MIB)
    opened.spool.begin_anew()
    assert (opened.spool.present, opened.spool.done, opened.watermark.position) == (
        0,
        frozenset(),
        MIB + 1000,
    )
    with pytest.raises(DifferentError):
        opened.write(0, 10, OTHER)
    # What it did not see may be another.
    opened.write(2 * MIB, 3 * MIB, OTHER)
    opened.write(0, 2 * MIB)
    assert opened.watermark.position == 3 * MIB
    assert opened.path.read_bytes()[: 3 * MIB] == CONTENT[: 2 * MIB] + OTHER[2 * MIB : 3 * MIB]


def test_forgotten_nothing_serves_a_later_download(opened: Opened) -> None:
    opened.write(0, SIZE)
    opened.spool.forget()
    assert opened.journal.spooled is None
    later = opened.again()
    assert later.spool.done == frozenset()
    later.spool.close()


# -- a hostile or broken folder ----------------------------------------------------------------------------


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "spool").symlink_to(tmp_path / "precious")
    with pytest.raises(DownloadError, match="cannot be used"):
        Opened(tmp_path / "spool")
    (tmp_path / "spool").unlink()
    os.link(tmp_path / "precious", tmp_path / "spool")
    with pytest.raises(DownloadError, match="not a file of the daemon's own"):
        Opened(tmp_path / "spool")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_something_else_in_its_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spool")
    with pytest.raises(DownloadError, match="not a file of the daemon's own"):
        Opened(tmp_path / "spool")


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    (tmp_path / "spool").touch(0o666)
    opened = Opened(tmp_path / "spool")
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o600
    opened.spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_no_room(small_disk: Path) -> None:
    opened = Opened(small_disk / "spool")
    with pytest.raises(NoSpaceError, match="no room left"):
        opened.write(0, SIZE)
    assert opened.watermark.position <= 2 * MIB
    opened.spool.close()


# -- reading -----------------------------------------------------------------------------------------------


def test_the_pump_reads_behind_the_front(opened: Opened) -> None:
    reading = blocks(opened.path, opened.watermark)
    opened.write(0, 2 * MIB + 5)
    assert b"".join(next(reading) for _ in range(3)) == CONTENT[: 2 * MIB + 5]
    opened.write(2 * MIB + 5, SIZE)
    opened.watermark.finish()
    assert b"".join(reading) == CONTENT[2 * MIB + 5 :]
    assert b"".join(blocks(opened.path, opened.watermark)) == CONTENT


def test_the_pump_is_told_of_a_failure(opened: Opened) -> None:
    opened.write(0, 10)
    reading = blocks(opened.path, opened.watermark)
    assert next(reading) == CONTENT[:10]
    opened.watermark.fail(DownloadError("gone"))
    with pytest.raises(DownloadError, match="gone"):
        next(reading)


def test_a_spool_that_is_cut_short_while_it_is_read(opened: Opened) -> None:
    opened.write(0, MIB)
    os.truncate(opened.path, 10)
    reading = blocks(opened.path, opened.watermark)
    assert next(reading) == CONTENT[:10]
    with pytest.raises(DownloadError, match="cut short"):
        next(reading)


def test_an_empty_file(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "spool", size=0)
    assert opened.spool.complete
    opened.watermark.finish()
    assert list(blocks(opened.path, opened.watermark)) == []
    opened.spool.close()


def test_who_waits_for_a_place_is_woken_by_what_comes_there(opened: Opened) -> None:
    with ThreadPoolExecutor(2) as executor:
        first = executor.submit(opened.spool.wait_from, 0, 1000, 30)
        second = executor.submit(opened.spool.wait_from, MIB, 1000, 30)
        until(lambda: set(opened.spool._waiting) == {0, 1})
        opened.write(0, 999)
        assert set(opened.spool._waiting) == {0, 1}
        opened.write(999, 2000)
        assert first.result(30) == 2000
        assert set(opened.spool._waiting) == {1}
        opened.write(MIB, 2 * MIB)
        assert second.result(30) == 2 * MIB
    assert not opened.spool._waiting


def test_nobody_waits_for_more_than_comes(opened: Opened) -> None:
    opened.write(0, MIB)
    assert opened.spool.wait_from(MIB - 10, 1000, 30) == MIB
    opened.write(5 * MIB, SIZE)
    assert opened.spool.wait_from(SIZE - 10, 1000, 30) == SIZE
    opened.write(MIB, MIB + 10)
    assert opened.spool.wait_from(MIB, 1000, 0.01) == MIB + 10
    assert not opened.spool._waiting
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(opened.spool.wait_from, MIB, 1000, 30)
        until(lambda: opened.spool._waiting)
        opened.spool.close()
        assert waiting.result(30) == MIB + 10
    assert opened.spool.wait_from(2 * MIB, 1000, 30) == 2 * MIB


def test_a_file_that_begins_anew_wakes_who_waits(opened: Opened) -> None:
    opened.write(0, 10)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(opened.spool.wait_from, 0, 1000, 30)
        until(lambda: opened.spool._waiting)
        opened.spool.begin_anew()
        assert waiting.result(30) == 0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
