from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.errors import APIError, BadContentError, ImgstoreError
from imgstored.http.documents import Document
from imgstored.manifest import MAX_MANIFEST
from imgstored.sources.answers import failure, one_object, read_list, read_page, the_manifest
from tests.support.image_site import BASE, fixture_manifest

URL = "http://images.example/images?token=secret"

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["uuid", "v", "files", "creator_uuid", "code", "message", "errors", "field"]),
            inner,
        )
    ),
    max_leaves=12,
)
_ELEMENTS = _JSON | st.fixed_dictionaries(
    {"uuid": st.just(BASE), "files": _JSON, "v": _JSON, "creator_uuid": _JSON}
)


@settings(max_examples=80)
@given(st.lists(_ELEMENTS, max_size=5))
def test_whatever_is_in_a_list_the_images_are_read(elements):
    body = json.dumps([*elements, fixture_manifest(BASE)]).encode()
    try:
        page = read_page(URL, body, "http://images.example")
    except APIError:
        assert "Infinity" in body.decode() or "NaN" in body.decode() or "\\ud" in body.decode()
        return
    assert BASE in [image.manifest["uuid"] for image in page.images]
    assert page.elements == len(elements) + 1


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"name": "n" * (2 << 20)}, f"larger than {MAX_MANIFEST} bytes"),
        ({"tags": {"k" * (2 << 20): 1}}, f"larger than {MAX_MANIFEST} bytes"),
        ({"x": [0] * 600_000, "name": "n" * 600_000}, "it has more than 60000 values"),
    ],
    ids=["text", "key", "values"],
)
def test_an_element_that_is_larger_than_a_manifest_may_be_is_left_out(more, reason):
    """A name of 2 MiB made `imgctl avail` take 6 GiB."""
    other = "22222222-aaaa-4bbb-8ccc-000000000001"
    body = json.dumps([fixture_manifest(BASE) | {"uuid": other} | more, fixture_manifest(BASE)]).encode()
    page = read_page(URL, body, "http://images.example")
    assert [image.manifest["uuid"] for image in page.images] == [BASE]
    assert page.elements == 2
    assert page.left_out.damaged == {other: reason}


def test_many_manifests_may_be_larger_than_one():
    many = [fixture_manifest(BASE) | {"uuid": f"22222222-aaaa-4bbb-8ccc-{at:012}"} for at in range(3000)]
    assert len(body := json.dumps(many).encode()) > MAX_MANIFEST
    assert len(read_page(URL, body, "http://images.example").images) == 3000


@settings(max_examples=80)
@given(st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_an_answer_or_an_api_error(body):
    for read in (
        lambda: read_list(URL, body),
        lambda: one_object(URL, body),
        lambda: the_manifest(URL, body, BASE),
    ):
        error = refusal(read)
        assert error is None or type(error) in (APIError, BadContentError)
        assert "secret" not in str(error)


def refusal(read) -> ImgstoreError | None:
    try:
        read()
    except ImgstoreError as error:
        return error
    return None


@settings(max_examples=80)
@given(
    st.integers(100, 999),
    st.binary(max_size=400) | _JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["text/plain", "text/html", "application/json", "", "\xff;;"]),
)
def test_an_error_is_always_short_and_printable(status, body, kind):
    error = failure(URL, Document(status, {"content-type": kind}, body))
    assert error.message.startswith("http://images.example/images: ")
    assert all(line.isprintable() for line in error.message.split("\n"))
    assert len(error.message) < 10_000
    assert error.data["status"] == status
    assert error.data.keys() <= {"status", "server_code"}
    assert re.fullmatch("[A-Za-z0-9]{1,64}", error.data.get("server_code", "A"))


def test_a_flood_of_faults_is_cut_off():
    body = json.dumps({"message": "m" * 9000, "errors": [{"field": "f" * 9000}] * 900}).encode()
    assert len(failure(URL, Document(422, {}, body)).message) < 4000
