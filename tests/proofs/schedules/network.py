"""A network of image servers in memory, with faults by the seed, in place of sockets and their servers."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import trio

from imgstored.errors import APIError
from imgstored.http.location import Location
from imgstored.http.range_reply import FetchError, RangeReply, read_reply
from imgstored.sources.base import Listed, Offer, SourceSpec
from tests.proofs.schedules.turns import TURNS, Event, pause, rest
from tests.support.streams import filesystem_stream, guid_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgstored.http.location import Verify
    from imgstored.http.ranges import Accept, Sink

BASE, CLONE, GRANDCHILD, LONE = (f"44444444-aaaa-4bbb-8ccc-00000000000{number}" for number in range(1, 5))
IMAGES: Final = (BASE, CLONE, GRANDCHILD, LONE)
ORIGINS: Final = {CLONE: BASE, GRANDCHILD: CLONE}
_DATE: Final = "Sun, 29 Nov 2026 10:00:00 GMT"


@dataclass(frozen=True)
class Made:
    """An image as a server has it."""

    manifest: Mapping[str, Any]
    file: bytes
    stream: bytes


@cache
def made() -> dict[str, Made]:
    """All images by their uuids."""
    found = {}
    for number, uuid in enumerate(IMAGES, 1):
        origin = ORIGINS.get(uuid)
        fromguid = guid_of(IMAGES.index(origin) + 1) if origin else 0
        # What a stream has is filled up with zeros: in the file there are some ranges.
        stream = filesystem_stream(size=(3 + 8 * (number % 3)) << 10, seed=number, fromguid=fromguid)
        file = gzip.compress(stream, compresslevel=1, mtime=0)
        manifest = {
            "v": 2,
            "uuid": uuid,
            "owner": "00000000-0000-0000-0000-000000000000",
            "name": f"image-{number}",
            "version": "1.0.0",
            "state": "active",
            "disabled": False,
            "public": True,
            "type": "zone-dataset",
            "os": "smartos",
            "published_at": f"2026-11-24T00:00:0{number}.000Z",
            "files": [{"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}],
        }
        found[uuid] = Made(manifest | ({"origin": origin} if origin else {}), file, stream)
    return found


#: What a server may do to a request for bytes.
_FAULTS: Final = (
    "busy", "refused", "cut", "silent", "whole", "other validator", "wrong bytes", "too long", "gone", "slow",
)  # fmt: skip


@dataclass
class Server:
    """An image server: how often it fails, and how its failures look."""

    url: str
    verify: Verify
    faulty: float = 0.0  #: of its answers, the share that has a fault
    down: bool = False
    bad: set[str] = field(default_factory=set)  #: images of which its file has another content

    def fault(self) -> str:
        """What is wrong with the answer that it gives now; "" is nothing."""
        if self.down:
            return "refused"
        dice = TURNS.dice
        return dice.choice(_FAULTS) if dice.random() < self.faulty else ""

    def file(self, uuid: str) -> bytes:
        data = made()[uuid].file
        if uuid in self.bad:
            return data[:-20] + bytes(byte ^ 0xFF for byte in data[-20:-12]) + data[-12:]
        return data


class Network:
    """All servers, by their URLs."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}

    def add(self, server: Server) -> SourceSpec:
        self.servers[server.url] = server
        return SourceSpec(server.url, "static")

    def server(self, url: str) -> tuple[Server, str]:
        """The server of a file, and the image's uuid."""
        base, _, uuid = url.rpartition("/")
        return self.servers[base], uuid

    def open_source(self, spec: SourceSpec) -> Catalogue:
        return Catalogue(spec, self.servers[spec.url])

    def connect(self, location: Location, **_: Any) -> Connection:
        """In place of `RangeConnection`."""
        return Connection(self, location)


#: The network of this moment: what is in its place is made once.
NETWORK: Final = Network()


class Catalogue:
    """The manifests of a server: a `Source`."""

    def __init__(self, spec: SourceSpec, server: Server) -> None:
        self.spec = spec
        self.incomplete: str | None = ""
        self._server = server

    async def ping(self) -> None:
        await self._answer()

    async def list(self) -> list[Listed]:
        await self._answer()
        return [Listed(each.manifest, self.spec.url) for each in made().values()]

    async def offer(self, uuid: str) -> Offer | None:
        fault = await self._answer()
        if uuid not in made() or fault == "gone":
            return None
        place = Location(f"{self.spec.url}/{uuid}", self.spec.url, verify=self._server.verify)
        return Offer(made()[uuid].manifest, place)

    async def _answer(self) -> str:
        await rest(TURNS.moment())
        fault = self._server.fault()
        if fault == "silent":
            await trio.sleep(30)
        if fault in ("busy", "refused", "cut", "silent"):
            raise APIError(f"{self.spec.url}: {fault}", hint="try again")
        return fault


class Connection:
    """Fetches ranges as `RangeConnection` does. `abort` may be called by anybody."""

    def __init__(self, network: Network, location: Location) -> None:
        self._network = network
        self._location = location
        self._aborted: str | None = None
        self._ended = Event()

    def get(
        self, start: int, stop: int | None, validator: str | None, accept: Accept, *, plain: bool = False
    ) -> RangeReply:
        server, uuid = self._network.server(self._location.url)
        self._moment(TURNS.moment())
        fault = server.fault()
        try:
            status, headers, body = self._answer(server, uuid, start, stop, validator, fault, plain=plain)
            reply = read_reply(status, headers.items(), start, None if plain else stop)
        except FetchError as error:
            raise error.at(self._location.url) from error
        sink = accept(reply)
        self._send(sink, body, fault)
        if reply.stop is not None and len(body) < reply.stop - reply.start:
            raise FetchError(f"{self._location.url}: the connection ended early")
        return reply

    def _answer(
        self,
        server: Server,
        uuid: str,
        start: int,
        stop: int | None,
        validator: str | None,
        fault: str,
        *,
        plain: bool,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, header and body of an answer."""
        data = server.file(uuid)
        if fault == "refused":
            raise FetchError("Connection refused")
        if fault == "busy":
            return 503, {"retry-after": "1"} if TURNS.dice.random() < 0.5 else {}, b""
        if fault == "gone":
            return 404, {}, b""
        if fault == "silent":
            self._moment(1000.0)
            raise FetchError("no answer")
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        if fault == "other validator":
            etag = f'"{TURNS.dice.randrange(3)}"'
        changed = validator is not None and validator != etag
        if fault == "wrong bytes":
            place = TURNS.dice.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        headers = {"etag": etag, "date": _DATE}
        if plain or fault == "whole" or changed:
            return 200, headers | {"content-length": str(len(data))}, self._cut(data, fault)
        end = min(len(data), len(data) if stop is None else stop)
        if start >= len(data):
            return 416, {"content-range": f"bytes */{len(data)}"}, b""
        headers |= {
            "content-range": f"bytes {start}-{end - 1}/{len(data)}",
            "content-length": str(end - start),
        }
        return 206, headers, self._cut(data[start:end], fault)

    def _cut(self, body: bytes, fault: str) -> bytes:
        return body[: TURNS.dice.randrange(len(body) + 1)] if fault == "cut" else body

    def _send(self, sink: Sink, body: bytes, fault: str) -> None:
        rest_of = memoryview(body)
        while rest_of:
            size = 700 if fault == "slow" else TURNS.dice.choice((300, 2000, 1 << 20))
            # The memory is another one after the sink has returned.
            piece = bytearray(rest_of[:size])
            sink(memoryview(piece))
            piece[:] = bytes(len(piece))
            rest_of = rest_of[size:]
            self._moment(TURNS.dice.uniform(1, 4) if fault == "slow" else TURNS.moment())
        if fault == "too long":
            raise FetchError(f"{self._location.url}: sends more bytes than it announced")

    def _moment(self, seconds: float) -> None:
        """Waits, and raises once the fetch is aborted."""
        if seconds:
            self._ended.wait(seconds)
        else:
            pause()
        if self._aborted is not None:
            raise FetchError(f"{self._location.url}: {self._aborted}")

    def turn_to(self, location: Location) -> None:
        self._location = location

    def abort(self, reason: str) -> None:
        self._aborted = self._aborted or reason
        self._ended.set()

    @property
    def ended(self) -> str | None:
        return self._aborted

    @property
    def aborted(self) -> bool:
        return self._aborted is not None

    def close(self) -> None:
        """Nothing is open."""
