"""What people call an image means one image, or none."""

from __future__ import annotations

import uuid as uuids

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import AmbiguousNameError
from imgstored.queries.names import Named, named, resolve

A = Named("11111111-aaaa-4bbb-8ccc-000000000001", "base", "1.0.0", "2026-01-01T00:00:00.000Z")
B = Named("11111111-aaaa-4bbb-8ccc-000000000002", "base", "2.0.0", "2026-03-01T00:00:00.000Z")
C = Named("22222222-aaaa-4bbb-8ccc-000000000003", "web", "2.0.0", "2026-02-01T00:00:00.000Z")
ALL = [A, B, C]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (A.uuid, A),
        ("2222", C),
        ("22222222", C),
        ("22222222-", C),
        ("22222222-AAAA", C),
        ("11111111-aaaa-4bbb-8ccc-000000000002", B),
        ("11111111-aaaa-4bbb-8ccc-00000000000", None),  # below: both
        ("web", C),
        ("web@2.0.0", C),
        ("base@1.0.0", A),
        ("base@latest", B),
        ("web@latest", C),
        ("222", None),
        ("2222-2222", None),
        ("", None),
        ("@", None),
        ("@latest", None),
        ("base@", None),
        ("base@3", None),
        ("Base@1.0.0", None),
        ("web ", None),
        ("33333333-aaaa-4bbb-8ccc-000000000003", None),
    ],
)
def test_what_text_means(text, meant):
    candidates = [C] if text.startswith("11111111-aaaa-4bbb-8ccc-00000000000") and meant is None else ALL
    assert resolve(text, candidates) == meant


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("base", "base@latest"),
        ("1111", "by more of it"),
        ("11111111-aaaa-4bbb-8ccc-00000000000", "by more of it"),
    ],
)
def test_what_could_be_two_is_refused_and_both_are_listed(text, hint):
    with pytest.raises(AmbiguousNameError) as caught:
        resolve(text, ALL)
    assert caught.value.message.splitlines() == [
        f'"{text}" can mean 2 images:',
        f"    {A.uuid} (base@1.0.0)",
        f"    {B.uuid} (base@2.0.0)",
    ]
    assert hint in caught.value.hint
    assert [each["uuid"] for each in caught.value.data["candidates"]] == [A.uuid, B.uuid]


def test_a_name_that_looks_like_another_images_uuid_takes_nothing_over():
    with pytest.raises(AmbiguousNameError):
        resolve("2222", [*ALL, Named(A.uuid, "2222", "1")])
    # A whole uuid is never a name.
    assert resolve(C.uuid, [*ALL, Named(A.uuid, C.uuid, "1")]) == C
    assert resolve(C.uuid, [Named(A.uuid, C.uuid, "1")]) is None


def test_a_version_called_latest_is_not_taken_for_the_last_one():
    with pytest.raises(AmbiguousNameError):
        resolve("base@latest", [B, Named(A.uuid, "base", "latest", "2020-01-01T00:00:00Z")])


def test_latest_goes_by_time_and_not_by_text():
    early = Named(A.uuid, "base", "1", "2026-01-01T23:00:00-05:00")  # the 2nd, 04:00 UTC
    late = Named(B.uuid, "base", "2", "2026-01-02T01:00:00Z")
    assert resolve("base@latest", [early, late]) == early
    never = Named(C.uuid, "base", "3", "sometime")
    assert resolve("base@latest", [late, never]) == late
    with pytest.raises(AmbiguousNameError):
        resolve("base@latest", [late, Named(A.uuid, "base", "3", late.published_at)])


def test_the_same_image_twice_is_one():
    assert resolve("web", [C, C]) == C


def test_a_long_list_is_cut():
    many = [Named(str(uuids.UUID(int=number)), "x", str(number)) for number in range(100)]
    with pytest.raises(AmbiguousNameError) as caught:
        resolve("x", many)
    assert caught.value.message.splitlines()[-1] == "    and 80 more"
    assert len(caught.value.data["candidates"]) == 20


def test_what_a_server_wrote_steers_no_terminal():
    with pytest.raises(AmbiguousNameError) as caught:
        resolve("1111", [Named(A.uuid, "\x1b[2J", "\n1"), B])
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message.splitlines()) == 3


@pytest.mark.parametrize(
    ("manifest", "name", "version"),
    [
        ({}, "", ""),
        ({"name": 3, "version": None}, "3", ""),
        ({"name": ["x"], "version": 1.0}, '["x"]', "1"),
        ({"name": "\x1b[2J", "version": True}, "?[2J", "true"),
    ],
)
def test_a_manifest_may_be_anything_but_for_its_uuid(manifest, name, version):
    assert named({"uuid": A.uuid, **manifest}) == Named(A.uuid, name, version)


names = st.sampled_from(["base", "web", "cafe", "1111", "a@b", "latest", ""])
versions = st.sampled_from(["1", "2", "latest", "b@latest", ""])
times = st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "", "x", "9999-12-31T23:59:59-23:59"]
)
images = st.builds(
    Named,
    st.sampled_from(["1111", "cafe", "babe"]).flatmap(
        lambda start: st.integers(0, 3).map(lambda n: f"{start}0000-aaaa-4bbb-8ccc-{n:012}")
    ),
    names,
    versions,
    times,
)
lists = st.lists(images, max_size=6, unique_by=lambda image: image.uuid)
texts = st.one_of(
    names,
    st.builds("{}@{}".format, names, versions),
    images.map(lambda image: image.uuid),
    st.builds(lambda image, length: image.uuid[:length], images, st.integers(0, 36)),
    st.text(max_size=40),
)


def answer(text, candidates):
    """The uuids that the text means: none, one, or all that the error lists."""
    try:
        found = resolve(text, candidates)
    except AmbiguousNameError as error:
        listed = {each["uuid"] for each in error.data["candidates"]}
        return listed if len(listed) > 1 else {"an error that is none"}
    return set() if found is None else {found.uuid}


@given(texts, lists)
def test_it_never_takes_one_of_two(text, candidates):
    """Whatever it gives is the only one that fits by any of the rules, in whatever order they are listed."""
    fitting = {image.uuid for image in candidates if fits(text, image, candidates)}
    assert answer(text, candidates) == answer(text, candidates[::-1]) == fitting


def fits(text, image, candidates):
    """The rules, said in another way."""
    if len(text) == 36 and text.count("-") == 4 and set(text) <= set("0123456789abcdef-"):
        return text == image.uuid
    if sum(c in "0123456789abcdefABCDEF" for c in text) >= 4 and image.uuid.startswith(text.lower()):
        return True
    if image.name and (text == image.name or (image.version and text == image.name + "@" + image.version)):
        return True
    if not image.name or text != image.name + "@latest":
        return False
    known = {"2026-01-01T00:00:00Z": 1, "2026-01-02T00:00:00Z": 2}
    same = [known.get(each.published_at, 0) for each in candidates if each.name == image.name]
    return known.get(image.published_at, 0) == max(same)


@given(st.text(max_size=50), lists)
def test_any_text_is_answered(text, candidates):
    assert answer(text, candidates) <= {image.uuid for image in candidates}
