"""The daemon's configuration: TOML, every key with a default, everything else refused by its name."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from imgstored.errors import ConfigError

_ON_ILLUMOS = sys.platform.startswith("sunos")

_RUN = "/var/run" if _ON_ILLUMOS else "/run"
_STATE = "/var/imgstored" if _ON_ILLUMOS else "/var/lib/imgstored"
#: imgadm's own folders, on every system.
_IMGADM, _IMGADM_LOCKS = "/var/imgadm", "/var/run"

Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]
#: A pool's name becomes part of file names and, with ZFS, of dataset names (zpoolconcepts(7)).
PoolName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,62}$")]
Mode = Annotated[int, Meta(ge=0, le=0o777)]

_MIB = 1 << 20


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file."""


class PoolTable(_Table, frozen=True):
    """`[pool]`, or one of several `[[pool]]`: where images are kept."""

    type: Literal["embedded", "zfs"] = "embedded"
    name: PoolName = "zones"
    path: str | None = None  #: embedded only: its folder; None: `pool_folder` tells
    properties: dict[str, str] | None = None  #: zfs only: what images get; None: what the pool gives them


class SocketTable(_Table, frozen=True):
    """`[socket]`: where clients connect."""

    path: str = f"{_RUN}/imgstored/imgstored.sock"
    mode: Mode = 0o666  #: whoever may open it may read
    group: str | None = None  #: its members may change, as root may


class ViewTable(_Table, frozen=True):
    """`[view]`: installed images as files."""

    mode: Literal["auto", "fuse", "files", "off"] = "auto"
    path: str = "/images"


class SourceTable(_Table, frozen=True):
    """`[[sources]]`: an image server."""

    url: str
    type: Literal["imgapi", "dsapi", "static"] = "imgapi"
    insecure: bool = False  #: do not verify the server's certificate
    channel: str | None = None
    ca_file: str | None = None  #: PEM file of the authorities to trust instead of the system's
    proxy: str | None = None  #: http://[user:password@]host:port
    headers: dict[str, str] = {}  #: sent with each request to this server, as for credentials
    verify: Literal["streaming", "first"] | None = None  #: None: first over plain HTTP, but for loopback


class LimitsTable(_Table, frozen=True):
    """`[limits]`. Sizes in MiB, times in seconds."""

    imports: Annotated[int, Meta(ge=1, le=64)] = 4  #: images that are downloaded at the same time
    connections: Annotated[int, Meta(ge=1, le=64)] = 8  #: for each of them
    connect_seconds: Seconds = 10.0
    silence_seconds: Seconds = 30.0  #: without a byte from a server
    min_rate: NotNegative = 1024  #: bytes a second of one request, over a minute; 0: any rate will do
    tries: Positive = 5  #: failures in a row until a server is given up
    min_free_mib: NotNegative = 64  #: left free in the pool and in the state folder
    max_image_mib: Positive = _MIB  #: of one image, uncompressed
    max_ratio: Positive = 500  #: uncompressed to compressed
    decoder_memory_mib: Positive = 96  #: of one xz decoder, or one zstd window
    keep_partial_days: NotNegative = 7  #: for downloads that nobody asks for again
    clients: Annotated[int, Meta(ge=4, le=65536)] = 256
    client_requests: Positive = 64  #: of one client, at the same time
    client_idle_seconds: Seconds = 600.0


class LogTable(_Table, frozen=True):
    """`[log]`: on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"  #: auto: text on a terminal


class Config(_Table, frozen=True):
    """The whole file."""

    state: str = _STATE  #: folder of the daemon's own state
    imgadm: str | None = None  #: folder of imgadm's state; None: `imgadm_folder` tells
    imgadm_locks: str | None = None  #: folder of imgadm's locks; None: `imgadm_locks_folder` tells
    vmadm: str = "/usr/sbin/vmadm"  #: the program, where the host has machines
    pool: PoolTable | Annotated[list[PoolTable], Meta(min_length=1)] = PoolTable()
    socket: SocketTable = SocketTable()
    view: ViewTable = ViewTable()
    sources: list[SourceTable] | None = None  #: None: imgadm's, and its default where it has none
    limits: LimitsTable = LimitsTable()
    log: LogTable = LogTable()

    @property
    def pools(self) -> tuple[PoolTable, ...]:
        """All pools. The first is the one that is used where a request names none."""
        return (self.pool,) if isinstance(self.pool, PoolTable) else tuple(self.pool)

    def pool_folder(self, table: PoolTable) -> Path:
        """Where an embedded pool keeps its images: `pool` in the state folder for the first of them."""
        if table.path is not None:
            return Path(table.path)
        first = next(each for each in self.pools if each.type == "embedded")
        return Path(self.state, "pool" if table.name == first.name else f"pool-{table.name}")

    @property
    def imgadm_folder(self) -> Path:
        """Where imgadm's configuration and manifests are: imgadm's own place as soon as a pool is ZFS."""
        if self.imgadm is not None:
            return Path(self.imgadm)
        return Path(_IMGADM) if self._has_zfs else Path(self.state, "imgadm")

    @property
    def imgadm_locks_folder(self) -> Path:
        """Where imgadm's locks (`img.UUID.import.lock`) are, as `imgadm_folder`."""
        if self.imgadm_locks is not None:
            return Path(self.imgadm_locks)
        return Path(_IMGADM_LOCKS) if self._has_zfs else Path(self.state, "locks")

    @property
    def _has_zfs(self) -> bool:
        return any(table.type == "zfs" for table in self.pools)


def load(path: Path | None) -> Config:
    """Reads the file; None is an empty one. Raises `ConfigError` that names the file and the key."""
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {cause}", hint="name the file with --config") from error
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error


def parse(text: str) -> Config:
    """Reads TOML. Raises `ConfigError` that names the key."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", hint="see docs/configuration.md") from error
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_said(str(error)), hint="docs/configuration.md lists all keys") from error
    _check_paths(config)
    _check_pools(config)
    return config


def _check_paths(config: Config) -> None:
    paths: dict[str, Any] = {
        "state": config.state,
        "imgadm": config.imgadm,
        "imgadm_locks": config.imgadm_locks,
        "vmadm": config.vmadm,
        **{f"{key}.path": table.path for key, table in keyed_pools(config)},
        "socket.path": config.socket.path,
        "view.path": config.view.path,
    }
    for key, path in paths.items():
        if path is not None and (not path.startswith("/") or "\0" in path):
            raise ConfigError(
                f"{key}: not an absolute path: {path!r}", hint="the daemon has no working folder"
            )


def keyed_pools(config: Config) -> list[tuple[str, PoolTable]]:
    """The pools, each with what the file calls it: `pool`, or `pool[0]`."""
    if isinstance(config.pool, PoolTable):
        return [("pool", config.pool)]
    return [(f"pool[{place}]", table) for place, table in enumerate(config.pool)]


def _check_pools(config: Config) -> None:
    """Each pool has only keys of its type, and none of them what another one has."""
    pools = keyed_pools(config)
    for key, table in pools:
        other = "properties" if table.type == "embedded" else "path"
        if getattr(table, other) is not None:
            raise ConfigError(
                f'{key}.{other}: a pool of type "{table.type}" has no such key',
                hint="docs/configuration.md lists the keys of each type",
            )
    names = Counter(table.name for _, table in pools)
    for key, table in pools:
        if names[table.name] > 1:
            raise ConfigError(
                f'{key}.name: {names[table.name]} pools are named "{table.name}"',
                hint="give each pool a `name` of its own",
            )
    embedded = [(key, table) for key, table in pools if table.type == "embedded"]
    folders = {key: os.path.normpath(config.pool_folder(table)) for key, table in embedded}
    for key, folder in folders.items():
        if sum(folder == other for other in folders.values()) > 1:
            raise ConfigError(
                f"{key}.path: another pool has the folder {folder}, too",
                hint="give each embedded pool a `path` of its own",
            )


def _said(message: str) -> str:
    """The words of msgspec, with the key first: `limits.tries: expected int, got str`."""
    match = re.fullmatch(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", message, re.DOTALL)
    assert match is not None
    what, where = match[1].replace("`", ""), match[2] or ""
    unknown = re.fullmatch(r"Object contains unknown field (.*)", what)
    if unknown:
        return f"unknown key: {where + '.' if where else ''}{unknown[1]}"
    missing = re.fullmatch(r"Object missing required field (.*)", what)
    if missing:
        return f"missing key: {where + '.' if where else ''}{missing[1]}"
    return f"{where or 'the file'}: {what[:1].lower()}{what[1:]}"
