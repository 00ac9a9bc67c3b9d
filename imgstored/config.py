"""The daemon's configuration: TOML, every key with a default, everything else refused by its name."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from imgstored.errors import ConfigError

_ON_ILLUMOS = sys.platform.startswith("sunos")

_RUN = "/var/run" if _ON_ILLUMOS else "/run"
_STATE = "/var/imgstored" if _ON_ILLUMOS else "/var/lib/imgstored"

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
    """`[pool]`: where images are kept."""

    type: Literal["embedded"] = "embedded"
    name: PoolName = "zones"
    path: str | None = None  #: the embedded pool's folder; None: `pool` in the state folder


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
    imgadm: str | None = None  #: folder of imgadm's state; None: `imgadm` in the state folder
    pool: PoolTable = PoolTable()
    socket: SocketTable = SocketTable()
    view: ViewTable = ViewTable()
    sources: list[SourceTable] | None = None  #: None: imgadm's, and its default where it has none
    limits: LimitsTable = LimitsTable()
    log: LogTable = LogTable()

    @property
    def pool_folder(self) -> Path:
        """Where the embedded pool keeps its images."""
        return Path(self.pool.path) if self.pool.path is not None else Path(self.state, "pool")

    @property
    def imgadm_folder(self) -> Path:
        """Where imgadm's configuration and manifests are."""
        return Path(self.imgadm) if self.imgadm is not None else Path(self.state, "imgadm")


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
    return config


def _check_paths(config: Config) -> None:
    paths: dict[str, Any] = {
        "state": config.state,
        "imgadm": config.imgadm,
        "pool.path": config.pool.path,
        "socket.path": config.socket.path,
        "view.path": config.view.path,
    }
    for key, path in paths.items():
        if path is not None and (not path.startswith("/") or "\0" in path):
            raise ConfigError(
                f"{key}: not an absolute path: {path!r}", hint="the daemon has no working folder"
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
