"""What the fuzzers give their inputs to. A target takes bytes, and raises only for a fault of ours.

Some compare two ways to the same answer: in one piece and in many, there and back.
"""

from __future__ import annotations

import atexit
import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import socket
import struct
import tarfile
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from unittest import mock

import imgproto.operations
import msgpack
import msgspec
import zstandard
from imgproto.operations import Operation

from imgstored.config import loading, specs
from imgstored.delta.assemble import assembled
from imgstored.delta.build import FrameCutter, IndexBuilder
from imgstored.delta.index import IndexFaultError
from imgstored.delta.index import parse_index as parse_delta_index
from imgstored.errors import ImgstoreError, LayerError, ResumeError, StreamError, UsageError
from imgstored.http.addresses import Nearness
from imgstored.http.dial import WholeResponse
from imgstored.http.documents import Document as Answer
from imgstored.http.gunzip import Body, NotGzipError, TooLargeError, TooManyPiecesError
from imgstored.http.location import Access, Location, origin_of, redirected
from imgstored.http.range_reply import FetchError, read_reply
from imgstored.http.ranges import RangeConnection, Timeouts
from imgstored.httpd.conditional import answer_with
from imgstored.httpd.connection import Connection
from imgstored.httpd.message import HttpLimits, OpenFile, Request, Response
from imgstored.httpd.message import json as answer_json
from imgstored.httpd.pace import Pace
from imgstored.layers.entries import PieceReader, entries
from imgstored.layers.tree import apply
from imgstored.manifest import decoded, load, parse, parse_list, upgrade
from imgstored.registry.auth import Token
from imgstored.registry.challenge import read_challenges
from imgstored.registry.client import _tags as tags_in
from imgstored.registry.client import refusal
from imgstored.registry.containers import layer_images, of_this_platform
from imgstored.registry.documents import OCI_INDEX, encoded, read_document
from imgstored.registry.documents import Index as RegistryIndex
from imgstored.registry.reference import api_url, parse_reference
from imgstored.registry.signature import read_signatures
from imgstored.rpc.framing import MessageLimits, ProtocolError
from imgstored.rpc.params import checked
from imgstored.rpc.wire import Decoder
from imgstored.rpc.wire import Request as Call
from imgstored.serve.refusal import refused
from imgstored.site.layout import Hashed, Pointer, hashed, parse_index, parse_pointer
from imgstored.site.minisign import KeyFileError, SecretKey, parse_public_key, parse_signatures, signed
from imgstored.site.trust import UntrustedError, believed, checked_index
from imgstored.sources.answers import read_list, read_page, the_manifest
from imgstored.transfer.decompress import DecompressLimits, Meter, bzip2, decompressed
from imgstored.zstream.nvlist import pack, unpack, unpack_tree
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import byte_order_of
from imgstored.zstream.resume import resume
from imgstored.zstream.token import ResumePoint, parse_token
from imgstored.zstream.volume import Volume, VolumeState
from imgstored.zstream.write import MIN_BLOCK_SIZE, NewVolume, volume_stream
from tests.support.image_site import DATA, INCREMENTAL, ZVOL, fixture_manifest
from tests.support.layers import file, folder, hard, link, tar_of
from tests.support.streams import StreamWriter, filesystem_stream
from tests.support.tokens import as_values, token_around, token_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from http.client import HTTPResponse

#: Bytes of an input. What is larger is cut.
MAX_INPUT: Final = 1 << 16

_MESSAGE: Final = MessageLimits(size=1 << 14, depth=16, values=1 << 10)
_DECOMPRESS: Final = DecompressLimits(
    max_image=4 << 20, max_ratio=1000, decoder_memory=16 << 20, ratio_from=1 << 20, workers=1
)
_HTTP: Final = HttpLimits(connections=1, client_connections=1)
_URL: Final = "https://images.example.com/images"
_UUID: Final = "11111111-aaaa-4bbb-8ccc-000000000001"


@dataclass(frozen=True)
class Target:
    """One fuzzer. `seeds` are inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    size: int = 4096  #: bytes of an input at most; longer ones only take time


class Fields:
    """Takes values out of an input, as many as one likes: behind its end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def bytes(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, most: int) -> int:
        """A number from 0 to `most`."""
        size = (most.bit_length() + 7) // 8
        return int.from_bytes(self.bytes(size), "little") % (most + 1)

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[self.number(len(choices) - 1)]


def in_pieces(data: bytes, size: int) -> list[bytes]:
    """Pieces of so many bytes, or larger ones if these would be more than 32."""
    size = max(size, -(-len(data) // 32))
    return [data[start : start + size] for start in range(0, len(data), size)]


# -- the socket ----------------------------------------------------------------------------------------------


@cache
def _shapes() -> dict[str, Any]:
    found = vars(imgproto.operations).values()
    return {each.name: each.params for each in found if isinstance(each, Operation)}


def rpc(data: bytes) -> None:
    """Messages: whole and in pieces there are the same ones, or the same error."""
    if data:
        size, data = data[0] % 16 + 1, data[1:]
        whole, parts = _messages([data]), _messages(in_pieces(data, size))
        assert repr(whole) == repr(parts), "in pieces it is another message"
        for message in whole[0]:
            if isinstance(message, Call) and message.method in _shapes():
                with suppress(UsageError):
                    checked(message.method, _shapes()[message.method], message.params)


def _messages(pieces: list[bytes]) -> tuple[list[Any], str | None]:
    decoder, found = Decoder(_MESSAGE), []
    for piece in pieces:
        try:
            # What comes before an error in the same piece is lost with the connection.
            found += decoder.feed(piece)
        except ProtocolError as error:
            return [], error.message
    return found, None


def _rpc_seeds() -> list[bytes]:
    messages = [[0, number, name, [{}]] for number, name in enumerate(_shapes())]
    messages += [[0, 1, "import", [{"uuid": _UUID, "pool": None}]], [2, "notify", [{"a": [1, 2.5, b"x"]}]]]
    return [b"\x03" + msgpack.packb(message) for message in messages]


# -- manifests and lists -------------------------------------------------------------------------------------


def manifest(data: bytes) -> None:
    """Manifests of all versions. What was loaded is loaded again, and the same."""
    with suppress(ImgstoreError):
        document = upgrade(parse(data))
        for rules in ("import", "create"):
            with suppress(ImgstoreError):
                loaded = load(document, rules=rules)
                again = load(parse(msgspec.json.encode(loaded.document)), rules=rules)
                assert again.document == loaded.document
    with suppress(ImgstoreError):
        parse_list(data)


def _manifest_seeds() -> list[bytes]:
    one = fixture_manifest(ZVOL)
    old = {
        "name": "old",
        "version": "1.0",
        "type": "zone-dataset",
        "uuid": _UUID,
        "os": "smartos",
        "published_at": "2012-01-01T00:00:00Z",
        "creator_uuid": _UUID,
        "vendor_uuid": _UUID,
        "files": [{"path": "a.zfs.bz2", "sha1": "0" * 40, "size": 5, "url": "http://a/b"}],
    }
    found = [one, fixture_manifest(INCREMENTAL), old, {**one, "requirements": {"networks": [{"name": "a"}]}}]
    return [json.dumps(each).encode() for each in found]


def answers(data: bytes) -> None:
    """Documents of image servers: a list, a page of one, or a manifest, as the first byte says."""
    kind, body = data[:1] or b"\0", data[1:]
    with suppress(ImgstoreError):
        match kind[0] % 3:
            case 0:
                read_list(_URL, body)
            case 1:
                read_page(_URL, body, _URL)
            case _:
                the_manifest(_URL, body, _UUID)


def _answer_seeds() -> list[bytes]:
    whole = b"[" + b",".join(_manifest_seeds()) + b"]"
    error = b'{"code":"ResourceNotFound","message":"no"}'
    bodies = [whole, *_manifest_seeds()[:2], error, b"<!DOCTYPE html><html>", b"[]"]
    return [bytes([kind]) + body for kind in range(3) for body in bodies]


# -- streams -------------------------------------------------------------------------------------------------


def stream(data: bytes) -> None:
    """A stream as it is: whole and in pieces it is the same."""
    fields = Fields(data)
    size = fields.number(500) + 1
    rest = fields.bytes(MAX_INPUT)
    # Of two faults in one piece any may be told.
    assert (_read([rest]) == "sound") == (_read(in_pieces(rest, size)) == "sound")


def _read(pieces: list[bytes]) -> str:
    reader = StreamReader()
    try:
        for piece in pieces:
            reader.check(piece)
        reader.finish()
    except StreamError as error:
        return error.message
    return "sound"


def _stream_seeds() -> list[bytes]:
    whole = gzip.decompress((DATA / "base.zfs.gz").read_bytes())
    return [b"\xff\x00" + whole[:3000], b"\x20\x00" + b"".join(records(b"\x01\x02\x03\x04" * 50, 0))]


def records(data: bytes, volume: int) -> list[bytes]:
    """Records of a stream, with right checksums, whatever they say."""
    fields = Fields(data)
    writer = StreamWriter(fields.one("<>"), guid=1 + fields.number(3))
    found = [writer.begin(objset=2 + volume, fromguid=fields.number(1), features=fields.number(0xFFFF))]
    while fields.left > 0 and len(found) < 10:
        number, size = fields.number(3), fields.number(4096)
        match fields.number(9):
            case 0:
                found.append(writer.object(number, kind=fields.number(30), block_size=size * 8))
            case 1:
                found.append(writer.freeobjects(number, size))
            case 2 | 3:
                payload = _words(fields.bytes(size))
                found.append(writer.write(number, fields.number(1 << 40), payload, kind=fields.number(30)))
            case 4:
                found.append(writer.free(number, fields.number(1 << 64), fields.number((1 << 64) - 1)))
            case 5:
                found.append(writer.spill(number, _words(fields.bytes(size))))
            case 6:
                found.append(writer.write_embedded(number, fields.number(1 << 40), size, fields.bytes(112)))
            case 7:
                found.append(writer.volume_size(fields.number((1 << 64) - 1)))
            case _:
                kind, body = fields.number(12), fields.bytes(272)
                payload = _words(fields.bytes(size))
                found.append(writer.record(kind, body, payload, first=fields.number(1 << 31)))
    return [*found, writer.end()]


def _words(payload: bytes) -> bytes:
    """A payload of whole words, as all in a stream are."""
    return payload.ljust(len(payload) + -len(payload) % 8, b"\0")


def volume(data: bytes) -> None:
    """Records with right checksums, to what makes a disk of them: offsets and sizes stay within bounds."""
    reader, machine = StreamReader(), None
    with suppress(StreamError, struct.error, OverflowError):
        made = records(data, 1)
        for piece in made:
            for record in reader.records(piece):
                machine = machine or Volume(byte_order_of(made[0][:312]) or "<", VolumeState())
                machine.step(record)
        if machine is not None:
            reader.finish()
            assert 0 <= machine.finish() <= 1 << 62


def rewriter(data: bytes) -> None:
    """A stream that goes on at any point: it is refused, or what is made of it is a sound stream."""
    fields = Fields(data)
    point = ResumePoint(
        fields.number(3),
        fields.number(1 << 20),
        1 + fields.number(3),
        fromguid=fields.number(1),
        byte_order=fields.one("<>"),
    )
    size = fields.number(600) + 1
    with suppress(ResumeError, StreamError, struct.error, OverflowError):
        whole = b"".join(records(fields.bytes(MAX_INPUT), 0))
        reader = StreamReader(resuming=True)
        for piece in resume(in_pieces(whole, size), point):
            try:
                reader.check(piece)
            except StreamError as error:
                raise AssertionError(f"what was made is not sound: {error.message}") from error


def writer(data: bytes) -> None:
    """Streams of disks: the reader takes each, and the disk is the same."""
    fields = Fields(data)
    block = MIN_BLOCK_SIZE << fields.number(2)
    blocks = fields.number(15) + 1
    extents, at = [], 0
    while fields.left > 0 and at < blocks:
        at += fields.number(3)
        size = min(fields.number(3 * block), (blocks - at) * block)
        if size > 0:
            extents.append((at * block, fields.bytes(size).ljust(size, b"\0")))
        at += -(-max(size, 1) // block)
    new = NewVolume("zones/disk@final", blocks * block, 1 + fields.number(1 << 20), 0, block)
    expected = bytearray(new.size)
    for offset, content in extents:
        expected[offset : offset + len(content)] = content
    reader, machine, disk = StreamReader(), None, bytearray(new.size)
    for piece in volume_stream(new, extents):
        for record in reader.records(piece):
            machine = machine or Volume("<", VolumeState())
            step = machine.step(record)
            if step is not None and hasattr(step, "payload"):
                disk[step.offset : step.offset + len(step.payload)] = step.payload
    reader.finish()
    assert machine is not None
    assert machine.finish() == new.size
    assert disk == expected


def token(data: bytes) -> None:
    """Receive tokens: text, and any payload with the right checksum."""
    with suppress(ResumeError):
        parse_token(data.decode("latin-1"))
    with suppress(ResumeError):
        parse_token(token_around("<" if data[:1] < b"\x80" else ">", data[1:2000]))
    with suppress(ResumeError):
        compressed = data[:2000]
        words = struct.unpack(f"<{len(compressed) // 4}I", compressed[: len(compressed) // 4 * 4])
        parse_token(f"1-{sum(words):x}-{len(compressed):x}-{compressed.hex()}")


def _token_seeds() -> list[bytes]:
    text = token_of(object=2, offset=8192, toguid=7, bytes=99, fromguid=3, flags=("compressok",))
    return [text.encode(), zlib.compress(b"x" * 50), b"\0" + as_values({"object": 1, "toname": "a@b"}, "<")]


def nvlist(data: bytes) -> None:
    """Packed lists: what is read and packed again is read the same. Numbers below zero are not packed."""
    with suppress(StreamError):
        order, _ = unpack(data)
        tree = unpack_tree(data)
        try:
            packed = pack(tree, order)
        except ValueError:
            assert any(isinstance(value, int) and value < 0 for value in _leaves(tree))
        else:
            assert unpack_tree(packed) == tree
    with suppress(StreamError):
        unpack_tree(data)


def _leaves(tree: Mapping[bytes, Any]) -> Iterator[Any]:
    for value in tree.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value


def _nvlist_seeds() -> list[bytes]:
    return [as_values({"object": 1, "offset": 2, "toname": "a@b", "embedok": True}, order) for order in "<>"]


def image_file(data: bytes) -> None:
    """Image files of all formats: bounded, and the same by the standard library alone.

    The program for bzip2 takes a hundred times as long to start as the rest does, so it decodes one of many.
    """
    programs = bzip2.PROGRAMS if zlib.crc32(data) % 256 == 0 else ()
    # Without the program both ways are one.
    ways = (True, False) if programs or not data.startswith(b"BZh") else (False,)
    with mock.patch.object(bzip2, "PROGRAMS", programs):
        results = _results(data, ways)
    assert len(set(results)) == 1, f"accelerated, and else: {results}"


def _results(data: bytes, ways: Sequence[bool]) -> list[tuple[str, int]]:
    results = []
    for accelerated in ways:
        meter, total = Meter(_DECOMPRESS), 0
        try:
            for piece in decompressed(iter(in_pieces(data, 700)), meter, accelerated=accelerated):
                total += len(piece)
                assert len(piece) <= 4 << 20
            results.append(("whole", total))
        except ImgstoreError:
            results.append(("refused", 0))
        assert total <= _DECOMPRESS.max_image
    return results


def _file_seeds() -> list[bytes]:
    plain = b"image" * 400 + bytes(range(256))
    # Of level 1: the decoder takes ten times as long to make room for a block of level 9.
    found = [gzip.compress(plain), bz2.compress(plain, 1), lzma.compress(plain)]
    return [*found, zstandard.compress(plain), plain, gzip.compress(b"") + gzip.compress(plain)]


# -- HTTP ----------------------------------------------------------------------------------------------------


def http_answer(data: bytes) -> None:
    """Heads of answers to requests for ranges, redirects, and compressed documents."""
    fields = Fields(data)
    status, start = fields.one((200, 206, 301, 403, 404, 416, 429, 503)), fields.number(1 << 20)
    stop = None if fields.number(1) else start + 1 + fields.number(1 << 20)
    rest = fields.bytes(MAX_INPUT)
    lines = [line.partition(":") for line in rest.decode("latin-1").split("\n")]
    with suppress(ImgstoreError):
        reply = read_reply(
            status, [(name, value.strip()) for name, _, value in islice(lines, 60)], start, stop
        )
        assert reply.start >= 0
        assert reply.stop is None or reply.stop >= reply.start
        assert not reply.partial or reply.start <= start
    with suppress(ImgstoreError):
        to = redirected(Location(_URL, _URL, Access()), rest.decode("latin-1"), Nearness.PUBLIC)
        # What looks the name up, and TLS, do that.
        origin_of(to.url).host.encode("idna")
    body = Body(1 << 16, gzip=bool(fields.number(1)))
    with suppress(NotGzipError, TooLargeError, TooManyPiecesError):
        for piece in in_pieces(rest, 97):
            body.feed(piece)
        assert len(body.finish()) <= 1 << 16


def _answer_head_seeds() -> list[bytes]:
    head = b'Content-Range: bytes 5-9/100\nContent-Length: 5\nETag: "a"\nContent-Encoding: gzip\n'
    return [
        b"\x01\x05\0\0\0\x04\0\0" + head,
        b"\0" * 8 + b"Content-Length: 7\nLocation: /x",
        b"\0" * 8 + b"https://a.example../x",
        b"\0" * 8 + b"https://[::1]:443/x",
        gzip.compress(b"a" * 99),
    ]


class _Answered(RangeConnection):
    """A connection to a server that answers two requests with the same bytes, so that it may redirect."""

    answer = b""
    asked = 0

    def _send(self, *_: Any) -> HTTPResponse:
        self.asked += 1
        if self.asked > 2:
            # More redirects to the same take time alone.
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            with suppress(OSError):
                theirs.send(self.answer)
            theirs.shutdown(socket.SHUT_WR)
            response = WholeResponse(ours, method="GET")
        self._http = cast("Any", _NoConnection())
        response.begin()
        return response


class _NoConnection:
    near = Nearness.PUBLIC

    def close(self) -> None:
        pass


def http_range(data: bytes) -> None:
    """Whole answers to requests for ranges, over a socket: a range as it was announced, or an error."""
    fields = Fields(data)
    start, size, plain = fields.number(200), fields.number(300) + 1, bool(fields.number(1))
    connection = _Answered(
        Location(_URL, _URL, Access()), timeouts=Timeouts(connect=5, silence=5), environ={}
    )
    connection.answer = fields.bytes(16 << 10)
    came = 0

    def sink(piece: memoryview) -> None:
        nonlocal came
        came += len(piece)

    with suppress(FetchError):
        try:
            reply = connection.get(
                0 if plain else start, None if plain else start + size, None, lambda _: sink, plain=plain
            )
            assert reply.stop is None or came == reply.stop - reply.start, "it is not what was announced"
        finally:
            connection.close()


def _range_seeds() -> list[bytes]:
    part = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/100\r\n"
    chunked = part + b"Transfer-Encoding: chunked\r\n\r\n"
    answers = (
        part + b"Content-Length: 5\r\n\r\nhello",
        chunked + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
        chunked + b"-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    )
    return [b"\x05\x04\0\0" + answer for answer in answers]


def http_request(data: bytes) -> None:
    """Requests to the image server, over a socket: each is answered, or the connection ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # What does not fit into the socket is not sent.
        theirs.setblocking(False)
        with suppress(OSError):
            theirs.send(data[: 16 << 10])
        theirs.shutdown(socket.SHUT_WR)
        connection = Connection(ours, "fuzz", "fuzz", _application, _HTTP, Pace(0), None, refused)
        answer = b""
        for _ in range(50):
            goes_on = connection.serve_one()
            # A server whose client takes nothing waits for it, and the fuzzer would wait for the server.
            with suppress(OSError):
                answer = answer or theirs.recv(1 << 16)
                while theirs.recv(1 << 16):
                    pass
            if not goes_on:
                break
        else:
            raise AssertionError("it never ends")
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:99]
        assert b"500 Internal" not in answer[:60], answer[:2000]


def _application(request: Request) -> Response:
    """Reads what there is to read, and serves ranges of a file."""
    if request.method in ("PUT", "POST"):
        size = sum(len(piece) for piece in request.body.pieces(1 << 14))
        return answer_json({"size": size, "path": request.path[:99]})
    fd = os.open(_file(), os.O_RDONLY)
    return answer_with(OpenFile(fd, 5000, '"etag"', 1_700_000_000.0), request)


@cache
def _file() -> str:
    with tempfile.NamedTemporaryFile(prefix="imgstore-fuzz-", delete=False) as file:
        file.write(bytes(5000))
    atexit.register(lambda: Path(file.name).unlink(missing_ok=True))
    return file.name


def _request_seeds() -> list[bytes]:
    get = b"GET /images/%s/file HTTP/1.1\r\nHost: a\r\n" % _UUID.encode()
    return [
        get + b'Range: bytes=0-99,200-299,-5\r\nIf-None-Match: "x", W/"etag"\r\n\r\n',
        get + b"If-Range: Tue, 14 Nov 2023 22:13:20 GMT\r\nRange: bytes=5-\r\n\r\n" + get + b"\r\n",
        b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        b"HEAD http://b/x HTTP/1.0\r\n\r\n",
    ]


# -- files ---------------------------------------------------------------------------------------------------


def configuration(data: bytes) -> None:
    """Configurations: read and checked, or an error that names the key."""
    with suppress(ImgstoreError):
        specs.check(loading.parse(data.decode("utf-8", "replace")))


def _configuration_seeds() -> list[bytes]:
    pages = [Path("smf/debian/imgstored.toml").read_bytes()] if Path("smf").is_dir() else []
    text = (
        'state = "/a"\n[[sources]]\nurl = "https://a/b"\ntype = "imgapi"\nheaders = {a = "b"}\n[limits]\n'
        'connections = 4\n[[pool]]\nname = "zones"\ntype = "embedded"\npath = "/b"\n[serve]\n'
        'listen = "127.0.0.1:80"\ntokens = {a = "b"}\n[[mirror]]\nurl = "https://a"\nevery = "1d"\n'
        '[view]\nmode = "off"\n[log]\nlevel = "info"\n[socket]\nmode = 0o660\n'
    )
    return [*pages, text.encode()]


_KEY: Final = SecretKey(b"\1" * 8, b"\2" * 32)


def index(data: bytes) -> None:
    """What a signed site says: signatures, pointers, keys, the index."""
    text = data.decode("utf-8", "replace")
    with suppress(KeyFileError):
        parse_public_key(text)
    # With these comments the owner of the key signs it. A signature costs a hundred times what the rest does,
    # so what is sound gets one, and of the rest a few.
    comments = [text.split("\n", 1)[0]] if len(data) % 64 == 0 else []
    with suppress(UntrustedError, ValueError):
        parse_pointer(text)
        comments.append(text)
    with suppress(UntrustedError, ValueError, msgspec.MsgspecError):
        parse_index(data)
        comments.append(Pointer(7, 2_000_000_000, hashed(data)).comment)
    with suppress(UntrustedError, KeyFileError, ValueError):
        parse_signatures(data)
    for comment in comments:
        with suppress(UntrustedError, ValueError):
            made = signed(_KEY, data, comment).text().encode()
            trusted = believed(made, [_KEY.public], now=0.0, seen={})
            checked_index(trusted, data)


def _index_seeds() -> list[bytes]:
    some = {"sha256": "0" * 64, "size": 5}
    image = {"uuid": _UUID, "manifest": some, "file": some}
    one = {"format": 1, "images": [image, {**image, "uuid": ZVOL}], "list": some}
    found = [json.dumps(one).encode()]
    found.append(Pointer(7, 2_000_000_000, Hashed("0" * 64, 5)).comment.encode())
    return [*found, _KEY.public.file().encode(), signed(_KEY, b"x", "comment").text().encode()]


# -- container images and registries -------------------------------------------------------------------------

_BLOCK: Final = 512
#: A file that no layer may reach, as names in layers try to: its place is above the root of each tree.
_OUTSIDE: Final = b"outside"


def layer(data: bytes) -> None:
    """A layer, with the checksums of its headers made right if its first byte is odd.

    In one piece and in many it is the same, and it changes nothing outside the tree that it is applied to.
    Most inputs are for one of the two, as the rest of that byte says.
    """
    fields = Fields(data)
    kind, size, tar = fields.number(255), fields.number(255) + 1, data[2:]
    if kind % 2:
        tar = sealed_tar(tar)
    compared, applied = ((True, True), (True, False), (False, True))[kind // 2 % 3]
    if compared:
        assert _entries_of([tar]) == _entries_of(in_pieces(tar, size)), "in pieces it is another layer"
    if applied:
        _apply(tar)


def _apply(tar: bytes) -> None:
    outside, root = _world() / "outside", _world() / "root"
    root.mkdir()
    try:
        fd = os.open(root, os.O_RDONLY)
        try:
            # What is unpacked is bounded by who has the room.
            with suppress(LayerError, OSError):
                apply(entries(PieceReader([tar])), fd, take=_little, devices=False)
        finally:
            os.close(fd)
    finally:
        shutil.rmtree(root)
    assert list(_world().iterdir()) == [outside], "it leads out of its tree"
    assert outside.read_bytes() == _OUTSIDE
    assert outside.stat().st_nlink == 1, "it links to what is outside"


@cache
def _world() -> Path:
    """A folder, in memory where it can be, with a file that no layer may reach. It is there until the end."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = tempfile.TemporaryDirectory(prefix="imgstore-fuzz-", dir=memory)
    atexit.register(folder.cleanup)
    (Path(folder.name) / "outside").write_bytes(_OUTSIDE)
    return Path(folder.name)


def _little(size: int) -> None:
    if size > MAX_INPUT:
        raise LayerError("more than there is room for")


def _entries_of(pieces: list[bytes]) -> str:
    found = []
    try:
        for entry, contents in entries(PieceReader(pieces)):
            size = min(entry.size, MAX_INPUT)
            found.append(f"{entry} {contents and zlib.crc32(contents.read(size))}")
            # What would be made of a device, where it may be one.
            os.makedev(*entry.device)
    except LayerError as error:
        found.append(error.message)
    return repr(found)


def sealed_tar(data: bytes) -> bytes:
    """A tar with right checksums in the headers that its sizes lead to."""
    tar = bytearray(data.ljust(-(-len(data) // _BLOCK) * _BLOCK, b"\0"))
    at = 0
    while at + _BLOCK <= len(tar):
        header = tar[at : at + _BLOCK]
        if any(header):
            header[148:156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % sum(header)
        try:
            size = max(0, tarfile.nti(bytes(header[124:136])))  # type: ignore[attr-defined]
        except tarfile.HeaderError:
            size = 0
        at += _BLOCK * (1 + -(-size // _BLOCK))
    return bytes(tar)


def _layer_seeds() -> list[bytes]:
    some = [
        folder("etc"),
        file("etc/passwd", b"root" * 200),
        link("etc/link", "../../outside"),
        hard("etc/hard", "etc/passwd"),
        file("etc/link/x"),
        file(".wh.gone"),
        file("etc/.wh..wh..opq"),
        file("../outside"),
        file("a" * 200 + "/" + "b" * 90, b"long", pax_headers={"SCHILY.xattr.user.x": "y", "mtime": "1.5"}),
    ]
    forms = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    whole = [tar_of(*some, form=form) for form in forms]
    odd = [
        # A size that leads beyond the end, of what is passed over; ends that are none.
        _header(file(".wh..wh.aufs"), size=1 << 62),
        whole[1][:_BLOCK] + bytes(_BLOCK) + whole[1],
        _header(file("dev"), type=tarfile.BLKTYPE, devmajor=1 << 31),
    ]
    return [bytes((number % 2, 99)) + tar for number, tar in enumerate([*whole, *odd])] + [
        b"\x01\x07" + tar_of(each) for each in some
    ]


def _header(given: tuple[tarfile.TarInfo, bytes], **fields: Any) -> bytes:
    info = given[0]
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def registry(data: bytes) -> None:
    """A registry's document and, behind a NUL, the config of a container image; its challenges and names."""
    body, _, config = data.partition(b"\0")
    text = body.decode("utf-8", "replace")
    for challenge in read_challenges(text):
        challenge.get("realm")
    with suppress(ImgstoreError):
        api_url(parse_reference(text).host)
    _words_of_a_registry(body)
    for media_type in ("", OCI_INDEX):
        try:
            found = read_document(_URL, body, media_type)
        except ImgstoreError:
            continue
        again = read_document(_URL, encoded(found), found.media_type)
        assert again == found, "written and read again it is another document"
        with suppress(ImgstoreError):
            if isinstance(found, RegistryIndex):
                of_this_platform(_URL, found, "x86_64")
            else:
                for image in layer_images(_URL, _REFERENCE, found, config):
                    load(image.manifest, rules="import")


def _words_of_a_registry(body: bytes) -> None:
    """An error, a list of tags, signatures of a list, and a token."""
    assert refusal(_URL, Answer(500, {}, body)).message
    with suppress(ImgstoreError):
        tags_in(_URL, body)
    read_signatures(body)
    with suppress(msgspec.DecodeError):
        decoded(body, Token)


_REFERENCE: Final = parse_reference("registry.example.com/library/thing:1.0")


def _registry_seeds() -> list[bytes]:
    digest = "sha256:" + "0" * 64
    some = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 5}
    image = {"schemaVersion": 2, "config": {**some, "mediaType": "x"}, "layers": [some, some]}
    platform = {"architecture": "amd64", "os": "linux"}
    listed = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**some, "platform": platform}]}
    config = {
        "os": "linux",
        "architecture": "amd64",
        "created": "2026-11-24T00:00:00.123456789Z",
        "config": {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": [digest, digest]},
    }
    return [
        json.dumps(image).encode() + b"\0" + json.dumps(config).encode(),
        json.dumps(listed).encode(),
        b'Bearer realm="https://auth.example.com/token",service="x",scope="repository:a/b:pull", Basic a="y"',
        b"registry.example.com:5000/a/b@" + digest.encode(),
        b"[::1]:5000/a/b:c",
        b'{"errors": [{"code": "DENIED", "message": "no"}], "tags": ["a"], "token": "t", "expires_in": 5}',
    ]


# -- deltas --------------------------------------------------------------------------------------------------


def delta_index(data: bytes) -> None:
    """An index: as it came, and with its plain sections compressed, and all sizes and checksums right.

    Of one that is believed, the stream that is put together has the size that it says.
    """
    for made in (data, sealed_index(data)):
        try:
            found = parse_delta_index(made)
        except IndexFaultError:
            continue
        for number in range(found.payloads):
            assert number in found.in_frame(found.frame_of(number))
        if found.stream_size <= 16 * MAX_INPUT:
            pieces = assembled(found, bytes)
            assert sum(map(len, pieces)) == found.stream_size, "it is not the stream that it says"


def sealed_index(data: bytes) -> bytes:
    """An index made of its head, the plain bytes of its sections behind each other, and their sizes."""
    given = Fields(data)
    head, frames_size = bytearray(given.bytes(_INDEX_HEAD)), given.number(1 << 12)
    frames, hashes_size = given.bytes(frames_size), given.number(1 << 12)
    hashes, skeleton = given.bytes(hashes_size), given.bytes(given.left)
    sections = [_COMPRESSOR.compress(frames), hashes, _COMPRESSOR.compress(skeleton)]
    head = head.ljust(_INDEX_HEAD, b"\0")
    struct.pack_into("<QQQ", head, _INDEX_HEAD - 24, len(sections[0]), len(sections[2]), len(skeleton))
    body = bytes(head) + b"".join(sections)
    return body + hashlib.sha256(body).digest()[:16]


_INDEX_HEAD: Final = 112
_COMPRESSOR: Final = zstandard.ZstdCompressor(level=1)


def _index_of(stream: bytes) -> bytes:
    """The index of a file whose frames have what a cutter makes of the stream."""
    builder, cutter = IndexBuilder(), FrameCutter()
    for frame in (*cutter.feed(builder.feed(stream)), *cutter.finish()):
        builder.frame(len(_COMPRESSOR.compress(frame)), len(frame))
    return builder.finish()


def _delta_seeds() -> list[bytes]:
    found = []
    for size in (1, 300 << 10):
        made = _index_of(filesystem_stream(size=size, seed=size))
        found.append(made)
        sizes = struct.unpack_from("<QQQ", made, _INDEX_HEAD - 24)
        hashes = made[_INDEX_HEAD + sizes[0] : len(made) - 16 - sizes[1]]
        frames, skeleton = (
            zstandard.ZstdDecompressor().decompressobj().decompress(section)
            for section in (made[_INDEX_HEAD:][: sizes[0]], made[: len(made) - 16][-sizes[1] :])
        )
        plain = (len(frames).to_bytes(2, "little"), frames, len(hashes).to_bytes(2, "little"), hashes)
        found.append(made[:_INDEX_HEAD] + b"".join(plain) + skeleton)
    return found


TARGETS: Final[dict[str, Target]] = {
    "rpc": Target(rpc, _rpc_seeds, size=512),
    "manifest": Target(manifest, _manifest_seeds),
    "answers": Target(answers, _answer_seeds),
    "stream": Target(stream, _stream_seeds),
    "volume": Target(volume, lambda: [bytes(range(200)), b"\x02" * 60]),
    "rewriter": Target(rewriter, lambda: [bytes(range(200)), b"\x02" * 60]),
    "writer": Target(writer, lambda: [bytes(range(250)), b"\x01" * 60]),
    "token": Target(token, _token_seeds),
    "nvlist": Target(nvlist, _nvlist_seeds),
    "image-file": Target(image_file, _file_seeds),
    "http-answer": Target(http_answer, _answer_head_seeds),
    "http-range": Target(http_range, _range_seeds, size=512),
    "http-request": Target(http_request, _request_seeds, size=256),
    "configuration": Target(configuration, _configuration_seeds),
    "index": Target(index, _index_seeds),
    "layer": Target(layer, _layer_seeds),
    "registry": Target(registry, _registry_seeds),
    "delta-index": Target(delta_index, _delta_seeds),
}
