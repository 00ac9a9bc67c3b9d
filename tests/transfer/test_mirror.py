from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from imgstored.http.location import Location
from imgstored.http.range_reply import FetchError, RangeReply
from imgstored.transfer.mirror import Mirror, Pace, ValidatorChangedError, check_reply, failure

PART = RangeReply(True, 0, 100, 1000, '"1"')
MIRRORS = [Mirror(Location(f"http://{name}.example/file?token=SECRET", "s")) for name in "ab"]


def check(
    reply: RangeReply, size: int | None = 1000, max_size: int = 5000, validator: str | None = None
) -> None:
    check_reply(reply, size=size, max_size=max_size, validator=validator)


@pytest.mark.parametrize(
    "reply",
    [
        PART,
        replace(PART, total=None),
        replace(PART, validator=None),
        RangeReply(False, 0, 1000, 1000, None),
        RangeReply(False, 0, None, None, None),
    ],
)
def test_an_answer_about_the_right_file(reply: RangeReply) -> None:
    check(reply, validator='"1"')


def test_the_first_answer_says_how_large_the_file_is() -> None:
    check(PART, size=None)
    check(RangeReply(False, 0, None, None, None), size=None)


def test_a_file_of_another_size() -> None:
    with pytest.raises(FetchError, match="expected 999 bytes, the server has 1000") as caught:
        check_reply(PART, size=999, max_size=5000, validator=None, proven=True)
    assert caught.value.lasting
    assert caught.value.other_size


def test_a_part_of_a_file_of_another_size_is_no_proof() -> None:
    """Some servers write the size of the part as the file's."""
    with pytest.raises(FetchError, match="expected 999 bytes, the server has 1000") as caught:
        check(PART, size=999)
    assert (caught.value.lasting, caught.value.ranges, caught.value.other_size) == (True, True, False)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (replace(PART, total=None), "does not send the file's size"),
        (replace(PART, total=5001), "than the 5000 allowed"),
    ],
)
def test_a_file_of_unknown_size_has_bounds(reply: RangeReply, message: str) -> None:
    with pytest.raises(FetchError, match=message) as caught:
        check(reply, size=None)
    assert caught.value.lasting


def test_a_file_in_another_state() -> None:
    with pytest.raises(ValidatorChangedError, match="changed"):
        check(PART, validator='"0"')


def test_all_mirrors_share_one_context_each() -> None:
    mirror = Mirror(Location("https://a.example/", "s"))
    assert mirror.context() is mirror.context()


@pytest.mark.parametrize(
    ("count", "faults", "message"),
    [
        (1, ["http://a.example/file: gone"], "http://a.example/file: gone"),
        (2, ["a: gone", "b: gone"], "no mirror could deliver the file: a: gone; b: gone"),
        (0, [], "no mirror could deliver the file: no source has the file"),
    ],
)
def test_the_last_error_says_what_each_mirror_did(count: int, faults: list[str], message: str) -> None:
    error = failure(MIRRORS[:count], faults)
    assert error.message == message
    assert "try again" in error.hint


def test_messages_have_no_secrets() -> None:
    assert MIRRORS[0].url == "http://a.example/file"
    assert "SECRET" not in MIRRORS[0].url


# -- whether a request is fast enough ------------------------------------------------------------------------


def pace(silence: float = 10, rate: int = 100, window: float = 60) -> Pace:
    return Pace(silence, rate, window, started=1000)


def test_silence_from_the_start() -> None:
    watch = pace()
    assert watch.fault(1009.9, 0) is None
    assert watch.fault(1010, 0) == "the server sent nothing for 10 s"


def test_silence_counts_from_the_last_byte() -> None:
    watch = pace()
    assert watch.fault(1009, 5000) is None
    assert watch.fault(1018, 5000) is None
    assert watch.fault(1019, 5000) == "the server sent nothing for 10 s"


def test_a_failure_that_is_kept_holds_no_buffers() -> None:
    """They are in the frames of its traceback, and of those of its causes."""

    def fail() -> None:
        try:
            int("below")
        except ValueError as error:
            raise FetchError("above") from error

    mirror = Mirror(Location("http://a.example/file", "s"))
    with pytest.raises(FetchError) as caught:
        fail()
    mirror.failed(caught.value)
    kept = failure([mirror], ["above"])
    while kept is not None:
        assert kept.__traceback__ is None
        kept = kept.exceptions[0] if isinstance(kept, ExceptionGroup) else kept.__cause__
    assert mirror.failure is caught.value


def test_a_drip_is_too_slow() -> None:
    watch = pace()
    faults = [watch.fault(1000.0 + second, second) for second in range(1, 61)]
    assert faults == [None] * 59 + ["the server sends less than 100 bytes a second"]


def test_each_window_counts_by_itself() -> None:
    watch = pace(silence=1000)
    assert watch.fault(1060, 1_000_000) is None
    assert watch.fault(1100, 1_000_000) is None
    assert watch.fault(1120, 1_000_001) == "the server sends less than 100 bytes a second"


def test_without_a_rate_a_drip_will_do() -> None:
    watch = pace(rate=0)
    assert [watch.fault(1000.0 + second, second) for second in range(1, 200)] == [None] * 199


@given(steps=st.lists(st.tuples(st.floats(0.1, 5), st.integers(1000, 10_000)), max_size=50))
def test_a_server_that_is_fast_enough_is_left_alone(steps: list[tuple[float, int]]) -> None:
    watch = pace()
    times = accumulate((seconds for seconds, _ in steps), initial=1000.0)
    sizes = accumulate((size for _, size in steps), initial=0)
    assert all(watch.fault(now, fetched) is None for now, fetched in zip(times, sizes, strict=True))
