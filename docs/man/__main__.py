"""`python -m docs.man` writes the pages beside this file, and those in docs that the code makes, too."""

from __future__ import annotations

from docs.make import writing

writing.texts()
