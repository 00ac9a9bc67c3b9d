"""imgstored that waits for others for an hour; it takes imgstored's arguments.

For tests that hold somebody else's receive back, on a machine however slow.
"""

from __future__ import annotations

import sys

from imgstored.__main__ import main
from imgstored.imports import import_

if __name__ == "__main__":
    import_._STANDSTILL = import_._UNSETTLED = 3600.0  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
