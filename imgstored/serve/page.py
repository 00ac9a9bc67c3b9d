"""Pages for people: the images of the server, one of them, and what is being imported. No script needed.

All texts of manifests are escaped, and the pages may load nothing but their own style sheet.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, PackageLoader
from msgspec import Struct

from imgstored import __version__
from imgstored.httpd.message import HttpError, Request, Response
from imgstored.manifest import shown_text
from imgstored.serve.listing import is_active

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgstored.serve.listing import Document

#: Images of one page.
_PAGE: Final = 100
#: Images of one ancestry that are shown.
_MAX_ANCESTRY: Final = 50
#: Words of a search.
_MAX_WORDS: Final = 10

_SECURITY: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


class Job(Struct, frozen=True):
    """An import under way, as the page shows it."""

    name: str
    version: str
    phase: str
    done: int  #: bytes
    total: int | None  #: bytes


class Pages:
    """Renders pages. For threads."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("imgstored.serve", "pages"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        loader = self._environment.loader
        assert loader is not None
        self._style = loader.get_source(self._environment, "style.css")[0].encode()

    def style(self) -> Response:
        """The style sheet."""
        headers = [("Content-Type", "text/css; charset=utf-8"), ("Cache-Control", "max-age=3600")]
        return Response(HTTPStatus.OK, headers, [self._style])

    def list(
        self, request: Request, address: str, images: Sequence[Document], jobs: Iterable[Job]
    ) -> Response:
        """The active images that the request's `q` means, the newest first, of `images`, the oldest first."""
        try:
            query = dict(parse_qsl(request.query, max_num_fields=20))
        except ValueError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, "more than 20 parameters") from error
        q = query.get("q", "")[:200]
        found = [each.document for each in reversed(images) if is_active(each.document)]
        if q:
            found = [document for document in found if _matches(document, q)]
        number = query.get("page", "")
        place = int(number) if number.isascii() and number.isdecimal() and len(number) < 7 else 0
        start = place * _PAGE
        shown = found[start : start + _PAGE]
        origins = {str(document.get("origin")) for document in shown}
        documents = ((str(each.document.get("uuid")), each.document) for each in images)
        names = {uuid: _name(document) for uuid, document in documents if uuid in origins}
        return self._rendered(
            "list.html",
            request,
            address,
            q=q,
            total=len(found),
            images=[_row(document, names) for document in shown],
            jobs=[_shown(job) for job in jobs],
            earlier=_link(q, place - 1) if place else None,
            later=_link(q, place + 1) if start + _PAGE < len(found) else None,
        )

    def image(
        self, request: Request, address: str, image: Document, images: Mapping[str, Document]
    ) -> Response:
        """One image, with its ancestry as far as `images`, by uuid, have it."""
        document = image.document
        ancestry: list[dict[str, Any]] = []
        origin = document.get("origin")
        while isinstance(origin, str) and len(ancestry) < _MAX_ANCESTRY:
            found = images.get(origin)
            each = {} if found is None else found.document
            ancestry.append(
                {
                    "uuid": origin,
                    "here": found is not None,
                    "name": shown_text(each.get("name")),
                    "version": shown_text(each.get("version")),
                }
            )
            origin = each.get("origin")
        homepage = document.get("homepage")
        web = isinstance(homepage, str) and homepage.startswith(("https://", "http://"))
        row = _row(document, {}) | {
            "description": shown_text(document.get("description")),
            "homepage": homepage if web else None,
        }
        manifest = json.dumps(document, indent=2, ensure_ascii=False)
        return self._rendered(
            "image.html", request, address, q="", image=row, ancestry=ancestry, manifest=manifest
        )

    def _rendered(self, name: str, request: Request, address: str, **values: Any) -> Response:
        text = self._environment.get_template(name).render(
            address=address,
            host=request.headers.get("host", "this server"),
            server=f"imgstored {__version__}",
            **values,
        )
        headers = [("Content-Type", "text/html; charset=utf-8"), *_SECURITY]
        return Response(HTTPStatus.OK, headers, [text.encode("utf-8", "replace")])


def _matches(document: Mapping[str, Any], q: str) -> bool:
    """True if each word is a part of the image's name, version, OS, type or uuid."""
    text = " ".join(
        str(document.get(key, "")) for key in ("name", "version", "os", "type", "uuid")
    ).casefold()
    return all(word in text for word in q.casefold().split()[:_MAX_WORDS])


def _name(document: Mapping[str, Any]) -> str:
    return f"{shown_text(document.get('name'))}@{shown_text(document.get('version'))}"


def _row(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    files = document.get("files")
    file = files[0] if isinstance(files, list) and files and isinstance(files[0], dict) else {}
    origin = document.get("origin")
    return {
        "uuid": document.get("uuid"),
        "name": shown_text(document.get("name")),
        "version": shown_text(document.get("version")),
        "os": shown_text(document.get("os")),
        "type": shown_text(document.get("type")),
        "published": str(document.get("published_at") or "")[:10] or "–",
        "file": bool(file),
        "size": _bytes(file.get("size")),
        "sha1": shown_text(file.get("sha1")),
        "compression": shown_text(file.get("compression")),
        "origin": origin if isinstance(origin, str) else None,
        "origin_name": names.get(str(origin), f"{str(origin)[:8]}…"),
    }


def _shown(job: Job) -> dict[str, Any]:
    shown = _bytes(job.done) if job.total is None else f"{_bytes(job.done)} of {_bytes(job.total)}"
    return {
        "name": job.name,
        "version": job.version,
        "phase": job.phase,
        "done": job.done,
        "total": job.total,
        "shown": shown,
    }


def _bytes(size: object) -> str:
    if not isinstance(size, int):
        return "–"
    if size < 1024:
        return f"{size} B"
    # Cut, and not rounded, as imgctl and imgadm say it.
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min((size.bit_length() - 1) // 10, len(units) - 1)
    tenths = size * 10 >> 10 * power
    return f"{tenths // 10}.{tenths % 10} {units[power]}"


def _link(q: str, place: int) -> str:
    pairs = {key: value for key, value in (("q", q), ("page", place)) if value}
    return "/?" + urlencode(pairs) if pairs else "/"
