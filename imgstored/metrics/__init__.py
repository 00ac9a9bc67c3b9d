"""Metrics for a monitoring system: counts, times and sizes of the daemon, in the form of Prometheus.

Nothing of it is imported, and nothing counted, unless the configuration says where to listen.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from imgstored.errors import ConfigError

if TYPE_CHECKING:
    from imgstored.httpd.address import TcpAddress, UnixAddress
    from imgstored.metrics.endpoint import Metrics

#: Packages of the extra `serve`.
_NEEDED: Final = ("prometheus_client", "werkzeug")


def open_metrics(address: TcpAddress | UnixAddress | None, *, mode: int, group: str | None) -> Metrics | None:
    """Metrics to be had at an address, None where there is none; `mode` and `group` are of a Unix socket.

    Raises `ConfigError` for an unknown group, and where what they are made with is not installed.
    """
    if address is None:
        return None
    check_packages()
    from imgstored.metrics.endpoint import Metrics

    return Metrics(address, mode=mode, group=group)


def check_packages() -> None:
    """Raises `ConfigError` where what they are made with is not installed."""
    for package in _NEEDED:
        try:
            import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"metrics.listen: the Python package {package} is not installed",
                hint="`pip install 'imgstore[serve]'` installs it; or leave out the key",
            ) from error
