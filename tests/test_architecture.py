"""The rooms are as docs/architecture.md says: who imports whom, what does no I/O."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.make.rooms import imports, known_by, modules, room, rooms

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()

#: Modules that take bytes or values and return values, so that a test or a fuzzer can drive them directly.
PURE = (
    "audit/orphans",
    "delta/*",
    "maintenance/differences",
    "queries/names",
    "maintenance/vacuum",
    "create/frames",
    "create/manifest",
    "config/text",
    "errors",
    "events/numbered",
    "foreign_text",
    "http/credentials",
    "http/location",
    "manifest/*",
    "pools/zfs/properties",
    "registry/artifact",
    "registry/challenge",
    "registry/documents",
    "registry/reference",
    "rpc/framing",
    "rpc/gate",
    "rpc/params",
    "rpc/wire",
    "sources/search",
    "mirrors/selection",
    "site/ed25519",
    "site/layout",
    "site/minisign",
    "site/trust",
    "sources/spec",
    "config/specs",
    "imports/delta_choice",
    "imports/figures",
    "imports/plan",
    "imports/progress",
    "imports/spec",
    "imports/state",
    "transfer/decompress/sniff",
    "transfer/limiting",
    "transfer/plan",
    "view/names",
    "view/tree",
    "zstream/fletcher4",
    "zstream/nvlist",
    "zstream/reader",
    "zstream/records",
    "zstream/resume",
    "zstream/seal",
    "zstream/token",
    "zstream/volume",
    "zstream/write",
)
#: What I/O, waiting, chance and time are done with.
IMPURE = {
    "asyncio", "fcntl", "glob", "httpx2", "io", "mmap", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile",
    "threading", "time", "trio", "urllib.request",
}  # fmt: skip


def declared() -> dict[str, set[str] | None]:
    """The table of rooms, from the top down: what each of them knows; None is everyone."""
    section = TEXT.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    table: dict[str, set[str] | None] = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            names, _, knows = (cell.strip() for cell in line.strip("|").split(" | "))
            known = None if knows == "everyone" else set(re.findall(r"`(\w+)`", knows))
            for name in re.findall(r"`(\w+)(?:/|\.py)`", names):
                table[name] = known
    return table


ROOMS = declared()

#: Fields that others may set, by their own documentation; the last two are trio's.
KNOWN = {
    "download.watermark.waiting",
    "reading.yielding",
    "self.download_slots.total_tokens",
    "self.receive_slots.total_tokens",
}


def test_the_table_has_all_rooms():
    assert rooms() == ROOMS.keys()


@pytest.mark.parametrize("one", [one for one, known in ROOMS.items() if known is not None])
def test_a_room_knows_what_the_table_says(one: str):
    assert known_by(one) == ROOMS[one]


def test_imports_point_down():
    order = list(ROOMS)
    above = {name for name, known in ROOMS.items() if known is None}
    for name, known in ROOMS.items():
        for other in known or ():
            assert order.index(other) > order.index(name), f"{name} knows {other}, which is above it"
            assert other not in above, f"{name} knows {other}, which knows everyone"


def test_no_two_modules_import_each_other():
    """Not even within a room, nor for types."""
    names = modules().keys()
    graph = {}
    for name, tree in modules().items():
        known = {each.removeprefix("imgstored.") for each in imports(tree)}
        graph[name] = {each if each in names else each.rpartition(".")[0] for each in known} & names - {name}
    while leaves := {name for name, known in graph.items() if not known & graph.keys()}:
        graph = {name: known for name, known in graph.items() if name not in leaves}
    assert graph == {}


def test_a_phase_changes_in_one_place():
    """And no module assigns what is another one's."""
    places = [
        (module, function.name)
        for module, tree in modules().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "phase"
    ]
    assert sorted(places) == [("imports.import_", "__init__"), ("imports.import_", "enter")]


@pytest.mark.parametrize("one", ["imports", "catalog", "events", "queries", "maintenance"])
def test_no_module_assigns_the_fields_of_another_ones_objects(one: str):
    for module, tree in modules().items():
        if room(module) == one:
            foreign = {
                ast.unparse(node)
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) != "self"
            }
            assert foreign - KNOWN == set(), module


def test_the_client_imports_nothing_of_the_daemon():
    for path in (ROOT / "ctl" / "imgctl").rglob("*.py"):
        known = {name for name in imports(ast.parse(path.read_text())) if room(name) == "imgstored"}
        assert known == set(), path


def test_the_protocol_knows_neither_program():
    known = {
        room(name)
        for path in (ROOT / "ctl" / "imgproto").glob("*.py")
        for name in imports(ast.parse(path.read_text()))
    }
    assert known <= {"__future__", "collections", "dataclasses", "imgproto", "typing"}


def test_the_daemon_imports_nothing_of_the_client_nor_of_the_tests():
    for module, tree in modules().items():
        assert {room(name) for name in imports(tree)} & {"imgctl", "tests", "bench", "docs"} == set(), module


@pytest.mark.parametrize("pattern", PURE)
def test_what_decides_does_no_io(pattern: str):
    folder = ROOT / "imgstored"
    paths = sorted(folder.glob(f"{pattern}.py"))
    assert paths, f"no module is called {pattern}"
    for path in paths:
        tree = ast.parse(path.read_text())
        used = {
            name
            for name in imports(tree, running=True)
            if IMPURE & {name, room(name), name.rpartition(".")[0]}
        }
        used -= {"os.path", "pathlib.PurePath", "pathlib.PurePosixPath", "urllib.parse"}
        assert used == set(), path
        called = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert called & {"open", "print", "input"} == set(), path
