"""The image server's routes: IMGAPI version 2 and DSAPI, from the library. Called in threads.

GET /ping /images /images/UUID /images/UUID/file /images/UUID/file.index /images/UUID/icon /channels
GET /datasets /datasets/UUID /datasets/UUID/FILE
GET /healthz
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from msgspec import Struct
from msgspec.structs import replace
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map, RequestRedirect, Rule

from imgstored import __version__
from imgstored.errors import ActiveImageNotFoundError, ImageNotFoundError, ImgstoreError
from imgstored.httpd.conditional import answer_with
from imgstored.httpd.message import JSON, HttpError, OpenFile, Request, Response, json, text
from imgstored.manifest.values import UUID
from imgstored.serve.downgrade import as_dataset, file_name
from imgstored.serve.listing import Ordered, Query, QueryError, is_open, parsed
from imgstored.serve.page import Pages
from imgstored.serve.refusal import RefusalError, refused
from imgstored.serve.relay import Remote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imgstored.library.folder import LibraryImage
    from imgstored.library.library import Library
    from imgstored.serve.page import Job
    from imgstored.serve.publishing import Publishing
    from imgstored.serve.relay import Relay

    Handler = Callable[..., Response]

log = structlog.get_logger(__name__)

#: IMGAPI's versions that are spoken, as its own server has them.
_VERSION: Final = "2.0.0"
#: Routes of paths that are remembered; a path is as long as a request's head at most.
_ROUTES: Final = 512
_SERVER: Final = f"imgstored/{__version__}"

#: Magic numbers of the icons that IMGAPI takes.
_ICONS: Final = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


class _Listed(Struct, frozen=True):
    """The images at one moment, and the list of them."""

    library: Sequence[LibraryImage]
    remote: Sequence[Remote]
    images: Ordered[LibraryImage | Remote]


class Application:
    """Answers requests. Made once; for threads."""

    def __init__(
        self,
        library: Library,
        *,
        installed: Callable[[str], bool] = lambda _: False,
        relay: Relay | None = None,
        publishing: Publishing | None = None,
        jobs: Callable[[], Sequence[Job]] = tuple,
    ) -> None:
        """`installed` says whether an image is in a pool of this host; `jobs` are for people.

        `relay` has what the library lacks; without `publishing` nobody may write. `installed` and `jobs` are
        called in trio's thread.
        """
        self._library = library
        self._relay = relay
        self._publishing = publishing
        self._jobs = jobs
        self._pages = Pages()
        self._listed: dict[bool, _Listed] = {}  # by whether it has what is not for everybody
        self._installed = installed
        self._routes = Map(strict_slashes=False, merge_slashes=False)
        # Clients ask for ranges of one file many times, and finding its route takes longer than the rest.
        self._route_of = lru_cache(maxsize=_ROUTES)(self._matched)
        for path, handler in (
            ("/", self._page),
            ("/view/<uuid>", self._page_of),
            ("/style.css", self._style),
            ("/ping", self._ping),
            ("/healthz", self._healthz),
            ("/channels", self._channels),
            ("/images", self._list),
            ("/images/<uuid>", self._get),
            ("/images/<uuid>/file", self._file),
            ("/images/<uuid>/file.index", self._index),
            ("/images/<uuid>/icon", self._icon),
            ("/datasets", self._datasets),
            ("/datasets/<uuid>", self._dataset),
            ("/datasets/<uuid>/<name>", self._dataset_file),
        ):
            self.route(path, handler)
        if publishing is None:
            for path in ("/images", "/images/<uuid>", "/images/<uuid>/file", "/images/<uuid>/icon"):
                self.route(path, _closed, "POST", "PUT", "DELETE")
        else:
            self.route("/images", publishing.create, "POST")
            self.route("/images/<uuid>", publishing.act, "POST")
            self.route("/images/<uuid>", publishing.delete, "DELETE")
            self.route("/images/<uuid>/file", publishing.add_file, "PUT")
            self.route("/images/<uuid>/icon", publishing.add_icon, "PUT")
            self.route("/images/<uuid>/icon", publishing.delete_icon, "DELETE")

    def route(self, path: str, handler: Handler, *methods: str) -> None:
        """Adds a route, by default of GET and HEAD."""
        self._routes.add(Rule(path, endpoint=handler, methods=methods or ("GET",)))

    def _matched(self, path: str, method: str) -> tuple[Handler, Mapping[str, Any]]:
        """The function that answers it, and its arguments. Raises `HTTPException`."""
        return self._routes.bind("").match(path, method)

    def __call__(self, request: Request) -> Response:
        """Answers one request."""
        try:
            handler, arguments = self._route_of(request.path, request.method)
            response: Response = handler(request, **arguments)
        except RefusalError as refusal:
            response = refusal.as_response()
        except HttpError as error:
            response = refused(error.status, error.message)
            response.headers.extend(error.headers)
        except QueryError as error:
            response = RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "InvalidParameter",
                f"invalid {error.field}: {error.message}",
                errors=((error.field, "Invalid", error.message),),
            ).as_response()
        except RequestRedirect as redirect:
            raise HttpError(HTTPStatus.NOT_FOUND, f"{request.path} does not exist") from redirect
        except HTTPException as error:
            response = _refused(request, error)
        return response

    # -- for people ------------------------------------------------------------------------------------------

    def _page(self, request: Request) -> Response:
        jobs = trio.from_thread.run_sync(self._jobs)
        return self._pages.list(request, _base(request), self._all(request), jobs)

    def _page_of(self, request: Request, uuid: str) -> Response:
        image = self._image(request, uuid)
        images = {each.uuid: each for each in self._all(request)}
        return self._pages.image(request, _base(request), image, images)

    def _style(self, request: Request) -> Response:
        return self._pages.style()

    # -- IMGAPI ----------------------------------------------------------------------------------------------

    def _ping(self, request: Request) -> Response:
        # `imgapi` is what imgadm looks for; the rest is as IMGAPI's.
        return json({"ping": "pong", "version": _VERSION, "imgapi": True, "server": _SERVER})

    def _healthz(self, request: Request) -> Response:
        return text(HTTPStatus.OK, "ok")

    def _channels(self, request: Request) -> Response:
        raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", "this server has no channels")

    def _list(self, request: Request) -> Response:
        found = self._all(request).page(self._parsed(request))
        # In parts, which all clients share.
        parts = [part for image in found for part in (b",", image.encoded)]
        return Response(HTTPStatus.OK, [("Content-Type", JSON)], [b"[", *parts[1:], b"]"])

    def _parsed(self, request: Request) -> Query:
        """The query; whoever may not publish sees active images alone."""
        query = parsed(request.query)
        return query if query.state == "active" or self._may(request) else replace(query, state="active")

    def _may(self, request: Request) -> bool:
        return self._publishing is not None and self._publishing.may(request)

    def _all(self, request: Request) -> Ordered[LibraryImage | Remote]:
        """The images of the library, and those of the sources, that the client may see, the oldest first."""
        library = self._library.images()
        remote = () if self._relay is None else trio.from_thread.run(self._relay.listed)
        may = self._may(request)
        known = self._listed.get(may)
        if known is None or known.library is not library or known.remote is not remote:
            # Both are the same objects as long as nothing changes.
            known = self._listed[may] = _Listed(library, remote, _ordered(library, remote, closed=may))
        return known.images

    def _get(self, request: Request, uuid: str) -> Response:
        image = self._image(request, uuid)
        etag = f'"{image.etag}"'
        headers = [("Content-Type", JSON), ("ETag", etag)]
        if request.headers.get("if-none-match") in (etag, "*"):
            return Response(HTTPStatus.NOT_MODIFIED, [("ETag", etag)])
        return Response(HTTPStatus.OK, headers, [image.encoded])

    def _file(self, request: Request, uuid: str) -> Response:
        image = self._image(request, uuid)
        if isinstance(image, Remote) and request.method == "HEAD":
            # Whoever only looks does not begin a download.
            return answer_with(_not_begun(image, self._library.spoilt(uuid)), request)
        if isinstance(image, Remote):
            coming = self._coming_file(image)
            if coming is not None:
                return answer_with(coming, request)
            image = self._image(request, uuid)  # it has come
        if isinstance(image, Remote):
            message = f"the file of image {uuid} did not come; ask again"
            raise RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "RemoteSourceError", message)
        fd = self._library.open_file(uuid)
        if fd is None:
            raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", f"image {uuid} has no file")
        return answer_with(_open_file(image, fd), request)

    def _coming_file(self, image: Remote) -> OpenFile | None:
        """A file that comes from the sources while it is served; None if the library has it by now."""
        assert self._relay is not None
        try:
            fetch = trio.from_thread.run(self._relay.fetch, image.uuid)
        except ImgstoreError as error:
            raise _refusal_of(error) from error
        fd = None if fetch is None else fetch.open()
        if fetch is None or fd is None:
            return None  # it has come, or failed, in this moment
        return OpenFile(
            fd,
            fetch.size,
            f'"{_file_etag(image, fetch.spoilt)}"',
            fetch.began_at,
            available=fetch.available(),
            only_if_range=fetch.spoilt > 0,
        )

    def _index(self, request: Request, uuid: str) -> Response:
        image = self._image(request, uuid)
        fd = None if isinstance(image, Remote) else self._library.open_index(uuid)
        if fd is None:
            raise RefusalError(
                HTTPStatus.NOT_FOUND, "ResourceNotFound", f"the file of image {uuid} has no index"
            )
        status = os.fstat(fd)
        etag = f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
        return answer_with(OpenFile(fd, status.st_size, etag, status.st_mtime), request)

    def _icon(self, request: Request, uuid: str) -> Response:
        fd = self._library.open_icon(self._image(request, uuid).uuid)
        if fd is None:
            raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", f"image {uuid} has no icon")
        status = os.fstat(fd)
        begin = os.pread(fd, 8, 0)
        kind = next((kind for magic, kind in _ICONS if begin.startswith(magic)), "application/octet-stream")
        etag = f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
        return answer_with(OpenFile(fd, status.st_size, etag, status.st_mtime, kind), request)

    def _image(self, request: Request, uuid: str) -> LibraryImage | Remote:
        """The image. Raises `RefusalError`, with the reason where this host has the image installed."""
        image = self._library.get(uuid) if UUID.fullmatch(uuid) else None
        if image is not None and image.entry.withdrawn:
            message = f"image {uuid} was withdrawn by the server that it came from"
            raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", message)
        if image is not None and (is_open(image.document) or self._may(request)):
            return image
        if image is None and self._relay is not None and UUID.fullmatch(uuid):
            try:
                remote = trio.from_thread.run(self._relay.find, uuid)
            except (ImageNotFoundError, ActiveImageNotFoundError):
                pass  # as without a relay
            except ImgstoreError as error:
                raise _refusal_of(error) from error
            else:
                # This host's credentials may bring what the source gives to nobody else.
                if is_open(remote.document) or self._may(request):
                    return remote
        message = f"image {uuid[:64]} does not exist"
        if image is None and UUID.fullmatch(uuid) and trio.from_thread.run_sync(self._installed, uuid):
            message = (
                f"image {uuid} is installed on this host, but its original file was not kept:"
                " `imgctl export` makes a file of it, with a manifest of its own"
            )
        raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", message)

    # -- DSAPI -----------------------------------------------------------------------------------------------

    def _datasets(self, request: Request) -> Response:
        base = _base(request)
        found = self._all(request).page(self._parsed(request))
        return json([as_dataset(image.document, base) for image in found])

    def _dataset(self, request: Request, uuid: str) -> Response:
        return json(as_dataset(self._image(request, uuid).document, _base(request)))

    def _dataset_file(self, request: Request, uuid: str, name: str) -> Response:
        image = self._image(request, uuid)
        if name != file_name(image.document):
            raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", f"image {uuid} has no such file")
        return self._file(request, uuid)


def _not_begun(image: Remote, spoilt: int) -> OpenFile:
    """A file that nobody has asked for, for an answer without it."""
    file = image.manifest.file
    if file is None or file.size is None:
        message = f"the sources do not say how large the file of image {image.uuid} is"
        raise RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", message)
    return OpenFile(-1, file.size, f'"{_file_etag(image, spoilt)}"', time.time())


def _closed(request: Request, **_: str) -> Response:
    """Refuses a request on a server that nobody may publish to."""
    raise RefusalError(
        HTTPStatus.FORBIDDEN,
        "OperatorOnly",
        "nobody may publish here: the server's configuration has no tokens and no keys",
    )


def _ordered(
    library: Sequence[LibraryImage], remote: Sequence[Remote], *, closed: bool
) -> Ordered[LibraryImage | Remote]:
    """All images, those that are not for everybody only if `closed`."""
    images: Sequence[LibraryImage | Remote] = [image for image in library if not image.entry.withdrawn]
    if remote:
        here = {image.uuid for image in library}
        images = sorted([*images, *(each for each in remote if each.uuid not in here)], key=_by_date)
    return Ordered(images if closed else [each for each in images if is_open(each.document)])


def _by_date(image: LibraryImage | Remote) -> tuple[str, str]:
    return str(image.document.get("published_at") or ""), image.uuid


def _refusal_of(error: ImgstoreError) -> RefusalError:
    """The answer where this server's own sources fail; it does not show their addresses."""
    if isinstance(error, ImageNotFoundError | ActiveImageNotFoundError):
        return RefusalError(HTTPStatus.NOT_FOUND, "ResourceNotFound", "the sources do not have the image")
    log.warning("the sources failed", error=error.message)
    return RefusalError(
        HTTPStatus.SERVICE_UNAVAILABLE, "RemoteSourceError", f"this server's sources failed ({error.code})"
    )


def _file_etag(image: LibraryImage | Remote, spoilt: int) -> str:
    """The same whether the file is here already or still comes; another one than that of wrong bytes."""
    file = image.manifest.file
    if file is not None and file.sha1 is not None:
        etag = file.sha1
    else:
        etag = f"{image.etag}-{0 if file is None else file.size or 0:x}"
    return f"{etag}-{spoilt}" if spoilt else etag


def _open_file(image: LibraryImage, fd: int) -> OpenFile:
    """The image's file, with the validators that IMGAPI gives it."""
    md5 = image.entry.md5
    headers = () if md5 is None else (("Content-MD5", md5),)
    spoilt = image.entry.spoilt
    etag, modified = f'"{_file_etag(image, spoilt)}"', os.fstat(fd).st_mtime
    return OpenFile(fd, image.size, etag, modified, headers=headers, only_if_range=spoilt > 0)


def _base(request: Request) -> str:
    """The server's own address, as the client has it."""
    scheme = "https" if request.secure else "http"
    host = request.headers.get("host", "localhost")
    return f"{scheme}://{host}"


def _refused(request: Request, error: HTTPException) -> Response:
    if isinstance(error, MethodNotAllowed):
        allowed = sorted({*(error.valid_methods or ()), "GET", "HEAD"})
        refusal = RefusalError(
            HTTPStatus.METHOD_NOT_ALLOWED, "BadMethod", f"{request.method} is not allowed here"
        ).as_response()
        refusal.headers.append(("Allow", ", ".join(allowed)))
        return refusal
    return RefusalError(
        HTTPStatus.NOT_FOUND, "ResourceNotFound", f"{request.path[:200]} does not exist"
    ).as_response()
