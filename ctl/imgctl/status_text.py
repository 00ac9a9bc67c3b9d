"""The screens of `status` and `top`. Pure: no I/O, no clock.

What they are given is a *status* of docs/protocol.md.
"""

from __future__ import annotations

from textwrap import wrap
from time import localtime, strftime
from typing import TYPE_CHECKING, Any, NamedTuple

from imgctl.table import table
from imgctl.text import duration, moment, printable, rate_cell, share_cell, size, size_cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproto.documents import (
        EntryDocument,
        JobDocument,
        PoolStateDocument,
        SourceStateDocument,
        StatusDocument,
        UnfinishedDocument,
        WarningDocument,
    )

    from imgctl.fitting import Screen

    Document = Mapping[str, Any]

_POOL_COLUMNS = ["pool", "type", "state", "used", "free", "total", "images"]
_POOL_DROP = ["images", "total", "type", "used"]
_SOURCE_COLUMNS = ["source", "type", "state", "answered", "failed", "listed"]
_SOURCE_DROP = ["listed", "type", "answered"]
_IMPORT_COLUMNS = ["uuid", "name", "zpool", "phase", "done", "size", "rate", "conns", "left", "limit", "from"]
_IMPORT_DROP = ["from", "conns", "zpool", "size", "limit", "phase"]
_TOP_COLUMNS = ["image", "name", "phase", "done", "left", "rate", "limit", "conns", "size", "zpool", "from"]
_TOP_DROP = ["from", "zpool", "size", "conns", "phase", "image"]
_FAILURE_COLUMNS = ["when", "action", "uuid", "name", "message"]

#: Characters of an image's name and version, and of an error, that are shown.
_MAX_NAME, _MAX_MESSAGE = 32, 160

#: Warnings of the log that are shown.
_WARNINGS = 5

#: Imports that wait, of which the reason is shown.
_MAX_REASONS = 3

#: Digits of a uuid that there is room for; where more are alike, the names tell the images apart.
_MOST_DIGITS = 18


class Line(NamedTuple):
    """A line of the live screen. `style` is "title", "columns", "bad" or ""."""

    text: str
    style: str = ""


def problems(status: StatusDocument) -> list[str]:
    """The problems that need attention, a sentence each."""
    pools = [_problem("pool", pool.get("name"), pool) for pool in _bad(status.get("pools"))]
    pools += [
        printable(f'pool "{pool.get("name")}" is {pool["health"]} (see `zpool status {pool.get("name")}`)')
        for pool in status.get("pools") or ()
        if _is_ill(pool)
    ]
    sources = [_problem("source", each.get("url"), each) for each in _bad(status.get("sources"))]
    return pools + sources + [_sentence(error) for error in status.get("problems") or ()]


def status_lines(status: StatusDocument, now: float, screen: Screen | None = None) -> list[str]:
    """The whole report; `now` is in seconds since the epoch. Its tables fit a screen."""
    blocks = [
        _about(status),
        table(
            [_pool_row(pool) for pool in status.get("pools") or ()],
            _POOL_COLUMNS,
            screen=screen,
            drop=_POOL_DROP,
        ),
        table(
            [_source_row(source, now) for source in status.get("sources") or ()],
            _SOURCE_COLUMNS,
            screen=screen,
            drop=_SOURCE_DROP,
        )
        or ["No sources: `imgctl sources -a URL` adds an image server."],
        _imports(status, screen),
        serving_lines(status),
        _unfinished(status.get("pools") or ()),
        _failures(status.get("failures") or (), screen),
        _warnings(status.get("warnings") or ()),
        _attention(status),
    ]
    return [
        line for place, block in enumerate(filter(None, blocks)) for line in ([""] if place else []) + block
    ]


def top_lines(status: StatusDocument, now: float, screen: Screen | None = None) -> list[Line]:
    """The frames of the live screen: what is under way. With a `screen`, in what it has room for."""
    at = strftime("%H:%M:%S", localtime(now))
    head = [Line(f"{_who(status)}, {_count(status.get('images'), 'image')}  {at}", "title")]
    jobs = list(status.get("imports") or ())
    head += [_pool_line(pool, jobs) for pool in status.get("pools") or ()]
    head += [Line(problem, "bad") for problem in problems(status) if not problem.startswith("pool ")]
    lines = [*(part for line in head for part in _wrapped(line, screen)), Line("")]
    if not jobs:
        return [*lines, Line("Nothing is being imported.")]
    count = _digits(jobs)
    rows = [{**_import_row(job), "image": str(job.get("uuid"))[:count]} for job in _busy_first(jobs)]
    first, *rest = table(rows, _TOP_COLUMNS, screen=screen, drop=_TOP_DROP)
    return [*lines, Line(first, "columns"), *map(Line, rest), *_reasons(jobs, screen)]


def away_lines(notice: str, screen: Screen | None = None) -> list[Line]:
    """The frame while the daemon is away."""
    return _wrapped(Line(notice, "bad"), screen)


def _digits(jobs: Sequence[JobDocument]) -> int:
    """The digits that stand for an image among these."""
    from imgctl.fitting import DIGITS, digits

    count = digits(str(job.get("uuid")) for job in jobs)
    return count if count <= _MOST_DIGITS else DIGITS


def _wrapped(line: Line, screen: Screen | None) -> list[Line]:
    if screen is None or len(line.text) <= screen.columns:
        return [line]
    texts = wrap(line.text, screen.columns, subsequent_indent="  ", break_on_hyphens=False)
    return [Line(text, line.style) for text in texts]


# -- the blocks ----------------------------------------------------------------------------------------------


def _who(status: StatusDocument) -> str:
    up = duration(status.get("uptime")) or "-"
    clients = _count(status.get("clients"), "client")
    return f"imgstored {printable(status.get('version'))}, pid {status.get('pid')}, up {up}, {clients}"


def _about(status: StatusDocument) -> list[str]:
    config, folder = status.get("config"), status.get("view_path")
    place = f" ({printable(folder)})" if folder else ""
    return [
        f"{_who(status)}, {_count(status.get('images'), 'image')}",
        f"Configuration: {'none, every key has its default' if config is None else printable(config)};"
        f" view: {printable(status.get('view'))}{place}",
    ]


def _imports(status: StatusDocument, screen: Screen | None) -> list[str]:
    jobs = list(status.get("imports") or ())
    if not jobs:
        return ["Nothing is being imported."]
    waiting = status.get("waiting") or 0
    title = f"{_count(len(jobs), 'import')} under way" + (f", {waiting} of them waiting" if waiting else "")
    rows = [_import_row(job) for job in _busy_first(jobs)]
    reasons = [line.text for line in _reasons(jobs, screen)]
    return [title, *table(rows, _IMPORT_COLUMNS, screen=screen, drop=_IMPORT_DROP), *reasons]


def _reasons(jobs: Sequence[JobDocument], screen: Screen | None) -> list[Line]:
    """Why imports of an earlier daemon wait, a sentence each."""
    waiting = _bad(jobs)
    said = [
        f"  {_name(job)} ({job.get('uuid')}) waits: {_cut(' '.join(str(job['error']).split()), _MAX_MESSAGE)}"
        for job in waiting[:_MAX_REASONS]
    ]
    more = len(waiting) - len(said)
    said += [f"  and {more} more (`imgctl jobs -j`)"] if more else []
    return [line for text in said for line in _wrapped(Line(printable(text)), screen)]


def serving_lines(status: StatusDocument) -> list[str]:
    """The library and the image server, where there are any: what they keep, and what they have sent."""
    server = status.get("server")
    lines = library_lines(status)
    if server:
        refused, requests = server.get("refused"), _count(server.get("requests"), "request")
        lines.append(
            f"Image server at {printable(server.get('listen'))}{' (TLS)' if server.get('tls') else ''}:"
            f" {_count(server.get('connections'), 'connection')}, {requests},"
            f" {_bytes(server.get('sent_bytes'))} sent"
            + (f", {_count(refused, 'connection')} turned away" if refused else "")
        )
    return lines


def library_lines(status: StatusDocument) -> list[str]:
    """The library, if there is one: the files that it keeps, and their budget."""
    library = status.get("library")
    if not library:
        return []
    lines = []
    evicted = library.get("evicted")
    lines.append(
        f"Library: {_count(library.get('images'), 'image')} of {_bytes(library.get('size'))}, of which"
        f" {_bytes(library.get('kept'))} of {_bytes(library.get('budget'))} may be evicted"
        + (f"; {_count(evicted, 'file')} evicted ({_bytes(library.get('evicted_bytes'))})" if evicted else "")
        + f" ({printable(library.get('path'))})"
    )
    if library.get("fetching") or library.get("fetched"):
        lines.append(
            f"For other hosts: {_count(library.get('fetched'), 'file')} fetched"
            f" ({_bytes(library.get('fetched_bytes'))}), {printable(library.get('fetching'))} on their way"
        )
    return lines


def _bytes(amount: Any) -> str:
    return size_cell(amount) or "-"


def _unfinished(pools: Sequence[PoolStateDocument]) -> list[str]:
    rows = [
        f"  {printable(pool.get('name'))}/{printable(each.get('uuid'))}: {_why_not(each)}"
        for pool in pools
        for each in pool.get("unfinished") or ()
    ]
    return ["Unfinished images of other programs:", *rows] if rows else []


def _why_not(unfinished: UnfinishedDocument) -> str:
    used = size_cell(unfinished.get("used"))
    if unfinished.get("why") == "receiving":
        return "being received" + (f", {used} so far" if used else "")
    return "received, but without a manifest (`imgctl update UUID` fetches one)"


def _failures(entries: Sequence[EntryDocument], screen: Screen | None) -> list[str]:
    rows = [
        {
            "when": moment(entry.get("started_at")),
            "action": entry.get("action"),
            "uuid": entry.get("uuid"),
            "name": _name(entry),
            "message": _cut(" ".join(str(entry.get("message") or "-").split()), _MAX_MESSAGE),
        }
        for entry in entries
    ]
    title = "Failures without a later success (`imgctl history` has more):"
    if not rows:
        return []
    lines = table(rows, _FAILURE_COLUMNS)
    if screen is not None and max(map(len, lines)) > screen.columns:
        # A reason that is cut off is none.
        lines = [
            line
            for row in rows
            for line in wrap(
                printable("  {when}  {action} {name} ({uuid}): {message}".format_map(row)),
                screen.columns,
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
        ]
    return [title, *lines]


def _warnings(warnings: Sequence[WarningDocument]) -> list[str]:
    lines = [
        f"  {printable(each.get('at'))}  {printable(_cut(str(each.get('text')), _MAX_MESSAGE))}"
        for each in warnings[-_WARNINGS:]
    ]
    return ["Warned last (the daemon's log has more):", *lines] if lines else []


def _attention(status: StatusDocument) -> list[str]:
    found = [f"  {problem}" for problem in problems(status)]
    if _bad(status.get("sources")):
        found.append("  `imgctl sources -c` asks all sources again.")
    return ["Needs attention:", *found] if found else []


def _pool_line(pool: PoolStateDocument, jobs: Sequence[JobDocument]) -> Line:
    row = _pool_row(pool)
    if pool.get("error"):
        return Line(_problem("pool", pool.get("name"), pool), "bad")
    ill = _is_ill(pool)
    name = printable(pool.get("name")) + (f" ({printable(row['state'])})" if ill else "")
    text = f"{name}: {row['used'] or '-'} used, {row['free'] or '-'} free, "
    ours = [job for job in jobs if job.get("pool") == pool.get("name")]
    text += _count(len(ours), "import")
    if ours:
        rate = sum(job["rate"] for job in ours if isinstance(job.get("rate"), (int, float)))
        text += f", {size(int(rate))}/s"
        limits = {str(job["limits"]) for job in _busy_first(ours) if job.get("limits")}
        text += f", limited by {', '.join(sorted(map(printable, limits)))}" if limits else ""
    return Line(text, "bad" if ill else "")


# -- the rows ------------------------------------------------------------------------------------------------


def _pool_row(pool: PoolStateDocument) -> dict[str, Any]:
    total, free = pool.get("total"), pool.get("available")
    used = pool.get("used")
    if used is None and isinstance(total, int) and isinstance(free, int):  # an older daemon
        used = total - free
    return {
        "pool": pool.get("name"),
        "type": pool.get("type"),
        "state": str(pool["health"] if _is_ill(pool) else pool.get("state")).lower().replace(" ", "-"),
        "used": size_cell(used),
        "free": size_cell(free),
        "total": size_cell(total),
        "images": pool.get("images"),
    }


def _source_row(source: SourceStateDocument, now: float) -> dict[str, Any]:
    state = "failing" if source.get("error") else "ok" if source.get("answered_at") else "not-asked-yet"
    return {
        "source": source.get("url"),
        "type": source.get("type"),
        "state": state,
        "answered": _ago(source.get("answered_at"), now),
        "failed": _ago(source.get("failed_at"), now),
        "listed": _ago(source.get("listed_at"), now),
    }


def _import_row(job: Document) -> dict[str, Any]:
    done, total, rate = job.get("done"), job.get("total"), job.get("rate")
    return {
        "uuid": job.get("uuid"),
        "name": _name(job),
        "zpool": job.get("pool"),
        "phase": job.get("phase"),
        "done": share_cell(job.get("fraction"), done, total),
        "size": size_cell(total),
        "rate": rate_cell(rate),
        "conns": job.get("connections"),
        "left": duration(job.get("eta")),
        "limit": job.get("limits"),
        # Without an id it has not begun again since the daemon's start.
        "from": job.get("source") or ("a-file" if job.get("import_id") else None),
    }


def _busy_first(jobs: Sequence[JobDocument]) -> list[JobDocument]:
    return sorted(jobs, key=lambda job: (job.get("phase") == "waiting", job.get("started_at") or 0))


def _is_ill(pool: PoolStateDocument) -> bool:
    """True if a pool answers, and its system says that it is not well."""
    return not pool.get("error") and pool.get("health") not in (None, "ONLINE")


def _bad(documents: Any) -> list[Document]:
    return [document for document in documents or () if document.get("error")]


def _problem(what: str, name: Any, document: Document) -> str:
    text = _sentence(document["error"])
    if printable(name) not in text:
        text = f"{printable(name)}: {text}"
    return f"{what} {text.removeprefix(f'{what} ')}"


def _sentence(error: Any) -> str:
    """An error in one line, with what to do about it."""
    if not isinstance(error, dict):
        error = {"message": error}
    hint = error.get("hint")
    text = _cut(" ".join(str(error.get("message")).split()), _MAX_MESSAGE)
    return printable(text + (f" ({hint})" if hint else ""))


# -- words ---------------------------------------------------------------------------------------------------


def _ago(since: Any, now: float) -> str | None:
    return f"{duration(now - since)} ago" if isinstance(since, (int, float)) else None


def _name(document: Document) -> str:
    name = "@".join(str(document[key]) for key in ("name", "version") if document.get(key))
    return _cut(name or "-", _MAX_NAME)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _count(count: Any, what: str) -> str:
    return f"{printable(count)} {what}{'' if count == 1 else 's'}"
