"""The default limits of the configuration, with changes for a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from imgstored.config import specs
from imgstored.config.tables import Config, LimitsTable

if TYPE_CHECKING:
    from imgstored.imports.resources import ImportLimits
    from imgstored.rpc.connection import Limits
    from imgstored.transfer.decompress import DecompressLimits
    from imgstored.transfer.download import DownloadLimits


def download_limits(**changes: Any) -> DownloadLimits:
    """Those of a download."""
    return replace(specs.download_limits(LimitsTable()), **changes)


def decompress_limits(**changes: Any) -> DecompressLimits:
    """Those of the decoders."""
    return replace(specs.decompress_limits(LimitsTable()), **changes)


def import_limits(**changes: Any) -> ImportLimits:
    """Those of all imports together."""
    return replace(specs.import_limits(Config()), **changes)


def socket_limits(**changes: Any) -> Limits:
    """Those of the socket."""
    return replace(specs.socket_limits(Config()), **changes)
