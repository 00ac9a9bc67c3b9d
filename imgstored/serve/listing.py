"""ListImages: which images a query means, in which order, and which page of them. No I/O.

The rules are IMGAPI's (sdc-imgapi, docs/index.md, "ListImages").
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload
from urllib.parse import parse_qsl

from msgspec import Struct

from imgstored.manifest.values import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: IMGAPI's own bound on a page, and its default.
MAX_PAGE: Final = 1000
#: Parameters of a query.
_MAX_PARAMETERS: Final = 64

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?", re.ASCII)
_SORTS: Final = {"published_at": False, "published_at.asc": False, "published_at.desc": True}
_STATES: Final = frozenset({"active", "disabled", "unactivated", "all", "creating", "failed"})
_IGNORED: Final = frozenset({"account", "channel", "inclAdminFields"})

#: What may be asked for by its text; `~` in front of it: a part of the text.
_TEXTS: Final = ("name", "version", "os", "type", "owner", "uuid")


class QueryError(Exception):
    """A parameter is wrong: `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Document(Protocol):
    """An image to be listed: one of the library, or what a source has."""

    @property
    def document(self) -> Mapping[str, Any]:
        """Its manifest."""
        ...


_Image = TypeVar("_Image", bound=Document)


class Query(Struct, frozen=True):
    """A query that was checked."""

    texts: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    billing_tags: tuple[str, ...] = ()
    public: bool | None = None
    state: str = "active"
    limit: int = MAX_PAGE
    marker: str | None = None
    newest_first: bool = False


def parsed(query: str) -> Query:
    """The query in a URL. Raises `QueryError`."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError as error:
        raise QueryError("query", f"more than {_MAX_PARAMETERS} parameters") from error
    texts, tags, billing_tags = [], [], []
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in _TEXTS:
            texts.append((name, value))
        elif name.startswith("tag."):
            tags.append((name.removeprefix("tag."), value))
        elif name == "billing_tag":
            billing_tags.append(value)
        elif name not in _IGNORED:
            given[name] = value
    state = _one_of(given, "state", _STATES, "active")
    sort = _one_of(given, "sort", _SORTS, "published_at")
    public = None if "public" not in given else _one_of(given, "public", ("true", "false"), "true")
    marker = given.get("marker")
    if marker is not None and not (UUID.fullmatch(marker) or _DATE.fullmatch(marker)):
        raise QueryError("marker", "the uuid of an image, or a date")
    return Query(
        texts=tuple(texts),
        tags=tuple(tags),
        billing_tags=tuple(billing_tags),
        public=None if public is None else public == "true",
        state=state,
        limit=_limit(given.get("limit")),
        marker=marker,
        newest_first=_SORTS[sort],
    )


def _one_of(given: Mapping[str, str], field: str, values: Iterable[str], default: str) -> str:
    value = given.get(field, default)
    if value not in values:
        raise QueryError(field, f"one of {', '.join(sorted(values))}")
    return value


def _limit(text: str | None) -> int:
    if text is None:
        return MAX_PAGE
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MAX_PAGE):
        raise QueryError("limit", f"a number from 1 to {MAX_PAGE}")
    return int(text)


class Ordered(Sequence[_Image]):
    """Images of which the oldest is the first, to be asked for pages many times."""

    def __init__(self, images: Sequence[_Image] = ()) -> None:
        self._images = images
        self._places = {str(image.document.get("uuid")): place for place, image in enumerate(images)}
        self._dates = [str(image.document.get("published_at") or "") for image in images]
        # Dates of odd manifests, or the order of somebody else.
        self._by_date = all(one <= other for one, other in pairwise(self._dates))

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> _Image: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_Image]: ...
    def __getitem__(self, index: int | slice) -> _Image | Sequence[_Image]:
        return self._images[index]

    def page(self, query: Query) -> list[_Image]:
        """The page that a query means.

        A marker's own image is the first of its page, as IMGAPI has it. Raises `QueryError` for a marker that
        is the uuid of no image.
        """
        if query.newest_first:
            last = len(self) - 1 if query.marker is None else self._last(query.marker)
            places = range(last, -1, -1)
        else:
            places = range(0 if query.marker is None else self._first(query.marker), len(self))
        wanted, images, found = _test(query), self._images, []
        for place in places:
            image = images[place]
            if wanted(image.document):
                found.append(image)
                if len(found) == query.limit:
                    break
        return found

    def _first(self, marker: str) -> int:
        """The position of the marker's page, the oldest first."""
        if UUID.fullmatch(marker):
            return self._place(marker)
        if self._by_date:
            return bisect_left(self._dates, marker)
        return next((place for place, date in enumerate(self._dates) if date >= marker), len(self))

    def _last(self, marker: str) -> int:
        """The position of the marker's page, the newest first."""
        if UUID.fullmatch(marker):
            return self._place(marker)
        # Dates of one form: a shorter one is the beginning of a longer one.
        until = marker + "~"
        if self._by_date:
            return bisect_right(self._dates, until) - 1
        return next((place for place in range(len(self) - 1, -1, -1) if self._dates[place] <= until), -1)

    def _place(self, uuid: str) -> int:
        try:
            return self._places[uuid]
        except KeyError:
            raise QueryError("marker", f"no image has the uuid {uuid}") from None


def _test(query: Query) -> Callable[[Mapping[str, Any]], bool]:
    """True if a manifest is meant. One closure per condition, so that what nobody asked for costs nothing."""
    tests: list[Callable[[Mapping[str, Any]], bool]] = []
    if query.state != "all":
        tests.append(lambda document: _state(document) == query.state)
    if query.public is not None:
        tests.append(lambda document: is_public(document) == query.public)
    tests += [_text_test(name, value) for name, value in query.texts]
    for key, value in query.tags:
        tests.append(lambda document, key=key, value=value: _tag(document, key) == value)  # type: ignore[misc]
    if query.billing_tags:
        wanted = set(query.billing_tags)
        tests.append(lambda document: wanted <= set(_texts(document.get("billing_tags"))))
    return lambda document: all(test(document) for test in tests)


def _text_test(name: str, value: str) -> Callable[[Mapping[str, Any]], bool]:
    if value.startswith("~") and name in ("name", "version"):
        part = value[1:].casefold()
        return lambda document: part in str(document.get(name, "")).casefold()
    if value.startswith("!") and name == "type":
        return lambda document: str(document.get(name, "")) != value[1:]
    return lambda document: str(document.get(name, "")) == value


def is_open(document: Mapping[str, Any]) -> bool:
    """True if everybody may have the image: it is active, and its manifest does not call it private."""
    return is_active(document) and is_public(document)


def is_public(document: Mapping[str, Any]) -> bool:
    """Whether the manifest does not call the image private."""
    # `"false"` and 0 come with manifests of other servers, and mean it.
    return document.get("public") not in (False, "false")


def is_active(document: Mapping[str, Any]) -> bool:
    """True if the image is in use."""
    return _state(document) == "active"


def _state(document: Mapping[str, Any]) -> str:
    state = document.get("state")
    if state is not None:
        return str(state)
    return "disabled" if document.get("disabled") in (True, "true") else "active"


def _tag(document: Mapping[str, Any], key: str) -> str | None:
    tags = document.get("tags")
    value = tags.get(key) if isinstance(tags, dict) else None
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
