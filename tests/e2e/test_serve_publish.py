"""Publishing to a real server: by imgctl, and by the requests that imgadm makes; and what is refused."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import time
from email.utils import formatdate

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.http_server import PATIENCE, everything
from tests.support.image_site import BASE, INCREMENTAL, fixture_file, fixture_manifest
from tests.support.nginx import free_port

TOKEN = "a-token-that-nobody-guesses"
MIB = 1 << 20
MISSING = "11111111-aaaa-4bbb-8ccc-0000000000ff"


class Server:
    def __init__(self, daemon, port):
        self.daemon = daemon
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method, path, body=b"", *, token=TOKEN, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body=body, headers=named)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.headers.get("Content-Type") == "application/json":
            return answer.status, json.loads(data)
        return answer.status, data

    def publish(self, uuid):
        """As imgadm does it."""
        file = fixture_file(uuid).read_bytes()
        manifest = fixture_manifest(uuid)
        described = manifest["files"][0]
        assert self.ask("POST", f"/images/{uuid}?action=import", json.dumps(manifest))[0] == 200
        path = f"/images/{uuid}/file?compression={described['compression']}&sha1={described['sha1']}"
        status, answer = self.ask("PUT", path, file)
        assert status == 200, answer
        status, answer = self.ask("POST", f"/images/{uuid}?action=activate")
        assert status == 200, answer
        return answer


@pytest.fixture
def server(tmp_path):
    port = free_port()
    config = f'[serve]\nlisten = "127.0.0.1:{port}"\ntokens = {{ ci = "{TOKEN}" }}\n'
    with Daemon(tmp_path / "server", config=config) as daemon:
        yield Server(daemon, port)


def test_imgctl_publishes_and_another_host_imports(tmp_path, server):
    source = f'[[sources]]\nurl = "{server.url}"\nheaders = {{ Authorization = "Bearer {TOKEN}" }}\n'
    with Daemon(tmp_path / "author", config=source) as author:
        for uuid in (BASE, INCREMENTAL):
            manifest = tmp_path / f"{uuid}.json"
            manifest.write_text(json.dumps(fixture_manifest(uuid)))
            done = author.imgctl("publish", "-m", str(manifest), "-f", str(fixture_file(uuid)), server.url)
            assert done.returncode == 0, done.stderr
        again = author.imgctl("publish", "-m", str(manifest), "-f", str(fixture_file(uuid)), server.url)
        assert again.returncode == 1
        assert "exists already" in again.stderr
    with Daemon(tmp_path / "reader", config=f'[[sources]]\nurl = "{server.url}"\n') as reader:
        done = reader.imgctl("import", INCREMENTAL)
        assert done.returncode == 0, done.stderr
        assert reader.imgctl("verify").returncode == 0


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, server, monkeypatch):
    manifest, token = tmp_path / "manifest.json", tmp_path / "token"
    manifest.write_text(json.dumps(fixture_manifest(BASE)))
    with Daemon(tmp_path / "author") as author:

        def publish(*words):
            file = str(fixture_file(BASE))
            return author.imgctl("publish", "-m", str(manifest), "-f", file, *words, server.url)

        refused = publish()
        assert refused.returncode == 1
        assert "(UnauthorizedError)" in refused.stderr
        assert "--token-file" in refused.stderr
        token.write_text("another-token-of-the-tests-9876543210\n")
        refused = publish("--token-file", str(token))
        assert "(UnauthorizedError)" in refused.stderr
        for text in ("", "two words\n", "\xff" * 20):
            token.write_text(text)
            refused = publish("--token-file", str(token))
            assert "(Usage)" in refused.stderr
        assert "(Usage)" in publish("--token-file", str(tmp_path / "missing")).stderr
        token.write_text(f"{TOKEN}\n")
        done = publish("--token-file", str(token))
        assert done.returncode == 0, done.stderr
        assert server.ask("DELETE", f"/images/{BASE}")[0] == 204
        author.environment["IMGCTL_TOKEN"] = TOKEN
        assert publish().returncode == 0
        assert TOKEN not in author.log.read_text()
        assert "another-token" not in author.log.read_text()


def test_nobody_sees_an_image_before_it_is_active(server):
    manifest = fixture_manifest(BASE)
    file = fixture_file(BASE).read_bytes()
    status, made = server.ask("POST", f"/images/{BASE}?action=import", json.dumps(manifest))
    assert (status, made["state"], made.get("files")) == (200, "unactivated", None)
    for path in (f"/images/{BASE}", f"/images/{BASE}/file"):
        assert server.ask("GET", path, token=None)[0] == 404
    assert server.ask("GET", "/images?state=all", token=None)[1] == []
    assert [each["uuid"] for each in server.ask("GET", "/images?state=all")[1]] == [BASE]
    # Nor whether there is one: as a marker it is like any uuid of no image.
    refused = server.ask("GET", f"/images?marker={BASE}", token=None)
    assert refused[0] == 422
    missing = server.ask("GET", f"/images?marker={MISSING}", token=None)
    assert json.dumps(refused).replace(BASE, MISSING) == json.dumps(missing)
    assert server.ask("POST", f"/images/{BASE}?action=activate")[1]["code"] == "NoActivationNoFile"
    assert server.ask("PUT", f"/images/{BASE}/file?compression=gzip", file)[0] == 200
    assert server.ask("GET", f"/images/{BASE}/file", token=None)[0] == 404
    assert server.ask("POST", f"/images/{BASE}?action=activate")[1]["state"] == "active"
    assert server.ask("GET", f"/images/{BASE}/file", token=None) == (200, file)
    for action in ("disable", "enable"):
        assert server.ask("POST", f"/images/{BASE}?action={action}")[0] == 200
        assert server.ask("GET", f"/images/{BASE}", token=None)[0] == (404 if action == "disable" else 200)
    for method, path, code in (
        ("PUT", "/file?compression=gzip", "ImageFilesImmutable"),
        ("POST", "?action=activate", "ImageAlreadyActivated"),
        ("POST", "?action=fly", "NotImplemented"),
    ):
        assert server.ask(method, f"/images/{BASE}{path}", b"x")[1]["code"] == code


def test_an_image_of_the_servers_own_uuid(server):
    document = {"name": "made", "version": "1", "type": "zone-dataset", "os": "smartos"}
    status, made = server.ask("POST", "/images", json.dumps(document))
    assert (status, made["state"], made["owner"]) == (
        200,
        "unactivated",
        "00000000-0000-0000-0000-000000000000",
    )
    uuid = made["uuid"]
    status, changed = server.ask(
        "POST", f"/images/{uuid}?action=update", json.dumps({"version": "2", "description": "x"})
    )
    assert (status, changed["version"]) == (200, "2")
    status, refused = server.ask("POST", f"/images/{uuid}?action=update", json.dumps({"uuid": BASE}))
    assert (status, refused["code"], refused["errors"][0]["field"]) == (422, "ValidationFailed", "uuid")
    png = b"\x89PNG\r\n\x1a\n" + bytes(100)
    assert server.ask("PUT", f"/images/{uuid}/icon", png)[1]["icon"] is True
    assert server.ask("GET", f"/images/{uuid}/icon") == (200, png)
    assert server.ask("PUT", f"/images/{uuid}/icon", b"<svg>")[1]["code"] == "Upload"
    assert server.ask("PUT", f"/images/{uuid}/icon", png + bytes(200_000))[0] == 413
    assert "icon" not in server.ask("DELETE", f"/images/{uuid}/icon")[1]
    assert server.ask("DELETE", f"/images/{uuid}")[0] == 204
    assert server.ask("GET", f"/images/{uuid}")[0] == 404


def test_it_is_all_there_after_kill_9(server):
    server.publish(BASE)
    server.daemon.kill()
    server.daemon.start()
    assert server.ask("GET", f"/images/{BASE}/file", token=None)[1] == fixture_file(BASE).read_bytes()
    assert server.ask("GET", f"/images/{BASE}")[1]["state"] == "active"


def test_a_daemon_that_dies_during_an_upload_keeps_nothing_of_it(server):
    manifest = json.dumps(fixture_manifest(BASE))
    assert server.ask("POST", f"/images/{BASE}?action=import", manifest)[0] == 200
    file = fixture_file(BASE).read_bytes()
    head = (
        f"PUT /images/{BASE}/file?compression=gzip HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(file)}\r\n\r\n"
    )
    library = server.daemon.folder / "state" / "library"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as half:
        half.sendall(head.encode() + file[:MIB])
        deadline = time.monotonic() + PATIENCE
        while not any(path.name.startswith(".new-") and path.stat().st_size for path in library.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.daemon.kill()
    server.daemon.start()
    assert [path.name for path in library.iterdir()] == [BASE]
    assert server.ask("GET", f"/images/{BASE}")[1]["state"] == "unactivated"
    assert server.ask("PUT", f"/images/{BASE}/file?compression=gzip", file)[0] == 200


def test_an_upload_that_is_cut_off_leaves_nothing(server):
    assert server.ask("POST", f"/images/{BASE}?action=import", json.dumps(fixture_manifest(BASE)))[0] == 200
    head = (
        f"PUT /images/{BASE}/file?compression=gzip HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as half:
        half.sendall(head.encode() + bytes(1000))
        half.shutdown(socket.SHUT_WR)
        assert b" 400 " in everything(half)[:20]
    library = server.daemon.folder / "state" / "library"
    assert [path.name for path in library.iterdir()] == [BASE]


@pytest.mark.parametrize(
    ("query", "headers", "code"),
    [
        ("compression=gzip&sha1=" + "0" * 40, {}, "Upload"),
        ("compression=rar", {}, "InvalidParameter"),
        ("", {}, "InvalidParameter"),
        ("compression=gzip", {"Content_MD5": base64.b64encode(bytes(16)).decode()}, "Upload"),
        ("compression=gzip", {"Content_MD5": "?"}, "Upload"),
        ("compression=gzip&dataset_guid=abc", {}, "ValidationFailed"),
    ],
)
def test_a_wrong_file_is_refused_and_the_right_one_taken(server, query, headers, code):
    file = fixture_file(BASE).read_bytes()
    assert server.ask("POST", f"/images/{BASE}?action=import", json.dumps(fixture_manifest(BASE)))[0] == 200
    assert server.ask("PUT", f"/images/{BASE}/file?{query}", file, **headers)[1]["code"] == code
    md5 = base64.b64encode(hashlib.md5(file).digest()).decode()
    assert server.ask("PUT", f"/images/{BASE}/file?compression=gzip", file, Content_MD5=md5)[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "BadRequestError"),
        (b"[]", 400, "BadRequestError"),
        (b"{" * 10_000, 400, "BadRequestError"),
        (b'{"uuid": "x"}', 422, "InvalidParameter"),
        (json.dumps(fixture_manifest(INCREMENTAL)), 422, "InvalidParameter"),
        (json.dumps({"uuid": BASE}), 422, "ValidationFailed"),
        (json.dumps(fixture_manifest(BASE) | {"os": "plan9"}), 422, "ValidationFailed"),
        (json.dumps(fixture_manifest(BASE) | {"origin": INCREMENTAL}), 422, "OriginDoesNotExist"),
        (json.dumps(fixture_manifest(BASE) | {"description": "x" * 20_000}), 422, "ValidationFailed"),
        (b" " * 5_000_000, 413, None),
    ],
)
def test_a_wrong_manifest_is_refused(server, body, status, code):
    got, answer = server.ask("POST", f"/images/{BASE}?action=import", body)
    assert got == status
    assert code is None or answer["code"] == code
    assert server.ask("GET", "/images?state=all")[1] == []


def test_an_origin_stays_as_long_as_an_image_builds_on_it(server):
    server.publish(BASE)
    server.publish(INCREMENTAL)
    status, refused = server.ask("DELETE", f"/images/{BASE}")
    assert (status, refused["code"]) == (422, "ImageHasDependentImages")
    for uuid in (INCREMENTAL, BASE):
        assert server.ask("DELETE", f"/images/{uuid}")[0] == 204


def test_a_key_publishes_by_imgapis_signatures(tmp_path):
    """Requests of IMGAPI's own clients, signed over the date; an old one, or another key's, is refused."""
    key, other = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    public = tmp_path / "ops.pub"
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    port = free_port()
    config = f'[serve]\nlisten = "127.0.0.1:{port}"\nkeys = {{ ops = "{public}" }}\n'

    def signed(by=key, name="ops", age=0):
        date = formatdate(time.time() - age, usegmt=True)
        signature = by.sign(f"date: {date}".encode(), padding.PKCS1v15(), hashes.SHA256())
        encoded = base64.b64encode(signature).decode()
        fields = f'keyId="/ops/keys/{name}",algorithm="rsa-sha256",signature="{encoded}"'
        return {"Date": date, "Authorization": f"Signature {fields}"}

    with Daemon(tmp_path / "server", config=config) as daemon:
        server = Server(daemon, port)
        path, manifest = f"/images/{BASE}", json.dumps(fixture_manifest(BASE))
        for wrong in (signed(by=other), signed(name="dev"), signed(age=3600), signed(age=-3600)):
            status, answer = server.ask("POST", f"{path}?action=import", manifest, token=None, **wrong)
            assert (status, answer["code"]) == (401, "UnauthorizedError")
        file = fixture_file(BASE).read_bytes()
        for method, target, body in (
            ("POST", f"{path}?action=import", manifest),
            ("PUT", f"{path}/file?compression=gzip", file),
            ("POST", f"{path}?action=activate", b""),
        ):
            assert server.ask(method, target, body, token=None, **signed())[0] == 200, target
        assert server.ask("GET", f"{path}/file", token=None) == (200, file)


@pytest.mark.parametrize("token", [None, "", "wrong-token-wrong-token", TOKEN[:-1], TOKEN + "x"])
def test_without_the_token_nothing_is_written(server, token):
    manifest = json.dumps(fixture_manifest(BASE))
    server.publish(BASE)
    for method, path, body in (
        ("POST", "/images", manifest),
        ("POST", f"/images/{INCREMENTAL}?action=import", manifest),
        ("POST", f"/images/{BASE}?action=disable", b""),
        ("POST", f"/images/{BASE}?action=update", b"{}"),
        ("PUT", f"/images/{BASE}/file?compression=gzip", b"x"),
        ("PUT", f"/images/{BASE}/icon", b"x"),
        ("DELETE", f"/images/{BASE}/icon", b""),
        ("DELETE", f"/images/{BASE}", b""),
    ):
        status, answer = server.ask(method, path, body, token=token)
        assert (status, answer["code"]) == (401, "UnauthorizedError"), (method, path)
    assert server.ask("GET", f"/images/{BASE}", token=None)[1]["state"] == "active"
    assert TOKEN not in server.daemon.log.read_text()


@pytest.mark.parametrize(
    ("token", "why"),
    [("short", "shorter than 16"), ("two words are no token", "no client"), ("é" * 20, "no client")],
)
def test_a_token_that_is_none_is_refused_at_the_start(tmp_path, token, why):
    config = f'[serve]\nlisten = "127.0.0.1:1"\ntokens = {{ ci = "{token}" }}\n'
    with pytest.raises(RuntimeError, match=rf"serve\.tokens\.ci: {why}"):
        Daemon(tmp_path / "server", config=config).start()


def test_a_changed_configuration_counts_at_once(tmp_path, server):
    """Tokens, the address, and a fault, which changes nothing; what is under way goes on."""
    config, log = server.daemon.config_file, server.daemon.log
    text = config.read_text()
    server.publish(BASE)
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    kept.connect()
    slow = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    slow.sendall(f"GET /images/{BASE}/file HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    begun = slow.recv(1000)

    def reload(new, event):
        count = log.read_text().count(event)
        config.write_text(new)
        os.kill(server.daemon.pid, signal.SIGHUP)
        until(lambda: log.read_text().count(event) > count)

    other = "another-token-of-the-tests-9876543210"
    reload(text.replace(TOKEN, other), "read the configuration again")
    # The token that was taken away counts no longer, on a connection of before neither.
    kept.request("DELETE", f"/images/{BASE}", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = kept.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (401, "UnauthorizedError")
    assert server.ask("POST", f"/images/{BASE}?action=disable", token=other)[0] == 200
    assert server.ask("POST", f"/images/{BASE}?action=enable", token=other)[0] == 200
    reload(text.replace(TOKEN, "short"), "the configuration stays as it was")
    assert server.ask("POST", f"/images/{BASE}?action=enable", token=other)[0] == 200
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reload(text.replace(str(server.port), str(port)), "the image server stays as it was")
        assert server.ask("GET", "/ping", token=None)[0] == 200
    before, moved = server.port, free_port()
    reload(text.replace(str(server.port), str(moved)), "read the configuration again")
    server.port = moved
    assert server.ask("GET", "/ping", token=None)[0] == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", before), timeout=PATIENCE)
    # Who was connected has the rest.
    body = begun.partition(b"\r\n\r\n")[2]
    while len(body) < fixture_manifest(BASE)["files"][0]["size"]:
        body += slow.recv(1 << 20)
    assert body == fixture_file(BASE).read_bytes()
    for each in (slow, kept):
        each.close()
