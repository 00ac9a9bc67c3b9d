from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from imgctl.image_rows import docker_rows, image_row

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
