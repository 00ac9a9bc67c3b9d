"""Which images a vacuum takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgstored.maintenance.vacuum import Candidate, Rule, to_delete

POOLS = ("zones", "tank2")


def image(
    uuid: str,
    *dependents: str,
    pool: str = "zones",
    name: str = "base",
    published_at: str = "2026-01-01T00:00:00Z",
    installed_at: float | None = 100.0,
    held: bool = False,
    unknown: bool = False,
) -> Candidate:
    return Candidate(
        pool, uuid, name, published_at, installed_at, [f"{pool}/{each}" for each in dependents], held, unknown
    )


def names(images: list[Candidate], rule: Rule | None = None) -> list[str]:
    return [each.uuid for each in to_delete(images, rule or Rule())]


def test_what_nothing_is_cloned_from_goes_in_the_order_of_the_list():
    assert names([image("a"), image("b"), image("c", "machine")]) == ["a", "b"]


def test_an_origin_goes_after_its_clones():
    assert names([image("a", "b"), image("b", "c"), image("c")]) == ["c", "b", "a"]


def test_what_a_kept_image_was_cloned_from_stays():
    assert names([image("a", "b"), image("b", "c"), image("c", held=True), image("d")]) == ["d"]
    assert names([image("a", "b"), image("b", unknown=True), image("c")]) == ["c"]


def test_a_clone_of_the_same_uuid_in_another_pool_is_another_one():
    assert names([image("a", "b"), image("b", pool="tank2")]) == ["b"]


def test_those_installed_later_stay_and_those_of_whom_it_is_not_known():
    images = [image("a", installed_at=10), image("b", installed_at=20), image("c", installed_at=None)]
    assert names(images, Rule(installed_before=20)) == ["a"]


def test_the_newest_of_each_name_in_each_pool_stay():
    images = [
        image("a", published_at="2026-01-01"),
        image("b", published_at="2026-03-01"),
        image("c", published_at="2026-02-01"),
        image("d", name="other", published_at="2020-01-01"),
        image("e", pool="tank2", published_at="2019-01-01"),
    ]
    assert names(images, Rule(keep=1)) == ["a", "c"]
    assert names(images, Rule(keep=2)) == ["a"]


@st.composite
def hosts(draw: st.DrawFn) -> list[Candidate]:
    """Images cloned from others, of which some have machines; in any order."""
    images = []
    for number in range(draw(st.integers(0, 12))):
        pool = draw(st.sampled_from(POOLS))
        clones = [f"{pool}/{each}" for each in draw(st.sets(st.integers(number + 1, 14), max_size=3))]
        machines = [f"{pool}/vm-{each}" for each in draw(st.sets(st.integers(0, 3), max_size=1))]
        images.append(
            Candidate(
                pool,
                str(number),
                draw(st.sampled_from("xyz")),
                draw(st.sampled_from(["2026-01-01", "2026-02-01", "-"])),
                draw(st.none() | st.floats(0, 100)),
                [*clones, *machines] if draw(st.booleans()) else clones,
                draw(st.booleans()),
            )
        )
    return draw(st.permutations(images))


rules = st.builds(Rule, st.none() | st.floats(0, 100), st.integers(0, 3))


@given(hosts(), rules)
def test_nothing_goes_before_all_that_is_cloned_from_it(images: list[Candidate], rule: Rule):
    gone: set[str] = set()
    for each in to_delete(images, rule):
        assert set(each.dependents) <= gone
        gone.add(each.dataset)


@given(hosts(), rules)
def test_each_goes_once_and_only_if_the_rule_allows_it(images: list[Candidate], rule: Rule):
    chosen = to_delete(images, rule)
    assert len({each.key for each in chosen}) == len(chosen)
    assert all(rule.allows(each) and not each.kept for each in chosen)


@given(hosts(), rules)
def test_all_that_can_go_goes(images: list[Candidate], rule: Rule):
    """What stays is kept by the rule, or by something that stays."""
    chosen = to_delete(images, rule)
    gone = {each.dataset for each in chosen}
    for each in images:
        if each in chosen or set(each.dependents) - gone or each.kept or not rule.allows(each):
            continue
        same = [other for other in images if (other.pool, other.name) == (each.pool, each.name)]
        newer = [other for other in same if (other.published_at, other.uuid) > (each.published_at, each.uuid)]
        assert len(newer) < rule.keep


@given(hosts(), st.integers(0, 3))
def test_so_many_of_a_name_stay_as_there_are(images: list[Candidate], keep: int):
    gone = {each.key for each in to_delete(images, Rule(keep=keep))}
    for name in {(each.pool, each.name) for each in images}:
        same = [each for each in images if (each.pool, each.name) == name]
        left = [each for each in same if each.key not in gone]
        assert len(left) >= min(keep, len(same))
