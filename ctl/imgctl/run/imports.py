"""`import`, `install`, `ensure`, `wait`, `watch`, `jobs`, `cancel`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from imgctl import event_text
from imgctl.errors import (
    CommandError,
    ImageNotInstalledError,
    NotConnectedError,
    UsageError,
    remote_error,
)
from imgctl.listing import Wanted, say_listing, with_new_keys
from imgctl.run.narrator import Narrator
from imgctl.run.several import (
    Named,
    about,
    change_each,
    count_of,
    named,
    report_each,
    texts_of,
    worst,
)
from imgctl.session import is_terminal, standard_input
from imgctl.text import duration, error_line, is_uuid, printable, rate_cell, share_cell, size_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imgproto.documents import PlanDocument
    from imgproto.params import Among

    from imgctl.arguments import Arguments
    from imgctl.connection import OnEvent
    from imgctl.session import Session

#: Bytes of a manifest; the daemon takes no more either.
MAX_MANIFEST = 1 << 20

#: Seconds that `wait` waits at most, if it is told how long: a year.
_LONGEST_WAIT = 31_536_000.0

_COLUMNS = ["uuid", "name", "version", "zpool", "phase", "done", "size", "rate", "clients"]
_WIDE = ["left", "limits", "connections", "started", "source", "error"]
_DROP = ["clients", "zpool", "size", "version", "phase"]


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

    detach = arguments.flag("--detach")

    def import_one(uuid: str, on_event: OnEvent) -> None:
        with session.client(patient=True) as client:
            client.import_image(
                uuid,
                pool=pool,
                sources=sources,
                channel=channel,
                zstream=arguments.flag("--zstream"),
                detach=detach,
                on_event=on_event,
            )

    if len(images) == 1:
        with Narrator(session, arguments, resumes=True) as tell:
            import_one(images[0].uuid or "", tell)
        if detach:
            _say_detached(session, arguments, images, tell)
        return 0
    from imgctl.run.side_by_side import each_at_once

    with Narrator(session, arguments, resumes=True) as tell:
        errors = each_at_once(images, import_one, tell)
    if detach:
        _say_detached(session, arguments, [image for image in images if image not in errors], tell)
    if arguments.flag("-j"):
        for image, error in errors.items():
            session.report(about(image, error))
        return worst(errors.values())
    asked_for = {image.uuid or "" for image in images if image not in errors}
    return report_each(session, errors, _summary(asked_for, tell, detach=detach))


def _summary(asked_for: set[str], tell: Narrator, *, detach: bool) -> str:
    """What became of the images that were asked for, and of the origins that came with them."""
    if detach:
        begun, there = asked_for - tell.there, asked_for & tell.there
        parts = [f"{count_of(len(begun))} begun"]
    else:
        # Under an older daemon some may have come without a word.
        there = asked_for & (tell.there - tell.new)
        parts = [f"{count_of(len(asked_for | tell.new) - len(there))} installed"]
    parts += [f"{len(there)} already installed"] if there else []
    return ", ".join(parts)


def _say_detached(session: Session, arguments: Arguments, images: Sequence[Named], tell: Narrator) -> None:
    """Says which imports go on without this command."""
    if arguments.flag("-j"):
        return
    for image in images:
        if image.uuid is not None and image.uuid not in tell.there:
            session.say([f"Image {image.uuid} is being imported; `imgctl wait {image.uuid}` waits for it"])


def wait(session: Session, arguments: Arguments) -> int:
    """`wait [-q] [-t SECONDS] [-j] IMAGE...`."""
    texts = arguments.some()
    from imgctl.run.side_by_side import each_at_once

    seconds = arguments.seconds("-t", 0, _LONGEST_WAIT)
    images = [_sought(session, text) for text in texts]
    with Narrator(session, arguments) as tell:
        errors = each_at_once(images, lambda uuid, heard: _wait_for(session, uuid, heard), tell, seconds)
    errors = _without_installed(session, errors)
    if len(images) == 1:
        for error in errors.values():
            raise error
        return 0
    if arguments.flag("-j"):
        for image, error in errors.items():
            session.report(about(image, error))
        return worst(errors.values())
    return report_each(session, errors, f"{count_of(len(images) - len(errors))} installed")


def _without_installed(session: Session, errors: dict[Named, CommandError]) -> dict[Named, CommandError]:
    """The errors but those of images that were installed before the time was over, however short it was."""
    from imgctl.run.side_by_side import TIMED_OUT

    late = {image.uuid for image, error in errors.items() if error.exit_status == TIMED_OUT}
    if not late:
        return errors
    with session.client(patient=True) as client:
        under_way = {job["uuid"] for job in client.jobs()}
        there = late & {image["manifest"]["uuid"] for image in client.list()} - under_way
    return {image: error for image, error in errors.items() if image.uuid not in there}


def _sought(session: Session, text: str) -> Named:
    """The image that somebody calls so: of an import, installed, or of an import that has ended."""
    first: CommandError | None = None
    among: Among
    for among in ("jobs", "installed", "history"):
        try:
            return Named(text, session.uuid(text, among=among))
        except NotConnectedError:
            raise
        except CommandError as error:
            first = first or error
    return Named(text, None, first)


def _wait_for(session: Session, uuid: str, heard: OnEvent) -> None:
    """Returns when the image is installed. Raises the error that its import has ended with."""
    with session.client(patient=True) as client:
        try:
            for event in client.watch(uuid):
                heard(event)
        except ImageNotInstalledError as error:
            ended = client.history(uuid, 1)
            if not ended or ended[-1]["outcome"] not in ("failed", "cancelled"):
                raise
            raise CommandError(
                ended[-1]["code"] or error.code,
                ended[-1]["message"] or f"the import of image {uuid} was cancelled",
                f"`imgctl import {uuid}` tries again",
            ) from error


def ensure(session: Session, arguments: Arguments) -> None:
    """`ensure [-q] [-P POOL] [-j] UUID...`."""
    uuids = session.uuids(arguments.some(), among="active")
    detach = arguments.flag("--detach")
    with session.client(patient=True) as client, Narrator(session, arguments, resumes=True) as tell:
        client.ensure(uuids, pool=arguments.text("-P"), detach=detach, on_event=tell)
    if detach:
        _say_detached(session, arguments, [Named(uuid, uuid) for uuid in uuids], tell)


def install(session: Session, arguments: Arguments) -> None:
    """`install [-q] [-P POOL] [-j] -m MANIFEST -f FILE`."""
    if arguments.rest:
        raise UsageError(f'unexpected args ({len(arguments.rest)}): "{" ".join(arguments.rest)}"')
    manifest_path, file_path = arguments.text("-m"), arguments.text("-f")
    if file_path == "-" and not session.is_imgadm:
        _install_from_input(session, arguments, manifest_path)
        return
    if manifest_path is None:
        raise UsageError(
            "-m <manifest> is required",
            "" if session.is_imgadm or file_path is None else _without_manifest(file_path),
        )
    if file_path is None:
        raise UsageError("-f <file> is required")
    from imgctl.run.image_files import check_exists, read_manifest

    check_exists("manifest", manifest_path)
    check_exists("file", file_path)
    manifest = read_manifest(manifest_path, MAX_MANIFEST)
    with session.client() as client, Narrator(session, arguments) as tell:
        client.install(manifest, file_path, pool=arguments.text("-P"), on_event=tell)


def _without_manifest(file_path: str) -> str:
    """What to do with a file that nobody named a manifest for."""
    from shlex import quote

    return (
        f"what `imgctl export -o -` wrote has its manifest in it: `imgctl install -f - < {quote(file_path)}`;"
        " `imgctl export` writes the manifest next to the file"
    )


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
        for event in session.client(patient=True).watch(uuid):
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
        drop=_DROP,
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


def job_row(job: Mapping[str, Any]) -> dict[str, Any]:
    """A *job* for people."""
    done, total, rate, clients = (job.get(field) for field in ("done", "total", "rate", "clients"))
    row: dict[str, Any] = with_new_keys(dict(job))
    row["size"] = size_cell(total)
    row["done"] = share_cell(job.get("fraction"), done, total)
    row["rate"] = rate_cell(rate)
    row["clients"] = len(clients) if isinstance(clients, list) else None
    row["left"] = duration(job.get("eta"))
    delta = job.get("delta")
    row["delta"] = None if not isinstance(delta, dict) else delta.get("uuid")
    return row
