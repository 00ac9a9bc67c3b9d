"""The image server behind nginx as docs/serving.md has it: a cache of slices, for hosts and for ranges."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.http_server import PATIENCE
from tests.support.nginx import NGINX, free_port

LARGE = "22222222-aaaa-4bbb-8ccc-0000000000d1"
MIB = 1 << 20
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@contextmanager
def cache_before(folder, server_port):
    """nginx with the configuration of the page, which differs in its ports and in its folder."""
    folder.mkdir()
    folder.chmod(0o755)
    (block,) = [
        each for each in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL) if "slice" in each
    ]
    port = free_port()
    settings = (
        block.replace("/var/cache/nginx/images", f"{folder}/cache")
        .replace("listen 80;", f"listen 127.0.0.1:{port};")
        .replace("SERVER:8080", f"127.0.0.1:{server_port}")
    )
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ }}\nhttp {{\naccess_log off;\n{temporary}{settings}}}\n"
    )
    with subprocess.Popen([NGINX, "-p", str(folder), "-c", f"{folder}/nginx.conf"]) as nginx:
        try:
            deadline = time.monotonic() + PATIENCE
            while not (folder / "pid").exists():
                assert nginx.poll() is None, "nginx refuses the configuration of the page"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()


@pytest.mark.parametrize("pull", [False, True])
def test_hosts_behind_a_cache_get_each_byte_once_from_the_server(tmp_path, served, pull):
    manifest, file = made_image(LARGE, size=20 * MIB)
    served.pages.add(manifest, file)
    port = free_port()
    settings = (
        f'[library]\nkeep_mib = 200\n[serve]\nlisten = "127.0.0.1:{port}"\n'
        f"pull = {str(pull).lower()}\nclient_connections = 256\n"
    )
    with (
        Daemon(tmp_path / "server", config=static_source(served.url) + settings) as server,
        cache_before(tmp_path / "cache", port) as url,
    ):
        if not pull:
            server.imgctl("import", LARGE, check=True)
        for name in ("one", "two"):
            with Daemon(tmp_path / name, config=f'[[sources]]\nurl = "{url}"\n') as host:
                done = host.imgctl("import", LARGE)
                assert done.returncode == 0, done.stderr
        with server.client() as client:
            sent = client.status()["server"]["sent_bytes"]
        assert len(file) <= sent < len(file) + 2 * MIB

        def part(start):
            path = f"{url}/images/{LARGE}/file"
            request = urllib.request.Request(path, headers={"Range": f"bytes={start}-{start + 999}"})
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()

        starts = range(0, len(file) - 1000, len(file) // 40)
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(part, starts))
        assert found == [(206, file[start : start + 1000]) for start in starts]
        assert served.bytes_sent_of(LARGE) == len(file)
