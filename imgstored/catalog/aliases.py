"""Aliases: names that the administrator gives images, in one file of the daemon's own state.

An alias means one uuid, and comes before all names that servers give their images. The image may be one that
is not installed, or no longer installed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
import structlog
import trio

from imgstored import lanes
from imgstored.errors import FileSystemError, UsageError
from imgstored.host import shortage
from imgstored.host.filesystem import replace_file
from imgstored.manifest import check_uuid, decoded
from imgstored.manifest.values import UUID, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgproto.documents import AliasDocument

    from imgstored.catalog.catalog import Catalog

log = structlog.get_logger(__name__)

#: The form of an alias. It must not match `_DIGITS`, the beginning of a uuid, and has no `@`, as versions
#: have.
_ALIAS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_DIGITS: Final = re.compile(r"[0-9a-fA-F-]{4,}")

#: The greatest number of aliases, and of bytes of their file.
MAX_ALIASES: Final = 1000
_MAX_FILE: Final = 1 << 20


Alias = Annotated[str, msgspec.Meta(pattern=rf"^(?:{_ALIAS.pattern})\Z")]
Uuid = Annotated[str, msgspec.Meta(pattern=rf"^(?:{UUID.pattern})\Z")]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    aliases: dict[Alias, Uuid]
    format: Literal[1] = 1


class Aliases:
    """The aliases in one file. For trio's thread; blocking calls run in other threads, one at a time."""

    def __init__(self, path: Path, catalog: Catalog, set_aside: Callable[[Path, str], None]) -> None:
        """Reads the file. Blocks. If the file is damaged, there are no aliases.

        `set_aside` then gets the file and the reason; it may raise `OSError`.
        """
        self._path = path
        self._catalog = catalog
        self._lock = trio.Lock()
        self._aliases = _read(path, set_aside)

    def meaning(self, text: str) -> str:
        """The uuid that an alias means; any other text as it is."""
        return self._aliases.get(text, text)

    def all(self) -> list[AliasDocument]:
        """The aliases by their names."""
        return [{"alias": alias, "uuid": uuid} for alias, uuid in sorted(self._aliases.items())]

    async def set(self, alias: str, uuid: str) -> str | None:
        """Makes the alias mean an image, also on the disk; returns the uuid that it meant before.

        Raises `UsageError` for text that is no alias, or is the name of an installed image;
        `InvalidUUIDError`; `FileSystemError`.
        """
        check_uuid(uuid)
        # An existing alias may get another image, even if an image has that name by now.
        if alias not in self._aliases:
            self._check(alias)
        async with self._lock:
            if alias not in self._aliases and len(self._aliases) >= MAX_ALIASES:
                raise UsageError(
                    f"there are {MAX_ALIASES} aliases already", hint="`imgctl alias -d ALIAS` removes one"
                )
            before = self._aliases.get(alias)
            await self._write({**self._aliases, alias: uuid})
        return before

    async def remove(self, alias: str) -> str:
        """Removes the alias; returns the uuid that it meant. Raises `UsageError`, `FileSystemError`."""
        async with self._lock:
            if (uuid := self._aliases.get(alias)) is None:
                raise UsageError(
                    f'there is no alias "{shown(alias)}"', hint="`imgctl alias` lists the aliases"
                )
            await self._write({name: each for name, each in self._aliases.items() if name != alias})
        return uuid

    def _check(self, alias: str) -> None:
        if not _ALIAS.fullmatch(alias) or _DIGITS.fullmatch(alias):
            raise UsageError(
                f'"{shown(alias)}" cannot be an alias',
                hint="one has a letter and up to 63 letters, digits, dots, underscores and dashes,"
                " and is not the beginning of a uuid",
            )
        for image in self._catalog.all():
            if image.manifest.get("name") == alias:
                raise UsageError(
                    f'"{alias}" is the name of an installed image, {image.uuid}', hint="take another alias"
                )

    async def _write(self, aliases: dict[str, str]) -> None:
        content = msgspec.json.format(msgspec.json.encode(_File(aliases))) + b"\n"
        try:
            await lanes.in_thread(lambda: replace_file(self._path, content, mode=0o600))
        except OSError as error:
            raise FileSystemError(f"cannot write {self._path}: {shortage.why(error)}") from error
        self._aliases = aliases


def _read(path: Path, set_aside: Callable[[Path, str], None]) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            return decoded(file.read(_MAX_FILE), _File).aliases
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.error("the aliases cannot be read", error=str(error))
        try:
            set_aside(path, str(error))
        except OSError as problem:
            log.error("the damaged aliases cannot be set aside", error=str(problem))
        return {}
