"""`imgstored --check --deep`: what is whole, and each kind of damage and of orphan."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from imgstored.audit import audit
from imgstored.config import loading
from imgstored.imports.journal import Journal
from imgstored.imports.leftovers import INDEX, PAYLOADS
from imgstored.imports.spec import ImportSpec
from imgstored.pools.embedded import EmbeddedPool
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_manifest
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.audit.conftest import Host

OTHER = "44444444-aaaa-4bbb-8ccc-000000000001"


def test_a_host_without_a_fault(host):
    before = host.files()
    assert host.check() == (0, [])
    done = host.run()
    assert done.returncode == 0
    assert "ok    images of zones: 3 read to the end" in done.stdout
    assert "ok    library: 1 in" in done.stdout
    assert "ok    leftovers: nothing that belongs to nothing" in done.stdout
    assert host.files() == before


def test_a_host_on_which_no_daemon_ever_ran(host):
    shutil.rmtree(host.state)
    assert host.check() == (0, [])
    assert not host.state.exists()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_secret_of_the_configuration_is_told(host, options):
    source = '[[sources]]\nurl = "https://h"\nheaders = { Authorization = "Bearer k3yofasource" }\n'
    host.config.write_text(host.config.read_text() + source)
    (host.pool / BASE / "k3yofasource").touch()
    said = host.run(*options).stdout
    assert "k3yofasource" not in said
    assert f"{BASE}/(hidden)" in said


def test_deep_alone_is_a_mistake(host, capsys):
    from imgstored.__main__ import main

    assert main(["--config", str(host.config), "--deep"]) == 78
    assert "--deep goes with --check" in capsys.readouterr().err


# -- what is damaged -----------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_journal(host: Host, statement: str) -> None:
    with closing(sqlite3.connect(host.state / "journal.sqlite")) as db, db:
        db.execute(statement)


def orphan_row(host: Host, table: str, row: tuple[object, ...]) -> None:
    with closing(sqlite3.connect(host.state / "journal.sqlite")) as db, db:
        db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def begun(host: Host, uuid: str, *, wanted: bool = True) -> None:
    journal = Journal(host.state / "journal.sqlite")
    journal.begin(ImportSpec(uuid, "zones", None, None), fixture_manifest(BASE) | {"uuid": uuid})
    if not wanted:
        journal.park("zones", uuid)
    journal.close()


def partial(host: Host, uuid: str) -> None:
    pool = EmbeddedPool("zones", host.pool)

    def cut():
        yield real_stream("base")[:1_000_000]
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        pool.receive(uuid, cut())
    pool.close()


DAMAGE: dict[str, tuple[Callable[[Host], object], str, str]] = {
    "a stream with another byte": (
        lambda host: flip(host.pool / BASE / "stream.zfs", 2_000_000),
        "images of zones",
        f"{BASE}: ",
    ),
    "a disk with another byte": (
        lambda host: flip(host.pool / ZVOL / "disk.raw", 0),
        "images of zones",
        f"{ZVOL}: ",
    ),
    "a stream that is cut": (
        lambda host: (host.pool / BASE / "stream.zfs").write_bytes(b"short"),
        "leftovers",
        f"image {BASE} is damaged",
    ),
    "a note that cannot be read": (
        lambda host: (host.pool / BASE / "image.json").write_text("{"),
        "leftovers",
        f"image {BASE} is damaged",
    ),
    "an origin that is gone": (
        lambda host: shutil.rmtree(host.pool / BASE),
        "images of zones",
        f"{INCREMENTAL}: its origin {BASE} is not installed",
    ),
    "an image that is gone": (
        lambda host: shutil.rmtree(host.pool / ZVOL),
        "leftovers",
        f"1 manifests without an image: zones-{ZVOL}.json",
    ),
    "a manifest that is gone": (
        lambda host: host.manifests.forget("zones", BASE),
        "leftovers",
        f"1 images without a manifest: zones/{BASE}",
    ),
    "a manifest of another image": (
        lambda host: rewrite(
            host.state / "imgadm" / "images" / f"zones-{BASE}.json", manifest={"uuid": ZVOL}
        ),
        "images of zones",
        f"{BASE}: its manifest cannot be read, or is another image's",
    ),
    "a receipt of another image": (
        lambda host: rewrite(host.state / "receipts" / f"zones-{BASE}.json", guid=7),
        "images of zones",
        f"{BASE}: another image is in its place",
    ),
    "holds that cannot be read": (
        lambda host: (host.pool / BASE / "holds.json").write_text("{"),
        "leftovers",
        "holds of image",
    ),
    "a journal that is no database": (
        lambda host: (host.state / "journal.sqlite").write_bytes(b"no database" * 1000),
        "leftovers",
        "damaged databases: journal.sqlite: file is not a database",
    ),
    "a journal that lacks a table": (
        lambda host: change_journal(host, "DROP TABLE validators"),
        "leftovers",
        "damaged databases: journal.sqlite: no such table: validators",
    ),
    "a file of the library with another byte": (
        lambda host: flip(host.state / "library" / BASE / "file", 500),
        "library",
        f"{BASE}: the library's file of image {BASE} is damaged",
    ),
    "a manifest of the library that is cut": (
        lambda host: (host.state / "library" / BASE / "manifest.json").write_text("{"),
        "library",
        f"{BASE}: ",
    ),
    "something damaged in the library": (
        lambda host: (host.state / "library" / f".damaged-{BASE}-1").mkdir(),
        "library",
        "set aside",
    ),
}

ORPHANS: dict[str, tuple[Callable[[Host], object], str]] = {
    "a receipt that is gone": (
        lambda host: host.receipts.forget("zones", BASE),
        f"{BASE}: imgstored did not install it",
    ),
    "a receipt": (
        lambda host: shutil.copy(
            host.state / "receipts" / f"zones-{BASE}.json", host.state / "receipts" / f"zones-{OTHER}.json"
        ),
        f"1 receipts without an image: zones-{OTHER}.json",
    ),
    "a mark": (
        lambda host: host.manifests.mark("zones", BASE),
        f"1 marks of unfinished manifests: zones-{BASE}.json.unsettled",
    ),
    "a partial": (
        lambda host: partial(host, OTHER),
        f"1 half-received images: zones/{OTHER}-partial",
    ),
    "a partial of an import that nobody wants": (
        lambda host: (begun(host, OTHER, wanted=False), partial(host, OTHER)),
        f"1 half-received images: zones/{OTHER}-partial",
    ),
    "trash": (
        lambda host: (host.pool / f".trash-{OTHER}-12345678").mkdir(),
        f"1 files that are part of no image: zones/.trash-{OTHER}-12345678",
    ),
    "a file in an image": (
        lambda host: (host.pool / BASE / "checkpoint").touch(),
        f"1 files that are part of no image: zones/{BASE}/checkpoint",
    ),
    "an index of a delta": (
        lambda host: (host.state / "spool" / f"zones-{OTHER}{INDEX}").touch(),
        f"1 downloads without an import: zones-{OTHER}",
    ),
    "a download": (
        lambda host: (host.state / "spool" / f"zones-{OTHER}").touch(),
        f"1 downloads without an import: zones-{OTHER}",
    ),
    "an import that is over": (
        lambda host: begun(host, BASE),
        f"1 imports in the journal that are over: zones-{BASE}",
    ),
    "a download in the journal": (
        lambda host: orphan_row(host, "spools", (f"zones-{OTHER}", 5, 1 << 20)),
        f"1 downloads in the journal without an import: zones-{OTHER}",
    ),
    "a range in the journal": (
        lambda host: orphan_row(host, "ranges", (f"zones-{OTHER}", 0, "blake3", b"x" * 32)),
        f"1 ranges in the journal without a download: zones-{OTHER}",
    ),
    "a hold of a client": (
        lambda host: held(host),
        f"1 holds of clients that are gone: zones/{BASE}",
    ),
    "a file that was not written to its end": (
        lambda host: (host.state / "receipts" / f"zones-{OTHER}.json.new").touch(),
        "1 files that were not written to their end: ",
    ),
    "a note about an image that was being made": (
        lambda host: ((host.state / "creating").mkdir(), (host.state / "creating" / "1.json").touch()),
        "1 notes about images that were being made: 1.json",
    ),
    "something that was set aside": (
        lambda host: ((host.state / "damaged").mkdir(), (host.state / "damaged" / "row-1.json").touch()),
        "1 files that were damaged, and set aside: row-1.json",
    ),
}

#: Half made images in the library are found by its own check, which calls them faults.
HALF_MADE = {
    "new": lambda host: (host.state / "library" / f".new-{OTHER}-1").mkdir(),
    "old": lambda host: (host.state / "library" / f".old-{OTHER}-1").mkdir(),
    "unknown": lambda host: (host.state / "library" / "something").touch(),
    "unknown in an image": lambda host: (host.state / "library" / BASE / "something").touch(),
}


def held(host: Host) -> None:
    pool = EmbeddedPool("zones", host.pool)
    pool.hold(BASE, "client: imgctl (pid 1)")
    pool.hold(ZVOL, "for good")
    pool.close()


def found(findings: list[dict[str, str]], seen: str) -> list[dict[str, str]]:
    return [each for each in findings if seen in each["seen"]]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(host, damage):
    inflict, check, seen = DAMAGE[damage]
    inflict(host)
    status, findings = host.check()
    assert status == 1
    (finding,) = found(findings, seen)
    assert (finding["check"], finding["status"]) == (check, "fail")
    assert finding["hint"]


@pytest.mark.parametrize("orphan", ORPHANS)
def test_an_orphan(host, orphan):
    inflict, seen = ORPHANS[orphan]
    inflict(host)
    status, findings = host.check()
    assert status == 0, "it does no harm"
    (finding,) = findings
    assert finding["seen"].startswith(seen)
    assert finding["status"] == "warn"
    assert finding["hint"]


@pytest.mark.parametrize("half", HALF_MADE)
def test_what_is_half_made_in_the_library(host, half):
    HALF_MADE[half](host)
    assert [finding["check"] for finding in host.check()[1]] == ["library"]


def test_a_library_that_is_not_in_use(host):
    """No daemon tidies it up before it is in use again, so nothing in it is a fault."""
    (host.state / "library" / BASE / "manifest.json.new").touch()
    in_use = host.config.read_text()
    host.config.write_text(in_use.replace("keep_mib = 100", "keep_mib = 0"))
    assert host.check() == (0, [])
    assert "library is not in use" in host.run().stdout
    host.config.write_text(in_use)
    assert [finding["check"] for finding in host.check()[1]] == ["library"]


def test_what_an_import_that_goes_on_has_is_no_orphan(host):
    begun(host, OTHER)
    partial(host, OTHER)
    host.manifests.mark("zones", OTHER)
    orphan_row(host, "spools", (f"zones-{OTHER}", 5, 1 << 20))
    (host.state / "spool" / f"zones-{OTHER}").touch()
    assert host.check() == (0, [])


def test_what_deltas_keep_is_no_orphan(host):
    begun(host, OTHER)
    for suffix in ("", INDEX, PAYLOADS):
        (host.state / "spool" / f"zones-{OTHER}{suffix}").touch()
    (host.state / "library" / BASE / f"index-{'0' * 64}").touch()
    assert host.check() == (0, [])


def test_a_parked_download_is_no_orphan(host):
    begun(host, OTHER, wanted=False)
    (host.state / "spool" / f"zones-{OTHER}").touch()
    assert host.check() == (0, [])


def test_beside_a_daemon_only_what_stays_is_told(host, monkeypatch):
    """The daemon removes one of two while the check rests."""
    goes, stays = (host.state / "spool" / f"zones-{uuid}" for uuid in (OTHER, OTHER[:-1] + "2"))
    goes.touch()
    stays.touch()
    monkeypatch.setattr("imgstored.audit.inventory._runs", lambda state: True)
    monkeypatch.setattr(audit.time, "sleep", lambda seconds: goes.unlink())
    found = audit.audited([host.config])
    assert found["running"]
    (left,) = (each for each in found["findings"] if each["status"] != "ok")
    assert left["seen"] == f"1 downloads without an import: {stays.name}"


@pytest.mark.parametrize("ends", [True, False])
def test_a_file_of_the_library_that_is_being_written(host, monkeypatch, ends):
    new = host.state / "library" / BASE / "manifest.json.new"
    new.touch()
    monkeypatch.setattr(audit.time, "sleep", lambda _: new.unlink() if ends else None)
    _, findings = audit.examine(loading.load(host.config))
    assert [finding.check for finding in findings if finding.status != "ok"] == ([] if ends else ["library"])
