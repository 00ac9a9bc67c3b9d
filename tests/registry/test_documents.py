from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import APIError
from imgstored.registry.challenge import chosen, read_challenges
from imgstored.registry.documents import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_DOCUMENT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    described_document,
    encoded,
    read_document,
)

URL = "https://r.example/v2/a/manifests/latest"


def one(**more: Any) -> dict[str, Any]:
    return {"mediaType": "text/plain", "digest": "sha256:" + "a" * 64, "size": 3, **more}


def image(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": one(), "layers": [one()], **more}


def index(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [one()], **more}


def read(document: Any, kind: str = "") -> ImageManifest | Index:
    return read_document(
        URL, document if isinstance(document, bytes) else json.dumps(document).encode(), kind
    )


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image(kind):
    found = read(image(mediaType=kind, annotations={"a": "b"}, unknown=[1]), f"{kind}; charset=utf-8")
    assert isinstance(found, ImageManifest)
    assert (found.media_type, found.layers[0].size, found.annotations) == (kind, 3, {"a": "b"})
    assert found.kind == "text/plain"


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_an_index(kind):
    platform = {"architecture": "amd64", "os": "linux", "os.version": "1"}
    found = read(index(mediaType=kind, manifests=[one(platform=platform)]), kind)
    assert isinstance(found, Index)
    assert found.manifests[0].platform is not None
    assert found.manifests[0].platform.os == "linux"


def test_a_document_without_a_type_is_what_it_has():
    plain = {key: value for key, value in image().items() if key != "mediaType"}
    assert isinstance(read(plain), ImageManifest)
    assert isinstance(read({"schemaVersion": 2, "manifests": []}), Index)
    assert isinstance(read(plain, OCI_MANIFEST), ImageManifest)


@pytest.mark.parametrize(
    ("document", "kind", "why"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "", "schema version 1, which is not supported"),
        ({**image(), "schemaVersion": 3}, "", "schemaVersion is not 2"),
        (image(manifests=[]), "", "an index and an image at once"),
        (index(layers=[]), "", "an index and an image at once"),
        (image(), OCI_INDEX, "calls itself"),
        (image(mediaType="text/html"), "", "its type is"),
        (image(mediaType=["x"]), OCI_MANIFEST, "calls itself"),
        (image(config=one(digest="md5:1")), "", "neither SHA-256 nor SHA-512"),
        (image(layers=[one(digest="sha256:../../etc")]), "", "neither SHA-256 nor SHA-512"),
        (image(layers=[one(size=-1)]), "", ">= 0"),
        (
            image(layers=[one(size=1 << 39), one(size=1 << 39), one(size=1)]),
            "",
            "what it names has more than",
        ),
        (image(layers=[one(size=1.5)]), "", "int"),
        (image(annotations={"a": 1}), "", "str"),
        (image(layers=[one()] * 20_001), "", "20000"),
        ([], "", "not a JSON object"),
        (b"<html>", "", "not a document of a registry"),
        (b"[" * 100_000, "", "not a document of a registry"),
        (b" " * (MAX_DOCUMENT + 1), "", "more than"),
    ],
)
def test_what_is_no_document(document, kind, why):
    with pytest.raises(APIError, match=why):
        read(document, kind)


_KEYS = ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "subject", "x"]
_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(_JSON)
def test_anything_is_a_document_or_refused(content):
    for document in (
        content,
        {"schemaVersion": 2, **(content if isinstance(content, dict) else {"layers": content})},
    ):
        with suppress(APIError):
            read(document)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(APIError):
        read(data)


def test_what_is_written_is_read_and_always_the_same():
    layer = Descriptor("text/plain", "sha256:" + "b" * 64, 5, annotations={"b": "1", "a": "2"})
    document = ImageManifest(
        config=layer, layers=[layer], artifact_type="application/x", annotations={"z": "1"}
    )
    body = encoded(document)
    assert json.loads(body)["schemaVersion"] == 2
    assert json.loads(body)["mediaType"] == OCI_MANIFEST
    assert read(body) == document
    other = ImageManifest(
        config=layer,
        layers=[Descriptor("text/plain", layer.digest, 5, annotations={"a": "2", "b": "1"})],
        artifact_type="application/x",
        annotations={"z": "1"},
    )
    assert encoded(other) == body
    descriptor = described_document(body, document)
    assert descriptor.is_of(body)
    assert not descriptor.is_of(body + b" ")
    assert (descriptor.artifact_type, descriptor.annotations) == ("application/x", {"z": "1"})


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        (
            'Bearer realm="https://a.example/t",service="r",scope="repository:a/b:pull,push"',
            "bearer",
            {"realm": "https://a.example/t", "service": "r", "scope": "repository:a/b:pull,push"},
        ),
        ('Basic realm="x"', "basic", {"realm": "x"}),
        ('basic realm="a, b", bearer realm=https://t', "bearer", {"realm": "https://t"}),
        ('Negotiate, Basic realm="a \\"b\\""', "basic", {"realm": 'a "b"'}),
        ('BEARER Realm = "x" , Service="y"', "bearer", {"realm": "x", "service": "y"}),
    ],
)
def test_challenges(header, scheme, parameters):
    found = chosen(read_challenges(header))
    assert found is not None
    assert (found.scheme, found.parameters) == (scheme, parameters)


@pytest.mark.parametrize("header", ["", "Negotiate", "Digest realm=x", "=", '"', "B" * 10_000])
def test_no_challenge_that_can_be_answered(header):
    assert chosen(read_challenges(header)) is None


@given(st.text(alphabet='Bearer basic realm="=,\\ \t', max_size=60))
def test_any_header_is_read(header):
    read_challenges(header)
