"""A small IMGAPI server with its write side (sdc-imgapi, docs/index.md) and faults on request."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from types import TracebackType


class WritableImgapi:
    """Keeps images in memory. `refusals` are answers to steps: "import", "file", "activate", "delete".

    `damage` are fields that it gives back otherwise than they are, as of a file that was damaged on the way.
    """

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.refusals: dict[str, tuple[int, str, str]] = {}  # status, code, message
        self.broken: set[str] = set()  # steps at which the connection is closed
        self.damage: dict[str, Any] = {}
        self.steps: list[str] = []
        self.seen: list[dict[str, str]] = []  # headers, in lower case
        self.queries: list[dict[str, list[str]]] = []
        outer = self

        class Handler(_Handler):
            imgapi = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> WritableImgapi:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    imgapi: WritableImgapi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        images, uuid = self.imgapi.images, self._uuid()
        match urlsplit(self.path).path.split("/")[1:]:
            case ["ping"]:
                self._answer(200, {"ping": "pong", "version": "4.13.1", "imgapi": True})
            case ["images"]:
                self._answer(200, list(images.values()))
            case ["images", _] if uuid in images:
                self._answer(200, images[uuid])
            case ["images", _, "file"] if uuid in self.imgapi.files:
                self._send(200, self.imgapi.files[uuid], "application/octet-stream")
            case _:
                self._answer(404, {"code": "ResourceNotFound", "message": "no such image"})

    def do_POST(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        body = self._body()
        uuid = self._uuid()
        if query.get("action") == ["import"]:
            if self._failed("import"):
                return
            given = json.loads(body)
            assert given["uuid"] == uuid
            self.imgapi.images[uuid] = {**given, "state": "unactivated", "files": []}
            self._answer(200, self.imgapi.images[uuid])
        elif query.get("action") == ["activate"]:
            if self._failed("activate"):
                return
            image = self.imgapi.images[uuid]
            assert image["files"]
            image.update(state="active", public=True, published_at="2026-11-24T00:00:00.000Z")
            self._answer(200, image)

    def do_PUT(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        body = self._body()
        uuid = self._uuid()
        if self._failed("file"):
            return
        if len(body) < int(self.headers["Content-Length"]):
            self.close_connection = True
            return
        self.imgapi.files[uuid] = body
        file = {
            "sha1": hashlib.sha1(body).hexdigest(),
            "size": len(body),
            "compression": query["compression"][0],
        }
        assert query["sha1"] == [file["sha1"]]
        self.imgapi.images[uuid]["files"] = [{**file, **self.imgapi.damage}]
        self._answer(200, self.imgapi.images[uuid])

    def do_DELETE(self) -> None:
        if self._failed("delete"):
            return
        self.imgapi.images.pop(self._uuid(), None)
        self.imgapi.files.pop(self._uuid(), None)
        self._send(204, b"", None)

    def _failed(self, step: str) -> bool:
        self.imgapi.steps.append(step)
        self.imgapi.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.imgapi.queries.append(parse_qs(urlsplit(self.path).query))
        if step in self.imgapi.broken:
            self.close_connection = True
            return True
        if step in self.imgapi.refusals:
            status, code, message = self.imgapi.refusals[step]
            self._answer(status, {"code": code, "message": message})
            return True
        return False

    def _uuid(self) -> str:
        parts = urlsplit(self.path).path.split("/")
        return parts[2] if len(parts) > 2 else ""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, document: Any) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str | None) -> None:
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (http.server's name)
        pass
