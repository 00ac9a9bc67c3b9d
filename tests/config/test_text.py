"""The lines and the faults of a configuration's text."""

from __future__ import annotations

import json
import tomllib

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.config import tables
from imgstored.config.text import faults, lines

TABLES = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
    lambda below: st.dictionaries(st.sampled_from(["a", "b c", "x.y", "url"]), below, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*tables.Config.__struct_fields__, "other"]), TABLES, max_size=4))
def test_there_is_a_fault_wherever_msgspec_sees_one(document):
    """What looks for all of them must see what the library sees, and nothing else."""
    try:
        msgspec.convert(document, tables.Config)
    except msgspec.ValidationError:
        assert faults(document, tables.Config)
    else:
        assert faults(document, tables.Config) == []


def test_each_key_has_its_line():
    text = (
        'state = """\n/a\n"""\n[limits]  # one\ntries = 1\n\n[socket]\npath = "/s"\n'
        '[[sources]]\nurl = "a"\n  [sources.headers]\n  "x y" = "1"\n'
        '[[sources]]\nurl = "b"\nkeys = [\n"1",\n]\n'
        "view.mode = 'off'\n"
    )
    found = lines(text.replace("view.mode", "ca_file"))
    assert {key: found[key] for key in ("state", "limits", "limits.tries", "socket.path")} == {
        "state": 1,
        "limits": 4,
        "limits.tries": 5,
        "socket.path": 8,
    }
    assert (found["sources[0].url"], found["sources[0].headers.x y"]) == (10, 12)
    assert (found["sources[1]"], found["sources[1].url"], found["sources[1].keys"]) == (13, 14, 15)
    assert lines("view.mode = 'off'") == {"view": 1, "view.mode": 1}


HARD = st.text(alphabet="a'\"\\#[]{}\n= \u00e9", max_size=12)


@given(st.lists(st.tuples(HARD, st.integers(0, 3)), max_size=6))
def test_lines_are_those_of_the_statements_whatever_their_texts_have(values):
    """Strings that span lines, and strings with brackets, quotes and comment signs."""
    text, expected, number = "", {}, 1
    for place, (value, form) in enumerate(values):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        written = [
            json.dumps(value),
            f'"""{escaped}"""',
            "'''{}'''".format(value.replace("'", "")),
            f"[ # ]\n{json.dumps(value)}, # {{\n]",
        ][form]
        statement = f"k{place} = {written} # '[\n"
        text, expected[f"k{place}"] = text + statement, number
        number += statement.count("\n")
    found = lines(text)
    assert {key: found[key] for key in expected} == expected


def test_a_long_array_is_parsed_once(monkeypatch):
    parsed = []
    loads = tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: parsed.append(len(text)) or loads(text))
    text = "keys = [\n" + '"x",\n' * 2000 + "]\nstate = '/s'\n"
    assert lines(text)["state"] == 2003
    assert sum(parsed) == len(text)
