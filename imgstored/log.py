"""The daemon's log: one event per line on standard error, JSON for machines or text for people.

Values may come from servers and clients: every one is cut, made one line of printable characters,
and looked through for secrets. A warning that is said again and again is said every ten minutes.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import structlog

from imgstored.foreign_text import one_line, printable
from imgstored.host import exhaustion
from imgstored.http.secrets import HIDDEN, KNOWN, SECRET_NAME, redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType

    from imgproto.documents import WarningDocument
    from structlog.types import EventDict, FilteringBoundLogger, Processor, WrappedLogger

    from imgstored.config.tables import LogTable

#: What a line begins with.
_FIRST: Final = ("timestamp", "level", "event", "import_id")

#: Of one value: characters, elements of a list, levels of lists.
_MAX_TEXT: Final = 1000
_MAX_ELEMENTS: Final = 50
_MAX_DEPTH: Final = 3
#: Of one traceback: lines, the last ones, which say what went wrong.
_MAX_LINES: Final = 100

#: Seconds before a warning is logged again, and the number of warnings to remember for that.
_QUIET: Final = 600.0
_MAX_REMEMBERED: Final = 500
#: Lines of one event in a minute, of those that are counted, whatever else they say.
_MAX_EACH: Final = 60
_MINUTE: Final = 60.0

#: The number of recent warnings to keep for `status`, and the length of each.
_KEPT: Final = 10
_SHOWN: Final = ("event", "pool", "source", "uuid", "error")

#: The priorities of sd-daemon(3) and syslog(3).
_PRIORITIES: Final = {
    "debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2,
}  # fmt: skip
_NOTICE: Final = 5

_WARNINGS: Final = frozenset({"warning", "error", "critical", "exception"})


def set_up(table: LogTable) -> None:
    """Sets up structlog for the whole process. May be called again, when the configuration is read again."""
    written_to = sys.stderr
    as_json = table.format == "json" or (table.format == "auto" and not written_to.isatty())
    rendering: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=written_to.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            clean,
            _repeats,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _recent,
            _in_order,
            _Prioritised(rendering) if is_journal() else rendering,
        ],
        wrapper_class=_sturdy(structlog.make_filtering_bound_logger(getattr(logging, table.level.upper()))),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Lossy(written_to))),
        cache_logger_on_first_use=False,
    )


def _sturdy(base: type[FilteringBoundLogger]) -> type[FilteringBoundLogger]:
    """Such a logger that raises nothing for want of memory: no work may fail because of its log.

    It notes the exceptions that it is given: what logs a traceback has met something unprepared.
    """

    class Sturdy(base):  # type: ignore[valid-type, misc]
        def _proxy_to_logger(
            self, method_name: str, event: str | None = None, *args: Any, **named: Any
        ) -> Any:
            try:
                if found := named.get("exc_info"):
                    error = found if isinstance(found, BaseException) else sys.exception()
                    error = found[1] if isinstance(found, tuple) else error
                    if error is not None:
                        exhaustion.note(error)
                return super()._proxy_to_logger(method_name, event, *args, **named)
            except MemoryError as error:
                exhaustion.note(error)
                return None

    return Sturdy


@cache
def is_journal() -> bool:
    """True if standard error goes to systemd's journal (systemd.exec(5), JOURNAL_STREAM), as it stays."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Prioritised:
    """Renders as another one, with the priority of each line before it, which the journal takes off."""

    def __init__(self, rendering: Processor) -> None:
        self._rendering = rendering

    def __call__(self, logger: WrappedLogger, name: str, line: EventDict) -> str:
        """The lines of one event."""
        priority = f"<{_PRIORITIES.get(str(line.get('level')), _NOTICE)}>"
        rendered = str(self._rendering(logger, name, line))
        return "\n".join(priority + each for each in rendered.split("\n"))


class _Lossy:
    """A file that loses what it cannot take: its disk is full, or whoever read the pipe is gone.

    Nobody can be told of that, and no import may fail because of it.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Writes the text, or loses it."""
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        """Flushes what was written, if that can be."""
        with suppress(OSError):
            self._file.flush()


def _in_order(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    return {**{name: line[name] for name in _FIRST if name in line}, **line}


def take_all() -> None:
    """Takes what would pass the log by: what libraries log, and what ends a thread or the process."""
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    log = structlog.get_logger(__name__)

    def crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("imgstored ends by a mistake", exc_info=(kind, error, trace))

    def thread_crashed(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None:
            exhaustion.note(found.exc_value)
            crash = (found.exc_type, found.exc_value, found.exc_traceback)
            log.critical("a thread has ended by a mistake", exc_info=crash)

    before = sys.unraisablehook

    def ignored(found: sys.UnraisableHookArgs) -> None:
        if found.exc_value is not None:
            exhaustion.note(found.exc_value)
        before(found)

    sys.excepthook = crashed
    threading.excepthook = thread_crashed
    sys.unraisablehook = ignored


class _Libraries(logging.Handler):
    """Hands on what is logged by the standard library's `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        """As a line of ours."""
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # what it says does not fit its arguments
            said = str(record.msg)
        log = structlog.get_logger(record.name)
        tell = log.error if record.levelno >= logging.ERROR else log.warning
        tell("a library says", library=record.name, said=said, exc_info=record.exc_info)


# -- what a line may hold ------------------------------------------------------------------------------------


def clean(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """A processor that cuts every value, makes it printable, and hides what is secret."""
    trace = line.pop("exception", None)
    cleaned: EventDict = {_text(str(name)): _value(name, value) for name, value in line.items()}
    if trace is not None:
        # Indented, nothing of it passes for a line of its own.
        lines = str(trace).splitlines()[-_MAX_LINES:]
        cleaned["exception"] = "\n".join("    " + _text(each, indented=True) for each in lines)
    return cleaned


def _value(name: object, value: Any, depth: int = 0) -> Any:
    if SECRET_NAME.search(str(name)):
        return HIDDEN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict | list | tuple | set | frozenset):
        return _several(value, depth + 1) if depth < _MAX_DEPTH else "…"
    if isinstance(value, bytes | bytearray | memoryview):
        return _text(repr(bytes(value[:_MAX_TEXT])))
    return _text(str(value) if isinstance(value, str | BaseException | PurePath) else repr(value))


def _several(values: Collection[Any], depth: int) -> Any:
    some = list(islice(values, _MAX_ELEMENTS))
    if isinstance(values, dict):
        return {_text(str(key)): _value(key, values[key], depth) for key in some}
    return [_value("", each, depth) for each in some]


def _text(text: str, *, indented: bool = False) -> str:
    """One line of printable characters, not too long, without secrets."""
    # Cut only after that: half of a secret, or of a URL, does not look like one.
    line = redacted(KNOWN.hidden(text)[: 2 * _MAX_TEXT])
    line = printable(line) if indented else one_line(line)
    return line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "…"


# -- what is said again --------------------------------------------------------------------------------------


class Repeats:
    """A processor that says a warning once, and after that at most every `_QUIET` seconds, with `times`.

    So it does with other lines that have `counted`, which says what counts as the same: anybody who may
    connect can cause those as often as they like. Of lines of one event that differ, it says 60 in a minute.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._said: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when, and how often since
        self._events: dict[str, tuple[float, int]] = {}  # since when, and how many

    def __call__(self, _: WrappedLogger, __: str, line: EventDict) -> EventDict:
        """The line, or none. For any thread."""
        counted = line.pop("counted", None)
        if line.get("level") not in _WARNINGS and counted is None:
            return line
        event = str(line.get("event"))
        key = _key(line) if counted is None else repr((event, counted))
        with self._lock:
            times = self._times(key)
            others = 0 if times is None else self._others(event)
            if others is None:
                del self._said[key]  # it was not said
        if times is None or others is None:
            raise structlog.DropEvent
        line = line if times == 1 else {**line, "times": times}
        return {**line, "others_like_it": others} if others else line

    def _others(self, event: str) -> int | None:
        """The number of other lines of this event that were not logged; None: nor is this one."""
        now = self._now()
        since, lines = self._events.get(event, (now, 0))
        if now >= since + _MINUTE:
            self._events[event] = now, 1
            return max(0, lines - _MAX_EACH)
        if len(self._events) >= _MAX_REMEMBERED:
            self._events.clear()
        self._events[event] = since, lines + 1
        return 0 if lines < _MAX_EACH else None

    def _times(self, key: str) -> int | None:
        """The number of occurrences to log; None: log nothing."""
        now = self._now()
        before = self._said.get(key)
        if before is not None and now < before[0] + _QUIET:
            self._said[key] = (before[0], before[1] + 1)
            return None
        self._said[key] = (now, 0)
        self._said.move_to_end(key)
        if len(self._said) > _MAX_REMEMBERED:
            self._said.popitem(last=False)
        return 1 if before is None else before[1] + 1


def _key(line: Mapping[str, Any]) -> str:
    return repr(sorted(line.items(), key=lambda item: item[0]))


class Recent:
    """A processor that keeps the last warnings, for those who ask how the daemon is. For any thread."""

    def __init__(self) -> None:
        self._kept: deque[WarningDocument] = deque(maxlen=_KEPT)

    def __call__(self, _: WrappedLogger, __: str, line: EventDict) -> EventDict:
        """The line. What is kept of it went through the cleaner."""
        if line.get("level") in _WARNINGS:
            said = [str(line[name]) for name in _SHOWN if line.get(name)]
            self._kept.append(
                {"at": line.get("timestamp"), "level": line.get("level"), "text": ": ".join(said)}
            )
        return line

    def warnings(self) -> list[WarningDocument]:
        """The last ones, oldest first: {at, level, text}."""
        return [*self._kept.copy()]


_repeats = Repeats()
_recent = Recent()

#: What `Recent.warnings` returns of this process.
recent_warnings = _recent.warnings
