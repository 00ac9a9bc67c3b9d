"""What values a key of the configuration may have, from the types in imgstored/config.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import inspect

from imgstored import config

if TYPE_CHECKING:
    from msgspec.inspect import Field, IntType, Type

#: The tables of the file; "" is what stands before the first of them.
TABLES = {
    "": config.Config,
    "pool": config.PoolTable,
    "socket": config.SocketTable,
    "view": config.ViewTable,
    "sources": config.SourceTable,
    "limits": config.LimitsTable,
    "log": config.LogTable,
}


def fields(table: str) -> dict[str, Field]:
    """The keys of a table that are not tables themselves."""
    described = inspect.type_info(TABLES[table])
    assert isinstance(described, inspect.StructType)
    return {field.name: field for field in described.fields if table or field.name not in TABLES}


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
            return "a number above 0" if type_.gt == 0 else "a number"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "text"
        case inspect.DictType():
            return "a table of text"
    raise TypeError(f"no words for {type_}")


def _integers(type_: IntType) -> str:
    low = type_.ge if type_.gt is None else type_.gt + 1
    if type_.le is not None:
        return f"an integer from {low} to {type_.le}"
    return "an integer" if low is None else f"an integer, {low} or more"
