"""`python -m tests.support.watched_daemon`: imgstored, with an eye on `tests.support.file_calls`."""

from __future__ import annotations

import sys

from tests.support import file_calls

if __name__ == "__main__":
    file_calls.watch()
    from imgstored.__main__ import main

    sys.exit(main())
