"""Which stage is said to limit an import, by numbers alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.transfer.limiting import STAGES, limiting

ON_THE_WAY = ("network", "checksum", "decompress", "pool")


@pytest.mark.parametrize(
    ("spent", "downloading", "stage"),
    [
        ({"network": 3.9, "checksum": 0.1, "decompress": 0.3}, True, "network"),
        ({"network": 0.2, "checksum": 0.4, "decompress": 3.8, "pool": 1.0}, True, "decompress"),
        ({"decompress": 0.9, "pool": 4.0}, False, "pool"),
        ({"checksum": 2.0, "network": 1.0}, True, "checksum"),
        # Who waits for a place, an origin or a lock does nothing else …
        ({"turn": 4.0}, True, "turn"),
        ({"turn": 4.0, "origin": 4.0}, True, "turn"),
        ({"origin": 4.0}, False, "origin"),
        ({"lock": 2.5, "pool": 1.0}, False, "lock"),
        # … but download, and then that is what takes the time.
        ({"origin": 4.0}, True, "network"),
        ({"lock": 4.0}, True, "network"),
        ({"origin": 0.5, "pool": 3.0}, False, "pool"),
        # Nothing speaks of anything.
        ({"pool": 0.1, "network": 0.05}, False, None),
        ({}, True, None),
    ],
)
def test_the_stage_that_the_others_wait_for(spent: Any, downloading: bool, stage: str | None) -> None:
    assert limiting(spent, 4.0, downloading=downloading) == stage


def test_no_time_has_passed() -> None:
    assert limiting({"pool": 1.0}, 0.0, downloading=True) is None


@given(
    spent=st.dictionaries(st.sampled_from(STAGES), st.floats(0, 10)),
    seconds=st.floats(0.01, 10),
    downloading=st.booleans(),
)
def test_it_is_always_one_that_took_time(spent: Any, seconds: float, downloading: bool) -> None:
    stage = limiting(spent, seconds, downloading=downloading)
    if stage in ON_THE_WAY and not (downloading and (spent.get("origin") or spent.get("lock"))):
        assert spent[stage] == max(spent.get(each, 0.0) for each in ON_THE_WAY)
        assert spent[stage] > 0
    elif stage is not None and stage not in ON_THE_WAY:
        assert spent[stage] >= seconds / 2


@given(share=st.floats(0.1, 1), others=st.floats(0, 0.09))
def test_more_of_the_others_changes_nothing_below_it(share: float, others: float) -> None:
    for stage in ON_THE_WAY:
        spent: Any = {each: share if each == stage else others for each in ON_THE_WAY}
        assert limiting(spent, 1.0, downloading=False) == stage
