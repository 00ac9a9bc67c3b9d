"""The daemon where the system has less than Linux: what is missing is missed by nobody.

In a process of its own, before any of our modules is imported, all goes that Python has on Linux alone, and
the platform is called what illumos calls itself. What is Linux's own in /proc is left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: Names of Python that illumos lacks, or may lack: its headers and configure decide.
MISSING = {
    "os": (
        "O_PATH", "O_TMPFILE", "O_NOATIME", "SEEK_DATA", "SEEK_HOLE", "copy_file_range", "eventfd",
        "getxattr", "listxattr", "memfd_create", "pidfd_open", "pipe2", "posix_fadvise", "posix_fallocate",
        "POSIX_FADV_DONTNEED", "preadv", "pwritev", "sched_getaffinity", "sched_setaffinity", "setns",
        "splice", "unshare", "ST_NODEV", "RWF_NOWAIT", "getrandom",
    ),
    "socket": (
        "MSG_CMSG_CLOEXEC", "SO_PEERCRED", "SO_PASSCRED", "SCM_CREDENTIALS", "TCP_USER_TIMEOUT", "TCP_INFO",
        "SO_BINDTODEVICE", "MSG_ERRQUEUE", "AF_NETLINK", "AF_VSOCK", "AF_ALG",
    ),
    "fcntl": ("F_SETPIPE_SZ", "F_GETPIPE_SZ", "F_ADD_SEALS", "F_OFD_SETLK", "F_NOTIFY", "FICLONE"),
    "errno": ("EUCLEAN", "EREMOTEIO", "EKEYEXPIRED", "ENOMEDIUM", "EMEDIUMTYPE", "ENOTNAM", "EHWPOISON"),
    "signal": ("SIGSTKFLT",),
    "resource": ("prlimit", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_MEMLOCK"),
    "time": ("CLOCK_BOOTTIME", "CLOCK_TAI"),
}  # fmt: skip

TAKEN_AWAY = f"""
import importlib, json, sys
import {", ".join(MISSING)}
sys.platform = "sunos5"
import imgstored  # with its stand-in for kqueue
import trio
sys.platform = "linux"
import structlog  # which has platforms of its own
for module, names in {MISSING!r}.items():
    for name in names:
        vars(sys.modules[module]).pop(name, None)
sys.platform = "sunos5"
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TAKEN_AWAY + script, *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_names_are_those_of_python() -> None:
    """So that a slip of the pen takes away nothing: most of them are here, on Linux."""
    there = [name for module, names in MISSING.items() for name in names if hasattr(__import__(module), name)]
    assert len(there) > 35


def modules() -> list[str]:
    """All of ours but what needs what is not there: FUSE, and what runs when it is imported."""
    root = Path(__file__).parents[1]
    paths = [*(root / "imgstored").rglob("*.py"), *(root / "ctl" / "imgctl").rglob("*.py")]
    names = []
    for path in paths:
        base = root / "ctl" if "ctl" in path.relative_to(root).parts[0] else root
        name = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__") and name not in ("imgstored.view.fuse", "imgstored.view.operations"):
            names.append(name)
    return sorted(names)


def test_every_module_can_be_imported() -> None:
    script = "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
    assert len(modules()) > 200
    run(script, json.dumps(modules()))


def test_the_defaults_are_illumos() -> None:
    script = """
from imgstored.config.tables import Config
settings = Config()
print(json.dumps([settings.state, settings.socket.path, settings.view.path, settings.view.link]))
"""
    assert json.loads(run(script)) == [
        "/var/imgstored", "/var/run/imgstored/imgstored.sock", "/var/imgstored/images", "/images",
    ]  # fmt: skip


def test_the_defaults_are_linux() -> None:
    from imgstored.config.tables import Config

    assert (Config().view.path, Config().view.link) == ("/images", "")


@pytest.mark.parametrize("kind", ["filesystem", "volume"])
def test_an_embedded_pool(tmp_path: Path, kind: str) -> None:
    """Receives, clones and checks: no writev, no holes, no clone of a file, no advice to the kernel."""
    script = """
from pathlib import Path
from imgstored.pools.embedded import EmbeddedPool
from tests.support.streams import real_stream
pool = EmbeddedPool("zones", Path(sys.argv[1]))
uuids = ["11111111-aaaa-4bbb-8ccc-00000000000%d" % n for n in (1, 2)]
if sys.argv[2] == "volume":
    parts = [(uuids[0], "zvol", None)]
else:
    parts = [(uuids[0], "base", None), (uuids[1], "incremental", uuids[0])]
for uuid, name, origin in parts:
    data = real_stream(name)
    pool.receive(uuid, iter([data[at:at + 100_000] for at in range(0, len(data), 100_000)]), origin=origin)
    pool.publish(uuid)
    print(pool.image(uuid).kind, b"".join(pool.send(uuid)) == data)
"""
    lines = run(script, str(tmp_path / "pool"), kind).splitlines()
    assert len(lines) == (1 if kind == "volume" else 2)
    for line in lines:
        assert line.startswith(kind)


def test_a_pipe_of_zfs(tmp_path: Path) -> None:
    script = """
import os
from imgstored.pools.zfs.pipe import Inlet, outlet
got = []
def kernel(fd):
    while piece := os.read(fd, 1 << 16):
        got.append(piece)
inlet = Inlet("zones", kernel)
assert inlet.write(b"x" * 300_000) and inlet.finish() is None
assert b"".join(got) == b"x" * 300_000
assert b"".join(outlet("zones", lambda fd: os.write(fd, b"abc"))) == b"abc"
"""
    run(script)


def test_the_doctor(tmp_path: Path) -> None:
    """Nothing there fails by a mistake of ours."""
    (tmp_path / "imgstored.toml").write_text(
        f'state = "{tmp_path}/state"\nsources = []\n[view]\nmode = "auto"\npath = "{tmp_path}/images"\n'
        f'link = "{tmp_path}/link"\n'
    )
    script = """
from pathlib import Path
from imgstored.doctor.services import examined
print(json.dumps(examined([Path(sys.argv[1])])))
"""
    findings = json.loads(run(script, str(tmp_path / "imgstored.toml")))["findings"]
    assert [finding for finding in findings if "fault in imgstored" in finding["seen"]] == []
    failed = {finding["check"] for finding in findings if finding["status"] == "fail"}
    assert failed <= {"sources"}
