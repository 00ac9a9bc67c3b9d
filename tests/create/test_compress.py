from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import random
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.create.compress import compressed
from tests.support.threads import no_threads_left

MIB = 1 << 20
FORMATS = ["none", "gzip", "bzip2", "xz", "zstd"]
PROGRAMS = {"gzip": "gzip", "bzip2": "bzip2", "xz": "xz"}


def decompressed(form, data):
    match form:
        case "gzip":
            return gzip.decompress(data)
        case "bzip2":
            return bz2.decompress(data)
        case "xz":
            return lzma.decompress(data)
        case "zstd":
            return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return data


def sample(size):
    chance = random.Random(size)
    words = [chance.randbytes(50) for _ in range(100)]
    return b"".join(chance.choice(words) for _ in range(size // 50 + 1))[:size]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [0, 1, 900_000, MIB, 3 * MIB + 7])
def test_what_comes_out_is_what_went_in(form, size):
    data = sample(size)
    pieces = [memoryview(data)[start : start + 300_000] for start in range(0, size, 300_000)]
    made = b"".join(compressed(pieces, form))
    assert decompressed(form, made) == data
    if size > MIB and form != "none":
        assert len(made) < size / 2


@settings(max_examples=10)
@given(st.lists(st.binary(max_size=100)), st.sampled_from(FORMATS))
def test_pieces_of_any_length(pieces, form):
    assert decompressed(form, b"".join(compressed(pieces, form))) == b"".join(pieces)


@pytest.mark.parametrize(("form", "program"), PROGRAMS.items())
def test_the_usual_programs_read_it(form, program, tmp_path):
    """Several members, streams or blocks are one file to them."""
    assert shutil.which(program)
    data = bytes(16 * MIB) + sample(MIB)
    made = b"".join(compressed([data], form))
    read = subprocess.run([program, "-dc"], input=made, capture_output=True, check=True)
    assert read.stderr == b""
    assert read.stdout == data


def test_the_same_bytes_each_time():
    data = sample(3 * MIB)
    assert len({b"".join(compressed([data], "gzip", workers)) for workers in (1, 2, 8)}) == 1


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_source_raises_is_raised_and_no_thread_stays(form):
    def source():
        yield sample(2 * MIB)
        raise ValueError("no more")

    with no_threads_left(), pytest.raises(ValueError, match="no more"):
        list(compressed(source(), form))


def test_closing_it_ends_its_threads():
    def endless():
        while True:
            yield sample(MIB)

    with no_threads_left():
        pieces = compressed(endless(), "gzip")
        next(pieces)
        pieces.close()


def test_no_more_is_read_ahead_than_there_are_threads():
    taken = 0

    def source():
        nonlocal taken
        while True:
            taken += 1
            yield sample(MIB)

    pieces = compressed(source(), "gzip", 2)
    next(pieces)
    assert taken <= 4
    pieces.close()


def seconds_of_threads():
    """The processor time of each thread of this process."""
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            seconds[task.name] = (int(fields[11]) + int(fields[12])) / ticks
    return seconds


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("form", "mib"), [("gzip", 16), ("bzip2", 12), ("zstd", 64)])
def test_all_processors_are_used(form, mib):
    """Each of two threads has a good part of the work, besides the one that gives it out."""
    # Four letters at random take long enough for a clock of hundredths of a second. zstd cuts them into four.
    letters = bytes(code & 3 for code in range(256))
    data = random.Random(1).randbytes(mib * MIB).translate(letters)
    before, after = seconds_of_threads(), {}
    pieces = [memoryview(data)[start : start + MIB] for start in range(0, len(data), MIB)]
    for _ in compressed(pieces, form, 2):
        after.update(seconds_of_threads())
    own = str(threading.get_native_id())
    spent = sorted(after[name] - before.get(name, 0) for name in after if name != own)
    assert spent[-1] > 0.2, "too little to tell"
    if len(os.sched_getaffinity(0)) > 1:
        assert spent[-2] > sum(spent) / 5
