"""The image server over TLS, with certificates that change; and hosts that use one another in their order."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import urllib.request
from contextlib import ExitStack

import trustme

from tests.e2e.conftest import static_source
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.http_server import PATIENCE
from tests.support.image_site import BASE, ZVOL, ImageSite, fixture_file, fixture_manifest
from tests.support.nginx import Nginx, free_port


def write_certificate(folder, authority):
    issued = authority.issue_cert("127.0.0.1")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))


def test_hosts_import_over_tls_and_certificates_change_meanwhile(tmp_path, served):
    """A new certificate counts from SIGHUP on, and a wrong one changes nothing."""
    first, second = trustme.CA(), trustme.CA()
    write_certificate(tmp_path, first)
    port = free_port()
    config = (
        f'[library]\nkeep_mib = 100\n[serve]\nlisten = "127.0.0.1:{port}"\n'
        f'cert_file = "{tmp_path}/cert.pem"\nkey_file = "{tmp_path}/key.pem"\n'
    )
    url = f"https://127.0.0.1:{port}"

    def fetched(authority):
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        path = f"{url}/images/{BASE}/file"
        with urllib.request.urlopen(path, context=trusting, timeout=PATIENCE) as answer:
            return answer.read()

    with Daemon(tmp_path / "server", config=static_source(served.url) + config) as server:
        server.imgctl("import", BASE, check=True)
        assert fetched(first) == fixture_file(BASE).read_bytes()
        source = f'[[sources]]\nurl = "{url}"\nca_file = "{tmp_path}/ca.pem"\n'
        with Daemon(tmp_path / "host", config=source) as host:
            done = host.imgctl("import", BASE)
            assert done.returncode == 0, done.stderr
        with Daemon(tmp_path / "stranger", config=f'[[sources]]\nurl = "{url}"\n') as stranger:
            refused = stranger.imgctl("import", BASE)
            assert refused.returncode == 1
            assert "certificate" in refused.stderr
        target = tmp_path / "file"
        command = ["curl", "-sf", "--cacert", f"{tmp_path}/ca.pem", "-o", str(target)]
        subprocess.run([*command, f"{url}/images/{BASE}/file"], check=True, timeout=PATIENCE)
        assert target.read_bytes() == fixture_file(BASE).read_bytes()

        def reload(event):
            count = server.log.read_text().count(event)
            os.kill(server.pid, signal.SIGHUP)
            until(lambda: server.log.read_text().count(event) > count)

        write_certificate(tmp_path, second)
        reload("read the configuration again")
        assert fetched(second) == fixture_file(BASE).read_bytes()
        (tmp_path / "key.pem").write_text("junk")
        reload("the configuration stays as it was")
        assert fetched(second) == fixture_file(BASE).read_bytes()


def test_a_host_asks_its_rack_its_site_and_the_public_server_in_this_order(tmp_path):
    """What the nearer one has comes from there, and the farther one is not asked for the file."""
    with ExitStack() as stack:
        servers = {}
        for name, images in (("site", [BASE]), ("public", [BASE, ZVOL])):
            pages = ImageSite(tmp_path / name / "pages")
            for uuid in images:
                pages.add(fixture_manifest(uuid), fixture_file(uuid))
            servers[name] = stack.enter_context(Nginx(tmp_path / name / "nginx", root=pages.folder))
        site, public = servers["site"], servers["public"]
        port = free_port()
        rack = f'[library]\nkeep_mib = 100\n[serve]\nlisten = "127.0.0.1:{port}"\npull = true\n'
        stack.enter_context(Daemon(tmp_path / "rack", config=static_source(site.url) + rack))
        sources = f'[[sources]]\nurl = "http://127.0.0.1:{port}"\n'
        sources += static_source(site.url) + static_source(public.url)
        hosts = [stack.enter_context(Daemon(tmp_path / name, config=sources)) for name in ("one", "two")]
        for host in hosts:
            for uuid in (BASE, ZVOL):
                done = host.imgctl("import", uuid)
                assert done.returncode == 0, done.stderr

        def sent(server, uuid):
            hits = server.settled_hits()
            return sum(hit.bytes_sent for hit in hits if hit.path == f"/{uuid}/file")

        # The rack's server fetched it for both; what neither it nor the site has, both got from afar.
        assert sent(site, BASE) == fixture_manifest(BASE)["files"][0]["size"]
        assert (sent(public, BASE), sent(site, ZVOL)) == (0, 0)
        assert sent(public, ZVOL) >= 2 * fixture_manifest(ZVOL)["files"][0]["size"]
