from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.arguments import Option, parse
from imgctl.cli import function_of
from imgctl.commands import GLOBAL_OPTIONS, all_commands, find_command
from imgctl.errors import CommandError, UsageError, in_imgadms_words

OPTIONS = (
    Option(("-P", "--pool"), "POOL", ""),
    Option(("-q", "--quiet"), "", ""),
    Option(("-S",), "URL", ""),
)


def test_options_and_arguments_may_be_mixed():
    given = parse(OPTIONS, ["-q", "u", "-P", "zones", "v", "--pool=tank", "-S", "a", "-Sb"])
    assert given.flag("--quiet")
    assert given.text("-P") == "tank"
    assert given.texts("-S") == ["a", "b"]
    assert given.rest == ["u", "v"]


def test_what_is_not_given():
    given = parse(OPTIONS, [])
    assert (given.flag("-q"), given.text("-P"), given.texts("-S")) == (False, None, [])


@pytest.mark.parametrize(
    ("given", "hint"),
    [("--pol", 'did you mean "--pool"?'), ("--force", ""), ("--quite", 'did you mean "--quiet"?')],
)
def test_an_option_that_looks_like_it_is_offered(given, hint):
    """The dashes alone make none look like another."""
    with pytest.raises(CommandError) as caught:
        parse((*OPTIONS, Option(("--socket",), "PATH", "")), [given])
    assert caught.value.hint == hint


def test_two_dashes_end_the_options():
    assert parse(OPTIONS, ["--", "-q"]).rest == ["-q"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-x"], 'unknown option: "-x"'),
        (["--bogus"], 'unknown option: "--bogus"'),
        (["u", "-P"], 'do not have enough args for "-P" option'),
        (["--pool"], 'do not have enough args for "--pool" option'),
        (["--quiet=1"], 'the option "--quiet" has no argument'),
    ],
)
def test_a_wrong_option_is_named(arguments, message):
    with pytest.raises(CommandError) as caught:
        parse(OPTIONS, arguments)
    assert (caught.value.code, caught.value.message) == ("Option", message)


@pytest.mark.parametrize(
    ("rest", "message", "imgadms"),
    [([], "an argument is missing", '(0): ""'), (["a", "b"], 'too many arguments: "a b"', '(2): "a b"')],
)
def test_one_argument_is_asked_for(rest, message, imgadms):
    with pytest.raises(UsageError) as caught:
        parse(OPTIONS, rest).one()
    assert caught.value.message == message
    assert in_imgadms_words(caught.value, "get").message == f"incorrect number of args {imgadms}"


def test_so_many_arguments_are_asked_for():
    assert parse(OPTIONS, ["a", "b"]).some(2) == ["a", "b"]
    with pytest.raises(UsageError, match=r'^an argument is missing after "a"$'):
        parse(OPTIONS, ["a"]).some(2)


@given(st.lists(st.sampled_from(["-q", "-P", "-Pq", "--po", "--", "-", "--quiet", "--q=", "u", "-S", ""])))
def test_any_command_line_is_taken_or_refused(arguments):
    with suppress(CommandError):
        assert len(parse(OPTIONS, arguments).rest) <= len(arguments)


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.names[0])
def test_every_command_has_a_function_and_distinct_names_and_flags(command):
    assert callable(function_of(command.run))
    assert all(find_command(name) is command for name in command.names)
    flags = [flag for option in command.options for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert "-h" in flags


def test_global_flags_are_distinct():
    flags = [flag for option in GLOBAL_OPTIONS for flag in option.flags]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize(
    ("given", "number"), [(None, None), ("3", 3), ("10", 10), ("0", "3 to 10"), ("11", "3 to 10"),
                          ("x", "3 to 10"), ("", "3 to 10"), ("-3", "3 to 10"), ("٣", "3 to 10"),
                          ("0" * 5000 + "3", "3 to 10"), ("3.0", "3 to 10")],
)  # fmt: skip
def test_a_number(given: str | None, number: int | str | None):
    arguments = parse([Option(("-n",), "N", "")], [] if given is None else ["-n", given])
    if not isinstance(number, str):
        assert arguments.number("-n", "number of things", 3, 10) == number
        return
    with pytest.raises(UsageError, match="invalid number of things: ") as caught:
        arguments.number("-n", "number of things", 3, 10)
    assert caught.value.hint == f"it may be {number}"
    with pytest.raises(UsageError) as caught:
        arguments.number("-n", "depth", 20, imgadms="must be greater")
    assert (caught.value.message, caught.value.hint) == (f'invalid depth "{given}": must be greater', "")


@pytest.mark.parametrize("given", ["x", "-1", "0.05", "61", "nan", "inf", "1e9"])
def test_seconds(given: str):
    options = [Option(("-d",), "SECONDS", "")]
    assert parse(options, ["-d", "0.1"]).seconds("-d", 0.1, 60) == 0.1
    assert parse(options, []).seconds("-d", 0.1, 60) is None
    with pytest.raises(UsageError) as caught:
        parse(options, ["-d", given]).seconds("-d", 0.1, 60)
    assert caught.value.message == f'invalid number of seconds: "{given}"'
    assert caught.value.hint == "it may be 0.1 to 60"
