"""Which images vmadm's payload names, and where vmadm takes it from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.run.vmadm import Payload, images_of, payload_of

A, B, C = (f"11111111-aaaa-4bbb-8ccc-00000000000{number}" for number in range(3))


@pytest.mark.parametrize(
    ("arguments", "payload"),
    [
        ("create", Payload.STDIN),
        ("create -f -", Payload.STDIN),
        ("create -f /dev/stdin", Payload.STDIN),
        ("create -f web.json", "web.json"),
        ("create --file web.json", "web.json"),
        ("create --file=web.json", "web.json"),
        ("create -f a.json -f b.json", "b.json"),
        ("create -f", Payload.STDIN),
        ("validate create -f web.json", "web.json"),
        ("validate update joyent", Payload.STDIN),
        ("reprovision UUID", Payload.STDIN),
        ("update UUID", Payload.STDIN),
        ("update UUID -f web.json", "web.json"),
        ("update UUID alias=web ram=5", Payload.NONE),
        ("update UUID -f a=b.json", "a=b.json"),
        ("list -f web.json", Payload.NONE),
        ("receive", Payload.NONE),
        ("recv", Payload.NONE),
        ("start UUID", Payload.NONE),
        ("-h", Payload.NONE),
        ("", Payload.NONE),
    ],
)
def test_where_it_is(arguments: str, payload: Payload | str) -> None:
    assert payload_of(arguments.split()) == payload


@pytest.mark.parametrize(
    ("payload", "images"),
    [
        ({}, {}),
        ({"image_uuid": A}, {None: [A]}),
        ({"image_uuid": A, "zpool": "tank"}, {"tank": [A]}),
        ({"image_uuid": A, "disks": [{"image_uuid": A}, {"image_uuid": B}]}, {None: [A, B]}),
        (
            {"image_uuid": A, "zpool": "p", "disks": [{"image_uuid": B, "zpool": "q"}, {"image_uuid": C}]},
            {"p": [A, C], "q": [B]},
        ),
        ({"add_disks": [{"image_uuid": A}], "update_disks": [{"image_uuid": B}]}, {None: [A, B]}),
        ({"image_uuid": "base@latest", "disks": [{"image_uuid": 7}, 8, None, {}]}, {}),
        ({"image_uuid": A, "zpool": 5, "disks": {"image_uuid": B}}, {None: [A]}),
        ([{"image_uuid": A}], {}),
    ],
)
def test_which_images_it_names(payload: Any, images: dict[str | None, list[str]]) -> None:
    assert images_of(json.dumps(payload).encode()) == images


@given(
    st.binary() | st.text().map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(A),
        lambda children: (
            st.lists(children)
            | st.dictionaries(
                st.sampled_from(["image_uuid", "disks", "add_disks", "zpool", "x"]), children, max_size=5
            )
        ),
    ),
)
def test_whatever_it_is(raw: bytes, document: Any) -> None:
    for content in (raw, json.dumps(document).encode()):
        for pool, uuids in images_of(content).items():
            assert pool is None or pool
            assert uuids == [A]


def test_too_deep() -> None:
    assert images_of(b"[" * 1_000_000) == {}
