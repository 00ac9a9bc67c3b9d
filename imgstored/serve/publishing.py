"""IMGAPI's writing side: an image is created, gets its file, and is activated; only then others see it.

    POST /images                     CreateImage
    POST /images/UUID?action=…       import, activate, enable, disable, update
    PUT  /images/UUID/file           AddImageFile
    PUT, DELETE /images/UUID/icon
    DELETE /images/UUID

Called in threads. Rules and codes are IMGAPI's (sdc-imgapi, docs/index.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid as uuids
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import structlog

from imgstored.errors import (
    ImgstoreError,
    InvalidManifestError,
    ManifestValidationError,
    NoSpaceError,
)
from imgstored.host import shortage
from imgstored.httpd.message import JSON, Request, Response
from imgstored.library.library import ChangedError
from imgstored.manifest import MAX_MANIFEST, NIL_UUID, Manifest, load, parse, timestamp
from imgstored.manifest.values import UUID
from imgstored.serve.refusal import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from imgstored.library.folder import LibraryImage
    from imgstored.library.library import Library
    from imgstored.serve.relay import Claim
    from imgstored.serve.writers import Writers

log = structlog.get_logger(__name__)

#: Bytes; both are IMGAPI's own bounds.
MAX_FILE: Final = 20 << 30
_MAX_ICON: Final = 128 << 10

_COMPRESSIONS: Final = ("none", "gzip", "bzip2", "xz", "zstd")

#: Fields that this server sets, whatever a client writes.
_OURS: Final = frozenset({"activated", "channels", "error", "files", "icon", "state", "uuid", "v"})
#: Fields that UpdateImage may change.
_MUTABLE: Final = frozenset(
    {
        "acl", "billing_tags", "cpu_type", "description", "disk_driver", "eula", "generate_passwords",
        "homepage", "image_size", "inherited_directories", "name", "nic_driver", "os", "owner", "public",
        "requirements", "tags", "traits", "type", "users", "version",
    }
)  # fmt: skip


class Publishing:
    """The handlers of writing requests."""

    def __init__(self, library: Library, writers: Writers, claim: Callable[[], Claim]) -> None:
        """`claim` reserves room in the library."""
        self._library = library
        self._writers = writers
        self._claim = claim

    # -- images ----------------------------------------------------------------------------------------------

    def create(self, request: Request) -> Response:
        """CreateImage: a new image, with a uuid of the server's choice."""
        self._check(request)
        document = _document(request)
        document["uuid"] = str(uuids.uuid4())
        document.pop("published_at", None)
        return self._created(document)

    def act(self, request: Request, uuid: str) -> Response:
        """Runs what the parameter `action` names."""
        who = self._check(request)
        action = _query(request).get("action", "")
        match action:
            case "import":
                response = self._import(request, uuid)
            case "activate":
                response = self._activate(uuid)
            case "enable" | "disable":
                response = self._changed(uuid, lambda old: {**old, "disabled": action == "disable"})
            case "update":
                response = self._update(request, uuid)
            case _:
                raise RefusalError(
                    HTTPStatus.BAD_REQUEST, "NotImplemented", f"this server has no action {action[:40]!r}"
                )
        log.info("an image was changed by a client", action=action, uuid=uuid, writer=who)
        return response

    def delete(self, request: Request, uuid: str) -> Response:
        """DeleteImage."""
        who = self._check(request)
        self._image(uuid)
        dependents = [each.uuid for each in self._library.images() if each.manifest.origin == uuid]
        if dependents:
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "ImageHasDependentImages",
                f"image {uuid} is the origin of {dependents[0]}",
            )
        with _storing():
            self._library.remove(uuid)
        log.info("an image was deleted by a client", uuid=uuid, writer=who)
        return Response(HTTPStatus.NO_CONTENT)

    def _import(self, request: Request, uuid: str) -> Response:
        """AdminImportImage: a new image that keeps its uuid."""
        document = _document(request)
        if document.get("uuid") != uuid or not UUID.fullmatch(uuid):
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "InvalidParameter",
                f'invalid image uuid: manifest "{str(document.get("uuid"))[:64]}", URL "{uuid[:64]}"',
                errors=(("uuid", "Invalid", "not the uuid of the URL"),),
            )
        return self._created(document)

    def _created(self, document: dict[str, Any]) -> Response:
        uuid = document["uuid"]
        document = {key: value for key, value in document.items() if key not in _OURS}
        document = {
            "v": 2,
            "uuid": uuid,
            "owner": NIL_UUID,
            **document,
            "state": "unactivated",
            "disabled": document.get("disabled") is True,
            "public": document.get("public", True),
        }
        manifest = _checked(document)
        self._check_origin(manifest)
        with _storing():
            try:
                self._library.publish(manifest)
            except FileExistsError as error:
                raise RefusalError(
                    HTTPStatus.CONFLICT, "ImageUuidAlreadyExists", f"image {uuid} exists already"
                ) from error
        return self._answer(uuid)

    def _check_origin(self, manifest: Manifest) -> None:
        if manifest.origin is None:
            return
        origin = self._library.get(manifest.origin)
        code = "OriginDoesNotExist" if origin is None else "OriginIsNotActive"
        if origin is None or origin.document.get("state", "active") != "active":
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                code,
                f"origin image {manifest.origin} {'does not exist' if origin is None else 'is not active'}",
            )

    def _activate(self, uuid: str) -> Response:
        image = self._image(uuid)
        if image.document.get("state") != "unactivated":
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "ImageAlreadyActivated", f"image {uuid} is activated already"
            )
        if image.manifest.file is None:
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "NoActivationNoFile", f"image {uuid} has no file yet"
            )
        now = timestamp(datetime.now(UTC))

        def change(old: Mapping[str, Any]) -> dict[str, Any]:
            state = "disabled" if old.get("disabled") is True else "active"
            return {**old, "state": state, "published_at": old.get("published_at") or now}

        return self._changed(uuid, change)

    def _update(self, request: Request, uuid: str) -> Response:
        fields = _document(request)
        wrong = sorted(set(fields) - _MUTABLE)
        if wrong:
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "ValidationFailed",
                f"cannot update: {', '.join(wrong[:5])}",
                errors=tuple((field[:64], "NotAllowed", "cannot be changed") for field in wrong[:20]),
            )
        return self._changed(uuid, lambda old: {**old, **fields})

    def _changed(self, uuid: str, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Response:
        self._image(uuid)

        def checked(old: Mapping[str, Any]) -> Manifest:
            new = change(old)
            if new.get("state") in ("active", "disabled"):
                new["state"] = "disabled" if new.get("disabled") is True else "active"
            return _checked(new)

        with _storing():
            self._library.change(uuid, checked)
        return self._answer(uuid)

    # -- files -----------------------------------------------------------------------------------------------

    def add_file(self, request: Request, uuid: str) -> Response:
        """AddImageFile: the image's file, as long as the image is not activated."""
        who = self._check(request)
        image = self._image(uuid)
        if image.document.get("state") != "unactivated":
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "ImageFilesImmutable",
                f"image {uuid} is activated: its file stays as it is",
            )
        query = _query(request)
        compression = query.get("compression")
        if compression not in _COMPRESSIONS:
            raise _invalid("compression", f"one of {', '.join(_COMPRESSIONS)}")
        if request.body.length == 0:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "Upload", "the file is empty")
        md5 = hashlib.md5(usedforsecurity=False)
        try:
            with _storing(), closing(self._claim()) as room, self._library.upload(uuid) as upload:
                room.expect(request.body.length or 0)
                for piece in request.body.pieces(MAX_FILE):
                    room.take(len(piece))
                    try:
                        upload.write(piece)
                    finally:
                        room.spent(len(piece))
                    md5.update(piece)
                _check_upload(request, query, upload.size, upload.sha1, md5.digest())
                guid = query.get("dataset_guid")
                file = {"sha1": upload.sha1, "size": upload.size, "compression": compression}
                if guid is not None:
                    file["dataset_guid"] = guid
                upload.finish(lambda old: _checked({**old, "files": [file]}))
        except ChangedError as error:
            raise RefusalError(
                HTTPStatus.CONFLICT, "Upload", f"image {uuid} was changed during the upload"
            ) from error
        log.info("a file was uploaded by a client", uuid=uuid, writer=who)
        return self._answer(uuid)

    def add_icon(self, request: Request, uuid: str) -> Response:
        """AddImageIcon: a PNG, JPEG or GIF of 128 KiB at most."""
        self._check(request)
        self._image(uuid)
        data = request.read(_MAX_ICON)
        if not data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")):
            raise RefusalError(HTTPStatus.BAD_REQUEST, "Upload", "the icon is no PNG, JPEG or GIF")
        with _storing():
            self._library.set_icon(uuid, data)
        return self._answer(uuid)

    def delete_icon(self, request: Request, uuid: str) -> Response:
        """DeleteImageIcon."""
        self._check(request)
        self._image(uuid)
        with _storing():
            self._library.set_icon(uuid, None)
        return self._answer(uuid)

    def may(self, request: Request) -> bool:
        """True if the request is of somebody who may publish, and so may see what is not active."""
        return self._writers.name(request.headers) is not None

    # -- small things ----------------------------------------------------------------------------------------

    def _check(self, request: Request) -> str:
        """The name of who publishes. Raises `RefusalError` for everybody else."""
        who = self._writers.name(request.headers)
        if who is None:
            log.warning("a request to publish was refused", client=request.client, method=request.method)
            raise RefusalError(
                HTTPStatus.UNAUTHORIZED,
                "UnauthorizedError",
                "a token or a signature of this server's configuration is needed to publish",
                headers=[("WWW-Authenticate", 'Bearer realm="imgstored"')],
            )
        return who

    def _image(self, uuid: str) -> LibraryImage:
        """The image, which was published here. Raises `RefusalError`."""
        image = self._library.get(uuid) if UUID.fullmatch(uuid) else None
        if image is None:
            raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", f"image {uuid[:64]} does not exist")
        if image.entry.kind != "published":
            raise RefusalError(
                HTTPStatus.FORBIDDEN, "OperatorOnly", f"image {uuid} is a copy of another server's"
            )
        return image

    def _answer(self, uuid: str) -> Response:
        image = self._library.get(uuid)
        encoded = b"{}" if image is None else image.encoded
        return Response(HTTPStatus.OK, [("Content-Type", JSON)], [encoded])


def _document(request: Request) -> dict[str, Any]:
    """The JSON object in the body. Raises `RefusalError`."""
    try:
        found = parse(request.read(MAX_MANIFEST))
    except InvalidManifestError as error:
        raise RefusalError(HTTPStatus.BAD_REQUEST, "BadRequestError", error.message) from error
    if not isinstance(found, dict):
        raise RefusalError(HTTPStatus.BAD_REQUEST, "BadRequestError", "the body is no JSON object")
    return found


def _checked(document: Mapping[str, Any]) -> Manifest:
    """The manifest. Raises `RefusalError` with all of its faults."""
    try:
        return load(document, rules="create")
    except ManifestValidationError as error:
        raise RefusalError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "ValidationFailed",
            error.message,
            errors=tuple(
                (str(each.get("field")), str(each.get("code")), str(each.get("message") or ""))
                for each in error.data.get("errors", ())
            ),
        ) from error
    except ImgstoreError as error:
        raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, "ValidationFailed", error.message) from error


def _check_upload(request: Request, query: Mapping[str, str], size: int, sha1: str, md5: bytes) -> None:
    """Raises `RefusalError` unless what came is what the client meant to send."""
    said = query.get("sha1")
    if said is not None and said.lower() != sha1:
        raise RefusalError(
            HTTPStatus.BAD_REQUEST, "Upload", f"sha1 expected to be {said[:64]}, but was {sha1}"
        )
    if request.body.length not in (None, size):
        raise RefusalError(HTTPStatus.BAD_REQUEST, "Upload", f"{size} bytes came of {request.body.length}")
    expected = request.headers.get("content-md5")
    if expected is not None:
        try:
            same = base64.b64decode(expected, validate=True) == md5
        except (binascii.Error, ValueError):
            same = False
        if not same:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "Upload", "the file differs from its Content-MD5")
    if not size:
        raise RefusalError(HTTPStatus.BAD_REQUEST, "Upload", "the file is empty")


def _query(request: Request) -> dict[str, str]:
    try:
        return dict(parse_qsl(request.query, keep_blank_values=True, max_num_fields=64))
    except ValueError as error:
        raise _invalid("query", "more than 64 parameters") from error


def _invalid(field: str, message: str) -> RefusalError:
    return RefusalError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "InvalidParameter",
        f"invalid {field}: {message}",
        errors=((field, "Invalid", message),),
    )


@contextmanager
def _storing() -> Iterator[None]:
    """Refuses what the library cannot keep, as it is full or fails."""
    try:
        yield
    except NoSpaceError as error:
        raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "StorageIsDown", "no room left") from error
    except OSError as error:
        log.error("the library cannot be written", error=shortage.why(error))
        message = "the server cannot store it"
        raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "StorageIsDown", message) from error
