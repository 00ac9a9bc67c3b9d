"""Which installed images have newer versions, by what sources offer."""

from __future__ import annotations

from typing import Any

import pytest

from imgstored.catalog.catalog import InstalledImage
from imgstored.pools.base import PoolImage
from imgstored.queries.outdated import newer

A, B, C = (f"{number}1111111-aaaa-4bbb-8ccc-000000000001" for number in (1, 2, 3))


def manifest(uuid: str, version: str, **fields: Any) -> dict[str, Any]:
    published = f"2026-0{version}-01T00:00:00.000Z"
    same = {"name": "base", "os": "smartos", "type": "zone-dataset"}
    return {"uuid": uuid, "version": version, "published_at": published, **same, **fields}


def installed(uuid: str, version: str, pool: str = "zones", **fields: Any) -> InstalledImage:
    return InstalledImage(
        pool, PoolImage(uuid, 1, None, "filesystem", 1, 1), manifest(uuid, version, **fields)
    )


def offered(uuid: str, version: str, **fields: Any) -> Any:
    return {"manifest": manifest(uuid, version, **fields), "source": "https://h"}


def test_the_newest_of_the_same_name_counts():
    (old,) = newer([installed(A, "1")], [offered(B, "2"), offered(C, "3"), offered(A, "1")])
    assert old == {
        "uuid": A,
        "zpool": "zones",
        "name": "base",
        "version": "1",
        "published_at": "2026-01-01T00:00:00.000Z",
        "newer": {
            "uuid": C,
            "version": "3",
            "published_at": "2026-03-01T00:00:00.000Z",
            "source": "https://h",
        },
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "other"},
        {"os": "linux"},
        {"type": "zvol"},
        {"state": "disabled"},
        {"published_at": "2025-01-01T00:00:00Z"},
        {"published_at": "2026-01-01T01:00:00+01:00"},  # the same moment
        {"published_at": None},
        {"name": None},
    ],
)
def test_what_is_no_newer_version(fields: dict[str, Any]):
    assert newer([installed(A, "1")], [offered(B, "2", **fields)]) == []


def test_a_newer_one_that_is_installed_leaves_nothing_to_do():
    assert newer([installed(A, "1"), installed(B, "2")], [offered(B, "2")]) == []
    # In another pool it is not.
    (old,) = newer([installed(A, "1"), installed(B, "2", pool="tank")], [offered(B, "2")])
    assert (old["uuid"], old["zpool"]) == (A, "zones")


def test_odd_manifests_are_taken_as_they_are():
    odd = [installed(A, "1", published_at=7, name=["x"]), installed(B, "1", name={"a": 1}, os=None)]
    assert [each["uuid"] for each in newer(odd, [offered(C, "2", name=["x"])])] == [A]
    assert newer([], []) == []
