"""Refusals of the image server, in IMGAPI's form."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from imgstored.httpd.message import HttpError, Response, json

if TYPE_CHECKING:
    from collections.abc import Sequence


#: IMGAPI's codes of what no handler refuses; others are named after the status.
_CODES: Final = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "InvalidHeader",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalError",
}


class RefusalError(HttpError):
    """A refusal: IMGAPI's code for it, and the fields that are wrong."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        errors: Sequence[tuple[str, str, str]] = (),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`errors` are fields with their codes and messages."""
        super().__init__(status, message, headers=headers)
        self.code = code
        self.errors = tuple(errors)

    def as_response(self) -> Response:
        """The answer."""
        document: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.errors:
            document["errors"] = [
                {"field": field, "code": code, "message": message} for field, code, message in self.errors
            ]
        return json(document, self.status, *self.headers)


def refused(status: int, message: str) -> Response:
    """The answer to what no handler has a code for: requests that are none, and faults of the server."""
    known = HTTPStatus(status)
    return RefusalError(status, _CODES.get(known, known.phrase.replace(" ", "")), message).as_response()
