from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from imgstored.transfer.watermark import Front


def test_waits_for_more_than_what_was_seen() -> None:
    front = Front()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(front.wait, 10)
        front.advance(10)
        assert not waiting.done()
        front.advance(11)
        assert waiting.result(5) == 11
    assert front.wait(3) == 11


def test_never_goes_back() -> None:
    front = Front()
    front.advance(10)
    front.advance(5)
    assert front.position == 10


def test_the_end_wakes_who_waits() -> None:
    front = Front()
    front.advance(10)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(front.wait, 10)
        assert not front.finished
        front.finish()
        assert waiting.result(5) == 10
    assert front.finished


def test_a_failure_wakes_who_waits_and_hides_what_is_there() -> None:
    front = Front()
    front.advance(10)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(front.wait, 10)
        front.fail(KeyError("first"))
        front.fail(ValueError("second"))
        assert isinstance(waiting.exception(5), KeyError)
    with pytest.raises(KeyError, match="first"):
        front.wait(0)


def test_what_is_finished_cannot_fail() -> None:
    front = Front()
    front.advance(10)
    front.finish()
    front.fail(KeyError("late"))
    assert front.wait(10) == 10
