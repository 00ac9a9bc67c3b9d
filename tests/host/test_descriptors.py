"""The limit of open files: raised to what is needed, at most to the hard one."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys

import pytest
import structlog.testing

from imgstored.config import loading, specs
from imgstored.host import descriptors

#: Says what it made of its limits, and logs.
RAISES = """
import resource, sys
from imgstored import log
from imgstored.host import descriptors
from imgstored.config.tables import LogTable
log.set_up(LogTable(format="json"))
descriptors.raise_limit(int(sys.argv[1]))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def raised(soft: int, hard: int, needed: int) -> tuple[list[int], list[str]]:
    """The limits afterwards, and what was logged."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh", sys.executable, "-c",
         RAISES, str(needed)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )  # fmt: skip
    return [int(word) for word in done.stdout.split()], [
        json.loads(line)["event"] for line in done.stderr.splitlines()
    ]


@pytest.mark.parametrize(
    ("soft", "hard", "needed", "after", "told"),
    [
        (256, 1024, 900, 900, ["raised the limit of open files"]),
        (256, 1024, 1024, 1024, ["raised the limit of open files"]),
        (1000, 1024, 900, 1000, []),
        (
            256,
            600,
            900,
            600,
            ["raised the limit of open files", "fewer files may be open than may be needed"],
        ),
        (600, 600, 900, 600, ["fewer files may be open than may be needed"]),
    ],
)
def test_raised_to_what_is_needed_and_can_be_had(soft, hard, needed, after, told):
    assert raised(soft, hard, needed) == ([after, hard], told)


def test_what_is_needed_comes_from_the_limits():
    def needed(text: str) -> int:
        return specs.descriptors(loading.parse(text))

    usual = needed("")
    assert usual > 256 + 4 * 8
    assert needed("[limits]\nclients = 300\n") == usual + 2 * (300 - 256)
    assert needed("[limits]\nconnections = 10\n") == usual + 4 * 2
    assert needed("[limits]\nimports = 5\n") > usual + 8
    assert needed('[[pool]]\n[[pool]]\nname = "tank"\n') > usual
    # illumos's hard limit, and the systemd unit's.
    assert needed("[limits]\nimports = 64\nconnections = 64\nclients = 16384\n") < 65536


def test_a_system_that_refuses_is_a_warning(monkeypatch):
    """As a sandbox can, that forbids the call."""

    def refused(which: int, limits: tuple[int, int]) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refused)
    with structlog.testing.capture_logs() as logged:
        descriptors.raise_limit(900)
    (line,) = logged
    assert (line["log_level"], line["limit"], line["needed"]) == ("warning", 256, 900)
    assert "LimitNOFILE" in line["hint"]
    assert descriptors.hard_limit() == float("inf")


#: Opens files until there are no more, and says at which number the reserve began, and what it found then.
USES_UP = """
import errno, os, resource
from imgstored.host import descriptors, exhaustion
resource.setrlimit(resource.RLIMIT_NOFILE, (int(os.sys.argv[1]),) * 2)
first = None
assert not descriptors.are_scarce()
try:
    while True:
        number = os.open("/dev/null", os.O_RDONLY)
        if descriptors.is_reserved(number) and first is None:
            first = number
            before = descriptors.are_scarce()
except OSError as error:
    found = error
assert before and descriptors.are_scarce()
try:
    raise ValueError("config file cannot be read") from found
except ValueError as error:
    print(first, exhaustion.behind(error).what == "too many open files")
"""


@pytest.mark.parametrize(("limit", "first"), [(256, 192), (1024, 896), (4096, 3968)])
def test_the_last_descriptors_are_known_as_such(limit, first):
    done = subprocess.run(
        [sys.executable, "-c", USES_UP, str(limit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == ([str(first), "True"], "")
