"""`list`, `avail`, `show`, `get`, `ancestry`, `delete`."""

from __future__ import annotations

from imgctl.errors import CommandError
from imgctl.filters import meets_all, parse_filter
from imgctl.image_rows import docker_rows, image_row
from imgctl.table import fields, sort_rows, table
from imgctl.text import error_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from imgproto.documents import ImageDocument, OfferedDocument, ProblemDocument

    from imgctl.arguments import Arguments
    from imgctl.filters import Filter
    from imgctl.session import Session

_COLUMNS = ["uuid", "name", "version", "os", "type", "pub"]
_SORT = ["published_at", "name"]
_DOCKER_COLUMNS = ["uuid", "repository", "tag", "image_id", "created"]


def list_installed(session: Session, arguments: Arguments) -> None:
    """`list [-j] [-H] [-o FIELDS] [-s FIELDS] [--docker] [FILTERS]`."""
    filters = [parse_filter(argument) for argument in arguments.rest]
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
    filters = [parse_filter(argument) for argument in arguments.rest]
    with session.client() as client:
        found = client.available()
    _print_images(session, arguments, found["images"], filters)
    problems = [problem for problem in found["problems"] if isinstance(problem.get("error"), dict)]
    for problem in problems:
        if problem.get("listed_at"):
            session.warn(f"{_problem_message(problem)}; its images are those of {problem['listed_at']}")
    if session.program != "imgadm":  # which says nothing of it
        for each in found.get("incomplete") or ():
            session.warn(each["message"])
    failed = [problem for problem in problems if not problem.get("listed_at")]
    if failed:
        raise _failure(failed)


def show(session: Session, arguments: Arguments) -> None:
    """`show UUID`."""
    uuid = session.uuid(arguments.one(), among="available")
    with session.client() as client:
        session.say_json(client.show(uuid))


def get(session: Session, arguments: Arguments) -> None:
    """`get [-P POOL] [-r] UUID`."""
    uuid = session.uuid(arguments.one(), among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        image = client.get(uuid, arguments.text("-P"), recursive=arguments.flag("-r"))
    session.say_json(_without_clones(image))


def ancestry(session: Session, arguments: Arguments) -> None:
    """`ancestry [-j] [-H] [-o FIELDS] [-P POOL] UUID`."""
    uuid = session.uuid(arguments.one(), among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        images = client.ancestry(uuid, arguments.text("-P"))
    if arguments.flag("-j"):
        session.say_json([_without_clones(image) for image in images])
        return
    columns = fields(arguments.texts("-o")) or ["uuid", "name", "version", "published"]
    rows = [image_row(image) for image in images]
    session.say(table(rows, columns, header=not arguments.flag("-H")))


def delete(session: Session, arguments: Arguments) -> None:
    """`delete [-P POOL] UUID`."""
    uuid = session.uuid(arguments.one(), among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        client.delete(uuid, arguments.text("-P"))
    session.say([f"Deleted image {uuid}"])


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
    if arguments.flag("-j"):
        session.say_json([image for _, image in chosen])
        return
    columns = fields(arguments.texts("-o")) or _COLUMNS
    by = fields(arguments.texts("-s")) or _SORT
    ordered = sort_rows((row for row, _ in chosen), by)
    session.say(table(ordered, columns, header=not arguments.flag("-H")))


def _problem_message(problem: ProblemDocument) -> str:
    source, message = str(problem.get("source")), str(problem["error"].get("message"))
    return message if source in message else f"{source}: {message}"


def _failure(problems: Sequence[ProblemDocument]) -> CommandError:
    """The error of one source, or imgadm's MultiError of several."""
    errors = [(str(problem["error"].get("code")), _problem_message(problem)) for problem in problems]
    if len(errors) == 1:
        code, message = errors[0]
        error = problems[0]["error"]
        return CommandError(code, message, str(error.get("hint") or ""), data=error["data"])
    listed = "".join(f"\n    {error_line(code, message)}" for code, message in errors)
    return CommandError("MultiError", f"multiple ({len(errors)}) errors{listed}")
