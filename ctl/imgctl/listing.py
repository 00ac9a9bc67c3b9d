"""The output of commands: lists as a table, JSON, YAML, CSV or uuids alone, and documents as JSON or YAML.

`-o` takes fields and forms, also both (`-o csv,uuid,name`). imgadm has fields only.
"""

from __future__ import annotations

from imgctl.errors import CommandError, UsageError
from imgctl.table import cell, fields, table
from imgctl.text import moment, printable

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Any

    from imgctl.arguments import Arguments
    from imgctl.session import Session
    from imgctl.table import Row

FORMS = ("json", "yaml", "csv", "wide")


class Wanted:
    """The form and the fields of a listing on a command line. `columns` is empty if no field is named."""

    __slots__ = ("columns", "form", "header", "only_uuids")

    def __init__(self, session: Session, arguments: Arguments) -> None:
        named = fields(arguments.texts("-o"))
        forms = [] if session.is_imgadm else [name for name in named if name in FORMS]
        self.columns = [name for name in named if name not in forms]
        self.form = "json" if arguments.flag("-j") else (forms[-1] if forms else "")
        self.header = not arguments.flag("-H")
        self.only_uuids = arguments.flag("-q")

    @property
    def is_document(self) -> bool:
        """True if documents are wanted, and no rows."""
        return self.form in ("json", "yaml") and not self.only_uuids and not self.columns


def say_listing(
    session: Session,
    wanted: Wanted,
    *,
    documents: Sequence[Any] | None = None,
    rows: Sequence[Row],
    columns: Sequence[str],
    wide: Sequence[str] = (),
    drop: Sequence[str] = (),
    plain: Sequence[Row] | None = None,
    known: Collection[str] | None = (),
) -> None:
    """Prints a listing. `rows` are for people, `plain` (default: the same) and `documents` for programs.

    `drop` are the columns that a narrow terminal does without first, in this order; `known` are fields that
    rows may have besides the columns, or None if the caller has looked for unknown ones. Raises `UsageError`
    if nothing has any of the fields that are wanted.
    """
    values = rows if plain is None else plain
    if rows and known is not None and not session.is_imgadm:
        refuse_unknown(wanted.columns, [*columns, *wide, *known], [*rows, *values])
    if wanted.only_uuids:
        session.say(printable(row.get("uuid")) for row in values)
        return
    shown = wanted.columns or [*columns, *(wide if wanted.form == "wide" else ())]
    if wanted.form in ("json", "yaml"):
        if documents is None or wanted.columns:
            documents = [{name: row.get(name) for name in shown} for row in values]
        say_document(session, documents, wanted.form)
    elif wanted.form == "csv":
        _say_csv(values, shown, header=wanted.header)
    else:
        may_drop = not wanted.columns and wanted.form != "wide"
        screen = session.screen
        session.say(table(rows, shown, header=wanted.header, screen=screen, may_drop=may_drop, drop=drop))


def document_form(arguments: Arguments) -> str:
    """The form of what is one document: "json", "yaml", or empty for people. Raises `UsageError`."""
    form = arguments.text("-o") or ""
    if form not in ("", "json", "yaml"):
        raise UsageError(f'invalid form: "{form}"', hint="it may be json or yaml")
    return "json" if arguments.flag("-j") else form


def say_document(session: Session, document: Any, form: str) -> None:
    """Prints a document as JSON or YAML. Raises `CommandError` where there is nothing that writes YAML."""
    if form == "yaml":
        print(yaml_text(document), end="")
    else:
        session.say_json(document)


def yaml_text(document: Any) -> str:
    """The document as YAML, with nothing in it that could steer a terminal."""
    from importlib import import_module

    try:
        yaml: Any = import_module("yaml")
    except ImportError as error:
        raise CommandError(
            "NotInstalled",
            "PyYAML, which writes YAML, is not installed for imgctl's Python",
            hint="install it (Debian: python3-yaml; else pip install pyyaml), or take -o json",
        ) from error
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    if not text.replace("\n", "").isprintable():
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=False)
    return text


def refuse_unknown(names: Sequence[str], known: Collection[str], rows: Sequence[Row]) -> None:
    """Raises `UsageError` where no field of a listing is there: it would be nothing but dashes."""
    if not names or any(name in known or any(name in row for row in rows) for name in names):
        return
    from imgctl import advice

    has = dict.fromkeys([*FORMS, *known, *(name for row in rows for name in row)])
    question = advice.did_you_mean(names[0], has)
    forms = f"a form is one of {', '.join(FORMS)}; a field one of {', '.join(dict.fromkeys(known))}"
    raise UsageError(f'there is no field "{names[0]}", nor is it a form', hint=f"{question} {forms}".strip())


def warn_of_unknown(
    session: Session, names: Iterable[str], known: Collection[str], rows: Sequence[Row]
) -> None:
    """Warns of fields that no row has: slips, mostly, which would look like an answer."""
    unknown = [name for name in names if name and name not in known and not any(name in row for row in rows)]
    if not unknown:
        return
    from imgctl import advice

    has = dict.fromkeys([*known, *(name for row in rows for name in row)])
    for name in dict.fromkeys(unknown):
        question = advice.did_you_mean(name, has)
        session.warn(f'no image has the field "{name}"' + (f": {question}" if question else ""))


def _say_csv(rows: Sequence[Row], columns: Sequence[str], *, header: bool) -> None:
    """By RFC 4180, but with plain line ends; what is missing is empty, and numbers are numbers."""
    import csv
    import sys

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if header:
        writer.writerow([printable(column) for column in columns])
    for row in rows:
        writer.writerow(["" if row.get(column) is None else cell(row[column]) for column in columns])


def with_new_keys(value: Any) -> Any:
    """The document with the same keys as all others: `zpool` for each `pool`, and times as text.

    The daemon's documents call a pool `pool` or `zpool`, and give times in seconds since the epoch, or as
    text. Here each `pool` is also `zpool`, and next to each `started_at` in seconds there is `started`, as
    manifests write times. The old keys stay for a release. Manifests stay as their source wrote them.
    """
    if isinstance(value, list):
        return [with_new_keys(each) for each in value]
    if not isinstance(value, dict):
        return value
    document = {key: each if key == "manifest" else with_new_keys(each) for key, each in value.items()}
    if isinstance(document.get("pool"), str):
        document.setdefault("zpool", document["pool"])
    for key, each in value.items():
        if key.endswith("_at") and (text := moment(each)) is not None:
            document.setdefault(key.removesuffix("_at"), text)
    return document
