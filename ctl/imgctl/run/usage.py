"""`tree` and `du`: the relations of images, and the space that they use."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from imgctl.errors import remote_error
from imgctl.listing import Wanted, say_document, say_listing
from imgctl.session import is_terminal, speaks_unicode
from imgctl.status_text import library_lines
from imgctl.table import width
from imgctl.text import printable, size, size_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgproto.documents import UsageDocument, UsedDocument

    from imgctl.arguments import Arguments
    from imgctl.fitting import Screen
    from imgctl.session import Session

    Document = Mapping[str, Any]

_COLUMNS = ["uuid", "name", "version", "zpool", "own", "shared", "total", "clones"]
_TREE_COLUMNS = ["uuid", "name", "version", "zpool", "origin", "used", "referenced", "machines"]
_DROP = ["clones", "zpool", "total", "shared", "version"]


def tree(session: Session, arguments: Arguments) -> None:
    """`tree [OPTIONS]`."""
    arguments.none()
    wanted = Wanted(session, arguments)
    with session.client() as client:
        pools = client.usage(arguments.text("-P"))
    if wanted.is_document:
        say_document(session, [forest(pool) for pool in pools], wanted.form)
    elif wanted.form in ("json", "yaml", "csv") or wanted.only_uuids or wanted.columns:
        rows = [row for pool in pools for row in tree_rows(pool)]
        readable_rows = [
            {**row, **{field: size_cell(row[field]) for field in ("used", "referenced")}} for row in rows
        ]
        say_listing(session, wanted, rows=readable_rows, plain=rows, columns=_TREE_COLUMNS)
    else:
        strokes = LINES if is_terminal(sys.stdout) and speaks_unicode() else ASCII
        blocks = [tree_lines(pool, strokes, session.screen) for pool in pools if not pool.get("error")]
        session.say(line for place, block in enumerate(blocks) for line in (*([""] * (place > 0)), *block))
    _report_silent(session, pools)


def du(session: Session, arguments: Arguments) -> None:
    """`du [-P POOL] [-j] [-H] [UUID...]`."""
    pool = arguments.text("-P")
    uuids = session.uuids(arguments.rest, among="installed", pool=pool)
    with session.client() as client:
        pools = client.usage(pool, uuids)
        library = [] if uuids or pool is not None else library_lines(client.status())
    wanted = Wanted(session, arguments)
    rows = [row for each in pools for row in du_rows(each)]
    say_listing(
        session,
        wanted,
        documents=[du_document(each) for each in pools],
        rows=[readable(row) for row in rows],
        plain=rows,
        columns=_COLUMNS,
        drop=_DROP,
    )
    if wanted.header and wanted.form in ("", "wide") and not wanted.only_uuids:
        session.say([*(pool_summary(each) for each in pools if not each.get("error")), *library])
    _report_silent(session, pools)


def _report_silent(session: Session, pools: Sequence[UsageDocument]) -> None:
    """Raises the error of a pool that did not answer, after the others were printed."""
    errors = [remote_error(pool["error"]) for pool in pools if isinstance(pool.get("error"), dict)]
    for error in errors[1:]:
        session.warn(error.message)
    if errors:
        raise errors[0]


class Strokes(NamedTuple):
    """The strokes of a tree."""

    branch: str
    last: str
    pass_by: str
    space: str


LINES = Strokes("├── ", "└── ", "│   ", "    ")
ASCII = Strokes("|-- ", "`-- ", "|   ", "    ")

#: Characters of an image's name and version that the tree shows, and keeps on a narrow screen.
_MAX_NAME, _SHORT_NAME = 48, 12

#: A uuid alone, of which the beginning is kept.
_UUID = re.compile(r"(?<![/\w])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


# -- the tree ------------------------------------------------------------------------------------------------


def forest(pool: UsageDocument) -> dict[str, Any]:
    """The pool with its images as trees: each with its `children`, and `machines` for what else is cloned."""
    images = {str(image["uuid"]): image for image in pool["images"]}
    children: dict[str, list[str]] = {}
    roots = []
    for uuid, image in images.items():
        if image.get("origin") in images:
            children.setdefault(str(image["origin"]), []).append(uuid)
        else:
            roots.append(uuid)
    nodes = {uuid: _node(image, str(pool["zpool"]), images) for uuid, image in images.items()}
    for origin, uuids in children.items():
        nodes[origin]["children"] = [nodes[uuid] for uuid in uuids]
    facts = {key: value for key, value in pool.items() if key != "images"}
    return {**facts, "images": [nodes[uuid] for uuid in roots]}


def _node(image: UsedDocument, pool: str, images: Mapping[str, UsedDocument]) -> dict[str, Any]:
    ours = {f"{pool}/{uuid}" for uuid in images}
    clones = [str(name) for name in image.get("clones") or ()]
    facts = {key: value for key, value in image.items() if key != "clones"}
    return {**facts, "machines": [name for name in clones if name not in ours], "children": []}


def tree_lines(pool: UsageDocument, strokes: Strokes, screen: Screen | None = None) -> list[str]:
    """The pool's line, and a line for each image and each machine's clone, in columns that fit a screen."""
    trunk = forest(pool)
    rows = [
        (
            prefix + str(node.get("uuid") or node["machine"]),
            _called(node),
            _bytes(node, "used"),
            _bytes(node, "referenced"),
        )
        for prefix, node in _walk(trunk["images"], strokes)
    ]
    if not rows:
        return [_pool_line(pool)]
    rows.insert(0, ("IMAGE", "NAME", "USED", "DATA"))
    if screen is not None:
        rows = _narrower(rows, screen)
    left, name, used, data = (width(column) for column in zip(*rows, strict=True))
    return [
        _pool_line(pool),
        *(f"{row[0]:<{left}}  {row[1]:<{name}}  {row[2]:>{used}}  {row[3]:>{data}}".rstrip() for row in rows),
    ]


def tree_rows(pool: UsageDocument) -> list[dict[str, Any]]:
    """A row for each image, right after its origin or the origin's other clones. Sizes in bytes."""
    return [
        {
            "uuid": node["uuid"],
            "name": node.get("name"),
            "version": node.get("version"),
            "zpool": pool["zpool"],
            "origin": node.get("origin"),
            "used": node.get("used"),
            "referenced": node.get("referenced"),
            "machines": len(node["machines"]),
        }
        for _, node in _walk(forest(pool)["images"], ASCII)
        if "machine" not in node
    ]


def _narrower(rows: list[tuple[str, str, str, str]], screen: Screen) -> list[tuple[str, str, str, str]]:
    """Cuts names, then uuids to their beginning; leaves out DATA, then cuts the first column."""
    from imgctl.fitting import cut, digits

    left, name, *sizes = (max(map(len, column)) for column in zip(*rows, strict=True))
    room, least = screen.columns - sum(sizes) - 6, min(name, _SHORT_NAME)
    if left + least > room:
        count = digits(found[0] for image, *_ in rows if (found := _UUID.search(image)))
        rows = [
            (_UUID.sub(lambda found: found[0][:count], image), called, used, data)
            for image, called, used, data in rows
        ]
        left = max(len(row[0]) for row in rows)
    if _SHORT_NAME + least > room:
        rows = [(image, called, used, "") for image, called, used, _ in rows]
        room += sizes[1] + 2
    left = min(left, max(room - least, _SHORT_NAME))
    name = max(room - left, least)
    return [
        (cut(image, left, screen.ellipsis), cut(called, name, screen.ellipsis), used, data)
        for image, called, used, data in rows
    ]


def _walk(roots: Sequence[Document], strokes: Strokes) -> Iterator[tuple[str, Document]]:
    """Each node with what is drawn before it. Without recursion: nobody says how deep a tree is."""
    stack: list[tuple[str, str, Document]] = [("", "", root) for root in reversed(roots)]
    while stack:
        drawn, below, node = stack.pop()
        yield drawn, node
        under = [*node.get("children", ()), *({"machine": name} for name in node.get("machines", ()))]
        for place, child in reversed(list(enumerate(under))):
            last = place == len(under) - 1
            stack.append(
                (
                    below + (strokes.last if last else strokes.branch),
                    below + (strokes.space if last else strokes.pass_by),
                    child,
                )
            )


def _called(node: Document) -> str:
    if "machine" in node:
        return "(machine)"
    name = "@".join(printable(node[key]) for key in ("name", "version") if node.get(key)) or "-"
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 3] + "..."


# -- space -------------------------------------------------------------------------------------------------


def du_rows(pool: UsageDocument) -> list[dict[str, Any]]:
    """A row for each image, the largest first. Sizes in bytes.

    `own` is what deleting it would free, `shared` what is cloned from it stands on, `total` both.
    """
    rows = []
    for image in pool["images"]:
        used, cloned = int(image.get("used") or 0), bool(image.get("clones"))
        rows.append(
            {
                "uuid": image["uuid"],
                "name": image.get("name"),
                "version": image.get("version"),
                "zpool": pool["zpool"],
                "own": 0 if cloned else used,
                "shared": used if cloned else 0,
                "total": used,
                "clones": len(image.get("clones") or ()),
            }
        )
    return sorted(rows, key=lambda row: -row["total"])


def du_document(pool: UsageDocument) -> dict[str, Any]:
    """The pool with these rows, and their sums."""
    rows = du_rows(pool)
    facts = {key: value for key, value in pool.items() if key != "images"}
    sums = {field: sum(row[field] for row in rows) for field in ("own", "shared")}
    return {**facts, **sums, "used": sum(row["total"] for row in rows), "images": rows}


def readable(row: Document) -> dict[str, Any]:
    """A row for people."""
    return {**row, **{field: size(row[field]) for field in ("own", "shared", "total")}}


def pool_summary(pool: UsageDocument) -> str:
    """One line: the space that the images of a pool use, and the free space."""
    used = sum(int(image.get("used") or 0) for image in pool["images"])
    count = len(pool["images"])
    images = "1 image uses" if count == 1 else f"{count} images use"
    return f"Pool {printable(pool['zpool'])}: {images} {size(used)}, {_free(pool)}"


def _bytes(node: Document, field: str) -> str:
    return "" if "machine" in node else size_cell(node.get(field)) or "-"


def _pool_line(pool: UsageDocument) -> str:
    return f"{printable(pool['zpool'])}: {_free(pool)}"


def _free(pool: UsageDocument) -> str:
    available, total = pool.get("available"), pool.get("total")
    if not isinstance(available, int) or not isinstance(total, int):
        return "free space unknown"
    return f"{size(available)} of {size(total)} free"
