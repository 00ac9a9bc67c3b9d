"""`python -m imgctl`."""

import sys

from imgctl.cli import main

sys.exit(main())
