"""What a daemon has promised: what it told its clients, and what must hold after it died at any moment."""

from __future__ import annotations

import copy
import http.client
import json
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgctl import Client, RemoteError

from imgstored.audit.audit import audited
from tests.proofs.world import IMAGES, LARGE, NEXT, ORIGINS, PUBLISHED, SMALL, TOKEN, made

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.proofs.forks import Daemon
    from tests.proofs.world import Settings

_SECONDS: Final = 120.0
TAG: Final = "for good"

#: What is known of something: it is there, it is not, or nobody was told.
THERE, GONE, MAYBE = "there", "gone", "maybe"


class _LeftError(Exception):
    """The client leaves."""


class RefusedError(RuntimeError):
    """The image server has refused a request."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BrokenPromiseError(AssertionError):
    """Something that must hold does not."""


@dataclass
class Model:
    """What clients were told. Keys are uuids."""

    images: dict[str, str] = field(default_factory=lambda: dict.fromkeys(IMAGES, GONE))
    holds: dict[str, str] = field(default_factory=lambda: dict.fromkeys(IMAGES, GONE))
    published: dict[str, str] = field(default_factory=lambda: dict.fromkeys(PUBLISHED, GONE))


@dataclass(frozen=True)
class Operation:
    """Something that a client asks for. `sets` is what it makes of which part of the model."""

    name: str
    uuid: str
    run: Callable[[], object]
    part: str  #: the model's field
    to: str

    def __str__(self) -> str:
        return f"{self.name} {self.uuid[-1]}"


class World:
    """A daemon's clients, with what they know. `settings` are the daemon's."""

    def __init__(self, settings: Settings, dice: random.Random, model: Model | None = None) -> None:
        self.settings = settings
        self.model = model or Model()
        self.dice = dice
        self.serves = True  #: whether the daemon is an image server; otherwise it imports by deltas

    def client(self) -> Client:
        return Client(str(self.settings.folder / "sock"))

    # -- what clients ask for --------------------------------------------------------------------------------

    def next(self) -> Operation:
        """Something to ask for that makes sense now."""
        return self.dice.choice(self.sensible())

    def sensible(self) -> list[Operation]:
        """All that makes sense now."""
        model, found = self.model, []
        for uuid in IMAGES:
            image = made()[uuid]
            if model.images[uuid] == GONE:
                by_delta = uuid == NEXT and model.images[LARGE] == THERE and not self.serves
                name = "upgrade" if by_delta else "import"
                found += [Operation(name, uuid, lambda u=uuid: self._import(u), "images", THERE)] * 3
                found.append(Operation("leave", uuid, lambda u=uuid: self._leave(u), "images", MAYBE))
            elif self._free(uuid):
                found.append(Operation("delete", uuid, lambda u=uuid: self._delete(u), "images", GONE))
            if model.images[uuid] == THERE and model.holds[uuid] == GONE:
                found.append(Operation("hold", uuid, lambda u=uuid: self._hold(u), "holds", THERE))
            elif model.images[uuid] == THERE:
                found.append(Operation("release", uuid, lambda u=uuid: self._release(u), "holds", GONE))
            assert image.file
        return found + (self._sensible_of_a_server() if self.serves else [])

    def _sensible_of_a_server(self) -> list[Operation]:
        model, found = self.model, []
        for uuid in PUBLISHED:
            if model.published[uuid] == GONE:
                found.append(Operation("publish", uuid, lambda u=uuid: self.publish(u), "published", THERE))
            else:
                found.append(
                    Operation("unpublish", uuid, lambda u=uuid: self.unpublish(u), "published", GONE)
                )
        found.append(Operation("mirror", SMALL, self._mirror, "", ""))
        return found

    def _free(self, uuid: str) -> bool:
        clones = [clone for clone, origin in ORIGINS.items() if origin == uuid]
        return self.model.holds[uuid] == GONE and all(self.model.images[each] == GONE for each in clones)

    def _import(self, uuid: str) -> None:
        with self.client() as client:
            client.import_image(uuid)

    def _leave(self, uuid: str) -> None:
        """Asks for an image, and leaves at the first event: nobody wants it any more."""

        def leave(event: object) -> None:
            raise _LeftError

        with suppress(_LeftError), self.client() as client:
            client.import_image(uuid, on_event=leave)

    def _delete(self, uuid: str) -> None:
        with self.client() as client:
            client.delete(uuid)

    def _hold(self, uuid: str) -> None:
        with self.client() as client:
            client.hold(uuid, TAG)

    def _release(self, uuid: str) -> None:
        with self.client() as client:
            client.release(uuid, TAG)

    def _mirror(self) -> None:
        with self.client() as client:
            client.mirror(self.settings.url, name="image-0")

    def publish(self, uuid: str) -> None:
        manifest, file = made()[uuid].manifest, made()[uuid].file
        self._ask("POST", f"/images/{uuid}?action=import", json.dumps(dict(manifest)).encode())
        described = manifest["files"][0]
        self._ask("PUT", f"/images/{uuid}/file?compression=gzip&sha1={described['sha1']}", file)
        self._ask("POST", f"/images/{uuid}?action=activate")

    def unpublish(self, uuid: str) -> None:
        self._ask("DELETE", f"/images/{uuid}")

    def _ask(self, method: str, path: str, body: bytes = b"", *, expected: int = 300) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.port, timeout=_SECONDS)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= expected:
            raise RefusedError(f"{method} {path}: {answer.status} {data[:300]!r}", answer.status)
        return data

    # -- what they know --------------------------------------------------------------------------------------

    def done(self, operation: Operation) -> None:
        """The operation has succeeded, and its client was told."""
        if operation.part:
            getattr(self.model, operation.part)[operation.uuid] = operation.to
        if operation.name == "import" and operation.uuid in ORIGINS:
            self.model.images[ORIGINS[operation.uuid]] = THERE

    def asked(self, operation: Operation) -> None:
        """The operation has begun: from now on nobody knows."""
        if operation.part:
            getattr(self.model, operation.part)[operation.uuid] = MAYBE
        origin = ORIGINS.get(operation.uuid) if operation.name in ("import", "leave") else None
        if origin is not None and self.model.images[origin] == GONE:
            self.model.images[origin] = MAYBE

    # -- what must hold --------------------------------------------------------------------------------------

    def check(self) -> None:
        """After a start: all promises hold, and now everything is known. Raises `BrokenPromiseError`."""
        self._wait_for_imports()
        with self.client() as client:
            listed = {image["manifest"]["uuid"]: set(image["holds"]) for image in client.list(holds=True)}
        for uuid in IMAGES:
            self.model.images[uuid] = self._kept("image", self.model.images[uuid], uuid in listed, uuid)
            held = TAG in listed.get(uuid, ())
            self.model.holds[uuid] = self._kept("hold", self.model.holds[uuid], held, uuid)
        if unknown := set(listed) - set(IMAGES):
            raise BrokenPromiseError(f"images that nobody asked for: {unknown}")
        for clone, origin in ORIGINS.items():
            if clone in listed and origin not in listed:
                raise BrokenPromiseError(f"a clone without its origin: {clone}")
        if self.serves:
            self._check_published()
        if wrong := faults(self.settings.folder / "imgstored.toml"):
            raise BrokenPromiseError("; ".join(wrong))

    def _kept(self, what: str, told: str, is_there: bool, uuid: str) -> str:
        now = THERE if is_there else GONE
        if told not in (MAYBE, now):
            raise BrokenPromiseError(f"{what} of {uuid} is {now}, and clients were told that it is {told}")
        return now

    def _wait_for_imports(self) -> None:
        deadline = time.monotonic() + _SECONDS
        while True:
            with self.client() as client:
                jobs = client.jobs()
                if not jobs and not self._unfinished():
                    return
            if time.monotonic() > deadline:
                raise BrokenPromiseError(f"an import does not end: {jobs}")
            time.sleep(0.01)

    def _unfinished(self) -> bool:
        """Whether the journal has a wanted import: right after a start there may be no job of it yet."""
        path = self.settings.state / "journal.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
            return bool(db.execute("SELECT count(*) FROM imports WHERE wanted").fetchone()[0])

    def _check_published(self) -> None:
        for uuid in PUBLISHED:
            told = self.model.published[uuid]
            try:
                state = json.loads(self._ask("GET", f"/images/{uuid}?inclAdminFields=true"))["state"]
            except RefusedError as error:
                if error.status != http.client.NOT_FOUND:
                    raise BrokenPromiseError(str(error)) from error
                state = "unknown"
            active = state == "active"
            if active and self._ask("GET", f"/images/{uuid}/file") != made()[uuid].file:
                raise BrokenPromiseError(f"the published file of {uuid} is another one")
            self.model.published[uuid] = self._kept(f"publication ({state})", told, active, uuid)
            if not active:
                # Half published: the client begins anew, as one that was interrupted does.
                folder = self.settings.state / "library" / uuid
                if folder.exists():
                    self.unpublish(uuid)

    def attempt(self, operation: Operation) -> str | None:
        """Runs an operation; why it failed, or None."""
        try:
            operation.run()
        except (RemoteError, OSError, http.client.HTTPException, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def faults(config: Path) -> list[str]:
    """What `imgstored --check --deep` finds wrong."""
    found = audited([config], pause=0.2)["findings"]
    return [f"{each['check']}: {each['seen']}" for each in found if each["status"] != "ok"]


def worked(world: World, daemon: Daemon, operations: int, told: Callable[[Model], None]) -> None:
    """Lets a daemon, which runs, do so many things, and kills it now and then, and in the end.

    `told` hears what clients know, whenever that changes. Raises `BrokenPromiseError` if something fails.
    """
    told(copy.deepcopy(world.model))
    for number in range(operations):
        operation = world.next()
        world.asked(operation)
        told(copy.deepcopy(world.model))
        failure = world.attempt(operation)
        if failure is not None:
            raise BrokenPromiseError(f"{operation} failed: {failure}")
        world.done(operation)
        if operation.name == "leave":
            world.check()
        told(copy.deepcopy(world.model))
        if number % 5 == 4:
            daemon.kill()
            daemon.start()
    daemon.kill()
