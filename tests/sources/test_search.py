from __future__ import annotations

from typing import Any

import pytest

from imgstored.errors import (
    ActiveImageNotFoundError,
    APIError,
    ClientError,
    ImageNotFoundError,
    ManifestValidationError,
)
from imgstored.http.location import Location
from imgstored.manifest import load
from imgstored.sources.base import SourceSpec
from imgstored.sources.search import FURTHER_GRACE, PREFERRED_GRACE, Hit, Search
from tests.support.image_site import BASE, fixture_manifest

SPECS = [SourceSpec(f"http://s{number}") for number in range(3)]


def hit(place: int, *, sha1: str | None = None, size: int | None = None, **fields: Any) -> Hit:
    document = {**fixture_manifest(BASE), **fields}
    (file,) = document["files"]
    document["files"] = [{**file, "sha1": sha1 or file["sha1"], "size": size or file["size"]}]
    url = SPECS[place].url
    return Hit(load(document, rules="import"), Location(f"{url}/file", url))


def search(*, active: bool = True) -> Search:
    return Search(BASE, SPECS, active=active)


def test_as_long_as_nobody_has_it_all_are_waited_for():
    asked = search()
    assert asked.left(0) is None
    asked.answered(0, None, 1)
    asked.answered(1, ClientError("down"), 2)
    assert asked.left(1000) is None
    asked.answered(2, None, 1000)
    assert asked.left(1000) == 0


def test_the_most_preferred_source_needs_not_wait_for_others_long():
    asked = search()
    asked.answered(0, hit(0), 10)
    assert asked.left(10) == FURTHER_GRACE
    assert asked.left(10 + FURTHER_GRACE) == 0
    asked.answered(2, hit(2), 10.1)
    assert asked.silent() == [SPECS[1]]
    found = asked.found()
    assert found.source == SPECS[0]
    assert [location.source for location in found.locations] == ["http://s0", "http://s2"]


def test_a_preferred_source_has_some_time_after_the_first_hit():
    asked = search()
    asked.answered(2, hit(2), 10)
    assert asked.left(10) == PREFERRED_GRACE
    asked.answered(1, hit(1), 11)
    assert asked.left(11) == PREFERRED_GRACE - 1
    assert asked.left(12.5) == 0
    assert asked.found().source == SPECS[1]
    asked.answered(0, ClientError("slow"), 11.5)
    assert asked.left(11.5) == 0
    assert [location.source for location in asked.found().locations] == ["http://s1", "http://s2"]


def test_the_order_of_answers_does_not_matter():
    asked = search()
    asked.answered(2, hit(2, name="c"), 0)
    asked.answered(0, hit(0, name="a"), 1)
    asked.answered(1, hit(1, name="b"), 1)
    assert asked.found().manifest.name == "a"


@pytest.mark.parametrize("other", [{"sha1": "1" * 40}, {"size": 1}])
def test_another_file_is_no_further_place(other):
    asked = search()
    asked.answered(0, hit(0), 0)
    asked.answered(1, hit(1, **other), 0)
    asked.answered(2, hit(2), 0)
    assert [location.source for location in asked.found().locations] == ["http://s0", "http://s2"]


def test_only_an_active_image_counts_where_that_is_asked():
    for active in (True, False):
        asked = search(active=active)
        asked.answered(0, hit(0, state="disabled"), 0)
        asked.answered(1, hit(1), 0)
        asked.answered(2, None, 0)
        assert asked.found().source == SPECS[1 if active else 0]
    asked = search()
    for place in range(3):
        asked.answered(place, hit(place, state="disabled") if place == 1 else None, 0)
    with pytest.raises(ActiveImageNotFoundError) as caught:
        asked.found()
    assert caught.value.message == f'an active image "{BASE}" was not found in image sources'
    assert caught.value.hint == 'http://s1 has it, but its state is "disabled"'
    assert caught.value.data == {"problems": []}


def test_nowhere_with_some_that_failed():
    asked = search(active=False)
    down = ClientError("http://s2: connection refused")
    for place, answer in enumerate((None, None, down)):
        asked.answered(place, answer, 0)
    with pytest.raises(ImageNotFoundError) as caught:
        asked.found()
    assert caught.value.message == f'image "{BASE}" was not found'
    assert "http://s2" in caught.value.hint
    assert caught.value.data == {"problems": [{"source": "http://s2", "error": down.as_wire()}]}


def test_if_all_failed_the_first_error_is_raised_with_the_others():
    asked = search()
    errors = [APIError("zero"), ClientError("one"), ClientError("two")]
    for place in (2, 1, 0):
        asked.answered(place, errors[place], 0)
    with pytest.raises(APIError, match="zero") as caught:
        asked.found()
    assert caught.value.data["others"] == [error.as_wire() for error in errors[1:]]
    assert errors[0].data == {}


def test_the_only_source_that_failed_has_its_own_error():
    asked = Search(BASE, SPECS[:1], active=True)
    asked.answered(0, error := ClientError("down"), 0)
    with pytest.raises(ClientError) as caught:
        asked.found()
    assert caught.value is error


def test_a_faulty_manifest_is_told_only_if_nobody_has_a_good_one():
    asked = search()
    asked.answered(0, ClientError("down"), 0)
    asked.answered(1, ManifestValidationError("invalid manifest: name"), 0)
    asked.answered(2, None, 0)
    with pytest.raises(ManifestValidationError):
        asked.found()
    asked.answered(2, hit(2), 0)
    assert asked.found().source == SPECS[2]
