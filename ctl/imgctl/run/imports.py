"""`import`, `install`, `ensure`, `watch`, `jobs`, `cancel`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from imgctl import event_text
from imgctl.errors import CommandError, NotConnectedError, UsageError, remote_error
from imgctl.listing import Wanted, say_listing, with_new_keys
from imgctl.run.several import about, change_each, named, report_each, texts_of, worst
from imgctl.session import GREEN, flush, is_terminal, json_text, standard_input
from imgctl.text import duration, error_line, is_uuid, printable, rate_cell, size_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from imgproto.documents import PlanDocument
    from imgproto.events import EventDocument, Progress

    from imgctl.arguments import Arguments
    from imgctl.connection import OnEvent
    from imgctl.progress import Bar
    from imgctl.run.several import Named
    from imgctl.session import Session

#: Bytes of a manifest; the daemon takes no more either.
MAX_MANIFEST = 1 << 20

_COLUMNS = ["uuid", "name", "version", "zpool", "phase", "done", "size", "rate", "clients"]
_WIDE = ["left", "limits", "connections", "started", "source"]

#: The events after which an image is there.
_THERE = ("installed", "installed-meanwhile", "already-installed")


def import_image(session: Session, arguments: Arguments) -> int:
    """`import [-q] [-n] [-P POOL] [-S URL]... [-C CHANNEL] [-j] IMAGE...`."""
    texts, pool = texts_of(session, arguments), arguments.text("-P")
    if session.is_imgadm and not is_uuid(texts[0]):
        raise UsageError(f'invalid image-id arg: "{texts[0]}"')
    sources, channel = arguments.texts("-S") or None, arguments.text("-C")
    images = named(session, texts, among="active", pool=pool, sources=sources, channel=channel)
    if arguments.flag("-n"):
        with session.client() as client:
            return _plan_each(
                session,
                images,
                lambda uuid: client.plan(uuid, pool=pool, sources=sources, channel=channel),
                as_json=arguments.flag("-j"),
            )

    def import_one(uuid: str, on_event: OnEvent) -> None:
        with session.client() as client:
            client.import_image(
                uuid,
                pool=pool,
                sources=sources,
                channel=channel,
                zstream=arguments.flag("--zstream"),
                on_event=on_event,
            )

    if len(images) == 1:
        with Narrator(session, arguments) as tell:
            import_one(images[0].uuid or "", tell)
        return 0
    from imgctl.run.side_by_side import each_at_once

    with Narrator(session, arguments) as tell:
        errors = each_at_once(images, import_one, tell)
    there = len(images) - len(errors)
    if arguments.flag("-j"):
        for image, error in errors.items():
            session.report(about(image, error))
        return worst(errors.values())
    return report_each(session, errors, f"{there} image{'' if there == 1 else 's'} installed")


def ensure(session: Session, arguments: Arguments) -> None:
    """`ensure [-q] [-P POOL] [-j] UUID...`."""
    if not arguments.rest:
        arguments.one()
    uuids = session.uuids(arguments.rest, among="active")
    with session.client() as client, Narrator(session, arguments) as tell:
        client.ensure(uuids, pool=arguments.text("-P"), on_event=tell)


def install(session: Session, arguments: Arguments) -> None:
    """`install [-q] [-P POOL] [-j] -m MANIFEST -f FILE`."""
    if arguments.rest:
        raise UsageError(f'unexpected args ({len(arguments.rest)}): "{" ".join(arguments.rest)}"')
    manifest_path, file_path = arguments.text("-m"), arguments.text("-f")
    if file_path == "-" and not session.is_imgadm:
        _install_from_input(session, arguments, manifest_path)
        return
    if manifest_path is None:
        raise UsageError("-m <manifest> is required")
    if file_path is None:
        raise UsageError("-f <file> is required")
    from imgctl.run.image_files import check_exists, read_manifest

    check_exists("manifest", manifest_path)
    check_exists("file", file_path)
    manifest = read_manifest(manifest_path, MAX_MANIFEST)
    with session.client() as client, Narrator(session, arguments) as tell:
        client.install(manifest, file_path, pool=arguments.text("-P"), on_event=tell)


def _install_from_input(session: Session, arguments: Arguments, manifest_path: str | None) -> None:
    """The image on standard input: what `export -o -` writes, or with `-m` the file alone."""
    if is_terminal(sys.stdin):
        raise UsageError(
            "standard input is a terminal", hint="`imgctl export -o - IMAGE | imgctl install -f -`"
        )
    import os
    import shutil
    import tempfile

    from imgctl.run import archive
    from imgctl.run.image_files import check_exists, read_manifest

    source = standard_input()
    if manifest_path is None:
        manifest = archive.read_manifest(source, MAX_MANIFEST)
    else:
        check_exists("manifest", manifest_path)
        manifest = read_manifest(manifest_path, MAX_MANIFEST)
    # The daemon reads a file anywhere, and again if need be.
    room = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108  (a file of its own, for this user alone)
    with tempfile.NamedTemporaryFile(prefix="imgctl-", dir=room) as file:
        if manifest_path is None:
            archive.read_file(source, manifest, file)
        else:
            shutil.copyfileobj(source, file)
            file.flush()
        with session.client() as client, Narrator(session, arguments) as tell:
            client.install(manifest, file.name, pool=arguments.text("-P"), on_event=tell)


def watch(session: Session, arguments: Arguments) -> None:
    """`watch [-q] [-j] [UUID]`."""
    uuid = session.uuid(arguments.one(), among="jobs") if arguments.rest else None
    with Narrator(session, arguments) as tell:
        for event in session.client().watch(uuid):
            tell(event)


def jobs(session: Session, arguments: Arguments) -> None:
    """`jobs [-j] [-H]`."""
    arguments.none()
    with session.client() as client:
        listed = client.jobs()
    say_listing(
        session,
        Wanted(session, arguments),
        documents=with_new_keys(listed),
        rows=[job_row(job) for job in listed],
        plain=[{**with_new_keys(job), "size": job.get("total")} for job in listed],
        columns=_COLUMNS,
        wide=_WIDE,
    )


def cancel(session: Session, arguments: Arguments) -> int:
    """`cancel IMAGE...`."""
    images = named(session, texts_of(session, arguments), among="jobs")
    with session.client() as client:
        return change_each(session, images, client.cancel, "cancelled", what="import of image")


def _plan_each(
    session: Session, images: Sequence[Named], ask: Callable[[str], PlanDocument], *, as_json: bool
) -> int:
    """Prints the plan of each; as JSON an object for one image, and an array for several."""
    if len(images) == 1:
        plan = ask(images[0].uuid or "")
        if as_json:
            session.say_json(with_new_keys(plan))
        _show_plan(session, plan, as_json=as_json)
        return 0
    plans, errors = [], {image: image.error for image in images if image.error is not None}
    for image in images:
        if image.uuid is None:
            continue
        try:
            plans.append(ask(image.uuid))
            _show_plan(session, plans[-1], as_json=as_json)
        except NotConnectedError:
            raise
        except CommandError as error:
            errors[image] = error
    if as_json:
        session.say_json(with_new_keys(plans))
    for image, problem in errors.items():
        session.report(about(image, problem))
    return worst(errors.values())


def _show_plan(session: Session, plan: PlanDocument, *, as_json: bool) -> None:
    """Says it, but for JSON. Raises the error that would refuse the import; prints any others as warnings."""
    if not as_json:
        session.say(event_text.plan_lines(plan))
        for warning in plan.get("warnings", ()):  # an older daemon has none
            session.warn(printable(warning))
    refusals = [remote_error(error) for error in plan["refusals"]]
    for error in refusals[1:]:
        session.warn(error_line(error.code, error.message))
    if refusals:
        raise refusals[0]


def event_document(session: Session, event: EventDocument) -> Any:
    """An event as a program reads it."""
    return event if session.is_imgadm else with_new_keys(event)


class Narrator:
    """Reports a request's events: lines and, on a terminal, a bar; or each as a line of JSON."""

    def __init__(self, session: Session, arguments: Arguments) -> None:
        self._as_json = arguments.flag("-j")
        self._session = session
        self._has_bar = not self._as_json and not arguments.flag("-q") and is_terminal(sys.stderr)
        self._has_notes = session.verbose or is_terminal(sys.stderr)
        self._bar: Bar | None = None
        self._importing = False

    def __enter__(self) -> Narrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if isinstance(error, CommandError) and self._importing and not self._as_json:
            self._print(event_text.abort(error.message), sys.stdout)

    def __call__(self, event: EventDocument) -> None:
        """Reports one event."""
        if self._as_json:
            self._print(json_text(event_document(self._session, event)), sys.stdout)
            return
        if event["event"] == "progress":
            self._show_progress(event)
        elif event["event"] == "note":
            if self._has_notes:
                self._print(f"{self._session.program}: note: {printable(event['text'])}", sys.stderr)
        elif (line := event_text.line(event)) is not None:
            self._importing = self._importing or event["event"] == "importing"
            if event["event"] in _THERE:
                line = self._session.painted(line, GREEN, sys.stdout)
            self._print(line, sys.stdout)

    def _show_progress(self, event: Progress) -> None:
        if not self._has_bar:
            return
        if not event["images"]:
            if self._bar is not None:
                self._bar.clear()
            return
        if self._bar is None:
            from imgctl.progress import Bar

            self._bar = Bar(sys.stderr)
        self._bar.show(event_text.bar_label(event), event["done"], event["total"])

    def _print(self, line: str, stream: TextIO) -> None:
        if self._bar is not None:
            self._bar.print_above(line, stream)
        else:
            print(line, file=stream)
        flush(stream)


def job_row(job: Mapping[str, Any]) -> dict[str, Any]:
    """A *job* for people."""
    done, total, rate, clients = (job.get(field) for field in ("done", "total", "rate", "clients"))
    row: dict[str, Any] = with_new_keys(dict(job))
    row["size"] = size_cell(total)
    row["done"] = f"{100 * done // total}%" if isinstance(done, int) and total else size_cell(done)
    row["rate"] = rate_cell(rate)
    row["clients"] = len(clients) if isinstance(clients, list) else None
    row["left"] = duration(job.get("eta"))
    delta = job.get("delta")
    row["delta"] = None if not isinstance(delta, dict) else delta.get("uuid")
    return row
