"""smf/method/imgstored with a real daemon, in dash and in ksh93; SMF's own programs are stood in for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from imgctl import Client

from imgstored.config import loading

if TYPE_CHECKING:
    from collections.abc import Iterator

METHOD = Path(__file__).parents[2] / "smf" / "method" / "imgstored"

#: Seconds, however busy the machine is.
TIMEOUT = 60

OK, FATAL, CONFIG, NOSMF, PERM = 0, 95, 96, 99, 100

#: What /lib/svc/share/smf_include.sh has that methods rely on.
INCLUDE = """
SMF_EXIT_OK=0 SMF_EXIT_ERR_FATAL=95 SMF_EXIT_ERR_CONFIG=96 SMF_EXIT_ERR_NOSMF=99 SMF_EXIT_ERR_PERM=100
smf_clear_env() { unset SMF_FMRI SMF_METHOD SMF_RESTARTER SMF_ZONENAME; }
# A function, because ksh93 has its own sleep.
sleep() { echo "sleep $1" >>"$STAND_INS/calls"; }
"""

#: svcprop: the answer to its arguments is in a file that is named by them.
SVCPROP = """#!/bin/sh
name=$(printf '%s' "$*" | tr '/ ' '__')
cat "$STAND_INS/$name" 2>/dev/null || { echo "svcprop: no such property" >&2; exit 1; }
"""

#: pkill -SIGNAL -o -c CONTRACT: a contract is a file of process ids, oldest first.
PKILL = """#!/bin/sh
echo "pkill $*" >>"$STAND_INS/calls"
[ "$2 $3" = "-o -c" ] || exit 2
pid=$(head -1 "$STAND_INS/contract_$4") && kill -0 "$pid" 2>/dev/null || exit 1
kill "$1" "$pid"
"""

PROGRAM = """#!/bin/sh
env | grep '^SMF_' >&2
exec {python} -m imgstored "$@"
"""

FMRI = "svc:/system/imgstored:default"


class Smf:
    """svc.startd as far as one service sees it."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.folder = folder
        self.shell: tuple[str, ...] = (shell,)
        self.programs = folder / "programs"
        self.programs.mkdir()
        (folder / "images").mkdir()
        include = folder / "smf_include.sh"
        include.write_text(INCLUDE)
        self.settings = folder / "run" / "imgstored-default.toml"
        self.settings.parent.mkdir()
        self.method = folder / "method"
        text = METHOD.read_text()
        for ours, theirs in (
            (include, "/lib/svc/share/smf_include.sh"),
            (self.settings.parent, "/var/run"),
        ):
            assert text.count(theirs) == 1
            text = text.replace(theirs, str(ours))
        self.method.write_text(text)
        for name, stand_in in (("svcprop", SVCPROP), ("pkill", PKILL)):
            self.install(name, stand_in)
        self.log = folder / "log"
        self.socket = folder / "s.sock"
        self.properties = {
            "program": str(self.install("imgstored", PROGRAM.format(python=sys.executable))),
            "state": f"{folder}/state",
            "socket": str(self.socket),
            "view": "files",
            "view_path": f"{folder}/images",
            "pool_type": "embedded",
            "pool": "zones",
            "file": "",
            "socket_group": "",
            "log_format": "json",
        }

    def install(self, name: str, text: str) -> Path:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)
        return program

    def run(self, *arguments: str, fmri: str = FMRI) -> int:
        """Runs a method; returns its status."""
        lines = [f"config/{name} astring {quoted(value)}" for name, value in self.properties.items()]
        lines.append("config/value_authorization astring solaris.smf.value.imgstored")
        answer = self.programs / f"-t -p config {FMRI}".translate({ord("/"): "_", ord(" "): "_"})
        answer.write_text("".join(f"{line}\n" for line in lines))
        with self.log.open("a") as log:
            return subprocess.run(
                [*self.shell, str(self.method), *arguments],
                env={
                    **os.environ,
                    "PATH": f"{self.programs}:/usr/sbin:/usr/bin:/sbin:/bin",
                    "STAND_INS": str(self.programs),
                    "SMF_FMRI": fmri,
                    "SMF_METHOD": arguments[0] if arguments else "",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=TIMEOUT,
                check=False,
            ).returncode

    def started(self) -> int:
        """After `run("start")`: puts the daemon into the contract, with a program of its; returns its pid."""
        ready = [line for line in self.log.read_text().splitlines() if '"ready"' in line]
        pid = int(json.loads(ready[-1])["pid"])
        contract = self.programs / f"-p restarter_contract {FMRI}".translate({ord("/"): "_", ord(" "): "_"})
        contract.write_text("42\n")
        (self.programs / "contract_42").write_text(f"{pid}\n")
        return pid

    @property
    def calls(self) -> list[str]:
        file = self.programs / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def await_line(self, words: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


def quoted(value: str) -> str:
    """As svcprop(1) prints an astring."""
    if not value:
        return '""'
    return "".join(f"\\{c}" if c in ";&()|^<>\n \t\\\"'`" else c for c in value)


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(params=["dash", "ksh93"])
def smf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Smf]:
    shell = shutil.which(request.param)
    assert shell, f"{request.param} is missing: run tests/setup.sh"
    service = Smf(tmp_path, shell)
    yield service
    for line in service.log.read_text().splitlines() if service.log.exists() else ():
        if '"ready"' in line and is_running(pid := int(json.loads(line)["pid"])):
            os.kill(pid, signal.SIGKILL)


def test_start_refresh_and_stop(smf):
    assert smf.run("start") == OK, smf.log.read_text()
    pid = smf.started()
    # The start method has returned, so requests are answered at once.
    with Client(str(smf.socket)) as client:
        assert client.list() == []
    assert "SMF_" not in smf.log.read_text()

    smf.properties["log_level"] = "warning"
    assert smf.run("refresh") == OK
    assert 'log.level = "warning"' in smf.settings.read_text()

    assert smf.run("stop") == OK
    deadline = time.monotonic() + TIMEOUT
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert smf.calls == ["pkill -HUP -o -c 42", "pkill -TERM -o -c 42"]
    # As the property said, what is only information is not logged any more.
    assert '"stopped"' not in smf.log.read_text()
    assert not smf.socket.exists()
    # It has ended already, as when it has crashed.
    assert smf.run("stop") == OK


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(smf):
    """illumos starts it with 256. It is more than imgstored itself would make of it."""
    smf.shell = ("/bin/sh", "-c", 'ulimit -Sn 256 && ulimit -Hn 3000 && exec "$@"', "sh", *smf.shell)
    assert smf.run("start") == OK, smf.log.read_text()
    limits = Path(f"/proc/{smf.started()}/limits").read_text().splitlines()
    (files,) = [line.split()[3:5] for line in limits if line.startswith("Max open files")]
    assert files == ["3000", "3000"]
    assert smf.run("stop") == OK


def test_a_refresh_that_is_wrong_leaves_the_service_as_it_is(smf):
    assert smf.run("start") == OK, smf.log.read_text()
    pid = smf.started()
    before = smf.settings.read_text()
    smf.properties["log_levle"] = "debug"
    assert smf.run("refresh") == OK
    smf.await_line("there is no property config/log_levle (astring)")
    assert smf.settings.read_text() == before
    assert smf.calls == []

    del smf.properties["log_levle"]
    smf.properties["log_level"] = "shout"
    assert smf.run("refresh") == OK
    smf.await_line("the configuration stays as it was")
    assert is_running(pid)


STRANGE = "a b\\c\"d'e;f&(g)|h$HOME$(id)`id`\ti<j>^k*é"


def test_strange_values_arrive_as_they_are(smf):
    smf.install("told", '#!/bin/sh\nprintf "%s\\n" "$@" >"$STAND_INS/arguments"\n')
    smf.properties |= {
        "program": str(smf.programs / "told"),
        "state": f"/{STRANGE}",
        "file": f"/{STRANGE}.toml",
    }
    assert smf.run("start") == OK
    arguments = (smf.programs / "arguments").read_text().splitlines()
    assert arguments == ["--detach", "--config", f"/{STRANGE}.toml", "--config", str(smf.settings)]
    assert loading.load(smf.settings).state == f"/{STRANGE}"


def test_an_empty_property_leaves_its_key_to_the_file(smf):
    file = smf.folder / "imgstored.toml"
    file.write_text(f'socket.path = "{smf.socket}"\nstate = "{smf.folder}/not-this"\n')
    smf.properties |= {"file": str(file), "socket": ""}
    assert smf.run("start") == OK, smf.log.read_text()
    smf.started()
    assert smf.socket.exists()
    assert (smf.folder / "state").exists()
    assert not (smf.folder / "not-this").exists()


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"view": "tv"}, "view.mode: "),
        ({"state": "relative"}, "state: not an absolute path"),
        ({"file": "/nonexistent.toml"}, "/nonexistent.toml: cannot be read"),
        ({"program": "/nonexistent/imgstored"}, "set config/program"),
        ({"log_levle": "debug"}, "there is no property config/log_levle"),
    ],
)
def test_a_wrong_configuration_is_maintenance_at_once(smf, properties, said):
    smf.properties |= properties
    assert smf.run("start") == CONFIG
    assert said in smf.log.read_text()
    assert smf.calls == []


def test_properties_that_cannot_be_read(smf):
    assert smf.run("start", fmri="svc:/system/imgstored:other") == CONFIG


@pytest.mark.parametrize(
    ("status", "becomes"), [(77, PERM), (78, CONFIG), (2, CONFIG), (126, CONFIG), (127, CONFIG)]
)
def test_what_the_daemon_exits_with_is_told_to_smf(smf, status, becomes):
    smf.install("imgstored", f"#!/bin/sh\nexit {status}\n")
    assert smf.run("start") == becomes
    assert smf.calls == []


def test_what_may_pass_is_tried_again_after_growing_pauses(smf):
    smf.install("imgstored", '#!/bin/sh\necho try >>"$STAND_INS/calls"\nexit 1\n')
    assert smf.run("start") == 1
    assert smf.calls == [line for pause in (1, 2, 4, 8, 16, 0) for line in ("try", f"sleep {pause}")]


def test_a_start_that_works_the_third_time(smf):
    smf.install(
        "imgstored", '#!/bin/sh\necho try >>"$STAND_INS/calls"\n[ "$(grep -c try "$STAND_INS/calls")" = 3 ]\n'
    )
    assert smf.run("start") == OK
    assert smf.calls == ["try", "sleep 1", "try", "sleep 2", "try"]


def test_outside_smf_and_with_other_words(smf):
    assert smf.run("start", fmri="") == NOSMF
    assert smf.run("restart") == FATAL
    assert smf.run() == FATAL
