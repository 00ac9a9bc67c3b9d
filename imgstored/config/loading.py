"""Reads the files of the configuration, and checks what concerns more than one key."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from imgstored.config.tables import Config, keyed_pools
from imgstored.config.text import MANUAL, faults, lines, raise_all, written
from imgstored.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from imgstored.config.text import KeyPath


def load(*paths: Path) -> Config:
    """Reads the files. A later file overrides an earlier one, key by key.

    Raises `ConfigError` that names the file; its data has all other faults of all files. Each file must be
    right by itself, except for rules about more than one key.
    """
    document: dict[str, Any] = {}
    found: list[ConfigError] = []
    for path in paths:
        try:
            text = _read(path)
            own = _toml(text)
        except ConfigError as error:
            found.append(_of_file(error, [path]))
            continue
        if wrong := list(faults(own, Config)):
            numbers = lines(text)
            found += [_of_file(fault, [path], numbers) for fault in wrong]
        document = merged(document, own)
    raise_all(found)
    try:
        return _checked(document)
    except ConfigError as error:
        raise_all(_of_file(each, paths) for each in error.all_faults())
        raise


def keyed_files(paths: Sequence[Path]) -> dict[str, dict[str, int]]:
    """The line of each key, by file. Raises `ConfigError` for a file that cannot be read."""
    return {str(path): lines(_read(path)) for path in paths}


def parse(text: str) -> Config:
    """Reads TOML. Raises `ConfigError` that names the key, with all other faults in its data."""
    return _checked(_toml(text))


def _of_file(fault: ConfigError, paths: Sequence[Path], numbers: dict[str, int] | None = None) -> ConfigError:
    """The fault with the names of the files, and its line."""
    number = (numbers or {}).get(str(fault.data.get("key")))
    names = " with ".join(map(str, paths)) + ("" if number is None else f":{number}")
    named = ConfigError(f"{names}: {fault.message}" if names else fault.message, hint=fault.hint)
    named.__cause__ = fault.__cause__
    return named


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"cannot be read: {cause}", hint="name the file with --config") from error


def _toml(text: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
        _check_integers(document)
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        hint = f'texts have quotes: `key = "text"`; {MANUAL}'
        raise ConfigError(f"not TOML: {error}", hint=hint) from error
    return document


def _check_integers(value: Any, path: KeyPath = ()) -> None:
    """Raises `ValueError` for an integer beyond 64 bits, as the specification of TOML wants it."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            _check_integers(each, (*path, key))
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{written(path)}: an integer of more than 64 bits")


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The keys of both; tables are merged in the same way, and for any other value `above` counts."""
    both = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = merged(below[key], above[key])
    return both


def _checked(document: dict[str, Any]) -> Config:
    raise_all(faults(document, Config))
    config = msgspec.convert(document, Config)
    raise_all([*_path_faults(config), *_pool_faults(config)])
    return config


def _path_faults(config: Config) -> Iterator[ConfigError]:
    paths: dict[str, Any] = {
        "state": config.state,
        "imgadm": config.imgadm,
        "imgadm_locks": config.imgadm_locks,
        "vmadm": config.vmadm,
        **{f"{key}.path": table.path for key, table in keyed_pools(config)},
        "library.path": config.library.path,
        "serve.cert_file": config.serve.cert_file,
        "serve.key_file": config.serve.key_file,
        "socket.path": config.socket.path,
        "view.path": config.view.path,
        "view.link": config.view.link or None,
        **{f"hook[{place}].run": table.run[0] for place, table in enumerate(config.hook)},
    }
    for key, path in paths.items():
        if path is not None and (not path.startswith("/") or "\0" in path):
            yield ConfigError(
                f"{key}: not an absolute path: {path!r}",
                hint="give an absolute path: the daemon has no working folder",
            )


def _pool_faults(config: Config) -> Iterator[ConfigError]:
    """The faults of the pools: a key of another type, or a name or a folder that two of them share."""
    pools = keyed_pools(config)
    for key, table in pools:
        other = "properties" if table.type == "embedded" else "path"
        if getattr(table, other) is not None:
            yield ConfigError(
                f'{key}.{other}: a pool of type "{table.type}" has no such key',
                hint="`man imgstored.toml` lists the keys of each type",
            )
    names = [table.name for _, table in pools]
    for name, times in Counter(names).items():
        if times > 1:
            key = pools[names.index(name)][0]
            yield ConfigError(
                f'{key}.name: {times} pools are named "{name}"', hint="give each pool a `name` of its own"
            )
    embedded = [(key, table) for key, table in pools if table.type == "embedded"]
    folders = [(key, os.path.normpath(config.pool_folder(table))) for key, table in embedded]
    for folder, times in Counter(folder for _, folder in folders).items():
        if times > 1:
            key = next(key for key, other in folders if other == folder)
            yield ConfigError(
                f"{key}.path: another pool has the folder {folder}, too",
                hint="give each embedded pool a `path` of its own",
            )
