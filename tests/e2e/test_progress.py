"""What people see of imports that take long, are interrupted, or outlive a daemon, on real terminals."""

from __future__ import annotations

import json
import os
import re
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import gated, made_image, static_source
from tests.e2e.test_on_demand import jobs, until
from tests.e2e.test_status import SlowDaemon
from tests.support.terminal import Terminal, screen

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

MADE = "44444444-aaaa-4bbb-8ccc-000000000011"
OTHER = "44444444-aaaa-4bbb-8ccc-000000000012"
MIB = 1 << 20

pytestmark = pytest.mark.slow

#: Letters of a bar, and what tells a terminal where to go.
BLOCKS = "▏▎▍▌▋▊▉█"
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def terminal(daemon: Daemon, *arguments: str, columns: int = 100, **environment: str) -> Terminal:
    settings = {**os.environ, "IMGSTORED_SOCKET": str(daemon.socket), "LC_ALL": "C.UTF-8"}
    settings |= {"IMGCTL_RECONNECT": "", **environment}  # as where nobody sets it
    return Terminal([sys.executable, "-m", "imgctl", *arguments], settings, size=(24, columns))


def lines(shown: bytes) -> list[str]:
    """Each line that was drawn, also over another one."""
    # What was read last may end within a character.
    text = CONTROLS.sub("", shown.decode(errors="ignore"))
    return [line.rstrip() for line in re.split(r"[\r\n]", text) if line.strip()]


def percents(shown: bytes, name: str) -> list[int]:
    return [
        int(found[1]) for line in lines(shown) if (found := re.match(rf"{re.escape(name)} +(\d+)%", line))
    ]


def add(served: Any, *uuids: str, size: int = 8 * MIB) -> int:
    """Images of the server; returns the size of one file."""
    for seed, uuid in enumerate(uuids, 1):
        manifest, file = made_image(uuid, size=size, seed=seed)
        served.pages.add(manifest, file)
    return len(file)


# -- how far it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["streaming", "first"])
def test_a_slow_pool_says_how_far_the_image_is(served, tmp_path, verify):
    add(served, MADE, size=12 * MIB)
    with (
        SlowDaemon(tmp_path / "store", config=static_source(served.url, verify=verify)) as daemon,
        terminal(daemon, "import", MADE) as shown,
    ):
        assert shown.end() == 0
    seen = percents(shown.shown, "made-1@1.0.0")
    # The download is a matter of moments: it is the pool that counts, and nothing is complete before the end.
    assert len({percent for percent in seen if 5 <= percent <= 95}) >= 5
    assert max(seen) < 100
    assert sum(after < before for before, after in pairwise(seen)) <= 2
    complete = [line for line in lines(shown.shown) if re.search(r"(\d+\.\d MiB) of \1", line)]
    assert any(", pool" in line and " left" in line for line in complete)
    assert all(len(line) <= 100 for line in lines(shown.shown) if "%" in line)


@pytest.mark.parametrize(
    ("columns", "environment"),
    [
        (100, {}),
        (100, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}),
        (40, {}),
        (40, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}),
    ],
)
def test_a_line_for_each_image_and_one_for_all(served, gate, tmp_path, columns, environment):
    # Less than a whole file: neither is complete, even if one gets all of it.
    passing = add(served, MADE, OTHER) * 7 // 8
    gate.hold(after=passing)
    with (
        gated(served, gate, tmp_path / "slow", MADE, OTHER, connections=1) as daemon,
        terminal(daemon, "import", MADE, OTHER, columns=columns, **environment) as shown,
    ):
        # What passes, and not a rate, says how far both of them are together.
        until(lambda: sum(job["done"] for job in jobs(daemon)) >= passing - MIB)
        # Nearly half of the bytes are there; of each image the last MiB may not be taken yet.
        until(
            lambda: shown.read_some(0.1) and max(percents(shown.shown, "2 images"), default=0) >= 10,
            seconds=60,
        )
        gate.open()
        assert shown.end() == 0
    drawn = [line for line in lines(shown.shown) if "%" in line]
    for name in ("made-1@1.0.0", "made-2@1.0.0", "2 images"):
        assert any(line.startswith(name) for line in drawn), name
    assert all(len(line) <= columns for line in drawn)
    assert any(letter in "".join(drawn) for letter in BLOCKS) == (columns == 100 and not environment)
    if environment:
        assert shown.shown.isascii()
        assert not re.search(rb"\x1b\[\d+m", shown.shown)
    # In the end only lines about what happened are there.
    assert not [line for line in screen(shown.shown) if "%" in line]
    assert screen(shown.shown)[-1] == "2 images installed"


def test_what_was_there_counts_for_the_percentage_and_not_for_the_rate(served, gate, tmp_path):
    size = add(served, MADE, size=16 * MIB)
    gate.hold(after=size // 2)
    with gated(served, gate, tmp_path / "slow", MADE, connections=2) as daemon:
        with terminal(daemon, "import", MADE) as shown:
            until(lambda: any(job["done"] >= size // 2 for job in jobs(daemon)))
            shown.wait_for("made-1@1.0.0")
            shown.read_for(0.5)
            shown.type("\x03")
            assert shown.end() == 130
        (said,) = [line for line in lines(shown.shown) if "kept" in line]
        kept = re.fullmatch(
            r"imgctl: interrupted: (\d+\.\d) MiB kept(?: of .*)?; the same command continues", said
        )
        assert kept is not None
        assert not [line for line in screen(shown.shown) if "%" in line]
        until(lambda: jobs(daemon) == [])
        gate.hold()
        with terminal(daemon, "import", MADE) as shown:
            until(lambda: any(job["done"] for job in jobs(daemon)))
            seen = []
            for _ in range(15):
                seen += jobs(daemon)
                shown.read_for(0.1)
            # Ranges that were complete are there, as many as was said; and nothing comes.
            assert {job["done"] // 100 for job in seen} <= {seen[0]["done"] // 100}
            assert abs(seen[0]["done"] / MIB - float(kept[1])) <= 0.1
            assert max(job["rate"] for job in seen) < 1000
            assert seen[-1]["fraction"] == pytest.approx(seen[-1]["done"] / size, abs=0.02)
            assert not re.search(r"\d [KMG]iB/s", CONTROLS.sub("", shown.shown.decode()))
            gate.open()
            assert shown.end() == 0


def test_imgadm_counts_bytes_as_before(served, gate, tmp_path):
    size = add(served, MADE)
    gate.hold(after=size // 2)
    imgadm = "import sys; sys.argv[0] = 'imgadm'; from imgctl.cli import main; sys.exit(main())"
    with gated(served, gate, tmp_path / "slow", MADE, connections=2) as daemon:
        environment = {**os.environ, "IMGSTORED_SOCKET": str(daemon.socket), "LC_ALL": "C.UTF-8"}
        command = [sys.executable, "-c", imgadm, "import", MADE]
        with Terminal(command, environment, size=(24, 100)) as shown:
            shown.wait_for("Download 1 image:")
            until(lambda: any(job["done"] >= size // 2 for job in jobs(daemon)))
            until(lambda: shown.read_for(0.1) or re.search(rb" (49|50)%", shown.shown))
            shown.type("\x03")
            assert shown.end() == 130
    drawn = [line for line in lines(shown.shown) if "%" in line]
    assert re.fullmatch(
        r"Download 1 image: +(49|50)%\|.*\| \d\.\d MiB of \d\.\d MiB \[\d\d:\d\d<(\d\d:\d\d|\?), .*\](\^C)?",
        drawn[-1],
    )
    assert "kept" not in shown.shown.decode()


# -- a daemon that goes away ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["kill", "stop"])
@pytest.mark.parametrize("command", ["import", "ensure"])
def test_an_import_goes_on_when_the_daemon_is_back(served, gate, tmp_path, ending, command):
    size = add(served, MADE)
    gate.hold(after=size // 2)
    with gated(served, gate, tmp_path / "slow", MADE, connections=2) as daemon:
        with terminal(daemon, command, MADE) as shown:
            until(lambda: any(job["done"] >= size // 2 for job in jobs(daemon)))
            getattr(daemon, ending)()
            shown.wait_for("; waiting for it, for up to 2m")
            daemon.start()
            shown.wait_for("imgstored is back")
            gate.open()
            assert shown.end() == 0
        said = lines(shown.shown)
        assert [line for line in said if line.startswith("Imported image")] == [
            f"Imported image {MADE} (made-1@1.0.0)"
        ]
        # What was said before is not said again; what was there is.
        assert sum(line.startswith("Importing") for line in said) == 1
        assert any(line.startswith(f"Resuming image {MADE}") for line in said)


def test_a_daemon_that_does_not_come_back_is_an_error(served, gate, tmp_path):
    add(served, MADE)
    gate.hold(after=MIB)
    with (
        gated(served, gate, tmp_path / "slow", MADE) as daemon,
        terminal(daemon, "import", MADE, IMGCTL_RECONNECT="1") as shown,
    ):
        until(lambda: jobs(daemon) != [])
        daemon.kill()
        assert shown.end() == 1
        assert "closed the connection, and was not back within 1s" in shown.shown.decode()


def test_the_client_for_python_waits_if_it_is_told_to(served, gate, tmp_path):
    from imgctl import Client

    size = add(served, MADE)
    gate.hold(after=size // 2)
    with gated(served, gate, tmp_path / "slow", MADE, connections=2) as daemon:
        notes: list[str] = []

        def heard(event: Any) -> None:
            if event["event"] == "progress" and event["done"] >= size // 2 and not notes:
                daemon.kill()
            if event["event"] == "note":
                notes.append(event["text"])
                if "waiting" in event["text"]:
                    daemon.start()
                    gate.open()

        with Client(str(daemon.socket), reconnect=60) as client:
            client.ensure(MADE, on_event=heard)
            assert [image["manifest"]["uuid"] for image in client.list()] == [MADE]
        assert [note for note in notes if "imgstored" in note][1] == "imgstored is back"


# -- nobody waits for it -------------------------------------------------------------------------------------


def test_a_detached_import_outlives_its_client_and_the_daemon(served, gate, tmp_path):
    size = add(served, MADE)
    gate.hold(after=size // 2)
    with gated(served, gate, tmp_path / "slow", MADE, connections=2) as daemon:
        done = daemon.imgctl("import", "--detach", MADE)
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1] == (
            f"Image {MADE} is being imported; `imgctl wait {MADE}` waits for it"
        )
        until(lambda: any(job["done"] >= size // 2 for job in jobs(daemon)))
        (job,) = jobs(daemon)
        assert len(job["clients"]) == 1
        assert job["clients"][0].endswith(", detached")
        assert daemon.imgctl("wait", "-t", "0.5", MADE).returncode == 124
        assert jobs(daemon) != []  # who waits no longer ends nothing
        with terminal(daemon, "wait", "made-1") as shown:
            shown.wait_for("made-1@1.0.0")
            daemon.kill()
            shown.wait_for("waiting for it")
            daemon.start()
            until(lambda: jobs(daemon) != [])
            gate.open()
            assert shown.end() == 0
        assert daemon.imgctl("wait", MADE).returncode == 0
        assert daemon.imgctl("wait", "-t", "0", MADE).returncode == 0
        assert daemon.imgctl("import", "--detach", MADE).stdout.endswith("already installed, skipping\n")


def test_a_detached_import_is_cancelled_and_who_waits_hears_why(served, gate, tmp_path):
    add(served, MADE)
    gate.hold(after=MIB)
    with gated(served, gate, tmp_path / "slow", MADE) as daemon:
        assert daemon.imgctl("ensure", "--detach", MADE).returncode == 0
        with terminal(daemon, "wait", MADE) as shown:
            shown.wait_for("made-1@1.0.0")
            assert daemon.imgctl("cancel", MADE).returncode == 0
            assert shown.end() == 1
        assert "error (Cancelled)" in shown.shown.decode()
        assert jobs(daemon) == []
        # Who asks later hears the same.
        late = daemon.imgctl("wait", MADE)
        assert (late.returncode, "error (Cancelled)" in late.stderr) == (1, True)
        daemon.kill()
        daemon.start()
        assert jobs(daemon) == []


def test_wait_for_what_nobody_imports(served, tmp_path):
    with SlowDaemon(tmp_path / "store", config=static_source(served.url)) as daemon:
        refused = daemon.imgctl("wait", MADE)
        assert (refused.returncode, "ImageNotInstalled" in refused.stderr) == (3, True)
        failed = daemon.imgctl("import", "--detach", MADE)
        assert "ActiveImageNotFound" in failed.stderr
        assert daemon.imgctl("wait", MADE).stderr.startswith("imgctl wait: error (ActiveImageNotFound)")


def test_an_unfinished_import_whose_source_is_down_is_waited_for_and_cancelled(served, gate, tmp_path):
    add(served, MADE)
    gate.hold(after=MIB)
    with gated(served, gate, tmp_path / "slow", MADE) as daemon:
        assert daemon.imgctl("import", "--detach", MADE).returncode == 0
        daemon.kill()
        served.nginx.stop()
        daemon.start()
        with terminal(daemon, "wait", MADE) as shown:
            shown.wait_for("the import waits, and is tried again")
            assert daemon.imgctl("cancel", MADE).returncode == 0
            assert shown.end() == 3
        served.nginx.start()
        daemon.kill()
        daemon.start()
        assert jobs(daemon) == []


def test_watch_says_nothing_while_nothing_happens(served, gate, tmp_path):
    add(served, MADE)
    gate.hold(after=MIB)
    with (
        gated(served, gate, tmp_path / "slow", MADE) as daemon,
        terminal(daemon, "watch", "-j") as shown,
    ):
        until(lambda: "watch" in daemon.log.read_text() or True)
        shown.read_for(1.5)
        assert shown.shown == b""
        assert daemon.imgctl("import", "--detach", MADE).returncode == 0
        shown.wait_for('"progress"')
        assert daemon.imgctl("cancel", MADE).returncode == 0
        shown.wait_for('"images": []')
        shown.read_for(1.0)
        empty = [line for line in lines(shown.shown) if json.loads(line).get("images") == []]
        assert len(empty) == 1
