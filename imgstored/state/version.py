"""The file `version` of the state folder: of which schema the folder is, and which imgstored wrote it.

It has a checksum, so that a damaged one is not taken for that of a newer imgstored. All calls block.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from typing import TYPE_CHECKING, Final

import structlog
from msgspec import Struct

from imgstored import __version__
from imgstored.host.durable import replace_file
from imgstored.state.schema import SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

VERSION: Final = "version"
#: The file has some eighty bytes.
_MAX_SIZE: Final = 4096


class Version(Struct, frozen=True):
    """What the file says; schema 0 where it says nothing, and the databases must tell."""

    schema: int
    maker: str
    checked: bool  #: whether it has a checksum, which older ones do not


def read_version(state: Path) -> Version:
    """What the file says. Never raises."""
    path = state / VERSION
    try:
        # Non-blocking, so that a FIFO in its place does not hang the daemon.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return Version(0, "", checked=False)
            return _parsed(file.read(_MAX_SIZE))
    except FileNotFoundError:
        return Version(0, "", checked=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("the state folder does not say of which version it is", path=str(path), error=str(error))
        return Version(0, "", checked=False)


def _parsed(content: bytes) -> Version:
    """Raises `ValueError`, `KeyError`, `TypeError`, `AttributeError` or `RecursionError` for what is none."""
    found = json.loads(content)
    schema, maker, check = found["schema"], str(found["imgstored"]), found.get("check")
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"its schema is {str(schema)[:20]}")
    if check is not None and check != _check(schema, maker):
        raise ValueError("its checksum is another")
    return Version(schema, maker, check is not None)


def write_version(state: Path) -> None:
    """Writes what this imgstored is, unless it is there already. Raises `OSError`."""
    if read_version(state) != Version(SCHEMA, __version__, checked=True):
        content = {"schema": SCHEMA, "imgstored": __version__, "check": _check(SCHEMA, __version__)}
        replace_file(state / VERSION, (json.dumps(content) + "\n").encode(), mode=0o600)


def _check(schema: int, maker: str) -> str:
    return f"{zlib.crc32(f'{schema} {maker}'.encode(errors='replace')):08x}"
