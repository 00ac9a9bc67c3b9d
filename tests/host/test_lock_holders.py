"""Who has a lock, as the kernel tells it."""

from __future__ import annotations

import fcntl
import os

import pytest

from imgstored.host import lock_holders
from imgstored.host.lock_holders import Holder
from tests.support.other_user import LOCK, UID, OtherUser


@pytest.fixture
def file(tmp_path):
    """A file that all may read."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o644)
    tmp_path.chmod(0o755)
    with path.open("r+b") as opened:
        yield opened


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_process_of_another_user(file, tmp_path, call):
    of = getattr(lock_holders, f"of_{call}")
    assert of(file.fileno()) is None
    with OtherUser(tmp_path, LOCK, "file", call, "LOCK_SH") as other:
        holder = of(file.fileno())
        assert (holder.pid, holder.uids) == (other.pid, {UID})
        assert holder.foreign == (os.geteuid() != UID)
        assert str(holder).startswith(f"pid {other.pid} (python")  # or python3, as the venv calls it
        assert call == "flock" or holder.shared
    assert of(file.fileno()) is None


def test_a_process_that_has_the_file_open_and_no_lock_is_none(file, tmp_path):
    with OtherUser(tmp_path, "os.open(args[0], os.O_RDONLY); done()", "file"):
        assert lock_holders.of_flock(file.fileno()) is None
        assert lock_holders.of_lockf(file.fileno()) is None


def test_this_process_is_not_foreign(file):
    with open(file.name, "rb") as again:  # noqa: PTH123
        fcntl.flock(again, fcntl.LOCK_EX)
        holder = lock_holders.of_flock(file.fileno())
    assert (holder.pid, holder.foreign) == (os.getpid(), False)


def test_a_process_that_names_itself_and_runs_as_root_for_another_user(file, tmp_path):
    """By exec of a program with root's rights a lock stays; the real uid is still that user's."""
    assert Holder(5, "sudo", frozenset({0, 12345})).foreign
    assert str(Holder(5, "sudo", frozenset({0, 12345}))) == "pid 5 (sudo, uid 12345)"
    assert not Holder(5, "imgadm", frozenset({0, os.geteuid()})).foreign
    assert (str(Holder(5)), Holder(5).foreign) == ("pid 5", False)
    name = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\x1b[31m\\nred', 0, 0, 0)\n"
    with OtherUser(tmp_path, name + LOCK, "file", "lockf", "LOCK_SH"):
        assert lock_holders.of_lockf(file.fileno()).name == "?[31m?red"
