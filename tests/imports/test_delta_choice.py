"""When a delta is tried, from which image, and where its index is."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from imgstored.catalog.catalog import InstalledImage
from imgstored.imports.delta_choice import Facts, Rates, against, basis_of, index_url
from imgstored.manifest import load
from imgstored.pools.base import PoolImage

MIB = 1 << 20
#: Of a slow link.
FACTS = Facts(100 * MIB, MIB, 300 * MIB, link_rate=10e6, read_rate=300e6)


def uuid(number):
    return f"33333333-aaaa-4bbb-8ccc-{number:012}"


def installed(number, *, pool="zones", name="web", type_="zvol", day=1, origin=None):
    image = PoolImage(uuid(number), number, origin, "volume", 1, 1)
    manifest = {"name": name, "type": type_, "published_at": f"2026-11-{day:02}T00:00:00Z"}
    return InstalledImage(pool, image, manifest)


def wanted(**fields):
    return load(
        {
            "v": 2,
            "uuid": uuid(9),
            "name": "web",
            "version": "9",
            "type": "zvol",
            "os": "linux",
            "files": [{"sha1": "0" * 40, "size": 5, "compression": "zstd"}],
            **fields,
        },
        rules="import",
    )


def test_the_newest_image_of_the_same_name_and_type_in_the_same_pool():
    images = [
        installed(1, day=1),
        installed(2, day=3),
        installed(3, day=2),
        installed(4, day=4, pool="other"),
        installed(5, day=5, name="db"),
        installed(6, day=6, type_="zone-dataset"),
        installed(9, day=9),
    ]
    found = basis_of(wanted(), "zones", images)
    assert found is not None
    assert found.uuid == uuid(2)
    assert basis_of(wanted(name="mail"), "zones", images) is None


def test_an_image_of_the_same_origin_comes_first():
    """Of an incremental image only what differs from its origin is sent."""
    images = [installed(1, day=1, origin=uuid(7)), installed(2, day=3)]
    found = basis_of(wanted(origin=uuid(7)), "zones", images)
    assert found is not None
    assert found.uuid == uuid(1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"link_rate": None, "read_rate": None}, None),
        # Half of the file takes half a second, and reading the other image one.
        ({"link_rate": 100e6}, "sooner"),
        ({"link_rate": 100e6, "read_rate": 3e9}, None),
        ({"link_rate": 100e6, "read_rate": None}, "sooner"),
        ({"basis_size": 20 << 30}, "sooner"),
        ({"file_size": 4 * MIB - 1, "index_size": 1}, "small"),
        ({"index_size": 26 * MIB}, "too large"),
    ],
)
def test_a_delta_is_tried_where_it_is_probably_faster(changes, why):
    facts = replace(FACTS, **changes)
    told = against("auto", facts)
    assert told is None if why is None else why in told
    assert against("always", facts) is None
    assert against("never", facts) == "deltas are switched off"


def test_rates_are_of_the_last_transfer_that_was_large_enough():
    rates = Rates()
    assert (rates.link("a"), rates.reading) == (None, None)
    rates.note_link({"a": 10 * MIB, "b": 1}, 2.0)
    rates.note_link({"a": 1000}, 2.0)
    rates.note_link({"c": 10 * MIB}, 0.0)
    rates.note_link({}, 1.0)
    rates.note_reading(30 * MIB, 3.0)
    rates.note_reading(1, 3.0)
    assert (rates.link("a"), rates.link("b"), rates.link("c")) == (5 * MIB, None, None)
    assert rates.reading == 10 * MIB
    for number in range(1000):
        rates.note_link({str(number): MIB}, 1.0)
    assert rates.link("a") is None
    assert rates.link("999") == MIB


@pytest.mark.parametrize(
    ("url", "index"),
    [
        ("https://a.example/images/U/file", "https://a.example/images/U/file.index"),
        ("https://a.example/U/web-1.zfs.zst", "https://a.example/U/web-1.zfs.index"),
        ("https://a.example/U/file?channel=dev", "https://a.example/U/file.index?channel=dev"),
    ],
)
def test_where_the_index_is(url, index):
    assert index_url(url) == index


@pytest.mark.parametrize(
    "index",
    [
        None,
        5,
        {},
        {"sha256": "0" * 63, "size": 1},
        {"sha256": "G" * 64, "size": 1},
        {"sha256": "0" * 64, "size": 0},
        {"sha256": "0" * 64, "size": -1},
        {"sha256": "0" * 64, "size": 1 << 50},
        {"sha256": "0" * 64, "size": "1"},
        {"sha256": "0" * 64},
    ],
)
def test_what_is_no_index_does_no_harm(index):
    file = {"sha1": "0" * 40, "size": 5, "compression": "zstd", "index": index}
    manifest = wanted(files=[file])
    assert manifest.file is not None
    assert manifest.file.index is None
    right = {**file, "index": {"sha256": "0" * 64, "size": 7, "more": True}}
    assert wanted(files=[right]).file.index.size == 7
