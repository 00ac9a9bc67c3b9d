from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from imgstored.transfer.watermark import Watermark


def test_waits_for_more_than_what_was_seen() -> None:
    watermark = Watermark()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(watermark.wait, 10)
        watermark.advance(10)
        assert not waiting.done()
        watermark.advance(11)
        assert waiting.result(5) == 11
    assert watermark.wait(3) == 11


def test_never_goes_back() -> None:
    watermark = Watermark()
    watermark.advance(10)
    watermark.advance(5)
    assert watermark.position == 10


def test_the_end_wakes_who_waits() -> None:
    watermark = Watermark()
    watermark.advance(10)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(watermark.wait, 10)
        assert not watermark._finished
        watermark.finish()
        assert waiting.result(5) == 10
    assert watermark._finished


def test_a_failure_wakes_who_waits_and_hides_what_is_there() -> None:
    watermark = Watermark()
    watermark.advance(10)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(watermark.wait, 10)
        watermark.fail(KeyError("first"))
        watermark.fail(ValueError("second"))
        assert isinstance(waiting.exception(5), KeyError)
    with pytest.raises(KeyError, match="first"):
        watermark.wait(0)


def test_what_is_finished_cannot_fail() -> None:
    watermark = Watermark()
    watermark.advance(10)
    watermark.finish()
    watermark.fail(KeyError("late"))
    assert watermark.wait(10) == 10
