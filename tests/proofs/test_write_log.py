"""The log of writes, as QEMU's own program writes it."""

from __future__ import annotations

import os
import random
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proofs.write_log import SECTOR, Disk, Write, WriteLog, cut

_SIZE = 1 << 20


@pytest.fixture
def logged(tmp_path):
    """A function that runs commands of qemu-io on a disk, and returns the log of them."""
    fds = []

    def run(*commands):
        disk, log = tmp_path / "disk", tmp_path / "log"
        for path, size in ((disk, _SIZE), (log, 8 * _SIZE)):
            path.write_bytes(b"")
            os.truncate(path, size)
        spec = f"driver=blklogwrites,file.driver=file,file.filename={disk},log.driver=file,log.filename={log}"
        words = [word for command in commands for word in ("-c", command)]
        subprocess.run(["qemu-io", "--image-opts", spec, *words], check=True, capture_output=True)
        fds.append(os.open(log, os.O_RDONLY))
        return WriteLog(fds[-1]), disk

    yield run
    for fd in fds:
        os.close(fd)


def test_writes_and_flushes_in_their_order(logged):
    log, _ = logged("write -P 65 0 4096", "flush", "write -f -P 66 8192 512", "write -P 67 512 1024")
    found = [(each.offset, each.size, each.flush) for each in log.writes if each.size]
    assert found == [(0, 4096, False), (8192, 512, False), (512, 1024, False)]
    assert [log.data(each)[:1] for each in log.writes if each.size] == [b"A", b"B", b"C"]
    assert any(each.flush for each in log.writes[1:])


def test_the_disk_is_made_anew_from_its_log(logged, tmp_path):
    dice = random.Random(5)
    commands = [
        f"write -P {dice.randrange(256)} {dice.randrange(1000) * SECTOR} {dice.randint(1, 20) * SECTOR}"
        for _ in range(40)
    ]
    log, disk = logged(*commands, "discard 4096 8192", "write -z 65536 4096", "flush")
    middle = _SIZE // 2
    with (tmp_path / "one").open("w+b") as one, (tmp_path / "two").open("w+b") as two:
        made = Disk(log, [one.fileno(), two.fileno()], [(0, middle), (middle, _SIZE)])
        made.advance(len(log.writes) // 2)
        made.advance(len(log.writes))
        assert one.read() + two.read() == disk.read_bytes()


def test_what_is_no_log_is_refused(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * SECTOR)
    with path.open("rb") as file, pytest.raises(ValueError, match="no log"):
        WriteLog(file.fileno())


_WRITES = st.lists(
    st.builds(Write, st.just(0), st.integers(1, 9).map(lambda n: n * SECTOR), flush=st.booleans()), min_size=1
)


@given(_WRITES, st.data())
def test_a_cut_keeps_what_was_flushed_and_makes_up_nothing(writes, data):
    moment = data.draw(st.integers(0, len(writes)))
    share = data.draw(st.sampled_from((0.0, 0.3, 1.0)))
    made = cut(writes, moment, share, random.Random(data.draw(st.integers())))
    assert made.durable <= made.moment == moment
    assert not any(each.flush for each in writes[made.durable : moment])
    assert made.durable == 0 or writes[made.durable - 1].flush
    for number, begin, end in made.kept:
        assert made.durable <= number < moment
        assert 0 <= begin < end <= writes[number].size
        assert begin % SECTOR == end % SECTOR == 0
    if share == 1.0:
        assert [each for each, _, _ in made.kept] == list(range(made.durable, moment))
    if share == 0.0:
        assert made.kept == ()
