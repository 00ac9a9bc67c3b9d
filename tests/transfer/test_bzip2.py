"""bzip2 by the lbzip2 program: a child process that must never stay behind."""

from __future__ import annotations

import bz2
import os
import signal
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import DownloadError, UncompressionError
from imgstored.transfer.decompress import Meter, bzip2, decompressed
from tests.support.compressed import decode, pieces_of, some_bytes
from tests.support.limits import decompress_limits
from tests.support.threads import no_threads_left

DATA = some_bytes(450_000)
FILE = bz2.compress(DATA, 1)
ZVOL = Path(__file__).parent.parent / "data" / "zvol.zfs.bz2"


def children() -> set[int]:
    """Processes that this one started and has not reaped."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@contextmanager
def nothing_left():
    before = children()
    with no_threads_left():
        yield
    assert children() == before


def test_it_is_what_decodes_here():
    assert bzip2.program() == "/usr/bin/lbzip2"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (FILE, DATA),
        (bz2.compress(b""), b""),
        (FILE + bz2.compress(b"") + bz2.compress(b"end"), DATA + b"end"),
        (bz2.compress(b"tiny") * 500, b"tiny" * 500),
    ],
    ids=["whole", "empty", "several", "many"],
)
def test_what_comes_out(file, content):
    with nothing_left():
        assert decode(pieces_of(file, 5000)) == content
        assert decode([file]) == content


def test_a_real_image():
    assert len(decode(pieces_of(ZVOL.read_bytes(), 1 << 16))) == 566_456


@pytest.mark.parametrize("size", [10, 11, 100, len(FILE) // 2, len(FILE) - 1])
def test_a_file_that_is_cut_short(size):
    with nothing_left(), pytest.raises(UncompressionError, match="bzip2 uncompression error"):
        decode(pieces_of(FILE[:size], 5000))


@settings(max_examples=40, deadline=None)
@given(st.integers(10 * 8, len(FILE) * 8 - 17))
def test_a_flipped_bit_is_noticed(place):
    damaged = bytearray(FILE)
    damaged[place // 8] ^= 1 << place % 8
    try:
        assert decode([bytes(damaged)]) == DATA
    except UncompressionError:
        return
    # Only bits that mean nothing (a block's "randomised" flag aside, there are none in what bzip2 writes).
    assert bz2.decompress(bytes(damaged)) == DATA


#: Bits on which a stream ends within its last byte, and checksums that end with zeros.
ENDS = [bz2.compress(some_bytes(size, seed)) for size in range(60) for seed in range(20)]


def test_the_zeros_that_end_a_stream():
    missing = set()
    for file in ENDS:
        end = file.rstrip(b"\0")
        missing.add(len(file) - len(end))
        assert bzip2.missing_zeros(end[-16:]) == len(file) - len(end)
        assert bzip2.missing_zeros(end[-16:-12]) is None
    assert missing >= {0, 1, 4}


PIECES = st.one_of(
    st.sampled_from([bz2.compress(b""), bz2.compress(b"x"), bz2.compress(DATA[:20_000], 1), *ENDS[::100]]),
    st.sampled_from(
        [b"\0", bytes(4), bytes(600_000), b"garbage", b"B", b"BZh", b"BZh9", b"BZh0" + bytes(10)]
    ),
    st.tuples(st.sampled_from(ENDS), st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]]),
    st.tuples(st.sampled_from(ENDS), st.integers(0, 13)).map(
        lambda hit: hit[0][: hit[1]] + bytes([hit[0][hit[1]] ^ 1]) + hit[0][hit[1] + 1 :]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=4), st.sampled_from([1 << 20, 1000]))
def test_it_takes_and_refuses_what_the_standard_library_does(pieces, size):
    file = bz2.compress(b"first") + b"".join(pieces)
    try:
        expected = decode([file], accelerated=False)
    except UncompressionError:
        with nothing_left(), pytest.raises(UncompressionError, match="bzip2 uncompression error"):
            decode(pieces_of(file, size))
    else:
        assert decode(pieces_of(file, size)) == expected


@pytest.mark.parametrize(
    "rest",
    [
        b"x",
        b"<html>" * 100_000,
        b"\0\0\0x",
        b"BZi9" + bz2.compress(DATA, 1)[4:],
        b"\0" + bz2.compress(b"after zeros"),
        bz2.compress(b"again") + b"x",
    ],
    ids=["a byte", "a page", "zeros and a byte", "damaged second stream", "zeros between", "later"],
)
def test_what_the_program_would_pass_over(rest):
    with nothing_left(), pytest.raises(UncompressionError, match="garbage after the end of a stream"):
        decode(pieces_of(FILE + rest, 5000))


@pytest.mark.parametrize("zeros", [1, 4, 512, 3 << 20])
def test_padding_at_the_end(zeros):
    for file in (FILE, bz2.compress(b""), *ENDS[:40]):
        assert decode(pieces_of(file + bytes(zeros), 100_000)) == decode([file], accelerated=False)


def test_what_the_download_raises_passes_through():
    def blocks():
        yield FILE[:20_000]
        raise DownloadError("the server is gone")

    with nothing_left(), pytest.raises(DownloadError, match="the server is gone"):
        decode(blocks())


def test_who_stops_reading_ends_it():
    file = bz2.compress(bytes(50 << 20))
    with nothing_left(), closing(decompressed([file], Meter(decompress_limits()))) as pieces:
        next(pieces)


def test_too_much_is_refused_before_it_is_there():
    file = bz2.compress(bytes(100 << 20))
    limits = decompress_limits(max_image=10 << 20)
    with nothing_left(), pytest.raises(UncompressionError, match="larger than"):
        decode([file], limits)


def test_a_program_that_is_killed_is_an_error():
    go_on = threading.Event()
    before = children()

    def blocks():
        yield FILE[:20_000]
        go_on.wait(10)
        yield FILE[20_000:]

    def kill() -> None:
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        go_on.set()

    timer = threading.Timer(0.3, kill)
    timer.start()
    with pytest.raises(UncompressionError, match="bzip2"):
        decode(blocks())
    timer.join()
    assert children() == before
