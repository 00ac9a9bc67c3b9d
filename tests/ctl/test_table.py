from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.errors import UsageError
from imgctl.table import cell, fields, sort_rows, table

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
rows = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), json_values), max_size=8)


def test_columns_are_padded_but_for_the_last():
    lines = table([{"a": "x", "b": "long"}, {"a": "longer", "b": "y"}], ["a", "b"])
    assert lines == ["A       B", "x       long", "longer  y"]


def test_no_rows_print_nothing():
    assert table([], ["a"]) == []


def test_without_the_header_columns_stay_as_wide():
    assert table([{"version": "1", "os": "x"}], ["version", "os"], header=False) == ["1        x"]


def test_a_cell_of_a_mebibyte_does_not_widen_all_others():
    """With 3,000 rows it took 6 GiB."""
    some = [{"name": "base", "os": "x"} for _ in range(1000)]
    some[5] = {"name": "n" * (1 << 20), "os": "x"}
    lines = table(some, ["name", "os"])
    assert sum(map(len, lines)) < 3 << 20
    assert lines[6] == "n" * (1 << 20) + "  x"
    assert lines[7] == "base".ljust(1024) + "  x"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ("", ""),
        (True, "true"),
        (12, "12"),
        (1.0, "1"),
        (1.5, "1.5"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ([], "[]"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb", "a\\nb"),
        (["\x9b"], '["\\x9b"]'),
    ],
)
def test_a_cell(value, shown):
    assert cell(value) == shown


@given(rows, st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4), st.booleans())
def test_a_table_has_a_printable_line_for_each_row(some, columns, header):
    lines = table(some, columns, header=header)
    assert len(lines) == (len(some) + header if some else 0)
    assert all(line.isprintable() for line in lines)


def names(ordered):
    return [row.get("n") for row in ordered]


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        (["b", "a", "B"], ["B", "a", "b"]),
        (["10", "9", 8], [8, "9", "10"]),
        (["10", "9a", "9"], ["9", "10", "9a"]),
        (["b", None, "a"], [None, "a", "b"]),
        ([2, None, -1], [None, -1, 2]),
        ([True, False], [False, True]),
    ],
)
def test_one_field(values, ordered):
    given_rows = [{"n": value} if value is not None else {} for value in values]
    assert names(sort_rows(given_rows, ["n"])) == ordered
    assert names(sort_rows(given_rows, ["-n"])) == ordered[::-1]


def test_the_second_field_decides_among_equals():
    some = [{"a": 1, "n": "y"}, {"a": 0, "n": "z"}, {"a": 1, "n": "x"}]
    assert names(sort_rows(some, ["a", "n"])) == ["z", "x", "y"]
    assert names(sort_rows(some, ["-a", "n"])) == ["x", "y", "z"]


def test_a_field_needs_a_name():
    with pytest.raises(UsageError, match='invalid sort field: "-"'):
        sort_rows([], ["-"])


@given(rows, st.lists(st.sampled_from(["a", "-b", "c"]), max_size=3))
def test_sorting_loses_nothing(some, by):
    ordered = sort_rows(some, by)
    assert sorted(map(id, ordered)) == sorted(map(id, some))


@given(st.lists(st.dictionaries(st.just("a"), st.integers() | st.text() | st.none())), st.booleans())
def test_equal_rows_keep_their_order(some, reverse):
    numbered = [{**row, "place": place, "b": 1} for place, row in enumerate(some)]
    ordered = sort_rows(numbered, ["-b" if reverse else "b"])
    assert [row["place"] for row in ordered] == list(range(len(some)))


def test_fields_are_comma_separated():
    assert fields(["uuid, name", "os,"]) == ["uuid", "name", "os"]
