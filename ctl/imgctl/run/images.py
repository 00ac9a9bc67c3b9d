"""`list`, `avail`, `outdated`, `show`, `get`, `ancestry`, `delete`."""

from __future__ import annotations

from imgctl.errors import CommandError, NotConnectedError, RemoteError
from imgctl.image_fields import FIELDS, docker_rows, has_field, image_row, meets_all, parse_filter
from imgctl.listing import Wanted, document_form, refuse_unknown, say_document, say_listing, warn_of_unknown
from imgctl.table import fields, sort_rows, table
from imgctl.text import error_line

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from imgproto.documents import (
        AvailableDocument,
        ImageDocument,
        OfferedDocument,
        OldDocument,
        OutdatedDocument,
        ProblemDocument,
    )

    from imgctl.arguments import Arguments
    from imgctl.image_fields import Filter
    from imgctl.run.several import Named
    from imgctl.session import Session

_COLUMNS = ["uuid", "name", "version", "os", "type", "pub"]
_WIDE = ["zpool", "state", "size", "clones", "source"]
_SORT = ["published_at", "name"]
_OUTDATED_COLUMNS = ["uuid", "name", "version", "zpool", "newer", "newer_uuid", "source"]
_OUTDATED_DROP = ["source", "newer_uuid", "zpool", "uuid"]
#: Sources that failed that are named one by one.
_PRINTED = 20
_DOCKER_COLUMNS = ["uuid", "repository", "tag", "image_id", "created"]


def list_installed(session: Session, arguments: Arguments) -> None:
    """`list [-j] [-H] [-o FIELDS] [-s FIELDS] [--docker] [FILTERS]`."""
    filters = _filters(session, arguments)
    with session.client() as client:
        images = client.list(holds=_asks_for_holds(arguments))
    if arguments.flag("--docker"):
        filters.append(parse_filter("type=docker"))
        if not arguments.flag("-j"):
            rows = docker_rows(row for row in map(image_row, images) if meets_all(row, filters))
            session.say(table(rows, _DOCKER_COLUMNS, header=not arguments.flag("-H")))
            return
    _print_images(session, arguments, images, filters)


def avail(session: Session, arguments: Arguments) -> None:
    """`avail`: as `list`. Then says which sources did not answer, and which lists may lack images.

    Fails if a source that did not answer has no list.
    """
    filters = _filters(session, arguments)
    with session.client() as client:
        found = client.available()
    _print_images(session, arguments, found["images"], filters)
    report_problems(session, found)


def report_problems(session: Session, found: AvailableDocument | OutdatedDocument) -> None:
    """Warns of sources that did not answer, and of lists that may lack images.

    Raises the error of the sources that did not answer and have no list either.
    """
    problems = [problem for problem in found["problems"] if isinstance(problem.get("error"), dict)]
    stood_in = [problem for problem in problems if problem.get("listed_at")]
    # imgadm prints all.
    most = len(problems) if session.program == "imgadm" else _PRINTED
    for problem in stood_in[:most]:
        session.warn(f"{_problem_message(problem)}; its images are those of {problem['listed_at']}")
    if len(stood_in) > most:
        session.warn(f"so are those of {len(stood_in) - most} more sources, which `imgctl sources -c` names")
    if session.program != "imgadm":  # which says nothing of it
        for each in found.get("incomplete") or ():
            session.warn(each["message"])
    failed = [problem for problem in problems if not problem.get("listed_at")]
    if failed:
        raise _failure(failed, most)


def outdated(session: Session, arguments: Arguments) -> None:
    """`outdated [-P POOL] [-j] [-H]`. Then warns of sources and lists, as `avail` does."""
    arguments.none()
    with session.client() as client:
        found = client.outdated(arguments.text("-P"))
    say_listing(
        session,
        Wanted(session, arguments),
        documents=found["images"],
        rows=[outdated_row(image) for image in found["images"]],
        columns=_OUTDATED_COLUMNS,
        wide=["published_at"],
        drop=_OUTDATED_DROP,
    )
    report_problems(session, found)


def outdated_row(image: OldDocument) -> dict[str, Any]:
    """An image and its newer version in one row."""
    newer = image["newer"]
    return {**image, "newer": newer["version"], "newer_uuid": newer["uuid"], "source": newer["source"]}


def show(session: Session, arguments: Arguments) -> int:
    """`show IMAGE...`."""
    from imgctl.run.several import named, texts_of

    form = document_form(arguments) or "json"
    images = named(session, texts_of(session, arguments), among="available")
    with session.client() as client:
        return _print_each(session, images, client.show, form)


def get(session: Session, arguments: Arguments) -> int:
    """`get [-P POOL] [-r] IMAGE...`."""
    from imgctl.run.several import named, texts_of

    pool, form = arguments.text("-P"), document_form(arguments) or "json"
    images = named(session, texts_of(session, arguments), among="installed", pool=pool)
    with session.client() as client:

        def got(uuid: str) -> dict[str, Any]:
            return _without_clones(client.get(uuid, pool, recursive=arguments.flag("-r")))

        return _print_each(session, images, got, form)


def _print_each(
    session: Session, images: Sequence[Named], found: Callable[[str], dict[str, Any]], form: str
) -> int:
    """Prints one document, or an array of those that there are."""
    from imgctl.run.several import about, worst

    if len(images) == 1:
        say_document(session, found(images[0].uuid or ""), form)
        return 0
    documents, errors = [], {image: image.error for image in images if image.error is not None}
    for image in images:
        if image.uuid is None:
            continue
        try:
            documents.append(found(image.uuid))
        except NotConnectedError:
            raise
        except RemoteError as error:
            errors[image] = error
    say_document(session, documents, form)
    for image, problem in errors.items():
        session.report(about(image, problem))
    return worst(errors.values())


def ancestry(session: Session, arguments: Arguments) -> None:
    """`ancestry [-j] [-H] [-o FIELDS] [-P POOL] UUID`."""
    uuid = session.uuid(arguments.one(), among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        images = client.ancestry(uuid, arguments.text("-P"))
    say_listing(
        session,
        Wanted(session, arguments),
        documents=[_without_clones(image) for image in images],
        rows=[image_row(image) for image in images],
        columns=["uuid", "name", "version", "published"],
        wide=["os", "type", "zpool", "origin"],
        known=FIELDS,
    )


def delete(session: Session, arguments: Arguments) -> int:
    """`delete [-P POOL] [-j] IMAGE...`. An image goes after its clones, however they are named."""
    from imgctl.run.several import change_each, named, texts_of

    pool = arguments.text("-P")
    as_json = arguments.flag("-j")
    images = named(session, texts_of(session, arguments), among="installed", pool=pool, as_json=as_json)
    with session.client() as client:
        return change_each(
            session,
            images,
            lambda uuid: client.delete(uuid, pool),
            "deleted",
            as_json=as_json,
            again_after=("ImageHasDependentClones",),
        )


def _filters(session: Session, arguments: Arguments) -> list[Filter]:
    return [parse_filter(argument, words=not session.is_imgadm) for argument in arguments.rest]


def _asks_for_holds(arguments: Arguments) -> bool:
    """They cost the daemon a further question, and imgadm's lists know none."""
    shown = {name.removeprefix("-") for name in fields([*arguments.texts("-o"), *arguments.texts("-s")])}
    return not shown.union(rest.partition("=")[0] for rest in arguments.rest).isdisjoint(("held", "pinned"))


def _without_clones(image: ImageDocument) -> dict[str, Any]:
    """Imgadm counts clones only in its lists."""
    return {key: value for key, value in image.items() if key not in ("clones", "cloneNames")}


def _print_images(
    session: Session,
    arguments: Arguments,
    images: Sequence[ImageDocument] | Sequence[OfferedDocument],
    filters: Sequence[Filter],
) -> None:
    """Prints those that meet the filters. `-s` is for the table only, as imgadm's."""
    rows = [(image_row(image), image) for image in images]
    chosen = [(row, image) for row, image in rows if meets_all(row, filters)]
    _warn_of_unknown_fields(session, arguments, [row for row, _ in rows])
    wanted = Wanted(session, arguments)
    if wanted.is_document:
        say_document(session, [image for _, image in chosen], wanted.form)
        return
    by = fields(arguments.texts("-s")) or _SORT
    ordered = sort_rows((row for row, _ in chosen), by)
    say_listing(session, wanted, rows=ordered, columns=_COLUMNS, wide=_WIDE, known=None)


def _warn_of_unknown_fields(
    session: Session, arguments: Arguments, rows: Sequence[Mapping[str, Any]]
) -> None:
    if session.is_imgadm or not rows:
        return
    names = Wanted(session, arguments).columns
    refuse_unknown(names, FIELDS, rows)
    names += [name.removeprefix("-") for name in fields(arguments.texts("-s"))]
    paths = [argument.partition("=")[0] for argument in arguments.rest if "=" in argument]
    names += [path for path in paths if not any(has_field(row, path) for row in rows)]
    warn_of_unknown(session, names, FIELDS, rows)


def _problem_message(problem: ProblemDocument) -> str:
    source, message = str(problem.get("source")), str(problem["error"].get("message"))
    return message if source in message else f"{source}: {message}"


def _failure(problems: Sequence[ProblemDocument], most: int) -> CommandError:
    """The error of one source, or imgadm's MultiError of several, of which it has so many at most."""
    errors = [(str(problem["error"].get("code")), _problem_message(problem)) for problem in problems[:most]]
    if len(errors) == 1:
        code, message = errors[0]
        error = problems[0]["error"]
        return CommandError(code, message, str(error.get("hint") or ""), data=error["data"])
    listed = "".join(f"\n    {error_line(code, message)}" for code, message in errors)
    left = len(problems) - len(errors)
    hint = f"{left} more sources did not answer: `imgctl sources -c` names them" if left else ""
    return CommandError("MultiError", f"multiple ({len(problems)}) errors{listed}", hint)
