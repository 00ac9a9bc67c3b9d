"""Wherever a uuid is taken, people may give a name; scripts and imgadm's name know only uuids."""

from __future__ import annotations

import pytest

from tests.support.events import AlreadyInstalled

U = "11111111-aaaa-4bbb-8ccc-000000000001"
V = "11111111-aaaa-4bbb-8ccc-000000000002"


def manifest(uuid, version, **fields):
    return {
        "uuid": uuid,
        "name": "base",
        "version": version,
        "published_at": f"2026-01-0{version[0]}T00:00:00Z",
        **fields,
    }


@pytest.fixture
def images(daemon):
    """Two versions, the first of them installed and in the sources, the second only there."""
    old, new = manifest(U, "1.0"), manifest(V, "2.0")
    daemon.store.images = [{"manifest": old, "zpool": "zones", "cloneNames": [], "clones": 0}]
    daemon.sources.manifests = {U: old, V: new}
    daemon.sources.found["images"] = [{"manifest": each, "source": "http://h"} for each in (old, new)]
    daemon.store.scripts = {each: [AlreadyInstalled(each, "base", "?")] for each in (U, V)}
    daemon.store.underway = [{**new, "pool": "zones"}]


@pytest.mark.parametrize("name", ["base", "base@1.0", "base@latest", "1111", "11111111-aaaa"])
def test_an_installed_image_by_all_its_names(daemon, imgctl, images, name):
    assert f'"uuid": "{U}"' in imgctl("get", name).stdout
    assert daemon.queries.asked[-1]["among"] == "installed"
    assert imgctl("delete", name).stdout == f"Deleted image {U}\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (["show", "base@2.0"], f'"uuid": "{V}"'),
        (["show", "base@latest"], f'"uuid": "{V}"'),
        (["import", "base@latest"], f"Image {V} (base ?) is already installed"),
        (["ensure", "base@1.0", V], f"Image {U} (base ?) is already installed"),
        (["cancel", "base"], f"Cancelled import of image {V}"),
        (["watch", "2.0", "-q"], ""),
    ],
)
def test_other_images_by_name(daemon, imgctl, images, line, shown):
    assert shown in imgctl(*line).stdout


def test_ensure_asks_once(daemon, imgctl, images):
    imgctl("ensure", "base@1.0", "base@2.0", "base@1.0")
    assert [asked["names"] for asked in daemon.queries.asked] == [["base@1.0", "base@2.0"]]
    assert daemon.store.wishes[0]["uuids"] == [U, V, U]


def test_where_to_look_is_told(daemon, imgctl, images):
    imgctl("import", "-S", "http://a", "-C", "dev", "base@2.0")
    assert daemon.queries.asked[-1] == {
        "names": ["base@2.0"],
        "among": "active",
        "pool": None,
        "sources": ["http://a"],
        "channel": "dev",
    }
    imgctl("get", "-P", "tank", "base")
    assert daemon.queries.asked[-1]["pool"] == "tank"


@pytest.mark.parametrize("line", [["get", U], ["import", V], ["ensure", U, V], ["delete", U], ["show", V]])
def test_scripts_pay_nothing(daemon, imgctl, images, line):
    assert imgctl(*line).returncode == 0
    assert daemon.queries.asked == []


def test_an_inactive_image_is_shown_but_not_imported(daemon, imgctl, images):
    daemon.sources.found["images"][1]["manifest"]["state"] = "disabled"
    assert f'"uuid": "{V}"' in imgctl("show", "base@2.0").stdout
    refused = imgctl("import", "base@2.0")
    assert refused.returncode == 1
    assert 'error (ActiveImageNotFound): an active image "base@2.0" was not found' in refused.stderr


def test_an_ambiguous_name_lists_what_it_could_be(daemon, imgctl, images):
    refused = imgctl("show", "base")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines() == [
        'imgctl show: error (AmbiguousName): "base" can mean 2 images:',
        f"    {U} (base@1.0)",
        f"    {V} (base@2.0)",
        "  hint: name the version (NAME@VERSION), or the one that was published last: base@latest",
    ]


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (["get", "web"], 3, "ImageNotInstalled"),
        (["delete", "web"], 3, "ImageNotInstalled"),
        (["hold", "web", "tag"], 3, "ImageNotInstalled"),
        (["show", "web"], 1, "ImageNotFound"),
        (["import", "web"], 1, "ActiveImageNotFound"),
        (["ensure", U, "web"], 1, "ActiveImageNotFound"),
        (["cancel", "web"], 3, "ImageNotInstalled"),
    ],
)
def test_what_is_not_there_is_the_error_of_such_a_uuid(daemon, imgctl, images, line, status, code):
    refused = imgctl(*line)
    assert refused.returncode == status
    assert f"error ({code})" in refused.stderr


def test_imgadm_knows_no_names(daemon, imgctl, images):
    imgctl("get", "base", imgadm=True)
    imgctl("delete", "base", imgadm=True)
    assert daemon.queries.asked == []
