"""Translates the configuration into the settings of each room, and checks them. No I/O."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imgstored import lanes
from imgstored.config.tables import keyed_pools
from imgstored.config.text import raise_all
from imgstored.errors import ClientError, ConfigError, KeyFileError
from imgstored.hooks.hooks import HookSpec
from imgstored.http import credentials
from imgstored.http.location import Access, check_headers, origin_of, shown
from imgstored.http.proxy import parse_proxy
from imgstored.httpd.address import TcpAddress, parse_listen
from imgstored.httpd.message import HttpLimits
from imgstored.imports.resources import ImportLimits
from imgstored.mirrors.mirror import MirrorSpec
from imgstored.mirrors.selection import Filter
from imgstored.pools.zfs.properties import checked
from imgstored.registry.client import RegistrySpec
from imgstored.registry.reference import api_url, check_plain
from imgstored.rpc.connection import Limits as SocketLimits
from imgstored.site.trust import keys_of
from imgstored.smartos import parse_platform, running
from imgstored.sources.base import SourceSpec
from imgstored.sources.spec import checked as checked_source
from imgstored.sources.spec import normalised, type_for
from imgstored.transfer.decompress import DecompressLimits
from imgstored.transfer.download import DownloadLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from imgstored.config.tables import (
        Config,
        LimitsTable,
        MirrorTable,
        PoolTable,
        RegistryTable,
        SourceTable,
    )
    from imgstored.httpd.address import UnixAddress
    from imgstored.manifest.platform import Platform

_MIB = 1 << 20
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

#: Open files of the daemon itself (logs, databases, locks, trio's own), of the view, of the metrics, and of
#: images that are created or exported; half of the number is spare.
_OWN_FILES = 256
#: Open files of a client: its socket, and the file that it may pass.
_CLIENT_FILES = 2
#: Open files of an import besides its connections: the spool, pipes to the pool and a decompressor, locks.
_IMPORT_FILES = 16
#: Open files of a pool: /dev/zfs, or its folders and files.
_POOL_FILES = 8

#: Characters of a token, which anybody may try to guess.
_MIN_TOKEN = 16


def check(settings: Config) -> None:
    """Raises `ConfigError` for all faults that show without a start; its data has those after the first."""
    checks: list[Callable[[], object]] = [
        partial(platform, settings),
        partial(registry_specs, settings),
        *(partial(_source_spec, place, table) for place, table in enumerate(settings.sources or ())),
        partial(metrics_address, settings),
        partial(serve_address, settings),
        *(partial(_mirror_spec, place, table) for place, table in enumerate(settings.mirror)),
        partial(hook_specs, settings),
        *(partial(_properties, key, table) for key, table in keyed_pools(settings)),
    ]
    raise_all(error for each in checks for error in faults_of(each))


def faults_of(check: Callable[[], object]) -> list[ConfigError]:
    """The faults for which a check raises `ConfigError`."""
    try:
        check()
    except ConfigError as error:
        return [error]
    return []


def _properties(key: str, table: PoolTable) -> None:
    try:
        checked(table.properties or {})
    except ConfigError as error:
        raise ConfigError(f"{key}.properties: {error.message}", hint=error.hint) from error


def platform(settings: Config) -> Platform | None:
    """The platform image that images must suit; None if every image does. Raises `ConfigError`."""
    if settings.platform is None:
        return running()
    return None if settings.platform == "any" else parse_platform(settings.platform)


def source_specs(settings: Config) -> tuple[SourceSpec, ...] | None:
    """The sources of the file, or None where it has no such key. Raises `ConfigError`."""
    if settings.sources is None:
        return None
    return tuple(_source_spec(place, table) for place, table in enumerate(settings.sources))


def _source_spec(place: int, table: SourceTable) -> SourceSpec:
    if table.key_file is not None and table.cert_file is None:
        raise ConfigError(
            f"sources[{place}]: key_file without cert_file",
            hint="cert_file names the certificate of that key",
        )
    kind = table.type or type_for(table.url)
    if table.keys and kind not in ("static", "oci"):
        raise ConfigError(
            f'sources[{place}]: keys with the type "{kind}"',
            hint='sites of `imgctl export-site --sign` are signed, `type = "static"`, and images of'
            ' `imgctl publish --sign` in registries, `type = "oci"`',
        )
    access = _access(table, tuple(table.headers.items()))
    try:
        url = normalised(table.url)
        check_headers(access)
        if table.proxy is not None:
            parse_proxy(table.proxy)
        keys_of(table.keys)
        spec = checked_source(
            SourceSpec(
                url=url,
                type=kind,
                insecure=table.insecure,
                channel=table.channel,
                access=access,
                keys=tuple(table.keys),
                verify=table.verify,
            )
        )
    except (ClientError, KeyFileError) as error:
        raise ConfigError(f"sources[{place}]: {error.message}", hint=error.hint) from error
    return spec


def _access(table: SourceTable | RegistryTable, headers: tuple[tuple[str, str], ...] = ()) -> Access:
    return Access(
        ca_file=table.ca_file,
        cert_file=table.cert_file,
        key_file=table.key_file,
        insecure=table.insecure,
        internal_redirects=table.internal_redirects,
        proxy=table.proxy,
        headers=headers,
    )


def registry_specs(settings: Config) -> tuple[RegistrySpec, ...]:
    """The access to registries. Raises `ConfigError`."""
    found: dict[str, RegistrySpec] = {}
    for place, table in enumerate(settings.registries):
        try:
            spec = _registry_spec(table)
        except ClientError as error:
            raise ConfigError(f"registries[{place}]: {error.message}", hint=error.hint) from error
        if found.setdefault(spec.host, spec) is not spec:
            raise ConfigError(
                f"registries[{place}]: {spec.host} has a table already", hint="put both into one table"
            )
    return tuple(found.values())


def _registry_spec(table: RegistryTable) -> RegistrySpec:
    """Raises `ClientError`."""
    if table.key_file is not None and table.cert_file is None:
        raise ClientError("key_file without cert_file", hint="cert_file names the certificate of that key")
    if table.proxy is not None:
        parse_proxy(table.proxy)
    for mirror in table.mirrors:
        origin = origin_of(mirror)
        check_plain(origin)
        if urlsplit(mirror).path.strip("/"):
            raise ClientError(
                f"the mirror {shown(mirror)} has a path", hint="a mirror is https://HOST or https://HOST:PORT"
            )
    tokens = None if table.token_server is None else api_url(table.token_server.lower())
    return RegistrySpec(
        host=origin_of(api_url(table.host.lower())).authority,
        access=_access(table),
        auth_file=table.auth_file,
        token_server=None if tokens is None else origin_of(tokens).authority,
        mirrors=tuple(f"{origin_of(each).scheme}://{origin_of(each).authority}" for each in table.mirrors),
    )


def secrets(settings: Config, environ: Mapping[str, str]) -> set[str]:
    """The secrets in the settings and in the environment: credentials of sources and proxies."""
    found = credentials.of_environment(environ)
    for table in settings.sources or ():
        found |= credentials.of_headers(table.headers) | credentials.of_source(table.url)
        if table.proxy is not None:
            found |= credentials.of_proxy(table.proxy)
    for registry in settings.registries:
        if registry.proxy is not None:
            found |= credentials.of_proxy(registry.proxy)
    return found | set(settings.serve.tokens.values())


def metrics_address(settings: Config) -> TcpAddress | UnixAddress | None:
    """The address of the metrics, or None. Raises `ConfigError`."""
    table = settings.metrics
    if table.listen is None:
        return None
    address = parse_listen(table.listen, key="metrics.listen", example="127.0.0.1:9275")
    if isinstance(address, TcpAddress) and not address.is_loopback and not table.remote:
        raise ConfigError(
            f"metrics.listen: other hosts can reach {address.host}",
            hint="take a loopback address; or set `remote = true` if everyone there may read all metrics",
        )
    return address


def serve_address(settings: Config) -> TcpAddress | None:
    """The address of the image server, or None. Raises `ConfigError`."""
    table = settings.serve
    if table.key_file is not None and table.cert_file is None:
        raise ConfigError(
            "serve.key_file without serve.cert_file", hint="cert_file names the certificate of that key"
        )
    for name, token in table.tokens.items():
        if len(token) < _MIN_TOKEN:
            raise ConfigError(
                f"serve.tokens.{name}: shorter than {_MIN_TOKEN} characters",
                hint="`openssl rand -hex 24` makes one that nobody guesses",
            )
        if not all("!" <= character <= "~" for character in token):
            raise ConfigError(
                f"serve.tokens.{name}: no client can send it: a token has ASCII's letters, digits and signs",
                hint="`openssl rand -hex 24` makes one",
            )
    if table.listen is None:
        return None
    if table.pull and not settings.library.keep_mib:
        raise ConfigError(
            "serve.pull without library.keep_mib", hint="say how many MiB of files the daemon may keep"
        )
    address = parse_listen(table.listen, key="serve.listen", example="0.0.0.0:8080")
    if not isinstance(address, TcpAddress):
        raise ConfigError(
            f"serve.listen: hosts cannot reach {address}", hint='write an address and a port: "0.0.0.0:8080"'
        )
    return address


def mirror_specs(settings: Config) -> tuple[MirrorSpec, ...]:
    """The mirrors that the daemon keeps up to date. Raises `ConfigError`."""
    return tuple(_mirror_spec(place, table) for place, table in enumerate(settings.mirror))


def _mirror_spec(place: int, table: MirrorTable) -> MirrorSpec:
    try:
        url = table.url if type_for(table.url) == "oci" else normalised(table.url)
        normalised(url)
    except ClientError as error:
        raise ConfigError(f"mirror[{place}]: {error.message}", hint=error.hint) from error
    wanted = Filter(table.name, table.os, table.newest)
    return MirrorSpec(url, wanted, float(int(table.every[:-1]) * _SECONDS[table.every[-1]]))


def hook_specs(settings: Config) -> tuple[HookSpec, ...]:
    """The programs that are run when something happens. Raises `ConfigError`."""
    for place, table in enumerate(settings.hook):
        if any("\0" in word for word in table.run):
            raise ConfigError(f"hook[{place}].run: no word may have a NUL", hint="write each word as it is")
    return tuple(
        HookSpec(tuple(table.run), frozenset(table.on or ()), table.seconds) for table in settings.hook
    )


def serve_limits(settings: Config) -> HttpLimits:
    """The limits of the image server."""
    table = settings.serve
    return HttpLimits(
        connections=table.connections,
        client_connections=table.client_connections,
        handlers=table.connections,
    )


def import_limits(settings: Config) -> ImportLimits:
    """The limits of imports."""
    limits = settings.limits
    return ImportLimits(
        imports=limits.imports,
        min_free=limits.min_free_mib * _MIB,
        keep_partial_seconds=limits.keep_partial_days * 86400.0,
        download=download_limits(limits),
        decompress=decompress_limits(limits),
        deltas=limits.deltas,
    )


def download_limits(limits: LimitsTable) -> DownloadLimits:
    """The limits of one download."""
    return DownloadLimits(
        connections=limits.connections,
        connect_seconds=limits.connect_seconds,
        silence_seconds=limits.silence_seconds,
        min_rate=limits.min_rate,
        tries=limits.tries,
        # One connection gains nothing by ranges, and some servers refuse them.
        whole_first=limits.connections == 1,
    )


def decompress_limits(limits: LimitsTable) -> DecompressLimits:
    """The limits of the decoders."""
    return DecompressLimits(
        max_image=limits.max_image_mib * _MIB,
        max_ratio=limits.max_ratio,
        decoder_memory=limits.decoder_memory_mib * _MIB,
    )


def descriptors(settings: Config) -> int:
    """The maximum number of open files that the limits allow at the same time."""
    limits = settings.limits
    return (
        _OWN_FILES
        + lanes.MAX_REQUESTS
        + limits.clients * _CLIENT_FILES
        + limits.imports * (limits.connections + _IMPORT_FILES)
        + len(settings.pools) * _POOL_FILES
        + (0 if settings.serve.listen is None else settings.serve.connections * _CLIENT_FILES)
    )


def socket_limits(settings: Config) -> SocketLimits:
    """The limits of the socket's server."""
    limits = settings.limits
    return SocketLimits(
        clients=limits.clients,
        client_requests=limits.client_requests,
        user_clients=limits.user_clients,
        user_requests=limits.user_requests,
        user_watches=limits.user_watches,
        client_idle_seconds=limits.client_idle_seconds,
    )
