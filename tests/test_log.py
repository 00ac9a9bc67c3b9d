"""The log: what a line may hold, whatever it was told, and how often it is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from imgstored.config import loading, specs
from imgstored.http.secrets import KNOWN
from imgstored.log import Recent, Repeats, clean

SECRET = "s3cret-value"

#: A child process says what `TOLD` says, and its standard error is the log.
SCRIPT = """
import structlog, sys
from imgstored import import_id, log
from imgstored.config.tables import LogTable
from imgstored.http.secrets import KNOWN
KNOWN.configure(["s3cret-value"])
log.set_up(LogTable(format=sys.argv[1], level="debug"))
log.take_all()
logger = structlog.get_logger()
"""


def said(told: str, form: str = "json") -> str:
    """What is written on standard error when a program says `told`."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + told, form],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("form", ["json", "human"])
def test_in_the_journal_each_line_has_its_priority(form):
    """As a service has it: standard error is the stream that JOURNAL_STREAM names."""
    told = (
        "import os\n"
        "log.is_journal.cache_clear()\n"
        "found = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{found.st_dev}:{found.st_ino}'\n"
        "log.set_up(LogTable(format=sys.argv[1], level='debug'))\n"
        "logger.debug('a')\nlogger.info('b')\nlogger.warning('c')\nlogger.critical('d')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logger.exception('e')\n"
        "os.environ['JOURNAL_STREAM'] = '1:1'\nlog.is_journal.cache_clear()\n"
        "log.set_up(LogTable(format=sys.argv[1], level='debug'))\n"
        "logger.error('of no journal')\n"
    )
    *lines, last = said(told, form).splitlines()
    assert [line[:3] for line in lines[:4]] == ["<7>", "<6>", "<4>", "<2>"]
    # A traceback of several lines is of one priority, not only its first line.
    assert {line[:3] for line in lines[4:]} == {"<3>"}
    assert (len(lines) > 5) == (form == "human")
    assert not last.startswith("<")


def cleaned(**facts: object) -> dict[str, object]:
    return dict(clean(None, "info", {"event": "x", **facts}))


def test_json_has_one_object_a_line_with_time_level_and_import():
    lines = said(
        "with import_id.bound('0a1b2c3d'):\n"
        "    logger.info('installing', uuid='u', size=7)\nlogger.debug('x')"
    ).splitlines()
    first, second = map(json.loads, lines)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "installing",
        "level": "info",
        "uuid": "u",
        "size": 7,
        "import_id": "0a1b2c3d",
    }
    assert "import_id" not in second


def test_people_get_words():
    line = said("logger.warning('not installed', uuid='u')", "human")
    assert "not installed" in line
    assert "uuid=u" in line
    assert "{" not in line
    assert len(line.splitlines()) == 1


def test_auto_is_json_where_there_is_no_terminal():
    assert json.loads(said("logger.info('x')", "auto"))["event"] == "x"


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_traceback_is_there_and_forges_no_line_and_tells_no_secret(form):
    told = (
        "try:\n    raise ValueError('GET http://u:s3cret-value@h/?t=s3cret-value\\n"
        "2026-01-01T00:00:00Z [info] forged \\x1b[31m')\n"
        "except ValueError:\n    logger.exception('it failed')"
    )
    text = said(told, form)
    assert "ValueError" in text
    assert SECRET not in text
    assert "\x1b[31m" not in text
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())
    assert form == "human" or len(text.splitlines()) == 1


def test_what_ends_the_process_or_a_thread_is_logged_too():
    lines = said(
        "import threading\n"
        "def fail(): raise RuntimeError('s3cret-value')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "raise RuntimeError('s3cret-value')"
    ).splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        "a thread has ended by a mistake",
        "imgstored ends by a mistake",
    ]
    assert SECRET not in "".join(lines)


def test_what_libraries_log_is_a_line_as_any():
    (line,) = said(
        "import logging\nlogging.getLogger('lib').info('not this')\n"
        "logging.getLogger('lib').warning('url %s', 'http://a:s3cret-value@b')"
    ).splitlines()
    told = json.loads(line)
    assert (told["library"], told["said"], told["level"]) == ("lib", "url http://b", "warning")


def test_a_library_that_cannot_say_what_it_wants_ends_nothing():
    (line,) = said("import logging\nlogging.getLogger('lib').error('%d', 'x', 'y')").splitlines()
    assert json.loads(line)["said"] == "%d"


# -- what a line may hold ------------------------------------------------------------------------------------


def test_a_long_text_is_cut():
    text = cleaned(name="x" * 1_000_000)["name"]
    assert isinstance(text, str)
    assert len(text) == 1001


def test_a_text_is_one_line_of_printable_characters():
    assert cleaned(name="a\n2026 [info] b\r\x1b[2J\x00\u202e\u2028c")["name"] == "a 2026 [info] b ?[2J?? c"


def test_what_is_in_lists_and_maps_is_as_bounded():
    deep: list[object] = []
    for _ in range(1000):
        deep = [deep]
    text = json.dumps(cleaned(many=list(range(100_000)), map={"a\n": "b\n"}, deep=deep))
    assert len(text) < 5000
    assert "\\n" not in text


@pytest.mark.parametrize("name", ["Authorization", "password", "client_secret", "cookie", "api_key"])
def test_what_is_called_a_secret_is_none_to_be_seen(name):
    assert SECRET not in str(cleaned(**{name: SECRET, "headers": {name: [SECRET]}}))


def test_a_secret_of_the_configuration_is_hidden_wherever_it_is():
    KNOWN.configure([SECRET])
    for text in (f"Illegal header value b'{SECRET}'", "x" * 995 + SECRET, f"{SECRET}{SECRET}"):
        assert SECRET[:4] not in str(
            clean(None, "info", {"event": text, "other": [text], "error": OSError(text)})
        )


def test_the_secrets_of_the_configuration():
    settings = loading.parse(
        '[[sources]]\nurl = "https://h/?channel=release&token=token-1234"\n'
        'proxy = "http://someone:proxy-1234@p:80"\n'
        'headers = { Authorization = "Basic header-1234", X = "short" }\n'
    )
    environ = {"HTTPS_PROXY": "http://someone:env-1234@p:80", "NO_PROXY": "user:no-secret-1@h"}
    assert specs.secrets(settings, environ) == {
        "token-1234",
        "someone:proxy-1234",
        "proxy-1234",
        "Basic header-1234",
        "header-1234",
        "c29tZW9uZTpwcm94eS0xMjM0",
        "c29tZW9uZTplbnYtMTIzNA",
        "someone:env-1234",
        "env-1234",
    }


@given(st.dictionaries(st.text(), st.text() | st.binary() | st.lists(st.text()) | st.none()))
def test_whatever_it_is_told_there_is_one_line(facts):
    line = clean(None, "info", dict(facts))
    for value in line.values():
        assert value is None or all(
            str(each).isprintable() for each in (value if isinstance(value, list) else [value])
        )


# -- what is said again --------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def times(repeats: Repeats, **line: object) -> int | None:
    """How often the line says that it happened; None if it is not said."""
    try:
        return int(repeats(None, "", {"level": "warning", "event": "x", **line}).get("times", 1))
    except structlog.DropEvent:
        return None


def test_a_warning_that_repeats_is_said_every_ten_minutes_with_how_often():
    clock = Clock()
    repeats = Repeats(clock)
    heard = []
    for second in range(0, 1300, 10):
        clock.now = float(second)
        heard.append(times(repeats, pool="zones"))
    assert [(place * 10, each) for place, each in enumerate(heard) if each] == [(0, 1), (600, 60), (1200, 60)]


def test_what_differs_in_anything_is_said():
    repeats = Repeats(Clock())
    assert [times(repeats, pool=pool) for pool in ("a", "b", "a")] == [1, 1, None]


def test_what_is_no_warning_is_always_said():
    repeats = Repeats(Clock())
    assert [times(repeats, level="info") for _ in range(3)] == [1, 1, 1]


def test_a_flood_of_different_warnings_takes_no_memory():
    repeats = Repeats(Clock())
    for number in range(5000):
        times(repeats, number=number, event=f"event {number % 2500}")
    assert len(repeats._said) <= 500
    assert len(repeats._events) <= 500


def test_of_lines_that_differ_a_minute_has_so_many_and_then_how_many_others_there_were():
    clock = Clock()
    repeats = Repeats(clock)
    heard = [times(repeats, number=number) for number in range(1000)]
    assert heard == [1] * 60 + [None] * 940
    assert times(repeats, event="y") == 1  # another event's
    assert times(repeats, number=999) is None  # it was not said, and still is not
    clock.now = 61.0
    line = repeats(None, "", {"level": "warning", "event": "x", "number": 1000})
    assert line == {"level": "warning", "event": "x", "number": 1000, "others_like_it": 941}


def test_a_line_that_anybody_can_cause_is_counted():
    clock = Clock()
    repeats = Repeats(clock)

    def say(pid: int, uid: int) -> int | None:
        return times(repeats, level="info", pid=pid, counted=uid)

    assert [say(1, 7), say(2, 7), say(3, 8), say(4, 7)] == [1, None, 1, None]
    clock.now = 601.0
    line = repeats(None, "", {"level": "info", "event": "x", "pid": 5, "counted": 7})
    assert line == {"level": "info", "event": "x", "pid": 5, "times": 3}


def test_the_last_warnings_are_kept():
    recent = Recent()
    for number in range(30):
        line = {"level": "warning", "event": "a source failed", "error": f"{number}", "other": "x"}
        assert recent(None, "", {**line, "timestamp": "2026-11-24T23:00:00Z"})["other"] == "x"
        recent(None, "", {"level": "info", "event": "all is well"})
    kept = recent.warnings()
    assert len(kept) == 10
    assert kept[-1] == {"at": "2026-11-24T23:00:00Z", "level": "warning", "text": "a source failed: 29"}


def test_a_traceback_that_is_asked_for_where_there_is_none_is_no_shortage():
    """As a library does outside of an `except`."""
    told = (
        "import logging\n"
        "logging.getLogger('other').warning('one', exc_info=True)\n"
        "logger.warning('two', exc_info=True)\n"
        "from imgstored.host import exhaustion\n"
        "logger.info(str(exhaustion.is_noted()))\n"
    )
    events = [json.loads(line)["event"] for line in said(told).splitlines()]
    assert events == ["a library says", "two", "False"]
