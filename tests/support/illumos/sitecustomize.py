"""Makes every Python below it wait as on illumos: no epoll, and a `sys.platform` that trio does not know.

For tests only: whoever has this folder in PYTHONPATH gets it, and so do the daemons that they start. Python
runs a module of this name when it starts. `sys.platform` is that of illumos only while `imgstored` (which
puts its stand-in for kqueue in place) and `trio` are imported: the rest of the daemon would look for
illumos's own calls.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PLATFORM = "sunos5"


class OnIllumos(importlib.abc.MetaPathFinder):
    """Finds the two packages as everybody does, and has their `__init__` run by `Loader`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in ("imgstored", "trio"):
            return None
        if name == "trio":
            importlib.import_module("imgstored")  # pytest's plugin is there before anything of ours
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


class Loader(importlib.abc.Loader):
    """Runs a package, and what it imports, under the other name."""

    def __init__(self, own: importlib.abc.Loader) -> None:
        self._own = own

    def __getattr__(self, name: str) -> object:
        return getattr(self._own, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        before = sys.platform
        sys.platform = PLATFORM
        try:
            self._own.exec_module(module)
        finally:
            sys.platform = before


# selectors, which subprocess and others use, takes what there is when it is imported.
del select.epoll
sys.meta_path.insert(0, OnIllumos())
