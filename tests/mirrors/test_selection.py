"""Which images are meant by names and filters, and what comes along."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from imgstored.mirrors.selection import Filter, by_names, matching, newest, with_origins


def image(number, name="a", version=None, os="smartos", origin=None):
    manifest = SimpleNamespace(
        uuid=f"u{number}",
        name=name,
        version=version or f"1.{number}",
        os=os,
        origin=origin,
        published_at=f"2026-01-{number:02}",
    )
    return SimpleNamespace(manifest=manifest)


IMAGES = [
    image(1),
    image(2),
    image(3, name="b", os="linux"),
    image(4, name="b@latest"),
    image(5, version="1.1"),
]


def uuids(images):
    return [each.manifest.uuid for each in images]


@pytest.mark.parametrize(
    ("texts", "meant", "unknown"),
    [
        (["u1"], ["u1"], []),
        (["a"], ["u1", "u2", "u5"], []),
        (["a@1.1"], ["u1", "u5"], []),
        (["a@latest", "b"], ["u5", "u3"], []),
        (["a", "u1", "a@1.2"], ["u1", "u2", "u5"], []),
        (["", "@", "@latest", "a@", "c@latest", "u"], [], ["", "@", "@latest", "a@", "c@latest", "u"]),
    ],
)
def test_names(texts, meant, unknown):
    found, left = by_names(IMAGES, texts)
    assert (uuids(found), left) == (meant, unknown)


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        (Filter(), {"u1", "u2", "u3", "u4", "u5"}),
        (Filter(name="a"), {"u1", "u2", "u5"}),
        (Filter(os="linux"), {"u3"}),
        (Filter(name="a", os="linux"), set()),
        (Filter(newest=1), {"u3", "u4", "u5"}),
        (Filter(name="a", newest=2), {"u2", "u5"}),
    ],
)
def test_filters(wanted, meant):
    assert set(uuids(matching(IMAGES, wanted))) == meant


def test_the_newest_comes_first():
    assert uuids(newest(IMAGES, 2)) == ["u5", "u2", "u4", "u3"]


def test_an_origin_comes_before_its_images_and_once():
    images = [image(1), image(2, origin="u1"), image(3, origin="u2"), image(4, origin="u1"), image(5)]
    assert uuids(with_origins([images[2], images[3]], images)[0]) == ["u1", "u2", "u3", "u4"]
    found, lacking = with_origins([image(6, origin="gone"), images[4]], images)
    assert (uuids(found), uuids(lacking)) == (["u6", "u5"], ["u6"])


def test_manifests_that_name_each_other_as_origins_end():
    images = [image(1, origin="u2"), image(2, origin="u1"), image(3, origin="u3")]
    assert sorted(uuids(with_origins(images, images)[0])) == ["u1", "u2", "u3"]


class Counted:
    """An image that counts how often it is looked at."""

    looks = 0

    def __init__(self, number, origin):
        self._manifest = image(number, origin=origin).manifest

    @property
    def manifest(self):
        Counted.looks += 1
        return self._manifest


@pytest.mark.parametrize("ordered", ["base first", "base last"])
@pytest.mark.parametrize("lacks", [False, True])
def test_a_long_ancestry_is_walked_once(monkeypatch, ordered, lacks):
    """A server may list 50,000 images, each a clone of the one before."""
    monkeypatch.setattr(Counted, "looks", 0)
    images = [Counted(number, f"u{number - 1}" if number or lacks else None) for number in range(3000)]
    chosen, lacking = with_origins(images if ordered == "base first" else images[::-1], images)
    assert uuids(chosen) == [f"u{number}" for number in range(3000)]
    assert uuids(lacking) == (["u0"] if lacks else [])
    assert Counted.looks < 3000 * 20
