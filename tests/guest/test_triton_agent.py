"""Beside Triton's agent on one pool: its steps between all that we do, in any order."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from imgctl.errors import RemoteError

from imgstored.errors import ImageNotInstalledError, PoolError
from imgstored.pools.base import Occupant
from imgstored.pools.zfs import ZfsPool, programs
from imgstored.pools.zfs.lzc import Lzc
from tests.e2e.test_on_demand import until
from tests.guest.host import ORIGIN, POOL, Host, zfs_host
from tests.guest.zpool import Zpool, run
from tests.support.triton_agent import NO_SHA1, AgentsImport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgctl import Client

OPERATIONS = 220

#: Images that both sides install, the agent's alone, and one of ours with an origin.
SHARED = [f"66666666-aaaa-4bbb-8ccc-00000000000{number}" for number in range(3)]
AGENTS = [f"77777777-aaaa-4bbb-8ccc-00000000000{number}" for number in range(2)]
CHILD = "88888888-aaaa-4bbb-8ccc-000000000000"
NAMES = {uuid: f"image-{uuid[0]}-{uuid[-1]}" for uuid in (*SHARED, *AGENTS, CHILD)}


@dataclass(frozen=True)
class Streams:
    """Small streams that ZFS has made."""

    full: bytes
    other: bytes  #: the same, of a snapshot that is not called @final
    child: bytes  #: incremental, on `full`


@pytest.fixture(scope="module")
def streams() -> Iterator[Streams]:
    with Zpool(ORIGIN, "128M") as pool:
        run("zfs", "create", f"{ORIGIN}/small")
        (pool.mountpoint("small") / "file").write_bytes(random.Random(7).randbytes(300_000))
        run("zfs", "snapshot", f"{ORIGIN}/small@other")
        other = sent(f"{ORIGIN}/small@other")
        run("zfs", "rename", f"{ORIGIN}/small@other", f"{ORIGIN}/small@final")
        run("zfs", "clone", f"{ORIGIN}/small@final", f"{ORIGIN}/child")
        (pool.mountpoint("child") / "more").write_bytes(random.Random(8).randbytes(50_000))
        run("zfs", "snapshot", f"{ORIGIN}/child@final")
        child = sent("-i", f"{ORIGIN}/small@final", f"{ORIGIN}/child@final")
        yield Streams(sent(f"{ORIGIN}/small@final"), other, child)


def sent(*arguments: str) -> bytes:
    return subprocess.run(["zfs", "send", *arguments], capture_output=True, check=True).stdout


def manifest_of(uuid: str, file: bytes, **fields: Any) -> dict[str, Any]:
    return {
        "v": 2,
        "uuid": uuid,
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": NAMES[uuid],
        "version": "1.0.0",
        "state": "active",
        "disabled": False,
        "public": True,
        "published_at": "2026-11-24T00:00:09.000Z",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [{"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}],
        **fields,
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, streams: Streams) -> Iterator[Host]:
    with zfs_host(tmp_path_factory.mktemp("host"), view="off") as host:
        pages, full = host.served.pages, gzip.compress(streams.full, 1)
        for uuid in SHARED:
            pages.add(manifest_of(uuid, full), full)
        child = gzip.compress(streams.child, 1)
        pages.add(manifest_of(CHILD, child, origin=SHARED[0]), child)
        # Files that no source has.
        (pages.folder / "agents").mkdir()
        (pages.folder / "agents" / "full").write_bytes(full)
        (pages.folder / "agents" / "other").write_bytes(gzip.compress(streams.other, 1))
        host.daemon.program = "tests.support.patient_daemon"
        host.daemon.start()
        yield host


@pytest.fixture
def host(running: Host) -> Iterator[Host]:
    yield running
    running.clear()


class OurImport:
    """An import of ours that waits for the agent, in a thread."""

    def __init__(self, host: Host, uuid: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self._host, self._uuid = host, uuid
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: self.waits() or not self._thread.is_alive(), seconds=60)

    def _run(self) -> None:
        try:
            with self._host.daemon.client() as client:
                client.ensure([self._uuid], on_event=self.events.append)
        except RemoteError as error:
            self.error = error

    def waits(self) -> bool:
        return any("waiting for that" in str(each.get("text")) for each in self.events)

    def ended(self) -> list[str]:
        """The kinds of its events; it must have succeeded."""
        self._thread.join(90)
        assert not self._thread.is_alive()
        assert self.error is None, self.error
        return [each["event"] for each in self.events]


@dataclass
class Known:
    """What must be true of an image's dataset, and its manifest's file."""

    guid: int  #: of the dataset
    final: bool = False
    receiving: bool = False


@dataclass
class Replay:
    """All that happens, and what must be true after it."""

    host: Host
    client: Client
    chance: random.Random
    done: list[str] = field(default_factory=list)
    datasets: dict[str, Known] = field(default_factory=dict)
    manifests: set[str] = field(default_factory=set)  #: those that can be read
    listed: set[str] = field(default_factory=set)
    agents: dict[str, AgentsImport] = field(default_factory=dict)
    waiting: dict[str, OurImport] = field(default_factory=dict)
    #: Destroyed by the agent: what was written down of them may be of another image than is there now.
    replaced: set[str] = field(default_factory=set)

    # -- the agent's steps -----------------------------------------------------------------------------------

    def agent_fetches(self) -> None:
        uuid = self.chance.choice([each for each in (*SHARED, *AGENTS) if each not in self.agents])
        self.say("agent fetches", uuid)
        # The child can only be made of the image whose snapshot its stream names.
        where = "full" if uuid == SHARED[0] else self.chance.choice(("full", "other"))
        file = self.host.served.pages.folder / "agents" / where
        agent = AgentsImport(
            POOL,
            uuid,
            f"{self.host.served.url}/agents/{where}",
            hashlib.sha256(file.read_bytes()).hexdigest(),
            self.host.folder / "triton-images",
            self.host.imgadm / "images",
        )
        if agent.has_final():
            agent.size = file.stat().st_size
            agent.write()
            self.whole(uuid)
            return
        agent.fetch()
        self.agents[uuid] = agent

    def agent_goes_on(self) -> None:
        uuid = self.chance.choice(list(self.agents))
        agent, known = self.agents[uuid], self.datasets.get(uuid)
        if agent.file.exists() and (known is None or not known.receiving):
            self.agent_begins(uuid, agent)
        elif known is None:
            self.agent_ends_without(uuid, agent)
        elif known.receiving:
            self.agent_receives(uuid, agent, known)
        elif not known.final:
            self.say("agent takes the snapshot", uuid)
            agent.snapshot()
            known.final = agent.final = True
            self.perhaps_whole(uuid)
        elif agent.manifest.exists() or self.chance.random() < 0.5:
            self.say("agent writes the manifest", uuid)
            agent.write()
            del self.agents[uuid]
            self.whole(uuid)
        else:
            self.say("agent writes a part of the manifest", uuid)
            agent.write_part()

    def agent_begins(self, uuid: str, agent: AgentsImport) -> None:
        self.say("agent begins to receive", uuid)
        if agent.begin():
            self.datasets[uuid] = Known(dataset_guid(uuid), receiving=True)
            return
        # Ours was faster, and so the agent has destroyed it: it is like that.
        del self.agents[uuid]
        if uuid != SHARED[0] or CHILD not in self.datasets:
            self.gone(uuid)
            self.replaced.add(uuid)

    def agent_receives(self, uuid: str, agent: AgentsImport, known: Known) -> None:
        if self.chance.random() < 0.75:
            self.say("agent's receive ends", uuid)
            agent.finish()
            known.receiving = False
            known.final = agent.final = agent.has_final()
            self.perhaps_whole(uuid)
            return
        self.say("agent's receive fails", uuid)
        agent.fail()
        del self.agents[uuid], self.datasets[uuid]
        if uuid in self.waiting:
            assert "installed" in self.waiting.pop(uuid).ended()
            self.ours(uuid)

    def agent_ends_without(self, uuid: str, agent: AgentsImport) -> None:
        """An old manifest made its image whole early, and we have deleted that. The agent does not look."""
        self.say("agent ends without its image", uuid)
        del self.agents[uuid]
        if agent.final:
            agent.write()
            self.manifests.add(uuid)

    def perhaps_whole(self, uuid: str) -> None:
        """A manifest of an image that was destroyed, not deleted, is still there, and fits."""
        if self.datasets[uuid].final and uuid in self.manifests:
            self.whole(uuid)

    def whole(self, uuid: str) -> None:
        self.manifests.add(uuid)
        self.listed.add(uuid)
        if uuid in self.waiting:
            assert self.waiting.pop(uuid).ended()[-1] == "installed-meanwhile"

    # -- ours ------------------------------------------------------------------------------------------------

    def import_(self) -> None:
        uuid = self.chance.choice([each for each in (*SHARED, CHILD) if each not in self.waiting])
        half = [each for each in self.needed(uuid) if each in self.datasets and each not in self.listed]
        if uuid == CHILD and (half or SHARED[0] in self.waiting):
            return
        self.say("import", uuid)
        if half:
            self.waiting[uuid] = OurImport(self.host, uuid)
            assert self.waiting[uuid].waits()
            return
        self.client.ensure([uuid])
        for each in self.needed(uuid):
            self.ours(each)

    def needed(self, uuid: str) -> list[str]:
        return [SHARED[0], CHILD] if uuid == CHILD else [uuid]

    def ours(self, uuid: str) -> None:
        if uuid not in self.listed:
            self.datasets[uuid] = Known(dataset_guid(uuid), final=True)
            self.manifests.add(uuid)
            self.listed.add(uuid)

    def delete(self) -> None:
        uuid = self.chance.choice(list(NAMES))
        self.say("delete", uuid)
        self.deleted(uuid)

    def deleted(self, uuid: str) -> None:
        refused = None
        if uuid not in self.listed:
            refused = "ImageNotInstalled"
        elif uuid == SHARED[0] and CHILD in self.datasets:
            refused = "ImageHasDependentClones"
        if refused is not None:
            with pytest.raises(RemoteError) as caught:
                self.client.delete(uuid)
            assert caught.value.code == refused
            return
        self.client.delete(uuid)
        self.gone(uuid)
        self.manifests.discard(uuid)
        self.replaced.discard(uuid)

    def gone(self, uuid: str) -> None:
        del self.datasets[uuid]
        self.listed.discard(uuid)

    def vacuum(self) -> None:
        self.say("vacuum", "")
        told: list[dict[str, Any]] = []
        unused = [each["uuid"] for each in self.client.vacuum_candidates(on_event=told.append)]
        assert told == []
        assert set(unused) == self.listed
        for uuid in unused:
            if self.chance.random() < 0.5 or (uuid == SHARED[0] and CHILD in self.datasets):
                self.deleted(uuid)

    def verify(self) -> None:
        record = self.chance.random() < 0.3
        self.say("verify --record" if record else "verify", "")
        told: list[dict[str, Any]] = []
        self.client.verify(record=record, on_event=told.append)
        found = {each["uuid"]: each for each in told if each["event"] == "verified"}
        lost = self.manifests - set(self.datasets)
        assert {uuid for uuid in found if uuid in self.listed} == self.listed
        for uuid, each in found.items():
            good = {"recorded"} if record else {"ok", "unknown"}
            if uuid in self.replaced and not record:
                good.add("changed")
            assert each["result"] in ({"lost"} if uuid in lost else good), each
        if record:
            self.replaced -= self.listed

    def update(self) -> None:
        unnamed = {uuid for uuid, each in self.datasets.items() if not each.final and not each.receiving}
        unnamed &= self.manifests
        if unnamed & set(self.waiting):
            return  # an import has the lock, and so would be waited for
        self.say("update", "")
        told: list[dict[str, Any]] = []
        self.client.update(on_event=told.append)
        for each in told:
            kinds = {"manifest-updated", "not-in-sources"}
            assert each["uuid"] in self.listed | unnamed
            assert each["event"] in (kinds | {"original-unknown"} if each["uuid"] in unnamed else kinds)

    def export(self) -> None:
        if not self.listed:
            return
        uuid = self.chance.choice(sorted(self.listed))
        self.say("export", uuid)
        path = self.host.folder / "exported"
        with path.open("wb") as file:
            manifest = self.client.export(uuid, file.fileno(), compression="gzip")
        content = path.read_bytes()
        assert manifest["files"][0]["sha1"] == hashlib.sha1(content).hexdigest() != NO_SHA1
        if self.chance.random() < 0.5 and (uuid != SHARED[0] or CHILD not in self.datasets):
            self.say("install what was exported", uuid)
            self.deleted(uuid)
            self.client.install(manifest, path)
            self.ours(uuid)

    def status(self) -> None:
        self.say("status", "")
        until(lambda: self.named() == self.to_be_named(), seconds=30)

    def named(self) -> dict[str, str]:
        pool = next(each for each in self.client.status()["pools"] if each["name"] == POOL)
        return {each["uuid"]: each["why"] for each in pool["unfinished"]}

    def to_be_named(self) -> dict[str, str]:
        return {
            uuid: "receiving" if each.receiving else "no manifest"
            for uuid, each in self.datasets.items()
            if each.receiving or (each.final and uuid not in self.listed)
        }

    # -- what must be true -----------------------------------------------------------------------------------

    def check(self) -> None:
        images = self.client.list()
        assert sorted(image["manifest"]["uuid"] for image in images) == sorted(self.listed)
        assert all(image["manifest"].get("name") for image in images)
        found = datasets()
        for uuid, known in self.datasets.items():
            assert found[uuid] == (known.guid, known.final)
        partials = {name for name in found if name.endswith("-partial")}
        assert set(found) - partials == set(self.datasets)
        assert partials <= {f"{uuid}-partial" for uuid in self.waiting}

    def say(self, what: str, uuid: str) -> None:
        self.done.append(f"{what} {uuid}".strip())

    def steps(self) -> list[tuple[int, Callable[[], None]]]:
        """What can be done now, and how often it is."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (6, self.import_),
            (3, self.delete),
            (1, self.vacuum),
            (1, self.verify),
            (1, self.update),
            (2, self.export),
            (2, self.status),
        ]
        if len(self.agents) < 3:
            steps.append((6, self.agent_fetches))
        if self.agents:
            steps.append((14, self.agent_goes_on))
        return steps

    def run(self, count: int) -> None:
        while len(self.done) < count:
            weights, steps = zip(*self.steps(), strict=True)
            self.chance.choices(steps, weights)[0]()
            self.check()
        while self.agents:
            self.agent_goes_on()
            self.check()

    def end(self) -> None:
        for agent in self.agents.values():
            agent.kill()


#: As quick as can be under emulation, and all at one moment.
_DATASETS = """
local found = {}
for name in zfs.list.children((...)["argv"].pool) do
    found[name] = {guid = zfs.get_prop(name, "guid"), final = zfs.exists(name .. "@final")}
end
return found
"""


def datasets() -> dict[str, tuple[int, bool]]:
    """All that is in the pool: guids of the datasets, and whether they have @final."""
    found = Lzc(POOL).ask(_DATASETS, "looking what is there", pool=POOL)
    return {name[len(POOL) + 1 :]: (each["guid"], each["final"]) for name, each in found.items()}


def dataset_guid(uuid: str) -> int:
    return datasets()[uuid][0]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [int(os.environ.get("IMGSTORE_SEED", "3"))])
def test_in_any_order(host: Host, seed: int, record_property: Callable[[str, object], None]) -> None:
    with host.daemon.client() as client:
        replay = Replay(host, client, random.Random(seed))
        try:
            replay.run(OPERATIONS)
        except BaseException:
            print(f"seed {seed}; what was done:", *replay.done[-40:], sep="\n  ")
            raise
        finally:
            replay.end()
        record_property("operations", len(replay.done))
        kinds = {line.partition(" 6")[0].partition(" 7")[0].partition(" 8")[0] for line in replay.done}
        record_property("of these kinds", ", ".join(sorted(kinds)))


def test_what_is_half_received_is_named_and_left_alone(host: Host) -> None:
    uuid, file = AGENTS[0], host.served.pages.folder / "agents" / "other"
    agent = AgentsImport(
        POOL,
        uuid,
        f"{host.served.url}/agents/other",
        hashlib.sha256(file.read_bytes()).hexdigest(),
        host.folder / "triton-images",
        host.imgadm / "images",
    )
    pool = ZfsPool(POOL)
    agent.fetch()
    assert agent.begin()
    try:
        assert pool.occupant(uuid) == Occupant(f"{POOL}/{uuid}", None, pool.incoming()[uuid], receiving=True)
        assert (pool.images(), pool.image(uuid), pool.unnamed(), pool.partials()) == ([], None, {}, [])
        with pytest.raises(ImageNotInstalledError):
            pool.destroy(uuid)
        with pytest.raises(PoolError, match="another program is receiving"):
            pool.receive(uuid, [host.served.pages.folder.joinpath("agents/full").read_bytes()])
        with host.daemon.client() as client:
            seen = [finding["seen"] for finding in client.doctor()["findings"]]
            assert [text for text in seen if f"another program is receiving {POOL}/{uuid}" in text]
            for ask in (
                lambda: client.delete(uuid),
                lambda: client.get(uuid),
                lambda: client.update([uuid]),
                lambda: client.verify([uuid]),
            ):
                with pytest.raises(RemoteError):
                    ask()
        agent.finish()
    finally:
        agent.kill()
    # Its snapshot has another name: a dataset like that may be a machine's, too.
    assert pool.incoming() == {}
    assert pool.occupant(uuid) == Occupant(f"{POOL}/{uuid}", None, int(host.pool.get(uuid, "used")[0]))
    assert list(pool.unnamed()[uuid]) == ["other"]
    assert host.listed() == set()
    agent.snapshot()
    assert host.listed() == set()
    with host.daemon.client() as client:
        seen = [finding["seen"] for finding in client.doctor()["findings"]]
        assert f"images without a manifest: {POOL}/{uuid}" in seen
    agent.write()
    assert host.listed() == {f"{POOL}/{uuid}"}
    # A deletion is of one dataset, and not of what has its name by now.
    programs.destroy(Lzc(POOL), f"{POOL}/{uuid}", "trying", guid=1)
    assert host.listed() == {f"{POOL}/{uuid}"}


def test_all_data_of_what_the_agent_installed_is_compared(host: Host) -> None:
    uuid, full = AGENTS[1], host.served.pages.folder / "agents" / "full"
    agent = AgentsImport(
        POOL,
        uuid,
        f"{host.served.url}/agents/full",
        hashlib.sha256(full.read_bytes()).hexdigest(),
        host.folder / "triton-images",
        host.imgadm / "images",
    )
    agent.fetch()
    assert agent.begin()
    agent.finish()
    agent.write()
    done = host.daemon.imgctl("verify", "--record", uuid, timeout=150)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Verified 1 image: 1 recorded")
    receipt = host.daemon.folder / "state" / "receipts" / f"{POOL}-{uuid}.json"
    kept = json.loads(receipt.read_text())
    with host.daemon.client() as client:
        assert client.verify([uuid]) == {"ok": 1}
        # Looking at a file changes the dataset, and not the image.
        run("tar", "cf", "/dev/null", str(host.pool.mountpoint(uuid)))
        run("zpool", "sync", POOL)
        assert client.verify([uuid]) == {"ok": 1}
        receipt.write_text(json.dumps(kept | {"content": "00" * 32}))
        assert client.verify([uuid]) == {"changed": 1}
