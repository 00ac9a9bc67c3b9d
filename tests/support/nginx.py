"""A real nginx on loopback: its own folder, a free port, and an access log that tests can count in."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

NGINX = "/usr/sbin/nginx"

_CONFIGURATION = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes {workers};
{user}
events {{ worker_connections 256; }}
http {{
    types {{ }}
    default_type application/octet-stream;
    log_format counted
        '$msec\\t$status\\t$body_bytes_sent\\t$connection\\t$request_method\\t$uri\\t$http_range';
    access_log {folder}/access.log counted;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    lingering_close off;
    {http}
    server {{
        listen 127.0.0.1:{port}{tls};
        root {root};
        index index.html;
        {limits}
{locations}
    }}
}}
"""


@dataclass(frozen=True)
class Hit:
    """One line of the access log; written when the request has ended."""

    time: float  #: seconds since the epoch
    status: int
    bytes_sent: int  #: of the body; what a client that left did not read may be among them
    connection: int
    method: str
    path: str
    range: str  #: the request's Range header, or ""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Nginx:
    """nginx serving the files below `root` for as long as the context lasts.

    `limit_rate` (as in nginx's own notation, "2m") is for each request; `locations` gives further settings to
    paths, as {"/slow/": "limit_rate 1m;"}. With `tls` the server's certificate comes from an authority of its
    own (`ca_file`); with `clients`, too, its clients need one of that authority (`client.pem`, `client.key`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: Path,
        limit_rate: str | None = None,
        ranges: bool = True,
        tls: bool = False,
        workers: int = 1,
        locations: Mapping[str, str] | None = None,
        extra: str = "",
        http: str = "",
        clients: bool = False,
        port: int = 0,
        names: Sequence[str] = ("127.0.0.1", "localhost"),
    ) -> None:
        """`port` 0 is a free one; `names` are those of its certificate."""
        self.folder = folder
        self.root = root
        self.tls = tls
        self.port = port
        self.ca_file = folder / "ca.pem"
        self._workers = workers
        self._names = names
        self._locations = dict(locations or {})
        self._limits = extra
        self._http = http
        if clients:
            self._limits += f" ssl_client_certificate {folder}/ca.pem; ssl_verify_client on;"
        if limit_rate is not None:
            self._limits += f" limit_rate {limit_rate};"
        if not ranges:
            self._limits += " max_ranges 0;"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's URL, without a trailing slash."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Nginx:
        (self.folder / "temp").mkdir(parents=True, exist_ok=True)
        if self.tls and not self.ca_file.exists():
            self._write_certificates()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts nginx, on the port that it had before if it was stopped. Raises `RuntimeError`."""
        for _ in range(5):
            again = self.port != 0
            self.port = self.port or free_port()
            self._write_configuration()
            if self._launch():
                return
            if not again:
                self.port = 0  # somebody else was faster
        raise RuntimeError(f"nginx does not start:\n{(self.folder / 'error.log').read_text()}")

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stops nginx at once, whatever it is sending. Stopping twice is no error."""
        self._end(signal.SIGTERM)

    def hits(self) -> list[Hit]:
        """The access log so far."""
        log = self.folder / "access.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [_hit(line) for line in lines]

    def settled_hits(self, *, quiet: float = 0.1) -> list[Hit]:
        """The access log once nothing was added for `quiet` seconds: it lags a little."""
        seen = self.hits()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            time.sleep(quiet)
            now = self.hits()
            if len(now) == len(seen):
                break
            seen = now
        return seen

    def _launch(self) -> bool:
        # Written when it has the port: until then another server may answer there.
        mark = self.folder / "nginx.pid"
        mark.unlink(missing_ok=True)
        command = [NGINX, "-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", "nginx.conf"]
        self._process = subprocess.Popen(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < deadline:
            if mark.exists():
                return True
            time.sleep(0.005)
        self._end(signal.SIGKILL)
        return False

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for _ in range(150):
            # A signal that comes before it waits for signals is seen with the next one.
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
                return
        process.kill()
        process.wait()

    def _write_configuration(self) -> None:
        blocks = [f"        location {path} {{ {text} }}" for path, text in self._locations.items()]
        text = _CONFIGURATION.format(
            http=self._http,
            folder=self.folder,
            root=self.root,
            port=self.port,
            workers=self._workers,
            # As root, nginx's workers would become `nobody`, who may not enter a temporary folder.
            user="user root;" if os.geteuid() == 0 else "",
            tls=" ssl" if self.tls else "",
            limits=self._limits,
            locations="\n".join([*self._certificate_settings(), *blocks]),
        )
        (self.folder / "nginx.conf").write_text(text)

    def _certificate_settings(self) -> list[str]:
        if not self.tls:
            return []
        return [
            f"        ssl_certificate {self.folder}/server.pem;",
            f"        ssl_certificate_key {self.folder}/server.key;",
        ]

    def _write_certificates(self) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert(*self._names)
        authority.cert_pem.write_to_path(str(self.ca_file))
        certificate.private_key_pem.write_to_path(str(self.folder / "server.key"))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(self.folder / "server.pem"), append=True)
        client = authority.issue_cert("client.example")
        client.private_key_pem.write_to_path(str(self.folder / "client.key"))
        client.cert_chain_pems[0].write_to_path(str(self.folder / "client.pem"))


def _hit(line: str) -> Hit:
    moment, status, sent, connection, method, path, wanted = line.split("\t")
    return Hit(
        time=float(moment),
        status=int(status),
        bytes_sent=int(sent),
        connection=int(connection),
        method=method,
        path=path,
        range="" if wanted == "-" else wanted,
    )
