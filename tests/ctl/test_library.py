"""What programs get of `imgctl`: typed documents, an exception for each code, names of images."""

from __future__ import annotations

import os
import pydoc
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import trio
from imgctl import Client, errors
from imgctl.errors import RemoteError, error_record, remote_error
from imgproto import documents, events
from imgproto import params as params_module
from imgproto.operations import OPERATIONS

from imgstored import errors as daemon_errors
from imgstored.errors import ImageHeldError
from imgstored.rpc.params import checked
from tests.support.checked_client import check
from tests.support.events import AlreadyInstalled, Note

CTL = Path(__file__).parents[2] / "ctl"
U = "11111111-aaaa-4bbb-8ccc-000000000001"
V = "11111111-aaaa-4bbb-8ccc-000000000002"


class Recording(Client):
    """Asks nobody; writes down what it would have asked."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.asked: list[tuple[str, dict[str, Any], int | None]] = []

    def connect(self) -> None:
        return

    def request(self, method: str, params: Any, *, on_event: Any = None, file: int | None = None) -> Any:
        self.asked.append((method, params, file))
        keys = ("deleted", "manifest")
        return dict.fromkeys(keys)

    def exchange(self, method: str, params: Any, file: int | None) -> Any:
        self.asked.append((method, params, file))
        yield Note("")

    def _another(self) -> Client:
        return self


def held(client: Client) -> None:
    with client.holding(U, "p"):
        pass


#: Each method with all that it takes.
CALLS: dict[str, Callable[[Client, str], Any]] = {
    "hello": lambda client, _: client.hello(),
    "list": lambda client, _: client.list(holds=True),
    "get": lambda client, _: client.get(U, "p", recursive=True),
    "avail": lambda client, _: client.available(),
    "show": lambda client, _: client.show(U),
    "import": lambda client, _: client.import_image(
        U, pool="p", sources=["s"], channel="c", zstream=True, detach=True
    ),
    "ensure": lambda client, _: client.ensure([U], pool="p", detach=True),
    "install": lambda client, path: client.install({}, path, pool="p"),
    "delete": lambda client, _: client.delete(U, "p"),
    "jobs": lambda client, _: client.jobs(),
    "watch": lambda client, _: [*client.watch(U)],
    "cancel": lambda client, _: client.cancel(U),
    "sources.list": lambda client, _: client.sources(),
    "sources.add": lambda client, _: client.add_source("u", "imgapi", insecure=True, force=True),
    "sources.delete": lambda client, _: client.delete_source("u"),
    "sources.check": lambda client, _: client.check_sources(),
    "sources.set": lambda client, _: client.set_sources([{"url": "u"}], before=[], force=True),
    "sources.known": lambda client, _: client.known_images(),
    "hold": lambda client, _: client.hold(U, "t", "p"),
    "release": lambda client, _: client.release(U, "t", "p"),
    "holds": lambda client, _: client.holds(U, "p"),
    "resolve": lambda client, _: client.resolve(["n"], among="active", pool="p", sources=["s"], channel="c"),
    "plan": lambda client, _: client.plan(U, pool="p", sources=["s"], channel="c"),
    "usage": lambda client, _: client.usage("p", [U]),
    "history": lambda client, _: client.history(U, 3),
    "ancestry": lambda client, _: client.ancestry(U, "p"),
    "update": lambda client, _: client.update([U], dry_run=True),
    "vacuum": lambda client, _: client.vacuum_candidates(older_than=3, keep=2),
    "verify": lambda client, _: client.verify([U], pool="p", record=True),
    "create": lambda client, _: client.create(
        "zones/a",
        7,
        {},
        fields=["a=b"],
        compression="xz",
        index=True,
        incremental=True,
        max_origin_depth=3,
        script="s",
        path="f",
    ),
    "export": lambda client, _: client.export(
        U, 7, pool="p", compression="xz", index=True, form="raw", path="f"
    ),
    "publish": lambda client, path: client.publish({}, path, "u", token="t", keys=["k"]),
    "site.export": lambda client, _: client.export_site(
        7, ["n"], url="u", keys=["k"], days=3, delete=True, path="f"
    ),
    "mirror": lambda client, _: client.mirror("u", name="n", os="o", newest=3, to="r", dry_run=True),
    "status": lambda client, _: client.status(),
    "doctor": lambda client, _: client.doctor(),
    "outdated": lambda client, _: client.outdated("p"),
    "aliases": lambda client, _: client.aliases(),
    "alias": lambda client, _: client.set_alias("a", U),
    "unalias": lambda client, _: client.delete_alias("a"),
    "events": lambda client, _: [*client.events(3)],
}
#: The methods that have another name than their operation.
NAMES = {
    "avail": "available",
    "import": "import_image",
    "sources.list": "sources",
    "sources.add": "add_source",
    "sources.delete": "delete_source",
    "sources.check": "check_sources",
    "sources.set": "set_sources",
    "sources.known": "known_images",
    "vacuum": "vacuum_candidates",
    "alias": "set_alias",
    "unalias": "delete_alias",
    "site.export": "export_site",
}
#: What methods return that return a part of the result.
PARTS: dict[str, Any] = {
    "sources.delete": list[documents.SourceDocument],
    "create": documents.ManifestDocument,
    "export": documents.ManifestDocument,
    "watch": Iterator[events.EventDocument],
    "events": Iterator[events.NumberedEvent],
}


def test_the_client_can_ask_for_every_operation():
    assert CALLS.keys() == OPERATIONS.keys()


@pytest.mark.parametrize("name", CALLS)
def test_a_method_asks_as_the_protocol_says(name, tmp_path):
    """It can say every parameter that there is, and nothing else."""
    (tmp_path / "file").write_bytes(b"")
    client = Recording()
    CALLS[name](client, str(tmp_path / "file"))
    ((asked, params, file),) = client.asked
    assert asked == name
    operation = OPERATIONS[name]
    assert checked(name, operation.params, params) == params
    assert params.keys() == operation.params.__annotations__.keys()
    assert (file is not None) == operation.file


def test_a_hold_without_a_tag():
    client = Recording()
    held(client)
    assert client.asked == [("hold", {"uuid": U, "pool": "p"}, None)]


@pytest.mark.parametrize("name", CALLS)
def test_a_method_returns_what_the_protocol_says(name):
    scope = {**vars(documents), **vars(events), **vars(params_module), "Any": Any, "os": os, "Images": str}
    scope |= {"Iterable": Iterable, "Iterator": Iterator, "Mapping": Mapping, "Sequence": Sequence}
    scope |= {"Callable": Callable, "OnEvent": Any, "Listed": list}
    method = getattr(Client, NAMES.get(name, name))
    returned = get_type_hints(method, scope)["return"]
    assert returned in (type(None), PARTS.get(name, OPERATIONS[name].result))


# -- errors --------------------------------------------------------------------------------------------------


def codes() -> set[str]:
    return {
        each.code
        for each in vars(daemon_errors).values()
        if isinstance(each, type) and issubclass(each, daemon_errors.ImgstoreError)
    }


def test_each_code_has_a_class():
    kinds = {code: type(remote_error({"code": code})) for code in codes()}
    assert [code for code, kind in kinds.items() if kind is RemoteError] == []
    assert len({*kinds.values()}) == len(kinds)
    assert all(issubclass(kind, RemoteError) and kind.__doc__ for kind in kinds.values())
    assert {*RemoteError.classes} - codes() == {"InvalidArgument"}


def test_a_code_that_is_not_known_is_a_remote_error():
    error = remote_error({"code": "ServersOwn", "message": "no"})
    assert type(error) is RemoteError
    assert (error.code, error.message) == ("ServersOwn", "no")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (remote_error({"code": "ImageNotInstalled"}), "RemoteError"),
        (errors.NotConnectedError("gone"), "NotConnectedError"),
        (errors.UsageError("no"), "UsageError"),
        (errors.CommandError("Option", "no"), "CommandError"),
    ],
)
def test_the_record_of_an_error_names_its_kind(error, name):
    """For `imgctl -E`: the code tells the rest."""
    assert error_record("imgctl", error)["err"]["name"] == name


@pytest.fixture
def client(daemon):
    with Client(str(daemon.path), timeout=30) as connected:
        yield connected


def test_what_is_raised_is_of_the_codes_class(daemon, client):
    with pytest.raises(errors.ImageNotInstalledError):
        client.get(U)
    daemon.store.errors["delete"] = ImageHeldError(U, ["pinned"])
    with pytest.raises(errors.ImageHeldError) as caught:
        client.delete(U)
    assert caught.value.data == {"holds": ["pinned"]}
    with pytest.raises(errors.InvalidRequestError):
        client.call("no.such.method")
    with pytest.raises(errors.ClientError):
        Client("/nonexistent").list()


# -- names ---------------------------------------------------------------------------------------------------


@pytest.fixture
def named(daemon):
    manifests = [{"uuid": U, "name": "base", "version": "1"}, {"uuid": V, "name": "base", "version": "2"}]
    daemon.store.images = [
        {"manifest": manifest, "zpool": "zones", "cloneNames": [], "clones": 0} for manifest in manifests
    ]
    daemon.sources.found["images"] = [{"manifest": manifest, "source": "http://h"} for manifest in manifests]
    daemon.store.scripts = {
        each["uuid"]: [AlreadyInstalled(each["uuid"], "base", each["version"])] for each in manifests
    }
    return daemon


def test_an_image_may_be_named(named, client):
    assert client.get("base@2")["manifest"]["uuid"] == V
    client.ensure(["base@1", V, "base@1"])
    client.ensure("base@2")
    assert [wish["uuids"] for wish in named.store.wishes] == [[U, V, U], [V]]
    client.delete("base@1")
    assert [image["manifest"]["uuid"] for image in client.list()] == [V]


def test_one_text_alone_is_one_image(named, client):
    client.ensure(U)
    client.update(U)
    client.verify(U)
    assert named.store.wishes[0]["uuids"] == [U]
    assert named.maintenance.asked[0]["uuids"] == [U]
    assert named.verifier.asked[0]["uuids"] == [U]
    assert client.resolve("base@1", among="installed") == [{"uuid": U, "name": "base", "version": "1"}]
    # For uuids the daemon was not asked.
    assert [asked["names"] for asked in named.queries.asked] == [["base@1"]]


def test_an_ambiguous_name(named, client):
    with pytest.raises(errors.AmbiguousNameError) as caught:
        client.ensure("base")
    assert [image["uuid"] for image in caught.value.data["candidates"]] == [U, V]
    assert named.store.wishes == []


def test_without_names_texts_are_sent_as_they_are(named):
    with Client(str(named.path), names=False) as client, pytest.raises(errors.ImageNotInstalledError):
        client.get("base@2")
    assert named.queries.asked == []


# -- what people and type checkers read ----------------------------------------------------------------------


def test_help_says_what_a_program_has_to_know():
    text = pydoc.render_doc(Client, renderer=pydoc.plaintext)
    for topic in ("Images:", "Errors:", "Threads:", "Time limits:", "Closing:"):
        assert topic in text
    assert "one thread at a time" in text
    undocumented = [
        name
        for name, member in vars(Client).items()
        if callable(member) and not name.startswith("_") and not member.__doc__
    ]
    assert undocumented == []


PROGRAM = """\
from imgctl import Client
from imgctl.errors import ImageNotInstalledError, RemoteError
from imgproto.documents import ImageDocument, JobDocument
from imgproto.events import EventDocument


def show(event: EventDocument) -> None:
    if event["event"] == "progress":
        done: int = event["done"]
        print(done, [image["phase"] for image in event["images"]])
    elif event["event"] == "installed":
        print(event["uuid"], event["name"])


def main() -> None:
    with Client(timeout=60.0) as client:
        client.ensure("base@latest", on_event=show)
        client.ensure(["base@latest", "other@1.0"], on_event=print)
        images: list[ImageDocument] = client.list()
        names: list[str] = [image["manifest"]["name"] for image in images]
        jobs: list[JobDocument] = client.jobs()
        slow = [job["uuid"] for job in jobs if job["rate"] < 1000 and job["limits"] == "network"]
        print(names, slow, client.status()["pools"][0]["available"])
        try:
            client.get("base", recursive=True)
        except ImageNotInstalledError as error:
            print(error.hint, error.data)
        except RemoteError as error:
            print(error.code)
"""

WRONG = {
    'job["rate"]': 'job["rates"]',
    'event["name"]': 'event["phase"]',
    'job["limits"] == "network"': 'job["limits"] == "networks"',
    'client.status()["pools"][0]["available"]': 'client.status()["pools"][0]["free"]',
    'client.ensure("base@latest"': "client.ensure(7",
}


def mypy(folder: Path, programs: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, program in programs.items():
        (folder / name).write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    return subprocess.run(
        [*command, "--cache-dir", str(folder / "cache"), *sorted(programs)],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(CTL)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


@pytest.mark.slow
def test_a_program_that_uses_the_client_is_checked(tmp_path):
    wrong = {
        f"wrong{number}.py": PROGRAM.replace(right, other)
        for number, (right, other) in enumerate(WRONG.items())
    }
    done = mypy(tmp_path, {"right.py": PROGRAM, **wrong})
    lines = [line for line in done.stdout.splitlines() if ": error:" in line and "ctl/" not in line]
    assert {line.partition(":")[0] for line in lines} == wrong.keys(), done.stdout
    assert len(lines) == len(wrong), done.stdout


# -- leaving a request early, as docs/library.md does it -----------------------------------------------------


@pytest.fixture
def endless(daemon):
    """An import that goes on and on, and says so."""
    daemon.store.scripts[U] = [step for _ in range(3000) for step in (Note("still at it"), 0.01)]
    return daemon


def test_a_cancelled_trio_task_leaves_its_request(endless):
    begun = trio.Event()

    def look(event: Any) -> None:
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(begun.set)

    def work() -> None:
        with Client(str(endless.path), timeout=30) as client:
            client.ensure(U, on_event=look)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, work)
            await begun.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert endless.store.left.wait(30)


def test_an_exception_out_of_an_event_leaves_the_request_and_not_the_client(endless):
    class EnoughError(Exception):
        pass

    def look(event: Any) -> None:
        raise EnoughError

    with Client(str(endless.path), timeout=30) as client:
        with pytest.raises(EnoughError):
            client.ensure(U, on_event=look)
        assert endless.store.left.wait(30)
        assert client.list() == []


# -- what holds the real daemon to the types, in all tests that run one --------------------------------------

ROOM: dict[str, Any] = {"spool": 1, "pool": 2}


def test_a_result_that_is_as_the_protocol_says():
    check(ROOM, documents.RoomDocument, "room")
    check([ROOM], list[documents.RoomDocument], "rooms")
    check({"ok": 1}, dict[documents.Result, int], "results")
    check(None, str | None, "text")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({"spool": 1}, documents.RoomDocument),
        ({**ROOM, "more": 3}, documents.RoomDocument),
        ({**ROOM, "pool": "2"}, documents.RoomDocument),
        ({**ROOM, "pool": True}, documents.RoomDocument),
        ([ROOM, None], list[documents.RoomDocument]),
        ({"good": 1}, dict[documents.Result, int]),
        (7, str | None),
    ],
)
def test_a_result_that_is_not(value, hint):
    with pytest.raises(AssertionError):
        check(value, hint, "it")
