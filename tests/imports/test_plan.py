"""From an image to the imports that it takes, without asking anybody."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from imgstored.errors import InvalidManifestError, OriginNotInstalledError
from imgstored.imports.plan import MAX_ANCESTRY, Plan
from imgstored.imports.spec import ImportSpec
from imgstored.manifest.platform import Platform

SPEC = ImportSpec("top", "zones", ("http://x",), "dev", zstream=True)


class Found:
    """What a source has of an image."""

    def __init__(self, uuid, origin=None, min_platform=None):
        requirements = {} if min_platform is None else {"min_platform": min_platform}
        document = {"uuid": uuid, "requirements": requirements}
        self.manifest = SimpleNamespace(uuid=uuid, name="n", version="1", origin=origin, document=document)
        self.source = SimpleNamespace(url="http://user:secret@images")


def planned(origins, states, *, platform=None, spec=SPEC):
    """A plan, walked to its end."""
    plan = Plan(spec, lambda uuid: states.get(uuid, "missing"), platform)
    while (uuid := plan.next()) is not None:
        plan.add(Found(uuid, origins.get(uuid)))
    return plan


def steps(plan):
    return [(step.uuid, step.state) for step in plan.steps]


def to_do(plan):
    return [found.manifest.uuid for found in plan.to_do()]


CHAIN = {"top": "middle", "middle": "base"}


def test_all_of_an_ancestry_is_imported_from_its_base():
    plan = planned(CHAIN, {})
    assert steps(plan) == [("top", "missing"), ("middle", "missing"), ("base", "missing")]
    assert to_do(plan) == ["base", "middle", "top"]
    assert plan.base is None


@pytest.mark.parametrize("state", ["installed", "under-way", "deleting"])
def test_it_ends_at_the_first_that_is_there(state):
    states = {"middle": state}
    plan = planned(CHAIN, states)
    assert steps(plan) == [("top", "missing"), ("middle", state)]
    assert plan.base == (None if state == "under-way" else "middle")
    states["middle"] = "installed"
    assert to_do(plan) == ["top"]


def test_an_image_that_is_there_needs_nothing():
    plan = planned(CHAIN, {"top": "installed"})
    assert steps(plan) == [("top", "installed")]
    assert (plan.base, to_do(plan)) == (None, [])


def test_what_others_have_begun_since_is_left_to_them():
    states = {}
    plan = planned(CHAIN, states)
    states |= {"base": "installed", "middle": "under-way"}
    assert to_do(plan) == ["top"]
    states |= {"top": "under-way"}
    assert to_do(plan) == []


@pytest.mark.parametrize("now", ["deleting", "missing"])
def test_an_origin_that_was_deleted_since_refuses_it(now):
    states = {"middle": "installed"}
    plan = planned(CHAIN, states)
    states["middle"] = now
    with pytest.raises(OriginNotInstalledError, match='"middle" of image "top" was deleted meanwhile'):
        plan.to_do()


def test_an_origin_that_changes_is_looked_at_again():
    states = {"middle": "installed"}
    plan = planned(CHAIN, states)
    assert (plan.is_stale(), plan.in_deletion()) == (False, None)
    states["middle"] = "deleting"
    assert (plan.is_stale(), plan.in_deletion()) == (True, "middle")
    states.clear()
    assert (plan.is_stale(), plan.in_deletion()) == (True, None)
    # The walk has ended at an image without an origin: whatever comes between is for `to_do`.
    plan = planned(CHAIN, states)
    states["middle"] = "deleting"
    assert (plan.is_stale(), plan.in_deletion()) == (False, "middle")


@pytest.mark.parametrize(
    "origins",
    [
        {"top": "top"},
        {"top": "middle", "middle": "top"},
        {"top": "0"} | {str(number): str(number + 1) for number in range(2 * MAX_ANCESTRY)},
    ],
    ids=["its own origin", "a circle", "too long"],
)
def test_an_ancestry_without_an_end(origins):
    with pytest.raises(InvalidManifestError, match="endless ancestry") as caught:
        planned(origins, {})
    assert caught.value.hint == "the manifests at http://images are wrong; tell the operator of that server"


def test_images_that_the_platform_is_too_old_for_are_all_refused():
    plan = Plan(SPEC, lambda _: "missing", Platform("7.0", "20200101T000000Z"))
    for origin in ("middle", "base", None):
        plan.add(Found(plan.next(), origin, {"7.0": "20300101T000000Z"}))
    assert plan.next() is None
    assert [error.code for error in plan.refusals] == ["MinPlatform"] * 3


def test_an_ancestor_comes_from_where_its_image_does():
    assert SPEC.of("base") == ImportSpec("base", "zones", ("http://x",), "dev", zstream=True)
    assert SPEC.of("base").key == ("zones", "base")


def test_what_was_under_way_and_is_not_any_more_is_looked_for():
    states = {"middle": "under-way"}
    plan = planned(CHAIN, states)
    states.clear()
    plan.look_again()
    while (uuid := plan.next()) is not None:
        plan.add(Found(uuid, CHAIN.get(uuid)))
    assert to_do(plan) == ["base", "middle", "top"]
