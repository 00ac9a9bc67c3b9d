"""One schedule: clients that ask for things at the same time, faults, kills and restarts, all by one seed."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from trio.testing import MockClock

from imgstored import lanes
from imgstored.errors import ImageHasDependentClonesError, ImageHeldError, ImgstoreError, InternalError
from imgstored.events.stream import Requester
from imgstored.imports import table
from imgstored.transfer import download, plan
from tests.proofs.schedules.house import Trouble, opened
from tests.proofs.schedules.network import (
    BASE,
    CLONE,
    GRANDCHILD,
    IMAGES,
    LONE,
    NETWORK,
    ORIGINS,
    Server,
    made,
)
from tests.proofs.schedules.turns import TURNS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from imgstored.events.stream import StoreEvent
    from imgstored.sources.base import SourceSpec
    from tests.proofs.schedules.house import House

THERE, GONE, MAYBE = "there", "gone", "maybe"
TAG: Final = "for good"
#: Seconds of the run's own clock in which everything must have come to rest once all faults are gone.
_REST: Final = 4 * 3600.0
#: How often each image is imported and deleted at the end.
_ALL_COME: Final = 0.25
#: What clients ask for where an image is not installed, and where it is.
_BRINGS: Final = ("import", "import", "import", "leave", "leave", "cancel", "detach", "list")
_CHANGES: Final = ("delete", "delete", "delete", "hold", "release", "import", "leave", "list", "cancel")


# Files of a few KiB come in several ranges, and nobody looks at the progress five times a second.
plan.MIN_RANGE = download.MIN_RANGE = 1 << 12
download._PROGRESS = 1 << 11
table.PROGRESS_INTERVAL = 5.0
download.RangeConnection = NETWORK.connect  # type: ignore[misc, assignment]


class BrokenError(AssertionError):
    """Something that must hold does not."""


def chain(uuid: str) -> Iterator[str]:
    """The image, its origin, and so on."""
    each: str | None = uuid
    while each is not None:
        yield each
        each = ORIGINS.get(each)


@dataclass
class Told:
    """What clients were told of one image. `made` and `unmade` count what began and could change that."""

    state: str = GONE
    held: str = GONE
    made: int = 0
    unmade: int = 0
    holding: int = 0
    making: Counter[str] = field(default_factory=Counter)  #: what is under way, by kind


class Trace:
    """All that happens, in order: two runs of one seed have the same one."""

    def __init__(self, keep: bool) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self.lines: list[str] | None = [] if keep else None
        self.events = 0
        self.mistakes: list[str] = []

    def add(self, text: str) -> None:
        line = f"{TURNS.offset + _now():.6f} {text}"
        self._hash.update(line.encode())
        self.events += 1
        if self.lines is not None:
            self.lines.append(line)

    def hear(self, event: StoreEvent) -> None:
        action = event.action
        self.add(f"{type(event).__name__} {'' if action is None else action.uuid[-1]}")

    def log(self, _: Any, method: str, event: Any) -> Any:
        """A processor of structlog: takes each line."""
        said = {key: str(event[key]) for key in ("event", "uuid", "error") if key in event}
        self.add(f"{method} {said}")
        if "exc_info" in event:
            import sys
            import traceback

            error = sys.exc_info()[1]
            self.mistakes.append(f"{said}: {''.join(traceback.format_exception(error)) if error else ''}")
        raise structlog.DropEvent

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _now() -> float:
    try:
        return trio.current_time()
    except RuntimeError:
        return 0.0


class Schedule:
    """The whole of one; `run` raises `BrokenError`."""

    def __init__(self, seed: str, folder: Path, *, keep: bool = False) -> None:
        TURNS.seed(seed)
        dice = TURNS.dice
        self.trace = Trace(keep)
        self.kills = self.restarts = self.done = self.failed = 0
        self._folder = folder
        self._number = 0
        self._told = {uuid: Told() for uuid in IMAGES}
        self._trouble = Trouble()
        self._failing = self._calm = False
        self._focus: tuple[str, ...] = IMAGES
        self._servers: list[Server] = []
        NETWORK.servers.clear()
        self._specs: list[SourceSpec] = []
        for name in ("one", "two", "three")[: dice.choice((1, 1, 2, 3))]:
            server = Server(f"http://{name}.example.com", dice.choice(("first", "streaming")))
            self._servers.append(server)
            self._specs.append(NETWORK.add(server))
        self._connections = dice.choice((1, 2, 4))
        self._slots = dice.choice((1, 2, 8))

    @property
    def place(self) -> Path:
        return self._folder / f"state-{self._number}"

    def run(self) -> None:
        structlog.configure(processors=[self.trace.log], cache_logger_on_first_use=False)
        dice = TURNS.dice
        ends = [dice.choice(("rest", "kill", "stop")) for _ in range(dice.choice((1, 2, 3)))]
        first = ("some",) if dice.random() < 0.6 else ()
        for end in (*first, *ends, "all"):
            self._set_trouble(calm=end in ("some", "all"))
            # The more clients want the same image, the more of them are in each other's way.
            self._focus = dice.choice((IMAGES, (BASE, CLONE), (BASE, CLONE), (CLONE, GRANDCHILD), (LONE,)))
            self._failing = self._trouble.fails > 0  # what the pool does not drop then is dropped by a start
            clock = MockClock(autojump_threshold=0)
            TURNS.offset += trio.run(self._daemon, end, clock=clock)
            if self.trace.mistakes:
                raise BrokenError(f"a mistake in the daemon: {self.trace.mistakes[0]}")
        shutil.rmtree(self.place)

    # -- one daemon ------------------------------------------------------------------------------------------

    async def _daemon(self, end: str) -> float:
        """A daemon from its start to its end; returns the seconds that it took."""
        self.trace.add(f"start, until {end}")
        left: Path | None = None
        with trio.move_on_after(10 * _REST) as limit:
            async with opened(
                self.place, self._specs, self._trouble, self.trace.hear, self._connections, self._slots
            ) as house:
                async with trio.open_nursery() as clients:
                    if end == "all":
                        await self._rest(house)
                        await self._all_come(house)
                    elif end == "some":
                        await self._import(house, TURNS.dice.choice(IMAGES))
                    else:
                        for number in range(TURNS.dice.choice((1, 2, 3, 5))):
                            clients.start_soon(self._client, house, number)
                        if end != "rest":
                            await trio.sleep(TURNS.dice.choice((0.02, 0.5, 5.0)) * TURNS.dice.random())
                            if end == "kill":
                                left = self._folder / f"state-{self._number + 1}"
                                house.copy(left)
                                self.kills += 1
                            else:
                                self.restarts += 1
                            self._interrupted()
                            clients.cancel_scope.cancel()
                if end in ("some", "rest"):
                    await self._rest(house)
        if limit.cancelled_caught:
            raise BrokenError("the daemon does not end")
        if left is not None:
            shutil.rmtree(self.place)
            self._number += 1
        return trio.current_time()

    def _set_trouble(self, *, calm: bool) -> None:
        dice = TURNS.dice
        kind = 0.0 if calm else dice.choice((0.0, 0.05, 0.3))
        for server in self._servers:
            server.faulty = kind * dice.random() * 2
            server.down = not calm and dice.random() < 0.1
            server.bad = set() if calm or dice.random() < 0.9 else {dice.choice(IMAGES)}
        self._trouble.fails = 0.0 if calm else dice.choice((0.0, 0.0, 0.02, 0.2))
        self._trouble.hangs = 0.0 if calm else dice.choice((0.0, 0.0, 0.02))
        troubled = self._trouble.fails or self._trouble.hangs
        self._calm = not kind and not troubled and not any(each.down or each.bad for each in self._servers)

    def _interrupted(self) -> None:
        """The daemon dies, or stops: what is under way may end in any way, and nobody is told how."""
        for told in self._told.values():
            if told.making["import"] or told.making["left"]:
                told.state = MAYBE if told.state == GONE else told.state
                told.making["left"] += 1

    # -- what clients do -------------------------------------------------------------------------------------

    async def _client(self, house: House, number: int) -> None:
        dice = TURNS.dice
        await trio.sleep(dice.choice((0.0, 0.0, 0.05, 3.0)) * dice.random())
        for _ in range(dice.choice((1, 2, 4))):
            uuid = dice.choice(self._focus)
            there = house.catalog.find("zones", uuid) is not None
            name = dice.choice(_CHANGES if there else _BRINGS)
            self.trace.add(f"client {number}: {name} {uuid[-1]}")
            try:
                await getattr(self, f"_{name}")(house, uuid)
            except ImgstoreError as error:
                if isinstance(error, InternalError):
                    raise BrokenError(f"{name} {uuid[-1]}: {error.message}") from error
                self.failed += 1
                self.trace.add(f"client {number}: {name} {uuid[-1]} failed: {error.message}")
            else:
                self.done += 1
                self.trace.add(f"client {number}: {name} {uuid[-1]} done")
            await trio.sleep(TURNS.moment())

    async def _import(self, house: House, uuid: str) -> None:
        requester = Requester("imports", 0)
        try:
            async with self._making(uuid), house.imports.request([uuid], requester=requester) as request:
                async for _ in request:
                    pass
        except ImgstoreError as error:
            # Those who want something else, or leave, are no reason.
            if self._calm and not any(self._told[each].making["cancel"] for each in chain(uuid)):
                raise BrokenError(f"an import of {uuid} failed without a fault: {error.message}") from error
            raise

    def _making(self, uuid: str) -> _Making:
        return _Making([self._told[each] for each in chain(uuid)])

    async def _leave(self, house: House, uuid: str) -> None:
        """Asks for an image, and leaves when something has happened, or after some time."""
        dice = TURNS.dice
        events, seconds = dice.randrange(8), dice.choice((0.0, 0.01, 0.3, 20.0)) * dice.random()
        self._lingers(uuid)
        with trio.move_on_after(seconds):
            async with house.imports.request([uuid], requester=Requester("leaves", 0)) as request:
                async for _ in request:
                    events -= 1
                    if not events:
                        break

    async def _detach(self, house: House, uuid: str) -> None:
        self._lingers(uuid)
        async with house.imports.detached([uuid], requester=Requester("detaches", 0)) as request:
            async for _ in request:
                pass

    def _lingers(self, uuid: str) -> None:
        """From now on the image may come at any time, until all has come to rest."""
        for each in chain(uuid):
            told = self._told[each]
            told.made += 1
            told.making["left"] += 1
            told.state = MAYBE if told.state == GONE else told.state

    async def _cancel(self, house: House, uuid: str) -> None:
        self._told[uuid].making["cancel"] += 1  # until all has come to rest
        await house.imports.cancel(uuid)

    async def _delete(self, house: House, uuid: str) -> None:
        told = self._told[uuid]
        before, held, holds = told.state, told.held, told.holding
        alone = not told.making["delete"]
        told.making["delete"] += 1
        told.unmade += 1
        made, unmade = told.made, told.unmade
        told.state = MAYBE
        refused = done = False
        try:
            await house.images.delete(uuid, None, Requester("deletes", 0))
            done = True
        except (ImageHeldError, ImageHasDependentClonesError):
            refused = True
            raise
        finally:
            told.making["delete"] -= 1
            if done:
                if held == THERE and told.holding == holds and not told.making["delete"]:
                    raise BrokenError(f"an image that is held was deleted: {uuid}")
                if told.made == made and not told.making["import"] and not told.making["left"]:
                    told.state = GONE
                if told.holding == holds and not told.making["holding"]:
                    told.held = GONE
            elif refused and alone and told.unmade == unmade and told.state == MAYBE:
                told.state = THERE if before == THERE else MAYBE

    async def _hold(self, house: House, uuid: str) -> None:
        await self._change_hold(uuid, THERE, lambda: house.images.hold(uuid, TAG, None))

    async def _release(self, house: House, uuid: str) -> None:
        await self._change_hold(uuid, GONE, lambda: house.images.release(uuid, TAG, None))

    async def _change_hold(self, uuid: str, to: str, change: Callable[[], Awaitable[None]]) -> None:
        told = self._told[uuid]
        alone = not told.making["holding"]
        told.holding += 1
        told.making["holding"] += 1  # for good where it fails: the pool may still make the change
        mine, deletions = told.holding, told.unmade
        told.held = MAYBE
        await change()
        told.making["holding"] -= 1
        # A deletion that was under way ends the hold together with the image.
        alone = alone and told.holding == mine
        if alone and told.unmade == deletions and not told.making["delete"]:
            told.held = to

    async def _list(self, house: House, uuid: str) -> None:
        """A question sees no image without its origin, and all that must be there."""
        for image in await house.images.installed(holds=True):
            assert image["manifest"]["uuid"] in IMAGES

    # -- what must hold --------------------------------------------------------------------------------------

    async def _rest(self, house: House) -> None:
        """Without faults everything comes to rest, and then all that was told must hold."""
        self._set_trouble(calm=True)
        with trio.move_on_after(_REST) as limit:
            while busy := _busy(house):  # noqa: ASYNC110  (nothing says when it rests)
                await trio.sleep(20.0)
        if limit.cancelled_caught:
            raise BrokenError(f"it does not come to rest: {busy}")
        await self._check(house)

    async def _check(self, house: House) -> None:
        found = {image["manifest"]["uuid"]: image for image in await house.images.installed(holds=True)}
        for uuid, told in self._told.items():
            told.making.clear()
            told.state = _kept("image", uuid, told.state, uuid in found)
            if uuid not in found:
                told.held = MAYBE if told.held == THERE and told.state == GONE else told.held
            held = uuid in found and TAG in found[uuid].get("holds", ())
            told.held = _kept("hold", uuid, told.held, held)
        for uuid in found:
            if ORIGINS.get(uuid, BASE) not in found and uuid in ORIGINS:
                raise BrokenError(f"a clone without its origin: {uuid}")
            if b"".join(house.pool.send(uuid)) != made()[uuid].stream:
                raise BrokenError(f"image {uuid} has other bytes")
        self._check_files(house, set(found), partials=set(house.pool.partials()) if self._failing else set())
        for image in house.catalog.all():
            if image.manifest["name"] != made()[image.uuid].manifest["name"]:
                raise BrokenError(f"image {image.uuid} has another manifest")

    def _check_files(self, house: House, uuids: set[str], partials: set[str]) -> None:
        """What is in files belongs to what is there; `partials` are left: the pool did not drop them."""
        parked = {f"zones-{each.spec.uuid}" for each in house.journal.imports()}
        wrong = {
            "partials": set(house.pool.partials()) - partials,
            "strays": house.pool.strays(),
            "spools": set(house.files("spool")) - parked,
            "ranges": house.journal.spooled() - parked,
            "wanted": [each.spec.uuid for each in house.journal.imports() if each.wanted],
            "view": house.view.uuids ^ uuids,
            "manifests": _manifests(house, partials) ^ {f"zones-{uuid}.json" for uuid in uuids - partials},
            "claims": _reserved(house),
        }
        wrong = {what: found for what, found in wrong.items() if found}
        if wrong:
            raise BrokenError(f"something is left: {wrong}")

    async def _all_come(self, house: House) -> None:
        """Without faults each image can be imported, and deleted."""
        if TURNS.dice.random() > _ALL_COME:
            return
        for uuid in (GRANDCHILD, LONE):
            await self._import(house, uuid)
        await self._check(house)
        for uuid in (GRANDCHILD, CLONE, BASE, LONE):
            await house.images.release(uuid, TAG, None)
            self._told[uuid].held = GONE
            await self._delete(house, uuid)
        await self._check(house)
        if house.files("spool") or house.journal.imports():
            raise BrokenError(f"the spool is not empty: {house.files('spool')}")


class _Making:
    """An import under way. If it succeeds, the images are there, unless somebody deletes them meanwhile."""

    def __init__(self, images: list[Told]) -> None:
        self._images = images

    async def __aenter__(self) -> None:
        self._before = []
        for told in self._images:
            told.made += 1
            told.making["import"] += 1
            told.state = MAYBE if told.state == GONE else told.state
            self._before.append(-1 if told.making["delete"] else told.unmade)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for told, unmade in zip(self._images, self._before, strict=True):
            told.making["import"] -= 1
            if kind is not None:
                told.making["left"] += 1
            elif told.unmade == unmade:
                told.state = THERE


def _kept(what: str, uuid: str, told: str, is_there: bool) -> str:
    now = THERE if is_there else GONE
    if told not in (MAYBE, now):
        raise BrokenError(f"{what} of {uuid} is {now}, and clients were told that it is {told}")
    return now


def _manifests(house: House, partials: set[str]) -> set[str]:
    """The files with manifests, and their marks, but for those of images that are half there."""
    return {name for name in house.files("images") if not any(uuid in name for uuid in partials)}


def _reserved(house: House) -> int:
    free = house.resources.free_space
    return free.reserved(house.pool.storage)


def _busy(house: House) -> list[str]:
    """What is still at work."""
    resources, limiters = house.resources, lanes._limiters_now()
    found = [f"{job['uuid']} {job['phase']}" for job in house.imports.jobs()]
    found += [f"{key[1]} waits: {each.error}" for key, each in house.imports._waiting.items()]
    found += [str(key) for key in house.imports._deletions._under_way]
    slots = {"download": resources.download_slots, "receive": resources.receive_slots}
    slots |= {
        f"{kind} {lane}": each
        for kind, lanes_of in limiters.threads.items()
        for lane, each in lanes_of.items()
    }
    slots |= {f"pool {key}": each for key, each in house.catalog._threads.items()}
    slots |= {f"finish {key}": each for key, each in house.catalog._finishers.items()}
    found += [f"slot {name}" for name, each in slots.items() if each.borrowed_tokens]
    found += [f"lock {uuid}" for uuid in resources.locks._queues]
    return found
