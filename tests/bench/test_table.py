"""What the table says about figures."""

from __future__ import annotations

from bench.table import Row, bounded, compared, markdown, seconds


def test_a_ratio_is_that_of_the_medians():
    row = compared("gzip", [1.0, 9.0, 2.0], "the peer", [4.0, 4.0, 100.0], at_most=0.5)
    assert row.cells == ("gzip", "2 s (1–9)", "4 s (4–100) the peer", "0.50", "≤ 0.5", "ok")


def test_a_ratio_above_its_goal_is_missed_however_little():
    row = compared("gzip", [2.004], "the peer", [4.0], at_most=0.5)
    assert row.ratio == "0.50"
    assert row.cells[-1] == "**missed**"


def test_without_a_goal_there_is_no_verdict():
    row = compared("gzip", [3.0], "the peer", [1.0], at_most=None)
    assert row.cells[3:] == ("3.00", "", "")


def test_a_bound_holds_for_every_value():
    assert bounded("memory", [100.0, 127.9, 128.0], "≤ 128 MiB", at_most=128).reached
    row = bounded("memory", [100.0, 100.0, 128.1], "≤ 128 MiB", at_most=128)
    assert row.cells == ("memory", "100.0 MiB (100.0–128.1)", "", "", "≤ 128 MiB", "**missed**")


def test_less_than_a_second_is_told_in_milliseconds():
    assert seconds([0.0312, 0.0301, 0.05]) == "31.2 ms (30.1–50)"
    assert seconds([0.5, 1.5]) == "1 s (0.5–1.5)"
    assert seconds([12.345]) == "12.3 s"


def test_less_than_a_millisecond_is_told_in_microseconds():
    assert seconds([0.00004251]) == "42.5 µs"
    assert seconds([0.0002, 0.0003, 0.00099]) == "300 µs (200–990)"
    assert seconds([0.0002, 0.001]) == "0.6 ms (0.2–1)"


def test_markdown_has_a_heading_and_a_line_for_each_row():
    lines = markdown([Row("one", "1 s"), Row("two", "2 s", reached=True)]).splitlines()
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[2:] == ["| one | 1 s |  |  |  |  |", "| two | 2 s |  |  |  | ok |"]
