"""Several images in one command: each is tried and has its own outcome, and the worst exit status counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgctl.errors import CommandError, NotConnectedError
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    from imgproto.params import Among

    from imgctl.arguments import Arguments
    from imgctl.session import Session


class Named(NamedTuple):
    """An image as it was named; without `uuid` nothing has that name, and `error` says so."""

    text: str
    uuid: str | None
    error: CommandError | None = None


def texts_of(session: Session, arguments: Arguments) -> list[str]:
    """The images that were named: one or more, but for imgadm one. Raises `UsageError`."""
    if session.is_imgadm or not arguments.rest:
        return [arguments.one()]
    return arguments.rest


def named(
    session: Session,
    texts: Sequence[str],
    *,
    among: Among,
    pool: str | None = None,
    sources: Sequence[str] | None = None,
    channel: str | None = None,
    as_json: bool = False,
) -> list[Named]:
    """Each image once, in their order. Raises `RemoteError` where the only one is not known.

    With `as_json` that is an outcome like any other.
    """

    def uuids(some: Sequence[str]) -> list[str]:
        return session.uuids(some, among=among, pool=pool, sources=sources, channel=channel)

    found: list[Named] = []
    try:
        found = [Named(text, uuid) for text, uuid in zip(texts, uuids(texts), strict=True)]
    except NotConnectedError:
        raise
    except CommandError:
        if len(texts) == 1 and not as_json:
            raise
        for text in texts:
            try:
                found.append(Named(text, uuids([text])[0]))
            except CommandError as error:
                found.append(Named(text, None, error))
    return list({image.uuid or image.text: image for image in reversed(found)}.values())[::-1]


def change_each(
    session: Session,
    images: Sequence[Named],
    change: Callable[[str], object],
    verb: str,
    *,
    what: str = "image",
    with_what: str = "",
    as_json: bool = False,
    again_after: Collection[str] = (),
) -> int:
    """Changes each image, and says so with `verb` ("deleted"); returns the worst exit status.

    `change` may return a line to say instead. An image that is refused with a code of `again_after` is tried
    again after others were changed. With `as_json` the outcomes are a JSON array. Raises the error of the
    only image, and `NotConnectedError`.
    """

    def change_one(uuid: str) -> None:
        said = change(uuid)
        if not as_json:
            done = f"{verb.capitalize()} {what} {printable(uuid)}{printable(with_what)}"
            session.say([said if isinstance(said, str) else done])

    errors = _tried(images, change_one, again_after)
    if as_json:
        session.say_json([_outcome(image, errors.get(image), verb) for image in images])
        return worst(errors.values())
    if len(images) == 1:
        for problem in errors.values():
            raise problem
        return 0
    return report_each(session, errors, f"{verb} {count_of(len(images) - len(errors))}")


def _tried(
    images: Sequence[Named], change: Callable[[str], None], again_after: Collection[str]
) -> dict[Named, CommandError]:
    """Tries each, those that may be tried again as long as another one succeeds; returns the last errors."""
    errors = {image: image.error for image in images if image.error is not None}
    left = [image for image in images if image.error is None]
    while left:
        refused: dict[Named, CommandError] = {}
        for image in left:
            try:
                change(image.uuid or "")
            except NotConnectedError:
                raise
            except CommandError as error:
                refused[image] = error
        errors |= refused
        if len(refused) == len(left):
            break
        left = [image for image, error in refused.items() if error.code in again_after]
        for image in left:
            del errors[image]
    return errors


def _outcome(image: Named, error: CommandError | None, verb: str) -> dict[str, Any]:
    """The outcome of one image for programs."""
    outcome = {"name": image.text, "uuid": image.uuid, "outcome": verb if error is None else "failed"}
    return outcome if error is None else {**outcome, "error": error.as_wire()}


def report_each(session: Session, errors: dict[Named, CommandError], summary: str) -> int:
    """Reports each error, then the summary; returns the worst exit status."""
    for image, error in errors.items():
        session.report(about(image, error))
    failed = f", {len(errors)} failed" if errors else ""
    session.say([f"{summary[:1].upper()}{summary[1:]}{failed}"])
    return worst(errors.values())


def count_of(count: int) -> str:
    """So many images, in words."""
    return f"{count} image{'' if count == 1 else 's'}"


def about(image: Named, error: CommandError) -> CommandError:
    """The error, which among others must say which image it is about."""
    if image.text in error.message or (image.uuid and image.uuid in error.message):
        return error
    message = f"{image.text}: {error.message}"
    return CommandError(error.code, message, error.hint, error.exit_status, error.data)


def worst(errors: Collection[CommandError]) -> int:
    """The exit status of the worst error; 0 where there is none."""
    return max((error.exit_status for error in errors), default=0)
