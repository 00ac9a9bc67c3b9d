"""Refusals of the image server, in IMGAPI's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgstored.httpd.message import HttpError, Response, json

if TYPE_CHECKING:
    from collections.abc import Sequence


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
