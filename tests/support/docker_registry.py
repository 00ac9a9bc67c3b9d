"""A real registry on loopback, Debian's docker-registry (distribution 2.8), and a token server for it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from imgstored.registry.documents import ACCEPT
from tests.support.nginx import free_port

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

PROGRAM = "/usr/bin/docker-registry"

USER, PASSWORD = "fleet", "correct horse"
#: `htpasswd -nbB fleet "correct horse"`, at the lowest cost.
_HTPASSWD = "fleet:$2b$04$eV7F8WRlKRKS5PPoTjGLfu5IND1ZMqWuGMivJuleUL5CUzTw4nbuy\n"
SERVICE = "registry.test"


@dataclass(frozen=True)
class Asked:
    """A request to the token server."""

    authorization: str
    query: dict[str, str]
    form: dict[str, str]


class TokenServer:
    """Gives out tokens that the registry takes; to everybody, or to who has the login."""

    def __init__(self, folder: Path, *, login: bool = True, seconds: int = 300) -> None:
        self.requests: list[Asked] = []
        self.login = login  #: whether the login is needed
        self.seconds = seconds  #: that a token is good for, as it says
        self.status = 200  #: another one: the server answers with that
        self.bundle = folder / "tokens.pem"
        authority = trustme.CA(key_type=trustme.KeyType.RSA)
        certificate = authority.issue_cert("tokens.test", key_type=trustme.KeyType.RSA)
        authority.cert_pem.write_to_path(str(self.bundle))
        key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._key = key
        pem = certificate.cert_chain_pems[0].bytes().decode()
        self._chain = ["".join(line for line in pem.splitlines() if "-----" not in line)]
        handler = type("Handler", (_TokenHandler,), {"tokens": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, scope: str) -> str:
        kind, name, actions = (
            scope.rsplit(":", 2)[0].split(":", 1)[0],
            scope.split(":")[1],
            scope.split(":")[-1],
        )
        now = int(time.time())
        claims = {
            "iss": "tokens.test",
            "sub": USER,
            "aud": SERVICE,
            "exp": now + max(self.seconds, 1),
            "nbf": now - 60,
            "iat": now,
            "jti": str(len(self.requests)),
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        head = _encoded(json.dumps({"typ": "JWT", "alg": "RS256", "x5c": self._chain}).encode())
        text = f"{head}.{_encoded(json.dumps(claims).encode())}"
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_encoded(signature)}"


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    tokens: TokenServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(dict(urllib.parse.parse_qsl(body)))

    def _answer(self, form: dict[str, str]) -> None:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        asked = Asked(self.headers.get("Authorization", ""), query, form)
        self.tokens.requests.append(asked)
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = asked.authorization == wanted or form.get("refresh_token") == "refresh-me"
        status = self.tokens.status if known or not self.tokens.login else 401
        scope = query.get("scope") or form.get("scope", "")
        answer: dict[str, Any] = {"expires_in": self.tokens.seconds}
        if status == 200:
            answer["access_token" if form else "token"] = self.tokens.token(scope)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  its name there
        pass


@dataclass
class DockerRegistry:
    """The registry, for as long as the context lasts; its files are below `folder`."""

    folder: Path
    htpasswd: bool = False
    tls: bool = False
    clients: bool = False  #: with `tls`: clients need a certificate (`client.pem`, `client.key`)
    tokens: TokenServer | None = None
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def __enter__(self) -> DockerRegistry:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tls and not self.ca_file.exists():
            authority = trustme.CA()
            authority.cert_pem.write_to_path(str(self.ca_file))
            for name, certificate in (
                ("server", authority.issue_cert("127.0.0.1", "localhost")),
                ("client", authority.issue_cert("client.example")),
            ):
                certificate.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))
                certificate.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.pem"))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it, on the port that it had before if it was stopped. Raises `RuntimeError`."""
        self.port = self.port or free_port()
        (self.folder / "config.json").write_text(json.dumps(self._configuration()))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "serve", str(self.folder / "config.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"OTEL_TRACES_EXPORTER": "none"},
            )
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"the registry does not start:\n{(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    # -- content, by the registry's own API ------------------------------------------------------------------

    def blob(self, repository: str, data: bytes) -> dict[str, Any]:
        """Puts a blob; returns its digest and size."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        place = self.request("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
        joint = "&" if "?" in place else "?"
        place = urllib.parse.urljoin(self.url, place)
        self.request("PUT", f"{place}{joint}digest={digest}", data, "application/octet-stream")
        return {"digest": digest, "size": len(data)}

    def manifest(self, repository: str, tag: str, document: Any, kind: str | None = None) -> str:
        """Puts a manifest or an index; returns its digest."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        kind = kind or json.loads(body)["mediaType"]
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", body, kind)
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """Any request; raises `urllib.error.HTTPError`."""
        request = urllib.request.Request(urllib.parse.urljoin(self.url, path), body, method=method)
        if kind:
            request.add_header("Content-Type", kind)
        request.add_header("Accept", ACCEPT)
        request.add_header("Authorization", self._authorization(path))
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.tls else None
        if context is not None and self.clients:
            context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        with urllib.request.urlopen(request, context=context) as answer:
            answer.content = answer.read()
            return answer

    def _authorization(self, path: str) -> str:
        if self.tokens is None:
            return "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        name = urllib.parse.urlsplit(path).path.removeprefix("/v2/").partition("/manifests/")[0]
        name = name.partition("/blobs/")[0]
        return f"Bearer {self.tokens.token(f'repository:{name}:pull,push')}"

    def _configuration(self) -> dict[str, Any]:
        web: dict[str, Any] = {"addr": self.host, "secret": "of the tests"}
        if self.tls:
            web["tls"] = {
                "certificate": str(self.folder / "server.pem"),
                "key": str(self.folder / "server.key"),
                **({"clientcas": [str(self.ca_file)]} if self.clients else {}),
            }
        auth: dict[str, Any] = {}
        if self.htpasswd:
            path = self.folder / "htpasswd"
            path.write_text(_HTPASSWD)
            auth = {"auth": {"htpasswd": {"realm": "tests", "path": str(path)}}}
        if self.tokens is not None:
            auth = {
                "auth": {
                    "token": {
                        "realm": self.tokens.url,
                        "service": SERVICE,
                        "issuer": "tokens.test",
                        "rootcertbundle": str(self.tokens.bundle),
                    }
                }
            }
        return {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "storage")},
                "delete": {"enabled": True},
            },
            "http": web,
            **auth,
        }


def auth_file(path: Path, host: str, *, user: str = USER, password: str = PASSWORD) -> Path:
    """A file of logins in Docker's form."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return path


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
