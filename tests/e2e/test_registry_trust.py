"""Signed images in a real registry against who can write to it: docs/security.md's table."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.registry import artifact
from imgstored.registry.documents import OCI_INDEX, OCI_MANIFEST
from imgstored.registry.reference import referrers_tag
from imgstored.registry.signature import MINISIGN, OF_LIST, SIGNATURE, Signed
from imgstored.site.minisign import SecretKey, parse_secret_key, parse_signatures, signed
from tests.e2e.test_site_trust import MINISIGN as PROGRAM
from tests.e2e.test_site_trust import refused
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEWER = "33333333-aaaa-4bbb-8ccc-000000000009"


class SignedRegistry:
    """A host that publishes into a registry, and an attacker who can write there whatever he wants."""

    def __init__(self, folder: Path, maker: Daemon, registry: DockerRegistry) -> None:
        self.folder = folder
        self.maker = maker
        self.registry = registry

    def key(self, name: str) -> Path:
        """A new key: the path of the secret one. `public` gives the other."""
        path = self.folder / f"{name}.key"
        if not path.exists():
            self.maker.imgctl("keys", "make", str(path), check=True)
        return path

    def secret(self, name: str) -> SecretKey:
        return parse_secret_key(self.key(name).read_text())

    def public(self, name: str) -> str:
        return self.key(name).with_name(f"{name}.key.pub").read_text().splitlines()[1]

    def publish(self, uuid: str, *keys: str, **changed: Any) -> None:
        path = self.folder / "manifest.json"
        path.write_text(json.dumps(fixture_manifest(uuid) | changed))
        flags = [text for key in keys for text in ("--sign", str(self.key(key)))]
        url = f"oci://{self.registry.host}"
        file = str(fixture_file(uuid))
        done = self.maker.imgctl("publish", "-q", *flags, "-m", str(path), "-f", file, url)
        assert done.returncode == 0, done.stderr

    def host(self, *keys: str, name: str = "host", more: str = "") -> Daemon:
        """Another host, which trusts these keys."""
        public = json.dumps([self.public(key) for key in keys])
        config = f'[[sources]]\nurl = "oci://{self.registry.host}"\nkeys = {public}\n{more}'
        return Daemon(self.folder / name, config=config)

    # -- what an attacker does -------------------------------------------------------------------------------

    def get(self, what: str) -> bytes:
        content: bytes = self.registry.request("GET", f"/v2/images/{what}").content
        return content

    def image(self, tag: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(f"manifests/{tag}"))
        return found

    def digest(self, tag: str) -> str:
        return f"sha256:{hashlib.sha256(self.get(f'manifests/{tag}')).hexdigest()}"

    def signature(self, tag: str) -> str:
        """The lines that are the image's signature."""
        listed = self.image(referrers_tag(self.digest(tag)))["manifests"]
        (found,) = [each for each in listed if each["artifactType"] == SIGNATURE]
        (layer,) = self.image(found["digest"])["layers"]
        return self.get(f"blobs/{layer['digest']}").decode()

    def put_signature(self, tag: str, text: str) -> None:
        """These lines as the image's only signature."""
        body = self.get(f"manifests/{tag}")
        subject = {"mediaType": OCI_MANIFEST, "digest": self.digest(tag), "size": len(body)}
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": SIGNATURE,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                **self.registry.blob("images", b"{}"),
            },
            "layers": [{"mediaType": MINISIGN, **self.registry.blob("images", text.encode())}],
            "subject": subject,
        }
        made = json.dumps(document).encode()
        name = f"sha256:{hashlib.sha256(made).hexdigest()}"
        self.registry.manifest("images", name, made)
        entry = {"mediaType": OCI_MANIFEST, "digest": name, "size": len(made), "artifactType": SIGNATURE}
        self.refer(tag, [entry])

    def refer(self, tag: str, entries: list[dict[str, Any]]) -> None:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        self.registry.manifest("images", referrers_tag(self.digest(tag)), index)

    def change_list(self, change: Any) -> None:
        """Changes the repository's list, with its digests."""
        index = self.image("images")
        entry = next(each for each in index["manifests"] if each["artifactType"] == artifact.LIST)
        document = self.image(entry["digest"])
        layer = next(each for each in document["layers"] if each["mediaType"] == artifact.LIST_JSON)
        entries = json.loads(self.get(f"blobs/{layer['digest']}"))
        layer |= self.registry.blob("images", artifact.json_of(change(entries)))
        made = json.dumps(document).encode()
        name = f"sha256:{hashlib.sha256(made).hexdigest()}"
        self.registry.manifest("images", name, made)
        entry |= {"digest": name, "size": len(made)}
        self.registry.manifest("images", "images", index)


@pytest.fixture
def signer(tmp_path: Path, registry: DockerRegistry) -> Iterator[SignedRegistry]:
    with Daemon(tmp_path / "maker") as maker:
        yield SignedRegistry(tmp_path, maker, registry)


def test_what_a_trusted_key_signed_is_installed_and_verify_says_by_whom(signer):
    signer.publish(BASE, "one", "two")
    signer.publish(INCREMENTAL, "one")
    with signer.host("one") as host:
        listed = host.imgctl("avail", "-H", "-o", "uuid,name", check=True)
        assert listed.stdout.splitlines() == [f"{BASE}  base", f"{INCREMENTAL}  incremental"]
        assert listed.stderr == ""
        host.imgctl("import", "incremental@latest", check=True)
        lines = host.imgctl("verify", check=True).stdout.splitlines()
        name = signer.secret("one").public.name
        assert lines[0].endswith(f"is ok (signed by {name})")
        assert lines[1].endswith(f"is ok (signed by {name})")
        # The key is in no source any more: what it signed is still known.
        config = host.config_file.read_text().replace(signer.public("one"), signer.public("two"))
        host.stop()
        host.config_file.write_text(config)
        host.start()
        assert f"(signed by {name}, " in host.imgctl("verify", BASE, check=True).stdout
    # Whoever has no keys takes it as before.
    with Daemon(
        signer.folder / "other", config=f'[[sources]]\nurl = "oci://{signer.registry.host}"\n'
    ) as host:
        host.imgctl("import", BASE, check=True)
        assert "signed" not in host.imgctl("verify", check=True).stdout


def test_minisign_verifies_it(signer):
    signer.publish(BASE, "one")
    (signer.folder / "artifact.json").write_bytes(signer.get(f"manifests/{BASE}"))
    (signer.folder / "artifact.minisig").write_text(signer.signature(BASE))
    command = [PROGRAM, "-V", "-P", signer.public("one"), "-m", str(signer.folder / "artifact.json")]
    done = subprocess.run(
        [*command, "-x", str(signer.folder / "artifact.minisig")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"imgstore image 1 uuid={BASE} manifest=" in done.stdout


def test_layers_of_a_signed_image(signer):
    """An image in several layers, which each have their own digest in what is signed."""
    path = signer.folder / "manifest.json"
    path.write_text(json.dumps(fixture_manifest(ZVOL)))
    signer.maker.imgctl("install", "-m", str(path), "-f", str(fixture_file(ZVOL)), check=True)
    url = f"oci://{signer.registry.host}"
    signer.maker.imgctl("publish", "-q", "--sign", str(signer.key("one")), ZVOL, url, check=True)
    with signer.host("one") as host:
        host.imgctl("import", ZVOL, check=True)


def test_a_server_that_keeps_no_signatures(signer):
    path = signer.folder / "manifest.json"
    path.write_text(json.dumps(fixture_manifest(BASE)))
    flags = ("--sign", str(signer.key("one")), "-m", str(path), "-f", str(fixture_file(BASE)))
    done = signer.maker.imgctl("publish", "-q", *flags, "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "keeps no signatures" in done.stderr


def test_mirrors_that_lack_the_signature(signer):
    """A replica that is behind has the image already, and its signature not yet."""
    signer.publish(BASE, "one")
    with DockerRegistry(signer.folder / "replica") as replica:
        image = signer.image(BASE)
        for blob in (image["config"], *image["layers"]):
            replica.blob("images", signer.get(f"blobs/{blob['digest']}"))
        replica.manifest("images", BASE, signer.get(f"manifests/{BASE}"))
        mirrors = f'[[registries]]\nhost = "{signer.registry.host}"\nmirrors = ["{replica.url}"]\n'
        with signer.host("one", more=mirrors) as host:
            host.imgctl("import", BASE, check=True)


# -- each attack: a row of docs/security.md ------------------------------------------------------------------


def test_unsigned(signer):
    signer.publish(BASE)
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "it is not signed")
        listed = host.imgctl("avail", "-H")
        assert listed.stdout == ""
        assert "it is not signed" in listed.stderr


def test_the_signature_taken_away(signer):
    signer.publish(BASE, "one")
    signer.refer(BASE, [])
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "it is not signed")


def test_a_wrong_key(signer):
    signer.publish(BASE, "two")
    with signer.host("one") as host:
        refused(
            host,
            BASE,
            "UntrustedSource",
            "is not among the source's `keys`",
            signer.secret("two").public.name,
        )


def test_a_forged_signature(signer):
    """Of the right key's id, by another key."""
    signer.publish(BASE, "one")
    forged = SecretKey(signer.secret("one").id, signer.secret("two").seed)
    comment = parse_signatures(signer.signature(BASE).encode())[0].comment
    signer.put_signature(BASE, signed(forged, signer.get(f"manifests/{BASE}"), comment).text())
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is wrong")


def test_a_changed_comment(signer):
    signer.publish(BASE, "one")
    signer.put_signature(BASE, signer.signature(BASE).replace("uuid=1", "uuid=2"))
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is wrong")


def test_a_signature_that_is_none(signer):
    signer.publish(BASE, "one")
    signer.put_signature(BASE, "trust me")
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "cannot be read")


def test_a_signature_of_another_image(signer):
    signer.publish(BASE, "one")
    signer.publish(ZVOL, "one")
    signer.put_signature(ZVOL, signer.signature(BASE))
    with signer.host("one") as host:
        refused(host, ZVOL, "UntrustedSource", "is of another image")


def test_a_signature_of_the_same_data_for_another_purpose(signer):
    """The key signed these bytes as something else: as a release of a program, say."""
    signer.publish(BASE, "one")
    body = signer.get(f"manifests/{BASE}")
    signer.put_signature(BASE, signed(signer.secret("one"), body, "a release").text())
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is not that of an image in a registry")


@pytest.mark.parametrize("field", ["uuid", "manifest", "artifact"])
def test_a_comment_that_names_something_else(signer, field):
    """The key signed these bytes, and said that they are something else."""
    signer.publish(BASE, "one")
    body = signer.get(f"manifests/{BASE}")
    right = {
        "uuid": BASE,
        "manifest": signer.image(BASE)["config"]["digest"][7:],
        "artifact": hashlib.sha256(body).hexdigest(),
    }
    wrong = right | {field: ZVOL if field == "uuid" else "0" * 64}
    signer.put_signature(BASE, signed(signer.secret("one"), body, Signed(**wrong).comment).text())
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "is of another image")


def test_a_tampered_file(signer):
    """Other layers, with digests and a manifest that fit: the tag moved, with the old signature."""
    signer.publish(BASE, "one")
    text = signer.signature(BASE)
    image = signer.image(BASE)
    data = fixture_file(ZVOL).read_bytes()
    image["layers"][0] |= signer.registry.blob("images", data)
    manifest = json.loads(signer.get(f"blobs/{image['config']['digest']}"))
    manifest["files"][0] |= {"sha1": hashlib.sha1(data).hexdigest(), "size": len(data)}
    image["config"] |= signer.registry.blob("images", json.dumps(manifest).encode())
    signer.registry.manifest("images", BASE, image)
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "it is not signed")
        signer.put_signature(BASE, text)
        refused(host, BASE, "UntrustedSource", "is of another image")


def test_a_tampered_layer(signer):
    signer.publish(BASE, "one")
    digest = signer.image(BASE)["layers"][0]["digest"].removeprefix("sha256:")
    (stored,) = signer.registry.folder.glob(f"storage/docker/registry/v2/blobs/sha256/*/{digest}/data")
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    with signer.host("one") as host:
        refused(host, BASE, "checksum")


def test_another_signed_image_in_its_place(signer):
    signer.publish(BASE, "one")
    signer.publish(ZVOL, "one")
    signer.registry.manifest("images", BASE, signer.get(f"manifests/{ZVOL}"))
    with signer.host("one") as host:
        refused(host, BASE, "the server answers with another image")


def test_a_tampered_list(signer):
    """The names in the list decide what NAME@latest is: no name counts that the key did not sign."""
    signer.publish(BASE, "one")
    signer.publish(ZVOL, "one")

    def renamed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [each | ({"name": "base", "version": "9"} if each["uuid"] == ZVOL else {}) for each in entries]

    signer.change_list(renamed)
    with Daemon(
        signer.folder / "trusting", config=f'[[sources]]\nurl = "oci://{signer.registry.host}"\n'
    ) as host:
        assert host.imgctl("avail", "-H", "-o", "name", check=True).stdout.split() == ["base", "base"]
    with signer.host("one") as host:
        assert host.imgctl("avail", "-H", "-o", "name", check=True).stdout.split() == ["base", "zvol"]
        assert f"image {BASE}" in host.imgctl("import", "base@latest", check=True).stdout


def test_an_unsigned_image_in_the_list_costs_itself_only(signer):
    signer.publish(BASE, "one")
    signer.publish(ZVOL)
    with signer.host("one") as host:
        listed = host.imgctl("avail", "-H", "-o", "name")
        assert listed.stdout.split() == ["base"]
        assert "1 entry" in listed.stderr
        host.imgctl("import", BASE, check=True)


def test_a_signed_image_that_is_published_again_unsigned(signer):
    signer.publish(BASE, "one")
    signer.publish(BASE, description="changed")
    with signer.host("one") as host:
        refused(host, BASE, "UntrustedSource", "it is not signed")
        assert host.imgctl("avail", "-H").stdout == ""


def test_a_rotated_and_a_revoked_key(signer):
    signer.publish(BASE, "old", "new")
    signer.publish(ZVOL, "old")
    with signer.host("new") as host:
        host.imgctl("import", BASE, check=True)
        done = host.imgctl("import", ZVOL)
        assert "is not among the source's `keys`" in done.stderr
        signer.publish(ZVOL, "new")
        host.imgctl("import", ZVOL, check=True)


def test_a_secret_key_is_neither_written_nor_logged(signer):
    signer.publish(BASE, "one")
    secret = signer.key("one").read_text().splitlines()[1].encode()
    seed = signer.secret("one").seed
    for each in signer.maker.folder.rglob("*"):
        if each.is_file():
            data = each.read_bytes()
            assert secret not in data, each
            assert base64.b64encode(seed) not in data, each


def test_nothing_unsigned_is_seen_while_it_is_published(signer):
    """The list has the signature as soon as it has the image."""
    signer.publish(BASE, "one")
    entry = next(
        each for each in signer.image("images")["manifests"] if each["artifactType"] == artifact.LIST
    )
    layers = {each["mediaType"]: each["digest"] for each in signer.image(entry["digest"])["layers"]}
    assert json.loads(signer.get(f"blobs/{layers[OF_LIST]}")) == {BASE: signer.signature(BASE)}


def test_signatures_that_others_add(signer):
    """Whoever may push can refer to an image, with anything: a good signature beside it counts."""
    signer.publish(BASE, "one")
    good = signer.image(referrers_tag(signer.digest(BASE)))["manifests"]
    signer.put_signature(BASE, "trust me")
    junk = signer.image(referrers_tag(signer.digest(BASE)))["manifests"]
    signer.put_signature(BASE, "nor me")
    lost = signer.image(referrers_tag(signer.digest(BASE)))["manifests"]
    signer.refer(BASE, [*junk, *good, *lost])
    digest = signer.image(lost[0]["digest"])["layers"][0]["digest"].removeprefix("sha256:")
    (stored,) = signer.registry.folder.glob(f"storage/docker/registry/v2/blobs/sha256/*/{digest}/data")
    stored.write_bytes(b"???")
    with signer.host("one") as host:
        host.imgctl("import", BASE, check=True)
