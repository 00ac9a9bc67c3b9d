"""A host with the real client under the name imgadm, and the server of imgadm's recorded runs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.daemon import Daemon
from tests.support.image_site import BASE, DATA, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Sequence

#: As the runs have them: what listens at which port of the server's host.
PORT, FAILING, UNAVAILABLE, TEXT_404, FAILING_TOO, CLOSED = 8080, 8082, 8083, 8084, 8085, 9999

#: A disabled image, which the server gives only to who asks for it.
DISABLED = "11111111-aaaa-4bbb-8ccc-000000000014"
CORRUPT = "11111111-aaaa-4bbb-8ccc-000000000013"
TRUNCATED = "11111111-aaaa-4bbb-8ccc-000000000018"

_JSON = "default_type application/json;"

#: An IMGAPI from files, and errors at the other ports.
_LOCATIONS = {
    "= /ping": f"{_JSON} error_page 418 = @failing; if ($failing) {{ return 418; }} alias ROOT/ping.json;",
    "= /images": f"{_JSON} error_page 418 = @failing; if ($failing) {{ return 418; }} alias ROOT/list.json;",
    "~ ^/images/([0-9a-f-]+)$": f"{_JSON} error_page 418 = @failing; if ($failing) {{ return 418; }} "
    "alias ROOT/manifests/$1.json;",
    "~ ^/images/([0-9a-f-]+)/file$": "alias ROOT/files/$1;",
    "@failing": f"{_JSON} "
    f"if ($server_port = {TEXT_404}) {{ return 404 'not here\\n'; }} "
    f"if ($server_port = {UNAVAILABLE}) {{ return 503 'Service Unavailable\\n'; }} "
    'return 500 \'{"code":"InternalError","message":"something is broken"}\';',
}


class ImgadmHost:
    """The daemon, its server, and `imgadm`, a link to the client.

    The server has an address as long as 127.0.0.1, and the ports of the runs: so tables are as wide.
    """

    def __init__(self, folder: Path, *, config: str = "") -> None:
        self.folder = folder
        # Not 127.0.0.1 itself, where others may listen.
        self.address = f"127.{random.randint(1, 9)}.{random.randint(1, 9)}.{random.randint(1, 9)}"
        self._stack = ExitStack()
        self._site(folder / "site")
        # That of the host of the runs.
        self.daemon = Daemon(folder / "store", top='platform = "7.0/20190314T232247Z"', config=config)
        self.conf = self.daemon.folder / "state" / "imgadm" / "imgadm.conf"
        programs = folder / "bin"
        programs.mkdir()
        (programs / "imgadm").symlink_to(Path(sys.executable).parent / "imgctl")
        (programs / "zfs").symlink_to("/bin/true")  # in some of the runs; there is no ZFS here
        (folder / "streams").symlink_to(DATA)

    @property
    def url(self) -> str:
        """The server's."""
        return f"http://{self.address}:{PORT}"

    def __enter__(self) -> ImgadmHost:
        listen = " ".join(
            f"listen {self.address}:{port};" for port in (PORT, FAILING, UNAVAILABLE, TEXT_404, FAILING_TOO)
        )
        root = str(self.folder / "site")
        locations = {path: text.replace("ROOT", root) for path, text in _LOCATIONS.items()}
        failing = f'set $failing ""; if ($server_port != {PORT}) {{ set $failing 1; }}'
        nginx = Nginx(
            self.folder / "nginx",
            root=self.folder / "site",
            locations=locations,
            extra=f"{listen} {failing}",
        )
        with ExitStack() as stack:
            stack.enter_context(nginx)
            stack.enter_context(self.daemon)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def use(self, *sources: str | dict[str, Any] | None) -> None:
        """Writes imgadm's configuration: these sources (URLs, or as in the file), or nothing of sources."""
        self.conf.parent.mkdir(parents=True, exist_ok=True)
        listed = [{"type": "imgapi", "url": each} if isinstance(each, str) else each for each in sources]
        content = {} if sources == (None,) else {"sources": listed}
        self.conf.write_text(json.dumps(content, indent=2))

    def imgadm(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Runs the client."""
        return self.shell(["imgadm", *arguments], **settings)

    def shell(self, command: Sequence[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        """Runs a program, with `imgadm` on its path."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "IMGSTORED_SOCKET": str(self.daemon.socket),
        }
        given = {
            "env": environment,
            "cwd": self.folder,
            "stdin": subprocess.DEVNULL,
            "timeout": 60,
            "check": False,
            **settings,
        }
        return subprocess.run(command, capture_output=True, text=True, **given)

    # -- the server's files ----------------------------------------------------------------------------------

    def _site(self, root: Path) -> None:
        (root / "manifests").mkdir(parents=True)
        (root / "files").mkdir()
        listed = json.loads((DATA / "imgadm-server-images.json").read_text())
        (root / "ping.json").write_text('{"ping": "pong", "imgapi": true}')
        (root / "list.json").write_text(json.dumps(listed))
        for manifest in listed:
            self.serve(manifest, fixture_file(BASE))
        for uuid in (INCREMENTAL, ZVOL):
            self.serve(fixture_manifest(uuid), fixture_file(uuid))
        disabled = {**fixture_manifest(BASE), "uuid": DISABLED, "state": "disabled", "disabled": True}
        self.serve({**disabled, "name": "disabled"}, fixture_file(BASE))
        by_uuid = {manifest["uuid"]: manifest for manifest in listed}
        self.serve(by_uuid[TRUNCATED], fixture_file(BASE).read_bytes()[:1_000_000])
        self._serve_corrupt(by_uuid[CORRUPT])

    def _serve_corrupt(self, manifest: dict[str, Any]) -> None:
        stream = bytearray(gzip.decompress(fixture_file(BASE).read_bytes()))
        stream[2_000_000] ^= 1
        file = gzip.compress(bytes(stream))
        entry = {"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}
        self.serve({**manifest, "files": [entry]}, file)

    def serve(self, manifest: dict[str, Any], file: Path | bytes) -> None:
        """Gives an image to who asks for it; it is not in the list."""
        root = self.folder / "site"
        (root / "manifests" / f"{manifest['uuid']}.json").write_text(json.dumps(manifest))
        target = root / "files" / str(manifest["uuid"])
        if isinstance(file, Path):
            shutil.copyfile(file, target)
        else:
            target.write_bytes(file)
