"""smf/systemd: what systemd's own tools say of the files, and the unit run by a real systemd.

That one is a user manager of root, in a mount namespace with a `/run` of its own: it reads the unit as the
host's would, forbids what that forbids, waits for `READY=1` and watches.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image_site import ImageSite
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "smf" / "systemd"
UNIT = UNITS / "imgstored.service"
NO_FUSE = UNITS / "imgstored.service.d" / "no-fuse.conf"
FIXTURES = ROOT / "tests" / "data"
COMMAND = "/opt/imgstore/bin/imgstored --config /etc/imgstored.toml"

#: Seconds, however busy the machine is.
TIMEOUT = 90

#: What gives a unit a mount namespace of its own (systemd.exec(5)).
NAMESPACED = re.compile(
    r"^(Bind(ReadOnly)?Paths|(No)?ExecPaths|InaccessiblePaths|MountAPIVFS|MountFlags"
    r"|Private(Devices|IPC|Mounts|Tmp|Users)|ProcSubset|ProtectProc|ProtectSystem|ProtectHome|ProtectControlGroups"
    r"|ProtectKernel(Logs|Modules|Tunables)|Read(Only|Write)Paths|Root(Directory|Image)|TemporaryFileSystem)=",
    re.MULTILINE,
)


def installed(folder: Path, command: str, *dropins: Path) -> Path:
    """The unit as in /etc/systemd/system, with another command."""
    text = UNIT.read_text()
    assert text.count(COMMAND) == 1
    unit = folder / "imgstored.service"
    unit.write_text(text.replace(COMMAND, command))
    for dropin in dropins:
        (folder / "imgstored.service.d").mkdir(exist_ok=True)
        shutil.copy(dropin, folder / "imgstored.service.d")
    return unit


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("dropins", [[], [NO_FUSE]])
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path, dropins):
    unit = installed(tmp_path, f"{sys.executable} -m imgstored", *dropins)
    assert analyze("verify", "--man=no", unit) == ""


#: The units of upkeep, and their programs.
UPKEEP = {
    "imgstored-update": "/opt/imgstore/bin/imgctl update",
    "imgstored-vacuum": "/opt/imgstore/bin/imgctl vacuum --force --older-than 30d --keep 2",
}


def installed_upkeep(folder: Path, name: str) -> Path:
    """A unit of upkeep with its timer, with this checkout's imgctl."""
    text = (UNITS / f"{name}.service").read_text()
    assert text.count(f"ExecStart={UPKEEP[name]}\n") == 1
    unit = folder / f"{name}.service"
    unit.write_text(text.replace("/opt/imgstore/bin/imgctl", f"{sys.executable} -m imgctl"))
    shutil.copy(UNITS / f"{name}.timer", folder)
    return unit


@pytest.mark.parametrize("name", UPKEEP)
def test_systemd_has_nothing_to_say_against_the_timers(tmp_path, name):
    installed(tmp_path, f"{sys.executable} -m imgstored")
    unit = installed_upkeep(tmp_path, name)
    assert analyze("verify", "--man=no", unit, unit.with_suffix(".timer")) == ""


@pytest.mark.parametrize(("dropins", "bound"), [([], 3.9), ([NO_FUSE], 2.2)])
def test_how_exposed_the_service_is(tmp_path, dropins, bound):
    unit = installed(tmp_path, COMMAND, *dropins)
    said = analyze("security", "--offline=true", "--no-pager", unit)
    level = re.search(r"Overall exposure level for imgstored.service: ([0-9.]+)", said)
    assert level, said
    assert float(level[1]) <= bound


def test_the_unit_has_no_mount_namespace_of_its_own():
    """In one, the view would be mounted where nobody sees it."""
    assert not NAMESPACED.search(UNIT.read_text())
    assert NAMESPACED.search(NO_FUSE.read_text())


def test_the_group_and_the_folder_are_made(tmp_path):
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", UNITS / "sysusers.d" / "imgstored.conf"],
        check=True,
        timeout=TIMEOUT,
    )
    assert "imgstore:" in (tmp_path / "etc" / "group").read_text()
    subprocess.run(
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", UNITS / "tmpfiles.d" / "imgstored.conf"],
        check=True,
        timeout=TIMEOUT,
    )
    assert (tmp_path / "images").stat().st_mode & 0o777 == 0o755


# -- run by a real systemd -----------------------------------------------------------------------------------

#: A /run of its own, with what PID 1 has there, and the group that sysusers.d makes.
SETUP = """
set -e
mount --make-rprivate /
mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/manager/systemd/user /run/imgstored /run/test/images
mkdir -m 0 /run/systemd/inaccessible /run/systemd/inaccessible/dir
install -m 0 /dev/null /run/systemd/inaccessible/reg
mknod -m 0 /run/systemd/inaccessible/chr c 0 0
{ grep -v '^imgstore:' /etc/group; echo 'imgstore:x:990:'; } >/run/group
mount --bind /run/group /etc/group
exec /lib/systemd/systemd --user --log-target=console
"""

#: Without FUSE the unit sees no /tmp and no /home: this tree, and its Python, may be in there.
NO_FUSE_HERE = f"{NO_FUSE.read_text()}\n[Service]\nBindReadOnlyPaths={ROOT} {Path(sys.prefix).resolve()}\n"

#: So that a test need not wait as long as an operator would like to.
QUICK = "[Service]\nRestartSec=100ms\nStandardError=append:/run/test/log\n"


class Systemd:
    """A systemd of our own, with imgstored's unit. All that is of this host's is in its /run."""

    def __init__(self, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": "/run/manager",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "IMGSTORED_SOCKET": "/run/test/s.sock",
            # Else systemctl gives up a manager that has not answered for 25 s.
            "SYSTEMD_BUS_TIMEOUT": str(TIMEOUT),
        }
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", SETUP],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self.run_folder = Path(f"/proc/{self._process.pid}/root/run")
        await_that(lambda: (self.run_folder / "manager/systemd/private").exists())
        installed(
            self.run_folder / "manager/systemd/user",
            f"{sys.executable} -m imgstored --config /run/test/imgstored.toml",
        )
        self.configure()
        self.drop_in(QUICK)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()

    def configure(self, more: str = 'view.mode = "fuse"\n') -> None:
        (self.run_folder / "test/imgstored.toml").write_text(
            'state = "/run/test/state"\nsocket.path = "/run/test/s.sock"\n'
            'socket.group = "imgstore"\nview.path = "/run/test/images"\n' + more
        )

    def drop_in(self, text: str) -> None:
        folder = self.run_folder / "manager/systemd/user/imgstored.service.d"
        folder.mkdir(exist_ok=True)
        (folder / f"{len(list(folder.iterdir()))}.conf").write_text(text)
        assert self.systemctl("daemon-reload") == 0

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command beside the service: it sees what the host's other programs see."""
        done = subprocess.run(
            ["nsenter", f"--target={self._process.pid}", "--mount", "--", *command],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.told()}"
        return done

    def systemctl(self, *words: str) -> int:
        return self.run("systemctl", "--user", *words, check=False).returncode

    def shown(self, name: str) -> str:
        return self.run(
            "systemctl", "--user", "show", "--property", name, "--value", "imgstored"
        ).stdout.strip()

    def told(self) -> str:
        """What systemd and the daemon say, for a test that fails."""
        status = self.run("systemctl", "--user", "--no-pager", "status", "imgstored", check=False)
        return f"{status.stdout}{status.stderr}\n{self.log}"

    def imgctl(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "imgctl", *arguments).stdout

    @property
    def log(self) -> str:
        file = self.run_folder / "test/log"
        return file.read_text() if file.exists() else ""

    @property
    def pid(self) -> int:
        return int(self.shown("MainPID"))


def await_that(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def systemd(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """One at a time: two would share a control group, and each end what the other has started."""
    with (tmp_path_factory.getbasetemp().parent / "systemd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = Systemd(tmp_path)
        try:
            yield started
        finally:
            started.close()


by_root = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a systemd beside the host's"),
]


def use(systemd: Systemd) -> None:
    """Installs an image, with a helper program, and looks at it as somebody else would."""
    for name, kind in (("base", "gz"), ("zvol", "bz2")):
        image = FIXTURES / name
        systemd.imgctl("install", "-m", f"{image}.imgmanifest", "-f", f"{image}.{'zfs.' + kind}")
    uuids = systemd.imgctl("list", "-H", "-o", "uuid").split()
    assert len(uuids) == 2
    shown = systemd.run("ls", "/run/test/images").stdout.split()
    assert set(uuids) < set(shown)
    assert "base" in systemd.run("cat", f"/run/test/images/{uuids[0]}/manifest.json").stdout


@pytest.mark.parametrize("kind", ["fuse", "files"])
class TestRun:
    pytestmark = by_root

    def test_it_works_with_what_the_unit_forbids(self, systemd, kind):
        if kind == "files":
            systemd.configure('view.mode = "files"\n')
            systemd.drop_in(NO_FUSE_HERE)
        assert systemd.systemctl("start", "imgstored") == 0, systemd.told()
        # It is active, so requests are answered.
        assert systemd.imgctl("list", "-H") == ""
        status = Path(f"/proc/{systemd.pid}/status").read_text()
        assert re.search(r"^CapBnd:\t0*200000$", status, re.MULTILINE), "CAP_SYS_ADMIN"
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert (systemd.run_folder / "test/s.sock").stat().st_gid == 990
        use(systemd)
        mounted = systemd.run("findmnt", "--noheadings", "/run/test/images", check=False).stdout
        assert ("fuse" in mounted) == (kind == "fuse")

        assert systemd.systemctl("reload", "imgstored") == 0
        await_that(lambda: "read the configuration again" in systemd.log)
        assert systemd.shown("ActiveState") == "active"
        assert systemd.systemctl("stop", "imgstored") == 0
        assert (systemd.shown("Result"), systemd.shown("ExecMainStatus")) == ("success", "0")
        assert systemd.run("findmnt", "/run/test/images", check=False).stdout == ""


class TestUpkeep:
    pytestmark = by_root

    def test_the_timers_services_run_beside_the_daemon_and_not_without_it(self, systemd, tmp_path):
        units = systemd.run_folder / "manager/systemd/user"
        for name in UPKEEP:
            unit = installed_upkeep(units, name)
            (units / f"{unit.name}.d").mkdir()
            (units / f"{unit.name}.d" / "here.conf").write_text(
                f"[Service]\nBindReadOnlyPaths={ROOT} {Path(sys.prefix).resolve()}\n"
                f"PassEnvironment=IMGSTORED_SOCKET\nStandardError=append:/run/test/log\n"
                f"StandardOutput=append:/run/test/log\n"
            )
        assert systemd.systemctl("daemon-reload") == 0
        assert systemd.systemctl("start", "imgstored-vacuum.service") != 0
        site = ImageSite(tmp_path / "site")
        site.add_fixtures()
        with Nginx(tmp_path / "nginx", root=site.folder) as nginx:
            source = f'[[sources]]\nurl = "{nginx.url}"\ntype = "static"\n'
            systemd.configure(f'view.mode = "off"\n{source}')
            assert systemd.systemctl("start", "imgstored") == 0, systemd.told()
            base = FIXTURES / "base"
            systemd.imgctl("install", "-m", f"{base}.imgmanifest", "-f", f"{base}.zfs.gz")
            for name in UPKEEP:
                assert systemd.systemctl("start", f"{name}.service") == 0, systemd.told()
                assert systemd.systemctl("start", f"{name}.timer") == 0, systemd.told()
        # What was installed a moment ago is no older than 30 days.
        assert len(systemd.imgctl("list", "-H", "-o", "uuid").split()) == 1


#: What the receive of a ZFS pool does before it goes into the kernel, and one thing that is forbidden.
PROBE = """
import ctypes, os, threading
from imgstored.pools.zfs.pipe import unshare_fd_table
reading, writing = os.pipe()
kept = []
thread = threading.Thread(target=lambda: kept.append(unshare_fd_table(reading)))
thread.start()
thread.join()
assert kept == [True]
os.write(writing, b"the other threads keep theirs")
CLONE_NEWNS = 0x20000
assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == -1
"""


class TestSandbox:
    pytestmark = by_root

    @pytest.mark.parametrize("dropins", [[], [NO_FUSE]])
    def test_a_receive_gets_its_own_table_of_files(self, systemd, tmp_path, dropins):
        """There is no ZFS here, but this much of it can be tried."""
        (systemd.run_folder / "test/probe.py").write_text(PROBE)
        units = tmp_path / "probe"
        units.mkdir()
        installed(units, f"{sys.executable} /run/test/probe.py")
        unit = (units / "imgstored.service").read_text().replace("Type=notify", "Type=oneshot")
        if dropins:
            systemd.drop_in(NO_FUSE_HERE)
        (systemd.run_folder / "manager/systemd/user/imgstored.service").write_text(
            unit.replace("Restart=on-failure", "Restart=no")
        )
        assert systemd.systemctl("daemon-reload") == 0
        assert systemd.systemctl("start", "imgstored") == 0, systemd.told()


class TestFailures:
    pytestmark = by_root

    def test_a_daemon_that_hangs_is_started_again(self, systemd):
        systemd.drop_in("[Service]\nWatchdogSec=1\n")
        assert systemd.systemctl("start", "imgstored") == 0, systemd.told()
        hung = systemd.pid
        os.kill(hung, signal.SIGSTOP)
        await_that(lambda: systemd.pid not in (0, hung) and systemd.shown("ActiveState") == "active")
        assert int(systemd.shown("NRestarts")) >= 1
        assert systemd.log.count('"ready"') >= 2

    def test_a_daemon_that_is_killed_is_started_again(self, systemd):
        assert systemd.systemctl("start", "imgstored") == 0, systemd.told()
        killed = systemd.pid
        os.kill(killed, signal.SIGKILL)
        await_that(lambda: systemd.pid not in (0, killed) and systemd.shown("ActiveState") == "active")
        use(systemd)

    @pytest.mark.parametrize("wrong", ["nonsense = 1\n", 'view.mode = "files"\nimgadm = "/dev/null"\n'])
    def test_a_wrong_configuration_is_not_tried_again(self, systemd, wrong):
        systemd.configure(wrong)
        assert systemd.systemctl("start", "imgstored") != 0
        # What is to be tried again is never that.
        await_that(lambda: systemd.shown("ActiveState") == "failed")
        assert (systemd.shown("ExecMainStatus"), systemd.shown("NRestarts")) == ("78", "0")

    def test_what_may_pass_is_tried_again(self, systemd):
        systemd.configure('imgadm = "/run/test/imgadm"\npool.type = "zfs"\npool.name = "no-such-pool"\n')
        systemd.systemctl("start", "--no-block", "imgstored")
        await_that(lambda: int(systemd.shown("NRestarts")) >= 2)
        systemd.configure()
        await_that(lambda: systemd.shown("ActiveState") == "active")
