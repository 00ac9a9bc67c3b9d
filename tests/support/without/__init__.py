"""An environment that hides installed Python packages from programs."""

from __future__ import annotations

import os
from pathlib import Path

#: What `sitecustomize.py` beside this reads.
VARIABLE = "IMGSTORE_TESTS_WITHOUT"


def environment(*packages: str) -> dict[str, str]:
    """This process's environment, in which a Python and all that it starts has none of the packages.

    A name with a dot is a part of a package, as `msgpack._cmsgpack`. `libzfs` is ZFS's C library.
    """
    folders = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        VARIABLE: " ".join(packages),
        "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder),
    }
