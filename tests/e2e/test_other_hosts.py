"""Another host by a real sshd: `imgctl -H`, `imgctl copy`, and what ssh is never given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from imgctl import Client
from imgctl.errors import InvalidArgumentError, NotConnectedError, UsageError
from imgctl.ssh import Host

from tests.e2e.conftest import static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL
from tests.support.sshd import Sshd
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 120


class Two:
    """A host with a daemon, which is this one, and another one, to which ssh leads."""

    def __init__(self, here: Daemon, there: Daemon, sshd: Sshd) -> None:
        self.here, self.there, self.sshd = here, there, sshd

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.sshd.environment, "IMGSTORED_SOCKET": str(self.here.socket)}

    def imgctl(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "imgctl", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def there_are(self) -> set[str]:
        return set(self.there.imgctl("list", "-q").stdout.split())


@pytest.fixture
def two(served, tmp_path: Path) -> Iterator[Two]:
    config = static_source(served.url)
    with (
        Daemon(tmp_path / "here", config=config, view="off") as here,
        Daemon(tmp_path / "there", top="sources = []", view="off") as there,
        Sshd(tmp_path / "ssh", there.socket) as sshd,
    ):
        yield Two(here, there, sshd)


@pytest.mark.slow
def test_commands_run_against_the_other_host(two):
    two.here.imgctl("import", BASE, check=True)
    listed = two.imgctl("-H", f"ssh://{two.sshd.address}", "list", "-q")
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "")
    two.imgctl("copy", "base", two.sshd.address)
    # An address of ~/.ssh/config; names are resolved there.
    for host in (two.sshd.address, "other"):
        shown = two.imgctl("-H", host, "get", "base")
        assert json.loads(shown.stdout)["manifest"]["uuid"] == BASE
    deleted = two.imgctl("--host", "other", "delete", "base")
    assert (deleted.returncode, deleted.stdout) == (0, f"Deleted image {BASE}\n")
    refused = two.imgctl("-H", "other", "delete", BASE)
    assert (refused.returncode, "ImageNotInstalled" in refused.stderr) == (3, True)
    # This host has its image still.
    assert two.here.imgctl("list", "-q").stdout.split() == [BASE]
    status = json.loads(two.imgctl("-H", "other", "status", "-j").stdout)
    assert status["pid"] == two.there.pid
    found = json.loads(two.imgctl("-H", "other", "doctor", "-j").stdout)["findings"]
    assert found[0]["check"] == "daemon"
    assert f'state = "{two.there.folder}/state"' in two.imgctl("-H", "other", "config", "show").stdout


@pytest.mark.slow
def test_python_programs_reach_it_as_well(two, monkeypatch):
    for name, value in two.sshd.environment.items():
        monkeypatch.setenv(name, value)
    with Client("ssh://other", timeout=60) as client:
        assert client.list() == []
        with pytest.raises(InvalidArgumentError, match="cannot open files of this one"):
            client.install({"uuid": BASE}, os.devnull)
        # The connection is as good as before.
        assert client.jobs() == []
    assert two.there.stop() == 0
    with pytest.raises(NotConnectedError, match=r"ssh to other ended with status 1"):
        Client("ssh://other", timeout=60).list()


@pytest.mark.slow
def test_an_image_is_copied_with_the_origins_that_are_not_there(two):
    two.here.imgctl("import", INCREMENTAL, ZVOL, check=True)
    copied = two.imgctl("copy", "incremental", two.sshd.address)
    assert (copied.returncode, copied.stderr) == (0, "")
    assert copied.stdout.splitlines() == [
        f"Copied image {BASE} (base@1.0.0) to 127.0.0.1",
        f"Copied image {INCREMENTAL} (incremental@1.0.0) to 127.0.0.1",
    ]
    assert two.there_are() == {BASE, INCREMENTAL}
    # The same manifest but for its files, whose stream is this host's.
    here, there = (
        json.loads(daemon.imgctl("get", INCREMENTAL).stdout)["manifest"] for daemon in (two.here, two.there)
    )
    assert {**here, "files": None} == {**there, "files": None}
    assert two.there.imgctl("verify").returncode == 0

    again = two.imgctl("copy", "-c", "gzip", "incremental", "zvol", "nothing", "other")
    assert again.returncode == 3
    assert "nothing" in again.stderr
    assert again.stdout.splitlines() == [
        f"Image {INCREMENTAL} is already installed on other",
        f"Copied image {ZVOL} (zvol@1.0.0) to other",
        "Copied 1 image to other, 1 already there, 1 failed",
    ]
    assert two.there_are() == {BASE, INCREMENTAL, ZVOL}
    assert list(two.here.folder.glob("**/imgctl-*")) == []


@pytest.mark.slow
def test_a_terminal_shows_how_far_it_is(two):
    two.here.imgctl("import", BASE, check=True)
    environment = {**two.environment, "TERM": "xterm"}
    command = [sys.executable, "-m", "imgctl", "copy", "base", "other"]
    with Terminal(command, environment, size=(24, 100)) as terminal:
        assert terminal.end() == 0
    assert b"\rbase@1.0.0: " in terminal.shown
    assert b"Copied image" in terminal.shown


@pytest.mark.slow
def test_what_goes_wrong_is_told_by_who_knows(two, tmp_path):
    two.here.imgctl("import", BASE, check=True)
    # ssh is refused.
    unknown = two.imgctl("-H", "nobody@other", "list")
    assert unknown.returncode == 1
    assert "Permission denied" in unknown.stderr
    assert "ssh to other ended with status 255" in unknown.stderr
    # There is no imgctl.
    with Sshd(tmp_path / "bare", two.there.socket, path="/nowhere") as bare:
        lacking = two.imgctl("-H", "other", "list", **bare.environment)
        assert "imgctl" in lacking.stderr
        assert "ssh to other ended with status 127" in lacking.stderr
        assert two.imgctl("copy", "base", "other", **bare.environment).returncode == 1
    # There is no ssh.
    absent = two.imgctl("-H", "other", "list", IMGCTL_SSH="/nowhere/ssh")
    assert "/nowhere/ssh cannot be run: No such file or directory" in absent.stderr
    assert "Traceback" not in absent.stderr
    assert list(two.here.folder.glob("**/imgctl-*")) == []


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch /tmp/x", "ssh://-oProxyCommand=x", "user@-x", "-l@host", "a b", "a;b", "a$(b)",
        "host:", "host:0", "host:65536", "host:-1", "", "ssh://", "@host", "a@b@c", "[::1", "host\nx",
        "ho\0st", "ssh://host/a\nb", "http://host", "host:22:22", "'host'",
    ],
)  # fmt: skip
def test_what_is_no_host_never_reaches_ssh(text):
    with pytest.raises(UsageError, match="is no host for ssh"):
        Host(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("web1", ["--", "web1", "imgctl x"]),
        ("ssh://root@web1:2222", ["-l", "root", "-p", "2222", "--", "web1", "imgctl x"]),
        ("ada@[fe80::1%eth0]", ["-l", "ada", "--", "fe80::1%eth0", "imgctl x"]),
        ("web1/", ["--", "web1", "imgctl x"]),
        # The path of a socket there is one word for the shell there, whatever is in it.
        ("web1/run/a b;c", ["--", "web1", "imgctl --socket '/run/a b;c' x"]),
    ],
)
def test_how_ssh_is_called(text, words, monkeypatch):
    monkeypatch.delenv("IMGCTL_SSH", raising=False)
    assert Host(text).command("x") == ["ssh", "-T", *words]
    monkeypatch.setenv("IMGCTL_SSH", "'/my ssh' -F x")
    assert Host(text).command("x") == ["/my ssh", "-F", "x", "-T", *words]


def test_under_imgadms_name_the_option_is_unknown(tmp_path):
    link = tmp_path / "imgadm"
    link.symlink_to(Path(sys.executable).parent / "imgctl")
    done = subprocess.run([link, "-H", "x", "list"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, 'unknown option: "-H"' in done.stderr) == (1, True)
