"""A source on the internet sends the daemon to a service inside: what that says is told to nobody."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, fixture_manifest
from tests.support.public_net import IN_PUBLIC_NET, LOOPBACK, PUBLIC

if TYPE_CHECKING:
    from pathlib import Path

INSIDE = "the-word-of-the-inside"

#: A file's URL leads inside by itself, or by a redirect.
LINKED = "44444444-aaaa-4bbb-8ccc-000000000001"
REDIRECTED = "44444444-aaaa-4bbb-8ccc-000000000002"
MISSING = "44444444-aaaa-4bbb-8ccc-000000000003"

#: Two servers in one: by its public address an image server, by the other one a service that refuses.
SERVER = """
import os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
images, inside, log = sys.argv[1:]

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        public = self.server.server_address[0] == "8.8.8.8"
        with open(log, "a") as file:
            print("public" if public else "inside", self.path, file=file)
        status, headers, body = 500, {"Content-Type": "text/plain"}, inside.encode()
        if public and self.path.startswith("/list/"):
            status, body = 200, images.encode()
        elif public:
            status, headers = 302, {"Location": "http://127.0.0.1:8080/"}
        self.send_response(status, inside if not public else None)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

parent = os.getppid()  # the daemon, which the shell that starts us becomes
servers = [ThreadingHTTPServer((address, 8080), Handler) for address in ("8.8.8.8", "127.0.0.1")]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
open(log, "a").close()
while os.getppid() == parent:
    time.sleep(0.05)
"""


def images() -> str:
    """A list of manifests of v1, which may have URLs of files."""
    base = fixture_manifest(BASE)
    made = []
    for uuid, url in (
        (LINKED, f"http://{LOOPBACK}:8080/file"),
        (REDIRECTED, f"http://{PUBLIC}:8080/away"),
    ):
        made.append({**base, "uuid": uuid, "files": [{**base["files"][0], "url": url}]})
    return json.dumps(made)


@pytest.mark.parametrize("allowed", [False, True])
def test_what_an_internal_service_says(tmp_path: Path, allowed: bool) -> None:
    asked = tmp_path / "asked"
    server = [sys.executable, "-c", SERVER, images(), INSIDE, str(asked)]
    # The servers are in the daemon's own network, and end with it.
    begin = f'{shlex.join(server)} & until [ -e {asked} ]; do sleep 0.05; done; exec "$@"'
    before = (*IN_PUBLIC_NET, "/bin/sh", "-c", begin, "sh")
    setting = {"internal_redirects": True} if allowed else {}
    config = static_source(f"http://{PUBLIC}:8080/list", **setting).replace("True", "true")
    config += static_source(f"http://{PUBLIC}:8080/away", **setting).replace("True", "true")
    with Daemon(tmp_path / "store", config=config + "[limits]\ntries = 1\n", before=before) as daemon:
        said = [daemon.imgctl("-v", "import", uuid) for uuid in (LINKED, REDIRECTED)]
        said += [daemon.imgctl(*words) for words in (["show", MISSING], ["sources", "-c"], ["avail"])]
        said += [daemon.imgctl(*words) for words in (["history", "-j"], ["status", "-j"])]
    told = "".join(done.stdout + done.stderr for done in said)
    inside = [line for line in asked.read_text().splitlines() if line.startswith("inside")]
    assert "public /list/" in asked.read_text()
    assert "public /away" in asked.read_text()
    if allowed:
        assert INSIDE in told
        assert inside != []
    else:
        assert inside == []
        assert INSIDE not in told + daemon.log.read_text()
        assert told.count(f"leads to an internal address ({LOOPBACK})") >= 4
