"""`info`, and `holds` without an image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

U, V = (f"{number}1111111-aaaa-4bbb-8ccc-000000000001" for number in (1, 2))
MIB = 1 << 20
URL = "https://images.example.com"

MANIFEST = {
    "v": 2, "uuid": U, "name": "web", "version": "1.2", "type": "zone-dataset", "os": "smartos",
    "description": "A web\nserver\x1b[2J.", "published_at": "2026-01-01T00:00:00.000Z", "origin": V,
    "files": [{"size": 5 * MIB, "compression": "gzip", "sha1": "a" * 40}],
}  # fmt: skip
ENTRY = {
    "action": "import", "uuid": U, "name": "web", "version": "1.2", "pool": "zones", "source": URL,
    "client": "imgctl 1.0 (pid 7)", "uid": 0, "started_at": 1_750_000_000.5, "bytes": 5 * MIB,
    "seconds": 1.25,
    "outcome": "installed", "code": None, "message": None, "import_id": "x",
}  # fmt: skip


@pytest.fixture
def host(daemon: FakeDaemon) -> FakeDaemon:
    daemon.store.images = [
        {"manifest": MANIFEST, "zpool": "zones", "source": URL, "cloneNames": ["zones/vm"], "clones": 1},
        {"manifest": {"uuid": V}, "zpool": "tank", "cloneNames": [], "clones": 0},
    ]
    daemon.store.tags = ["golden", "pinned"]
    daemon.queries.past = [
        {**ENTRY, "outcome": "failed"},
        ENTRY,
        {**ENTRY, "pool": "tank", "action": "delete"},
    ]
    used = {"uuid": U, "name": "web", "version": "1.2", "origin": V, "used": 7 * MIB, "referenced": 90 * MIB}
    daemon.queries.pools = [
        {"zpool": "zones", "total": 1, "available": 1, "images": [{**used, "clones": ["zones/vm"]}]}
    ]
    return daemon


SHOWN = [
    f"UUID:         {U}",
    "Name:         web@1.2",
    "Description:  A web server\\x1b[2J.",
    "Type:         zone-dataset, smartos",
    "Published:    2026-01-01T00:00:00.000Z",
    "Pool:         zones",
    "Space:        7.0 MiB of its own, 90.0 MiB of data with its origin's",
    f"File:         5.0 MiB, gzip, SHA-1 {'a' * 40}",
    f"Origin:       {V}",
    "Clones:       zones/vm",
    "Holds:        golden, pinned",
    f"Source:       {URL}",
    f"Installed:    2025-06-15T15:06:40Z, by imgctl 1.0 (pid 7), uid 0, from {URL}, in 1.2 s",
    "Signature:    none: the checksum is what its source says",
]


def test_what_people_look_for(host: FakeDaemon, imgctl: Command):
    for name in ("web", "web@1.2", U):
        shown = imgctl("info", name)
        assert (shown.stdout.splitlines(), shown.stderr, shown.returncode) == (SHOWN, "", 0)


def test_the_same_for_programs(host: FakeDaemon, imgctl: Command):
    found = json.loads(imgctl("info", "-j", "web").stdout)
    assert found["manifest"] == MANIFEST
    assert (found["used"], found["referenced"], found["cloneNames"]) == (7 * MIB, 90 * MIB, ["zones/vm"])
    assert found["holds"] == ["golden", "pinned"]
    assert found["installed"]["client"] == "imgctl 1.0 (pid 7)"


@pytest.mark.parametrize(
    ("past", "said"),
    [
        ([], "not by imgstored, as far as its history goes"),
        ([ENTRY, {**ENTRY, "action": "delete", "outcome": "deleted"}], "not by imgstored"),
        ([{**ENTRY, "pool": "tank"}], "not by imgstored"),
        (
            [{**ENTRY, "action": "install", "source": None, "seconds": None, "uid": None}],
            "(pid 7), from a file",
        ),
    ],
)
def test_who_installed_it(host: FakeDaemon, imgctl: Command, past: list[dict[str, Any]], said: str):
    host.queries.past = past
    (line,) = (line for line in imgctl("info", U).stdout.splitlines() if line.startswith("Installed: "))
    assert said in line


def test_an_image_of_which_little_is_known(host: FakeDaemon, imgctl: Command):
    host.store.tags, host.queries.pools, host.queries.past = [], [], []
    lines = imgctl("info", "-P", "tank", V).stdout.splitlines()
    assert lines[0].split() == ["UUID:", V]
    assert [line.split()[0] for line in lines] == [
        "UUID:", "Pool:", "Origin:", "Clones:", "Holds:", "Installed:", "Signature:",
    ]  # fmt: skip


def test_for_imgadm_it_is_get(host: FakeDaemon, imgctl: Command):
    assert imgctl("info", U, imgadm=True).stdout == imgctl("get", U, imgadm=True).stdout
    assert "Aliases: info" in imgctl("help", "get", imgadm=True).stdout
    assert "info" not in imgctl("help", "get").stdout.partition("Options:")[0].removeprefix("Info")


@pytest.mark.parametrize("columns", [100, 40])
def test_on_a_terminal(host: FakeDaemon, imgctl: Command, columns: int):
    environment = {**imgctl.environment, "TERM": "dumb", "PYTHONIOENCODING": "ascii"}
    with Terminal(imgctl.line("info", "web"), environment, size=(24, columns)) as terminal:
        assert terminal.end() == 0
        assert terminal.shown.decode().splitlines() == SHOWN


# -- holds ---------------------------------------------------------------------------------------------------


def test_all_that_is_held(host: FakeDaemon, imgctl: Command):
    assert imgctl("holds").stdout.splitlines() == [
        f"UUID{' ' * 34}NAME  VERSION  ZPOOL  HOLDS",
        f"{U}  web   1.2      zones  golden, pinned",
        f"{V}  -     -        tank   golden, pinned",
    ]
    assert imgctl("holds", "-H", "-P", "zones").stdout == f"{U}  web   1.2      zones  golden, pinned\n"
    host.store.tags = []
    assert (imgctl("holds").stdout, imgctl("holds", "-j").stdout) == ("", "[]\n")
    assert 'unknown pool: "nosuch"' in imgctl("holds", "-P", "nosuch").stderr
