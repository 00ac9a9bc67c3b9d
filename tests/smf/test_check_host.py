"""smf/check-host in dash and in ksh93, on this machine; tests/guest/ runs it on real ZFS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "smf" / "check-host"


@pytest.fixture(params=["dash", "ksh93"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Found = dict[str, list[tuple[str, str]]]


def check_host(shell: str, *arguments: str, **environment: str) -> tuple[int, Found]:
    """Its status, and by check the verdicts with what was seen."""
    done = subprocess.run(
        [shell, str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    found: Found = {}
    for line in done.stdout.splitlines():
        verdict, check, seen = re.split(r"  +", line, maxsplit=2)
        assert verdict in ("ok", "warn", "fail", "skip"), line
        found.setdefault(check, []).append((verdict, seen))
    return done.returncode, found


def test_this_machine(shell: str, tmp_path: Path) -> None:
    status, found = check_host(shell, "-p", sys.executable, TMPDIR=str(tmp_path))
    for check in ("system", "python", "package", "wake-up", "trio", "credentials", "inodes"):
        assert {verdict for verdict, _ in found[check]} == {"ok"}, found[check]
    assert "wakes from a thread, by" in found["trio"][0][1]
    assert {seen.split()[0] for _, seen in found["package"]} >= {
        "trio",
        "msgpack",
        "msgspec",
        "httpx2",
        "h11",
        "socksio",
    }
    assert found["zfs"][0][0] == "skip"
    failed = any(verdict == "fail" for verdicts in found.values() for verdict, _ in verdicts)
    assert status == failed
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_is_not_there(shell: str) -> None:
    status, found = check_host(shell, "-p", "/no/such/python")
    assert status == 1
    assert found["python"] == [("fail", "/no/such/python is not there: name one by -p")]


def test_a_python_that_cannot_import_what_is_needed(shell: str, tmp_path: Path) -> None:
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text("import sys; sys.modules['trio'] = None; sys.modules['blake3'] = None\n")
    status, found = check_host(shell, "-p", sys.executable, PYTHONPATH=str(tmp_path))
    assert status == 1
    by_package = {seen.split()[0]: verdict for verdict, seen in found["package"]}
    assert (by_package["trio"], by_package["blake3"], by_package["msgpack"]) == ("fail", "ok", "ok")
    assert found["trio"][0][0] == "fail"


def test_few_descriptors(shell: str) -> None:
    limited = f"ulimit -n 300; exec {shell} {SCRIPT} -p {sys.executable}"
    done = subprocess.run(["dash", "-c", limited], capture_output=True, text=True, timeout=100, check=False)
    assert re.search(
        r"^fail  descriptors +soft 300, hard 300: imgstored wants 1024$", done.stdout, re.MULTILINE
    )
    assert done.returncode == 1


def test_what_illumos_says(shell: str, tmp_path: Path) -> None:
    """Programs that only illumos has, with its answers."""
    ppriv = tmp_path / "ppriv"
    ppriv.write_text(
        "#!/bin/sh\nprintf '%s:\\tsh\\nflags = <none>\\n\\tE: basic,sys_mount\\n\\tI: basic\\n' \"$1\"\n"
    )
    ppriv.chmod(0o755)
    _, found = check_host(shell, "-p", sys.executable, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert found["privileges"] == [("warn", "basic,sys_mount")]
    ppriv.write_text("#!/bin/sh\nprintf '\\tE: all\\n'\n")
    _, found = check_host(shell, "-p", sys.executable, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert found["privileges"] == [("ok", "all")]


@pytest.mark.parametrize("arguments", [("-x",), ("extra",), ("-z",)])
def test_wrong_arguments(shell: str, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [shell, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr
