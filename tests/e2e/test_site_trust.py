"""A signed site against attackers who have its web server: docs/security.md's table. The real minisign."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time

import pytest

from imgstored.site.layout import Pointer, hashed, parse_index
from imgstored.site.minisign import parse_public_key, parse_secret_key, parse_signatures, signed
from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_site import add
from tests.site.test_minisign import KEY, with_password
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_manifest
from tests.support.nginx import Nginx

MADE = "22222222-aaaa-4bbb-8ccc-000000000032"
MINISIGN = "/usr/bin/minisign"


class Site:
    """A host that signs a site, and nginx that serves it."""

    def __init__(self, tmp_path, maker, nginx):
        self.maker = maker
        self.nginx = nginx
        self.path = tmp_path
        self.images = tmp_path / "www" / "images"
        self.pointer = self.images / "site.minisig"

    def key(self, name):
        """A new key: the path of the secret one. `public` gives the other."""
        path = self.path / f"{name}.key"
        if not path.exists():
            self.maker.imgctl("keys", "make", str(path), check=True)
        return path

    def public(self, name):
        return self.key(name).with_name(f"{name}.key.pub").read_text().splitlines()[1]

    def export(self, *names, keys=("one",), more=()):
        flags = [text for key in keys for text in ("--sign", str(self.key(key)))]
        done = self.maker.imgctl("export-site", "-j", *flags, *more, str(self.images.parent), *names)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def index(self):
        name = re.search(r"index=(\w+)", self.pointer.read_text())
        return self.images / f"site-{name[1]}.json"

    def host(self, *keys, name="host"):
        """Another host, which trusts these keys."""
        config = static_source(f"{self.nginx.url}/images")
        config += f"keys = {json.dumps([self.public(key) for key in keys])}\n"
        return Daemon(self.path / name, config=config)


@pytest.fixture
def site(tmp_path, served):
    config = static_source(served.url) + "[library]\nkeep_mib = 100\n"
    (tmp_path / "www").mkdir()
    with (
        Daemon(tmp_path / "maker", config=config) as maker,
        Nginx(tmp_path / "nginx-site", root=tmp_path / "www") as nginx,
    ):
        for uuid in (INCREMENTAL, ZVOL):
            maker.imgctl("import", uuid, check=True)
        yield Site(tmp_path, maker, nginx)


def refused(host, uuid, *words):
    """The import fails for this reason, and leaves nothing."""
    done = host.imgctl("import", uuid)
    assert done.returncode == 1, done.stdout
    for word in words:
        assert word in done.stderr, done.stderr
    assert host.imgctl("list", "-H").stdout == ""
    assert not [path for path in (host.folder / "state" / "pool").rglob("*") if uuid in path.name]


def test_what_a_trusted_key_signed_is_installed(site):
    site.export()
    with site.host("one") as host:
        assert len(host.imgctl("avail", "-H").stdout.splitlines()) == 3
        for uuid in (INCREMENTAL, ZVOL):
            done = host.imgctl("import", uuid)
            assert done.returncode == 0, done.stderr
        checked = host.imgctl("sources", "-c")
        assert checked.returncode == 0, checked.stderr


def test_without_the_package_cryptography(site):
    """As on SmartOS: signed and verified by Python alone."""
    key = site.key("one")
    config = site.maker.config_file.read_text()
    site.maker.stop()
    maker = Daemon(site.path / "maker", without=("cryptography",))
    maker.config_file.write_text(config)
    with maker:
        done = maker.imgctl("export-site", "--sign", str(key), str(site.images.parent))
        assert done.returncode == 0, done.stderr
    config = site.host("one").config_file.read_text()
    host = Daemon(site.path / "host", without=("cryptography",))
    host.config_file.write_text(config)
    with host:
        done = host.imgctl("import", BASE)
        assert done.returncode == 0, done.stderr
        replace(site.images / ZVOL / "file", b"x" * fixture_manifest(ZVOL)["files"][0]["size"])
        assert "checksum" in host.imgctl("import", ZVOL).stderr


def test_a_key_with_a_password_and_one_that_others_can_read(site):
    path = site.path / "locked.key"
    path.write_text(with_password(b"open sesame"))
    done = site.maker.imgctl("export-site", "--sign", str(path), str(site.images.parent))
    assert (done.returncode, "has a password" in done.stderr) == (1, True)
    assert "others can read the secret key" in done.stderr
    site.maker.environment["IMGCTL_KEY_PASSWORD"] = "wrong"
    done = site.maker.imgctl("export-site", "--sign", str(path), str(site.images.parent))
    assert (done.returncode, "the password is wrong" in done.stderr) == (1, True)
    assert not site.pointer.exists()
    site.maker.environment["IMGCTL_KEY_PASSWORD"] = "open sesame"
    site.maker.imgctl("export-site", "--sign", str(path), str(site.images.parent), check=True)
    (signature,) = parse_signatures(site.pointer.read_bytes())
    assert signature.is_of(KEY.public, site.index().read_bytes())
    # Neither the log nor the state has the secret.
    secret = KEY.file().splitlines()[1].encode()
    for each in site.maker.folder.rglob("*"):
        assert not each.is_file() or secret not in each.read_bytes(), each


# -- each attack: a row of docs/security.md ------------------------------------------------------------------


def test_unsigned(site):
    site.maker.imgctl("export-site", str(site.images.parent), check=True)
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "it is not signed")
        listed = host.imgctl("avail")
        assert "it is not signed" in listed.stderr


def test_a_wrong_key(site):
    site.export(keys=("two",))
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is not among the source's `keys`")


def test_a_forged_signature(site):
    """Of the right key's id, by another key."""
    site.export()
    key = parse_secret_key(site.key("one").read_text())
    other = parse_secret_key(site.key("two").read_text())
    forged = type(other)(key.id, other.seed)
    comment = parse_signatures(site.pointer.read_bytes())[0].comment
    site.pointer.write_text(signed(forged, site.index().read_bytes(), comment).text())
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is wrong")


@pytest.mark.parametrize("what", ["version", "until"])
def test_a_changed_comment(site, what):
    site.export()
    text = site.pointer.read_text()
    changed = re.sub(rf"{what}=\d", lambda match: match[0][:-1] + "9", text)
    assert changed != text
    site.pointer.write_text(changed)
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is wrong")


def test_a_tampered_index(site):
    site.export()
    index = site.index()
    entry = json.loads(index.read_bytes())
    for image in entry["images"]:
        image["file"]["sha256"] = "0" * 64
    index.write_text(json.dumps(entry))
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "its index is not the one that the signature names")


def test_a_tampered_manifest(site):
    site.export()
    (path,) = (site.images / BASE).glob("manifest-*.json")
    path.write_bytes(path.read_bytes().replace(b'"os":"smartos"', b'"os":"sm4rtos"'))
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is not what the index names")


def test_a_tampered_list(site):
    site.export()
    (path,) = site.images.glob("list-*.json")
    path.write_bytes(path.read_bytes().replace(BASE.encode(), MADE.encode()))
    with site.host("one") as host:
        listed = host.imgctl("avail", "-H")
        assert listed.stdout == ""
        assert "is not what the index names" in listed.stderr


def replace(path, data):
    """As an attacker does: the library's own file is linked here."""
    path.unlink()
    path.write_bytes(data)


def test_a_tampered_file(site):
    site.export()
    path = site.images / BASE / "file"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    replace(path, data)
    with site.host("one") as host:
        refused(host, BASE, "checksum")


def test_a_file_of_another_image(site):
    site.export()
    replace(site.images / BASE / "file", (site.images / ZVOL / "file").read_bytes())
    with site.host("one") as host:
        refused(host, BASE, "DownloadError")


def test_a_manifest_of_another_image(site):
    site.export()
    (path,) = (site.images / BASE).glob("manifest-*.json")
    (other,) = (site.images / ZVOL).glob("manifest-*.json")
    path.write_bytes(other.read_bytes())
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is not what the index names")


def test_a_rollback(site, tmp_path):
    site.export(BASE)
    shutil.copytree(site.images.parent, tmp_path / "old")
    site.export()
    with site.host("one") as host:
        host.imgctl("avail", check=True)
        shutil.rmtree(site.images.parent)
        shutil.copytree(tmp_path / "old", site.images.parent)
        host.stop()
        host.start()  # what was seen outlives the daemon
        refused(host, BASE, "UntrustedSource", "it was rolled back")
        host.kill()
        host.start()
        refused(host, BASE, "UntrustedSource", "it was rolled back")


def test_two_indexes_of_one_version(site):
    site.export()
    with site.host("one") as host:
        host.imgctl("avail", check=True)
        key = parse_secret_key(site.key("one").read_text())
        version = int(re.search(r"version=(\d+)", site.pointer.read_text())[1])
        index = site.index().read_bytes().replace(b"\n", b"\n\n")
        pointer = Pointer(version, int(time.time()) + 1000, hashed(index))
        (site.images / f"site-{pointer.index.sha256}.json").write_bytes(index)
        site.pointer.write_text(signed(key, index, pointer.comment).text())
        host.stop()
        host.start()
        refused(host, BASE, "UntrustedSource", "two indexes of the version")


def test_a_freeze(site):
    """Nobody renews the signature: the attacker keeps what is new from the hosts."""
    site.export()
    key = parse_secret_key(site.key("one").read_text())
    index = site.index().read_bytes()
    pointer = Pointer(1, int(time.time()) - 1000, hashed(index))
    site.pointer.write_text(signed(key, index, pointer.comment).text())
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "it is out of date")


def test_a_mix_of_two_states(site, served):
    """The new pointer, with the index and the manifests of the state before."""
    site.export(BASE)
    old = site.index().read_bytes()
    site.export()
    site.index().write_bytes(old)
    with site.host("one") as host:
        refused(host, ZVOL, "UntrustedSource", "its index is not the one that the signature names")


def test_a_signature_of_something_else(site):
    """The key signs other files, too."""
    site.export()
    key = parse_secret_key(site.key("one").read_text())
    site.pointer.write_text(signed(key, site.index().read_bytes(), "timestamp:1 file:notes.txt").text())
    with site.host("one") as host:
        refused(host, BASE, "UntrustedSource", "its trusted comment is not that of a site")


def test_a_rotated_and_a_revoked_key(site):
    site.export(keys=("one",))
    with site.host("one", name="old") as host:
        host.imgctl("import", BASE, check=True)
    # Both sign, as long as there are hosts that know only one of them.
    site.export(keys=("one", "two"))
    for name, keys in (("old", ("one",)), ("between", ("one", "two")), ("new", ("two",))):
        with site.host(*keys, name=name) as host:
            done = host.imgctl("import", ZVOL)
            assert done.returncode == 0, done.stderr
    # The old one is revoked; whoever stole it signs a version of the far future.
    key = parse_secret_key(site.key("one").read_text())
    index = site.index().read_bytes()
    pointer = Pointer(10**14, int(time.time()) + 10**6, hashed(index))
    site.pointer.write_text(signed(key, index, pointer.comment).text())
    with site.host("one", name="old") as host:
        host.imgctl("avail", check=True)  # it has not heard of it yet
    with site.host("two", name="new") as host:
        assert "is not among the source's `keys`" in host.imgctl("avail").stderr
    # A host that believed the thief is not locked out once it trusts the new key alone.
    site.export(keys=("two",))
    with site.host("two", name="old") as host:
        done = host.imgctl("import", INCREMENTAL)
        assert done.returncode == 0, done.stderr


def test_a_site_that_another_source_has_too(site, served, tmp_path):
    """A mirror without a signature may serve bytes; what they are says the signed source."""
    site.export()
    replace(site.images / BASE / "file", b"x" * fixture_manifest(BASE)["files"][0]["size"])
    config = static_source(f"{site.nginx.url}/images")
    config += f"keys = {json.dumps([site.public('one')])}\n" + static_source(served.url)
    with Daemon(tmp_path / "host", config=config) as host:
        done = host.imgctl("import", BASE)
        assert done.returncode == 0, done.stderr


def test_verify_says_by_whom_an_image_was_signed(site, served, tmp_path):
    site.export(keys=("one",))
    key = site.maker.imgctl("keys", "show", str(site.key("one"))).stdout.split()[0]
    with site.host("one") as host:
        host.imgctl("import", BASE, check=True)
        assert f"is ok (signed by {key})\n" in host.imgctl("verify", BASE).stdout
        assert f"(signed by {key})" in host.imgctl("verify", "--record", BASE).stdout
        receipt = next((host.folder / "state" / "receipts").glob(f"*{BASE}.json"))
    with site.host("two") as host:  # the key was revoked since
        said = host.imgctl("verify", BASE).stdout
        assert f"is ok (signed by {key}, a key that no source trusts any more)" in said
        # Nobody's word but the signature counts.
        record = json.loads(receipt.read_text())
        record["signed"]["key"] = site.public("two")
        receipt.write_text(json.dumps(record))
        assert "signed by" not in host.imgctl("verify", BASE).stdout
    with Daemon(tmp_path / "plain", config=static_source(served.url)) as host:
        host.imgctl("import", BASE, check=True)
        assert "signed by" not in host.imgctl("verify", BASE).stdout


# -- minisign ------------------------------------------------------------------------------------------------


def test_minisign_verifies_ours(site):
    site.export()
    done = subprocess.run(
        [MINISIGN, "-V", "-P", site.public("one"), "-x", str(site.pointer), "-m", str(site.index())],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Trusted comment: imgstore site 1 version=" in done.stdout
    again = subprocess.run(
        [MINISIGN, "-R", "-s", str(site.key("one")), "-p", str(site.path / "again.pub")],
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert (site.path / "again.pub").read_text().splitlines()[1] == site.public("one")


def test_a_key_of_minisign_signs_for_us(site):
    subprocess.run(
        [MINISIGN, "-G", "-W", "-p", str(site.path / "two.key.pub"), "-s", str(site.path / "two.key")],
        check=True,
        capture_output=True,
    )
    shown = site.maker.imgctl("keys", "show", str(site.path / "two.key"), str(site.path / "two.key.pub"))
    assert [line.split()[1] for line in shown.stdout.splitlines()] == [site.public("two")] * 2
    shown = site.maker.imgctl("keys", "show", "-j", str(site.path / "two.key"))
    assert [each["key"] for each in json.loads(shown.stdout)] == [site.public("two")]
    again = site.maker.imgctl("keys", "make", str(site.path / "two.key"))
    assert (again.returncode, "File exists" in again.stderr) == (1, True)
    site.export(keys=("two",))
    with site.host("two") as host:
        host.imgctl("import", BASE, check=True)


@pytest.mark.parametrize("kind", ["-H", "-l"])
def test_we_verify_what_minisign_signs(site, kind):
    """A key that is kept on another machine: minisign signs the index with the comment that we give."""
    site.export()
    index = site.index()
    comment = Pointer(2 * 10**9, int(time.time()) + 1000, hashed(index.read_bytes())).comment
    subprocess.run(
        [MINISIGN, "-G", "-W", "-p", str(site.path / "two.key.pub"), "-s", str(site.path / "two.key")],
        check=True,
        capture_output=True,
    )
    command = [MINISIGN, "-S", kind, "-s", str(site.path / "two.key"), "-m", str(index)]
    subprocess.run([*command, "-x", str(site.pointer), "-t", comment], check=True, capture_output=True)
    with site.host("two") as host:
        done = host.imgctl("import", BASE)
        assert done.returncode == 0, done.stderr


# -- kill -9 -------------------------------------------------------------------------------------------------


def whole(site):
    """The images of what a client sees, all of whose bytes are as the signature, and the plain list, say."""
    (signature,) = parse_signatures(site.pointer.read_bytes())
    data = site.index().read_bytes()
    assert signature.is_of(parse_public_key(site.public("one")), data)
    index = parse_index(data)
    listed = json.loads((site.images / f"list-{index.list.sha256}.json").read_bytes())
    for image in index.images:
        folder = site.images / image.uuid
        assert image.manifest.is_of((folder / f"manifest-{image.manifest.sha256}.json").read_bytes())
        assert image.file.is_of((folder / "file").read_bytes())
    for manifest in json.loads((site.images / "index.html").read_bytes()):
        folder = site.images / manifest["uuid"]
        assert hashlib.sha1((folder / "file").read_bytes()).hexdigest() == manifest["files"][0]["sha1"]
        assert json.loads((folder / "index.html").read_bytes())["uuid"] == manifest["uuid"]
    assert [each["uuid"] for each in listed] == [image.uuid for image in index.images]
    return {image.uuid for image in index.images}


@pytest.mark.slow
def test_kill_9_at_each_file_leaves_the_state_before_or_after(site, served):
    site.export()
    manifest, file = made_image(MADE, size=1 << 20)
    served.pages.add(manifest, file)
    add(site.maker, MADE)
    before, after = {BASE, INCREMENTAL, ZVOL}, {BASE, INCREMENTAL, ZVOL, MADE}
    seen = []
    site.maker.stop()
    for _ in range(60):
        # What an earlier run has made stays: each gets one file further, and dies in the next one.
        site.maker.start(dies="site:2")
        command = ["--sign", str(site.key("one")), str(site.images.parent)]
        done = site.maker.imgctl("export-site", *command)
        seen.append(whole(site))
        if done.returncode == 0:
            break
        site.maker.process.wait()
    assert seen[0] == before
    assert seen[-1] == after
    assert seen == sorted(seen, key=len)  # it never goes back
    assert len(seen) > 5
    assert not list(site.images.parent.rglob(".imgstore-*"))
    with site.host("one") as host:
        done = host.imgctl("import", MADE)
        assert done.returncode == 0, done.stderr
