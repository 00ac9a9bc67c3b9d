"""Several images in one command: all are tried, each has its own outcome, and the worst status counts."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import DownloadError, ImageHasDependentClonesError, NoSpaceError
from tests.ctl.fake_daemon import HOLD
from tests.support.events import (
    AlreadyInstalled,
    ImageProgress,
    Importing,
    Installed,
    Planned,
    Progress,
)
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

U, V, W = (f"{number}1111111-aaaa-4bbb-8ccc-000000000001" for number in (1, 2, 3))
URL = "http://images.example"


def image(uuid: str, name: str, **fields: Any) -> dict[str, Any]:
    manifest = {"v": 2, "uuid": uuid, "name": name, "version": "1.0", **fields}
    return {"manifest": manifest, "zpool": "zones", "cloneNames": [], "clones": 0}


@pytest.fixture
def images(daemon: FakeDaemon) -> None:
    daemon.store.images = [image(U, "base"), image(V, "web"), image(W, "db")]
    daemon.sources.found["images"] = [{"manifest": each["manifest"]} for each in daemon.store.images]
    daemon.sources.manifests = {each["manifest"]["uuid"]: each["manifest"] for each in daemon.store.images}


# -- changes -------------------------------------------------------------------------------------------------


def test_all_are_tried_and_the_worst_status_counts(daemon: FakeDaemon, imgctl: Command, images):
    shown = imgctl("delete", "base", "nosuch", V)
    assert shown.returncode == 3
    assert shown.stdout.splitlines() == [
        f"Deleted image {U}",
        f"Deleted image {V}",
        "Deleted 2 images, 1 failed",
    ]
    assert 'imgctl delete: error (ImageNotInstalled): image "nosuch" was not found' in shown.stderr
    assert [each["manifest"]["uuid"] for each in daemon.store.images] == [W]


def test_when_all_goes_well_a_summary_says_so(imgctl: Command, images):
    shown = imgctl("rm", "base", "web", "base@1.0", U)  # twice named is once deleted
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-1] == "Deleted 2 images"
    assert len(shown.stdout.splitlines()) == 3


def test_one_image_says_what_it_always_said(daemon: FakeDaemon, imgctl: Command, images):
    assert imgctl("delete", "base").stdout == f"Deleted image {U}\n"
    refused = imgctl("delete", "base")
    assert (refused.stdout, refused.returncode) == ("", 3)


def test_an_origin_may_be_named_before_its_clones(daemon: FakeDaemon, imgctl: Command, images, monkeypatch):
    """The pool refuses an origin as long as there are clones, and takes it afterwards."""
    delete = daemon.store.delete
    origins = {U: V, V: W}

    async def refusing(uuid: str, pool: str | None, requester: Any) -> None:
        there = {each["manifest"]["uuid"] for each in daemon.store.images}
        if origins.get(uuid) in there:
            raise ImageHasDependentClonesError(f"{uuid} has clones")
        await delete(uuid, pool, requester)

    monkeypatch.setattr(daemon.store, "delete", refusing)
    shown = imgctl("delete", U, V, W)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [*(f"Deleted image {each}" for each in (W, V, U)), "Deleted 3 images"]
    assert daemon.store.images == []


def test_what_stays_refused_is_tried_no_more_than_it_can_help(daemon: FakeDaemon, imgctl: Command, images):
    daemon.store.errors["delete"] = ImageHasDependentClonesError("it has clones", hint="delete those first")
    shown = imgctl("delete", U, V)
    assert shown.returncode == 1
    assert shown.stdout == "Deleted 0 images, 2 failed\n"
    assert shown.stderr.splitlines() == [
        f"imgctl delete: error (ImageHasDependentClones): {U}: it has clones",
        "  hint: delete those first",
        f"imgctl delete: error (ImageHasDependentClones): {V}: it has clones",
        "  hint: delete those first",
    ]


@pytest.mark.parametrize("names", [["base", "nosuch"], ["base"], ["nosuch"]])
def test_outcomes_as_json(imgctl: Command, images, names: list[str]):
    shown = imgctl("delete", "-j", *names)
    good = {"name": "base", "uuid": U, "outcome": "deleted"}
    outcomes = json.loads(shown.stdout)
    assert [each["name"] for each in outcomes] == names
    assert [each for each in outcomes if each["outcome"] == "deleted"] == [good] * ("base" in names)
    for failed in (each for each in outcomes if each["outcome"] == "failed"):
        assert failed["uuid"] is None
        assert failed["error"]["code"] == "ImageNotInstalled"
        assert failed["error"].keys() == {"code", "message", "hint", "exit_status", "data"}
    assert shown.stderr == ""
    assert shown.returncode == (3 if "nosuch" in names else 0)


def test_without_a_daemon_nothing_more_is_tried(daemon: FakeDaemon, imgctl: Command, images):
    daemon.stop()
    shown = imgctl("delete", U, V)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.count("error (") == 1


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        (["pin"], "Pinned"),
        (["unpin"], "Unpinned"),
        (["hold", "TAG"], "Held"),
        (["release", "TAG"], "Released"),
    ],
)
def test_holds_of_several(daemon: FakeDaemon, imgctl: Command, images, line: list[str], verb: str):
    command, *tag = line
    daemon.store.tags = ["TAG", "pinned"]
    shown = imgctl(command, "base", "web", "nosuch", *tag)
    after = " (TAG)" if tag else ""
    assert shown.stdout.splitlines() == [
        f"{verb} image {U}{after}",
        f"{verb} image {V}{after}",
        f"{verb} 2 images, 1 failed",
    ]
    assert shown.returncode == 3
    did, with_tag = "release" if command in ("unpin", "release") else "hold", tag[0] if tag else "pinned"
    assert daemon.store.held == [(did, U, with_tag), (did, V, with_tag)]
    outcomes = json.loads(imgctl(command, "-j", "base", *tag).stdout)
    assert outcomes == [{"name": "base", "uuid": U, "outcome": verb.lower()}]


@pytest.mark.parametrize("line", [["hold", "base"], ["release"], ["pin"], ["copy", "base"], ["import"]])
def test_too_few_words(imgctl: Command, images, line: list[str]):
    assert "error (Usage): an argument is missing" in imgctl(*line).stderr


@pytest.mark.parametrize("command", ["delete", "import", "get", "show"])
def test_imgadm_takes_one(daemon: FakeDaemon, imgctl: Command, images, command: str):
    shown = imgctl(command, U, V, imgadm=True)
    assert shown.stderr == f'imgadm {command}: error (Usage): incorrect number of args (2): "{U} {V}"\n'
    assert len(daemon.store.images) == 3
    if command == "delete":
        assert 'error (Option): unknown option: "-j"' in imgctl("delete", "-j", U, imgadm=True).stderr


# -- documents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["get", "show"])
def test_one_is_an_object_and_several_are_an_array(imgctl: Command, images, command: str):
    def uuid(document: dict[str, Any]) -> str:
        found: str = document.get("manifest", document)["uuid"]
        return found

    assert uuid(json.loads(imgctl(command, "base").stdout)) == U
    assert [uuid(each) for each in json.loads(imgctl(command, "web", "base").stdout)] == [V, U]
    shown = imgctl(command, "web", "nosuch")
    assert [uuid(each) for each in json.loads(shown.stdout)] == [V]
    assert shown.returncode in (1, 3)
    assert 'image "nosuch" was not found' in shown.stderr


# -- imports -------------------------------------------------------------------------------------------------


def there(uuid: str) -> AlreadyInstalled:
    return AlreadyInstalled(uuid, "a", "1")


def progress(uuid: str, done: int, total: int) -> Progress:
    return Progress(done, total, 1e6, (ImageProgress(uuid, "a", "1", "downloading", done, total, 0),))


def test_imports_of_several_are_under_way_at_the_same_time(daemon: FakeDaemon, imgctl: Command, images):
    daemon.store.scripts = {each: [Importing(each, "a", "1", URL), HOLD] for each in (U, V, W)}
    with imgctl.start("import", U, V, W) as running:
        assert running.stdout is not None
        begun = {running.stdout.readline().split()[1] for _ in range(3)}
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    assert begun == {U, V, W}
    assert daemon.store.left.wait(30)


def test_an_import_that_fails_stops_no_other(daemon: FakeDaemon, imgctl: Command, images):
    daemon.store.scripts = {
        U: [NoSpaceError("not enough room")],
        V: [Importing(V, "web", "1.0", URL), 0.1, Installed(V, "web", "1.0")],
    }
    shown = imgctl("import", "base", "web", "nosuch")
    assert shown.returncode == 1
    assert shown.stdout.splitlines() == [
        f'Importing {V} (web@1.0) from "{URL}"',
        f"Imported image {V} (web@1.0)",
        "1 image installed, 2 failed",
    ]
    assert "imgctl import: error (NoSpace): base: not enough room" in shown.stderr
    assert 'error (ActiveImageNotFound): an active image "nosuch" was not found' in shown.stderr


@pytest.mark.parametrize(
    ("scripts", "summary"),
    [
        ({U: [there(U)], V: [Installed(V, "web", "1.0")]}, "1 image installed, 1 already installed"),
        ({U: [there(U)], V: [there(V)]}, "0 images installed, 2 already installed"),
        # An origin that came along counts, too; one that was there was not asked for.
        (
            {U: [there(U)], V: [Installed(W, "db", "1.0"), Installed(V, "web", "1.0")]},
            "2 images installed, 1 already installed",
        ),
        ({U: [Installed(U, "base", "1.0")], V: [there(W), Installed(V, "web", "1.0")]}, "2 images installed"),
        ({U: [there(U)], V: [NoSpaceError("no room")]}, "0 images installed, 1 already installed, 1 failed"),
        # It came while the other one was being imported, as the origin of that.
        ({U: [Installed(U, "base", "1.0")], V: [Installed(U, "base", "1.0"), there(V)]},
         "1 image installed, 1 already installed"),
    ],
)  # fmt: skip
def test_what_was_there_already_is_counted_apart(
    daemon: FakeDaemon, imgctl: Command, images, scripts: dict[str, list[Any]], summary: str
):
    daemon.store.scripts = scripts
    shown = imgctl("import", "base", "web")
    assert shown.stdout.splitlines()[-1] == summary
    assert shown.returncode == ("failed" in summary)


def test_more_than_are_asked_for_at_a_time(daemon: FakeDaemon, imgctl: Command):
    uuids = [f"11111111-aaaa-4bbb-8ccc-{number:012}" for number in range(30)]
    daemon.store.scripts = {each: [Installed(each, "a", "1")] for each in uuids}
    shown = imgctl("import", *uuids)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[-1] == "30 images installed"
    assert sorted(wish["uuids"][0] for wish in daemon.store.wishes) == uuids


def test_a_dry_run_of_several(daemon: FakeDaemon, imgctl: Command, images):
    room = {"spool": 1 << 30, "pool": 1 << 30}
    for uuid in (U, V):
        daemon.queries.plans[uuid] = {
            "uuid": uuid, "pool": "zones", "images": [], "count": 0, "size": 0, "to_come": 0, "room": room,
            "refusals": [DownloadError("no").as_wire()] if uuid == U else [], "warnings": [],
        }  # fmt: skip
    assert imgctl("import", "-n", V, W[:-1] + "9", U).returncode == 1
    shown = imgctl("import", "-nj", U, V)
    assert [each["uuid"] for each in json.loads(shown.stdout)] == [U, V]
    assert (shown.returncode, daemon.store.wishes) == (1, [])


@pytest.mark.parametrize("columns", [100, 40])
def test_on_a_terminal_one_bar_is_about_all(daemon: FakeDaemon, imgctl: Command, images, columns: int):
    mib = 1 << 20
    for uuid in (U, V):
        daemon.store.scripts[uuid] = [
            Importing(uuid, "a", "1", URL),
            Planned(1, 64 * mib),
            progress(uuid, 16 * mib, 64 * mib),
            HOLD,
        ]
    environment = {**imgctl.environment, "TERM": "dumb", "PYTHONIOENCODING": "ascii"}
    with Terminal(imgctl.line("import", U, V), environment, size=(24, columns)) as terminal:
        shown = terminal.wait_for("32.0 MiB of 128.0 MiB").decode()
        assert "25%" in shown
        assert ("Download 2 images" in shown) == (columns == 100)
        terminal.type("\x03")
        assert terminal.end() == 130
        assert terminal.shown.isascii()
        assert terminal.restored
