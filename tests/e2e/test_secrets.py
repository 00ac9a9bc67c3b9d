"""A server quotes what it was sent, in whatever encoding: nobody is told, wherever he looks."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote

import pytest
from imgctl import Client, RemoteError
from imgproto.operations import OPERATIONS

from tests.support.daemon import Daemon
from tests.support.image_site import BASE, fixture_file, fixture_manifest
from tests.support.nginx import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.faulty_server import Request, Wire

#: What tells a secret is in each of them, and nowhere else; the rest of each is what encoders change.
PASSWORD = 'k3ypass/"w&rd+1'
HEADER = "h3adertoken\\x'9"
QUERY = "qu3rytoken=/+&z"
PROXY = "pr0xypass:#?é"
MARKS = ("k3ypass", "h3adertoken", "qu3rytoken", "pr0xypass")
BASIC = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
PROXY_BASIC = base64.b64encode(f"me:{PROXY}".encode()).decode()

SPELLINGS = {
    "plain": lambda text: text,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded in lower case": lambda text: re.sub(
        "%..", lambda found: found[0].lower(), quote(text, safe="")
    ),
    "as a form": quote_plus,
    "twice": lambda text: quote(quote(text, safe=""), safe=""),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "HTML": lambda text: html.escape(text),
    "Python": repr,
}

#: Images: the server has one, refuses one, and has a file of neither.
REFUSED = "33333333-aaaa-4bbb-8ccc-000000000001"
NO_FILE = "33333333-aaaa-4bbb-8ccc-000000000002"


class Quoting:
    """An IMGAPI whose every answer quotes the request."""

    def __init__(self) -> None:
        self.spelling = SPELLINGS["plain"]

    def quoted(self, request: Request) -> str:
        """What it was sent, decoded as servers do that look at it."""
        basic = request.headers.get("authorization", "").partition(" ")[2]
        words = [
            request.headers.get("x-auth-token", ""),
            basic,
            base64.b64decode(basic).decode() if basic else "",
            unquote(request.target.partition("token=")[2].partition("&")[0]),
        ]
        return "denied: " + ", ".join(self.spelling(word) for word in words if word)

    def __call__(self, request: Request, wire: Wire) -> None:
        said = self.quoted(request)
        path = request.target.partition("?")[0]
        if path == "/ping":
            self._json(wire, "200 OK", {"imgapi": True, "note": said})
        elif path == "/images":
            self._json(wire, "200 OK", [] if "marker" in request.target else [self._manifest(BASE, said)])
        elif path in (f"/images/{BASE}", f"/images/{NO_FILE}"):
            self._json(wire, "200 OK", self._manifest(path[8:], said))
        elif path == f"/images/{BASE}/file":
            wire.part(fixture_file(BASE).read_bytes(), request)
        elif path.endswith("/file"):
            reason = said.encode("ascii", "replace").decode()
            self._json(wire, f"403 {reason}", {"code": "Forbidden", "message": said})
        else:
            faults = [{"field": said, "code": "Invalid", "message": said}]
            self._json(wire, "500 Broken", {"code": "InternalError", "message": said, "errors": faults})

    def _json(self, wire: Wire, status: str, answer: Any) -> None:
        wire.reply(status, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _manifest(self, uuid: str, said: str) -> dict[str, Any]:
        manifest = {**fixture_manifest(BASE), "uuid": uuid, "description": said, "homepage": said[:200]}
        return {**manifest, "tags": {"quoted": said}}


def configuration(url: str, dead: int, metrics: int) -> str:
    """A source with every kind of secret, another behind a proxy, and metrics."""
    token = quote(QUERY, safe="")
    return f"""
[log]
level = "debug"
format = "json"
[metrics]
listen = "127.0.0.1:{metrics}"
[[sources]]
url = "{url}?token={token}&channel=dev"
headers = {{ Authorization = "Basic {BASIC}", "X-Auth-Token" = {json.dumps(HEADER)} }}
[[sources]]
url = "http://127.0.0.1:{dead}"
proxy = "http://me:{quote(PROXY, safe="")}@127.0.0.1:{dead}"
"""


def requests_of(url: str, dead: int) -> dict[str, list[dict[str, Any]]]:
    """Every operation, with parameters that make a server say something where one is asked."""
    named = f"{url}?token={quote(QUERY, safe='')}"
    image, refused = {"uuid": BASE}, {"uuid": REFUSED}
    manifest = fixture_manifest(BASE)
    return {
        "hello": [{"protocol": 1, "client": f"me {HEADER}"}],
        "show": [image, refused],
        "import": [refused, {"uuid": NO_FILE}, image, {**refused, "sources": [named]}],
        "ensure": [{"uuids": [REFUSED]}],
        "install": [{"manifest": {**manifest, "uuid": REFUSED}, "path": HEADER}],
        "plan": [image, refused, {**refused, "sources": [named]}],
        "avail": [{}],
        "list": [{}],
        "get": [image],
        "ancestry": [image],
        "usage": [{}],
        "outdated": [{}],
        "alias": [{"alias": "mine", "uuid": BASE}],
        "aliases": [{}],
        "unalias": [{"alias": "mine"}],
        "jobs": [{}],
        "watch": [refused],
        "cancel": [refused],
        "holds": [image],
        "hold": [{**image, "tag": "t"}],
        "release": [{**image, "tag": "t"}],
        "resolve": [{"names": ["x"], "among": each} for each in ("available", "active", "history", "jobs")],
        "history": [{}],
        "events": [{"since": 0, "follow": False}],
        "update": [{}],
        "vacuum": [{}],
        "verify": [{}],
        "sources.known": [{}],
        "sources.check": [{}],
        "sources.add": [{"url": f"{url}/no?token={quote(QUERY, safe='')}"}],
        "sources.set": [{"sources": [{"url": f"{url}/no?token={quote(QUERY, safe='')}"}], "before": []}],
        "sources.delete": [{"url": named}],
        "create": [{"source": "x", "manifest": {"name": HEADER}}],
        "export": [{**image, "path": HEADER}],
        "site.export": [{"names": [HEADER], "path": HEADER}],
        "mirror": [{"url": f"{url}/no?token={quote(QUERY, safe='')}"}, {"url": named}],
        "publish": [{"manifest": {**manifest, "uuid": REFUSED}, "url": url}],
        "delete": [refused],  # what the server has said of the other one is in files
        "status": [{}],
        "doctor": [{}],
        # Root may know; see tests/rpc/test_secrets.py.
        "sources.list": [],
    }


def ask_all(daemon: Daemon, url: str, dead: int) -> str:
    """All that the socket says to all of its methods, as JSON, a line each."""
    said: list[str] = []
    wanted = requests_of(url, dead)
    assert wanted.keys() == OPERATIONS.keys(), "each method is swept"
    for method, all_params in wanted.items():
        for params in all_params:
            with Client(str(daemon.socket)) as client:
                try:
                    said.append(json.dumps([method, ask(client, method, params, said)]))
                except RemoteError as error:
                    said.append(json.dumps([method, vars(error), str(error)], default=str))
    return "\n".join(said)


def ask(client: Client, method: str, params: dict[str, Any], said: list[str]) -> Any:
    descriptor = os.open(fixture_file(BASE), os.O_RDONLY) if OPERATIONS[method].file else None
    try:
        exchange = client.exchange(method, params, descriptor)
        while True:
            try:
                said.append(json.dumps([method, next(exchange)]))
            except StopIteration as end:
                return end.value
    finally:
        if descriptor is not None:
            os.close(descriptor)


def kept(daemon: Daemon) -> dict[str, str]:
    """By file: all that is written, for others to read or not."""
    state = daemon.folder / "state"
    places = [state / "imgadm", state / "receipts", state / "lists", daemon.images]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    files += [*state.glob("history.sqlite*"), *state.glob("events.sqlite*"), daemon.log]
    return {
        "the journal": journal(state),
        **{str(path): path.read_bytes().decode("latin-1") for path in files},
    }


def journal(state: Path) -> str:
    """All values of the journal but the URLs that an import goes on with, which need their tokens."""
    needed = {("imports", "sources"), ("validators", "url")}
    values: list[Any] = []
    with closing(sqlite3.connect(f"file:{state}/journal.sqlite?mode=ro", uri=True)) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            wanted = ", ".join(each for each in columns if (table, each) not in needed)
            values += db.execute(f"SELECT {wanted} FROM {table}").fetchall()
    return repr(values)


def told(text: str) -> set[str]:
    """The secrets of which the text has the part that no encoder changes; and Basic credentials."""
    low = text.lower()
    return {mark for mark in (*MARKS, BASIC, PROXY_BASIC) if mark.lower() in low}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_a_server_quotes_nobody_is_told(tmp_path: Path, start_faulty: Any, spelling: str) -> None:
    quoting = Quoting()
    quoting.spelling = SPELLINGS[spelling]
    server = start_faulty(quoting)
    dead, metrics = free_port(), free_port()
    with Daemon(tmp_path / "store", config=configuration(server.url, dead, metrics)) as daemon:
        answers = ask_all(daemon, server.url, dead)
        scraped = subprocess.run(
            ["/usr/bin/curl", "-sS", f"http://127.0.0.1:{metrics}/metrics"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        files = kept(daemon)
        assert (daemon.images / BASE / "manifest.json").exists()
    # The server was sent it all, and what it said came through.
    assert any(HEADER in str(request.headers.values()) or HEADER in request.headers["x-auth-token"]
               for request in server.requests)  # fmt: skip
    assert answers.count("denied") > 10
    (tmp_path / "answers").write_text(answers)
    found = {"answers": told(answers), "metrics": told(scraped)}
    found |= {name: told(text) for name, text in files.items()}
    assert {name: marks for name, marks in found.items() if marks} == {}
