"""`create`, `export` and `publish`: what they hand on, and what becomes of the file that came with them."""

from __future__ import annotations

import os

import msgpack
import pytest
import trio

from imgstored.create.maker import CreateSpec
from imgstored.errors import NoSpaceError, NotPermittedError
from imgstored.mirrors.export_site import SiteSpec
from imgstored.mirrors.mirror import MirrorSpec
from imgstored.mirrors.selection import Filter
from imgstored.rpc.call import Call, Client, PassedFile
from imgstored.rpc.dispatch import perform
from imgstored.rpc.peer import ChangeRights, Peer
from tests.rpc.harness import connecting, only_open, serving
from tests.rpc.test_methods import UUID, FakeMaking, FakeSources, FakeStore, table
from tests.support.descriptors import open_files
from tests.support.events import Note

ME = f"pid {os.getpid()}"


@pytest.fixture
def making():
    return FakeMaking()


@pytest.fixture
async def client(path, making):
    methods = table(FakeStore(), FakeSources(), making=making)
    async with serving(path, methods), connecting(path) as connected:
        yield connected


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(b"the file")
    with (tmp_path / "file").open("r+b") as opened:
        yield opened.fileno()


async def ask(client, file, method, **params):
    await client.pass_files(msgpack.packb([0, 1, method, [params]]), file)
    return await client.receive()


CALLS = {
    "create": (
        {"source": "zones/web", "manifest": {"v": 2}},
        (CreateSpec("zones/web", {"v": 2}, []), ME, "the file"),
    ),
    "export": ({"uuid": UUID}, (UUID, None, "none", "stream", False, ME, "the file")),
    "site.export": ({}, (SiteSpec(), ME, "the file")),
    "publish": ({"manifest": {"v": 2}, "url": "http://a"}, ({"v": 2}, "http://a", ME, "the file", None)),
}


@pytest.mark.parametrize("method", CALLS)
async def test_the_least_that_can_be_asked(client, making, file, method):
    params, handed_on = CALLS[method]
    making.events = [Note("a note")]
    assert await ask(client, file, method, **params) == [
        2,
        "event",
        [{"id": 1, "event": "note", "text": "a note"}],
    ]
    assert await client.receive() == [1, 1, None, {"answer": "made"}]
    assert making.calls == [(method, *handed_on)]
    assert making.contents == [b"the file"]


async def test_a_mirror(client, making):
    made = (None, {"answer": "made"})
    assert await client.call(1, "mirror", url="http://a", name="n", os="o", newest=3, dry_run=True) == made
    assert await client.call(2, "mirror", url="http://a") == made
    spec = MirrorSpec("http://a", Filter("n", "o", 3))
    assert making.calls == [("mirror", spec, ME, True), ("mirror", MirrorSpec("http://a"), ME, False)]


async def test_all_that_can_be_asked(client, making, file):
    spec = CreateSpec("zones/web", {}, ["name=a"], "xz", True, 3, "a script")
    params = {"source": "zones/web", "manifest": {}, "fields": ["name=a"], "compression": "xz"}
    params |= {"incremental": True, "max_origin_depth": 3, "script": "a script", "path": "a\x1b[b"}
    await ask(client, file, "create", **params)
    await ask(client, file, "export", uuid=UUID, pool="p", compression="gzip", format="raw", path="b")
    assert making.calls == [
        ("create", spec, ME, "a[b"),
        ("export", UUID, "p", "gzip", "raw", False, ME, "b"),
    ]


@pytest.mark.parametrize("method", CALLS)
async def test_the_file_is_closed_however_it_ends(client, making, file, method):
    here = open_files()
    for error in (NoSpaceError("no room"), None):
        making.error = error
        for _ in range(3):
            await ask(client, file, method, **CALLS[method][0])
    for _ in range(3):
        assert (await ask(client, file, method, nonsense=1))[2]["code"] == "Usage"
    await only_open(here)
    os.fstat(file)


@pytest.mark.parametrize("method", CALLS)
async def test_without_a_file(client, making, method):
    error, _ = await client.call(1, method, **CALLS[method][0])
    assert error["code"] == "Usage"
    assert error["message"] == f"{method}: no file was passed"
    assert making.calls == []


async def test_who_leaves_ends_it(path, making, file):
    making.endless, making.events = True, [Note("on its way")]
    methods = table(FakeStore(), FakeSources(), making=making)
    async with serving(path, methods) as server:
        async with connecting(path) as client:
            assert (await ask(client, file, "create", **CALLS["create"][0]))[0] == 2
        with trio.fail_after(5):
            while server.connections:  # noqa: ASYNC110 - what is waited for is within the daemon
                await trio.sleep(0.002)
    assert making.left == ["create"]


async def untold(request, event):
    raise AssertionError((request, event))


@pytest.mark.parametrize(("to", "allowed"), [(None, True), ("oci://r.example", False)])
async def test_who_may_change_mirrors_into_no_registry(making, to, allowed):
    """What is pushed goes there with the login of the host."""
    asked = Call(
        id=1,
        method="mirror",
        params={"url": "http://a", "to": to},
        client=Client(Peer(uid=8, pid=1, groups=frozenset({5}))),
        access=ChangeRights(7, "operators", 5),
        notify_client=untold,
        file=PassedFile(None),
    )
    outcome = await perform(asked, table(FakeStore(), FakeSources(), making=making))
    assert isinstance(outcome, NotPermittedError) is not allowed
    assert bool(making.calls) is allowed


@pytest.mark.parametrize(("uid", "daemon", "allowed"), [(0, 7, True), (7, 7, True), (8, 7, False)])
@pytest.mark.parametrize("method", CALLS)
async def test_what_is_for_root_only(making, file, method, uid, daemon, allowed):
    """Also the members of the group that may change may not read machines' disks; they may export."""
    peer = Peer(uid=uid, pid=1, groups=frozenset({5}))
    asked = Call(
        id=1,
        method=method,
        params=CALLS[method][0],
        client=Client(peer),
        access=ChangeRights(daemon, "operators", 5),
        notify_client=untold,
        file=PassedFile(os.dup(file)),
    )
    outcome = await perform(asked, table(FakeStore(), FakeSources(), making=making))
    asked.file.close()
    if allowed or method == "export":
        assert outcome == {"answer": "made"}
    else:
        assert isinstance(outcome, NotPermittedError)
        assert f"uid 8 may not {method}" in outcome.message
        assert making.calls == []
