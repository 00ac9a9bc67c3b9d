"""`alias` and `outdated`: what is asked, and what is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import ClientError
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

U, V = (f"{number}1111111-aaaa-4bbb-8ccc-000000000001" for number in (1, 2))
URL = "https://images.example.com"


def manifest(uuid: str, name: str) -> dict[str, Any]:
    return {"v": 2, "uuid": uuid, "name": name, "version": "1.0"}


@pytest.fixture
def host(daemon: FakeDaemon) -> FakeDaemon:
    daemon.store.images = [{"manifest": manifest(U, "web"), "zpool": "zones", "cloneNames": [], "clones": 0}]
    daemon.sources.found["images"] = [{"manifest": manifest(V, "new"), "source": URL}]
    return daemon


def test_an_alias_of_what_is_installed_or_at_a_source(host: FakeDaemon, imgctl: Command):
    assert imgctl("alias").stdout == ""
    assert imgctl("alias", "stable", "web").stdout == f"Alias stable is image {U}\n"
    assert imgctl("alias", "next", "new@1.0").stdout == f"Alias next is image {V}\n"
    assert imgctl("alias").stdout.splitlines() == [
        f"ALIAS   UUID{' ' * 34}NAME  VERSION",
        f"next    {V}  -     -",
        f"stable  {U}  web   1.0",
    ]
    assert f'"uuid": "{U}"' in imgctl("get", "stable").stdout
    assert imgctl("alias", "stable", V).stdout == f"Alias stable is image {V} (it was {U})\n"
    assert imgctl("alias", "-d", "stable").stdout == f"Deleted alias stable of image {V}\n"
    assert 'there is no alias "stable"' in imgctl("alias", "-d", "stable").stderr


def test_what_is_neither_is_told(host: FakeDaemon, imgctl: Command):
    refused = imgctl("alias", "stable", "nosuch")
    assert "error (ImageNotFound)" in refused.stderr
    assert host.aliases.there == {}
    for line in (["alias", "stable"], ["alias", "a", "b", "c"], ["alias", "-d", "a", "b"]):
        assert "error (Usage)" in imgctl(*line).stderr


def test_a_slip_of_an_alias(host: FakeDaemon, imgctl: Command):
    host.aliases.there = {"stable": U}
    assert imgctl("get", "stbale").stderr.splitlines()[-1] == '  hint: did you mean "stable"?'


OLD = {
    "uuid": U, "zpool": "zones", "name": "web", "version": "1.0", "published_at": "2026-01-01T00:00:00Z",
    "newer": {"uuid": V, "version": "2\x1b", "published_at": "2026-02-01T00:00:00Z", "source": URL},
}  # fmt: skip


@pytest.mark.parametrize("columns", [200, 40])
def test_what_is_outdated(host: FakeDaemon, imgctl: Command, columns: int):
    host.queries.old["images"] = [OLD]
    lines = [
        f"UUID{' ' * 34}NAME  VERSION  ZPOOL  NEWER  NEWER_UUID{' ' * 28}SOURCE",
        f"{U}  web   1.0      zones  2\\x1b  {V}  {URL}",
    ]
    assert imgctl("outdated", "-P", "zones").stdout.splitlines() == lines
    assert host.queries.asked[-1] == {"pool": "zones"}
    with Terminal(imgctl.line("outdated"), imgctl.environment, size=(24, columns)) as terminal:
        assert terminal.end() == 0
        assert b"2\\x1b" in terminal.shown


def test_a_source_that_is_down_is_told_after_the_rows(host: FakeDaemon, imgctl: Command):
    host.queries.old = {
        "images": [OLD],
        "problems": [{"source": "http://down", "error": ClientError("refused", hint="h").as_wire()}],
    }
    shown = imgctl("outdated", "-H")
    assert shown.returncode == 1
    assert shown.stdout.startswith(U)
    assert shown.stderr.splitlines() == [
        "imgctl outdated: error (ClientError): http://down: refused",
        "  hint: h",
    ]


def test_a_list_that_may_lack_images_is_told_after_the_rows(host: FakeDaemon, imgctl: Command):
    why = "the list of http://h may be cut: the server gives 50 images, and no further pages"
    incomplete = [{"source": "http://h", "message": why}]
    host.queries.old = {"images": [OLD], "problems": [], "incomplete": incomplete}
    shown = imgctl("outdated", "-H")
    assert shown.returncode == 0
    assert shown.stdout.startswith(U)
    assert shown.stderr.splitlines() == [f"imgctl outdated: warning: {why}"]
