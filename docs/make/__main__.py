"""`python -m docs.make` writes what is made in docs and in README.md, the manual pages, too.

With `--figures BENCH` it first takes over the rows of the table that `make BENCH` prints, from standard
input: `make bench | python -m docs.make --figures bench`.
"""

from __future__ import annotations

import argparse
import sys

from docs.make import writing

parser = argparse.ArgumentParser(prog="python -m docs.make", description="Makes what is made in docs.")
parser.add_argument("--figures", metavar="BENCH", choices=("bench", "bench-zfs", "bench-scripts"))
bench = parser.parse_args().figures

writing.measured(bench, "" if bench is None else sys.stdin.read())
writing.texts()
writing.pictures()
