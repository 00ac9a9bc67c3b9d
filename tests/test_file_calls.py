"""What finds calls to files in the event loop's thread finds them, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from imgstored.host import filesystem
from imgstored.sources import imgadm_conf
from tests.support import file_calls

ROOT = Path(__file__).parents[1]

#: Stands for a module of imgstored: the functions are found by the file that they say they are in.
_MODULE = """
import os, sqlite3, subprocess, sys, trio
from pathlib import Path
async def reading(path):
    return Path(path).read_text()
async def looking(path):
    return os.stat(path)
async def closing(fd):
    os.pread(fd, 1, 0)
    os.close(fd)
async def asking(path):
    sqlite3.connect(path).close()
async def starting(_):
    subprocess.run(["/bin/true"], check=True)
async def in_thread(path):
    await trio.to_thread.run_sync(os.stat, path)
async def pipe(_):
    ends = os.pipe()
    os.write(ends[1], b"x")
    os.read(ends[0], 1)
    for end in ends:
        os.close(end)
async def importing(_):
    import this_is_no_module
def plain(path):
    os.stat(path)
async def by_callback(path):
    done = trio.Event()
    def look():
        os.stat(path)
        done.set()
    trio.lowlevel.current_trio_token().run_sync_soon(look)
    await done.wait()
"""


@pytest.fixture
def module():
    """The functions above."""
    names: dict[str, object] = {}
    exec(compile(_MODULE, str(ROOT / "imgstored" / "made_up.py"), "exec"), names)
    yield names
    file_calls.found.clear()


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        ("reading", {"open"}),
        ("looking", {"os.stat"}),
        ("closing", {"os.pread", "os.close"}),
        ("asking", {"sqlite3.connect"}),
        ("starting", {"subprocess.Popen"}),
        ("by_callback", {"os.stat"}),
        ("in_thread", set()),
        ("pipe", set()),
    ],
)
async def test_which_calls_are_found(module, tmp_path, function, calls):
    path = tmp_path / "file"
    path.write_text("x")
    given = os.open(path, os.O_RDONLY) if function == "closing" else path
    await module[function](given)
    by = {text.partition(" by ")[0]: text for text in file_calls.found}
    assert calls <= set(by)
    assert bool(calls) == bool(by)
    assert all("imgstored.made_up:" in text for text in by.values())


async def test_a_module_that_is_imported_is_no_matter(module):
    with pytest.raises(ModuleNotFoundError):
        await module["importing"](None)
    assert file_calls.found == []


async def test_what_a_test_calls_by_itself_is_no_matter(module, tmp_path):
    module["plain"](tmp_path)
    filesystem.replace_file(tmp_path / "file", b"x", mode=0o600)
    await trio.to_thread.run_sync(os.stat, tmp_path)
    assert file_calls.found == []


def test_outside_of_the_event_loop_all_may_be_called(module, tmp_path):
    module["plain"](tmp_path)
    assert file_calls.found == []


def test_each_exception_is_about_something_that_there_is():
    for name in (*file_calls.ALLOWED, *file_calls._START):
        module, _, function = name.partition(":")
        path = ROOT / (module.replace(".", "/") + ".py")
        assert path.is_file(), name
        assert function == "" or f"def {function.rpartition('.')[2]}(" in path.read_text(), name
    assert imgadm_conf.ImgadmConf._read


def test_a_process_writes_it_down(tmp_path):
    report = tmp_path / "calls"
    made_up = ROOT / "imgstored" / "made_up.py"
    program = (
        "import sys, trio\nfrom tests.support import file_calls\nfile_calls.watch()\nnames = {}\n"
        f"exec(compile({_MODULE!r}, {str(made_up)!r}, 'exec'), names)\n"
        "trio.run(names['looking'], '/')\ntrio.run(names['looking'], '/')\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=ROOT,
        env={**os.environ, file_calls.REPORT: str(report)},
    )
    assert report.read_text() == "os.stat by imgstored.made_up:looking\n"
    assert "os.stat by" in file_calls.message(report.read_text().splitlines())
