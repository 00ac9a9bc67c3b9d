"""The keys of the configuration, from the types in imgstored/config/tables.py and what it says of each."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import inspect

from imgstored.config import tables

if TYPE_CHECKING:
    from msgspec.inspect import Field, IntType, Type


class Key(NamedTuple):
    """A key in words. `default` is empty where the key must be there."""

    name: str
    values: str
    default: str
    meaning: str


def _struct(type_: Type) -> type[msgspec.Struct] | None:
    """The table of a key that is one, or that is a list of such."""
    match type_:
        case inspect.StructType():
            return type_.cls
        case inspect.ListType() | inspect.Metadata():
            return _struct(type_.item_type if isinstance(type_, inspect.ListType) else type_.type)
        case inspect.UnionType():
            return next(filter(None, map(_struct, type_.types)), None)
    return None


def _tables() -> dict[str, type[msgspec.Struct]]:
    described = inspect.type_info(tables.Config)
    assert isinstance(described, inspect.StructType)
    found = {field.name: _struct(field.type) for field in described.fields}
    return {"": tables.Config, **{name: table for name, table in found.items() if table is not None}}


#: The tables of the file; "" is what stands before the first of them.
TABLES = _tables()


def fields(table: str) -> dict[str, Field]:
    """The keys of a table that are not tables themselves."""
    described = inspect.type_info(TABLES[table])
    assert isinstance(described, inspect.StructType)
    return {field.name: field for field in described.fields if table or field.name not in TABLES}


def keys(table: str) -> list[Key]:
    """The keys of a table. Raises `KeyError` for one of which the code says nothing."""
    return [_key(table, name, field) for name, field in fields(table).items()]


def values(type_: Type) -> str:
    """The values of a type, in words."""
    match type_:
        case inspect.Metadata():
            return values(type_.type)
        case inspect.UnionType():
            return " or ".join(values(each) for each in type_.types if not isinstance(each, inspect.NoneType))
        case inspect.LiteralType():
            return " or ".join(f'"{value}"' for value in type_.values)
        case inspect.IntType():
            return _integers(type_)
        case inspect.FloatType():
            assert (type_.gt, type_.le) == (0, 31_536_000), f"no words for {type_}"
            return "a number above 0, up to a year"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "text"
        case inspect.ListType():
            return "a list of text"
        case inspect.DictType():
            return "a table of text"
    raise TypeError(f"no words for {type_}")


def _integers(type_: IntType) -> str:
    low = type_.ge if type_.gt is None else type_.gt + 1
    if _is_mode(type_):
        return f"an integer from {low} to 0o{type_.le:o}"
    if type_.le is not None:
        return f"an integer from {low} to {type_.le}"
    return "an integer" if low is None else f"an integer, {low} or more"


def _is_mode(type_: Type) -> bool:
    """The permissions of a file, which people write in octal digits."""
    return isinstance(type_, inspect.IntType) and type_.le == 0o777


# -- what the code says --------------------------------------------------------------------------------------


def _key(table: str, name: str, field: Field) -> Key:
    meaning, _, unset = _comments()[TABLES[table].__name__, name].partition("; None: ")
    meaning, _, on_illumos = meaning.partition("; illumos: ")
    default = unset or _default(field)
    return Key(
        name, values(field.type), f"{default} (illumos: {on_illumos})" if on_illumos else default, meaning
    )


def _default(field: Field) -> str:
    match field.default:
        case msgspec.NODEFAULT:
            return "" if field.required else "none"
        case bool(value):
            return f"`{str(value).lower()}`"
        case float(value):
            return f"{value:g}"
        case int(value):
            return f"`0o{value:o}`" if _is_mode(field.type) else str(value)
        case str(value):
            return f"`{value}`" if value.startswith("/") else f'`"{value}"`'
    raise TypeError(f"{field.name}: say with `None:` what holds where nothing is said")


@cache
def _comments() -> dict[tuple[str, str], str]:
    """The `#:` comment of each attribute, above it or behind it, by class and name."""
    source = Path(tables.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    found: dict[tuple[str, str], str] = {}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for table in classes:
        for node in table.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                said = _comment(lines, node)
                if said:
                    found[table.name, node.target.id] = said
    return found


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    behind = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
    above = node.lineno - 1
    while lines[above - 1].strip().startswith("#:"):
        above -= 1
    said = [*(line.strip() for line in lines[above : node.lineno - 1]), behind]
    return " ".join(line.removeprefix("#:").strip() for line in said if line.startswith("#:"))
