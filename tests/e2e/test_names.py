"""Names, relations, room, past and future of images, by the real command and the real daemon."""

from __future__ import annotations

import json
import os

import pytest

from tests.e2e.conftest import gated, made_image, static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest

NEWER = "55555555-aaaa-4bbb-8ccc-000000000001"
MADE = "44444444-aaaa-4bbb-8ccc-000000000001"
UNKNOWN = "66666666-aaaa-4bbb-8ccc-000000000001"


def history(daemon, *arguments):
    return json.loads(daemon.imgctl("history", "-j", *arguments, check=True).stdout)


@pytest.fixture
def newer(served):
    """Another version of the base image, published later."""
    newer = {"uuid": NEWER, "version": "2.0.0", "published_at": "2027-01-01T00:00:00.000Z"}
    served.pages.add({**fixture_manifest(BASE), **newer}, fixture_file(BASE))


def test_an_image_by_name_from_the_source_to_the_end(daemon, newer):
    ambiguous = daemon.imgctl("import", "base")
    assert ambiguous.returncode == 1
    assert 'error (AmbiguousName): "base" can mean 2 images:' in ambiguous.stderr
    assert f"    {BASE} (base@1.0.0)\n    {NEWER} (base@2.0.0)\n" in ambiguous.stderr
    assert f"Imported image {NEWER} (base@2.0.0)" in daemon.imgctl("import", "base@latest").stdout
    # Only one version is installed, so here the name is enough.
    assert json.loads(daemon.imgctl("get", "base").stdout)["manifest"]["uuid"] == NEWER
    assert daemon.imgctl("ensure", "base@1.0.0").returncode == 0
    assert daemon.imgctl("get", "base").returncode == 1
    assert daemon.imgctl("hold", "5555", "web").stdout == f"Held image {NEWER} (web)\n"
    assert daemon.imgctl("holds", "base@2.0.0").stdout == "web\n"
    assert daemon.imgctl("release", "base@latest", "web").returncode == 0
    assert daemon.imgctl("delete", "base@2.0.0").stdout == f"Deleted image {NEWER}\n"
    assert daemon.imgctl("get", "base@2.0.0").returncode == 3
    gone = daemon.imgctl("show", "5555")
    assert json.loads(gone.stdout)["uuid"] == NEWER
    assert [(each["action"], each["outcome"]) for each in history(daemon, "base@2.0.0")] == [
        ("import", "installed"),
        ("delete", "deleted"),
    ]


def test_names_of_a_source_that_is_down_are_those_of_its_last_list(served, tmp_path, daemon):
    daemon.imgctl("avail", check=True)
    served.nginx.stop()
    refused = daemon.imgctl("import", "nothing@latest")
    assert "error (ActiveImageNotFound)" in refused.stderr
    # The name is known; the image itself cannot be had.
    refused = daemon.imgctl("import", "incremental")
    assert refused.returncode == 1
    assert "ActiveImageNotFound" not in refused.stderr


def test_tree_and_du(daemon):
    daemon.imgctl("ensure", INCREMENTAL, ZVOL, check=True)
    (pool,) = json.loads(daemon.imgctl("tree", "-j", check=True).stdout)
    trees = {tree["uuid"]: [child["uuid"] for child in tree["children"]] for tree in pool["images"]}
    assert trees == {BASE: [INCREMENTAL], ZVOL: []}
    assert 0 < pool["available"] < pool["total"]
    lines = daemon.imgctl("tree", check=True).stdout.splitlines()
    assert f"`-- {INCREMENTAL}" in "\n".join(lines)
    assert len(lines) == 5
    (usage,) = json.loads(daemon.imgctl("du", "-j", check=True).stdout)
    rows = {row["uuid"]: row for row in usage["images"]}
    assert rows[BASE]["own"] == 0 < rows[BASE]["shared"]
    assert rows[INCREMENTAL]["own"] == rows[INCREMENTAL]["total"] > 0
    assert usage["used"] == sum(row["total"] for row in rows.values())
    assert daemon.imgctl("du", "zvol").stdout.splitlines()[1].startswith(ZVOL)
    missing = daemon.imgctl("du", MADE)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert daemon.imgctl("tree", "-P", "nowhere").returncode == 1


def test_the_history_tells_who_did_what_and_how_it_ended(daemon, served):
    served.pages.add({**fixture_manifest(ZVOL), "uuid": MADE}, b"not an image at all")
    daemon.imgctl("import", INCREMENTAL, check=True)
    assert daemon.imgctl("import", MADE).returncode == 1
    assert daemon.imgctl("delete", BASE).returncode == 1
    daemon.imgctl("delete", INCREMENTAL, check=True)
    entries = history(daemon)
    ended = [(entry["action"], entry["uuid"], entry["outcome"]) for entry in entries]
    assert sorted(ended[:2]) == [("import", BASE, "installed"), ("import", INCREMENTAL, "installed")]
    assert ended[2:] == [
        ("import", MADE, "failed"),
        ("delete", BASE, "failed"),
        ("delete", INCREMENTAL, "deleted"),
    ]
    imported = next(entry for entry in entries if entry["uuid"] == INCREMENTAL)
    assert imported["bytes"] == fixture_file(INCREMENTAL).stat().st_size
    assert imported["source"] == served.url
    assert imported["client"].startswith("imgctl ")
    assert imported["uid"] == os.geteuid()
    assert imported["seconds"] > 0
    assert entries[2]["message"]
    assert entries[3]["code"] == "ImageHasDependentClones"
    lines = daemon.imgctl("history", "-n", "2", check=True).stdout.splitlines()
    assert len(lines) == 3


def test_a_platform_that_is_too_old_is_refused_also_in_a_dry_run(served, tmp_path):
    wants = {
        **fixture_manifest(BASE),
        "uuid": MADE,
        "requirements": {"min_platform": {"7.0": "20990101T000000Z"}},
    }
    served.pages.add(wants, fixture_file(BASE))
    message = (
        "current platform version, 7.0/20190314T232247Z, does not satisfy "
        'requirements.min_platform={"7.0":"20990101T000000Z"}'
    )
    platform = 'platform = "7.0/20190314T232247Z"'
    with Daemon(tmp_path / "smartos", top=platform, config=static_source(served.url)) as daemon:
        (refusal,) = json.loads(daemon.imgctl("import", "-n", "-j", MADE).stdout)["refusals"]
        assert (refusal["code"], refusal["message"]) == ("MinPlatform", message)
        refused = daemon.imgctl("import", MADE)
        assert refused.returncode == 1
        assert f"imgctl import: error (MinPlatform): {message}\n" in refused.stderr
        assert daemon.imgctl("import", BASE).returncode == 0


def test_what_did_not_even_begin_is_in_the_history(daemon, served, tmp_path):
    assert daemon.imgctl("import", UNKNOWN).returncode == 1
    assert daemon.imgctl("import", "-S", "http://127.0.0.1:9/", MADE).returncode == 1
    manifest, file = fixture_file(INCREMENTAL).with_name("incremental.imgmanifest"), fixture_file(INCREMENTAL)
    assert daemon.imgctl("install", "-m", str(manifest), "-f", str(file)).returncode == 3
    entries = history(daemon)
    assert [(entry["action"], entry["uuid"], entry["code"], entry["outcome"]) for entry in entries] == [
        ("import", UNKNOWN, "ActiveImageNotFound", "failed"),
        ("import", MADE, entries[1]["code"], "failed"),
        ("install", INCREMENTAL, "OriginNotInstalled", "failed"),
    ]
    assert all(entry["message"] and entry["client"].startswith("imgctl ") for entry in entries)
    shown = daemon.imgctl("history", "-H")
    assert shown.returncode == 0
    assert shown.stdout.count("failed") == 3


@pytest.fixture
def slow(served, gate, tmp_path):
    """A daemon whose source holds back the one made image of 16 MiB, as the gate says."""
    served.pages.add(*made_image(MADE, size=16 << 20))
    with gated(served, gate, tmp_path / "slow", MADE) as daemon:
        yield daemon


@pytest.mark.slow
def test_an_import_goes_on_after_kill_9_and_the_history_says_so(slow, gate):
    gate.hold(after=2 << 20)
    client = started(slow, "import", MADE)
    until(lambda: any(job["done"] > 1 << 20 for job in jobs(slow)))
    (plan,) = [json.loads(slow.imgctl("import", "-n", "-j", MADE, check=True).stdout)]
    assert plan["images"][0]["state"] == "under-way"
    assert history(slow)[0]["outcome"] is None
    slow.kill()
    client.communicate(timeout=30)
    gate.open()
    slow.start()
    # The history is written when the import has ended.
    until(lambda: jobs(slow) == [] and history(slow, MADE)[-1]["outcome"] is not None, seconds=60)
    interrupted, going_on = history(slow, MADE)
    assert (interrupted["outcome"], interrupted["seconds"]) == ("interrupted", None)
    assert (going_on["outcome"], going_on["client"]) == ("installed", "imgstored (after a restart)")


@pytest.mark.slow
def test_a_dry_run_knows_what_is_there_from_an_earlier_try(slow, gate):
    gate.hold(after=6 << 20)
    client = started(slow, "import", MADE)
    until(lambda: any(job["done"] >= 6 << 20 for job in jobs(slow)))
    client.terminate()
    client.communicate(timeout=30)
    until(lambda: jobs(slow) == [])
    plan = json.loads(slow.imgctl("import", "-n", "-j", MADE, check=True).stdout)
    assert plan["images"][0]["present"] >= 2 << 20
    assert plan["to_come"] == plan["size"] - plan["images"][0]["present"]
    assert history(slow, MADE)[0]["outcome"] == "cancelled"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(daemon, served):
    shown = daemon.imgctl("import", "--dry-run", "incremental")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[:3] == [
        f'Would import {INCREMENTAL} (incremental@1.0.0) from "{served.url}": 524.5 KiB',
        f'Would import {BASE} (base@1.0.0) from "{served.url}": 1.7 MiB',
        "Would download and install 2 images (2.2 MiB)",
    ]
    assert lines[3].startswith("Free: ")
    assert json.loads(daemon.imgctl("list", "-j").stdout) == []
    assert jobs(daemon) == history(daemon) == []
    assert served.bytes_sent() == 0
    daemon.imgctl("import", BASE, check=True)
    lines = daemon.imgctl("import", "-n", INCREMENTAL).stdout.splitlines()
    assert lines[1] == f"Image {BASE} (base@1.0.0) is already installed in pool zones"
    assert lines[2] == "Would download and install 1 image (524.5 KiB)"
    assert "is already installed" in daemon.imgctl("import", "-n", "base").stdout


def test_a_dry_run_says_what_would_refuse_it(daemon, served):
    manifest = {
        **fixture_manifest(INCREMENTAL),
        "uuid": MADE,
        "name": "lost",
        "state": "disabled",
        "origin": NEWER,
    }
    served.pages.add(manifest, b"x")
    shown = daemon.imgctl("import", "-n", MADE)
    assert shown.returncode == 1
    assert f"Would import {MADE} (lost@1.0.0)" in shown.stdout
    assert f'error (ActiveImageNotFound): an active image "{MADE}" was not found' in shown.stderr
    assert f"warning: error (ImageNotFound): image {NEWER!r} was not found".replace("'", '"') in shown.stderr
    assert daemon.imgctl("import", "-n", NEWER).returncode == 1


def test_a_dry_run_says_what_does_not_fit(served, tmp_path):
    with Daemon(
        tmp_path / "full", config=static_source(served.url) + "[limits]\nmin_free_mib = 1073741824\n"
    ) as daemon:
        shown = daemon.imgctl("import", "-n", BASE)
    assert shown.returncode == 1
    assert "error (NoSpace): not enough room in" in shown.stderr
    assert 'not enough room in pool "zones"' in shown.stderr


def test_what_is_outdated(daemon, newer):
    daemon.imgctl("import", "base@1.0.0", check=True)
    lines = daemon.imgctl("outdated", check=True).stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [[BASE, "base", "1.0.0"]]
    (old,) = json.loads(daemon.imgctl("outdated", "-j", check=True).stdout)
    assert (old["uuid"], old["newer"]["uuid"], old["newer"]["version"]) == (BASE, NEWER, "2.0.0")
    daemon.imgctl("import", old["newer"]["uuid"], check=True)
    assert daemon.imgctl("outdated", check=True).stdout == ""


def test_an_alias_means_one_image_whatever_servers_call_theirs(daemon, newer, served):
    assert daemon.imgctl("alias", "web-stable", "base@1.0.0").stdout == (
        f"Alias web-stable is image {BASE}\n"
    )
    assert f"Imported image {BASE}" in daemon.imgctl("import", "web-stable").stdout
    # A source that has an image of that name takes nothing over.
    pirate = "66666666-aaaa-4bbb-8ccc-000000000006"
    served.pages.add({**fixture_manifest(BASE), "uuid": pirate, "name": "web-stable"}, fixture_file(BASE))
    assert json.loads(daemon.imgctl("show", "web-stable").stdout)["uuid"] == BASE
    moved = daemon.imgctl("alias", "web-stable", "base@2.0.0").stdout
    assert moved == f"Alias web-stable is image {NEWER} (it was {BASE})\n"
    refused = daemon.imgctl("alias", "base", NEWER)
    assert f'error (Usage): "base" is the name of an installed image, {BASE}' in refused.stderr
    daemon.stop()
    daemon.start()
    assert daemon.imgctl("alias", "-H").stdout.split() == ["web-stable", NEWER, "-", "-"]
    assert daemon.imgctl("alias", "-d", "web-stable", check=True).stdout == (
        f"Deleted alias web-stable of image {NEWER}\n"
    )
    assert daemon.imgctl("get", "web-stable").returncode == 3
