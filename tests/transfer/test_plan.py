from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.http.failures import Backoff
from imgstored.transfer import plan as plan_module
from imgstored.transfer.plan import (
    MAX_RANGE,
    MIN_RANGE,
    MIN_RANGE_OF_BLOBS,
    Ask,
    FileState,
    MirrorState,
    RangePlan,
    Record,
    Restart,
    Sign,
    Wait,
    range_count,
    range_size_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

SLOW = 2.0


def plan(
    ranges: int, *, mirrors: int = 1, connections: int = 4, tries: int = 3, done: Iterable[int] = ()
) -> RangePlan:
    return RangePlan(
        ranges,
        done=frozenset(done),
        mirrors=mirrors,
        connections=connections,
        tries=tries,
        random=lambda: 0.999999,
        backoff=Backoff(first=1.0, most=8.0),
    )


def ask(of: RangePlan, now: float = 0.0) -> Ask:
    step = of.next(now)
    assert isinstance(step, Ask), step
    return step


def proven(of: RangePlan, now: float = 0.0) -> Ask:
    """The first request, when its answer has come."""
    first = ask(of, now)
    assert of.answered(first, partial=True)
    return first


# -- ranges ------------------------------------------------------------------------------------------------


@given(size=st.integers(1, 1 << 44), least=st.sampled_from([MIN_RANGE, MIN_RANGE_OF_BLOBS]))
def test_ranges_are_powers_of_two_within_bounds_and_cover_the_file(size: int, least: int) -> None:
    length = range_size_for(size, least)
    assert least <= length <= MAX_RANGE
    assert length.bit_count() == 1
    count = range_count(size, length)
    assert (count - 1) * length < size <= count * length


@given(
    size=st.integers(1, 1 << 44),
    least=st.sampled_from([MIN_RANGE, MIN_RANGE_OF_BLOBS]),
    connections=st.integers(2, 64),
)
def test_several_connections_end_together(size: int, least: int, connections: int) -> None:
    before, length = range_size_for(size, least), range_size_for(size, least, connections)
    assert least <= length <= before
    rounds = range_count(range_count(size, length), connections)
    assert rounds == range_count(range_count(size, before), connections)
    if length < before:
        # What a connection fetches in all, and what it would if the file were cut as finely as one likes.
        assert rounds * length < size / connections + rounds * 4096


def test_eight_connections_waste_nothing_of_173_mb() -> None:
    length = range_size_for(173_000_000, MIN_RANGE, 8)
    assert (length, range_count(173_000_000, length)) == (1_966_080, 88)


def test_a_file_of_600_mb_is_fetched_in_ranges_of_8_mib() -> None:
    assert range_size_for(600 << 20) == 8 << 20


def test_an_empty_file_has_no_ranges() -> None:
    assert range_count(0, range_size_for(0)) == 0
    assert plan(0).next(0) == "complete"


# -- what to do --------------------------------------------------------------------------------------------


def test_an_unproven_mirror_gets_one_request_and_then_as_many_as_there_are_connections() -> None:
    subject = plan(10)
    first = ask(subject)
    assert subject.next(0) == Wait()
    assert subject.answered(first, partial=True)
    assert [ask(subject).index for _ in range(3)] == [1, 2, 3]
    assert subject.next(0) == Wait()
    assert len(subject.mirrors[0].running) == 4


def test_what_is_there_is_not_asked_for() -> None:
    subject = plan(5, done=[0, 2, 4])
    first = proven(subject)
    assert [first.index, ask(subject).index] == [1, 3]


def test_a_server_without_ranges_gets_one_request_at_a_time() -> None:
    subject = plan(5)
    first = ask(subject)
    assert subject.answered(first, partial=False)
    assert subject.next(0) == Wait()
    assert subject.finished(first, 1, done=range(5)) == []
    assert subject.next(1) == "complete"


def test_a_server_that_stops_serving_ranges_is_not_read_twice() -> None:
    subject = plan(5)
    first = proven(subject)
    second = ask(subject)
    assert not subject.answered(second, partial=False)
    assert subject.failed(second, 1, "stopped serving ranges") == 0
    assert subject.next(1) == Wait()
    assert subject.finished(first, 1, done=[0]) == []
    third = ask(subject)
    assert subject.answered(third, partial=False)


def test_a_range_whose_end_was_not_known_is_asked_for_again() -> None:
    subject = plan(1)
    first = ask(subject)
    assert subject.answered(first, partial=True)
    subject.grow(3)
    assert subject.finished(first, 1, done=[]) == []
    assert [ask(subject).index for _ in range(3)] == [0, 1, 2]


# -- failures ----------------------------------------------------------------------------------------------


def test_a_mirror_rests_longer_after_each_failure_and_is_given_up() -> None:
    subject = plan(1, tries=3)
    now, delays = 0.0, []
    while isinstance(step := subject.next(now), Ask):
        delay = subject.failed(step, now, "refused")
        delays.append(delay)
        if delay is not None:
            waiting = subject.next(now)
            assert isinstance(waiting, Wait)
            assert waiting.seconds == pytest.approx(delay)
            now += delay
    assert delays == [pytest.approx(1.0, 0.01), pytest.approx(2.0, 0.01), None]
    assert step == "exhausted"
    assert subject.mirrors[0].state == "given up"
    assert subject.faults() == ["refused"]


def test_what_will_not_change_is_not_tried_again() -> None:
    subject = plan(1)
    assert subject.failed(ask(subject), 0, "404", lasting=True) is None
    assert subject.next(0) == "exhausted"


def test_a_server_may_ask_for_more_time() -> None:
    subject = plan(1)
    assert subject.failed(ask(subject), 0, "503", retry_after=5) == 5
    assert subject.next(0) == Wait(5)


def test_progress_starts_the_count_of_failures_again() -> None:
    subject = plan(1, tries=2)
    now = 0.0
    for _ in range(10):
        delay = subject.failed(ask(subject, now), now, "cut off", progressed=True)
        assert delay is not None
        now += delay
    assert subject.failed(ask(subject, now), now, "cut off") is None


# -- refusals ----------------------------------------------------------------------------------------------


def test_a_refusal_by_a_proven_mirror_costs_a_connection_and_then_time() -> None:
    subject = plan(9, tries=3)
    first = proven(subject)
    second = ask(subject)
    assert subject.failed(second, 0, "403", lasting=True, ranges=True) == 0.0
    assert subject.next(0) == Wait()
    assert subject.failed(first, 0, "404", lasting=True) == pytest.approx(1.0, 0.01)
    assert subject.failed(ask(subject, 1), 1, "404", lasting=True) == pytest.approx(2.0, 0.01)
    assert subject.failed(ask(subject, 3), 3, "404", lasting=True) is None
    assert subject.faults() == ["404"]


def test_what_comes_in_between_begins_the_count_anew() -> None:
    subject = plan(100, tries=2)
    subject.finished(proven(subject), 0, done=[0])
    for number in range(1, 20):
        assert subject.failed(ask(subject, 10 * number), 10 * number, "403", lasting=True) is not None
        subject.finished(ask(subject, 10 * number + 5), 10 * number + 5, done=[number])


def test_another_size_is_final_also_for_a_proven_mirror() -> None:
    subject = plan(2)
    assert subject.failed(proven(subject), 0, "too long", other_size=True) is None


def test_after_a_refused_range_a_plain_request_decides() -> None:
    subject = plan(5)
    first = ask(subject)
    assert not first.plain
    assert subject.failed(first, 0, "403", lasting=True, ranges=True) == 0.0
    second = ask(subject)
    assert (second.index, second.plain) == (0, True)
    assert subject.failed(second, 0, "403", lasting=True, ranges=True) is None


def test_a_plain_request_that_is_answered_makes_the_mirror_a_whole_one() -> None:
    subject = plan(5)
    subject.failed(ask(subject), 0, "405", lasting=True, ranges=True)
    second = ask(subject)
    assert subject.answered(second, partial=False)
    assert subject.next(0) == Wait()
    # It broke off: again without a Range header.
    assert subject.failed(second, 0, "reset") is not None
    third = ask(subject, 9)
    assert third.plain
    assert subject.answered(third, partial=False)
    subject.finished(third, 9, done=range(5))
    assert subject.next(9) == "complete"


def test_unusable_ranges_are_asked_for_twice_and_then_the_whole() -> None:
    subject = plan(5, tries=9)
    now = 0.0
    plain = []
    while isinstance(step := subject.next(now), Ask):
        plain.append(step.plain)
        now += subject.failed(step, now, "no Content-Range", ranges=True) or 0.0
    assert plain == [False, False, True]
    assert step == "exhausted"


def test_a_proven_mirror_that_refuses_for_good_is_asked_for_the_whole_before_it_is_given_up() -> None:
    subject = plan(5, tries=3)
    subject.finished(proven(subject), 0, done=[0])
    now = 0.0
    plain = []
    while isinstance(step := subject.next(now), Ask):
        plain.append(step.plain)
        now += subject.failed(step, now, "403", lasting=True, ranges=True) or 0.0
    assert plain == [False, False, False, True]


def test_a_range_that_failed_comes_before_those_behind_it() -> None:
    subject = plan(9)
    first = proven(subject)
    second = ask(subject)
    ask(subject)
    subject.failed(second, 1, "reset")
    # One connection less, until some ranges have come.
    assert subject.next(1) == Wait()
    subject.finished(first, 2, done=[0])
    assert ask(subject).index == second.index


def test_a_server_that_bears_few_connections_is_asked_for_one_more_now_and_then() -> None:
    subject = plan(1000, connections=8)
    done: set[int] = set()
    running = [proven(subject)]
    refused = 0
    for now in range(200):
        while isinstance(step := subject.next(now), Ask):
            if len(subject.mirrors[0].running) > 3:
                assert subject.failed(step, now, "503") == 0
                refused += 1
            else:
                subject.answered(step, partial=True)
                running.append(step)
        oldest = running.pop(0)
        done.add(oldest.index)
        subject.finished(oldest, now, done=done)
    assert len(done) == 200
    assert len(subject.mirrors[0].running) == 2
    assert refused < 45


# -- several mirrors ---------------------------------------------------------------------------------------


def test_the_next_mirror_takes_over_when_one_is_given_up() -> None:
    subject = plan(2, mirrors=2)
    first = ask(subject)
    assert (first.mirror, first.index) == (0, 0)
    assert subject.failed(first, 0, "404", lasting=True) is None
    second = ask(subject)
    assert (second.mirror, second.index) == (1, 0)


def test_while_none_has_proven_itself_one_that_rests_is_passed_over() -> None:
    subject = plan(9, mirrors=2)
    assert subject.failed(ask(subject), 0, "refused") == pytest.approx(1.0, 0.01)
    second = proven(subject)
    assert second.mirror == 1
    # It goes on with that one when the other has rested.
    assert ask(subject, 50).mirror == 1


def test_a_mirror_that_has_proven_itself_is_waited_for() -> None:
    subject = plan(9, mirrors=2)
    assert subject.failed(proven(subject), 0, "reset") == pytest.approx(1.0, 0.01)
    assert isinstance(subject.next(0), Wait)
    assert ask(subject, 1).mirror == 0


def test_all_rest_and_the_first_to_be_ready_is_asked() -> None:
    subject = plan(1, mirrors=2)
    subject.failed(ask(subject), 0, "503", retry_after=5)
    subject.failed(ask(subject), 0, "503", retry_after=3)
    assert subject.next(1) == Wait(2)
    assert ask(subject, 3).mirror == 1


# -- whether it is still the same file ---------------------------------------------------------------------

SIGNS: tuple[Sign, ...] = ("validator", "unread bytes", "read bytes")


def table(first: str) -> list[list[str]]:
    """The rows of the table in the module's docstring whose first heading is this."""
    assert plan_module.__doc__ is not None
    lines = plan_module.__doc__.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {first} "))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    heading, _, *cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [heading, *cells]


def differing() -> list[tuple[str, str, Sign, str]]:
    heading, *rows = table("file")
    assert heading == ["file", "mirror's record", *SIGNS]
    return [
        (file, record, sign, entry)
        for file, records, *entries in rows
        for record in (get_args(Record) if records == "any" else [records])
        for sign, entry in zip(SIGNS, entries, strict=True)
    ]


def test_the_table_has_every_state_and_every_sign() -> None:
    expected = set(itertools.product(get_args(FileState), get_args(Record), get_args(Sign)))
    assert {(file, record, sign) for file, record, sign, _ in differing()} == expected


@pytest.mark.parametrize(("file", "record", "sign", "entry"), differing())
def test_another_file_does_what_the_table_says(file: str, record: str, sign: Sign, entry: str) -> None:
    subject = plan(9, tries=9)
    first = proven(subject)
    second, third = ask(subject), ask(subject)
    changes = {"steady": 0, "changed": 1, "fickle": 2}[record]
    for now in range(0, 100 * changes, 100):
        subject.dropped(first)
        subject.dropped(second)
        assert isinstance(subject.differs(third, now, "other bytes", "unread bytes"), Restart)
        assert subject.restart_due
        subject.begin_anew()
        first, second, third = (ask(subject, now + 99) for _ in range(3))
    subject.file = cast("FileState", file)
    assert (subject.file, subject.mirrors[0].record) == (file, record)

    reaction = subject.differs(second, 200, "other", sign)

    expected, _, becomes = entry.partition(", ")
    if expected != "spoiled":  # after that, nobody asks any more
        assert subject.mirrors[0].record == (becomes or record)
    if expected == "restart":
        assert isinstance(reaction, Restart)
        assert reaction.needless == [first, third]
        assert subject.file == "restarting"
    else:
        assert reaction == expected
        assert subject.file == ("spoiled" if expected == "spoiled" else file)
    assert subject.reusable == (subject.file != "spoiled")
    assert subject.trusts_validators(0) == (subject.mirrors[0].record != "fickle")
    # Whatever happened, that request has ended.
    assert second.number not in subject.mirrors[0].running


def test_nothing_is_handed_out_before_a_restart() -> None:
    subject = plan(9)
    first = proven(subject)
    second = ask(subject)
    assert subject.differs(second, 1, "other bytes", "unread bytes") == Restart([first], 0.0)
    assert subject.next(1) == Wait()
    assert not subject.restart_due
    # It is needless: that it fails is no fault of the mirror's, and what it brought does not count.
    assert subject.failed(first, 1, "aborted", lasting=True, done=[0]) == 0.0
    assert subject.restart_due
    subject.begin_anew()
    assert (subject.file, subject.restart_due) == ("sound", False)
    assert ask(subject, 1).index == 0


def test_a_mirror_whose_file_keeps_changing_is_given_up() -> None:
    subject = plan(9, tries=2)
    # Progress does not excuse it.
    first = proven(subject)
    reaction = subject.differs(first, 0, "other bytes", "unread bytes", progressed=True)
    assert isinstance(reaction, Restart)
    assert reaction.rests == pytest.approx(1.0, 0.01)
    subject.begin_anew()
    second = ask(subject, 9)
    assert subject.differs(second, 9, "other bytes", "unread bytes", progressed=True) == Restart([], None)
    subject.begin_anew()
    assert subject.next(9) == "exhausted"
    assert subject.faults() == ["other bytes"]


def test_a_needless_request_may_be_the_one_that_shows_it() -> None:
    subject = plan(1)
    first = proven(subject)
    hedge = ask(subject, SLOW)
    assert subject.finished(hedge, 3, done=[0]) == [first]
    reaction = subject.differs(first, 3, "other bytes", "unread bytes")
    assert isinstance(reaction, Restart)
    assert reaction.rests == pytest.approx(1.0, 0.01)
    assert subject.mirrors[0].failures == 1


@pytest.mark.parametrize("stated", [True, False])
def test_another_size_gives_a_mirror_up_and_its_ranges_do_not_count(stated: bool) -> None:
    subject = RangePlan(2, mirrors=2, connections=1, tries=3, random=lambda: 0.5, size_stated=stated)
    first = ask(subject)
    subject.answered(first, partial=False)
    assert subject.brings_whole(first)
    assert subject.failed(first, 0, "too long", other_size=True, done=[0, 1]) is None
    assert subject.mirrors[0].state == "given up"
    second = ask(subject)
    assert (second.mirror, second.index) == (1, 0)
    assert subject.reusable == stated


def test_a_mirror_serves_as_the_table_says() -> None:
    heading, *rows = table("state")
    assert heading[2:] == ["a 206 makes it", "a 200 makes it"]
    assert [row[0] for row in rows] == [*get_args(get_type_hints(MirrorState)["state"])]
    for state, many, *after in rows:
        for partial, becomes in zip((True, False), after, strict=True):
            subject = plan(9, connections=4)
            first = ask(subject)
            subject.mirrors[0].state = cast('Literal["unproven"]', state)
            running = [first]
            while isinstance(step := subject.next(0), Ask):
                running.append(step)
            most = 4 if many.startswith("as many") else 1
            assert len(running) == most
            subject.answered(first, partial=partial)
            assert subject.mirrors[0].state == becomes


# -- slow ranges -------------------------------------------------------------------------------------------


def test_a_slow_range_is_asked_for_a_second_time_when_nothing_else_is_left() -> None:
    subject = plan(2)
    first = proven(subject)
    second = ask(subject)
    assert subject.next(1) == Wait(SLOW - 1)
    hedge = ask(subject, SLOW)
    assert hedge.index == first.index == 0
    # Whoever is first makes the other one needless; and a range is hedged once.
    assert subject.finished(hedge, 3, done=[0]) == [first]
    subject.dropped(first)
    assert ask(subject, 5).index == second.index
    assert subject.next(9) == Wait()


def test_slow_is_measured_by_what_ranges_took_so_far() -> None:
    subject = plan(3)
    first = proven(subject)
    subject.finished(first, 10, done=[0])
    ask(subject, 10)
    ask(subject, 10)
    assert subject.next(15) == Wait(15)


# -- any order of outcomes ---------------------------------------------------------------------------------


@dataclass
class Model:
    """Plays a downloader against the plan, and knows what it must have handed out."""

    ranges: int
    mirrors: int
    connections: int
    tries: int
    plan: RangePlan = field(init=False)
    now: float = 0.0
    done: set[int] = field(default_factory=set)
    running: dict[int, Ask] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    proven: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.plan = plan(self.ranges, mirrors=self.mirrors, connections=self.connections, tries=self.tries)

    def hand_out(self) -> object:
        """All that the plan wants now; returns the step that was not a request."""
        while len(self.running) < self.connections:
            step = self.plan.next(self.now)
            if not isinstance(step, Ask):
                break
            assert step.number not in self.running
            assert step.mirror in self.proven or len(self.plan.mirrors[step.mirror].running) == 1
            assert step.index not in self.done
            assert self.plan.mirrors[step.mirror].state != "given up"
            twice = [other for other in self.running.values() if other.index == step.index]
            # A second request for a range is made only when no range is left that nobody asked for.
            left = {*range(self.ranges)} - self.done - {other.index for other in self.running.values()}
            assert len(twice) <= (0 if left else 1)
            self.running[step.number] = step
        else:
            return Wait()
        assert (step == "complete") == (len(self.done) == self.ranges)
        if step == "exhausted":
            assert not self.running
            assert all(mirror.state == "given up" for mirror in self.plan.mirrors)
        return step

    def end_one(self, data: st.DataObject) -> None:
        """Lets one of the requests under way come to something."""
        job = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        outcome = data.draw(
            st.sampled_from(
                ["answer", "answer", "finish", "finish", "whole", "fail", "lasting", "drop", "differ"]
            )
        )
        if outcome == "answer" and job.number not in self.answered:
            self.answered.add(job.number)
            self.proven.add(job.mirror)
            self.plan.answered(job, partial=True)
            return
        del self.running[job.number]
        if outcome == "finish":
            self.finish(job, {job.index})
        elif outcome == "whole" and self.plan.answered(job, partial=False):
            self.finish(job, set(range(self.ranges)))
        elif outcome == "drop":
            self.plan.dropped(job)
        elif outcome == "differ":
            self.differ(job, data.draw(st.sampled_from(["validator", "unread bytes"])))
        else:
            progressed = data.draw(st.booleans())
            self.plan.failed(job, self.now, "fault", lasting=outcome == "lasting", progressed=progressed)

    def differ(self, job: Ask, sign: Sign) -> None:
        if isinstance(self.plan.differs(job, self.now, "changed", sign), Restart):
            # The connections' ends come in any order, and cost their mirrors nothing.
            for other in self.running.values():
                assert self.plan.next(self.now) == Wait()
                assert self.plan.failed(other, self.now, "aborted", lasting=True) == 0.0
            self.running.clear()
            assert self.plan.restart_due
            self.plan.begin_anew()
            self.done.clear()

    def finish(self, job: Ask, got: set[int]) -> None:
        self.done |= got
        for other in self.plan.finished(job, self.now, done=got):
            assert other.index in self.done
            del self.running[other.number]
            self.plan.dropped(other)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    ranges=st.integers(0, 12),
    mirrors=st.integers(1, 3),
    connections=st.integers(1, 4),
    tries=st.integers(1, 3),
)
def test_whatever_happens_no_range_is_lost(
    data: st.DataObject, ranges: int, mirrors: int, connections: int, tries: int
) -> None:
    model = Model(ranges, mirrors, connections, tries)
    for _ in range(data.draw(st.integers(0, 40))):
        step = model.hand_out()
        if step in ("complete", "exhausted"):
            break
        if model.running:
            model.end_one(data)
        else:
            assert isinstance(step, Wait)
            assert step.seconds is not None, "nothing would ever happen again"
        model.now += data.draw(st.sampled_from([0.0, 0.5, 10.0]))
        if data.draw(st.sampled_from([False] * 9 + [True])) and not model.running:
            model.done.clear()
            model.plan.begin_anew()
    # From here on every server is sound, and so everything that a mirror is left for gets done.
    for _ in range(500):
        if model.hand_out() in ("complete", "exhausted"):
            break
        for job in list(model.running.values()):
            if model.running.pop(job.number, None) is not None:
                model.proven.add(job.mirror)
                model.plan.answered(job, partial=True)
                model.finish(job, {job.index})
        model.now += 10.0
    else:
        pytest.fail("it does not end")
