"""ListImages' rules, on plain values."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.serve.listing import MAX_PAGE, Ordered, Query, QueryError, is_open, parsed


def image(number, **fields):
    return SimpleNamespace(
        document={
            "uuid": f"11111111-aaaa-4bbb-8ccc-{number:012}",
            "name": f"name-{number % 3}",
            "version": f"1.{number}.0",
            "os": "smartos",
            "type": "zone-dataset",
            "state": "active",
            "published_at": f"2026-01-{number + 1:02}T00:00:00.000Z",
            "tags": {"role": "os", "count": 3, "good": True},
            **fields,
        }
    )


IMAGES = [
    *[image(number) for number in range(9)],
    image(9, type="zvol", os="linux", public=False, billing_tags=["a", "b"]),
    image(10, state="disabled"),
    image(11, state="unactivated"),
]


def numbers(query):
    return [int(each.document["uuid"][-12:]) for each in Ordered(IMAGES).page(parsed(query))]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", [*range(10)]),
        ("name=name-1", [1, 4, 7]),
        ("name=~NAME", [*range(10)]),
        ("name=~e-2", [2, 5, 8]),
        ("version=1.4.0", [4]),
        ("version=~4", [4]),
        ("os=linux", [9]),
        ("type=zvol", [9]),
        ("type=!zvol", [*range(9)]),
        ("public=false", [9]),
        ("public=true&limit=2", [0, 1]),
        ("state=disabled", [10]),
        ("state=unactivated", [11]),
        ("state=all", [*range(12)]),
        ("tag.role=os&limit=1", [0]),
        ("tag.role=db", []),
        ("tag.count=3&limit=1", [0]),
        ("tag.good=true&limit=1", [0]),
        ("billing_tag=a&billing_tag=b", [9]),
        ("billing_tag=c", []),
        ("sort=published_at.desc&limit=2", [9, 8]),
        ("marker=11111111-aaaa-4bbb-8ccc-000000000007", [7, 8, 9]),
        ("marker=11111111-aaaa-4bbb-8ccc-000000000002&sort=published_at.desc", [2, 1, 0]),
        ("marker=2026-01-08", [7, 8, 9]),
        ("marker=2026-01-08T00:00:00.000Z", [7, 8, 9]),
        ("marker=2026-01-03&sort=published_at.desc", [2, 1, 0]),
        ("account=a&channel=dev&inclAdminFields=true&limit=1", [0]),
        ("unheard_of=x&limit=1", [0]),
        ("uuid=11111111-aaaa-4bbb-8ccc-000000000003", [3]),
    ],
)
def test_what_a_query_means(query, wanted):
    assert numbers(query) == wanted


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=odd", "state"),
        ("sort=name", "sort"),
        ("public=yes", "public"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=%D9%A1", "limit"),  # a digit, but no ASCII one
        ("limit=", "limit"),
        ("marker=../x", "marker"),
        ("marker=11111111-aaaa-4bbb-8ccc-0000000000ff", "marker"),
        ("&".join(f"a{number}=b" for number in range(100)), "query"),
    ],
)
def test_what_is_wrong_is_named(query, field):
    with pytest.raises(QueryError) as caught:
        numbers(query)
    assert caught.value.field == field


def test_imgadms_paging_sees_each_image_once():
    """It asks with the last uuid as the marker, drops the first of the page, and stops at a short page."""
    many = [image(number, published_at="2026-01-01T00:00:00Z") for number in range(2500)]
    listed, seen, marker = Ordered(many), [], None
    while True:
        found = listed.page(Query(limit=MAX_PAGE, marker=marker))
        seen += found[1:] if marker else found
        if len(found) < MAX_PAGE:
            break
        marker = found[-1].document["uuid"]
    assert seen == many


@given(st.text(max_size=300))
def test_any_query_is_a_page_or_a_refusal(query):
    with contextlib.suppress(QueryError):
        assert len(Ordered(IMAGES).page(parsed(query))) <= len(IMAGES)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["uuid", "name", "version", "os", "type", "state", "tags", "published_at", "public"]
            ),
            st.none() | st.integers() | st.text() | st.lists(st.integers(), max_size=2),
        ),
        max_size=4,
    ),
    st.sampled_from(["name=~a", "tag.a=b", "type=!x", "state=all", "marker=2026-01-01", "billing_tag=x"]),
)
def test_odd_manifests_are_no_mistake(documents, query):
    images = [SimpleNamespace(document=document) for document in documents]
    assert len(Ordered(images).page(parsed(query))) <= len(images)


@given(
    st.lists(
        st.sampled_from(["2026-01-01", "2026-01-01T00:00:00Z", "2026-01-02", "2026-02", ""]), max_size=6
    ),
    st.sampled_from(["2026-01-01", "2026-01-02", "2025-01-01", "2027-01-01", "2026-01-01T00:00:00Z"]),
    st.booleans(),
    st.booleans(),
)
def test_a_date_as_marker_means_the_same_in_any_order(dates, marker, newest_first, in_order):
    images = [image(0, published_at=date) for date in (sorted(dates) if in_order else dates)]
    found = Ordered(images).page(Query(marker=marker, newest_first=newest_first))
    ordered = images[::-1] if newest_first else images
    for place, each in enumerate(ordered):
        date = each.document["published_at"]
        if date <= marker + "~" if newest_first else date >= marker:
            assert found == ordered[place:]
            break
    else:
        assert found == []


@pytest.mark.parametrize(
    ("public", "everybodys"),
    [(True, True), (False, False), ("false", False), (0, False), ("true", True), (1, True), (None, True)],
)
def test_what_a_manifest_calls_private_in_whatever_words(public, everybodys):
    found = image(1, public=public)
    assert is_open(found.document) is everybodys
    assert [*Ordered([found]).page(parsed(f"public={str(everybodys).lower()}"))] == [found]


def test_what_says_nothing_is_for_everybody():
    assert is_open(image(1).document)
