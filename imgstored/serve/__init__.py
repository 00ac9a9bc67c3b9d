"""The image server: IMGAPI and DSAPI for other hosts, from the library."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from imgstored.errors import ConfigError

#: Packages of the extra `serve`.
_NEEDED: Final = ("werkzeug", "jinja2")


def check_packages() -> None:
    """Raises `ConfigError` where what it is made with is not installed."""
    for package in _NEEDED:
        try:
            import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"serve.listen: the Python package {error.name or package} is not installed",
                hint="`pip install 'imgstore[serve]'` installs it; or leave out the key",
            ) from error
