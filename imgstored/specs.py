"""What each room wants of the configuration, and whether it can have that. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.config import keyed_pools
from imgstored.errors import ClientError, ConfigError
from imgstored.http.location import Access, check_headers
from imgstored.http.proxy import parse_proxy
from imgstored.pools.zfs.properties import checked
from imgstored.rpc.limits import Limits as SocketLimits
from imgstored.sources.base import SourceSpec
from imgstored.sources.url import normalised
from imgstored.store.installer import InstallLimits
from imgstored.transfer.decompress import DecompressLimits
from imgstored.transfer.download import DownloadLimits

if TYPE_CHECKING:
    from imgstored.config import Config, SourceTable

_MIB = 1 << 20


def check(settings: Config) -> None:
    """Raises `ConfigError` for what can be seen to be wrong without starting."""
    source_specs(settings)
    for key, table in keyed_pools(settings):
        try:
            checked(table.properties or {})
        except ConfigError as error:
            raise ConfigError(f"{key}.properties: {error.message}", hint=error.hint) from error


def source_specs(settings: Config) -> tuple[SourceSpec, ...] | None:
    """The sources of the file, or None where it has no such key. Raises `ConfigError`."""
    if settings.sources is None:
        return None
    return tuple(_source_spec(place, table) for place, table in enumerate(settings.sources))


def _source_spec(place: int, table: SourceTable) -> SourceSpec:
    access = Access(
        ca_file=table.ca_file,
        insecure=table.insecure,
        proxy=table.proxy,
        headers=tuple(table.headers.items()),
    )
    try:
        url = normalised(table.url)
        check_headers(access)
        if table.proxy is not None:
            parse_proxy(table.proxy)
    except ClientError as error:
        raise ConfigError(f"sources[{place}]: {error.message}", hint=error.hint) from error
    return SourceSpec(
        url=url,
        type=table.type,
        insecure=table.insecure,
        channel=table.channel,
        access=access,
        verify=table.verify,
    )


def install_limits(settings: Config) -> InstallLimits:
    """As the store wants them."""
    limits = settings.limits
    return InstallLimits(
        imports=limits.imports,
        min_free=limits.min_free_mib * _MIB,
        keep_partial_seconds=limits.keep_partial_days * 86400.0,
        download=DownloadLimits(
            connections=limits.connections,
            connect_seconds=limits.connect_seconds,
            silence_seconds=limits.silence_seconds,
            min_rate=limits.min_rate,
            tries=limits.tries,
        ),
        decompress=DecompressLimits(
            max_output=limits.max_image_mib * _MIB,
            max_ratio=limits.max_ratio,
            memory=limits.decoder_memory_mib * _MIB,
            window=limits.decoder_memory_mib * _MIB,
        ),
    )


def socket_limits(settings: Config) -> SocketLimits:
    """As the socket's server wants them."""
    limits = settings.limits
    return SocketLimits(
        connections=limits.clients, in_flight=limits.client_requests, idle=limits.client_idle_seconds
    )
