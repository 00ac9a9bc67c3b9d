"""The daemon's configuration: TOML with a default for every key; unknown keys are errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from imgproto.events import NumberedName  # noqa: TC002  msgspec looks at it
from msgspec import Meta

_ON_ILLUMOS = sys.platform.startswith("sunos")

_RUN = "/var/run" if _ON_ILLUMOS else "/run"
_STATE = "/var/imgstored" if _ON_ILLUMOS else "/var/lib/imgstored"
#: SmartOS recreates `/` at each boot, as a RAM disk with few inodes; `/var` is a dataset.
_VIEW, _VIEW_LINK = ("/var/imgstored/images", "/images") if _ON_ILLUMOS else ("/images", "")
#: imgadm's own folders, the same on every system.
_IMGADM, _IMGADM_LOCKS = "/var/imgadm", "/var/run"

Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]
#: A year is more than anybody waits, and the system's calls take it.
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
#: A pool's name becomes part of file names and, with ZFS, of dataset names (zpoolconcepts(7)).
PoolName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,62}$")]
Mode = Annotated[int, Meta(ge=0, le=0o777)]

_MIB = 1 << 20


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file.

    docs/configuration.md and the manual page come from the keys and their `#:` comments: the meaning of the
    key, then `None:` and the default in words, or `illumos:` and the default there.
    """


class PoolTable(_Table, frozen=True):
    """`[pool]`, or one of several `[[pool]]`: where images are kept."""

    #: `"embedded"` needs no ZFS: it keeps a filesystem image as its verified stream, a volume as a sparse raw
    #: disk; `"zfs"` is a ZFS pool of the host
    type: Literal["embedded", "zfs"] = "embedded"
    name: PoolName = "zones"  #: the pool's name for clients; for a ZFS pool, its own name
    #: embedded only: a folder that nothing else uses; name it if you add and remove pools, because the
    #: default depends on their order; None: `pool` in the state folder for the first embedded pool,
    #: `pool-NAME` for others
    path: str | None = None
    #: ZFS only: properties of received images, in place of the default; user properties
    #: (`"com.example:note" = "text"`), `atime`, `canmount`, `compression`, `devices`, `exec`, `primarycache`,
    #: `readonly`, `setuid`, `snapdir`; None: `{ readonly = "on", canmount = "noauto" }`
    properties: dict[str, str] | None = None


class SocketTable(_Table, frozen=True):
    """`[socket]`: where clients connect."""

    path: str = f"{_RUN}/imgstored/imgstored.sock"  #: where clients connect; illumos: `/var/run/…`
    mode: Mode = 0o666  #: users who can open the socket can read
    #: its members can make changes, as root and the daemon's own user can; None: none
    group: str | None = None


class ViewTable(_Table, frozen=True):
    """`[view]`: installed images as files."""

    #: `"fuse"`, `"files"` (plain read-only files), `"off"`; `"auto"` is FUSE if the host has it, else files
    mode: Literal["auto", "fuse", "files", "off"] = "auto"
    path: str = _VIEW  #: the folder of the tree; illumos: `/var/imgstored/images`
    #: a symbolic link to the folder; each start makes it unless something else is there; `""`: none; illumos:
    #: `/images`
    link: str = _VIEW_LINK


class SourceTable(_Table, frozen=True):
    """`[[sources]]`: an image server."""

    url: str  #: the server's address; required
    #: `"imgapi"`, `"dsapi"`; `"static"`: a folder whose index is a JSON array of manifests, with files at
    #: `URL/UUID/PATH`; `"oci"`: a repository of an OCI registry; None: `"oci"` for `oci://HOST/PATH`, else
    #: `"imgapi"`
    type: Literal["imgapi", "dsapi", "static", "oci"] | None = None
    insecure: bool = False  #: do not verify the server's certificate
    channel: str | None = None  #: the channel of an IMGAPI server; None: none
    ca_file: str | None = None  #: PEM file of the authorities to trust instead; None: the system's
    #: PEM file of a client's certificate and the intermediate certificates, for this very server; None: none
    cert_file: str | None = None
    key_file: str | None = None  #: PEM file of its key, without a passphrase; None: in `cert_file`
    #: `http://[user:password@]host:port`, or `socks5://` likewise; None: `https_proxy`, `http_proxy`,
    #: `no_proxy` of the environment
    proxy: str | None = None
    #: table of headers sent with every request to this very server, for credentials; never logged
    headers: dict[str, str] = {}
    #: also follow redirects, and URLs of files, that lead from this server to an address nearer to this host:
    #: loopback, link-local, private
    internal_redirects: bool = False
    #: `"static"` and `"oci"` only: public keys of minisign, 56 characters each; the daemon then takes from
    #: this source only what one of them signed (`imgctl export-site --sign`, `imgctl publish --sign`)
    keys: list[str] = []
    #: `"streaming"`: the pool receives during the download, and shows the image once the checksum matches;
    #: `"first"`: the pool sees nothing before that; None: `"first"` over plain HTTP except from
    #: loopback, over https with `insecure`, and with `keys`; else `"streaming"`
    verify: Literal["streaming", "first"] | None = None


class RegistryTable(_Table, frozen=True):
    """`[[registries]]`: how to reach an OCI registry, for sources of the type `"oci"` and for publishing."""

    host: str  #: the registry, `host` or `host:port`; required
    ca_file: str | None = None  #: PEM file of the authorities to trust instead; None: the system's
    #: PEM file of a client's certificate and the intermediate certificates, for this very host; None: none
    cert_file: str | None = None
    key_file: str | None = None  #: PEM file of its key, without a passphrase; None: in `cert_file`
    insecure: bool = False  #: do not verify the registry's certificate
    #: as for a source; None: `https_proxy`, `http_proxy`, `no_proxy` of the environment
    proxy: str | None = None
    #: file with the login, in the form of Docker's `config.json` (`auths`); no program that it names is run;
    #: None: no login
    auth_file: str | None = None
    #: another `host` or `host:port`, besides the registry's own, that may get the login and give out a token;
    #: None: none, or `auth.docker.io` for Docker Hub
    token_server: str | None = None
    #: URLs of servers with the same repositories, asked first: replicas, pull-through caches; each may have a
    #: table of its own
    mirrors: list[str] = []
    #: also follow redirects, and token servers, that lead from the registry to an address nearer to this host
    internal_redirects: bool = False


class LimitsTable(_Table, frozen=True):
    """`[limits]`. Sizes in MiB, times in seconds."""

    imports: Annotated[int, Meta(ge=1, le=64)] = 4  #: images that download at the same time
    connections: Annotated[int, Meta(ge=1, le=64)] = 8  #: connections for each of these images
    connect_seconds: Seconds = 10.0  #: time to connect
    silence_seconds: Seconds = 30.0  #: time without a byte from a server before a request fails
    min_rate: NotNegative = 1024  #: minimum bytes per second of one request, over a minute; 0: no minimum
    tries: Positive = 5  #: consecutive failures before the daemon gives a server up
    min_free_mib: NotNegative = 64  #: MiB that stay free in the pool and in the state folder
    max_image_mib: Positive = _MIB  #: MiB of one image, uncompressed
    max_ratio: Positive = 500  #: maximum ratio of uncompressed to compressed bytes
    decoder_memory_mib: Positive = 96  #: MiB of one xz decoder, or of one zstd window
    keep_partial_days: NotNegative = 7  #: days before the daemon drops an unfinished download
    #: `"auto"`: of an image with an index, fetch only what an installed image of the same name lacks, where
    #: that is probably faster; `"always"`: wherever that is possible; `"never"`: fetch whole files
    deltas: Literal["auto", "always", "never"] = "auto"
    #: connections to the socket; a quarter is reserved for users who can make changes
    clients: Annotated[int, Meta(ge=4, le=65536)] = 256
    client_requests: Positive = 64  #: requests in flight of one connection
    #: connections of one user that may only read
    user_clients: Positive = 64
    #: requests in flight of one user that may only read, over all connections
    user_requests: Positive = 128
    user_watches: Positive = 32  #: of these, requests `watch` and `events`
    client_idle_seconds: Seconds = 600.0  #: time without a request before the daemon closes a connection


class LogTable(_Table, frozen=True):
    """`[log]`: the log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"  #: the least important messages in the log
    #: `"human"` for people, `"json"` for machines; `"auto"` is `"human"` on a terminal, else `"json"`
    format: Literal["auto", "human", "json"] = "auto"


class MetricsTable(_Table, frozen=True):
    """`[metrics]`: for a monitoring system, over HTTP."""

    #: `ADDRESS:PORT`, as `127.0.0.1:9275`, or `unix:PATH`, a socket with the permissions of `socket.mode` and
    #: `socket.group`; None: nowhere
    listen: str | None = None
    #: also allow an address that other hosts can reach; everyone who reaches it can read all metrics
    remote: bool = False


class LibraryTable(_Table, frozen=True):
    """`[library]`: the original files of installed images, for other hosts."""

    #: MiB of original files that the daemon keeps after an import; beyond that it removes the least recently
    #: served; 0: it keeps none
    keep_mib: NotNegative = 0
    path: str | None = None  #: the folder; None: `library` in the state folder


class MirrorTable(_Table, frozen=True):
    """`[[mirror]]`: images of another server that the library keeps, whatever `library.keep_mib` says."""

    #: the server: one of `sources`, whose settings count, a registry, or an IMGAPI server; required
    url: str
    name: str | None = None  #: only images of this name; None: any
    os: str | None = None  #: only images of this operating system; None: any
    newest: Annotated[int, Meta(ge=1)] | None = None  #: only this many of each name, the newest; None: all
    #: how often: a number and `s`, `m`, `h`, `d` or `w`
    every: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,6}[smhdw]\Z")] = "1d"


class HookTable(_Table, frozen=True):
    """`[[hook]]`: a program that the daemon runs when something happens."""

    #: the program, an absolute path that only root can change, and its arguments; it gets the event as JSON
    #: on standard input; required
    run: Annotated[list[str], Meta(min_length=1, max_length=100)]
    #: the events for which the daemon runs it; None: all of them
    on: Annotated[list[NumberedName], Meta(min_length=1)] | None = None
    seconds: Seconds = 60.0  #: time that one run may take before the daemon ends it


class ServeTable(_Table, frozen=True):
    """`[serve]`: the image server, IMGAPI and DSAPI over HTTP, from the library."""

    #: `ADDRESS:PORT`, as `0.0.0.0:8080` or `[::]:8080`; None: nowhere
    listen: str | None = None
    #: also offer what the daemon's own sources have: a request for such an image fetches its file once, and
    #: all clients get it while it arrives; needs `library.keep_mib`
    pull: bool = False
    cert_file: str | None = None  #: PEM file of the server's certificate, for TLS; None: plain HTTP
    key_file: str | None = None  #: PEM file of its key, without a passphrase; None: in `cert_file`
    #: table of names and secret tokens of those who may publish; each request has one as
    #: `Authorization: Bearer TOKEN`, or as the password of `Basic`
    tokens: dict[str, str] = {}
    #: table of names and files of public keys (PEM or OpenSSH) of those who may publish by IMGAPI's HTTP
    #: signatures; needs the Python package cryptography
    keys: dict[str, str] = {}
    connections: Annotated[int, Meta(ge=1, le=65536)] = 512  #: connections at the same time
    client_connections: Positive = 64  #: connections of one address, or one /64 of IPv6, at the same time
    rate_mib: NotNegative = 0  #: MiB per second of all files, shared fairly among clients; 0: no bound


class Config(_Table, frozen=True):
    """The whole file."""

    #: folder of the daemon's own state; one daemon per folder; illumos: `/var/imgstored`
    state: str = _STATE
    #: folder with `imgadm.conf` (sources) and `images/POOL-UUID.json` (manifests), in imgadm's own form;
    #: None: `/var/imgadm` if a pool is ZFS, else `imgadm` in the state folder
    imgadm: str | None = None
    #: folder with imgadm's locks, `img.UUID.import.lock`: the daemon and imgadm never work on the same image
    #: at the same time; None: `/var/run` if a pool is ZFS, else `locks` in the state folder
    imgadm_locks: str | None = None
    #: the program that manages the host's machines, for `imgctl create`; optional
    vmadm: str = "/usr/sbin/vmadm"
    #: the platform image to compare with `min_platform` and `max_platform` of images, such as
    #: `7.0/20260101T000000Z`; `any`: no comparison; None: on SmartOS the host's own, elsewhere `any`
    platform: str | None = None
    pool: PoolTable | Annotated[list[PoolTable], Meta(min_length=1)] = PoolTable()
    socket: SocketTable = SocketTable()
    view: ViewTable = ViewTable()
    registries: list[RegistryTable] = []
    sources: list[SourceTable] | None = None  #: None: imgadm's, or imgadm's default if it has none
    limits: LimitsTable = LimitsTable()
    log: LogTable = LogTable()
    metrics: MetricsTable = MetricsTable()
    library: LibraryTable = LibraryTable()
    serve: ServeTable = ServeTable()
    mirror: list[MirrorTable] = []
    hook: Annotated[list[HookTable], Meta(max_length=64)] = []

    @property
    def pools(self) -> tuple[PoolTable, ...]:
        """All pools. The first is the default of requests."""
        return (self.pool,) if isinstance(self.pool, PoolTable) else tuple(self.pool)

    def pool_folder(self, table: PoolTable) -> Path:
        """The folder of an embedded pool: `pool` in the state folder for the first of them."""
        if table.path is not None:
            return Path(table.path)
        first = next(each for each in self.pools if each.type == "embedded")
        return Path(self.state, "pool" if table.name == first.name else f"pool-{table.name}")

    @property
    def imgadm_folder(self) -> Path:
        """The folder of imgadm's configuration and manifests: imgadm's own folder if a pool is ZFS."""
        if self.imgadm is not None:
            return Path(self.imgadm)
        return Path(_IMGADM) if self._has_zfs else Path(self.state, "imgadm")

    @property
    def imgadm_locks_folder(self) -> Path:
        """The folder of imgadm's locks (`img.UUID.import.lock`), as `imgadm_folder`."""
        if self.imgadm_locks is not None:
            return Path(self.imgadm_locks)
        return Path(_IMGADM_LOCKS) if self._has_zfs else Path(self.state, "locks")

    @property
    def has_library(self) -> bool:
        """True if the library keeps files, or something needs it."""
        return bool(self.library.keep_mib or self.serve.listen or self.mirror)

    @property
    def library_folder(self) -> Path:
        """The folder of the library. Without a library nothing reads it, and nothing tidies it up."""
        return Path(self.state, "library") if self.library.path is None else Path(self.library.path)

    @property
    def view_in_state(self) -> bool:
        """True if the view, which everyone may read, is in the state folder, which is private."""
        within = Path(os.path.normpath(self.view.path)).is_relative_to(os.path.normpath(self.state))
        return within and self.view.mode != "off"

    @property
    def _has_zfs(self) -> bool:
        return any(table.type == "zfs" for table in self.pools)


def keyed_pools(config: Config) -> list[tuple[str, PoolTable]]:
    """The pools, each with its key in the file: `pool`, or `pool[0]`."""
    if isinstance(config.pool, PoolTable):
        return [("pool", config.pool)]
    return [(f"pool[{place}]", table) for place, table in enumerate(config.pool)]
