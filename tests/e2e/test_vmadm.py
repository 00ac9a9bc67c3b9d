"""`imgctl vmadm` with the real daemon, and a stand-in for vmadm that asks for its images as that does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Served

MADE = "44444444-aaaa-4bbb-8ccc-000000000001"
#: More would show the same: `Client` alone, without a process each, is asked by fifty in test_on_demand.
MACHINES = 30
NOWHERE = "55555555-aaaa-4bbb-8ccc-000000000001"
STAND_IN = Path(__file__).parents[1] / "support" / "vmadm_stand_in.py"


class Vmadm:
    """Runs `imgctl vmadm` with the stand-in."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.record_file = folder / "record.json"
        program = folder / "vmadm"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {STAND_IN} "$@"\n')
        program.chmod(0o755)
        self.environment = {
            **os.environ,
            "IMGSTORED_SOCKET": str(daemon.socket),
            "IMGCTL_VMADM": str(program),
            "STAND_IN_RECORD": str(self.record_file),
        }

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-m", "imgctl", "vmadm", *arguments],
            **{"env": self.environment, **piped, **settings},
        )

    def __call__(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        process = self.start(*arguments)
        out, errors = process.communicate(given, timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    @contextlib.contextmanager
    def running(self, given: bytes) -> Iterator[subprocess.Popen[bytes]]:
        """`imgctl vmadm create`, once the stand-in has its payload."""
        with self.start("create") as process:
            assert process.stdin is not None
            process.stdin.write(given)
            process.stdin.close()
            until(self.started)
            yield process

    @property
    def record(self) -> dict[str, Any]:
        """How the stand-in was started."""
        found: dict[str, Any] = json.loads(self.record_file.read_text())
        return found

    def started(self) -> bool:
        return self.record_file.exists()


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Daemon:
    return shared_daemon


@pytest.fixture
def vmadm(daemon: Daemon, tmp_path: Path) -> Vmadm:
    return Vmadm(daemon, tmp_path)


def payload(**fields: Any) -> bytes:
    return json.dumps({"brand": "joyent", "image_uuid": BASE, **fields}, indent=1).encode() + b" \n\n"


def holds(daemon: Daemon, uuid: str) -> list[str]:
    with daemon.client() as client:
        return client.holds(uuid)


@pytest.mark.parametrize("from_file", [False, True], ids=["stdin", "file"])
def test_its_images_are_there_when_vmadm_runs(vmadm: Vmadm, tmp_path: Path, from_file: bool) -> None:
    given = payload(disks=[{"image_uuid": ZVOL}, {"size": 1}], add_disks=[{"image_uuid": INCREMENTAL}])
    arguments = ["create", "-f", str(tmp_path / "web.json")] if from_file else ["create"]
    (tmp_path / "web.json").write_bytes(given)
    done = vmadm(*arguments, given=b"" if from_file else given)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    record = vmadm.record
    assert record["argv"][1:] == arguments
    assert record["stdin"].encode("latin-1") == given
    assert [(image["uuid"], image["status"]) for image in record["images"]] == [
        (uuid, 0) for uuid in (BASE, ZVOL, INCREMENTAL)
    ]
    assert record["images"][0]["manifest"]["name"] == "base"


def test_streams_and_status_are_vmadms_own(vmadm: Vmadm) -> None:
    done = vmadm("validate", "create", given=payload(stand_in=[{"say": "VALID"}, {"exit": 7}]))
    assert (done.returncode, done.stdout, done.stderr) == (7, b"VALID\n", b"VALID\n")
    assert vmadm.record["argv"][1:] == ["validate", "create"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_the_signal_that_ends_vmadm_is_ours(vmadm: Vmadm, number: int) -> None:
    steps = [{"run": ["true"]}, {"signal": number}]
    done = vmadm("create", given=payload(stand_in=steps))
    assert done.returncode == (40 + number if number == signal.SIGTERM else -number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_vmadm(vmadm: Vmadm, number: int) -> None:
    with vmadm.running(payload(stand_in=[{"wait": "/nonexistent"}])) as process:
        process.send_signal(number)
        assert process.wait(30) == 40 + number


def test_the_keys_of_a_terminal_reach_vmadm(vmadm: Vmadm, tmp_path: Path) -> None:
    (tmp_path / "web.json").write_bytes(payload(stand_in=[{"wait": "/nonexistent"}]))
    master, slave = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    arguments = ("create", "-f", str(tmp_path / "web.json"))
    with vmadm.start(*arguments, **streams, start_new_session=True, preexec_fn=take_terminal) as process:
        os.close(slave)
        until(vmadm.started)
        os.write(master, b"\x03")
        assert process.wait(30) == 40 + signal.SIGINT
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert f"Imported image {BASE} (base@1.0.0)" in shown


def test_images_are_held_until_vmadm_has_ended(vmadm: Vmadm, daemon: Daemon, tmp_path: Path) -> None:
    with vmadm.running(payload(stand_in=[{"wait": str(tmp_path / "go")}])) as process:
        assert len(holds(daemon, BASE)) == 1
        assert "error (ImageHeld)" in daemon.imgctl("delete", BASE).stderr
        (tmp_path / "go").touch()
        assert process.wait(30) == 0
    until(lambda: holds(daemon, BASE) == [])
    assert daemon.imgctl("delete", BASE).returncode == 0


def test_who_is_killed_holds_nothing_any_more(vmadm: Vmadm, daemon: Daemon, tmp_path: Path) -> None:
    with vmadm.running(payload(stand_in=[{"wait": str(tmp_path / "go")}])) as process:
        assert len(holds(daemon, BASE)) == 1
        process.kill()
        process.wait()
        until(lambda: holds(daemon, BASE) == [])
        (tmp_path / "go").touch()


def test_without_its_image_vmadm_is_not_run(vmadm: Vmadm) -> None:
    done = vmadm("create", given=payload(disks=[{"image_uuid": NOWHERE}]))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"imgctl vmadm: error (ActiveImageNotFound): an active image" in done.stderr
    assert not vmadm.started()
    done = vmadm("create", given=payload(zpool="elsewhere"))
    assert done.returncode == 1
    assert b'no such pool: "elsewhere"' in done.stderr
    assert not vmadm.started()


@pytest.mark.parametrize(
    "given", [b"", b"{not json", b"\xff\xfe", b"[1]", b"7", b"[" * 100_000, b'{"image_uuid": "../x"}'],
    ids=["empty", "text", "bytes", "list", "number", "deep", "no uuid"],
)  # fmt: skip
def test_what_is_no_payload_is_vmadms_to_judge(vmadm: Vmadm, given: bytes) -> None:
    vmadm("create", given=given)
    assert vmadm.record["stdin"].encode("latin-1") == given


def test_images_of_several_pools(served: Served, tmp_path: Path) -> None:
    config = '[[pool]]\n[[pool]]\nname = "tank2"\n' + static_source(served.url)
    with Daemon(tmp_path / "two", config=config) as daemon:
        vmadm = Vmadm(daemon, tmp_path)
        disks = [{"image_uuid": ZVOL, "zpool": "tank2"}]
        assert vmadm("create", given=payload(disks=disks)).returncode == 0
        assert [image["status"] for image in vmadm.record["images"]] == [0, 0]
        with daemon.client() as client:
            assert {(image["zpool"], image["manifest"]["uuid"]) for image in client.list()} == {
                ("zones", BASE),
                ("tank2", ZVOL),
            }
        vmadm.record_file.unlink()
        done = vmadm("create", given=payload(disks=[{"image_uuid": NOWHERE, "zpool": "tank2"}]))
        assert done.returncode == 1
        assert b"error (ActiveImageNotFound)" in done.stderr
        assert not vmadm.started()


def test_what_is_too_large_is_refused(vmadm: Vmadm) -> None:
    done = vmadm("create", given=b" " * ((16 << 20) + 1))
    assert done.returncode == 1
    assert b"error (Usage): the payload has more than 16 MiB" in done.stderr
    assert not vmadm.started()
    large = payload(description="x" * (15 << 20))
    assert vmadm("create", given=large).returncode == 0
    assert vmadm.record["stdin"].encode() == large


def test_other_commands_are_just_run(vmadm: Vmadm, daemon: Daemon) -> None:
    daemon.stop()
    assert vmadm("list", "-H").returncode == 0
    assert vmadm.record["argv"][1:] == ["list", "-H"]


def test_a_host_without_vmadm(vmadm: Vmadm, served: Served) -> None:
    vmadm.environment["IMGCTL_VMADM"] = "/nonexistent/vmadm"
    done = vmadm("create", given=payload())
    assert done.returncode == 1
    assert b"error (NotInstalled): there is no program /nonexistent/vmadm" in done.stderr
    assert served.bytes_sent() == 0


@pytest.mark.slow
def test_many_machines_of_one_image_are_one_download(vmadm: Vmadm, served: Served, daemon: Daemon) -> None:
    served.pages.add(*made_image(MADE, size=8 << 20))
    size = (served.pages.folder / MADE / "file").stat().st_size
    quick = vmadm.record_file.parent / "quick"
    quick.write_text("#!/bin/sh\nexec cat >/dev/null\n")
    quick.chmod(0o755)
    vmadm.environment["IMGCTL_VMADM"] = str(quick)
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(vmadm.start("create", **nowhere)) for _ in range(MACHINES)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(payload(image_uuid=MADE))
            process.stdin.close()
        assert [process.wait(120) for process in processes] == [0] * MACHINES
    served.nginx.settled_hits()
    assert size <= served.bytes_sent() < 1.1 * size
    until(lambda: holds(daemon, MADE) == [])
