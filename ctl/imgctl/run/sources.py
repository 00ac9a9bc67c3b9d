"""`sources`: list, add, delete and check them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgctl.errors import UsageError
from imgctl.listing import FORMS, Wanted, say_document, say_listing
from imgctl.table import table
from imgctl.text import printable

if TYPE_CHECKING:
    from imgproto.documents import SourceDocument

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session


def sources(session: Session, arguments: Arguments) -> None:
    """`sources [-v] [-j] | -a URL [-t TYPE] [-k] [-f] | -d URL | -e [-f] | -c`."""
    arguments.none()
    actions = {"-a": _add, "-d": _delete, "-e": _edit, "-c": _check}
    wanted = [action for flag, action in actions.items() if arguments.flag(flag)]
    if len(wanted) > 1:
        raise UsageError('cannot specify more than one of "-a", "-d", "-e", and "-c"')
    with session.client() as client:
        (wanted[0] if wanted else _list)(session, arguments, client)


def _list(session: Session, arguments: Arguments, client: Client) -> None:
    listed = client.sources()
    wanted = Wanted(session, arguments)
    if wanted.columns:
        raise UsageError(f'invalid form: "{wanted.columns[0]}"', hint=f"it may be {', '.join(FORMS)}")
    if wanted.is_document:
        documents = [{key: value for key, value in source.items() if value} for source in listed]
        say_document(session, documents, wanted.form)
    elif wanted.form:
        columns = ["url", "type", "insecure", "channel"]
        say_listing(session, wanted, rows=listed, columns=columns)
    elif arguments.flag("-v"):
        rows = [{**source, "insecure": source.get("insecure") or None} for source in listed]
        session.say(table(rows, ["url", "type", "insecure"]))
    else:
        session.say(printable(source["url"]) for source in listed)


def _add(session: Session, arguments: Arguments, client: Client) -> None:
    outcome = client.add_source(
        arguments.text("-a") or "",
        arguments.text("-t"),
        insecure=arguments.flag("-k"),
        force=arguments.flag("-f"),
    )
    source = outcome["source"]
    if outcome["added"]:
        session.say([f"Added {_described(source)}"])
    else:
        session.say([f"Already have {_named(source)}, no change"])


def _delete(session: Session, arguments: Arguments, client: Client) -> None:
    url = arguments.text("-d") or ""
    deleted = client.delete_source(url)
    if deleted:
        session.say(f"Deleted {_described(source)}" for source in deleted)
    else:
        session.say([f'Do not have image source "{printable(url)}", no change'])


def _edit(session: Session, arguments: Arguments, client: Client) -> None:
    from imgctl.run.source_editor import edited

    session.usage = ""  # what is wrong from here on is the text
    outcome = edited(session, client, force=arguments.flag("-f"))
    lines = ["Reordered image sources"] if outcome["reordered"] else []
    lines += [f"Added {_described(source)}" for source in outcome["added"]]
    lines += [f"Deleted {_described(source)}" for source in outcome["deleted"]]
    session.say(lines or ["Image sources unchanged"])


def _check(session: Session, arguments: Arguments, client: Client) -> None:
    """Exit status 0 even when some do not answer, as imgadm's."""
    checked: list[dict[str, Any]] = [{**source} for source in client.check_sources()]
    if session.program == "imgadm":  # which says nothing of it
        for source in checked:
            source.pop("incomplete", None)
    if arguments.flag("-j"):
        session.say_json(checked)
        return
    rows = [{**source, "error": _message(source.get("error"))} for source in checked]
    session.say(table(rows, ["url", "type", "ok", "error"]))
    for source in checked:
        if incomplete := source.get("incomplete"):
            session.warn(str(incomplete))


def _message(error: Any) -> Any:
    return error.get("message") if isinstance(error, dict) else error


def _named(source: SourceDocument) -> str:
    return f'"{printable(source["type"])}" image source "{printable(source["url"])}"'


def _described(source: SourceDocument) -> str:
    insecure = " (insecure)" if source.get("insecure") else ""
    channel = f" (channel={printable(source['channel'])})" if source.get("channel") else ""
    return f"{_named(source)}{insecure}{channel}"
