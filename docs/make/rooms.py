"""The imports between the rooms of imgstored, from the code, and the picture of them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2] / "imgstored"

#: Everyone may know these; lines to them would say nothing.
_GROUND = {"errors", "foreign_text", "hashing", "host"}


@cache
def modules() -> dict[str, ast.Module]:
    """The daemon's modules by name: "imports.plan", and "imports" for the room's __init__."""
    found = {}
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module, *, running: bool = False) -> set[str]:
    """The imports of a module by full names; with `running`, without those that only types need."""
    skipped = {
        id(node)
        for each in ast.walk(tree)
        if running and isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING"
        for node in ast.walk(each)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str:
    """The room of a module: imports of imports.plan."""
    return name.split(".")[0]


def rooms() -> set[str]:
    """All rooms; a module at the top is one, too."""
    return {room(name) for name in modules()} - {"__init__"}


def known_by(one: str) -> set[str]:
    """The rooms whose modules a room imports."""
    return {
        room(name.removeprefix("imgstored."))
        for module, tree in modules().items()
        if room(module) == one
        for name in imports(tree)
        if name.startswith("imgstored.") and name != "imgstored.__version__"
    } - {one}


def picture() -> str:
    """The rooms as a graph for dot(1): a line for each import that no other way of lines stands for."""
    known = {name: known_by(name) for name in rooms()}
    wiring = {name for name in known if "app" in known[name]} | {"app", "config", "log"}
    graph = {name: known[name] - wiring - _GROUND for name in sorted(known.keys() - wiring - _GROUND)}
    lines = [
        "digraph rooms {",
        '    node [shape=box, style="rounded,filled", fillcolor="#eef3fa", color="#5b7aa6"]',
    ]
    for name, others in graph.items():
        lines.append(f"    {name}")
        lines += [f"    {name} -> {other}" for other in sorted(others) if not _implied(graph, name, other)]
    return "\n".join([*lines, "}", ""])


def _implied(graph: dict[str, set[str]], name: str, other: str) -> bool:
    return any(other in _below(graph, between) for between in graph[name] - {other})


def _below(graph: dict[str, set[str]], name: str) -> set[str]:
    return graph[name].union(*(_below(graph, each) for each in graph[name]))
