"""The fields of images, and filters on them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.errors import UsageError
from imgctl.image_fields import docker_rows, image_row, meets_all, parse_filter

from tests.ctl.test_table import json_values


def test_computed_fields():
    manifest = {"uuid": "u", "published_at": "2026-11-24T01:02:03.456Z", "files": [{"size": 7}]}
    image = {"manifest": manifest, "zpool": "zones", "source": "http://h", "clones": 0, "cloneNames": []}
    assert image_row(image) == {
        **manifest,
        "published_date": "2026-11-24",
        "pub": "2026-11-24",
        "published": "2026-11-24T01:02:03Z",
        "zpool": "zones",
        "source": "http://h",
        "clones": 0,
        "size": 7,
    }
    assert "pub" not in manifest


def test_more_digits_than_milliseconds():
    row = image_row({"manifest": {"published_at": "2026-11-24T01:02:03.123456789Z"}})
    assert row["published"] == "2026-11-24T01:02:03Z"


def test_a_docker_image():
    tags = {"docker:id": "sha256:0123456789", "docker:repo": "r", "docker:tag:latest": True, "other": 1}
    row = image_row({"manifest": {"type": "docker", "tags": tags}})
    assert row["docker_id"] == "sha256:0123456789"
    assert (row["docker_short_id"], row["docker_repo"], row["docker_tags"]) == (
        "sha256:01234",
        "r",
        ["latest"],
    )


names = st.sampled_from(["published_at", "files", "tags", "type", "manifest", "source", "clones", "zpool"])


@given(st.dictionaries(names, json_values), st.dictionaries(names, json_values))
def test_any_document_gives_a_row(manifest, image):
    row = image_row({**image, "manifest": manifest})
    assert manifest.keys() <= row.keys()


def test_docker_images_are_listed_by_tag_and_without_layers():
    def layer(uuid, published_at, origin=None, *tags):
        tags = {
            "docker:id": "sha256:0123456789abcdef",
            "docker:repo": "r",
            **{f"docker:tag:{t}": True for t in tags},
        }
        manifest = {"uuid": uuid, "type": "docker", "published_at": published_at, "tags": tags}
        return image_row({"manifest": manifest | ({"origin": origin} if origin else {})})

    rows = docker_rows([layer("c", "3", "a"), layer("a", "1"), layer("b", "2", None, "x", "latest")])
    assert [(row["uuid"], row["tag"]) for row in rows] == [("b", "x"), ("b", "latest"), ("c", None)]
    assert rows[0]["repository"] == "r"
    assert rows[0]["image_id"] == "sha256:01234"


ROW = {
    "name": "base-64",
    "v": 2,
    "public": True,
    "text": "true",
    "nothing": None,
    "homepage": "http://h/?a=b",
    "requirements": {"brand": "lx", "min_platform": {"7.0": "20260101T000000Z"}},
    "tags": {"role": "os", "a.b": "c"},
    "users": ["root", "admin"],
    "files": [{"size": 99}],
}


@pytest.mark.parametrize(
    ("argument", "met"),
    [
        ("name=base-64", True),
        ("name=base", False),
        ("name=~ase", True),
        ("name=~xyz", False),
        ("v=2", True),
        ("v=~2", True),  # a TypeError in imgadm
        ("v=~3", False),
        ("public=true", True),
        ("public=false", False),
        ("public=~tr", True),
        ("text=true", False),  # only booleans
        ("missing=x", False),
        ("missing=~", False),
        ("missing=true", False),
        ("nothing=null", False),
        ("nothing=~", False),
        ("homepage=http://h/?a=b", True),
        ("requirements.brand=lx", True),
        ("requirements=~lx", False),
        ("requirements.min_platform.7.0=20260101T000000Z", True),
        ("requirements.min_platform.7.1=x", False),
        ("tags.role=os", True),
        ("tags.a.b=c", True),
        ("name.length=7", False),
        ("users=~root", True),
        ("users=~roo", False),
        ("users.1=admin", True),
        ("users.9=admin", False),
        ("files.0.size=99", True),
        ("files.99999999999999999999=x", False),
        ("name=", False),
    ],
)
def test_a_filter(argument, met):
    assert parse_filter(argument)(ROW) is met


@pytest.mark.parametrize("argument", ["base", "", "=x"])
def test_another_form_is_refused(argument):
    with pytest.raises(UsageError) as caught:
        parse_filter(argument)
    assert caught.value.message == f'invalid filter: "{argument}" (must be of the form "field=value")'


def test_all_must_be_met():
    assert meets_all(ROW, [])
    assert meets_all(ROW, [parse_filter("v=2"), parse_filter("public=true")])
    assert not meets_all(ROW, [parse_filter("v=2"), parse_filter("public=false")])


@given(
    st.dictionaries(st.text(max_size=3), json_values, max_size=4),
    st.text(st.sampled_from("ab.01=~"), max_size=8),
    st.text(max_size=4),
)
def test_any_filter_can_be_asked_of_any_row(row, field, value):
    try:
        meets = parse_filter(f"{field}={value}")
    except UsageError:
        assert field == "" or field.startswith("=")
    else:
        assert meets(row) in (True, False)


@given(st.text(st.characters(exclude_characters="="), min_size=1), st.text())
def test_text_meets_itself(field, value):
    wanted = value not in ("true", "false")
    if not value.startswith("~"):
        assert parse_filter(f"{field}={value}")({field: value}) is wanted
    assert parse_filter(f"{field}=~{value}")({field: value})
