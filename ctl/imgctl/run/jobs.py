"""`jobs` and `cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgctl.table import table
from imgctl.text import printable, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgctl.arguments import Arguments
    from imgctl.session import Session

_COLUMNS = ["uuid", "name", "version", "pool", "phase", "done", "size", "rate", "clients"]


def jobs(session: Session, arguments: Arguments) -> None:
    """`jobs [-j] [-H]`."""
    arguments.none()
    with session.client() as client:
        listed = client.jobs()
    if arguments.flag("-j"):
        session.say_json(listed)
    else:
        session.say(table([job_row(job) for job in listed], _COLUMNS, header=not arguments.flag("-H")))


def cancel(session: Session, arguments: Arguments) -> None:
    """`cancel UUID`."""
    uuid = session.uuid(arguments.one(), among="jobs")
    with session.client() as client:
        client.cancel(uuid)
    session.say([f"Cancelled import of image {printable(uuid)}"])


def job_row(job: Mapping[str, Any]) -> dict[str, Any]:
    """A *job* for people: without spaces in a cell, so that each is one word for awk."""
    done, total, rate, clients = (job.get(field) for field in ("done", "total", "rate", "clients"))
    row = dict(job)
    row["size"] = _word(total)
    row["done"] = f"{100 * done // total}%" if isinstance(done, int) and total else _word(done)
    row["rate"] = f"{_word(int(rate))}/s" if isinstance(rate, (int, float)) and rate >= 1 else None
    row["clients"] = len(clients) if isinstance(clients, list) else None
    return row


def _word(count: Any) -> str | None:
    return size(count).replace(" ", "") if isinstance(count, int) else None
