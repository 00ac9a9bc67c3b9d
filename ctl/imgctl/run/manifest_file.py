"""Reads the manifest file of `install`, `create` or `publish`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from imgctl.error_record import timestamp
from imgctl.errors import CommandError, UsageError


def check_exists(what: str, path: str) -> None:
    """Raises imgadm's `UsageError` when there is nothing at the path."""
    if not Path(path).exists():
        raise UsageError(f'{what} path does not exist: "{path}"')


def read_manifest(path: str, limit: int, *, dated: bool = True) -> dict[str, Any]:
    """The manifest in a file of at most `limit` bytes; `dated`: with `published_at`, now if it has none.

    The path "-" is standard input. Raises `CommandError` (InvalidManifest) for what is no JSON object, and
    `OSError`.
    """
    with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _invalid(f"it has more than {limit} bytes")
    return parse_manifest(data, dated=dated)


def parse_manifest(data: bytes, *, dated: bool = True) -> dict[str, Any]:
    """The manifest in these bytes; as `read_manifest`."""
    try:
        manifest = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError as error:
        raise _invalid(str(error)) from error
    if not isinstance(manifest, dict):
        raise _invalid("it is not a JSON object")
    if dated and manifest.get("published_at") is None:
        manifest["published_at"] = timestamp()
    return manifest


def _invalid(why: str) -> CommandError:
    return CommandError("InvalidManifest", f"manifest is invalid: {why}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
