"""Python runs this as it starts, if its folder is in PYTHONPATH: what the environment names cannot be found.

Every finder is asked through one that finds nothing of these names. So `import` raises what it does where a
package is not installed, and `importlib.util.find_spec` returns None. The name `libzfs` hides the C library.
"""

from __future__ import annotations

import os
import sys
from typing import Any


class _Without:
    """A finder that does not find some modules, nor what is in them."""

    def __init__(self, finder: Any, names: frozenset[str]) -> None:
        self._finder = finder
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As an import asks."""
        parts = name.split(".")
        if any(".".join(parts[:count]) in self._names for count in range(1, len(parts) + 1)):
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


if _names := frozenset(os.environ.get("IMGSTORE_TESTS_WITHOUT", "").split()):
    sys.meta_path[:] = [_Without(finder, _names) for finder in sys.meta_path]

if "libzfs" in _names:
    import ctypes

    class _CDLL(ctypes.CDLL):
        """As of a system without the library."""

        def __init__(self, name: str | None, *arguments: Any, **options: Any) -> None:
            if name is not None and name.startswith("libzfs.so"):
                raise OSError(f"{name}: cannot open shared object file: No such file or directory")
            super().__init__(name, *arguments, **options)

    ctypes.CDLL = _CDLL  # type: ignore[misc]
